// SPDX-License-Identifier: Apache-2.0
/*
 * One virtqueue (split ring, virtio 1.2 section 2.7) seen from the device. Every check on ring memory
 * that the guest can write is in vring.c; devices see only struct chain. Guarded by the device's lock.
 */
#ifndef VMM_VIRTIO_VRING_H
#define VMM_VIRTIO_VRING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/auto.h"
#include "common/field.h"
#include "vmm/core/gmem.h"

enum { VRING_SIZE_MAX = 32768 };

/* As in state.json. */
struct vring_state {
	uint16_t max_size, size;
	bool ready;
	uint64_t desc_table, avail_ring, used_ring; /* guest physical */
};

struct vring_desc;
struct vring_avail;
struct vring_used;

struct vring {
	struct vring_state s;
	/* Set while active: */
	const struct vring_desc *desc;
	const struct vring_avail *avail;
	struct vring_used *used;
	struct iovec *iov; /* s.size + 1 entries, lent to the chain that was popped last */
	uint16_t next_avail, next_used;
	uint16_t signalled_used; /* used index at the last interrupt; valid when has_signalled */
	bool has_signalled, event_idx, indirect;
	bool polled; /* a worker looks for chains itself: vring_rearm() asks for no notification */
};

struct chain {             /* valid until the next vring_pop() of the same queue */
	struct iovec *iov; /* n_read segments to read, then n_write to fill; there is room for one more */
	uint16_t n_read, n_write, head;
};

extern const struct field vring_fields[]; /* over struct vring_state */

/*
 * Makes the queue ready for work: checks that the three rings lie in RAM and are aligned. next_avail
 * and next_used begin at the used index found in RAM: 0 on a fresh queue; after a restore, where the
 * drained device stopped. -EPROTO: the guest set the queue up wrong; -ENOMEM.
 */
MUST_CHECK int vring_activate(struct vring *q, const struct gmem *mem, uint64_t features);
void vring_deactivate(struct vring *q);
/* 1: *ret_chain filled; 0: ring empty; -EPROTO: the guest broke the ring. */
MUST_CHECK int vring_pop(struct vring *q, const struct gmem *mem, struct chain *ret_chain);
/* Takes the last pop back: the chain will be popped again. */
void vring_unpop(struct vring *q);
/* Hands chain `head` back with `written` bytes filled; visible to the guest on return. */
void vring_push(struct vring *q, uint16_t head, uint32_t written);
/* Asks for a notification of the next chain, unless the queue is polled; true when one is there already. */
bool vring_rearm(struct vring *q);
/*
 * Asks for a notification of the next chain that the guest adds, whatever is in the ring by now. No
 * vCPU runs.
 */
void vring_ask_for_next(struct vring *q);
/* Whether the guest wants an interrupt for what was pushed since the last call that returned true. */
bool vring_needs_interrupt(struct vring *q);

/*
 * Whether the driver keeps several requests in flight: more than one is pending, or the driver has not
 * looked at all completions.
 */
bool vring_is_pipelined(const struct vring *q);

/*
 * Tells without the lock that there are chains to pop: *idx != next. idx NULL: the queue is not
 * active. Guest RAM outlives the struct.
 */
struct vring_watch {
	const uint16_t *idx;
	uint16_t next;
};
struct vring_watch vring_watch(const struct vring *q);

/* Total bytes of n segments. */
uint64_t iov_bytes(const struct iovec *iov, unsigned n);
/*
 * Copies between a buffer and segments, from `off` bytes into the segments on. Returns the number of
 * bytes copied: less than len when the segments end.
 */
size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t off, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t off, const void *buf, size_t len);

#endif
