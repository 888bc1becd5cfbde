// SPDX-License-Identifier: Apache-2.0
/* The JSON reader (RFC 8259, strict) and the text buffer that JSON is written with. */
#include "common/json64.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

struct parser {
	struct json *json;
	char *p, *end;
	char *line_start; /* lines are counted while reading: strings are rewritten behind p */
	size_t line;
	unsigned depth;
	struct err *err;
};

static int fail(struct parser *ps, const char *what)
{
	return err_set(ps->err, ERR_INVALID, "%s at line %zu column %zu", what, ps->line,
		       (size_t)(ps->p - ps->line_start) + 1);
}

static void skip_space(struct parser *ps)
{
	for (; ps->p < ps->end && (*ps->p == ' ' || *ps->p == '\n' || *ps->p == '\t' || *ps->p == '\r'); ps->p++) {
		if (*ps->p != '\n')
			continue;
		ps->line++;
		ps->line_start = ps->p + 1;
	}
}

static struct json_node *node_new(struct parser *ps)
{
	struct json *j = ps->json;

	if (j->n == j->cap) {
		uint32_t cap = j->cap ? j->cap * 2 : 256;
		struct json_node *nodes = cap > j->cap ? realloc(j->nodes, cap * sizeof(*nodes)) : NULL;
		if (!nodes)
			return NULL;
		j->nodes = nodes;
		j->cap = cap;
	}
	struct json_node *node = &j->nodes[j->n++];
	*node = (struct json_node){ .span = 1 };
	return node;
}

/*
 * The length of the UTF-8 sequence at p; 0: it is none (RFC 3629: no surrogates, no overlong
 * forms).
 */
static unsigned utf8_len(const unsigned char *p, const unsigned char *end)
{
	unsigned n = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;

	if (n == 0 || (size_t)(end - p) < n)
		return 0;
	for (unsigned i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
	    (p[0] == 0xf4 && p[1] > 0x8f))
		return 0;
	return n;
}

bool utf8_valid(const char *text)
{
	const unsigned char *p = (const unsigned char *)text, *end = p + strlen(text);

	while (p < end) {
		unsigned n = *p < 0x80 ? 1 : utf8_len(p, end);
		if (n == 0)
			return false;
		p += n;
	}
	return true;
}

static int hex4(const char *p, const char *end)
{
	int v = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = p[i];
		int d = c >= '0' && c <= '9'   ? c - '0'
			: c >= 'a' && c <= 'f' ? c - 'a' + 10
			: c >= 'A' && c <= 'F' ? c - 'A' + 10
					       : -1;
		if (d < 0)
			return -1;
		v = v * 16 + d;
	}
	return v;
}

/*
 * p is at the 'u' of \uXXXX. Writes UTF-8 at `out`, at most 4 bytes for 6 or 12 that are read.
 * NULL: it is no character.
 */
static char *unescape_unicode(struct parser *ps, char *out)
{
	int c = hex4(ps->p + 1, ps->end);

	if (c <= 0 || (c >= 0xdc00 && c <= 0xdfff))
		return NULL;
	ps->p += 5;
	if (c >= 0xd800 && c <= 0xdbff) {
		if (ps->end - ps->p < 6 || ps->p[0] != '\\' || ps->p[1] != 'u')
			return NULL;
		int low = hex4(ps->p + 2, ps->end);
		if (low < 0xdc00 || low > 0xdfff)
			return NULL;
		ps->p += 6;
		c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
	}
	if (c < 0x80) {
		*out++ = (char)c;
	} else if (c < 0x800) {
		*out++ = (char)(0xc0 | c >> 6);
		*out++ = (char)(0x80 | (c & 0x3f));
	} else if (c < 0x10000) {
		*out++ = (char)(0xe0 | c >> 12);
		*out++ = (char)(0x80 | (c >> 6 & 0x3f));
		*out++ = (char)(0x80 | (c & 0x3f));
	} else {
		*out++ = (char)(0xf0 | c >> 18);
		*out++ = (char)(0x80 | (c >> 12 & 0x3f));
		*out++ = (char)(0x80 | (c >> 6 & 0x3f));
		*out++ = (char)(0x80 | (c & 0x3f));
	}
	return out;
}

