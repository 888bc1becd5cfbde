// SPDX-License-Identifier: Apache-2.0
/* The reader of multipart/form-data. */
#include "guest/files/multipart.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

/* ---- parameters of headers ---- */

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : isxdigit((unsigned char)c) ? (c | 0x20) - 'a' + 10 : -1;
}

/* What stands behind charset'language' of RFC 5987, decoded in place; NULL: it is not that. */
static char *decode_extended(char *text)
{
	char *quote = strchr(text, '\''), *from = quote ? strchr(quote + 1, '\'') : NULL, *to = text;

	if (!from)
		return NULL;
	for (from++; *from; from++) {
		if (*from == '%' && hex_digit(from[1]) >= 0 && hex_digit(from[2]) >= 0) {
			*to++ = (char)(hex_digit(from[1]) << 4 | hex_digit(from[2]));
			from += 2;
		} else {
			*to++ = *from;
		}
	}
	if (memchr(text, '\0', (size_t)(to - text)))
		return NULL;
	*to = '\0';
	return text;
}

/* Copies a token or a quoted string. Returns what stands behind it. */
static const char *copy_value(const char *p, char *to)
{
	if (*p != '"') {
		size_t n = strcspn(p, "; \t");
		memcpy(to, p, n);
		to[n] = '\0';
		return p + n;
	}
	for (p++; *p && *p != '"'; p++) {
		if (*p == '\\' && (p[1] == '"' || p[1] == '\\'))
			p++;
		*to++ = *p;
	}
	*to = '\0';
	return *p ? p + 1 : p;
}

char *header_param(const char *value, const char *key)
{
	autofree char *found = NULL, *text = malloc(strlen(value) + 1);
	size_t key_len = strlen(key);
	const char *p = value + strcspn(value, ";");

	while (text && *p) {
		p += strspn(p, "; \t");
		size_t n = strcspn(p, "=; \t");
		bool extended = n == key_len + 1 && p[key_len] == '*';
		bool is_it = (n == key_len || extended) && strncasecmp(p, key, key_len) == 0;
		p += n;
		if (*p != '=')
			continue;
		p = copy_value(p + 1, text);
		if (!is_it || (found && !extended) || (extended && !decode_extended(text)))
			continue;
		free(found);
		found = strdup(text);
		if (extended)
			break;
	}
	return steal_ptr(&found);
}

/* ---- the reader ---- */

int multipart_init(struct multipart *m, const char *content_type, const struct multipart_sink *sink, void *ctx,
		   struct err *err)
{
	autofree char *boundary = header_param(content_type, "boundary");
	size_t len = boundary ? strlen(boundary) : 0;

	if (strncasecmp(content_type, "multipart/", strlen("multipart/")) != 0)
		return err_set(err, ERR_INVALID, "content type '%s' is not multipart/form-data", content_type);
	if (len == 0 || len > MULTIPART_BOUNDARY_MAX || strpbrk(boundary, "\r\n"))
		return err_set(err, ERR_INVALID, "content type '%s' needs a boundary of 1 to %d characters",
			       content_type, MULTIPART_BOUNDARY_MAX);
	*m = (struct multipart){ .sink = sink, .ctx = ctx, .delimiter_len = 4 + len, .matched = 2, .implied = 2 };
	m->head = malloc(MULTIPART_HEAD_MAX + 1);
	if (!m->head)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read multipart/form-data");
	memcpy(m->delimiter, "\r\n--", 4);
	memcpy(m->delimiter + 4, boundary, len);
	return 0;
}

void multipart_done(struct multipart *m)
{
	free(m->head);
	*m = (struct multipart){};
}

/* Hands on bytes of the part; the preamble is dropped. */
static int put(struct multipart *m, const char *data, size_t len, struct err *err)
{
	if (m->state == MP_PREAMBLE || len == 0)
		return 0;
	return m->sink->data(m->ctx, data, len, err);
}

static int found_delimiter(struct multipart *m, struct err *err)
{
	bool in_part = m->state == MP_DATA;

	m->state = MP_DELIMITER;
	m->matched = m->implied = m->head_len = 0;
	return in_part ? m->sink->end(m->ctx, err) : 0;
}

/*
 * Looks for the delimiter. A CR stands only at its beginning, so that after a mismatch nothing but a
 * CR can begin another one. Returns how many bytes were read.
 */
