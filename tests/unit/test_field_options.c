// SPDX-License-Identifier: Apache-2.0
/* common/field_options: option strings through the tables of the real options. */
#include <errno.h>

#include "tests/unit/unit.h"
#include "vmm/config/config.h"

static void cpus(void **state)
{
	struct cpus_config c = {};
	struct err err = {};

	(void)state;
	fields_init(cpus_fields, &c);
	assert_int_equal(fields_parse_options(cpus_fields, &c,
					      "boot=2,max=4,topology=1:2:1:2,kvm_hyperv=off,max_phys_bits=40,"
					      "affinity=[0@[1,2], 3@4 ,1@[0,2-5]],features=,nested=off,"
					      "core_scheduling=vcpu,profile=host",
					      &err),
			 0);
	assert_int_equal(c.boot_vcpus, 2);
	assert_int_equal(c.max_vcpus, 4);
	assert_int_equal(c.topology->threads_per_core, 1);
	assert_int_equal(c.topology->packages, 2);
	assert_int_equal(c.max_phys_bits, 40);
	assert_false(c.nested);
	assert_int_equal(c.core_scheduling, 1);
	assert_int_equal(c.n_affinity, 3);
	assert_int_equal(c.affinity[0].n_host_cpus, 2);
	assert_int_equal(c.affinity[1].vcpu, 3);
	assert_int_equal(c.affinity[1].host_cpus[0], 4);
	assert_int_equal(c.affinity[2].n_host_cpus, 5);
	assert_int_equal(c.affinity[2].host_cpus[4], 5);
	fields_free(cpus_fields, &c);
}

static void memory(void **state)
{
	struct memory_config m = {};
	struct err err = {};

	(void)state;
	fields_init(memory_fields, &m);
	assert_int_equal(fields_parse_options(memory_fields, &m, " size=1G , mergeable", &err), -EINVAL);
	assert_string_equal(err.msg, "Unknown option:  mergeable");
	assert_int_equal(fields_parse_options(memory_fields, &m,
					      "size=1M,size= 2G ,mergeable=ON,file=/dev/shm,hotplug_method=virtio-mem,"
					      "hotplug_size=0,shared=off,thp=false,prefault=true",
					      &err),
			 0);
	assert_true(m.size == 2ULL << 30);
	assert_true(m.mergeable && m.prefault && !m.thp);
	assert_int_equal(m.hotplug_method, 1);
	/* empty is unset: the default, also after another value */
	fields_init(memory_fields, &m);
	assert_int_equal(fields_parse_options(memory_fields, &m, "size=1G,size=,thp=", &err), 0);
	assert_true(m.size == 512 << 20);
	assert_true(m.thp);
	assert_int_equal(fields_parse_options(memory_fields, &m, "  ", &err), 0);
	fields_free(memory_fields, &m);
}

static void disk(void **state)
{
	struct disk_config d = {};
	struct err err = {};

	(void)state;
	fields_init(disk_fields, &d);
	assert_int_equal(fields_parse_options(disk_fields, &d,
					      "path=\"/a,b=\"\"c\"\"\",readonly=on,num_queues=2,queue_size=256,id=d0,"
					      "pci_segment=0,pci_device_id=5,serial=S=1,image_type=RAW,"
					      "lock_granularity=byte-range,iommu=off,sparse=off",
					      &err),
			 0);
	assert_string_equal(d.path, "/a,b=\"c\"");
	assert_string_equal(d.serial, "S=1");
	assert_true(d.has_pci_device_id);
	assert_int_equal(d.pci_device_id, 5);
	assert_int_equal(d.image_type, IMAGE_RAW);
	assert_int_equal(d.lock_granularity, LOCK_BYTE_RANGE);
	assert_int_equal(fields_parse_options(disk_fields, &d, "lock_granularity=Full", &err), 0);
	assert_int_equal(d.lock_granularity, LOCK_FULL);
	fields_free(disk_fields, &d);
}

