// SPDX-License-Identifier: Apache-2.0
/*
 * The interpreter of field tables: load, save, defaults, release. Option strings are in
 * field_options.c.
 */
#include "common/field.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "common/field_value.h"

static void path_text(const struct path *at, struct strbuf *out)
{
	if (at->up)
		path_text(at->up, out);
	if (at->index >= 0)
		strbuf_printf(out, "[%ld]", at->index);
	else if (at->name[0])
		strbuf_printf(out, "%s%s", out->len ? "." : "", at->name);
}

int field_bad(const struct path *at, struct err *err, const char *fmt, ...)
{
	autostrbuf struct strbuf where = {};
	char why[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	path_text(at, &where);
	return err_set(err, ERR_INVALID, "%s: %s", where.text ? where.text : "?", why);
}

static uint64_t get_uint(const struct field *f, const void *p)
{
	switch (f->type) {
	case FT_BOOL:
		return *(const bool *)p;
	case FT_U8:
	case FT_I8:
	case FT_ENUM:
		return *(const uint8_t *)p;
	case FT_U16:
		return *(const uint16_t *)p;
	case FT_U32:
	case FT_I32:
		return *(const uint32_t *)p;
	default:
		return *(const uint64_t *)p;
	}
}

static void put_uint(const struct field *f, void *p, uint64_t v)
{
	switch (f->type) {
	case FT_BOOL:
		*(bool *)p = v != 0;
		break;
	case FT_U8:
	case FT_I8:
	case FT_ENUM:
		*(uint8_t *)p = (uint8_t)v;
		break;
	case FT_U16:
		*(uint16_t *)p = (uint16_t)v;
		break;
	case FT_U32:
	case FT_I32:
		*(uint32_t *)p = (uint32_t)v;
		break;
	default:
		*(uint64_t *)p = v;
	}
}

static uint64_t type_max(const struct field *f)
{
	static const uint64_t max[] = {
		[FT_U8] = UINT8_MAX,   [FT_I8] = INT8_MAX,   [FT_U16] = UINT16_MAX,
		[FT_U32] = UINT32_MAX, [FT_I32] = INT32_MAX, [FT_U64] = UINT64_MAX,
	};

	return max[f->type];
}

/* The one place where a number from outside meets its bounds. */
static int check_uint(const struct field *f, uint64_t v, const struct path *at, struct err *err)
{
	uint64_t max = f->max ? f->max : type_max(f);

	if (v > max)
		return field_bad(at, err, "%llu is above %llu", (unsigned long long)v, (unsigned long long)max);
	if (v < f->min)
		return field_bad(at, err, "%llu is below %llu", (unsigned long long)v, (unsigned long long)f->min);
	if ((f->flags & F_POW2) && (v & (v - 1)))
		return field_bad(at, err, "%llu is not a power of two", (unsigned long long)v);
	if (f->align && v % f->align)
		return field_bad(at, err, "%llu is not a multiple of %u", (unsigned long long)v, f->align);
	return 0;
}

int field_number(const struct field *f, void *dst, uint64_t magnitude, bool negative, const struct path *at,
		 struct err *err)
{
	if (negative && magnitude > 0) {
		bool is_signed = f->type == FT_I8 || f->type == FT_I32;
		uint64_t below = is_signed ? type_max(f) + 1 : 0;
		if (magnitude > below)
			return field_bad(at, err, "-%llu is below %s%llu", (unsigned long long)magnitude,
					 is_signed ? "-" : "", (unsigned long long)below);
	} else if (check_uint(f, magnitude, at, err) < 0) {
		return err->num;
	}
	if (dst)
		put_uint(f, dst, negative ? -magnitude : magnitude);
	return 0;
}

/* Is `text` the name? `loose` ignores case and '-'. */
static bool same_name(const char *name, const char *text, bool loose)
{
	if (!loose)
		return strcmp(name, text) == 0;
	while (*name && *text) {
		if (*text == '-')
			text++;
		else if (tolower((unsigned char)*name++) != tolower((unsigned char)*text++))
			return false;
	}
	return !*name && !*text;
}

int field_name_index(const char *const *names, const char *text, bool loose)
{
	for (int i = 0; names[i]; i++)
		if (same_name(names[i], text, loose))
			return i;
	return -1;
}

int field_enum(const struct field *f, void *dst, const char *text, bool loose, const struct path *at, struct err *err)
{
	int index = field_name_index(f->names, text, loose);

	if (index < 0) {
		autostrbuf struct strbuf known = {};
		for (unsigned i = 0; f->names[i] && (!f->max || i <= f->max); i++)
			strbuf_printf(&known, "%s`%s`", i ? ", " : "", f->names[i]);
		return field_bad(at, err, "unknown variant `%.64s`, expected one of %s", text,
				 known.text ? known.text : "none");
	}
	if (f->max && (uint64_t)index > f->max)
		return field_bad(at, err, "`%s` is not supported by this program", text);
	if (dst)
		put_uint(f, dst, (uint64_t)index);
	return 0;
}

static int load_object(const struct field *rows, char *obj, const struct json_node *node, const struct path *at,
		       struct err *err);

static int load_ints(const struct field *f, char *dst, const struct json_node *node, const struct path *at,
		     struct err *err);

static int load_row16(uint8_t *dst, const struct json_node *node, const struct path *at, struct err *err)
{
	static const struct field byte = { .name = "", .size = 1, .type = FT_U8 };

	if (node->type != JSON_INTS || node->count != 16)
		return field_bad(at, err, "expected an array of 16 bytes");
	return load_ints(&byte, (char *)dst, node, at, err);
}

/* Loads one element: a scalar, a string or a struct. dst NULL: only checks it. */
static int load_one(const struct field *f, void *dst, const struct json_node *node, const struct path *at,
		    struct err *err)
{
	switch (f->type) {
	case FT_BOOL:
		if (node->type != JSON_BOOL)
			return field_bad(at, err, "expected a boolean, found %s", json_type_name(node));
		if (dst)
			*(bool *)dst = node->num;
		return 0;
	case FT_STR:
		if (node->type != JSON_STRING)
			return field_bad(at, err, "expected a string, found %s", json_type_name(node));
		if (!dst)
			return 0;
		free(*(char **)dst);
		*(char **)dst = strdup(node->str);
		return *(char **)dst ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "load '%s'", f->name);
	case FT_ENUM:
		if (node->type != JSON_STRING)
			return field_bad(at, err, "expected a string, found %s", json_type_name(node));
		return field_enum(f, dst, node->str, false, at, err);
	case FT_OBJECT:
		return load_object(f->sub, dst, node, at, err);
	case FT_ROW16:
		return load_row16(dst, node, at, err);
	default:
		if (node->type != JSON_INT)
			return field_bad(at, err, "expected an integer, found %s", json_type_name(node));
		return field_number(f, dst, node->num, node->negative, at, err);
	}
}

