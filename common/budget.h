// SPDX-License-Identifier: Apache-2.0
/* Bytes that several requests together may make a process hold. Plain data. */
#ifndef COMMON_BUDGET_H
#define COMMON_BUDGET_H

#include <stdbool.h>
#include <stddef.h>

struct budget {
	size_t used, max;
};

/* Takes n bytes more, also for *mine. false: they are not there, and nothing was taken. */
static inline bool budget_take(struct budget *b, size_t *mine, size_t n)
{
	if (n > b->max - b->used)
		return false;
	b->used += n;
	*mine += n;
	return true;
}

/* Gives all of *mine back. */
static inline void budget_give(struct budget *b, size_t *mine)
{
	b->used -= *mine;
	*mine = 0;
}

#endif
