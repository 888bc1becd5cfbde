// SPDX-License-Identifier: Apache-2.0
/*
 * What lives as long as the daemon does; every room gets it as `d`. daemon.c makes and ends it,
 * main.c adds REST.
 *
 * Threads: those of the front, which run handlers, the watcher (ends of processes,
 * lines to clones, TTL), the opener (open.sock), one for each template that is built in the
 * background (jobs). Locks, in the order in which they are taken: a template's host_lock, `talk` of
 * a template host or of a clone, the registry's, that of the events. No I/O under the registry's.
 */
#ifndef FORKD_FORKD_H
#define FORKD_FORKD_H

#include <stdatomic.h>

struct forkd {
	const struct forkd_options *options;
	struct events *events;
	struct metrics *metrics;
	struct jobs *jobs;
	struct policy *policy;
	struct http_server *http;
	struct store *store;
	struct registry *registry;
	struct watcher *watcher;
	struct followed *followed; /* the clones that the watcher watches */
	struct opener *opener;
	struct announcer *announcer; /* NULL: none */
	struct spare_maker *spare_maker;
	struct idempotency *idempotency;
	struct admission *admission;
	struct slots *slots;     /* networks for clones */
	const char *runtime_dir; /* of the options, made absolute */
	char *runtime_path;      /* owns the text of runtime_dir */
	char *open_socket;       /* path of the open service */
	int lock_fd;             /* held on RUNTIME/lock */
	atomic_bool stopping;    /* whoever waits gives up */
};

#endif
