// SPDX-License-Identifier: Apache-2.0
/*
 * The initramfs that brings a guest to its disk: the agent as /init, the modules that it loads, and what the image says about its
 * processes. guest/boot.c is the other side. One thread.
 */
#ifndef FORKD_BUILD_INITRAMFS_H
#define FORKD_BUILD_INITRAMFS_H

#include "common/err.h"
#include "common/json64.h"

enum initramfs_pack { INITRAMFS_GZIP, INITRAMFS_ZSTD, INITRAMFS_PLAIN };

struct initramfs_wish {
	const char *modules; /* /lib/modules/VERSION */
	const char *agent;
	const char *config; /* JSON with Env, User, WorkingDir; NULL: none */
	enum initramfs_pack pack;
};

/* Writes the archive into `out_fd`, an empty file, and adds what is in it to `report`, as one JSON object. Same input, same bytes. */
MUST_CHECK int initramfs_build(const struct initramfs_wish *wish, int out_fd, struct strbuf *report, struct err *err);

#endif