/* p is at the backslash. Returns the new end of the output; NULL: a bad escape. */
static char *unescape(struct parser *ps, char *out)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";

	if (++ps->p >= ps->end)
		return NULL;
	if (*ps->p == 'u')
		return unescape_unicode(ps, out);
	const char *at = *ps->p ? strchr(from, *ps->p) : NULL;
	if (!at)
		return NULL;
	*out++ = to[at - from];
	ps->p++;
	return out;
}

static bool is_plain(char c)
{
	return c != '"' && c != '\\' && (unsigned char)c >= 0x20 && (unsigned char)c < 0x80;
}

/*
 * Skips the bytes of a string that stand for themselves, eight at a time while no byte can be
 * special.
 */
static char *skip_plain(char *p, const char *end)
{
	const uint64_t each = 0x0101010101010101;
	uint64_t w;

	for (; end - p >= 8; p += 8) {
		memcpy(&w, p, sizeof(w));
		uint64_t quote = (w ^ each * '"') - each, escape = (w ^ each * '\\') - each, control = w - each * 0x20;
		if ((w | quote | escape | control) & each * 0x80) /* maybe special */
			break;
	}
	while (p < end && is_plain(*p))
		p++;
	return p;
}

/* p is at the opening quote. The unescaped bytes take the place of the escaped ones. */
static int parse_string(struct parser *ps, char **ret_str, uint32_t *ret_len)
{
	char *out = ++ps->p, *start = out;

	for (;;) {
		char *run = ps->p;
		ps->p = skip_plain(ps->p, ps->end);
		if (out != run)
			memmove(out, run, (size_t)(ps->p - run));
		out += ps->p - run;
		if (ps->p >= ps->end)
			return fail(ps, "unterminated string");
		if (*ps->p == '"')
			break;
		if (*ps->p == '\\') {
			out = unescape(ps, out);
			if (!out)
				return fail(ps, "invalid escape in string");
			continue;
		}
		unsigned n = utf8_len((const unsigned char *)ps->p, (const unsigned char *)ps->end);
		if (n == 0)
			return fail(ps, (unsigned char)*ps->p < 0x20 ? "control character in string"
								     : "invalid UTF-8 in string");
		memmove(out, ps->p, n);
		out += n;
		ps->p += n;
	}
	ps->p++;
	*out = '\0';
	*ret_str = start;
	*ret_len = (uint32_t)(out - start);
	return 0;
}

static bool is_digit(const struct parser *ps)
{
	return ps->p < ps->end && *ps->p >= '0' && *ps->p <= '9';
}

static int parse_digits(struct parser *ps, uint64_t *ret, bool *ret_overflow)
{
	uint64_t v = 0;

	if (!is_digit(ps))
		return fail(ps, "expected a value");
	for (; is_digit(ps); ps->p++) {
		uint64_t d = (uint64_t)(*ps->p - '0');
		*ret_overflow |= v > (UINT64_MAX - d) / 10;
		v = v * 10 + d;
	}
	*ret = v;
	return 0;
}

