// SPDX-License-Identifier: Apache-2.0
/* Starting, asking and ending template hosts. */
#include "forkd/template/template_host.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/log.h"
#include "forkd/access/policy.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/metrics.h"
#include "forkd/options.h"
#include "forkd/template/disks.h"
#include "forkd/template/spare_disks.h"
#include "forkd/template/templates.h"
#include "forkd/watch/watch.h"
#include "forkd/wire/control.h"

enum { LOAD_TIMEOUT_MS = 60000, FORK_TIMEOUT_MS = 10000, END_TIMEOUT_MS = 2000, CHECK_TIMEOUT_MS = 10000 };

void template_host_unref(struct template_host *h)
{
	if (!h || atomic_fetch_sub(&h->refs, 1) > 1)
		return;
	if (h->control.fd >= 0)
		close(h->control.fd);
	if (h->process.fd >= 0)
		close(h->process.fd);
	spare_disks_free(h->spares);
	for (uint32_t i = 0; h->chains && i < h->info.n_disks; i++) {
		if (h->chains[i])
			store_image_unref(h->d->store, h->chains[i]->layers[0].id);
		free(h->chains[i]);
	}
	free(h->chains);
	fields_free(ctl_template_fields, &h->info);
	pthread_mutex_destroy(&h->talk);
	free(h->name);
	free(h);
}

void template_host_stop(struct template_host *h)
{
	if (!h)
		return;
	h->failed = true;
	if (h->control.fd >= 0)
		shutdown(h->control.fd, SHUT_RDWR); /* the host reads end of file, and ends */
	if (h->process.fd >= 0 && wait_readable(h->process.fd, deadline_in_ms(END_TIMEOUT_MS)) <= 0) {
		log_warn("template host of '%s' (process %d) does not end: killed", h->name, h->pid);
		kill(h->pid, SIGKILL);
	}
	if (h->pid > 0)
		waitpid(h->pid, NULL, 0);
	template_host_unref(h);
}

static bool alive(const struct template_host *h)
{
	return !h->failed && wait_readable(h->process.fd, 0) == 0;
}

/* The caller holds host_lock. */
static void forget(struct forkd *d, struct tmpl *t, bool died)
{
	struct template_host *h = t->host;

	t->host = NULL;
	watch_forget(d->watcher, &h->control);
	watch_forget(d->watcher, &h->process);
	watch_release(d->watcher, &h->process);
	if (died) {
		log_error("template host of '%s' (process %d) failed; its clones go on", t->name, h->pid);
		metrics_count(d->metrics, METRIC_HOSTS_FAILED, 1);
		events_emit(d->events, "host.failed", t->name, NULL, NULL);
	}
	template_host_stop(h);
	store_release(d->store, t->name);
}

/* ---- what the watcher sees of a host ---- */

/*
 * Called before other watches (`first`): the packet may tell how those processes ended whose ends
 * come in the same batch.
 */
static void on_packet(struct watch *w)
{
	struct template_host *h = container_of(w, struct template_host, control);
	autoctl struct ctl_packet p = {};
	struct err err = {};

	if (!watch_try_talk(w, &h->talk))
		return;
	int got = h->control.fd >= 0 && wait_readable(h->control.fd, 0) > 0 ? ctl_recv(h->control.fd, &p, &err)
									    : -EAGAIN;
	if (got > 0 && json_get(&p.json.nodes[0], "event"))
		template_host_event(h, &p);
	if (got == 0 || (got < 0 && got != -EAGAIN)) {
		h->failed = true; /* the pidfd tells the rest */
		watch_forget(h->d->watcher, w);
	}
	watch_end_talk(h->d->watcher, w, &h->talk);
}

