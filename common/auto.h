// SPDX-License-Identifier: Apache-2.0
/*
 * Small helpers for the language: releases that are bound to a declaration, results that must be
 * looked at, lengths of arrays. A variable that is declared `auto…` owns what it holds; steal_fd()
 * and steal_ptr() give that away.
 */
#ifndef COMMON_AUTO_H
#define COMMON_AUTO_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline void auto_free_p(void *p)
{
	free(*(void **)p);
}

static inline void auto_close_p(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define autofree __attribute__((cleanup(auto_free_p)))
#define autoclose __attribute__((cleanup(auto_close_p)))

static inline int steal_fd(int *fd)
{
	int f = *fd;

	*fd = -1;
	return f;
}

#define steal_ptr(p)                   \
	({                             \
		__auto_type p_ = *(p); \
		*(p) = NULL;           \
		p_;                    \
	})

#endif
