// SPDX-License-Identifier: Apache-2.0
/*
 * All clones and all template names that this daemon knows, in memory. One mutex, held for moments and never over I/O. A clone is
 * counted by references: the registry's, the watcher's while it watches its process, and one for each caller that looks at it.
 */
#ifndef FORKD_REGISTRY_REGISTRY_H
#define FORKD_REGISTRY_REGISTRY_H

#include <pthread.h>
#include <stdatomic.h>

#include "forkd/registry/record.h"
#include "forkd/watch/watch.h"
#include "store/store.h"

enum clone_state { CLONE_CREATING, CLONE_PAUSED, CLONE_RUNNING, CLONE_EXITED, CLONE_DELETING, CLONE_STATES };
extern const char *const clone_states[]; /* as in the API, NULL-terminated */

/* The control socket of a clone. */
enum line {
	LINE_DOWN,    /* no connection: it is called when it is wanted, or after some seconds */
	LINE_ASKED,   /* "hello" was sent, the answer has not come */
	LINE_UP,      /* it answers */
	LINE_REFUSED, /* it answered, but they have no version of the control protocol in common: see `refusal` */
};

struct clone {
	struct record
		record; /* labels, ttl_s and expires_ns: under the registry's lock; the rest is fixed once it is not creating */
	pthread_mutex_t talk; /* one conversation on the control socket at a time; taken before the registry's lock */
	struct watch control, process; /* the control socket (talk) and the pidfd; -1: none (yet, or any more) */
	uint64_t end_deadline_ns;      /* watcher only: when it waits no longer for the host to tell the status */
	struct clone *next_ended;      /* watcher only */
	struct followed *followed;     /* who follows it */
	struct clone *next_followed, **followed_at; /* the lock of that */
	/* all else: under the registry's lock */
	enum clone_state state, first_state; /* first_state: when it was made */
	enum line line;                      /* written under talk, too */
	uint64_t asked_ns;                   /* LINE_ASKED: since when */
	int version;                         /* of the control protocol, by which they go; -1: it has never answered */
	char *refusal;                       /* heap; talk */
	unsigned refs;
	bool listed, has_status;
	uint64_t restored_ns, resumed_ns; /* CLOCK_MONOTONIC; 0: not (yet, or unknown) */
	char *exit_reason;
	int32_t exit_code, status; /* status: as of waitpid() */
	uint64_t exited_ns;
	struct clone *next;
};

enum tmpl_state { TMPL_BUILDING, TMPL_READY, TMPL_DELETING };

struct template_host;
struct tmpl {
	char name[STORE_NAME_MAX + 1];
	pthread_mutex_t host_lock;  /* starting and ending its host */
	struct template_host *host; /* host_lock; NULL: none runs */
	/* all else: under the registry's lock */
	enum tmpl_state state;
	unsigned users;         /* requests at work with it, which it must outlive */
	const char *step;       /* of its building: static text */
	uint64_t private_bytes; /* the most that was seen of one of its clones */
	char *lacks;            /* what this host lacks to run its clones, in words; NULL: nothing */
	struct tmpl *next;
};

struct registry {
	pthread_mutex_t lock;
	pthread_cond_t changed; /* CLOCK_MONOTONIC; a clone changed its state or went */
	struct clone *buckets[1024];
	unsigned n, n_exited;
	struct tmpl *templates;
};

MUST_CHECK int registry_new(struct registry **ret, struct err *err);
void registry_free(struct registry *r); /* NULL is fine; nobody looks at a clone any more */

struct clone *clone_new(const char *id); /* state creating, one reference; NULL without memory */
struct clone *clone_ref_locked(struct clone *c);
void clone_unref(struct registry *r, struct clone *c); /* closes and frees with the last; NULL is fine */

void registry_add(struct registry *r, struct clone *c);          /* one more reference */
void registry_remove(struct registry *r, struct clone *c);       /* drops it; fine when it is not in it */
struct clone *registry_find(struct registry *r, const char *id); /* a reference, or NULL */
enum clone_state clone_state(struct registry *r, const struct clone *c);
/* Changes it if it is one of `from` (bits, 1 << state). Returns the state before, -1: the clone is not in the registry any more. */
int registry_swap_state(struct registry *r, struct clone *c, unsigned from, enum clone_state to);
/* For whoever tells others of the change: they must not see the one without the other. */
int registry_swap_state_locked(struct registry *r, struct clone *c, unsigned from, enum clone_state to);

struct clone_filter {
	const char *template, *after; /* after: ids above this one */
	struct label labels[LABELS_MAX];
	unsigned n_labels;
	int state; /* -1: any */
	unsigned limit;
};
/* References, sorted by id; *ret_more: there are others. Release with clones_unref(). */
MUST_CHECK int registry_list(struct registry *r, const struct clone_filter *f, struct clone ***ret, unsigned *ret_n,
			     bool *ret_more, struct err *err);
void clones_unref(struct registry *r, struct clone **clones, unsigned n);
/* A template host said how a process ended (`status` as of waitpid()). */
void registry_exited(struct registry *r, uint32_t pid, int32_t status);
/* How many clones of the template have a process (NULL: of all). */
unsigned registry_count(struct registry *r, const char *template);
/* The same, and the ids of the first of them. */
enum { DEPENDENTS_SHOWN = 10 };
unsigned registry_count_locked(const struct registry *r, const char *template, struct strbuf *ids);
/*
 * The i-th net of the clone has that tap from now on: false when another one has it, whose id is in ret_id[CLONE_ID_CHARS + 1], or without
 * memory (""). ret_id NULL: another one may have one of this name, in another network namespace.
 */
bool registry_claim_tap(struct registry *r, struct clone *c, uint32_t i, const char *tap, char *ret_id);
/* Whether a clone has a tap of that name. */
bool registry_has_tap(struct registry *r, const char *tap);
/* Waits until the clone has the state, or can never have it, or the time is over. */
MUST_CHECK int registry_wait(struct registry *r, struct clone *c, enum clone_state state, uint64_t deadline_ns,
			     const atomic_bool *stopping, struct err *err);

#endif
