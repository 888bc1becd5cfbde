// SPDX-License-Identifier: Apache-2.0
/*
 * The fuzzing programs' inputs as JSON documents. libFuzzer's mutator for them changes a value, member or list of a parsed document, so
 * that what comes out is mostly JSON still and gets past the parser; text that is no JSON, and every eighth input, is changed byte by
 * byte as usual, and some inputs just end early.
 *
 * Linked with a copy of the JSON reader of its own that is neither instrumented nor visible to the programs under test.
 */
#include "tests/fuzz/fuzz.h"

enum { CHANGES_MAX = 3, STRING_MAX = 4096, GOOD_MAX = 32, GOOD_BYTES = 128 << 10 };

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out,
				 size_t max_size, unsigned seed);

#define DIGITS "0123456789"

/* A document while it is written anew. */
struct edit {
	const struct json *doc, *other; /* other: where foreign values come from, the same one or that of a crossover */
	struct strbuf out;
	uint64_t random;
	uint32_t at, targets[CHANGES_MAX]; /* values are counted as they are written */
	unsigned n_targets;
	bool plain; /* nothing is changed */
	bool fold;  /* the states of snapshots become strings */
};

/* Documents that were accepted as a whole: what a change of them meets is not what an earlier change broke. */
static struct {
	uint32_t n, sizes[GOOD_MAX];
	uint8_t bytes[GOOD_MAX][GOOD_BYTES];
} good;

static uint32_t pick(struct edit *e, uint32_t n)
{
	e->random ^= e->random << 13;
	e->random ^= e->random >> 7;
	e->random ^= e->random << 17;
	return n ? (uint32_t)((e->random >> 16) % n) : 0;
}

/* ---- values ---- */

static const char *const odd_values[] = {
	"null",
	"true",
	"false",
	"[]",
	"{}",
	"\"\"",
	"-1",
	"-0",
	"1.5",
	"1e3",
	"18446744073709551615",
	"18446744073709551616",
	"9223372036854775808",
	"-9223372036854775808",
	"-9223372036854775809",
	"4294967295",
	"4294967296",
	"[0]",
	"[-1,1]",
	"[[1,2]]",
	"{\"a\":{}}",
	"[{}]",
	"\"\\u0041\\ud83d\\ude00\\/\\n\"",
	"\"0000:00:01.0\"",
};

/* 0, small, near a power of two, or anything. */
static uint64_t odd_number(struct edit *e)
{
	switch (pick(e, 4)) {
	case 0:
		return pick(e, 4);
	case 1:
		return pick(e, 300);
	case 2:
		return (1ULL << pick(e, 64)) + pick(e, 3) - 1;
	default:
		pick(e, 1);
		return e->random >> pick(e, 64);
	}
}

static void put_odd(struct edit *e)
{
	if (pick(e, 2))
		strbuf_u64(&e->out, odd_number(e));
	else
		strbuf_puts(&e->out, odd_values[pick(e, ARRAY_LEN(odd_values))]);
}

static uint64_t tweak(struct edit *e, uint64_t v)
{
	switch (pick(e, 5)) {
	case 0:
		return v + 1;
	case 1:
		return v - 1;
	case 2:
		return v ^ 1ULL << pick(e, 64);
	case 3:
		return v * 2;
	default:
		return odd_number(e);
	}
}

static void put_value(struct edit *e, const struct json_node *node);

/* A value of the other document as it is. */
static void put_foreign(struct edit *e)
{
	const struct json *j = e->other;
	uint32_t i = 0, steps = pick(e, j->n);
	bool plain = e->plain;

	/* packed integers have no nodes of their own: walk, so that no such node is taken for a value */
	while (i < j->n && steps > 0) {
		uint32_t next = j->nodes[i].type == JSON_INTS ? i + j->nodes[i].span : i + 1;
		if (next > steps || next >= j->n)
			break;
		i = next;
	}
	e->plain = true;
	put_value(e, &j->nodes[i]);
	e->plain = plain;
}

/* How often something is repeated: seldom so often that no fixed place has room for it. */
static uint32_t repeats(struct edit *e, uint32_t most)
{
	return 1 + pick(e, pick(e, 2) ? 4 : most);
}

static void put_key(struct edit *e, const char *key)
{
	strbuf_json(&e->out, key, strlen(key));
	strbuf_putc(&e->out, ':');
}

/* Some key of the document. */
static const char *any_key(struct edit *e)
{
	for (unsigned tries = 0; tries < 20; tries++) {
		uint32_t i = 0, stop = pick(e, e->other->n);
		const char *key = NULL;
		while (i <= stop && i < e->other->n) {
			const struct json_node *n = &e->other->nodes[i];
			key = n->key ? n->key : key;
			i += n->type == JSON_INTS ? n->span : 1;
		}
		if (key)
			return key;
	}
	return "id";
}

