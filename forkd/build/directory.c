// SPDX-License-Identifier: Apache-2.0
/* Walks down by descriptors, so that no name is looked up twice. */
#include "forkd/build/directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "common/io.h"
#include "forkd/build/limits.h"

enum { XATTR_LIST_BYTES = 65536, CONTENT_PIECE = 256 << 10 };

/* Files with more than one name that were told, by device and inode. */
struct seen {
	dev_t dev;
	ino_t ino;
	char path[];
};

struct walker {
	const struct listener *listener;
	gnutls_hash_hd_t hash;
	void *seen; /* of tsearch(): struct seen */
	char path[IMAGE_PATH_MAX + 2], target[IMAGE_PATH_MAX + 1];
	unsigned depth;
	uint64_t n_entries;
	struct xattr xattrs[IMAGE_XATTRS_MAX + 1];
	char names[XATTR_LIST_BYTES], values[XATTR_LIST_BYTES];
	char *piece;
};

static int compare(const void *a, const void *b)
{
	const struct seen *x = a, *y = b;

	if (x->dev != y->dev)
		return x->dev < y->dev ? -1 : 1;
	return x->ino < y->ino ? -1 : x->ino > y->ino;
}

/* The name under which the file was told before; NULL: never, and it is noted. */
static const char *seen_before(struct walker *w, const struct stat *st)
{
	struct seen *s = malloc(sizeof(*s) + strlen(w->path) + 1);

	if (!s)
		return NULL;
	*s = (struct seen){ .dev = st->st_dev, .ino = st->st_ino };
	memcpy(s->path, w->path, strlen(w->path) + 1);
	struct seen **found = tsearch(s, &w->seen, compare);
	if (found && *found == s)
		return NULL;
	free(s);
	return found ? (*found)->path : NULL;
}

/* Attributes of an open file. A file system that has none is no error. */
static int read_xattrs(struct walker *w, int fd, struct image_entry *e, struct err *err)
{
	ssize_t n = flistxattr(fd, w->names, sizeof(w->names));
	size_t used = 0;

	for (const char *name = w->names; n > 0 && name < w->names + n; name += strlen(name) + 1) {
		if (e->n_xattrs == ARRAY_LEN(w->xattrs))
			break; /* one more than there may be: refused by name */
		ssize_t len = fgetxattr(fd, name, w->values + used, sizeof(w->values) - used);
		if (len < 0)
			return err_sys(err, ERR_INVALID, "'%s': read attribute '%s'", w->path, name);
		w->xattrs[e->n_xattrs++] = (struct xattr){ .name = (char *)(uintptr_t)name,
							   .value = w->values + used,
							   .bytes = (uint32_t)len };
		used += (size_t)len;
	}
	e->xattrs = w->xattrs;
	return n < 0 && errno != ENOTSUP && errno != EBADF ? err_sys(err, ERR_INVALID, "'%s': list attributes", w->path)
							   : 0;
}

static void hash_text(struct walker *w, const char *text)
{
	gnutls_hash(w->hash, text, strlen(text) + 1);
}

static void hash_entry(struct walker *w, const struct image_entry *e)
{
	char line[200];

	hash_text(w, e->path);
	hash_text(w, e->target ? e->target : "");
	snprintf(line, sizeof(line), "%d %o %u:%u %u:%u %lld.%u %llu %u", e->is_hard_link, e->mode, e->uid, e->gid,
		 e->major, e->minor, (long long)e->mtime, e->mtime_ns, (unsigned long long)e->size, e->n_xattrs);
	hash_text(w, line);
	for (uint32_t i = 0; i < e->n_xattrs; i++) {
		snprintf(line, sizeof(line), "%u", e->xattrs[i].bytes);
		hash_text(w, line);
		hash_text(w, e->xattrs[i].name);
		gnutls_hash(w->hash, e->xattrs[i].value, e->xattrs[i].bytes);
	}
}

static int read_content(struct walker *w, int fd, const struct image_entry *e, bool wanted, struct err *err)
{
	struct stat now;
	ssize_t n = 0;

	for (uint64_t at = 0; at < e->size; at += (uint64_t)n) {
		uint64_t left = e->size - at;
		n = io_read(fd, w->piece, left < CONTENT_PIECE ? left : CONTENT_PIECE, at);
		if (n < 0)
			return err_num(err, ERR_INVALID, (int)-n, "read '%s'", e->path);
		if (n == 0)
			break;
		gnutls_hash(w->hash, w->piece, (size_t)n);
		if (wanted && w->listener->data(w->listener->arg, w->piece, (uint64_t)n, at, err) < 0)
			return err_wrap(err, "'%s'", e->path);
	}
	if (fstat(fd, &now) < 0 || (uint64_t)now.st_size != e->size || (n == 0 && e->size))
		return err_set(err, ERR_INVALID, "'%s' changed while it was read", e->path);
	return wanted ? w->listener->end(w->listener->arg, err) : 0;
}

static int tell(struct walker *w, int fd, struct image_entry *e, struct err *err)
{
	hash_entry(w, e);
	int wanted = w->listener->entry(w->listener->arg, e, err);
	if (wanted < 0 || !entry_has_content(e))
		return wanted < 0 ? err->num : 0;
	return read_content(w, fd, e, wanted > 0, err);
}

static int walk_below(struct walker *w, int dir_fd, struct err *err);

