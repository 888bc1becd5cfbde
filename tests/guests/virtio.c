/* SPDX-License-Identifier: Apache-2.0 */
/* The driver side of virtio, with checks of everything the device writes: see virtio.h. */
#include "virtio.h"
#include "pci.h"

#define WAIT_LIMIT_MS 10000

const char *virtio_name(uint16_t type)
{
	static const char *const names[] = {
		[VIRTIO_NET] = "net",
		[VIRTIO_BLK] = "blk",
		[VIRTIO_CONSOLE] = "console",
		[VIRTIO_RNG] = "rng",
		[VIRTIO_BALLOON] = "balloon",
		[17] = "rtc",
		[VIRTIO_VSOCK] = "vsock",
		[23] = "iommu",
		[24] = "mem",
		[26] = "fs",
		[27] = "pmem",
		[35] = "watchdog",
	};
	return type < ARRAY_LEN(names) && names[type] ? names[type] : "unknown";
}

static void probe_pci(struct virtio *v, unsigned slot)
{
	*v = (struct virtio){ .slot = slot, .type = (uint16_t)(pci_read(slot, 2, 2) - 0x1040) };
	pci_write(slot, 4, pci_read(slot, 4, 2) | 6, 2);
	for (unsigned cap = 0; (cap = pci_capability(slot, PCI_CAP_VENDOR, cap));) {
		uintptr_t at = pci_bar(slot, pci_read(slot, cap + 4, 1)) + pci_read(slot, cap + 8, 4);
		switch (pci_read(slot, cap + 3, 1)) {
		case 1:
			v->common = at;
			break;
		case 2:
			v->notify = at;
			v->notify_multiplier = pci_read(slot, cap + 16, 4);
			break;
		case 3:
			v->isr = at;
			break;
		case 4:
			v->config = at;
			break;
		}
	}
	unsigned cap = pci_capability(slot, PCI_CAP_MSIX, 0);
	if (cap) {
		uint32_t table = pci_read(slot, cap + 4, 4);
		v->n_vectors = (pci_read(slot, cap + 2, 2) & 0x7ff) + 1;
		v->msix = pci_bar(slot, table & 7) + (table & ~7u);
	}
	v->bar = pci_bar(slot, 0);
	v->bar_bytes = pci_bar_bytes(slot, 0);
	map_range(v->bar, v->bar_bytes);
}

static void probe_mmio(struct virtio *v, const char *p)
{
	while (*p != '@')
		p++;
	uintptr_t base = 0;
	for (p += 3; *p && *p != ':'; p++)
		base = base * 16 + (uintptr_t)(*p <= '9' ? *p - '0' : (*p | 0x20) - 'a' + 10);
	*v = (struct virtio){ .mmio = true, .bar = base, .common = base, .bar_bytes = PAGE, .config = base + 0x100 };
	if (read32(base) != 0x74726976 || read32(base + 4) != 2)
		fail("mmio device at %lx: magic %x version %x", base, read32(base), read32(base + 4));
	v->type = (uint16_t)read32(base + 8);
}

bool virtio_find(struct virtio *v, unsigned slot)
{
	uint32_t id = pci_read(slot, 0, 4);
	bool found = (id & 0xffff) == 0x1af4 && id >> 16 >= 0x1040;
	if (found)
		probe_pci(v, slot);
	return found;
}

unsigned virtio_scan(struct virtio *devs, unsigned max)
{
	static const char name[] = "virtio_mmio.device=";
	unsigned n = 0;
	for (const char *p = command_line(); *p && n < max; p++)
		if (memcmp(p, name, sizeof(name) - 1) == 0)
			probe_mmio(&devs[n++], p);
	if (n > 0) { /* no PCI there, but a PIC whose lines would reach us: masked */
		outb(0x21, 0xff);
		outb(0xa1, 0xff);
		return n;
	}
	for (unsigned slot = 0; slot < PCI_SLOTS && n < max; slot++)
		n += virtio_find(&devs[n], slot);
	return n;
}

