// SPDX-License-Identifier: Apache-2.0
/* smaps_rollup and stat of a process. */
#include "forkd/clone/stats.h"

#include <string.h>

#include "forkd/access/cgroup.h"
#include "forkd/template/templates.h"

const struct field proc_stats_fields[] = {
	F(struct proc_stats, private_dirty_bytes),
	F(struct proc_stats, private_clean_bytes),
	F(struct proc_stats, shared_bytes),
	F(struct proc_stats, swap_bytes),
	F(struct proc_stats, cpu_us),
	F_END,
};

static bool read_proc(uint32_t pid, const char *name, char *buf, size_t size)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%u/%s", pid, name);
	read_text(path, buf, size);
	return buf[0];
}

/* The value of a line "Key:   123 kB". */
static uint64_t kib_of(const char *text, const char *key)
{
	const char *at = strstr(text, key);

	return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

static uint64_t cpu_us_of(const char *stat)
{
	const char *p = strrchr(stat, ')'); /* the name before ')' may hold anything */
	unsigned long long user = 0, system = 0;

	if (!p || sscanf(p + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &system) != 2)
		return 0;
	return (user + system) * (1000000 / (uint64_t)sysconf(_SC_CLK_TCK));
}

void stats_read(uint32_t pid, struct proc_stats *ret)
{
	char text[4096];

	*ret = (struct proc_stats){};
	if (read_proc(pid, "smaps_rollup", text, sizeof(text))) {
		ret->private_dirty_bytes = kib_of(text, "\nPrivate_Dirty:");
		ret->private_clean_bytes = kib_of(text, "\nPrivate_Clean:");
		ret->shared_bytes = kib_of(text, "\nShared_Clean:") + kib_of(text, "\nShared_Dirty:");
		ret->swap_bytes = kib_of(text, "\nSwap:");
	}
	if (read_proc(pid, "stat", text, sizeof(text)))
		ret->cpu_us = cpu_us_of(text);
}

/* The pid of some running clone of the template, mostly another clone each turn; 0: none runs. */
static uint32_t pick(struct registry *r, const char *template, unsigned turn)
{
	uint32_t pid = 0;

	pthread_mutex_lock(&r->lock);
	for (size_t i = 0; i < ARRAY_LEN(r->buckets); i++)
		for (const struct clone *c = r->buckets[(i + turn * 61) % ARRAY_LEN(r->buckets)]; c && !pid;
		     c = c->next)
			if (c->state == CLONE_RUNNING && strcmp(c->record.template, template) == 0)
				pid = c->record.pid;
	pthread_mutex_unlock(&r->lock);
	return pid;
}

void stats_sample(struct registry *r)
{
	static unsigned turn; /* the watcher's alone */
	struct tmpl_info *list = NULL;
	struct err err = {};
	unsigned n = 0;

	turn++;
	if (templates_list(r, &list, &n, &err) < 0)
		return;
	for (unsigned i = 0; i < n; i++) {
		struct proc_stats s;
		uint32_t pid = pick(r, list[i].name, turn);
		if (!pid)
			continue;
		stats_read(pid, &s);
		tmpl_saw_private(r, list[i].name, s.private_dirty_bytes + s.swap_bytes);
	}
	free(list);
}
