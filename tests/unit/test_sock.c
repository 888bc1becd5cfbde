// SPDX-License-Identifier: Apache-2.0
/* common/sock: the lock file's rules, descriptors there and back, and that none is ever lost. */
#include "common/sock.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static char dir[] = "/tmp/forkd-test-sock-XXXXXX";
static char path[64], lock[80];

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/api.sock", dir);
	snprintf(lock, sizeof(lock), "%s.lock", path);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(path);
	unlink(lock);
	return rmdir(dir);
}

static int try_connect(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	return connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)) < 0 ? -errno : 0;
}

static void listens_and_cleans_up(void **state)
{
	struct sock_listener l = {};
	struct err err = {};
	struct stat st;
	unsigned before = count_fds();

	(void)state;
	assert_int_equal(sock_listen(path, &l, &err), 0);
	assert_int_equal(try_connect(), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07077, 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(stat(lock, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_true(fcntl(l.fd, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(l.fd, F_GETFL) & O_NONBLOCK);
	sock_listener_done(&l);
	assert_int_equal(stat(path, &st), -1);
	assert_int_equal(stat(lock, &st), 0);
	sock_listener_done(&l);
	sock_listener_done(&(struct sock_listener){});
	assert_int_equal(count_fds(), before);
}

static void refuses_a_second_instance(void **state)
{
	struct sock_listener l = {}, second = {};
	struct err err = {};
	char text[128];

	(void)state;
	assert_int_equal(sock_listen(path, &l, &err), 0);
	assert_int_equal(sock_listen(path, &second, &err), -EBUSY);
	assert_int_equal(err.code, ERR_BUSY);
	snprintf(text, sizeof(text), "socket '%s' is already in use by another running instance", path);
	assert_string_equal(err.msg, text);
	assert_null(second.path);
	assert_int_equal(try_connect(), 0); /* the first one goes on */
	sock_listener_done(&l);
	assert_int_equal(sock_listen(path, &l, &err), 0);
	sock_listener_done(&l);
}

static void replaces_a_stale_socket_only(void **state)
{
	struct sock_listener l = {}, dead = {};
	struct err err = {};

	(void)state;
	assert_int_equal(sock_listen(path, &dead, &err), 0);
	close(dead.fd); /* as if killed: the file stays */
	close(dead.lock_fd);
	free(dead.path);
	assert_int_equal(try_connect(), -ECONNREFUSED);
	assert_int_equal(sock_listen(path, &l, &err), 0);
	assert_int_equal(try_connect(), 0);
	sock_listener_done(&l);

	autoclose int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	unsigned before = count_fds();
	assert_int_equal(sock_listen(path, &l, &err), -EADDRINUSE);
	assert_non_null(strstr(err.msg, path));
	assert_int_equal(count_fds(), before);
	assert_int_equal(unlink(path), 0); /* a plain file was left alone */
}

static void names_bad_paths(void **state)
{
	struct sock_listener l = {};
	struct err err = {};
	char text[200];

	(void)state;
	memset(text, 'x', sizeof(text));
	text[108] = '\0';
	assert_int_equal(sock_listen(text, &l, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "must have 1 to 107 bytes"));
	assert_int_equal(sock_listen("", &l, &err), -EINVAL);
	assert_int_equal(sock_listen("/nonexistent/dir/sock", &l, &err), -ENOENT);
	assert_non_null(strstr(err.msg, "/nonexistent/dir/sock.lock"));
}

/* The mode is the file's from its first moment on; what stands at the path stays. */
static void binds(void **state)
{
	char longest[SOCK_PATH_MAX + 2];
	struct stat st;

	(void)state;
	memset(longest, 'x', sizeof(longest));
	memcpy(longest, dir, strlen(dir));
	longest[strlen(dir)] = '/';
	longest[SOCK_PATH_MAX + 1] = '\0';
	assert_int_equal(sock_bind(longest, SOCK_STREAM, 0600, NULL), -ENAMETOOLONG);
	longest[SOCK_PATH_MAX] = '\0';
	mode_t mask = umask(0);
	autoclose int fd = sock_bind(longest, SOCK_SEQPACKET, 0640, NULL);
	umask(mask);
	assert_true(fd >= 0);
	assert_int_equal(stat(longest, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0640);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(sock_bind(longest, SOCK_SEQPACKET, 0600, NULL), -EADDRINUSE);
	assert_int_equal(unlink(longest), 0);
}

/* Only the file that was bound; a name can be another's by now. */
static void removes_its_own(void **state)
{
	struct sock_file first = {}, second = {};
	const struct sock_file unknown = {};
	struct sock_listener l = {};
	struct err err = {};
	char aside[80];

	(void)state;
	snprintf(aside, sizeof(aside), "%s.aside", path);
	autoclose int a = sock_bind(path, SOCK_STREAM, 0600, &first);
	assert_true(a >= 0);
	assert_int_equal(rename(path, aside), 0); /* its number stays in use */
	sock_remove(path, &first);
	autoclose int b = sock_bind(path, SOCK_STREAM, 0600, &second);
	assert_true(b >= 0);
	sock_remove(path, &first);
	sock_remove(path, &unknown);
	assert_int_equal(access(path, F_OK), 0);
	struct sock_file reused = second;
	reused.born_ns--;
	sock_remove(path, &reused);
	assert_int_equal(access(path, F_OK), 0);
	sock_remove(path, &second);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(unlink(aside), 0);

	assert_int_equal(sock_listen(path, &l, &err), 0);
	assert_int_equal(rename(path, aside), 0);
	autoclose int c = sock_bind(path, SOCK_STREAM, 0600, NULL);
	assert_true(c >= 0);
	sock_listener_done(&l);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(unlink(aside), 0);
}

static void connects(void **state)
{
	struct sock_listener l = {};
	struct err err = {};
	char longer[200];
	autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_int_equal(sock_connect(fd, path, &err), -ENOENT);
	assert_non_null(strstr(err.msg, path));
	assert_int_equal(sock_listen(path, &l, &err), 0);
	assert_int_equal(sock_connect(fd, path, &err), 0);
	autoclose int other = accept4(l.fd, NULL, NULL, SOCK_CLOEXEC);
	assert_true(other >= 0);
	sock_listener_done(&l);
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	assert_true(sock_connect(fd, longer, &err) < 0);
	assert_non_null(strstr(err.msg, "longer than 107 bytes"));
}

static void takes_only_listening_descriptors(void **state)
{
	struct sock_listener l = {};
	struct err err = {};
	int pair[2];
	unsigned before = count_fds();

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(sock_listen_fd(pair[0], &l, &err), -EINVAL); /* closes it */
	close(pair[1]);
	assert_int_equal(sock_listen_fd(open("/dev/null", O_RDONLY | O_CLOEXEC), &l, &err), -ENOTSOCK);
	assert_int_equal(count_fds(), before);

	struct sock_listener made = {};
	assert_int_equal(sock_listen(path, &made, &err), 0);
	assert_int_equal(sock_listen_fd(dup(made.fd), &l, &err), 0);
	assert_true(fcntl(l.fd, F_GETFD) & FD_CLOEXEC);
	sock_listener_done(&l);
	assert_int_equal(try_connect(), 0); /* the path is not its own */
	sock_listener_done(&made);
	assert_int_equal(count_fds(), before);
}

static void carries_descriptors(void **state)
{
	static const uint32_t counts[] = { 0, 1, 2, SOCK_FDS_MAX };
	int pair[2], sent[SOCK_FDS_MAX], got[SOCK_FDS_MAX];
	struct err err = {};
	struct stat want, have;
	char buf[16];
	uint32_t n;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	autoclose int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	fstat(null, &want);
	for (unsigned i = 0; i < SOCK_FDS_MAX; i++)
		sent[i] = null;
	unsigned before = count_fds();
	assert_int_equal(sock_recv(pair[1], buf, sizeof(buf), got, &n, &err), -EAGAIN);
	assert_int_equal(err.code, ERR_NONE);
	for (unsigned i = 0; i < ARRAY_LEN(counts); i++) {
		assert_int_equal(sock_send(pair[0], "hello", 5, sent, counts[i], &err), 5);
		assert_int_equal(sock_recv(pair[1], buf, sizeof(buf), got, &n, &err), 5);
		assert_int_equal(n, counts[i]);
		assert_memory_equal(buf, "hello", 5);
		for (unsigned k = 0; k < n; k++) {
			assert_int_equal(fstat(got[k], &have), 0);
			assert_int_equal(have.st_rdev, want.st_rdev);
			assert_true(fcntl(got[k], F_GETFD) & FD_CLOEXEC);
			close(got[k]);
		}
		assert_int_equal(count_fds(), before);
	}
	assert_int_equal(sock_send(pair[0], "x", 1, sent, SOCK_FDS_MAX + 1, &err), -EIO);
	assert_int_equal(sock_send(pair[0], "", 0, sent, 1, &err), -EIO);
	close(pair[0]);
	assert_int_equal(sock_recv(pair[1], buf, sizeof(buf), got, &n, &err), 0);
	assert_int_equal(sock_send(pair[1], "x", 1, NULL, 0, &err), -EPIPE);
	close(pair[1]);
}

/* No free numbers: the kernel delivers a part of the descriptors, which must not stay open. */
static void refuses_lost_descriptors(void **state)
{
	int pair[2], sent[8], got[SOCK_FDS_MAX];
	struct err err = {};
	struct rlimit old, tight;
	char buf[16];
	uint32_t n = 99;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	for (unsigned i = 0; i < ARRAY_LEN(sent); i++)
		sent[i] = pair[0];
	assert_int_equal(sock_send(pair[0], "x", 1, sent, ARRAY_LEN(sent), &err), 1);
	int next = dup(pair[0]);
	close(next);
	unsigned before = count_fds();
	getrlimit(RLIMIT_NOFILE, &old);
	tight = (struct rlimit){ .rlim_cur = (rlim_t)next + 3, .rlim_max = old.rlim_max };
	setrlimit(RLIMIT_NOFILE, &tight);
	ssize_t r = sock_recv(pair[1], buf, sizeof(buf), got, &n, &err);
	setrlimit(RLIMIT_NOFILE, &old);
	assert_int_equal(r, -EMFILE);
	assert_int_equal(n, 0);
	assert_non_null(strstr(err.msg, "cut"));
	assert_int_equal(count_fds(), before);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(listens_and_cleans_up),
		cmocka_unit_test(refuses_a_second_instance),
		cmocka_unit_test(replaces_a_stale_socket_only),
		cmocka_unit_test(names_bad_paths),
		cmocka_unit_test(binds),
		cmocka_unit_test(removes_its_own),
		cmocka_unit_test(connects),
		cmocka_unit_test(takes_only_listening_descriptors),
		cmocka_unit_test(carries_descriptors),
		cmocka_unit_test(refuses_lost_descriptors),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
