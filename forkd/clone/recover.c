// SPDX-License-Identifier: Apache-2.0
/*
 * Looks through RUNTIME/clones and RUNTIME/builds after a restart. All processes are asked at once,
 * and have one deadline together. A clone that lives but does not answer in time is adopted like
 * the others: only the clone's owner ends it.
 */
#include "forkd/clone/recover.h"
#include "forkd/clone/clone_disks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/access/place.h"
#include "forkd/clone/follow.h"
#include "forkd/clone/identify.h"
#include "forkd/clone/life.h"
#include "forkd/clone/snapshot_disks.h"
#include "forkd/metrics.h"
#include "forkd/net/slots.h"
#include "forkd/wire/control.h"

enum { HELLO_WAIT_MS = 3000, QUIT_WAIT_MS = 1000 };

/* Clones that were found; each entry is a reference. */
struct found {
	struct clone **all;
	unsigned n;
};

struct recovery {
	struct forkd *d;
	struct found clones; /* adopted */
	struct found strays; /* clones that were never handed out */
	struct found gone;   /* clones that have ended: cleared when the references of all others are counted */
	bool unsure;         /* what a clone that may live has of disks is not known */
	struct found left;   /* of which nobody knows whether they live: their disks stay */
	struct found builds; /* VMs that were to become templates: nobody waits for them any more */
};

static void keep(struct found *f, struct clone *c)
{
	struct clone **more = reallocarray(f->all, f->n + 1, sizeof(struct clone *));

	if (!more)
		return; /* the next daemon finds the clone again */
	f->all = more;
	f->all[f->n++] = c;
}

/* ---- what the directories hold ---- */

enum kin { KIN_CLONE, KIN_STRAY, KIN_GONE, KIN_UNKNOWN };

static int load_record(struct clone *c, int dir_fd, bool *ret_committed, struct err *err)
{
	struct record r = {};

	int loaded = record_load(&r, dir_fd, ret_committed, err);
	if (loaded >= 0 && strcmp(r.id, c->record.id) != 0)
		loaded = err_set(err, ERR_INTERNAL, "clone.json is of '%s'", r.id);
	if (loaded < 0) {
		record_free(&r);
		return loaded;
	}
	record_free(&c->record);
	c->record = r;
	return 0;
}

/*
 * What the directory of a clone holds. A process that accepts a connection lives. If the connection
 * is still up when the pidfd is open, the pidfd is of this process.
 */
static enum kin recognise(const struct forkd *d, struct clone *c, int dir_fd, struct err *err)
{
	struct err why = {};
	bool committed = false;

	bool loaded = load_record(c, dir_fd, &committed, &why) >= 0;
	if (place_connect(d, "clones", c->record.id, &c->control.fd, err) < 0)
		return err->num == -ECONNREFUSED || err->num == -ENOENT ? KIN_GONE : KIN_UNKNOWN;
	if (!loaded) {
		*err = why;
		return KIN_STRAY;
	}
	c->process.fd = (int)syscall(SYS_pidfd_open, (pid_t)c->record.pid, 0);
	if (c->process.fd < 0)
		err_sys(err, ERR_INTERNAL, "process %u", c->record.pid);
	else
		err_set(err, ERR_INTERNAL, "%s",
			committed ? "it has ended" : "the daemon ended before it was handed out");
	if (control_hung_up(c->control.fd))
		return KIN_GONE;
	if (c->process.fd < 0)
		return KIN_UNKNOWN;
	return committed ? KIN_CLONE : KIN_STRAY;
}

/*
 * Takes a clone into the registry. The clone stays CLONE_CREATING until hand_out(), which
 * follows await_answers().
 */
static void adopt(struct recovery *r, struct clone *c)
{
	struct forkd *d = r->d;
	struct err err = {};

	c->first_state = CLONE_RUNNING; /* unless the process says otherwise */
	/*
	 * Records of earlier versions do not identify the file of the vsock socket. The clone lives, so the
	 * file at the path is taken for the socket's.
	 */
	if (c->record.vsock_socket && c->record.vsock_file.ino == 0)
		c->record.vsock_file = sock_file_at(c->record.vsock_socket);
	registry_add(d->registry, c);
	pthread_mutex_lock(&c->talk);
	if (clone_greet(d, c, &err) < 0)
		log_warn("clone %s: %s", c->record.id, err.msg);
	if (follow_clone(d, c, &err) < 0)
		log_error("clone %s: %s", c->record.id, err.msg);
	watch_end_talk(d->watcher, &c->control, &c->talk);
	metrics_count(d->metrics, METRIC_CLONES_ADOPTED, 1);
}

