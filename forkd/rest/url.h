// SPDX-License-Identifier: Apache-2.0
/* The request line's target: percent-decoding, the query, and which route a path belongs to. */
#ifndef FORKD_REST_URL_H
#define FORKD_REST_URL_H

#include "forkd/rest/server.h"

/*
 * Decodes %XX of text[0..len) in place and ends the text with NUL; '+' is a blank when `plus`.
 * -EINVAL: a broken escape, a control character, or not UTF-8.
 */
MUST_CHECK int url_decode(char *text, size_t len, bool plus);

/* One key=value of a query, decoded. */
struct url_pair {
	char *key, *value;
};
enum { URL_PAIRS_MAX = 64 };
/*
 * Cuts the query (NULL: none) into pairs, in place. Returns the number of pairs, -EINVAL as for
 * url_decode(), or -E2BIG.
 */
MUST_CHECK int url_query(char *query, struct url_pair pairs[URL_PAIRS_MAX]);

/*
 * Finds the route of a path that is still encoded. The route of GET serves HEAD too. NULL: there is
 * no route; then `allow` has the methods of the path ("GET, HEAD, POST"), or nothing for an unknown
 * path. *ret_bad -EINVAL: a parameter cannot be decoded. *ret_tail: where the rest of the path begins, with a '/', when the
 * route streams.
 */
const struct route *url_route(const struct route *routes, unsigned n, const char *method, const char *path,
			      char param[HTTP_PARAM_MAX][256], struct strbuf *allow, int *ret_bad,
			      const char **ret_tail);

/*
 * Loads a decimal number of a query, at most `max`, else E_INVALID. `what` names the number in
 * messages.
 */
MUST_CHECK int query_number(const char *text, const char *what, uint64_t max, uint64_t *ret, struct err *err);

#endif
