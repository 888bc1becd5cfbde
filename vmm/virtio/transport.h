// SPDX-License-Identifier: Apache-2.0
/*
 * The virtio-pci transport (virtio 1.2, 4.1), modern only, with Cloud Hypervisor's register layout:
 * capabilities, one BAR of 512 KiB, MSI-X. A transport owns the device behind it.
 */
#ifndef VMM_VIRTIO_TRANSPORT_H
#define VMM_VIRTIO_TRANSPORT_H

#include "vmm/pci/msix.h"
#include "vmm/pci/pci.h"
#include "vmm/virtio/virtio.h"
#include "vmm/virtio/worker.h"

enum { CAP_PCI_CFG_BYTES = 18 };
#define TRANSPORT_PREFIX "_virtio-pci-" /* with the device's id behind it: the transport's id */

struct virtio_pci {
	struct pci_device pci;
	const struct device_env *env;
	struct virtio_dev *vdev;
	struct msix msix;
	struct kick *kick;    /* one for each queue */
	struct worker worker; /* of a busy device */
	char id[96];          /* "_virtio-pci-" + vdev->id */
	/* Common configuration; names as in state.json. */
	uint8_t driver_status, config_generation;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select, msix_config;
	uint16_t *msix_queues;     /* a vector for each queue */
	uint64_t interrupt_status; /* the ISR register */
	uint8_t cap_pci_cfg[CAP_PCI_CFG_BYTES];
	uint32_t cap_pci_cfg_offset; /* of cap_pci_cfg[0] in configuration space */
};

/*
 * Gives `vdev` a place on the bus of `env`: slot, BAR, capabilities. The device is taken over in any
 * case: a failure frees the device.
 */
MUST_CHECK int virtio_pci_attach(const struct device_env *env, struct virtio_dev *vdev, const struct pci_place *place,
				 struct virtio_pci **ret, struct err *err);
/* Takes the transport off the bus, and frees the transport and its device. No vCPU runs meanwhile. */
void virtio_pci_remove(struct virtio_pci *t);
/* Frees the transport and its device. */
void virtio_pci_free(struct virtio_pci *t);

/* ---- saved state: transport_state.c ---- */

/* The transport's node in state.json with its three children; vCPUs parked. */
void virtio_pci_save(struct virtio_pci *t, struct strbuf *out);
/*
 * Loads that node, after the device's own state was loaded. Activates the queues of an active device.
 * The device stays paused.
 */
MUST_CHECK int virtio_pci_load(struct virtio_pci *t, const struct json_node *node, struct err *err);
/* The two entries in the device tree: the transport's ("_virtio-pci-x") and the device's ("x"). */
void virtio_pci_tree(const struct virtio_pci *t, struct strbuf *out);

#endif
