// SPDX-License-Identifier: Apache-2.0
/* Reads memory.max and pids.max, from the process's own group up to the root. */
#include "forkd/access/cgroup.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>

void read_text(const char *path, char *buf, size_t size)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	buf[n > 0 ? n : 0] = '\0';
}

static void read_member(const char *dir, const char *name, char *buf, size_t size)
{
	char path[PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/%s", dir, name);

	buf[0] = '\0';
	if (n > 0 && (size_t)n < sizeof(path))
		read_text(path, buf, size);
}

/* The number in a file; UINT64_MAX for "max", and for a file that is not there. */
static uint64_t limit(const char *dir, const char *name)
{
	char text[32];

	read_member(dir, name, text, sizeof(text));
	return text[0] >= '0' && text[0] <= '9' ? strtoull(text, NULL, 10) : UINT64_MAX;
}

static uint64_t amount(const char *dir, const char *name)
{
	uint64_t n = limit(dir, name);

	return n == UINT64_MAX ? 0 : n;
}

static uint64_t inactive_file(const char *dir)
{
	static const char key[] = "\ninactive_file ";
	char text[8192];

	read_member(dir, "memory.stat", text, sizeof(text));
	const char *at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static void look_at(const char *dir, struct cgroup_room *room)
{
	uint64_t max = limit(dir, "memory.max"), pids_max = limit(dir, "pids.max");

	if (max != UINT64_MAX) {
		uint64_t used = amount(dir, "memory.current"), free_again = inactive_file(dir);
		used = used > free_again ? used - free_again : 0;
		uint64_t left = max > used ? max - used : 0;
		room->bytes = left < room->bytes ? left : room->bytes;
	}
	if (pids_max != UINT64_MAX) {
		uint64_t now = amount(dir, "pids.current");
		uint64_t left = pids_max > now ? pids_max - now : 0;
		if (left < room->pids_max - room->pids_now) {
			room->pids_now = now;
			room->pids_max = pids_max;
		}
	}
}

void cgroup_read(const char *root, const char *self, struct cgroup_room *ret)
{
	char text[PATH_MAX], dir[PATH_MAX];

	*ret = (struct cgroup_room){ .bytes = UINT64_MAX, .pids_max = UINT64_MAX };
	read_text(self, text, sizeof(text));
	const char *line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
	if (!line)
		return;
	line += strcspn(line, "/");
	int n = snprintf(dir, sizeof(dir), "%s%.*s", root, (int)strcspn(line, "\n"), line);
	if (n < 0 || (size_t)n >= sizeof(dir))
		return;
	for (char *end = dir + n; end > dir + strlen(root); *end = '\0') {
		look_at(dir, ret);
		while (end > dir + strlen(root) && *--end != '/')
			;
	}
}