uint8_t virtio_status(struct virtio *v)
{
	return v->mmio ? (uint8_t)read32(v->common + 0x70) : read8(v->common + 20);
}

void virtio_set_status(struct virtio *v, uint8_t status)
{
	if (v->mmio)
		write32(v->common + 0x70, status);
	else
		write8(v->common + 20, status);
}

void virtio_reset(struct virtio *v)
{
	struct stopwatch w;
	stopwatch_start(&w);
	virtio_set_status(v, 0);
	while (virtio_status(v))
		if (stopwatch_ms(&w) > WAIT_LIMIT_MS)
			fail("%s: reset is never done, status %x", virtio_name(v->type), virtio_status(v));
}

void virtio_acknowledge(struct virtio *v)
{
	virtio_reset(v);
	virtio_set_status(v, 1);
	virtio_set_status(v, 3);
}

uint64_t virtio_offered(struct virtio *v)
{
	uint64_t features = 0;
	for (uint32_t word = 0; word < 2; word++) {
		write32(v->common + (v->mmio ? 0x14 : 0), word);
		features |= (uint64_t)read32(v->common + (v->mmio ? 0x10 : 4)) << 32 * word;
	}
	return features;
}

void virtio_accept(struct virtio *v, uint64_t features)
{
	for (uint32_t word = 0; word < 2; word++) {
		write32(v->common + (v->mmio ? 0x24 : 8), word);
		write32(v->common + (v->mmio ? 0x20 : 12), (uint32_t)(features >> 32 * word));
	}
	v->features = features;
}

uint16_t virtio_queue_max(struct virtio *v, uint16_t queue)
{
	if (v->mmio) {
		write32(v->common + 0x30, queue);
		return (uint16_t)read32(v->common + 0x34);
	}
	write16(v->common + 22, queue);
	return read16(v->common + 24);
}

static void write_address(uintptr_t at, uint64_t value)
{
	write32(at, (uint32_t)value);
	write32(at + 4, (uint32_t)(value >> 32));
}

void virtio_queue_setup(struct virtio *v, uint16_t queue, uint16_t size, uint64_t desc, uint64_t avail, uint64_t used)
{
	if (v->mmio) {
		write32(v->common + 0x30, queue);
		write32(v->common + 0x38, size);
		write_address(v->common + 0x80, desc);
		write_address(v->common + 0x90, avail);
		write_address(v->common + 0xa0, used);
		return;
	}
	write16(v->common + 22, queue);
	write16(v->common + 24, size);
	write_address(v->common + 32, desc);
	write_address(v->common + 40, avail);
	write_address(v->common + 48, used);
}

void virtio_queue_enable(struct virtio *v, uint16_t queue)
{
	if (v->mmio) {
		write32(v->common + 0x30, queue);
		write32(v->common + 0x44, 1);
	} else {
		write16(v->common + 22, queue);
		write16(v->common + 28, 1);
	}
}

static uintptr_t notify_address(struct virtio *v, uint16_t queue)
{
	if (v->mmio)
		return v->common + 0x50;
	write16(v->common + 22, queue);
	return v->notify + read16(v->common + 30) * v->notify_multiplier;
}

void virtio_notify(struct virtio *v, uint16_t queue)
{
	if (v->mmio)
		write32(notify_address(v, queue), queue);
	else
		write16(notify_address(v, queue), queue);
}

uint64_t virtio_config(struct virtio *v, unsigned offset, unsigned bytes)
{
	if (bytes == 8)
		return virtio_config(v, offset, 4) | virtio_config(v, offset + 4, 4) << 32;
	return mmio_read(v->config + offset, bytes);
}

void virtio_begin(struct virtio *v, uint64_t wanted)
{
	if (option_number("event", 1) == 0)
		wanted &= ~F_EVENT_IDX;
	if (option_number("indirect", 1) == 0)
		wanted &= ~F_INDIRECT;
	virtio_acknowledge(v);
	virtio_accept(v, virtio_offered(v) & (wanted | F_VERSION_1));
	virtio_set_status(v, 0xb);
	if (virtio_status(v) != 0xb)
		fail("%s: features %lx refused, status %x", virtio_name(v->type), v->features, virtio_status(v));
	unsigned cap = v->n_vectors ? pci_capability(v->slot, PCI_CAP_MSIX, 0) : 0;
	if (cap)
		pci_write(v->slot, cap + 2, 0x8000, 2);
}

