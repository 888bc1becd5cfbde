// SPDX-License-Identifier: Apache-2.0
/*
 * Template hosts: processes `forkd-vmm --template-host`, one for each template in use, started at
 * the template's first clone. A template host holds the checked snapshot and forks VM processes.
 * When a host dies, its clones live on, and the next request starts another host.
 */
#ifndef FORKD_TEMPLATE_TEMPLATE_HOST_H
#define FORKD_TEMPLATE_TEMPLATE_HOST_H

#include "common/ctl.h"
#include "forkd/access/caller.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"
#include "forkd/template/payload.h"
#include "store/images.h"

struct template_host {
	char *name; /* of the template, for messages */
	struct forkd *d;
	struct watch control, process; /* the host's socket (talk) and pidfd */
	pthread_mutex_t talk;          /* one conversation at a time */
	pid_t pid;
	struct ctl_template info; /* fixed after the template was loaded */
	struct store_chain **
		chains; /* likewise, in the order of info.disks: what a clone's own disk begins as; NULL: it has none */
	struct spare_disks *spares;    /* disks made ahead; NULL: none */
	struct payload_layers payload; /* what a clone boots when its guest resets */
	struct caller owner; /* of the template; the disks in config.json are opened with this caller's rights */
	bool agent, secrets; /* of the manifest: the guest has an agent; it has values that nobody else may see */
	atomic_bool failed;  /* not to be used any more */
	atomic_uint refs;
};

/*
 * Starts a template host, and lets it load and check the snapshot in directory dir_fd (-1:
 * nothing). `park` is how many processes the host keeps ready for clones. *ret is one reference;
 * the watcher does not watch the host. E_INCOMPATIBLE: this machine lacks what the clones would
 * need. E_BAD_SNAPSHOT: the snapshot is faulty. E_VERSION: forkd-vmm speaks another version of the
 * protocol. E_HOST: the template host has failed.
 */
MUST_CHECK int template_host_start(struct forkd *d, const char *name, int dir_fd, unsigned park,
				   struct template_host **ret, struct err *err);
/* Ends the host, waits for its process, and drops the reference. The VM processes go on. NULL is fine. */
void template_host_stop(struct template_host *h);
void template_host_unref(struct template_host *h); /* NULL is fine */

/*
 * At the daemon's start: finds the templates that this machine cannot run any more, by the needs in
 * the templates' manifests.
 */
void templates_check_host(struct forkd *d);
/*
 * Finds the template's host, or starts one. *ret is a reference. The caller has the template in use
 * (tmpl_use()). E_INCOMPATIBLE: this machine lacks what the template's clones need, which is not
 * tried again until the daemon starts anew.
 */
MUST_CHECK int tmpl_host(struct forkd *d, struct tmpl *t, struct template_host **ret, struct err *err);
/* Ends the template's host, if there is one, and lets go of the store's directory. */
void tmpl_drop_host(struct forkd *d, struct tmpl *t);

/*
 * Asking for a process and taking the reply are two functions, so that several requests can be
 * under way. Replies come in the order of the requests. The caller holds talk. The caller closes
 * *ret_pidfd.
 */
MUST_CHECK int template_host_send_fork(struct template_host *h, const char *id, uint8_t memory_mode, int listen_fd,
				       struct err *err);
MUST_CHECK int template_host_recv_fork(struct template_host *h, uint32_t *ret_pid, int *ret_pidfd, struct err *err);
/* Takes an event that came from the host. The caller holds talk. */
void template_host_event(void *host, const struct ctl_packet *p);

#endif
