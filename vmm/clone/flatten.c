// SPDX-License-Identifier: Apache-2.0
/* Makes a chain of images one. */
#include "vmm/clone/flatten.h"

#include <errno.h>

#include "vmm/config/config.h"
#include "vmm/virtio/kinds.h"

/* The packet's first descriptor is the output, the second the image, and the others are what is behind it. */
static int run(const struct ctl_packet *p, const struct ctl_snapshot *rq, struct err *err)
{
	static char path[] = "the image";
	int32_t base_fds[SOCK_FDS_MAX];
	struct disk_config cfg = { .path = path, .image_type = IMAGE_QCOW2, .fd = p->fds[1], .base_fds = base_fds };

	for (uint32_t i = 1; i < rq->n_fds; i++) {
		base_fds[cfg.n_base_fds] = p->fds[i + 1];
		if (rq->fds[i].format == CTL_FORMAT_QCOW2)
			cfg.base_qcow2 |= 1U << cfg.n_base_fds;
		cfg.n_base_fds++;
	}
	return virtio_blk_flatten(&cfg, p->fds[0], err);
}

int flatten_serve(const struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	struct ctl_snapshot rq;

	fields_init(ctl_snapshot_fields, &rq);
	int r = fields_load(ctl_snapshot_fields, &rq, &p->json.nodes[0], "flatten", err);
	if (r == 0 && (rq.n_fds < 1 || rq.n_fds > sizeof(uint32_t) * 8 || rq.n_fds + 1 != p->n_fds ||
		       rq.fds[0].format != CTL_FORMAT_QCOW2))
		r = err_set(err, ERR_INVALID, "flatten: %u descriptors came, the request names %u", p->n_fds, rq.n_fds);
	if (r == 0)
		r = run(p, &rq, err);
	if (r == 0)
		ctl_reply(out, NULL, NULL);
	fields_free(ctl_snapshot_fields, &rq);
	return r;
}
