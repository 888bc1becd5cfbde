// SPDX-License-Identifier: Apache-2.0
/* Decoding and matching of request targets, without state. */
#include "forkd/rest/url.h"

#include <errno.h>
#include <string.h>

#include "forkd/errors.h"

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int url_decode(char *text, size_t len, bool plus)
{
	char *out = text;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c == '%') {
			int high = len - i > 2 ? hex(text[i + 1]) : -1, low = high < 0 ? -1 : hex(text[i + 2]);
			if (low < 0)
				return -EINVAL;
			c = (unsigned char)(high * 16 + low);
			i += 2;
		} else if (c == '+' && plus) {
			c = ' ';
		}
		if (c < 0x20 || c == 0x7f)
			return -EINVAL;
		*out++ = (char)c;
	}
	*out = '\0';
	return utf8_valid(text) ? 0 : -EINVAL;
}

int url_query(char *query, struct url_pair pairs[URL_PAIRS_MAX])
{
	int n = 0;

	while (query) {
		char *pair = strsep(&query, "&");
		if (*pair == '\0')
			continue;
		if (n == URL_PAIRS_MAX)
			return -E2BIG;
		char *value = strchr(pair, '=');
		if (value)
			*value++ = '\0';
		else
			value = pair + strlen(pair);
		if (url_decode(pair, strlen(pair), true) < 0 || url_decode(value, strlen(value), true) < 0)
			return -EINVAL;
		pairs[n++] = (struct url_pair){ .key = pair, .value = value };
	}
	return n;
}

/* Takes one part off a path. Afterwards *path points behind the part, at '/' or at the end. */
static size_t part(const char **path, const char **ret_part)
{
	const char *p = *path + (**path == '/');
	size_t len = strcspn(p, "/");

	*ret_part = p;
	*path = p + len;
	return len;
}

static int take_param(char out[256], const char *text, size_t len)
{
	char buf[3 * 256];

	if (len >= sizeof(buf))
		return -EINVAL;
	memcpy(buf, text, len);
	buf[len] = '\0';
	if (url_decode(buf, len, false) < 0 || strlen(buf) >= 256)
		return -EINVAL;
	memcpy(out, buf, strlen(buf) + 1);
	return 0;
}

/*
 * Whether the path matches the route. If so, the path's parameters are taken. The last parameter of a
 * route that streams is the rest of the path, as it is.
 */
static bool matches(const struct route *route, const char *path, char param[HTTP_PARAM_MAX][256], int *ret_bad,
		    const char **ret_tail)
{
	const char *pattern = route->path;
	unsigned n = 0;
	int bad = 0;

	while (*pattern && *path) {
		const char *want, *have, *rest = path;
		size_t want_len = part(&pattern, &want), have_len = part(&path, &have);
		if (route->streams && *want == '{' && *pattern == '\0') {
			*ret_bad = bad;
			*ret_tail = rest;
			return true;
		}
		if (*want == '{' && have_len > 0 && n < HTTP_PARAM_MAX)
			bad = take_param(param[n++], have, have_len) < 0 ? -EINVAL : bad;
		else if (want_len != have_len || strncmp(want, have, want_len) != 0)
			return false;
	}
	if (*pattern || *path)
		return false;
	*ret_bad = bad;
	return true;
}

const struct route *url_route(const struct route *routes, unsigned n, const char *method, const char *path,
			      char param[HTTP_PARAM_MAX][256], struct strbuf *allow, int *ret_bad,
			      const char **ret_tail)
{
	const char *want = strcmp(method, "HEAD") == 0 ? "GET" : method;

	*ret_bad = 0;
	for (const struct route *r = routes; r < routes + n; r++) {
		if (!matches(r, path, param, ret_bad, ret_tail))
			continue;
		if (strcmp(r->method, want) == 0)
			return r;
		strbuf_printf(allow, "%s%s%s", allow->len ? ", " : "", r->method,
			      strcmp(r->method, "GET") == 0 ? ", HEAD" : "");
	}
	return NULL;
}

int query_number(const char *text, const char *what, uint64_t max, uint64_t *ret, struct err *err)
{
	uint64_t v = 0;

	if (!text[0] || strspn(text, "0123456789") != strlen(text) || strlen(text) > 18)
		return fail(err, E_INVALID, "%s: '%.40s' is not a number", what, text);
	for (const char *p = text; *p; p++)
		v = v * 10 + (uint64_t)(*p - '0');
	if (v > max)
		return fail(err, E_INVALID, "%s: %s is above %llu", what, text, (unsigned long long)max);
	*ret = v;
	return 0;
}
