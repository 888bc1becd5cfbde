// SPDX-License-Identifier: Apache-2.0
/* Nodes of state.json. */
#include "vmm/state/state.h"

#include <errno.h>
#include <string.h>

void state_open(struct strbuf *out, const char *id)
{
	if (out->len > 0 && out->text[out->len - 1] != '{')
		strbuf_putc(out, ',');
	if (id[0]) {
		strbuf_json(out, id, strlen(id));
		strbuf_putc(out, ':');
	}
	strbuf_puts(out, "{\"snapshots\":{");
}

void state_close(struct strbuf *out, const struct strbuf *state)
{
	strbuf_puts(out, "},\"snapshot_data\":");
	if (!state) {
		strbuf_puts(out, "null}");
		return;
	}
	out->failed |= state->failed;
	strbuf_puts(out, "{\"state\":");
	strbuf_json(out, state->text ? state->text : "", state->len);
	strbuf_puts(out, "}}");
}

void state_leaf(struct strbuf *out, const char *id, const struct field *rows, const void *obj)
{
	autostrbuf struct strbuf state = {};

	fields_save(rows, obj, &state);
	state_open(out, id);
	state_close(out, &state);
}

int state_child(const struct json_node *node, const char *id, const struct json_node **ret_child, struct err *err)
{
	const struct json_node *child = json_get(json_get(node, "snapshots"), id);

	if (!child)
		return err_set(err, ERR_INVALID, "state.json: no node '%s'", id);
	*ret_child = child;
	return 0;
}

static int find_state(const struct json_node *node, const char *what, const struct json_node **ret, struct err *err)
{
	*ret = json_get(json_get(node, "snapshot_data"), "state");
	if (!*ret || (*ret)->type != JSON_STRING)
		return err_set(err, ERR_INVALID, "state.json: node '%s' has no state", what);
	return 0;
}

int state_parse(const struct json_node *node, const char *what, struct json *json, const struct json_node **ret_state,
		struct err *err)
{
	const struct json_node *state = NULL;

	if (find_state(node, what, &state, err) < 0)
		return err->num;
	if (json_parse(json, state->str, state->count, err) < 0)
		return err_wrap(err, "state.json: node '%s'", what);
	*ret_state = &json->nodes[0];
	return 0;
}

int state_load_leaf(const struct json_node *node, const char *id, const struct field *rows, void *obj, struct err *err)
{
	const struct json_node *child = NULL, *state = NULL;
	autojson struct json json = {};

	if (state_child(node, id, &child, err) < 0 || state_parse(child, id, &json, &state, err) < 0)
		return err->num;
	if (fields_load(rows, obj, state, id, err) < 0)
		return err_wrap(err, "state.json");
	return 0;
}

int state_peek_leaf(const struct json_node *node, const char *id, const struct field *rows, void *obj, struct err *err)
{
	const struct json_node *child = NULL, *state = NULL;
	autojson struct json json = {};

	if (state_child(node, id, &child, err) < 0 || find_state(child, id, &state, err) < 0)
		return err->num;
	autofree char *copy = malloc(state->count + 1UL);
	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "state.json: node '%s'", id);
	memcpy(copy, state->str, state->count);
	copy[state->count] = '\0';
	if (json_parse(&json, copy, state->count, err) < 0)
		return err_wrap(err, "state.json: node '%s'", id);
	return fields_load(rows, obj, &json.nodes[0], id, err) < 0 ? err_wrap(err, "state.json") : 0;
}
