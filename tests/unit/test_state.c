// SPDX-License-Identifier: Apache-2.0
/* vmm/state: the tree of nodes as text, there and back, and what is said of a broken one. */
#include "vmm/state/state.h"

#include "tests/unit/unit.h"

#include <errno.h>

struct point {
	uint64_t x;
	char *name;
};

static const struct field point_fields[] = {
	F(struct point, x, .flags = F_REQUIRED),
	F(struct point, name),
	F_END,
};

#define LEAF_A \
	"{\"snapshots\":{},\"snapshot_data\":{\"state\":\"{\\\"x\\\":18446744073709551615,\\\"name\\\":\\\"q\\\\\\\"\\\"}\"}}"
#define LEAF_B "{\"snapshots\":{},\"snapshot_data\":{\"state\":\"{\\\"x\\\":2}\"}}"
#define TREE                                                                       \
	"{\"snapshots\":{\"group\":{\"snapshots\":{\"a\":" LEAF_A ",\"b\":" LEAF_B \
	"},\"snapshot_data\":null},\"c\\\"\":" LEAF_B "},\"snapshot_data\":{\"state\":\"[1]\"}}"

static void writes_the_tree(void **state)
{
	autostrbuf struct strbuf out = {}, root = {};
	char name[] = "q\"";

	(void)state;
	state_open(&out, "");
	state_open(&out, "group");
	state_leaf(&out, "a", point_fields, &(struct point){ UINT64_MAX, name });
	state_leaf(&out, "b", point_fields, &(struct point){ .x = 2 });
	state_close(&out, NULL);
	state_leaf(&out, "c\"", point_fields, &(struct point){ .x = 2 });
	strbuf_puts(&root, "[1]");
	state_close(&out, &root);
	assert_string_equal(out.text, TREE);
	assert_false(out.failed);
}

static void failure_goes_up(void **state)
{
	autostrbuf struct strbuf out = {};

	(void)state;
	state_open(&out, "");
	state_close(&out, &(struct strbuf){ .failed = true });
	assert_true(out.failed);
}

static void reads_the_tree(void **state)
{
	autojson struct json json = {}, inner = {};
	autofree char *text = exact_copy(TREE, strlen(TREE));
	const struct json_node *group, *node;
	struct point p = {};
	struct err err = {};

	(void)state;
	assert_int_equal(json_parse(&json, text, strlen(TREE), &err), 0);
	assert_int_equal(state_parse(&json.nodes[0], "root", &inner, &node, &err), 0);
	assert_int_equal(node->type, JSON_INTS);
	assert_int_equal(state_child(&json.nodes[0], "group", &group, &err), 0);
	assert_int_equal(state_peek_leaf(group, "a", point_fields, &p, &err), 0);
	assert_true(p.x == UINT64_MAX);
	assert_string_equal(p.name, "q\"");
	fields_free(point_fields, &p);
	assert_int_equal(state_load_leaf(group, "a", point_fields, &p, &err), 0); /* it is whole still */
	assert_true(p.x == UINT64_MAX);
	assert_string_equal(p.name, "q\"");
	fields_free(point_fields, &p);
	assert_int_equal(state_child(group, "b", &node, &err), 0);
	assert_int_equal(state_parse(node, "b", &inner, &node, &err), 0); /* inner is used again */
	assert_int_equal(json_get(node, "x")->num, 2);
}

static void errors(void **state)
{
	static const struct {
		const char *text, *msg;
	} cases[] = {
		{ "{}", "state.json: no node 'a'" },
		{ "{\"snapshots\":{}}", "state.json: no node 'a'" },
		{ "{\"snapshots\":{\"b\":{}}}", "state.json: no node 'a'" },
		{ "{\"snapshots\":[]}", "state.json: no node 'a'" },
		{ "[]", "state.json: no node 'a'" },
		{ "{\"snapshots\":{\"a\":{}}}", "state.json: node 'a' has no state" },
		{ "{\"snapshots\":{\"a\":{\"snapshot_data\":null}}}", "state.json: node 'a' has no state" },
		{ "{\"snapshots\":{\"a\":{\"snapshot_data\":{\"state\":{\"x\":1}}}}}",
		  "state.json: node 'a' has no state" },
		{ "{\"snapshots\":{\"a\":{\"snapshot_data\":{\"state\":\"\"}}}}", "state.json: node 'a'\n" },
		{ "{\"snapshots\":{\"a\":{\"snapshot_data\":{\"state\":\"{\\\"x\\\":}\"}}}}",
		  "state.json: node 'a'\n" },
		{ "{\"snapshots\":{\"a\":{\"snapshot_data\":{\"state\":\"{}\"}}}}", "state.json\na.x: missing" },
		{ "{\"snapshots\":{\"a\":{\"snapshot_data\":{\"state\":\"[]\"}}}}",
		  "state.json\na: expected an object" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autojson struct json json = {};
		autofree char *text = exact_copy(cases[i].text, strlen(cases[i].text));
		struct point p = { .x = 7 };
		struct err err = {}, peeked = {};
		assert_int_equal(json_parse(&json, text, strlen(cases[i].text), &err), 0);
		assert_int_equal(state_peek_leaf(&json.nodes[0], "a", point_fields, &p, &peeked), -EINVAL);
		assert_int_equal(state_load_leaf(&json.nodes[0], "a", point_fields, &p, &err), -EINVAL);
		if (strncmp(err.msg, cases[i].msg, strlen(cases[i].msg)) != 0)
			fail_msg("case %zu: %s", i, err.msg);
		assert_string_equal(peeked.msg, err.msg);
		assert_int_equal(p.x, 7);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_the_tree),
		cmocka_unit_test(failure_goes_up),
		cmocka_unit_test(reads_the_tree),
		cmocka_unit_test(errors),
	};

	return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
