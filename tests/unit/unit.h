// SPDX-License-Identifier: Apache-2.0
/* What every unit test includes: cmocka with its prerequisites, and a few words for tables of cases. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/auto.h"
#include "common/json64.h"

/* A heap copy of exactly the text's bytes, without the NUL, so that a sanitizer sees a read behind it. */
static inline char *exact_copy(const char *text, size_t len)
{
	char *copy = malloc(len ? len : 1);

	assert_non_null(copy);
	memcpy(copy, text, len);
	return copy;
}

/* An empty file without a name. */
static inline int unit_file(void)
{
	char path[] = "/tmp/forkd-test-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

/* How many names there are in a directory, hidden ones too; closes it. */
static inline unsigned count_names(DIR *d)
{
	unsigned n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2; /* . and .. */
}

/* How many descriptors this process has open, to compare with another such number. */
static inline unsigned count_fds(void)
{
	return count_names(opendir("/proc/self/fd"));
}

static inline unsigned count_threads(void)
{
	return count_names(opendir("/proc/self/task"));
}

#endif
