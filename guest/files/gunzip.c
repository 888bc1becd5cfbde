// SPDX-License-Identifier: Apache-2.0
/* The stream of gzip: zlib, and the members behind each other. */
#include "guest/files/gunzip.h"

#include <errno.h>

enum { PIECE = 65536, GZIP_ALONE = 16 + MAX_WBITS };

int gunzip_init(struct gunzip *g, int (*put)(void *ctx, const char *data, size_t len, struct err *err), void *ctx,
		struct err *err)
{
	*g = (struct gunzip){ .put = put, .ctx = ctx };
	if (inflateInit2(&g->z, GZIP_ALONE) != Z_OK)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read gzip");
	g->ready = true;
	return 0;
}

void gunzip_done(struct gunzip *g)
{
	if (g->ready)
		inflateEnd(&g->z);
	g->ready = false;
}

int gunzip_feed(struct gunzip *g, const char *data, size_t len, struct err *err)
{
	char piece[PIECE];

	g->z.next_in = (const Bytef *)data;
	g->z.avail_in = (uInt)len;
	do {
		g->z.next_out = (Bytef *)piece;
		g->z.avail_out = sizeof(piece);
		if (g->z.avail_in > 0)
			g->between = false;
		int z = inflate(&g->z, Z_NO_FLUSH);
		if (z != Z_OK && z != Z_STREAM_END && z != Z_BUF_ERROR)
			return err_set(err, ERR_INVALID, "body: not gzip: %s", g->z.msg ? g->z.msg : "broken");
		size_t n = sizeof(piece) - g->z.avail_out;
		int r = n > 0 ? g->put(g->ctx, piece, n, err) : 0;
		if (r < 0)
			return r;
		if (z == Z_STREAM_END) {
			inflateReset(&g->z);
			g->between = true;
		}
	} while (g->z.avail_in > 0 || g->z.avail_out == 0);
	return 0;
}

int gunzip_finish(const struct gunzip *g, struct err *err)
{
	if (g->between)
		return 0;
	return err_set(err, ERR_INVALID, "body: gzip that ends in the middle");
}
