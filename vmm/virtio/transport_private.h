// SPDX-License-Identifier: Apache-2.0
/*
 * What transport.c (registers) and transport_state.c (the registers' saved state) share. Private to
 * the two.
 */
#ifndef VMM_VIRTIO_TRANSPORT_PRIVATE_H
#define VMM_VIRTIO_TRANSPORT_PRIVATE_H

#include "vmm/virtio/transport.h"

enum { VIRTIO_PCI_BAR_BYTES = 512 << 10 };
enum { STATUS_NEEDS_RESET = 0x40 };

/*
 * The vector as the registers show it: MSIX_NO_VECTOR in place of a vector that the table does not
 * have.
 */
uint16_t virtio_pci_vector(const struct virtio_pci *t, uint16_t vector);
/* Puts BAR 0 on the bus, at the address in t->pci.bar0. */
MUST_CHECK int virtio_pci_map_bar(struct virtio_pci *t, struct err *err);

#endif
