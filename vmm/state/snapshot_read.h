// SPDX-License-Identifier: Apache-2.0
/*
 * Reads a snapshot directory in Cloud Hypervisor's format: config.json, state.json, memory-ranges. Any
 * thread.
 */
#ifndef VMM_STATE_SNAPSHOT_READ_H
#define VMM_STATE_SNAPSHOT_READ_H

#include "common/json64.h"
#include "vmm/config/config.h"
#include "vmm/core/gmem.h"
#include "vmm/state/memfile.h"

struct snapshot {
	char *dir;
	int mem_fd; /* memory-ranges, read-only */
	uint64_t mem_bytes;
	struct memfile_plan plan;       /* how to map memory-ranges; made by snapshot_check_memory() */
	char *config_text, *state_text; /* `config` and `state` point into these texts */
	struct json config, state;
};

/*
 * Opens the directory of file://dir. The caller frees *ret_dir, the directory's name, and closes
 * *ret_fd.
 */
MUST_CHECK int snapshot_open_dir(const char *url, char **ret_dir, int *ret_fd, struct err *err);

/* Opens and parses the three files of file://dir. Release: snapshot_close(), also after a failure. */
MUST_CHECK int snapshot_open(struct snapshot *snap, const char *source_url, struct err *err);
/*
 * The same for an opened directory, which stays the caller's; `dir` is the directory's name in
 * messages.
 */
MUST_CHECK int snapshot_open_at(struct snapshot *snap, int dir_fd, const char *dir, struct err *err);
void snapshot_close(struct snapshot *snap);
#define autosnapshot __attribute__((cleanup(snapshot_close)))

/* Loads config.json into *config, which must be initialised. */
MUST_CHECK int snapshot_config(const struct snapshot *snap, struct vm_config *config, struct err *err);
/*
 * Checks that the saved memory ranges are those of *mem, and that memory-ranges is exactly as long.
 * Plans how memory-ranges is mapped.
 */
MUST_CHECK int snapshot_check_memory(struct snapshot *snap, const struct gmem *mem, struct err *err);
/* Maps guest RAM copy-on-write over memory-ranges. On success *mem takes snap->mem_fd over. */
MUST_CHECK int snapshot_map_memory(struct snapshot *snap, struct gmem *mem, struct err *err);
/* Fills anonymous guest RAM from memory-ranges, holes skipped. */
MUST_CHECK int snapshot_read_memory(const struct snapshot *snap, const struct gmem *mem, struct err *err);

#endif
