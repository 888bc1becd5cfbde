// SPDX-License-Identifier: Apache-2.0
/* From a snapshot to a published template. */
#include "forkd/template/import.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/access/policy.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/metrics.h"
#include "forkd/template/template_host.h"
#include "forkd/template/templates.h"
#include "store/store.h"

int build_begin(struct forkd *d, const char *name, const struct origin *from, struct build *ret, struct err *err)
{
	struct build b = { .d = d, .owner = *from->caller, .begun_ns = from->accepted_ns };

	if (tmpl_reserve(d->registry, name, &b.t, err) < 0)
		return err->num;
	events_emit(d->events, "template.building", name, NULL, NULL);
	*ret = b;
	return 0;
}

void build_step(const struct build *b, const char *step)
{
	char extra[96];

	tmpl_step(b->d->registry, b->t, step);
	snprintf(extra, sizeof(extra), "\"step\":\"%s\"", step);
	events_emit(b->d->events, "template.progress", b->t->name, NULL, extra);
}

int build_end(const struct build *b, int r, const struct err *err)
{
	char name[STORE_NAME_MAX + 1];
	autostrbuf struct strbuf extra = {};

	memcpy(name, b->t->name, sizeof(name));
	if (r >= 0) {
		tmpl_ready(b->d->registry, b->t);
		metrics_count(b->d->metrics, METRIC_TEMPLATES_CREATED, 1);
		metrics_observe_us(b->d->metrics, HISTOGRAM_TEMPLATE, (monotonic_ns() - b->begun_ns) / 1000);
		events_emit(b->d->events, "template.ready", name, NULL, NULL);
		return r;
	}
	tmpl_forget(b->d->registry, b->t);
	metrics_count(b->d->metrics, METRIC_TEMPLATES_FAILED, 1);
	strbuf_puts(&extra, "\"error\":");
	error_json(err, &extra);
	events_emit(b->d->events, "template.failed", name, NULL, extra.text);
	return r;
}

static int describe_agent(const struct build *b, struct manifest *m, struct err *err)
{
	m->secrets = b->secrets;
	if (!b->agent)
		return 0;
	m->agent = malloc(sizeof(*m->agent));
	if (!m->agent)
		return err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
	*m->agent = (struct manifest_agent){ .version = strdup(b->agent->version), .protocol = b->agent->protocol };
	return m->agent->version ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
}

/* Lists the disks, and what boots; what the store does not have yet is copied. */
static int take_files(const struct build *b, const struct ctl_template *info, struct manifest *m, struct err *err)
{
	struct disks_wanted disks = b->disks;
	struct payload_wanted payload = b->payload;

	disks.who = payload.who = &b->owner;
	payload.name = b->t->name;
	return disks_list(b->d, info, &disks, m, err) < 0 ? err->num : payload_list(b->d, info, &payload, m, err);
}

static int seal(const struct build *b, struct staged *s, struct manifest *m, const char *source, const char *parent,
		struct err *err)
{
	m->name = strdup(b->t->name);
	m->source = strdup(source);
	m->parent = parent ? strdup(parent) : NULL;
	build_step(b, "sealing");
	return !m->name || !m->source || !m->needs ? err_num(err, ERR_INTERNAL, ENOMEM, "describe the template")
						   : staged_seal(s, m, err);
}

int build_publish(const struct build *b, struct staged **s, const char *source, const char *parent, struct err *err)
{
	struct manifest m = {};
	struct template_host *host = NULL;

	build_step(b, "checking");
	if (template_host_start(b->d, b->t->name, staged_dir(*s), 0, &host, err) < 0)
		return err->num;
	fields_init(manifest_fields, &m);
	m.ram_bytes = host->info.ram_bytes;
	m.vcpus = host->info.vcpus;
	m.host_cpu = steal_ptr(&host->info.host_cpu);
	m.needs = malloc(sizeof(*m.needs));
	if (m.needs) {
		*m.needs = host->info.needs;
		host->info.needs = (struct host_needs){};
	}
	m.owner_uid = b->owner.local ? b->owner.uid : OWNER_REMOTE;
	int r = describe_agent(b, &m, err);
	if (r >= 0)
		r = take_files(b, &host->info, &m, err);
	template_host_stop(host);
	if (r >= 0)
		r = disks_check(b->d, &m, err);
	if (r >= 0)
		r = seal(b, *s, &m, source, parent, err);
	disks_release(b->d, &m);
	payload_release(b->d, &m);
	fields_free(manifest_fields, &m);
	return r < 0 ? r : staged_publish(s, b->t->name, err);
}

void snapshot_source_close(struct snapshot_source *s)
{
	for (unsigned i = 0; i < STORE_FILES; i++)
		auto_close_p(&s->files[i].fd);
}

int snapshot_source_open(const struct forkd *d, const struct caller *c, const char *path, struct snapshot_source *ret,
			 struct err *err)
{
	autoclose int dir_fd = policy_open_source_dir(d->policy, c, path, err);

	if (dir_fd < 0)
		return err->num;
	for (unsigned i = 0; i < STORE_FILES; i++) {
		struct store_source *f = &ret->files[i];
		f->fd = policy_open_source(d->policy, c, dir_fd, snapshot_files[i], err);
		if (f->fd < 0)
			return err_wrap(err, "'%s'", path);
		if (fstat(f->fd, &f->st) < 0)
			return err_sys(err, ERR_INTERNAL, "look at %s", snapshot_files[i]);
	}
	return 0;
}

int build_from_files(struct build *b, const struct snapshot_source *files, const char *source, struct err *err)
{
	struct staged *s = NULL;

	b->payload.by_name = true;
	build_step(b, "importing");
	int r = store_stage(b->d->store, &s, err);
	if (r >= 0)
		r = staged_import(s, files->files, source, err);
	if (r < 0 && (err->code == ERR_INVALID || err->code == ERR_NOT_FOUND) && !err->detail)
		fail_as(err, E_BAD_SNAPSHOT, NULL);
	if (r >= 0)
		r = build_publish(b, &s, source, NULL, err);
	staged_discard(s);
	return r;
}
