// SPDX-License-Identifier: Apache-2.0
/*
 * The agent as /init of the initramfs that forkd-image makes (forkd/build/initramfs.h): from there to the disk, and on with the disk's own
 * systemd, or as the first process itself. Before the loop; there is one thread.
 */
#ifndef GUEST_BOOT_H
#define GUEST_BOOT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

enum { BOOT_ROOT_S = 30 }; /* time for the disk to appear */

/* Is this that /init? `name`: how the kernel has called it. */
bool boot_is_wanted(const char *name);
/* Does not return but for an error, after which the system can only end. */
MUST_CHECK int boot_run(struct err *err);

/* What the kernel's command line says about the disk. Strings point into the text. */
struct boot_wish {
	const char *root, *type, *options, *init;
	bool read_only;
};
/*
 * Reads the text, which it cuts up: root=/dev/NAME (/dev/vda), rootfstype= (ext4), rootflags=, ro, forkd.init=agent or image. ERR_INVALID:
 * a value that the agent cannot follow.
 */
MUST_CHECK int boot_read_cmdline(char *text, struct boot_wish *ret_wish, struct err *err);

#endif
