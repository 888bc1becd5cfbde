// SPDX-License-Identifier: Apache-2.0
/*
 * Template hosts: `forkd-vmm --template-host`, one for each template in use, started at its first clone. It holds the checked
 * snapshot and forks VM processes. A host that dies takes no clone along; the next request starts another.
 */
#ifndef FORKD_TEMPLATE_TEMPLATE_HOST_H
#define FORKD_TEMPLATE_TEMPLATE_HOST_H

#include "common/ctl.h"
#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"

struct template_host {
	char *name; /* of the template, for messages */
	struct forkd *d;
	struct watch control, process; /* its socket (talk) and its pidfd */
	pthread_mutex_t talk;          /* one conversation at a time */
	pid_t pid;
	struct ctl_template info; /* fixed once it is loaded */
	struct caller owner;      /* of the template: with its rights the disks in its config.json are opened */
	atomic_bool failed;       /* not to be used any more */
	atomic_uint refs;
};

/*
 * Starts a host and lets it load the directory (-1: nothing): what a snapshot is checked with. `park`: clones that it keeps ready. One
 * reference; not watched by the watcher. E_INCOMPATIBLE: this host lacks what the clones would need.
 */
MUST_CHECK int template_host_start(struct forkd *d, const char *name, int dir_fd, unsigned park,
				   struct template_host **ret, struct err *err);
/* Ends it (its VM processes go on), waits for it, and drops the reference. NULL is fine. */
void template_host_stop(struct template_host *h);
void template_host_unref(struct template_host *h); /* NULL is fine */

/* At the daemon's start: which templates this host cannot run any more, by what their manifests say that they need. */
void templates_check_host(struct forkd *d);
/*
 * The template's host, started when there is none. The caller holds a use of the template. A reference. E_INCOMPATIBLE: this host
 * lacks what its clones need; it stays so until the daemon starts anew.
 */
MUST_CHECK int tmpl_host(struct forkd *d, struct tmpl *t, struct template_host **ret, struct err *err);
/* Ends it and lets go of the store's directory. */
void tmpl_drop_host(struct forkd *d, struct tmpl *t);

/* Asking for a process and hearing of it, apart, so that several can be under way. The caller holds talk; replies are in order. */
MUST_CHECK int template_host_send_fork(struct template_host *h, const char *id, uint8_t memory_mode, int listen_fd,
				       struct err *err);
MUST_CHECK int template_host_recv_fork(struct template_host *h, uint32_t *ret_pid, int *ret_pidfd, struct err *err);
/* An event that came from it; the caller holds talk. */
void template_host_event(void *host, const struct ctl_packet *p);

#endif
