// SPDX-License-Identifier: Apache-2.0
/* Start and stop. */
#include "forkd/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "common/fs.h"
#include "common/log.h"
#include "forkd/access/admission.h"
#include "forkd/access/announce.h"
#include "forkd/access/opener.h"
#include "forkd/access/policy.h"
#include "forkd/clone/follow.h"
#include "forkd/clone/recover.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/jobs.h"
#include "forkd/metrics.h"
#include "forkd/net/slots.h"
#include "forkd/options.h"
#include "forkd/rest/idempotency.h"
#include "forkd/template/spare_disks.h"
#include "forkd/template/template_host.h"
#include "forkd/template/templates.h"
#include "forkd/watch/watch.h"

enum {
	FILES_WANTED = 1 << 20,
	RUNTIME_PATH_MAX = 72 /* what is left of a socket's path is for clones/ID/control.sock */
};

/* Two descriptors a clone stay open here: as many as may be. */
static void raise_limits(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	struct rlimit more = { .rlim_cur = FILES_WANTED, .rlim_max = FILES_WANTED };
	if (files.rlim_max > FILES_WANTED)
		more.rlim_max = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &more) == 0)
		return;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		log_warn("raise the limit of open files: %s", strerror(errno));
}

static int make_dir(const char *parent, const char *name, mode_t mode, struct err *err)
{
	autofree char *path = NULL;

	if (asprintf(&path, "%s%s%s", parent, name[0] ? "/" : "", name) < 0)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the runtime directory");
	if (mkdir(path, mode) < 0)
		return errno == EEXIST ? 0 : err_sys(err, ERR_INTERNAL, "make directory '%s'", path);
	if (chmod(path, mode) < 0) /* whatever the umask: owners of clones pass through */
		return err_sys(err, ERR_INTERNAL, "set the mode of directory '%s'", path);
	return 0;
}

static int lock_runtime(struct forkd *d, struct err *err)
{
	autofree char *path = NULL;
	char fs[FS_NAME];

	if (asprintf(&path, "%s/lock", d->runtime_dir) < 0)
		return err_num(err, ERR_INTERNAL, ENOMEM, "lock the runtime directory");
	d->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (d->lock_fd < 0)
		return err_sys(err, ERR_INTERNAL, "open '%s'", path);
	int r = fs_lock_soon(d->lock_fd, FS_LOCK_OFD);
	if (r == -EAGAIN)
		return err_set(err, ERR_BUSY, "the runtime directory '%s' is used by another daemon", d->runtime_dir);
	return r < 0 ? err_num(err, ERR_INTERNAL, -r, "'%s' cannot be locked on %s", path, fs_name(d->lock_fd, fs)) : 0;
}

static int open_runtime(struct forkd *d, struct err *err)
{
	char path[PATH_MAX];

	if (make_dir(d->options->runtime_dir, "", 0755, err) < 0)
		return err->num;
	if (!realpath(d->options->runtime_dir, path))
		return err_sys(err, ERR_INTERNAL, "runtime directory '%s'", d->options->runtime_dir);
	if (strlen(path) > RUNTIME_PATH_MAX)
		return err_set(err, ERR_INVALID,
			       "the path of the runtime directory '%s' has %zu bytes, at most %d are possible", path,
			       strlen(path), RUNTIME_PATH_MAX);
	d->runtime_path = strdup(path);
	d->runtime_dir = d->runtime_path;
	if (!d->runtime_path || asprintf(&d->open_socket, "%s/open.sock", path) < 0) {
		d->open_socket = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "open the runtime directory");
	}
	if (lock_runtime(d, err) < 0 || make_dir(path, "clones", 0711, err) < 0)
		return err->num;
	return make_dir(path, "builds", 0700, err);
}

/* ---- gauges ---- */