static bool is_plain_number(const struct field *f)
{
	return f->type >= FT_U8 && f->type <= FT_U64 && !f->min && !f->max && !f->align && !(f->flags & F_POW2);
}

/*
 * Loads an array of integers. Most of a snapshot are rows without bounds of their own: their loop
 * is a tight one.
 */
static int load_ints(const struct field *f, char *dst, const struct json_node *node, const struct path *at,
		     struct err *err)
{
	const uint64_t *value = json_ints(node);
	bool plain = is_plain_number(f) && !node->negative;
	uint64_t max = plain ? type_max(f) : 0;

	for (uint32_t i = 0; i < node->count; i++) {
		if (plain && value[i] <= max) {
			if (dst)
				put_uint(f, dst + (size_t)i * f->size, value[i]);
			continue;
		}
		bool negative = node->negative && (int64_t)value[i] < 0;
		const struct json_node one = {
			.type = JSON_INT, .num = negative ? -value[i] : value[i], .negative = negative, .span = 1
		};
		const struct path item = { .up = at, .index = i };
		if (load_one(f, dst ? dst + (size_t)i * f->size : NULL, &one, &item, err) < 0)
			return err->num;
	}
	return 0;
}

static int load_elements(const struct field *f, char *dst, const struct json_node *node, const struct path *at,
			 struct err *err)
{
	struct path item = { .up = at, .index = 0 };

