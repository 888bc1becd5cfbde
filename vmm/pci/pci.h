// SPDX-License-Identifier: Apache-2.0
/*
 * PCI: one segment, one bus, 32 slots. The guest reaches configuration space by ports 0xcf8/0xcfc
 * and by ECAM. A device's registers are an array with a mask of writable bits, as in state.json.
 * One lock guards all of configuration space.
 */
#ifndef VMM_PCI_PCI_H
#define VMM_PCI_PCI_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/field.h"

enum { PCI_SLOTS = 32, PCI_CONFIG_DWORDS = 1024, PCI_BARS = 6 };
enum { PCI_REG_COMMAND = 1, PCI_REG_BAR0 = 4, PCI_COMMAND_MEMORY = 2 };
enum pci_bar_type { PCI_BAR_MEMORY32, PCI_BAR_MEMORY64 };

struct bus;

/* As in state.json ("pci_configuration"). */
struct pci_bar {
	uint32_t addr, size; /* addr: the register's value; size: the sizing mask */
	bool used;
	uint8_t type; /* enum pci_bar_type */
	bool has_type;
};

struct pci_config {
	uint32_t registers[PCI_CONFIG_DWORDS], writable_bits[PCI_CONFIG_DWORDS];
	struct pci_bar bars[PCI_BARS];
	uint32_t rom_bar_addr, rom_bar_size;
	bool rom_bar_used;
	uint32_t last_capability[2]; /* offset, length */
	uint32_t msix_cap_reg_idx;
};

struct pci_device {
	unsigned slot;
	struct pci_config cfg;
	/*
	 * Called before a read of `reg`, and after a write of `len` bytes at `off` in it. NULL: the
	 * registers are plain memory.
	 */
	void (*before_read)(struct pci_device *dev, unsigned reg);
	void (*after_write)(struct pci_device *dev, unsigned reg, unsigned off, const void *data, unsigned len);
	bool (*move_bar)(struct pci_device *dev, uint64_t from,
			 uint64_t to); /* the guest moves BAR 0; false: it stays where it is */
	uint64_t bar0;                 /* where BAR 0 is decoded now */
	uint32_t bar0_bytes;           /* 0: none */
	bool ejectable;                /* the guest may eject it */
	bool ejected;                  /* the guest has ejected it: it is in no slot any more */
};

/* Where a device goes. */
struct pci_place {
	unsigned slot; /* 0: the first free one */
	bool bar32;    /* its BAR is below 4 GiB */
	uint64_t area; /* the lowest address that its BAR may have */
	bool saved;    /* its registers are loaded from a snapshot later, and with them the BAR's address */
};

struct pci_bus {
	pthread_mutex_t lock;
	struct pci_device host_bridge;
	struct pci_device *slot[PCI_SLOTS];
	_Atomic uint32_t address; /* the register at port 0xcf8; not in snapshots */
	uint64_t top32, top64;    /* BARs are given out downward from here */
};

extern const struct field pci_config_fields[];

/* Puts the host bridge into slot 0. */
void pci_bus_init(struct pci_bus *bus, uint64_t top32, uint64_t top64);
/* Fills in a type 0 header: `class_code` is 0xCCSSPP, the subsystem ids equal the device's own. */
void pci_device_init(struct pci_device *dev, uint16_t vendor, uint16_t device, uint32_t class_code, uint8_t revision);
/*
 * Allocates BAR 0 of `size` bytes (a power of two) at the highest place that no device in a slot
 * has. It is aligned to 8 MiB in the 64-bit window, and to its size below 4 GiB.
 */
MUST_CHECK int pci_alloc_bar0(struct pci_bus *bus, struct pci_device *dev, uint32_t size, bool bar32, uint64_t lowest,
			      struct err *err);
/* Appends a capability; `body` is what follows id and next pointer. Returns its offset. */
unsigned pci_add_capability(struct pci_device *dev, uint8_t id, const void *body, unsigned bytes);
/* Finds the wanted slot, if it is free; `wanted` 0: the first free slot. */
MUST_CHECK int pci_find_slot(struct pci_bus *bus, unsigned wanted, unsigned *ret_slot, struct err *err);
MUST_CHECK int pci_attach(struct pci_bus *bus, struct pci_device *dev, unsigned wanted_slot, struct err *err);
void pci_detach(struct pci_bus *bus, struct pci_device *dev);
/*
 * The guest ejects the device in that slot; false: there is none, or it must stay. On a vCPU's
 * thread: the guest sees an empty slot at once, and the owner of the device frees it later.
 */
bool pci_eject(struct pci_bus *bus, unsigned slot);
/* Writes a device's address: "0000:00:03.0". */
enum { PCI_BDF_BYTES = 13 };
void pci_bdf(const struct pci_device *dev, char ret_text[PCI_BDF_BYTES]);
/* The address in the registers of BAR 0. */
uint64_t pci_bar0_address(const struct pci_config *cfg);

/* Of type bus_read_fn and bus_write_fn, over struct pci_bus: ports 0xcf8 to 0xcff, and ECAM. */
void pci_port_read(void *bus, uint64_t off, void *data, unsigned len);
void pci_port_write(void *bus, uint64_t off, const void *data, unsigned len);
void pci_ecam_read(void *bus, uint64_t off, void *data, unsigned len);
void pci_ecam_write(void *bus, uint64_t off, const void *data, unsigned len);

#endif
