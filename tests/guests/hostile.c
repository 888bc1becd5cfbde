/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostile test guest: random values in every register it can reach, and broken virtqueues of every
 * kind. The VM monitor must survive, and each device must work again after a reset. All is decided
 * by the seed, so a failure can be repeated.
 *
 * Options:
 *   seed=1  rounds=10 (0: endless)  dev=blk,… (default all)  verbose=1 (a line per attack)
 *   what=ports,config,bars,ioapic,queues (default all)
 *   hotplug=0 (ACPI's PCI hot-plug registers: attacked too)  throw=0 (1: throws its own devices out)
 *   fatal=1 (also the ports which end the VM)  bar=1 (move BARs too)
 *   check=0 (do not check that devices work after a reset)
 *   end=poweroff|reset|acpi-reset|halt  onfail=end (end the VM on FAIL too)
 * Output: "round N ok: …" per round, then "hostile done".
 */
#include "pci.h"
#include "virtio.h"

#define DEVS_MAX 16
#define SANDBOX (4 * MIB) /* the only RAM that devices are sent to on purpose */
#define QUEUES_MAX 16
#define IOAPIC 0xfec00000ul

static struct virtio devs[DEVS_MAX];
static unsigned n_devs;
static uint64_t state; /* of the random numbers */
static uint8_t *sandbox;
static uint64_t ram_end;
static uint64_t n_attacks, n_needs_reset, n_refused, n_sticky;
static bool verbose;

static uint64_t rnd(uint64_t below)
{
	return random64(&state) % below;
}

/* Edge values as often as any. */
static uint64_t wild(void)
{
	static const uint64_t edges[] = {
		0,
		1,
		2,
		0x7f,
		0xff,
		0x7fff,
		0xffff,
		0x10000,
		0x7fffffff,
		0x80000000,
		0xffffffff,
		0x100000000,
		0x7fffffffffffffff,
		0x8000000000000000,
		~0ul,
	};
	uint64_t r = random64(&state);
	if (r & 1)
		return edges[rnd(ARRAY_LEN(edges))];
	return random64(&state) >> (r >> 8 & 63);
}

static unsigned width(unsigned max)
{
	unsigned w = 1u << rnd(4);
	return MIN(w, max);
}

static bool listed(const char *name, const char *what)
{
	const char *list = option(name);
	if (!list)
		return true;
	for (size_t n = strlen(what); *list && *list != ' '; list++)
		if (memcmp(list, what, n) == 0)
			return true;
	return false;
}

static void serial_repair(void)
{
	outb(COM1 + 3, 3);
	outb(COM1 + 1, 0);
	outb(COM1 + 2, 1);
	outb(COM1 + 4, 8);
}

/* Ports that would end the VM, garble what we print, or belong to another attack. */
static bool port_spared(unsigned port, unsigned bytes)
{
	static const struct {
		uint16_t first, last;
		bool fatal;
	} spared[] = {
		{ 0x60, 0x64, true },                             /* keyboard controller reset */
		{ 0x92, 0x92, true },                             /* fast reset */
		{ 0x3f8, 0x3f8, false }, { 0xcf8, 0xcff, false }, /* PCI: also 0xcf9 reset */
		{ 0x501, 0x501, true },                           /* debug exits */
		{ 0x600, 0x600, true },
	};
	for (unsigned i = 0; i < ARRAY_LEN(spared); i++)
		if (port <= spared[i].last && port + bytes > spared[i].first)
			return !(spared[i].fatal && option_number("fatal", 0));
	return false;
}

static void port_attack(unsigned port)
{
	unsigned bytes = width(4);
	if (port + bytes > 0x10000 || port_spared(port, bytes))
		return;
	bool read = rnd(2);
	uint32_t value = (uint32_t)wild();
	switch (bytes) {
	case 1:
		read ? (void)inb((uint16_t)port) : outb((uint16_t)port, (uint8_t)value);
		break;
	case 2:
		read ? (void)inw((uint16_t)port) : outw((uint16_t)port, (uint16_t)value);
		break;
	default:
		read ? (void)inl((uint16_t)port) : outl((uint16_t)port, value);
	}
}

static void ports_attack(uint64_t round)
{
	static const uint16_t known[] = { 0x40,  0x61,  0x70,  0x80, 0x3f8,  0x402,
					  0x510, 0x604, 0x608, 0xe9, 0xae00, 0xb000 };
	if (round == 1)
		for (unsigned port = 0; port < 0x10000; port++)
			port_attack(port);
	for (unsigned i = 0; i < 2000; i++)
		port_attack((unsigned)(known[rnd(ARRAY_LEN(known))] + rnd(16)));
	serial_repair();
	/* The address port with odd widths, and data ports under any address. */
	for (unsigned i = 0; i < 500; i++) {
		uint32_t address = rnd(2) ? (uint32_t)wild() : 1u << 31 | (uint32_t)(rnd(32) << 11 | rnd(256));
		outl(0xcf8, address);
		unsigned at = 0xcfc + (unsigned)rnd(4);
		(void)inb((uint16_t)at);
		(void)inl(0xcfc);
		if ((address >> 31) == 0)
			outl(0xcfc, (uint32_t)wild());
		outb(0xcf8, (uint8_t)wild());
		outw(0xcfa, (uint16_t)(wild() & 0x7fff));
	}
}

/* The first 256 bytes of every function, then put back. */
static void config_attack(void)
{
	static uint32_t saved[64];
	for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
		if (pci_read(slot, 0, 4) == ~0u) {
			write32(pci_ecam(slot, (unsigned)rnd(1024) * 4), (uint32_t)wild());
			pci_write(slot, (unsigned)rnd(256), (uint32_t)wild(), 4);
			continue;
		}
		for (unsigned i = 0; i < 64; i++)
			saved[i] = pci_read(slot, i * 4, 4);
		for (unsigned i = 0; i < 300; i++) {
			unsigned bytes = width(4), at = (unsigned)rnd(256) & ~(bytes - 1);
			if (at >= 0x10 && at < 0x28 && !option_number("bar", 0))
				continue;
			if (rnd(2))
				pci_write(slot, at, (uint32_t)wild(), bytes);
			else
				mmio_write(pci_ecam(slot, at), wild(), bytes);
			if (rnd(4) == 0)
				(void)mmio_read(pci_ecam(slot, (unsigned)rnd(4096)), 1);
		}
		for (unsigned i = 0; i < 64; i++)
			if (i != 1)
				pci_write(slot, i * 4, saved[i], 4);
		pci_write(slot, 4, saved[1] & 0xffff, 2);
	}
}

