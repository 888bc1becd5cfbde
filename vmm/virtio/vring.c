// SPDX-License-Identifier: Apache-2.0
/* The split virtqueue: the one walker of descriptor chains and the rules of notification. */
#include "vmm/virtio/vring.h"

#include <errno.h>
#include <string.h>

/* The rings of virtio 1.2, 2.7.5 to 2.7.8. The structs of linux/virtio_ring.h need macros. */
struct vring_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};
struct vring_avail {
	uint16_t flags, idx, ring[];
};
struct vring_used_elem {
	uint32_t id, len;
};
struct vring_used {
	uint16_t flags, idx;
	struct vring_used_elem ring[];
};

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, AVAIL_NO_INTERRUPT = 1 };
enum { FEATURE_INDIRECT = 28, FEATURE_EVENT_IDX = 29 };

const struct field vring_fields[] = {
	F(struct vring_state, max_size, .flags = F_REQUIRED | F_POW2, .min = 1, .max = VRING_SIZE_MAX),
	F(struct vring_state, size, .flags = F_REQUIRED | F_POW2, .min = 0, .max = VRING_SIZE_MAX),
	F(struct vring_state, ready, .flags = F_REQUIRED),
	F(struct vring_state, desc_table, .flags = F_REQUIRED),
	F(struct vring_state, avail_ring, .flags = F_REQUIRED),
	F(struct vring_state, used_ring, .flags = F_REQUIRED),
	F_END,
};

#define guest_load(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)

int vring_activate(struct vring *q, const struct gmem *mem, uint64_t features)
{
	const struct vring_state *s = &q->s;
	uint64_t size = s->size;

	if (size == 0 || (size & (size - 1)) || size > s->max_size)
		return -EPROTO;
	if (s->desc_table % 16 || s->avail_ring % 2 || s->used_ring % 4)
		return -EPROTO;
	const void *desc = gmem_ptr(mem, s->desc_table, size * sizeof(struct vring_desc));
	const void *avail = gmem_ptr(mem, s->avail_ring, 6 + 2 * size);
	void *used = gmem_ptr(mem, s->used_ring, 6 + sizeof(struct vring_used_elem) * size);
	if (!desc || !avail || !used)
		return -EPROTO;
	free(q->iov);
	q->iov = malloc((size + 1) * sizeof(*q->iov));
	if (!q->iov)
		return -ENOMEM;
	q->desc = desc;
	q->avail = avail;
	q->used = used;
	q->next_avail = q->next_used = guest_load(&q->used->idx);
	q->has_signalled = false;
	q->event_idx = features >> FEATURE_EVENT_IDX & 1;
	q->indirect = features >> FEATURE_INDIRECT & 1;
	return 0;
}

void vring_deactivate(struct vring *q)
{
	free(q->iov);
	q->iov = NULL;
	q->desc = NULL;
	q->avail = NULL;
	q->used = NULL;
}

/*
 * Adds one buffer to the chain. Segments to fill come after segments to read (2.7.4.2). No chain is
 * longer than the queue.
 */
static int chain_add(const struct vring *q, const struct gmem *mem, const struct vring_desc *d, struct chain *c)
{
	bool fill = d->flags & DESC_WRITE;

	if (!fill && c->n_write)
		return -EPROTO;
	if (c->n_read + c->n_write >= q->s.size)
		return -EPROTO;
	void *hva = gmem_ptr(mem, d->addr, d->len);
	if (!hva)
		return -EPROTO;
	c->iov[c->n_read + c->n_write] = (struct iovec){ .iov_base = hva, .iov_len = d->len };
	if (fill)
		c->n_write++;
	else
		c->n_read++;
	return 0;
}

/* Walks a table of `n` descriptors from `index`; a loop ends at the chain's bound. */
static int chain_walk(const struct vring *q, const struct gmem *mem, const void *table, uint32_t n, uint32_t index,
		      bool nested, struct chain *c)
{
	for (uint32_t steps = 0;; steps++) {
		if (index >= n || steps >= n)
			return -EPROTO;
		struct vring_desc d; /* one copy: the guest may change the descriptor meanwhile */
		memcpy(&d, (const char *)table + (size_t)index * sizeof(d), sizeof(d));
		if (d.flags & DESC_INDIRECT) {
			if (nested || !q->indirect || (d.flags & DESC_NEXT) || d.len == 0 || d.len % sizeof(d))
				return -EPROTO;
			const void *inner = gmem_ptr(mem, d.addr, d.len);
			if (!inner || d.len / sizeof(d) > VRING_SIZE_MAX)
				return -EPROTO;
			return chain_walk(q, mem, inner, d.len / sizeof(d), 0, true, c);
		}
		int r = chain_add(q, mem, &d, c);
		if (r < 0)
			return r;
		if (!(d.flags & DESC_NEXT))
			return 0;
		index = d.next;
	}
}

