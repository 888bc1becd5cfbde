// SPDX-License-Identifier: Apache-2.0
#include "common/frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void frame_head(unsigned char head[static FRAME_HEAD], unsigned flags, size_t len)
{
	head[0] = (unsigned char)flags;
	for (int i = 0; i < 4; i++)
		head[1 + i] = (unsigned char)(len >> (24 - 8 * i));
}

void frames_done(struct frames *f)
{
	if (f->budget)
		budget_give(f->budget, &f->taken);
	free(f->bytes);
	*f = (struct frames){ .max = f->max, .budget = f->budget };
}

static int check_head(const unsigned char *head, size_t max, size_t *ret_len, struct err *err)
{
	const size_t len = (size_t)head[1] << 24 | (size_t)head[2] << 16 | (size_t)head[3] << 8 | head[4];

	if (head[0] & FRAME_COMPRESSED)
		return err_set(err, ERR_INVALID, "a compressed message; no compression is offered");
	if (head[0] & ~(unsigned)FRAME_END)
		return err_set(err, ERR_INVALID, "a message with unknown flags %u", head[0]);
	if (len > max)
		return err_set(err, ERR_BUSY, "a message of %zu bytes; %zu are the most", len, max);
	*ret_len = len;
	return 0;
}

int frame_whole(const char *data, size_t len, size_t max, size_t *ret_len, struct err *err)
{
	if (len < FRAME_HEAD)
		return err_set(err, ERR_INVALID, "the body has no message");
	if (check_head((const unsigned char *)data, max, ret_len, err) < 0)
		return err->num;
	if ((data[0] & FRAME_END) || *ret_len != len - FRAME_HEAD)
		return err_set(err, ERR_INVALID, "the body is not one whole message");
	return 0;
}

/* Room for what has come and `more` bytes: who sends has to send what it wants to have room for. */
static int make_room(struct frames *f, size_t more, struct err *err)
{
	if (f->len + more + 1 <= f->cap)
		return 0;
	const size_t need = f->len + more + 1, cap = need < 1024 ? 1024 : need + need / 2;
	if (f->budget && !budget_take(f->budget, &f->taken, cap - f->cap))
		return err_set(err, ERR_BUSY, "%zu bytes of requests are held, which is the most", f->budget->max);
	char *bytes = realloc(f->bytes, cap);
	if (!bytes)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read a message");
	f->bytes = bytes;
	f->cap = cap;
	return 0;
}

int frames_take(struct frames *f, const char *data, size_t len, size_t *ret_used, bool *ret_message, struct err *err)
{
	size_t used = 0, whole = 0;

	*ret_message = false;
	if (f->head_len == 0)
		f->len = 0;
	while (f->head_len < FRAME_HEAD && used < len)
		f->head[f->head_len++] = (unsigned char)data[used++];
	*ret_used = used;
	if (f->head_len < FRAME_HEAD)
		return 0;
	if (check_head(f->head, f->max, &whole, err) < 0)
		return err->num;
	if (f->ended)
		return err_set(err, ERR_INVALID, "a message behind the end of the stream");
	const size_t left = whole - f->len, part = len - used < left ? len - used : left;
	if (make_room(f, part, err) < 0)
		return err->num;
	memcpy(f->bytes + f->len, data + used, part);
	f->len += part;
	f->bytes[f->len] = '\0';
	*ret_used = used + part;
	if (f->len < whole)
		return 0;
	f->ended = f->head[0] & FRAME_END;
	f->head_len = 0;
	*ret_message = true;
	return 0;
}