static void bar_attack(struct virtio *v)
{
	for (unsigned at = 0; at < 0x80; at++) { /* common configuration and a little beyond */
		unsigned bytes = width(8);
		if (rnd(3) == 0)
			(void)mmio_read(v->common + at, bytes);
		else
			mmio_write(v->common + at, wild(), bytes);
	}
	for (unsigned i = 0; i < 500; i++) {
		unsigned bytes = width(8);
		uintptr_t at = v->bar + rnd(v->bar_bytes - 8);
		if (v->config && rnd(4) == 0)
			at = v->config + rnd(256);
		if (v->notify && rnd(8) == 0)
			at = v->notify + rnd(PAGE);
		bool msix = at + bytes > v->msix && at < v->msix + 16ul * v->n_vectors;
		if (rnd(2) || msix)
			(void)mmio_read(at, bytes);
		else
			mmio_write(at, wild(), bytes);
	}
	/* MSI-X entries, but no INIT, NMI, SMI or STARTUP: those would end or restart this CPU. */
	for (unsigned i = 0; v->msix && i < 64; i++) {
		uintptr_t entry = v->msix + rnd(v->n_vectors) * 16;
		write32(entry, (uint32_t)wild());
		write32(entry + 4, (uint32_t)wild());
		write32(entry + 8, (uint32_t)wild() & ~0x600u);
		write32(entry + 12, (uint32_t)wild());
	}
	for (unsigned i = 0; v->msix && i < v->n_vectors; i++)
		write32(v->msix + i * 16ul + 12, 1);
}

