// SPDX-License-Identifier: Apache-2.0
/*
 * KVM for a unit test: this program's own ioctl(), which hands every request on FAKE_FD to the test's fake_kvm(). Included by
 * a test program's only file.
 */
#ifndef TESTS_UNIT_FAKE_KVM_H
#define TESTS_UNIT_FAKE_KVM_H

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "tests/unit/unit.h"

enum { FAKE_FD = 1000 };

/* The test's: ioctl()'s result, or -errno. */
static int fake_kvm(unsigned long request, void *arg);

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;

	assert_int_equal(fd, FAKE_FD);
	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	int r = fake_kvm(request, arg);
	if (r < 0)
		errno = -r;
	return r < 0 ? -1 : r;
}

#endif