/* Another key, or this one with a changed byte. */
static void put_other_key(struct edit *e, const char *key)
{
	char text[64];

	if (pick(e, 3)) {
		put_key(e, any_key(e));
		return;
	}
	snprintf(text, sizeof(text), "%s", key);
	text[pick(e, (uint32_t)strlen(text) + 1)] = (char)('a' + pick(e, 26));
	put_key(e, text);
}

/* ---- changes within a value ---- */

static void put_escaped(struct edit *e, const char *text, size_t len)
{
	strbuf_putc(&e->out, '"');
	for (size_t i = 0; i < len; i++)
		strbuf_printf(&e->out, "\\u%04x", (unsigned char)text[i]);
	strbuf_putc(&e->out, '"');
}

/* Another number in place of one in the text, "queue_size=64,…". */
static void put_other_number(struct edit *e, const char *text)
{
	uint32_t n = 0, at = 0;
	autostrbuf struct strbuf s = {};

	for (const char *p = text; *p; p += strcspn(p, DIGITS), p += strspn(p, DIGITS))
		n++;
	n = pick(e, n);
	for (const char *p = text; *p; p += strspn(p, DIGITS)) {
		strbuf_add(&s, p, strcspn(p, DIGITS));
		p += strcspn(p, DIGITS);
		if (at++ == n)
			strbuf_u64(&s, odd_number(e));
		else
			strbuf_add(&s, p, strspn(p, DIGITS));
	}
	strbuf_json(&e->out, s.text ? s.text : "", s.len);
}

static void put_changed_string(struct edit *e, const struct json_node *node)
{
	uint8_t text[STRING_MAX + 64];
	size_t len = node->count < STRING_MAX ? node->count : STRING_MAX;

	memcpy(text, node->str, len);
	switch (pick(e, 6)) {
	case 0:
		put_escaped(e, node->str, len < 64 ? len : 64);
		break;
	case 2:
	case 3:
		put_other_number(e, node->str);
		break;
	case 1: /* raw bytes between the quotes */
		len = LLVMFuzzerMutate(text, len, sizeof(text));
		strbuf_putc(&e->out, '"');
		strbuf_add(&e->out, (const char *)text, len);
		strbuf_putc(&e->out, '"');
		break;
	default:
		len = LLVMFuzzerMutate(text, len, sizeof(text));
		strbuf_json(&e->out, (const char *)text, len);
	}
}

static void put_int(struct edit *e, uint64_t v, bool negative)
{
	bool minus = negative && (int64_t)v < 0;

	if (v < 10) { /* most of a snapshot */
		strbuf_putc(&e->out, (char)('0' + v));
		return;
	}
	if (minus)
		strbuf_putc(&e->out, '-');
	strbuf_u64(&e->out, minus ? -v : v);
}

/* One element more, less, or different; or far more of them. */
static void put_changed_ints(struct edit *e, const struct json_node *node)
{
	const uint64_t *v = json_ints(node);
	uint32_t n = node->count, at = pick(e, n), how = pick(e, 6);

	strbuf_putc(&e->out, '[');
	for (uint32_t i = 0; i < n; i++) {
		bool drop = (how == 0 && i == at) || (how == 1 && i >= at);
		if (drop)
			continue;
		if (e->out.text[e->out.len - 1] != '[')
			strbuf_putc(&e->out, ',');
		if (i == at && how >= 4)
			put_int(e, tweak(e, v[i]), node->negative);
		else
			put_int(e, v[i], node->negative);
		for (uint32_t more = (how & ~1U) == 2 && i == at ? repeats(e, 1024) : 0; more > 0; more--) {
			strbuf_putc(&e->out, ',');
			put_int(e, v[i], node->negative);
		}
	}
	strbuf_putc(&e->out, ']');
}

/* {"state": …}, the state as a string. One that is a string already stays as it is. */
static void put_folded(struct edit *e, const struct json_node *node)
{
	const struct json_node *state = json_get(node, "state");
	struct edit inner = { .doc = e->doc, .plain = true };

	if (!state || state->type == JSON_STRING || node->count != 1) {
		put_value(e, node);
		return;
	}
	put_value(&inner, state);
	strbuf_puts(&e->out, "{\"state\":");
	strbuf_json(&e->out, inner.out.text, inner.out.len);
	strbuf_putc(&e->out, '}');
	strbuf_done(&inner.out);
}