static void msix_route(struct virtio *v, uint16_t entry, unsigned vector, unsigned cpu)
{
	if (entry >= v->n_vectors)
		fail("%s: queue %u has no vector, table has %u", virtio_name(v->type), entry - 1, v->n_vectors);
	uintptr_t at = v->msix + entry * 16ul;
	write32(at, 0xfee00000 | cpu << 12);
	write32(at + 4, 0);
	write32(at + 8, vector);
	write32(at + 12, 0);
	write16(v->common + 26, entry);
	if (read16(v->common + 26) != entry)
		fail("%s: vector %u refused", virtio_name(v->type), entry);
}

void virtq_init(struct virtq *q, struct virtio *v, uint16_t index, uint16_t size, unsigned vector, unsigned cpu)
{
	uint16_t max = virtio_queue_max(v, index);
	if (max == 0)
		fail("%s: no queue %u", virtio_name(v->type), index);
	size = MIN(MIN(size, max), QUEUE_MAX);
	void *memory[] = { (void *)q->desc, (void *)q->avail, (void *)q->used };
	struct desc *tables = q->head[0].table;
	if (!memory[0]) {
		memory[0] = ram_alloc(QUEUE_MAX * sizeof(struct desc), 16);
		memory[1] = ram_alloc(6 + 2 * QUEUE_MAX, 2);
		memory[2] = ram_alloc(6 + 8 * QUEUE_MAX, 4);
		tables = ram_alloc(QUEUE_MAX * SEGS_MAX * sizeof(struct desc), 16);
	}
	memset(memory[1], 0, 6 + 2 * QUEUE_MAX);
	memset(memory[2], 0, 6 + 8 * QUEUE_MAX);
	*q = (struct virtq){
		.dev = v,
		.index = index,
		.size = size,
		.vector = vector,
		.n_free = size,
		.desc = memory[0],
		.avail = memory[1],
		.used = memory[2],
		.event_idx = v->features & F_EVENT_IDX,
	};
	for (uint16_t i = 0; i < size; i++) {
		q->desc[i].next = (uint16_t)(i + 1);
		q->head[i].table = tables + i * SEGS_MAX;
	}
	virtio_queue_setup(v, index, size, (uint64_t)q->desc, (uint64_t)q->avail, (uint64_t)q->used);
	if (vector && !v->mmio)
		msix_route(v, (uint16_t)(index + 1), vector, cpu);
	virtio_queue_enable(v, index);
	q->notify = notify_address(v, index);
}

void virtio_go(struct virtio *v)
{
	virtio_set_status(v, 0xf);
	if (virtio_status(v) != 0xf)
		fail("%s: status %x after DRIVER_OK", virtio_name(v->type), virtio_status(v));
}

static void desc_fill(volatile struct desc *d, const struct seg *s, uint16_t flags, uint16_t next)
{
	d->addr = (uint64_t)s->addr;
	d->len = s->len;
	d->flags = (uint16_t)(flags | (s->write ? DESC_WRITE : 0));
	d->next = next;
}

