// SPDX-License-Identifier: Apache-2.0
/* Which modules a guest needs, and in which order they are loaded: from the modules.dep of a kernel. One thread. */
#ifndef FORKD_BUILD_MODULES_H
#define FORKD_BUILD_MODULES_H

#include <stdint.h>

#include "common/err.h"

enum { MODULES_MAX = 128 };

struct modules {
	char *paths[MODULES_MAX]; /* below the kernel's folder, in the order in which they are loaded */
	uint32_t n;
};

/*
 * Reads modules.dep and modules.builtin of `dir_fd`, the folder /lib/modules/VERSION. ERR_INVALID: the kernel lacks a module without which no
 * guest starts, or the files are none of depmod's.
 */
MUST_CHECK int modules_find(int dir_fd, struct modules *ret_modules, struct err *err);
void modules_done(struct modules *modules);
#define automodules __attribute__((cleanup(modules_done)))
/* The module's own name: what stands between the last slash and ".ko". */
void modules_name(const char *path, char *ret_name, size_t size);

#endif
