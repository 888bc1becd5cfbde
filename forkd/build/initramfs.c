// SPDX-License-Identifier: Apache-2.0
/* Writes the archive through libarchive, which unpacks compressed modules, too. */
#include "forkd/build/initramfs.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "forkd/build/limits.h"
#include "forkd/build/modules.h"
#include "forkd/build/oci_json.h"

enum {
	FILE_BYTES_MAX = 64 << 20,
	MODE_DIR = S_IFDIR | 0755,
	MODE_PROGRAM = S_IFREG | 0755,
	MODE_FILE = S_IFREG | 0644
};

/* What the kernel and guest/boot.c want to be there. */
static const char *const directories[] = { "dev", "proc", "sys", "run", "sysroot", "forkd", "forkd/modules" };

static void free_write(struct archive **a)
{
	if (*a)
		archive_write_free(*a);
}

static void free_read(struct archive **a)
{
	if (*a)
		archive_read_free(*a);
}

static void free_entry(struct archive_entry **ae)
{
	archive_entry_free(*ae);
}

static int add(struct archive *a, const char *name, uint32_t mode, const struct strbuf *content, struct err *err)
{
	struct archive_entry *ae __attribute__((cleanup(free_entry))) = archive_entry_new();
	const size_t len = content ? content->len : 0;

	if (!ae)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write '%s'", name);
	archive_entry_set_pathname(ae, name);
	archive_entry_set_mode(ae, mode);
	archive_entry_set_size(ae, (la_int64_t)len);
	archive_entry_set_mtime(ae, 0, 0);
	archive_entry_set_nlink(ae, S_ISDIR(mode) ? 2 : 1);
	if (archive_write_header(a, ae) != ARCHIVE_OK ||
	    (len && archive_write_data(a, content->text, len) != (la_ssize_t)len))
		return err_set(err, ERR_INTERNAL, "write '%s': %s", name, archive_error_string(a));
	return 0;
}

/* All of a file, which may be packed: raw bytes are what comes out of libarchive's filters. */
static int read_unpacked(int fd, const char *path, struct strbuf *ret, struct err *err)
{
	struct archive *a __attribute__((cleanup(free_read))) = archive_read_new();
	struct archive_entry *ae;
	const void *bytes;
	la_int64_t off;
	size_t len;
	int r;

	if (!a || archive_read_support_format_raw(a) != ARCHIVE_OK ||
	    archive_read_support_filter_gzip(a) != ARCHIVE_OK || archive_read_support_filter_xz(a) != ARCHIVE_OK ||
	    archive_read_support_filter_zstd(a) != ARCHIVE_OK ||
	    archive_read_open_fd(a, fd, FILE_BYTES_MAX / 1024) != ARCHIVE_OK ||
	    archive_read_next_header(a, &ae) != ARCHIVE_OK)
		return err_set(err, ERR_INVALID, "read '%s': %s", path,
			       a && archive_error_string(a) ? archive_error_string(a) : "it is empty");
	while ((r = archive_read_data_block(a, &bytes, &len, &off)) == ARCHIVE_OK) {
		if (len > FILE_BYTES_MAX - ret->len)
			return err_set(err, ERR_INVALID, "'%s': more than %d MiB", path, FILE_BYTES_MAX >> 20);
		strbuf_add(ret, bytes, len);
	}
	if (r != ARCHIVE_EOF)
		return err_set(err, ERR_INVALID, "read '%s': %s", path, archive_error_string(a));
	return ret->failed ? err_num(err, ERR_INTERNAL, ENOMEM, "read '%s'", path) : 0;
}

static int read_file(const char *path, uint64_t max, struct strbuf *ret, struct err *err)
{
	struct stat st;

	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_INVALID, "open '%s'", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "'%s': not a regular file", path);
	if ((uint64_t)st.st_size > max)
		return err_set(err, ERR_INVALID, "'%s': %lld bytes, more than %llu", path, (long long)st.st_size,
			       (unsigned long long)max);
	autofree char *text = malloc((size_t)st.st_size + 1);
	ssize_t n = text ? io_read(fd, text, (uint64_t)st.st_size, 0) : -ENOMEM;
	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read '%s'", path);
	strbuf_add(ret, text, (size_t)n);
	return ret->failed ? err_num(err, ERR_INTERNAL, ENOMEM, "read '%s'", path) : 0;
}

static int add_agent(struct archive *a, const char *path, struct err *err)
{
	autostrbuf struct strbuf program = {};

	if (read_file(path, FILE_BYTES_MAX, &program, err) < 0)
		return err->num;
	if (program.len < 4 || memcmp(program.text,
				      "\x7f"
				      "ELF",
				      4) != 0)
		return err_set(err, ERR_INVALID, "'%s': not a program", path);
	return add(a, "init", MODE_PROGRAM, &program, err);
}

