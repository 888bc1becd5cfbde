// SPDX-License-Identifier: Apache-2.0
/* Whether a host can have slots; slots of an earlier daemon; the end. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/log.h"
#include "forkd/errors.h"
#include "forkd/net/links.h"
#include "forkd/net/netns.h"
#include "forkd/net/nft.h"
#include "forkd/net/rules.h"
#include "forkd/net/slots_private.h"
#include "forkd/options.h"

#define RESOLV_CONF "/etc/resolv.conf"
#define RESOLV_CONF_OF_SYSTEMD "/run/systemd/resolve/resolv.conf"
#define RANGES_TRIED 16 /* 10.201.0.0/16 and those after it */

/* ---- what the host can do ---- */

/* In a namespace that goes again: the rules of a slot, the host's table, and a pair of interfaces. */
static int try_out(void *arg, struct err *err)
{
	const struct layout *l = arg;
	const struct net_wish none = {};
	autostrbuf struct strbuf text = {};
	autolinks struct links *links = NULL;

	rules_text(l, &none, NULL, 0, &text);
	if (!l->tag[0])
		strbuf_puts(&text, "delete table inet " SLOT_TABLE "\n"); /* both have this name */
	host_table_text(l, &text);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "try the rules out");
	if (nft_run(text.text, "try the rules out", err) < 0 || links_open(&links, err) < 0)
		return err->num;
	return links_veth(links, "fn-a", "fn-b", -1, err);
}

static int probe(struct slots *s, const struct forkd_options *opt, struct err *err)
{
	if (opt->network == NETWORK_OFF)
		return err_set(err, ERR_INVALID, "forkd runs with --network off");
	if (geteuid() != 0)
		return err_set(err, ERR_INVALID, "forkd does not run as root");
	if (access("/run", W_OK) < 0 || access("/proc/sys/net/ipv4/ip_forward", W_OK) < 0)
		return err_sys(err, ERR_INTERNAL, "/run and /proc/sys/net cannot be written");
	if (access("/proc/sys/net/ipv6", F_OK) < 0)
		return err_sys(err, ERR_INTERNAL, "the kernel has no IPv6");
	if (resolver_find(&s->resolver, err) < 0)
		return err->num;
	return netns_run(-1, try_out, &s->layout, err);
}

/* ---- the range ---- */

/* The range that is there goes on as long as one of its slots; else one that collides with nothing. */
static int choose_range(struct slots *s, const struct forkd_options *opt, const char *runtime_dir, struct err *err)
{
	const char *inner = opt->network_inner ? opt->network_inner : SLOT_INNER_DEFAULT;
	struct host_state state = {};
	bool found;

	if (host_state_load(s->state_path, &state, &found, err) < 0)
		return err->num;
	int r = layout_make(runtime_dir,
			    found                ? state.range
			    : opt->network_range ? opt->network_range
						 : SLOT_RANGE_DEFAULT,
			    found ? state.inner : inner, &s->layout, err);
	if (r >= 0 && found && opt->network_range && strcmp(state.range, opt->network_range) != 0)
		log_warn("networks keep the range %s until the last of them is gone", state.range);
	host_state_done(&state);
	return r;
}

int slots_check_range(struct slots *s, struct err *err)
{
	const struct forkd_options *opt = s->d->options;
	autolinks struct links *links = NULL;
	char range[32];

	if (access(s->state_path, F_OK) == 0)
		return 0; /* its own slots are there */
	if (links_open(&links, err) < 0)
		return err->num;
	for (unsigned i = 0; i < RANGES_TRIED; i++) {
		autofree char *what = NULL;
		if (links_collision(links, &s->layout.range4, s->layout.veth_prefix, &what, err) < 0)
			return err->num;
		if (!what)
			return 0;
		if (opt->network_range || i + 1 == RANGES_TRIED)
			return err_set(err, ERR_CONFLICT,
				       "the range of networks collides with %s; give --network-range", what);
		snprintf(range, sizeof(range), "10.%u.0.0/16", 202 + i);
		log_warn("networks take the range %s: the one before it collides with %s", range, what);
		if (layout_make(s->d->runtime_dir, range, opt->network_inner ? opt->network_inner : SLOT_INNER_DEFAULT,
				&s->layout, err) < 0)
			return err->num;
	}
	return 0;
}

/* ---- slots of an earlier daemon ---- */

static void find_slot(void *arg, const char *name)
{
	struct slots *s = arg;
	unsigned number = layout_ns_number(&s->layout, name);

	if (number == 0 || number > s->layout.n)
		return;
	slots_set_locked(s, number, SEAT_FOUND);
	s->seats[number].slot.place = layout_place(&s->layout, number);
}

static int adopt(struct seat *seat, const struct record *r, const char *network, struct err *err)
{
	if (network && net_wish_parse(network, &seat->wish, err) < 0)
		return err->num;
	snprintf(seat->clone, sizeof(seat->clone), "%s", r->id);
	if (netns_open(seat->slot.place.name, &seat->slot.ns_fd, err) < 0)
		return err->num;
	return ports_hold(&seat->wish, true, &seat->ports, err);
}

void slots_adopt(struct slots *s, const struct record *r)
{
	if (!s || s->why_not[0])
		return;
	for (uint32_t i = 0; i < r->n_net; i++) {
		unsigned number = r->net[i].slot ? layout_ns_number(&s->layout, r->net[i].slot) : 0;
		struct err err = {};
		char line[ERR_MSG_BYTES];
		if (number == 0 || number > s->layout.n || s->seats[number].state != SEAT_FOUND)
			continue;
		if (adopt(&s->seats[number], r, r->net[i].network, &err) < 0)
			log_error("clone %s: network '%s': %s", r->id, r->net[i].slot,
				  err_line(&err, line, sizeof(line)));
		pthread_mutex_lock(&s->lock);
		slots_set_locked(s, number, SEAT_USED);
		pthread_mutex_unlock(&s->lock);
	}
}