static void ioapic_attack(void)
{
	for (unsigned i = 0; i < 300; i++) {
		uint32_t reg = (uint32_t)(rnd(2) ? rnd(64) : wild()), value = (uint32_t)wild();
		write32(IOAPIC, reg);
		if ((uint8_t)reg >= 0x10)
			value &= ~0x600u; /* delivery mode fixed or lowest priority */
		if (rnd(4))
			write32(IOAPIC + 0x10, value);
		(void)read32(IOAPIC + 0x10);
		mmio_write(IOAPIC + 0x20 + rnd(0xf00), wild(), width(8));
		(void)mmio_read(IOAPIC + rnd(0xff8), width(8));
	}
	for (uint32_t reg = 0x10; reg < 0x40; reg += 2) {
		write32(IOAPIC, reg);
		write32(IOAPIC + 0x10, 0x10000);
	}
}

/*
 * An address for the device: in the sandbox, or where nothing good is. Never in the guest's own
 * image.
 */
static uint64_t address(void)
{
	switch (rnd(10)) {
	case 0:
		return ram_end + (rnd(3) - 1) * 8;
	case 1:
		return 0xc0000000 + rnd(0x20000000); /* the hole */
	case 2:
		return 0xfee00000 + rnd(4096); /* LAPIC */
	case 3:
		return devs[rnd(n_devs)].bar + rnd(0x8000);
	case 4:
		return ~0ul - rnd(64); /* wraps */
	case 5:
		return 0xe8000000 + rnd(0x100000); /* ECAM */
	case 6:
		return wild() | 1ul << 40;
	default:
		return (uint64_t)sandbox + SANDBOX / 2 + rnd(SANDBOX / 2);
	}
}

static uint32_t length(void)
{
	static const uint32_t edges[] = { 0,   1,    7,     8,          12,         16,         511,
					  512, 4096, 65536, 0x7fffffff, 0x80000000, 0xfffffff0, ~0u };
	return rnd(2) ? edges[rnd(ARRAY_LEN(edges))] : (uint32_t)rnd(8192);
}

struct rings {
	volatile struct desc *desc;
	volatile uint16_t *avail, *used;
	uint16_t size;
};

/* A request the device would accept, for one thing to be wrong with at a time. */
static void plausible(struct virtio *v, struct rings *r, uint16_t queue)
{
	uint8_t *data = sandbox + SANDBOX / 2;
	struct desc d[3] = {
		{ (uint64_t)data, 16, DESC_NEXT, 1 },
		{ (uint64_t)data + 4096, 4096, DESC_NEXT, 2 },
		{ (uint64_t)data + 16384, 1, DESC_WRITE, 0 },
	};
	if (v->type == VIRTIO_BLK) {
		static const uint32_t types[] = { 0, 1, 4, 8, 11, 13, 2, 77 };
		((uint32_t *)data)[0] = types[rnd(ARRAY_LEN(types))];
		((uint32_t *)data)[1] = 0;
		((uint64_t *)data)[1] = rnd(4) ? rnd(64) : wild();
		for (unsigned i = 0; i < 2; i++)
			((uint64_t *)(data + 4096))[i] = wild();
		d[1].flags |= rnd(2) ? DESC_WRITE : 0;
	} else if (v->type == VIRTIO_NET && queue % 2 == 0) {
		d[0].flags |= DESC_WRITE;
		d[1].flags |= DESC_WRITE;
	} else if (v->type == VIRTIO_NET) {
		for (unsigned i = 0; i < 64; i++)
			data[i] = (uint8_t)rnd(rnd(2) ? 6 : 256);
	} else if (v->type == VIRTIO_RNG || (v->type == VIRTIO_CONSOLE && queue == 0)) {
		d[0].flags |= DESC_WRITE;
		d[1].flags |= DESC_WRITE;
	}
	for (unsigned i = 0; i < 3; i++) {
		r->desc[i].addr = d[i].addr;
		r->desc[i].len = d[i].len;
		r->desc[i].flags = d[i].flags;
		r->desc[i].next = d[i].next;
	}
	for (unsigned i = 0; i < r->size; i++)
		r->avail[2 + i] = 0;
	r->avail[1] = 1;
}

