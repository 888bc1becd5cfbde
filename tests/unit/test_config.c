// SPDX-License-Identifier: Apache-2.0
/* vmm/config: each check of vm_config_check() has a case that fails it, with its message. */
#include "vmm/config/config.h"

#include <errno.h>

#include "tests/unit/unit.h"

#define K "\"payload\":{\"kernel\":\"K\"}"
#define CPUS(b, m) "\"cpus\":{\"boot_vcpus\":" #b ",\"max_vcpus\":" #m "}"

static int check(const char *text, struct err *err)
{
	autovmconfig struct vm_config c = {};
	autojson struct json json = {};
	autofree char *copy = exact_copy(text, strlen(text));

	vm_config_init(&c);
	assert_int_equal(json_parse(&json, copy, strlen(text), err), 0);
	if (fields_load(vm_config_fields, &c, json.nodes, "config", err) < 0)
		return err->num;
	return vm_config_check(&c, err);
}

static void accepts(void **state)
{
	static const char *const cases[] = {
		"{" K "}",
		"{" K "," CPUS(2, 4) ",\"net\":[{\"num_queues\":4,\"fds\":[3,-1]}]}",
		"{" K ",\"net\":[{\"mac\":\"2E:8c:e1:f1:92:fa\",\"ip\":\"fe80::1\",\"mask\":\"ffff::\",\"mtu\":1280}]}",
		"{" K ",\"disks\":[{\"path\":\"d\",\"queue_size\":32768,\"serial\":\"12345678901234567890\"}]}",
		"{" K ",\"cpus\":{\"boot_vcpus\":1,\"max_vcpus\":4,\"profile\":\"HOST\",\"topology\":"
		"{\"threads_per_core\":2,\"cores_per_die\":2,\"dies_per_package\":1,\"packages\":1}}}",
		"{" K
		",\"serial\":{\"mode\":\"Socket\",\"socket\":\"s\"},\"console\":{\"mode\":\"File\",\"file\":\"f\"}}",
		"{" K ",\"memory\":{\"size\":70364449210368}}",
		"{" K ",\"balloon\":{\"size\":536870911,\"id\":\"b\",\"deflate_on_oom\":true}}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		if (check(cases[i], &err) < 0)
			fail_msg("%s: %s", cases[i], err.msg);
	}
}

