// SPDX-License-Identifier: Apache-2.0
/* The list of keys and answers. */
#include "forkd/idempotency.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <pthread.h>
#include <string.h>

#include "common/clock.h"
#include "forkd/errors.h"

enum { HASH_BYTES = 32 };

struct entry {
	char *key;
	uint8_t hash[HASH_BYTES];
	bool done;
	unsigned status, waiting;
	char *body;
	size_t len;
	uint64_t expires_ns;
	struct entry *next;
};

struct idempotency {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct entry *list;
	unsigned n;
};

int idempotency_new(struct idempotency **ret, struct err *err)
{
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		return err_num(err, ERR_INTERNAL, ENOMEM, "prepare idempotency keys");
	pthread_mutex_init(&(*ret)->lock, NULL);
	pthread_cond_init(&(*ret)->changed, NULL);
	return 0;
}

static void drop(struct idempotency *i, struct entry **at)
{
	struct entry *e = *at;

	*at = e->next;
	i->n--;
	free(e->key);
	free(e->body);
	free(e);
}

void idempotency_free(struct idempotency *i)
{
	if (!i)
		return;
	while (i->list)
		drop(i, &i->list);
	pthread_mutex_destroy(&i->lock);
	pthread_cond_destroy(&i->changed);
	free(i);
}

/* Who asks, for what, with what. */
static void hash_request(const struct request *rq, uint8_t ret[HASH_BYTES])
{
	gnutls_hash_hd_t h;
	const uint32_t who[] = { rq->caller.local, rq->caller.uid, rq->n_fds };

	memset(ret, 0, HASH_BYTES);
	if (gnutls_hash_init(&h, GNUTLS_DIG_SHA256) < 0)
		return;
	gnutls_hash(h, who, sizeof(who));
	gnutls_hash(h, rq->path, strlen(rq->path) + 1);
	if (rq->text)
		gnutls_hash(h, rq->text, rq->text_len);
	gnutls_hash_deinit(h, ret);
}

static struct entry **find_locked(struct idempotency *i, const char *key)
{
	struct entry **at = &i->list;
	uint64_t now = monotonic_ns();

	while (*at) {
		struct entry *e = *at;
		if (e->done && !e->waiting && e->expires_ns < now) {
			drop(i, at);
			continue;
		}
		if (strcmp(e->key, key) == 0)
			return at;
		at = &e->next;
	}
	return at;
}

static int add_locked(struct idempotency *i, struct entry **at, const char *key, const uint8_t *hash, struct err *err)
{
	struct entry *e;

	if (i->n >= IDEMPOTENCY_ENTRIES_MAX)
		return fail(err, E_BUSY, "more than %d idempotency keys within ten minutes", IDEMPOTENCY_ENTRIES_MAX);
	e = calloc(1, sizeof(*e));
	if (e)
		e->key = strdup(key);
	if (!e || !e->key) {
		free(e);
		return err_num(err, ERR_INTERNAL, ENOMEM, "keep the idempotency key");
	}
	memcpy(e->hash, hash, HASH_BYTES);
	*at = e;
	i->n++;
	return 0;
}

static int begin_locked(struct idempotency *i, const char *key, const uint8_t *hash, struct reply *reply,
			struct err *err)
{
	for (;;) {
		struct entry **at = find_locked(i, key), *e = *at;
		if (!e)
			return add_locked(i, at, key, hash, err);
		if (memcmp(e->hash, hash, HASH_BYTES) != 0)
			return fail(err, E_IDEMPOTENCY, "the Idempotency-Key '%s' came with another request before",
				    key);
		if (e->done) {
			reply->status = e->status;
			strbuf_add(&reply->body, e->body, e->len);
			return 1;
		}
		e->waiting++; /* it stays while we look away; what failed is taken out by idempotency_end() */
		pthread_cond_wait(&i->changed, &i->lock);
		at = find_locked(i, key);
		if (*at == e)
			e->waiting--;
	}
}

int idempotency_begin(struct idempotency *i, const struct request *rq, struct reply *reply, struct err *err)
{
	const char *key = request_header(rq, "Idempotency-Key");
	uint8_t hash[HASH_BYTES];

	if (!key)
		return 0;
	if (!key[0] || strlen(key) > IDEMPOTENCY_KEY_MAX)
		return fail(err, E_INVALID, "Idempotency-Key must have 1 to %d characters", IDEMPOTENCY_KEY_MAX);
	hash_request(rq, hash);
	pthread_mutex_lock(&i->lock);
	int r = begin_locked(i, key, hash, reply, err);
	pthread_mutex_unlock(&i->lock);
	return r;
}

void idempotency_end(struct idempotency *i, const struct request *rq, const struct reply *reply)
{
	const char *key = request_header(rq, "Idempotency-Key");

	if (!key)
		return;
	pthread_mutex_lock(&i->lock);
	struct entry **at = find_locked(i, key), *e = *at;
	if (e && reply && (e->body = malloc(reply->body.len + 1))) {
		memcpy(e->body, reply->body.text, reply->body.len);
		e->len = reply->body.len;
		e->status = reply->status ? reply->status : 200;
		e->expires_ns = monotonic_ns() + IDEMPOTENCY_KEPT_S * 1000000000ULL;
		e->done = true;
	} else if (e) {
		drop(i, at);
	}
	pthread_cond_broadcast(&i->changed);
	pthread_mutex_unlock(&i->lock);
}
