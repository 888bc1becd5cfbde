// SPDX-License-Identifier: Apache-2.0
/*
 * The tree in state.json. A node is {"snapshots":{id: node…},"snapshot_data":{"state":"JSON as a
 * string"}|null}. Writing goes to a strbuf, from the root down. A state is parsed in place, and only
 * when the state is asked for.
 */
#ifndef VMM_STATE_STATE_H
#define VMM_STATE_STATE_H

#include "common/field.h"

/* Begins node `id`; children follow. The root has an empty id. */
void state_open(struct strbuf *out, const char *id);
/* Ends the node with the node's state (NULL: none). */
void state_close(struct strbuf *out, const struct strbuf *state);
/* A node without children whose state is fields_save() of the object. */
void state_leaf(struct strbuf *out, const char *id, const struct field *rows, const void *obj);

/* Finds the child `id` of a node. Without such a child, the error names `id`. */
MUST_CHECK int state_child(const struct json_node *node, const char *id, const struct json_node **ret_child,
			   struct err *err);
/*
 * Parses a node's state into *json, which may be used again; *ret_state points into *json. Parsing
 * changes the node's text: once for each node. `what` is the node's name in messages.
 */
MUST_CHECK int state_parse(const struct json_node *node, const char *what, struct json *json,
			   const struct json_node **ret_state, struct err *err);
/* Does state_child(), state_parse() and fields_load(). */
MUST_CHECK int state_load_leaf(const struct json_node *node, const char *id, const struct field *rows, void *obj,
			       struct err *err);
/* The same, but leaves the node's text as it is, so that the node can be parsed later. */
MUST_CHECK int state_peek_leaf(const struct json_node *node, const char *id, const struct field *rows, void *obj,
			       struct err *err);

#endif
