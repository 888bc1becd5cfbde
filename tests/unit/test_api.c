// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/api over real sockets: the bytes of every kind of answer, descriptors that come with a request, the server's start
 * and end. HTTP itself is test_http's.
 */
#include "vmm/api/api.h"

#include "tests/unit/api_client.h"

/* ---- endpoints ---- */

/* One story, told in order on one connection: every endpoint in every state that it answers differently in. */
static void answers_every_endpoint(void **state)
{
	static const struct {
		const char *method, *name, *body;
		int status;
		const char *answer;
	} steps[] = {
		{ "GET", "vm.info", NULL, 404, NOT_CREATED("The VM info is not available") },
		{ "PUT", "vm.boot", NULL, 404, NOT_CREATED("The VM could not boot") },
		{ "PUT", "vm.reboot", NULL, 404, NOT_CREATED("The VM could not reboot") },
		{ "PUT", "vm.pause", NULL, 500, NOT_RUNNING("The VM could not be paused") },
		{ "PUT", "vm.resume", NULL, 500, NOT_RUNNING("The VM could not resume") },
		{ "PUT", "vm.shutdown", NULL, 500, NOT_RUNNING("The VM could not shutdown") },
		{ "PUT", "vm.snapshot", SNAPSHOT, 500, NOT_RUNNING("The VM could not be snapshotted") },
		{ "PUT", "vm.delete", NULL, 204, NULL },
		{ "PUT", "vm.create", CONFIG, 204, NULL },
		{ "PUT", "vm.create", CONFIG, 500, FAILED("The VM could not be created", "VM is already created") },
		{ "PUT", "vm.boot", NULL, 204, NULL },
		{ "PUT", "vm.boot", "", 204, NULL },
		{ "PUT", "vm.pause", NULL, 204, NULL },
		{ "PUT", "vm.snapshot", SNAPSHOT, 204, NULL },
		{ "PUT", "vm.resume", NULL, 204, NULL },
		{ "PUT", "vm.reboot", NULL, 204, NULL },
		{ "PUT", "vm.restore", RESTORE, 500, NOT_RUNNING("The VM could not be restored") },
		{ "PUT", "vm.shutdown", NULL, 204, NULL },
		{ "PUT", "vm.delete", NULL, 204, NULL },
		{ "PUT", "vm.restore", RESTORE, 204, NULL },
		{ "PUT", "vm.delete", NULL, 204, NULL },
	};
	int fd = client_connect();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		ask(fd, steps[i].method, steps[i].name, steps[i].body);
		expect_answer(fd, steps[i].status, steps[i].answer);
	}
	assert_string_equal(vmm->snapshot_url, "file:///s");
	expect_alive(fd);
	client_close(fd);
}

static void answers_info(void **state)
{
	autostrbuf struct strbuf text = {};
	int fd = client_connect();

	(void)state;
	ask(fd, "PUT", "vm.create", "{\"memory\":{\"size\":18446744073709551615}}");
	expect_answer(fd, 204, NULL);
	ask(fd, "GET", "vm.info", NULL);
	assert_false(client_read(fd, &text));
	assert_non_null(strstr(text.text, "\r\n\r\n{\"config\":{\"cpus\":{"));
	assert_non_null(strstr(text.text, "\"state\":\"Created\",\"memory_actual_size\":18446744073709551615}"));
	client_close(fd);
}

