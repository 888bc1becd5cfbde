// SPDX-License-Identifier: Apache-2.0
/* Lists and checks the shared disks of templates. */
#include "forkd/template/disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "forkd/access/handover.h"
#include "forkd/access/policy.h"
#include "forkd/errors.h"

int disks_list(const struct ctl_template *info, struct manifest *m, struct err *err)
{
	m->disks = calloc(info->n_disks + 1UL, sizeof(*m->disks));
	for (uint32_t i = 0; m->disks && i < info->n_disks; i++) {
		const struct ctl_disk *from = &info->disks[i];
		if (!from->readonly || !from->path)
			continue; /* each clone has a disk of its own for this one */
		struct manifest_disk *to = &m->disks[m->n_disks++];
		*to = (struct manifest_disk){ strdup(from->id), strdup(from->path), from->bytes };
		if (!to->id || !to->path)
			return err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
	}
	return m->disks ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
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
		if (policy_open(d->policy, &owner, disk->path, O_RDONLY | O_NONBLOCK | O_NOCTTY, &fd, err) < 0 ||
		    handover_check_disk(fd, disk->path, disk->bytes, err) < 0) {
			err_wrap(err, "disk '%s' of the snapshot", disk->id);
			return disks_unusable(err);
		}
	}
	return 0;
}
