// SPDX-License-Identifier: Apache-2.0
/* Idempotency keys: what is given again, what is forgotten, and that no caller takes another's share. */
#include "forkd/rest/idempotency.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "forkd/errors.h"
#include "tests/unit/unit.h"

static struct idempotency *keys;
static _Thread_local const char *key_header;

/* The server's, which would ask the front. */
const char *request_header(const struct request *rq, const char *name)
{
	(void)rq;
	assert_string_equal(name, "Idempotency-Key");
	return key_header;
}

static int set_up(void **state)
{
	struct err err = {};

	(void)state;
	return idempotency_new(&keys, &err);
}

static int tear_down(void **state)
{
	(void)state;
	idempotency_free(steal_ptr(&keys));
	idempotency_free(NULL);
	return 0;
}

static struct request request_of(uid_t uid, char *body)
{
	return (struct request){
		.path = "/v1/templates/t/clones",
		.text = body,
		.text_len = strlen(body),
		.caller = { .local = uid != UINT32_MAX, .uid = uid == UINT32_MAX ? 0 : uid },
	};
}

/* What idempotency_begin() says; a new request is carried out, and its answer is `answer`. */
static int ask(uid_t uid, const char *key, const struct strbuf *answer)
{
	struct request rq = request_of(uid, (char[]){ "{}" });
	const struct reply done = { .status = 201, .body = *answer };
	struct reply again = {};
	struct err err = {};

	key_header = key;
	int r = idempotency_begin(keys, &rq, &again, &err);
	if (r < 0)
		fail_msg("key %s of user %u: %s", key, uid, err.msg);
	if (r == 0)
		idempotency_end(keys, &rq, &done);
	strbuf_done(&again.body);
	return r;
}

static struct strbuf text_of(size_t len)
{
	struct strbuf text = {};

	while (text.len < len)
		strbuf_putc(&text, 'x');
	return text;
}

static void ask_many(uid_t uid, unsigned n, const struct strbuf *answer)
{
	char key[32];

	for (unsigned i = 0; i < n; i++) {
		snprintf(key, sizeof(key), "key-%u", i);
		assert_int_equal(ask(uid, key, answer), 0);
	}
}

static void gives_again(void **state)
{
	struct request rq = request_of(1, (char[]){ "{}" }), other = request_of(1, (char[]){ "{ }" });
	struct reply reply = {}, again = {};
	struct err err = {};

	(void)state;
	key_header = NULL;
	assert_int_equal(idempotency_begin(keys, &rq, &reply, &err), 0);
	idempotency_end(keys, &rq, &reply);
	key_header = "k";
	assert_int_equal(idempotency_begin(keys, &rq, &reply, &err), 0);
	reply.status = 201;
	strbuf_puts(&reply.body, "made");
	idempotency_end(keys, &rq, &reply);
	assert_int_equal(idempotency_begin(keys, &rq, &again, &err), 1);
	assert_int_equal(again.status, 201);
	assert_string_equal(again.body.text, "made");
	assert_true(idempotency_begin(keys, &other, &again, &err) < 0);
	assert_int_equal(err.detail, E_IDEMPOTENCY);
	/* Others have keys of their own; all who show the token are one caller, and that is not root. */
	for (uid_t uid = 0; uid < 3; uid++)
		assert_int_equal(ask(uid == 1 ? UINT32_MAX : uid, "k", &reply.body), 0);
	assert_int_equal(ask(UINT32_MAX, "k", &reply.body), 1);
	strbuf_done(&reply.body);
	strbuf_done(&again.body);
}

static void forgets_failures(void **state)
{
	struct request rq = request_of(1, (char[]){ "{}" });
	struct reply reply = {};
	struct err err = {};

	(void)state;
	key_header = "k";
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(idempotency_begin(keys, &rq, &reply, &err), 0);
		idempotency_end(keys, &rq, NULL);
	}
}

static atomic_uint second_began;

/* Waits for the first, which fails: it is this one's turn. */
static void *second(void *arg)
{
	struct request rq = request_of(1, (char[]){ "{}" });
	struct reply reply = {};
	struct err err = {};

	(void)arg;
	key_header = "k";
	atomic_store(&second_began, 1);
	int r = idempotency_begin(keys, &rq, &reply, &err);
	if (r == 0)
		idempotency_end(keys, &rq, &reply);
	return r == 0 ? NULL : &keys;
}

