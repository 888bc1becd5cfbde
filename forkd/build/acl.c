// SPDX-License-Identifier: Apache-2.0
/* The binary form is the kernel's: a version, then tag, permissions and number of each line, all little-endian, in the order of the tags. */
#include "forkd/build/acl.h"

#include <archive.h>
#include <endian.h>
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>
#include <string.h>

#include "common/auto.h"

enum {
	LINES_MAX =
		(IMAGE_XATTR_BYTES_MAX - sizeof(struct posix_acl_xattr_header)) / sizeof(struct posix_acl_xattr_entry)
};

static const struct {
	int theirs;
	uint16_t ours;
	bool has_id;
} tags[] = {
	{ ARCHIVE_ENTRY_ACL_USER_OBJ, ACL_USER_OBJ, false },   { ARCHIVE_ENTRY_ACL_USER, ACL_USER, true },
	{ ARCHIVE_ENTRY_ACL_GROUP_OBJ, ACL_GROUP_OBJ, false }, { ARCHIVE_ENTRY_ACL_GROUP, ACL_GROUP, true },
	{ ARCHIVE_ENTRY_ACL_MASK, ACL_MASK, false },           { ARCHIVE_ENTRY_ACL_OTHER, ACL_OTHER, false },
};

static int by_tag(const void *a, const void *b)
{
	const struct posix_acl_xattr_entry *x = a, *y = b;

	if (x->e_tag != y->e_tag)
		return le16toh(x->e_tag) < le16toh(y->e_tag) ? -1 : 1;
	return le32toh(x->e_id) < le32toh(y->e_id) ? -1 : le32toh(x->e_id) > le32toh(y->e_id);
}

/* GNU tar writes the number where the name is when it knows no name. */
static bool number_of(const char *name, int id, uint32_t *ret_id)
{
	char *end;

	if (id >= 0) {
		*ret_id = (uint32_t)id;
		return true;
	}
	if (!name || *name < '0' || *name > '9')
		return false;
	unsigned long n = strtoul(name, &end, 10);
	*ret_id = (uint32_t)n;
	return !*end && n < UINT32_MAX;
}

/* `line->e_id` has come from number_of() already. */
static int read_line(int theirs, int permissions, bool has_number, struct posix_acl_xattr_entry *line, struct err *err)
{
	for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
		if (tags[i].theirs != theirs)
			continue;
		if (tags[i].has_id && !has_number)
			return err_set(err, ERR_INVALID, "its access control list names somebody without a number");
		line->e_tag = htole16(tags[i].ours);
		line->e_perm = htole16((uint16_t)(permissions & 7));
		line->e_id = htole32(tags[i].has_id ? line->e_id : (uint32_t)ACL_UNDEFINED_ID);
		return 0;
	}
	return err_set(err, ERR_INVALID, "its access control list is none of POSIX");
}

static int read_list(struct archive_entry *ae, int type, struct acl *ret, struct err *err)
{
	const struct posix_acl_xattr_header header = { htole32(POSIX_ACL_XATTR_VERSION) };
	struct posix_acl_xattr_entry lines[LINES_MAX];
	int kind, permissions, tag, id, n = archive_entry_acl_reset(ae, type);
	const char *name;
	size_t used = 0;

	ret->n = 0;
	if (n == 0)
		return 0;
	while (archive_entry_acl_next(ae, type, &kind, &permissions, &tag, &id, &name) == ARCHIVE_OK) {
		if (used == LINES_MAX)
			return err_set(err, ERR_INVALID, "its access control list has more than %d lines", LINES_MAX);
		struct posix_acl_xattr_entry *line = &lines[used++];
		bool has_number = number_of(name, id, &line->e_id);
		if (read_line(tag, permissions, has_number, line, err) < 0)
			return err->num;
	}
	qsort(lines, used, sizeof(lines[0]), by_tag);
	memcpy(ret->bytes, &header, sizeof(header));
	memcpy(ret->bytes + sizeof(header), lines, used * sizeof(lines[0]));
	ret->n = (uint32_t)(sizeof(header) + used * sizeof(lines[0]));
	return 0;
}

/* The mask, if the list has one. */
static void use_mask(const struct acl *acl, uint32_t *mode)
{
	struct posix_acl_xattr_entry line;

	for (size_t at = sizeof(struct posix_acl_xattr_header); at < acl->n; at += sizeof(line)) {
		memcpy(&line, acl->bytes + at, sizeof(line));
		if (le16toh(line.e_tag) == ACL_MASK)
			*mode = (*mode & ~070U) | (uint32_t)(le16toh(line.e_perm) & 7) << 3;
	}
}

int acl_read(struct archive_entry *ae, struct acl *ret_access, struct acl *ret_default, uint32_t *mode, struct err *err)
{
	if (archive_entry_acl_types(ae) & ARCHIVE_ENTRY_ACL_TYPE_NFS4)
		return err_set(err, ERR_INVALID, "its access control list is one of NFSv4");
	if (read_list(ae, ARCHIVE_ENTRY_ACL_TYPE_ACCESS, ret_access, err) < 0 ||
	    read_list(ae, ARCHIVE_ENTRY_ACL_TYPE_DEFAULT, ret_default, err) < 0)
		return err->num;
	use_mask(ret_access, mode);
	return 0;
}