static int parse_number(struct parser *ps, struct json_node *node)
{
	char *start = ps->p;
	bool overflow = false, is_float = false;
	uint64_t v, ignored;

	node->negative = *ps->p == '-';
	ps->p += node->negative;
	const char *first = ps->p;
	if (parse_digits(ps, &v, &overflow) < 0)
		return -EINVAL;
	if (*first == '0' && ps->p - first > 1)
		return fail(ps, "number with a leading zero");
	if (ps->p < ps->end && *ps->p == '.') {
		ps->p++;
		is_float = true;
		if (parse_digits(ps, &ignored, &(bool){ false }) < 0)
			return -EINVAL;
	}
	if (ps->p < ps->end && (*ps->p == 'e' || *ps->p == 'E')) {
		ps->p++;
		is_float = true;
		if (ps->p < ps->end && (*ps->p == '+' || *ps->p == '-'))
			ps->p++;
		if (parse_digits(ps, &ignored, &(bool){ false }) < 0)
			return -EINVAL;
	}
	if (!is_float && (overflow || (node->negative && v > (uint64_t)INT64_MAX + 1)))
		return fail(ps, "integer out of 64-bit range");
	node->type = is_float ? JSON_FLOAT : JSON_INT;
	node->num = v;
	node->str = start;
	node->count = (uint32_t)(ps->p - start);
	return 0;
}

