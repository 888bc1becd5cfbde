// SPDX-License-Identifier: Apache-2.0
/* The error object's few operations: set, wrap, print. */
#include "common/err.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static void format(char *buf, size_t size, const char *fmt, va_list ap) PRINTF_LIKE(3, 0);
static int set_num(struct err *err, enum err_code code, int num, const char *fmt, va_list ap) PRINTF_LIKE(4, 0);

static void format(char *buf, size_t size, const char *fmt, va_list ap)
{
	if (vsnprintf(buf, size, fmt, ap) < 0)
		buf[0] = '\0';
	for (char *p = buf; *p; p++)
		if (*p == '\n')
			*p = ' ';
}

static int code_num(enum err_code code)
{
	switch (code) {
	case ERR_NOT_FOUND:
		return -ENOENT;
	case ERR_CONFLICT:
		return -EEXIST;
	case ERR_BUSY:
		return -EBUSY;
	case ERR_INTERNAL:
		return -EIO;
	case ERR_HOST:
		return -EOPNOTSUPP;
	default:
		return -EINVAL;
	}
}

int err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	format(err->msg, sizeof(err->msg), fmt, ap);
	va_end(ap);
	err->code = code;
	err->num = code_num(code);
	err->detail = 0;
	return err->num;
}

static int set_num(struct err *err, enum err_code code, int num, const char *fmt, va_list ap)
{
	const char *why = strerror(num); /* any thread: the C libraries in use made it safe */

	format(err->msg, sizeof(err->msg) - strlen(why) - 32, fmt, ap); /* the text of the cause must fit behind it */
	size_t used = strlen(err->msg);
	snprintf(err->msg + used, sizeof(err->msg) - used, "\n%s (os error %d)", why, num);
	err->code = code;
	err->num = num > 0 ? -num : -EIO;
	err->detail = 0;
	return err->num;
}

int err_num(struct err *err, enum err_code code, int num, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int r = set_num(err, code, num, fmt, ap);
	va_end(ap);
	return r;
}

int err_sys(struct err *err, enum err_code code, const char *fmt, ...)
{
	int num = errno;
	va_list ap;

	va_start(ap, fmt);
	int r = set_num(err, code, num, fmt, ap);
	va_end(ap);
	return r;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
	char outer[ERR_MSG_BYTES];
	va_list ap;

	va_start(ap, fmt);
	format(outer, sizeof(outer) / 2, fmt, ap);
	va_end(ap);
	size_t used = strlen(outer), rest = strlen(err->msg);
	if (rest > sizeof(outer) - used - 2)
		rest = sizeof(outer) - used - 2;
	outer[used++] = '\n';
	memmove(err->msg + used, err->msg, rest);
	memcpy(err->msg, outer, used);
	err->msg[used + rest] = '\0';
	return err->num;
}

const char *err_line(const struct err *err, char *buf, size_t size)
{
	size_t n = 0;

	for (const char *p = err->msg; *p && n + 3 < size; p++) {
		if (*p == '\n')
			buf[n++] = ':';
		buf[n++] = *p == '\n' ? ' ' : *p;
	}
	if (size > 0)
		buf[n] = '\0';
	return buf;
}
