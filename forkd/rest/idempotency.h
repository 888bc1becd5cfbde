// SPDX-License-Identifier: Apache-2.0
/*
 * Idempotency-Key: the answer to a request that made something is kept for ten minutes, and given again to one with the same key and
 * body of the same user. One with the same key that comes meanwhile waits for the first. What failed is forgotten: it has made nothing.
 * Each caller (a local user; all who have the token) has a share of its own: when it is full, the caller's oldest finished key is
 * forgotten. A request is never refused for want of room. Keys at work are as many as there are connections.
 */
#ifndef FORKD_REST_IDEMPOTENCY_H
#define FORKD_REST_IDEMPOTENCY_H

#include <stdint.h>

#include "forkd/rest/server.h"

enum {
	IDEMPOTENCY_KEY_MAX = 255,
	IDEMPOTENCY_KEPT_S = 600,
	IDEMPOTENCY_KEYS_MAX = 4096,          /* finished keys of a caller */
	IDEMPOTENCY_BYTES_MAX = 16 << 20,     /* what these and their answers take */
	IDEMPOTENCY_ALL_BYTES_MAX = 64 << 20, /* of all callers; then the one who holds most loses its oldest */
};

struct idempotency;
MUST_CHECK int idempotency_new(struct idempotency **ret, struct err *err);
void idempotency_free(struct idempotency *i);

/*
 * 0: do it, and call idempotency_end(); 1: done before, *reply is the answer. E_IDEMPOTENCY: the key was used for another
 * request. Without the header 0, and idempotency_end() does nothing.
 */
MUST_CHECK int idempotency_begin(struct idempotency *i, const struct request *rq, struct reply *reply, struct err *err);
/* reply NULL: it failed. */
void idempotency_end(struct idempotency *i, const struct request *rq, const struct reply *reply);

#endif