static void on_end(struct watch *w)
{
	struct template_host *h = container_of(w, struct template_host, process);
	struct forkd *d = h->d;
	struct tmpl *t = tmpl_find(d->registry, h->name);

	h->failed = true;
	if (!t)
		return; /* the template is being deleted, and the host with the template */
	/* If the lock is taken, the lock's holder sees the end too, or the next call of tmpl_host() does. */
	if (pthread_mutex_trylock(&t->host_lock) == 0) {
		if (t->host == h)
			forget(d, t, true);
		pthread_mutex_unlock(&t->host_lock);
	}
	tmpl_unuse(d->registry, t);
}

static void let_go(struct watch *w)
{
	template_host_unref(container_of(w, struct template_host, process));
}

/* ---- start and use ---- */

static int load_template(struct template_host *h, int dir_fd, unsigned park, struct err *err)
{
	const struct ctl_load rq = { .park = park };

	fields_init(ctl_template_fields, &h->info);
	return control_call(h->control.fd,
			    &(struct control_call){
				    .op = "load",
				    .rows = ctl_load_fields,
				    .obj = &rq,
				    .ret_rows = ctl_template_fields,
				    .ret = &h->info,
				    .fds = &dir_fd,
				    .n_fds = 1,
				    .timeout_ms = LOAD_TIMEOUT_MS,
				    .on_event = template_host_event,
				    .arg = h,
			    },
			    err);
}

/*
 * What a template host says of the snapshot and of this machine stands as it is. Any other error says
 * that the template host itself failed.
 */
static void not_started(const char *name, bool talks, struct err *err)
{
	if (err->detail == E_VERSION)
		err_wrap(err, "template host of '%s'", name);
	else if (talks && err->code == ERR_HOST)
		fail_as(err, E_INCOMPATIBLE, NULL);
	else if (talks && (err->code == ERR_INVALID || err->code == ERR_CONFLICT))
		fail_as(err, E_BAD_SNAPSHOT, NULL);
	else
		fail_as(err, E_HOST, "template host of '%s'", name);
}

int template_host_start(struct forkd *d, const char *name, int dir_fd, unsigned park, struct template_host **ret,
			struct err *err)
{
	int pair[2];
	struct template_host *h = calloc(1, sizeof(*h));

	if (!h)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start a template host");
	h->refs = 1;
	h->d = d;
	h->name = strdup(name);
	h->control = (struct watch){ .fd = -1, .once = true, .first = true, .ready = on_packet };
	h->process = (struct watch){ .fd = -1, .ready = on_end, .let_go = let_go };
	pthread_mutex_init(&h->talk, NULL);
	if (!h->name || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		err_sys(err, ERR_INTERNAL, "make a socket pair");
		template_host_unref(h);
		not_started(name, false, err);
		return -EIO;
	}
	h->control.fd = pair[0];
	int r = control_bound(pair[0], err);
	if (r >= 0)
		r = spawn_vmm(d->options->vmm, "--template-host", pair[1], &h->pid, &h->process.fd, err);
	close(pair[1]);
	if (r >= 0)
		r = control_hello(h->control.fd, d->options->vmm, LOAD_TIMEOUT_MS, err);
	bool talks = r >= 0;
	if (talks && dir_fd >= 0)
		r = load_template(h, dir_fd, park, err);
	if (r < 0) {
		template_host_stop(h);
		not_started(name, talks, err);
		return -EIO;
	}
	if (dir_fd >= 0)
		log_info("template host of '%s' is process %d", name, h->pid);
	*ret = h;
	return 0;
}

/*
 * Warns of unusable disks, and does not refuse the template: clones that name other files instead
 * can still be made.
 */
static void warn_of_disks(const struct forkd *d, const struct tmpl *t, const struct manifest *m)
{
	char line[ERR_MSG_BYTES];
	struct err err = {};

	if (disks_check(d, m, &err) < 0)
		log_warn("template '%s': %s", t->name, err_line(&err, line, sizeof(line)));
}

