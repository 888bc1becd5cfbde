// SPDX-License-Identifier: Apache-2.0
/* Where the agent is in the hierarchy of control groups, and what is to be frozen beside it. */
#include "guest/groups.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/groups_kind.h"

static const struct group_kind kinds[] = {
	{ "cgroup2", NULL, "cgroup.freeze", "1", "0", "cgroup.events", "frozen 1", false },
	{ "cgroup", "freezer", "freezer.state", "FROZEN", "THAWED", "freezer.state", "FROZEN", true },
};

static bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = list; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (strncmp(p, word, len) == 0 && (p[len] == ',' || p[len] == '\0'))
			return true;
	}
	return false;
}

/* The mount point of the hierarchy; false: there is none of that kind. */
static bool find_mount(const struct group_kind *kind, char ret_path[PATH_MAX])
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[PATH_MAX + 512], type[32], options[256];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f))
		found = sscanf(line, "%*s %4095s %31s %255s", ret_path, type, options) == 3 &&
			strcmp(type, kind->fs) == 0 && (!kind->option || has_word(options, kind->option));
	if (f)
		fclose(f);
	return found;
}

/* The group of this process in that hierarchy, without the leading slash. */
static bool find_own(const struct group_kind *kind, char ret_path[PATH_MAX])
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[PATH_MAX + 256], controllers[128];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		char *path = strstr(line, ":/");
		int n = 0;
		line[strcspn(line, "\n")] = '\0';
		controllers[0] = '\0';
		if (!path || sscanf(line, "%*d:%n", &n) < 0 || n == 0)
			continue;
		snprintf(controllers, sizeof(controllers), "%.*s", (int)(path > line + n ? path - line - n : 0),
			 line + n);
		found = kind->option ? has_word(controllers, kind->option) : controllers[0] == '\0';
		if (found)
			snprintf(ret_path, PATH_MAX, "%s", path + 2);
	}
	if (f)
		fclose(f);
	return found && strncmp(ret_path, "../", 3) != 0; /* outside of this cgroup namespace */
}

int group_write(int top_fd, const char *group, const char *file, const char *word)
{
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s%s%s", group, *group ? "/" : "", file) >= sizeof(path))
		return -ENAMETOOLONG;
	autoclose int fd = openat(top_fd, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, word, strlen(word)) < 0 ? -errno : 0;
}

static int make_group(int top_fd, const char *path, struct err *err)
{
	if (mkdirat(top_fd, path, 0755) < 0 && errno != EEXIST)
		return err_sys(err, ERR_INTERNAL, "make the control group '%s'", path);
	return 0;
}

/* Makes the two groups, goes to the one, and opens the other. */
static int settle(struct groups *g, const char *base, struct err *err)
{
	char procs[PATH_MAX];

	if ((size_t)snprintf(g->own, sizeof(g->own), "%s/agent", base) >= sizeof(g->own) ||
	    (size_t)snprintf(g->user, sizeof(g->user), "%s/user", base) >= sizeof(g->user) ||
	    (size_t)snprintf(procs, sizeof(procs), "%s/user/cgroup.procs", base) >= sizeof(procs))
		return err_num(err, ERR_INTERNAL, ENAMETOOLONG, "control group '%.64s…'", base);
	if (make_group(g->top_fd, base, err) < 0 || make_group(g->top_fd, g->own, err) < 0 ||
	    make_group(g->top_fd, g->user, err) < 0)
		return err->num;
	int r = group_write(g->top_fd, g->own, "cgroup.procs", "0");
	if (r < 0)
		return err_num(err, ERR_INTERNAL, -r, "enter the control group '%s'", g->own);
	g->user_fd = openat(g->top_fd, procs, O_WRONLY | O_CLOEXEC);
	if (g->user_fd < 0)
		return err_sys(err, ERR_INTERNAL, "open '%s'", procs);
	return 0;
}

/* The group from which an agent begins; one that was started by an agent begins where that one began. */
static void base_of(char *own)
{
	size_t len = strlen(own);

	if (len > 6 && (strcmp(own + len - 6, "/agent") == 0))
		own[len - 6] = '\0';
	if (*own == '\0')
		strcpy(own, "forkd");
}

int groups_open(struct groups *g, int root_fd, struct err *err)
{
	char mount[PATH_MAX], base[PATH_MAX], file[PATH_MAX];

	*g = (struct groups){ .top_fd = -1, .user_fd = -1, .root_fd = root_fd, .agent_pid = getpid() };
	for (size_t i = 0; i < ARRAY_LEN(kinds) && !g->kind; i++) {
		if (!find_mount(&kinds[i], mount) || !find_own(&kinds[i], base))
			continue;
		base_of(base);
		g->top_fd = open(mount, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (g->top_fd < 0)
			return err_sys(err, ERR_INTERNAL, "open '%s'", mount);
		int r = settle(g, base, err);
		if (r < 0) {
			groups_close(g);
			return r;
		}
		snprintf(file, sizeof(file), "%.*s/%s", PATH_MAX - 32, g->own, kinds[i].file);
		if (faccessat(g->top_fd, file, W_OK, 0) == 0) /* version 2 can freeze since Linux 5.2 */
			g->kind = &kinds[i];
		else
			groups_close(g);
	}
	return g->kind ? groups_read(g, err) : 0;
}

void groups_close(struct groups *g)
{
	if (g->top_fd >= 0)
		close(g->top_fd);
	if (g->user_fd >= 0)
		close(g->user_fd);
	strbuf_done(&g->frozen);
	*g = (struct groups){ .top_fd = -1, .user_fd = -1, .root_fd = g->root_fd };
}

bool groups_frozen(const struct groups *g)
{
	return g->frozen.len > 0;
}

int groups_enter_user(const struct groups *g)
{
	if (g->user_fd < 0)
		return 0;
	return write(g->user_fd, "0", 1) == 1 ? 0 : -errno;
}
