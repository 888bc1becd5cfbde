// SPDX-License-Identifier: Apache-2.0
/*
 * Templates from a VM. A guest is booted and waited for, the guest's snapshot becomes the template,
 * and the VM ends. vm_build_new() opens what the request names on the host, with the rights of the
 * caller. The rest runs in the thread of the request or of a job.
 */
#ifndef FORKD_TEMPLATE_BUILDER_H
#define FORKD_TEMPLATE_BUILDER_H

#include "forkd/template/import.h"

struct vm_build;
struct vm_build_wish {
	uint64_t timeout_s;
	bool disks_brought;
};

/*
 * Checks `vm` and `ready` of the request, and opens what these name. disks_brought: the VM writes the disks that `vm` names,
 * and each clone must bring its own. vm_build_free() frees *ret,
 * also after a failure.
 */
MUST_CHECK int vm_build_new(struct forkd *d, const struct origin *from, const struct json_node *vm,
			    const struct json_node *ready, const struct vm_build_wish *wish, struct vm_build **ret,
			    struct err *err);
void vm_build_free(struct vm_build *v); /* ends the VM; NULL is fine */
/*
 * Boots, waits, takes the snapshot, and publishes. `from`: the request, whose client may go away;
 * NULL: no client waits.
 */
MUST_CHECK int vm_build_run(struct vm_build *v, struct build *b, const struct origin *from, struct err *err);

#endif
