// SPDX-License-Identifier: Apache-2.0
/* What the files of forkctl cp share: one copy, between this host and a clone's guest. One thread. */
#ifndef FORKCTL_CP_H
#define FORKCTL_CP_H

#include <sys/stat.h>

#include "forkctl/command.h"
#include "forkctl/forkctl.h"

/* How much of a copy is done, on a terminal at stderr, when there is much. */
struct progress {
	const char *name;
	uint64_t total; /* bytes; 0: not known */
	uint64_t begun_ns, shown_ns;
	bool terminal, shown;
};

/* What is at a path of the guest. */
enum guest_kind { GUEST_NOTHING, GUEST_FILE, GUEST_DIRECTORY };

struct copy {
	struct cli *cli;
	const char *id, *user; /* of the clone; of the guest, NULL: the default one */
	const char *local;     /* path of this host; "-": stdin or stdout */
	const char *guest;     /* path of the guest */
	int signal_fd;
	int signal; /* that has ended it; 0: none */
	struct progress progress;
};

/*
 * These return an exit status, and have said what was wrong. Whatever ends them, no half file is at a
 * local name; in the guest a file is whole or not there, a directory is copied file by file.
 */
/* Asks the guest what is at a path; *ret_mode are its permissions. */
MUST_CHECK int guest_stat(struct copy *c, const char *path, enum guest_kind *ret_kind, unsigned *ret_mode);
/* Makes a directory of the guest, and those above it; one that is there is fine. */
MUST_CHECK int guest_mkdir(struct copy *c, const char *path);
/* A command in the guest for the copy; `argv` has a NULL behind it. Returns the command's exit status. */
int guest_command(struct copy *c, const char *const *argv, const char *cwd, int in_fd, int out_fd);

/* cp_file.c: c->local to `path` of the guest, and back */
MUST_CHECK int copy_file_in(struct copy *c, const char *path);
MUST_CHECK int copy_file_out(struct copy *c, const char *path, unsigned mode);
/* cp_tree.c: what is in one directory to another one, which is made; "-" is an archive of tar. */
MUST_CHECK int copy_tree_in(struct copy *c, const char *path);
MUST_CHECK int copy_tree_out(struct copy *c, const char *path);

/* cp.c */
void progress_show(struct progress *p, uint64_t done);
void progress_end(struct progress *p);
/* The last part of a path, in heap; "" of one that has none, or "." or "..". NULL: no memory. */
char *last_part(const char *path);
/* "a/b", in heap; "b" when `directory` is "". */
char *join(const char *directory, const char *name);
/* Whether a signal has come, which ends the copy. */
bool copy_signalled(struct copy *c);

/* merge.c */
/*
 * Moves what is in the directory `from`, which nobody else can reach, into the directory `to`, both of this host: files
 * replace files, directories are merged. Directories become readable, writable and searchable for their owner; set-id bits
 * are taken away; what is neither a file, a directory nor a symbolic link is left out and said. Symbolic links below `to` are
 * replaced, never followed: a directory that would have to go through one is an error. False: said why not.
 */
MUST_CHECK bool merge_tree(const char *from, const char *to);

#endif
