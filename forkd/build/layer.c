// SPDX-License-Identifier: Apache-2.0
/* From libarchive's entries to ours. */
#include "forkd/build/layer.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <string.h>

#include "common/io.h"
#include "forkd/build/acl.h"
#include "forkd/build/limits.h"

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"

static const struct {
	const char *name, *magic;
	size_t len;
	int (*filter)(struct archive *a);
} packs[] = {
	[LAYER_PLAIN] = { "not compressed", NULL, 0, archive_read_support_filter_none },
	[LAYER_GZIP] = { "gzip", "\x1f\x8b", 2, archive_read_support_filter_gzip },
	[LAYER_ZSTD] = { "zstd", "\x28\xb5\x2f\xfd", 4, archive_read_support_filter_zstd },
	[LAYER_XZ] = { "xz",
		       "\xfd"
		       "7zXZ",
		       5, archive_read_support_filter_xz },
	[LAYER_BZIP2] = { "bzip2", "BZh", 3, archive_read_support_filter_bzip2 },
};

struct reader {
	struct archive *a;
	struct blob *blob;
	struct layer_budget *budget;
	const struct listener *listener;
	struct xattr xattrs[IMAGE_XATTRS_MAX + 3];
	struct acl access, inherited; /* of the entry */
	int64_t counted;              /* of the bytes that came out */
	struct err *err;              /* of the blob, while libarchive has the word */
};

int layer_sniff(const struct blob *blob, enum layer_pack *ret_pack, struct err *err)
{
	char head[8] = "";
	ssize_t n = io_read(blob->fd, head, sizeof(head), 0);

	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read %s", blob->what);
	*ret_pack = LAYER_PLAIN;
	for (size_t i = 0; i < ARRAY_LEN(packs); i++)
		if (packs[i].magic && memcmp(head, packs[i].magic, packs[i].len) == 0)
			*ret_pack = (enum layer_pack)i;
	return 0;
}

static la_ssize_t read_piece(struct archive *a, void *arg, const void **ret_bytes)
{
	struct reader *r = arg;
	ssize_t n = blob_read(r->blob, ret_bytes, r->err);

	if (n < 0)
		archive_set_error(a, EIO, "%s", "read");
	return n < 0 ? ARCHIVE_FATAL : n;
}

/* libarchive's complaint, or the blob's own. */
static int complain(struct reader *r, const char *path, struct err *err)
{
	const char *text = archive_error_string(r->a);

	if (err->code != ERR_NONE)
		return err->num;
	if (path)
		return err_set(err, ERR_INVALID, "%s, at '%.200s': %s", r->blob->what, path,
			       text ? text : "broken archive");
	return err_set(err, ERR_INVALID, "%s: %s", r->blob->what, text ? text : "broken archive");
}

/* Counts what came out of the archive since the last call. */
static int spend(struct reader *r, struct err *err)
{
	int64_t now = archive_filter_bytes(r->a, 0);
	uint64_t n = now > r->counted ? (uint64_t)(now - r->counted) : 0;

	if (n > r->budget->left)
		return err_set(err, ERR_INVALID, "%s: more than %llu bytes come out of the image's archives",
			       r->blob->what, (unsigned long long)r->budget->max);
	r->budget->left -= n;
	r->counted = now;
	return 0;
}

static bool ext4_has(const char *name)
{
	return strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0 ||
	       strncmp(name, "security.", 9) == 0 || strcmp(name, ACL_ACCESS) == 0 || strcmp(name, ACL_DEFAULT) == 0;
}

static void add_xattr(struct reader *r, struct image_entry *e, const char *name, const void *value, size_t bytes)
{
	r->xattrs[e->n_xattrs++] = (struct xattr){ .name = (char *)(uintptr_t)name,
						   .value = (void *)(uintptr_t)value,
						   .bytes = bytes > UINT32_MAX ? UINT32_MAX : (uint32_t)bytes };
}

/* One more than there may be is enough to be refused. A list as text counts more than the same as an attribute. */
static int take_xattrs(struct reader *r, struct archive_entry *ae, struct image_entry *e, struct err *err)
{
	const char *name;
	const void *value;
	size_t bytes;

	e->xattrs = r->xattrs;
	if (acl_read(ae, &r->access, &r->inherited, &e->mode, err) < 0)
		return err_wrap(err, "'%s'", e->path);
	if (r->access.n)
		add_xattr(r, e, ACL_ACCESS, r->access.bytes, r->access.n);
	if (r->inherited.n)
		add_xattr(r, e, ACL_DEFAULT, r->inherited.bytes, r->inherited.n);
	archive_entry_xattr_reset(ae);
	while (e->n_xattrs < ARRAY_LEN(r->xattrs) &&
	       archive_entry_xattr_next(ae, &name, &value, &bytes) == ARCHIVE_OK) {
		if (!name || !ext4_has(name))
			r->budget->dropped_xattrs++;
		else if ((strcmp(name, ACL_ACCESS) != 0 || !r->access.n) &&
			 (strcmp(name, ACL_DEFAULT) != 0 || !r->inherited.n))
			add_xattr(r, e, name, value, bytes);
	}
	return 0;
}

static uint64_t data_bytes(struct archive_entry *ae, uint64_t size)
{
	la_int64_t off, len;
	uint64_t sum = 0;

	if (archive_entry_sparse_reset(ae) == 0)
		return size;
	while (archive_entry_sparse_next(ae, &off, &len) == ARCHIVE_OK)
		sum += (uint64_t)len;
	return sum;
}

