// SPDX-License-Identifier: Apache-2.0
/*
 * What may differ between a clone and the snapshot's config.json: the host's side of the devices. The
 * guest has read the rest already.
 */
#ifndef VMM_CLONE_CONFIG_OVERRIDE_H
#define VMM_CLONE_CONFIG_OVERRIDE_H

#include "vmm/config/config.h"

/*
 * Applies an object of the shape of config.json. Entries of `net` and `disks` are matched by `id`. A
 * key that cannot be changed, an unknown key and an unknown id are ERR_INVALID, by name; *config may
 * be partly changed then.
 */
MUST_CHECK int vm_config_override(struct vm_config *config, const struct json_node *overrides, struct err *err);

#endif