static int key_order(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/*
 * Refuses duplicate keys. Most objects of state.json have a handful of members, which are compared
 * in pairs; large objects are sorted.
 */
static int check_keys(struct parser *ps, uint32_t object)
{
	const struct json_node *node = &ps->json->nodes[object];

	if (node->count <= 16) {
		const char *seen[16];
		unsigned n = 0;
		for (json_each(member, node)) {
			for (unsigned i = 0; i < n; i++)
				if (strcmp(seen[i], member->key) == 0)
					return fail(ps, "duplicate key in the object that ends");
			seen[n++] = member->key;
		}
		return 0;
	}
	autofree const char **keys = calloc(node->count, sizeof(*keys));
	if (!keys)
		return err_num(ps->err, ERR_INTERNAL, ENOMEM, "parse JSON");
	uint32_t n = 0;
	for (json_each(member, node))
		keys[n++] = member->key;
	qsort(keys, n, sizeof(*keys), key_order);
	for (uint32_t i = 1; i < n; i++)
		if (strcmp(keys[i - 1], keys[i]) == 0)
			return fail(ps, "duplicate key in the object that ends");
	return 0;
}

static int parse_value(struct parser *ps, const char *key);

static int parse_member(struct parser *ps)
{
	char *key;
	uint32_t len;

	if (ps->p >= ps->end || *ps->p != '"')
		return fail(ps, "expected a key");
	if (parse_string(ps, &key, &len) < 0)
		return -EINVAL;
	skip_space(ps);
	if (ps->p >= ps->end || *ps->p != ':')
		return fail(ps, "expected ':'");
	ps->p++;
	return parse_value(ps, key);
}

/* Makes room for value number `n` behind nodes[index], which is the last node so far. */
static uint64_t *ints_room(struct parser *ps, uint32_t index, uint32_t n)
{
	uint32_t nodes = (uint32_t)(((uint64_t)n * sizeof(uint64_t)) / sizeof(struct json_node)) + 1;

	while (ps->json->n < index + 1 + nodes)
		if (!node_new(ps))
			return NULL;
	return (uint64_t *)(void *)&ps->json->nodes[index + 1] + n;
}

/*
 * Reads an integer of at most 19 digits, which fits. Returns the number of digits; 0: it is
 * something else.
 */
static unsigned short_int(const struct parser *ps, uint64_t *ret)
{
	unsigned n = 0;
	uint64_t v = 0;

	for (; ps->p + n < ps->end && ps->p[n] >= '0' && ps->p[n] <= '9' && n < 20; n++)
		v = v * 10 + (uint64_t)(ps->p[n] - '0');
	*ret = v;
	return n == 20 || (n > 1 && ps->p[0] == '0') ? 0 : n;
}

/*
 * p is behind the bracket of an array. true: the array is nothing but integers, and they are
 * packed. false: nothing has happened, and the general reader starts again.
 */
static bool parse_ints(struct parser *ps, uint32_t index)
{
	struct parser saved = *ps;
	uint32_t count = 0;
	bool some_negative = false, some_large = false;

	for (;;) {
		uint64_t v;
		bool negative = ps->p < ps->end && *ps->p == '-';
		ps->p += negative;
		unsigned digits = short_int(ps, &v);
		uint64_t *to = digits ? ints_room(ps, index, count) : NULL;
		if (!to)
			break;
		ps->p += digits;
		*to = negative ? -v : v;
		some_negative |= negative;
		some_large |= v > INT64_MAX;
		count++;
		skip_space(ps);
		if (ps->p >= ps->end || (*ps->p != ',' && *ps->p != ']') || (some_negative && some_large))
			break;
		if (*ps->p++ == ']') {
			struct json_node *node = &ps->json->nodes[index];
			node->type = JSON_INTS;
			node->count = count;
			node->negative = some_negative;
			node->span = ps->json->n - index;
			return true;
		}
		skip_space(ps);
	}
	ps->json->n = index + 1;
	*ps = saved;
	return false;
}

/* p is at the opening bracket of the array or object in nodes[index]. */
static int parse_container(struct parser *ps, uint32_t index)
{
	bool object = *ps->p == '{';
	char close_char = object ? '}' : ']';
	uint32_t count = 0;

	if (++ps->depth > JSON_DEPTH_MAX)
		return fail(ps, "nested too deeply");
	ps->p++;
	skip_space(ps);
	if (!object && parse_ints(ps, index)) {
		ps->depth--;
		return 0;
	}
	while (ps->p >= ps->end || *ps->p != close_char || count > 0) {
		int r = object ? parse_member(ps) : parse_value(ps, NULL);
		if (r < 0)
			return r;
		count++;
		skip_space(ps);
		if (ps->p < ps->end && *ps->p == close_char)
			break;
		if (ps->p >= ps->end || *ps->p != ',')
			return fail(ps, object ? "expected ',' or '}'" : "expected ',' or ']'");
		ps->p++;
		skip_space(ps);
	}
	ps->depth--;
	ps->json->nodes[index].count = count;
	ps->json->nodes[index].span = ps->json->n - index;
	if (object && check_keys(ps, index) < 0)
		return ps->err->num;
	ps->p++;
	return 0;
}

static bool take_word(struct parser *ps, const char *word)
{
	size_t len = strlen(word);

	if ((size_t)(ps->end - ps->p) < len || memcmp(ps->p, word, len) != 0)
		return false;
	ps->p += len;
	return true;
}

static int parse_value(struct parser *ps, const char *key)
{
	skip_space(ps);
	if (ps->p >= ps->end)
		return fail(ps, "unexpected end");
	struct json_node *node = node_new(ps);
	if (!node)
		return err_num(ps->err, ERR_INTERNAL, ENOMEM, "parse JSON");
	node->key = key;
	switch (*ps->p) {
	case '{':
	case '[':
		node->type = *ps->p == '{' ? JSON_OBJECT : JSON_ARRAY;
		return parse_container(ps, ps->json->n - 1);
	case '"':
		node->type = JSON_STRING;
		return parse_string(ps, &node->str, &node->count);
	case 't':
	case 'f':
		node->type = JSON_BOOL;
		node->num = *ps->p == 't';
		return take_word(ps, node->num ? "true" : "false") ? 0 : fail(ps, "expected a value");
	case 'n':
		return take_word(ps, "null") ? 0 : fail(ps, "expected a value");
	default:
		return parse_number(ps, node);
	}
}

int json_parse(struct json *json, char *text, size_t len, struct err *err)
{
	struct parser ps = { .json = json, .p = text, .end = text + len, .line_start = text, .line = 1, .err = err };

	json->n = 0;
	if (len >= UINT32_MAX)
		return err_set(err, ERR_INVALID, "JSON text of %zu bytes is too long", len);
	int r = parse_value(&ps, NULL);
	if (r < 0)
		return r;
	skip_space(&ps);
	return ps.p == ps.end ? 0 : fail(&ps, "trailing characters");
}

void json_done(struct json *json)
{
	free(json->nodes);
	*json = (struct json){};
}

const struct json_node *json_get(const struct json_node *node, const char *key)
{
	if (!node || node->type != JSON_OBJECT)
		return NULL;
	for (json_each(member, node))
		if (strcmp(member->key, key) == 0)
			return member;
	return NULL;
}

const char *json_type_name(const struct json_node *node)
{
	static const char *const names[] = {
		[JSON_NULL] = "null",        [JSON_BOOL] = "a boolean",   [JSON_INT] = "an integer",
		[JSON_FLOAT] = "a fraction", [JSON_STRING] = "a string",  [JSON_ARRAY] = "an array",
		[JSON_INTS] = "an array",    [JSON_OBJECT] = "an object",
	};

	return names[node->type];
}

/* ---- writing ---- */

static bool strbuf_room(struct strbuf *b, size_t more)
{
	if (b->failed)
		return false;
	if (b->len + more + 1 <= b->cap)
		return true;
	size_t cap = b->cap ? b->cap : 256;
	while (cap < b->len + more + 1)
		cap *= 2;
	char *text = realloc(b->text, cap);
	if (!text) {
		b->failed = true;
		return false;
	}
	b->text = text;
	b->cap = cap;
	return true;
}

void strbuf_done(struct strbuf *b)
{
	free(b->text);
	*b = (struct strbuf){};
}

void strbuf_add(struct strbuf *b, const char *bytes, size_t len)
{
	if (!strbuf_room(b, len))
		return;
	if (len > 0) /* an empty text may have no address */
		memcpy(b->text + b->len, bytes, len);
	b->len += len;
	b->text[b->len] = '\0';
}

void strbuf_puts(struct strbuf *b, const char *text)
{
	strbuf_add(b, text, strlen(text));
}

void strbuf_putc(struct strbuf *b, char c)
{
	strbuf_add(b, &c, 1);
}

void strbuf_u64(struct strbuf *b, uint64_t v)
{
	char digits[20];
	unsigned n = sizeof(digits);

	do {
		digits[--n] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	strbuf_add(b, digits + n, sizeof(digits) - n);
}

void strbuf_printf(struct strbuf *b, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0 || !strbuf_room(b, (size_t)n))
		return;
	va_start(ap, fmt);
	vsnprintf(b->text + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
}

void strbuf_json(struct strbuf *b, const char *text, size_t len)
{
	static const char escaped[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";

	strbuf_putc(b, '"');
	for (size_t i = 0, run = 0; i <= len; i++) {
		bool special = i < len && ((unsigned char)text[i] < 0x20 || text[i] == '"' || text[i] == '\\');
		if (i < len && !special)
			continue;
		strbuf_add(b, text + run, i - run);
		run = i + 1;
		if (i == len)
			break;
		const char *at = text[i] ? strchr(escaped, text[i]) : NULL;
		if (at)
			strbuf_add(b, (char[]){ '\\', letters[at - escaped] }, 2);
		else
			strbuf_printf(b, "\\u%04x", (unsigned char)text[i]);
	}
	strbuf_putc(b, '"');
}

void strbuf_json_lossy(struct strbuf *b, const char *bytes, size_t len)
{
	autostrbuf struct strbuf text = {};
	const char *run = bytes, *end = bytes + len;

	for (const char *p = bytes; p < end;) {
		unsigned n = (unsigned char)*p < 0x80 ? 1
						      : utf8_len((const unsigned char *)p, (const unsigned char *)end);
		if (n == 0) {
			strbuf_add(&text, run, (size_t)(p - run));
			strbuf_puts(&text, "\xef\xbf\xbd");
			run = p + 1;
		}
		p += n ? n : 1;
	}
	if (run == bytes) { /* the usual case: nothing was replaced */
		strbuf_json(b, bytes, len);
		return;
	}
	strbuf_add(&text, run, (size_t)(end - run));
	b->failed |= text.failed;
	strbuf_json(b, text.text ? text.text : "", text.len);
}