/* What is refused before a handler runs; nothing of it may reach the machine. */
static void refuses_by_method_and_body(void **state)
{
	static const char *const known[] = { "vm.boot",   "vm.pause",  "vm.resume", "vm.shutdown",
					     "vm.delete", "vm.reboot", "vm.nmi",    "vm.power-button" };
	static const char *const with_body[] = {
		"vm.snapshot",          "vm.restore", "vm.add-net",     "vm.add-disk",    "vm.add-vsock",
		"vm.remove-device",     "vm.resize",  "vm.resize-disk", "vm.resize-zone", "vm.send-migration",
		"vm.receive-migration",
	};
	static const char *const explained[] = { "vmm.ping", "vmm.shutdown", "vm.create", "vm.info" };
	static const char *const unknown[] = { "vm.coredump", "vm.unknown", "", "vmm.ping?x=1", "vmm.ping/", "vm.ping" };
	int fd = client_connect();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(known); i++) {
		ask(fd, "GET", known[i], NULL);
		expect_answer(fd, 400, BAD_REQUEST);
		ask(fd, "DELETE", known[i], NULL);
		expect_answer(fd, 400, "");
		ask(fd, "PUT", known[i], "{}");
		expect_answer(fd, 400, BAD_REQUEST);
	}
	for (size_t i = 0; i < ARRAY_LEN(with_body); i++) {
		ask(fd, "GET", with_body[i], "{}");
		expect_answer(fd, 400, BAD_REQUEST);
		ask(fd, "PATCH", with_body[i], "{}");
		expect_answer(fd, 400, "");
		ask(fd, "PUT", with_body[i], NULL);
		expect_answer(fd, 400, BAD_REQUEST);
		ask(fd, "PUT", with_body[i], "");
		expect_answer(fd, 400, BAD_REQUEST);
	}
	for (size_t i = 0; i < ARRAY_LEN(explained); i++) {
		ask(fd, "DELETE", explained[i], NULL);
		expect_answer(fd, 400, BAD_REQUEST);
	}
	ask(fd, "PUT", "vm.create", NULL);
	expect_answer(fd, 400, "");
	ask(fd, "PUT", "vm.info", NULL);
	expect_answer(fd, 400, BAD_REQUEST);
	ask(fd, "GET", "vmm.ping", "ignored");
	expect_answer(fd, 200, ping_body());
	for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
		ask(fd, "GET", unknown[i], NULL);
		expect_answer(fd, 404, NOT_FOUND);
		ask(fd, "PATCH", unknown[i], "x");
		expect_answer(fd, 404, NOT_FOUND);
	}
	assert_int_equal(vmm->calls, 0);
	client_close(fd);
}

/* What asks something of a running machine: what arrives there, and what is said when it fails. */
static void counters_buttons_and_sizes(void **state)
{
	static const struct {
		const char *method, *name, *body, *did, *failed;
	} cases[] = {
		{ "PUT", "vm.nmi", NULL, "nmi", "Error triggering NMI" },
		{ "PUT", "vm.power-button", NULL, "power button", "Error triggering power button" },
		{ "PUT", "vm.resize", "{}", "resize -1 -1 -1", "The VM could not be resized" },
		{ "PUT", "vm.resize", "{\"desired_vcpus\":null,\"desired_ram\":0,\"other\":[1]}", "resize -1 0 -1",
		  "The VM could not be resized" },
		{ "PUT", "vm.resize", "{\"desired_vcpus\":2,\"desired_ram\":3,\"desired_balloon\":4}", "resize 2 3 4",
		  "The VM could not be resized" },
		{ "PUT", "vm.resize-disk", "{\"id\":\"_disk0\",\"desired_size\":18446744073709551615}",
		  "resize _disk0 18446744073709551615", "The disk could not be resized" },
	};
	static const char *const broken[][3] = {
		{ "vm.resize", "{\"desired_vcpus\":4294967296}", "VmResizeData.desired_vcpus: " },
		{ "vm.resize", "{\"desired_balloon\":-1}", "VmResizeData.desired_balloon: " },
		{ "vm.resize", "[]", "VmResizeData: " },
		{ "vm.resize-disk", "{\"id\":\"_disk0\"}", "VmResizeDiskData.desired_size: " },
		{ "vm.resize-disk", "{\"desired_size\":1}", "VmResizeDiskData.id: " },
	};
	int fd = client_connect();
	char answer[256];

	(void)state;
	ask(fd, "GET", "vm.counters", NULL);
	expect_answer(fd, 500, FAILED("The VM info is not available", "VM is not running"));
	vmm->state = RUNNING;
	ask(fd, "GET", "vm.counters", NULL);
	expect_answer(fd, 200, "{\"_net0\":{\"rx_bytes\":1}}");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		ask(fd, cases[i].method, cases[i].name, cases[i].body);
		expect_answer(fd, 204, NULL);
		assert_string_equal(vmm->did, cases[i].did);
		err_set(&vmm->forced, ERR_INTERNAL, "VM is not running");
		ask(fd, cases[i].method, cases[i].name, cases[i].body);
		snprintf(answer, sizeof(answer), "[\"Error from API\",\"%s\",\"VM is not running\"]", cases[i].failed);
		expect_answer(fd, 500, answer);
	}
	unsigned calls = vmm->calls;
	for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
		autostrbuf struct strbuf text = {};
		ask(fd, "PUT", broken[i][0], broken[i][1]);
		assert_false(client_read(fd, &text));
		assert_non_null(strstr(text.text, "HTTP/1.1 400 \r\n"));
		assert_non_null(strstr(text.text, "[\"Failed to deserialize JSON\",\""));
		if (!strstr(text.text, broken[i][2]))
			fail_msg("%s: %s", broken[i][1], text.text);
	}
	assert_int_equal(vmm->calls, calls);
	client_close(fd);
}

