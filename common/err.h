// SPDX-License-Identifier: Apache-2.0
/*
 * The error object: a code and a chain of messages, outermost first, root cause last.
 *
 * It lives on the caller's stack, zero-initialised, and is never NULL. An error is set once, where
 * something fails; callers put their context in front with err_wrap(), or pass the error on. Every
 * function here returns a negative errno, so that `return err_set(…)` works.
 */
#ifndef COMMON_ERR_H
#define COMMON_ERR_H

#include "common/auto.h"

/* The numbers are part of the control protocol: a new one goes to the end. */
enum err_code {
	ERR_NONE,
	ERR_INVALID,   /* the caller's input is wrong: 400, usage */
	ERR_NOT_FOUND, /* 404 */
	ERR_CONFLICT,  /* 409 */
	ERR_BUSY,      /* 429 */
	ERR_INTERNAL,  /* 500: the operation failed, or the state does not allow it */
	ERR_HOST,      /* this host lacks what it takes: 409 of forkd's, 500 of a VM's own API */
};

enum { ERR_MSG_BYTES = 2048 };

struct err {
	enum err_code code;
	int num;                 /* -errno, as returned */
	unsigned detail;         /* forkd's row of the REST error table; 0: none */
	char msg[ERR_MSG_BYTES]; /* links of the chain, separated by '\n'; no link has a '\n' itself */
};

/* Sets code and message. Returns -EINVAL, or the errno that fits the code. */
int err_set(struct err *err, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/*
 * The same, with the text of the positive errno `num` as the last link of the chain. Returns -num.
 */
int err_num(struct err *err, enum err_code code, int num, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* As err_num() with errno. */
int err_sys(struct err *err, enum err_code code, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* Puts a link in front of the chain. Returns the error's number again. */
int err_wrap(struct err *err, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Writes the chain on one line, its links joined by ": ". Returns `buf`. */
const char *err_line(const struct err *err, char *buf, size_t size);

#endif
