// SPDX-License-Identifier: Apache-2.0
/* A directory that is the root of a system for one test: ROOT_TEST(f) makes it before f and removes it afterwards. */
#ifndef TESTS_UNIT_GUEST_ROOT_H
#define TESTS_UNIT_GUEST_ROOT_H

#include <errno.h>

#include "tests/unit/unit.h"

static struct {
	char path[40];
	int fd;
} root;

static int root_make(void **state)
{
	(void)state;
	strcpy(root.path, "/tmp/forkd-test-root-XXXXXX");
	if (!mkdtemp(root.path))
		return -1;
	root.fd = open(root.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return root.fd < 0;
}

static int root_done(void **state)
{
	char command[80];

	(void)state;
	close(root.fd);
	snprintf(command, sizeof(command), "rm -rf %s", root.path);
	return system(command); /* NOLINT(cert-env33-c): our own words */
}

/* How many names a directory has. */
static inline unsigned root_count(const char *path)
{
	return count_names(fdopendir(openat(root.fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)));
}

#define ROOT_TEST(f) cmocka_unit_test_setup_teardown(f, root_make, root_done)

#endif
