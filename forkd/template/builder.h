// SPDX-License-Identifier: Apache-2.0
/*
 * Templates from a VM: a guest is booted, waited for, and its snapshot becomes the template; the VM ends. What the request names on the
 * host is opened at once, as the caller may; the rest runs in the thread of the request or of a job.
 */
#ifndef FORKD_TEMPLATE_BUILDER_H
#define FORKD_TEMPLATE_BUILDER_H

#include "forkd/template/import.h"

struct vm_build;

/* Checks `vm` and `ready` of the request and opens what they name. vm_build_free() in any case. */
MUST_CHECK int vm_build_new(struct forkd *d, const struct origin *from, const struct json_node *vm,
			    const struct json_node *ready, uint64_t timeout_s, struct vm_build **ret, struct err *err);
void vm_build_free(struct vm_build *v); /* ends the VM; NULL is fine */
/* Boots, waits, takes the snapshot, publishes. `from` NULL: nobody is waiting for it. */
MUST_CHECK int vm_build_run(struct vm_build *v, const struct build *b, const struct origin *from, struct err *err);

#endif
