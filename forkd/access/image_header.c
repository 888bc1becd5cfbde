// SPDX-License-Identifier: Apache-2.0
/* A child that parses a header, and hands back what it found. */
#include "forkd/access/image_header.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/auto.h"
#include "common/clock.h"
#include "common/io.h"
#include "forkd/errors.h"
#include "forkd/wire/control.h"

enum { PATIENCE_MS = 5000 };

struct found {
	struct err err; /* ERR_NONE: `header` is good */
	struct qcow2_header header;
};

/* Writes bytes, with a system call that strict mode allows. */
static void hand_back(int fd, const void *bytes, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, (const char *)bytes + done, len - done);
		if (n <= 0)
			return;
		done += (size_t)n;
	}
}

/*
 * Runs in the child, which is the copy of one thread of many: no malloc, no lock. `head` is the parent's.
 * The C library's _exit() is one system call too many for strict mode.
 */
static void parse(int fd, int out, uint8_t *head, uint64_t file_bytes, const char *path)
{
	struct found found = {};
	ssize_t n = io_read(fd, head, file_bytes < QCOW2_HEAD_MAX ? (size_t)file_bytes : QCOW2_HEAD_MAX, 0);

	if (n < 0)
		err_num(&found.err, ERR_INTERNAL, (int)-n, "read the header of '%s'", path);
	else if ((out > STDERR_FILENO + 1 && close_range(STDERR_FILENO + 1, (unsigned)out - 1, 0) < 0) ||
		 close_range((unsigned)out + 1, ~0U, 0) < 0)
		err_sys(&found.err, ERR_INTERNAL, "close what the daemon has open");
	else if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) < 0)
		err_sys(&found.err, ERR_INTERNAL, "enter seccomp's strict mode");
	else if (qcow2_parse_header(head, (size_t)n, file_bytes, path, &found.header, &found.err) == 0)
		found.err.code = ERR_NONE;
	hand_back(out, &found, sizeof(found));
	syscall(SYS_exit, 0);
}

static bool take(int fd, struct found *ret)
{
	const uint64_t deadline_ns = deadline_in_ms(PATIENCE_MS);
	size_t done = 0;

	while (done < sizeof(*ret)) {
		ssize_t n = wait_readable(fd, deadline_ns) > 0 ? read(fd, (char *)ret + done, sizeof(*ret) - done) : 0;
		if (n <= 0)
			return false;
		done += (size_t)n;
	}
	return true;
}

/* What comes from the child is a guess of an attacker at worst: its texts end where they must. */
static int judge(struct found *found, const char *path, struct qcow2_header *ret, struct err *err)
{
	struct qcow2_header *h = &found->header;

	found->err.msg[sizeof(found->err.msg) - 1] = '\0';
	h->backing[QCOW2_NAME_MAX] = h->backing_format[QCOW2_FORMAT_MAX] = '\0';
	if (found->err.code != ERR_NONE)
		return fail(err, E_INVALID, "%s", found->err.msg);
	if (h->bytes == 0 || h->bytes > INT64_MAX)
		return fail(err, E_INVALID, "qcow2 image '%s': its size is %llu", path, (unsigned long long)h->bytes);
	*ret = *h;
	return 0;
}

int image_header_read(int fd, uint64_t file_bytes, const char *path, struct qcow2_header *ret, struct err *err)
{
	struct found found;
	autofree uint8_t *head = malloc(QCOW2_HEAD_MAX);
	int pipe_fds[2], status;

	if (!head)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the header of '%s'", path);
	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_sys(err, ERR_INTERNAL, "make a pipe");
	pid_t pid = fork();
	if (pid == 0)
		parse(fd, pipe_fds[1], head, file_bytes, path);
	int failed = errno;
	close(pipe_fds[1]);
	autoclose int in = pipe_fds[0];
	if (pid < 0)
		return err_num(err, ERR_INTERNAL, failed, "read the header of '%s'", path);
	bool answered = take(in, &found);
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!answered)
		return fail(err, E_INVALID,
			    "qcow2 image '%s': its header could not be read: the process that did ended (%d)", path,
			    status);
	return judge(&found, path, ret, err);
}
