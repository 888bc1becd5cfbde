// SPDX-License-Identifier: Apache-2.0
/* fields_parse_options(): fills a struct from an option string by its field table. */
#include <errno.h>
#include <string.h>

#include "common/field_value.h"
#include "common/option_words.h"

/* ---- values of rows ---- */

static int no_convert(const char *value, const struct path *at, struct err *err)
{
	while (at->up)
		at = at->up;
	return err_set(err, ERR_INVALID, "Unable to convert %.256s for %s", value, at->name);
}

static int parse_bool(const struct field *f, bool *dst, const char *value, const struct path *at, struct err *err)
{
	bool v;

	if (option_toggle(value, &v) < 0)
		return no_convert(value, at, err);
	if ((f->flags & F_REFUSE) && v != (f->def != 0))
		return field_bad(at, err, "%s is not supported by this program", value);
	*dst = v;
	return 0;
}

static int parse_number(const struct field *f, void *dst, const char *value, const struct path *at, struct err *err)
{
	uint64_t v;

	if (((f->flags & F_SIZE) ? option_size(value, &v) : option_u64(value, &v)) < 0)
		return no_convert(value, at, err);
	if ((f->flags & F_REFUSE) && v != f->def)
		return field_bad(at, err, "%.64s is not supported by this program", value);
	return field_number(f, dst, v, false, at, err);
}

static int parse_scalar(const struct field *f, char *dst, const char *value, const struct path *at, struct err *err)
{
	switch (f->type) {
	case FT_BOOL:
		return parse_bool(f, (bool *)dst, value, at, err);
	case FT_ENUM:
		return field_enum(f, dst, value, true, at, err);
	case FT_STR: {
		char **str = (char **)(void *)dst;
		free(*str);
		*str = strdup(value);
		return *str ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "parse option '%s'", at->name);
	}
	default:
		return parse_number(f, dst, value, at, err);
	}
}

/* `[0,2-4]` or a single number. */
static int parse_int_list(const struct field *f, char *obj, const char *value, const struct path *at, struct err *err)
{
	autofree uint64_t *numbers = NULL;
	uint32_t n;

	int r = option_int_list(value, &numbers, &n);
	if (r == -EINVAL)
		return no_convert(value, at, err);
	if (r == -E2BIG || (f->count && n > f->count))
		return field_bad(at, err, "has more than %u elements", f->count ? f->count : OPTION_LIST_MAX);
	char *items = r < 0 ? NULL : field_list_new(f, obj, n);
	if (!items)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse option '%s'", at->name);
	for (uint32_t i = 0; i < n; i++, items += f->size) {
		const struct path item = { .up = at, .index = i };
		if (field_number(f, items, numbers[i], false, &item, err) < 0)
			return err->num;
	}
	return 0;
}

/* `a@[1,2]`: fills the first member, and the one that is a list. */
static int parse_item(const struct field *rows, char *obj, char *item, const struct path *at, struct err *err)
{
	const struct field *list = rows;
	char *value = strchr(item, '@');

	if (!value || value == item || strchr(value + 1, '@'))
		return no_convert(item, at, err);
	*value++ = '\0';
	while (list->kind != FK_LIST)
		list++;
	if (parse_scalar(rows, obj + rows->offset, option_trim(item), at, err) < 0)
		return err->num;
	return parse_int_list(list, obj, option_trim(value), at, err);
}

/* `[a@[1,2],b@[3]]` */
static int parse_items(const struct field *f, char *obj, char *value, const struct path *at, struct err *err)
{
	size_t len = strlen(value);
	uint32_t n = 1;

	if (len < 2 || value[0] != '[' || value[len - 1] != ']')
		return no_convert(value, at, err);
	value[len - 1] = '\0';
	char *rest = value + 1;
	if (!option_balanced(rest))
		return no_convert(rest, at, err);
	for (const char *p = rest; *p; p++)
		n += *p == ','; /* at least as many as there are parts */
	autofree char **parts = calloc(n, sizeof(*parts));
	if (!parts)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse option '%s'", f->opt);
	for (n = 0; rest; n++)
		parts[n] = option_trim(option_cut(&rest));
	if (f->count && n > f->count)
		return field_bad(at, err, "has %u elements, at most %u are possible", n, f->count);
	char *items = field_list_new(f, obj, n);
	if (!items)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse option '%s'", f->opt);
	for (uint32_t i = 0; i < n; i++) {
		const struct path item = { .up = at, .index = i };
		if (parse_item(f->sub, items + (size_t)i * f->size, parts[i], &item, err) < 0)
			return err->num;
	}
	return 0;
}

