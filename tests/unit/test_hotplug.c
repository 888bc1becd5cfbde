// SPDX-License-Identifier: Apache-2.0
/* vmm/hotplug: entries of a configuration come and go, and what a snapshot says of those that are on their way. */
#include "vmm/machine/hotplug.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "tests/unit/unit.h"
#include "vmm/machine/machine.h"
#include "vmm/virtio/transport.h"
#include "vmm/x86/ioapic.h"

static struct vm_config config;

static int make(void **state)
{
	(void)state;
	vm_config_init(&config);
	config.payload = calloc(1, sizeof(*config.payload));
	config.payload->kernel = strdup("/kernel");
	return 0;
}

static int done(void **state)
{
	(void)state;
	vm_config_free(&config);
	return 0;
}

static int add_disk(const char *id, const char *path, int fd, struct vm *vm, struct err *err)
{
	autostrbuf struct strbuf out = {};
	struct disk_config d;

	fields_init(disk_fields, &d);
	d.id = id ? strdup(id) : NULL;
	d.path = strdup(path);
	d.fd = fd;
	int r = hotplug_add_disk(&config, vm, &d, &out, err);
	assert_null(d.path); /* moved from in any case */
	assert_int_equal(out.len, 0);
	return r;
}

static void lists(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(add_disk("a", "/a", 0, NULL, &err), 0);
	assert_int_equal(add_disk(NULL, "/b", 0, NULL, &err), 0);
	assert_int_equal(add_disk("c", "/c", 0, NULL, &err), 0);
	unsigned fds = count_fds();
	assert_true(add_disk("c", "/d", dup(0), NULL, &err) < 0);
	assert_int_equal(err.code, ERR_CONFLICT);
	assert_string_equal(err.msg, "Failed to validate config\nIdentifier c is not unique");
	assert_int_equal(count_fds(), fds); /* what it came with is closed */
	assert_int_equal(config.n_disks, 3);
	assert_int_equal(hotplug_remove(&config, NULL, "a", &err), 0);
	assert_int_equal(config.n_disks, 2);
	assert_string_equal(config.disks[0].path, "/b");
	assert_string_equal(config.disks[1].path, "/c");
	assert_true(hotplug_remove(&config, NULL, "a", &err) < 0);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	assert_string_equal(err.msg, "No device with id \"a\" to remove");
	assert_int_equal(hotplug_remove(&config, NULL, "c", &err), 0);
	assert_int_equal(config.n_disks, 1);
}

