// SPDX-License-Identifier: Apache-2.0
/* Reads the command line. */
#include "forkd/build/options.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

enum {
	OPT_OCI = 256,
	OPT_TAR,
	OPT_DIR,
	OPT_REF,
	OPT_PLATFORM,
	OPT_SIZE,
	OPT_OUT,
	OPT_INITRAMFS,
	OPT_MODULES,
	OPT_AGENT,
	OPT_CONFIG,
	OPT_COMPRESS,
	OPT_HELP,
	OPT_VERSION
};
#define PLATFORM "linux/amd64"

static const struct option longs[] = {
	{ "oci", required_argument, NULL, OPT_OCI },
	{ "tar", required_argument, NULL, OPT_TAR },
	{ "dir", required_argument, NULL, OPT_DIR },
	{ "ref", required_argument, NULL, OPT_REF },
	{ "platform", required_argument, NULL, OPT_PLATFORM },
	{ "size", required_argument, NULL, OPT_SIZE },
	{ "out", required_argument, NULL, OPT_OUT },
	{ "initramfs", required_argument, NULL, OPT_INITRAMFS },
	{ "kernel-modules", required_argument, NULL, OPT_MODULES },
	{ "agent", required_argument, NULL, OPT_AGENT },
	{ "image-config", required_argument, NULL, OPT_CONFIG },
	{ "compress", required_argument, NULL, OPT_COMPRESS },
	{ "help", no_argument, NULL, OPT_HELP },
	{ "version", no_argument, NULL, OPT_VERSION },
	{},
};

void options_help(void)
{
	puts("forkd-image: writes a disk image with an ext4 file system, and says on stdout what is in it, as one line of JSON\n"
	     "  --oci DIR           from an OCI image layout\n"
	     "    --ref NAME        which image of the layout\n"
	     "    --platform P      os/architecture[/variant]; " PLATFORM "\n"
	     "  --tar FILE          from an archive of a root file system, also in gzip, zstd, xz or bzip2\n"
	     "  --dir DIR           from a directory, as far as you may read it\n"
	     "  --size BYTES        of the file system, also with K, M, G; otherwise what is needed and a quarter more\n"
	     "  --out FILE|fd=N     where to: a new file, or an open one\n"
	     "or writes an initramfs that brings a guest to such a disk, and says on stdout what is in it\n"
	     "  --initramfs FILE|fd=N  where to\n"
	     "  --kernel-modules DIR   the kernel's folder /lib/modules/VERSION\n"
	     "  --agent FILE           forkd-agent, which becomes /init\n"
	     "  --image-config FILE    \"config\" of an image's report: Env, User and WorkingDir of what the agent starts\n"
	     "  --compress WORD        gzip (default), zstd, none\n"
	     "  --help, --version");
}

static int take_source(struct options *o, enum image_source source, const char *path, struct err *err)
{
	if (o->image.path)
		return err_set(err, ERR_INVALID, "--oci, --tar and --dir: only one of them");
	if (!*path)
		return err_set(err, ERR_INVALID, "--oci, --tar, --dir: the path is empty");
	o->image.source = source;
	o->image.path = path;
	return 0;
}

static int take_size(struct options *o, const char *text, struct err *err)
{
	static const char units[] = "KMG";
	char *end;

	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	const char *unit = *end && strchr(units, *end) ? strchr(units, *end) : NULL;
	unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
	if (text[0] < '0' || text[0] > '9' || errno || (unit ? end[1] : *end) || n == 0 || n > UINT64_MAX >> shift)
		return err_set(err, ERR_INVALID, "--size %s: must be a number of bytes, also with K, M or G", text);
	o->image.bytes = n << shift;
	return 0;
}

static int take_platform(struct options *o, const char *text, struct err *err)
{
	char *at = o->platform;

	if (strlen(text) >= sizeof(o->platform))
		return err_set(err, ERR_INVALID, "--platform %.80s…: too long", text);
	memcpy(at, text, strlen(text) + 1);
	o->image.layout.os = strsep(&at, "/");
	o->image.layout.architecture = strsep(&at, "/");
	o->image.layout.variant = at;
	if (!*o->image.layout.os || !o->image.layout.architecture || !*o->image.layout.architecture || (at && !*at))
		return err_set(err, ERR_INVALID, "--platform %s: must be os/architecture or os/architecture/variant",
			       text);
	return 0;
}

