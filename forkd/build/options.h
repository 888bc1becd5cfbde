// SPDX-License-Identifier: Apache-2.0
/* The command line of forkd-image. */
#ifndef FORKD_BUILD_OPTIONS_H
#define FORKD_BUILD_OPTIONS_H

#include "forkd/build/image.h"
#include "forkd/build/initramfs.h"

struct options {
	bool help, version;
	struct image_wish image; /* path NULL: no image is wanted */
	const char *out;
	bool wants_initramfs;
	struct initramfs_wish initramfs;
	char platform[64]; /* what image.layout points into */
};

void options_help(void);
/* ERR_INVALID: usage. Pointers are into argv and into *ret_options, which must stay where it is. */
MUST_CHECK int options_parse(int argc, char **argv, struct options *ret_options, struct err *err);

#endif
