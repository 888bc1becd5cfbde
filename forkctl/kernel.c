// SPDX-License-Identifier: Apache-2.0
/*
 * forkctl kernel fetch: the distribution's kernel for virtual machines, downloaded by apt-get and unpacked, never installed. Needs no
 * privilege and no daemon.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/fs.h"
#include "forkctl/child.h"
#include "forkctl/forkctl.h"
#include "forkctl/table.h"

const struct option_row kernel_fetch_options[] = {
	{ "to", "DIR", "where kernels are kept; default: $XDG_CACHE_HOME/forkd/kernels or ~/.cache/forkd/kernels", 0,
	  false },
	{ "package", "NAME",
	  "the package that stands for the newest kernel; default: linux-image-cloud-amd64 or linux-image-virtual", 0,
	  false },
	{ NULL, NULL, NULL, 0, false },
};

#define IMAGE_PREFIX "linux-image-"
#define MODULES_PREFIX "linux-modules-"
#define OTHERWISE                                                                                                     \
	"give forkd a kernel of your own: its bzImage as \"kernel\", and to forkd-image --kernel-modules its folder " \
	"/lib/modules/VERSION, with the modules.dep that depmod makes"
/* Debian's, and Ubuntu's, whose modules are a package of their own. */
static const char *const metas[] = { "linux-image-cloud-amd64", "linux-image-virtual" };
enum { NAME_BYTES = 128, PACKAGES = 2 };

struct fetch {
	char *home;                          /* --to */
	char packages[PACKAGES][NAME_BYTES]; /* the image, its modules; "": none of its own */
	char release[NAME_BYTES];            /* as uname -r says it */
	char *done;                          /* home/release */
	char *work;                          /* a directory of this process; NULL: none yet */
};

static int said(const char *what, const char *path)
{
	fprintf(stderr, "forkctl: cannot %s '%s': %s\n", what, path, strerror(errno));
	return EXIT_FAILED;
}

