// SPDX-License-Identifier: Apache-2.0
/* Heads, by lines; bodies, by http_parser. */
#include "forkd/front/message.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "forkd/errors.h"

enum { SHOWN_MAX = 60 };

static struct message *message_of(struct http_parser *parser)
{
	return container_of(parser, struct message, parser);
}

/* ---- what http_parser calls ---- */

static int on_headers_complete(struct http_parser *parser)
{
	struct message *m = message_of(parser);

	m->has_head = true;
	return m->type == HTTP_RESPONSE && !message_has_body(m) ? 1 : 0; /* 1: no body comes */
}

static int on_body(struct http_parser *parser, const char *at, size_t len)
{
	struct message *m = message_of(parser);

	m->body(m, at, len);
	return 0;
}

static int on_message_complete(struct http_parser *parser)
{
	message_of(parser)->complete = true;
	http_parser_pause(parser, 1);
	return 0;
}

static const struct http_parser_settings callbacks = {
	.on_headers_complete = on_headers_complete,
	.on_body = on_body,
	.on_message_complete = on_message_complete,
};

/* Returns how many bytes the parser has taken. */
static ssize_t parse(struct message *m, const char *bytes, size_t len, struct err *err)
{
	size_t n = http_parser_execute(&m->parser, &callbacks, bytes, len);
	enum http_errno e = HTTP_PARSER_ERRNO(&m->parser);

	if (e != HPE_OK && e != HPE_PAUSED)
		return fail(err, E_INVALID, "%s: %s", m->type == HTTP_REQUEST ? "the request" : "the response",
			    http_errno_description(e));
	return (ssize_t)n;
}

/* ---- begin and end ---- */

void message_begin(struct message *m, enum http_parser_type type, size_t head_max)
{
	*m = (struct message){ .type = type, .head_max = head_max };
	http_parser_init(&m->parser, type);
}

void message_done(struct message *m)
{
	free(m->target);
	strbuf_done(&m->line);
	strbuf_done(&m->fields);
	*m = (struct message){};
}

/* ---- the first line ---- */

/* A name of RFC 9110, 5.6.2: of a method, of a field. */
static size_t token_len(const char *text, size_t len)
{
	size_t n = 0;

	while (n < len) {
		char c = text[n], lower = (char)(c | 0x20);
		if (!(lower >= 'a' && lower <= 'z') && !(c >= '0' && c <= '9') &&
		    (c == '\0' || !strchr("!#$%&'*+-.^_`|~", c)))
			break;
		n++;
	}
	return n;
}

static int refuse_line(const char *what, const char *line, size_t len, struct err *err)
{
	char shown[SHOWN_MAX + 1];

	snprintf(shown, sizeof(shown), "%.*s", (int)(len < SHOWN_MAX ? len : SHOWN_MAX), line);
	for (char *p = shown; *p; p++)
		*p = *p >= ' ' && *p < 0x7f ? *p : '?';
	return fail(err, E_INVALID, "%s: '%s'", what, shown);
}

/* "HTTP/1.0" or "HTTP/1.1" at the end of `text` or followed by a blank. */
static bool take_version(struct message *m, const char *text, size_t len)
{
	if (len < 8 || memcmp(text, "HTTP/1.", 7) != 0 || (text[7] != '0' && text[7] != '1'))
		return false;
	m->minor = (unsigned)(text[7] - '0');
	return true;
}

static int request_line(struct message *m, const char *line, size_t len, struct err *err)
{
	size_t method = token_len(line, len);
	const char *target = line + method + 1, *end = line + len;

	if (method == 0 || method > MESSAGE_METHOD_MAX || method + 1 >= len || line[method] != ' ')
		return refuse_line("the request line has no method", line, len, err);
	const char *blank = target;
	while (blank < end && (unsigned char)*blank > ' ' && *blank != 0x7f)
		blank++;
	if (blank == target || blank == end || *blank != ' ')
		return refuse_line("the request line must be METHOD TARGET HTTP/1.1", line, len, err);
	if (memchr(target, '#', (size_t)(blank - target)))
		return refuse_line("a fragment is not a part of a target", target, (size_t)(blank - target), err);
	if (end - blank != 9 || !take_version(m, blank + 1, 8))
		return refuse_line("the request is not of HTTP/1.1", line, len, err);
	memcpy(m->method, line, method);
	m->target = strndup(target, (size_t)(blank - target));
	if (!m->target)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read a request");
	/* The parser knows some methods only, and no method changes how the body is framed. */
	static const char *const first[] = { "POST / HTTP/1.0\r\n", "POST / HTTP/1.1\r\n" };
	return (int)parse(m, first[m->minor], strlen(first[0]), err);
}

static int status_line(struct message *m, const char *line, size_t len, struct err *err)
{
	char first[32];

	if (len < 12 || !take_version(m, line, len) || line[8] != ' ' || (len > 12 && line[12] != ' '))
		return refuse_line("the answer is not of HTTP/1.1", line, len, err);
	for (unsigned i = 9; i < 12; i++) {
		if (line[i] < '0' || line[i] > '9')
			return refuse_line("the answer has no status", line, len, err);
		m->status = m->status * 10 + (unsigned)(line[i] - '0');
	}
	if (m->status < 100 || m->status > 599)
		return refuse_line("the answer has no status", line, len, err);
	int n = snprintf(first, sizeof(first), "HTTP/1.%u %u OK\r\n", m->minor, m->status);
	return (int)parse(m, first, (size_t)n, err);
}

/* ---- fields ---- */