/* Before the machine runs the answer is empty, then it says where the device is. */
static void devices_come_and_go(void **state)
{
	static const struct {
		const char *name, *body, *did, *failed;
	} cases[] = {
		{ "vm.add-disk", "{\"path\":\"/d\"}", "add /d -", "The disk could not be added to the VM" },
		{ "vm.add-disk", "{\"id\":\"d1\",\"path\":null}", "add disk d1",
		  "The disk could not be added to the VM" },
		{ "vm.add-net", "{\"id\":\"n1\",\"fds\":[3,4]}", "add net n1",
		  "The network device could not be added to the VM" },
		{ "vm.add-vsock", "{\"cid\":3,\"socket\":\"/s\"}", "add /s -",
		  "The vsock device could not be added to the VM" },
		{ "vm.remove-device", "{\"id\":\"x\"}", "remove x", "The device could not be removed from the VM" },
	};
	static const char *const broken[][3] = {
		{ "vm.add-disk", "{\"path\":1}", "DiskConfig.path: " },
		{ "vm.add-net", "{\"num_queues\":-1}", "NetConfig.num_queues: " },
		{ "vm.add-vsock", "{\"cid\":3}", "VsockConfig.socket: " },
		{ "vm.remove-device", "{}", "VmRemoveDeviceData.id: " },
	};
	int fd = client_connect();
	char answer[256];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		bool removes = strcmp(cases[i].name, "vm.remove-device") == 0;
		for (enum state s = CREATED; s <= PAUSED; s++) {
			vmm->state = s;
			ask(fd, "PUT", cases[i].name, cases[i].body);
			if (s == CREATED || removes)
				expect_answer(fd, 204, NULL);
			else
				expect_answer(fd, 200, "{\"id\":\"x\",\"bdf\":\"0000:00:06.0\"}");
			assert_string_equal(vmm->did, cases[i].did);
		}
		assert_int_equal(vmm->n_fds, 0); /* numbers in the body are nothing */
		err_set(&vmm->forced, ERR_CONFLICT, "Identifier x is not unique");
		ask(fd, "PUT", cases[i].name, cases[i].body);
		snprintf(answer, sizeof(answer), "[\"Error from API\",\"%s\",\"Identifier x is not unique\"]",
			 cases[i].failed);
		expect_answer(fd, 409, answer);
	}
	for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
		autostrbuf struct strbuf text = {};
		ask(fd, "PUT", broken[i][0], broken[i][1]);
		assert_false(client_read(fd, &text));
		assert_non_null(strstr(text.text, "HTTP/1.1 400 \r\n"));
		if (!strstr(text.text, broken[i][2]))
			fail_msg("%s: %s", broken[i][1], text.text);
	}
	client_close(fd);
}

static void says_what_it_lacks(void **state)
{
	int fd = client_connect();

	(void)state;
	ask(fd, "PUT", "vm.resize-zone", "{\"id\":\"mem0\",\"desired_ram\":2}");
	expect_answer(
		fd, 500,
		FAILED("The memory zone could not be resized", "vm.resize-zone is not supported by this program"));
	ask(fd, "PUT", "vm.add-fs", "{}");
	expect_answer(fd, 500,
		      FAILED("The fs could not be added to the VM", "vm.add-fs is not supported by this program"));
	assert_int_equal(vmm->calls, 0);
	client_close(fd);
}

