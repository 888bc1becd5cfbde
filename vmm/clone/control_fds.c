// SPDX-License-Identifier: Apache-2.0
/* Finds the place in the configuration of each descriptor that forkd sends. */
#include "vmm/clone/control_fds.h"

#include <errno.h>
#include <string.h>

/*
 * Whether `wanted` names the device: by the id or, when the device will get an automatic id, by the
 * place in the list ("#0").
 */
static bool is_named(const char *id, uint32_t place, const char *wanted)
{
	char text[16];

	snprintf(text, sizeof(text), "#%u", place);
	return wanted && ((id && strcmp(id, wanted) == 0) || strcmp(text, wanted) == 0);
}

static struct disk_config *find_disk(struct vm_config *c, const char *id)
{
	for (uint32_t i = 0; i < c->n_disks; i++)
		if (is_named(c->disks[i].id, i, id))
			return &c->disks[i];
	return NULL;
}

static struct net_config *find_net(struct vm_config *c, const char *id)
{
	for (uint32_t i = 0; i < c->n_net; i++)
		if (is_named(c->net[i].id, i, id))
			return &c->net[i];
	return NULL;
}

/* Makes empty places, one for each queue pair of each net. */
static int make_net_places(struct vm_config *c, struct err *err)
{
	for (uint32_t i = 0; i < c->n_net; i++) {
		struct net_config *n = &c->net[i];
		free(n->fds);
		n->n_fds = 0;
		n->fds = calloc(n->num_queues / 2 + 1, sizeof(*n->fds));
		if (!n->fds)
			return err_num(err, ERR_INTERNAL, ENOMEM, "take the descriptors of net '%s'", n->id);
		for (; n->n_fds < n->num_queues / 2; n->n_fds++)
			n->fds[n->n_fds] = -1;
	}
	return 0;
}

/* Adds a file behind the disk's image. NULL: there is no such disk, or it has too many. */
static int32_t *add_base(struct disk_config *disk, uint8_t format)
{
	if (!disk || disk->n_base_fds >= sizeof(disk->base_qcow2) * 8)
		return NULL;
	int32_t *more = reallocarray(disk->base_fds, disk->n_base_fds + 1UL, sizeof(*more));
	if (!more)
		return NULL;
	disk->base_fds = more;
	more[disk->n_base_fds] = -1;
	if (format == CTL_FORMAT_QCOW2)
		disk->base_qcow2 |= 1U << disk->n_base_fds;
	return &more[disk->n_base_fds++];
}

/* What forkd says of the image replaces what the configuration says. */
static int change_image(struct disk_config *disk, const struct ctl_fd *what, struct err *err)
{
	char *path = what->path ? strdup(what->path) : NULL;

	if (what->path && !path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "take disk '%s'", disk->id);
	if (path) {
		free(disk->path);
		disk->path = path;
	}
	if (what->format != CTL_FORMAT_CONFIGURED)
		disk->image_type = what->format == CTL_FORMAT_QCOW2 ? IMAGE_QCOW2 : IMAGE_RAW;
	disk->backing_files |= what->format == CTL_FORMAT_QCOW2; /* for who restores a snapshot of this VM by hand */
	return 0;
}

/* The place where a descriptor goes; NULL: there is no such place, or the place is taken. */
static int32_t *find_place(struct vm_config *c, const struct ctl_fd *what, int *api_fd)
{
	struct disk_config *disk = find_disk(c, what->id);
	struct net_config *net = find_net(c, what->id);
	int32_t *place = NULL;

	switch (what->kind) {
	case CTL_FD_API:
		return *api_fd < 0 ? api_fd : NULL;
	case CTL_FD_NET:
		for (uint32_t i = 0; net && i < net->n_fds; i++)
			if (net->fds[i] < 0)
				return &net->fds[i];
		return NULL;
	case CTL_FD_DISK:
		place = disk ? &disk->fd : NULL;
		break;
	case CTL_FD_DISK_BASE:
		return add_base(disk, what->format);
	case CTL_FD_DISK_LOCK:
		place = disk ? &disk->lock_fd : NULL;
		break;
	case CTL_FD_SERIAL_LOG:
		place = &c->serial.log_fd;
		break;
	case CTL_FD_SERIAL_SOCKET:
		place = &c->serial.listen_fd;
		break;
	case CTL_FD_CONSOLE_LOG:
		place = &c->console.log_fd;
		break;
	case CTL_FD_CONSOLE_SOCKET:
		place = &c->console.listen_fd;
		break;
	case CTL_FD_VSOCK:
		place = c->vsock ? &c->vsock->listen_fd : NULL;
		break;
	case CTL_FD_KERNEL:
		place = c->payload ? &c->payload->kernel_fd : NULL;
		break;
	case CTL_FD_INITRAMFS:
		place = c->payload ? &c->payload->initramfs_fd : NULL;
		break;
	default:
		return NULL;
	}
	return place && *place == 0 ? place : NULL;
}

