// SPDX-License-Identifier: Apache-2.0
/* guest/command, guest/hooks and guest/job: how a child ends, what it says, and that it does end. */
#include "guest/command.h"

#include "common/clock.h"
#include "guest/hooks.h"
#include "guest/job.h"
#include "guest/put_file.h"
#include "tests/unit/guest_root.h"
#include "tests/unit/unit.h"

#include <signal.h>

static struct loop loop;
static const char *const env[] = { "PATH=/bin:/usr/bin", "WORD=hello", NULL };

static int loop_make(void **state)
{
	struct err err = {};

	return root_make(state) < 0 || loop_init(&loop, &err) < 0;
}

static int loop_end(void **state)
{
	loop_done(&loop);
	return root_done(state);
}

static uint64_t in_ms(uint64_t ms)
{
	return monotonic_ns() + ms * 1000000;
}

static void stop(struct command *command)
{
	(void)command;
	loop_stop(&loop, 0);
}

/* Runs a shell's words to their end; what command_result() says. */
static const char *result_of(const char *words, uint64_t deadline_ns)
{
	static struct err err;
	static char line[ERR_MSG_BYTES];
	const char *const argv[] = { "sh", "-c", words, NULL };
	const struct command_spec spec = { .dir_fd = root.fd, .argv = argv, .env = env, .deadline_ns = deadline_ns };
	struct command command = { .ended = stop };

	err = (struct err){};
	loop.stopped = false;
	assert_int_equal(command_start(&command, &loop, &spec, &err), 0);
	assert_int_equal(loop_run(&loop), 0);
	assert_false(command.running);
	return command_result(&command, "it", &err) == 0 ? "well" : err_line(&err, line, sizeof(line));
}

static void ends(void **state)
{
	const uint64_t late = in_ms(3600000);
	unsigned before = count_fds();

	(void)state;
	assert_string_equal(result_of("true", late), "well");
	assert_string_equal(
		result_of("[ $WORD = hello ] && [ -z \"$HOME\" ] && ls /proc/self/cwd && read x; [ $? = 1 ]", late),
		"well");
	assert_string_equal(result_of("exit 7", late), "'it' has failed with exit status 7");
	assert_string_equal(result_of("printf 'a\\nb\\t\\001\\303\\244\\n\\n' >&2; exit 1", late),
			    "'it' has failed with exit status 1: a b????");
	assert_string_equal(result_of("kill -9 $$", late), "'it' was ended by signal 9");
	assert_string_equal(result_of("echo so far >&2; sleep 1000; echo never", in_ms(50)),
			    "'it' was killed at its deadline: so far");
	assert_int_equal(count_fds(), before);
}

/* A bound for what is kept, and none for what is written. */
static void a_lot_of_words(void **state)
{
	(void)state;
	const char *said = result_of("yes abcdefg | head -c 1000000 >&2; exit 1", in_ms(3600000));
	assert_int_equal(strlen(said), strlen("'it' has failed with exit status 1: ") + 1023);
}

/* Whoever stays in the background and holds stderr does not hold up the end. */
static void background(void **state)
{
	(void)state;
	assert_string_equal(result_of("sleep 1000 & echo $! > pid; true", in_ms(3600000)), "well");
	char pid[16];
	assert_true(get_text(root.fd, "pid", pid, sizeof(pid)) > 0);
	assert_int_equal(kill(atoi(pid), SIGKILL), 0);
}

static void no_program(void **state)
{
	const char *const argv[] = { "no-such-program", NULL };
	const struct command_spec spec = { .dir_fd = root.fd, .argv = argv, .env = env, .deadline_ns = in_ms(3600000) };
	struct command command = { .ended = stop };
	struct err err = {};

	(void)state;
	assert_int_equal(command_start(&command, &loop, &spec, &err), 0);
	loop_run(&loop);
	assert_int_equal(command_result(&command, "it", &err), -EIO);
	assert_string_equal(err.msg, "'it' has failed with exit status 127: No such file or directory");
}

/* ---- hooks ---- */

static struct err hooks_err;

static void on_hooks(struct hooks *hooks, const struct err *err)
{
	(void)hooks;
	hooks_err = *err;
	loop_stop(&loop, 0);
}

static void hook(const char *name, const char *text, mode_t mode)
{
	char path[64];
	struct err err = {};

	snprintf(path, sizeof(path), "/d/%s", name);
	const struct put_file f = { .path = path, .bytes = text, .len = strlen(text), .mode = mode };
	assert_int_equal(put_file(root.fd, &f, &err), 0);
}

