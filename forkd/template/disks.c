// SPDX-License-Identifier: Apache-2.0
/* Lists and checks the disks of templates. */
#include "forkd/template/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "forkd/access/handover.h"
#include "forkd/access/policy.h"
#include "forkd/errors.h"
#include "forkd/template/disk_source.h"

/* Copies the disk's image into the store. The caller has a reference to ret_id then. */
static int import_disk(struct forkd *d, const struct caller *who, const struct ctl_disk *disk,
		       char ret_id[STORE_ID_CHARS + 1], struct err *err)
{
	struct disk_source *source = NULL;

	if (disk_source_open(d, who, disk, &source, err) < 0) {
		err_wrap(err, "disk '%s' of the snapshot", disk->id);
		return disks_unusable(err);
	}
	int r = disk_source_import(d, source, ret_id, err);
	disk_source_free(source);
	return r < 0 ? err_wrap(err, "disk '%s' of the snapshot", disk->id) : 0;
}

/* Gives the disk its image. The manifest has a reference to it then. */
static int own_disk(struct forkd *d, const struct disks_wanted *wanted, const struct ctl_disk *disk,
		    const struct ready_disk *ready, struct manifest_disk *to, struct err *err)
{
	char id[STORE_ID_CHARS + 1];

	if (ready)
		memcpy(id, ready->image, sizeof(id));
	if ((ready ? store_image_ref(d->store, id, err) : import_disk(d, wanted->who, disk, id, err)) < 0)
		return err->num;
	to->image = strdup(id);
	if (to->image)
		return 0;
	store_image_unref(d->store, id);
	return err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
}

static int add_disk(struct forkd *d, const struct disks_wanted *wanted, const struct ctl_disk *from,
		    const struct ready_disk *ready, struct manifest *m, struct err *err)
{
	struct manifest_disk *to = &m->disks[m->n_disks];

	if (!from->path || (!from->readonly && !ready && wanted->brought))
		return 0; /* each clone must bring one */
	*to = (struct manifest_disk){ strdup(from->id), strdup(from->path), from->bytes, NULL };
	m->n_disks++;
	if (!to->id || !to->path)
		return err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
	return from->readonly ? 0 : own_disk(d, wanted, from, ready, to, err); /* all clones share a read-only one */
}

static const struct ready_disk *find_ready(const struct disks_wanted *wanted, const char *id, uint32_t place)
{
	for (uint32_t i = 0; i < wanted->n_ready; i++) {
		const struct ready_disk *r = &wanted->ready[i];
		if (r->image[0] && (r->id ? strcmp(r->id, id) == 0 : i == place))
			return r;
	}
	return NULL;
}

int disks_list(struct forkd *d, const struct ctl_template *info, const struct disks_wanted *wanted, struct manifest *m,
	       struct err *err)
{
	m->disks = calloc(info->n_disks + 1UL, sizeof(*m->disks));
	if (!m->disks)
		return err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
	for (uint32_t i = 0; i < info->n_disks; i++)
		if (add_disk(d, wanted, &info->disks[i], find_ready(wanted, info->disks[i].id, i), m, err) < 0)
			return err->num;
	return 0;
}

void disks_release(struct forkd *d, const struct manifest *m)
{
	for (uint32_t i = 0; i < m->n_disks; i++)
		if (m->disks[i].image)
			store_image_unref(d->store, m->disks[i].image);
}

int disks_unusable(struct err *err)
{
	return err->detail == E_INVALID ? fail_as(err, E_DISK_UNUSABLE, NULL) : err->num;
}

int disks_check(const struct forkd *d, const struct manifest *m, struct err *err)
{
	const struct caller owner = caller_from_owner(m->owner_uid, OWNER_REMOTE);

	for (uint32_t i = 0; i < m->n_disks; i++) {
		const struct manifest_disk *disk = &m->disks[i];
		autoclose int fd = -1;
		if (disk->image)
			continue; /* the store has it */
		if (policy_open(d->policy, &owner, disk->path, O_RDONLY | O_NONBLOCK | O_NOCTTY, &fd, err) < 0 ||
		    handover_check_disk(fd, disk->path, disk->bytes, err) < 0) {
			err_wrap(err, "disk '%s' of the snapshot", disk->id);
			return disks_unusable(err);
		}
	}
	return 0;
}
