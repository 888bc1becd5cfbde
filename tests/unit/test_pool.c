// SPDX-License-Identifier: Apache-2.0
/* forkd/front/pool: who runs a source, when, and how many threads there are for it. */
#include "forkd/front/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/unit.h"

enum { SHORT, LONG };

/* A source that counts how often it runs and what for. */
struct probe {
	struct source source;
	int fd, other; /* the two ends of a socketpair; `fd` is the source's */
	atomic_uint runs, timeouts, stops, inside, overlaps;
	atomic_bool hold, quiet, end; /* stays inside; is not armed again; forgets itself */
	bool may_wait, timed;
};

static struct pool *pool;
static atomic_uint expired;
static atomic_bool let_go; /* a test has ended, perhaps in the middle: nobody stays inside */

static uint64_t on_expire(void *arg, uint64_t now)
{
	(void)arg;
	(void)now;
	atomic_fetch_add(&expired, 1);
	return UINT64_MAX;
}

static bool on_probe(struct source *s, unsigned why)
{
	struct probe *p = container_of(s, struct probe, source);
	char bytes[64];

	if (atomic_fetch_add(&p->inside, 1) > 0)
		atomic_fetch_add(&p->overlaps, 1);
	atomic_fetch_add(&p->timeouts, !!(why & POOL_TIMEOUT));
	atomic_fetch_add(&p->stops, !!(why & POOL_STOP));
	atomic_fetch_add(&p->runs, 1);
	if (p->may_wait)
		(void)pool_another(pool); /* false only when the pool stops */
	while (atomic_load(&p->hold) && !atomic_load(&let_go))
		usleep(1000);
	(void)!recv(p->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	bool gone = (why & POOL_STOP) || atomic_load(&p->end);
	if (gone)
		pool_forget(pool, s);
	else if (!atomic_load(&p->quiet))
		pool_arm(pool, s, 0, EPOLLIN);
	if (p->timed && !gone)
		pool_deadline(pool, s, SHORT);
	atomic_fetch_sub(&p->inside, 1);
	return !gone;
}

static void probe_start(struct probe *p)
{
	struct err err = {};
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	p->fd = fds[0];
	p->other = fds[1];
	p->source.ready = on_probe;
	assert_int_equal(pool_add(pool, &p->source, p->fd, &err), 0);
	pool_begin(pool, &p->source, EPOLLIN);
}

static void probe_close(struct probe *p)
{
	close(p->fd);
	close(p->other);
}

static void say(const struct probe *p)
{
	assert_int_equal(send(p->other, "x", 1, MSG_NOSIGNAL), 1);
}

static void wait_for(const atomic_uint *n, unsigned at_least)
{
	for (unsigned i = 0; i < 20000 && atomic_load(n) < at_least; i++)
		usleep(1000);
	assert_true(atomic_load(n) >= at_least);
}

static int set_up(void **state)
{
	const struct pool_options opt = {
		.threads_max = 20,
		.deadline_ms = { [SHORT] = 20, [LONG] = 3600000 },
		.expire = on_expire,
	};
	struct err err = {};

	(void)state;
	atomic_store(&let_go, false);
	return pool_new(&opt, &pool, &err);
}

/* The sources run once more, for which they need the pool. */
static void stop(void)
{
	pool_stop(pool);
	pool_free(pool);
	pool = NULL;
}

static int tear_down(void **state)
{
	(void)state;
	atomic_store(&let_go, true);
	if (pool)
		stop();
	pool_free(NULL);
	return 0;
}

/* ---- tests ---- */

static void an_event_runs_its_source(void **state)
{
	struct probe a = {}, b = {};

	(void)state;
	probe_start(&a);
	probe_start(&b);
	say(&a);
	wait_for(&a.runs, 1);
	say(&a);
	wait_for(&a.runs, 2);
	assert_int_equal(atomic_load(&b.runs), 0);
	stop();
	assert_int_equal(atomic_load(&a.stops), 1);
	assert_int_equal(atomic_load(&b.stops), 1);
	probe_close(&a);
	probe_close(&b);
}

/* Events, kicks and both descriptors of one source never make two threads run it. */
static void one_thread_at_a_time(void **state)
{
	struct probe p = { .may_wait = true };
	struct err err = {};
	int second[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, second), 0);
	atomic_store(&p.hold, true);
	probe_start(&p);
	say(&p);
	wait_for(&p.inside, 1);
	assert_int_equal(pool_add_second(pool, &p.source, second[0], &err), 0); /* as its thread would */
	pool_arm(pool, &p.source, 1, EPOLLIN);
	assert_int_equal(send(second[1], "x", 1, 0), 1);
	for (unsigned i = 0; i < 100; i++) {
		pool_kick(pool, &p.source);
		usleep(100);
	}
	assert_int_equal(atomic_load(&p.runs), 1);
	atomic_store(&p.hold, false);
	wait_for(&p.runs, 2); /* what came meanwhile is not lost */
	for (unsigned i = 0; i < 1000; i++) {
		say(&p);
		pool_kick(pool, &p.source);
	}
	stop();
	assert_int_equal(atomic_load(&p.overlaps), 0);
	probe_close(&p);
	close(second[0]);
	close(second[1]);
}