static void put_member(struct edit *e, const struct json_node *child, bool object)
{
	if (e->out.text[e->out.len - 1] != '[' && e->out.text[e->out.len - 1] != '{')
		strbuf_putc(&e->out, ',');
	if (object)
		put_key(e, child->key);
	if (object && e->fold && strcmp(child->key, "snapshot_data") == 0)
		put_folded(e, child);
	else
		put_value(e, child);
}

static void put_rest(struct edit *e, const struct json_node *node, bool object)
{
	if (node->count > 0)
		strbuf_putc(&e->out, ',');
	if (object)
		put_key(e, any_key(e));
	if (node->count > 0 || pick(e, 2)) {
		put_foreign(e);
		return;
	}
	for (uint32_t n = object ? 1 : repeats(e, 1024); n > 0; n--)
		strbuf_puts(&e->out, n > 1 ? "1," : "1");
}

/* A child more, less, often, under another name, or a foreign one. */
static void put_changed_container(struct edit *e, const struct json_node *node)
{
	enum { DROP, CHANGE, ADD } how = node->count ? pick(e, 3) : ADD;
	bool object = node->type == JSON_OBJECT;
	uint32_t at = pick(e, node->count), i = 0;

	strbuf_putc(&e->out, object ? '{' : '[');
	for (json_each(child, node)) {
		bool here = i++ == at;
		if (here && how == DROP)
			continue;
		if (here && how == CHANGE && object) {
			strbuf_puts(&e->out, i > 1 ? "," : "");
			put_other_key(e, child->key);
			put_value(e, child);
			continue;
		}
		for (uint32_t n = here && how == CHANGE ? 1 + repeats(e, 96) : 1; n > 0; n--)
			put_member(e, child, object);
	}
	if (how == ADD)
		put_rest(e, node, object);
	strbuf_putc(&e->out, object ? '}' : ']');
}

static void put_as_is(struct edit *e, const struct json_node *node)
{
	switch (node->type) {
	case JSON_NULL:
		strbuf_puts(&e->out, "null");
		break;
	case JSON_BOOL:
		strbuf_puts(&e->out, node->num ? "true" : "false");
		break;
	case JSON_INT:
		strbuf_puts(&e->out, node->negative ? "-" : "");
		strbuf_u64(&e->out, node->num);
		break;
	case JSON_FLOAT:
		strbuf_add(&e->out, node->str, node->count);
		break;
	case JSON_STRING:
		strbuf_json(&e->out, node->str, node->count);
		break;
	case JSON_INTS:
		strbuf_putc(&e->out, '[');
		for (uint32_t i = 0; i < node->count; i++) {
			if (i)
				strbuf_putc(&e->out, ',');
			put_int(e, json_ints(node)[i], node->negative);
		}
		strbuf_putc(&e->out, ']');
		break;
	default:
		strbuf_putc(&e->out, node->type == JSON_OBJECT ? '{' : '[');
		for (json_each(child, node))
			put_member(e, child, node->type == JSON_OBJECT);
		strbuf_putc(&e->out, node->type == JSON_OBJECT ? '}' : ']');
	}
}

static void put_changed(struct edit *e, const struct json_node *node)
{
	switch (pick(e, 6)) {
	case 0:
		put_odd(e);
		return;
	case 1:
		put_foreign(e);
		return;
	default:
		break;
	}
	switch (node->type) {
	case JSON_BOOL:
		strbuf_puts(&e->out, node->num ? "false" : "true");
		break;
	case JSON_INT:
		put_int(e, tweak(e, node->negative ? -node->num : node->num), node->negative);
		break;
	case JSON_STRING:
		put_changed_string(e, node);
		break;
	case JSON_INTS:
		put_changed_ints(e, node);
		break;
	case JSON_ARRAY:
	case JSON_OBJECT:
		put_changed_container(e, node);
		break;
	default:
		put_odd(e);
	}
}

static void put_value(struct edit *e, const struct json_node *node)
{
	uint32_t at = e->at;

	if (!e->plain) {
		e->at++;
		for (unsigned i = 0; i < e->n_targets; i++)
			if (e->targets[i] == at) {
				put_changed(e, node);
				return;
			}
	}
	put_as_is(e, node);
}

/* ---- documents ---- */

static uint32_t count_values(const struct json *j)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < j->n; n++)
		i += j->nodes[i].type == JSON_INTS ? j->nodes[i].span : 1;
	return n;
}