/* What libarchive skips is counted when it was skipped: too late for an entry that is longer than all that may come. */
static int check_numbers(const struct reader *r, const char *path, struct archive_entry *ae, struct err *err)
{
	la_int64_t uid = archive_entry_uid(ae), gid = archive_entry_gid(ae), size = archive_entry_size(ae);

	if (uid < 0 || gid < 0 || uid >= UINT32_MAX || gid >= UINT32_MAX)
		return err_set(err, ERR_INVALID, "'%s': owner %lld:%lld is none", path, (long long)uid, (long long)gid);
	if (size < 0)
		return err_set(err, ERR_INVALID, "'%s': a size of %lld bytes", path, (long long)size);
	if (data_bytes(ae, (uint64_t)size) > r->budget->left)
		return err_set(err, ERR_INVALID,
			       "'%s' of %lld bytes: more than %llu bytes come out of the image's archives", path,
			       (long long)size, (unsigned long long)r->budget->max);
	return 0;
}

static int translate(struct reader *r, struct archive_entry *ae, struct image_entry *e, struct err *err)
{
	const char *hard = archive_entry_hardlink(ae);

	*e = (struct image_entry){ .path = archive_entry_pathname(ae), .is_hard_link = hard != NULL };
	if (!e->path)
		return err_set(err, ERR_INVALID, "an entry without a name that can be read");
	if (check_numbers(r, e->path, ae, err) < 0)
		return err->num;
	e->target = hard ? hard : archive_entry_symlink(ae);
	e->mode = archive_entry_mode(ae);
	e->uid = (uint32_t)archive_entry_uid(ae);
	e->gid = (uint32_t)archive_entry_gid(ae);
	e->major = (uint32_t)archive_entry_rdevmajor(ae);
	e->minor = (uint32_t)archive_entry_rdevminor(ae);
	if (archive_entry_mtime_is_set(ae)) {
		e->mtime = archive_entry_mtime(ae);
		e->mtime_ns = (uint32_t)archive_entry_mtime_nsec(ae);
	}
	if (entry_has_content(e)) {
		e->size = (uint64_t)archive_entry_size(ae);
		e->data_bytes = data_bytes(ae, e->size);
	}
	return take_xattrs(r, ae, e, err);
}

static int pass_content(struct reader *r, const struct image_entry *e, struct err *err)
{
	const void *bytes;
	la_int64_t off;
	size_t len;
	int got;

	while ((got = archive_read_data_block(r->a, &bytes, &len, &off)) == ARCHIVE_OK) {
		if (off < 0 || (uint64_t)off > e->size || len > e->size - (uint64_t)off)
			return err_set(err, ERR_INVALID, "%s: '%s' is longer than its %llu bytes", r->blob->what,
				       e->path, (unsigned long long)e->size);
		if (len && r->listener->data(r->listener->arg, bytes, len, (uint64_t)off, err) < 0)
			return err_wrap(err, "'%s'", e->path);
		if (spend(r, err) < 0)
			return err->num;
	}
	if (got != ARCHIVE_EOF)
		return complain(r, e->path, err);
	return r->listener->end(r->listener->arg, err);
}

/* 1: there was an entry. 0: the end. */
static int read_entry(struct reader *r, struct archive_entry *ae, struct err *err)
{
	struct image_entry e;

	int got = archive_read_next_header2(r->a, ae);
	if (got == ARCHIVE_EOF)
		return 0;
	if (got != ARCHIVE_OK)
		return complain(r, got == ARCHIVE_WARN ? archive_entry_pathname(ae) : NULL, err);
	if (spend(r, err) < 0)
		return err->num;
	if (translate(r, ae, &e, err) < 0)
		return err_wrap(err, "%s", r->blob->what);
	int wanted = r->listener->entry(r->listener->arg, &e, err);
	if (wanted < 0)
		return err_wrap(err, "%s", r->blob->what);
	if (wanted && pass_content(r, &e, err) < 0)
		return err->num;
	return 1;
}

static void free_archive(struct archive **a)
{
	if (*a)
		archive_read_free(*a);
}

static void free_entry(struct archive_entry **ae)
{
	archive_entry_free(*ae);
}

int layer_read(struct blob *blob, enum layer_pack pack, struct layer_budget *budget, const struct listener *listener,
	       struct err *err)
{
	struct archive *a __attribute__((cleanup(free_archive))) = archive_read_new();
	struct archive_entry *ae __attribute__((cleanup(free_entry))) = archive_entry_new();
	struct reader r = { .a = a, .blob = blob, .budget = budget, .listener = listener, .err = err };
	enum layer_pack found;
	int more;

	if (layer_sniff(blob, &found, err) < 0)
		return err->num;
	if (found != pack)
		return err_set(err, ERR_INVALID, "%s: should be %s, and its bytes are %s", blob->what, packs[pack].name,
			       packs[found].name);
	if (!a || !ae || packs[pack].filter(a) != ARCHIVE_OK || archive_read_support_format_tar(a) != ARCHIVE_OK)
		return err_num(err, ERR_INTERNAL, ENOMEM, "libarchive cannot read what is %s", packs[pack].name);
	if (archive_read_open(a, &r, NULL, read_piece, NULL) != ARCHIVE_OK)
		return complain(&r, NULL, err);
	do
		more = read_entry(&r, ae, err);
	while (more > 0);
	return more;
}
