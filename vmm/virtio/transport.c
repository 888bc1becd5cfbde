// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-pci: the registers behind BAR 0, the capabilities that point to the registers, and the life
 * of a transport.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vmm/core/bus.h"
#include "vmm/core/kvm.h"
#include "vmm/virtio/transport_private.h"

enum {
	BAR_COMMON = 0x0,
	COMMON_BYTES = 0x38,
	BAR_ISR = 0x2000,
	BAR_DEVICE = 0x4000,
	DEVICE_BYTES = 0x1000,
	BAR_NOTIFY = 0x6000,
	NOTIFY_BYTES = 0x1000,
	NOTIFY_MULTIPLIER = 4,
	BAR_MSIX_TABLE = 0x8000,
	BAR_MSIX_PBA = 0x48000,
	PBA_BYTES = 0x800,
	PCI_CAP_VENDOR = 9,
	PCI_CAP_MSIX = 0x11,
};
enum { CAP_COMMON = 1, CAP_NOTIFY = 2, CAP_ISR = 3, CAP_DEVICE = 4, CAP_PCI_CFG = 5 };
enum { STATUS_FEATURES_OK = 8, STATUS_DRIVER_OK = 4 };
enum { ISR_CONFIG = 2 };

/* struct virtio_pci_cap (4.1.4) without its first two bytes. */
struct cap_body {
	uint8_t len, type, bar, id, padding[2];
	uint32_t offset, length;
	uint32_t extra; /* notify: multiplier; PCI-cfg: the data window */
} __attribute__((packed));

/* ---- interrupts ---- */

void virtio_pci_interrupt(struct virtio_pci *t, int queue_or_config)
{
	uint16_t vector = queue_or_config >= 0 ? t->msix_queues[queue_or_config] : t->msix_config;

	if (queue_or_config < 0) {
		t->interrupt_status |= ISR_CONFIG;
		t->config_generation++;
	}
	msix_interrupt(&t->msix, t->env->kvm, vector);
}

bool virtio_pci_again(struct virtio_pci *t, unsigned queue)
{
	return kick_again(&t->kick[queue]);
}

void virtio_pci_needs_reset(struct virtio_pci *t)
{
	t->driver_status |= STATUS_NEEDS_RESET;
	virtio_pci_interrupt(t, VIRTIO_CONFIG_CHANGE);
}

/* ---- common configuration (4.1.4.3) ---- */

uint16_t virtio_pci_vector(const struct virtio_pci *t, uint16_t vector)
{
	return vector < t->msix.n_table_entries ? vector : MSIX_NO_VECTOR;
}

static uint64_t common_read(struct virtio_pci *t, uint64_t off)
{
	const struct virtio_dev *vdev = t->vdev;
	const struct vring *q = t->queue_select < vdev->n_queues ? &vdev->queue[t->queue_select] : NULL;

	switch (off) {
	case 0x00:
		return t->device_feature_select;
	case 0x04:
		return t->device_feature_select < 2 ? (uint32_t)(vdev->avail_features >> 32 * t->device_feature_select)
						    : 0;
	case 0x08:
		return t->driver_feature_select;
	case 0x0c:
		return t->driver_feature_select < 2 ? (uint32_t)(vdev->acked_features >> 32 * t->driver_feature_select)
						    : 0;
	case 0x10:
		return t->msix_config;
	case 0x12:
		return vdev->n_queues;
	case 0x14:
		return t->driver_status;
	case 0x15:
		return t->config_generation;
	case 0x16:
		return t->queue_select;
	case 0x18:
		return q ? q->s.size : 0;
	case 0x1a:
		return q ? t->msix_queues[t->queue_select] : MSIX_NO_VECTOR;
	case 0x1c:
		return q ? q->s.ready : 0;
	case 0x1e:
		return t->queue_select;
	case 0x20:
	case 0x24:
		return q ? q->s.desc_table >> 8 * (off - 0x20) : 0;
	case 0x28:
	case 0x2c:
		return q ? q->s.avail_ring >> 8 * (off - 0x28) : 0;
	case 0x30:
	case 0x34:
		return q ? q->s.used_ring >> 8 * (off - 0x30) : 0;
	default:
		return 0;
	}
}

