// SPDX-License-Identifier: Apache-2.0
/* Keys and answers in lists, two for each caller. */
#include "forkd/rest/idempotency.h"

#include <assert.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <pthread.h>
#include <string.h>
#include <sys/queue.h>

#include "common/clock.h"
#include "forkd/errors.h"

enum { HASH_BYTES = 32 };

struct entry {
	TAILQ_ENTRY(entry) link;
	char *key;
	uint8_t hash[HASH_BYTES];
	enum { AT_WORK, DONE, FAILED } state;
	unsigned status, waiting; /* waiting: requests that wait for this entry, which must stay */
	char *body;
	size_t len, bytes; /* bytes: memory of a finished entry in all */
	uint64_t expires_ns;
};
TAILQ_HEAD(entries, entry);

/* The keys of one caller. */
struct owner {
	LIST_ENTRY(owner) link;
	bool local;
	uid_t uid;
	struct entries at_work; /* failed entries too: a waiting request takes these over */
	struct entries done;    /* oldest first: the first entry expires first */
	unsigned n_done;
	size_t bytes; /* of the finished entries */
};

LIST_HEAD(owners, owner);

struct idempotency {
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t changed;
	struct owners owners;
	size_t bytes; /* of all finished entries */
};

int idempotency_new(struct idempotency **ret, struct err *err)
{
	*ret = calloc(1, sizeof(**ret));
	if (!*ret)
		return err_num(err, ERR_INTERNAL, ENOMEM, "prepare idempotency keys");
	pthread_mutex_init(&(*ret)->lock, NULL);
	pthread_cond_init(&(*ret)->changed, NULL);
	LIST_INIT(&(*ret)->owners);
	return 0;
}

static void entry_free(struct entry *e)
{
	free(e->key);
	free(e->body);
	free(e);
}

static void drop_done(struct idempotency *i, struct owner *o, struct entry *e)
{
	TAILQ_REMOVE(&o->done, e, link);
	o->n_done--;
	o->bytes -= e->bytes;
	i->bytes -= e->bytes;
	entry_free(e);
}

static void drop_owner(struct idempotency *i, struct owner *o)
{
	struct entry *e;

	while ((e = TAILQ_FIRST(&o->done)))
		drop_done(i, o, e);
	while ((e = TAILQ_FIRST(&o->at_work))) {
		TAILQ_REMOVE(&o->at_work, e, link);
		entry_free(e);
	}
	LIST_REMOVE(o, link);
	free(o);
}

void idempotency_free(struct idempotency *i)
{
	if (!i)
		return;
	while (!LIST_EMPTY(&i->owners))
		drop_owner(i, LIST_FIRST(&i->owners));
	pthread_mutex_destroy(&i->lock);
	pthread_cond_destroy(&i->changed);
	free(i);
}

/* ---- bounds ---- */

/* The oldest finished entry for which no request waits; NULL: there is none. */
static struct entry *oldest_done(const struct owner *o)
{
	struct entry *e = TAILQ_FIRST(&o->done);

	while (e && e->waiting)
		e = TAILQ_NEXT(e, link);
	return e;
}

/* Drops finished entries that have expired, and callers without entries. */
static void expire_locked(struct idempotency *i)
{
	uint64_t now = monotonic_ns();
	struct owner *o = LIST_FIRST(&i->owners);

	while (o) {
		struct owner *next = LIST_NEXT(o, link);
		struct entry *e;
		while ((e = oldest_done(o)) && e->expires_ns < now)
			drop_done(i, o, e);
		if (TAILQ_EMPTY(&o->done) && TAILQ_EMPTY(&o->at_work))
			drop_owner(i, o);
		o = next;
	}
}

static struct owner *largest_owner(const struct idempotency *i)
{
	struct owner *largest = LIST_FIRST(&i->owners);

	for (struct owner *o = largest; o; o = LIST_NEXT(o, link))
		if (o->bytes > largest->bytes)
			largest = o;
	return largest;
}

/*
 * Makes room after `o` has got one more finished entry. When `o` has too many, the oldest entries
 * of `o` are dropped. When all callers together have too many bytes, the oldest entries of the
 * largest caller are dropped.
 */
