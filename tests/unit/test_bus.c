// SPDX-License-Identifier: Apache-2.0
/* vmm/bus: who answers at which address, what cannot overlap, and moving a range. */
#include "vmm/core/bus.h"

#include "tests/unit/unit.h"

#include <errno.h>

struct fake {
	uint64_t off, value;
	unsigned len, reads, writes;
};

static void fake_read(void *dev, uint64_t off, void *data, unsigned len)
{
	struct fake *f = dev;

	f->off = off;
	f->len = len;
	f->reads++;
	reg_put(data, len, f->value);
}

static void fake_write(void *dev, uint64_t off, const void *data, unsigned len)
{
	struct fake *f = dev;

	f->off = off;
	f->len = len;
	f->writes++;
	f->value = reg_get(data, len);
}

static int add(struct bus *bus, struct fake *f, uint64_t base, uint64_t size, struct err *err)
{
	struct bus_range r = { .base = base, .size = size, .dev = f, .read = fake_read, .write = fake_write };

	return bus_add(bus, &r, err);
}

static uint64_t read_at(struct bus *bus, uint64_t addr, unsigned len)
{
	uint64_t v = 0;

	bus_read(bus, addr, &v, len);
	return v;
}

static void overlaps(void **state)
{
	static const struct {
		uint64_t base, size;
		bool fits;
	} cases[] = {
		{ 0x0f00, 0x100, true },        { 0x0f00, 0x101, false },      { 0x1000, 1, false },
		{ 0x10ff, 1, false },           { 0x1100, 1, true },           { 0x10ff, 2, false },
		{ 0x0, 0x10000, false },        { 0x1000, 0x100, false },      { 0x1010, 0x10, false },
		{ UINT64_MAX - 15, 16, false }, { UINT64_MAX - 15, 15, true }, { UINT64_MAX - 15, 32, false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct bus bus;
		struct fake f = {};
		struct err err = {};
		bus_init(&bus);
		assert_int_equal(add(&bus, &f, 0x1000, 0x100, &err), 0);
		int r = add(&bus, &f, cases[i].base, cases[i].size, &err);
		if (r != (cases[i].fits ? 0 : -EINVAL))
			fail_msg("0x%llx+0x%llx: %d", (unsigned long long)cases[i].base,
				 (unsigned long long)cases[i].size, r);
		assert_int_equal(bus.n, cases[i].fits ? 2 : 1);
	}
}

static void message_and_bound(void **state)
{
	struct bus bus;
	struct fake f = {};
	struct err err = {};

	(void)state;
	bus_init(&bus);
	for (unsigned i = 0; i < BUS_MAX_RANGES; i++)
		assert_int_equal(add(&bus, &f, i * 16ULL, 16, &err), 0);
	assert_true(add(&bus, &f, 0x10000, 16, &err) < 0);
	assert_string_equal(err.msg, "more than 64 device register ranges");
	bus_init(&bus);
	assert_int_equal(add(&bus, &f, 0x10, 16, &err), 0);
	assert_true(add(&bus, &f, 0x1f, 16, &err) < 0);
	assert_string_equal(err.msg, "device registers at 0x1f are in another device's place");
}

static void edges(void **state)
{
	struct bus bus;
	struct fake a = { .value = 0x1122334455667788 }, b = { .value = 0 };
	struct err err = {};

	(void)state;
	bus_init(&bus);
	assert_int_equal(add(&bus, &a, 0x1000, 0x10, &err), 0);
	assert_int_equal(add(&bus, &b, 0x1010, 0x10, &err), 0);
	for (unsigned len = 1; len <= 8; len *= 2) {
		uint64_t mask = len == 8 ? UINT64_MAX : (1ULL << 8 * len) - 1;
		assert_int_equal(read_at(&bus, 0x1000, len), a.value & mask);
		assert_int_equal(a.off, 0);
		assert_int_equal(a.len, len);
		assert_int_equal(read_at(&bus, 0x1010 - len, len), a.value & mask);
		assert_int_equal(a.off, 0x10 - len);
		assert_int_equal(read_at(&bus, 0x0fff - len + 1, len), mask); /* nobody */
		assert_int_equal(read_at(&bus, 0x1020, len), mask);
		if (len > 1) { /* across a border: nobody, neither of the two */
			assert_int_equal(read_at(&bus, 0x1011 - len, len), mask);
			assert_int_equal(read_at(&bus, 0x1021 - len, len), mask);
			assert_int_equal(read_at(&bus, 0x1001 - len, len), mask);
		}
	}
	assert_int_equal(a.reads, 8);
	assert_int_equal(b.reads, 0);
	assert_int_equal(read_at(&bus, 0x1003, 4), 0x55667788); /* unaligned is the device's business */
	assert_int_equal(a.off, 3);
	assert_int_equal(read_at(&bus, UINT64_MAX, 8), UINT64_MAX);

	bus_write(&bus, 0x1018, &(uint64_t){ 0xaabbccddeeff0011 }, 4);
	assert_int_equal(b.value, 0xeeff0011);
	assert_int_equal(b.off, 8);
	bus_write(&bus, 0x101d, &(uint32_t){ 1 }, 4);
	bus_write(&bus, 0x1020, &(uint32_t){ 1 }, 4);
	assert_int_equal(b.writes, 1);
	assert_int_equal(a.writes, 0);
}

static void without_callbacks(void **state)
{
	struct bus bus;
	struct bus_range r = { .base = 0, .size = 8 };
	struct err err = {};

	(void)state;
	bus_init(&bus);
	assert_int_equal(bus_add(&bus, &r, &err), 0);
	assert_int_equal(read_at(&bus, 0, 2), 0xffff);
	bus_write(&bus, 0, &(uint32_t){ 1 }, 4);
}

static void ranges_go_with_their_device(void **state)
{
	struct bus bus;
	int a, b;
	const struct bus_range ranges[] = { { .base = 0, .size = 8, .dev = &a },
					    { .base = 8, .size = 8, .dev = &b },
					    { .base = 16, .size = 8, .dev = &a } };
	struct err err = {};

	(void)state;
	bus_init(&bus);
	for (unsigned i = 0; i < ARRAY_LEN(ranges); i++)
		assert_int_equal(bus_add(&bus, &ranges[i], &err), 0);
	bus_remove(&bus, &a);
	assert_int_equal(bus.n, 1);
	assert_ptr_equal(bus.range[0].dev, &b);
	assert_int_equal(bus_add(&bus, &ranges[2], &err), 0);
	assert_int_equal(bus_add(&bus, &ranges[1], &err), -EINVAL);
}

static void moves(void **state)
{
	static const struct {
		unsigned dev;
		uint64_t from, to;
		bool moved;
	} cases[] = {
		{ 0, 0x1000, 0x5000, true },  { 0, 0x1000, 0x1008, true }, /* over itself */
		{ 0, 0x1000, 0x2ff1, false }, { 0, 0x1000, 0x2ff0, true },
		{ 0, 0x1000, 0x200f, false }, { 0, 0x1000, 0x1ff1, false },
		{ 0, 0x1000, 0x2010, true },  { 0, 0x1001, 0x5000, false },
		{ 1, 0x1000, 0x5000, false }, { 0, 0x1000, UINT64_MAX - 7, false },
		{ 0, 0x1000, 0x1000, true },  { 0, 0x1000, UINT64_MAX - 16, true },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct bus bus;
		struct fake f[2] = { { .value = 0x42 }, { .value = 0x43 } };
		struct err err = {};
		bus_init(&bus);
		assert_int_equal(add(&bus, &f[0], 0x1000, 0x10, &err), 0);
		assert_int_equal(add(&bus, &f[1], 0x2000, 0x10, &err), 0);
		assert_int_equal(add(&bus, &f[1], 0x3000, 0x10, &err), 0);
		if (bus_move(&bus, &f[cases[i].dev], cases[i].from, cases[i].to) != cases[i].moved)
			fail_msg("case %zu", i);
		assert_int_equal(read_at(&bus, cases[i].moved ? cases[i].to : 0x1000, 1), 0x42);
		if (cases[i].moved && cases[i].to >= 0x1010)
			assert_int_equal(read_at(&bus, 0x1000, 1), 0xff);
		assert_int_equal(read_at(&bus, 0x2000, 1), 0x43);
	}
}

static void registers(void **state)
{
	uint8_t buf[9] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };

	(void)state;
	assert_int_equal(reg_get(buf, 1), 1);
	assert_int_equal(reg_get(buf, 2), 0x0201);
	assert_int_equal(reg_get(buf, 4), 0x04030201);
	assert_int_equal(reg_get(buf, 8), 0x0807060504030201);
	reg_put(buf, 2, 0xffffffffff00aa);
	assert_memory_equal(buf, ((uint8_t[]){ 0xaa, 0, 3, 4, 5, 6, 7, 8, 9 }), 9);
	reg_put(buf, 8, 0);
	assert_memory_equal(buf, ((uint8_t[]){ 0, 0, 0, 0, 0, 0, 0, 0, 9 }), 9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(overlaps),
		cmocka_unit_test(message_and_bound),
		cmocka_unit_test(edges),
		cmocka_unit_test(without_callbacks),
		cmocka_unit_test(ranges_go_with_their_device),
		cmocka_unit_test(moves),
		cmocka_unit_test(registers),
	};

	return cmocka_run_group_tests_name("bus", tests, NULL, NULL);
}