static void net(void **state)
{
	struct net_config n = {};
	struct err err = {};

	(void)state;
	fields_init(net_fields, &n);
	assert_int_equal(
		fields_parse_options(net_fields, &n, "fd=[23,24],num_queues=4,mtu=1500,vhost_mode=server", &err), 0);
	assert_int_equal(n.n_fds, 2);
	assert_int_equal(n.fds[1], 24);
	assert_true(n.has_mtu && n.mtu == 1500);
	assert_int_equal(fields_parse_options(net_fields, &n, "fd=9", &err), 0);
	assert_int_equal(n.n_fds, 1);
	assert_int_equal(n.fds[0], 9);
	fields_free(net_fields, &n);
}

static void consoles(void **state)
{
	static const struct {
		const char *text;
		int mode;
		const char *file;
	} cases[] = {
		{ "off", CONSOLE_OFF, NULL },     { "null", CONSOLE_NULL, NULL },
		{ "pty", CONSOLE_PTY, NULL },     { "tty,pci_device_id=3", CONSOLE_TTY, NULL },
		{ "file=/x", CONSOLE_TTY, "/x" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct console_config c = {};
		struct err err = {};
		fields_init(console_fields, &c);
		assert_int_equal(fields_parse_options(console_fields, &c, cases[i].text, &err), 0);
		assert_int_equal(c.mode, cases[i].mode);
		if (cases[i].file)
			assert_string_equal(c.file, cases[i].file);
		fields_free(console_fields, &c);
	}
}

static void restore(void **state)
{
	struct restore_config rc = {};
	struct err err = {};

	(void)state;
	fields_init(restore_config_fields, &rc);
	assert_int_equal(fields_parse_options(restore_config_fields, &rc,
					      "source_url=file:///s,prefault=off,memory_restore_mode=OnDemand,"
					      "net_fds=[net1@[23,24],net2@25],resume=true,vfio_fds=,iommufd_fd=",
					      &err),
			 0);
	assert_string_equal(rc.source_url, "file:///s");
	assert_int_equal(rc.memory_restore_mode, RESTORE_ONDEMAND);
	assert_true(rc.resume);
	assert_int_equal(rc.n_net_fds, 2);
	assert_string_equal(rc.net_fds[1].id, "net2");
	assert_int_equal(rc.net_fds[0].n_fds, 2);
	assert_int_equal(rc.net_fds[0].fds[1], 24);
	assert_int_equal(rc.net_fds[1].fds[0], 25);
	fields_free(restore_config_fields, &rc);
}

static void rejects(void **state)
{
	static const struct {
		const struct field *rows;
		const char *text, *msg;
	} cases[] = {
		{ cpus_fields, "foo=1", "Unknown option: foo" },
		{ cpus_fields, "foo", "Unknown option: foo" },
		{ cpus_fields, "boot=1, max=2", "Unknown option:  max" },
		{ cpus_fields, "boot=1,", "Unknown option: " },
		{ cpus_fields, "=1", "Unknown option: " },
		{ cpus_fields, "boot", "Invalid syntax: boot" },
		{ cpus_fields, "affinity=[0@[1]", "Invalid syntax: affinity=[0@[1]" },
		{ cpus_fields, "profile=\"x", "Invalid syntax: profile=\"x" },
		{ cpus_fields, "boot=two", "Unable to convert two for boot" },
		{ cpus_fields, "boot=-1", "Unable to convert -1 for boot" },
		{ cpus_fields, "boot=0", "boot: 0 is below 1" },
		{ cpus_fields, "max=255", "max: 255 is above 254" },
		{ cpus_fields, "max_phys_bits=20", "max_phys_bits: 20 is below 36" },
		{ cpus_fields, "nested=maybe", "Unable to convert maybe for nested" },
		{ cpus_fields, "kvm_hyperv=on", "kvm_hyperv: on is not supported by this program" },
		{ cpus_fields, "topology=1:2:1", "topology: has too few parts" },
		{ cpus_fields, "topology=1:2:1:1:1", "topology: has too many parts" },
		{ cpus_fields, "topology=1:2:1:x", "Unable to convert x for topology" },
		{ cpus_fields, "topology=0:2:1:1", "topology.threads_per_core: 0 is below 1" },
		{ cpus_fields, "topology=1:65536:1:1", "topology.cores_per_die: 65536 is above 65535" },
		{ cpus_fields, "features=[amx]", "features.amx: not supported by this program" },
		{ cpus_fields, "features=amx", "features.amx: not supported by this program" },
		{ cpus_fields, "features=[sse9]", "features: unknown name 'sse9'" },
		{ cpus_fields, "affinity=0@[1]", "Unable to convert 0@[1] for affinity" },
		{ cpus_fields, "affinity=[0]", "Unable to convert 0 for affinity" },
		{ cpus_fields, "affinity=[0@1@2]", "Unable to convert 0@1@2 for affinity" },
		{ cpus_fields, "affinity=[@[1]]", "Unable to convert @[1] for affinity" },
		{ cpus_fields, "affinity=[]", "Unable to convert  for affinity" },
		{ cpus_fields, "affinity=[]a[]", "Unable to convert ]a[ for affinity" },
		{ cpus_fields, "affinity=[0@[4294967296]]", "affinity[0][0]: 4294967296 is above 4294967295" },
		{ cpus_fields, "affinity=[0@[0-9999]]", "affinity[0]: has more than 4096 elements" },
		{ memory_fields, "size=1.5G", "Unable to convert 1.5G for size" },
		{ memory_fields, "shared=on", "shared: on is not supported by this program" },
		{ memory_fields, "hugepages=true", "hugepages: true is not supported by this program" },
		{ memory_fields, "hotplug_size=1G", "hotplug_size: not supported by this program" },
		{ memory_fields, "hotplug_method=magic",
		  "hotplug_method: unknown variant `magic`, expected one of `Acpi`, `VirtioMem`" },
		{ disk_fields, "image_type=vhd", "image_type: `vhd` is not supported by this program" },
		{ disk_fields, "image_type=vhdx", "image_type: `vhdx` is not supported by this program" },
		{ disk_fields, "image_type=tar",
		  "image_type: unknown variant `tar`, expected one of `Unknown`, `Raw`, `Qcow2`" },
		{ disk_fields, "bw_size=10", "bw_size: not supported by this program" },
		{ disk_fields, "socket=/x", "socket: not supported by this program" },
		{ disk_fields, "iommu=on", "iommu: on is not supported by this program" },
		{ disk_fields, "pci_segment=1", "pci_segment: 1 is not supported by this program" },
		{ disk_fields, "queue_size=65536", "queue_size: 65536 is above 65535" },
		{ net_fields, "fd=[4294967296]", "fd[0]: 4294967296 is above 2147483647" },
		{ net_fields, "fd=x", "Unable to convert x for fd" },
		{ net_fields, "mtu=big", "Unable to convert big for mtu" },
		{ serial_fields, "file", "Invalid syntax: file" },
		{ serial_fields, "loud", "Unknown option: loud" },
		{ serial_fields, "pci_segment=0", "Unknown option: pci_segment" },
		{ restore_config_fields, "net_fds=net1@[3]", "Unable to convert net1@[3] for net_fds" },
		{ restore_config_fields, "vfio_fds=[a@3]", "vfio_fds: not supported by this program" },
		{ restore_config_fields, "memory_restore_mode=fast",
		  "memory_restore_mode: unknown variant `fast`, expected one of `Copy`, `OnDemand`, `CopyOnWrite`" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		_Alignas(16) char obj[256] = {};
		struct err err = {};
		fields_init(cases[i].rows, obj);
		assert_int_equal(fields_parse_options(cases[i].rows, obj, cases[i].text, &err), -EINVAL);
		assert_int_equal(err.code, ERR_INVALID);
		assert_string_equal(err.msg, cases[i].msg);
		fields_free(cases[i].rows, obj);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cpus),     cmocka_unit_test(memory),  cmocka_unit_test(disk),    cmocka_unit_test(net),
		cmocka_unit_test(consoles), cmocka_unit_test(restore), cmocka_unit_test(rejects),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
