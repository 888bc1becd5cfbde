// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/x86/nested, through a vCPU's saving and loading: guests that are hypervisors themselves. KVM is
 * fake_kvm(), which has VMX or SVM, and KVM's rules of order.
 */
#include "tests/unit/fake_kvm.h"

#include "vmm/machine/machine.h"

enum { HEAD = 128, PAGE = 4096, BUFFER = HEAD + 2 * PAGE, VMX_BASIC = 0x480 };

union nested {
	struct kvm_nested_state s;
	uint8_t bytes[BUFFER];
};

/* One vCPU of KVM's. */
static struct {
	int cap, get_errno, set_errno;
	union nested nested;
	bool has_sregs, has_events;
	unsigned msrs_refused, n_set;
} kvm;

static struct vm vm;
static struct vcpu vcpu;
static struct vcpu_clock stopped;

/* In VMX operation: KVM takes no capability MSR any more. */
static int set_msrs(const struct kvm_msrs *m)
{
	for (uint32_t i = 0; i < m->nmsrs; i++)
		if (m->entries[i].index == VMX_BASIC && kvm.n_set > 0) {
			kvm.msrs_refused++;
			return (int)i;
		}
	return (int)m->nmsrs;
}

static int get_nested(union nested *n)
{
	if (kvm.get_errno)
		return -kvm.get_errno;
	if (n->s.size < kvm.nested.s.size)
		return -E2BIG;
	memcpy(n->bytes, kvm.nested.bytes, kvm.nested.s.size);
	return 0;
}

static int set_nested(const union nested *n)
{
	if (kvm.set_errno)
		return -kvm.set_errno;
	if (!kvm.has_sregs || kvm.has_events) /* SVM is not on; or an event is taken for one of the outer guest */
		return -EINVAL;
	memset(&kvm.nested, 0, sizeof(kvm.nested));
	memcpy(kvm.nested.bytes, n->bytes, n->s.size);
	kvm.n_set++;
	return 0;
}

static int fake_kvm(unsigned long request, void *arg)
{
	switch (request) {
	case KVM_CHECK_EXTENSION:
		return (uintptr_t)arg == KVM_CAP_NESTED_STATE ? kvm.cap : 0;
	case KVM_GET_NESTED_STATE:
		return get_nested(arg);
	case KVM_SET_NESTED_STATE:
		return set_nested(arg);
	case KVM_GET_CPUID2:
		((struct kvm_cpuid2 *)arg)->nent = 0;
		return 0;
	case KVM_GET_TSC_KHZ:
		return 2000000;
	case KVM_GET_MSR_INDEX_LIST:
		*(struct kvm_msr_list *)arg = (struct kvm_msr_list){ .nmsrs = 1 };
		((struct kvm_msr_list *)arg)->indices[0] = VMX_BASIC;
		return 0;
	case KVM_GET_MSRS:
		return (int)((struct kvm_msrs *)arg)->nmsrs;
	case KVM_SET_MSRS:
		return set_msrs(arg);
	case KVM_SET_SREGS:
		kvm.has_sregs = true;
		return 0;
	case KVM_SET_VCPU_EVENTS:
		kvm.has_events = true;
		return 0;
	default:
		return 0;
	}
}

static int make(void **state)
{
	(void)state;
	memset(&kvm, 0, sizeof(kvm));
	kvm.cap = BUFFER;
	vm = (struct vm){ .kvm = { .fd = FAKE_FD, .vm_fd = FAKE_FD }, .arch.stopped = &stopped };
	vcpu = (struct vcpu){ .set = &vm.vcpus, .fd = FAKE_FD };
	return 0;
}

/* As on a vCPU that was just made. */
static void forget(void)
{
	kvm.has_sregs = kvm.has_events = false;
	kvm.n_set = 0;
	memset(&kvm.nested, 0, sizeof(kvm.nested));
}

static void save(struct strbuf *json)
{
	struct vcpu_state state;
	struct err err = {};

	if (arch_vcpu_save(&vcpu, &state, &err) < 0)
		fail_msg("%s", err.msg);
	fields_save(vcpu_state_fields, &state, json);
	assert_false(json->failed);
	fields_free(vcpu_state_fields, &state);
}

