// SPDX-License-Identifier: Apache-2.0
/* Matches what a request wants with what the template has: clone_plans() of clone_request.h. */
#include <errno.h>
#include <net/if.h>
#include <string.h>

#include "common/mac.h"
#include "forkd/clone/clone_request.h"
#include "forkd/errors.h"

/* The ids of the template's nets, "a, b" or "none", for messages about an unknown id. */
static void known_nets(const struct ctl_template *t, struct strbuf *out)
{
	for (uint32_t i = 0; i < t->n_nets; i++)
		strbuf_printf(out, "%s%s", i ? ", " : "", t->nets[i].id);
	if (t->n_nets == 0)
		strbuf_puts(out, "none");
}

static void known_disks(const struct ctl_template *t, struct strbuf *out)
{
	for (uint32_t i = 0; i < t->n_disks; i++)
		strbuf_printf(out, "%s%s", i ? ", " : "", t->disks[i].id);
	if (t->n_disks == 0)
		strbuf_puts(out, "none");
}

static int plan_fds(const struct clone_spec *s, const struct ctl_template *t, struct clone_plan *plan,
		    uint32_t *next_fd, struct err *err)
{
	for (uint32_t i = 0; i < s->n_net_fds; i++) {
		const struct net_fds *f = &s->net_fds[i];
		int n = LIST_FIND_ID(t->nets, t->n_nets, f->id);
		if (n < 0) {
			autostrbuf struct strbuf ids = {};
			known_nets(t, &ids);
			return fail(err, E_BAD_FDS, "net_fds[%u]: the template has no net '%s'; its nets: %s", i, f->id,
				    ids.text);
		}
		if (plan->nets[n].from == NET_FDS)
			return fail(err, E_BAD_FDS, "net_fds[%u]: net '%s' is named twice", i, f->id);
		if (f->num_fds != t->nets[n].num_fds)
			return fail(err, E_BAD_FDS, "net_fds[%u]: num_fds %u for net '%s', which has %u queue pairs", i,
				    f->num_fds, f->id, t->nets[n].num_fds);
		plan->nets[n] = (struct net_plan){ .from = NET_FDS, .first_fd = *next_fd };
		*next_fd += f->num_fds;
	}
	return 0;
}

static int plan_host_mac(const struct host_object *o, struct net_plan *net, unsigned i, struct err *err)
{
	uint8_t mac[MAC_BYTES];

	if (!mac_parse(o->host_mac, mac))
		return fail(err, E_BAD_OVERRIDE, "overrides.net[%u].host_mac: '%.40s' is not a MAC address", i,
			    o->host_mac);
	if (net->from == NET_FDS)
		return fail(err, E_BAD_OVERRIDE,
			    "overrides.net[%u].host_mac: the tap of net '%s' comes as a descriptor, and stays as it is",
			    i, o->id);
	net->host_mac = o->host_mac;
	return 0;
}

static int plan_nets(const struct clone_spec *s, const struct ctl_template *t, struct clone_plan *plan, struct err *err)
{
	for (uint32_t i = 0; i < s->n_nets; i++) {
		const struct host_object *o = &s->nets[i];
		int n = LIST_FIND_ID(t->nets, t->n_nets, o->id);
		if (n < 0) {
			autostrbuf struct strbuf ids = {};
			known_nets(t, &ids);
			return fail(err, E_BAD_OVERRIDE,
				    "overrides.net[%u]: the template has no net '%s'; its nets: %s", i, o->id,
				    ids.text);
		}
		if (plan->nets[n].tap || (o->tap && plan->nets[n].from == NET_FDS))
			return fail(err, E_BAD_OVERRIDE, "overrides.net[%u]: net '%s' gets a tap twice", i, o->id);
		if (o->host_mac && plan_host_mac(o, &plan->nets[n], i, err) < 0)
			return err->num;
		if (!o->tap)
			continue;
		if (o->tap[0] == '\0' || strlen(o->tap) >= IFNAMSIZ || strpbrk(o->tap, "/%: \t\n") ||
		    strcmp(o->tap, ".") == 0 || strcmp(o->tap, "..") == 0)
			return fail(err, E_BAD_OVERRIDE, "overrides.net[%u].tap: '%.40s' is not a name of an interface",
				    i, o->tap);
		plan->nets[n].from = NET_TAP;
		plan->nets[n].tap = o->tap;
	}
	return 0;
}

/* The first net that has no tap yet gets the slot. */
static int plan_slot(const struct clone_spec *s, const struct ctl_template *t, const char *no_slots,
		     struct clone_plan *plan, struct err *err)
{
	if (s->network.given && no_slots)
		return fail(err, E_BAD_OVERRIDE, "overrides.network: clones have no networks here: %s", no_slots);
	for (uint32_t n = 0; n < t->n_nets && !no_slots; n++) {
		if (plan->nets[n].from == NET_AUTO) {
			plan->nets[n].from = NET_SLOT;
			return 0;
		}
	}
	if (s->network.given)
		return fail(err, E_BAD_OVERRIDE,
			    "overrides.network: the clone has no net without a tap of the request");
	return 0;
}

static int plan_disks(const struct clone_spec *s, const struct template_host *host, struct clone_plan *plan,
		      struct err *err)
{
	const struct ctl_template *t = &host->info;

