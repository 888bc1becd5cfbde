// SPDX-License-Identifier: Apache-2.0
/* vmm/virtio/transport_state: the saved state of a transport, written, read back, refused; its part of the device tree. */
#include "tests/unit/fake_device.h"

#include "vmm/state/state.h"

static void save(struct strbuf *out)
{
	strbuf_putc(out, '{');
	virtio_pci_save(t, out);
	strbuf_putc(out, '}');
}

static int load(const char *text, size_t len, struct err *err)
{
	autojson struct json json = {};
	autofree char *copy = malloc(len + 1);

	memcpy(copy, text, len + 1);
	assert_int_equal(json_parse(&json, copy, len, err), 0);
	return virtio_pci_load(t, json_get(&json.nodes[0], "_virtio-pci-net7"), err);
}

static void new_restored(void **state)
{
	transport_done(state);
	n_activate = n_notify = n_msi = 0;
	make_vm();
	vm.restored = true;
	t = add_device(&fake_ops, "net7", QUEUES);
	vdev = t->vdev;
}

static void round_trip(void **state)
{
	autostrbuf struct strbuf out = {}, again = {};
	struct err err = {};
	uint64_t v = 0;

	start();
	cfg_write(4, PCI_COMMAND_MEMORY, 2);
	cfg_write(0x14, 0x2000, 4);
	cfg_write(0x8c, 0x12, 4);
	virtio_pci_interrupt(t, VIRTIO_CONFIG_CHANGE);
	put16(0x12002, 5);
	wr(0x800c, 1, 4);
	virtio_pci_interrupt(t, VIRTIO_CONFIG_CHANGE); /* masked: pending */
	virtio_pause(vdev);
	uint64_t acked = vdev->acked_features, bar = t->pci.bar0;
	save(&out);

	new_restored(state);
	bus_read(&vm.mmio, BAR, &v, 4);
	assert_int_equal(v, UINT32_MAX); /* its place comes from the snapshot */
	assert_int_equal(virtio_load_features(vdev, OFFERED, acked, &err), 0);
	put16(0x12002, 5);
	put16(0x11002, 5);
	assert_int_equal(load(out.text, out.len, &err), 0);
	assert_int_equal(t->pci.bar0, bar);
	assert_int_equal(n_activate, 1);
	assert_int_equal(vdev->queue[0].next_avail, 5);
	assert_int_equal(vdev->queue[0].next_used, 5);
	assert_int_equal(rd(0x14, 1), 0xf);
	assert_int_equal(rd(0x1a, 2), 2);
	save(&again);
	assert_string_equal(again.text, out.text);
	wr(0x6000, 0, 2);
	assert_int_equal(n_notify, 0); /* paused until the resume */
	virtio_resume(vdev, true);
	assert_true(resumed_restored);
	assert_int_equal(n_notify, QUEUES);
	assert_int_equal(n_msi, QUEUES);
	wr(0x800c, 0, 4); /* the pending one comes */
	assert_int_equal(n_msi, QUEUES + 1);
	assert_int_equal(rd(0x2000, 1), 2);
	assert_int_equal(cfg_read(0x94, 1), 0);
	assert_int_equal(cfg_read(0x8c, 4), 0x12);
}

static void inactive_round_trip(void **state)
{
	autostrbuf struct strbuf out = {};
	struct err err = {};

	save(&out);
	new_restored(state);
	assert_int_equal(load(out.text, out.len, &err), 0);
	assert_int_equal(n_activate, 0);
	assert_int_equal(t->pci.bar0, BAR);
	virtio_resume(vdev, true);
	assert_int_equal(n_msi, 0);
	start();
}

/* The state with one piece replaced by another. */
static void edit(struct strbuf *s, const char *from, const char *to)
{
	autostrbuf struct strbuf old = *s;
	char *at = strstr(old.text, from);

	assert_non_null(at);
	*s = (struct strbuf){};
	strbuf_add(s, old.text, (size_t)(at - old.text));
	strbuf_puts(s, to);
	strbuf_puts(s, at + strlen(from));
}

