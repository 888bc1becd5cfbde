// SPDX-License-Identifier: Apache-2.0
/* RUNTIME/clones after a restart. */
#include "forkd/recover.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

#include "common/log.h"
#include "forkd/control.h"
#include "forkd/handover.h"
#include "forkd/life.h"
#include "forkd/metrics.h"
#include "forkd/reaper.h"

enum { HELLO_TIMEOUT_MS = 10000, QUIT_TIMEOUT_MS = 1000 };

/* A process that never got as far as a record belongs to a request that nobody answered. */
static void end_stray(int control, const char *id)
{
	struct err err = {};

	log_warn("clone %s: was not finished when the daemon ended: ended too", id);
	if (control_call(control, &(struct control_call){ .op = "quit", .timeout_ms = QUIT_TIMEOUT_MS }, &err) < 0)
		log_warn("clone %s: %s", id, err.msg);
}

static int hello(struct clone *c, struct err *err)
{
	struct ctl_status s;
	struct control_call call = {
		.op = "hello", .ret_rows = ctl_status_fields, .ret = &s, .timeout_ms = HELLO_TIMEOUT_MS
	};

	fields_init(ctl_status_fields, &s);
	/* first the process, then that it still answers: so the number is its own */
	c->process.fd = (int)syscall(SYS_pidfd_open, (pid_t)c->record.pid, 0);
	if (c->process.fd < 0)
		return err_sys(err, ERR_INTERNAL, "process %u", c->record.pid);
	if (control_call(c->control.fd, &call, err) < 0)
		return err->num;
	int r = s.pid != c->record.pid ? err_set(err, ERR_INTERNAL, "it is process %u, not %u", s.pid, c->record.pid)
				       : 0;
	c->restored_ns = s.restored_ns;
	c->resumed_ns = s.resumed_ns;
	c->state = strcmp(s.state, "Running") == 0 ? CLONE_RUNNING : CLONE_PAUSED;
	if (r >= 0 && strcmp(s.state, "Parked") == 0)
		r = err_set(err, ERR_INTERNAL, "it has not been restored");
	fields_free(ctl_status_fields, &s);
	return r;
}

/* 0: it is one of ours again. */
static int take_back(struct forkd *d, struct clone *c, int dir_fd, struct err *err)
{
	if (place_connect(d, "clones", c->record.id, &c->control.fd, err) < 0)
		return err->num;
	char *id = c->record.id;
	c->record.id = NULL;
	int r = record_load(&c->record, dir_fd, err);
	if (r >= 0 && strcmp(c->record.id, id) != 0)
		r = err_set(err, ERR_INTERNAL, "clone.json is of '%s'", c->record.id);
	if (r < 0) {
		end_stray(c->control.fd, id);
		free(c->record.id);
		c->record.id = id;
		return r;
	}
	free(id);
	return hello(c, err);
}

/* The number may belong to another program by now. */
static bool is_vmm(uint32_t pid)
{
	char path[32], exe[512];

	snprintf(path, sizeof(path), "/proc/%u/exe", pid);
	ssize_t n = readlink(path, exe, sizeof(exe) - 1);
	exe[n > 0 ? n : 0] = '\0';
	return strstr(exe, "/forkd-vmm") != NULL;
}

static void look_at(struct forkd *d, int clones_fd, const char *id)
{
	autoclose int dir_fd = openat(clones_fd, id, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct err err = {};

	struct clone *c = dir_fd < 0 ? NULL : clone_new(id);
	if (!c)
		return;
	if (take_back(d, c, dir_fd, &err) >= 0) {
		registry_add(d->registry, c);
		if (reaper_adopt(d->reaper, c, &err) < 0)
			log_error("clone %s: %s", id, err.msg);
		metrics_count(d->metrics, METRIC_CLONES_ADOPTED, 1);
	} else {
		char line[ERR_MSG_BYTES];
		log_info("clone %s is gone: %s", id, err_line(&err, line, sizeof(line)));
		if (err.num == -ETIMEDOUT && is_vmm(c->record.pid))
			clone_kill(c); /* it is there and does not answer */
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
	if (place_connect(d, "builds", id, &control, &err) >= 0)
		end_stray(control, id);
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
	unsigned n = registry_count(d->registry, NULL, NULL);
	if (n > 0)
		log_info("%u clones of an earlier daemon go on", n);
	return 0;
}
