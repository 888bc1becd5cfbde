// SPDX-License-Identifier: Apache-2.0
/* forkd/access/as_caller: what the caller can do to the child that acts for him. */
#include "forkd/access/as_caller.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

#include "tests/unit/unit.h"

enum { USER = 65534 };

/* The child says who it is, and goes on when the meddler has tried. */
struct meeting {
	int child[2], meddler[2]; /* pipes: a pid; what kill() answered */
};

static int open_after_meeting(const void *arg)
{
	const struct meeting *m = arg;
	pid_t self = getpid();
	int said;

	if (write(m->child[1], &self, sizeof(self)) != sizeof(self) ||
	    read(m->meddler[0], &said, sizeof(said)) != sizeof(said))
		return -EIO;
	return said == EPERM ? open("/dev/null", O_RDONLY | O_CLOEXEC) : -ECANCELED;
}

/* As the caller: tries to stop the child. When that works, it lets the child go on, to tell. */
static void meddle(const struct meeting *m)
{
	pid_t child;
	int said = 0;

	alarm(60);
	if (setresuid(USER, USER, USER) < 0 || read(m->child[0], &child, sizeof(child)) != sizeof(child))
		_exit(1);
	if (kill(child, SIGSTOP) < 0)
		said = errno;
	else
		kill(child, SIGCONT);
	_exit(write(m->meddler[1], &said, sizeof(said)) != sizeof(said));
}

static void caller_cannot_signal(void **state)
{
	struct meeting m;
	int status;

	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(pipe2(m.child, O_CLOEXEC), 0);
	assert_int_equal(pipe2(m.meddler, O_CLOEXEC), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		meddle(&m);
	int fd = as_caller(USER, USER, open_after_meeting, &m);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(fd >= 0);
	close(fd);
	for (unsigned i = 0; i < 2; i++) {
		close(m.child[i]);
		close(m.meddler[i]);
	}
}

static int open_root_only(const void *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static void has_no_rights_of_root(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	int fd = as_caller(USER, USER, open_root_only, "/etc/shadow");
	assert_int_equal(fd, -EACCES);
}

/* As on a file system that does not answer. */
static int never(const void *arg)
{
	(void)arg;
	while (pause() < 0)
		;
	return -EINTR;
}

static void silence_has_an_end(void **state)
{
	(void)state;
	alarm(60);
	assert_int_equal(as_caller(geteuid(), getegid(), never, NULL), -ETIMEDOUT);
	alarm(0);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(caller_cannot_signal),
		cmocka_unit_test(has_no_rights_of_root),
		cmocka_unit_test(silence_has_an_end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
