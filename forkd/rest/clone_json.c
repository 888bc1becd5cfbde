// SPDX-License-Identifier: Apache-2.0
/* A clone as the API shows it. */
#include <string.h>

#include "common/ctl.h"
#include "forkd/access/place.h"
#include "forkd/body.h"
#include "forkd/registry/registry.h"
#include "forkd/rest/api.h"

static void add_phase(struct strbuf *out, const char *key, uint64_t at_ns, uint64_t begun_ns)
{
	strbuf_printf(out, "%s\"%s\":", out->text[out->len - 1] == '{' ? "" : ",", key);
	if (at_ns > begun_ns)
		strbuf_u64(out, (at_ns - begun_ns) / 1000);
	else
		strbuf_puts(out, "null");
}

static void add_phases(const struct clone *c, struct strbuf *out)
{
	const uint64_t begun_ns = c->record.begun_ns;

	strbuf_puts(out, ",\"phases_us\":{");
	add_phase(out, "accepted", c->record.accepted_ns, begun_ns);
	add_phase(out, "restored", c->restored_ns, begun_ns);
	add_phase(out, "resumed", c->resumed_ns, begun_ns);
	add_phase(out, "agent", c->agent_ns, begun_ns);
	add_phase(out, "identity", c->identity_ns, begun_ns);
	add_phase(out, "ready", c->ready_ns, begun_ns);
	strbuf_putc(out, '}');
}

static void add_slot(const struct record_net *net, struct strbuf *out)
{
	json_member(out, "slot", net->slot);
	json_member(out, "address", net->address);
	json_member(out, "address6", net->address6);
	json_member(out, "guest_address", net->guest_address);
	json_member(out, "guest_address6", net->guest_address6);
	strbuf_printf(out, ",\"network\":%s", net->network);
}

static void add_nets(const struct record *r, struct strbuf *out)
{
	strbuf_puts(out, ",\"net\":[");
	for (uint32_t i = 0; i < r->n_net; i++) {
		strbuf_puts(out, i ? ",{\"id\":" : "{\"id\":");
		strbuf_json(out, r->net[i].id, strlen(r->net[i].id));
		json_member(out, "tap", r->net[i].tap);
		if (r->net[i].slot)
			add_slot(&r->net[i], out);
		if (r->net[i].lost)
			strbuf_puts(out, ",\"lost\":true");
		strbuf_putc(out, '}');
	}
	strbuf_putc(out, ']');
}

/* The disks of the clone's own. */
static void add_disks(const struct record *r, struct strbuf *out)
{
	strbuf_puts(out, ",\"disks\":[");
	for (uint32_t i = 0; i < r->n_disks; i++) {
		strbuf_puts(out, i ? ",{\"id\":" : "{\"id\":");
		strbuf_json(out, r->disks[i].id, strlen(r->disks[i].id));
		json_member(out, "path", r->disks[i].gone ? NULL : r->disks[i].path);
		json_member(out, "image", r->disks[i].image);
		strbuf_putc(out, '}');
	}
	strbuf_putc(out, ']');
}

/* Adds the members that are settled once the clone's process runs. */
static void add_made(struct forkd *d, const struct clone *c, struct strbuf *out)
{
	const struct record *r = &c->record;
	autofree char *dir = place_path(d, "clones", r->id), *api = NULL;

	if (c->state == CLONE_EXITED || !dir || asprintf(&api, "%s/api.sock", dir) < 0)
		api = NULL;
	strbuf_printf(out, ",\"pid\":%u", r->pid);
	json_member(out, "api_socket", api);
	json_member(out, "vsock_socket", r->vsock_socket);
	json_member(out, "serial", r->serial);
	json_member(out, "serial_socket", r->serial_socket);
	json_member(out, "console", r->console);
	json_member(out, "console_socket", r->console_socket);
	add_nets(r, out);
	add_disks(r, out);
	json_member(out, "identity", identity_states[r->identity]);
	if (r->secrets)
		strbuf_puts(out, ",\"secrets\":true");
	strbuf_printf(out, ",\"reboots\":%u", c->reboots);
	json_member(out, "memory_restore_mode", ctl_memory_modes[r->memory_restore_mode]);
	json_member(out, "clock", ctl_clocks[r->clock]);
	add_phases(c, out);
}

void clone_json(struct forkd *d, struct clone *c, const struct strbuf *stats, struct strbuf *out)
{
	const struct record *r = &c->record;

	pthread_mutex_lock(&d->registry->lock);
	strbuf_puts(out, "{\"id\":");
	strbuf_json(out, r->id, strlen(r->id));
	json_member(out, "template", r->template);
	json_member(out, "state", clone_states[c->state]);
	if (c->state == CLONE_PAUSED || c->state == CLONE_RUNNING)
		strbuf_printf(out, ",\"responsive\":%s", c->line == LINE_UP ? "true" : "false");
	if (c->state != CLONE_CREATING)
		add_made(d, c, out);
	strbuf_puts(out, ",\"labels\":");
	labels_json(r->labels, r->n_labels, out);
	strbuf_printf(out, ",\"ttl_s\":%llu", (unsigned long long)r->ttl_s);
	json_member(out, "created_at", r->created_at);
	if (c->state == CLONE_EXITED) {
		strbuf_printf(out, ",\"exit\":{\"code\":%d", c->exit_code);
		json_member(out, "reason", c->exit_reason);
		strbuf_putc(out, '}');
	}
	if (stats && stats->text)
		strbuf_printf(out, ",\"stats\":{%s}", stats->text);
	strbuf_putc(out, '}');
	pthread_mutex_unlock(&d->registry->lock);
}
