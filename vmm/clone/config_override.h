// SPDX-License-Identifier: Apache-2.0
/*
 * What a clone may have different from its snapshot's config.json: the host's side of its devices. The rest the guest has
 * read already.
 */
#ifndef VMM_CLONE_CONFIG_OVERRIDE_H
#define VMM_CLONE_CONFIG_OVERRIDE_H

#include "vmm/config/config.h"

/*
 * Applies an object of the shape of config.json; entries of `net` and `disks` are matched by `id`. A key that cannot be
 * changed, one that nobody knows, an id that is not there: ERR_INVALID, by name; *config is partly changed then.
 */
MUST_CHECK int vm_config_override(struct vm_config *config, const struct json_node *overrides, struct err *err);

#endif
