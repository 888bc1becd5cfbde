// SPDX-License-Identifier: Apache-2.0
/* The list of keys and answers. */
#include "forkd/rest/idempotency.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <pthread.h>
#include <string.h>

#include "common/clock.h"
#include "forkd/errors.h"

enum { HASH_BYTES = 32 };
static const size_t kept_max = 64 << 20; /* bytes of answers */

struct entry {
	char *key;
	bool local;
	uid_t uid; /* whose key it is */
	uint8_t hash[HASH_BYTES];
	enum { AT_WORK, DONE, FAILED } state;
	unsigned status, waiting; /* waiting: it stays */
	char *body;
	size_t len;
	uint64_t expires_ns;
	struct entry *next;
};

struct idempotency {
	pthread_mutex_t lock; /* of all below */
	pthread_cond_t changed;
	struct entry *list;
	unsigned n;
	size_t kept; /* bytes of answers */
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
	i->kept -= e->len;
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

/* What is asked for, and with what. */
static int hash_request(const struct request *rq, uint8_t ret[HASH_BYTES], struct err *err)
{
	gnutls_hash_hd_t h;

	if (gnutls_hash_init(&h, GNUTLS_DIG_SHA256) < 0)
		return fail(err, E_INTERNAL, "SHA-256 of the request");
	gnutls_hash(h, &rq->n_fds, sizeof(rq->n_fds));
	gnutls_hash(h, rq->path, strlen(rq->path) + 1);
	if (rq->text)
		gnutls_hash(h, rq->text, rq->text_len);
	gnutls_hash_deinit(h, ret);
	return 0;
}

/* The caller's entry of that key, or the end of the list; drops what is over on the way. */
static struct entry **find_locked(struct idempotency *i, const struct caller *who, const char *key)
{
	struct entry **at = &i->list;
	uint64_t now = monotonic_ns();

	while (*at) {
		struct entry *e = *at;
		bool over = e->state == FAILED || (e->state == DONE && e->expires_ns < now);
		if (over && !e->waiting) {
			drop(i, at);
			continue;
		}
		if (strcmp(e->key, key) == 0 && e->local == who->local && e->uid == who->uid)
			return at;
		at = &e->next;
	}
	return at;
}

static int add_locked(struct idempotency *i, struct entry **at, const struct caller *who, const char *key,
		      const uint8_t *hash, struct err *err)
{
	struct entry *e;

	if (i->n >= IDEMPOTENCY_ENTRIES_MAX || i->kept > kept_max)
		return fail(err, E_BUSY, "too many idempotency keys within ten minutes: %u, with %zu bytes of answers",
			    i->n, i->kept);
	e = calloc(1, sizeof(*e));
	if (e)
		e->key = strdup(key);
	if (!e || !e->key) {
		free(e);
		return err_num(err, ERR_INTERNAL, ENOMEM, "keep the idempotency key");
	}
	e->local = who->local;
	e->uid = who->uid;
	memcpy(e->hash, hash, HASH_BYTES);
	*at = e;
	i->n++;
	return 0;
}

static int begin_locked(struct idempotency *i, const struct request *rq, const char *key, const uint8_t *hash,
			struct reply *reply, struct err *err)
{
	for (;;) {
		struct entry **at = find_locked(i, &rq->caller, key), *e = *at;
		if (!e)
			return add_locked(i, at, &rq->caller, key, hash, err);
		if (e->state == FAILED) { /* others wait for it: one of them tries again */
			memcpy(e->hash, hash, HASH_BYTES);
			e->state = AT_WORK;
			return 0;
		}
		if (memcmp(e->hash, hash, HASH_BYTES) != 0)
			return fail(err, E_IDEMPOTENCY, "the Idempotency-Key '%s' came with another request before",
				    key);
		if (e->state == DONE) {
			reply->status = e->status;
			strbuf_add(&reply->body, e->body, e->len);
			return 1;
		}
		e->waiting++;
		pthread_cond_wait(&i->changed, &i->lock);
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
	if (hash_request(rq, hash, err) < 0)
		return err->num;
	pthread_mutex_lock(&i->lock);
	int r = begin_locked(i, rq, key, hash, reply, err);
	pthread_mutex_unlock(&i->lock);
	return r;
}

void idempotency_end(struct idempotency *i, const struct request *rq, const struct reply *reply)
{
	const char *key = request_header(rq, "Idempotency-Key");

	if (!key)
		return;
	pthread_mutex_lock(&i->lock);
	struct entry *e = *find_locked(i, &rq->caller, key); /* at work: it is there */
	e->state = FAILED;
	if (reply && (e->body = malloc(reply->body.len + 1))) {
		memcpy(e->body, reply->body.text, reply->body.len);
		e->len = reply->body.len;
		i->kept += e->len;
		e->status = reply->status ? reply->status : 200;
		e->expires_ns = monotonic_ns() + IDEMPOTENCY_KEPT_S * 1000000000ULL;
		e->state = DONE;
	}
	pthread_cond_broadcast(&i->changed);
	pthread_mutex_unlock(&i->lock);
}