static void nets_and_vsock(void **state)
{
	autostrbuf struct strbuf out = {};
	struct net_config n;
	struct vsock_config v;
	struct err err = {};

	(void)state;
	unsigned fds = count_fds();
	fields_init(net_fields, &n);
	n.id = strdup("n");
	n.fds = calloc(1, sizeof(*n.fds));
	n.fds[n.n_fds++] = fcntl(0, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(hotplug_add_net(&config, NULL, &n, &out, &err), 0);
	assert_null(n.fds);
	assert_int_equal(count_fds(), fds + 1);
	for (unsigned i = 0; i < 2; i++) {
		fields_init(vsock_fields, &v);
		v.id = strdup(i == 0 ? "n" : "v");
		v.socket = strdup("/v");
		v.cid = 3;
		assert_int_equal(hotplug_add_vsock(&config, NULL, &v, &out, &err) < 0, i == 0);
		assert_int_equal(config.vsock != NULL, i == 1);
	}
	fields_init(vsock_fields, &v);
	assert_true(hotplug_add_vsock(&config, NULL, &v, &out, &err) < 0);
	assert_string_equal(err.msg, "Too many virtio-vsock devices");
	assert_int_equal(hotplug_remove(&config, NULL, "n", &err), 0);
	assert_int_equal(count_fds(), fds);
	assert_int_equal(hotplug_remove(&config, NULL, "v", &err), 0);
	assert_null(config.vsock);
}

/* ---- with a machine, as far as the configuration sees it ---- */

static struct vm vm;
static struct virtio_dev vdevs[3];
static struct virtio_pci transports[3];
static const struct virtio_device_ops may_go = { .name = "block", .hotplug = true }, stays = { .name = "rng" };

static void add_device(const char *id, unsigned slot, const struct virtio_device_ops *ops)
{
	struct virtio_pci *t = &transports[vm.n_devs];

	vdevs[vm.n_devs] = (struct virtio_dev){ .ops = ops };
	snprintf(vdevs[vm.n_devs].id, sizeof(vdevs[0].id), "%s", id);
	*t = (struct virtio_pci){ .pci.slot = slot, .vdev = &vdevs[vm.n_devs] };
	vm.dev[vm.n_devs++] = t;
}

static int make_machine(void **state)
{
	struct err err = {};

	make(state);
	vm = (struct vm){ .config = &config, .kvm = { .fd = -1, .vm_fd = -1 } };
	pthread_mutex_init(&vm.arch.acpi_lock, NULL);
	ioapic_init(&vm.arch.ioapic);
	if (add_disk("a", "/a", 0, NULL, &err) < 0 || add_disk("b", "/b", 0, NULL, &err) < 0)
		return -1;
	add_device("a", 3, &may_go);
	add_device("b", 9, &may_go);
	add_device("__rng", 4, &stays);
	return 0;
}

static int done_machine(void **state)
{
	hotplug_done(&vm);
	return done(state);
}

static void saved_is(const char *expected)
{
	autostrbuf struct strbuf out = {};

	strbuf_puts(&out, "");
	hotplug_save(&vm, &out);
	assert_string_equal(out.text, expected);
}

static void disks_in_snapshot_are(const char *first, const char *second)
{
	autostrbuf struct strbuf out = {};
	char expected[64];

	hotplug_save_config(&vm, &out);
	const char *list = strstr(out.text, "\"disks\":[");
	assert_non_null(list);
	const char *ids[2] = { first, second };
	for (unsigned i = 0; i < 2 && ids[i]; i++) {
		snprintf(expected, sizeof(expected), "{\"id\":\"%s\",", ids[i]);
		list = strstr(list, expected);
		if (!list)
			fail_msg("no %s in %s", expected, out.text);
		list++;
	}
	assert_null(strstr(list, "{\"id\":"));
}

/* It leaves the configuration, but not the snapshot's. */
static void asked_to_go(void **state)
{
	struct err err = {};

	(void)state;
	saved_is("");
	disks_in_snapshot_are("a", "b");
	assert_int_equal(hotplug_remove(&config, &vm, "a", &err), 0);
	assert_int_equal(vm.arch.acpi_regs.pci_down, 1 << 3);
	assert_int_equal(config.n_disks, 1);
	assert_int_equal(vm.removed.n_disks, 1);
	saved_is(",\"hotplug\":{\"came\":0,\"going\":8}");
	disks_in_snapshot_are("b", "a");
	vm.arch.acpi_regs.pci_down = 0;
	assert_int_equal(hotplug_remove(&config, &vm, "a", &err), 0); /* once more */
	assert_int_equal(vm.arch.acpi_regs.pci_down, 1 << 3);
	assert_int_equal(vm.removed.n_disks, 1);
	arch_pci_changed(&vm, 1 << 9, 0);
	saved_is(",\"hotplug\":{\"came\":512,\"going\":8}");
	assert_true(add_disk("a", "/new", 0, &vm, &err) < 0); /* the name is taken while the device is there */
	assert_string_equal(err.msg, "Error from device manager\nInvalid identifier as it is not unique: a");
	assert_int_equal(config.n_disks, 1);
	assert_int_equal(hotplug_remove(&config, &vm, "_virtio-pci-b", &err), 0); /* by this name it stays configured */
	assert_int_equal(config.n_disks, 1);
	assert_int_equal(hotplug_remove(&config, &vm, "_virtio-pci-", &err), -ENOENT);
	assert_true(hotplug_remove(&config, &vm, "__rng", &err) < 0);
	assert_string_equal(err.msg, "Error from device manager\n"
				     "Not allowed to remove this type of device from the VM: rng");
}

static int load(const char *text, struct err *err)
{
	autofree char *copy = strdup(text);
	autojson struct json json = {};

	assert_int_equal(json_parse(&json, copy, strlen(copy), err), 0);
	return hotplug_load(&vm, json.nodes, err);
}

/* Only what is there, and may come and go, is told again. */
static void told_again(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(load("{}", &err), 0);
	hotplug_tell_again(&vm);
	assert_int_equal(vm.arch.acpi_regs.events, 0);
	assert_int_equal(load("{\"hotplug\":{\"came\":4294967295,\"going\":24}}", &err), 0);
	assert_int_equal(config.n_disks, 1);
	assert_int_equal(vm.removed.n_disks, 1);
	saved_is(",\"hotplug\":{\"came\":520,\"going\":8}"); /* nobody has seen it yet */
	hotplug_tell_again(&vm);
	assert_int_equal(vm.arch.acpi_regs.events, ACPI_EVENT_PCI);
	assert_int_equal(vm.arch.acpi_regs.pci_up, 1 << 9 | 1 << 3);
	assert_int_equal(vm.arch.acpi_regs.pci_down, 1 << 3);
	vm.arch.acpi_regs.events = 0;
	hotplug_tell_again(&vm);
	assert_int_equal(vm.arch.acpi_regs.events, 0);
	static const char *const wrong[] = { "{\"hotplug\":1}", "{\"hotplug\":{\"came\":-1}}",
					     "{\"hotplug\":{\"going\":4294967296}}" };
	for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
		assert_int_equal(load(wrong[i], &err), -EINVAL);
		assert_non_null(strstr(err.msg, "state.json\ndevice-manager.hotplug"));
	}
}

/* What the guest threw out is configured still, but not in a snapshot. */
static void thrown_out(void **state)
{
	(void)state;
	vm.n_devs = 1;
	disks_in_snapshot_are("a", NULL);
	vm.n_devs = 0;
	disks_in_snapshot_are(NULL, NULL);
	assert_int_equal(config.n_disks, 2);
}

#define T(f) cmocka_unit_test_setup_teardown(f, make, done)
#define M(f) cmocka_unit_test_setup_teardown(f, make_machine, done_machine)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T(lists), T(nets_and_vsock), M(asked_to_go), M(told_again), M(thrown_out),
	};

	return cmocka_run_group_tests_name("hotplug", tests, NULL, NULL);
}
