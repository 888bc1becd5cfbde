// SPDX-License-Identifier: Apache-2.0
/*
 * The machine of this process and its life: create, boot, pause, resume, snapshot, restore, shutdown, delete.
 * One state machine for the API and for the command line; every call comes from the main thread and returns when
 * the thing is done. Messages and codes are those of Cloud Hypervisor's API: the chain in `err` is what it answers
 * after "Error from API".
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include "vmm/config.h"
#include "vmm/loop.h"

struct vmm;

struct vmm *vmm_new(struct loop *loop, struct err *err);
void vmm_free(struct vmm *vmm);

/* Stores the configuration: *config is moved from on success. */
MUST_CHECK int vmm_create(struct vmm *vmm, struct vm_config *config, struct err *err);
MUST_CHECK int vmm_boot(struct vmm *vmm, struct err *err);
MUST_CHECK int vmm_pause(struct vmm *vmm, struct err *err);
MUST_CHECK int vmm_resume(struct vmm *vmm, struct err *err);
MUST_CHECK int vmm_snapshot(struct vmm *vmm, const char *destination_url, struct err *err);
/* Restores into an empty VMM. Descriptors in rc->net_fds[].fds are taken over (set to -1) or closed in any case. */
MUST_CHECK int vmm_restore(struct vmm *vmm, struct restore_config *rc, struct err *err);
/* Ends the VM and keeps its configuration. */
MUST_CHECK int vmm_shutdown(struct vmm *vmm, struct err *err);
/* Ends the VM and forgets its configuration; fine without any. */
MUST_CHECK int vmm_delete(struct vmm *vmm, struct err *err);
MUST_CHECK int vmm_reboot(struct vmm *vmm, struct err *err);
/* The JSON of vm.info. */
MUST_CHECK int vmm_info(struct vmm *vmm, struct strbuf *out, struct err *err);

#endif
