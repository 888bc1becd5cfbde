// SPDX-License-Identifier: Apache-2.0
/*
 * forkd-image: from an OCI image, an archive or a directory to a disk image with an ext4 file system. It needs no privilege, unpacks
 * nothing on the host and mounts nothing. docs/build.md says what it accepts.
 */
#include <errno.h>
#include <locale.h>
#include <string.h>

#include "common/version.h"
#include "forkd/build/options.h"
#include "forkd/build/out.h"

static int make(const struct options *o, struct err *err)
{
	autoout struct out out = OUT_NONE;
	autostrbuf struct strbuf report = {};

	if (out_open(&out, o->out, err) < 0)
		return err->num;
	int r = o->wants_initramfs ? initramfs_build(&o->initramfs, out.fd, &report, err)
				   : image_build(&o->image, out.fd, &report, err);
	if (r < 0 || out_commit(&out, err) < 0)
		return err->num;
	puts(report.text);
	return fflush(stdout) == 0 ? 0 : err_sys(err, ERR_INTERNAL, "write to stdout");
}

int main(int argc, char **argv)
{
	static struct options options;
	struct err err = {};
	char line[ERR_MSG_BYTES];

	/* libarchive gives names in the locale's characters: these are bytes of UTF-8 */
	if (!setlocale(LC_CTYPE, "C.UTF-8") && !setlocale(LC_CTYPE, "en_US.UTF-8")) {
		fprintf(stderr, "forkd-image: this host has neither the locale C.UTF-8 nor en_US.UTF-8\n");
		return 1;
	}
	if (options_parse(argc, argv, &options, &err) < 0) {
		fprintf(stderr, "forkd-image: %s\n", err_line(&err, line, sizeof(line)));
		return 2;
	}
	if (options.help)
		options_help();
	else if (options.version)
		printf("forkd-image %s\n", FORKD_VERSION);
	else if (make(&options, &err) < 0)
		fprintf(stderr, "forkd-image: %s\n", err_line(&err, line, sizeof(line)));
	return err.code == ERR_NONE ? 0 : 1;
}