static void fill_random(struct rings *r)
{
	for (unsigned i = 0; i < r->size; i++) {
		r->desc[i].addr = address();
		r->desc[i].len = length();
		r->desc[i].flags = (uint16_t)(rnd(16) ? rnd(8) : wild());
		r->desc[i].next = (uint16_t)(rnd(8) ? rnd(r->size) : wild());
		r->avail[2 + i] = (uint16_t)(rnd(8) ? rnd(r->size) : wild());
	}
	r->avail[0] = (uint16_t)rnd(4);
	r->avail[1] = (uint16_t)(rnd(2) ? rnd(r->size) : wild());
}

static void indirect_table(struct rings *r)
{
	volatile struct desc *table = (volatile void *)(sandbox + SANDBOX - 65536);
	unsigned n = 1 + (unsigned)rnd(512);
	for (unsigned i = 0; i < n; i++) {
		table[i].addr = rnd(2) ? address() : (uint64_t)sandbox + SANDBOX / 2 + rnd(4096);
		table[i].len = length();
		table[i].flags = (uint16_t)(DESC_NEXT | (rnd(2) ? DESC_WRITE : 0) | (rnd(4) ? 0 : DESC_INDIRECT));
		table[i].next = (uint16_t)(rnd(4) ? i + 1 : wild());
	}
	unsigned i = (unsigned)rnd(3);
	r->desc[i].addr = rnd(4) ? (uint64_t)table : address();
	r->desc[i].len = rnd(2) ? n * 16 : length();
	r->desc[i].flags = (uint16_t)(DESC_INDIRECT | rnd(4));
}

static const char *const attack_names[] = {
	"queue size",     "ring addresses", "avail index", "descriptor loop", "next out of range",
	"buffer address", "buffer length",  "flags",       "indirect",        "head out of range",
	"no descriptor",  "random ring",    "features",    "ring overlap",    "no reset",
};

/* Makes one queue wrong in one way. */
static void spoil(struct rings *r, unsigned attack)
{
	unsigned i = (unsigned)rnd(3);
	switch (attack) {
	case 2:
		r->avail[1] = (uint16_t)(rnd(2) ? r->size + 1 + rnd(100) : wild());
		break;
	case 3:
		r->desc[2].flags |= DESC_NEXT;
		r->desc[2].next = (uint16_t)rnd(3);
		break;
	case 4:
		r->desc[i].flags |= DESC_NEXT;
		r->desc[i].next = (uint16_t)(rnd(2) ? r->size : wild() | 0x8000);
		break;
	case 5:
		r->desc[i].addr = address();
		break;
	case 6:
		r->desc[i].len = length();
		break;
	case 7:
		for (i = 0; i < 3; i++)
			r->desc[i].flags = (uint16_t)((i < 2) | (rnd(2) ? DESC_WRITE : 0) | (rnd(8) ? 0 : wild()));
		break;
	case 8:
		indirect_table(r);
		break;
	case 9:
		r->avail[2] = (uint16_t)(rnd(2) ? r->size : wild() | 0x8000);
		break;
	case 10:
		r->desc[0].flags = 0;
		r->desc[0].len = rnd(2) ? 0 : 1;
		break;
	case 11:
		fill_random(r);
		break;
	}
}

static uint16_t bad_size(uint16_t max)
{
	const uint16_t sizes[] = { 0, 3, 7, (uint16_t)(max + 1), (uint16_t)(max * 2), 0x7fff, 0x8000, 0xffff, 1 };
	return sizes[rnd(ARRAY_LEN(sizes))];
}

