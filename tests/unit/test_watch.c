// SPDX-License-Identifier: Apache-2.0
/* forkd/watch: what comes during a conversation is heard, whenever the conversation ends. */
#include "forkd/watch/watch.h"

#include <sched.h>
#include <semaphore.h>
#include <sys/socket.h>
#include <time.h>

#include "tests/unit/unit.h"

enum { ROUNDS = 2000 };

struct line {
	struct watch watch;
	struct watcher *watcher;
	pthread_mutex_t lock;
	sem_t heard;
};

static void on_ready(struct watch *w)
{
	struct line *l = container_of(w, struct line, watch);
	char byte;

	if (!watch_try_talk(w, &l->lock))
		return;
	bool got = recv(w->fd, &byte, 1, MSG_DONTWAIT) == 1;
	watch_end_talk(l->watcher, w, &l->lock);
	if (got)
		sem_post(&l->heard);
}

static bool is_heard(struct line *l)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += 60;
	return sem_timedwait(&l->heard, &until) == 0;
}

/* On one CPU: what wakes the watcher often stops the waker, wherever it is. */
static void news_at_the_end_of_a_conversation(void **state)
{
	struct line l = { .watch = { .once = true, .ready = on_ready }, .lock = PTHREAD_MUTEX_INITIALIZER };
	cpu_set_t one, before;
	struct err err = {};
	int pair[2];

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	sem_init(&l.heard, 0, 0);
	assert_int_equal(watch_start(&l.watcher, &err), 0);
	l.watch.fd = pair[0];
	assert_int_equal(watch_add(l.watcher, &l.watch, &err), 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&l.lock);
		assert_int_equal(send(pair[1], "x", 1, 0), 1);
		if (i % 2)
			sched_yield(); /* the watcher has missed it when the conversation ends */
		watch_end_talk(l.watcher, &l.watch, &l.lock);
		if (!is_heard(&l))
			fail_msg("byte %u is in the socket, and nobody looks", i);
	}
	watch_stop(l.watcher);
	watch_free(l.watcher);
	sem_destroy(&l.heard);
	close(pair[0]);
	close(pair[1]);
	sched_setaffinity(0, sizeof(before), &before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(news_at_the_end_of_a_conversation),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
