// SPDX-License-Identifier: Apache-2.0
/* Starts programs, waits for them, reads what they print. */
#include "forkctl/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

pid_t child_start(const char *const *argv, const char *dir, int fd, int as)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t none, pipes;
	pid_t pid = -1;

	sigemptyset(&none);
	sigemptyset(&pipes);
	sigaddset(&pipes, SIGPIPE);
	posix_spawn_file_actions_init(&files);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &pipes);
	if (dir)
		posix_spawn_file_actions_addchdir_np(&files, dir);
	if (fd >= 0)
		posix_spawn_file_actions_adddup2(&files, fd, as);
	int num = posix_spawnp(&pid, argv[0], &files, &attributes, (char *const *)(uintptr_t)argv, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attributes);
	if (num == 0)
		return pid;
	fprintf(stderr, "forkctl: cannot start %s: %s\n", argv[0], strerror(num));
	return -1;
}

bool child_finish(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return false;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool child_run(const char *const *argv, const char *dir)
{
	pid_t pid = child_start(argv, dir, -1, -1);

	return pid > 0 && child_finish(pid);
}

bool child_read(const char *const *argv, struct strbuf *ret_output)
{
	char piece[4096];
	int ends[2];
	ssize_t n;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	autoclose int from = ends[0];
	pid_t pid = child_start(argv, NULL, ends[1], STDOUT_FILENO);
	close(ends[1]);
	if (pid < 0)
		return false;
	while ((n = read(from, piece, sizeof(piece))) > 0 || (n < 0 && errno == EINTR))
		if (n > 0 && ret_output->len < CHILD_OUTPUT_MAX)
			strbuf_add(ret_output, piece, (size_t)n);
	return child_finish(pid) && !ret_output->failed;
}

bool child_is_there(const char *name)
{
	autofree char *path = strdup(getenv("PATH") ? getenv("PATH") : "");
	char file[4096], *at = path;

	for (char *dir; at && (dir = strsep(&at, ":"));) {
		snprintf(file, sizeof(file), "%s/%s", *dir ? dir : ".", name);
		if (access(file, X_OK) == 0)
			return true;
	}
	return false;
}