static void make_room_locked(struct idempotency *i, struct owner *o)
{
	struct entry *e;

	while ((o->n_done > IDEMPOTENCY_KEYS_MAX || o->bytes > IDEMPOTENCY_BYTES_MAX) && (e = oldest_done(o)))
		drop_done(i, o, e);
	while (i->bytes > IDEMPOTENCY_ALL_BYTES_MAX && (o = largest_owner(i)) && (e = oldest_done(o)))
		drop_done(i, o, e);
}

/* ---- requests ---- */

/* Hashes the request's path, body and number of descriptors. */
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

static struct owner *find_owner_locked(const struct idempotency *i, const struct caller *who)
{
	for (struct owner *o = LIST_FIRST(&i->owners); o; o = LIST_NEXT(o, link))
		if (o->local == who->local && o->uid == who->uid)
			return o;
	return NULL;
}

static struct entry *find_in(const struct entries *list, const char *key)
{
	for (struct entry *e = TAILQ_FIRST(list); e; e = TAILQ_NEXT(e, link))
		if (strcmp(e->key, key) == 0)
			return e;
	return NULL;
}

/* The caller's entry with this key; NULL: there is none. */
static struct entry *find_locked(const struct idempotency *i, const struct caller *who, const char *key)
{
	const struct owner *o = find_owner_locked(i, who);
	struct entry *e = o ? find_in(&o->at_work, key) : NULL;

	return e || !o ? e : find_in(&o->done, key);
}

static struct owner *add_owner_locked(struct idempotency *i, const struct caller *who)
{
	struct owner *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	o->local = who->local;
	o->uid = who->uid;
	TAILQ_INIT(&o->at_work);
	TAILQ_INIT(&o->done);
	LIST_INSERT_HEAD(&i->owners, o, link);
	return o;
}

static int add_locked(struct idempotency *i, const struct caller *who, const char *key, const uint8_t *hash,
		      struct err *err)
{
	struct owner *o = find_owner_locked(i, who);
	struct entry *e = calloc(1, sizeof(*e));

	if (e)
		e->key = strdup(key);
	if (!o)
		o = add_owner_locked(i, who);
	if (!e || !e->key || !o) {
		if (e)
			entry_free(e);
		return err_num(err, ERR_INTERNAL, ENOMEM, "keep the idempotency key");
	}
	memcpy(e->hash, hash, HASH_BYTES);
	TAILQ_INSERT_TAIL(&o->at_work, e, link);
	return 0;
}

static int begin_locked(struct idempotency *i, const struct request *rq, const char *key, const uint8_t *hash,
			struct reply *reply, struct err *err)
{
	expire_locked(i);
	for (;;) {
		struct entry *e = find_locked(i, &rq->caller, key);
		if (!e)
			return add_locked(i, &rq->caller, key, hash, err);
		if (e->state == FAILED) { /* the first request failed; this request tries again */
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

static bool keep_answer(struct entry *e, const struct reply *reply)
{
	e->body = malloc(reply->body.len + 1);
	if (!e->body)
		return false;
	if (reply->body.len > 0)
		memcpy(e->body, reply->body.text, reply->body.len);
	e->len = reply->body.len;
	e->bytes = sizeof(*e) + strlen(e->key) + e->len;
	e->status = reply->status ? reply->status : 200;
	e->expires_ns = monotonic_ns() + IDEMPOTENCY_KEPT_S * 1000000000ULL;
	e->state = DONE;
	return true;
}

static void end_locked(struct idempotency *i, const struct caller *who, const char *key, const struct reply *reply)
{
	struct owner *o = find_owner_locked(i, who);
	struct entry *e = o ? find_in(&o->at_work, key) : NULL;

	assert(e); /* idempotency_begin() has made it */
	if (reply && keep_answer(e, reply)) {
		TAILQ_REMOVE(&o->at_work, e, link);
		TAILQ_INSERT_TAIL(&o->done, e, link);
		o->n_done++;
		o->bytes += e->bytes;
		i->bytes += e->bytes;
		make_room_locked(i, o);
	} else if (e->waiting) {
		e->state = FAILED;
	} else {
		TAILQ_REMOVE(&o->at_work, e, link);
		entry_free(e);
	}
}

void idempotency_end(struct idempotency *i, const struct request *rq, const struct reply *reply)
{
	const char *key = request_header(rq, "Idempotency-Key");

	if (!key)
		return;
	pthread_mutex_lock(&i->lock);
	end_locked(i, &rq->caller, key, reply);
	pthread_cond_broadcast(&i->changed);
	pthread_mutex_unlock(&i->lock);
}
