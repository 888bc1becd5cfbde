// SPDX-License-Identifier: Apache-2.0
/* forkd/events: numbers, the ring's end, and writers in other threads. */
#include "forkd/events.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "tests/unit/unit.h"

static struct events *make(void)
{
	struct events *ev = NULL;
	struct err err = {};

	assert_int_equal(events_new(&ev, &err), 0);
	return ev;
}

static void one_event(void **state)
{
	struct events *ev = make();
	autostrbuf struct strbuf out = {};
	autojson struct json json = {};
	struct err err = {};
	uint64_t oldest, newest, seq;

	(void)state;
	events_range(ev, &oldest, &newest);
	assert_int_equal(newest, 0);
	assert_true(oldest > 1600000000ULL * 1000000);
	seq = oldest - 1;
	assert_int_equal(events_read(ev, &seq, &out), 0);
	events_emit(ev, "clone.exited", "base \"x\"", "c1", "\"reason\":\"reset\",\"code\":7");
	assert_int_equal(events_read(ev, &seq, &out), 1);
	assert_int_equal(seq, oldest);
	char head[96];
	snprintf(head, sizeof(head), "id: %llu\nevent: clone.exited\ndata: {", (unsigned long long)oldest);
	assert_memory_equal(out.text, head, strlen(head));
	assert_string_equal(out.text + out.len - 2, "\n\n");
	assert_null(strstr(strstr(out.text, "data: "), "\n\n")[2] ? "more" : NULL);
	char *data = strstr(out.text, "data: ") + 6;
	assert_int_equal(json_parse(&json, data, strlen(data) - 2, &err), 0);
	assert_int_equal(json_get(json.nodes, "seq")->num, oldest);
	assert_string_equal(json_get(json.nodes, "type")->str, "clone.exited");
	assert_string_equal(json_get(json.nodes, "template")->str, "base \"x\"");
	assert_string_equal(json_get(json.nodes, "clone")->str, "c1");
	assert_string_equal(json_get(json.nodes, "reason")->str, "reset");
	assert_int_equal(json_get(json.nodes, "code")->num, 7);
	assert_int_equal(json_get(json.nodes, "time")->count, strlen("2026-01-01T00:00:00.000Z"));
	events_free(ev);
	events_free(NULL);
}

static void keeps_the_last(void **state)
{
	struct events *ev = make();
	uint64_t first, oldest, newest, seq;
	int n, total = 0;

	(void)state;
	events_range(ev, &first, &newest);
	for (unsigned i = 0; i < EVENTS_KEPT + 10; i++)
		events_emit(ev, "x", NULL, NULL, NULL);
	events_range(ev, &oldest, &newest);
	assert_int_equal(oldest, first + 10);
	assert_int_equal(newest, first + EVENTS_KEPT + 9);
	autostrbuf struct strbuf out = {};
	seq = oldest - 2; /* the one after it is gone */
	assert_int_equal(events_read(ev, &seq, &out), -ENOENT);
	seq = newest + 1; /* never was */
	assert_int_equal(events_read(ev, &seq, &out), -ENOENT);
	assert_int_equal(out.len, 0);
	seq = oldest - 1;
	while ((n = events_read(ev, &seq, &out)) > 0)
		total += n;
	assert_int_equal(total, EVENTS_KEPT);
	assert_int_equal(seq, newest);
	events_free(ev);
}

static void restart_goes_on_above(void **state)
{
	struct events *ev = make();
	uint64_t a, b, newest;

	(void)state;
	for (unsigned i = 0; i < 100; i++)
		events_emit(ev, "x", NULL, NULL, NULL);
	events_range(ev, &a, &newest);
	events_free(ev);
	usleep(2000);
	ev = make();
	events_range(ev, &b, &a);
	assert_true(b > newest);
	events_free(ev);
}

enum { WRITERS = 4, EACH = 500 };

static void *write_some(void *arg)
{
	for (unsigned i = 0; i < EACH; i++)
		events_emit(arg, "x", "t", "c", NULL);
	return NULL;
}

static atomic_uint woken;

static void count_wakes(void *arg)
{
	assert_ptr_equal(arg, &woken);
	atomic_fetch_add(&woken, 1);
}

/* Every event wakes who follows, and what several threads emit is read in one order, without gaps. */
static void followers_are_woken(void **state)
{
	struct events *ev = make();
	pthread_t threads[WRITERS];
	autostrbuf struct strbuf out = {};
	uint64_t first, newest, seq;
	int n, total = 0;

	(void)state;
	events_range(ev, &first, &newest);
	seq = first - 1;
	events_set_wake(ev, count_wakes, &woken);
	for (unsigned i = 0; i < WRITERS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, write_some, ev), 0);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&woken), WRITERS * EACH);
	while ((n = events_read(ev, &seq, &out)) > 0)
		total += n;
	assert_int_equal(n, 0);
	assert_int_equal(total, WRITERS * EACH);
	assert_int_equal(seq, first + WRITERS * EACH - 1);
	events_set_wake(ev, NULL, NULL);
	events_emit(ev, "x", NULL, NULL, NULL);
	assert_int_equal(atomic_load(&woken), WRITERS * EACH);
	events_free(ev);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_event),
		cmocka_unit_test(keeps_the_last),
		cmocka_unit_test(restart_goes_on_above),
		cmocka_unit_test(followers_are_woken),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
