// SPDX-License-Identifier: Apache-2.0
/* A directory for a snapshot of two regions of RAM: its name is made once, the directory for each test. */
#ifndef TESTS_UNIT_SNAPSHOT_DIR_H
#define TESTS_UNIT_SNAPSHOT_DIR_H

#include "tests/unit/unit.h"

#include <unistd.h>

enum { PAGE = 4096, LOW_BYTES = 0x40000, HIGH_BYTES = 0x10000 };
#define HIGH (1ULL << 32)

static char dir[] = "/tmp/forkd-test-snapshot-XXXXXX";
static char url[64];

/* URLs of no directory, and what is said of each. */
static const struct {
	const char *url, *msg;
} bad_dirs[] = {
	{ "", "Could not extract path from URL: " },
	{ "/tmp", "Could not extract path from URL: /tmp" },
	{ "file://", "Destination is not a directory: \"\"" },
	{ "file:///nonexistent", "Destination is not a directory: \"/nonexistent\"" },
	{ "file:///dev/null", "Destination is not a directory: \"/dev/null\"" },
};

static inline char *in_dir(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static inline int make_name(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(url, sizeof(url), "file://%s", dir);
	return rmdir(dir);
}

static inline int remove_files(const char *const *names, size_t n)
{
	for (size_t i = 0; i < n; i++)
		unlink(in_dir(names[i]));
	return rmdir(dir);
}

#endif
