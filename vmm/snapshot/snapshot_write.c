// SPDX-License-Identifier: Apache-2.0
/* Writes snapshot directories. memfile.c writes memory-ranges. */
#include "vmm/snapshot/snapshot_write.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/fs.h"
#include "common/io.h"
#include "vmm/machine/devices.h"
#include "vmm/machine/hotplug.h"
#include "vmm/machine/machine.h"
#include "vmm/state/memfile.h"
#include "vmm/state/snapshot_read.h"
#include "vmm/state/state.h"

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

/*
 * Creates a temporary file. In a locked directory a temporary file that exists is a dead process's,
 * and is removed. In a directory that cannot be locked the temporary file is the lock.
 */
static int create(int dir_fd, bool locked, int i, int *ret_fd, struct err *err)
{
	char fs[FS_NAME];

	if (faccessat(dir_fd, files[i].name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return exists(files[i].what, err);
	if (locked)
		unlinkat(dir_fd, files[i].temporary, 0);
	*ret_fd = openat(dir_fd, files[i].temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (*ret_fd < 0 && errno == EEXIST && !locked)
		return err_num(err, ERR_INTERNAL, EEXIST,
			       "another snapshot is being written there; if none is, remove \"%s\", which one left on "
			       "%s, where nothing can be locked",
			       files[i].temporary, fs_name(dir_fd, fs));
	return *ret_fd < 0 ? err_sys(err, ERR_INTERNAL, "Error creating VM %s snapshot file", files[i].what) : 0;
}

static int publish(int dir_fd, int i, struct err *err)
{
	char fs[FS_NAME];
	int r = fs_rename_new(dir_fd, files[i].temporary, dir_fd, files[i].name);

	if (r == -EEXIST)
		return exists(files[i].what, err);
	return r < 0 ? err_num(err, ERR_INTERNAL, -r, "rename %s to %s on %s", files[i].temporary, files[i].name,
			       fs_name(dir_fd, fs))
		     : 0;
}

static int write_text(int fd, const char *name, const struct strbuf *text, struct err *err)
{
	ssize_t n = io_write(fd, text->text, text->len, 0);

	return n < 0 ? err_num(err, ERR_INTERNAL, (int)-n, "write %s", name) : 0;
}

static int write_files(struct vm *vm, const int fd[N_FILES], const struct strbuf *const text[MEMORY], struct err *err)
{
	for (int i = 0; i < MEMORY; i++)
		if (write_text(fd[i], files[i].name, text[i], err) < 0)
			return err->num;
	if (memfile_write(fd[MEMORY], &vm->mem, err) < 0)
		return err_wrap(err, "write memory-ranges");
	for (int i = 0; i < N_FILES; i++)
		if (fsync(fd[i]) < 0)
			return err_sys(err, ERR_INTERNAL, "sync %s", files[i].name);
	return 0;
}

/* Gives the files away when they are written: nobody else opens them before. */
static int give(const struct snapshot_dir *dir, const int fd[N_FILES], struct err *err)
{
	for (int i = 0; i < N_FILES; i++)
		if (fchown(fd[i], dir->uid, dir->gid) < 0)
			return err_sys(err, ERR_INTERNAL, "give %s to user %u", files[i].name, dir->uid);
	return 0;
}

static int save_to(struct vm *vm, const struct snapshot_dir *dir, bool locked, const struct strbuf *const text[MEMORY],
		   struct err *err)
{
	int fd[N_FILES] = { -1, -1, -1 }, r = 0, published = 0, dir_fd = dir->fd;

	for (int i = 0; i < N_FILES && r == 0; i++)
		r = create(dir_fd, locked, i, &fd[i], err);
	if (r == 0)
		r = write_files(vm, fd, text, err);
	if (r == 0)
		r = give(dir, fd, err);
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

int snapshot_save_at(struct vm *vm, const struct snapshot_dir *dir, struct err *err)
{
	int lock = fs_lock(dir->fd, FS_LOCK_FLOCK);

	if (lock == -EAGAIN)
		return err_num(err, ERR_INTERNAL, EAGAIN, "another snapshot is being written to \"%s\"", dir->name);
	autostrbuf struct strbuf config = {}, state = {};
	hotplug_save_config(vm, &config);
	if (config.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write config.json");
	if (make_state(vm, &state, err) < 0)
		return err->num;
	const struct strbuf *const text[MEMORY] = { [CONFIG] = &config, [STATE] = &state };
	return save_to(vm, dir, lock == 0, text, err);
}

int snapshot_save(struct vm *vm, const char *destination_url, struct err *err)
{
	autofree char *dir = NULL;
	autoclose int dir_fd = -1;

	if (snapshot_open_dir(destination_url, &dir, &dir_fd, err) < 0)
		return err->num;
	return snapshot_save_at(vm, &(struct snapshot_dir){ dir_fd, dir, (uid_t)-1, (gid_t)-1 }, err);
}