static void rejects(void **state)
{
	static const struct {
		const char *json, *msg;
	} cases[] = {
		{ "{}", "Payload configuration is not bootable\nNo bootitem provided: neither firmware nor kernel" },
		{ "{\"payload\":{}}",
		  "Payload configuration is not bootable\nNo bootitem provided: neither firmware nor kernel" },
		{ "{\"payload\":{\"firmware\":\"F\"}}", "firmware is not supported by this program" },
		{ "{" K ",\"debug_console\":{\"mode\":\"Tty\"}}", "debug_console is not supported by this program" },
		{ "{" K "," CPUS(2, 1) "}", "Max CPUs (1) lower than boot CPUs (2)" },
		{ "{" K ",\"cpus\":{\"boot_vcpus\":1,\"max_vcpus\":4,\"topology\":{\"threads_per_core\":1,"
		  "\"cores_per_die\":2,\"dies_per_package\":1,\"packages\":1}}}",
		  "Product of CPU topology parts does not match maximum vCPU" },
		{ "{" K ",\"cpus\":{\"boot_vcpus\":1,\"max_vcpus\":1,\"profile\":\"skylake\"}}",
		  "CPU profile 'skylake' is not supported by this program" },
		{ "{" K ",\"cpus\":{\"boot_vcpus\":1,\"max_vcpus\":1,\"affinity\":[{\"vcpu\":1,\"host_cpus\":[0]}]}}",
		  "affinity names vCPU 1 of 1" },
		{ "{" K ",\"memory\":{\"size\":0}}", "memory size 0 is not a positive multiple of 4096" },
		{ "{" K ",\"memory\":{\"size\":4097}}", "memory size 4097 is not a positive multiple of 4096" },
		{ "{" K ",\"memory\":{\"size\":4096}}", "memory size 4096 is below 1 MiB" },
		{ "{" K ",\"memory\":{\"size\":18446744073709547520}}",
		  "memory size 18446744073709547520 does not fit 46 bits of physical address" },
		{ "{" K ",\"rng\":{\"id\":\"__rng\"}}", "Identifier __rng is not valid" },
		{ "{" K ",\"rng\":{\"id\":\"\"}}", "Identifier  is not valid" },
		{ "{" K ",\"disks\":[{}]}", "Path missing for disk ''" },
		{ "{" K ",\"disks\":[{\"id\":\"d\",\"path\":\"\"}]}", "Path missing for disk 'd'" },
		{ "{" K ",\"disks\":[{\"path\":\"d\",\"num_queues\":2}]}",
		  "Queue count (2) must not exceed boot vCPUs (1)" },
		{ "{" K ",\"disks\":[{\"path\":\"d\",\"serial\":\"123456789012345678901\"}]}",
		  "Block device serial length (21) exceeds maximum allowed length (20)" },
		{ "{" K ",\"disks\":[{\"path\":\"d\",\"queue_size\":2}]}",
		  "Block queue size must be greater than 2: 2" },
		{ "{" K ",\"disks\":[{\"path\":\"d\",\"queue_size\":96}]}",
		  "Queue size must be a power of 2 no greater than 32768: 96" },
		{ "{" K ",\"disks\":[{\"path\":\"d\",\"image_type\":\"Vhdx\"}]}",
		  "config.disks[0].image_type: `Vhdx` is not supported by this program" },
		{ "{" K ",\"net\":[{\"num_queues\":1}]}",
		  "Number of queues (1) to virtio_net should be higher than 2" },
		{ "{" K ",\"net\":[{\"num_queues\":3}]}",
		  "Number of queues (3) to virtio_net should be higher than 2" },
		{ "{" K ",\"net\":[{\"fds\":[3,4]}]}",
		  "Number of queues (2) to virtio_net does not match the number of FDs (4)" },
		{ "{" K ",\"net\":[{\"fds\":[]}]}",
		  "Number of queues (2) to virtio_net does not match the number of FDs (0)" },
		{ "{" K ",\"net\":[{\"fds\":[2]}]}", "Reserved fd number (<= 2): 2" },
		{ "{" K ",\"net\":[{\"num_queues\":4}]}", "Queue count (4) must not exceed boot vCPUs (1)" },
		{ "{" K ",\"net\":[{\"queue_size\":1}]}", "Queue size must be a power of 2 no greater than 32768: 1" },
		{ "{" K ",\"net\":[{\"mtu\":1279}]}",
		  "Provided MTU 1279 is lower than 1280 (expected by VIRTIO specification)" },
		{ "{" K ",\"net\":[{\"ip\":\"10.0.0.1\"}]}", "IP provided without a mask" },
		{ "{" K ",\"net\":[{\"mask\":\"255.0.0.0\"}]}", "Mask provided without an IP" },
		{ "{" K ",\"net\":[{\"ip\":\"10.0.0\",\"mask\":\"255.0.0.0\"}]}", "ip '10.0.0' is not an IP address" },
		{ "{" K ",\"net\":[{\"ip\":\"10.0.0.1\",\"mask\":\"/8\"}]}", "mask '/8' is not an IP address" },
		{ "{" K ",\"net\":[{\"mac\":\"2e:8c:e1:f1:92\"}]}", "mac '2e:8c:e1:f1:92' is not a MAC address" },
		{ "{" K ",\"net\":[{\"mac\":\"2e:8c:e1:f1:92:fa:\"}]}",
		  "mac '2e:8c:e1:f1:92:fa:' is not a MAC address" },
		{ "{" K ",\"net\":[{\"host_mac\":\"2e-8c-e1-f1-92-fa\"}]}",
		  "host_mac '2e-8c-e1-f1-92-fa' is not a MAC address" },
		{ "{" K ",\"net\":[{\"tap\":\"a-name-of-16-byt\"}]}",
		  "tap 'a-name-of-16-byt' is not the name of an interface" },
		{ "{" K ",\"net\":[{\"tap\":\"a/b\"}]}", "tap 'a/b' is not the name of an interface" },
		{ "{" K ",\"net\":[{\"offload_csum\":false}]}",
		  "\"offload_tso\" and \"offload_ufo\" depend on \"offload_csum\"" },
		{ "{" K ",\"serial\":{\"mode\":\"File\"}}", "Path missing when using file serial mode" },
		{ "{" K ",\"console\":{\"mode\":\"File\",\"file\":\"\"}}",
		  "Path missing when using file console mode" },
		{ "{" K ",\"serial\":{\"mode\":\"Socket\"}}", "serial: socket mode needs a path" },
		{ "{" K ",\"console\":{\"mode\":\"Socket\",\"socket\":\"s\"}}",
		  "No socket option support for console device" },
		{ "{" K ",\"rng\":{\"pci_device_id\":0}}", "Given PCI device ID (0) is reserved" },
		{ "{" K ",\"console\":{\"mode\":\"Tty\",\"pci_device_id\":32}}",
		  "Given PCI device ID (32) is out of the supported range of 0..32" },
		{ "{" K ",\"rng\":{\"pci_device_id\":3},\"disks\":[{\"path\":\"d\",\"pci_device_id\":3}]}",
		  "Valid PCI device identifier but already used: 3" },
		{ "{" K ",\"balloon\":{}}", "config.balloon.size: missing" },
		{ "{" K ",\"balloon\":{\"size\":536870912}}", "Balloon size (536870912) greater than RAM (536870912)" },
		{ "{" K ",\"balloon\":{\"size\":0,\"id\":\"__balloon\"}}", "Identifier __balloon is not valid" },
		{ "{" K ",\"balloon\":{\"size\":0,\"pci_device_id\":3},\"rng\":{\"pci_device_id\":3}}",
		  "Valid PCI device identifier but already used: 3" },
		{ "{" K ",\"cpus\":{\"boot_vcpus\":255,\"max_vcpus\":255}}",
		  "config.cpus.boot_vcpus: 255 is above 254" },
		{ "{" K ",\"cpus\":{\"boot_vcpus\":1}}", "config.cpus.max_vcpus: missing" },
		{ "{" K ",\"pmem\":[{\"file\":\"f\"}]}", "config.pmem: not supported by this program" },
		{ "{" K ",\"vsock\":{\"cid\":3}}", "config.vsock.socket: missing" },
		{ "{" K ",\"vsock\":{\"socket\":\"s\"}}", "config.vsock.cid: missing" },
		{ "{" K ",\"vsock\":{\"cid\":3,\"socket\":\"\"}}", "Path missing for the vsock socket" },
		{ "{" K ",\"vsock\":{\"cid\":2,\"socket\":\"s\"}}", "2 is a special VSOCK CID" },
		{ "{" K ",\"vsock\":{\"cid\":4294967295,\"socket\":\"s\"}}", "4294967295 is a special VSOCK CID" },
		{ "{" K ",\"vsock\":{\"cid\":3,\"socket\":\"s\",\"iommu\":true}}",
		  "config.vsock.iommu: true is not supported by this program" },
		{ "{" K ",\"vsock\":{\"cid\":3,\"socket\":\"s\",\"pci_device_id\":3},\"rng\":{\"pci_device_id\":3}}",
		  "Valid PCI device identifier but already used: 3" },
		{ "{" K ",\"pvpanic\":true}", "config.pvpanic: true is not supported by this program" },
		{ "{" K ",\"platform\":{\"num_pci_segments\":2}}",
		  "config.platform.num_pci_segments: 2 is not supported by this program" },
		{ "{" K ",\"platform\":{\"vfio_p2p_dma\":false}}",
		  "config.platform.vfio_p2p_dma: false is not supported by this program" },
		{ "{" K ",\"platform\":{\"vmgenid\":1}}",
		  "config.platform.vmgenid: expected a boolean, found an integer" },
		{ "{" K ",\"platform\":{\"oem_strings\":[\"x\"]}}",
		  "config.platform.oem_strings: not supported by this program" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		assert_int_equal(check(cases[i].json, &err), -EINVAL);
		assert_int_equal(err.code, ERR_INVALID);
		assert_string_equal(err.msg, cases[i].msg);
	}
}

static void ids_are_unique(void **state)
{
	struct err err = {};

	(void)state;
	assert_true(check("{" K ",\"disks\":[{\"id\":\"net1\",\"path\":\"d\"}],\"net\":[{\"id\":\"net1\"}]}", &err) <
		    0);
	assert_int_equal(err.code, ERR_CONFLICT);
	assert_string_equal(err.msg, "Identifier net1 is not unique");
}

/* More devices than any table in the checks: counted before anything else. */
static void too_many_devices(void **state)
{
	autovmconfig struct vm_config c = {};
	struct err err = {};

	(void)state;
	vm_config_init(&c);
	c.payload = calloc(1, sizeof(*c.payload));
	c.payload->kernel = strdup("K");
	c.disks = calloc(100, sizeof(*c.disks));
	c.n_disks = 100;
	for (unsigned i = 0; i < c.n_disks; i++) {
		fields_init(disk_fields, &c.disks[i]);
		c.disks[i].path = strdup("d");
		c.disks[i].id = strdup("same");
	}
	assert_int_equal(vm_config_check(&c, &err), -EINVAL);
	assert_string_equal(err.msg, "102 PCI devices are more than the 31 slots");
	free(c.payload->cmdline);
	c.payload->cmdline = malloc(CMDLINE_MAX_BYTES + 1);
	memset(c.payload->cmdline, 'x', CMDLINE_MAX_BYTES);
	c.payload->cmdline[CMDLINE_MAX_BYTES] = '\0';
	assert_int_equal(vm_config_check(&c, &err), -EINVAL);
	assert_string_equal(err.msg, "command line of 65536 bytes is longer than 65535");
}

static void urls(void **state)
{
	static const char *const bad[] = { "", "/x", "file:/x", "http://x", "FILE:///x" };
	struct err err = {};

	(void)state;
	assert_string_equal(url_path("file:///a%20b", &err), "/a%20b");
	assert_string_equal(url_path("file://", &err), "");
	assert_string_equal(url_path("file://rel", &err), "rel");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_null(url_path(bad[i], &err));
	assert_string_equal(err.msg, "Could not extract path from URL: FILE:///x");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts),          cmocka_unit_test(rejects), cmocka_unit_test(ids_are_unique),
		cmocka_unit_test(too_many_devices), cmocka_unit_test(urls),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
