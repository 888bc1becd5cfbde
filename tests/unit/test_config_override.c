// SPDX-License-Identifier: Apache-2.0
/* vmm/overrides: what a clone may change, and what it is told when it may not. */
#include "vmm/clone/config_override.h"

#include <errno.h>

#include "tests/unit/unit.h"

#define CONFIG                                                                                               \
	"{\"payload\":{\"kernel\":\"K\"},\"disks\":[{\"id\":\"_disk0\",\"path\":\"/a\",\"readonly\":true}]," \
	"\"net\":[{\"id\":\"net1\",\"tap\":\"t1\"},{\"id\":\"net2\"}],\"serial\":{\"mode\":\"Tty\"},"        \
	"\"vsock\":{\"cid\":3,\"socket\":\"/v\"}}"

static int parse(const char *text, struct json *json, char **copy, struct err *err)
{
	*copy = exact_copy(text, strlen(text));
	return json_parse(json, *copy, strlen(text), err);
}

static int override(const char *text, struct vm_config *c, struct err *err)
{
	autojson struct json config = {}, json = {};
	autofree char *copy = NULL, *config_copy = NULL;

	vm_config_init(c);
	assert_int_equal(parse(CONFIG, &config, &config_copy, err), 0);
	assert_int_equal(fields_load(vm_config_fields, c, config.nodes, "config", err), 0);
	assert_int_equal(parse(text, &json, &copy, err), 0);
	return vm_config_override(c, json.nodes, err);
}

static void changes(void **state)
{
	autovmconfig struct vm_config c = {};
	struct err err = {};

	(void)state;
	if (override("{\"net\":[{\"id\":\"net2\",\"tap\":\"t9\"}],\"disks\":[{\"id\":\"_disk0\",\"path\":\"/b\"}],"
		     "\"rng\":{\"src\":\"/dev/random\"},\"serial\":{\"mode\":\"File\",\"file\":\"/log\"},"
		     "\"vsock\":{\"socket\":\"/w\"}}",
		     &c, &err) < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(c.net[0].tap, "t1");
	assert_string_equal(c.net[1].tap, "t9");
	assert_string_equal(c.disks[0].path, "/b");
	assert_true(c.disks[0].readonly);
	assert_string_equal(c.rng.src, "/dev/random");
	assert_string_equal(c.vsock->socket, "/w");
	assert_int_equal(c.vsock->cid, 3);
	assert_int_equal(c.serial.mode, CONSOLE_TTY); /* forkd's business */
}

static void refusals(void **state)
{
	static const struct {
		const char *json, *msg;
	} cases[] = {
		{ "[]", "overrides: expected an object, found an array" },
		{ "{\"memory\":{\"size\":1}}",
		  "overrides.memory cannot be changed on restore: the guest has read it already" },
		{ "{\"net\":[{\"id\":\"net1\",\"mac\":\"2e:8c:e1:f1:92:fa\"}]}",
		  "overrides.net[0].mac cannot be changed on restore: the guest has read it already" },
		{ "{\"net\":[{\"id\":\"net1\"},{\"id\":\"net2\",\"fast\":true}]}",
		  "overrides.net[1].fast: unknown field" },
		{ "{\"disks\":[{\"id\":\"_disk0\",\"readonly\":false}]}",
		  "overrides.disks[0].readonly cannot be changed on restore: the guest has read it already" },
		{ "{\"disks\":[{\"path\":\"/b\"}]}", "overrides.disks[0].id: missing" },
		{ "{\"disks\":[{\"id\":\"other\",\"path\":\"/b\"}]}",
		  "overrides.disks[0].id: the template has no disk 'other'" },
		{ "{\"disks\":{}}", "overrides.disks: expected an array, found an object" },
		{ "{\"rng\":{\"src\":5}}", "overrides.rng.src: expected a string, found an integer" },
		{ "{\"vsock\":{\"cid\":4}}",
		  "overrides.vsock.cid cannot be changed on restore: the guest has read it already" },
		{ "{\"colour\":1}", "overrides.colour: unknown field" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autovmconfig struct vm_config c = {};
		struct err err = {};
		assert_int_equal(override(cases[i].json, &c, &err), -EINVAL);
		assert_string_equal(err.msg, cases[i].msg);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(changes), cmocka_unit_test(refusals) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
