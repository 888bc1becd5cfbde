// SPDX-License-Identifier: Apache-2.0
/* From a running clone to a template. */
#include "forkd/clone/clone_snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "forkd/clone/identify.h"
#include "forkd/clone/life.h"
#include "forkd/clone/snapshot_disks.h"
#include "forkd/errors.h"
#include "forkd/metrics.h"
#include "forkd/template/import.h"

enum { SNAPSHOT_TIMEOUT_MS = 600000 };

/*
 * Whose rights count for the paths in the new template's config.json. These paths may come from the
 * requester, from the clone's owner, or from the owner of the clone's template. The first of these
 * three who is not trusted counts.
 */
static struct caller least_trusted(struct forkd *d, const struct caller *requester, const struct clone *c)
{
	struct caller owner = caller_from_owner(c->record.uid, c->record.gid);
	struct manifest m;
	struct err err = {};

	if (!requester->trusted)
		return *requester;
	if (!owner.trusted)
		return owner;
	if (store_manifest(d->store, c->record.template, &m, &err) < 0)
		return caller_from_owner(OWNER_REMOTE, OWNER_REMOTE);
	owner = caller_from_owner(m.owner_uid, OWNER_REMOTE);
	fields_free(manifest_fields, &m);
	return owner.trusted ? *requester : owner;
}

/*
 * Refuses a running clone whose process speaks version 0 of the protocol: such a process does not
 * itself refuse a snapshot while a writable disk may change.
 */
static int check_still(struct forkd *d, const struct clone *c, struct err *err)
{
	pthread_mutex_lock(&d->registry->lock);
	int version = c->version;
	bool runs = c->state == CLONE_RUNNING;
	pthread_mutex_unlock(&d->registry->lock);
	if (!runs || version > 0)
		return 0;
	if (version < 0)
		return fail(err, E_NO_ANSWER, "clone '%s': process %u lives, but has not answered yet", c->record.id,
			    c->record.pid);
	return fail(
		err, E_BAD_STATE,
		"clone '%s' runs, and its forkd-vmm is too old to see whether a disk changes meanwhile: pause it first",
		c->record.id);
}

/* Has the clone write its snapshot into the directory, and put the new overlays over its disks. */
static int write_snapshot(struct snapshot_disks *disks, int dir_fd, struct ctl_snapshotted *ret, struct err *err)
{
	struct handover *h = &disks->fds;
	const struct ctl_snapshot request = { .fds = h->kinds, .n_fds = h->n };
	int fds[SOCK_FDS_MAX] = { dir_fd };

	if (h->n + 1 > SOCK_FDS_MAX)
		return fail(err, E_INVALID, "the clone's disks have more than %d files", SOCK_FDS_MAX - 1);
	memcpy(fds + 1, h->fds, h->n * sizeof(*fds));
	const struct control_call call = {
		.op = "snapshot",
		.rows = ctl_snapshot_fields,
		.obj = &request,
		.ret_rows = ctl_snapshotted_fields,
		.ret = ret,
		.fds = fds,
		.n_fds = h->n + 1,
		.timeout_ms = SNAPSHOT_TIMEOUT_MS,
	};
	int r = clone_talk(disks->d, disks->c, &call, true, err);
	if (r < 0 && err->code == ERR_CONFLICT && !err->detail) /* the clone runs and has a disk that it was given */
		fail_as(err, E_BAD_STATE, NULL);
	return r;
}

/* A guest that has rebooted after the freeze was not frozen in the snapshot. */
static int check_frozen(struct forkd *d, const struct clone *c, uint32_t reboots, struct err *err)
{
	pthread_mutex_lock(&d->registry->lock);
	bool managed = c->record.identity != IDENTITY_UNMANAGED, same = c->record.frozen_reboots == reboots;
	pthread_mutex_unlock(&d->registry->lock);
	if (!managed || same)
		return 0;
	return fail(err, E_BAD_STATE,
		    "clone '%s' rebooted meanwhile, so no clone of the snapshot could be made unique: try again",
		    c->record.id);
}

static int snapshot_with_disks(struct build *b, struct snapshot_disks *disks, struct staged **s,
			       struct ctl_snapshotted *ret, struct err *err)
{
	char source[32];

	if (snapshot_disks_begin(disks, err) < 0 || store_stage(b->d->store, s, err) < 0 ||
	    write_snapshot(disks, staged_dir(*s), ret, err) < 0 || check_frozen(b->d, disks->c, ret->reboots, err) < 0)
		return err->num;
	if (disks->n > 0)
		build_step(b, "sealing disks");
	if (snapshot_disks_seal(disks, err) < 0)
		return err->num;
	b->disks.ready = disks->ready;
	b->disks.n_ready = disks->n;
	snprintf(source, sizeof(source), "clone:%s", disks->c->record.id);
	return build_publish(b, s, source, disks->c->record.template, err);
}

