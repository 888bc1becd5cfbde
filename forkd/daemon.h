// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon: everything that lives as long as it does, and the order of start and stop. Handlers get it as `d`.
 *
 * Threads: one a connection (http), the watcher (ends of processes, TTL), the opener (open.sock), one a template that is built
 * in the background. Locks, in the order in which they are taken: a template's host_lock, a host's or a clone's `talk`, the registry's, that of
 * the events. No I/O under the registry's.
 */
#ifndef FORKD_DAEMON_H
#define FORKD_DAEMON_H

#include <pthread.h>
#include <stdatomic.h>

#include "common/err.h"

struct forkd_options;

struct forkd {
	const struct forkd_options *options;
	struct events *events;
	struct metrics *metrics;
	struct policy *policy;
	struct http_server *http;
	struct store *store;
	struct registry *registry;
	struct watcher *watcher;
	struct followed *followed; /* the clones that it watches */
	struct opener *opener;
	struct idempotency *idempotency;
	struct admission *admission;
	const char *runtime_dir; /* of the options, made absolute */
	char *runtime_path;      /* owns it */
	char *open_socket;       /* path of the open service */
	int lock_fd;             /* held on RUNTIME/lock */
	atomic_bool stopping;    /* whoever waits gives up */
	pthread_mutex_t jobs_lock;
	pthread_cond_t jobs_done;
	unsigned jobs; /* threads that build templates; jobs_lock */
};

/* Starts everything but REST, which comes afterwards; takes back the clones of an earlier daemon. On failure nothing is left. */
MUST_CHECK int forkd_start(struct forkd *d, const struct forkd_options *opt, struct err *err);
/* Ends everything but the clones. A zeroed or half-started daemon is fine. */
void forkd_stop(struct forkd *d);
/* Runs `job(arg)` in a thread that forkd_stop() waits for. E_BUSY: too many at once. */
MUST_CHECK int forkd_run_job(struct forkd *d, void (*job)(struct forkd *d, void *arg), void *arg, struct err *err);

#endif