static int load(char *text, struct err *err)
{
	static const struct arch_state none;
	struct arch_needs needs;
	struct vcpu_state state;
	autojson struct json json = {};

	fields_init(vcpu_state_fields, &state);
	assert_int_equal(json_parse(&json, text, strlen(text), err), 0);
	int r = fields_load(vcpu_state_fields, &state, &json.nodes[0], "vCPU", err);
	if (r == 0)
		r = arch_needs_of(&none, &state, 1, &needs, err);
	if (r == 0)
		r = arch_vcpu_load(&vcpu, &state, err);
	fields_free(vcpu_state_fields, &state);
	return r;
}

static const union nested *example(const char *name)
{
	static union nested n;

	n = (union nested){ .s = { .size = HEAD, .hdr.vmx = { .vmxon_pa = 0x1000, .vmcs12_pa = UINT64_MAX } } };
	if (strcmp(name, "VMXON") == 0)
		return &n;
	memset(n.bytes + HEAD, 0x5a, 2 * PAGE);
	n.s.size = BUFFER;
	n.s.hdr.vmx.vmcs12_pa = 0x2000;
	if (strcmp(name, "VMCS") == 0)
		return &n;
	n.s.flags = KVM_STATE_NESTED_GUEST_MODE;
	if (strcmp(name, "VMX guest") == 0)
		return &n;
	memset(n.bytes, 0, HEAD);
	memset(n.bytes + HEAD + PAGE, 0, PAGE);
	n.s.size = HEAD + PAGE;
	n.s.format = KVM_STATE_NESTED_FORMAT_SVM;
	n.s.flags = KVM_STATE_NESTED_GUEST_MODE | KVM_STATE_NESTED_GIF_SET;
	n.s.hdr.svm.vmcb_pa = 0x3000;
	if (strcmp(name, "SVM guest") == 0)
		return &n;
	assert_string_equal(name, "CLGI");
	memset(n.bytes + HEAD, 0, PAGE);
	n.s.size = HEAD;
	n.s.flags = 0;
	n.s.hdr.svm.vmcb_pa = 0;
	return &n;
}

static void saved_and_restored(void **state)
{
	static const char *const names[] = { "VMXON", "VMCS", "VMX guest", "SVM guest", "CLGI" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		autostrbuf struct strbuf json = {};
		struct err err = {};
		make(state);
		const union nested *n = example(names[i]);
		kvm.nested = *n;
		save(&json);
		forget();
		if (load(json.text, &err) < 0)
			fail_msg("%s: %s", names[i], err.msg);
		assert_int_equal(kvm.n_set, 1);
		assert_int_equal(kvm.msrs_refused, 0);
		assert_memory_equal(kvm.nested.bytes, n->bytes, BUFFER);
	}
}

/* Cloud Hypervisor reads and writes its whole buffer, 8320 bytes, whatever is in it. */
static void encoding(void **state)
{
	autostrbuf struct strbuf json = {};
	struct err err = {};
	autojson struct json parsed = {};

	(void)state;
	kvm.nested = *example("VMXON");
	save(&json);
	assert_int_equal(json_parse(&parsed, json.text, json.len, &err), 0);
	const struct json_node *bytes = json_get(json_get(&parsed.nodes[0], "Kvm"), "nested_state");
	assert_non_null(bytes);
	assert_int_equal(bytes->type, JSON_INTS);
	assert_int_equal(bytes->count, BUFFER);
	for (uint32_t i = 0; i < BUFFER; i++)
		assert_int_equal(json_ints(bytes)[i], kvm.nested.bytes[i]);
}

