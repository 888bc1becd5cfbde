// SPDX-License-Identifier: Apache-2.0
/* The table of REST errors, and how an error gets its row. */
#include "forkd/errors.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static const struct error_info rows[] = {
#define X(name, code_, status_, remedy_) [name] = { .code = (code_), .remedy = (remedy_), .status = (status_) },
	FORKD_ERRORS(X)
#undef X
};

/* The row for an error of a layer that knows no REST. */
static enum error_row row_of(const struct err *err)
{
	if (err->detail > E_NONE && err->detail < ARRAY_LEN(rows))
		return (enum error_row)err->detail;
	if (err->num == -ENOSPC || err->num == -EDQUOT)
		return E_NO_SPACE;
	switch (err->code) {
	case ERR_INVALID:
		return E_INVALID;
	case ERR_NOT_FOUND:
		return E_NOT_FOUND;
	case ERR_CONFLICT:
		return E_CONFLICT;
	case ERR_BUSY:
		return E_BUSY;
	case ERR_HOST:
		return E_INCOMPATIBLE;
	default:
		return E_INTERNAL;
	}
}

const struct error_info *error_info(const struct err *err)
{
	return &rows[row_of(err)];
}

static enum err_code code_of(unsigned status)
{
	switch (status) {
	case 404:
		return ERR_NOT_FOUND;
	case 409:
		return ERR_CONFLICT;
	case 429:
		return ERR_BUSY;
	default:
		return status < 500 ? ERR_INVALID : ERR_INTERNAL;
	}
}

static void set_row(struct err *err, enum error_row row)
{
	err->code = code_of(rows[row].status);
	err->detail = row;
}

int fail(struct err *err, enum error_row row, const char *fmt, ...)
{
	char text[ERR_MSG_BYTES];
	va_list ap;

	va_start(ap, fmt);
	if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
		text[0] = '\0';
	va_end(ap);
	err_set(err, code_of(rows[row].status), "%s", text);
	set_row(err, row);
	return err->num;
}

int fail_as(struct err *err, enum error_row row, const char *fmt, ...)
{
	char text[ERR_MSG_BYTES];
	va_list ap;

	if (fmt) {
		va_start(ap, fmt);
		if (vsnprintf(text, sizeof(text), fmt, ap) < 0)
			text[0] = '\0';
		va_end(ap);
		err_wrap(err, "%s", text);
	}
	set_row(err, row);
	return err->num < 0 ? err->num : -EIO;
}

void error_json(const struct err *err, struct strbuf *out)
{
	const struct error_info *info = error_info(err);
	char line[ERR_MSG_BYTES + 64];

	err_line(err, line, sizeof(line));
	if (!utf8_valid(line)) /* the message has a client's bytes, or was cut within a character */
		for (char *p = line; *p; p++)
			*p = (unsigned char)*p < 0x80 ? *p : '?';
	strbuf_puts(out, "{\"code\":");
	strbuf_json(out, info->code, strlen(info->code));
	strbuf_puts(out, ",\"message\":");
	strbuf_json(out, line, strlen(line));
	strbuf_puts(out, ",\"remedy\":");
	strbuf_json(out, info->remedy, strlen(info->remedy));
	strbuf_putc(out, '}');
}

void error_body(const struct err *err, struct strbuf *out)
{
	error_json(err, out);
	strbuf_putc(out, '\n');
}