static void waits_for_the_first(void **state)
{
	struct request rq = request_of(1, (char[]){ "{}" });
	struct reply reply = {};
	struct err err = {};
	pthread_t thread;
	void *failed;

	(void)state;
	key_header = "k";
	assert_int_equal(idempotency_begin(keys, &rq, &reply, &err), 0);
	assert_int_equal(pthread_create(&thread, NULL, second, NULL), 0);
	while (!atomic_load(&second_began))
		usleep(1000);
	usleep(20000); /* most likely it waits by now; the result is the same when it does not */
	idempotency_end(keys, &rq, NULL);
	pthread_join(thread, &failed);
	assert_null(failed);
	assert_int_equal(idempotency_begin(keys, &rq, &reply, &err), 1);
	strbuf_done(&reply.body);
}

/* One creation more than a caller may have keys: its oldest one is forgotten, and nobody is refused. */
static void oldest_goes_first(void **state)
{
	struct strbuf answer = text_of(10);

	(void)state;
	assert_int_equal(ask(2, "another's", &answer), 0);
	ask_many(1, IDEMPOTENCY_KEYS_MAX, &answer);
	assert_int_equal(ask(1, "key-0", &answer), 1);
	assert_int_equal(ask(1, "one more", &answer), 0);
	assert_int_equal(ask(1, "one more", &answer), 1);
	assert_int_equal(ask(1, "key-1", &answer), 1);
	assert_int_equal(ask(1, "key-0", &answer), 0); /* and so key-1 goes */
	assert_int_equal(ask(1, "key-2", &answer), 1);
	assert_int_equal(ask(1, "key-1", &answer), 0);
	assert_int_equal(ask(2, "another's", &answer), 1);
	assert_int_equal(ask(2, "a new one", &answer), 0);
	strbuf_done(&answer);
}

/* Finished last, though it began first. */
static void age_counts_from_the_end(void **state)
{
	struct request rq = request_of(1, (char[]){ "{}" });
	struct strbuf answer = text_of(10);
	const struct reply done = { .status = 201, .body = answer };
	struct reply reply = {};
	struct err err = {};

	(void)state;
	key_header = "long";
	assert_int_equal(idempotency_begin(keys, &rq, &reply, &err), 0);
	ask_many(1, IDEMPOTENCY_KEYS_MAX, &answer);
	key_header = "long";
	idempotency_end(keys, &rq, &done);
	assert_int_equal(ask(1, "key-1", &answer), 1);
	assert_int_equal(ask(1, "long", &answer), 1);
	assert_int_equal(ask(1, "key-0", &answer), 0);
	strbuf_done(&answer);
}

/* A caller's answers, and those of all, have a bound in bytes; who holds most pays for the second. */
static void bytes_are_bounded(void **state)
{
	enum { BIG = 1 << 20, FIT = IDEMPOTENCY_BYTES_MAX / BIG - 1 };
	struct strbuf big = text_of(BIG), small = text_of(10), huge = text_of(IDEMPOTENCY_BYTES_MAX);

	(void)state;
	ask_many(1, FIT, &big);
	assert_int_equal(ask(1, "key-0", &big), 1);
	assert_int_equal(ask(1, "one more", &big), 0);
	assert_int_equal(ask(1, "key-1", &big), 1);
	assert_int_equal(ask(1, "key-0", &big), 0);
	assert_int_equal(ask(1, "huge", &huge), 0); /* does not fit at all: not kept */
	assert_int_equal(ask(1, "huge", &huge), 0);
	assert_int_equal(ask(10, "small", &small), 0);
	for (uid_t uid = 1; uid <= IDEMPOTENCY_ALL_BYTES_MAX / IDEMPOTENCY_BYTES_MAX; uid++)
		ask_many(uid, FIT, &big);
	assert_int_equal(ask(1, "key-0", &big), 1);
	ask_many(9, FIT, &big);
	unsigned lost = 0;
	for (uid_t uid = 1; uid <= IDEMPOTENCY_ALL_BYTES_MAX / IDEMPOTENCY_BYTES_MAX; uid++)
		lost += ask(uid, "key-0", &small) == 0;
	assert_true(lost > 0);
	assert_int_equal(ask(10, "small", &small), 1);
	strbuf_done(&big);
	strbuf_done(&small);
	strbuf_done(&huge);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(gives_again),       TEST(forgets_failures),        TEST(waits_for_the_first),
		TEST(oldest_goes_first), TEST(age_counts_from_the_end), TEST(bytes_are_bounded),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
