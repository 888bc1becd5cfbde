/* SPDX-License-Identifier: Apache-2.0 */
/* A file whose holes need not begin or end at a page: on an ext4 with blocks of 1 KiB, mounted for this file alone. */
#ifndef TESTS_UNIT_SMALL_BLOCKS_H
#define TESTS_UNIT_SMALL_BLOCKS_H

#include <stdio.h>
#include <unistd.h>

#include "tests/unit/unit.h"

#define SMALL_BLOCKS_MAKE                                                                           \
	"{ truncate -s 64M %s/fs && mkfs.ext4 -q -b 1024 -O ^has_journal %s/fs && mkdir %s/mnt && " \
	"mount -o loop %s/fs %s/mnt; } >/dev/null 2>&1"

/* The file has no name, and the file system leaves with it. Where nothing can be mounted, the test is skipped. */
static inline int small_blocks_file(void)
{
	char dir[] = "/tmp/forkd-test-XXXXXX", command[512];
	int fd = -1;

	assert_non_null(mkdtemp(dir));
	snprintf(command, sizeof(command), SMALL_BLOCKS_MAKE, dir, dir, dir, dir, dir);
	if (geteuid() == 0 && system(command) == 0) { /* NOLINT(cert-env33-c): our own words */
		snprintf(command, sizeof(command), "%s/mnt", dir);
		fd = open(command, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
		assert_true(fd >= 0);
	}
	snprintf(command, sizeof(command), "umount -l %s/mnt >/dev/null 2>&1; rm -rf --one-file-system %s", dir, dir);
	assert_int_equal(system(command), 0); /* NOLINT(cert-env33-c): our own words */
	if (fd < 0) {
		print_message(
			"SKIPPED: no ext4 of 1 KiB blocks can be mounted here: holes within pages were NOT tested\n");
		skip();
	}
	return fd;
}

#endif
