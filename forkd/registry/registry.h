// SPDX-License-Identifier: Apache-2.0
/*
 * All clones and all template names that this daemon knows, in memory. One mutex guards the
 * registry; it is held for moments and never over I/O. References keep a clone alive: the registry
 * has one, the watcher has one while it watches the clone's process, and each caller that looks at
 * the clone has one.
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
	LINE_DOWN,    /* no connection: forkd calls when a request needs the clone, or after some seconds */
	LINE_ASKED,   /* "hello" was sent, the answer has not come */
	LINE_UP,      /* the process answers */
	LINE_REFUSED, /* forkd does not talk with the process that answered; `refusal` says why */
};

struct clone {
	/* labels, ttl_s and expires_ns are under the registry's lock; the rest is fixed after CLONE_CREATING */
	struct record record;
	/* One pause, resume or snapshot at a time, with the freeze and the thaw that belong to it; taken before talk. */
	pthread_mutex_t life;
	bool freeze_failed;   /* under life: the guest's processes may run, whatever record.frozen says */
	pthread_mutex_t talk; /* one conversation on the control socket at a time; taken before the registry's lock */
	struct watch control, process; /* the control socket (talk) and the pidfd; fd -1: none (yet, or any more) */
	uint64_t end_deadline_ns;      /* watcher only: until when the watcher waits for the exit status */
	struct clone *next_ended;      /* watcher only */
	struct followed *followed;     /* who follows the clone */
	struct clone *next_followed, **followed_at; /* under the lock of `followed` */
	/* All else is under the registry's lock. */
	enum clone_state state, first_state; /* first_state: the state after CLONE_CREATING */
	enum line line;                      /* written under talk, too */
	uint64_t asked_ns;                   /* when `line` changed last; LINE_ASKED: when "hello" was sent */
	int version;                         /* of the control protocol; -1: the process has never answered */
	char *refusal;                       /* heap; under talk */
	unsigned refs;
	bool listed, has_status;
	/* When each phase was over, CLOCK_MONOTONIC; 0: not (yet, or unknown). agent_ns: the agent has answered. */
	uint64_t restored_ns, resumed_ns, agent_ns, identity_ns, ready_ns;
	uint32_t reboots; /* of the VM, as far as its process has said */
	char *exit_reason;
	int32_t exit_code, status; /* status: as of waitpid() */
	uint64_t exited_ns;
	struct clone *next;
};

enum tmpl_state { TMPL_BUILDING, TMPL_READY, TMPL_DELETING };

struct template_host;
struct tmpl {
	char name[STORE_NAME_MAX + 1];
	pthread_mutex_t host_lock;  /* held while the host is started or ended */
	struct template_host *host; /* host_lock; NULL: none runs */
	/* All else is under the registry's lock. */
	enum tmpl_state state;
	unsigned users;         /* requests at work with the template, which stays as long */
	const char *step;       /* of the build; static text */
	uint64_t private_bytes; /* the most that was seen of one clone */
	char *lacks;            /* what this host lacks to run the template's clones, in words; heap; NULL: nothing */
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
void clone_unref(struct registry *r, struct clone *c); /* the last one closes and frees; NULL is fine */

void registry_add(struct registry *r, struct clone *c);          /* one more reference */
void registry_remove(struct registry *r, struct clone *c);       /* drops that reference, if there is one */
struct clone *registry_find(struct registry *r, const char *id); /* a reference, or NULL */
enum clone_state clone_state(struct registry *r, const struct clone *c);
/*
 * Changes the clone's state to `to` if the state is one of `from` (bits, 1 << state). Returns the
 * state before; -1: the clone is not in the registry any more.
 */
int registry_swap_state(struct registry *r, struct clone *c, unsigned from, enum clone_state to);
/*
 * The same under the registry's lock, for callers that emit an event about the change: nobody may
 * see the state without the event.
 */
int registry_swap_state_locked(struct registry *r, struct clone *c, unsigned from, enum clone_state to);

struct clone_filter {
	const char *template, *after; /* after: ids above this one */
	struct label labels[LABELS_MAX];
	unsigned n_labels;
	int state; /* -1: any */
	unsigned limit;
};
/*
 * Lists the clones that the filter lets through, at most f->limit (0: all), sorted by id. *ret
 * holds references, to be released with clones_unref(). *ret_more: there are more than the limit.
 */
MUST_CHECK int registry_list(struct registry *r, const struct clone_filter *f, struct clone ***ret, unsigned *ret_n,
			     bool *ret_more, struct err *err);
void clones_unref(struct registry *r, struct clone **clones, unsigned n);
/* Keeps how a process ended, as a template host has told (`status` as of waitpid()). */
void registry_exited(struct registry *r, uint32_t pid, int32_t status);
/* How many clones of the template (NULL: of all templates) have not exited. */
unsigned registry_count(struct registry *r, const char *template);
/*
 * The same under the registry's lock; adds the ids of the first DEPENDENTS_SHOWN clones to `ids`,
 * unless that is NULL.
 */
enum { DEPENDENTS_SHOWN = 10 };
unsigned registry_count_locked(const struct registry *r, const char *template, struct strbuf *ids);
/*
 * Writes into the record that the i-th net of the clone has this tap. False: another clone has the
 * tap, and ret_id[CLONE_ID_CHARS + 1] gets this clone's id; or memory is out, and ret_id gets "".
 * ret_id NULL: another clone may have a tap of the same name, in another network namespace.
 */
bool registry_claim_tap(struct registry *r, struct clone *c, uint32_t i, const char *tap, char *ret_id);
/* Whether any clone that has not exited has a tap of this name. */
bool registry_has_tap(struct registry *r, const char *tap);
/*
 * Waits until the clone has the state. E_NO_CLONE: the clone was deleted. E_BAD_STATE: the clone
 * has exited. E_TIMEOUT: the deadline (CLOCK_MONOTONIC, ns) has passed, or *stopping is set.
 */
MUST_CHECK int registry_wait(struct registry *r, struct clone *c, enum clone_state state, uint64_t deadline_ns,
			     const atomic_bool *stopping, struct err *err);
/*
 * Waits until the clone is itself, or never will be since its template has no agent. E_BAD_STATE: the
 * clone has ended before that. E_TIMEOUT as above.
 */
MUST_CHECK int registry_wait_identity(struct registry *r, struct clone *c, uint64_t deadline_ns,
				      const atomic_bool *stopping, struct err *err);

#endif
