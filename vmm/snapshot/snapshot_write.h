// SPDX-License-Identifier: Apache-2.0
/*
 * The snapshot directory in Cloud Hypervisor's format: config.json, state.json, memory-ranges. A snapshot appears whole
 * or not at all: files are written under temporary names, synced, then renamed; on failure they are removed.
 */
#ifndef VMM_SNAPSHOT_SNAPSHOT_WRITE_H
#define VMM_SNAPSHOT_SNAPSHOT_WRITE_H

#include "vmm/config/config.h"
#include "vmm/machine/machine.h"

struct snapshot {
	char *dir;
	int mem_fd; /* memory-ranges, read-only */
	uint64_t mem_bytes;
	char *config_text, *state_text; /* the JSON below points into them */
	struct json config, state;
};

/* Opens and parses the three files of file://dir. Release: snapshot_close(), also after a failure. */
MUST_CHECK int snapshot_open(struct snapshot *snap, const char *source_url, struct err *err);
/* The same of an opened directory; `dir` is its name in messages. */
MUST_CHECK int snapshot_open_at(struct snapshot *snap, int dir_fd, const char *dir, struct err *err);
void snapshot_close(struct snapshot *snap);
#define autosnapshot __attribute__((cleanup(snapshot_close)))

/* config.json into *config, which must be initialised. */
MUST_CHECK int snapshot_config(const struct snapshot *snap, struct vm_config *config, struct err *err);
/* The saved memory ranges must be this machine's, and the file exactly as long. */
MUST_CHECK int snapshot_check_memory(const struct snapshot *snap, const struct gmem *mem, struct err *err);
/* Fills anonymous guest RAM from memory-ranges, holes skipped. */
MUST_CHECK int snapshot_read_memory(const struct snapshot *snap, const struct gmem *mem, struct err *err);

/* Writes a paused machine to file://dir, which must exist. */
MUST_CHECK int snapshot_save(struct vm *vm, const char *destination_url, struct err *err);
/* The same into an opened directory; `dir` is its name in messages. */
MUST_CHECK int snapshot_save_at(struct vm *vm, int dir_fd, const char *dir, struct err *err);

#endif
