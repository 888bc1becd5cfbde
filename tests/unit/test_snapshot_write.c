// SPDX-License-Identifier: Apache-2.0
/* vmm/snapshot/snapshot_write on a machine without vCPUs: the directory there and back, whole or not at all. */
#include "vmm/snapshot/snapshot_write.h"

#include "tests/unit/fake_kvm.h"
#include "tests/unit/odd_fs.h"
#include "tests/unit/snapshot_dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "vmm/machine/machine.h"
#include "vmm/state/snapshot_read.h"
#include "vmm/state/state.h"
#include "vmm/x86/ioapic.h"

#define CLOCK_NS 0x1122334455667788ULL

static int fake_kvm(unsigned long request, void *arg)
{
	(void)arg;
	fail_msg("KVM is asked 0x%lx: the clock is that of the pause", request);
	return -ENOTTY;
}

static struct vm vm;
static struct vm_config config;

static unsigned n_files(void)
{
	DIR *d = opendir(dir);
	unsigned n = 0;

	while (readdir(d))
		n++;
	closedir(d);
	return n - 2;
}

static int make(void **state)
{
	struct err err = {};

	(void)state;
	vm_config_init(&config);
	config.memory.size = LOW_BYTES + HIGH_BYTES;
	vm = (struct vm){ .config = &config, .kvm = { .fd = -1, .vm_fd = FAKE_FD }, .device_id_cnt = 3 };
	gmem_layout(&vm.mem, LOW_BYTES + HIGH_BYTES, LOW_BYTES, HIGH);
	bus_init(&vm.mmio);
	ioapic_init(&vm.arch.ioapic);
	vm.arch.cpuid = (struct cpuid_table){ calloc(1, sizeof(struct cpuid_entry)), 1 };
	vm.arch.clock.clock = CLOCK_NS;
	return mkdir(dir, 0700) < 0 ? -1 : gmem_map_anon(&vm.mem, false, false, &err);
}

static int done(void **state)
{
	static const char *const names[] = { "config.json", "state.json", "memory-ranges", ".config.json.tmp" };

	(void)state;
	memset(&odd_fs, 0, sizeof(odd_fs));
	gmem_unmap(&vm.mem);
	free(vm.arch.cpuid.entry);
	vm_config_free(&config);
	return remove_files(names, ARRAY_LEN(names));
}

static void round_trip(void **state)
{
	autosnapshot struct snapshot snap = { .mem_fd = -1 };
	struct vm_config loaded;
	struct gmem mem;
	struct stat st;
	struct err err = {};

	(void)state;
	vm.mem.region[0].hva[PAGE + 1] = 'l';
	vm.mem.region[1].hva[HIGH_BYTES - 1] = 'h';
	assert_int_equal(snapshot_save(&vm, url, &err), 0);
	assert_int_equal(n_files(), 3);
	assert_int_equal(stat(in_dir("memory-ranges"), &st), 0);
	assert_int_equal(st.st_size, LOW_BYTES + HIGH_BYTES);
	assert_int_equal(st.st_mode & 0777, 0600);

	assert_int_equal(snapshot_open(&snap, url, &err), 0);
	assert_string_equal(snap.dir, dir);
	assert_int_equal(snap.mem_bytes, LOW_BYTES + HIGH_BYTES);
	vm_config_init(&loaded);
	assert_int_equal(snapshot_config(&snap, &loaded, &err), 0);
	assert_int_equal(loaded.memory.size, LOW_BYTES + HIGH_BYTES);
	vm_config_free(&loaded);
	assert_int_equal(snapshot_check_memory(&snap, &vm.mem, &err), 0);
	gmem_layout(&mem, LOW_BYTES + HIGH_BYTES, LOW_BYTES, HIGH);
	assert_int_equal(gmem_map_anon(&mem, false, false, &err), 0);
	assert_int_equal(snapshot_read_memory(&snap, &mem, &err), 0);
	assert_memory_equal(mem.region[0].hva, vm.mem.region[0].hva, LOW_BYTES);
	assert_memory_equal(mem.region[1].hva, vm.mem.region[1].hva, HIGH_BYTES);
	gmem_unmap(&mem);
}

