// SPDX-License-Identifier: Apache-2.0
/*
 * A virtio device behind its transport (transport.c): features, queues, and the few functions by
 * which one kind of device differs from another. Every function of a device runs with the device's
 * lock held: on a vCPU's thread (registers, notifications), on the thread of the device's worker
 * (notifications and back-end of a busy device, see worker.h), or on the main thread (back-end of
 * an idle device, pause, snapshot).
 */
#ifndef VMM_VIRTIO_VIRTIO_H
#define VMM_VIRTIO_VIRTIO_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/json64.h"
#include "vmm/core/gmem.h"
#include "vmm/virtio/vring.h"

enum {
	VIRTIO_ID_NET = 1,
	VIRTIO_ID_BLOCK = 2,
	VIRTIO_ID_CONSOLE = 3,
	VIRTIO_ID_RNG = 4,
	VIRTIO_ID_BALLOON = 5,
	VIRTIO_ID_VSOCK = 19
};
enum { VIRTIO_F_INDIRECT_DESC = 28, VIRTIO_F_EVENT_IDX = 29, VIRTIO_F_VERSION_1 = 32 };
enum { VIRTIO_MAX_QUEUES = 2 * 32 + 1 };

struct bus;
struct kvm;
struct loop;
struct pci_bus;
struct virtio_dev;
struct virtio_pci;

/* What a device gets of its machine. The machine owns this struct and outlives the devices. */
struct device_env {
	struct loop *loop; /* the main thread's */
	struct gmem *mem;
	struct kvm *kvm;
	struct bus *mmio;
	struct pci_bus *pci;
	void (*tap_lost)(void *opaque); /* a tap was deleted: see virtio_net_is_lost(). Any thread. NULL: not told */
	void *opaque;
	bool nets_held; /* a net that is made now drops its frames: see virtio_net_unhold() */
	bool hot;       /* the device comes to a machine that was built before, and runs or is paused */
};

struct virtio_device_ops {
	const char *name;
	uint16_t type;         /* VIRTIO_ID_… */
	uint32_t pci_class;    /* class, subclass, interface: 0x020000 … */
	bool bar32;            /* in a machine that boots, Cloud Hypervisor puts this kind's BAR below 4 GiB */
	bool hotplug;          /* the device may come to a running machine, and go */
	uint16_t config_bytes; /* of the device's configuration space; 0: no such capability */
	/*
	 * The driver said DRIVER_OK, or the queues of a restored device are live: the device begins. NULL:
	 * nothing to do.
	 */
	void (*activate)(struct virtio_dev *vdev);
	/*
	 * The queues go away: the device finishes or drops what is in flight. NULL: nothing is ever in flight.
	 */
	void (*reset)(struct virtio_dev *vdev);
	/*
	 * Whether notify() of this queue does no work (new buffers for input), so that the queue needs no
	 * worker. NULL: no queue is such.
	 */
	bool (*is_refill)(const struct virtio_dev *vdev, unsigned queue);
	/* Chains may be waiting in `queue`. */
	void (*notify)(struct virtio_dev *vdev, unsigned queue);
	/*
	 * The device has a worker thread now, with this loop: sources whose handlers take the lock and may
	 * wait move there. NULL: no such sources.
	 */
	void (*use_loop)(struct virtio_dev *vdev, struct loop *loop);
	/*
	 * The guest writes to the configuration space, within config_bytes. NULL: what the guest writes is
	 * dropped.
	 */
	void (*write_config)(struct virtio_dev *vdev, unsigned off, const void *data, unsigned len);
	/* On return nothing is in flight; nothing starts until resume(). NULL: nothing is ever in flight. */
	void (*pause)(struct virtio_dev *vdev);
	/* The counterpart of pause(), before the queues are notified. NULL: nothing to do. */
	void (*resume)(struct virtio_dev *vdev, bool restored);
	/* Rows over struct virtio_counters: what vm.counters shows. NULL: nothing. */
	const struct field *counters;
	/* Writes the device's node in state.json, and reads that node. */
	void (*save)(struct virtio_dev *vdev, struct strbuf *out);
	int (*load)(struct virtio_dev *vdev, const struct json_node *state, struct err *err);
	void (*free)(struct virtio_dev *vdev);
};

/* Operations of one kind that succeeded; microseconds. */
struct virtio_op_counters {
	uint64_t ops, latency_min, latency_max, latency_avg, latency_sum;
};

