// SPDX-License-Identifier: Apache-2.0
/* common/field: every kind of row, defaults, bounds with their messages, and the round trip of a real config.json. */
#include "common/field.h"

#include <errno.h>

#include "tests/unit/unit.h"
#include "vmm/config/config.h"

struct part {
	uint16_t id;
	char *name;
};

struct all {
	bool on;
	uint8_t u8;
	int8_t i8;
	uint16_t u16;
	uint32_t u32;
	int32_t i32;
	uint64_t u64;
	char *str, *name;
	uint8_t kind;
	uint32_t regs[3];
	int32_t *list;
	uint32_t n_list;
	uint8_t opt;
	bool has_opt;
	struct part part;
	struct part *ptr;
	struct part *parts;
	uint32_t n_parts;
	struct part pair[2];
	bool refused;
	uint16_t refused_nr;
	int32_t *fds;
	uint32_t n_fds;
	int8_t omitted;
	uint8_t blob[4];
};

static const char *const kinds[] = { "Red", "Green", "Old", NULL };

static const struct field part_fields[] = {
	F(struct part, id, .flags = F_REQUIRED, .max = 1000),
	F(struct part, name, .def_str = "part"),
	F_END,
};

static const struct field all_fields[] = {
	F(struct all, on, .def = 1),
	F(struct all, u8),
	F(struct all, i8),
	F(struct all, u16, .def = 256, .min = 2, .max = 32768, .flags = F_POW2),
	F(struct all, u32, .align = 16),
	F(struct all, i32),
	F(struct all, u64),
	F(struct all, str),
	F(struct all, name, .def_str = "dflt"),
	F_ENUM(struct all, kind, kinds, .def = 1, .max = 1),
	F_ARRAY(struct all, regs),
	F_LIST(struct all, list, .count = 4),
	F_OPT(struct all, opt, .flags = F_NULL),
	F_OBJ(struct all, part, part_fields),
	F_OBJ_PTR(struct all, ptr, part_fields),
	F_OBJ_LIST(struct all, parts, part_fields),
	F_OBJ_ARRAY(struct all, pair, part_fields),
	F(struct all, refused, .flags = F_REFUSE),
	F(struct all, refused_nr, .flags = F_REFUSE, .def = 3),
	F_UNSUPPORTED("alien", .def_str = "none"),
	F_UNSUPPORTED_OPT("alien_opt"),
	F_IGNORED_OPT("ignored_opt"),
	F_LIST(struct all, fds, .flags = F_RUNTIME),
	F(struct all, omitted, .flags = F_OMIT, .def = 5),
	F_BYTES(struct all, blob),
	F_END,
};

static int load(struct all *a, const char *text, struct err *err)
{
	autojson struct json json = {};
	autofree char *copy = exact_copy(text, strlen(text));

	assert_int_equal(json_parse(&json, copy, strlen(text), err), 0);
	return fields_load(all_fields, a, json.nodes, "all", err);
}

static void save_is(const struct field *rows, const void *obj, const char *expected)
{
	autostrbuf struct strbuf out = {};

	fields_save(rows, obj, &out);
	assert_false(out.failed);
	assert_string_equal(out.text, expected);
}

#define DEFAULTS                                                                                      \
	"{\"on\":true,\"u8\":0,\"i8\":0,\"u16\":256,\"u32\":0,\"i32\":0,\"u64\":0,\"name\":\"dflt\"," \
	"\"kind\":\"Green\",\"regs\":[0,0,0],\"opt\":null,\"part\":{\"id\":0,\"name\":\"part\"},"     \
	"\"pair\":[{\"id\":0},{\"id\":0}],\"refused\":false,\"refused_nr\":3,\"blob\":[0,0,0,0]}"

static void defaults(void **state)
{
	struct all a;

	(void)state;
	memset(&a, 0xa5, sizeof(a));
	fields_init(all_fields, &a);
	save_is(all_fields, &a, DEFAULTS);
	assert_int_equal(a.omitted, 5);
	fields_free(all_fields, &a);
	assert_false(a.on);
	assert_null(a.name);
	assert_int_equal(a.u16, 0);
	fields_free(all_fields, &a); /* twice is harmless */
}

