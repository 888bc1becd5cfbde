// SPDX-License-Identifier: Apache-2.0
/* guest/freeze: a group whose freeze stays unfinished, as the freezer of version 1 does now and then. The kernel is group_write(). */
#include <string.h>

#include "common/clock.h"
#include "guest/groups.h"
#include "guest/groups_kind.h"
#include "guest/put_file.h"
#include "tests/unit/guest_root.h"

#define STATE "freezer.state"

static unsigned n_thawed, sticks_for; /* so many freezes stay unfinished */

static void set_text(const char *path, const char *text)
{
	struct err err = {};

	assert_int_equal(put_text(root.fd, path, text, &err), 0);
}

int group_write(int top_fd, const char *group, const char *file, const char *word)
{
	bool stop = strcmp(word, "FROZEN") == 0;

	assert_int_equal(top_fd, root.fd);
	assert_string_equal(group, "b");
	assert_string_equal(file, STATE);
	n_thawed += !stop;
	set_text("/b/" STATE, stop && n_thawed < sticks_for ? "FREEZING\n" : stop ? "FROZEN\n" : "THAWED\n");
	return 0;
}

/* One group beside the agent's. */
static int freeze(bool sticks, uint64_t within_ns, struct err *err)
{
	const struct group_kind kind = {
		.file = STATE, .stop = "FROZEN", .go = "THAWED", .state = STATE, .is_stopped = "FROZEN", .sticks = sticks
	};
	struct groups g = {
		.kind = &kind, .top_fd = root.fd, .user_fd = -1, .root_fd = root.fd, .own = "a", .user = "a/user"
	};

	set_text("/cgroup.procs", "");
	set_text("/a/cgroup.procs", "");
	set_text("/run/forkd/something", "");
	set_text("/b/" STATE, "THAWED\n");
	set_text("/run/" STATE, "FROZEN\n"); /* no control group: a folder of this test's */
	n_thawed = 0;
	int r = groups_freeze(&g, monotonic_ns() + within_ns, err);
	strbuf_done(&g.frozen);
	return r;
}

static void is_begun_anew(void **state)
{
	struct err err = {};

	(void)state;
	sticks_for = 2;
	assert_int_equal(freeze(true, 60000000000ULL, &err), 1);
	assert_int_equal(n_thawed, 2);
}

static void has_an_end(void **state)
{
	struct err err = {};

	(void)state;
	sticks_for = 2;
	assert_int_equal(freeze(false, 1000000, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.msg, "the control group 'b' does not stand still"));
	assert_int_equal(n_thawed, 1); /* what was frozen goes on */
}

int main(void)
{
	const struct CMUnitTest tests[] = { ROOT_TEST(is_begun_anew), ROOT_TEST(has_an_end) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
