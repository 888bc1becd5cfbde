// SPDX-License-Identifier: Apache-2.0
/*
 * A configuration from outside: config.json, the body of vm.create, of vm.restore; an array of strings is a command line. What is
 * accepted must come back the same when it is written and read again.
 */
#include "tests/fuzz/fuzz.h"

#include "vmm/config/cmdline.h"
#include "vmm/config/config.h"

enum { ARGS_MAX = 64 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return 0;
}

static void load_again(const struct strbuf *text, struct strbuf *ret)
{
	autojson struct json json = {};
	autofree char *copy = exact(text->text, text->len);
	autovmconfig struct vm_config c;
	struct err err = {};

	vm_config_init(&c);
	must(json_parse(&json, copy, text->len, &err) == 0, "a written configuration is no JSON");
	must(fields_check_known(vm_config_fields, &json.nodes[0], "vm", &err) == 0, "an unknown key was written");
	must(fields_load(vm_config_fields, &c, &json.nodes[0], "vm", &err) == 0, "a written configuration is refused");
	fields_save(vm_config_fields, &c, ret);
}

static void round_trip(const struct vm_config *c)
{
	autostrbuf struct strbuf first = {}, second = {};

	fields_save(vm_config_fields, c, &first);
	load_again(&first, &second);
	must(first.len == second.len && memcmp(first.text, second.text, first.len) == 0,
	     "a configuration changed on its way through JSON");
}

static bool config(const struct json_node *node)
{
	autovmconfig struct vm_config c;
	struct err err = {};

	vm_config_init(&c);
	bool known = fields_check_known(vm_config_fields, node, "vm", &err) == 0;
	bool taken = fields_load(vm_config_fields, &c, node, "vm", &err) == 0 && vm_config_check(&c, &err) == 0 &&
		     known;
	if (taken)
		round_trip(&c);
	must(err.code == ERR_NONE || err.msg[0], "an error without a message");
	return taken;
}

static bool restore(const struct json_node *node)
{
	struct restore_config c;
	struct err err = {};

	fields_init(restore_config_fields, &c);
	bool taken = fields_load(restore_config_fields, &c, node, "restore", &err) == 0 && url_path(c.source_url, &err);
	fields_free(restore_config_fields, &c);
	return taken;
}

static bool arguments(const struct json_node *list)
{
	char program[] = "forkd-vmm", *argv[ARGS_MAX + 2] = { program };
	struct cmdline cl;
	struct err err = {};
	int n = 1;

	for (json_each(arg, list))
		if (arg->type == JSON_STRING && n <= ARGS_MAX)
			argv[n++] = arg->str;
	bool taken = cmdline_parse(n, argv, &cl, &err) == 0 && (!cl.has_vm || vm_config_check(&cl.config, &err) == 0);
	if (taken && cl.has_vm)
		round_trip(&cl.config);
	cmdline_free(&cl);
	return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	autojson struct json json = {};
	autofree char *text = exact(data, size);
	struct err err = {};

	if (json_parse(&json, text, size, &err) < 0)
		return 0;
	const struct json_node *root = &json.nodes[0];
	if (root->type == JSON_ARRAY ? arguments(root) : json_get(root, "source_url") ? restore(root) : config(root))
		document_is_good(data, size);
	return 0;
}
