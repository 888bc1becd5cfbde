// SPDX-License-Identifier: Apache-2.0
/* A child process with the caller's rights. */
#include "forkd/access/as_caller.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/auto.h"
#include "common/sock.h"

enum { GROUPS_MAX = 256, NAMES_BYTES = 16384, NO_GROUP = 65534, PATIENCE_S = 5 };
#define NOBODY ((uid_t)-1)

/*
 * Finds the groups of the account, as at a login; returns how many. An account that is unknown, or
 * has more than GROUPS_MAX groups, gets the group *gid alone. *gid NOBODY becomes the account's
 * group, or NO_GROUP for an unknown account.
 */
static int find_groups(uid_t uid, gid_t *gid, gid_t groups[GROUPS_MAX])
{
	autofree char *names = malloc(NAMES_BYTES);
	struct passwd account, *found = NULL;
	int n = GROUPS_MAX;

	if (names && getpwuid_r(uid, &account, names, NAMES_BYTES, &found) != 0)
		found = NULL;
	if (*gid == NOBODY)
		*gid = found ? account.pw_gid : NO_GROUP;
	groups[0] = *gid;
	if (!found)
		return 1;
	return getgrouplist(account.pw_name, *gid, groups, &n) < 0 ? 1 : n;
}

/*
 * Makes the system calls directly. The C library's functions would change the other threads too,
 * but the child has no other threads. Rights go by the effective uid. The real and the saved uid stay
 * the daemon's: whoever has the real uid may send signals, and would stop the child.
 */
static int become(uid_t uid, gid_t gid, const gid_t *groups, int n_groups)
{
	if (syscall(SYS_setgroups, n_groups, groups) < 0 || syscall(SYS_setresgid, gid, gid, gid) < 0 ||
	    syscall(SYS_setresuid, NOBODY, uid, NOBODY) < 0)
		return -errno;
	return 0;
}

/*
 * The child has copies of the daemon's locks, so it must not outlive the daemon. A change of uid would
 * undo this.
 */
static int end_with_parent(pid_t parent)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return -errno;
	return getppid() == parent ? 0 : -ESRCH;
}

/* Runs in the child. */
static void send_answer(int sock, int answer)
{
	struct err ignored = {}; /* the parent takes a missing answer for a failure */

	(void)!sock_send(sock, &answer, sizeof(answer), &answer, answer >= 0 ? 1 : 0, &ignored);
}

static int take_answer(int sock)
{
	int answer, fds[SOCK_FDS_MAX];
	uint32_t n_fds;
	struct err err = {};
	ssize_t n = sock_recv(sock, &answer, sizeof(answer), fds, &n_fds, &err);

	if (n < 0)
		return n == -EAGAIN ? -ETIMEDOUT : (int)n;
	if (n != sizeof(answer) || n_fds != (answer >= 0 ? 1 : 0)) {
		while (n_fds > 0)
			close(fds[--n_fds]);
		return -EIO;
	}
	return answer < 0 ? answer : fds[0];
}

int as_caller(uid_t uid, gid_t gid, as_caller_fn fn, const void *arg)
{
	gid_t groups[GROUPS_MAX];
	const struct timeval patience = { .tv_sec = PATIENCE_S };
	int pair[2], status;

	if (uid == NOBODY || (geteuid() != 0 && uid != geteuid())) /* to the kernel, NOBODY means "keep the uid" */
		return -EPERM;
	int n_groups = find_groups(uid, &gid, groups);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	autoclose int own = pair[0];
	pid_t parent = getpid();
	bool can_wait = setsockopt(own, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) == 0;
	pid_t pid = can_wait ? fork() : -1;
	if (pid == 0) {
		int r = uid == geteuid() ? 0 : become(uid, gid, groups, n_groups);
		if (r == 0)
			r = end_with_parent(parent);
		send_answer(pair[1], r < 0 ? r : fn(arg));
		_exit(0);
	}
	int failed = errno;
	close(pair[1]);
	if (pid < 0)
		return -failed;
	int fd = take_answer(own);
	kill(pid, SIGKILL); /* a file system that does not answer may hold it; with an answer it is ending anyway */
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return fd;
}
