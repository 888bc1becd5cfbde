// SPDX-License-Identifier: Apache-2.0
/*
 * Directories between this host and a guest: tar there, tar here, and a pipe between them. An archive of a guest is not
 * trusted: it is unpacked into a directory of its own, which nobody else can enter and where tar finds no symbolic link that an
 * earlier copy has left; GNU tar makes those links of the archive that lead elsewhere when everything else is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/stat.h>

#include "forkctl/child.h"
#include "forkctl/cp.h"

/* tar in the guest, in a directory. */
static int guest_tar(struct copy *c, const char *flags, const char *what, const char *path, int in_fd, int out_fd)
{
	const char *const argv[] = { "tar", flags, "-", what, NULL };
	int status = guest_command(c, argv, path, in_fd, out_fd);

	if (status == COMMAND_ABSENT)
		fprintf(stderr,
			"forkctl: directories are copied by the guest's tar, which is not there: put tar into the "
			"image, or copy the files one by one\n");
	return status == 0 ? EXIT_FINE : EXIT_FAILED;
}

/* ---- into the guest ---- */

int copy_tree_in(struct copy *c, const char *path)
{
	static const char *const unpack = "-xpf";
	/* As docker's: all belongs to who unpacks it. */
	const char *const argv[] = { "tar", "-C", c->local, "--owner=root:0", "--group=root:0", "-cf", "-", ".", NULL };
	int ends[2];

	if (strcmp(c->local, "-") == 0)
		return guest_tar(c, unpack, NULL, path, STDIN_FILENO, -1);
	int status = guest_mkdir(c, path);
	if (status != EXIT_FINE)
		return status;
	unsetenv("TAR_OPTIONS");
	if (pipe2(ends, O_CLOEXEC) < 0)
		return EXIT_FAILED;
	autoclose int in_fd = ends[0];
	pid_t pid = child_start(argv, NULL, ends[1], STDOUT_FILENO);
	close(ends[1]);
	if (pid < 0)
		return EXIT_FAILED;
	status = guest_tar(c, unpack, NULL, path, in_fd, -1);
	close(steal_fd(&in_fd)); /* or tar waits for ever for who reads it */
	return child_finish(pid) ? status : EXIT_FAILED;
}

/* ---- out of the guest ---- */

/* A directory for what a guest sends, with one inside that is tar's. */
struct scratch {
	char *path, *inner;
};

static void scratch_done(struct scratch *s)
{
	const char *const argv[] = { "rm", "-rf", "--", s->path, NULL };

	if (s->path) {
		pid_t pid = child_start(argv, NULL, -1, -1);
		if (pid < 0 || !child_finish(pid))
			fprintf(stderr, "forkctl: '%s' is left behind\n", s->path);
	}
	free(s->path);
	free(s->inner);
}
#define autoscratch __attribute__((cleanup(scratch_done)))

/* In the directory `local`, or beside it when it is not there yet: so that the files can be moved. */
static bool scratch_make(struct scratch *s, const char *local)
{
	autofree char *copy = strdup(local);
	struct stat st;
	bool there = stat(local, &st) == 0 && S_ISDIR(st.st_mode);
	autofree char *path = copy ? join(there ? local : dirname(copy), ".forkctl-XXXXXX") : NULL;

	if (!path || !mkdtemp(path)) {
		fprintf(stderr, "forkctl: cannot make a directory for '%s': %s\n", local, strerror(errno));
		return false;
	}
	s->path = steal_ptr(&path);
	s->inner = join(s->path, "t");
	return s->inner && mkdir(s->inner, 0700) == 0;
}

/* The guest's archive, unpacked into a directory of this host. */
static int unpack(struct copy *c, const char *path, const char *into)
{
	const char *const argv[] = { "tar", "-C", into, "--no-same-owner", "--no-same-permissions", "-xf", "-", NULL };
	int ends[2];

	unsetenv("TAR_OPTIONS");
	if (pipe2(ends, O_CLOEXEC) < 0)
		return EXIT_FAILED;
	autoclose int out_fd = ends[1];
	pid_t pid = child_start(argv, NULL, ends[0], STDIN_FILENO);
	close(ends[0]);
	if (pid < 0)
		return EXIT_FAILED;
	int status = guest_tar(c, "-cf", ".", path, -1, out_fd);
	close(steal_fd(&out_fd));
	return child_finish(pid) ? status : EXIT_FAILED;
}

int copy_tree_out(struct copy *c, const char *path)
{
	autoscratch struct scratch scratch = {};

	if (strcmp(c->local, "-") == 0)
		return guest_tar(c, "-cf", ".", path, -1, STDOUT_FILENO);
	if (!scratch_make(&scratch, c->local))
		return EXIT_FAILED;
	int status = unpack(c, path, scratch.inner);
	if (status != EXIT_FINE) {
		fprintf(stderr, "forkctl: '%s' is not copied\n", c->local);
		return status;
	}
	if (mkdir(c->local, 0777) < 0 && errno != EEXIST) {
		fprintf(stderr, "forkctl: cannot make '%s': %s\n", c->local, strerror(errno));
		return EXIT_FAILED;
	}
	return merge_tree(scratch.inner, c->local) ? EXIT_FINE : EXIT_FAILED;
}