/* O_PATH for what cannot or must not be opened: links, devices, sockets. */
static int open_file(const struct walker *w, int dir_fd, const char *name, const struct stat *st, struct err *err)
{
	bool readable = S_ISREG(st->st_mode) || S_ISDIR(st->st_mode);
	int fd = openat(dir_fd, name, (readable ? O_RDONLY | O_NONBLOCK : O_PATH) | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC);

	return fd < 0 ? err_sys(err, ERR_INVALID, "open '%s'", w->path) : fd;
}

static int describe(struct walker *w, int dir_fd, const char *name, const struct stat *st, struct image_entry *e,
		    struct err *err)
{
	*e = (struct image_entry){ .path = w->path,
				   .mode = st->st_mode,
				   .uid = st->st_uid,
				   .gid = st->st_gid,
				   .mtime = st->st_mtim.tv_sec,
				   .mtime_ns = (uint32_t)st->st_mtim.tv_nsec };
	if (S_ISREG(st->st_mode)) {
		uint64_t allocated = (uint64_t)st->st_blocks * 512;
		e->size = (uint64_t)st->st_size;
		e->data_bytes = allocated < e->size ? allocated : e->size;
	} else if (S_ISLNK(st->st_mode)) {
		ssize_t n = readlinkat(dir_fd, name, w->target, sizeof(w->target) - 1);
		if (n < 0)
			return err_sys(err, ERR_INVALID, "read the link '%s'", w->path);
		w->target[n] = '\0';
		e->target = w->target;
	} else if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
		e->major = major(st->st_rdev);
		e->minor = minor(st->st_rdev);
	}
	if (!S_ISDIR(st->st_mode) && st->st_nlink > 1) {
		const char *first = seen_before(w, st);
		e->is_hard_link = first != NULL;
		e->target = first ? first : e->target;
	}
	return 0;
}

static int visit(struct walker *w, int dir_fd, const char *name, struct err *err)
{
	struct stat st, opened;
	struct image_entry e;

	if (++w->n_entries > IMAGE_ENTRIES_MAX)
		return err_set(err, ERR_INVALID, "'%s': the image has more than %d entries", w->path,
			       IMAGE_ENTRIES_MAX);
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, ERR_INVALID, "look at '%s'", w->path);
	autoclose int fd = open_file(w, dir_fd, name, &st, err);
	if (fd < 0)
		return err->num;
	if (fstat(fd, &opened) < 0 || opened.st_ino != st.st_ino || opened.st_dev != st.st_dev)
		return err_set(err, ERR_INVALID, "'%s' changed while it was read", w->path);
	if (describe(w, dir_fd, name, &st, &e, err) < 0 || read_xattrs(w, fd, &e, err) < 0 || tell(w, fd, &e, err) < 0)
		return err->num;
	return S_ISDIR(st.st_mode) ? walk_below(w, fd, err) : 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_file(const struct dirent *e)
{
	return strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
}

static int walk_below(struct walker *w, int dir_fd, struct err *err)
{
	size_t at = strlen(w->path);
	struct dirent **names = NULL;
	int r = 0;

	if (++w->depth > IMAGE_DEPTH_MAX)
		return err_set(err, ERR_INVALID, "'%.60s…': more than %d directories inside each other", w->path,
			       IMAGE_DEPTH_MAX);
	int n = scandirat(dir_fd, ".", &names, is_file, by_bytes);
	if (n < 0)
		return err_sys(err, ERR_INVALID, "list '%s'", w->path);
	for (int i = 0; i < n; i++) {
		const char *name = names[i]->d_name;
		if (r == 0 && at + 1 + strlen(name) > IMAGE_PATH_MAX)
			r = err_set(err, ERR_INVALID, "'%.60s…': a path of more than %d bytes", w->path,
				    IMAGE_PATH_MAX);
		if (r == 0) {
			snprintf(w->path + at, sizeof(w->path) - at, "/%s", name);
			r = visit(w, dir_fd, name, err);
		}
		free(names[i]);
	}
	free(names);
	w->path[at] = '\0';
	w->depth--;
	return r;
}

static int walk_root(struct walker *w, int dir_fd, struct err *err)
{
	struct stat st;
	struct image_entry e;

	if (fstat(dir_fd, &st) < 0)
		return err_sys(err, ERR_INTERNAL, "look at the directory");
	snprintf(w->path, sizeof(w->path), ".");
	if (describe(w, dir_fd, ".", &st, &e, err) < 0 || read_xattrs(w, dir_fd, &e, err) < 0 ||
	    tell(w, dir_fd, &e, err) < 0)
		return err->num;
	return walk_below(w, dir_fd, err);
}

int directory_read(int dir_fd, const struct listener *listener, char *ret_digest, struct err *err)
{
	autofree struct walker *w = calloc(1, sizeof(*w));
	autofree char *piece = malloc(CONTENT_PIECE);
	unsigned char sum[BLOB_SUM];

	if (!w || !piece || gnutls_hash_init(&w->hash, GNUTLS_DIG_SHA256) < 0)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the directory");
	w->listener = listener;
	w->piece = piece;
	listener->layer(listener->arg, false);
	int r = walk_root(w, dir_fd, err);
	gnutls_hash_deinit(w->hash, sum);
	tdestroy(w->seen, free);
	blob_digest_text(sum, ret_digest);
	return r < 0 ? r : 0;
}
