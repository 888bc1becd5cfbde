// SPDX-License-Identifier: Apache-2.0
/* guest/files/multipart: parts, however the body is cut; what is no multipart; parameters of headers. */
#include "guest/files/multipart.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>

#define TYPE "multipart/form-data; boundary=XyZ"

/* What the sink got, as text: <name|filename>data</> for each part. */
static int got_begin(void *ctx, const char *name, const char *filename, struct err *err)
{
	strbuf_printf(ctx, "<%s|%s>", name ? name : "-", filename ? filename : "-");
	return name && strcmp(name, "refused") == 0 ? err_set(err, ERR_CONFLICT, "refused") : 0;
}

static int got_data(void *ctx, const char *data, size_t len, struct err *err)
{
	(void)err;
	assert_true(len > 0);
	strbuf_add(ctx, data, len);
	return 0;
}

static int got_end(void *ctx, struct err *err)
{
	(void)err;
	strbuf_puts(ctx, "</>");
	return 0;
}

static const struct multipart_sink sink = { got_begin, got_data, got_end };

/* Reads the body in pieces of `step` bytes. */
static int read_body(const char *body, size_t len, size_t step, struct strbuf *out, struct err *err)
{
	struct multipart m = {};
	int r = multipart_init(&m, TYPE, &sink, out, err);

	for (size_t at = 0; r == 0 && at < len; at += step) {
		size_t n = len - at < step ? len - at : step;
		autofree char *piece = exact_copy(body + at, n);
		r = multipart_feed(&m, piece, n, err);
	}
	if (r == 0)
		r = multipart_finish(&m, err);
	multipart_done(&m);
	return r;
}

#define PART(name, data) "--XyZ\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n" data "\r\n"