	if (node->type == JSON_INTS)
		return load_ints(f, dst, node, at, err);
	for (json_each(child, node)) {
		if (load_one(f, dst, child, &item, err) < 0)
			return err->num;
		dst = dst ? dst + f->size : NULL;
		item.index++;
	}
	return 0;
}

static void free_elements(const struct field *f, char *items, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++, items += f->size) {
		if (f->type == FT_STR)
			free(*(char **)(void *)items);
		else if (f->type == FT_OBJECT)
			fields_free(f->sub, items);
	}
}

char *field_list_new(const struct field *f, char *obj, uint32_t n)
{
	char **list = (char **)(void *)(obj + f->offset);
	uint32_t *count = (uint32_t *)(void *)(obj + f->count_offset);
	char *items = calloc(n ? n : 1, f->size);

	if (!items)
		return NULL;
	for (uint32_t i = 0; f->type == FT_OBJECT && i < n; i++)
		fields_init(f->sub, items + (size_t)i * f->size);
	free_elements(f, *list, *count);
	free(*list);
	*list = items;
	*count = n;
	return items;
}

char *field_pointer_new(const struct field *f, char *obj)
{
	char **p = (char **)(void *)(obj + f->offset);

	if (!*p) {
		*p = calloc(1, f->size);
		if (*p)
			fields_init(f->sub, *p);
	}
	return *p;
}

static int load_array(const struct field *f, char *obj, const struct json_node *node, const struct path *at,
		      struct err *err)
{
	if (node->type != JSON_ARRAY && node->type != JSON_INTS)
		return field_bad(at, err, "expected an array, found %s", json_type_name(node));
	if (f->kind == FK_ARRAY) {
		if (node->count != f->count)
			return field_bad(at, err, "has %u elements, expected %u", node->count, f->count);
		return load_elements(f, obj ? obj + f->offset : NULL, node, at, err);
	}
	if (f->count && node->count > f->count)
		return field_bad(at, err, "has %u elements, at most %u are possible", node->count, f->count);
	if (!obj)
		return load_elements(f, NULL, node, at, err);
	char *items = field_list_new(f, obj, node->count);
	if (!items)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load '%s'", f->name);
	return load_elements(f, items, node, at, err);
}

static int load_pointer(const struct field *f, char *obj, const struct json_node *node, const struct path *at,
			struct err *err)
{
	if (!obj)
		return load_one(f, NULL, node, at, err);
	char *p = field_pointer_new(f, obj);
	if (!p)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load '%s'", f->name);
	return load_one(f, p, node, at, err);
}

static bool is_empty(const struct json_node *node)
{
	return node->type == JSON_NULL || (node->type <= JSON_INT && node->num == 0) ||
	       (node->type >= JSON_STRING && node->count == 0);
}

static int load_field(const struct field *f, char *obj, const struct json_node *node, const struct path *at,
		      struct err *err)
{
	if (!f->size) { /* F_UNSUPPORTED */
		bool as_default = f->def_str && node->type == JSON_STRING && strcmp(node->str, f->def_str) == 0;
		return is_empty(node) || as_default ? 0 : field_bad(at, err, "not supported by this program");
	}
	if (f->kind == FK_ARRAY || f->kind == FK_LIST)
		return load_array(f, obj, node, at, err);
	if (f->kind == FK_POINTER)
		return load_pointer(f, obj, node, at, err);
	if (load_one(f, obj ? obj + f->offset : NULL, node, at, err) < 0)
		return err->num;
	if ((f->flags & F_REFUSE) && !(node->type <= JSON_INT && !node->negative && node->num == f->def))
		return node->type == JSON_BOOL
			       ? field_bad(at, err, "%s is not supported by this program", node->num ? "true" : "false")
			       : field_bad(at, err, "%s%llu is not supported by this program",
					   node->negative ? "-" : "", (unsigned long long)node->num);
	if (obj && f->kind == FK_OPTIONAL)
		*(bool *)(obj + f->count_offset) = true;
	return 0;
}