/* One of the `n` values; half of the time one that has others in it. */
static uint32_t pick_value(struct edit *e, uint32_t n)
{
	const struct json *j = e->doc;
	uint32_t wanted = pick(e, n), at = 0, last = 0;
	bool any = pick(e, 2);

	for (uint32_t i = 0; i < j->n && (any || at <= wanted); at++) {
		if (any && at == wanted)
			return at;
		if (j->nodes[i].type >= JSON_ARRAY)
			last = at;
		i += j->nodes[i].type == JSON_INTS ? j->nodes[i].span : 1;
	}
	return last;
}

/* The text that the nodes live in is *ret_text. */
static bool parse(struct json *json, const uint8_t *data, size_t size, char **ret_text)
{
	struct err err = {};

	*ret_text = malloc(size + 1);
	if (!*ret_text)
		return false;
	memcpy(*ret_text, data, size);
	return json_parse(json, *ret_text, size, &err) == 0;
}

/* 0: it did not fit. */
static size_t rewrite(struct edit *e, uint8_t *out, size_t max_size)
{
	uint32_t n = count_values(e->doc);
	size_t len = 0;

	e->n_targets = pick(e, 4) ? 1 : 1 + pick(e, CHANGES_MAX);
	for (unsigned i = 0; i < e->n_targets; i++)
		e->targets[i] = pick_value(e, n);
	put_value(e, &e->doc->nodes[0]);
	if (!e->out.failed && e->out.len <= max_size) {
		len = e->out.len;
		memcpy(out, e->out.text, len);
	}
	strbuf_done(&e->out);
	return len;
}

static uint64_t seeded(unsigned seed)
{
	return (seed + 1ULL) * 0x9e3779b97f4a7c15;
}

void document_is_good(const uint8_t *data, size_t size)
{
	/* the first ones stay: they are what a real program wrote */
	uint32_t at = good.n < GOOD_MAX ? good.n++ : GOOD_MAX / 2 + (uint32_t)size % (GOOD_MAX / 2);

	if (getenv("FUZZ_DEBUG"))
		fprintf(stderr, "accepted\n");
	good.sizes[at] = size <= GOOD_BYTES ? (uint32_t)size : 0;
	memcpy(good.bytes[at], data, good.sizes[at]);
}

/* The smaller one of two that were accepted; the size of what is in data now. */
static size_t start_from_good(struct edit *e, uint8_t *data, size_t size, size_t max_size)
{
	uint32_t a = pick(e, good.n), b = pick(e, good.n), at = good.sizes[a] < good.sizes[b] ? a : b;

	if (good.sizes[at] == 0 || good.sizes[at] > max_size)
		return size;
	memcpy(data, good.bytes[at], good.sizes[at]);
	return good.sizes[at];
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	autojson struct json json = {};
	autofree char *text = NULL;
	struct edit e = { .doc = &json, .other = &json, .random = seeded(seed) };

	if (good.n > 0 && pick(&e, 2))
		size = start_from_good(&e, data, size, max_size);
	if (size > 1 && pick(&e, 16) == 0)
		return 1 + pick(&e, (uint32_t)size - 1);
	if (pick(&e, 8) == 0 || !parse(&json, data, size, &text))
		return LLVMFuzzerMutate(data, size, max_size);
	size_t len = rewrite(&e, data, max_size);
	return len ? len : LLVMFuzzerMutate(data, size, max_size);
}

size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t a_size, const uint8_t *b, size_t b_size, uint8_t *out,
				 size_t max_size, unsigned seed)
{
	autojson struct json json = {}, other = {};
	autofree char *text = NULL, *other_text = NULL;
	struct edit e = { .doc = &json, .other = &other, .random = seeded(seed) };

	if (!parse(&json, a, a_size, &text) || !parse(&other, b, b_size, &other_text))
		return 0;
	return rewrite(&e, out, max_size);
}

bool document_fold(const uint8_t *data, size_t size, struct strbuf *ret_config, struct strbuf *ret_state,
		   uint64_t *ret_ram_bytes)
{
	autojson struct json json = {};
	autofree char *text = NULL;
	struct edit config = { .doc = &json, .plain = true }, state = { .doc = &json, .plain = true, .fold = true };

	if (!parse(&json, data, size, &text))
		return false;
	const struct json_node *config_node = json_get(&json.nodes[0], "config");
	const struct json_node *state_node = json_get(&json.nodes[0], "state");
	const struct json_node *ram = json_get(json_get(config_node, "memory"), "size");
	if (config_node)
		put_value(&config, config_node);
	if (state_node)
		put_value(&state, state_node);
	*ret_config = config.out;
	*ret_state = state.out;
	*ret_ram_bytes = ram && ram->type == JSON_INT ? ram->num : 0;
	return true;
}