	for (uint32_t i = 0; i < s->n_disks; i++) {
		const struct host_object *o = &s->disks[i];
		int n = LIST_FIND_ID(t->disks, t->n_disks, o->id);
		if (n < 0) {
			autostrbuf struct strbuf ids = {};
			known_disks(t, &ids);
			return fail(err, E_BAD_OVERRIDE,
				    "overrides.disks[%u]: the template has no disk '%s'; its disks: %s", i, o->id,
				    ids.text);
		}
		if (plan->disks[n].path)
			return fail(err, E_BAD_OVERRIDE, "overrides.disks[%u]: disk '%s' is named twice", i, o->id);
		plan->disks[n].path = o->path;
	}
	for (uint32_t n = 0; n < t->n_disks; n++)
		if (!t->disks[n].readonly && !plan->disks[n].path && !(host->chains && host->chains[n]))
			return fail(
				err, E_DISK_SHARED,
				"disk '%s' (%s) is writable, and the template has no image of it: each clone needs a path of its own for it",
				t->disks[n].id, t->disks[n].path ? t->disks[n].path : "no path");
	return 0;
}

/* ---- what can exist only once ---- */

struct once {
	const char *what, *name;
	unsigned clone;
};

struct onces {
	struct once *list;
	unsigned n, cap;
	bool failed;
};

static void add_once(struct onces *o, const char *what, const char *name, unsigned clone)
{
	if (o->n == o->cap) {
		unsigned cap = o->cap ? o->cap * 2 : 64;
		struct once *list = reallocarray(o->list, cap, sizeof(*list));
		o->failed |= !list;
		if (!list)
			return;
		o->list = list;
		o->cap = cap;
	}
	o->list[o->n++] = (struct once){ what, name, clone };
}

static void collect(struct onces *o, const struct clone_spec *s, const struct ctl_template *t,
		    const struct clone_plan *plan, unsigned clone)
{
	for (uint32_t i = 0; i < t->n_nets; i++)
		if (plan->nets[i].from == NET_TAP)
			add_once(o, "tap", plan->nets[i].tap, clone);
	for (uint32_t i = 0; i < t->n_disks; i++)
		if (plan->disks[i].path && !t->disks[i].readonly)
			add_once(o, "writable disk", plan->disks[i].path, clone);
	if (s->serial.file)
		add_once(o, "file", s->serial.file, clone);
	if (s->console.file)
		add_once(o, "file", s->console.file, clone);
	if (s->vsock_socket)
		add_once(o, "socket", s->vsock_socket, clone);
}

static int by_name(const void *a, const void *b)
{
	const struct once *x = a, *y = b;
	int r = strcmp(x->what, y->what);

	return r ? r : strcmp(x->name, y->name);
}

static int check_once(struct onces *o, const struct clone_request *rq, struct err *err)
{
	if (o->failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "check the request");
	if (rq->count > rq->n_specs && rq->specs[0].n_net_fds > 0)
		return fail(err, E_INVALID, "net_fds can be used by one clone only: count is %u", rq->count);
	if (rq->count > rq->n_specs && o->n > 0)
		return fail(err, E_INVALID, "%s '%s' can be used by one clone only: count is %u", o->list[0].what,
			    o->list[0].name, rq->count);
	if (o->n > 0)
		qsort(o->list, o->n, sizeof(*o->list), by_name);
	for (unsigned i = 1; i < o->n; i++)
		if (by_name(&o->list[i - 1], &o->list[i]) == 0)
			return fail(err, E_INVALID,
				    "%s '%s' is used twice (clones[%u], clones[%u]): it can be used by one only",
				    o->list[i].what, o->list[i].name, o->list[i - 1].clone, o->list[i].clone);
	return 0;
}

static int make_plans(const struct clone_request *rq, const struct template_host *host, uint32_t n_fds,
		      const char *no_slots, struct clone_plan *plans, struct onces *onces, struct err *err)
{
	const struct ctl_template *t = &host->info;
	uint32_t next_fd = 0;

	for (unsigned i = 0; i < rq->count; i++) {
		const struct clone_spec *s = clone_request_spec(rq, i);
		uint32_t first = 0, *fd = i < rq->n_specs ? &next_fd : &first;
		plans[i].nets = calloc(t->n_nets + 1UL, sizeof(*plans[i].nets));
		plans[i].disks = calloc(t->n_disks + 1UL, sizeof(*plans[i].disks));
		if (!plans[i].nets || !plans[i].disks)
			return err_num(err, ERR_INTERNAL, ENOMEM, "plan the clones");
		if (plan_fds(s, t, &plans[i], fd, err) < 0 || plan_nets(s, t, &plans[i], err) < 0 ||
		    plan_slot(s, &host->info, no_slots, &plans[i], err) < 0 || plan_disks(s, host, &plans[i], err) < 0)
			return rq->n_specs > 1 ? err_wrap(err, "clones[%u]", i) : err->num;
		if (i < rq->n_specs)
			collect(onces, s, t, &plans[i], i);
	}
	if (next_fd != n_fds)
		return fail(err, E_BAD_FDS, "net_fds names %u descriptors, %u came with the request", next_fd, n_fds);
	return 0;
}

int clone_plans(const struct clone_request *rq, const struct template_host *host, uint32_t n_fds, const char *no_slots,
		struct clone_plan **ret, struct err *err)
{
	struct onces onces = {};
	struct clone_plan *plans = calloc(rq->count, sizeof(*plans));

	if (!plans)
		return err_num(err, ERR_INTERNAL, ENOMEM, "plan the clones");
	int r = make_plans(rq, host, n_fds, no_slots, plans, &onces, err);
	if (r >= 0)
		r = check_once(&onces, rq, err);
	free(onces.list);
	if (r < 0) {
		plans_free(plans, rq->count);
		return r;
	}
	*ret = plans;
	return 0;
}

void plans_free(struct clone_plan *plans, unsigned n)
{
	for (unsigned i = 0; plans && i < n; i++) {
		free(plans[i].nets);
		free(plans[i].disks);
	}
	free(plans);
}
