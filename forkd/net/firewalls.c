// SPDX-License-Identifier: Apache-2.0
/* Rules in DOCKER-USER, by the iptables program, which knows which of the kernel's two tables Docker uses. */
#include "forkd/net/firewalls.h"

#include <string.h>
#include <sys/mman.h>

#include "common/log.h"
#include "common/program.h"

enum { SAME_RULES_MAX = 16 };

static const char *const programs[] = { "iptables", "ip6tables" };

/* The program is one for both, and goes by the name that it is called by. */
static void set_name(char ret[16], const char *path)
{
	snprintf(ret, 16, "%s", strrchr(path, '/') + 1);
}

/* One rule, "-i fn-+" or "-o fn-+"; `verb` is -C (is it there?), -I or -D. */
static bool rule(const char *path, const char *verb, const char *direction, const struct layout *l)
{
	char words[][16] = { "", "-w", "DOCKER-USER", "-m", "comment", "--comment", "-j", "ACCEPT" };
	char interfaces[16], action[4], way[4], mark[24];
	char *const args[] = { words[0], words[1], action, words[2], way,      interfaces, words[3],
			       words[4], words[5], mark,   words[6], words[7], NULL };
	autoclose int out = memfd_create("forkd-iptables", MFD_CLOEXEC);
	struct err ignored = {};

	set_name(words[0], path);
	snprintf(interfaces, sizeof(interfaces), "%s+", l->veth_prefix);
	snprintf(action, sizeof(action), "%s", verb);
	snprintf(way, sizeof(way), "%s", direction);
	snprintf(mark, sizeof(mark), "%s", l->table);
	return out >= 0 && program_run(path, args, -1, out, &ignored) >= 0;
}

static bool has_chain(const char *path)
{
	char words[][16] = { "", "-w", "-n", "-L", "DOCKER-USER" };
	char *const args[] = { words[0], words[1], words[2], words[3], words[4], NULL };
	autoclose int out = memfd_create("forkd-iptables", MFD_CLOEXEC);
	struct err ignored = {};

	set_name(words[0], path);
	return out >= 0 && program_run(path, args, -1, out, &ignored) >= 0;
}

void firewalls_open(const struct layout *l)
{
	char path[PROGRAM_PATH_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
		if (!program_find(programs[i], path) || !has_chain(path))
			continue;
		if ((!rule(path, "-C", "-i", l) && !rule(path, "-I", "-i", l)) ||
		    (!rule(path, "-C", "-o", l) && !rule(path, "-I", "-o", l)))
			log_warn("%s takes no rule for networks in Docker's chain DOCKER-USER", programs[i]);
	}
}

void firewalls_close(const struct layout *l)
{
	char path[PROGRAM_PATH_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
		if (!program_find(programs[i], path) || !has_chain(path))
			continue;
		for (unsigned n = 0; n < SAME_RULES_MAX && rule(path, "-D", "-i", l);)
			n++;
		for (unsigned n = 0; n < SAME_RULES_MAX && rule(path, "-D", "-o", l);)
			n++;
	}
}