static char *below(const char *dir, const char *name)
{
	char *path = NULL;

	return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

static void fetch_done(struct fetch *f)
{
	const char *const argv[] = { "rm", "-rf", "--", f->work, NULL };

	if (f->work && !child_run(argv, NULL))
		fprintf(stderr, "forkctl: '%s' is left behind\n", f->work);
	free(f->home);
	free(f->done);
	free(f->work);
}

/* ---- which package ---- */

/* The package that a line "  Depends: NAME" names, when it begins with `prefix` and a digit. */
static bool find_depends(const char *text, const char *prefix, char ret_name[NAME_BYTES])
{
	for (const char *at = text; (at = strstr(at, "Depends: "));) {
		at += strlen("Depends: ");
		size_t len = strcspn(at, " \n"), n = strlen(prefix);
		if (strncmp(at, prefix, n) != 0 || !isdigit((unsigned char)at[n]) || len >= NAME_BYTES ||
		    strspn(at, "abcdefghijklmnopqrstuvwxyz0123456789.+-") < len)
			continue;
		memcpy(ret_name, at, len);
		ret_name[len] = '\0';
		return true;
	}
	return false;
}

static bool depends(const char *package, const char *prefix, char ret_name[NAME_BYTES])
{
	const char *const argv[] = { "apt-cache", "depends", package, NULL };
	autostrbuf struct strbuf out = {};

	return child_read(argv, &out) && out.text && find_depends(out.text, prefix, ret_name);
}

static int find_packages(const struct args *args, struct fetch *f)
{
	const char *own = args_option(args, "package");
	bool found = false;

	if (!child_is_there("apt-get") || !child_is_there("apt-cache") || !child_is_there("dpkg-deb")) {
		fprintf(stderr, "forkctl: there is no apt-get here: " OTHERWISE "\n");
		return EXIT_FAILED;
	}
	for (size_t i = 0; i < ARRAY_LEN(metas) && !found; i++)
		found = depends(own ? own : metas[i], IMAGE_PREFIX, f->packages[0]);
	if (!found) {
		fprintf(stderr, "forkctl: apt knows no kernel %s (apt-get update?); or " OTHERWISE "\n",
			own ? own : "linux-image-cloud-amd64 or linux-image-virtual");
		return EXIT_FAILED;
	}
	snprintf(f->release, sizeof(f->release), "%s", f->packages[0] + strlen(IMAGE_PREFIX));
	(void)!depends(f->packages[0], MODULES_PREFIX, f->packages[1]);
	return EXIT_FINE;
}

/* ---- where to ---- */

static int make_dirs(const char *path)
{
	const char *const argv[] = { "mkdir", "-p", "--", path, NULL };

	return child_run(argv, NULL) ? EXIT_FINE : EXIT_FAILED;
}

static int find_home(const struct args *args, struct fetch *f)
{
	const char *to = args_option(args, "to"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	int n;

	if (to && *to)
		n = asprintf(&f->home, "%s", to);
	else if (cache && *cache == '/')
		n = asprintf(&f->home, "%s/forkd/kernels", cache);
	else if (home && *home == '/')
		n = asprintf(&f->home, "%s/.cache/forkd/kernels", home);
	else
		return args_wrong(args, "--to: say where; HOME is not set"), EXIT_USAGE;
	if (n < 0) {
		f->home = NULL;
		return EXIT_FAILED;
	}
	return make_dirs(f->home);
}

/* ---- the work ---- */

static int download(const struct fetch *f)
{
	for (int i = 0; i < PACKAGES; i++) {
		/* Sandbox: apt's own user may not write here */
		const char *const argv[] = { "apt-get",  "-q",           "-o", "APT::Sandbox::User=",
					     "download", f->packages[i], NULL };
		pid_t pid = f->packages[i][0] ? child_start(argv, f->work, STDERR_FILENO, STDOUT_FILENO) : 0;
		if (pid < 0 || (pid > 0 && !child_finish(pid))) {
			fprintf(stderr, "forkctl: apt-get cannot download %s\n", f->packages[i]);
			return EXIT_FAILED;
		}
	}
	return EXIT_FINE;
}

static int unpack(const struct fetch *f)
{
	DIR *dir = opendir(f->work);
	int status = dir ? EXIT_FINE : said("read", f->work);

	for (const struct dirent *e; status == EXIT_FINE && (e = readdir(dir));) {
		const char *const argv[] = { "dpkg-deb", "-x", e->d_name, "root", NULL };
		size_t len = strlen(e->d_name);
		if (len > 4 && strcmp(e->d_name + len - 4, ".deb") == 0 && !child_run(argv, f->work))
			status = EXIT_FAILED;
	}
	if (dir)
		closedir(dir);
	return status;
}

static int move_one(const char *work, const char *from, const char *to)
{
	autofree char *old = below(work, from), *new = below(work, to);

	if (!old || !new)
		return EXIT_FAILED;
	return rename(old, new) < 0 ? said("move", old) : EXIT_FINE;
}

/* The modules are where a merged /usr has put them, or where depmod looks for them. */
static int settle_modules(const struct fetch *f)
{
	const char *const argv[] = { "depmod", "-b", "root", f->release, NULL };
	autofree char *lib = below(f->work, "root/lib"), *modules = below(f->work, "root/lib/modules");

	if (!lib || !modules)
		return EXIT_FAILED;
	if (access(modules, F_OK) < 0) {
		if (mkdir(lib, 0755) < 0 && errno != EEXIST)
			return said("make", lib);
		if (move_one(f->work, "root/usr/lib/modules", "root/lib/modules") != EXIT_FINE)
			return EXIT_FAILED;
	}
	return child_run(argv, f->work) ? EXIT_FINE : EXIT_FAILED;
}

/* The kernel and its modules under one name, at once: what is there is whole. */
static int publish(const struct fetch *f)
{
	autofree char *whole = below(f->work, "whole");
	char kernel[NAME_BYTES + 32], modules[NAME_BYTES + 32];

	snprintf(kernel, sizeof(kernel), "root/boot/vmlinuz-%s", f->release);
	snprintf(modules, sizeof(modules), "root/lib/modules/%s", f->release);
	if (!whole || mkdir(whole, 0755) < 0)
		return said("make a directory in", f->work);
	if (move_one(f->work, kernel, "whole/vmlinuz") != EXIT_FINE ||
	    move_one(f->work, modules, "whole/modules") != EXIT_FINE)
		return EXIT_FAILED;
	int r = fs_rename_new(AT_FDCWD, whole, AT_FDCWD, f->done);
	errno = r < 0 ? -r : 0;
	return r < 0 && r != -EEXIST ? said("make", f->done) : EXIT_FINE; /* -EEXIST: another one was faster */
}

static int fetch(struct fetch *f)
{
	f->work = below(f->home, ".fetch-XXXXXX");
	if (!f->work || !mkdtemp(f->work)) {
		int status = said("make a directory in", f->home);
		free(steal_ptr(&f->work));
		return status;
	}
	/* depmod is root's, and not on everybody's PATH */
	autofree char *path = NULL;
	if (asprintf(&path, "%s:/usr/sbin:/sbin", getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin") < 0) {
		path = NULL;
		return EXIT_FAILED;
	}
	setenv("PATH", path, 1);
	if (download(f) != EXIT_FINE || unpack(f) != EXIT_FINE || settle_modules(f) != EXIT_FINE)
		return EXIT_FAILED;
	return publish(f);
}

static void report(const struct cli *cli, const struct fetch *f)
{
	autostrbuf struct strbuf out = {};
	autofree char *kernel = below(f->done, "vmlinuz"), *modules = below(f->done, "modules");

	if (!kernel || !modules)
		return;
	if (!cli->json) {
		printf("release  %s\nkernel   %s\nmodules  %s\n", f->release, kernel, modules);
		return;
	}
	strbuf_printf(&out, "{\"release\":\"%s\",\"kernel\":", f->release);
	strbuf_json_lossy(&out, kernel, strlen(kernel));
	strbuf_puts(&out, ",\"modules\":");
	strbuf_json_lossy(&out, modules, strlen(modules));
	strbuf_puts(&out, "}");
	puts(out.text);
}

int kernel_fetch(struct cli *cli)
{
	struct fetch f __attribute__((cleanup(fetch_done))) = {};
	struct stat st;

	int status = find_packages(cli->args, &f);
	if (status == EXIT_FINE)
		status = find_home(cli->args, &f);
	if (status != EXIT_FINE)
		return status;
	f.done = below(f.home, f.release);
	if (!f.done)
		return EXIT_FAILED;
	if (stat(f.done, &st) < 0)
		status = fetch(&f);
	if (status == EXIT_FINE)
		report(cli, &f);
	return status;
}