/* While sources wait, others run, also new ones; the threads that were made for it end again. */
static void waiting_holds_nobody_up(void **state)
{
	struct probe held[8] = {}, p = {};
	unsigned before = count_threads();

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(held); i++) {
		held[i].may_wait = true;
		atomic_store(&held[i].hold, true);
		probe_start(&held[i]);
		say(&held[i]);
	}
	for (unsigned i = 0; i < ARRAY_LEN(held); i++)
		wait_for(&held[i].inside, 1);
	probe_start(&p);
	say(&p);
	wait_for(&p.runs, 1);
	assert_true(count_threads() > ARRAY_LEN(held));
	for (unsigned i = 0; i < ARRAY_LEN(held); i++)
		atomic_store(&held[i].hold, false);
	for (unsigned i = 0; i < 2000 && count_threads() > before; i++)
		usleep(10000);
	assert_int_equal(count_threads(), before);
	say(&p);
	wait_for(&p.runs, 2);
	stop();
	for (unsigned i = 0; i < ARRAY_LEN(held); i++)
		probe_close(&held[i]);
	probe_close(&p);
}

static void threads_have_a_bound(void **state)
{
	struct probe held[30] = {};
	unsigned before = count_threads();

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(held); i++) {
		atomic_store(&held[i].hold, true);
		probe_start(&held[i]);
	}
	for (unsigned i = 0; i < ARRAY_LEN(held); i++)
		say(&held[i]);
	for (unsigned i = 0; i < 20000 && pool_another(pool); i++)
		usleep(1000); /* until none waits, and none can be made */
	assert_int_equal(count_threads() - before, 20 - 2);
	assert_false(pool_another(pool));
	for (unsigned i = 0; i < ARRAY_LEN(held); i++)
		atomic_store(&held[i].hold, false);
	for (unsigned i = 0; i < ARRAY_LEN(held); i++)
		wait_for(&held[i].runs, 1);
	stop();
	for (unsigned i = 0; i < ARRAY_LEN(held); i++)
		probe_close(&held[i]);
}

static void deadlines(void **state)
{
	struct probe timed = { .timed = true }, waits = { .may_wait = true };

	(void)state;
	atomic_store(&waits.hold, true);
	probe_start(&timed);
	say(&timed);
	wait_for(&timed.timeouts, 3); /* each run sets the next one */
	atomic_store(&waits.hold, true);
	waits.timed = true;
	probe_start(&waits);
	atomic_store(&waits.hold, false);
	say(&waits);
	wait_for(&waits.timeouts, 1);
	atomic_store(&waits.hold, true); /* a source that takes its time at its deadline holds up no other's */
	wait_for(&waits.inside, 1);
	unsigned seen = atomic_load(&timed.timeouts);
	wait_for(&timed.timeouts, seen + 3);
	atomic_store(&waits.hold, false);
	stop();
	probe_close(&timed);
	probe_close(&waits);
}

static void wakes_when_asked(void **state)
{
	unsigned before = atomic_load(&expired);

	(void)state;
	pool_wake_at(pool, monotonic_ns() + 3600ULL * 1000000000);
	pool_wake_at(pool, monotonic_ns() + 1000000);
	wait_for(&expired, before + 1);
	pool_wake_at(pool, 0);
	wait_for(&expired, before + 2);
}

/* What comes before pool_begin() is not lost, and does not run in the thread that begins. */
static void begins_in_another_thread(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 200; i++) {
		struct probe p = { .source.ready = on_probe };
		struct err err = {};
		int fds[2];
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
		p.fd = fds[0];
		p.other = fds[1];
		atomic_store(&p.end, true);
		assert_int_equal(pool_add(pool, &p.source, p.fd, &err), 0);
		shutdown(p.other, SHUT_RDWR); /* EPOLLHUP, which needs not be asked for */
		usleep(i % 2 ? 200 : 0);
		assert_int_equal(atomic_load(&p.runs), 0);
		atomic_store(&p.hold, true); /* who runs it stays there */
		pool_begin(pool, &p.source, EPOLLIN);
		wait_for(&p.inside, 1);
		atomic_store(&p.hold, false);
		while (atomic_load(&p.inside) > 0)
			usleep(10);
		probe_close(&p);
	}
}

/* An event that was on its way to a source that is gone reaches nobody, not even the next one in its slot. */
static void a_source_that_is_gone(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 500; i++) {
		struct probe a = {}, b = {};
		atomic_store(&a.end, true);
		probe_start(&a);
		say(&a);
		pool_kick(pool, &a.source);
		wait_for(&a.runs, 1);
		while (atomic_load(&a.inside) > 0)
			usleep(10);
		probe_start(&b);
		assert_int_equal(atomic_load(&a.runs), 1);
		assert_int_equal(atomic_load(&b.runs), 0);
		atomic_store(&b.end, true);
		say(&b);
		wait_for(&b.runs, 1);
		while (atomic_load(&b.inside) > 0)
			usleep(10);
		probe_close(&a);
		probe_close(&b);
	}
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_event_runs_its_source),
		TEST(one_thread_at_a_time),
		TEST(waiting_holds_nobody_up),
		TEST(threads_have_a_bound),
		TEST(deadlines),
		TEST(wakes_when_asked),
		TEST(a_source_that_is_gone),
		TEST(begins_in_another_thread),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
