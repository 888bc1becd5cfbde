// SPDX-License-Identifier: Apache-2.0
/* Freezing and thawing of all groups that lie beside the agent's path. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "guest/groups.h"
#include "guest/groups_kind.h"
#include "guest/put_file.h"

#define FROZEN_LIST "/run/forkd/frozen"
#define LOOSE "forkd.loose"
enum { PASSES = 8, POLL_US = 2000, POLLS_BEFORE_AGAIN = 250, LIST_BYTES = 256 << 10, KERNEL_THREAD = 0x00200000 };

/* The first line of *text as a path of its own; *text goes on behind it. false: there is no line left. */
static bool next_line(const char **text, char ret_path[PATH_MAX])
{
	const char *end = *text ? strchr(*text, '\n') : NULL;

	if (!end || (size_t)(end - *text) >= PATH_MAX)
		return false;
	snprintf(ret_path, PATH_MAX, "%.*s", (int)(end - *text), *text);
	*text = end + 1;
	return true;
}

/* "a" and "b" are "a/b", "" and "b" are "b". false: it is too long. */
static bool join(char ret_path[PATH_MAX], const char *a, const char *b)
{
	return (size_t)snprintf(ret_path, PATH_MAX, "%s%s%s", a, *a ? "/" : "", b) < PATH_MAX;
}

/* Whether the file of that group holds the text. -errno: it cannot be read. */
static int group_says(const struct groups *g, const char *group, const char *file, const char *text)
{
	char path[PATH_MAX], has[512];

	if (!join(path, group, file))
		return -ENAMETOOLONG;
	ssize_t n = get_text(g->top_fd, path, has, sizeof(has));
	return n < 0 ? (int)n : strstr(has, text) != NULL;
}

static bool is_kernel_thread(int pid)
{
	char path[32], stat[512];
	unsigned flags = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, stat, sizeof(stat) - 1);
	stat[n > 0 ? n : 0] = '\0';
	const char *behind = strrchr(stat, ')'); /* the name may hold anything */
	return behind && sscanf(behind, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && (flags & KERNEL_THREAD);
}

/* The agent, and the child of it that this may be. */
static bool is_agent(const struct groups *g, int pid)
{
	return pid == g->agent_pid || pid == getpid();
}

/* Moves the processes of a group on the path to the group `loose` beside the path. Returns how many. */
static int move_loose(const struct groups *g, const char *level, const char *loose, struct err *err)
{
	char path[PATH_MAX];
	int pid, moved = 0;

	if (!join(path, level, "cgroup.procs"))
		return err_num(err, ERR_INTERNAL, ENAMETOOLONG, "control group '%.64s…'", level);
	int fd = openat(g->top_fd, path, O_RDONLY | O_CLOEXEC);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "re");
	if (!f)
		return err_sys(err, ERR_INTERNAL, "open '%s'", path);
	while (fscanf(f, "%d", &pid) == 1) {
		char text[16];
		if (pid <= 1 || is_agent(g, pid) || is_kernel_thread(pid))
			continue;
		if (mkdirat(g->top_fd, loose, 0755) < 0 && errno != EEXIST)
			break;
		snprintf(text, sizeof(text), "%d", pid);
		int r = group_write(g->top_fd, loose, "cgroup.procs", text);
		if (r < 0 && r != -ESRCH)
			log_warn("process %d stays in the control group '%s': %s", pid, level, strerror(-r));
		moved += r == 0;
	}
	fclose(f);
	return moved;
}

static bool is_group(int dir_fd, const struct dirent *e)
{
	struct stat st;

	if (e->d_name[0] == '.' || strchr(e->d_name, '\n'))
		return false;
	return e->d_type == DT_DIR ||
	       (e->d_type == DT_UNKNOWN && fstatat(dir_fd, e->d_name, &st, 0) == 0 && S_ISDIR(st.st_mode));
}