static int check_all_given(const struct vm_config *c, struct err *err)
{
	for (uint32_t i = 0; i < c->n_disks; i++)
		if (c->disks[i].fd == 0 || c->disks[i].lock_fd == 0)
			return err_set(err, ERR_INVALID, "disk '%s': its descriptors did not come", c->disks[i].id);
	if (c->vsock && c->vsock->listen_fd == 0)
		return err_set(err, ERR_INVALID, "vsock: its listening socket did not come");
	for (uint32_t i = 0; i < c->n_net; i++)
		for (uint32_t k = 0; k < c->net[i].n_fds; k++)
			if (c->net[i].fds[k] < 0)
				return err_set(err, ERR_INVALID, "net '%s': %u descriptors came, expected %u",
					       c->net[i].id, k, c->net[i].n_fds);
	return 0;
}

/* Takes the packet's descriptors from number `first` on. */
static int take(struct vm_config *c, struct ctl_packet *p, uint32_t first, const struct ctl_fd *what, int *api_fd,
		struct err *err)
{
	for (uint32_t i = first; i < p->n_fds; i++, what++) {
		int32_t *place = find_place(c, what, api_fd);
		if (!place)
			return err_set(err, ERR_INVALID, "a descriptor for %s '%s' is not expected",
				       ctl_fd_kinds[what->kind], what->id ? what->id : "");
		*place = steal_fd(&p->fds[i]);
		struct disk_config *disk = what->kind == CTL_FD_DISK ? find_disk(c, what->id) : NULL;
		if (disk && change_image(disk, what, err) < 0)
			return err->num;
	}
	return 0;
}

int clone_take_fds(struct vm_config *c, struct ctl_packet *p, const struct ctl_fd *what, uint32_t n, int *api_fd,
		   struct err *err)
{
	if (n != p->n_fds)
		return err_set(err, ERR_INVALID, "%u descriptors came, the request names %u", p->n_fds, n);
	if (make_net_places(c, err) < 0 || take(c, p, 0, what, api_fd, err) < 0)
		return err->num;
	return check_all_given(c, err);
}

/* An entry for each disk that is named. */
static int name_disks(struct vm_config *ret, const struct ctl_fd *what, uint32_t n, struct err *err)
{
	ret->disks = calloc(n + 1UL, sizeof(*ret->disks));
	if (!ret->disks)
		return err_num(err, ERR_INTERNAL, ENOMEM, "take the disks");
	for (uint32_t i = 0; i < n; i++) {
		if (!what[i].id || what[i].id[0] == '#' || LIST_FIND_ID(ret->disks, ret->n_disks, what[i].id) >= 0)
			continue;
		ret->disks[ret->n_disks].id = strdup(what[i].id);
		if (!ret->disks[ret->n_disks].id)
			return err_num(err, ERR_INTERNAL, ENOMEM, "take the disks");
		ret->n_disks++;
	}
	return 0;
}

int clone_take_disks(struct vm_config *ret, struct ctl_packet *p, const struct ctl_fd *what, uint32_t n,
		     struct err *err)
{
	int no_api = 0;

	if (n + 1 != p->n_fds)
		return err_set(err, ERR_INVALID, "%u descriptors came, the request names %u and the directory's",
			       p->n_fds, n);
	if (name_disks(ret, what, n, err) < 0 || take(ret, p, 1, what, &no_api, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < ret->n_disks; i++)
		if (!ret->disks[i].path)
			return err_set(err, ERR_INVALID, "disk '%s' came without a path", ret->disks[i].id);
	return check_all_given(ret, err);
}
