// SPDX-License-Identifier: Apache-2.0
/*
 * How a queue's notification reaches its device. It begins as an exit of the vCPU, which serves the queue itself: no thread
 * is woken, and a clone that does little pays nothing. A device whose guest keeps several requests in flight gets a worker
 * thread, which serves the queue while the vCPU goes on; and a busy queue gets an ioeventfd when exits are slow on
 * this host or its guest submits ahead. (ioeventfds are not free: on some hosts closing a VM takes 15 ms with one, 0.4 ms
 * without.) Guarded by the device's lock.
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
		spin_credit;   /* worker's own; credit: wakes after which it pays to look for more before sleeping */
	uint32_t count, ahead; /* exits so far; those that found the guest ahead */
	bool attached;         /* KVM signals the eventfd, there are no exits any more */
	uint64_t address;      /* attached: the register's */
};

void kick_init(struct kick *k, struct virtio_pci *transport, unsigned queue);
void kick_done(struct kick *k);
/* KVM forgets the queue: its machine goes on without the device. Before kick_done(). */
void kick_detach(struct kick *k);
/* Ends the device's worker, if it has one; before kick_done() and before the device is freed. Not with the lock held. */
void worker_stop(struct worker *w);
/* The guest wrote the notification register at `address`: on its vCPU's thread. */
void kick_exit(struct kick *k, uint64_t address);
/* The worker is to notify the device of this queue; false: there can be none. */
bool kick_again(struct kick *k);
/* The register moved with its BAR. */
void kick_move(struct kick *k, uint64_t from_bar, uint64_t to_bar);

#endif
