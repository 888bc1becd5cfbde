// SPDX-License-Identifier: Apache-2.0
/*
 * What the clones of a template boot again when their guests reset: images of kernel and initramfs in the
 * store. A template that cannot have them is made all the same, and its clones end at a reset. Any thread.
 */
#ifndef FORKD_TEMPLATE_PAYLOAD_H
#define FORKD_TEMPLATE_PAYLOAD_H

#include "common/ctl.h"
#include "forkd/access/caller.h"
#include "forkd/access/handover.h"
#include "forkd/forkd.h"
#include "store/images.h"

/* The largest kernel and the largest initramfs that the store keeps. */
#define PAYLOAD_MAX_BYTES (1ULL << 30)

/* Images that are in the store already. Whoever fills the struct has a reference to each. */
struct payload_images {
	char kernel[STORE_ID_CHARS + 1];    /* "": there is no payload */
	char initramfs[STORE_ID_CHARS + 1]; /* "": none */
};
/* Where the payload of a template comes from. */
struct payload_wanted {
	const char *name;                   /* of the template, for the log */
	const struct caller *who;           /* whose rights count for paths */
	bool by_name;                       /* by the paths in config.json */
	const struct payload_images *ready; /* else: borrowed; NULL: there is none */
};

/*
 * Copies what is listed for a VM that boots; `name` is the template's. payload_images_done() must follow, also after a failure. A file that
 * is too large is left out with all of the payload, and the log says so. E_CONFLICT: a file changed meanwhile.
 */
MUST_CHECK int payload_copy(struct forkd *d, const char *name, const struct handover *files, struct payload_images *ret,
			    struct err *err);
/* Takes references to what the clones of the template `from` boot again, if it has any. payload_images_done() must follow. */
void payload_inherit(struct forkd *d, const char *name, const struct manifest *from, struct payload_images *ret);
void payload_images_done(struct forkd *d, struct payload_images *images);

/*
 * Writes the payload into the manifest. What cannot be opened is left out with all
 * of the payload, and the log says why. payload_release() must follow, also after a failure: from
 * then on only a sealed template refers to the images.
 */
MUST_CHECK int payload_list(struct forkd *d, const struct ctl_template *info, const struct payload_wanted *wanted,
			    struct manifest *m, struct err *err);
void payload_release(struct forkd *d, const struct manifest *m);

/* The images as far as a clone's files are opened by them. */
struct payload_layers {
	bool any, has_initramfs;
	struct store_layer kernel, initramfs;
};
MUST_CHECK int payload_find(struct store *store, const struct manifest *m, struct payload_layers *ret, struct err *err);
/* Opens the files anew, for one clone. */
MUST_CHECK int payload_hand_over(struct handover *h, struct store *store, const struct payload_layers *p,
				 struct err *err);

#endif
