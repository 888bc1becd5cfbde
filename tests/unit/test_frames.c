// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/unit.h"

#include "common/frames.h"

enum { MAX = 4 << 20 };

/* Gives the bytes in pieces of `step`; joins the messages with '|'. */
static int take_all(const char *bytes, size_t len, size_t step, char *ret_text, struct err *err)
{
	struct frames f = { .max = MAX };
	int r = 0;

	*ret_text = '\0';
	for (size_t at = 0; at < len && r == 0;) {
		size_t part = len - at < step ? len - at : step, used;
		bool message;
		autofree char *copy = exact_copy(bytes + at, part);
		r = frames_take(&f, copy, part, &used, &message, err);
		if (r == 0 && message)
			strcat(strcat(ret_text, f.bytes), f.ended ? "end" : "|");
		at += used;
	}
	frames_done(&f);
	return r;
}

static void frames_in_pieces(void **state)
{
	static const char two[] = "\0\0\0\0\2{}"
				  "\0\0\0\0\0"
				  "\0\0\0\0\7{\"a\":1}"
				  "\2\0\0\0\2{}";
	char text[64];
	struct err err = {};

	(void)state;
	for (size_t step = 1; step < sizeof(two); step++) {
		assert_int_equal(take_all(two, sizeof(two) - 1, step, text, &err), 0);
		assert_string_equal(text, "{}||{\"a\":1}|{}end");
	}
}

static void frames_refused(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *message;
	} cases[] = {
		{ "\1\0\0\0\2{}", 7, "a compressed message; no compression is offered" },
		{ "\4\0\0\0\2{}", 7, "a message with unknown flags 4" },
		{ "\2\0\0\0\0\0\0\0\0\0", 10, "a message behind the end of the stream" },
		{ "\0\0\x40\0\1", 5, "a message of 4194305 bytes; 4194304 are the most" },
		{ "\0\xff\xff\xff\xff", 5, "a message of 4294967295 bytes; 4194304 are the most" },
	};
	char text[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err err = {};
		assert_true(take_all(cases[i].bytes, cases[i].len, 64, text, &err) < 0);
		assert_string_equal(err.msg, cases[i].message);
	}
}

/* A length alone makes nothing grow. */
static void frames_hold_what_came(void **state)
{
	struct frames f = { .max = MAX };
	struct err err = {};
	size_t used;
	bool message;

	(void)state;
	assert_int_equal(frames_take(&f,
				     "\0\0\x3f\xff\xff"
				     "abc",
				     8, &used, &message, &err),
			 0);
	assert_true(used == 8 && !message && f.cap <= 4096);
	frames_done(&f);
}

/* What is held is counted, and given back. */
static void frames_have_a_budget(void **state)
{
	struct budget budget = { .max = 3000 };
	struct frames f = { .max = MAX, .budget = &budget };
	char bytes[4096] = { 0, 0, 0, 16, 0 };
	struct err err = {};
	size_t used;
	bool message;

	(void)state;
	assert_int_equal(frames_take(&f, bytes, 1000, &used, &message, &err), 0);
	assert_true(budget.used >= 1000 && budget.used <= budget.max);
	assert_true(frames_take(&f, bytes, 3000, &used, &message, &err) < 0);
	assert_int_equal(err.code, ERR_BUSY);
	frames_done(&f);
	assert_int_equal(budget.used, 0);
}

static void one_message_alone(void **state)
{
	static const struct {
		const char *bytes;
		size_t len;
		const char *says; /* NULL: it is one */
	} cases[] = {
		{ "\0\0\0\0\2{}", 7, NULL },
		{ "\0\0\0\0", 4, "the body has no message" },
		{ "\2\0\0\0\2{}", 7, "the body is not one whole message" },
		{ "\0\0\0\0\3{}", 7, "the body is not one whole message" },
		{ "\0\0\0\0\1{}", 7, "the body is not one whole message" },
		{ "\1\0\0\0\2{}", 7, "a compressed message; no compression is offered" },
		{ "\0\0\x40\0\1", 5, "a message of 4194305 bytes; 4194304 are the most" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autofree char *bytes = exact_copy(cases[i].bytes, cases[i].len);
		struct err err = {};
		size_t len = 0;
		if (cases[i].says) {
			assert_true(frame_whole(bytes, cases[i].len, MAX, &len, &err) < 0);
			assert_string_equal(err.msg, cases[i].says);
		} else {
			assert_int_equal(frame_whole(bytes, cases[i].len, MAX, &len, &err), 0);
			assert_int_equal(len, cases[i].len - FRAME_HEAD);
		}
	}
}

static void heads(void **state)
{
	unsigned char head[FRAME_HEAD];

	(void)state;
	frame_head(head, FRAME_END, 0x01020304);
	assert_memory_equal(head, "\2\1\2\3\4", FRAME_HEAD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_in_pieces),      cmocka_unit_test(frames_refused),
		cmocka_unit_test(frames_hold_what_came), cmocka_unit_test(frames_have_a_budget),
		cmocka_unit_test(one_message_alone),     cmocka_unit_test(heads),
	};

	return cmocka_run_group_tests_name("frames", tests, NULL, NULL);
}
