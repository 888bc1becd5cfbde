// SPDX-License-Identifier: Apache-2.0
/*
 * How a queue's notification reaches the device. At first a notification is an exit of the vCPU, and
 * the vCPU serves the queue: no thread is woken, and a clone that does little pays nothing. A device
 * whose guest keeps several requests in flight gets a worker thread, which serves the queue while the
 * vCPU goes on. A busy queue gets an ioeventfd when exits are slow on this host, or the guest submits
 * ahead. (An ioeventfd is not free: on some hosts closing a VM takes 15 ms with one, 0.4 ms without.)
 * Guarded by the device's lock.
 */
#ifndef VMM_VIRTIO_WORKER_H
#define VMM_VIRTIO_WORKER_H

#include <pthread.h>

#include "vmm/core/loop.h"

struct virtio_dev;
struct virtio_pci;

/* The thread of a busy device. */
struct worker {
	struct loop loop;
	struct source stop; /* an eventfd */
	pthread_t thread;
	bool running;
};

struct kick {
	struct source wake; /* an eventfd in the worker's loop, made when first needed; else fd -1 */
	struct virtio_pci *transport;
	unsigned queue;
	unsigned wakes,
		spin_credit; /* the worker's own; spin_credit 0: the worker seldom looks for more chains before sleep */
	uint32_t count, ahead; /* exits so far; exits that found the guest ahead */
	bool attached;         /* KVM signals the eventfd: no more exits */
	uint64_t address;      /* attached: the register's */
};

void kick_init(struct kick *k, struct virtio_pci *transport, unsigned queue);
void kick_done(struct kick *k);
/* KVM forgets the queue, for a machine that goes on without the device. Before kick_done(). */
void kick_detach(struct kick *k);
/*
 * Ends the device's worker, if there is one. Before kick_done() and before the device is freed. The
 * caller does not hold the device's lock.
 */
void worker_stop(struct worker *w);
/* The guest wrote the notification register at `address`. On the vCPU's thread. */
void kick_exit(struct kick *k, uint64_t address);
/* Makes the worker notify the device of this queue; false: no worker can be made. */
bool kick_again(struct kick *k);
/* The BAR moved, and the notification register with the BAR. */
void kick_move(struct kick *k, uint64_t from_bar, uint64_t to_bar);

#endif