/* The specification's paths and methods are the server's: with the other method each is known, and refused. */
static void serves_what_the_specification_lists(void **state)
{
	FILE *spec = fopen("api-spec/vmm.yaml", "re");
	char line[256], name[64], method[8];
	unsigned n = 0;
	int fd = client_connect();

	(void)state;
	assert_non_null(spec);
	while (fgets(line, sizeof(line), spec)) {
		if (sscanf(line, "  /%63[^:]:", name) != 1)
			continue;
		assert_non_null(fgets(line, sizeof(line), spec));
		assert_int_equal(sscanf(line, "    %7[a-z]:", method), 1);
		ask(fd, strcmp(method, "get") == 0 ? "PUT" : "GET", name, NULL);
		expect_answer(fd, 400, BAD_REQUEST);
		n++;
	}
	fclose(spec);
	assert_int_equal(n, 30);
	client_close(fd);
}

static void names_what_is_wrong_in_a_body(void **state)
{
#define BROKEN(text) "[\"Failed to deserialize JSON\",\"" text "\"]"
	static const struct {
		const char *name, *body, *answer;
	} cases[] = {
		{ "vm.snapshot", "{}", BROKEN("VmSnapshotConfig.destination_url: missing") },
		{ "vm.snapshot", "{\"destination_url\":null}", BROKEN("VmSnapshotConfig.destination_url: missing") },
		{ "vm.snapshot", "{\"destination_url\":1}",
		  BROKEN("VmSnapshotConfig.destination_url: expected a string, found an integer") },
		{ "vm.snapshot", "[]", BROKEN("VmSnapshotConfig: expected an object, found an array") },
		{ "vm.restore", "{\"source_url\":\"x\",\"memory_restore_mode\":\"copy\"}",
		  BROKEN("RestoreConfig.memory_restore_mode: unknown variant `copy`, expected one of `Copy`, "
			 "`OnDemand`, `CopyOnWrite`") },
		{ "vm.restore", "{\"source_url\":\"x\",\"net_fds\":[{\"id\":\"a\",\"num_fds\":254}]}",
		  BROKEN("RestoreConfig.net_fds[0].num_fds: 254 is above 253") },
		{ "vm.create", "{\"cpus\":{\"boot_vcpus\":\"x\",\"max_vcpus\":1}}",
		  BROKEN("VmConfig.cpus.boot_vcpus: expected an integer, found a string") },
	};
	static const char *const not_json[] = { "{bad", "{", "nul", "{\"a\":1,}", "{\"a\":1,\"a\":2}", "\xff", "{} x" };
	int fd = client_connect();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		ask(fd, "PUT", cases[i].name, cases[i].body);
		expect_answer(fd, 400, cases[i].answer);
	}
	for (size_t i = 0; i < ARRAY_LEN(not_json); i++) {
		autostrbuf struct strbuf text = {};
		ask(fd, "PUT", "vm.resize", not_json[i]);
		assert_false(client_read(fd, &text));
		assert_non_null(strstr(text.text, "[\"Failed to deserialize JSON\",\""));
		assert_non_null(strstr(text.text, " at line 1 column "));
	}
	assert_int_equal(vmm->calls, 0);
	client_close(fd);
}

static void maps_error_codes(void **state)
{
	static const struct {
		enum err_code code;
		int status;
		const char *answer;
	} cases[] = {
		{ ERR_INVALID, 400, FAILED("The VM could not be paused", "outer\",\"a \\\"b\\\" c") },
		{ ERR_NOT_FOUND, 404, FAILED("The VM could not be paused", "outer\",\"a \\\"b\\\" c") },
		{ ERR_CONFLICT, 409, FAILED("The VM could not be paused", "outer\",\"a \\\"b\\\" c") },
		{ ERR_BUSY, 429, "[\"Too Many Requests\"]" },
		{ ERR_INTERNAL, 500, FAILED("The VM could not be paused", "outer\",\"a \\\"b\\\" c") },
	};
	int fd = client_connect();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		err_set(&vmm->forced, cases[i].code, "a \"b\" c");
		err_wrap(&vmm->forced, "outer");
		ask(fd, "PUT", "vm.pause", NULL);
		expect_answer(fd, cases[i].status, cases[i].answer);
	}
	client_close(fd);
}

