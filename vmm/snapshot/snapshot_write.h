// SPDX-License-Identifier: Apache-2.0
/*
 * Writes a snapshot directory in Cloud Hypervisor's format: config.json, state.json, memory-ranges. A
 * snapshot appears whole or not at all: files are written under temporary names, synced, then renamed.
 * After a failure the files are removed.
 */
#ifndef VMM_SNAPSHOT_SNAPSHOT_WRITE_H
#define VMM_SNAPSHOT_SNAPSHOT_WRITE_H

#include "common/err.h"

#include <sys/types.h>

struct vm;

/* Where a snapshot goes, and whose its files become; -1: they stay this process's. */
struct snapshot_dir {
	int fd;
	const char *name; /* in messages */
	uid_t uid;
	gid_t gid;
};

/* Writes a paused machine to file://dir, which must exist. */
MUST_CHECK int snapshot_save(struct vm *vm, const char *destination_url, struct err *err);
/*
 * The same for an opened directory, which stays the caller's. A lock on the directory lasts until
 * dir->fd is closed.
 */
MUST_CHECK int snapshot_save_at(struct vm *vm, const struct snapshot_dir *dir, struct err *err);

#endif
