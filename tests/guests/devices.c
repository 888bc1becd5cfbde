/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Test guest that drives virtio blk, net, rng, console, balloon and vsock and checks every byte of them, and of its
 * memory, each round.
 *
 * Options:
 *   dev=blk,net,rng,console,balloon,vsock (default all found)  mode=poll|irq  cpus=1  event=1  indirect=1
 *   rounds=3 (0: endless)  batches=64 (per device and round)  pause=0 (ms between rounds)  seed=1
 *   mem=0 (MiB of pattern)  sectors=4096 (tested per CPU)  split=sectors|odd|none
 *   ged=0 (ACPI's event register: tells of the power button, with mode=irq)  vmgenid=0 (1: tells of generation ids)
 *   hotplug=0 (ACPI's PCI hot-plug registers: drives what comes)  eject=1 (and lets go of what is to go)
 *   throw=0 (slots, as bits, to eject although nobody asks)
 *   balloon=4 (MiB of pages that it may give away)  strict=0 (1: they come back as zeros)
 *   streams=0 (vsock streams to the host's port 2000)  vsock_bytes=200000 (up to that many each)
 *   bad=1 (send out of range requests)  echo=0 (console bytes to echo before the end)
 *   flood=0 (MiB: nothing but console output, in chains of 64 times that much RAM, for ever)
 *   speed=1 secs=1 frame=64 (figures instead of rounds; of a disk: only=8 (all) count=0 kib=4)  ecam=0 (not where Cloud Hypervisor has it: not compared)
 *   end=poweroff|reset|acpi-reset|halt  onfail=end (end the VM on FAIL too)
 *   virtio_mmio.device=4K@0xADDRESS:IRQ (those instead of PCI, polled)
 * Output: "round N ok" per round, then "PASS"; or "FAIL what: expected, got".
 */
#include "devices.h"
#include "pci.h"

struct plan plan;
static struct virtio devs[DEVS_MAX];
static struct blk *blk[DEVS_MAX];
static struct net *net[DEVS_MAX];
static unsigned n_devs;
static uint64_t *pattern;
static uint64_t n_pages;
static uint32_t *page_generation;
static volatile uint64_t round_begun, round_done[MAX_CPUS];

unsigned plan_vector(void)
{
	return plan.irq ? vector_alloc() : 0;
}

uint32_t median(uint32_t *v, unsigned n)
{
	if (n == 0)
		return 0;
	for (unsigned gap = n / 2; gap > 0; gap /= 2) {
		for (unsigned i = gap; i < n; i++) {
			uint32_t x = v[i];
			unsigned j = i;
			for (; j >= gap && v[j - gap] > x; j -= gap)
				v[j] = v[j - gap];
			v[j] = x;
		}
	}
	return v[n / 2];
}

static uint64_t page_word(uint64_t page, unsigned word)
{
	return mix64(page << 32 ^ page_generation[page]) + word * 0x9e3779b97f4a7c15;
}

static void page_fill(uint64_t page)
{
	uint64_t base = page_word(page, 0);
	for (unsigned w = 0; w < 512; w++)
		pattern[page * 512 + w] = base + w * 0x9e3779b97f4a7c15;
}

static void memory_open(void)
{
	n_pages = option_number("mem", 0) * MIB / PAGE;
	if (n_pages == 0)
		return;
	if (n_pages * (PAGE + 4) + 2 * PAGE > ram_left())
		fail("mem: only %lu bytes of RAM are left", ram_left());
	page_generation = ram_alloc(n_pages * 4, 64);
	pattern = ram_alloc(n_pages * PAGE, PAGE);
	for (uint64_t page = 0; page < n_pages; page++)
		page_fill(page);
	print("mem: %lu pages\n", n_pages);
}

static void memory_round(unsigned cpu, uint64_t *random)
{
	for (uint64_t page = cpu; page < n_pages; page += plan.n_cpus) {
		uint64_t expect = page_word(page, 0);
		for (unsigned w = 0; w < 512; w++, expect += 0x9e3779b97f4a7c15)
			if (pattern[page * 512 + w] != expect)
				fail("mem page %lu word %u at %lx: expected %lx, got %lx", page, w,
				     (uint64_t)&pattern[page * 512 + w], expect, pattern[page * 512 + w]);
		if (random64(random) % 16 == 0) {
			page_generation[page]++;
			page_fill(page);
		}
	}
}

static bool wanted(uint16_t type)
{
	const char *list = option("dev"), *name = virtio_name(type);
	if (!list)
		return true;
	for (size_t n = strlen(name); *list && *list != ' '; list++)
		if (memcmp(list, name, n) == 0)
			return true;
	return false;
}

static void device_open(unsigned i)
{
	struct virtio *v = &devs[i];
	virtio_acknowledge(v);
	print("found %s slot %u bar %lx vectors %u offers %lx\n", virtio_name(v->type), v->slot, v->bar, v->n_vectors,
	      virtio_offered(v));
	if (!wanted(v->type))
		return;
	if (v->type == VIRTIO_BLK)
		blk[i] = blk_open(v);
	else if (v->type == VIRTIO_NET)
		net[i] = net_open(v);
	else if (v->type == VIRTIO_RNG)
		rng_open(v);
	else if (v->type == VIRTIO_VSOCK)
		vsock_open(v);
	else if (v->type == VIRTIO_CONSOLE)
		console_open(v);
	else if (v->type == VIRTIO_BALLOON)
		balloon_open(v);
}

static void devices_open(void)
{
	n_devs = virtio_scan(devs, DEVS_MAX);
	for (unsigned i = 0; i < n_devs; i++)
		device_open(i);
}

void device_came(unsigned slot)
{
	unsigned i = 0;
	while (i < n_devs && devs[i].type)
		i++;
	if (i == DEVS_MAX)
		fail("slot %u: more than %u devices", slot, DEVS_MAX);
	if (!virtio_find(&devs[i], slot))
		fail("slot %u: expected a new device, got id %x", slot, pci_read(slot, 0, 4));
	n_devs = MAX(n_devs, i + 1);
	device_open(i);
}

void device_goes(unsigned slot)
{
	unsigned i = 0;
	while (i < n_devs && !(devs[i].type && devs[i].slot == slot))
		i++;
	if (i == n_devs)
		fail("slot %u is to go: nothing is there", slot);
	if (blk[i])
		blk_close(blk[i]);
	else if (net[i])
		net_close(net[i]);
	else if (devs[i].type == VIRTIO_VSOCK)
		vsock_close();
	else
		virtio_reset(&devs[i]);
	blk[i] = NULL;
	net[i] = NULL;
	devs[i].type = 0;
}

static void run_round(unsigned cpu, uint64_t *random)
{
	memory_round(cpu, random);
	for (unsigned i = 0; i < n_devs; i++) {
		unsigned at = (i + cpu) % n_devs; /* CPUs meet on a device now and then */
		if (blk[at])
			blk_round(blk[at], cpu, random);
		if (net[at])
			net_round(net[at], cpu, random);
	}
	rng_round(cpu);
	vsock_round(cpu, random);
	balloon_round(cpu, random);
	button_round(cpu);
	vmgenid_round(cpu);
	if (cpu == 0)
		console_echo();
}

static void other_cpu(unsigned cpu, void *arg)
{
	(void)arg;
	uint64_t random = option_number("seed", 1) + cpu;
	if (plan.irq)
		timer_start(cpu, 10);
	for (uint64_t round = 1;; round++) {
		while (round_begun < round)
			relax();
		run_round(cpu, &random);
		round_done[cpu] = round;
	}
}

static void speed(void)
{
	for (unsigned i = 0; i < n_devs; i++) {
		if (blk[i])
			blk_speed(blk[i]);
		if (net[i])
			net_speed(net[i]);
	}
}

static void timer_check(void)
{
	timer_start(0, 10);
	struct stopwatch w;
	stopwatch_start(&w);
	while (irq_count[TIMER_VECTOR] < 2)
		if (stopwatch_ms(&w) > 5000)
			fail("timer: no interrupt in 5 s");
}

static void rounds(void)
{
	uint64_t n = option_number("rounds", 3), pause_ms = option_number("pause", 0),
		 random = option_number("seed", 1);
	for (uint64_t round = 1; n == 0 || round <= n; round++) {
		round_begun = round;
		run_round(0, &random);
		for (unsigned cpu = 1; cpu < plan.n_cpus; cpu++)
			while (round_done[cpu] < round)
				relax();
		hotplug_round();
		print("round %lu ok\n", round);
		struct stopwatch w;
		stopwatch_start(&w);
		while (stopwatch_ms(&w) < pause_ms) {
			console_echo();
			vsock_serve();
			relax();
		}
	}
}

void guest_main(void)
{
	plan = (struct plan){
		.n_cpus = (unsigned)MIN(MAX(option_number("cpus", 1), 1ul), (unsigned long)MAX_CPUS),
		.irq = option_is("mode", "irq"),
		.batches = (unsigned)option_number("batches", 64),
	};
	print("devices: cpus %u, mode %s, %lu MHz\n", plan.n_cpus, plan.irq ? "irq" : "poll",
	      ns_to_cycles(1000000) / 1000);
	if (plan.irq)
		timer_check();
	if (!option("virtio_mmio.device") && option_number("ecam", 1))
		pci_check();
	devices_open();
	button_open();
	vmgenid_open();
	hotplug_open();
	memory_open();
	if (option_number("speed", 0)) {
		speed();
		print("PASS\n");
		return;
	}
	for (unsigned cpu = 1; cpu < plan.n_cpus; cpu++)
		if (!cpu_start(cpu, other_cpu, NULL))
			fail("cpu %u does not start", cpu);
	rounds();
	console_wait(option_number("echo", 0));
	print("PASS\n");
}
