// SPDX-License-Identifier: Apache-2.0
/* What a request for clones may say, and how it meets a template: every refusal by its row and words. */
#include "forkd/clone/clone_request.h"

#include <string.h>

#include "forkd/errors.h"
#include "tests/unit/unit.h"

static char net1[] = "net1", net2[] = "net2", ro[] = "ro", ro_path[] = "/ro", rw[] = "rw", rw_path[] = "/rw";
static struct ctl_net nets[] = { { .id = net1, .num_fds = 2 }, { .id = net2, .num_fds = 1 } };
static struct ctl_disk disks[] = { { .id = ro, .path = ro_path, .readonly = true }, { .id = rw, .path = rw_path } };
static const struct template_host template = { .info = { .nets = nets, .n_nets = 2, .disks = disks, .n_disks = 2 } };
#define RW "\"disks\":[{\"id\":\"rw\",\"path\":\"/a\"}]"
#define RW2 "\"disks\":[{\"id\":\"rw\",\"path\":\"/b\"}]"

/* The request and its plans; the caller frees what came out. */
static int load_for(const char *text, struct clone_request *rq, struct clone_plan **plans, uint32_t n_fds,
		    const char *no_slots, struct err *err)
{
	autofree char *copy = strdup(text);
	autojson struct json json = {};

	*plans = NULL;
	assert_int_equal(json_parse(&json, copy, strlen(copy), err), 0);
	if (clone_request_load(&json.nodes[0], rq, err) < 0)
		return err->num;
	return clone_plans(rq, &template, n_fds, no_slots, plans, err);
}

static int load(const char *text, struct clone_request *rq, struct clone_plan **plans, uint32_t n_fds, struct err *err)
{
	return load_for(text, rq, plans, n_fds, "forkd runs with --network off", err);
}