bool virtq_add(struct virtq *q, const struct seg *segs, unsigned n, bool indirect, void *cookie)
{
	indirect = indirect && (q->dev->features & F_INDIRECT);
	if (n > SEGS_MAX || q->n_free < (indirect ? 1 : n))
		return false;
	uint16_t head = q->free_head;
	uint32_t writable = 0;
	for (unsigned i = 0; i < n; i++)
		writable += segs[i].write ? segs[i].len : 0;
	if (indirect) {
		struct desc *table = q->head[head].table;
		for (unsigned i = 0; i < n; i++)
			desc_fill(&table[i], &segs[i], i + 1 < n ? DESC_NEXT : 0, (uint16_t)(i + 1));
		q->free_head = q->desc[head].next;
		const struct seg whole = { table, (uint32_t)(n * sizeof(*table)), false };
		desc_fill(&q->desc[head], &whole, DESC_INDIRECT, q->desc[head].next);
	} else {
		for (unsigned i = 0; i < n; i++) {
			uint16_t at = q->free_head, next = q->desc[at].next;
			desc_fill(&q->desc[at], &segs[i], i + 1 < n ? DESC_NEXT : 0, next);
			q->free_head = next;
		}
	}
	q->head[head].cookie = cookie;
	q->head[head].n_desc = (uint16_t)(indirect ? 1 : n);
	q->head[head].writable = writable;
	q->n_free = (uint16_t)(q->n_free - q->head[head].n_desc);
	q->avail[2 + q->next_avail % q->size] = head;
	barrier();
	q->avail[1] = ++q->next_avail;
	return true;
}

void virtq_kick(struct virtq *q)
{
	barrier();
	uint16_t now = q->next_avail, last = q->last_kick;
	bool wanted = !(q->used[0] & 1);
	if (q->event_idx) {
		uint16_t event = q->used[2 + 4 * q->size];
		wanted = (uint16_t)(now - event - 1) < (uint16_t)(now - last);
	}
	q->last_kick = now;
	if (!wanted)
		return;
	if (q->dev->mmio)
		write32(q->notify, q->index);
	else
		write16(q->notify, q->index);
}

void *virtq_take(struct virtq *q, uint32_t *ret_len)
{
	uint16_t now = q->used[1];
	if (now == q->last_used)
		return NULL;
	const char *name = virtio_name(q->dev->type);
	if ((uint16_t)(now - q->last_used) > q->size)
		fail("%s queue %u: used index %u after %u", name, q->index, now, q->last_used);
	asm volatile("" : : : "memory");
	const volatile struct used_elem *ring = (const volatile void *)(q->used + 2);
	uint32_t id = ring[q->last_used % q->size].id, len = ring[q->last_used % q->size].len;
	if (id >= q->size || !q->head[id].cookie)
		fail("%s queue %u: used id %u was not given", name, q->index, id);
	if (len > q->head[id].writable)
		fail("%s queue %u: %u bytes written, %u given", name, q->index, len, q->head[id].writable);
	void *cookie = q->head[id].cookie;
	uint16_t last = (uint16_t)id;
	for (unsigned i = 1; i < q->head[id].n_desc; i++)
		last = q->desc[last].next;
	q->desc[last].next = q->free_head;
	q->free_head = (uint16_t)id;
	q->n_free = (uint16_t)(q->n_free + q->head[id].n_desc);
	q->head[id].cookie = NULL;
	q->last_used++;
	*ret_len = len;
	return cookie;
}

/* Says whether interrupts are wanted for what comes next. */
static void suppress(struct virtq *q, bool quiet)
{
	if (q->event_idx)
		q->avail[2 + q->size] = (uint16_t)(q->last_used - (quiet ? 1 : 0));
	else
		q->avail[0] = quiet;
	barrier();
}

static void check_not_lost(struct virtq *q, uint64_t seen)
{
	struct stopwatch w;
	stopwatch_start(&w);
	while (irq_count[q->vector] == seen)
		if (stopwatch_ms(&w) > 2000)
			fail("%s queue %u: interrupt lost", virtio_name(q->dev->type), q->index);
}

void virtq_wait(struct virtq *q, const char *what)
{
	struct stopwatch w;
	stopwatch_start(&w);
	suppress(q, q->vector == 0);
	while (q->used[1] == q->last_used) {
		if (stopwatch_ms(&w) > WAIT_LIMIT_MS)
			fail("%s: no answer on %s queue %u, status %x", what, virtio_name(q->dev->type), q->index,
			     virtio_status(q->dev));
		if (!q->vector) {
			relax();
			continue;
		}
		uint64_t seen = irq_count[q->vector];
		if (q->used[1] != q->last_used)
			break;
		cpu_wait(&irq_count[q->vector], seen);
		if (q->used[1] != q->last_used)
			check_not_lost(q, seen);
	}
}