/* Finds the images that belong to the template's disks. The host has a reference to each. */
static int find_chains(struct template_host *h, const struct manifest *m, struct err *err)
{
	h->chains = calloc(h->info.n_disks + 1UL, sizeof(struct store_chain *));
	if (!h->chains)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load template '%s'", h->name);
	for (uint32_t i = 0; i < h->info.n_disks; i++) {
		int n = LIST_FIND_ID(m->disks, m->n_disks, h->info.disks[i].id);
		if (n < 0 || !m->disks[n].image)
			continue;
		struct store_chain *chain = malloc(sizeof(*chain));
		if (!chain)
			return err_num(err, ERR_INTERNAL, ENOMEM, "load template '%s'", h->name);
		if (store_chain_read(h->d->store, m->disks[n].image, chain, err) < 0 ||
		    store_image_ref(h->d->store, m->disks[n].image, err) < 0) {
			free(chain);
			return err_wrap(err, "disk '%s' of template '%s'", m->disks[n].id, h->name);
		}
		h->chains[i] = chain;
	}
	return 0;
}

static int start_with(struct forkd *d, struct tmpl *t, int dir_fd, const struct manifest *m, struct err *err)
{
	warn_of_disks(d, t, m);
	if (template_host_start(d, t->name, dir_fd, d->options->park, &t->host, err) < 0)
		return err->num;
	struct template_host *h = t->host;
	if (find_chains(h, m, err) < 0 || payload_find(d->store, m, &h->payload, err) < 0) {
		t->host = NULL;
		template_host_stop(h);
		return err->num;
	}
	h->owner = caller_from_owner(m->owner_uid, OWNER_REMOTE);
	h->agent = m->agent;
	h->secrets = m->secrets;
	h->spares = spare_disks_new(d, h->chains, h->info.n_disks, d->options->park);
	spare_disks_fill(h);
	return 0;
}

static int start_acquired(struct forkd *d, struct tmpl *t, int dir_fd, struct err *err)
{
	struct manifest m;

	if (store_manifest(d->store, t->name, &m, err) < 0)
		return err->num;
	int r = start_with(d, t, dir_fd, &m, err);
	fields_free(manifest_fields, &m);
	return r;
}

static int start_for(struct forkd *d, struct tmpl *t, struct err *err)
{
	autoclose int dir_fd = -1;

	if (store_acquire(d->store, t->name, &dir_fd, err) < 0)
		return err->num;
	if (start_acquired(d, t, dir_fd, err) < 0) {
		store_release(d->store, t->name);
		return err->num;
	}
	metrics_count(d->metrics, METRIC_HOSTS_STARTED, 1);
	atomic_fetch_add(&t->host->refs, 1); /* the watcher's reference */
	if (watch_add(d->watcher, &t->host->control, err) >= 0 && watch_add(d->watcher, &t->host->process, err) >= 0)
		return 0;
	forget(d, t, false);
	return err->num;
}

/*
 * A template that was found incompatible, at the daemon's start or by a template host that loaded
 * it, is not tried again.
 */
static int start_if_compatible(struct forkd *d, struct tmpl *t, struct err *err)
{
	autofree char *lacks = tmpl_lacks(d->registry, t->name);
	char line[ERR_MSG_BYTES];

	if (lacks)
		return fail(err, E_INCOMPATIBLE, "template '%s': %s", t->name, lacks);
	if (start_for(d, t, err) >= 0)
		return 0;
	if (err->detail != E_INCOMPATIBLE)
		return err->num;
	tmpl_set_lacks(d->registry, t, err_line(err, line, sizeof(line)));
	return fail_as(err, E_INCOMPATIBLE, "template '%s'", t->name);
}

int tmpl_host(struct forkd *d, struct tmpl *t, struct template_host **ret, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&t->host_lock);
	if (t->host && !alive(t->host))
		forget(d, t, true);
	if (!t->host)
		r = start_if_compatible(d, t, err);
	if (r >= 0) {
		atomic_fetch_add(&t->host->refs, 1);
		*ret = t->host;
	}
	pthread_mutex_unlock(&t->host_lock);
	return r;
}

