// SPDX-License-Identifier: Apache-2.0
/* Reads a tree of files of this host, as the user who runs the program may. Symbolic links are not followed. One thread. */
#ifndef FORKD_BUILD_DIRECTORY_H
#define FORKD_BUILD_DIRECTORY_H

#include "forkd/build/blob.h"
#include "forkd/build/entry.h"

/*
 * Tells the listener all files below `dir_fd`, in the order of their names, the directory itself first. *ret_digest
 * (BLOB_DIGEST bytes) is of all that was told, contents included. All contents are read, also those that are not wanted. ERR_INVALID:
 * a file changed while it was read.
 */
MUST_CHECK int directory_read(int dir_fd, const struct listener *listener, char *ret_digest, struct err *err);

#endif
