// SPDX-License-Identifier: Apache-2.0
/* The thread that makes disks ahead, and where they wait. */
#include "forkd/template/spare_disks.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "forkd/template/template_host.h"
#include "forkd/wire/control.h"

enum { IDLE_MS = 3 };

struct spare_disks {
	struct forkd *d;
	pthread_mutex_t lock;
	struct store_chain *const *chains;
	uint32_t n_chains;
	unsigned each;
	struct {
		struct store_overlay ready[CTL_PARK_MAX];
		unsigned n;
	} * disks;    /* under lock */
	bool queued;  /* under the maker's lock */
	uint64_t due; /* likewise: CLOCK_MONOTONIC, ns */
	struct template_host *next;
};

struct spare_maker {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct template_host *queue; /* under lock; each is a reference */
	bool stopping;               /* likewise */
};

/* ---- the disks of a host ---- */

struct spare_disks *spare_disks_new(struct forkd *d, struct store_chain *const *chains, uint32_t n, unsigned each)
{
	struct spare_disks *s = each > 0 ? calloc(1, sizeof(*s)) : NULL;

	if (!s)
		return NULL;
	s->d = d;
	s->chains = chains;
	s->n_chains = n;
	s->each = each < CTL_PARK_MAX ? each : CTL_PARK_MAX;
	s->disks = calloc(n + 1UL, sizeof(*s->disks));
	pthread_mutex_init(&s->lock, NULL);
	if (!s->disks) {
		spare_disks_free(s);
		return NULL;
	}
	return s;
}

void spare_disks_free(struct spare_disks *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; s->disks && i < s->n_chains; i++)
		for (unsigned k = 0; k < s->disks[i].n; k++) {
			store_overlay_remove(s->d->store, s->disks[i].ready[k].name);
			store_overlay_done(&s->disks[i].ready[k]);
		}
	pthread_mutex_destroy(&s->lock);
	free(s->disks);
	free(s);
}

static bool take(struct spare_disks *s, uint32_t i, struct store_overlay *ret)
{
	pthread_mutex_lock(&s->lock);
	bool there = s->disks[i].n > 0;
	if (there)
		*ret = s->disks[i].ready[--s->disks[i].n];
	pthread_mutex_unlock(&s->lock);
	return there;
}

bool spare_disks_take(struct template_host *h, uint32_t i, struct store_overlay *ret)
{
	return h->spares && take(h->spares, i, ret);
}

static unsigned count(struct spare_disks *s, uint32_t i)
{
	pthread_mutex_lock(&s->lock);
	unsigned n = s->disks[i].n;
	pthread_mutex_unlock(&s->lock);
	return n;
}

/* Has the kernel read what a VM reads first of a qcow2 file, whose holes cost it pages the first time. */
static void read_ahead(const struct store_overlay *o)
{
	struct stat st;
	char buf[16384];

	if (o->type != STORE_IMAGE_QCOW2 || fstat(o->fd, &st) < 0)
		return;
	for (off_t at = 0; at < st.st_size; at += (off_t)sizeof(buf))
		if (pread(o->fd, buf, sizeof(buf), at) <= 0)
			return;
}

/* Only one thread makes disks, so there is a place for each. */
static bool make_one(struct spare_disks *s, uint32_t i)
{
	struct store_overlay o = { .fd = -1 };
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (store_overlay_make(s->d->store, s->chains[i], &o, &err) < 0) {
		log_warn("no disk is made ahead: %s", err_line(&err, line, sizeof(line)));
		return false;
	}
	read_ahead(&o);
	pthread_mutex_lock(&s->lock);
	s->disks[i].ready[s->disks[i].n++] = o;
	pthread_mutex_unlock(&s->lock);
	return true;
}

static void make_all(const struct template_host *h)
{
	struct spare_disks *s = h->spares;

	for (uint32_t i = 0; i < s->n_chains; i++)
		while (s->chains[i] && !h->failed && count(s, i) < s->each && make_one(s, i))
			;
}

/* ---- the thread ---- */

void spare_disks_fill(struct template_host *h)
{
	struct spare_maker *m = h->d->spare_maker;

	if (!m || !h->spares)
		return;
	pthread_mutex_lock(&m->lock);
	h->spares->due = deadline_in_ms(IDLE_MS);
	if (!h->spares->queued) {
		h->spares->queued = true;
		atomic_fetch_add(&h->refs, 1);
		h->spares->next = m->queue;
		m->queue = h;
		pthread_cond_signal(&m->changed);
	}
	pthread_mutex_unlock(&m->lock);
}

static void wait_until(struct spare_maker *m, uint64_t due_ns)
{
	const struct timespec until = { .tv_sec = (time_t)(due_ns / 1000000000),
					.tv_nsec = (long)(due_ns % 1000000000) };

	pthread_cond_timedwait(&m->changed, &m->lock, &until);
}

static void *make_spares(void *arg)
{
	struct spare_maker *m = arg;

	pthread_mutex_lock(&m->lock);
	while (!m->stopping) {
		struct template_host *h = m->queue;
		if (!h) {
			pthread_cond_wait(&m->changed, &m->lock);
			continue;
		}
		if (monotonic_ns() < h->spares->due) {
			wait_until(m, h->spares->due);
			continue;
		}
		m->queue = h->spares->next;
		h->spares->queued = false;
		pthread_mutex_unlock(&m->lock);
		make_all(h);
		template_host_unref(h);
		pthread_mutex_lock(&m->lock);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

int spare_maker_start(struct forkd *d, struct spare_maker **ret, struct err *err)
{
	struct spare_maker *m = calloc(1, sizeof(*m));
	pthread_condattr_t attr;

	(void)d;
	if (!m)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start the thread that makes disks ahead");
	pthread_mutex_init(&m->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&m->changed, &attr);
	pthread_condattr_destroy(&attr);
	int r = pthread_create(&m->thread, NULL, make_spares, m);
	if (r != 0) {
		free(m);
		return err_num(err, ERR_INTERNAL, r, "start the thread that makes disks ahead");
	}
	pthread_setname_np(m->thread, "disks");
	*ret = m;
	return 0;
}

void spare_maker_stop(struct spare_maker *m)
{
	if (!m)
		return;
	pthread_mutex_lock(&m->lock);
	m->stopping = true;
	pthread_cond_signal(&m->changed);
	pthread_mutex_unlock(&m->lock);
	pthread_join(m->thread, NULL);
	while (m->queue) {
		struct template_host *h = m->queue;
		m->queue = h->spares->next;
		template_host_unref(h);
	}
	pthread_cond_destroy(&m->changed);
	pthread_mutex_destroy(&m->lock);
	free(m);
}
