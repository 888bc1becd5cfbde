// SPDX-License-Identifier: Apache-2.0
/* MSRs through KVM_GET_MSRS and KVM_SET_MSRS, which stop at the first one that they do not know. */
#include "vmm/x86/msr.h"

#include <errno.h>
#include <sys/ioctl.h>

#include "common/log.h"

enum { MTRR_DEF_TYPE = 0x2ff, MISC_ENABLE = 0x1a0, MISC_FAST_STRING = 1, MTRR_ENABLE_WB = 0x806, MSR_PER_CALL = 255 };

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[MSR_MAX];
};

int msr_init(int vcpu_fd, struct err *err)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[2];
	} m = {
		.head.nmsrs = 2,
		.entry = { { .index = MISC_ENABLE, .data = MISC_FAST_STRING },
			   { .index = MTRR_DEF_TYPE, .data = MTRR_ENABLE_WB } },
	};

	int r = kvm_ioctl(vcpu_fd, KVM_SET_MSRS, &m, "set MSRs", err);
	return r < 0 ? r : 0;
}

/* The fixed and variable MTRRs and their default type, which are not in KVM's list. */
static const struct {
	uint32_t first, last;
} mtrrs[] = {
	{ 0x2ff, 0x2ff }, { 0x200, 0x20f }, { 0x250, 0x250 }, { 0x258, 0x259 }, { 0x268, 0x26f },
};

int msr_list(const struct kvm *kvm, uint32_t *ret_index, uint32_t *ret_n, struct err *err)
{
	struct {
		struct kvm_msr_list head;
		uint32_t index[MSR_MAX];
	} list = { .head.nmsrs = MSR_MAX };

	if (kvm_ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, &list, "list MSRs", err) < 0)
		return err->num;
	uint32_t n = 0;
	for (uint32_t i = 0; i < list.head.nmsrs && n < MSR_MAX - 64; i++)
		ret_index[n++] = list.index[i];
	for (size_t r = 0; r < ARRAY_LEN(mtrrs); r++)
		for (uint32_t index = mtrrs[r].first; index <= mtrrs[r].last; index++)
			ret_index[n++] = index;
	*ret_n = n;
	return 0;
}

int msr_save(const struct kvm *kvm, int vcpu_fd, struct msr_entry **ret_msrs, uint32_t *ret_n, struct err *err)
{
	autofree struct msr_list *l = calloc(1, sizeof(*l));
	autofree struct msr_entry *out = calloc(MSR_MAX, sizeof(*out));
	autofree uint32_t *index = calloc(MSR_MAX, sizeof(*index));
	uint32_t n = 0, total = 0;

	if (!l || !out || !index)
		return err_num(err, ERR_INTERNAL, ENOMEM, "save MSRs");
	if (msr_list(kvm, index, &total, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < total; i++)
		l->entry[i].index = index[i];
	for (uint32_t at = 0; at < total;) {
		struct kvm_msrs *rest = (struct kvm_msrs *)(void *)((char *)&l->entry[at] - sizeof(l->head));
		uint32_t asked = total - at < MSR_PER_CALL ? total - at : MSR_PER_CALL;
		rest->nmsrs = asked; /* over the entry before: already copied */
		rest->pad = 0;
		int r = kvm_ioctl(vcpu_fd, KVM_GET_MSRS, rest, "get MSRs", err);
		if (r < 0)
			return r;
		for (int i = 0; i < r; i++)
			out[n++] = (struct msr_entry){ rest->entries[i].index, rest->entries[i].data };
		at += (uint32_t)r +
		      ((uint32_t)r < asked); /* the MSR at which KVM stopped is not available on this host */
	}
	*ret_msrs = steal_ptr(&out);
	*ret_n = n;
	return 0;
}

static int set_from(int vcpu_fd, unsigned vcpu, struct msr_list *l, struct err *err)
{
	for (uint32_t at = 0, total = l->head.nmsrs; at < total;) {
		struct kvm_msrs *rest = (struct kvm_msrs *)(void *)((char *)&l->entry[at] - sizeof(l->head));
		uint32_t asked = total - at < MSR_PER_CALL ? total - at : MSR_PER_CALL;
		rest->nmsrs = asked;
		rest->pad = 0;
		int r = kvm_ioctl(vcpu_fd, KVM_SET_MSRS, rest, "set MSRs", err);
		if (r < 0)
			return r;
		at += (uint32_t)r;
		if ((uint32_t)r == asked)
			continue;
		if (at < total)
			log_warn("vCPU %u: this host refuses MSR 0x%x = 0x%llx", vcpu, l->entry[at].index,
				 (unsigned long long)l->entry[at].data);
		at++;
	}
	return 0;
}

int msr_load(int vcpu_fd, unsigned vcpu, const struct msr_entry *msrs, uint32_t n, uint64_t tsc_ticks, struct err *err)
{
	autofree struct msr_list *l = calloc(1, sizeof(*l));
	uint64_t deadline = 0;
	uint32_t used = 0;

	if (!l)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load MSRs");
	for (uint32_t i = 0; i < n && used < MSR_MAX - 1; i++) {
		if (msrs[i].index == MSR_IA32_TSC_DEADLINE)
			deadline = msrs[i].data;
		else
			l->entry[used++] = (struct kvm_msr_entry){
				.index = msrs[i].index,
				.data = msrs[i].data + (msrs[i].index == MSR_IA32_TSC ? tsc_ticks : 0),
			};
	}
	if (deadline)
		l->entry[used++] = (struct kvm_msr_entry){ .index = MSR_IA32_TSC_DEADLINE, .data = deadline };
	l->head.nmsrs = used;
	return set_from(vcpu_fd, vcpu, l, err);
}
