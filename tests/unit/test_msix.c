// SPDX-License-Identifier: Apache-2.0
/* vmm/msix: delivery, masks of both kinds, pending bits, table access. KVM is fake_kvm(). */
#include "vmm/pci/msix.h"

#include "tests/unit/fake_kvm.h"

#include <errno.h>

#include "vmm/core/kvm.h"

enum { ENABLE = 0x8000, MASK = 0x4000, VECTORS = 70, ENTRY = 16, CONTROL = 12, BAR_LAST = 0x7fffc };

static struct kvm_msi sent[128];
static unsigned n_sent;

/* Instead of the C library's: every MSI is written down. */
static int fake_kvm(unsigned long request, void *arg)
{
	assert_int_equal(request, KVM_SIGNAL_MSI);
	sent[n_sent++ % ARRAY_LEN(sent)] = *(struct kvm_msi *)arg;
	return 1;
}

static const struct kvm kvm = { .fd = -1, .vm_fd = FAKE_FD };
static struct msix m;

static void write32(uint64_t off, uint32_t v)
{
	msix_table_write(&m, &kvm, off, &v, 4);
}

static uint64_t read_table(uint64_t off, unsigned len)
{
	uint64_t v = 0;

	msix_table_read(&m, off, &v, len);
	return v;
}

static uint64_t read_pba(uint64_t off, unsigned len)
{
	uint64_t v = 0;

	msix_pba_read(&m, off, &v, len);
	return v;
}

static int make(void **state)
{
	struct err err = {};

	(void)state;
	n_sent = 0;
	if (msix_init(&m, VECTORS, &err) < 0)
		return -1;
	for (uint32_t v = 0; v < VECTORS; v++) {
		write32(v * ENTRY, 0xfee00000 + v);
		write32(v * ENTRY + 4, v << 8);
		write32(v * ENTRY + 8, 0x4000 + v);
	}
	return 0;
}

static int done(void **state)
{
	(void)state;
	msix_done(&m);
	return 0;
}

static void at_reset(void **state)
{
	(void)state;
	assert_true(m.masked);
	assert_false(m.enabled);
	assert_int_equal(m.n_table_entries, VECTORS);
	assert_int_equal(m.n_pba_entries, 2);
	for (unsigned v = 0; v < VECTORS; v++)
		assert_int_equal(read_table(v * ENTRY + CONTROL, 4), 1);
	write32(CONTROL, 0);
	msix_interrupt(&m, &kvm, 0); /* not enabled: lost, not pending */
	msix_set_control(&m, &kvm, ENABLE);
	assert_int_equal(n_sent, 0);
	assert_int_equal(read_pba(0, 8), 0);
}

static void delivers(void **state)
{
	(void)state;
	msix_set_control(&m, &kvm, ENABLE);
	write32(69 * ENTRY + CONTROL, 0);
	msix_interrupt(&m, &kvm, 69);
	assert_int_equal(n_sent, 1);
	assert_int_equal(sent[0].address_lo, 0xfee00000 + 69);
	assert_int_equal(sent[0].address_hi, 69 << 8);
	assert_int_equal(sent[0].data, 0x4000 + 69);
	assert_int_equal(sent[0].flags, 0);
	msix_interrupt(&m, &kvm, VECTORS);
	msix_interrupt(&m, &kvm, MSIX_NO_VECTOR);
	msix_interrupt(&m, &kvm, UINT32_MAX);
	assert_int_equal(n_sent, 1);
}

static void vector_mask(void **state)
{
	(void)state;
	msix_set_control(&m, &kvm, ENABLE);
	msix_interrupt(&m, &kvm, 3);
	msix_interrupt(&m, &kvm, 3);
	msix_interrupt(&m, &kvm, 65);
	assert_int_equal(n_sent, 0);
	assert_int_equal(read_pba(0, 8), 1 << 3);
	assert_int_equal(read_pba(8, 8), 1 << 1);
	assert_int_equal(read_pba(0, 4), 1 << 3);
	write32(4 * ENTRY + CONTROL, 0); /* another one */
	write32(3 * ENTRY + 8, 0x77);    /* new data while masked */
	assert_int_equal(n_sent, 0);
	write32(3 * ENTRY + CONTROL, 0);
	assert_int_equal(n_sent, 1); /* once, however often it was raised */
	assert_int_equal(sent[0].data, 0x77);
	assert_int_equal(read_pba(0, 8), 0);
	assert_int_equal(read_pba(8, 8), 1 << 1);
	write32(3 * ENTRY + CONTROL, 1);
	write32(3 * ENTRY + CONTROL, 0);
	assert_int_equal(n_sent, 1);
}

