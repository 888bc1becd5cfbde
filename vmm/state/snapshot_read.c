// SPDX-License-Identifier: Apache-2.0
/*
 * Opens, parses and checks the three files. memfile.c maps memory-ranges, or memfile.c or ondemand.c
 * reads it.
 */
#include "vmm/state/snapshot_read.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "vmm/core/host_open.h"
#include "vmm/state/state.h"

enum { JSON_MAX_BYTES = 256 << 20 };

int snapshot_open_dir(const char *url, char **ret_dir, int *ret_fd, struct err *err)
{
	const char *path = url_path(url, err);
	struct stat st;

	if (!path)
		return err->num;
	autoclose int fd = stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? host_open(path, O_RDONLY | O_DIRECTORY, 0)
								       : -1;
	if (fd < 0)
		return err_set(err, ERR_INTERNAL, "Destination is not a directory: \"%s\"", path);
	*ret_dir = strdup(path);
	if (!*ret_dir)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open \"%s\"", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}

static int open_file(int dir_fd, const char *dir, const char *name, const char *what, uint64_t *ret_bytes,
		     struct err *err)
{
	struct stat st;
	autoclose int fd = openat(dir_fd, name, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "Error opening %s file \"%s/%s\"", what, dir, name);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, ERR_INTERNAL, "\"%s/%s\" is not a regular file", dir, name);
	*ret_bytes = (uint64_t)st.st_size;
	return steal_fd(&fd);
}

static int read_json(int dir_fd, const char *dir, const char *name, const char *what, char **ret_text,
		     struct json *json, struct err *err)
{
	uint64_t bytes;
	autoclose int fd = open_file(dir_fd, dir, name, what, &bytes, err);

	if (fd < 0)
		return err->num;
	if (bytes > JSON_MAX_BYTES)
		return err_set(err, ERR_INVALID, "%s of %llu bytes is too long", name, (unsigned long long)bytes);
	char *text = malloc(bytes + 1);
	*ret_text = text;
	if (!text)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read %s", name);
	ssize_t n = io_read(fd, text, bytes, 0);
	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read \"%s/%s\"", dir, name);
	if ((uint64_t)n < bytes)
		return err_set(err, ERR_INVALID, "%s was cut short while it was read", name);
	if (json_parse(json, text, bytes, err) < 0) {
		err_wrap(err, "\"%s/%s\"", dir, name);
		return err_wrap(err, "Error deserialising %s", what);
	}
	return 0;
}

static int not_received(struct err *err)
{
	err_wrap(err, "Failed to receive migratable component snapshot");
	return err_wrap(err, "Cannot restore VM");
}

static int open_files(struct snapshot *snap, int dir_fd, struct err *err)
{
	if (read_json(dir_fd, snap->dir, "config.json", "VM config snapshot", &snap->config_text, &snap->config, err) <
		    0 ||
	    read_json(dir_fd, snap->dir, "state.json", "VM state snapshot", &snap->state_text, &snap->state, err) < 0)
		return not_received(err);
	snap->mem_fd = open_file(dir_fd, snap->dir, "memory-ranges", "snapshot", &snap->mem_bytes, err);
	return snap->mem_fd < 0 ? err_wrap(err, "Memory manager error") : 0;
}

int snapshot_open_at(struct snapshot *snap, int dir_fd, const char *dir, struct err *err)
{
	*snap = (struct snapshot){ .mem_fd = -1, .dir = strdup(dir) };
	return snap->dir ? open_files(snap, dir_fd, err) : err_num(err, ERR_INTERNAL, ENOMEM, "open \"%s\"", dir);
}

int snapshot_open(struct snapshot *snap, const char *source_url, struct err *err)
{
	autofree char *dir = NULL;
	autoclose int dir_fd = -1;

	*snap = (struct snapshot){ .mem_fd = -1 };
	if (snapshot_open_dir(source_url, &dir, &dir_fd, err) < 0) {
		err_wrap(err, "Failed to send migratable component snapshot");
		return err_wrap(err, "Cannot restore VM");
	}
	return snapshot_open_at(snap, dir_fd, dir, err);
}

