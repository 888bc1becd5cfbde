// SPDX-License-Identifier: Apache-2.0
/* KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE. */
#include "vmm/x86/nested.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

_Static_assert(sizeof(struct kvm_nested_state) == 128, "the head of the nested state");

/*
 * KVM writes a head for every vCPU. The head of a vCPU that never turned virtualization on says
 * nothing.
 */
static bool is_initial(const struct kvm_nested_state *n)
{
	if (n->size > sizeof(*n))
		return false;
	if (n->format == KVM_STATE_NESTED_FORMAT_VMX)
		return n->flags == 0 && n->hdr.vmx.vmxon_pa == UINT64_MAX;
	return n->flags == KVM_STATE_NESTED_GIF_SET;
}

int nested_save(const struct kvm *kvm, int vcpu_fd, uint8_t **ret_state, uint32_t *ret_n, struct err *err)
{
	if (kvm_check_cap(kvm, KVM_CAP_NESTED_STATE) < (int)sizeof(struct kvm_nested_state))
		return 0;
	autofree uint8_t *state = calloc(1, NESTED_BYTES);
	struct kvm_nested_state *n = (struct kvm_nested_state *)(void *)state;
	if (!state)
		return err_num(err, ERR_INTERNAL, ENOMEM, "save the nested virtualization state");
	n->size = NESTED_BYTES;
	if (ioctl(vcpu_fd, KVM_GET_NESTED_STATE, n) < 0)
		return errno == EINVAL ? 0 /* KVM offers the state and yet has none */
				       : err_sys(err, ERR_INTERNAL, "KVM: get the nested virtualization state");
	if (is_initial(n))
		return 0;
	*ret_state = steal_ptr(&state);
	*ret_n = NESTED_BYTES;
	return 0;
}

int nested_check(const uint8_t *state, uint32_t n, struct err *err)
{
	struct kvm_nested_state head;

	if (n < sizeof(head) || n > NESTED_BYTES)
		return err_set(err, ERR_INVALID, "nested_state has %u bytes, expected %zu to %d", n, sizeof(head),
			       NESTED_BYTES);
	memcpy(&head, state, sizeof(head));
	if (head.size < sizeof(head) || head.size > n)
		return err_set(err, ERR_INVALID, "nested_state of %u bytes says that it has %u", n, head.size);
	return 0;
}

int nested_load(int vcpu_fd, const uint8_t *state, uint32_t n, struct err *err)
{
	/* a copy that is aligned, and as long as KVM may read */
	autofree uint8_t *copy = calloc(1, NESTED_BYTES);
	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load the nested virtualization state");
	memcpy(copy, state, n);
	return kvm_ioctl(vcpu_fd, KVM_SET_NESTED_STATE, copy, "set the nested virtualization state", err);
}
