// SPDX-License-Identifier: Apache-2.0
/* Register address spaces: a short list, searched in order. */
#include "vmm/core/bus.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

void bus_init(struct bus *bus)
{
	*bus = (struct bus){ .lock = PTHREAD_RWLOCK_INITIALIZER };
}

static bool overlaps(const struct bus *bus, const struct bus_range *self, uint64_t base)
{
	for (unsigned i = 0; i < bus->n; i++) {
		const struct bus_range *r = &bus->range[i];
		if (r != self && base < r->base + r->size && r->base < base + self->size)
			return true;
	}
	return base + self->size < base;
}

int bus_add(struct bus *bus, const struct bus_range *range, struct err *err)
{
	if (bus->n == BUS_MAX_RANGES)
		return err_set(err, ERR_INTERNAL, "more than %d device register ranges", BUS_MAX_RANGES);
	if (overlaps(bus, range, range->base))
		return err_set(err, ERR_INVALID, "device registers at 0x%llx are in another device's place",
			       (unsigned long long)range->base);
	bus->range[bus->n++] = *range;
	return 0;
}

void bus_remove(struct bus *bus, const void *dev)
{
	unsigned n = 0;

	for (unsigned i = 0; i < bus->n; i++)
		if (bus->range[i].dev != dev)
			bus->range[n++] = bus->range[i];
	bus->n = n;
}

bool bus_move(struct bus *bus, void *dev, uint64_t from, uint64_t to)
{
	bool moved = false;

	pthread_rwlock_wrlock(&bus->lock);
	for (unsigned i = 0; i < bus->n && !moved; i++) {
		struct bus_range *r = &bus->range[i];
		if (r->dev == dev && r->base == from && !overlaps(bus, r, to)) {
			r->base = to;
			moved = true;
		}
	}
	pthread_rwlock_unlock(&bus->lock);
	return moved;
}

static bool bus_find(struct bus *bus, uint64_t addr, unsigned len, struct bus_range *ret)
{
	bool found = false;

	pthread_rwlock_rdlock(&bus->lock);
	for (unsigned i = 0; i < bus->n && !found; i++) {
		const struct bus_range *r = &bus->range[i];
		if (addr >= r->base && addr - r->base < r->size && len <= r->size - (addr - r->base)) {
			*ret = *r;
			found = true;
		}
	}
	pthread_rwlock_unlock(&bus->lock);
	return found;
}

void bus_read(struct bus *bus, uint64_t addr, void *data, unsigned len)
{
	struct bus_range r;

	memset(data, 0xff, len);
	if (bus_find(bus, addr, len, &r) && r.read)
		r.read(r.dev, addr - r.base, data, len);
}

void bus_write(struct bus *bus, uint64_t addr, const void *data, unsigned len)
{
	struct bus_range r;

	if (bus_find(bus, addr, len, &r) && r.write)
		r.write(r.dev, addr - r.base, data, len);
}

uint64_t reg_get(const void *data, unsigned len)
{
	uint64_t v = 0;

	memcpy(&v, data, len <= sizeof(v) ? len : sizeof(v));
	return v;
}

void reg_put(void *data, unsigned len, uint64_t value)
{
	memcpy(data, &value, len <= sizeof(value) ? len : sizeof(value));
}
