// SPDX-License-Identifier: Apache-2.0
/* Copies kernels and initramfs into the store, and opens them for clones. */
#include "forkd/template/payload.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/log.h"
#include "forkd/access/policy.h"
#include "forkd/errors.h"

/* A file that is to be copied, and how it was when it was opened. */
struct payload_file {
	const char *what; /* "kernel" or "initramfs" */
	int fd;           /* borrowed */
	struct stat st;
};

/* ---- copy ---- */

/* Whether the store keeps such a file. */
static int look_at(struct payload_file *f, struct err *err)
{
	if (fstat(f->fd, &f->st) < 0)
		return err_sys(err, ERR_INTERNAL, "look at the %s", f->what);
	if (!S_ISREG(f->st.st_mode) || f->st.st_size == 0 || (uint64_t)f->st.st_size > PAYLOAD_MAX_BYTES)
		return fail(err, E_INVALID, "the %s is no regular file of 1 to %llu bytes", f->what,
			    (unsigned long long)PAYLOAD_MAX_BYTES);
	return 0;
}

static int check_unchanged(const struct payload_file *f, struct err *err)
{
	const struct stat *was = &f->st;
	struct stat now;

	if (fstat(f->fd, &now) < 0)
		return err_sys(err, ERR_INTERNAL, "look at the %s", f->what);
	if (now.st_size != was->st_size || now.st_mtim.tv_sec != was->st_mtim.tv_sec ||
	    now.st_mtim.tv_nsec != was->st_mtim.tv_nsec)
		return fail(err, E_CONFLICT, "the %s changed while it was copied", f->what);
	return 0;
}

/* The caller has a reference to ret_id then. */
static int copy_file(struct forkd *d, const struct payload_file *f, char ret_id[STORE_ID_CHARS + 1], struct err *err)
{
	uint64_t bytes = (uint64_t)f->st.st_size;
	struct staged_image *image = NULL;
	char id[STORE_ID_CHARS + 1];

	if (store_image_stage(d->store, &image, err) < 0)
		return err->num;
	int r = staged_image_import(image, f->fd, bytes, f->what, err);
	if (r >= 0)
		r = check_unchanged(f, err);
	if (r >= 0)
		r = staged_image_seal(&image, STORE_IMAGE_RAW, bytes, NULL, id, err);
	staged_image_discard(image);
	if (r >= 0)
		memcpy(ret_id, id, sizeof(id));
	return r;
}

static int copy_both(struct forkd *d, struct payload_file *kernel, struct payload_file *initramfs,
		     struct payload_images *ret, struct err *err)
{
	if (copy_file(d, kernel, ret->kernel, err) < 0)
		return err->num;
	return initramfs->fd >= 0 ? copy_file(d, initramfs, ret->initramfs, err) : 0;
}

static void leave_out(const char *name, const struct err *why)
{
	char line[ERR_MSG_BYTES];

	log_warn("template '%s' is made without a kernel, so its clones end when their guests reset: %s", name,
		 err_line(why, line, sizeof(line)));
}

int payload_copy(struct forkd *d, const char *name, const struct handover *files, struct payload_images *ret,
		 struct err *err)
{
	struct payload_file kernel = { .what = "kernel", .fd = -1 }, initramfs = { .what = "initramfs", .fd = -1 };
	struct err why = {};

	*ret = (struct payload_images){};
	for (uint32_t i = 0; i < files->n; i++) {
		if (files->kinds[i].kind == CTL_FD_KERNEL)
			kernel.fd = files->fds[i];
		if (files->kinds[i].kind == CTL_FD_INITRAMFS)
			initramfs.fd = files->fds[i];
	}
	if (kernel.fd < 0)
		return 0; /* the VM process refuses such a configuration */
	if (look_at(&kernel, &why) < 0 || (initramfs.fd >= 0 && look_at(&initramfs, &why) < 0)) {
		leave_out(name, &why);
		return 0;
	}
	return copy_both(d, &kernel, &initramfs, ret, err);
}

/* Takes a reference to each. payload_images_done() must follow, also after a failure. */
static int take_refs(struct forkd *d, const char *kernel, const char *initramfs, struct payload_images *ret,
		     struct err *err)
{
	if (store_image_ref(d->store, kernel, err) < 0)
		return err->num;
	snprintf(ret->kernel, sizeof(ret->kernel), "%s", kernel);
	if (!initramfs || !initramfs[0])
		return 0;
	if (store_image_ref(d->store, initramfs, err) < 0)
		return err->num;
	snprintf(ret->initramfs, sizeof(ret->initramfs), "%s", initramfs);
	return 0;
}

void payload_inherit(struct forkd *d, const char *name, const struct manifest *from, struct payload_images *ret)
{
	const struct manifest_payload *p = from->payload;
	struct err why = {};

	*ret = (struct payload_images){};
	if (!p || take_refs(d, p->kernel, p->initramfs, ret, &why) >= 0)
		return;
	payload_images_done(d, ret);
	leave_out(name, &why);
}

void payload_images_done(struct forkd *d, struct payload_images *images)
{
	if (images->kernel[0])
		store_image_unref(d->store, images->kernel);
	if (images->initramfs[0])
		store_image_unref(d->store, images->initramfs);
	*images = (struct payload_images){};
}