static int run_hooks(struct err *err)
{
	const struct command_spec spec = { .env = env, .deadline_ns = in_ms(3600000) };
	struct hooks hooks = { .done = on_hooks };

	loop.stopped = false;
	int r = hooks_start(&hooks, &loop, root.fd, "/d", &spec, err);
	if (r == 0)
		loop_run(&loop);
	assert_int_equal(hooks.dir_fd, -1);
	return r;
}

static void hooks_in_order(void **state)
{
	struct err err = {};
	char got[32];

	(void)state;
	assert_int_equal(run_hooks(&err), 1); /* no directory */
	hook("README", "not executable", 0644);
	hook(".hidden", "#!/bin/sh\necho hidden >> ../log", 0755);
	assert_int_equal(run_hooks(&err), 1); /* no hook in it */
	hook("20", "#!/bin/sh\necho 20 >> ../log", 0755);
	hook("10", "#!/bin/sh\necho 10 >> ../log", 0755);
	hook("3", "#!/bin/sh\necho 3 >> ../log", 0755);
	assert_int_equal(run_hooks(&err), 0);
	assert_int_equal(hooks_err.code, ERR_NONE);
	assert_int_equal(get_text(root.fd, "log", got, sizeof(got)), 8);
	assert_string_equal(got, "10\n20\n3\n");
	hook("15", "#!/bin/sh\nexit 1", 0755);
	assert_int_equal(run_hooks(&err), 0);
	assert_string_equal(hooks_err.msg, "'/d/15' has failed with exit status 1");
	assert_int_equal(get_text(root.fd, "log", got, sizeof(got)), 11);
	hook("05", "#!/no/such/interpreter\n", 0755);
	assert_int_equal(run_hooks(&err), 0);
	assert_string_equal(hooks_err.msg, "'/d/05' has failed with exit status 127: No such file or directory");
}

static void too_many_hooks(void **state)
{
	struct err err = {};
	char name[8];

	(void)state;
	for (unsigned i = 0; i <= HOOKS_MAX; i++) {
		snprintf(name, sizeof(name), "%u", i);
		hook(name, "#!/bin/sh\ntouch ../ran", 0755);
	}
	assert_int_equal(run_hooks(&err), -EINVAL);
	assert_string_equal(err.msg, "'/d' has more than 64 hooks");
	assert_int_equal(faccessat(root.fd, "ran", F_OK, 0), -1);
}

/* ---- jobs ---- */

static int job_result;
static struct err job_err;

static void on_job(struct job *job, int result, const struct err *err)
{
	(void)job;
	job_result = result;
	job_err = *err;
	loop_stop(&loop, 0);
}

static int give(void *arg, struct err *err)
{
	int n = *(int *)arg;

	*(int *)arg = 0; /* in the child's memory alone */
	if (n == 99)
		pause();
	if (n == 98)
		abort();
	return n < 0 ? err_num(err, ERR_INTERNAL, -n, "the reason") : n;
}

static void run_job(int n, uint64_t deadline_ns)
{
	struct job job = { .done = on_job };
	struct err err = {};
	int arg = n;

	loop.stopped = false;
	assert_int_equal(job_start(&job, &loop, "a job", give, &arg, deadline_ns, &err), 0);
	loop_run(&loop);
	assert_false(job.running);
	assert_int_equal(arg, n);
}

static void jobs(void **state)
{
	unsigned before = count_fds();

	(void)state;
	run_job(42, in_ms(3600000));
	assert_int_equal(job_result, 42);
	run_job(-ENOSPC, in_ms(3600000));
	assert_int_equal(job_result, -ENOSPC);
	assert_string_equal(job_err.msg, "the reason\nNo space left on device (os error 28)");
	run_job(99, in_ms(50));
	assert_string_equal(job_err.msg, "a job\nConnection timed out (os error 110)");
	run_job(98, in_ms(3600000));
	assert_int_equal(job_result, -EIO);
	assert_non_null(strstr(job_err.msg, "a job: its process has ended with status "));
	assert_int_equal(count_fds(), before);
}

#define LOOP_TEST(f) cmocka_unit_test_setup_teardown(f, loop_make, loop_end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		LOOP_TEST(ends),           LOOP_TEST(a_lot_of_words), LOOP_TEST(background), LOOP_TEST(no_program),
		LOOP_TEST(hooks_in_order), LOOP_TEST(too_many_hooks), LOOP_TEST(jobs),
	};

	return cmocka_run_group_tests_name("guest_command", tests, NULL, NULL);
}
