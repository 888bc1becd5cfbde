// SPDX-License-Identifier: Apache-2.0
/* A template as the API shows it. */
#include <string.h>

#include "forkd/body.h"
#include "forkd/errors.h"
#include "forkd/forkd.h"
#include "forkd/registry/registry.h"
#include "forkd/rest/api.h"
#include "forkd/template/disks.h"
#include "forkd/template/templates.h"

/* Adds the sizes of the files, but no digests: there is a digest for every 2 MiB. */
static void add_files(const struct manifest *m, struct strbuf *out)
{
	strbuf_puts(out, ",\"files\":[");
	for (uint32_t i = 0; i < m->n_files; i++)
		strbuf_printf(out, "%s{\"name\":\"%s\",\"bytes\":%llu,\"allocated_bytes\":%llu}", i ? "," : "",
			      m->files[i].name, (unsigned long long)m->files[i].bytes,
			      (unsigned long long)m->files[i].allocated_bytes);
	strbuf_putc(out, ']');
}

static void add_disks(const struct manifest *m, struct strbuf *out)
{
	strbuf_puts(out, ",\"disks\":[");
	for (uint32_t i = 0; i < m->n_disks; i++) {
		const struct manifest_disk *disk = &m->disks[i];
		strbuf_puts(out, i ? ",{\"id\":" : "{\"id\":");
		strbuf_json(out, disk->id, strlen(disk->id));
		json_member(out, "path", disk->path);
		strbuf_printf(out, ",\"bytes\":%llu", (unsigned long long)disk->bytes);
		json_member(out, "image", disk->image);
		strbuf_putc(out, '}');
	}
	strbuf_putc(out, ']');
}

static void add_state(struct forkd *d, const char *name, const struct manifest *m, struct strbuf *out)
{
	autofree char *lacks = tmpl_lacks(d->registry, name);
	char line[ERR_MSG_BYTES];
	struct err err = {};

	if (lacks) {
		json_member(out, "state", "incompatible");
		json_member(out, "reason", lacks);
	} else if (disks_check(d, m, &err) < 0) {
		json_member(out, "state", "incomplete");
		json_member(out, "reason", err_line(&err, line, sizeof(line)));
	} else {
		json_member(out, "state", "ready");
	}
}

int template_json(struct forkd *d, const char *name, struct strbuf *out, struct err *err)
{
	struct manifest m = {};

	fields_init(manifest_fields, &m);
	if (store_manifest(d->store, name, &m, err) < 0)
		return err->code == ERR_NOT_FOUND ? fail_as(err, E_NO_TEMPLATE, NULL) : err->num;
	strbuf_puts(out, "{\"name\":");
	strbuf_json(out, name, strlen(name));
	add_state(d, name, &m, out);
	json_member(out, "source", m.source);
	json_member(out, "parent", m.parent);
	json_member(out, "created_at", m.created_at);
	strbuf_printf(out, ",\"ram_bytes\":%llu,\"vcpus\":%u", (unsigned long long)m.ram_bytes, m.vcpus);
	json_member(out, "host_cpu", m.host_cpu);
	strbuf_puts(out, ",\"needs\":");
	if (m.needs)
		fields_save(host_needs_fields, m.needs, out);
	else
		strbuf_puts(out, "null");
	strbuf_puts(out, ",\"agent\":");
	if (m.agent) {
		strbuf_puts(out, "{\"version\":");
		strbuf_json(out, m.agent->version, strlen(m.agent->version));
		strbuf_printf(out, ",\"protocol\":%u}", m.agent->protocol);
	} else
		strbuf_puts(out, "null");
	strbuf_printf(out, ",\"secrets\":%s,\"reboots\":%s", m.secrets ? "true" : "false",
		      m.payload ? "true" : "false");
	json_member(out, "program_version", m.program_version);
	strbuf_printf(out, ",\"format\":%u,\"clones\":%u", m.format, registry_count(d->registry, name));
	add_files(&m, out);
	add_disks(&m, out);
	strbuf_putc(out, '}');
	fields_free(manifest_fields, &m);
	return 0;
}

int snapshotted_json(struct forkd *d, const char *name, uint64_t paused_us, struct strbuf *out, struct err *err)
{
	strbuf_puts(out, "{\"template\":");
	if (template_json(d, name, out, err) < 0)
		return err->num;
	strbuf_printf(out, ",\"paused_us\":%llu}", (unsigned long long)paused_us);
	return 0;
}
