// SPDX-License-Identifier: Apache-2.0
/* Strict loading of JSON bodies, and writing pieces of them. */
#include "forkd/body.h"

#include <string.h>

#include "forkd/errors.h"

enum { ENV_MAX = 256, ENV_NAME_MAX = 128 };

static bool known(const struct field *rows, const char *const *others, const char *key)
{
	for (const struct field *f = rows; f->name; f++)
		if (strcmp(f->name, key) == 0)
			return true;
	for (; others && *others; others++)
		if (strcmp(*others, key) == 0)
			return true;
	return false;
}

int body_load(const struct field *rows, const char *const *others, void *obj, const struct json_node *node,
	      const char *what, struct err *err)
{
	if (node->type == JSON_OBJECT)
		for (json_each(child, node))
			if (!known(rows, others, child->key))
				return fail(err, E_UNKNOWN_FIELD, "%s: there is no field '%.80s'", what, child->key);
	return fields_load(rows, obj, node, what, err) < 0 ? fail_as(err, E_INVALID, NULL) : 0;
}

int body_check_env(const struct json_node *env, const char *what, struct err *err)
{
	if (env->type != JSON_OBJECT || env->count > ENV_MAX)
		return fail(err, E_INVALID, "%s: expected an object of at most %d strings", what, ENV_MAX);
	for (json_each(e, env)) {
		size_t len = strlen(e->key);
		if (len < 1 || len > ENV_NAME_MAX || strchr(e->key, '='))
			return fail(err, E_INVALID, "%s: a name is empty, too long or has '='", what);
		if (e->type != JSON_STRING)
			return fail(err, E_INVALID, "%s.%.128s: expected a string, found %s", what, e->key,
				    json_type_name(e));
	}
	return 0;
}

void wipe_text(char *text)
{
	if (text)
		explicit_bzero(text, strlen(text));
}

void json_member(struct strbuf *out, const char *key, const char *value)
{
	strbuf_printf(out, ",\"%s\":", key);
	if (value)
		strbuf_json(out, value, strlen(value));
	else
		strbuf_puts(out, "null");
}

static void ints_text(const struct json_node *node, struct strbuf *out)
{
	for (uint32_t i = 0; i < node->count; i++) {
		if (i)
			strbuf_putc(out, ',');
		if (node->negative)
			strbuf_printf(out, "%lld", (long long)json_ints(node)[i]);
		else
			strbuf_u64(out, json_ints(node)[i]);
	}
}

static bool is_one_of(const char *key, const char *const *keys)
{
	for (; keys && *keys; keys++)
		if (strcmp(key, *keys) == 0)
			return true;
	return false;
}

/* Adds the elements, or the members but for those of `skip` (NULL: all of them). */
static void children_text(const struct json_node *node, const char *const *skip, struct strbuf *out)
{
	bool object = node->type == JSON_OBJECT, first = true;

	for (json_each(child, node)) {
		if (object && is_one_of(child->key, skip))
			continue;
		if (!first)
			strbuf_putc(out, ',');
		first = false;
		if (object) {
			strbuf_json(out, child->key, strlen(child->key));
			strbuf_putc(out, ':');
		}
		json_text(child, out);
	}
}

void json_text_without(const struct json_node *node, const char *const *keys, struct strbuf *out)
{
	strbuf_putc(out, '{');
	children_text(node, keys, out);
	strbuf_putc(out, '}');
}

void json_text(const struct json_node *node, struct strbuf *out)
{
	bool object = node->type == JSON_OBJECT;

	switch (node->type) {
	case JSON_NULL:
		strbuf_puts(out, "null");
		return;
	case JSON_BOOL:
		strbuf_puts(out, node->num ? "true" : "false");
		return;
	case JSON_INT:
		if (node->negative)
			strbuf_putc(out, '-');
		strbuf_u64(out, node->num);
		return;
	case JSON_FLOAT:
		strbuf_add(out, node->str, node->count);
		return;
	case JSON_STRING:
		strbuf_json(out, node->str, node->count);
		return;
	default:
		break;
	}
	strbuf_putc(out, object ? '{' : '[');
	if (node->type == JSON_INTS)
		ints_text(node, out);
	else
		children_text(node, NULL, out);
	strbuf_putc(out, object ? '}' : ']');
}
