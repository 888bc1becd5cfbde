// SPDX-License-Identifier: Apache-2.0
/* forkd/wire/control: a process that is gone is known as such, by whatever the kernel says of its socket. */
#include "forkd/wire/control.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "tests/unit/unit.h"

static int send_hello(int fd, struct err *err)
{
	return control_send(fd, "hello", NULL, NULL, NULL, NULL, 0, err);
}

/* The other end closes with so many packets unread, and the next one is sent. */
static void gone(void **state)
{
	(void)state;
	for (unsigned unread = 0; unread < 3; unread++) {
		struct err err = {};
		int pair[2];
		assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
		for (unsigned i = 0; i < unread; i++)
			assert_int_equal(send_hello(pair[0], &err), 0);
		close(pair[1]);
		assert_int_equal(send_hello(pair[0], &err), -EPIPE);
		assert_non_null(strstr(err.msg, "send 'hello'"));
		close(pair[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(gone) };

	return cmocka_run_group_tests_name("control", tests, NULL, NULL);
}
