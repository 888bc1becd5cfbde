// SPDX-License-Identifier: Apache-2.0
/* Who has which slot. */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/errors.h"
#include "forkd/net/nft.h"
#include "forkd/net/slots_private.h"

enum { RETRY_MS = 5000, QUIET_MS = 100, LEAVING_MAX = 16, NICE = 10 };

void slots_set_locked(struct slots *s, unsigned number, enum seat_state to)
{
	struct seat *seat = &s->seats[number];

	s->n_ready -= seat->state == SEAT_READY;
	s->n_busy -= seat->state != SEAT_READY && seat->state != SEAT_FREE;
	s->n_leaving += (to == SEAT_LEAVING) - (seat->state == SEAT_LEAVING);
	seat->state = to;
	if (number > s->top)
		s->top = number;
	s->n_ready += to == SEAT_READY;
	s->n_busy += to != SEAT_READY && to != SEAT_FREE;
	pthread_cond_broadcast(&s->changed);
}

static void set(struct slots *s, unsigned number, enum seat_state to)
{
	pthread_mutex_lock(&s->lock);
	slots_set_locked(s, number, to);
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
}

/* The first seat in this state; 0: there is none. */
static unsigned find_locked(const struct slots *s, enum seat_state state)
{
	for (unsigned i = 1; i <= s->top; i++)
		if (s->seats[i].state == state)
			return i;
	return state == SEAT_FREE && s->top < s->layout.n ? s->top + 1 : 0;
}

int slots_prepare_host(struct slots *s, struct err *err)
{
	pthread_mutex_lock(&s->host_lock);
	int r = 0;
	if (!s->prepared) {
		r = slots_check_range(s, err); /* what was free at the start may be taken by now */
		r = r < 0 ? r : host_prepare(&s->layout, s->state_path, err);
		r = r < 0 ? r : host_add_servers(&s->layout, s->resolver.servers, s->resolver.n_servers, err);
		s->prepared = r >= 0;
	}
	pthread_mutex_unlock(&s->host_lock);
	return r;
}

/* ---- the thread ---- */

static int make(struct slots *s, unsigned number, struct err *err)
{
	if (slots_prepare_host(s, err) < 0)
		return err->num;
	return slot_make(&s->layout, &s->resolver, number, &s->seats[number].slot, err);
}

static void wait_locked(struct slots *s, uint64_t ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(&s->work, &s->lock, &until);
}

static void make_ahead(struct slots *s, unsigned number)
{
	struct err err = {};
	char line[ERR_MSG_BYTES];
	int r = make(s, number, &err);

	if (r < 0)
		log_error("%s", err_line(&err, line, sizeof(line)));
	pthread_mutex_lock(&s->lock);
	slots_set_locked(s, number, r < 0 ? SEAT_FREE : s->ending ? SEAT_LEAVING : SEAT_READY);
	if (r < 0 && !s->ending)
		wait_locked(s, RETRY_MS);
}

static void take_away(struct slots *s, unsigned number)
{
	struct seat *seat = &s->seats[number];

	host_remove(&s->layout, &seat->slot.place, &seat->wish);
	ports_release(&seat->ports);
	net_wish_done(&seat->wish);
	slot_close(&seat->slot);
	slot_remove(&s->layout, &s->resolver, number);
	pthread_mutex_lock(&s->lock);
	slots_set_locked(s, number, SEAT_FREE);
}

/* The next thing to do; 0: nothing. */
static unsigned next_locked(struct slots *s, bool *ret_make)
{
	unsigned number = find_locked(s, SEAT_LEAVING);

	*ret_make = false;
	if (number > 0 || s->ending || !s->begun || s->n_ready >= s->want || s->n_ready + s->n_busy >= s->max)
		return number;
	*ret_make = true;
	return find_locked(s, SEAT_FREE);
}

/*
 * How long the thread still leaves the host's network to requests, which would wait for it in the kernel; 0: not at all,
 * when slots run out, and when many wait to be removed.
 */
