// SPDX-License-Identifier: Apache-2.0
/* An event loop for a unit test, which runs it a few rounds at a time. */
#ifndef TESTS_UNIT_ROUNDS_H
#define TESTS_UNIT_ROUNDS_H

#include <sys/eventfd.h>

#include "tests/unit/unit.h"
#include "vmm/core/loop.h"

static struct loop loop;

static inline void on_round_end(struct source *s, uint32_t events)
{
	(void)events;
	loop_del(&loop, s);
	loop_stop(&loop, 0);
}

/* Each round ends with a source that becomes ready last. */
static inline void run_rounds(unsigned rounds)
{
	while (rounds-- > 0) {
		struct err err = {};
		struct source end = { .fd = eventfd(1, EFD_CLOEXEC), .ready = on_round_end };
		loop.stopped = false;
		assert_int_equal(loop_add(&loop, &end, EPOLLIN, &err), 0);
		assert_int_equal(loop_run(&loop), 0);
		close(end.fd);
	}
}

#endif