/* What went through a device since this process made the device. Guarded by the device's lock. */
struct virtio_counters {
	uint64_t disk_read_bytes, disk_written_bytes, disk_ops,
		disk_failed_ops; /* failed: the image returned an error */
	struct virtio_op_counters disk_read, disk_write;
	uint64_t net_rx_bytes, net_tx_bytes, net_rx_frames, net_tx_frames; /* as the guest sees them */
	uint64_t net_held_frames; /* dropped while the net was held, both directions */
};

/* A row of ops->counters. */
#define VIRTIO_COUNTER(name_, member, ...)                                                                     \
	{                                                                                                      \
		.name = (name_), .offset = offsetof(struct virtio_counters, member), .size = sizeof(uint64_t), \
		.type = FT_U64, .kind = FK_ONE, ##__VA_ARGS__                                                  \
	}

struct virtio_dev {
	const struct virtio_device_ops *ops;
	char id[80]; /* "_disk0", or what the user said */
	const struct gmem *mem;
	struct virtio_pci *transport;
	pthread_mutex_t lock;
	uint64_t avail_features, acked_features;
	void *config;        /* ops->config_bytes, inside the device's struct */
	struct vring *queue; /* n_queues, owned */
	unsigned n_queues;
	bool active;     /* between activate() and reset() */
	bool complained; /* the log has a complaint about the guest already */
	bool broken;     /* the guest broke a ring: DEVICE_NEEDS_RESET was set */
	uint32_t budget; /* chains that this call of notify() may still take */
	struct virtio_counters counters;
	bool paused;          /* notifications wait for the resume */
	_Atomic bool pausing; /* virtio_pause() waits for the lock: no turn begins; set without the lock */
};

/* Sets up the common part; every queue gets max_size = size = queue_size. */
MUST_CHECK int virtio_init(struct virtio_dev *vdev, const struct virtio_device_ops *ops, const struct gmem *mem,
			   const char *id, unsigned n_queues, uint16_t queue_size, struct err *err);
/*
 * Ends a constructor whose steps gave `r`: *ret becomes the device, or the device is freed. Returns
 * `r`.
 */
MUST_CHECK int virtio_made(struct virtio_dev *vdev, const struct virtio_device_ops *ops, int r,
			   struct virtio_dev **ret);
/* Deactivates and releases the common part. */
void virtio_done(struct virtio_dev *vdev);

static inline bool virtio_has(const struct virtio_dev *vdev, unsigned feature)
{
	return vdev->acked_features >> feature & 1;
}

/* true: *ret_chain is the next chain. false: none, or a guest error that is recorded already. */
bool virtio_pop(struct virtio_dev *vdev, unsigned queue, struct chain *ret_chain);
/*
 * To be called when virtio_pop() returns false: asks for the next notification. true: the caller pops
 * again. When a guest never lets the queue run empty, the device's worker goes on with the queue
 * later, so that no thread holds the lock for ever.
 */
bool virtio_more(struct virtio_dev *vdev, unsigned queue);
/* Hands a chain back. The interrupt comes with virtio_interrupt(). */
void virtio_push(struct virtio_dev *vdev, unsigned queue, uint16_t head, uint32_t written);
/* Interrupts the guest, if the guest wants an interrupt for what was pushed. */
void virtio_interrupt(struct virtio_dev *vdev, unsigned queue);
/*
 * Loads the features of a snapshot. Features that the driver accepted (`acked`) must be offered now:
 * ERR_INVALID.
 */
MUST_CHECK int virtio_load_features(struct virtio_dev *vdev, uint64_t avail, uint64_t acked, struct err *err);
/* The guest broke a rule and the device stops: DEVICE_NEEDS_RESET (2.1.2). Logged once. */
void virtio_break(struct virtio_dev *vdev, unsigned queue, const char *why);

/* ---- for the transport and the VM ---- */

/* The driver said DRIVER_OK, or the state of an active device was loaded. */
void virtio_activate(struct virtio_dev *vdev);
void virtio_reset(struct virtio_dev *vdev);
void virtio_notify(struct virtio_dev *vdev, unsigned queue);
/* Main thread, vCPUs parked. */
void virtio_pause(struct virtio_dev *vdev);
/* Kicks and interrupts every active queue, so that nothing from before the pause is forgotten. */
void virtio_resume(struct virtio_dev *vdev, bool restored);

/* ---- implemented by the transport ---- */

enum { VIRTIO_CONFIG_CHANGE = -1 };
void virtio_pci_interrupt(struct virtio_pci *transport, int queue_or_config);
/* Makes the device's worker notify the device of the queue again; false: no worker can be made. */
bool virtio_pci_again(struct virtio_pci *transport, unsigned queue);
void virtio_pci_needs_reset(struct virtio_pci *transport);

#endif
