// SPDX-License-Identifier: Apache-2.0
/* Tables and units for people. */
#include "forkctl/table.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

void table_init(struct table *t, const char *headers, unsigned n_columns)
{
	*t = (struct table){ .n_columns = n_columns };
	while (*headers) {
		size_t len = strcspn(headers, " ");
		bool right = headers[0] == '>';
		t->right[t->n_columns++] = right;
		table_cell(t, "%.*s", (int)(len - right), headers + right);
		headers += len + strspn(headers + len, " ");
	}
}

/* Bytes of the control character that begins here: C0, DEL, or C1, which is two bytes in UTF-8. 0: none. */
static unsigned control_len(const char *at)
{
	unsigned char c = (unsigned char)at[0], next = (unsigned char)at[1];

	if (c < 0x20 || c == 0x7f)
		return 1;
	return c == 0xc2 && next >= 0x80 && next < 0xa0 ? 2 : 0;
}

static void clean(char *text)
{
	while (*text) {
		unsigned len = control_len(text);
		memset(text, '?', len);
		text += len ? len : 1;
	}
}

void print_clean(FILE *out, const char *text)
{
	while (*text) {
		unsigned len = control_len(text);
		putc(len ? '?' : *text, out);
		text += len ? len : 1;
	}
}

void table_cell(struct table *t, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	int len = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (len < 0)
		abort(); /* no memory for a line of text */
	if (len == 0) {
		free(text);
		text = strdup("-");
	}
	if (t->n_cells == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 64;
		t->cells = realloc(t->cells, t->cap * sizeof(*t->cells));
	}
	if (!t->cells || !text)
		abort();
	clean(text);
	t->cells[t->n_cells++] = text;
}

static unsigned width(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

void table_print(const struct table *t, FILE *out)
{
	unsigned widths[TABLE_COLUMNS_MAX] = {};

	for (unsigned i = 0; i < t->n_cells; i++) {
		unsigned w = width(t->cells[i]);
		if (w > widths[i % t->n_columns])
			widths[i % t->n_columns] = w;
	}
	for (unsigned i = 0; i < t->n_cells; i++) {
		unsigned column = i % t->n_columns, pad = widths[column] - width(t->cells[i]);
		bool last = column + 1 == t->n_columns;
		fprintf(out, "%*s%s%*s%s", t->right[column] ? (int)pad : 0, "", t->cells[i],
			t->right[column] || last ? 0 : (int)pad, "", last ? "\n" : "  ");
	}
}

void table_done(struct table *t)
{
	for (unsigned i = 0; i < t->n_cells; i++)
		free(t->cells[i]);
	free(t->cells);
	*t = (struct table){};
}

/* ---- units ---- */

const char *format_bytes(char *buf, uint64_t bytes)
{
	const double kib = 1024, mib = kib * kib, gib = kib * mib;
	double b = (double)bytes;

	if (bytes < 1024)
		snprintf(buf, UNIT_TEXT, "%u B", (unsigned)bytes);
	else if (b < mib)
		snprintf(buf, UNIT_TEXT, "%.0f KiB", b / kib);
	else if (b < gib)
		snprintf(buf, UNIT_TEXT, "%.1f MiB", b / mib);
	else
		snprintf(buf, UNIT_TEXT, "%.1f GiB", b / gib);
	return buf;
}

const char *format_us(char *buf, uint64_t us)
{
	unsigned long long s = us / 1000000;

	if (us < 1000)
		snprintf(buf, UNIT_TEXT, "%u µs", (unsigned)us);
	else if (us < 1000000)
		snprintf(buf, UNIT_TEXT, "%.2f ms", (double)us / 1000);
	else if (s < 60)
		snprintf(buf, UNIT_TEXT, "%.2f s", (double)us / 1000000);
	else if (s < 3600)
		snprintf(buf, UNIT_TEXT, "%llu min %llu s", s / 60, s % 60);
	else
		snprintf(buf, UNIT_TEXT, "%llu h %llu min", s / 3600, s / 60 % 60);
	return buf;
}

/* ---- members as cells ---- */

const char *member_text(const struct json_node *node, const char *key, const char *other)
{
	const struct json_node *v = json_get(node, key);

	return v && v->type == JSON_STRING ? v->str : other;
}

bool member_number(const struct json_node *node, const char *key, uint64_t *ret)
{
	const struct json_node *v = json_get(node, key);

	if (!v || v->type != JSON_INT || v->negative)
		return false;
	*ret = v->num;
	return true;
}

void cell_text(struct table *t, const struct json_node *node, const char *key)
{
	table_cell(t, "%s", member_text(node, key, "-"));
}

void cell_number(struct table *t, const struct json_node *node, const char *key)
{
	uint64_t v;

	if (member_number(node, key, &v))
		table_cell(t, "%llu", (unsigned long long)v);
	else
		table_cell(t, "-");
}

void cell_bytes(struct table *t, const struct json_node *node, const char *key)
{
	char buf[UNIT_TEXT];
	uint64_t v;

	table_cell(t, "%s", member_number(node, key, &v) ? format_bytes(buf, v) : "-");
}

void cell_us(struct table *t, const struct json_node *node, const char *key)
{
	char buf[UNIT_TEXT];
	uint64_t v;

	table_cell(t, "%s", member_number(node, key, &v) ? format_us(buf, v) : "-");
}

void cell_age(struct table *t, const struct json_node *node, const char *key)
{
	const char *text = member_text(node, key, "");
	struct tm tm = {};
	char buf[UNIT_TEXT];

	if (!strptime(text, "%Y-%m-%dT%H:%M:%S", &tm)) {
		table_cell(t, "-");
		return;
	}
	time_t age = time(NULL) - timegm(&tm);
	unsigned long long s = age > 0 ? (unsigned long long)age : 0;
	if (s < 60)
		table_cell(t, "%llu s", s);
	else if (s < 48 * 3600)
		table_cell(t, "%s", format_us(buf, s * 1000000));
	else
		table_cell(t, "%llu days", s / 86400);
}

void cell_pairs(struct table *t, const struct json_node *object)
{
	autostrbuf struct strbuf b = {};

	if (object && object->type == JSON_OBJECT)
		for (json_each(pair, object))
			strbuf_printf(&b, "%s%s=%s", b.len ? "," : "", pair->key, pair->str ? pair->str : "");
	table_cell(t, "%s", b.len ? b.text : "-");
}

void cell_nets(struct table *t, const struct json_node *nets)
{
	autostrbuf struct strbuf b = {};

	if (nets && nets->type == JSON_ARRAY)
		for (json_each(net, nets))
			strbuf_printf(&b, "%s%s=%s", b.len ? "," : "", member_text(net, "id", "?"),
				      member_text(net, "tap", "descriptors"));
	table_cell(t, "%s", b.len ? b.text : "-");
}

void show_member(struct table *t, const char *key, const struct json_node *node,
		 void (*cell)(struct table *t, const struct json_node *node, const char *key))
{
	const struct json_node *member = json_get(node, key);

	if (!member || member->type == JSON_NULL)
		return;
	table_cell(t, "%s", key);
	cell(t, node, key);
}