static void reset_device(struct virtio_pci *t)
{
	virtio_reset(t->vdev);
	t->driver_status = 0;
	t->device_feature_select = t->driver_feature_select = 0;
	t->queue_select = 0;
	t->interrupt_status = 0;
	t->msix_config = MSIX_NO_VECTOR;
	for (unsigned i = 0; i < t->vdev->n_queues; i++)
		t->msix_queues[i] = MSIX_NO_VECTOR;
}

static void write_status(struct virtio_pci *t, uint8_t status)
{
	if (status == 0) {
		reset_device(t);
		return;
	}
	if ((status & STATUS_FEATURES_OK) && !virtio_has(t->vdev, VIRTIO_F_VERSION_1))
		status &= (uint8_t)~STATUS_FEATURES_OK;
	t->driver_status |= status; /* 2.1.1: the driver does not clear bits */
	if ((t->driver_status & STATUS_DRIVER_OK) && !t->vdev->active && !t->vdev->broken)
		virtio_activate(t->vdev);
}

static void write_features(struct virtio_pci *t, uint32_t value)
{
	unsigned shift = 32 * t->driver_feature_select;

	if (t->driver_feature_select >= 2 || (t->driver_status & STATUS_FEATURES_OK))
		return;
	uint64_t page = 0xffffffffULL << shift;
	t->vdev->acked_features = (t->vdev->acked_features & ~page) |
				  ((uint64_t)value << shift & t->vdev->avail_features);
}

static void set_address(uint64_t *address, unsigned byte, uint64_t value, unsigned len)
{
	if (byte == 0 && len == 8)
		*address = value;
	else if (byte == 4)
		*address = (*address & 0xffffffff) | value << 32;
	else
		*address = (*address & ~0xffffffffULL) | (uint32_t)value;
}

/* Writes a register of the selected queue. All but the vector are fixed once the device is active. */
static void queue_write(struct virtio_pci *t, uint64_t off, uint64_t value, unsigned len)
{
	if (t->queue_select >= t->vdev->n_queues)
		return;
	struct vring_state *q = &t->vdev->queue[t->queue_select].s;
	if (off == 0x1a) {
		t->msix_queues[t->queue_select] = virtio_pci_vector(t, (uint16_t)value);
		return;
	}
	if (t->vdev->active || q->ready)
		return;
	switch (off) {
	case 0x18:
		if (value > 0 && value <= q->max_size && (value & (value - 1)) == 0)
			q->size = (uint16_t)value;
		break;
	case 0x1c:
		q->ready = value == 1;
		break;
	case 0x20:
	case 0x24:
		set_address(&q->desc_table, off - 0x20, value, len);
		break;
	case 0x28:
	case 0x2c:
		set_address(&q->avail_ring, off - 0x28, value, len);
		break;
	case 0x30:
	case 0x34:
		set_address(&q->used_ring, off - 0x30, value, len);
		break;
	}
}

static void common_write(struct virtio_pci *t, uint64_t off, uint64_t value, unsigned len)
{
	switch (off) {
	case 0x00:
		t->device_feature_select = (uint32_t)value;
		break;
	case 0x08:
		t->driver_feature_select = (uint32_t)value;
		break;
	case 0x0c:
		write_features(t, (uint32_t)value);
		break;
	case 0x10:
		t->msix_config = virtio_pci_vector(t, (uint16_t)value);
		break;
	case 0x14:
		write_status(t, (uint8_t)value);
		break;
	case 0x16:
		t->queue_select = (uint16_t)value;
		break;
	default:
		queue_write(t, off, value, len);
	}
}

/* ---- BAR 0 ---- */

static bool in(uint64_t off, uint64_t base, uint64_t bytes, unsigned len)
{
	return off >= base && off + len <= base + bytes;
}

