// SPDX-License-Identifier: Apache-2.0
/* clone.json, and the small values in it: ids, times, labels. */
#include "forkd/registry/record.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "common/ctl.h"
#include "forkd/errors.h"
#include "store/images.h"

enum { RECORD_MAX_BYTES = 1 << 20 };

const char *const identity_states[] = { "unmanaged", "pending", "unique", NULL };

const struct field label_fields[] = {
	F(struct label, key, .flags = F_REQUIRED),
	F(struct label, value, .flags = F_REQUIRED),
	F_END,
};

static const struct field net_fields[] = {
	F(struct record_net, id, .flags = F_REQUIRED),
	F(struct record_net, tap),
	F(struct record_net, slot),
	F(struct record_net, address),
	F(struct record_net, address6),
	F(struct record_net, guest_address),
	F(struct record_net, guest_address6),
	F(struct record_net, network),
	F_END,
};

static const struct field overlay_fields[] = {
	F(struct record_overlay, name, .flags = F_REQUIRED),
	F_ENUM(struct record_overlay, type, store_image_types, .flags = F_REQUIRED),
	F(struct record_overlay, image),
	F_END,
};

static const struct field disk_fields[] = {
	F(struct record_disk, id, .flags = F_REQUIRED),
	F_OBJ_LIST(struct record_disk, overlays, overlay_fields, .flags = F_REQUIRED),
	F(struct record_disk, image, .flags = F_REQUIRED),
	F(struct record_disk, path, .flags = F_REQUIRED),
	F_END,
};

static const struct field file_fields[] = {
	F(struct sock_file, dev),
	F(struct sock_file, ino),
	F(struct sock_file, born_ns),
	F_END,
};

const struct field record_fields[] = {
	F(struct record, id, .flags = F_REQUIRED),
	F(struct record, template, .flags = F_REQUIRED),
	F(struct record, pid, .flags = F_REQUIRED),
	F(struct record, uid, .flags = F_REQUIRED),
	F(struct record, gid, .flags = F_REQUIRED),
	F_ENUM(struct record, memory_restore_mode, ctl_memory_modes, .flags = F_REQUIRED),
	F_ENUM(struct record, clock, ctl_clocks), /* absent in records of earlier versions, whose clocks advance */
	F_ENUM(struct record, identity, identity_states),
	F(struct record, frozen),
	F(struct record, frozen_reboots),
	F(struct record, wished),
	F(struct record, secrets),
	F_OBJ_LIST(struct record, net, net_fields),
	F_OBJ_LIST(struct record, disks, disk_fields),
	F(struct record, serial),
	F(struct record, serial_socket),
	F(struct record, console),
	F(struct record, console_socket),
	F(struct record, vsock_socket),
	F_OBJ(struct record, vsock_file, file_fields),
	F_OBJ_LIST(struct record, labels, label_fields),
	F(struct record, ttl_s),
	F(struct record, expires_ns),
	F(struct record, created_at, .flags = F_REQUIRED),
	F(struct record, begun_ns),
	F(struct record, accepted_ns),
	F_END,
};

void record_free(struct record *r)
{
	fields_free(record_fields, r);
}