int vring_pop(struct vring *q, const struct gmem *mem, struct chain *ret_chain)
{
	if (!q->desc)
		return 0;
	uint16_t pending = (uint16_t)(guest_load(&q->avail->idx) - q->next_avail);
	if (pending == 0)
		return 0;
	if (pending > q->s.size)
		return -EPROTO;
	uint16_t head = guest_load(&q->avail->ring[q->next_avail & (q->s.size - 1)]);
	struct chain c = { .iov = q->iov, .head = head };
	int r = chain_walk(q, mem, q->desc, q->s.size, head, false, &c);
	if (r < 0)
		return r;
	q->next_avail++;
	*ret_chain = c;
	return 1;
}

void vring_unpop(struct vring *q)
{
	q->next_avail--;
}

void vring_push(struct vring *q, uint16_t head, uint32_t written)
{
	q->used->ring[q->next_used & (q->s.size - 1)] = (struct vring_used_elem){ .id = head, .len = written };
	q->next_used++;
	__atomic_store_n(&q->used->idx, q->next_used, __ATOMIC_RELEASE);
}

/* avail_event lies behind the used ring. */
static void ask_from(struct vring *q, uint16_t idx)
{
	uint16_t *avail_event = (uint16_t *)(void *)&q->used->ring[q->s.size];

	if (q->event_idx)
		__atomic_store_n(avail_event, idx, __ATOMIC_RELEASE);
}

void vring_ask_for_next(struct vring *q)
{
	if (q->desc)
		ask_from(q, guest_load(&q->avail->idx));
}

bool vring_rearm(struct vring *q)
{
	if (!q->desc)
		return false;
	if (!q->polled)
		ask_from(q, q->next_avail);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return guest_load(&q->avail->idx) != q->next_avail;
}

bool vring_needs_interrupt(struct vring *q)
{
	if (!q->desc)
		return false;
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!q->event_idx)
		return !(guest_load(&q->avail->flags) & AVAIL_NO_INTERRUPT);
	uint16_t old = q->signalled_used, new = q->next_used;
	bool had = q->has_signalled;
	if (had && old == new)
		return false;
	uint16_t used_event = guest_load(&q->avail->ring[q->s.size]); /* used_event lies behind the avail ring */
	q->signalled_used = new;
	q->has_signalled = true;
	return !had || (uint16_t)(new - used_event - 1) < (uint16_t)(new - old);
}

bool vring_is_pipelined(const struct vring *q)
{
	if (!q->desc)
		return false;
	uint16_t pending = (uint16_t)(guest_load(&q->avail->idx) - q->next_avail);
	bool unseen = q->event_idx && guest_load(&q->avail->ring[q->s.size]) != q->next_used;
	return pending > 1 || unseen;
}

struct vring_watch vring_watch(const struct vring *q)
{
	return (struct vring_watch){ .idx = q->desc ? &q->avail->idx : NULL, .next = q->next_avail };
}

uint64_t iov_bytes(const struct iovec *iov, unsigned n)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++)
		bytes += iov[i].iov_len;
	return bytes;
}

static size_t iov_copy(const struct iovec *iov, unsigned n, size_t off, char *buf, size_t len, bool to_buf)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		size_t part = iov[i].iov_len - off < len - done ? iov[i].iov_len - off : len - done;
		char *p = (char *)iov[i].iov_base + off;
		memcpy(to_buf ? buf + done : p, to_buf ? p : buf + done, part);
		done += part;
		off = 0;
	}
	return done;
}

size_t iov_to_buf(const struct iovec *iov, unsigned n, size_t off, void *buf, size_t len)
{
	return iov_copy(iov, n, off, buf, len, true);
}

size_t iov_from_buf(const struct iovec *iov, unsigned n, size_t off, const void *buf, size_t len)
{
	return iov_copy(iov, n, off, (char *)(uintptr_t)buf, len, false);
}
