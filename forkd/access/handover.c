// SPDX-License-Identifier: Apache-2.0
/* Makes and lists descriptors for VM processes. */
#include "forkd/access/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/sock.h"
#include "forkd/errors.h"

enum { SECTOR_BYTES = 512 };

void handover_done(struct handover *h)
{
	for (uint32_t i = 0; i < h->n; i++)
		if (!h->borrowed[i])
			close(h->fds[i]);
	h->n = 0;
}

int handover_add(struct handover *h, enum ctl_fd_kind kind, char *id, int fd, bool borrowed, struct err *err)
{
	if (h->n == SOCK_FDS_MAX) {
		if (!borrowed)
			close(fd);
		return fail(err, E_INVALID, "one clone needs more than %d descriptors", SOCK_FDS_MAX);
	}
	h->kinds[h->n] = (struct ctl_fd){ .kind = kind, .id = id };
	h->borrowed[h->n] = borrowed;
	h->fds[h->n++] = fd;
	return 0;
}

static int path_of(const struct place *p, const char *name, char **ret_path, struct err *err)
{
	if (ret_path && asprintf(ret_path, "%s/%s", p->path, name) < 0) {
		*ret_path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "name '%s'", name);
	}
	return 0;
}

int handover_socket(struct handover *h, enum ctl_fd_kind kind, const struct place *p, const char *name, char **ret_path,
		    struct err *err)
{
	int fd;

	if (place_listen(p, name, SOCK_STREAM, &fd, err) < 0 || handover_add(h, kind, NULL, fd, false, err) < 0)
		return err->num;
	return path_of(p, name, ret_path, err);
}

int handover_vsock_at(struct handover *h, const char *path, struct record *r, struct err *err)
{
	int fd;

	r->vsock_socket = strdup(path);
	if (!r->vsock_socket)
		return err_num(err, ERR_INTERNAL, ENOMEM, "listen at '%s'", path);
	if (place_listen_at(path, SOCK_STREAM, &r->vsock_file, &fd, err) < 0)
		return err->num;
	return handover_add(h, CTL_FD_VSOCK, NULL, fd, false, err);
}

int handover_log(struct handover *h, enum ctl_fd_kind kind, const struct place *p, const char *name, char **ret_path,
		 struct err *err)
{
	int fd = openat(p->fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "make '%s/%s'", p->path, name);
	if (handover_add(h, kind, NULL, fd, false, err) < 0 || place_give(p, name, err) < 0)
		return err->num;
	return path_of(p, name, ret_path, err);
}

int handover_check_disk(int fd, const char *path, uint64_t bytes, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0 || (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)))
		return fail(err, E_INVALID, "'%s' is neither a file nor a block device", path);
	off_t has = lseek(fd, 0, SEEK_END); /* works for a block device, too */
	if (has < 0 || lseek(fd, 0, SEEK_SET) < 0)
		return err_sys(err, ERR_INTERNAL, "find out the size of '%s'", path);
	if ((uint64_t)has / SECTOR_BYTES * SECTOR_BYTES < bytes)
		return fail(err, E_INVALID, "'%s' has %llu bytes, the guest knows a disk of %llu", path,
			    (unsigned long long)has, (unsigned long long)bytes);
	return 0;
}

/*
 * Checks a disk and clears O_NONBLOCK. Opening the disk needed O_NONBLOCK in order to wait for
 * nothing, but io_uring would obey the flag.
 */
static int check_disk(int fd, const char *path, uint64_t bytes, struct err *err)
{
	int flags = fcntl(fd, F_GETFL);

	if (handover_check_disk(fd, path, bytes, err) < 0)
		return err->num;
	if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
		return err_sys(err, ERR_INTERNAL, "set the flags of '%s'", path);
	return 0;
}

/*
 * Refuses a disk that another VM has locked. The VM process takes the lock itself later; this check
 * gives an early error that names the disk.
 */
static int check_unlocked(int lock_fd, const char *path, bool readonly, struct err *err)
{
	struct flock lock = { .l_type = readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(lock_fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK)
		return fail(err, E_CONFLICT, "'%s' is locked by another VM", path);
	return 0;
}

int handover_disk(struct handover *h, const struct policy *policy, const struct caller *who,
		  const struct ctl_disk *disk, const char *path, struct err *err)
{
	int flags = (disk->readonly ? O_RDONLY : O_RDWR) | (disk->direct ? O_DIRECT : 0) | O_NONBLOCK | O_NOCTTY, fd;
	char again[32];

	if (policy_open(policy, who, path, flags, &fd, err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	if (handover_add(h, CTL_FD_DISK, disk->id, fd, false, err) < 0 || check_disk(fd, path, disk->bytes, err) < 0)
		return err_wrap(err, "disk '%s'", disk->id);
	/* this path opens the same file, whatever its name is by now, with locks of its own */
	snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
	int lock = open(again, (disk->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (lock < 0)
		return err_sys(err, ERR_INTERNAL, "disk '%s': open '%s' again", disk->id, path);
	if (handover_add(h, CTL_FD_DISK_LOCK, disk->id, lock, false, err) < 0)
		return err->num;
	return check_unlocked(lock, path, disk->readonly, err) < 0 ? err_wrap(err, "disk '%s'", disk->id) : 0;
}

static enum ctl_format format_of(bool qcow2)
{
	return qcow2 ? CTL_FORMAT_QCOW2 : CTL_FORMAT_RAW;
}

/* Opens the file again, whatever its name is by now. */
static int add_again(struct handover *h, enum ctl_fd_kind kind, char *id, int fd, struct err *err)
{
	char again[32];

	snprintf(again, sizeof(again), "/proc/self/fd/%d", fd);
	int own = open(again, O_RDWR | O_CLOEXEC);
	if (own < 0)
		return err_sys(err, ERR_INTERNAL, "disk '%s': open its image again", id);
	return handover_add(h, kind, id, own, false, err);
}

/* Takes the descriptor, also when it fails. */
static int add_behind(struct handover *h, char *id, int fd, bool qcow2, struct err *err)
{
	if (handover_add(h, CTL_FD_DISK_BASE, id, fd, false, err) < 0)
		return err->num;
	h->kinds[h->n - 1].format = (uint8_t)format_of(qcow2);
	return 0;
}

int handover_chain(struct handover *h, struct store *store, char *id, const struct store_chain *chain, struct err *err)
{
	for (unsigned i = 0; i < chain->n; i++) {
		const struct store_layer *layer = &chain->layers[i];
		int fd = -1, r = store_layer_open(store, layer, &fd, err);
		if ((r < 0 ? r : add_behind(h, id, fd, layer->type == STORE_IMAGE_QCOW2, err)) < 0)
			return err->num;
	}
	return 0;
}

int handover_image(struct handover *h, struct store *store, char *id, const struct handover_image *image,
		   struct err *err)
{
	if (add_again(h, CTL_FD_DISK_LOCK, id, image->fd, err) < 0 || add_again(h, CTL_FD_DISK, id, image->fd, err) < 0)
		return err->num;
	h->kinds[h->n - 1].path = image->path;
	h->kinds[h->n - 1].format = (uint8_t)format_of(image->qcow2);
	if (image->frozen) {
		int fd = -1, r = store_overlay_open(store, image->frozen->name, &fd, err);
		if ((r < 0 ? r : add_behind(h, id, fd, image->frozen->type == STORE_IMAGE_QCOW2, err)) < 0)
			return err_wrap(err, "disk '%s'", id);
	}
	if (image->qcow2 && image->behind && handover_chain(h, store, id, image->behind, err) < 0)
		return err_wrap(err, "disk '%s'", id);
	return 0;
}