static void stops_after_the_answer(void **state)
{
	int fd = client_connect(), other = client_connect();

	(void)state;
	client_send(fd, "PUT /api/v1/vmm.shutdown HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
			"PUT /api/v1/vm.pause HTTP/1.1\r\n\r\n");
	assert_true(loop.stopped);
	assert_int_equal(loop.exit_code, 0);
	expect_text(fd,
		    "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
		    "Content-Type: application/json\r\nContent-Length: 0\r\n\r\n",
		    true);
	assert_int_equal(vmm->calls, 0);
	client_close(fd);
	client_close(other);
}

/* ---- descriptors ---- */

static void add_restore(struct strbuf *out, unsigned a, unsigned b)
{
	char body[256];

	snprintf(body, sizeof(body),
		 "{\"source_url\":\"file:///s\",\"prefault\":false,\"memory_restore_mode\":\"Copy\",\"net_fds\":["
		 "{\"id\":\"net1\",\"num_fds\":%u,\"fds\":null},{\"id\":\"net0\"},{\"id\":\"net2\",\"num_fds\":%u,"
		 "\"fds\":[7]}],\"vfio_fds\":null,\"iommufd_fd\":null,\"resume\":true,\"zone_updates\":[]}",
		 a, b);
	add_request(out, "PUT", "vm.restore", body);
}

static void deals_descriptors_out(void **state)
{
	int sent[4];
	ino_t inodes[4];
	autostrbuf struct strbuf request = {};
	int fd = client_connect();

	(void)state;
	for (int i = 0; i < 4; i++)
		sent[i] = make_memfd(&inodes[i]);
	unsigned before = count_fds();
	add_restore(&request, 1, 3);
	for (size_t cut = 1; cut < request.len; cut += 7) { /* two messages with descriptors, cut anywhere */
		client_send_fds(fd, request.text, cut, sent, 2);
		client_send_fds(fd, request.text + cut, request.len - cut, sent + 2, 2);
		expect_answer(fd, 204, NULL);
		assert_int_equal(vmm->n_fds, 4);
		assert_memory_equal(vmm->fd_inodes, inodes, sizeof(inodes));
		assert_int_equal(count_fds(), before);
		ask(fd, "PUT", "vm.delete", NULL);
		expect_answer(fd, 204, NULL);
	}
	for (int i = 0; i < 4; i++)
		close(sent[i]);
	client_close(fd);
}

static void counts_descriptors(void **state)
{
	int sent[SOCK_FDS_MAX];
	int fd = client_connect();

	(void)state;
	make_same_memfds(sent, SOCK_FDS_MAX);
	unsigned before = count_fds();
	for (unsigned announced = 0; announced < 4; announced++) {
		for (unsigned n = 0; n < 5; n++) {
			autostrbuf struct strbuf request = {};
			add_restore(&request, announced, 0);
			client_send_fds(fd, request.text, request.len, sent, n);
			if (n == announced)
				expect_answer(fd, 204, NULL);
			else
				expect_answer(fd, 400, BAD_REQUEST);
			assert_int_equal(count_fds(), before);
			vmm->state = EMPTY;
		}
	}
	/* As many as one message can carry; an error of the machine; two requests in one message: the first has them all. */
	autostrbuf struct strbuf request = {};
	add_restore(&request, SOCK_FDS_MAX, 0);
	client_send_fds(fd, request.text, request.len, sent, SOCK_FDS_MAX);
	expect_answer(fd, 204, NULL);
	client_send_fds(fd, request.text, request.len, sent, SOCK_FDS_MAX);
	expect_answer(fd, 500, NOT_RUNNING("The VM could not be restored"));
	strbuf_done(&request);
	vmm->state = EMPTY;
	add_restore(&request, 1, 0);
	add_restore(&request, 1, 0);
	client_send_fds(fd, request.text, request.len, sent, 2);
	autostrbuf struct strbuf expected = {};
	add_answer(&expected, 400, BAD_REQUEST);
	add_answer(&expected, 400, BAD_REQUEST);
	expect_text(fd, expected.text, false);
	assert_int_equal(count_fds(), before);
	close(sent[0]);
	client_close(fd);
}