static int take_snapshot(struct build *b, struct clone *c, struct ctl_snapshotted *ret, struct err *err)
{
	struct snapshot_disks *disks = calloc(1, sizeof(*disks));
	struct staged *s = NULL;

	if (!disks)
		return err_num(err, ERR_INTERNAL, ENOMEM, "snapshot clone '%s'", c->record.id);
	build_step(b, "snapshotting");
	disks->d = b->d;
	disks->c = c;
	int r = snapshot_with_disks(b, disks, &s, ret, err);
	staged_discard(s);
	snapshot_disks_done(disks);
	free(disks);
	b->disks.ready = NULL;
	b->disks.n_ready = 0;
	return r;
}

/*
 * Stops the guest's processes, so that each clone of the template can be made unique before they go
 * on. A paused clone must have been paused like this.
 */
static int hold(struct forkd *d, struct clone *c, bool *ret_ran, struct err *err)
{
	pthread_mutex_lock(&d->registry->lock);
	bool managed = c->record.identity != IDENTITY_UNMANAGED;
	bool frozen = c->record.frozen && c->record.frozen_reboots == c->reboots;
	enum clone_state state = c->state;
	pthread_mutex_unlock(&d->registry->lock);
	*ret_ran = state == CLONE_RUNNING;
	if (clone_check_lives(c, state, err) < 0)
		return err->num;
	if (*ret_ran)
		return clone_freeze(d, c, err);
	if (!managed || (frozen && !c->freeze_failed))
		return 0;
	return fail(err, E_BAD_STATE,
		    "clone '%s' was paused while its processes ran, so no clone of it could be made unique: resume it",
		    c->record.id);
}

/* Reads the manifest of the clone's template. Without it the snapshot of a clone with an agent is not possible. */
static int read_parent(struct forkd *d, const struct clone *c, struct manifest *m, struct err *err)
{
	char line[ERR_MSG_BYTES];
	struct err why = {};

	if (store_manifest(d->store, c->record.template, m, &why) >= 0)
		return 0;
	if (clone_check_lives(c, clone_state(d->registry, c), err) < 0) /* otherwise its template may be gone */
		return err->num;
	if (c->record.identity == IDENTITY_UNMANAGED) {
		log_warn("clone %s: %s", c->record.id, err_line(&why, line, sizeof(line)));
		return 0;
	}
	*err = why;
	return err->num;
}

static int snapshot_held(struct build *b, struct clone *c, struct ctl_snapshotted *ret, struct err *err)
{
	struct payload_images payload = {};
	struct manifest m = {};
	bool ran = false;

	fields_init(manifest_fields, &m);
	int r = read_parent(b->d, c, &m, err);
	b->agent = c->record.identity == IDENTITY_UNMANAGED ? NULL : m.agent;
	if (r >= 0)
		payload_inherit(b->d, b->t->name, &m, &payload);
	b->payload.ready = &payload;
	pthread_mutex_lock(&c->life);
	if (r >= 0)
		r = hold(b->d, c, &ran, err);
	if (r >= 0)
		r = take_snapshot(b, c, ret, err);
	if (ran)
		clone_thaw_or_warn(b->d, c);
	pthread_mutex_unlock(&c->life);
	payload_images_done(b->d, &payload);
	fields_free(manifest_fields, &m);
	b->agent = NULL;
	b->payload.ready = NULL;
	return r;
}

int clone_snapshot(struct forkd *d, struct clone *c, const struct snapshot_wanted *wanted, const struct origin *from,
		   uint64_t *ret_paused_us, struct err *err)
{
	struct ctl_snapshotted done = {};
	struct build b;

	if (c->record.secrets && !wanted->allow_secrets)
		return fail(err, E_SECRETS,
			    "clone '%s' was given env or files by overrides.identity, or its template's was",
			    c->record.id);
	if (check_still(d, c, err) < 0 || build_begin(d, wanted->name, from, &b, err) < 0)
		return err->num;
	b.owner = least_trusted(d, from->caller, c);
	b.secrets = c->record.secrets;
	b.disks.brought = true; /* those that are not the clone's own */
	if (build_end(&b, snapshot_held(&b, c, &done, err), err) < 0)
		return err->num;
	metrics_observe_us(d->metrics, HISTOGRAM_PAUSE, done.paused_us);
	*ret_paused_us = done.paused_us;
	return 0;
}
