/* SPDX-License-Identifier: Apache-2.0 */
/* virtio-console test: writes text, and echoes what the host types. */
#include "devices.h"

#define BUFFERS 8
#define BYTES 256

static struct virtio *console;
static struct virtq rx, tx;
static uint8_t in[BUFFERS][BYTES], out[BYTES];
static uint64_t n_echoed;

static void give(uint8_t *buffer)
{
	const struct seg seg = { buffer, BYTES, true };
	virtq_add(&rx, &seg, 1, false, buffer);
}

/* One chain of SEGS_MAX times `mib` MiB of RAM, again and again. */
static void flood(uint64_t mib)
{
	static struct seg segs[SEGS_MAX];
	uint32_t len;
	for (unsigned i = 0; i < SEGS_MAX; i++)
		segs[i] = (struct seg){ (void *)(16 * MIB), (uint32_t)(mib * MIB), false };
	for (;;) {
		virtq_add(&tx, segs, SEGS_MAX, false, out);
		virtq_kick(&tx);
		print("kicked\n");
		while (!virtq_take(&tx, &len))
			relax();
		print("flooded\n");
	}
}

void console_open(struct virtio *v)
{
	console = v;
	virtio_begin(v, F_EVENT_IDX | F_INDIRECT);
	virtq_init(&rx, v, 0, QUEUE_MAX, plan_vector(), 0);
	virtq_init(&tx, v, 1, QUEUE_MAX, plan_vector(), 0);
	virtio_go(v);
	for (unsigned i = 0; i < BUFFERS; i++)
		give(in[i]);
	virtq_kick(&rx);
	static const char hello[] = "console ready\n";
	console_write(hello, sizeof(hello) - 1);
	print("console: queues of %u, features %lx\n", rx.size, v->features);
	if (option_number("flood", 0))
		flood(option_number("flood", 0));
}

void console_write(const char *text, size_t bytes)
{
	uint32_t len;
	memcpy(out, text, bytes);
	const struct seg segs[] = { { out, 1, false }, { out + 1, (uint32_t)bytes - 1, false } };
	virtq_add(&tx, segs, bytes > 1 ? 2 : 1, false, out);
	virtq_kick(&tx);
	virtq_wait(&tx, "console");
	virtq_take(&tx, &len);
}

void console_echo(void)
{
	uint32_t len;
	if (!console)
		return;
	for (uint8_t *b; (b = virtq_take(&rx, &len));) {
		if (len == 0)
			fail("console: an empty buffer came");
		console_write((const char *)b, len);
		n_echoed += len;
		give(b);
		virtq_kick(&rx);
	}
}

void console_wait(uint64_t bytes)
{
	while (console && n_echoed < bytes) {
		virtq_wait(&rx, "console echo");
		console_echo();
	}
}
