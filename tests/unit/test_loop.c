// SPDX-License-Identifier: Apache-2.0
/* vmm/loop: dispatch, changed and removed sources, removal in the middle of a round, exit codes. */
#include "vmm/core/loop.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>

static struct loop loop;
static struct counter {
	struct source s;
	unsigned calls;
	uint32_t events;
	struct counter *remove;
	bool stop;
} a, b, stopper;

static void on_ready(struct source *s, uint32_t events)
{
	struct counter *c = container_of(s, struct counter, s);
	uint64_t n;

	c->calls++;
	c->events = events;
	assert_int_equal(read(s->fd, &n, sizeof(n)), sizeof(n));
	if (c->remove)
		loop_del(&loop, &c->remove->s);
	if (c->stop)
		loop_stop(&loop, 42);
}

static void on_stop(struct source *s, uint32_t events)
{
	(void)s;
	(void)events;
	loop_stop(&loop, 7);
}

static void raise_it(struct counter *c)
{
	assert_int_equal(write(c->s.fd, &(uint64_t){ 1 }, 8), 8);
}

static int make(void **state)
{
	struct err err = {};

	(void)state;
	a = b = (struct counter){ .s = { .fd = -1, .ready = on_ready } };
	a.s.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	b.s.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return loop_init(&loop, &err);
}

static int done(void **state)
{
	(void)state;
	loop_done(&loop);
	loop_done(&loop);
	close(a.s.fd);
	close(b.s.fd);
	return 0;
}

/* Runs what is ready: the stopper is last, as epoll gives out sources in the order in which they became ready. */
static void run_once(void)
{
	struct err err = {};

	loop.stopped = false;
	stopper = (struct counter){ .s = { .fd = eventfd(1, EFD_CLOEXEC), .ready = on_stop } };
	assert_int_equal(loop_add(&loop, &stopper.s, EPOLLIN, &err), 0);
	assert_int_equal(loop_run(&loop), 7);
	loop_del(&loop, &stopper.s);
	close(stopper.s.fd);
}

static void dispatches(void **state)
{
	struct err err = {};

	(void)state;
	assert_true(fcntl(loop.epoll_fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(loop_add(&loop, &a.s, EPOLLIN, &err), 0);
	assert_int_equal(loop_add(&loop, &b.s, 0, &err), 0);
	raise_it(&a);
	raise_it(&b);
	run_once();
	assert_int_equal(a.calls, 1);
	assert_int_equal(a.events, EPOLLIN);
	assert_int_equal(b.calls, 0);
	loop_mod(&loop, &b.s, EPOLLIN);
	loop_mod(&loop, &a.s, 0);
	raise_it(&a);
	run_once();
	assert_int_equal(a.calls, 1);
	assert_int_equal(b.calls, 1);
	loop_mod(&loop, &a.s, EPOLLIN); /* level-triggered: it was not forgotten */
	run_once();
	assert_int_equal(a.calls, 2);
	loop_del(&loop, &a.s);
	raise_it(&a);
	run_once();
	assert_int_equal(a.calls, 2);
	loop_del(&loop, &a.s);
	loop_del(&loop, &(struct source){ .fd = -1 });
}

static void moves_to_another_loop(void **state)
{
	struct loop other;
	struct err err = {};

	(void)state;
	assert_int_equal(loop_init(&other, &err), 0);
	assert_int_equal(loop_add(&loop, &a.s, EPOLLIN, &err), 0);
	assert_int_equal(loop_move(&loop, &other, &a.s, EPOLLIN, &err), 0);
	raise_it(&a);
	run_once();
	assert_int_equal(a.calls, 0);
	assert_int_equal(epoll_wait(other.epoll_fd, other.pending, 1, 0), 1);
	assert_ptr_equal(other.pending[0].data.ptr, &a.s);
	assert_int_equal(loop_move(&loop, &other, &a.s, EPOLLIN, &err), -EEXIST); /* it stays where it is */
	loop_mute(&other, &a.s);
	assert_int_equal(epoll_wait(other.epoll_fd, other.pending, 1, 0), 0);
	loop_del(&loop, &a.s);
	loop_done(&other);
}

/* The first source of a round removes the other one: it is not called any more. */
static void removed_in_the_round(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(loop_add(&loop, &a.s, EPOLLIN, &err), 0);
	assert_int_equal(loop_add(&loop, &b.s, EPOLLIN, &err), 0);
	a.remove = &b;
	b.remove = &a;
	raise_it(&a);
	raise_it(&b);
	run_once();
	assert_int_equal(a.calls + b.calls, 1);
}

static void stops_at_once(void **state)
{
	struct err err = {};

	(void)state;
	assert_int_equal(loop_add(&loop, &a.s, EPOLLIN, &err), 0);
	assert_int_equal(loop_add(&loop, &b.s, EPOLLIN, &err), 0);
	a.stop = b.stop = true;
	raise_it(&a);
	raise_it(&b);
	assert_int_equal(loop_run(&loop), 42);
	assert_int_equal(a.calls + b.calls, 1); /* the rest of the round is left */
	assert_int_equal(loop_run(&loop), 42);
}

static void refuses_what_cannot_be_waited_for(void **state)
{
	autoclose int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct source s = { .fd = fd, .ready = on_stop };
	struct err err = {};
	char text[64];

	(void)state;
	assert_int_equal(loop_add(&loop, &s, EPOLLIN, &err), -EPERM);
	snprintf(text, sizeof(text), "wait for descriptor %d\n", fd);
	assert_int_equal(strncmp(err.msg, text, strlen(text)), 0);
}

static void broken_loop_ends(void **state)
{
	struct loop broken = { .epoll_fd = -1 };

	(void)state;
	assert_int_equal(loop_run(&broken), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(dispatches, make, done),
		cmocka_unit_test_setup_teardown(moves_to_another_loop, make, done),
		cmocka_unit_test_setup_teardown(removed_in_the_round, make, done),
		cmocka_unit_test_setup_teardown(stops_at_once, make, done),
		cmocka_unit_test_setup_teardown(refuses_what_cannot_be_waited_for, make, done),
		cmocka_unit_test_setup_teardown(broken_loop_ends, make, done),
	};

	return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