void tmpl_drop_host(struct forkd *d, struct tmpl *t)
{
	pthread_mutex_lock(&t->host_lock);
	if (t->host)
		forget(d, t, false);
	pthread_mutex_unlock(&t->host_lock);
}

/* ---- at the daemon's start ---- */

static int ask_host(struct template_host *h, const struct host_needs *needs, struct err *err)
{
	return control_call(
		h->control.fd,
		&(struct control_call){
			.op = "check", .rows = host_needs_fields, .obj = needs, .timeout_ms = CHECK_TIMEOUT_MS },
		err);
}

/* A template whose manifest cannot be read, or is older than needs, is looked at when it is loaded. */
static int check_template(struct forkd *d, struct template_host *h, struct tmpl *t, struct err *err)
{
	struct manifest m = {};
	struct err unread = {};
	char line[ERR_MSG_BYTES];

	if (store_manifest(d->store, t->name, &m, &unread) < 0)
		return 0;
	warn_of_disks(d, t, &m);
	int r = m.needs ? ask_host(h, m.needs, err) : 0;
	fields_free(manifest_fields, &m);
	if (r >= 0 || err->code != ERR_HOST)
		return r;
	tmpl_set_lacks(d->registry, t, err_line(err, line, sizeof(line)));
	log_warn("template '%s' cannot be cloned here: %s", t->name, line);
	return 0;
}

void templates_check_host(struct forkd *d)
{
	struct template_host *h = NULL;
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (!d->registry->templates)
		return;
	int r = template_host_start(d, "none", -1, 0, &h, &err);
	for (struct tmpl *t = d->registry->templates; t && r >= 0; t = t->next)
		r = check_template(d, h, t, &err);
	if (r < 0)
		log_warn("what templates need was not compared with this host: %s", err_line(&err, line, sizeof(line)));
	template_host_stop(h);
}

/* ---- forks ---- */

int template_host_send_fork(struct template_host *h, const char *id, uint8_t memory_mode, int listen_fd,
			    struct err *err)
{
	autofree char *copy = strdup(id);
	const struct ctl_fork f = { .id = copy, .memory_restore_mode = memory_mode };

	if (control_send(h->control.fd, "fork", ctl_fork_fields, &f, NULL, &listen_fd, 1, err) < 0) {
		h->failed = true;
		return fail_as(err, E_HOST, "template host of '%s'", h->name);
	}
	return 0;
}

struct forked {
	uint32_t pid;
};

static const struct field forked_fields[] = { F(struct forked, pid, .flags = F_REQUIRED), F_END };

int template_host_recv_fork(struct template_host *h, uint32_t *ret_pid, int *ret_pidfd, struct err *err)
{
	struct forked f = {};
	autoctl struct ctl_packet p = {};

	if (control_reply(h->control.fd, deadline_in_ms(FORK_TIMEOUT_MS), template_host_event, h, &p, err) < 0) {
		h->failed = true;
		return fail_as(err, E_HOST, "template host of '%s'", h->name);
	}
	if (ctl_parse_reply(&p, forked_fields, &f, err) < 0)
		return fail_as(err, E_HOST, "template host of '%s': fork", h->name);
	if (p.n_fds != 1) {
		h->failed = true;
		return fail(err, E_HOST, "template host of '%s': %u descriptors with a new process, not one", h->name,
			    p.n_fds);
	}
	*ret_pid = f.pid;
	*ret_pidfd = steal_fd(&p.fds[0]);
	return 0;
}

void template_host_event(void *host, const struct ctl_packet *p)
{
	struct template_host *h = host;
	struct ctl_exited e = {};
	struct err err = {};
	const struct json_node *event = json_get(&p->json.nodes[0], "event");

	if (event->type != JSON_STRING || strcmp(event->str, "exited") != 0)
		return;
	if (fields_load(ctl_exited_fields, &e, &p->json.nodes[0], "exited", &err) < 0)
		log_warn("template host of '%s': %s", h->name, err.msg);
	else
		registry_exited(h->d->registry, e.pid, e.status);
}