void snapshot_close(struct snapshot *snap)
{
	if (snap->mem_fd >= 0)
		close(snap->mem_fd);
	json_done(&snap->config);
	json_done(&snap->state);
	free(snap->config_text);
	free(snap->state_text);
	free(snap->dir);
	memfile_plan_done(&snap->plan);
	*snap = (struct snapshot){ .mem_fd = -1 };
}

int snapshot_config(const struct snapshot *snap, struct vm_config *config, struct err *err)
{
	if (fields_load(vm_config_fields, config, &snap->config.nodes[0], "config.json", err) >= 0)
		return 0;
	err_wrap(err, "Error deserialising VM config snapshot");
	return not_received(err);
}

struct memory_range {
	uint64_t gpa, length;
};

struct memory_state {
	struct {
		struct memory_range *data;
		uint32_t n_data;
	} memory_ranges;
};

typedef __typeof__(((struct memory_state *)0)->memory_ranges) range_list;

static const struct field range_fields[] = {
	F(struct memory_range, gpa, .flags = F_REQUIRED),
	F(struct memory_range, length, .flags = F_REQUIRED),
	F_END,
};
static const struct field ranges_fields[] = {
	F_OBJ_LIST(range_list, data, range_fields, .flags = F_REQUIRED, .count = 64),
	F_END,
};
static const struct field memory_fields_in[] = {
	F_OBJ(struct memory_state, memory_ranges, ranges_fields, .flags = F_REQUIRED),
	F_END,
};

static int check_ranges(const struct memory_state *s, const struct gmem *mem, struct err *err)
{
	if (s->memory_ranges.n_data != mem->n)
		return err_set(err, ERR_INVALID,
			       "state.json: memory-manager has %u memory ranges, RAM of %llu bytes has %u",
			       s->memory_ranges.n_data, (unsigned long long)mem->size, mem->n);
	for (unsigned i = 0; i < mem->n; i++) {
		const struct memory_range *r = &s->memory_ranges.data[i];
		if (r->gpa != mem->region[i].gpa || r->length != mem->region[i].size)
			return err_set(err, ERR_INVALID,
				       "state.json: memory-manager: range %u is 0x%llx+0x%llx, expected 0x%llx+0x%llx",
				       i, (unsigned long long)r->gpa, (unsigned long long)r->length,
				       (unsigned long long)mem->region[i].gpa, (unsigned long long)mem->region[i].size);
	}
	return 0;
}

int snapshot_check_memory(struct snapshot *snap, const struct gmem *mem, struct err *err)
{
	struct memory_state s = {};

	int r = state_load_leaf(&snap->state.nodes[0], "memory-manager", memory_fields_in, &s, err);
	if (r == 0)
		r = check_ranges(&s, mem, err);
	fields_free(memory_fields_in, &s);
	if (r < 0)
		return r;
	if (snap->mem_bytes != mem->size)
		return err_set(err, ERR_INVALID, "\"%s/memory-ranges\" has %llu bytes, guest RAM has %llu", snap->dir,
			       (unsigned long long)snap->mem_bytes, (unsigned long long)mem->size);
	memfile_plan_done(&snap->plan);
	return memfile_plan(&snap->plan, snap->mem_fd, mem, err);
}

int snapshot_map_memory(struct snapshot *snap, struct gmem *mem, struct err *err)
{
	return memfile_map(&snap->plan, &snap->mem_fd, mem, err) < 0
		       ? err_wrap(err, "map \"%s/memory-ranges\"", snap->dir)
		       : 0;
}

int snapshot_read_memory(const struct snapshot *snap, const struct gmem *mem, struct err *err)
{
	return memfile_read(snap->mem_fd, mem, err) < 0 ? err_wrap(err, "read \"%s/memory-ranges\"", snap->dir) : 0;
}
