// SPDX-License-Identifier: Apache-2.0
/* guest/files/gunzip: gzip in pieces, several members, what is no gzip. */
#include "guest/files/gunzip.h"

#include "tests/unit/unit.h"

#include <errno.h>

static int put(void *ctx, const char *data, size_t len, struct err *err)
{
	(void)err;
	assert_true(len > 0 && len <= 65536);
	strbuf_add(ctx, data, len);
	return 0;
}

static int put_refuses(void *ctx, const char *data, size_t len, struct err *err)
{
	(void)ctx;
	(void)data;
	(void)len;
	return err_num(err, ERR_INTERNAL, ENOSPC, "full");
}

static void zip(struct strbuf *out, const char *text, size_t len)
{
	z_stream z = { .next_in = (const Bytef *)text, .avail_in = (uInt)len };
	char piece[4096];
	int r;

	assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
	do {
		z.next_out = (Bytef *)piece;
		z.avail_out = sizeof(piece);
		r = deflate(&z, Z_FINISH);
		strbuf_add(out, piece, sizeof(piece) - z.avail_out);
	} while (r == Z_OK);
	assert_int_equal(deflateEnd(&z), Z_OK);
}

static int unzip(const char *body, size_t len, size_t step, struct strbuf *out)
{
	struct gunzip g;
	struct err err = {};
	int r = gunzip_init(&g, put, out, &err);

	for (size_t at = 0; r == 0 && at < len; at += step) {
		size_t n = len - at < step ? len - at : step;
		autofree char *piece = exact_copy(body + at, n);
		r = gunzip_feed(&g, piece, n, &err);
	}
	if (r == 0)
		r = gunzip_finish(&g, &err);
	gunzip_done(&g);
	assert_true(r == 0 || err.msg[0]);
	return r;
}

static void pieces(void **state)
{
	autostrbuf struct strbuf text = {}, body = {};

	(void)state;
	for (int i = 0; i < 60000; i++)
		strbuf_printf(&text, "%d ", i * 7919 % 10007);
	zip(&body, text.text, text.len / 3);
	size_t first = body.len;
	zip(&body, text.text + text.len / 3, text.len - text.len / 3);
	static const size_t steps[] = { 1, 7, 4096, 1 << 20 };
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		autostrbuf struct strbuf out = {};
		assert_int_equal(unzip(body.text, body.len, steps[i], &out), 0);
		assert_int_equal(out.len, text.len);
		assert_memory_equal(out.text, text.text, text.len);
	}
	/* cut anywhere but between the members, the body is not whole */
	for (size_t len = 0; len < body.len; len += len < 64 || body.len - len < 64 ? 1 : 997) {
		autostrbuf struct strbuf out = {};
		assert_int_equal(unzip(body.text, len, len + 1, &out), len == first ? 0 : -EINVAL);
	}
}

static void refuses(void **state)
{
	autostrbuf struct strbuf body = {}, out = {};
	struct gunzip g;
	struct err err = {};

	(void)state;
	assert_int_equal(unzip("no gzip at all", 14, 14, &out), -EINVAL);
	zip(&body, "abc", 3);
	strbuf_puts(&body, "garbage behind");
	assert_int_equal(unzip(body.text, body.len, 5, &out), -EINVAL);
	body.len -= strlen("garbage behind");
	body.text[body.len - 8] ^= 1; /* the checksum */
	assert_int_equal(unzip(body.text, body.len, 5, &out), -EINVAL);
	body.text[body.len - 8] ^= 1;
	assert_int_equal(gunzip_init(&g, put_refuses, NULL, &err), 0);
	assert_int_equal(gunzip_feed(&g, body.text, body.len, &err), -ENOSPC);
	assert_string_equal(err.msg, "full\nNo space left on device (os error 28)");
	gunzip_done(&g);
	gunzip_done(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(pieces), cmocka_unit_test(refuses) };

	return cmocka_run_group_tests_name("gunzip", tests, NULL, NULL);
}