static bool may_be_null(const struct field *f)
{
	return f->kind == FK_OPTIONAL || f->kind == FK_POINTER || f->kind == FK_LIST || f->type == FT_STR || !f->size;
}

static int load_object(const struct field *rows, char *obj, const struct json_node *node, const struct path *at,
		       struct err *err)
{
	if (node->type != JSON_OBJECT)
		return field_bad(at, err, "expected an object, found %s", json_type_name(node));
	for (const struct field *f = rows; f->name; f++) {
		if (f->flags & F_RUNTIME)
			continue;
		struct path member = { .up = at, .name = f->name, .index = -1 };
		const struct json_node *value = json_get(node, f->name);
		if (value && value->type == JSON_NULL && may_be_null(f))
			value = NULL;
		if (!value && (f->flags & F_REQUIRED))
			return field_bad(&member, err, "missing");
		if (value && load_field(f, obj, value, &member, err) < 0)
			return err->num;
	}
	return 0;
}

int fields_load(const struct field *rows, void *obj, const struct json_node *node, const char *what, struct err *err)
{
	const struct path root = { .name = what, .index = -1 };

	if (load_object(rows, NULL, node, &root, err) < 0)
		return err->num;
	return load_object(rows, obj, node, &root, err);
}

const struct field *fields_find(const struct field *rows, const char *name)
{
	for (const struct field *f = rows; f->name; f++)
		if (strcmp(f->name, name) == 0 && !(f->flags & F_RUNTIME))
			return f;
	return NULL;
}

static int check_known(const struct field *rows, const struct json_node *node, const struct path *at, struct err *err);

/* Checks the value of a row that has rows of its own: an object, or a list of objects. */
static int check_known_value(const struct field *f, const struct json_node *node, const struct path *at,
			     struct err *err)
{
	struct path item = { .up = at, .index = 0 };

	if (node->type == JSON_OBJECT)
		return check_known(f->sub, node, at, err);
	if (node->type != JSON_ARRAY)
		return 0; /* the value is of a wrong type: fields_load() says so */
	for (json_each(child, node)) {
		if (child->type == JSON_OBJECT && check_known(f->sub, child, &item, err) < 0)
			return err->num;
		item.index++;
	}
	return 0;
}

static int check_known(const struct field *rows, const struct json_node *node, const struct path *at, struct err *err)
{
	for (json_each(child, node)) {
		const struct path member = { .up = at, .name = child->key, .index = -1 };
		const struct field *f = fields_find(rows, child->key);
		if (!f)
			return field_bad(&member, err, "unknown field");
		if (f->sub && check_known_value(f, child, &member, err) < 0)
			return err->num;
	}
	return 0;
}

int fields_check_known(const struct field *rows, const struct json_node *node, const char *what, struct err *err)
{
	const struct path root = { .name = what, .index = -1 };

	return node->type == JSON_OBJECT ? check_known(rows, node, &root, err) : 0;
}

void fields_init(const struct field *rows, void *obj)
{
	char *base = obj;

	for (const struct field *f = rows; f->name; f++) {
		if (!f->size)
			continue;
		char *p = base + f->offset;
		bool pointer = f->kind == FK_LIST || f->kind == FK_POINTER;
		memset(p, 0, pointer ? sizeof(void *) : f->kind == FK_ARRAY ? (size_t)f->size * f->count : f->size);
		if (f->kind == FK_LIST)
			*(uint32_t *)(void *)(base + f->count_offset) = 0;
		else if (f->kind == FK_OPTIONAL)
			*(bool *)(base + f->count_offset) = false;
		else if (f->kind == FK_ONE && f->type == FT_OBJECT)
			fields_init(f->sub, p);
		else if (f->kind == FK_ONE && f->type == FT_STR)
			*(char **)(void *)p = f->def_str ? strdup(f->def_str) : NULL;
		else if (f->kind == FK_ONE)
			put_uint(f, p, f->def);
	}
}

