// SPDX-License-Identifier: Apache-2.0
/*
 * virtio-balloon (virtio 1.2, 5.5): pages that the guest gives up or reports as free go back to the
 * host, see gmem_discard(). Nothing is done for pages that the guest takes back: a page is there,
 * zero, when the guest touches the page.
 */
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "vmm/virtio/kinds.h"

enum { BALLOON_QUEUE_SIZE = 128, REPORTING_QUEUE_SIZE = 32, PFN_MAX = 1024 };
enum { INFLATE = 0, DEFLATE = 1, REPORTING = 2 };
enum { F_DEFLATE_ON_OOM = 2, F_REPORTING = 5 };

/* virtio 1.2, 5.5.4; names as in state.json. */
struct balloon_space {
	uint32_t num_pages, actual; /* num_pages: wanted by the host; actual: in the balloon, as the guest says */
};

struct balloon {
	struct virtio_dev vdev;
	struct gmem *mem;
	struct balloon_space space;
	bool kept_pages; /* said in the log */
};

struct balloon_state {
	uint64_t avail_features, acked_features;
	struct balloon_space config;
};

static const struct field space_fields[] = {
	F(struct balloon_space, num_pages, .flags = F_REQUIRED),
	F(struct balloon_space, actual, .flags = F_REQUIRED),
	F_END,
};

static const struct field balloon_state_fields[] = {
	F(struct balloon_state, avail_features, .flags = F_REQUIRED),
	F(struct balloon_state, acked_features, .flags = F_REQUIRED),
	F_OBJ(struct balloon_state, config, space_fields, .flags = F_REQUIRED),
	F_END,
};

static void discard(struct balloon *b, void *hva, uint64_t len)
{
	if (gmem_discard(b->mem, hva, len) || b->kept_pages)
		return;
	b->kept_pages = true;
	log_guest(
		LOG_WARN,
		"balloon '%s': %llu bytes at once, and maybe more later, stay with the guest: its free pages are too scattered",
		b->vdev.id, (unsigned long long)len);
}

static int pfn_order(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/*
 * Guests name pages one by one, in no special order; neighbours are discarded in one step. Pages that
 * are not RAM are ignored.
 */
static void discard_pfns(struct balloon *b, uint32_t *pfn, size_t n)
{
	qsort(pfn, n, sizeof(*pfn), pfn_order);
	for (size_t i = 0, k; i < n; i = k) {
		for (k = i + 1; k < n && pfn[k] <= pfn[k - 1] + 1; k++)
			;
		uint64_t len = ((uint64_t)pfn[k - 1] - pfn[i] + 1) * GUEST_PAGE;
		void *hva = gmem_ptr(b->mem, (gpa_t)pfn[i] * GUEST_PAGE, len);
		if (hva)
			discard(b, hva, len);
	}
}

/*
 * Takes one page full of page numbers at most. No driver sends more, and the lock is not held for
 * longer.
 */
static void inflate(struct balloon *b, const struct chain *c)
{
	uint32_t pfn[PFN_MAX];
	size_t n = iov_to_buf(c->iov, c->n_read, 0, pfn, sizeof(pfn)) / sizeof(pfn[0]);

	/* cppcheck-suppress uninitvar ; the first n are filled */
	discard_pfns(b, pfn, n);
}

static void balloon_notify(struct virtio_dev *vdev, unsigned queue)
{
	struct balloon *b = container_of(vdev, struct balloon, vdev);
	struct chain c;

	do {
		while (virtio_pop(vdev, queue, &c)) {
			if (queue == INFLATE)
				inflate(b, &c);
			for (unsigned i = 0; queue == REPORTING && i < c.n_write; i++)
				discard(b, c.iov[c.n_read + i].iov_base, c.iov[c.n_read + i].iov_len);
			virtio_push(vdev, queue, c.head, 0);
		}
	} while (virtio_more(vdev, queue));
	virtio_interrupt(vdev, queue);
}

static void balloon_write_config(struct virtio_dev *vdev, unsigned off, const void *data, unsigned len)
{
	struct balloon *b = container_of(vdev, struct balloon, vdev);

	if (off == offsetof(struct balloon_space, actual) && len == sizeof(b->space.actual))
		memcpy(&b->space.actual, data, len);
}

static void balloon_save(struct virtio_dev *vdev, struct strbuf *out)
{
	struct balloon *b = container_of(vdev, struct balloon, vdev);
	struct balloon_state s = { vdev->avail_features, vdev->acked_features, b->space };

	fields_save(balloon_state_fields, &s, out);
}

static int balloon_load(struct virtio_dev *vdev, const struct json_node *state, struct err *err)
{
	struct balloon *b = container_of(vdev, struct balloon, vdev);
	struct balloon_state s;

	if (fields_load(balloon_state_fields, &s, state, vdev->id, err) < 0)
		return err_wrap(err, "state.json");
	b->space = s.config;
	return virtio_load_features(vdev, s.avail_features, s.acked_features, err);
}

static void balloon_free(struct virtio_dev *vdev)
{
	virtio_done(vdev);
	free(container_of(vdev, struct balloon, vdev));
}

static const struct virtio_device_ops balloon_ops = {
	.name = "balloon",
	.type = VIRTIO_ID_BALLOON,
	.pci_class = 0xffff00,
	.config_bytes = sizeof(struct balloon_space),
	.notify = balloon_notify,
	.write_config = balloon_write_config,
	.save = balloon_save,
	.load = balloon_load,
	.free = balloon_free,
};

int virtio_balloon_new(const struct device_env *env, struct balloon_config *cfg, struct virtio_dev **ret,
		       struct err *err)
{
	struct balloon *b = calloc(1, sizeof(*b));

	if (!b)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the balloon device");
	b->mem = env->mem;
	b->space.num_pages = (uint32_t)(cfg->size / GUEST_PAGE);
	b->vdev.config = &b->space;
	b->vdev.avail_features = (cfg->deflate_on_oom ? 1ULL << F_DEFLATE_ON_OOM : 0) |
				 (cfg->free_page_reporting ? 1ULL << F_REPORTING : 0);
	int r = virtio_init(&b->vdev, &balloon_ops, env->mem, cfg->id ? cfg->id : "__balloon",
			    cfg->free_page_reporting ? 3 : 2, BALLOON_QUEUE_SIZE, err);
	if (r == 0 && cfg->free_page_reporting)
		b->vdev.queue[REPORTING].s.max_size = b->vdev.queue[REPORTING].s.size = REPORTING_QUEUE_SIZE;
	return virtio_made(&b->vdev, &balloon_ops, r, ret);
}

void virtio_balloon_resize(struct virtio_dev *vdev, uint64_t bytes)
{
	struct balloon *b = container_of(vdev, struct balloon, vdev);
	uint64_t pages = bytes / GUEST_PAGE;

	pthread_mutex_lock(&vdev->lock);
	b->space.num_pages = pages < UINT32_MAX ? (uint32_t)pages : UINT32_MAX;
	if (vdev->active)
		virtio_pci_interrupt(vdev->transport, VIRTIO_CONFIG_CHANGE);
	pthread_mutex_unlock(&vdev->lock);
}

uint64_t virtio_balloon_bytes(struct virtio_dev *vdev)
{
	struct balloon *b = container_of(vdev, struct balloon, vdev);

	pthread_mutex_lock(&vdev->lock);
	uint64_t pages = b->space.actual;
	pthread_mutex_unlock(&vdev->lock);
	return pages * GUEST_PAGE;
}