/* ---- by name ---- */

/* Opens a file as the files of a snapshot are opened, which may be behind a symbolic link. */
static int open_path(const struct forkd *d, const struct caller *who, const char *path, struct err *err)
{
	const char *slash = strrchr(path, '/');
	autofree char *dir = slash ? strndup(path, slash > path ? (size_t)(slash - path) : 1) : strdup(path);

	if (!dir)
		return err_num(err, ERR_INTERNAL, ENOMEM, "open '%s'", path);
	autoclose int dir_fd = policy_open_source_dir(d->policy, who, dir, err);
	if (dir_fd < 0)
		return err->num;
	int fd = policy_open_source(d->policy, who, dir_fd, slash ? slash + 1 : path, err);
	return fd < 0 ? err_wrap(err, "'%s'", path) : fd;
}

static int open_by_name(struct forkd *d, const struct caller *who, const char *path, struct payload_file *f,
			struct err *err)
{
	if (!path)
		return 0;
	f->fd = open_path(d, who, path, err);
	return f->fd < 0 || look_at(f, err) < 0 ? err_wrap(err, "payload.%s", f->what) : 0;
}

static int copy_by_name(struct forkd *d, const struct ctl_template *info, const struct payload_wanted *wanted,
			struct payload_images *ret, struct err *err)
{
	struct payload_file kernel = { .what = "kernel", .fd = -1 }, initramfs = { .what = "initramfs", .fd = -1 };
	struct err why = {};
	int r = 0;

	if (!info->kernel)
		fail(&why, E_INVALID, "config.json names none");
	else if (open_by_name(d, wanted->who, info->kernel, &kernel, &why) >= 0 &&
		 open_by_name(d, wanted->who, info->initramfs, &initramfs, &why) >= 0)
		r = copy_both(d, &kernel, &initramfs, ret, err);
	auto_close_p(&kernel.fd);
	auto_close_p(&initramfs.fd);
	if (why.code != ERR_NONE)
		leave_out(wanted->name, &why);
	return r;
}

/* ---- the manifest ---- */

/* The manifest has the references of *images then. */
static int write_down(struct payload_images *images, struct manifest *m, struct err *err)
{
	autofree char *kernel = strdup(images->kernel), *initramfs = strdup(images->initramfs);
	struct manifest_payload *payload = kernel && initramfs ? calloc(1, sizeof(*payload)) : NULL;

	if (!payload)
		return err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
	payload->kernel = steal_ptr(&kernel);
	payload->initramfs = initramfs[0] ? steal_ptr(&initramfs) : NULL;
	m->payload = payload;
	*images = (struct payload_images){};
	return 0;
}

int payload_list(struct forkd *d, const struct ctl_template *info, const struct payload_wanted *wanted,
		 struct manifest *m, struct err *err)
{
	const struct payload_images *ready = wanted->ready;
	struct payload_images images = {};
	int r = 0;

	if (wanted->by_name)
		r = copy_by_name(d, info, wanted, &images, err);
	else if (ready && ready->kernel[0])
		r = take_refs(d, ready->kernel, ready->initramfs, &images, err);
	if (r >= 0 && images.kernel[0])
		r = write_down(&images, m, err);
	payload_images_done(d, &images);
	return r;
}

void payload_release(struct forkd *d, const struct manifest *m)
{
	if (!m->payload)
		return;
	store_image_unref(d->store, m->payload->kernel);
	if (m->payload->initramfs)
		store_image_unref(d->store, m->payload->initramfs);
}

/* ---- clones ---- */

static int find_layer(struct store *store, const char *id, struct store_layer *ret, struct err *err)
{
	struct store_chain chain;

	if (store_chain_read(store, id, &chain, err) < 0)
		return err->num;
	*ret = chain.layers[0];
	return 0;
}

int payload_find(struct store *store, const struct manifest *m, struct payload_layers *ret, struct err *err)
{
	struct payload_layers p = { .any = m->payload, .has_initramfs = m->payload && m->payload->initramfs };

	if (p.any && find_layer(store, m->payload->kernel, &p.kernel, err) < 0)
		return err_wrap(err, "kernel of template '%s'", m->name);
	if (p.has_initramfs && find_layer(store, m->payload->initramfs, &p.initramfs, err) < 0)
		return err_wrap(err, "initramfs of template '%s'", m->name);
	*ret = p;
	return 0;
}

static int add_layer(struct handover *h, struct store *store, enum ctl_fd_kind kind, const struct store_layer *layer,
		     struct err *err)
{
	int fd = -1;

	if (store_layer_open(store, layer, &fd, err) < 0)
		return err_wrap(err, "%s", ctl_fd_kinds[kind]);
	return handover_add(h, kind, NULL, fd, false, err);
}

int payload_hand_over(struct handover *h, struct store *store, const struct payload_layers *p, struct err *err)
{
	if (p->any && add_layer(h, store, CTL_FD_KERNEL, &p->kernel, err) < 0)
		return err->num;
	return p->has_initramfs ? add_layer(h, store, CTL_FD_INITRAMFS, &p->initramfs, err) : 0;
}