static void queue_attack(struct virtio *v, uint16_t queue, uint16_t max, unsigned attack)
{
	struct rings r = {
		.desc = (void *)sandbox,
		.avail = (void *)(sandbox + 0x80000),
		.used = (void *)(sandbox + 0x100000),
		.size = max,
	};
	uint64_t desc = (uint64_t)r.desc, avail = (uint64_t)r.avail, used = (uint64_t)r.used;
	uint16_t size = max;
	memset((void *)r.desc, 0, max * 16ul);
	memset((void *)r.avail, 0, 6 + 2ul * max);
	memset((void *)r.used, 0, 6 + 8ul * max);
	plausible(v, &r, queue);
	spoil(&r, attack);
	if (attack == 0)
		size = bad_size(max);
	if (attack == 1) {
		uint64_t *which[] = { &desc, &avail, &used };
		*which[rnd(3)] = address() & ~(rnd(2) ? 15ul : 0ul);
	}
	if (attack == 13) {
		avail = desc + rnd(3) * 2;
		used = rnd(2) ? desc : avail;
	}
	virtio_queue_setup(v, queue, size, desc, avail, used);
	if (attack != 0 || rnd(4))
		virtio_queue_enable(v, queue);
}

static void linger(unsigned us)
{
	uint64_t start = rdtsc(), cycles = ns_to_cycles(us * 1000ul);
	while (rdtsc() - start < cycles)
		relax();
}

static void device_attack(struct virtio *v, unsigned attack)
{
	if (verbose)
		print("attack %s: %s, state %lx\n", virtio_name(v->type), attack_names[attack], state);
	virtio_acknowledge(v);
	uint64_t offered = virtio_offered(v);
	uint64_t features = attack == 12 ? wild() : rnd(2) ? offered : (offered & random64(&state)) | F_VERSION_1;
	virtio_accept(v, features);
	virtio_set_status(v, 0xb);
	if (!(virtio_status(v) & 8))
		n_refused++;
	uint16_t n_queues = (uint16_t)(v->mmio ? 3 : read16(v->common + 18)), target = (uint16_t)rnd(MAX(n_queues, 1));
	for (uint16_t q = 0; q < n_queues && q < 16; q++) {
		uint16_t max = virtio_queue_max(v, q);
		if (max && max <= 4096) /* a bad one, and good ones that share its memory */
			queue_attack(v, q, max, q == target || rnd(4) == 0 ? attack : 99);
	}
	virtio_set_status(v, 0xf);
	for (unsigned kick = 0; kick < 2; kick++) {
		virtio_notify(v, target);
		if (rnd(8) == 0)
			mmio_write(v->mmio ? v->common + 0x50 : v->notify + rnd(PAGE), wild(), v->mmio ? 4 : 2);
		linger(100);
		volatile uint16_t *avail = (void *)(sandbox + 0x80000);
		if (rnd(2))
			avail[1] = (uint16_t)(avail[1] + (rnd(2) ? 1 : wild()));
	}
	if (virtio_status(v) & STATUS_NEEDS_RESET)
		n_needs_reset++;
	if (attack == 14) /* set up again while it runs */
		for (unsigned i = 0; i < 20; i++) {
			virtio_queue_setup(v, target, (uint16_t)wild(), address(), address(), address());
			virtio_set_status(v, (uint8_t)(wild() | 4));
			virtio_notify(v, target);
		}
	n_attacks++;
	virtio_reset(v);
}

/* A reset must disable all queues. */
static void count_sticky(struct virtio *v)
{
	for (uint16_t i = 0; !v->mmio && i < QUEUES_MAX && virtio_queue_max(v, i); i++)
		n_sticky += read16(v->common + 28) != 0;
}

