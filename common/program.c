// SPDX-License-Identifier: Apache-2.0
/* Programs of the host. */
#include "common/program.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

bool program_find(const char *name, char ret[PROGRAM_PATH_BYTES])
{
	static const char *const dirs[] = { "/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin", "/usr/local/bin" };

	for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
		snprintf(ret, PROGRAM_PATH_BYTES, "%s/%s", dirs[i], name);
		if (access(ret, X_OK) == 0)
			return true;
	}
	return false;
}

int program_run(const char *path, char *const *args, int in, int out, struct err *err)
{
	posix_spawn_file_actions_t actions;
	char *const nothing[] = { NULL };
	posix_spawnattr_t attr;
	sigset_t none;
	int status = 0;
	pid_t pid;

	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	if (in >= 0)
		posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
	else
		posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
	posix_spawn_file_actions_adddup2(&actions, out, STDERR_FILENO);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attr, &none);
	int r = posix_spawn(&pid, path, &actions, &attr, args, nothing);
	posix_spawn_file_actions_destroy(&actions);
	posix_spawnattr_destroy(&attr);
	if (r != 0)
		return err_num(err, ERR_INTERNAL, r, "start '%s'", path);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(err, ERR_INTERNAL, "wait for '%s'", path);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(err, ERR_INTERNAL, "'%s' ends with status %d", path,
			       WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	return 0;
}