#define FULL                                                                                                    \
	"{\"on\":false,\"u8\":255,\"i8\":-128,\"u16\":32768,\"u32\":4294967280,\"i32\":-2147483648,"            \
	"\"u64\":18446744073709551615,\"str\":\"\\\"\\n\xc3\xa9\",\"name\":\"\",\"kind\":\"Red\","              \
	"\"regs\":[1,2,4294967295],\"list\":[-1,0,2147483647],\"opt\":7,\"part\":{\"id\":1000,\"name\":\"p\"}," \
	"\"ptr\":{\"id\":1,\"name\":\"q\"},\"parts\":[{\"id\":2,\"name\":\"part\"},{\"id\":3,\"name\":\"r\"}]," \
	"\"pair\":[{\"id\":4,\"name\":\"s\"},{\"id\":5,\"name\":\"t\"}],\"refused\":false,\"refused_nr\":3,"    \
	"\"omitted\":-5,\"blob\":[1,2,3,255]}"

static void round_trip(void **state)
{
	struct all a = {};
	struct err err = {};

	(void)state;
	fields_init(all_fields, &a);
	for (int i = 0; i < 2; i++) { /* the second time over what is there */
		assert_int_equal(load(&a, FULL, &err), 0);
		save_is(all_fields, &a, FULL);
	}
	assert_int_equal(
		load(&a, "{\"list\":[],\"parts\":[],\"unknown\":{\"deep\":[1]},\"fds\":[1],\"alien_opt\":1}", &err), 0);
	assert_int_equal(a.n_list, 0);
	assert_non_null(a.list);
	assert_null(a.fds);
	assert_int_equal(a.n_parts, 0);
	fields_free(all_fields, &a);
}

static void null_is_absent(void **state)
{
	struct all a = {};
	struct err err = {};

	(void)state;
	fields_init(all_fields, &a);
	assert_int_equal(load(&a,
			      "{\"str\":null,\"name\":null,\"list\":null,\"opt\":null,\"ptr\":null,\"parts\":null,"
			      "\"alien\":null}",
			      &err),
			 0);
	save_is(all_fields, &a, DEFAULTS);
	assert_int_equal(load(&a, "{\"alien\":0}", &err), 0);
	assert_int_equal(load(&a, "{\"alien\":false}", &err), 0);
	assert_int_equal(load(&a, "{\"alien\":[]}", &err), 0);
	assert_int_equal(load(&a, "{\"alien\":{}}", &err), 0);
	assert_int_equal(load(&a, "{\"alien\":\"none\"}", &err), 0);
	fields_free(all_fields, &a);
}