static void ask_to_quit(const struct clone *c)
{
	struct err err = {};

	if (c->control.fd >= 0 && control_send(c->control.fd, "quit", NULL, NULL, NULL, NULL, 0, &err) < 0)
		log_info("%s: %s", c->record.id, err.msg);
}

/* A process has a lock on the overlay that it writes. */
static bool has_disk_in_use(const struct forkd *d, const struct record *record)
{
	for (uint32_t i = 0; i < record->n_disks; i++)
		for (uint32_t k = 0; k < record->disks[i].n_overlays; k++)
			if (store_overlay_is_locked(d->store, record->disks[i].overlays[k].name))
				return true;
	return false;
}

static void look_at_clone(struct recovery *r, int clones_fd, const char *id)
{
	autoclose int dir_fd = openat(clones_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	char line[ERR_MSG_BYTES];
	struct err err = {};

	struct clone *c = dir_fd < 0 ? NULL : clone_new(id);
	if (!c)
		return;
	enum kin kin = recognise(r->d, c, dir_fd, &err);
	if (kin == KIN_GONE && has_disk_in_use(r->d, &c->record))
		kin = KIN_UNKNOWN; /* its control socket is gone, not its process */
	clone_disks_found(r->d, &c->record);
	r->unsure |= kin == KIN_UNKNOWN && !c->record.template;
	switch (kin) {
	case KIN_CLONE:
		slots_adopt(r->d->slots, &c->record);
		adopt(r, c);
		keep(&r->clones, c);
		return;
	case KIN_STRAY:
		log_info("clone %s is ended: %s", id, err_line(&err, line, sizeof(line)));
		slots_adopt(r->d->slots, &c->record);
		ask_to_quit(c);
		keep(&r->strays, c);
		return;
	case KIN_GONE:
		log_info("clone %s is gone: %s", id, err_line(&err, line, sizeof(line)));
		keep(&r->gone, c);
		return;
	default:
		slots_adopt(r->d->slots, &c->record);
		log_error("clone %s is left alone: %s", id, err_line(&err, line, sizeof(line)));
		keep(&r->left, c);
	}
}

static void look_at_build(struct recovery *r, int builds_fd, const char *id)
{
	struct clone *c = clone_new(id);
	struct err err = {};

	(void)builds_fd;
	if (!c)
		return;
	if (place_connect(r->d, "builds", id, &c->control.fd, &err) < 0)
		log_info("VM %s, which was to become a template, is gone: %s", id, err.msg);
	ask_to_quit(c);
	keep(&r->builds, c);
}

static int each_in(struct recovery *r, const char *parent, void (*look)(struct recovery *, int, const char *),
		   struct err *err)
{
	autofree char *path = place_path(r->d, parent, "");
	DIR *dir = path ? opendir(path) : NULL;

	if (!dir)
		return err_sys(err, ERR_INTERNAL, "open '%s'", path ? path : parent);
	for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
		if (e->d_name[0] != '.')
			look(r, dirfd(dir), e->d_name);
	closedir(dir);
	return 0;
}

/* ---- what becomes of the clones ---- */

static void await_answers(struct registry *reg, const struct found *f)
{
	const uint64_t deadline_ns = deadline_in_ms(HELLO_WAIT_MS);
	const struct timespec until = { .tv_sec = (time_t)(deadline_ns / 1000000000),
					.tv_nsec = (long)(deadline_ns % 1000000000) };
	int timed = 0;

	pthread_mutex_lock(&reg->lock);
	for (unsigned i = 0; i < f->n; i++)
		while (f->all[i]->line == LINE_ASKED && timed == 0)
			timed = pthread_cond_timedwait(&reg->changed, &reg->lock, &until);
	pthread_mutex_unlock(&reg->lock);
}

static void hand_out(struct registry *reg, const struct found *f)
{
	autostrbuf struct strbuf silent = {};
	unsigned n = 0;

	pthread_mutex_lock(&reg->lock);
	for (unsigned i = 0; i < f->n; i++) {
		struct clone *c = f->all[i];
		registry_swap_state_locked(reg, c, 1u << CLONE_CREATING, c->first_state);
		if ((c->line == LINE_ASKED || c->line == LINE_DOWN) && n++ < DEPENDENTS_SHOWN)
			strbuf_printf(&silent, "%s%s", n > 1 ? ", " : "", c->record.id);
	}
	pthread_mutex_unlock(&reg->lock);
	if (f->n > 0)
		log_info("%u clones of an earlier daemon go on", f->n);
	if (n > 0)
		log_warn("%u of them have not answered within %d s, and are asked until they do: %s%s", n,
			 HELLO_WAIT_MS / 1000, silent.text ? silent.text : "", n > DEPENDENTS_SHOWN ? ", …" : "");
}

/*
 * Goes on with those that were on their way to their identity, or whose processes stand still though
 * they run. What a request wished of the identity went with the daemon that knew it: such clones end.
 */
static void go_on(struct forkd *d, const struct found *f)
{
	struct identify *list = calloc(f->n + 1UL, sizeof(*list));
	struct err err = {}, lost = {};
	unsigned n = 0;

	for (unsigned i = 0; i < f->n && list; i++) {
		struct clone *c = f->all[i];
		if (c->record.identity == IDENTITY_PENDING && c->record.wished) {
			err_set(&lost, ERR_INTERNAL, "the daemon that knew its overrides.identity has ended");
			identify_give_up(d, c, &lost);
		} else if (c->record.identity == IDENTITY_PENDING ||
			   (c->record.frozen && c->first_state == CLONE_RUNNING)) {
			pthread_mutex_lock(&d->registry->lock);
			list[n].c = clone_ref_locked(c);
			pthread_mutex_unlock(&d->registry->lock);
			list[n].thaw = c->record.identity == IDENTITY_UNIQUE;
			list[n++].fd = -1;
		}
	}
	if (n == 0)
		free(list);
	else if (identify_later(d, list, n, &err) < 0)
		log_error("%u clones are ended: %s", n, err.msg);
}

static void end_all(struct forkd *d, const struct found *f, const char *parent, uint64_t deadline_ns)
{
	for (unsigned i = 0; i < f->n; i++) {
		struct clone *c = f->all[i];
		struct err err = {};
		if (c->control.fd >= 0 && control_await_end(c->control.fd, deadline_ns, &err) < 0) {
			log_warn("%s%s: %s", c->record.id, c->process.fd >= 0 ? ", killed" : "", err.msg);
			clone_kill(c);
		}
		if (c->record.pid)
			clone_clear(d, &c->record);
		else
			place_clear(d, parent, c->record.id);
	}
}

/* ---- what belongs to no clone ---- */

static bool disk_has_overlay(const struct record_disk *disk, const char *name)
{
	for (uint32_t i = 0; i < disk->n_overlays; i++)
		if (strcmp(disk->overlays[i].name, name) == 0)
			return true;
	return false;
}

static bool has_overlay(const struct found *f, const char *name)
{
	for (unsigned i = 0; i < f->n; i++)
		for (uint32_t k = 0; k < f->all[i]->record.n_disks; k++)
			if (disk_has_overlay(&f->all[i]->record.disks[k], name))
				return true;
	return false;
}

static bool is_used(void *arg, const char *overlay)
{
	const struct recovery *r = arg;

	return has_overlay(&r->clones, overlay) || has_overlay(&r->left, overlay);
}

int recover_clones(struct forkd *d, struct err *err)
{
	struct recovery r = { .d = d };

	int done = each_in(&r, "builds", look_at_build, err);
	if (done >= 0)
		done = each_in(&r, "clones", look_at_clone, err);
	for (unsigned i = 0; i < r.gone.n; i++)
		clone_clear(d, &r.gone.all[i]->record);
	uint64_t quit_by = deadline_in_ms(QUIT_WAIT_MS);
	await_answers(d->registry, &r.clones);
	hand_out(d->registry, &r.clones);
	go_on(d, &r.clones);
	end_all(d, &r.strays, "clones", quit_by);
	end_all(d, &r.builds, "builds", quit_by);
	for (unsigned i = 0; i < r.clones.n; i++)
		snapshot_disks_resolve(d, r.clones.all[i]);
	if (r.unsure)
		log_warn("the disks of no clone are removed: what some clone has is not known");
	else if (done >= 0)
		store_collect(d->store, is_used, &r);
	clones_unref(d->registry, r.clones.all, r.clones.n);
	clones_unref(d->registry, r.gone.all, r.gone.n);
	clones_unref(d->registry, r.left.all, r.left.n);
	clones_unref(d->registry, r.strays.all, r.strays.n);
	clones_unref(d->registry, r.builds.all, r.builds.n);
	return done;
}