static void gauges(void *arg, struct strbuf *out)
{
	struct forkd *d = arg;
	unsigned by_state[CLONE_STATES] = {}, n = 0, templates = 0;
	struct tmpl_info *list = NULL;
	struct err err = {};

	pthread_mutex_lock(&d->registry->lock);
	for (size_t i = 0; i < ARRAY_LEN(d->registry->buckets); i++)
		for (const struct clone *c = d->registry->buckets[i]; c; c = c->next)
			by_state[c->state]++;
	pthread_mutex_unlock(&d->registry->lock);
	for (unsigned s = 0; s < CLONE_STATES; s++)
		metrics_gauge_of(out, "forkd_clones", s == 0 ? "Clones by state." : NULL, "state", clone_states[s],
				 by_state[s]);
	if (templates_list(d->registry, &list, &n, &err) < 0)
		return;
	for (unsigned i = 0; i < n; i++)
		templates += list[i].state == TMPL_READY && !list[i].lacking;
	free(list);
	metrics_gauge(out, "forkd_templates", "Templates that are ready.", templates);
	const struct slots_count networks = slots_count(d->slots);
	metrics_gauge_of(out, "forkd_networks", "Networks for clones by state.", "state", "ready", networks.ready);
	metrics_gauge_of(out, "forkd_networks", NULL, "state", "used", networks.used);
}

/* ---- start and stop ---- */

static int start_parts(struct forkd *d, struct err *err)
{
	const struct forkd_options *opt = d->options;

	raise_limits();
	if (open_runtime(d, err) < 0 || store_open(opt->store, &d->store, err) < 0)
		return err->num;
	if (events_new(&d->events, err) < 0 || metrics_new(&d->metrics, err) < 0 || jobs_new(&d->jobs, err) < 0 ||
	    policy_new(opt->allow_paths, opt->n_allow_paths, &d->policy, err) < 0 ||
	    registry_new(&d->registry, err) < 0 || idempotency_new(&d->idempotency, err) < 0 ||
	    admission_new((uint64_t)opt->memory_reserve_mib << 20, &d->admission, err) < 0)
		return err->num;
	if (templates_load(d->registry, d->store, err) < 0 || watch_start(&d->watcher, err) < 0 ||
	    follow_start(d, &d->followed, err) < 0 || slots_start(d, &d->slots, err) < 0 ||
	    recover_clones(d, err) < 0 || opener_start(d, &d->opener, err) < 0 ||
	    spare_maker_start(d, &d->spare_maker, err) < 0)
		return err->num;
	slots_settle(d->slots);
	templates_check_host(d);
	d->announcer = announce_start(d);
	metrics_set_gauges(d->metrics, gauges, d);
	events_emit(d->events, "daemon.started", NULL, NULL, NULL);
	return 0;
}

int forkd_start(struct forkd *d, const struct forkd_options *opt, struct err *err)
{
	*d = (struct forkd){ .options = opt, .lock_fd = -1 };
	if (start_parts(d, err) >= 0)
		return 0;
	forkd_stop(d);
	return err->num;
}

static void drop_hosts(struct forkd *d)
{
	for (struct tmpl *t = d->registry ? d->registry->templates : NULL; t; t = t->next)
		tmpl_drop_host(d, t);
}

void forkd_stop(struct forkd *d)
{
	if (!d->options)
		return;
	d->stopping = true;
	jobs_free(d->jobs);
	opener_stop(d->opener);
	watch_stop(d->watcher);
	drop_hosts(d);
	spare_maker_stop(d->spare_maker);
	slots_stop(d->slots);
	watch_free(d->watcher);
	announce_free(d->announcer);
	follow_free(d->followed);
	registry_free(d->registry);
	idempotency_free(d->idempotency);
	admission_free(d->admission);
	policy_free(d->policy);
	metrics_free(d->metrics);
	events_free(d->events);
	if (d->store)
		store_close(d->store);
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	free(d->open_socket);
	free(d->runtime_path);
	*d = (struct forkd){ .lock_fd = -1 };
}