/* The host's table may be gone, with all that the slots had in it: what is there already stays as it is. */
static void renew_host(struct slots *s)
{
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (slots_prepare_host(s, &err) < 0) {
		log_error("%s", err_line(&err, line, sizeof(line)));
		return;
	}
	for (unsigned i = 1; i <= s->layout.n; i++) {
		const struct seat *seat = &s->seats[i];
		struct err why = {};
		if (seat->state == SEAT_USED && host_add(&s->layout, &seat->slot.place, &seat->wish, &why) < 0)
			log_error("network '%s': %s", seat->slot.place.name, err_line(&why, line, sizeof(line)));
	}
}

static int start_thread(struct slots *s, struct err *err)
{
	int r = pthread_create(&s->thread, NULL, slots_main, s);

	if (r != 0)
		return err_num(err, ERR_INTERNAL, r, "start a thread for networks");
	s->has_thread = true;
	return 0;
}

void slots_settle(struct slots *s)
{
	struct err err = {};
	unsigned used = 0, found = 0;

	if (!s || s->why_not[0])
		return;
	for (unsigned i = 1; i <= s->layout.n; i++)
		used += s->seats[i].state == SEAT_USED;
	if (used > 0)
		renew_host(s);
	pthread_mutex_lock(&s->lock);
	for (unsigned i = 1; i <= s->layout.n; i++) {
		if (s->seats[i].state != SEAT_FOUND)
			continue;
		slots_set_locked(s, i, SEAT_LEAVING);
		found++;
	}
	pthread_mutex_unlock(&s->lock);
	if (used > 0 || found > 0)
		log_info("networks of an earlier daemon: %u in use, %u removed", used, found);
	if (start_thread(s, &err) < 0)
		log_error("%s", err.msg);
}

/* ---- start and stop ---- */

static void free_all(struct slots *s)
{
	for (unsigned i = 1; s->seats && i <= s->layout.n; i++) {
		slot_close(&s->seats[i].slot);
		ports_release(&s->seats[i].ports);
		net_wish_done(&s->seats[i].wish);
	}
	free(s->seats);
	free(s->state_path);
	resolver_setup_done(&s->resolver);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->host_lock);
	pthread_cond_destroy(&s->work);
	pthread_cond_destroy(&s->changed);
	free(s);
}

static int open_files(struct slots *s, const char *runtime_dir, struct err *err)
{
	if (asprintf(&s->state_path, "%s/network.json", runtime_dir) < 0) {
		s->state_path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "start networks");
	}
	if (asprintf(&s->resolver.dir, "%s/resolvers", runtime_dir) < 0) {
		s->resolver.dir = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "start networks");
	}
	return 0;
}

static int begin(struct slots *s, struct forkd *d, struct err *err)
{
	const struct forkd_options *opt = d->options;

	if (open_files(s, d->runtime_dir, err) < 0 || choose_range(s, opt, d->runtime_dir, err) < 0 ||
	    probe(s, opt, err) < 0 || slots_check_range(s, err) < 0)
		return err->num;
	if (mkdir(s->resolver.dir, 0755) < 0 && errno != EEXIST)
		return err_sys(err, ERR_INTERNAL, "make directory '%s'", s->resolver.dir);
	s->seats = calloc(s->layout.n + 1UL, sizeof(*s->seats));
	if (!s->seats)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start networks");
	for (unsigned i = 0; i <= s->layout.n; i++)
		s->seats[i].slot.ns_fd = s->seats[i].slot.tap_fd = -1;
	resolver_read_servers(&s->resolver, RESOLV_CONF, RESOLV_CONF_OF_SYSTEMD);
	s->want = opt->network_slots;
	s->max = opt->network_slots_max < s->layout.n ? opt->network_slots_max : s->layout.n;
	s->begun = opt->has_network_slots && s->want > 0;
	netns_each(find_slot, s);
	return 0;
}

int slots_start(struct forkd *d, struct slots **ret, struct err *err)
{
	struct slots *s = calloc(1, sizeof(*s));

	if (!s)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start networks");
	s->d = d;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->host_lock, NULL);
	pthread_cond_init(&s->work, NULL);
	pthread_cond_init(&s->changed, NULL);
	if (begin(s, d, err) < 0) {
		if (d->options->network == NETWORK_ON || err->code == ERR_CONFLICT) {
			free_all(s);
			return err_wrap(err, "networks for clones");
		}
		err_line(err, s->why_not, sizeof(s->why_not));
		*err = (struct err){};
		if (d->options->network != NETWORK_OFF)
			log_info("clones get no networks of their own, but bare taps: %s", s->why_not);
	}
	*ret = s;
	return 0;
}

static void end_thread(struct slots *s)
{
	pthread_mutex_lock(&s->lock);
	s->ending = true;
	for (unsigned i = 1; i <= s->layout.n; i++)
		if (s->seats[i].state == SEAT_READY)
			slots_set_locked(s, i, SEAT_LEAVING);
	pthread_cond_broadcast(&s->work);
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
	if (s->has_thread)
		pthread_join(s->thread, NULL);
}

void slots_stop(struct slots *s)
{
	unsigned used = 0;

	if (!s)
		return;
	if (!s->why_not[0]) {
		end_thread(s);
		for (unsigned i = 1; i <= s->layout.n; i++)
			used += s->seats[i].state != SEAT_FREE && s->seats[i].state != SEAT_READY;
		if (used == 0)
			host_restore(&s->layout, s->state_path);
		if (used == 0)
			rmdir(s->resolver.dir);
		nft_tidy();
	}
	free_all(s);
}
