// SPDX-License-Identifier: Apache-2.0
/* The struct behind struct slots, for the two files that share it: slots.c (who has which) and slots_start.c (begin and end). */
#ifndef FORKD_NET_SLOTS_PRIVATE_H
#define FORKD_NET_SLOTS_PRIVATE_H

#include <pthread.h>

#include "forkd/net/host.h"
#include "forkd/net/ports.h"
#include "forkd/net/resolver.h"
#include "forkd/net/slot.h"
#include "forkd/net/slots.h"

enum seat_state {
	SEAT_FREE,   /* nothing on the host */
	SEAT_MAKING, /* one thread works on it */
	SEAT_READY,
	SEAT_USED,
	SEAT_FOUND,    /* of an earlier daemon; nobody has named it yet */
	SEAT_LEAVING,  /* to be removed */
	SEAT_REMOVING, /* one thread works on it */
};

/* The place of one slot. While a thread works on it, or a clone has it, `slot` and what follows belong to that thread. */
struct seat {
	enum seat_state state; /* the lock of struct slots */
	struct slot slot;
	char clone[CLONE_ID_CHARS + 1];
	struct held_ports ports;
	struct net_wish wish;
};

struct slots {
	struct forkd *d;
	char why_not[ERR_MSG_BYTES]; /* "": there are slots */
	struct layout layout;
	struct resolver_setup resolver;
	char *state_path;
	unsigned want, max; /* ready ones; all together */
	pthread_t thread;
	bool has_thread;
	pthread_mutex_t lock;
	pthread_cond_t work;    /* for the thread */
	pthread_cond_t changed; /* a seat */
	/* All else is under the lock. */
	uint64_t taken_ns; /* CLOCK_MONOTONIC, when a slot was last taken or given back */
	bool begun;        /* slots are made ahead: somebody has wanted one */
	bool prepared;     /* the host is ready */
	bool ending;
	struct seat *seats;                  /* [layout.n + 1]; the first is not used */
	unsigned top;                        /* no seat behind this one was ever used */
	unsigned n_ready, n_busy, n_leaving; /* busy: all that is neither free nor ready; leaving: to be removed */
	pthread_mutex_t host_lock;           /* the host's side is made by one thread; taken before `lock` */
};

/* Changes the range when it collides with something on the host, and nothing of this daemon is there yet. */
MUST_CHECK int slots_check_range(struct slots *s, struct err *err);
/* Makes the host ready, once. */
MUST_CHECK int slots_prepare_host(struct slots *s, struct err *err);
/* Under the lock: changes a seat's state, and counts. */
void slots_set_locked(struct slots *s, unsigned number, enum seat_state to);
/* The thread. */
void *slots_main(void *arg);

#endif