static void rejects(void **state)
{
	static const struct {
		const char *json, *msg;
	} cases[] = {
		{ "[]", "all: expected an object, found an array" },
		{ "{\"on\":1}", "all.on: expected a boolean, found an integer" },
		{ "{\"on\":null}", "all.on: expected a boolean, found null" },
		{ "{\"u8\":256}", "all.u8: 256 is above 255" },
		{ "{\"u8\":-1}", "all.u8: -1 is below 0" },
		{ "{\"u8\":1.5}", "all.u8: expected an integer, found a fraction" },
		{ "{\"u8\":\"1\"}", "all.u8: expected an integer, found a string" },
		{ "{\"u8\":null}", "all.u8: expected an integer, found null" },
		{ "{\"i8\":128}", "all.i8: 128 is above 127" },
		{ "{\"i8\":-129}", "all.i8: -129 is below -128" },
		{ "{\"i32\":-2147483649}", "all.i32: -2147483649 is below -2147483648" },
		{ "{\"u64\":-9223372036854775808}", "all.u64: -9223372036854775808 is below 0" },
		{ "{\"u16\":1}", "all.u16: 1 is below 2" },
		{ "{\"u16\":65536}", "all.u16: 65536 is above 32768" },
		{ "{\"u16\":3}", "all.u16: 3 is not a power of two" },
		{ "{\"u32\":8}", "all.u32: 8 is not a multiple of 16" },
		{ "{\"str\":1}", "all.str: expected a string, found an integer" },
		{ "{\"kind\":0}", "all.kind: expected a string, found an integer" },
		{ "{\"kind\":\"red\"}", "all.kind: unknown variant `red`, expected one of `Red`, `Green`" },
		{ "{\"kind\":\"Old\"}", "all.kind: `Old` is not supported by this program" },
		{ "{\"regs\":[1,2]}", "all.regs: has 2 elements, expected 3" },
		{ "{\"regs\":{}}", "all.regs: expected an array, found an object" },
		{ "{\"regs\":[1,2,-3]}", "all.regs[2]: -3 is below 0" },
		{ "{\"list\":[1,2,3,4,5]}", "all.list: has 5 elements, at most 4 are possible" },
		{ "{\"list\":[1,true]}", "all.list[1]: expected an integer, found a boolean" },
		{ "{\"part\":{}}", "all.part.id: missing" },
		{ "{\"part\":{\"id\":null}}", "all.part.id: expected an integer, found null" },
		{ "{\"part\":null}", "all.part: expected an object, found null" },
		{ "{\"ptr\":{\"id\":1001}}", "all.ptr.id: 1001 is above 1000" },
		{ "{\"parts\":[{\"id\":1},{\"id\":2,\"name\":[]}]}",
		  "all.parts[1].name: expected a string, found an array" },
		{ "{\"refused\":true}", "all.refused: true is not supported by this program" },
		{ "{\"refused_nr\":0}", "all.refused_nr: 0 is not supported by this program" },
		{ "{\"alien\":1}", "all.alien: not supported by this program" },
		{ "{\"alien\":0.5}", "all.alien: not supported by this program" },
		{ "{\"alien\":{\"a\":1}}", "all.alien: not supported by this program" },
		{ "{\"blob\":[1,2,3,256]}", "all.blob[3]: 256 is above 255" },
		/* what comes before the mistake is not applied */
		{ "{\"on\":false,\"str\":\"s\",\"list\":[1],\"opt\":1,\"ptr\":{\"id\":1},\"blob\":[9,9,9,9,9]}",
		  "all.blob: has 5 elements, expected 4" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct all a = {};
		struct err err = {};
		fields_init(all_fields, &a);
		assert_int_equal(load(&a, cases[i].json, &err), -EINVAL);
		assert_int_equal(err.code, ERR_INVALID);
		assert_string_equal(err.msg, cases[i].msg);
		save_is(all_fields, &a, DEFAULTS);
		fields_free(all_fields, &a);
	}
}

/* ---- VmConfig ---- */

static const char captured[] =
	"{\"cpus\":{\"boot_vcpus\":4,\"max_vcpus\":4,\"kvm_hyperv\":false,\"max_phys_bits\":46,\"features\":{\"amx\":false},"
	"\"nested\":true,\"core_scheduling\":\"Vm\",\"profile\":\"Host\"},\"memory\":{\"size\":4294967296,"
	"\"mergeable\":false,\"hotplug_method\":\"Acpi\",\"shared\":false,\"hugepages\":false,\"prefault\":false,"
	"\"reserve\":false,\"thp\":true},\"payload\":{\"kernel\":\"K\",\"cmdline\":\"C\"},\"disks\":[{\"id\":\"_disk0\","
	"\"pci_segment\":0,\"path\":\"D\",\"readonly\":false,\"direct\":false,\"num_queues\":1,\"queue_size\":128,"
	"\"vhost_user\":false,\"disable_io_uring\":false,\"disable_aio\":false,\"backing_files\":false,\"sparse\":true,"
	"\"image_type\":\"Raw\",\"lock_granularity\":\"ByteRange\"}],\"net\":[{\"id\":\"_net1\",\"pci_segment\":0,"
	"\"tap\":\"T\",\"mac\":\"2e:8c:e1:f1:92:fa\",\"num_queues\":2,\"queue_size\":256,\"vhost_user\":false,"
	"\"vhost_mode\":\"Client\",\"offload_tso\":true,\"offload_ufo\":true,\"offload_csum\":true}],"
	"\"rng\":{\"pci_segment\":0,\"src\":\"/dev/urandom\"},\"serial\":{\"mode\":\"Null\"},"
	"\"console\":{\"mode\":\"Tty\",\"pci_segment\":0},\"debug_console\":{\"mode\":\"Off\",\"iobase\":233},"
	"\"pvpanic\":false,\"iommu\":false,\"watchdog\":false,\"landlock_enable\":false}";

static const char full_config[] =
	"{\"cpus\":{\"boot_vcpus\":2,\"max_vcpus\":4,\"topology\":{\"threads_per_core\":1,\"cores_per_die\":2,"
	"\"dies_per_package\":1,\"packages\":2},\"kvm_hyperv\":false,\"max_phys_bits\":40,"
	"\"affinity\":[{\"vcpu\":0,\"host_cpus\":[0,2]},{\"vcpu\":1,\"host_cpus\":[]}],\"features\":{\"amx\":false},"
	"\"nested\":false,\"core_scheduling\":\"Off\",\"profile\":\"Host\"},\"memory\":{\"size\":1073741824,"
	"\"mergeable\":true,\"hotplug_method\":\"VirtioMem\",\"shared\":false,\"hugepages\":false,\"prefault\":true,"
	"\"reserve\":true,\"thp\":false},\"payload\":{\"firmware\":\"F\",\"kernel\":\"K\",\"cmdline\":\"a \\\"b\\\"\","
	"\"initramfs\":\"I\"},\"disks\":[{\"id\":\"d\",\"pci_segment\":0,\"pci_device_id\":7,\"path\":\"/d\","
	"\"readonly\":true,\"direct\":true,\"num_queues\":2,\"queue_size\":1024,\"vhost_user\":false,"
	"\"disable_io_uring\":true,\"disable_aio\":true,\"serial\":\"s\",\"backing_files\":false,\"sparse\":false,"
	"\"image_type\":\"Unknown\",\"lock_granularity\":\"Full\"}],\"net\":[{\"id\":\"n\",\"pci_segment\":0,"
	"\"pci_device_id\":8,\"ip\":\"10.0.0.1\",\"mask\":\"255.0.0.0\",\"mac\":\"2e:00:00:00:00:01\","
	"\"host_mac\":\"2e:00:00:00:00:02\",\"mtu\":1500,\"num_queues\":4,\"queue_size\":512,\"vhost_user\":false,"
	"\"vhost_mode\":\"Server\",\"fds\":[27,-1],\"offload_tso\":false,\"offload_ufo\":false,\"offload_csum\":false}],"
	"\"rng\":{\"id\":\"r\",\"pci_segment\":0,\"pci_device_id\":9,\"src\":\"/dev/random\"},"
	"\"serial\":{\"mode\":\"Socket\",\"socket\":\"/s\"},\"console\":{\"file\":\"/c\",\"mode\":\"File\",\"id\":\"c\","
	"\"pci_segment\":0,\"pci_device_id\":10},\"debug_console\":{\"mode\":\"Off\",\"iobase\":1},\"pvpanic\":false,"
	"\"iommu\":false,\"watchdog\":false,\"landlock_enable\":false}";

static void config_round_trip(const char *text)
{
	autovmconfig struct vm_config c = {};
	autojson struct json json = {};
	autofree char *copy = exact_copy(text, strlen(text));
	struct err err = {};

	vm_config_init(&c);
	assert_int_equal(json_parse(&json, copy, strlen(text), &err), 0);
	assert_int_equal(fields_load(vm_config_fields, &c, json.nodes, "config", &err), 0);
	save_is(vm_config_fields, &c, text);
}

static void vm_config_round_trip(void **state)
{
	(void)state;
	config_round_trip(captured);
	config_round_trip(full_config);
}

static void restore_config(void **state)
{
	static const char text[] = "{\"source_url\":\"file:///x\",\"prefault\":true,\"memory_restore_mode\":\"Copy\","
				   "\"net_fds\":[{\"id\":\"net1\",\"num_fds\":2,\"fds\":null}],\"vfio_fds\":null,"
				   "\"iommufd_fd\":null,\"resume\":true,\"zone_updates\":[],\"clock\":\"Continue\"}";
	autojson struct json json = {};
	autofree char *copy = exact_copy(text, strlen(text));
	struct restore_config rc = {};
	struct err err = {};

	(void)state;
	fields_init(restore_config_fields, &rc);
	assert_int_equal(json_parse(&json, copy, strlen(text), &err), 0);
	assert_int_equal(fields_load(restore_config_fields, &rc, json.nodes, "restore", &err), 0);
	assert_string_equal(rc.source_url, "file:///x");
	assert_true(rc.prefault && rc.resume);
	assert_int_equal(rc.memory_restore_mode, RESTORE_COPY);
	assert_int_equal(rc.clock, CLOCK_CONTINUE);
	assert_int_equal(rc.n_net_fds, 1);
	assert_int_equal(rc.net_fds[0].num_fds, 2);
	assert_null(rc.net_fds[0].fds);
	fields_free(restore_config_fields, &rc);
}

/* ---- coverage: every byte of a struct belongs to one row, or is padding ---- */

static size_t member_bytes(const struct field *f)
{
	return f->kind == FK_LIST || f->kind == FK_POINTER ? sizeof(void *)
							   : f->size * (f->kind == FK_ARRAY ? f->count : 1);
}

static void mark(uint8_t *bytes, size_t size, size_t at, size_t len, const char *name)
{
	for (size_t i = at; i < at + len; i++) {
		if (i >= size || bytes[i])
			fail_msg("row '%s': byte %zu is outside or belongs to two rows", name, i);
		bytes[i] = 1;
	}
}

/* Gaps may only be padding: shorter than the alignment of what follows. */
static void covers(const struct field *rows, size_t size, const char *what)
{
	uint8_t bytes[1024] = {};
	size_t gap = 0;

	assert_true(size <= sizeof(bytes));
	for (const struct field *f = rows; f->name; f++) {
		if (!f->size)
			continue;
		mark(bytes, size, f->offset, member_bytes(f), f->name);
		if (f->kind == FK_LIST)
			mark(bytes, size, f->count_offset, sizeof(uint32_t), f->name);
		if (f->kind == FK_OPTIONAL)
			mark(bytes, size, f->count_offset, sizeof(bool), f->name);
		if (f->sub && f->sub != serial_fields) /* the serial port uses the first part of console_config */
			covers(f->sub, f->size, f->name);
	}
	for (size_t i = 0; i < size; i++) {
		gap = bytes[i] ? 0 : gap + 1;
		size_t next = i + 1;
		if (gap && (gap >= 8 || next % (gap < 2 ? 2 : gap < 4 ? 4 : 8)) && (next == size || bytes[next]))
			fail_msg("%s: %zu bytes before offset %zu have no row", what, gap, next);
	}
}

static void rows_cover_structs(void **state)
{
	(void)state;
	covers(all_fields, sizeof(struct all), "all");
	covers(vm_config_fields, sizeof(struct vm_config), "vm_config");
	covers(restore_config_fields, sizeof(struct restore_config), "restore_config");
}

/* Names and keys are unique in a table, bounds make sense, defaults are within them. */
static void check_rows(const struct field *rows)
{
	for (const struct field *f = rows; f->name; f++) {
		for (const struct field *g = rows; g < f; g++) {
			assert_string_not_equal(f->name, g->name);
			if (f->opt && g->opt)
				assert_string_not_equal(f->opt, g->opt);
		}
		if (f->max) {
			assert_true(f->min <= f->max);
			assert_true(f->def <= f->max);
		}
		if (f->sub)
			check_rows(f->sub);
	}
}

static void rows_are_sane(void **state)
{
	(void)state;
	check_rows(vm_config_fields);
	check_rows(restore_config_fields);
}

static void finds_by_id(void **state)
{
	struct named {
		char *id;
		int more;
	} list[] = { { .id = NULL }, { .id = (char *)(uintptr_t) "b" }, { .id = (char *)(uintptr_t) "a" } };

	(void)state;
	assert_int_equal(LIST_FIND_ID(list, ARRAY_LEN(list), "a"), 2);
	assert_int_equal(LIST_FIND_ID(list, ARRAY_LEN(list), "b"), 1);
	assert_int_equal(LIST_FIND_ID(list, 2, "a"), -1);
	assert_int_equal(LIST_FIND_ID(list, ARRAY_LEN(list), ""), -1);
	assert_int_equal(LIST_FIND_ID(list, ARRAY_LEN(list), NULL), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(defaults),
		cmocka_unit_test(round_trip),
		cmocka_unit_test(null_is_absent),
		cmocka_unit_test(rejects),
		cmocka_unit_test(vm_config_round_trip),
		cmocka_unit_test(restore_config),
		cmocka_unit_test(rows_cover_structs),
		cmocka_unit_test(rows_are_sane),
		cmocka_unit_test(finds_by_id),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
