// SPDX-License-Identifier: Apache-2.0
#include "guest/hooks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "guest/put_file.h"

static void clear(struct hooks *h)
{
	for (unsigned i = 0; i < h->n; i++)
		free(h->names[i]);
	if (h->dir_fd >= 0)
		close(h->dir_fd);
	h->n = h->at = 0;
	h->dir_fd = -1;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_hook(int dir_fd, const char *name)
{
	struct stat st;

	return name[0] != '.' && fstatat(dir_fd, name, &st, 0) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111);
}

static int list(struct hooks *h, struct err *err)
{
	DIR *dir = fdopendir(fcntl(h->dir_fd, F_DUPFD_CLOEXEC, 0));

	if (!dir)
		return err_sys(err, ERR_INTERNAL, "list '%s'", h->path);
	for (struct dirent *e; err->code == ERR_NONE && (e = readdir(dir));) {
		if (!is_hook(h->dir_fd, e->d_name))
			continue;
		if (h->n == HOOKS_MAX)
			err_set(err, ERR_INVALID, "'%s' has more than %d hooks", h->path, HOOKS_MAX);
		else if (!(h->names[h->n] = strdup(e->d_name)))
			err_num(err, ERR_INTERNAL, ENOMEM, "list '%s'", h->path);
		else
			h->n++;
	}
	closedir(dir);
	qsort(h->names, h->n, sizeof(h->names[0]), by_name);
	return err->num;
}

static int start_next(struct hooks *h, struct err *err)
{
	char program[NAME_MAX + 3];
	const char *argv[] = { program, NULL };

	snprintf(program, sizeof(program), "./%s", h->names[h->at]);
	h->spec.argv = argv;
	h->spec.dir_fd = h->dir_fd;
	return command_start(&h->command, h->loop, &h->spec, err);
}

static void on_ended(struct command *command)
{
	struct hooks *h = container_of(command, struct hooks, command);
	char name[PATH_MAX];
	struct err err = {};

	snprintf(name, sizeof(name), "%s/%s", h->path, h->names[h->at]);
	h->at++;
	if (command_result(command, name, &err) == 0 && h->at < h->n && start_next(h, &err) == 0)
		return;
	clear(h);
	h->done(h, &err);
}

int hooks_start(struct hooks *h, struct loop *loop, int root_fd, const char *path, const struct command_spec *spec,
		struct err *err)
{
	*h = (struct hooks){ .loop = loop, .path = path, .spec = *spec, .done = h->done };
	h->command.ended = on_ended;
	h->dir_fd = openat(root_fd, path_below(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (h->dir_fd < 0)
		return errno == ENOENT ? 1 : err_sys(err, ERR_INTERNAL, "open '%s'", path);
	if (list(h, err) == 0 && h->n > 0 && start_next(h, err) == 0)
		return 0;
	clear(h);
	return err->code == ERR_NONE ? 1 : err->num;
}

void hooks_stop(struct hooks *h)
{
	command_kill(&h->command);
	clear(h);
}
