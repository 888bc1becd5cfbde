/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver side of virtio 1.x: devices on PCI (MSI-X or polled) and MMIO (polled), and split
 * queues.
 */
#ifndef TESTS_GUESTS_VIRTIO_H
#define TESTS_GUESTS_VIRTIO_H

#include "lib.h"

#define VIRTIO_NET 1
#define VIRTIO_BLK 2
#define VIRTIO_CONSOLE 3
#define VIRTIO_RNG 4
#define VIRTIO_BALLOON 5
#define VIRTIO_VSOCK 19

#define F_INDIRECT (1ul << 28)
#define F_EVENT_IDX (1ul << 29)
#define F_VERSION_1 (1ul << 32)

#define STATUS_DRIVER_OK 4
#define STATUS_NEEDS_RESET 0x40

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4

#define QUEUE_MAX 256 /* no larger queue is made */
#define SEGS_MAX 64

struct virtio {
	uint16_t type;
	bool mmio;
	unsigned slot; /* PCI */
	uintptr_t bar, common, isr, config, notify, msix;
	uint64_t bar_bytes;
	uint32_t notify_multiplier;
	unsigned n_vectors;
	uint64_t features; /* negotiated */
};

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct used_elem {
	uint32_t id, len;
};

struct seg {
	void *addr;
	uint32_t len;
	bool write; /* by the device */
};

struct virtq {
	struct virtio *dev;
	uint16_t index, size;
	unsigned vector; /* 0: polled */
	volatile struct desc *desc;
	volatile uint16_t *avail, *used; /* flags, index, ring … */
	uintptr_t notify;
	bool event_idx;
	uint16_t free_head, n_free, next_avail, last_kick, last_used;
	struct {
		void *cookie; /* NULL: free */
		uint16_t n_desc;
		uint32_t writable;  /* bytes */
		struct desc *table; /* indirect */
	} head[QUEUE_MAX];
};

/* All devices found, in slot order; MMIO ones from virtio_mmio.device= options. */
unsigned virtio_scan(struct virtio *devs, unsigned max);
/* The device in one slot; false: none there. */
bool virtio_find(struct virtio *v, unsigned slot);
const char *virtio_name(uint16_t type);

/* Registers of the common configuration, the same on both transports. */
void virtio_reset(struct virtio *v); /* and waits until it is done */
uint8_t virtio_status(struct virtio *v);
void virtio_set_status(struct virtio *v, uint8_t status);
/* Reset, then ACKNOWLEDGE and DRIVER: Cloud Hypervisor ignores feature selectors before. */
void virtio_acknowledge(struct virtio *v);
uint64_t virtio_offered(struct virtio *v);
void virtio_accept(struct virtio *v, uint64_t features);
uint16_t virtio_queue_max(struct virtio *v, uint16_t queue);
void virtio_queue_setup(struct virtio *v, uint16_t queue, uint16_t size, uint64_t desc, uint64_t avail, uint64_t used);
void virtio_queue_enable(struct virtio *v, uint16_t queue);
void virtio_notify(struct virtio *v, uint16_t queue);
uint64_t virtio_config(struct virtio *v, unsigned offset, unsigned bytes);

/*
 * Reset, negotiate `wanted` of what is offered (options event=0 and indirect=0 take them out),
 * FEATURES_OK.
 */
void virtio_begin(struct virtio *v, uint64_t wanted);
/*
 * A queue of at most `size`; vector 0: polled, else interrupts go to that vector of `cpu`. Keep q
 * zeroed before.
 */
void virtq_init(struct virtq *q, struct virtio *v, uint16_t index, uint16_t size, unsigned vector, unsigned cpu);
void virtio_go(struct virtio *v);

/* false: no room. cookie comes back from virtq_take() and is not NULL. */
bool virtq_add(struct virtq *q, const struct seg *segs, unsigned n, bool indirect, void *cookie);
void virtq_kick(struct virtq *q);
/* The next finished request, NULL: none. */
void *virtq_take(struct virtq *q, uint32_t *ret_len);
/*
 * Until virtq_take() has something; fails the guest after 10 s of running time, and when an
 * interrupt was lost.
 */
void virtq_wait(struct virtq *q, const char *what);

#endif