static void device_read(const struct virtio_dev *vdev, uint64_t off, void *data, unsigned len)
{
	if (off + len <= vdev->ops->config_bytes)
		memcpy(data, (const char *)vdev->config + off, len);
}

static void bar_read_locked(struct virtio_pci *t, uint64_t off, void *data, unsigned len)
{
	memset(data, 0, len);
	if (in(off, BAR_COMMON, COMMON_BYTES, len)) {
		uint64_t v = common_read(t, off);
		if (len == 8)
			v = (uint32_t)v | common_read(t, off + 4) << 32;
		reg_put(data, len, v);
	} else if (in(off, BAR_ISR, 1, len)) {
		reg_put(data, len, t->interrupt_status);
		t->interrupt_status = 0;
	} else if (in(off, BAR_DEVICE, DEVICE_BYTES, len)) {
		device_read(t->vdev, off - BAR_DEVICE, data, len);
	} else if (in(off, BAR_MSIX_TABLE, BAR_MSIX_PBA - BAR_MSIX_TABLE, len)) {
		msix_table_read(&t->msix, off - BAR_MSIX_TABLE, data, len);
	} else if (in(off, BAR_MSIX_PBA, PBA_BYTES, len)) {
		msix_pba_read(&t->msix, off - BAR_MSIX_PBA, data, len);
	}
}

static void bar_write_locked(struct virtio_pci *t, uint64_t off, const void *data, unsigned len)
{
	struct virtio_dev *vdev = t->vdev;

	if (in(off, BAR_NOTIFY, NOTIFY_BYTES, len)) {
		unsigned queue = (unsigned)(off - BAR_NOTIFY) / NOTIFY_MULTIPLIER;
		if (queue < vdev->n_queues)
			kick_exit(&t->kick[queue], t->pci.bar0 + BAR_NOTIFY + (uint64_t)queue * NOTIFY_MULTIPLIER);
	} else if (in(off, BAR_COMMON, COMMON_BYTES, len)) {
		common_write(t, off, reg_get(data, len), len);
	} else if (in(off, BAR_DEVICE, DEVICE_BYTES, len)) {
		if (vdev->ops->write_config && off - BAR_DEVICE + len <= vdev->ops->config_bytes)
			vdev->ops->write_config(vdev, (unsigned)(off - BAR_DEVICE), data, len);
	} else if (in(off, BAR_MSIX_TABLE, BAR_MSIX_PBA - BAR_MSIX_TABLE, len)) {
		msix_table_write(&t->msix, t->env->kvm, off - BAR_MSIX_TABLE, data, len);
	}
}

static void bar_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	struct virtio_pci *t = opaque;

	pthread_mutex_lock(&t->vdev->lock);
	bar_read_locked(t, off, data, len);
	pthread_mutex_unlock(&t->vdev->lock);
}

static void bar_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	struct virtio_pci *t = opaque;

	pthread_mutex_lock(&t->vdev->lock);
	bar_write_locked(t, off, data, len);
	pthread_mutex_unlock(&t->vdev->lock);
}

/* ---- configuration space ---- */

/* Where the BAR window in configuration space (4.1.4.9) points to; false: nowhere. */
static bool window(const struct virtio_pci *t, uint64_t *ret_off, unsigned *ret_len)
{
	struct cap_body cap;

	memcpy(&cap, t->cap_pci_cfg, sizeof(cap));
	*ret_off = cap.offset;
	*ret_len = cap.length;
	return cap.bar == 0 && (cap.length == 1 || cap.length == 2 || cap.length == 4) &&
	       (uint64_t)cap.offset + cap.length <= VIRTIO_PCI_BAR_BYTES;
}

enum { WINDOW_DATA = offsetof(struct cap_body, extra) };

