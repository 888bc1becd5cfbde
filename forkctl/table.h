// SPDX-License-Identifier: Apache-2.0
/*
 * What people read: aligned tables, sizes and times in units, and a server's text without control characters.
 * Columns are counted in characters, not bytes. One thread.
 */
#ifndef FORKCTL_TABLE_H
#define FORKCTL_TABLE_H

#include <stdint.h>

#include "common/json64.h"

enum { TABLE_COLUMNS_MAX = 12, UNIT_TEXT = 24 };

struct table {
	char **cells;
	unsigned n_cells, cap, n_columns;
	bool right[TABLE_COLUMNS_MAX]; /* aligned right */
};

/* Headers between blanks; one that begins with '>' is aligned right. "": n_columns columns without a header. */
void table_init(struct table *t, const char *headers, unsigned n_columns);
/* The next cell; an empty one is shown as "-". */
void table_cell(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
void table_print(const struct table *t, FILE *out);
void table_done(struct table *t);
#define autotable __attribute__((cleanup(table_done)))

/* "640 KiB", "512.0 MiB", "1.5 GiB"; `buf` is UNIT_TEXT bytes and returned. */
const char *format_bytes(char *buf, uint64_t bytes);
/* "853 µs", "1.24 ms", "2.31 s", "3 min 5 s" */
const char *format_us(char *buf, uint64_t us);

/* The member's string; `other` when it is absent or no string. */
const char *member_text(const struct json_node *node, const char *key, const char *other);
/* The member's number; false when it is absent or none. */
bool member_number(const struct json_node *node, const char *key, uint64_t *ret);
/* Member as a cell, in these units; "-" when absent. */
void cell_text(struct table *t, const struct json_node *node, const char *key);
void cell_number(struct table *t, const struct json_node *node, const char *key);
void cell_bytes(struct table *t, const struct json_node *node, const char *key);
void cell_us(struct table *t, const struct json_node *node, const char *key);
/* How long ago the RFC 3339 time of the member is. */
void cell_age(struct table *t, const struct json_node *node, const char *key);
/* An object of strings as k=v,k=v; the nets of a clone as id=tap,id=tap. */
void cell_pairs(struct table *t, const struct json_node *object);
void cell_nets(struct table *t, const struct json_node *nets);

/* A line of two columns, the key and its value by that function, when the member is there and not null. */
void show_member(struct table *t, const char *key, const struct json_node *node,
		 void (*cell)(struct table *t, const struct json_node *node, const char *key));

/* Writes the text with control characters as '?'. */
void print_clean(FILE *out, const char *text);

#endif
