// SPDX-License-Identifier: Apache-2.0
/*
 * Idempotency-Key. The answer to a request that made something is kept for ten minutes. A request
 * of the same caller with the same key and body gets this answer again. A request with the same key
 * that comes while the first is at work waits for the first. A request that failed is forgotten: it
 * has made nothing. Each caller (a local user; all who have the token) has a share of its own. When
 * the share is full, the caller's oldest finished key is forgotten. A request is never refused for
 * want of room. There are at most as many keys at work as connections.
 */
#ifndef FORKD_REST_IDEMPOTENCY_H
#define FORKD_REST_IDEMPOTENCY_H

#include <stdint.h>

#include "forkd/rest/server.h"

enum {
	IDEMPOTENCY_KEY_MAX = 255,
	IDEMPOTENCY_KEPT_S = 600,
	IDEMPOTENCY_KEYS_MAX = 4096,          /* finished keys of a caller */
	IDEMPOTENCY_BYTES_MAX = 16 << 20,     /* what these keys and their answers take */
	IDEMPOTENCY_ALL_BYTES_MAX = 64 << 20, /* of all callers; beyond, the largest caller loses the oldest key */
};

struct idempotency;
MUST_CHECK int idempotency_new(struct idempotency **ret, struct err *err);
void idempotency_free(struct idempotency *i);

/*
 * Begins a request; waits while another request with the same key is at work. Returns 0: do the
 * work, then call idempotency_end(). Returns 1: the work was done before, and *reply is the answer.
 * E_IDEMPOTENCY: the key was used for another request. Without the header the function returns 0,
 * and idempotency_end() does nothing.
 */
MUST_CHECK int idempotency_begin(struct idempotency *i, const struct request *rq, struct reply *reply, struct err *err);
/* Ends a request. `reply` NULL: the request failed. The body of the reply is copied. */
void idempotency_end(struct idempotency *i, const struct request *rq, const struct reply *reply);

#endif