static ssize_t feed_data(struct multipart *m, const char *data, size_t len, struct err *err)
{
	size_t at = 0;

	while (m->matched > 0 && at < len) {
		if (data[at] != m->delimiter[m->matched]) {
			size_t from = m->implied, to = m->matched;
			m->matched = m->implied = 0;
			int r = put(m, m->delimiter + from, to - from, err);
			return r < 0 ? r : (ssize_t)at;
		}
		at++;
		if (++m->matched == m->delimiter_len) {
			int r = found_delimiter(m, err);
			return r < 0 ? r : (ssize_t)at;
		}
	}
	if (m->matched > 0)
		return (ssize_t)at;
	const char *cr = memchr(data, '\r', len);
	size_t plain = cr ? (size_t)(cr - data) : len;
	/* A CR inside of the data is no reason to write it in small pieces. */
	while (cr && plain + m->delimiter_len <= len && memcmp(cr, m->delimiter, m->delimiter_len) != 0) {
		cr = memchr(cr + 1, '\r', len - plain - 1);
		plain = cr ? (size_t)(cr - data) : len;
	}
	int r = put(m, data, plain, err);
	if (r < 0)
		return r;
	m->matched = cr ? 1 : 0;
	return (ssize_t)(plain + m->matched);
}

/* Behind the boundary: "--", or blanks and the end of the line. */
static ssize_t feed_delimiter(struct multipart *m, const char *data, struct err *err)
{
	char c = data[0];
	bool was_dash = m->head_len == 1 && m->head[0] == '-';

	m->head[m->head_len++] = c;
	if (m->head_len == 2 && memcmp(m->head, "--", 2) == 0) {
		m->state = MP_EPILOGUE;
	} else if (c == '\n' && m->head_len > 1 && m->head[m->head_len - 2] == '\r') {
		if (++m->parts > MULTIPART_PARTS_MAX)
			return err_set(err, ERR_INVALID, "multipart: more than %d parts", MULTIPART_PARTS_MAX);
		m->state = MP_HEAD;
		m->head_len = 0;
	} else if (!strchr(m->head_len == 1 ? " \t\r-" : " \t\r", c) || c == '\0' || was_dash ||
		   m->head_len > MULTIPART_BOUNDARY_MAX) {
		return err_set(err, ERR_INVALID, "multipart: a boundary is followed by other text");
	}
	return 1;
}

/* The head has come; its lines end with CRLF. */
static int begin_part(struct multipart *m, struct err *err)
{
	static const char field[] = "content-disposition:";
	autofree char *name = NULL, *filename = NULL;

	m->head[m->head_len] = '\0';
	if (strlen(m->head) != m->head_len)
		return err_set(err, ERR_INVALID, "multipart: NUL in the head of part %u", m->parts);
	for (char *rest = m->head, *line; (line = strtok_r(rest, "\r\n", &rest));) {
		if (strncasecmp(line, field, sizeof(field) - 1) != 0)
			continue;
		free(name);
		free(filename);
		name = header_param(line + sizeof(field) - 1, "name");
		filename = header_param(line + sizeof(field) - 1, "filename");
	}
	m->state = MP_DATA;
	m->matched = m->implied = 2; /* a part without data has its delimiter right behind the head */
	return m->sink->begin(m->ctx, name, filename, err);
}

static ssize_t feed_head(struct multipart *m, const char *data, struct err *err)
{
	if (m->head_len == MULTIPART_HEAD_MAX)
		return err_set(err, ERR_INVALID, "multipart: the head of part %u is longer than %d bytes", m->parts,
			       MULTIPART_HEAD_MAX);
	m->head[m->head_len++] = data[0];
	bool is_end = m->head_len == 2 ? memcmp(m->head, "\r\n", 2) == 0
				       : m->head_len > 3 && memcmp(m->head + m->head_len - 4, "\r\n\r\n", 4) == 0;
	if (!is_end)
		return 1;
	int r = begin_part(m, err);
	return r < 0 ? r : 1;
}

int multipart_feed(struct multipart *m, const char *data, size_t len, struct err *err)
{
	while (len > 0 && m->state != MP_EPILOGUE) {
		ssize_t n = m->state == MP_DELIMITER ? feed_delimiter(m, data, err)
			    : m->state == MP_HEAD    ? feed_head(m, data, err)
						     : feed_data(m, data, len, err);
		if (n < 0)
			return (int)n;
		data += n;
		len -= (size_t)n;
	}
	return 0;
}

int multipart_finish(const struct multipart *m, struct err *err)
{
	if (m->state == MP_EPILOGUE)
		return 0;
	return err_set(err, ERR_INVALID, "multipart: the body ends before its last boundary");
}
