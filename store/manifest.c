// SPDX-License-Identifier: Apache-2.0
/* What a snapshot consists of, and manifest.json: its table, its checks, to disk and back. */
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "store/store_internal.h"

static const char manifest_json[] = "manifest.json";
/* the manifest of the largest memory has 35 MB */
#define JSON_MAX_BYTES (256ULL << 20)

const char *const snapshot_files[STORE_FILES] = { "config.json", "memory-ranges", "state.json" };

const struct field store_file_fields[] = {
	F(struct store_file, name, .flags = F_REQUIRED),
	F(struct store_file, bytes, .flags = F_REQUIRED, .min = 1, .max = STORE_FILE_MAX_BYTES),
	F(struct store_file, allocated_bytes, .flags = F_REQUIRED),
	F(struct store_file, inode, .flags = F_REQUIRED),
	F(struct store_file, mtime_ns, .flags = F_REQUIRED),
	F(struct store_file, ctime_ns, .flags = F_REQUIRED),
	F_LIST(struct store_file, sha256, .flags = F_REQUIRED),
	F_END,
};

static const struct field disk_fields[] = {
	F(struct manifest_disk, id, .flags = F_REQUIRED),
	F(struct manifest_disk, path, .flags = F_REQUIRED),
	F(struct manifest_disk, bytes, .flags = F_REQUIRED),
	F(struct manifest_disk, image, .flags = F_NULL),
	F_END,
};

static const struct field payload_fields[] = {
	F(struct manifest_payload, kernel, .flags = F_REQUIRED),
	F(struct manifest_payload, initramfs),
	F_END,
};

static const struct field agent_fields[] = {
	F(struct manifest_agent, version, .flags = F_REQUIRED),
	F(struct manifest_agent, protocol, .flags = F_REQUIRED),
	F_END,
};

const struct field manifest_fields[] = {
	F(struct manifest, format, .flags = F_REQUIRED),
	F(struct manifest, name, .flags = F_REQUIRED),
	F(struct manifest, created_at, .flags = F_REQUIRED),
	F(struct manifest, program_version, .flags = F_REQUIRED),
	F(struct manifest, source, .flags = F_REQUIRED),
	F(struct manifest, parent, .flags = F_NULL),
	F(struct manifest, secrets),
	F(struct manifest, owner_uid, .def = UINT32_MAX),
	F(struct manifest, ram_bytes, .flags = F_REQUIRED),
	F(struct manifest, vcpus, .flags = F_REQUIRED),
	F(struct manifest, host_cpu, .flags = F_NULL),
	F_OBJ_PTR(struct manifest, needs, host_needs_fields),
	F_OBJ_PTR(struct manifest, agent, agent_fields),
	F_OBJ_LIST(struct manifest, disks, disk_fields),
	F_OBJ_PTR(struct manifest, payload, payload_fields),
	F_OBJ_LIST(struct manifest, files, store_file_fields, .flags = F_REQUIRED, .count = STORE_FILES),
	F_END,
};

int snapshot_check_file(unsigned index, const struct stat *st, struct err *err)
{
	const char *name = snapshot_files[index];
	uint64_t max = index == STORE_MEMORY ? STORE_FILE_MAX_BYTES : JSON_MAX_BYTES;

	if (S_ISLNK(st->st_mode))
		return err_set(err, ERR_INVALID, "%s is a symlink", name);
	if (!S_ISREG(st->st_mode))
		return err_set(err, ERR_INVALID, "%s is not a regular file", name);
	if (st->st_size == 0)
		return err_set(err, ERR_INVALID, "%s is empty", name);
	if ((uint64_t)st->st_size > max)
		return err_set(err, ERR_INVALID, "%s has %llu bytes, at most %llu are possible", name,
			       (unsigned long long)st->st_size, (unsigned long long)max);
	if (index == STORE_MEMORY && st->st_size % 4096)
		return err_set(err, ERR_INVALID, "%s has %llu bytes, not a multiple of 4096", name,
			       (unsigned long long)st->st_size);
	return 0;
}

static int write_as(int dir_fd, const char *name, const struct manifest *m, struct err *err)
{
	autostrbuf struct strbuf out = {};

	fields_save(manifest_fields, m, &out);
	strbuf_putc(&out, '\n');
	if (out.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write %s", name);
	return layout_write_file(dir_fd, name, &out, err);
}

int manifest_write(int dir_fd, const struct manifest *m, struct err *err)
{
	return write_as(dir_fd, manifest_json, m, err);
}

int manifest_replace(int dir_fd, const struct manifest *m, struct err *err)
{
	static const char new_name[] = "manifest.json.new";

	(void)unlinkat(dir_fd, new_name, 0); /* of a crash */
	if (write_as(dir_fd, new_name, m, err) < 0)
		return err->num;
	if (renameat(dir_fd, new_name, dir_fd, manifest_json) < 0)
		return err_sys(err, ERR_INTERNAL, "replace %s", manifest_json);
	if (fsync(dir_fd) < 0) /* it is replaced all the same */
		log_warn("template '%s': its new %s may not outlast a loss of power: %m", m->name, manifest_json);
	return 0;
}

static int check_file(const struct store_file *f, unsigned index, struct err *err)
{
	if (strcmp(f->name, snapshot_files[index]) != 0)
		return err_set(err, ERR_INTERNAL, "%s: files[%u] is '%.64s', not '%s'", manifest_json, index, f->name,
			       snapshot_files[index]);
	return sealed_check_digests(f, manifest_json, err);
}

/* The format is checked before anything else: another one may have other members. */
static int check_format(const struct json_node *root, struct err *err)
{
	const struct json_node *format = json_get(root, "format");

	if (!format || format->type != JSON_INT)
		return err_set(err, ERR_INTERNAL, "%s has no format number", manifest_json);
	if (format->negative || format->num != STORE_FORMAT)
		return err_set(err, ERR_INTERNAL, "%s has format %s%llu, this program knows %d", manifest_json,
			       format->negative ? "-" : "", (unsigned long long)format->num, STORE_FORMAT);
	return 0;
}

static int check_manifest(const struct manifest *m, const char *name, struct err *err)
{
	if (strcmp(m->name, name) != 0)
		return err_set(err, ERR_INTERNAL, "%s is that of template '%.64s'", manifest_json, m->name);
	if (m->n_files != STORE_FILES)
		return err_set(err, ERR_INTERNAL, "%s lists %u files, not %d", manifest_json, m->n_files, STORE_FILES);
	for (unsigned i = 0; i < STORE_FILES; i++)
		if (check_file(&m->files[i], i, err) < 0)
			return err->num;
	return 0;
}

static int parse(char *text, size_t len, const char *name, struct manifest *m, struct err *err)
{
	autojson struct json json = {};

	if (json_parse(&json, text, len, err) < 0)
		return err_wrap(err, "%s", manifest_json);
	if (check_format(&json.nodes[0], err) < 0 ||
	    fields_load(manifest_fields, m, &json.nodes[0], manifest_json, err) < 0)
		return err->num;
	return check_manifest(m, name, err);
}

int manifest_read(int dir_fd, const char *name, struct manifest *ret, struct err *err)
{
	struct manifest m;
	autofree char *text = NULL;
	size_t len = 0;

	if (layout_read_file(dir_fd, manifest_json, JSON_MAX_BYTES, &text, &len, err) < 0)
		return err->num;
	fields_init(manifest_fields, &m);
	if (parse(text, len, name, &m, err) < 0) {
		fields_free(manifest_fields, &m);
		err->code = ERR_INTERNAL; /* the fault is not in the caller's input */
		return err->num;
	}
	*ret = m;
	return 0;
}