/* One module, without its packing, and its line in the list. */
static int add_module(struct archive *a, int dir_fd, const char *path, struct strbuf *list, struct err *err)
{
	autostrbuf struct strbuf module = {};
	char name[128], file[160];
	uint64_t size = 0;

	autoclose int fd = blob_open_plain(dir_fd, path, &size, err);
	if (fd < 0 || read_unpacked(fd, path, &module, err) < 0)
		return err->num;
	if (module.len < 4 || memcmp(module.text,
				     "\x7f"
				     "ELF",
				     4) != 0)
		return err_set(err, ERR_INVALID, "'%s': not a module", path);
	modules_name(path, name, sizeof(name));
	snprintf(file, sizeof(file), "forkd/modules/%s.ko", name);
	strbuf_printf(list, "%s\n", name);
	return add(a, file, MODE_FILE, &module, err);
}

static int add_modules(struct archive *a, const char *path, struct strbuf *list, struct err *err)
{
	automodules struct modules modules = {};

	autoclose int dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return err_sys(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_INVALID, "open '%s'", path);
	if (modules_find(dir_fd, &modules, err) < 0)
		return err_wrap(err, "'%s'", path);
	for (uint32_t i = 0; i < modules.n; i++)
		if (add_module(a, dir_fd, modules.paths[i], list, err) < 0)
			return err_wrap(err, "'%s'", path);
	return list->failed ? err_num(err, ERR_INTERNAL, ENOMEM, "list the modules")
			    : add(a, "forkd/modules.list", MODE_FILE, list, err);
}

/* What it says is checked here, and written anew. */
static int add_config(struct archive *a, const char *path, struct err *err)
{
	struct image_config config = {};
	autostrbuf struct strbuf text = {}, out = {};

	if (read_file(path, OCI_JSON_MAX, &text, err) < 0)
		return err->num;
	int r = image_config_read(text.text, text.len, path, &config, err);
	if (r == 0)
		image_config_save(&config, &out);
	image_config_free(&config);
	if (r == 0 && out.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read '%s'", path);
	return r < 0 ? r : add(a, "forkd/image.json", MODE_FILE, &out, err);
}

static int open_archive(struct archive *a, enum initramfs_pack pack, int out_fd)
{
	int r = archive_write_set_format_cpio_newc(a);

	if (r == ARCHIVE_OK && pack == INITRAMFS_GZIP)
		r = archive_write_add_filter_gzip(a) == ARCHIVE_OK
			    ? archive_write_set_filter_option(a, "gzip", "timestamp", NULL)
			    : -1;
	if (r == ARCHIVE_OK && pack == INITRAMFS_ZSTD)
		r = archive_write_add_filter_zstd(a);
	return r == ARCHIVE_OK ? archive_write_open_fd(a, out_fd) : r;
}

static void report_on(const struct strbuf *list, int out_fd, struct strbuf *report)
{
	struct stat st = {};
	bool first = true;

	(void)fstat(out_fd, &st);
	strbuf_printf(report, "{\"bytes\":%lld,\"modules\":[", (long long)st.st_size);
	for (const char *at = list->text; at && *at; at += strcspn(at, "\n") + 1) {
		strbuf_puts(report, first ? "" : ",");
		strbuf_json(report, at, strcspn(at, "\n"));
		first = false;
	}
	strbuf_puts(report, "]}");
}

int initramfs_build(const struct initramfs_wish *wish, int out_fd, struct strbuf *report, struct err *err)
{
	struct archive *a __attribute__((cleanup(free_write))) = archive_write_new();
	autostrbuf struct strbuf list = {};

	if (!a || open_archive(a, wish->pack, out_fd) != ARCHIVE_OK)
		return err_set(err, ERR_INTERNAL, "begin the archive: %s",
			       a ? archive_error_string(a) : "out of memory");
	for (size_t i = 0; i < ARRAY_LEN(directories); i++)
		if (add(a, directories[i], MODE_DIR, NULL, err) < 0)
			return err->num;
	if (add_agent(a, wish->agent, err) < 0 || add_modules(a, wish->modules, &list, err) < 0 ||
	    (wish->config && add_config(a, wish->config, err) < 0))
		return err->num;
	if (archive_write_close(a) != ARCHIVE_OK)
		return err_set(err, ERR_INTERNAL, "write the archive: %s", archive_error_string(a));
	report_on(&list, out_fd, report);
	return report->failed ? err_num(err, ERR_INTERNAL, ENOMEM, "report") : 0;
}