/* All descriptors of the request are the net's; what nobody took is closed. */
static void a_net_gets_its_descriptors(void **state)
{
	static const char body[] = "{\"id\":\"n\",\"num_queues\":4,\"fds\":[7]}";
	char request[256];
	int sent[2];
	ino_t inodes[2];
	int fd = client_connect();

	(void)state;
	for (int i = 0; i < 2; i++)
		sent[i] = make_memfd(&inodes[i]);
	unsigned before = count_fds();
	snprintf(request, sizeof(request), "PUT /api/v1/vm.add-net HTTP/1.1\r\nContent-Length: %zu\r\n\r\n%s",
		 strlen(body), body);
	client_send_fds(fd, request, strlen(request), sent, 2);
	expect_answer(fd, 204, NULL);
	assert_int_equal(vmm->n_fds, 2);
	assert_memory_equal(vmm->fd_inodes, inodes, sizeof(inodes));
	assert_int_equal(count_fds(), before);
	err_set(&vmm->forced, ERR_NOT_FOUND, "VM is not created");
	client_send_fds(fd, request, strlen(request), sent, 2);
	expect_answer(fd, 404, FAILED("The network device could not be added to the VM", "VM is not created"));
	assert_int_equal(count_fds(), before);
	for (int i = 0; i < 2; i++)
		close(sent[i]);
	client_close(fd);
}

/* ---- start and end ---- */

static void starts_from_a_descriptor(void **state)
{
	struct sock_listener l = {};
	struct err err = {};

	(void)state;
	api_server_free(api);
	assert_int_equal(sock_listen(socket_path, &l, &err), 0);
	api = api_server_new(&loop, vmm, NULL, dup(l.fd), &err);
	assert_non_null(api);
	int fd = client_connect();
	expect_alive(fd);
	client_close(fd);
	sock_listener_done(&l);
	api_server_free(api);
	api = api_server_new(&loop, vmm, NULL, open("/dev/null", O_RDONLY | O_CLOEXEC), &err);
	assert_null(api);
	assert_int_equal(err.code, ERR_INVALID);
}

static void refuses_a_second_server(void **state)
{
	struct err err = {};
	char text[128];

	(void)state;
	assert_null(api_server_new(&loop, vmm, socket_path, -1, &err));
	snprintf(text, sizeof(text), "API socket \"%s\" is already in use by another running instance", socket_path);
	assert_string_equal(err.msg, text);
	assert_null(api_server_new(&loop, vmm, "/nonexistent/x", -1, &err));
	assert_int_equal(strncmp(err.msg, "Error creation API server's socket\n", 35), 0);
	int fd = client_connect();
	expect_alive(fd);
	api_server_free(api); /* with a client connected */
	api = NULL;
	expect_text(fd, "", true);
	close(fd);
	assert_int_equal(access(socket_path, F_OK), -1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		API_TEST(answers_every_endpoint),
		API_TEST(answers_info),
		API_TEST(refuses_by_method_and_body),
		API_TEST(counters_buttons_and_sizes),
		API_TEST(devices_come_and_go),
		API_TEST(says_what_it_lacks),
		API_TEST(serves_what_the_specification_lists),
		API_TEST(names_what_is_wrong_in_a_body),
		API_TEST(maps_error_codes),
		API_TEST(stops_after_the_answer),
		API_TEST(deals_descriptors_out),
		API_TEST(counts_descriptors),
		API_TEST(a_net_gets_its_descriptors),
		API_TEST(starts_from_a_descriptor),
		API_TEST(refuses_a_second_server),
	};

	return cmocka_run_group_tests(tests, api_make_dir, api_remove_dir);
}