/* `1:2:1:1`: fills every member, in order. */
static int parse_tuple(const struct field *f, char *obj, char *value, const struct path *at, struct err *err)
{
	char *dst = field_pointer_new(f, obj), *rest = value;

	if (!dst)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse option '%s'", f->opt);
	for (const struct field *row = f->sub; row->name; row++) {
		const struct path member = { .up = at, .name = row->name, .index = -1 };
		char *part = strsep(&rest, ":");
		if (!part)
			return field_bad(at, err, "has too few parts");
		if (parse_scalar(row, dst + row->offset, part, &member, err) < 0)
			return err->num;
	}
	return rest ? field_bad(at, err, "has too many parts") : 0;
}

/* `[a,b]`: switches the named toggles on. */
static int parse_names(const struct field *f, char *obj, char *value, const struct path *at, struct err *err)
{
	size_t len = strlen(value);

	if (len >= 2 && value[0] == '[' && value[len - 1] == ']') {
		value[len - 1] = '\0';
		value++;
	}
	for (char *rest = value; rest;) {
		const char *name = strsep(&rest, ",");
		const struct field *row = f->sub;
		const struct path member = { .up = at, .name = name, .index = -1 };
		while (row->name && strcmp(row->name, name) != 0)
			row++;
		if (!row->name)
			return field_bad(at, err, "unknown name '%.64s'", name);
		if (row->flags & F_REFUSE)
			return field_bad(&member, err, "not supported by this program");
		*(bool *)(obj + f->offset + row->offset) = true;
	}
	return 0;
}

/* Does the value stand for "not used"? Then it is as harmless as the key's absence. */
static bool is_nothing(const char *value)
{
	bool on = true;

	return strcmp(value, "0") == 0 || (option_toggle(value, &on) == 0 && !on);
}

static int parse_option(const struct field *f, char *obj, char *value, struct err *err)
{
	const struct path at = { .name = f->opt[0] ? f->opt : f->name, .index = -1 };

	if (!f->size)
		return !(f->flags & F_REFUSE) || is_nothing(value)
			       ? 0
			       : field_bad(&at, err, "not supported by this program");
	if (f->kind == FK_LIST)
		return (f->flags & F_ITEMS) ? parse_items(f, obj, value, &at, err)
					    : parse_int_list(f, obj, value, &at, err);
	if (f->kind == FK_POINTER)
		return parse_tuple(f, obj, value, &at, err);
	if (f->type == FT_OBJECT)
		return parse_names(f, obj, value, &at, err);
	if (parse_scalar(f, obj + f->offset, value, &at, err) < 0)
		return err->num;
	if (f->kind == FK_OPTIONAL)
		*(bool *)(obj + f->count_offset) = true;
	return 0;
}

/*
 * Finds the row of `key=value`, or of a word that stands alone. values[] has an element for each
 * row; of several values the last one counts.
 */
static int take_part(const struct field *rows, char *part, char **values, struct err *err)
{
	char *equals = strchr(part, '=');
	size_t key_len = equals ? (size_t)(equals - part) : strlen(part);

	for (unsigned i = 0; rows[i].name; i++) {
		const char *opt = rows[i].opt;
		if (opt && key_len > 0 && strlen(opt) == key_len && memcmp(opt, part, key_len) == 0) {
			if (!equals)
				return err_set(err, ERR_INVALID, "Invalid syntax: %s", part);
			values[i] = option_trim(equals + 1);
			option_unquote(values[i]);
			return 0;
		}
	}
	for (unsigned i = 0; rows[i].name && !equals; i++) {
		if ((rows[i].flags & F_WORD) && field_name_index(rows[i].names, part, true) >= 0) {
			values[i] = part;
			return 0;
		}
	}
	return err_set(err, ERR_INVALID, "Unknown option: %.*s", (int)key_len, part);
}

int fields_parse_options(const struct field *rows, void *obj, const char *text, struct err *err)
{
	autofree char *copy = strdup(text);
	unsigned n_rows = 0;

	while (rows[n_rows].name)
		n_rows++;
	autofree char **values = calloc(n_rows + 1, sizeof(*values));
	if (!copy || !values)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse option '%.64s'", text);
	char *rest = option_trim(copy);
	if (!*rest)
		return 0;
	if (!option_balanced(rest))
		return err_set(err, ERR_INVALID, "Invalid syntax: %s", text);
	while (rest)
		if (take_part(rows, option_cut(&rest), values, err) < 0)
			return err->num;
	for (unsigned i = 0; i < n_rows; i++)
		if (values[i] && values[i][0] && parse_option(&rows[i], obj, values[i], err) < 0)
			return err->num;
	return 0;
}
