// SPDX-License-Identifier: Apache-2.0
/* RUNTIME/clones after a restart. */
#include "forkd/clone/recover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "common/log.h"
#include "forkd/access/handover.h"
#include "forkd/clone/follow.h"
#include "forkd/clone/life.h"
#include "forkd/metrics.h"
#include "forkd/wire/control.h"

enum { HELLO_TIMEOUT_MS = 10000, QUIT_TIMEOUT_MS = 1000 };

static int hello(struct clone *c, struct err *err)
{
	struct ctl_status s;
	struct control_call call = {
		.op = "hello", .ret_rows = ctl_status_fields, .ret = &s, .timeout_ms = HELLO_TIMEOUT_MS
	};

	fields_init(ctl_status_fields, &s);
	if (control_call(c->control.fd, &call, err) < 0)
		return err->num;
	int r = 0;
	if (s.pid != c->record.pid)
		r = err_set(err, ERR_INTERNAL, "it is process %u, not %u", s.pid, c->record.pid);
	else if (strcmp(s.state, "Parked") == 0)
		r = err_set(err, ERR_INTERNAL, "it has not been restored");
	c->restored_ns = s.restored_ns;
	c->resumed_ns = s.resumed_ns;
	c->state = strcmp(s.state, "Running") == 0 ? CLONE_RUNNING : CLONE_PAUSED;
	c->line = LINE_UP;
	fields_free(ctl_status_fields, &s);
	return r;
}

/* 0: it is one of ours again. Its process lives, since it accepts connections: so the number in the record is its own. */
static int take_back(struct clone *c, const char *id, int dir_fd, struct err *err)
{
	bool committed;

	record_free(&c->record);
	if (record_load(&c->record, dir_fd, &committed, err) < 0)
		return err->num;
	c->process.fd = (int)syscall(SYS_pidfd_open, (pid_t)c->record.pid, 0);
	if (c->process.fd < 0)
		return err_sys(err, ERR_INTERNAL, "process %u", c->record.pid);
	if (strcmp(c->record.id, id) != 0)
		return err_set(err, ERR_INTERNAL, "clone.json is of '%s'", c->record.id);
	if (!committed)
		return err_set(err, ERR_INTERNAL, "the daemon ended before it was handed out");
	return hello(c, err);
}

/* Nobody asked for it, or it cannot be talked to. */
static void end_stray(const struct clone *c, const char *id)
{
	struct err err = {};

	if (control_quit(c->control.fd, QUIT_TIMEOUT_MS, &err) >= 0)
		return;
	log_warn("clone %s: killed: %s", id, err.msg);
	clone_kill(c);
}

static void look_at(struct forkd *d, int clones_fd, const char *id)
{
	autoclose int dir_fd = openat(clones_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	char line[ERR_MSG_BYTES];
	struct err err = {};

	struct clone *c = dir_fd < 0 ? NULL : clone_new(id);
	if (!c)
		return;
	if (place_connect(d, "clones", id, &c->control.fd, &err) >= 0 && take_back(c, id, dir_fd, &err) >= 0) {
		registry_add(d->registry, c);
		if (follow_clone(d, c, &err) < 0)
			log_error("clone %s: %s", id, err.msg);
		metrics_count(d->metrics, METRIC_CLONES_ADOPTED, 1);
	} else {
		log_info("clone %s is gone: %s", id, err_line(&err, line, sizeof(line)));
		if (c->control.fd >= 0)
			end_stray(c, id);
		if (c->record.vsock_socket)
			unlink(c->record.vsock_socket);
		place_clear(d, "clones", id);
	}
	clone_unref(d->registry, c);
}

/* VMs that were to become templates: nobody waits for them any more. */
static void clear_build(struct forkd *d, int builds_fd, const char *id)
{
	autoclose int control = -1;
	struct err err = {};

	(void)builds_fd;
	if (place_connect(d, "builds", id, &control, &err) >= 0 && control_quit(control, QUIT_TIMEOUT_MS, &err) < 0)
		log_warn("VM %s, which was to become a template: %s", id, err.msg);
	place_clear(d, "builds", id);
}

static int each_in(struct forkd *d, const char *parent, void (*look)(struct forkd *, int, const char *),
		   struct err *err)
{
	autofree char *path = place_path(d, parent, "");
	DIR *dir = path ? opendir(path) : NULL;

	if (!dir)
		return err_sys(err, ERR_INTERNAL, "open '%s'", path ? path : parent);
	for (const struct dirent *e = readdir(dir); e; e = readdir(dir))
		if (e->d_name[0] != '.')
			look(d, dirfd(dir), e->d_name);
	closedir(dir);
	return 0;
}

int recover_clones(struct forkd *d, struct err *err)
{
	if (each_in(d, "builds", clear_build, err) < 0 || each_in(d, "clones", look_at, err) < 0)
		return err->num;
	unsigned n = registry_count(d->registry, NULL);
	if (n > 0)
		log_info("%u clones of an earlier daemon go on", n);
	return 0;
}
