// SPDX-License-Identifier: Apache-2.0
/*
 * Turns JSON text into a flat array of nodes and back, exact for every 64-bit integer.
 *
 * This reader was written for state.json. cJSON keeps numbers as doubles, takes duplicate keys and
 * bad UTF-8, and needs 3 ms for the snapshot of two vCPUs; this reader refuses the latter two and
 * is ten times as fast. Strings are unescaped in place, so the text must outlive the nodes. Nothing
 * here is shared between threads.
 */
#ifndef COMMON_JSON64_H
#define COMMON_JSON64_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

enum json_type { JSON_NULL, JSON_BOOL, JSON_INT, JSON_FLOAT, JSON_STRING, JSON_ARRAY, JSON_INTS, JSON_OBJECT };
enum { JSON_DEPTH_MAX = 64 };

struct json_node {
	const char *key; /* in an object: the member's name; else NULL */
	char *str;       /* string: its bytes, NUL-terminated, no NUL inside; float: its digits */
	uint64_t num;    /* int: magnitude; bool: 0 or 1 */
	uint32_t count;  /* array, object: children; string: bytes */
	uint32_t span;   /* nodes of this subtree, itself included: the next sibling is node + span */
	uint8_t type;    /* enum json_type */
	bool negative;   /* int: the number is negative; ints: some are */
};

struct json {
	struct json_node *nodes; /* nodes[0] is the root */
	uint32_t n, cap;
};

/*
 * Parses `len` bytes of RFC 8259 and nothing else. Refuses duplicate keys, invalid UTF-8, U+0000,
 * integers outside [-2^63, 2^64-1], and more than JSON_DEPTH_MAX levels. `json` starts zeroed and
 * may be used again: its memory is kept. Errors are ERR_INVALID and name line and column.
 */
MUST_CHECK int json_parse(struct json *json, char *text, size_t len, struct err *err);
void json_done(struct json *json);
#define autojson __attribute__((cleanup(json_done)))

/*
 * A non-empty array of nothing but integers is JSON_INTS: `count` values, in two's complement when
 * node->negative, are packed behind the node and have no nodes of their own. Most of state.json is
 * that. An array with an integer above INT64_MAX beside a negative one is an ordinary JSON_ARRAY.
 */
static inline const uint64_t *json_ints(const struct json_node *node)
{
	return (const uint64_t *)(const void *)(node + 1);
}

/* The member `key` of an object, or NULL (also when `node` is NULL or no object). */
const struct json_node *json_get(const struct json_node *node, const char *key);
/*
 * for (json_each(child, node)): goes through the children of an object or an array (not of
 * JSON_INTS), in order.
 */
#define json_each(child, node)                                                            \
	const struct json_node *child = (node) + 1, *child##_end = (node) + (node)->span; \
	child < child##_end;                                                              \
	child += child->span
/* Can the text stand in JSON as it is? */
bool utf8_valid(const char *text);
/* The node's type for messages: "an object", "a string" … */
const char *json_type_name(const struct json_node *node);

/* A growing text. When memory runs out, `failed` is set, and what is added later vanishes. */
struct strbuf {
	char *text; /* NUL-terminated once anything was added */
	size_t len, cap;
	bool failed;
};

void strbuf_done(struct strbuf *b);
#define autostrbuf __attribute__((cleanup(strbuf_done)))
void strbuf_add(struct strbuf *b, const char *bytes, size_t len);
void strbuf_puts(struct strbuf *b, const char *text);
void strbuf_putc(struct strbuf *b, char c);
void strbuf_u64(struct strbuf *b, uint64_t v);
void strbuf_printf(struct strbuf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Adds `text` as a JSON string, with quotes and escapes. */
void strbuf_json(struct strbuf *b, const char *text, size_t len);
/* The same for bytes that may be no UTF-8, as names of files: each byte that is none becomes U+FFFD. */
void strbuf_json_lossy(struct strbuf *b, const char *bytes, size_t len);

#endif