static void function_mask(void **state)
{
	(void)state;
	for (uint32_t v = 0; v < VECTORS; v++)
		write32(v * ENTRY + CONTROL, v == 1); /* all but vector 1 unmasked */
	msix_set_control(&m, &kvm, ENABLE | MASK);
	for (uint32_t v = 0; v < VECTORS; v++)
		msix_interrupt(&m, &kvm, v);
	assert_int_equal(n_sent, 0);
	assert_int_equal(read_pba(0, 8), UINT64_MAX);
	assert_int_equal(read_pba(8, 8), 0x3f);
	write32(5 * ENTRY + CONTROL, 0); /* nothing while the function is masked */
	assert_int_equal(n_sent, 0);
	msix_set_control(&m, &kvm, 0); /* disabled: they wait */
	assert_int_equal(n_sent, 0);
	msix_set_control(&m, &kvm, ENABLE);
	assert_int_equal(n_sent, VECTORS - 1);
	assert_int_equal(sent[0].data, 0x4000);
	assert_int_equal(sent[1].data, 0x4002);
	assert_int_equal(sent[VECTORS - 2].data, 0x4000 + VECTORS - 1);
	assert_int_equal(read_pba(0, 8), 2);
	assert_int_equal(read_pba(8, 8), 0);
	msix_set_control(&m, &kvm, ENABLE);
	assert_int_equal(n_sent, VECTORS - 1);
}

static void table_access(void **state)
{
	(void)state;
	assert_int_equal(read_table(16, 4), 0xfee00001);
	assert_int_equal(read_table(16, 8), 0x100fee00001);
	assert_int_equal(read_table(17, 1), 0);
	assert_int_equal(read_table(18, 2), 0xfee0);
	assert_int_equal(read_table(VECTORS * ENTRY - 4, 4), 1);
	assert_int_equal(read_table(VECTORS * ENTRY, 4), 0);
	assert_int_equal(read_table(VECTORS * ENTRY - 4, 8), 0);
	assert_int_equal(read_table(BAR_LAST, 4), 0);
	msix_table_write(&m, &kvm, 8, &(uint64_t){ 0x100000022 }, 8);
	assert_int_equal(read_table(8, 8), 0x100000022);
	static const struct {
		uint64_t off;
		unsigned len;
	} ignored[] = {
		{ 8, 1 },
		{ 8, 2 },
		{ 10, 4 },
		{ 4, 8 },
		{ 12, 8 },
		{ VECTORS * ENTRY, 4 },
		{ VECTORS * ENTRY, 8 },
		{ BAR_LAST, 4 },
	};
	for (size_t i = 0; i < ARRAY_LEN(ignored); i++)
		msix_table_write(&m, &kvm, ignored[i].off, &(uint64_t){ 0 }, ignored[i].len);
	assert_int_equal(read_table(8, 8), 0x100000022);
	assert_int_equal(read_table(4, 4), 0);
	assert_int_equal(read_table(VECTORS * ENTRY - 4, 4), 1);
	assert_int_equal(read_pba(16, 8), 0);
	assert_int_equal(read_pba(12, 8), 0);
	assert_int_equal(read_pba(BAR_LAST, 4), 0);
}

static void save_and_load(void **state)
{
	autostrbuf struct strbuf out = {};
	autojson struct json json = {};
	struct err err = {};
	struct msix n = {};

	(void)state;
	msix_set_control(&m, &kvm, ENABLE);
	msix_interrupt(&m, &kvm, 64);
	fields_save(msix_fields, &m, &out);
	assert_int_equal(json_parse(&json, out.text, out.len, &err), 0);
	assert_int_equal(fields_load(msix_fields, &n, &json.nodes[0], "msix_config", &err), 0);
	assert_int_equal(msix_check(&n, VECTORS, "x", &err), 0);
	assert_memory_equal(n.table_entries, m.table_entries, VECTORS * sizeof(*n.table_entries));
	assert_memory_equal(n.pba_entries, m.pba_entries, 2 * sizeof(*n.pba_entries));
	assert_true(n.enabled && !n.masked);
	assert_int_equal(msix_check(&n, 64, "_virtio-pci-x", &err), -EINVAL);
	assert_string_equal(err.msg,
			    "_virtio-pci-x: msix_config has 70 vectors and 2 pending words, expected 64 and 1");
	n.n_pba_entries = 1;
	assert_int_equal(msix_check(&n, VECTORS, "x", &err), -EINVAL);
	msix_done(&n);
	assert_null(n.table_entries);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(at_reset, make, done),
		cmocka_unit_test_setup_teardown(delivers, make, done),
		cmocka_unit_test_setup_teardown(vector_mask, make, done),
		cmocka_unit_test_setup_teardown(function_mask, make, done),
		cmocka_unit_test_setup_teardown(table_access, make, done),
		cmocka_unit_test_setup_teardown(save_and_load, make, done),
	};

	return cmocka_run_group_tests_name("msix", tests, NULL, NULL);
}
