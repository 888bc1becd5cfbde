// SPDX-License-Identifier: Apache-2.0
/* Connect calls: requests, answers, errors and frames. */
#include "guest/connect.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "common/frames.h"
#include "guest/http_internal.h"

static const struct {
	const char *name;
	int status;
} codes[] = {
	[CONNECT_CANCELED] = { "canceled", 499 },
	[CONNECT_UNKNOWN] = { "unknown", 500 },
	[CONNECT_INVALID_ARGUMENT] = { "invalid_argument", 400 },
	[CONNECT_DEADLINE_EXCEEDED] = { "deadline_exceeded", 504 },
	[CONNECT_NOT_FOUND] = { "not_found", 404 },
	[CONNECT_ALREADY_EXISTS] = { "already_exists", 409 },
	[CONNECT_PERMISSION_DENIED] = { "permission_denied", 403 },
	[CONNECT_RESOURCE_EXHAUSTED] = { "resource_exhausted", 429 },
	[CONNECT_FAILED_PRECONDITION] = { "failed_precondition", 400 },
	[CONNECT_UNIMPLEMENTED] = { "unimplemented", 501 },
	[CONNECT_INTERNAL] = { "internal", 500 },
	[CONNECT_UNAVAILABLE] = { "unavailable", 503 },
	[CONNECT_UNAUTHENTICATED] = { "unauthenticated", 401 },
};

/* ---- requests ---- */

static bool has_type(struct exchange *ex, const char *type)
{
	const char *given = ex_header(ex, "content-type");
	const size_t len = strlen(type);

	return given && strncasecmp(given, type, len) == 0 && strchr("; ", given[len]);
}

/* The one message in the body of a call that is answered by a stream. NULL: that was answered. */
static char *only_frame(struct exchange *ex, size_t *ret_len)
{
	struct err err = {};

	if (frame_whole(ex->body, ex->body_len, LIMIT_FRAME, ret_len, &err) == 0)
		return ex->body + FRAME_HEAD;
	connect_fail_err(ex, &err);
	return NULL;
}

bool connect_is_call(struct exchange *ex)
{
	const bool stream = ex->route->style == STYLE_STREAM;
	const char *type = stream ? "application/connect+json" : "application/json";
	const char *coding = ex_header(ex, stream ? "connect-content-encoding" : "content-encoding");

	if (!has_type(ex, type)) {
		ex_fail(ex, 415, "the content type of this call is %s", type);
		return false;
	}
	if (coding && *coding && strcasecmp(coding, "identity") != 0) {
		connect_fail(ex, CONNECT_UNIMPLEMENTED, "no compression is offered");
		return false;
	}
	return true;
}

const struct json_node *connect_request(struct exchange *ex, struct json *json)
{
	char *text = ex->body;
	size_t len = ex->body_len;
	struct err err = {};

	if (!connect_is_call(ex))
		return NULL;
	if (ex->route->style == STYLE_STREAM && !(text = only_frame(ex, &len)))
		return NULL;
	if (json_parse(json, text, len, &err) < 0) {
		connect_fail_err(ex, &err);
		return NULL;
	}
	if (json->nodes->type != JSON_OBJECT) {
		connect_fail(ex, CONNECT_INVALID_ARGUMENT, "the message is %s, not an object",
			     json_type_name(json->nodes));
		return NULL;
	}
	return json->nodes;
}

bool connect_timeout(struct exchange *ex, uint64_t *ret_ns)
{
	const char *ms = ex_header(ex, "connect-timeout-ms");
	const size_t digits = ms ? strspn(ms, "0123456789") : 0;

	*ret_ns = 0;
	if (!ms)
		return true;
	if (digits < 1 || digits > 10 || ms[digits]) {
		connect_fail(ex, CONNECT_INVALID_ARGUMENT, "Connect-Timeout-Ms has 1 to 10 digits");
		return false;
	}
	*ret_ns = strtoull(ms, NULL, 10) * 1000000;
	return true;
}

uint64_t connect_keepalive_ns(const struct exchange *ex)
{
	enum { DEFAULT_S = 90, MAX_S = 86400 };
	const char *text = ex_header(ex, "keepalive-ping-interval");
	const long s = text && strlen(text) < 10 ? strtol(text, NULL, 10) : 0;

	return (uint64_t)(s < 1 ? DEFAULT_S : s > MAX_S ? MAX_S : s) * 1000000000;
}

/* ---- answers ---- */

void connect_reply(struct exchange *ex, const char *json, size_t len)
{
	ex_answer(ex, 200, "application/json", json, len);
}

static void send_frame(struct exchange *ex, unsigned flags, const char *json, size_t len)
{
	unsigned char head[FRAME_HEAD];

	frame_head(head, flags, len);
	ex_write2(ex, head, sizeof(head), json, len);
}

void stream_begin(struct exchange *ex)
{
	ex_begin(ex, 200, "application/connect+json", NULL, -1);
	ex->ends_with_client = true;
}

void stream_message(struct exchange *ex, const char *json, size_t len)
{
	send_frame(ex, 0, json, len);
}

void stream_end(struct exchange *ex)
{
	send_frame(ex, FRAME_END, "{}", 2);
	ex_end(ex);
}

static void fail(struct exchange *ex, enum connect_code code, char *message)
{
	const bool stream = ex->route->style == STYLE_STREAM;
	autostrbuf struct strbuf b = {};

	strbuf_printf(&b, "%s{\"code\":\"%s\",\"message\":", stream ? "{\"error\":" : "", codes[code].name);
	message_json(&b, message);
	strbuf_puts(&b, stream ? "}}" : "}");
	if (b.failed)
		return ex_abort(ex);
	if (!stream)
		return ex_answer(ex, codes[code].status, "application/json", b.text, b.len);
	if (connection_of(ex)->answer == ANSWER_NONE)
		stream_begin(ex);
	send_frame(ex, FRAME_END, b.text, b.len);
	ex_end(ex);
}

void connect_fail(struct exchange *ex, enum connect_code code, const char *fmt, ...)
{
	char message[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	fail(ex, code, message);
}

void connect_fail_err(struct exchange *ex, const struct err *err)
{
	static const enum connect_code by_code[] = {
		[ERR_NONE] = CONNECT_INTERNAL,           [ERR_INVALID] = CONNECT_INVALID_ARGUMENT,
		[ERR_NOT_FOUND] = CONNECT_NOT_FOUND,     [ERR_CONFLICT] = CONNECT_ALREADY_EXISTS,
		[ERR_BUSY] = CONNECT_RESOURCE_EXHAUSTED, [ERR_INTERNAL] = CONNECT_INTERNAL,
		[ERR_HOST] = CONNECT_UNIMPLEMENTED,
	};
	char line[ERR_MSG_BYTES];

	err_line(err, line, sizeof(line));
	fail(ex, by_code[err->code], line);
}