static void load_rejects(void **state)
{
	static const struct {
		const char *from, *to, *msg;
	} cases[] = {
		{ "\"msix_config\":{\"snap", "\"x\":{\"snap", "state.json: no node 'msix_config'" },
		{ "\"pci_configuration\"", "\"y\"", "state.json: no node 'pci_configuration'" },
		{ "\"virtio_pci_common_config\"", "\"z\"", "state.json: no node 'virtio_pci_common_config'" },
		{ "\\\"device_activated\\\":true,", "", "state.json\n_virtio-pci-net7.device_activated: missing" },
		{ "\\\"max_size\\\":64,\\\"size\\\":16", "\\\"max_size\\\":64,\\\"size\\\":128",
		  "state.json: _virtio-pci-net7: queue 0 has size 128 of 64, configured is 64" },
		{ "\\\"max_size\\\":64", "\\\"max_size\\\":128",
		  "state.json: _virtio-pci-net7: queue 0 has size 16 of 128, configured is 64" },
		{ "\\\"size\\\":16", "\\\"size\\\":17",
		  "state.json\n_virtio-pci-net7.queues[0].size: 17 is not a power of two" },
		{ "\\\"desc_table\\\":65536", "\\\"desc_table\\\":65544",
		  "state.json: _virtio-pci-net7: its queues are not in guest RAM" },
		{ "\\\"avail_ring\\\":69632", "\\\"avail_ring\\\":1048576",
		  "state.json: _virtio-pci-net7: its queues are not in guest RAM" },
		{ "\\\"cap_pci_cfg_offset\\\":134", "\\\"cap_pci_cfg_offset\\\":4090",
		  "state.json: _virtio-pci-net7: cap_pci_cfg_offset is 4090, expected 134" },
		{ "\\\"msix_queues\\\":[1,2]", "\\\"msix_queues\\\":[1]",
		  "state.json: _virtio-pci-net7: msix_queues has 1 entries, expected 2" },
		{ "\\\"msix_cap_reg_idx\\\":38", "\\\"msix_cap_reg_idx\\\":39",
		  "state.json: _virtio-pci-net7: pci_configuration is not that of a fake device" },
		{ "Memory64BitRegion", "Memory32BitRegion",
		  "state.json: _virtio-pci-net7: pci_configuration is not that of a fake device" },
		{ "\\\"size\\\":4294443008", "\\\"size\\\":4294901760",
		  "state.json: _virtio-pci-net7: pci_configuration is not that of a fake device" },
		{ "[272702196,", "[272833268,",
		  "state.json: _virtio-pci-net7: pci_configuration is not that of a fake device" },
		{ "\\\"pba_entries\\\":[0]", "\\\"pba_entries\\\":[0,0]",
		  "_virtio-pci-net7: msix_config has 3 vectors and 2 pending words, expected 3 and 1" },
	};
	autostrbuf struct strbuf good = {};

	start();
	save(&good);
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autostrbuf struct strbuf s = {};
		struct err err = {};
		strbuf_puts(&s, good.text);
		edit(&s, cases[i].from, cases[i].to);
		new_restored(state);
		assert_true(load(s.text, s.len, &err) < 0);
		assert_string_equal(err.msg, cases[i].msg);
		assert_false(vdev->active);
	}
	struct err err = {}; /* the text itself was good, but another device has the place */
	new_restored(state);
	struct bus_range taken = { .base = BAR + 4096, .size = 16 };
	assert_int_equal(bus_add(&vm.mmio, &taken, &err), 0);
	assert_true(load(good.text, good.len, &err) < 0);
	assert_string_equal(err.msg, "state.json: _virtio-pci-net7\n"
				     "device registers at 0x3fffff800000 are in another device's place");
}

/* Vectors out of a file are bounded like those of the guest. */
static void loaded_vectors(void **state)
{
	autostrbuf struct strbuf s = {};
	struct err err = {};

	start();
	save(&s);
	edit(&s, "\\\"msix_queues\\\":[1,2]", "\\\"msix_queues\\\":[3,65534]");
	edit(&s, "\\\"msix_config\\\":0,", "\\\"msix_config\\\":1000,");
	new_restored(state);
	assert_int_equal(load(s.text, s.len, &err), 0);
	assert_int_equal(t->msix_queues[0], 0xffff);
	assert_int_equal(t->msix_queues[1], 0xffff);
	assert_int_equal(t->msix_config, 0xffff);
}

static void device_tree(void **state)
{
	autostrbuf struct strbuf out = {};

	(void)state;
	virtio_pci_tree(t, &out);
	assert_string_equal(
		out.text,
		"\"_virtio-pci-net7\":{\"id\":\"_virtio-pci-net7\",\"resources\":[{\"PciBar\":{\"index\":0,"
		"\"base\":70368735789056,\"size\":524288,\"type_\":\"Mmio64\",\"prefetchable\":false}}],"
		"\"children\":[\"net7\"],\"pci_bdf\":\"0000:00:01.0\"},"
		"\"net7\":{\"id\":\"net7\",\"resources\":[],\"parent\":\"_virtio-pci-net7\",\"children\":[]}");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TRANSPORT_TEST(round_trip),     TRANSPORT_TEST(inactive_round_trip), TRANSPORT_TEST(load_rejects),
		TRANSPORT_TEST(loaded_vectors), TRANSPORT_TEST(device_tree),
	};

	return cmocka_run_group_tests_name("transport_state", tests, NULL, NULL);
}
