// SPDX-License-Identifier: Apache-2.0
/* Reading and writing snapshot directories. The memory file is in memfile.c. */
#include "vmm/snapshot/snapshot_write.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "common/io.h"
#include "vmm/core/host_open.h"
#include "vmm/machine/devices.h"
#include "vmm/machine/hotplug.h"
#include "vmm/state/memfile.h"
#include "vmm/state/state.h"

enum { JSON_MAX_BYTES = 256 << 20 };

/* ---- reading ---- */

static int open_dir(const char *url, char **ret_dir, int *ret_fd, struct err *err)
{
	const char *path = url_path(url, err);
	struct stat st;

	if (!path)
		return err->num;
	int fd = stat(path, &st) == 0 && S_ISDIR(st.st_mode) ? host_open(path, O_RDONLY | O_DIRECTORY, 0) : -1;
	if (fd < 0)
		return err_set(err, ERR_INTERNAL, "Destination is not a directory: \"%s\"", path);
	*ret_dir = strdup(path);
	*ret_fd = fd;
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
	if (open_dir(source_url, &dir, &dir_fd, err) < 0) {
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

int snapshot_check_memory(const struct snapshot *snap, const struct gmem *mem, struct err *err)
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
	return 0;
}

int snapshot_read_memory(const struct snapshot *snap, const struct gmem *mem, struct err *err)
{
	return memfile_read(snap->mem_fd, mem, err) < 0 ? err_wrap(err, "read \"%s/memory-ranges\"", snap->dir) : 0;
}

/* ---- writing ---- */

static void save_memory_manager(const struct vm *vm, struct strbuf *out)
{
	autostrbuf struct strbuf s = {};
	const struct gmem *mem = &vm->mem;
	const struct gmem_region *last = &mem->region[mem->n - 1];

	strbuf_puts(&s, "{\"memory_ranges\":{\"data\":[");
	for (unsigned i = 0; i < mem->n; i++)
		strbuf_printf(&s, "%s{\"gpa\":%llu,\"length\":%llu}", i ? "," : "",
			      (unsigned long long)mem->region[i].gpa, (unsigned long long)mem->region[i].size);
	strbuf_puts(&s, "]},\"guest_ram_mappings\":[");
	for (unsigned i = 0; i < mem->n; i++)
		strbuf_printf(&s,
			      "%s{\"slot\":%u,\"gpa\":%llu,\"size\":%llu,\"zone_id\":\"mem0\",\"virtio_mem\":false,"
			      "\"file_offset\":0}",
			      i ? "," : "", i, (unsigned long long)mem->region[i].gpa,
			      (unsigned long long)mem->region[i].size);
	uint64_t device_area = arch_device_area(last->gpa + last->size);
	strbuf_printf(&s,
		      "],\"start_of_device_area\":%llu,\"boot_ram\":%llu,\"current_ram\":%llu,\"arch_mem_regions\":",
		      (unsigned long long)device_area, (unsigned long long)mem->size, (unsigned long long)mem->size);
	arch_memory_regions_save(&s);
	strbuf_puts(&s, ",\"hotplug_slots\":[");
	for (unsigned i = 0; i < 8; i++)
		strbuf_printf(&s, "%s{\"base\":0,\"length\":0,\"active\":false,\"inserting\":false,\"removing\":false}",
			      i ? "," : "");
	strbuf_printf(&s, "],\"next_memory_slot\":%u,\"selected_slot\":0,\"next_hotplug_slot\":0}", mem->n);
	state_open(out, "memory-manager");
	state_close(out, &s);
}

static int id_order(const void *a, const void *b)
{
	return strcmp(a, b);
}

static int save_vcpus(struct vm *vm, struct strbuf *out, struct err *err)
{
	char ids[MAX_VCPUS][4];

	for (unsigned i = 0; i < vm->vcpus.n; i++)
		snprintf(ids[i], sizeof(ids[i]), "%u", i % 1000);
	qsort(ids, vm->vcpus.n, sizeof(ids[0]), id_order);
	state_open(out, "cpu-manager");
	for (unsigned i = 0; i < vm->vcpus.n; i++) {
		struct vcpu_state state;
		int r = arch_vcpu_save(&vm->vcpus.vcpu[atoi(ids[i])], &state, err);
		if (r == 0)
			state_leaf(out, ids[i], vcpu_state_fields, &state);
		fields_free(vcpu_state_fields, &state);
		if (r < 0)
			return r;
	}
	state_close(out, NULL);
	return 0;
}

static int make_state(struct vm *vm, struct strbuf *out, struct err *err)
{
	autostrbuf struct strbuf root = {};
	struct arch_state state;

	/* The TSC goes on in a paused machine: clock and wall time are taken together with it, not from the pause. */
	if ((vm->restored && arch_clock_resume(vm, true, err) < 0) || arch_clock_pause(vm, err) < 0)
		return err->num;
	state_open(out, "");
	if (save_vcpus(vm, out, err) < 0)
		return err->num;
	devices_save(vm, out);
	save_memory_manager(vm, out);
	int r = arch_state_save(vm, &state, err);
	fields_save(arch_state_fields, &state, &root);
	fields_free(arch_state_fields, &state);
	state_close(out, &root);
	if (r == 0 && out->failed)
		r = err_num(err, ERR_INTERNAL, ENOMEM, "write state.json");
	return r;
}

/* The three files, in the order in which they appear. */
enum { CONFIG, STATE, MEMORY, N_FILES };
static const struct {
	const char *name, *temporary, *what;
} files[N_FILES] = {
	[CONFIG] = { "config.json", ".config.json.tmp", "config" },
	[STATE] = { "state.json", ".state.json.tmp", "state" },
	[MEMORY] = { "memory-ranges", ".memory-ranges.tmp", "memory" },
};

static int exists(const char *what, struct err *err)
{
	return err_num(err, ERR_INTERNAL, EEXIST, "Error creating VM %s snapshot file", what);
}

static int create(int dir_fd, int i, int *ret_fd, struct err *err)
{
	if (faccessat(dir_fd, files[i].name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return exists(files[i].what, err);
	*ret_fd = openat(dir_fd, files[i].temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	return *ret_fd < 0 ? err_sys(err, ERR_INTERNAL, "Error creating VM %s snapshot file", files[i].what) : 0;
}

static int publish(int dir_fd, int i, struct err *err)
{
	if (renameat2(dir_fd, files[i].temporary, dir_fd, files[i].name, RENAME_NOREPLACE) == 0)
		return 0;
	return errno == EEXIST ? exists(files[i].what, err)
			       : err_sys(err, ERR_INTERNAL, "rename %s to %s", files[i].temporary, files[i].name);
}

static int write_text(int fd, const char *name, const struct strbuf *text, struct err *err)
{
	ssize_t n = io_write(fd, text->text, text->len, 0);

	return n < 0 ? err_num(err, ERR_INTERNAL, (int)-n, "write %s", name) : 0;
}

static int write_files(struct vm *vm, const int fd[N_FILES], const struct strbuf *config, const struct strbuf *state,
		       struct err *err)
{
	if (write_text(fd[CONFIG], "config.json", config, err) < 0 ||
	    write_text(fd[STATE], "state.json", state, err) < 0)
		return err->num;
	if (memfile_write(fd[MEMORY], &vm->mem, err) < 0)
		return err_wrap(err, "write memory-ranges");
	for (int i = 0; i < N_FILES; i++)
		if (fsync(fd[i]) < 0)
			return err_sys(err, ERR_INTERNAL, "sync %s", files[i].name);
	return 0;
}

static int save_to(struct vm *vm, int dir_fd, const struct strbuf *config, const struct strbuf *state, struct err *err)
{
	int fd[N_FILES] = { -1, -1, -1 }, r = 0, published = 0;

	for (int i = 0; i < N_FILES && r == 0; i++)
		r = create(dir_fd, i, &fd[i], err);
	if (r == 0)
		r = write_files(vm, fd, config, state, err);
	while (r == 0 && published < N_FILES) {
		r = publish(dir_fd, published, err);
		published += r == 0;
	}
	if (r == 0 && fsync(dir_fd) < 0)
		r = err_sys(err, ERR_INTERNAL, "sync the snapshot directory");
	for (int i = 0; i < N_FILES; i++) {
		if (fd[i] >= 0)
			close(fd[i]);
		if (r < 0 && fd[i] >= 0)
			unlinkat(dir_fd, i < published ? files[i].name : files[i].temporary, 0);
	}
	return r;
}

int snapshot_save_at(struct vm *vm, int dir_fd, const char *dir, struct err *err)
{
	autostrbuf struct strbuf config = {}, state = {};

	if (flock(dir_fd, LOCK_EX | LOCK_NB) < 0)
		return err_sys(err, ERR_INTERNAL, "another snapshot is being written to \"%s\"", dir);
	hotplug_save_config(vm, &config);
	if (config.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write config.json");
	if (make_state(vm, &state, err) < 0)
		return err->num;
	return save_to(vm, dir_fd, &config, &state, err);
}

int snapshot_save(struct vm *vm, const char *destination_url, struct err *err)
{
	autofree char *dir = NULL;
	autoclose int dir_fd = -1;

	if (open_dir(destination_url, &dir, &dir_fd, err) < 0)
		return err->num;
	return snapshot_save_at(vm, dir_fd, dir, err);
}