/* One good request after all that; which one depends on the device. */
static void works_check(struct virtio *v)
{
	static struct virtq queues[QUEUES_MAX];
	static struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header = { .type = 8 };
	static uint8_t data[64], status;
	const struct seg blk[] = { { &header, 16, false }, { data, 20, true }, { &status, 1, true } };
	const struct seg rng[] = { { data, 64, true } };
	const struct seg send[] = { { data, 12 + 42, false } };
	const struct seg write[] = { { data, 1, false } };
	bool second = v->type == VIRTIO_NET || v->type == VIRTIO_CONSOLE; /* queue 1 is the one that sends */
	if ((v->type > VIRTIO_RNG || v->type < VIRTIO_NET) || !option_number("check", 1))
		return;
	count_sticky(v);
	virtio_begin(v, 0);
	memset(data, v->type == VIRTIO_CONSOLE ? '.' : 0, sizeof(data));
	status = 0xff;
	for (uint16_t i = 0; i < QUEUES_MAX && virtio_queue_max(v, i); i++) /* all: what was enabled may be so still */
		virtq_init(&queues[i], v, i, QUEUE_MAX, 0, 0);
	struct virtq *q = &queues[second];
	virtio_go(v);
	if (v->type == VIRTIO_BLK)
		virtq_add(q, blk, 3, false, data);
	else
		virtq_add(q, v->type == VIRTIO_RNG ? rng : v->type == VIRTIO_NET ? send : write, 1, false, data);
	virtq_kick(q);
	virtq_wait(q, "works after reset");
	uint32_t len;
	virtq_take(q, &len);
	if (v->type == VIRTIO_BLK && status != 0)
		fail("blk: status %u after the attacks", status);
	virtio_reset(v);
}

/* Ejects whatever comes, now and then what it has itself. */
static void hotplug_attack(void)
{
	uintptr_t block = option_number("hotplug", 0);
	uint32_t own = 0;
	for (unsigned i = 0; i < n_devs; i++)
		own |= option_number("throw", 0) && rnd(100) == 0 ? 0 : 1u << devs[i].slot;
	for (unsigned i = 0; i < 300 && block; i++) {
		unsigned bytes = width(8), at = (unsigned)rnd(16 - bytes + 1);
		(void)mmio_read(block + at, bytes);
		at = (unsigned)rnd(16 - bytes + 1);
		if (at != 8 || bytes != 4)
			mmio_write(block + at, wild(), bytes);
		if (rnd(10) == 0)
			write32(block + 8, (uint32_t)wild() & ~own);
		n_attacks += 3;
	}
}

static void round_run(uint64_t round)
{
	static bool mapped;
	if (!mapped && option_number("hotplug", 0))
		map_range(option_number("hotplug", 0), PAGE);
	mapped = true;
	hotplug_attack();
	if (listed("what", "ports"))
		ports_attack(round);
	if (listed("what", "config"))
		config_attack();
	if (listed("what", "ioapic"))
		ioapic_attack();
	for (unsigned i = 0; i < n_devs; i++) {
		struct virtio *v = &devs[i];
		if (!listed("dev", virtio_name(v->type)) || pci_read(v->slot, 0, 2) != 0x1af4)
			continue;
		virtio_reset(v);
		if (listed("what", "bars")) {
			bar_attack(v);
			virtio_reset(v);
		}
		for (unsigned attack = 0; attack < ARRAY_LEN(attack_names) && listed("what", "queues"); attack++)
			device_attack(v, attack);
		works_check(v);
	}
}

void guest_main(void)
{
	state = option_number("seed", 1);
	verbose = option_number("verbose", 0);
	uint64_t rounds = option_number("rounds", 10);
	for (unsigned i = 0; i < n_ram; i++)
		ram_end = MAX(ram_end, ram[i].start + ram[i].bytes);
	sandbox = ram_alloc(SANDBOX, PAGE);
	n_devs = virtio_scan(devs, DEVS_MAX);
	print("hostile: %u devices, seed %lu\n", n_devs, state);
	for (uint64_t round = 1; rounds == 0 || round <= rounds; round++) {
		round_run(round);
		print("round %lu ok: %lu attacks, %lu needs-reset, ", round, n_attacks, n_needs_reset);
		print("%lu features refused, %lu sticky queues\n", n_refused, n_sticky);
	}
	print("hostile done\n");
}