/* What decides about the framing is taken only when it can be read in one way. */
static int check_framing(struct message *m, const char *name, const char *value, struct err *err)
{
	bool length = strcasecmp(name, "Content-Length") == 0;

	if (!length && strcasecmp(name, "Transfer-Encoding") != 0)
		return 0;
	if (length && (value[0] == '\0' || strspn(value, "0123456789") != strlen(value)))
		return refuse_line("Content-Length is no number", value, strlen(value), err);
	if (!length && strcasecmp(value, "chunked") != 0)
		return refuse_line("Transfer-Encoding is not 'chunked'", value, strlen(value), err);
	if (!length && m->minor == 0)
		return fail(err, E_INVALID, "Transfer-Encoding in a message of HTTP/1.0");
	if (m->has_length || m->has_coding)
		return fail(err, E_INVALID, "the length of the body is given twice");
	*(length ? &m->has_length : &m->has_coding) = true;
	return 0;
}

/* `line` without CR LF, which follow it. */
static int field_line(struct message *m, const char *line, size_t len, struct err *err)
{
	size_t name = token_len(line, len);

	if (name == 0 || name == len || line[name] != ':')
		return refuse_line("a line of the head is no field", line, len, err);
	const char *value = line + name + 1, *end = line + len;
	while (value < end && (*value == ' ' || *value == '\t'))
		value++;
	while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	for (const char *p = value; p < end; p++)
		if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f)
			return refuse_line("a field has control characters", line, len, err);
	size_t at = m->fields.len;
	strbuf_add(&m->fields, line, name);
	strbuf_putc(&m->fields, '\0');
	strbuf_add(&m->fields, value, (size_t)(end - value));
	strbuf_putc(&m->fields, '\0');
	if (m->fields.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the head of a message");
	if (check_framing(m, m->fields.text + at, m->fields.text + at + name + 1, err) < 0)
		return err->num;
	return (int)parse(m, line, len + 2, err);
}

/* A whole line with its end. */
static int take_line(struct message *m, const char *line, size_t len, struct err *err)
{
	if (len < 2 || line[len - 2] != '\r')
		return refuse_line("a line does not end with CR LF", line, len - 1, err);
	if (m->begun && len == 2)
		return (int)parse(m, line, len, err);
	if (m->begun)
		return field_line(m, line, len - 2, err);
	if (len == 2 && m->type == HTTP_REQUEST) /* empty lines before a request are ignored: RFC 9112, 2.2 */
		return 0;
	m->begun = true;
	return m->type == HTTP_REQUEST ? request_line(m, line, len - 2, err) : status_line(m, line, len - 2, err);
}

ssize_t message_head(struct message *m, const char *bytes, size_t len, struct err *err)
{
	size_t taken = 0;

	while (taken < len && !m->has_head) {
		const char *line = bytes + taken, *lf = memchr(line, '\n', len - taken);
		size_t n = lf ? (size_t)(lf - line) + 1 : len - taken;
		m->head_bytes += n;
		taken += n;
		if (m->head_bytes > m->head_max)
			return fail(err, E_TOO_LARGE, "the head has more than %zu bytes", m->head_max);
		if (!lf || m->line.len > 0)
			strbuf_add(&m->line, line, n);
		if (m->line.failed)
			return err_num(err, ERR_INTERNAL, ENOMEM, "read the head of a message");
		if (!lf)
			break;
		bool whole = m->line.len == 0;
		if (take_line(m, whole ? line : m->line.text, whole ? n : m->line.len, err) < 0)
			return err->num;
		m->line.len = 0;
	}
	return (ssize_t)taken;
}

/* ---- the body ---- */

ssize_t message_body(struct message *m, const char *bytes, size_t len, struct err *err)
{
	return parse(m, bytes, len, err);
}

int message_eof(struct message *m, struct err *err)
{
	if (m->complete)
		return 0;
	return m->begun && m->has_head ? (int)parse(m, "", 0, err)
				       : fail(err, E_INVALID, "the connection ended before the head of a message");
}

/* ---- what the head says ---- */

bool message_next(const struct message *m, size_t *pos, const char **ret_name, const char **ret_value)
{
	if (*pos >= m->fields.len)
		return false;
	*ret_name = m->fields.text + *pos;
	*ret_value = *ret_name + strlen(*ret_name) + 1;
	*pos += strlen(*ret_name) + strlen(*ret_value) + 2;
	return true;
}

const char *message_field(const struct message *m, const char *name)
{
	const char *have, *value;
	size_t pos = 0;

	while (message_next(m, &pos, &have, &value))
		if (strcasecmp(have, name) == 0)
			return value;
	return NULL;
}

bool message_listed(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = list; p && *p;) {
		p += strspn(p, ", \t");
		size_t n = strcspn(p, ", \t");
		if (n == len && strncasecmp(p, word, len) == 0)
			return true;
		p += n;
	}
	return false;
}

bool message_is_chunked(const struct message *m)
{
	return m->has_coding;
}

uint64_t message_length(const struct message *m)
{
	const char *length = m->has_length ? message_field(m, "Content-Length") : NULL;

	return length ? strtoull(length, NULL, 10) : UINT64_MAX;
}

bool message_has_body(const struct message *m)
{
	if (m->type == HTTP_REQUEST)
		return m->has_coding || (m->has_length && message_length(m) > 0);
	if (m->answers_head || m->status < 200 || m->status == 204 || m->status == 304)
		return false;
	return !m->has_length || message_length(m) > 0;
}

bool message_keeps_alive(const struct message *m)
{
	const char *connection = message_field(m, "Connection");

	return m->minor == 1 ? !message_listed(connection, "close") : message_listed(connection, "keep-alive");
}

bool message_expects_continue(const struct message *m)
{
	const char *expect = message_field(m, "Expect");

	return m->minor == 1 && expect && strcasecmp(expect, "100-continue") == 0;
}