static uint64_t quiet_ms_locked(const struct slots *s)
{
	uint64_t passed_ms = (monotonic_ns() - s->taken_ns) / 1000000;

	if (s->ending || (s->begun && s->n_ready < s->want / 2) || s->n_ready + s->n_busy >= s->max ||
	    s->n_leaving > LEAVING_MAX)
		return 0;
	return passed_ms < QUIET_MS ? QUIET_MS - passed_ms : 0;
}

/* Waits for work; also when there is nothing to do, what is left of earlier work is put away first. */
static void rest_locked(struct slots *s)
{
	pthread_mutex_unlock(&s->lock);
	nft_tidy();
	pthread_mutex_lock(&s->lock);
	bool to_make;
	if (next_locked(s, &to_make) == 0 && !s->ending)
		pthread_cond_wait(&s->work, &s->lock);
}

/* Ends when all that leaves is gone. It gives way to the threads of requests. */
void *slots_main(void *arg)
{
	struct slots *s = arg;
	bool to_make;

	log_thread_name("slots");
	if (setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE) < 0)
		log_debug("slots: %s", strerror(errno));
	pthread_mutex_lock(&s->lock);
	for (;;) {
		unsigned number = next_locked(s, &to_make);
		if (number == 0 && s->ending)
			break;
		uint64_t ms = quiet_ms_locked(s);
		if (ms > 0) {
			wait_locked(s, ms);
			continue;
		}
		if (number == 0) {
			rest_locked(s);
			continue;
		}
		slots_set_locked(s, number, to_make ? SEAT_MAKING : SEAT_REMOVING);
		pthread_mutex_unlock(&s->lock);
		if (to_make)
			make_ahead(s, number);
		else
			take_away(s, number);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- taking ---- */

/* A ready seat, or a free one (*ret_ready false), which is the caller's to make. 0: all are in use. */
static unsigned claim(struct slots *s, bool *ret_ready)
{
	pthread_mutex_lock(&s->lock);
	s->begun = true;
	s->taken_ns = monotonic_ns();
	unsigned number = 0;
	while (!s->ending) {
		number = find_locked(s, SEAT_READY);
		*ret_ready = number > 0;
		if (number == 0 && s->n_ready + s->n_busy < s->max)
			number = find_locked(s, SEAT_FREE);
		if (number > 0 ||
		    (!find_locked(s, SEAT_LEAVING) && !find_locked(s, SEAT_REMOVING) && !find_locked(s, SEAT_MAKING)))
			break;
		pthread_cond_wait(&s->changed, &s->lock);
	}
	if (number > 0)
		slots_set_locked(s, number, *ret_ready ? SEAT_USED : SEAT_MAKING);
	pthread_cond_signal(&s->work);
	pthread_mutex_unlock(&s->lock);
	return number;
}

static int name_in_record(const struct seat *seat, const struct layout *l, struct record_net *net, struct err *err)
{
	autostrbuf struct strbuf text = {};
	char address[CIDR_TEXT_BYTES];

	net_wish_json(&seat->wish, &text);
	net->slot = strdup(seat->slot.place.name);
	net->network = steal_ptr(&text.text);
	net->address = strdup(cidr_address_text(&seat->slot.place.slot4, address));
	net->address6 = strdup(cidr_address_text(&seat->slot.place.slot6, address));
	net->guest_address = strdup(cidr_address_text(&l->guest4, address));
	net->guest_address6 = strdup(SLOT_GUEST6);
	if (net->slot && net->network && net->address && net->address6 && net->guest_address && net->guest_address6)
		return 0;
	return err_num(err, ERR_INTERNAL, ENOMEM, "make a network");
}

static int put_on(struct slots *s, struct seat *seat, const struct slot_ask *ask, struct err *err)
{
	if (!net_wish_is_plain(ask->wish)) {
		if (slot_apply(&seat->slot, &s->layout, &s->resolver, &seat->wish, err) < 0 ||
		    host_add(&s->layout, &seat->slot.place, &seat->wish, err) < 0)
			return err->num;
	}
	return slot_settle_tap(&seat->slot, ask->host_mac, ask->mtu, err);
}

/* Puts the wish into force, and opens the queues behind the first. Whatever fails, the seat leaves. */
static int dress(struct slots *s, struct seat *seat, const struct slot_ask *ask, struct record_net *net, int *ret_fds,
		 struct err *err)
{
	if (ask->queues > 1 && slot_widen(&seat->slot, &s->layout, &s->resolver, ret_fds, ask->queues, err) < 0)
		return err->num;
	if (put_on(s, seat, ask, err) >= 0 && name_in_record(seat, &s->layout, net, err) >= 0)
		return 0;
	for (uint32_t i = 1; i < ask->queues; i++)
		close(ret_fds[i]);
	return err->num;
}

static int check_ask(const struct slots *s, const struct slot_ask *ask, struct err *err)
{
	if (!s->resolver.fills_sets && ask->wish->egress == EGRESS_LIST && net_wish_has_domains(ask->wish))
		return fail(err, E_BAD_OVERRIDE,
			    "overrides.network.egress: rules by domain need a dnsmasq with nftset (2.87 or later); use "
			    "addresses");
	return 0;
}

int slots_take(struct slots *s, const struct slot_ask *ask, struct record_net *net, int ret_fds[TAP_QUEUES_MAX],
	       struct err *err)
{
	autonetwish struct net_wish wish = {};
	struct held_ports ports = {};
	bool ready;

	if (check_ask(s, ask, err) < 0)
		return err->num;
	if (net_wish_copy(ask->wish, &wish, err) < 0 || ports_hold(&wish, ask->trusted, &ports, err) < 0)
		return err->num; /* before a slot is used up */
	unsigned number = claim(s, &ready);
	struct seat *seat = &s->seats[number];
	if (number == 0)
		fail(err, E_BUSY, "all %u networks for clones are in use (--network-slots-max)", s->max);
	else if (!ready && make(s, number, err) < 0)
		set(s, number, SEAT_FREE);
	if (err->code) {
		ports_release(&ports);
		return err->num;
	}
	seat->wish = wish;
	seat->ports = ports;
	wish = (struct net_wish){};
	snprintf(seat->clone, sizeof(seat->clone), "%s", ask->clone);
	if (dress(s, seat, ask, net, ret_fds, err) < 0) {
		set(s, number, SEAT_LEAVING);
		return err->num;
	}
	ret_fds[0] = steal_fd(&seat->slot.tap_fd);
	if (!ready)
		set(s, number, SEAT_USED);
	return 0;
}

/* ---- giving back ---- */

void slots_give(struct slots *s, const struct record *r)
{
	if (!s || s->why_not[0])
		return;
	for (uint32_t i = 0; i < r->n_net; i++) {
		unsigned number = r->net[i].slot ? layout_ns_number(&s->layout, r->net[i].slot) : 0;
		if (number == 0 || number > s->layout.n)
			continue;
		pthread_mutex_lock(&s->lock);
		const struct seat *seat = &s->seats[number];
		if (seat->state == SEAT_USED && strcmp(seat->clone, r->id) == 0)
			slots_set_locked(s, number, SEAT_LEAVING);
		s->taken_ns = monotonic_ns();
		pthread_cond_signal(&s->work);
		pthread_mutex_unlock(&s->lock);
	}
}

struct slots_count slots_count(struct slots *s)
{
	struct slots_count c = {};

	if (!s || s->why_not[0])
		return c;
	pthread_mutex_lock(&s->lock);
	c.ready = s->n_ready;
	for (unsigned i = 1; i <= s->top; i++)
		c.used += s->seats[i].state == SEAT_USED;
	pthread_mutex_unlock(&s->lock);
	return c;
}

const char *slots_missing(const struct slots *s)
{
	return !s ? "they are not started" : s->why_not[0] ? s->why_not : NULL;
}