static int take_compress(struct options *o, const char *text, struct err *err)
{
	static const char *const words[] = {
		[INITRAMFS_GZIP] = "gzip", [INITRAMFS_ZSTD] = "zstd", [INITRAMFS_PLAIN] = "none"
	};

	for (size_t i = 0; i < ARRAY_LEN(words); i++)
		if (strcmp(words[i], text) == 0) {
			o->initramfs.pack = (enum initramfs_pack)i;
			return 0;
		}
	return err_set(err, ERR_INVALID, "--compress %s: must be gzip, zstd or none", text);
}

/* 1: the option is of an initramfs, and was taken. */
static int take_initramfs(struct options *o, int c, struct err *err)
{
	switch (c) {
	case OPT_INITRAMFS:
		o->wants_initramfs = true;
		o->out = optarg;
		return 1;
	case OPT_MODULES:
		o->initramfs.modules = optarg;
		return 1;
	case OPT_AGENT:
		o->initramfs.agent = optarg;
		return 1;
	case OPT_CONFIG:
		o->initramfs.config = optarg;
		return 1;
	case OPT_COMPRESS:
		return take_compress(o, optarg, err) < 0 ? err->num : 1;
	default:
		return 0;
	}
}

static int take(struct options *o, int c, char **argv, struct err *err)
{
	int taken = take_initramfs(o, c, err);

	if (taken != 0)
		return taken < 0 ? taken : 0;
	switch (c) {
	case OPT_OCI:
		return take_source(o, IMAGE_OCI, optarg, err);
	case OPT_TAR:
		return take_source(o, IMAGE_TAR, optarg, err);
	case OPT_DIR:
		return take_source(o, IMAGE_DIR, optarg, err);
	case OPT_REF:
		o->image.layout.ref = optarg;
		return 0;
	case OPT_PLATFORM:
		return take_platform(o, optarg, err);
	case OPT_SIZE:
		return take_size(o, optarg, err);
	case OPT_OUT:
		o->out = optarg;
		return 0;
	case OPT_HELP:
		o->help = true;
		return 0;
	case OPT_VERSION:
		o->version = true;
		return 0;
	default:
		return err_set(err, ERR_INVALID, "'%s' is not an option of forkd-image, or lacks its value",
			       argv[optind > 0 ? optind - 1 : 0]);
	}
}

static int check(const struct options *o, struct err *err)
{
	if (o->help || o->version)
		return 0;
	if (o->wants_initramfs && o->image.path)
		return err_set(err, ERR_INVALID, "--initramfs and an image: one at a time");
	if (o->wants_initramfs)
		return o->initramfs.modules && o->initramfs.agent && *o->out
			       ? 0
			       : err_set(err, ERR_INVALID,
					 "--initramfs: a file, --kernel-modules and --agent are needed");
	if (o->initramfs.modules || o->initramfs.agent || o->initramfs.config)
		return err_set(err, ERR_INVALID, "--kernel-modules, --agent and --image-config are for --initramfs");
	if (!o->image.path)
		return err_set(err, ERR_INVALID, "one of --oci, --tar and --dir is needed");
	if (!o->out || !*o->out)
		return err_set(err, ERR_INVALID, "--out is needed");
	if (o->image.layout.ref && o->image.source != IMAGE_OCI)
		return err_set(err, ERR_INVALID, "--ref is for --oci");
	return 0;
}

int options_parse(int argc, char **argv, struct options *ret_options, struct err *err)
{
	struct err none = {};
	int r;

	*ret_options = (struct options){};
	opterr = 0;
	optind = 0;
	r = take_platform(ret_options, PLATFORM, &none);
	for (int c; r == 0 && (c = getopt_long(argc, argv, "+", longs, NULL)) != -1;)
		r = take(ret_options, c, argv, err);
	if (r == 0 && optind < argc)
		r = err_set(err, ERR_INVALID, "'%s' is not an option of forkd-image", argv[optind]);
	return r == 0 ? check(ret_options, err) : r;
}