static void before_read(struct pci_device *pci, unsigned reg)
{
	struct virtio_pci *t = container_of(pci, struct virtio_pci, pci);
	uint64_t off;
	unsigned len, data_reg = (t->cap_pci_cfg_offset + WINDOW_DATA) / 4;

	if (reg != data_reg)
		return;
	if (window(t, &off, &len))
		bar_read(t, off, t->cap_pci_cfg + WINDOW_DATA, len);
	memcpy((char *)pci->cfg.registers + t->cap_pci_cfg_offset, t->cap_pci_cfg, CAP_PCI_CFG_BYTES);
}

static void after_write(struct pci_device *pci, unsigned reg, unsigned off, const void *data, unsigned len)
{
	struct virtio_pci *t = container_of(pci, struct virtio_pci, pci);
	unsigned at = reg * 4 + off, first = t->cap_pci_cfg_offset + offsetof(struct cap_body, bar), bar_len;
	uint64_t bar_off;

	if (reg == pci->cfg.msix_cap_reg_idx) {
		pthread_mutex_lock(&t->vdev->lock);
		msix_set_control(&t->msix, t->env->kvm, (uint16_t)(pci->cfg.registers[reg] >> 16));
		pthread_mutex_unlock(&t->vdev->lock);
	}
	if (at < first || at + len > t->cap_pci_cfg_offset + CAP_PCI_CFG_BYTES)
		return;
	memcpy(t->cap_pci_cfg + (at - t->cap_pci_cfg_offset), data, len);
	memcpy((char *)pci->cfg.registers + t->cap_pci_cfg_offset, t->cap_pci_cfg, CAP_PCI_CFG_BYTES);
	if (at >= t->cap_pci_cfg_offset + WINDOW_DATA && window(t, &bar_off, &bar_len))
		bar_write(t, bar_off, t->cap_pci_cfg + WINDOW_DATA, bar_len);
}

static bool move_bar(struct pci_device *pci, uint64_t from, uint64_t to)
{
	struct virtio_pci *t = container_of(pci, struct virtio_pci, pci);

	if (!bus_move(t->env->mmio, t, from, to))
		return false;
	pthread_mutex_lock(&t->vdev->lock);
	for (unsigned i = 0; i < t->vdev->n_queues; i++)
		kick_move(&t->kick[i], from, to);
	pthread_mutex_unlock(&t->vdev->lock);
	return true;
}

static unsigned add_cap(struct virtio_pci *t, uint8_t type, uint32_t offset, uint32_t length, uint32_t extra)
{
	struct cap_body cap = { .type = type, .offset = offset, .length = length, .extra = extra };
	unsigned bytes = type == CAP_NOTIFY || type == CAP_PCI_CFG ? sizeof(cap) : sizeof(cap) - 4;

	cap.len = (uint8_t)(bytes + 2);
	return pci_add_capability(&t->pci, PCI_CAP_VENDOR, &cap, bytes);
}

static void add_capabilities(struct virtio_pci *t)
{
	add_cap(t, CAP_COMMON, BAR_COMMON, COMMON_BYTES, 0);
	add_cap(t, CAP_ISR, BAR_ISR, 1, 0);
	if (t->vdev->ops->config_bytes)
		add_cap(t, CAP_DEVICE, BAR_DEVICE, DEVICE_BYTES, 0);
	add_cap(t, CAP_NOTIFY, BAR_NOTIFY, NOTIFY_BYTES, NOTIFY_MULTIPLIER);
	t->cap_pci_cfg_offset = add_cap(t, CAP_PCI_CFG, 0, 0, 0) + 2;
	memcpy(t->cap_pci_cfg, (char *)t->pci.cfg.registers + t->cap_pci_cfg_offset, CAP_PCI_CFG_BYTES);

	/* The enable bit reads as set at reset, though MSI-X is not enabled: as in Cloud Hypervisor. */
	uint16_t control = (uint16_t)(0x8000 | (t->msix.n_table_entries - 1));
	uint32_t table = BAR_MSIX_TABLE, pba = BAR_MSIX_PBA;
	uint8_t body[10];
	memcpy(body, &control, 2);
	memcpy(body + 2, &table, 4);
	memcpy(body + 6, &pba, 4);
	unsigned at = pci_add_capability(&t->pci, PCI_CAP_MSIX, body, sizeof(body));
	t->pci.cfg.msix_cap_reg_idx = at / 4;
	t->pci.cfg.writable_bits[at / 4] = 0xc0000000;
	t->pci.cfg.last_capability[1] = sizeof(body); /* as Cloud Hypervisor counts the last capability */
}