void fields_free(const struct field *rows, void *obj)
{
	char *base = obj;

	for (const struct field *f = rows; f->name; f++) {
		if (!f->size)
			continue;
		char *p = base + f->offset;
		if (f->kind == FK_LIST || f->kind == FK_POINTER) {
			char **heap = (char **)(void *)p;
			uint32_t *n = (uint32_t *)(void *)(base + f->count_offset);
			if (*heap)
				free_elements(f, *heap, f->kind == FK_LIST ? *n : 1);
			free(*heap);
			*heap = NULL;
			if (f->kind == FK_LIST)
				*n = 0;
		} else {
			uint32_t n = f->kind == FK_ARRAY ? f->count : 1;
			free_elements(f, p, n);
			memset(p, 0, (size_t)f->size * n);
			if (f->kind == FK_OPTIONAL)
				*(bool *)(base + f->count_offset) = false;
		}
	}
}

/* ---- saving ---- */

static void save_one(const struct field *f, const void *p, struct strbuf *out)
{
	switch (f->type) {
	case FT_BOOL:
		strbuf_puts(out, *(const bool *)p ? "true" : "false");
		break;
	case FT_I8:
		strbuf_printf(out, "%d", *(const int8_t *)p);
		break;
	case FT_I32:
		strbuf_printf(out, "%d", *(const int32_t *)p);
		break;
	case FT_STR: {
		const char *s = *(char *const *)p;
		if (s)
			strbuf_json(out, s, strlen(s));
		else
			strbuf_puts(out, "null");
		break;
	}
	case FT_ENUM:
		strbuf_printf(out, "\"%s\"", f->names[*(const uint8_t *)p]);
		break;
	case FT_OBJECT:
		fields_save(f->sub, p, out);
		break;
	case FT_ROW16:
		for (unsigned i = 0; i < 16; i++)
			strbuf_printf(out, "%c%u", i ? ',' : '[', ((const uint8_t *)p)[i]);
		strbuf_putc(out, ']');
		break;
	default:
		strbuf_u64(out, get_uint(f, p));
	}
}

static void save_elements(const struct field *f, const char *items, uint32_t n, struct strbuf *out)
{
	strbuf_putc(out, '[');
	for (uint32_t i = 0; i < n; i++) {
		if (i)
			strbuf_putc(out, ',');
		save_one(f, items + (size_t)i * f->size, out);
	}
	strbuf_putc(out, ']');
}

/* The address of what is to be written; NULL: the member is absent. */
static const char *present(const struct field *f, const char *base)
{
	const char *p = base + f->offset;

	switch (f->kind) {
	case FK_OPTIONAL:
		return *(const bool *)(base + f->count_offset) ? p : NULL;
	case FK_LIST:
	case FK_POINTER:
		return *(char *const *)(const void *)p;
	case FK_ARRAY:
		return p;
	default:
		if (f->type == FT_STR)
			return *(char *const *)(const void *)p ? p : NULL;
		return (f->flags & F_OMIT) && get_uint(f, p) == f->def ? NULL : p;
	}
}

void fields_save(const struct field *rows, const void *obj, struct strbuf *out)
{
	const char *base = obj;
	bool first = true;

	strbuf_putc(out, '{');
	for (const struct field *f = rows; f->name; f++) {
		if ((!f->size && !(f->flags & F_EMPTY)) || (f->flags & F_RUNTIME))
			continue;
		const char *p = f->size ? present(f, base) : NULL;
		if (!p && !(f->flags & (F_NULL | F_EMPTY)))
			continue;
		strbuf_printf(out, "%s\"%s\":", first ? "" : ",", f->name);
		first = false;
		if (!p)
			strbuf_puts(out, f->flags & F_EMPTY ? "[]" : "null");
		else if (f->kind == FK_ARRAY)
			save_elements(f, p, f->count, out);
		else if (f->kind == FK_LIST)
			save_elements(f, p, *(const uint32_t *)(const void *)(base + f->count_offset), out);
		else
			save_one(f, p, out);
	}
	strbuf_putc(out, '}');
}

int list_find_id(const void *items, uint32_t n, size_t bytes, const char *id)
{
	for (uint32_t i = 0; id && i < n; i++) {
		const char *own = *(char *const *)(const void *)((const char *)items + i * bytes);
		if (own && strcmp(own, id) == 0)
			return (int)i;
	}
	return -1;
}
