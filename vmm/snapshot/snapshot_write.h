// SPDX-License-Identifier: Apache-2.0
/*
 * Writes the snapshot directory in Cloud Hypervisor's format: config.json, state.json, memory-ranges. A snapshot appears whole
 * or not at all: files are written under temporary names, synced, then renamed; on failure they are removed.
 */
#ifndef VMM_SNAPSHOT_SNAPSHOT_WRITE_H
#define VMM_SNAPSHOT_SNAPSHOT_WRITE_H

#include "common/err.h"

struct vm;

/* Writes a paused machine to file://dir, which must exist. */
MUST_CHECK int snapshot_save(struct vm *vm, const char *destination_url, struct err *err);
/* The same into an opened directory; `dir` is its name in messages. */
MUST_CHECK int snapshot_save_at(struct vm *vm, int dir_fd, const char *dir, struct err *err);

#endif
