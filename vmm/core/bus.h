// SPDX-License-Identifier: Apache-2.0
/*
 * An address space of device registers, memory-mapped or ports: ranges, and the device that answers
 * for each. vCPU threads look ranges up; a vCPU thread may move one (a BAR). The lock covers the
 * list of ranges; each device has a lock of its own. Ranges are added and removed only while no
 * vCPU runs, so a device that was looked up stays.
 */
#ifndef VMM_CORE_BUS_H
#define VMM_CORE_BUS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

enum { BUS_MAX_RANGES = 64 };

/* `len` is 1, 2, 4 or 8, and off + len is inside the range. A read fills all of `data`. */
typedef void (*bus_read_fn)(void *dev, uint64_t off, void *data, unsigned len);
typedef void (*bus_write_fn)(void *dev, uint64_t off, const void *data, unsigned len);

struct bus_range {
	uint64_t base, size;
	void *dev;
	bus_read_fn read;
	bus_write_fn write;
};

struct bus {
	pthread_rwlock_t lock;
	struct bus_range range[BUS_MAX_RANGES];
	unsigned n;
};

void bus_init(struct bus *bus);
/*
 * Fails when the list is full (a bound of this program, not of the guest) or when another range has
 * a part of the place.
 */
MUST_CHECK int bus_add(struct bus *bus, const struct bus_range *range, struct err *err);
/* Takes away all ranges of `dev`. */
void bus_remove(struct bus *bus, const void *dev);
/*
 * Moves the range of `dev` that begins at `from`. false: there is no such range, or it would
 * overlap another one or wrap. The guest has programmed nonsense then, and the device keeps its old
 * place.
 */
bool bus_move(struct bus *bus, void *dev, uint64_t from, uint64_t to);
/* Where no range is, a read gives all ones and a write vanishes. */
void bus_read(struct bus *bus, uint64_t addr, void *data, unsigned len);
void bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned len);

/* For devices: a little-endian register value of `len` bytes. */
uint64_t reg_get(const void *data, unsigned len);
void reg_put(void *data, unsigned len, uint64_t value);

#endif