void record_new_id(char ret_id[CLONE_ID_CHARS + 1])
{
	static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";
	uint8_t random[CLONE_ID_CHARS];

	while (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
		;
	memcpy(ret_id, "c-", 2);
	for (unsigned i = 2; i < CLONE_ID_CHARS; i++)
		ret_id[i] = digits[random[i] % 32];
	ret_id[CLONE_ID_CHARS] = '\0';
}

int record_save(const struct record *r, int dir_fd, struct err *err)
{
	autostrbuf struct strbuf text = {};

	fields_save(record_fields, r, &text);
	strbuf_putc(&text, '\n');
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write the record of clone '%s'", r->id);
	autoclose int fd =
		openat(dir_fd, "clone.json.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	ssize_t n = fd < 0 ? -1 : write(fd, text.text, text.len);
	if (n < 0)
		return err_sys(err, ERR_INTERNAL, "write the record of clone '%s'", r->id);
	return (size_t)n == text.len ? 0 : err_num(err, ERR_INTERNAL, ENOSPC, "write the record of clone '%s'", r->id);
}

int record_commit(int dir_fd, struct err *err)
{
	if (renameat(dir_fd, "clone.json.new", dir_fd, "clone.json") < 0)
		return err_sys(err, ERR_INTERNAL, "replace clone.json");
	return 0;
}

int record_load(struct record *ret, int dir_fd, bool *ret_committed, struct err *err)
{
	struct stat st;
	autoclose int fd = openat(dir_fd, "clone.json", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	*ret_committed = fd >= 0;
	if (fd < 0 && errno == ENOENT)
		fd = openat(dir_fd, "clone.json.new", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return err_sys(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_INTERNAL, "open clone.json");
	if (fstat(fd, &st) < 0 || st.st_size > RECORD_MAX_BYTES)
		return err_set(err, ERR_INTERNAL, "clone.json is too long");
	autofree char *text = malloc((size_t)st.st_size + 1);
	ssize_t n = text ? read(fd, text, (size_t)st.st_size) : -1;
	if (n < 0)
		return err_sys(err, ERR_INTERNAL, "read clone.json");
	autojson struct json json = {};
	if (json_parse(&json, text, (size_t)n, err) < 0)
		return err_wrap(err, "clone.json");
	fields_init(record_fields, ret);
	if (fields_load(record_fields, ret, &json.nodes[0], "clone.json", err) < 0)
		return err->num;
	for (uint32_t i = 0; i < ret->n_disks; i++)
		if (ret->disks[i].n_overlays == 0)
			return err_set(err, ERR_INTERNAL, "clone.json: disk '%s' has no overlay", ret->disks[i].id);
	return 0;
}

void labels_free(struct label *labels, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		free(labels[i].key);
		free(labels[i].value);
	}
	free(labels);
}

static int label_check(const struct json_node *node, const char *what, struct err *err)
{
	size_t len = strlen(node->key);

	if (len < 1 || len > LABEL_CHARS_MAX)
		return fail(err, E_INVALID, "%s: the key '%.80s' must have 1 to %d bytes", what, node->key,
			    LABEL_CHARS_MAX);
	if (node->type != JSON_STRING)
		return fail(err, E_INVALID, "%s.%s: expected a string, found %s", what, node->key,
			    json_type_name(node));
	if (node->count > LABEL_CHARS_MAX)
		return fail(err, E_INVALID, "%s.%s: the value has %u bytes, at most %d are possible", what, node->key,
			    node->count, LABEL_CHARS_MAX);
	return 0;
}

int labels_load(const struct json_node *node, const char *what, struct label **ret, uint32_t *ret_n, struct err *err)
{
	struct label *labels;
	uint32_t n = 0;

	if (node->type != JSON_OBJECT)
		return fail(err, E_INVALID, "%s: expected an object, found %s", what, json_type_name(node));
	if (node->count > LABELS_MAX)
		return fail(err, E_INVALID, "%s: %u labels, at most %d are possible", what, node->count, LABELS_MAX);
	for (json_each(child, node))
		if (label_check(child, what, err) < 0)
			return err->num;
	labels = calloc(node->count + 1UL, sizeof(*labels));
	for (json_each(child, node)) {
		if (!labels)
			break;
		labels[n++] = (struct label){ strdup(child->key), strdup(child->str) };
		if (!labels[n - 1].key || !labels[n - 1].value) {
			labels_free(labels, n);
			labels = NULL;
		}
	}
	if (!labels)
		return err_num(err, ERR_INTERNAL, ENOMEM, "keep labels");
	*ret = labels;
	*ret_n = n;
	return 0;
}

int labels_copy(const struct label *from, uint32_t n, struct label **ret, struct err *err)
{
	struct label *labels = calloc(n + 1UL, sizeof(*labels));

	for (uint32_t i = 0; labels && i < n; i++) {
		labels[i] = (struct label){ strdup(from[i].key), strdup(from[i].value) };
		if (!labels[i].key || !labels[i].value) {
			labels_free(labels, n);
			labels = NULL;
		}
	}
	if (!labels)
		return err_num(err, ERR_INTERNAL, ENOMEM, "keep labels");
	*ret = labels;
	return 0;
}

void labels_json(const struct label *labels, uint32_t n, struct strbuf *out)
{
	strbuf_putc(out, '{');
	for (uint32_t i = 0; i < n; i++) {
		if (i)
			strbuf_putc(out, ',');
		strbuf_json(out, labels[i].key, strlen(labels[i].key));
		strbuf_putc(out, ':');
		strbuf_json(out, labels[i].value, strlen(labels[i].value));
	}
	strbuf_putc(out, '}');
}