/* The tree in Cloud Hypervisor's shape; the clock's 64 bits exact. */
static void state_tree(void **state)
{
	autosnapshot struct snapshot snap = { .mem_fd = -1 };
	const struct json_node *child, *node;
	struct arch_state root = {};
	struct err err = {};

	(void)state;
	assert_int_equal(snapshot_save(&vm, url, &err), 0);
	assert_int_equal(snapshot_open(&snap, url, &err), 0);
	const char *const order[] = { "cpu-manager", "device-manager", "memory-manager" };
	unsigned n = 0;
	for (json_each(c, json_get(&snap.state.nodes[0], "snapshots")))
		assert_string_equal(c->key, order[n++]);
	assert_int_equal(n, 3);
	assert_int_equal(state_child(&snap.state.nodes[0], "cpu-manager", &child, &err), 0);
	assert_int_equal(json_get(child, "snapshot_data")->type, JSON_NULL);
	assert_int_equal(state_child(&snap.state.nodes[0], "memory-manager", &child, &err), 0);
	autojson struct json json = {};
	assert_int_equal(state_parse(child, "memory-manager", &json, &node, &err), 0);
	assert_int_equal(json_get(node, "start_of_device_area")->num, HIGH + HIGH_BYTES);
	assert_int_equal(json_get(node, "boot_ram")->num, LOW_BYTES + HIGH_BYTES);
	assert_int_equal(json_get(node, "hotplug_slots")->count, 8);
	const struct json_node *second = json_get(node, "guest_ram_mappings") + 1;
	second += second->span;
	assert_int_equal(json_get(second, "slot")->num, 1);
	assert_int_equal(json_get(second, "file_offset")->num, 0);
	assert_int_equal(json_get(second, "gpa")->num, HIGH);
	assert_int_equal(state_parse(&snap.state.nodes[0], "root", &json, &node, &err), 0);
	assert_int_equal(fields_load(arch_state_fields, &root, node, "root", &err), 0);
	assert_int_equal(root.clock.Kvm.clock, CLOCK_NS);
	assert_int_equal(root.n_common_cpuid, 1);
	fields_free(arch_state_fields, &root);
	assert_int_equal(state_child(&snap.state.nodes[0], "device-manager", &child, &err), 0);
	assert_int_equal(state_child(child, "__ioapic", &node, &err), 0);
	assert_int_equal(state_parse(child, "device-manager", &json, &node, &err), 0);
	assert_int_equal(json_get(node, "device_id_cnt")->num, 3);
}

static void never_overwrites(void **state)
{
	static const struct {
		const char *name, *what;
	} names[] = {
		{ "config.json", "config" },
		{ "state.json", "state" },
		{ "memory-ranges", "memory" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char text[80], byte = 0;
		struct err err = {};
		int fd = open(in_dir(names[i].name), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
		assert_int_equal(write(fd, "x", 1), 1);
		assert_int_equal(snapshot_save(&vm, url, &err), -EEXIST);
		snprintf(text, sizeof(text), "Error creating VM %s snapshot file", names[i].what);
		assert_non_null(strstr(err.msg, text));
		assert_int_equal(n_files(), 1); /* nothing of ours is left */
		assert_int_equal(pread(fd, &byte, 1, 0), 1);
		assert_int_equal(byte, 'x');
		close(fd);
		unlink(in_dir(names[i].name));
	}
	struct err err = {}; /* a link that points nowhere is in the way too; a temporary file of a dead process is not */
	assert_int_equal(symlink("/nonexistent", in_dir("state.json")), 0);
	assert_int_equal(snapshot_save(&vm, url, &err), -EEXIST);
	unlink(in_dir("state.json"));
	close(open(in_dir(".config.json.tmp"), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	assert_int_equal(snapshot_save(&vm, url, &err), 0);
	assert_int_equal(n_files(), 3);
}

/* Whole or not at all also where renameat2() knows no flags and a directory cannot be locked. */
static void on_odd_file_systems(void **state)
{
	static const int cannot_lock[] = { 0, EBADF, ENOLCK, EOPNOTSUPP };
	struct err err = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cannot_lock); i++) {
		autosnapshot struct snapshot snap = { .mem_fd = -1 };
		odd_fs.renameat2 = EINVAL;
		odd_fs.flock = cannot_lock[i];
		assert_int_equal(snapshot_save(&vm, url, &err), 0);
		assert_int_equal(n_files(), 3);
		assert_int_equal(snapshot_open(&snap, url, &err), 0);
		assert_int_equal(snapshot_save(&vm, url, &err), -EEXIST);
		assert_int_equal(n_files(), 3);
		unlink(in_dir("config.json"));
		unlink(in_dir("state.json"));
		assert_int_equal(snapshot_save(&vm, url, &err), -EEXIST); /* memory-ranges is in the way */
		assert_int_equal(n_files(), 1);
		unlink(in_dir("memory-ranges"));
	}
	odd_fs.linkat = EPERM;
	assert_true(snapshot_save(&vm, url, &err) < 0);
	assert_non_null(strstr(err.msg, "rename .config.json.tmp to config.json on "));
	assert_int_equal(n_files(), 0);
}

/* One at a time: a second writer is told by the lock, and where there is none by the temporary file, which it leaves alone. */
static void one_writer_at_a_time(void **state)
{
	autoclose int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct err err = {};

	(void)state;
	assert_int_equal(flock(dir_fd, LOCK_EX), 0);
	assert_true(snapshot_save(&vm, url, &err) < 0);
	assert_non_null(strstr(err.msg, "another snapshot is being written to \"/tmp/"));
	assert_int_equal(flock(dir_fd, LOCK_UN), 0);
	odd_fs.flock = ENOLCK;
	close(open(in_dir(".config.json.tmp"), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
	assert_true(snapshot_save(&vm, url, &err) < 0);
	assert_non_null(strstr(err.msg, "if none is, remove \".config.json.tmp\""));
	assert_int_equal(n_files(), 1);
	unlink(in_dir(".config.json.tmp"));
	assert_int_equal(snapshot_save(&vm, url, &err), 0);
}

static void bad_urls(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad_dirs); i++) {
		struct err err = {};
		assert_true(snapshot_save(&vm, bad_dirs[i].url, &err) < 0);
		assert_string_equal(err.msg, bad_dirs[i].msg);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, done)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(round_trip),          T(state_tree),           T(never_overwrites),
		T(on_odd_file_systems), T(one_writer_at_a_time), T(bad_urls),
	};

	return cmocka_run_group_tests_name("snapshot_write", tests, make_name, NULL);
}