static void nothing_to_save(void **state)
{
	static const struct {
		int cap, get_errno;
		union nested nested;
	} cases[] = {
		{ .cap = 0, .get_errno = ENOTTY },
		{ .cap = 1, .get_errno = ENOTTY },
		{ .cap = BUFFER, .get_errno = EINVAL }, /* a software KVM that offers what it has not */
		{ .cap = BUFFER,
		  .nested.s = { .size = HEAD, .hdr.vmx = { .vmxon_pa = UINT64_MAX, .vmcs12_pa = UINT64_MAX } } },
		{ .cap = BUFFER,
		  .nested.s = { .size = HEAD,
				.format = KVM_STATE_NESTED_FORMAT_SVM,
				.flags = KVM_STATE_NESTED_GIF_SET } },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autostrbuf struct strbuf json = {};
		struct err err = {};
		make(state);
		kvm.cap = cases[i].cap;
		kvm.get_errno = cases[i].get_errno;
		kvm.nested = cases[i].nested;
		save(&json);
		assert_non_null(strstr(json.text, "\"nested_state\":null"));
		forget();
		assert_int_equal(load(json.text, &err), 0);
		assert_int_equal(kvm.n_set, 0);
	}
}

static void not_to_be_had(void **state)
{
	struct vcpu_state saved;
	struct err err = {};

	(void)state;
	kvm.get_errno = EFAULT;
	assert_int_equal(arch_vcpu_save(&vcpu, &saved, &err), -EFAULT);
	assert_non_null(strstr(err.msg, "get the nested virtualization state"));
	fields_free(vcpu_state_fields, &saved);
}

/* The text of a vCPU without one, with that value instead. */
static int load_with(const char *value, struct err *err)
{
	static const char null[] = "\"nested_state\":null";
	autostrbuf struct strbuf json = {}, changed = {};

	kvm.nested = (union nested){ .s = { .size = HEAD, .hdr.vmx.vmxon_pa = UINT64_MAX } };
	save(&json);
	forget();
	const char *at = strstr(json.text, null);
	assert_non_null(at);
	strbuf_printf(&changed, "%.*s\"nested_state\":%s%s", (int)(at - json.text), json.text, value,
		      at + sizeof(null) - 1);
	return load(changed.text, err);
}

/* A head that says that the state has so many bytes. */
static void head_of_size(unsigned size, struct strbuf *out)
{
	strbuf_printf(out, "[0,0,0,0,%u,0,0,0", size);
	for (unsigned i = 8; i < HEAD; i++)
		strbuf_puts(out, ",0");
	strbuf_putc(out, ']');
}

static void refused(void **state)
{
	autostrbuf struct strbuf short_size = {}, long_size = {}, too_long = {};

	head_of_size(127, &short_size);
	head_of_size(129, &long_size);
	strbuf_puts(&too_long, "[0");
	for (unsigned i = 0; i < BUFFER; i++)
		strbuf_puts(&too_long, ",0");
	strbuf_putc(&too_long, ']');
	const struct {
		const char *value, *msg;
	} cases[] = {
		{ "{}", "nested_state: expected an array, found an object" },
		{ "false", "nested_state: expected an array" },
		{ "[]", "nested_state has 0 bytes, expected 128 to 8320" },
		{ "[1,256]", "nested_state[1]: 256 is above 255" },
		{ short_size.text, "nested_state of 128 bytes says that it has 127" },
		{ long_size.text, "nested_state of 128 bytes says that it has 129" },
		{ too_long.text, "nested_state: has 8321 elements, at most 8320 are possible" },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		make(state);
		assert_int_equal(load_with(cases[i].value, &err), -EINVAL);
		if (!strstr(err.msg, cases[i].msg))
			fail_msg("case %zu: %s", i, err.msg);
		assert_int_equal(kvm.n_set, 0);
	}
}

static void refused_by_kvm(void **state)
{
	autostrbuf struct strbuf json = {};
	struct err err = {};

	(void)state;
	kvm.nested = *example("SVM guest");
	save(&json);
	forget();
	kvm.set_errno = EINVAL;
	assert_int_equal(load(json.text, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "vCPU 0\nKVM: set the nested virtualization state"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(saved_and_restored, make),
		cmocka_unit_test_setup(encoding, make),
		cmocka_unit_test_setup(nothing_to_save, make),
		cmocka_unit_test_setup(not_to_be_had, make),
		cmocka_unit_test_setup(refused, make),
		cmocka_unit_test_setup(refused_by_kvm, make),
	};

	return cmocka_run_group_tests_name("nested", tests, NULL, NULL);
}