static void bodies(void **state)
{
	static const struct {
		const char *body, *got;
	} cases[] = {
		{ "--XyZ--\r\n", "" },
		{ "--XyZ--", "" },
		{ PART("file", "abc") "--XyZ--\r\n", "<file|->abc</>" },
		{ PART("file", "") "--XyZ--\r\n", "<file|-></>" },
		{ PART("a", "1") PART("b", "2\r\n") "--XyZ--\r\nepilogue", "<a|->1</><b|->2\r\n</>" },
		{ "preamble\r\n" PART("a", "1") "--XyZ--", "<a|->1</>" },
		{ "--XyZ \t\r\ncontent-disposition: form-data; filename=x/y; name=file\r\nX: y\r\n\r\n1\r\n--XyZ--",
		  "<file|x/y>1</>" },
		{ "--XyZ\r\n\r\nno head\r\n--XyZ--", "<-|->no head</>" },
		/* what looks like a delimiter and is none */
		{ PART("a", "\r\n--XyY\r\r\n--Xy\r\n-\r\r\r\n") "--XyZ--", "<a|->\r\n--XyY\r\r\n--Xy\r\n-\r\r\r\n</>" },
		{ PART("a", "--XyW") "--XyZ--", "<a|->--XyW</>" },
		{ PART("a", "-") "--XyZ--", "<a|->-</>" },
		{ PART("a", "--XyZ\n") "--XyZ--", NULL },
		{ PART("a", "\r\n--XyZfoo") "--XyZ--", NULL },
		{ PART("a", "\r\n--XyZ-\r\n") "--XyZ--", NULL },
		{ PART("a", "\r\n--XyZ\r\r\r\nfoo"), NULL },
		{ PART("refused", "1") "--XyZ--", NULL },
		/* cut short */
		{ "", NULL },
		{ "--XyZ", NULL },
		{ "--XyZ-", NULL },
		{ PART("a", "1") "--XyZ\r\nConte", NULL },
		{ "--XyZ\r\n\r\nabc", NULL },
		{ PART("a", "1") "--XyZ\r\n", NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		for (size_t step = 1; step <= strlen(cases[i].body) + 1; step++) {
			autostrbuf struct strbuf out = {};
			struct err err = {};
			int r = read_body(cases[i].body, strlen(cases[i].body), step, &out, &err);
			if ((r == 0) != (cases[i].got != NULL) || (r == 0 && strcmp(out.text ?: "", cases[i].got) != 0))
				fail_msg("case %zu in steps of %zu: %d '%s' %s", i, step, r, out.text ?: "", err.msg);
			assert_true(r == 0 || err.msg[0]);
		}
}

/* A part without its last boundary never ends: what it was written to can be thrown away. */
static void part_that_does_not_end(void **state)
{
	static const char body[] = "--XyZ\r\n\r\nabc\r\n--XyZ-";
	autostrbuf struct strbuf out = {};
	struct multipart m = {};
	struct err err = {};

	(void)state;
	assert_int_equal(multipart_init(&m, TYPE, &sink, &out, &err), 0);
	assert_int_equal(multipart_feed(&m, body, strlen("--XyZ\r\n\r\nabc\r\n--Xy"), &err), 0);
	assert_string_equal(out.text, "<-|->abc");
	assert_int_equal(multipart_finish(&m, &err), -EINVAL);
	multipart_done(&m);
}

static void bounds(void **state)
{
	autostrbuf struct strbuf body = {}, out = {};
	struct err err = {};

	(void)state;
	strbuf_puts(&body, "--XyZ\r\nX: ");
	while (body.len < MULTIPART_HEAD_MAX)
		strbuf_putc(&body, 'x');
	strbuf_puts(&body, "\r\n\r\n\r\n--XyZ--");
	assert_int_equal(read_body(body.text, body.len, body.len, &out, &err), 0);
	body.len -= strlen("\r\n\r\n\r\n--XyZ--");
	strbuf_puts(&body, "xxxxxxxxxx\r\n\r\n\r\n--XyZ--");
	assert_int_equal(read_body(body.text, body.len, body.len, &out, &err), -EINVAL);
	assert_string_equal(err.msg, "multipart: the head of part 1 is longer than 16384 bytes");
	body.len = 0;
	for (int i = 0; i < MULTIPART_PARTS_MAX; i++)
		strbuf_puts(&body, "--XyZ\r\n\r\n\r\n");
	strbuf_puts(&body, "--XyZ--");
	assert_int_equal(read_body(body.text, body.len, body.len, &out, &err), 0);
	body.len -= 2;
	strbuf_puts(&body, "\r\n\r\n\r\n--XyZ--");
	assert_int_equal(read_body(body.text, body.len, body.len, &out, &err), -EINVAL);
	assert_string_equal(err.msg, "multipart: more than 1024 parts");
	assert_int_equal(read_body("--XyZ\r\nX: \0\r\n\r\n\r\n--XyZ--", 24, 24, &out, &err), -EINVAL);
	assert_string_equal(err.msg, "multipart: NUL in the head of part 1");
}

static void content_types(void **state)
{
	static const char *const good[] = { "multipart/form-data; boundary=a", "Multipart/Form-Data;boundary=\"a b\"",
					    "multipart/mixed; charset=x; boundary=-_'()+,./:=? ; x=y" };
	static const char *const bad[] = { "",
					   "multipart/form-data",
					   "application/json; boundary=a",
					   "multipart/form-data; boundary=",
					   "multipart/form-data; boundary=\"\"",
					   ("multipart/form-data; boundary=aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd"
					    "eeeeeeeeeeffffffffffgggggggggg1") };
	struct multipart m = {};
	struct err err = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		assert_int_equal(multipart_init(&m, good[i], &sink, NULL, &err), 0);
		multipart_done(&m);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (multipart_init(&m, bad[i], &sink, NULL, &err) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
}

static void parameters(void **state)
{
	static const struct {
		const char *value, *key, *is;
	} cases[] = {
		{ "form-data; name=\"file\"; filename=\"a b\"", "filename", "a b" },
		{ "form-data; name=\"file\"; filename=\"a b\"", "name", "file" },
		{ "form-data; name=file", "filename", NULL },
		{ "form-data; filename=\"a\\\"b\\\\c\\d\"", "filename", "a\"b\\c\\d" },
		{ "form-data; filename=\"a;name=b\"; name=c", "name", "c" },
		{ "form-data; filename=\"%22\"", "filename", "%22" },
		{ "form-data; filename=a; filename*=UTF-8''b%20%C3%A9/c; filename=d", "filename", "b \xc3\xa9/c" },
		{ "form-data; filename*=utf-8'en'x; filename=a", "filename", "x" },
		{ "form-data; filename*=broken; filename=a", "filename", "a" },
		{ "form-data; filename*=UTF-8''a%00b; filename=a", "filename", "a" },
		{ "form-data; filename=\"open", "filename", "open" },
		{ "form-data; name; ; =x; name=y", "name", "y" },
		{ "form-data; NAME=x", "name", "x" },
		{ "name=x", "name", NULL },
		{ "", "name", NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autofree char *value = exact_copy(cases[i].value, strlen(cases[i].value) + 1);
		autofree char *is = header_param(value, cases[i].key);
		if (!is != !cases[i].is || (is && strcmp(is, cases[i].is) != 0))
			fail_msg("%s of '%s' is '%s'", cases[i].key, value, is ?: "NULL");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bodies),     cmocka_unit_test(part_that_does_not_end),
		cmocka_unit_test(bounds),     cmocka_unit_test(content_types),
		cmocka_unit_test(parameters),
	};

	return cmocka_run_group_tests_name("multipart", tests, NULL, NULL);
}