/* ---- life ---- */

int virtio_pci_map_bar(struct virtio_pci *t, struct err *err)
{
	struct bus_range bar = {
		.base = t->pci.bar0, .size = VIRTIO_PCI_BAR_BYTES, .dev = t, .read = bar_read, .write = bar_write
	};

	return bus_add(t->env->mmio, &bar, err);
}

static int attach_transport(struct virtio_pci *t, const struct pci_place *place, struct err *err)
{
	struct virtio_dev *vdev = t->vdev;
	uint16_t device = (uint16_t)(0x1040 + vdev->ops->type);

	t->msix_queues = malloc(vdev->n_queues * sizeof(*t->msix_queues));
	t->kick = calloc(vdev->n_queues, sizeof(*t->kick));
	for (unsigned i = 0; t->kick && i < vdev->n_queues; i++)
		kick_init(&t->kick[i], t, i);
	if (!t->msix_queues || !t->kick)
		return err_num(err, ERR_INTERNAL, ENOMEM, "device '%s'", vdev->id);
	if (msix_init(&t->msix, vdev->n_queues + 1, err) < 0)
		return err->num;
	snprintf(t->id, sizeof(t->id), TRANSPORT_PREFIX "%s", vdev->id);
	pci_device_init(&t->pci, 0x1af4, device, vdev->ops->pci_class, 1);
	t->pci.cfg.registers[11] = (uint32_t)device << 16 | 0x1af4;
	t->pci.before_read = before_read;
	t->pci.after_write = after_write;
	t->pci.move_bar = move_bar;
	t->pci.ejectable = vdev->ops->hotplug;
	if (pci_alloc_bar0(t->env->pci, &t->pci, VIRTIO_PCI_BAR_BYTES, place->bar32, place->area, err) < 0)
		return err_wrap(err, "device '%s'", vdev->id);
	add_capabilities(t);
	reset_device(t);
	if (pci_attach(t->env->pci, &t->pci, place->slot, err) < 0)
		return err->num;
	return place->saved
		       ? 0
		       : virtio_pci_map_bar(t, err); /* saved: virtio_pci_load() maps the BAR where the snapshot says */
}

int virtio_pci_attach(const struct device_env *env, struct virtio_dev *vdev, const struct pci_place *place,
		      struct virtio_pci **ret, struct err *err)
{
	struct virtio_pci *t = calloc(1, sizeof(*t));

	if (!t) {
		vdev->ops->free(vdev);
		return err_num(err, ERR_INTERNAL, ENOMEM, "attach a device");
	}
	t->env = env;
	t->vdev = vdev;
	vdev->transport = t;
	int r = attach_transport(t, place, err);
	if (r < 0) {
		pci_detach(env->pci, &t->pci);
		virtio_pci_free(t);
		return r;
	}
	*ret = t;
	return 0;
}

void virtio_pci_free(struct virtio_pci *t)
{
	if (!t)
		return;
	worker_stop(&t->worker);
	for (unsigned i = 0; t->kick && i < t->vdev->n_queues; i++)
		kick_done(&t->kick[i]);
	free(t->kick);
	t->vdev->ops->free(t->vdev);
	msix_done(&t->msix);
	free(t->msix_queues);
	free(t);
}

void virtio_pci_remove(struct virtio_pci *t)
{
	pci_detach(t->env->pci, &t->pci);
	bus_remove(t->env->mmio, t);
	worker_stop(&t->worker);
	for (unsigned i = 0; i < t->vdev->n_queues; i++)
		kick_detach(&t->kick[i]);
	reset_device(t); /* what is under way ends before its rings are forgotten */
	virtio_pci_free(t);
}
