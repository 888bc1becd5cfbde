// SPDX-License-Identifier: Apache-2.0
/* The request line's target: percent-decoding, the query, and which route a path belongs to. */
#ifndef FORKD_REST_URL_H
#define FORKD_REST_URL_H

#include "forkd/rest/server.h"

/*
 * Decodes %XX of text[0..len) in place and ends it with NUL; '+' is a blank when `plus`. -EINVAL: a broken escape, a control
 * character, or not UTF-8.
 */
MUST_CHECK int url_decode(char *text, size_t len, bool plus);

/* One key=value of a query, decoded. */
struct url_pair {
	char *key, *value;
};
enum { URL_PAIRS_MAX = 64 };
/* Cuts the query into pairs, in place. The number of them, or -EINVAL as above, or -E2BIG. */
MUST_CHECK int url_query(char *query, struct url_pair pairs[URL_PAIRS_MAX]);

/*
 * The route of a path that is still encoded; HEAD is answered by GET's. NULL: none, and `allow` has the methods that the path
 * has ("GET, HEAD, POST"), nothing for an unknown path. -EINVAL in *ret_bad: a parameter that cannot be decoded.
 */
const struct route *url_route(const struct route *routes, unsigned n, const char *method, const char *path,
			      char param[HTTP_PARAM_MAX][256], struct strbuf *allow, int *ret_bad);

/* A decimal number of a query; `what` names it. */
MUST_CHECK int query_number(const char *text, const char *what, uint64_t max, uint64_t *ret, struct err *err);

#endif
