// SPDX-License-Identifier: Apache-2.0
/*
 * The tree in state.json: nodes {"snapshots":{id: node…},"snapshot_data":{"state":"JSON as a string"}|null}. Writing goes
 * to a strbuf, from the root down; reading unescapes each state in place and parses it when it is asked for.
 */
#ifndef VMM_STATE_STATE_H
#define VMM_STATE_STATE_H

#include "common/field.h"

/* Begins node `id`; children follow. The root has an empty id. */
void state_open(struct strbuf *out, const char *id);
/* Ends it with its state (NULL: none). */
void state_close(struct strbuf *out, const struct strbuf *state);
/* A node without children whose state is fields_save() of the object. */
void state_leaf(struct strbuf *out, const char *id, const struct field *rows, const void *obj);

/* The child `id` of a node; an error that names it when there is none. */
MUST_CHECK int state_child(const struct json_node *node, const char *id, const struct json_node **ret_child,
			   struct err *err);
/* Parses a node's state into *json (reused); ret_state points into it. Once per node: the text is consumed. */
MUST_CHECK int state_parse(const struct json_node *node, const char *what, struct json *json,
			   const struct json_node **ret_state, struct err *err);
/* state_child(), state_parse() and fields_load() in one. */
MUST_CHECK int state_load_leaf(const struct json_node *node, const char *id, const struct field *rows, void *obj,
			       struct err *err);
/* The same of a node that is to be parsed later. */
MUST_CHECK int state_peek_leaf(const struct json_node *node, const char *id, const struct field *rows, void *obj,
			       struct err *err);

#endif