static void refuses(void **state)
{
	static const struct {
		const char *body, *msg;
		enum error_row row;
		uint32_t n_fds;
	} cases[] = {
		{ "{\"x\":1}", "body: there is no field 'x'", E_UNKNOWN_FIELD, 0 },
		{ "{\"clones\":[{\"count\":1}]}", "clones[0]: there is no field 'count'", E_UNKNOWN_FIELD, 0 },
		{ "{\"count\":0}", "body.count: 0 is below 1", E_INVALID, 0 },
		{ "{\"count\":1001}", "body.count: 1001 is above 1000", E_INVALID, 0 },
		{ "{\"clones\":[]}", "clones: expected an array of 1 to 1000 objects", E_INVALID, 0 },
		{ "{\"clones\":[{}],\"count\":1}", "'clones' stands alone: everything else goes into its entries",
		  E_INVALID, 0 },
		{ "{\"clock\":\"stop\"}", "body.clock: unknown variant `stop`, expected one of `advance`, `continue`",
		  E_INVALID, 0 },
		{ "{\"labels\":{\"a\":1}}", "labels.a: expected a string, found an integer", E_INVALID, 0 },
		{ "{}",
		  "disk 'rw' (/rw) is writable, and the template has no image of it: each clone needs a path of its own for it",
		  E_DISK_SHARED, 0 },
		{ "{\"overrides\":[]}", "overrides: expected an object, found an array", E_BAD_OVERRIDE, 0 },
		{ "{\"overrides\":{\"disks\":[{\"path\":\"/a\"}]}}",
		  "overrides.disks[0]: 'id' is missing: entries are matched by it", E_BAD_OVERRIDE, 0 },
		{ "{\"overrides\":{\"disks\":[{\"id\":\"x\",\"path\":\"/a\"}]}}",
		  "overrides.disks[0]: the template has no disk 'x'; its disks: ro, rw", E_BAD_OVERRIDE, 0 },
		{ "{\"overrides\":{" RW ",\"net\":[{\"id\":\"x\"}]}}",
		  "overrides.net[0]: the template has no net 'x'; its nets: net1, net2", E_BAD_OVERRIDE, 0 },
		{ "{\"overrides\":{\"disks\":[{\"id\":\"rw\",\"tap\":\"t0\"}],\"net\":[{\"id\":\"net1\",\"path\":\"/a\"}]}}",
		  "disk 'rw' (/rw) is writable, and the template has no image of it: each clone needs a path of its own for it",
		  E_DISK_SHARED, 0 },
		{ "{\"overrides\":{" RW ",\"net\":[{\"id\":\"net1\",\"tap\":\"a/b\"}]}}",
		  "overrides.net[0].tap: 'a/b' is not a name of an interface", E_BAD_OVERRIDE, 0 },
		{ "{\"overrides\":{\"serial\":{\"mode\":\"File\"}}}",
		  "overrides.serial.file is missing for mode \"File\"", E_BAD_OVERRIDE, 0 },
		{ "{\"overrides\":{\"serial\":{\"mode\":\"Null\",\"iobase\":1}}}",
		  "overrides.serial.iobase cannot be changed: only mode and file can", E_BAD_OVERRIDE, 0 },
		{ "{\"overrides\":{" RW "},\"net_fds\":[{\"id\":\"net1\",\"num_fds\":2}]}",
		  "net_fds names 2 descriptors, 1 came with the request", E_BAD_FDS, 1 },
		{ "{\"overrides\":{" RW "}}", "net_fds names 0 descriptors, 3 came with the request", E_BAD_FDS, 3 },
		{ "{\"overrides\":{" RW "},\"net_fds\":[{\"id\":\"net1\",\"num_fds\":1}]}",
		  "net_fds[0]: num_fds 1 for net 'net1', which has 2 queue pairs", E_BAD_FDS, 1 },
		{ "{\"overrides\":{" RW
		  "},\"net_fds\":[{\"id\":\"net2\",\"num_fds\":1},{\"id\":\"net2\",\"num_fds\":1}]}",
		  "net_fds[1]: net 'net2' is named twice", E_BAD_FDS, 2 },
		{ "{\"overrides\":{" RW "},\"net_fds\":[{\"id\":\"eth\",\"num_fds\":1}]}",
		  "net_fds[0]: the template has no net 'eth'; its nets: net1, net2", E_BAD_FDS, 1 },
		{ "{\"count\":2,\"overrides\":{" RW "}}",
		  "writable disk '/a' can be used by one clone only: count is 2", E_INVALID, 0 },
		{ "{\"count\":2,\"overrides\":{" RW "},\"net_fds\":[{\"id\":\"net2\",\"num_fds\":1}]}",
		  "net_fds can be used by one clone only: count is 2", E_INVALID, 1 },
		{ "{\"clones\":[{\"overrides\":{" RW "}},{\"overrides\":{" RW "}}]}",
		  "writable disk '/a' is used twice (clones[0], clones[1]): it can be used by one only", E_INVALID, 0 },
		{ "{\"clones\":[{\"overrides\":{" RW "}},{}]}",
		  "clones[1]\ndisk 'rw' (/rw) is writable, and the template has no image of it: each clone needs a path of its own for it",
		  E_DISK_SHARED, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoclonerequest struct clone_request rq = {};
		struct clone_plan *plans;
		struct err err = {};
		assert_true(load(cases[i].body, &rq, &plans, cases[i].n_fds, &err) < 0);
		assert_string_equal(err.msg, cases[i].msg);
		assert_int_equal(err.detail, cases[i].row);
		assert_null(plans);
	}
}

static void defaults(void **state)
{
	autoclonerequest struct clone_request rq = {};
	struct err err = {};

	(void)state;
	assert_int_equal(clone_request_load(NULL, &rq, &err), 0);
	assert_int_equal(rq.count, 1);
	assert_int_equal(rq.specs[0].memory_restore_mode, CTL_COPYONWRITE);
	assert_int_equal(rq.specs[0].clock, CTL_CLOCK_ADVANCE);
	assert_false(rq.specs[0].paused);
	assert_null(rq.specs[0].overrides);
}

static void plans_in_order(void **state)
{
	autoclonerequest struct clone_request rq = {};
	struct clone_plan *plans;
	struct err err = {};

	(void)state;
	assert_int_equal(
		load("{\"clones\":[{\"overrides\":{" RW
		     "},\"net_fds\":[{\"id\":\"net2\",\"num_fds\":1},{\"id\":\"net1\","
		     "\"num_fds\":2}],\"labels\":{\"a\":\"b\"},\"clock\":\"continue\"},{\"overrides\":{" RW2
		     ",\"net\":[{\"id\":\"net1\",\"tap\":\"t0\"}]},\"net_fds\":[{\"id\":\"net2\",\"num_fds\":1}]}]}",
		     &rq, &plans, 4, &err),
		0);
	assert_int_equal(rq.count, 2);
	assert_int_equal(plans[0].nets[0].from, NET_FDS);
	assert_int_equal(plans[0].nets[0].first_fd, 1);
	assert_int_equal(plans[0].nets[1].first_fd, 0);
	assert_int_equal(plans[1].nets[0].from, NET_TAP);
	assert_string_equal(plans[1].nets[0].tap, "t0");
	assert_int_equal(plans[1].nets[1].first_fd, 3);
	assert_null(plans[0].disks[0].path);
	assert_string_equal(plans[0].disks[1].path, "/a");
	assert_string_equal(clone_request_spec(&rq, 0)->labels[0].value, "b");
	assert_int_equal(clone_request_spec(&rq, 0)->clock, CTL_CLOCK_CONTINUE);
	assert_int_equal(clone_request_spec(&rq, 1)->clock, CTL_CLOCK_ADVANCE);
	plans_free(plans, rq.count);
}

/* The VM process gets what the caller wrote. */
static void passes_on(void **state)
{
	static const char text[] = "{\"overrides\":{" RW
				   ",\"rng\":{\"src\":\"/dev/urandom\"},\"x\":[1,-2,null,true,1.5,\"\\u00e9\\n\"],"
				   "\"big\":18446744073709551615,\"l\":[]}}";
	autoclonerequest struct clone_request rq = {};
	struct clone_plan *plans;
	struct err err = {};

	(void)state;
	assert_int_equal(load(text, &rq, &plans, 0, &err), 0);
	assert_string_equal(rq.specs[0].overrides,
			    "{" RW ",\"rng\":{\"src\":\"/dev/urandom\"},\"x\":[1,-2,null,true,1.5,\"é\\n\"],"
			    "\"big\":18446744073709551615,\"l\":[]}");
	assert_string_equal(rq.specs[0].rng_src, "/dev/urandom");
	plans_free(plans, rq.count);
}

/* The first net without a tap of the request gets the slot, where there are slots. */
static void plans_slots(void **state)
{
	static const struct {
		const char *net;
		int first, second;
	} cases[] = {
		{ "\"net\":[]", NET_SLOT, NET_AUTO },
		{ "\"network\":{\"egress\":\"none\"}", NET_SLOT, NET_AUTO },
		{ "\"net\":[{\"id\":\"net1\",\"tap\":\"t0\"}]", NET_TAP, NET_SLOT },
		{ "\"net\":[{\"id\":\"net1\",\"tap\":\"t0\"},{\"id\":\"net2\",\"tap\":\"t1\"}]", NET_TAP, NET_TAP },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoclonerequest struct clone_request rq = {};
		autostrbuf struct strbuf text = {};
		struct clone_plan *plans = NULL;
		struct err err = {};
		strbuf_printf(&text, "{\"overrides\":{" RW ",%s}}", cases[i].net);
		assert_int_equal(load_for(text.text, &rq, &plans, 0, NULL, &err), 0);
		assert_int_equal(plans[0].nets[0].from, cases[i].first);
		assert_int_equal(plans[0].nets[1].from, cases[i].second);
		assert_null(strstr(rq.specs[0].overrides, "network"));
		plans_free(plans, rq.count);
	}
}

static void refuses_networks(void **state)
{
	static const struct {
		const char *net, *off, *msg;
	} cases[] = {
		{ "\"network\":{}", "it is dark", "overrides.network: clones have no networks here: it is dark" },
		{ "\"network\":{},\"net\":[{\"id\":\"net1\",\"tap\":\"t0\"},{\"id\":\"net2\",\"tap\":\"t1\"}]", NULL,
		  "overrides.network: the clone has no net without a tap of the request" },
		{ "\"network\":{\"egress\":1}", NULL,
		  "overrides.network.egress: expected \"open\", \"none\" or an object with allow and deny" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoclonerequest struct clone_request rq = {};
		autostrbuf struct strbuf text = {};
		struct clone_plan *plans = NULL;
		struct err err = {};
		strbuf_printf(&text, "{\"overrides\":{" RW ",%s}}", cases[i].net);
		assert_true(load_for(text.text, &rq, &plans, 0, cases[i].off, &err) < 0);
		assert_string_equal(err.msg, cases[i].msg);
		assert_int_equal(err.detail, E_BAD_OVERRIDE);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses),   cmocka_unit_test(defaults),    cmocka_unit_test(plans_in_order),
		cmocka_unit_test(passes_on), cmocka_unit_test(plans_slots), cmocka_unit_test(refuses_networks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
