// SPDX-License-Identifier: Apache-2.0
/* What the agent of an initramfs reads of the kernel's command line. tests/lab/test_build.py boots with it. */
#include "guest/boot.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/unit.h"

static int read_line(const char *line, struct boot_wish *ret, struct err *err)
{
	static char text[256];

	snprintf(text, sizeof(text), "%s", line);
	*err = (struct err){};
	return boot_read_cmdline(text, ret, err);
}

static void defaults(void **state)
{
	struct boot_wish w = {};
	struct err err;

	(void)state;
	assert_int_equal(read_line("console=ttyS0 quiet panic=-1\n", &w, &err), 0);
	assert_string_equal(w.root, "/dev/vda");
	assert_string_equal(w.type, "ext4");
	assert_null(w.options);
	assert_null(w.init);
	assert_false(w.read_only);
}

static void words(void **state)
{
	struct boot_wish w = {};
	struct err err;

	(void)state;
	assert_int_equal(
		read_line(
			"ro root=/dev/vdb1  rootfstype=xfs rootflags=noatime,x=1 forkd.init=image rox -- root=/dev/no\n",
			&w, &err),
		0);
	assert_string_equal(w.root, "/dev/vdb1");
	assert_string_equal(w.type, "xfs");
	assert_string_equal(w.options, "noatime,x=1");
	assert_string_equal(w.init, "image");
	assert_true(w.read_only);
	assert_int_equal(read_line("ro rw root=/dev/vda root=/dev/vdc", &w, &err), 0);
	assert_false(w.read_only);
	assert_string_equal(w.root, "/dev/vdc");
}

static void refused(void **state)
{
	struct boot_wish w = { .root = "kept" };
	struct err err;

	(void)state;
	assert_int_equal(read_line("root=UUID=1234", &w, &err), -EINVAL);
	assert_string_equal(err.msg, "root=UUID=1234: must be /dev/NAME");
	assert_int_equal(read_line("forkd.init=/sbin/init", &w, &err), -EINVAL);
	assert_string_equal(err.msg, "forkd.init=/sbin/init: must be agent or image");
	assert_string_equal(w.root, "kept");
	assert_false(boot_is_wanted("/init")); /* this is not the first process */
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(defaults), cmocka_unit_test(words),
					    cmocka_unit_test(refused) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