/* Appends the children of `level` that are not frozen yet, except `next`, which is on the path. */
static int collect(const struct groups *g, const char *level, const char *next, struct strbuf *out, unsigned *n,
		   struct err *err)
{
	int fd = openat(g->top_fd, *level ? level : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	char path[PATH_MAX];

	if (!dir)
		return err_sys(err, ERR_INTERNAL, "open the control group '%s'", level);
	for (struct dirent *e; (e = readdir(dir));) {
		bool is_init = !*level && strcmp(e->d_name, "init.scope") == 0;
		if (!is_group(dirfd(dir), e) || is_init || strcmp(e->d_name, next) == 0 ||
		    !join(path, level, e->d_name))
			continue;
		if (group_says(g, path, g->kind->file, g->kind->stop) == 0) {
			strbuf_printf(out, "%s\n", path);
			++*n;
		}
	}
	closedir(dir);
	return 0;
}

/* One pass from the root to the agent's group: what is loose, and what is not frozen yet. */
static int walk(const struct groups *g, struct strbuf *out, unsigned *n, int *moved, struct err *err)
{
	char level[PATH_MAX] = "", next[NAME_MAX + 1], loose[PATH_MAX];
	int r;

	for (const char *rest = g->own; *rest; rest += strspn(rest, "/")) {
		size_t len = strcspn(rest, "/");
		snprintf(next, sizeof(next), "%.*s", (int)len, rest);
		if (!join(loose, level, LOOSE))
			return err_num(err, ERR_INTERNAL, ENAMETOOLONG, "control group '%.64s…'", level);
		r = move_loose(g, level, loose, err);
		if (r < 0 || collect(g, level, next, out, n, err) < 0)
			return err->num;
		*moved += r;
		rest += len;
		snprintf(level, sizeof(level), "%.*s", (int)(rest - g->own), g->own);
	}
	r = move_loose(g, g->own, g->user, err); /* what hooks have left running */
	*moved += r > 0 ? r : 0;
	return r < 0 ? r : 0;
}

static int save_list(const struct groups *g, struct err *err)
{
	const struct put_file list = {
		.path = FROZEN_LIST, .bytes = g->frozen.text, .len = g->frozen.len, .mode = 0600
	};

	if (g->frozen.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "the list of frozen groups");
	return put_file(g->root_fd, &list, err);
}

static bool is_gone(int r)
{
	return r == -ENOENT || r == -ENODEV;
}

static int stop_all(const struct groups *g, const char *list, struct err *err)
{
	char path[PATH_MAX];

	while (next_line(&list, path)) {
		int r = group_write(g->top_fd, path, g->kind->file, g->kind->stop);
		if (r < 0 && !is_gone(r))
			return err_num(err, ERR_INTERNAL, -r, "freeze the control group '%s'", path);
	}
	return 0;
}

/* Begins the freeze of a group anew. A group that is gone is none. */
static int stop_again(const struct groups *g, const char *path)
{
	int r = group_write(g->top_fd, path, g->kind->file, g->kind->go);

	return r < 0 ? r : group_write(g->top_fd, path, g->kind->file, g->kind->stop);
}

/*
 * The freezer of version 1 may say FREEZING for good, when a process changed its state just then: the
 * kernel's freezer-subsystem.rst leaves it to the writer to try again.
 */
static int wait_one(const struct groups *g, const char *path, uint64_t deadline_ns, struct err *err)
{
	for (unsigned polls = 1;; polls++) {
		int r = group_says(g, path, g->kind->state, g->kind->is_stopped);
		if (r == 0 && g->kind->sticks && polls % POLLS_BEFORE_AGAIN == 0)
			r = stop_again(g, path);
		if (r == 1 || is_gone(r))
			return 0;
		if (r < 0)
			return err_num(err, ERR_INTERNAL, -r, "freeze the control group '%s'", path);
		if (monotonic_ns() >= deadline_ns)
			return err_num(err, ERR_INTERNAL, ETIMEDOUT, "the control group '%s' does not stand still",
				       path);
		usleep(POLL_US);
	}
}

static int wait_all(const struct groups *g, const char *list, uint64_t deadline_ns, struct err *err)
{
	char path[PATH_MAX];

	while (next_line(&list, path))
		if (wait_one(g, path, deadline_ns, err) < 0)
			return err->num;
	return 0;
}

static unsigned count_lines(const char *list)
{
	char path[PATH_MAX];
	unsigned n = 0;

	while (next_line(&list, path))
		n++;
	return n;
}

/* New groups and processes can come until all are frozen, so it takes some passes. */
static int freeze_passes(struct groups *g, uint64_t deadline_ns, struct err *err)
{
	unsigned n = count_lines(g->frozen.text); /* of an earlier freeze */

	for (unsigned pass = 0; pass < PASSES; pass++) {
		size_t before = g->frozen.len;
		int moved = 0;
		if (walk(g, &g->frozen, &n, &moved, err) < 0)
			return err->num;
		if (n > GROUPS_MAX)
			return err_set(err, ERR_INTERNAL, "%u control groups to freeze, at most %d are possible", n,
				       GROUPS_MAX);
		if (g->frozen.len == before && moved == 0)
			return (int)n;
		if (g->frozen.len == before)
			continue;
		if (save_list(g, err) < 0 || stop_all(g, g->frozen.text + before, err) < 0 ||
		    wait_all(g, g->frozen.text + before, deadline_ns, err) < 0)
			return err->num;
	}
	return err_set(err, ERR_INTERNAL, "new control groups and processes come faster than they are frozen");
}

int groups_freeze(struct groups *g, uint64_t deadline_ns, struct err *err)
{
	struct err ignored = {};

	if (!g->kind)
		return err_set(err, ERR_HOST, "the guest has no control groups that can be frozen");
	int r = freeze_passes(g, deadline_ns, err);
	if (r < 0 && groups_thaw(g, &ignored) < 0)
		log_warn("thaw again: %s", ignored.msg);
	return r;
}

int groups_read(struct groups *g, struct err *err)
{
	autofree char *text = malloc(LIST_BYTES);

	if (!text)
		return err_num(err, ERR_INTERNAL, ENOMEM, "the list of frozen groups");
	ssize_t n = get_text(g->root_fd, FROZEN_LIST, text, LIST_BYTES);
	if (n < 0 && n != -ENOENT)
		return err_num(err, ERR_INTERNAL, (int)-n, "read '%s'", FROZEN_LIST);
	strbuf_done(&g->frozen);
	if (n > 0)
		strbuf_add(&g->frozen, text, (size_t)n);
	return 0;
}

int groups_thaw(struct groups *g, struct err *err)
{
	const char *list = g->frozen.text;
	char path[PATH_MAX];
	int result = 0;

	while (next_line(&list, path)) {
		int r = group_write(g->top_fd, path, g->kind->file, g->kind->go);
		if (r < 0 && !is_gone(r) && result == 0)
			result = err_num(err, ERR_INTERNAL, -r, "thaw the control group '%s'", path);
	}
	if (result < 0)
		return result;
	strbuf_done(&g->frozen);
	if (unlinkat(g->root_fd, path_below(FROZEN_LIST), 0) < 0 && errno != ENOENT)
		return err_sys(err, ERR_INTERNAL, "remove '%s'", FROZEN_LIST);
	return 0;
}
