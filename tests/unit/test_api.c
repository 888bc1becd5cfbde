// SPDX-License-Identifier: Apache-2.0
/*
 * vmm/api and vmm/http over real sockets: the bytes of every kind of answer, requests cut and joined in every way,
 * descriptors, limits, clients that misbehave. The machine behind them is the small fake below; server and clients
 * share one thread, so nothing here depends on time.
 */
#include "vmm/api/api.h"

#include "tests/unit/unit.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/log.h"
#include "common/sock.h"
#include "common/version.h"
#include "vmm/api/http.h"

/* ---- the fake machine: as much of the state machine as the messages need ---- */

enum state { EMPTY, CREATED, RUNNING, PAUSED };

struct vmm {
	enum state state;
	struct vm_config config;
	struct err forced; /* the next call fails so, unless code is ERR_NONE */
	char snapshot_url[128];
	ino_t fd_inodes[16]; /* of the last restore, in the order of its nets */
	unsigned n_fds, calls;
	char did[64]; /* the last call of those that have no state of their own here */
};

static int forced(struct vmm *v, struct err *err)
{
	v->calls++;
	*err = v->forced;
	v->forced.code = ERR_NONE;
	return err->code == ERR_NONE ? 0 : err->num;
}

static int move(struct vmm *v, enum state from, enum state to, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	if (v->state != from)
		return err_set(err, ERR_INTERNAL, "VM is not running");
	v->state = to;
	return 0;
}

struct vmm *vmm_new(struct loop *loop, struct err *err)
{
	(void)loop;
	struct vmm *v = calloc(1, sizeof(*v));
	if (!v)
		err_num(err, ERR_INTERNAL, ENOMEM, "new");
	return v;
}

void vmm_free(struct vmm *v)
{
	if (v)
		vm_config_free(&v->config);
	free(v);
}

int vmm_create(struct vmm *v, struct vm_config *config, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	if (v->state != EMPTY)
		return err_set(err, ERR_INTERNAL, "VM is already created");
	v->config = *config;
	*config = (struct vm_config){};
	v->state = CREATED;
	return 0;
}

int vmm_power_button(struct vmm *v, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "power button");
	return forced(v, err);
}

int vmm_nmi(struct vmm *v, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "nmi");
	return forced(v, err);
}

int vmm_resize(struct vmm *v, const struct vm_resize *want, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "resize %lld %lld %lld",
		 want->has_desired_vcpus ? (long long)want->desired_vcpus : -1,
		 want->has_desired_ram ? (long long)want->desired_ram : -1,
		 want->has_desired_balloon ? (long long)want->desired_balloon : -1);
	return forced(v, err);
}

/* The machine's answer to what was added: once it runs. */
static int fake_add(struct vmm *v, const char *what, const char *id, struct strbuf *out, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "add %s %s", what, id ? id : "-");
	if (forced(v, err) < 0)
		return err->num;
	if (v->state >= RUNNING)
		strbuf_puts(out, "{\"id\":\"x\",\"bdf\":\"0000:00:06.0\"}");
	return 0;
}

int vmm_add_disk(struct vmm *v, struct disk_config *disk, struct strbuf *out, struct err *err)
{
	return fake_add(v, disk->path ? disk->path : "disk", disk->id, out, err);
}

/* Takes the first of its descriptors, if it succeeds. */
int vmm_add_net(struct vmm *v, struct net_config *net, struct strbuf *out, struct err *err)
{
	struct stat st;

	if (fake_add(v, "net", net->id, out, err) < 0)
		return err->num;
	v->n_fds = net->n_fds;
	for (uint32_t i = 0; i < net->n_fds && fstat(net->fds[i], &st) == 0; i++)
		v->fd_inodes[i] = st.st_ino;
	if (net->n_fds > 0)
		close(steal_fd(&net->fds[0]));
	return 0;
}

int vmm_add_vsock(struct vmm *v, struct vsock_config *vsock, struct strbuf *out, struct err *err)
{
	return fake_add(v, vsock->socket, vsock->id, out, err);
}

int vmm_remove_device(struct vmm *v, const char *id, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "remove %s", id);
	return forced(v, err);
}

int vmm_resize_disk(struct vmm *v, const char *id, uint64_t bytes, struct err *err)
{
	snprintf(v->did, sizeof(v->did), "resize %s %llu", id, (unsigned long long)bytes);
	return forced(v, err);
}

int vmm_counters_json(struct vmm *v, struct strbuf *out, struct err *err)
{
	if (v->state != RUNNING)
		return err_set(err, ERR_INTERNAL, "VM is not running");
	strbuf_puts(out, "{\"_net0\":{\"rx_bytes\":1}}");
	return forced(v, err);
}

int vmm_boot(struct vmm *v, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	if (v->state == EMPTY)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	v->state = RUNNING;
	return 0;
}

int vmm_pause(struct vmm *v, struct err *err)
{
	return move(v, RUNNING, PAUSED, err);
}

int vmm_resume(struct vmm *v, struct err *err)
{
	return move(v, PAUSED, RUNNING, err);
}

int vmm_snapshot(struct vmm *v, const char *destination_url, struct err *err)
{
	snprintf(v->snapshot_url, sizeof(v->snapshot_url), "%s", destination_url);
	return move(v, PAUSED, PAUSED, err);
}

int vmm_restore(struct vmm *v, struct restore_config *rc, struct err *err)
{
	struct stat st;

	v->n_fds = 0;
	for (uint32_t i = 0; i < rc->n_net_fds; i++) {
		for (uint32_t k = 0; k < rc->net_fds[i].n_fds; k++) {
			int *fd = &rc->net_fds[i].fds[k];
			assert_int_equal(fstat(*fd, &st), 0);
			assert_true(fcntl(*fd, F_GETFD) & FD_CLOEXEC);
			if (v->n_fds < ARRAY_LEN(v->fd_inodes))
				v->fd_inodes[v->n_fds] = st.st_ino;
			v->n_fds++;
			close(steal_fd(fd));
		}
	}
	return move(v, EMPTY, rc->resume ? RUNNING : PAUSED, err);
}

int vmm_shutdown(struct vmm *v, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	if (v->state != RUNNING && v->state != PAUSED)
		return err_set(err, ERR_INTERNAL, "VM is not running");
	v->state = CREATED;
	return 0;
}

int vmm_delete(struct vmm *v, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	vm_config_free(&v->config);
	v->state = EMPTY;
	return 0;
}

int vmm_reboot(struct vmm *v, struct err *err)
{
	if (forced(v, err) < 0)
		return err->num;
	return v->state == EMPTY ? err_set(err, ERR_NOT_FOUND, "VM is not created") : 0;
}

int vmm_info(struct vmm *v, struct strbuf *out, struct err *err)
{
	static const char *const names[] = { "", "Created", "Running", "Paused" };

	if (forced(v, err) < 0)
		return err->num;
	if (v->state == EMPTY)
		return err_set(err, ERR_NOT_FOUND, "VM is not created");
	strbuf_puts(out, "{\"config\":");
	fields_save(vm_config_fields, &v->config, out);
	strbuf_printf(out, ",\"state\":\"%s\",\"memory_actual_size\":%llu}", names[v->state],
		      (unsigned long long)v->config.memory.size);
	return 0;
}

/* ---- server and clients in one thread ---- */

static char socket_dir[] = "/tmp/forkd-test-api-XXXXXX";
static char socket_path[64];
static struct loop loop;
static struct vmm *vmm;
static struct api_server *api;
static unsigned fds_before;

/* Runs the loop until nothing is ready. The bound is against a server that turns without end. */
static void settle(void)
{
	for (unsigned round = 0; round < 10000; round++) {
		int n = epoll_wait(loop.epoll_fd, loop.pending, ARRAY_LEN(loop.pending), 0);
		assert_true(n >= 0);
		if (n == 0)
			return;
		loop.n_pending = n;
		for (int i = 0; i < n; i++) {
			struct source *s = loop.pending[i].data.ptr;
			if (s)
				s->ready(s, loop.pending[i].events);
		}
		loop.n_pending = 0;
	}
	fail_msg("the loop never comes to rest");
}

static int client_connect(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	assert_int_equal(connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)), 0);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	settle();
	return fd;
}

static void client_close(int fd)
{
	close(fd);
	settle();
}

static void client_send_fds(int fd, const char *bytes, size_t len, const int *fds, uint32_t n_fds)
{
	struct err err = {};

	while (len > 0) {
		ssize_t n = sock_send(fd, bytes, len, fds, n_fds, &err);
		assert_true(n > 0 || n == -EAGAIN);
		settle();
		if (n < 0)
			continue;
		bytes += n;
		len -= (size_t)n;
		n_fds = 0;
	}
}

static void client_send(int fd, const char *text)
{
	client_send_fds(fd, text, strlen(text), NULL, 0);
}

/* Everything that came, into *text; true: the server has closed. */
static bool client_read(int fd, struct strbuf *text)
{
	char buf[65536];

	for (;;) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);
		if (n == 0)
			return true;
		if (n < 0) {
			assert_true(errno == EAGAIN || errno == ECONNRESET);
			return errno == ECONNRESET;
		}
		strbuf_add(text, buf, (size_t)n);
		settle();
	}
}

static void expect_text(int fd, const char *expected, bool closed)
{
	autostrbuf struct strbuf text = {};

	strbuf_puts(&text, "");
	assert_int_equal(client_read(fd, &text), closed);
	assert_string_equal(text.text, expected);
}

/* `body` NULL: an answer without one, which only 204 is. */
static void add_answer(struct strbuf *out, int status, const char *body)
{
	strbuf_printf(out, "HTTP/1.1 %d \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n", status);
	if (body)
		strbuf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body),
			      body);
	else
		strbuf_puts(out, "\r\n");
}

static void expect_answer(int fd, int status, const char *body)
{
	autostrbuf struct strbuf expected = {};

	add_answer(&expected, status, body);
	expect_text(fd, expected.text, false);
}

static void add_request(struct strbuf *out, const char *method, const char *name, const char *body)
{
	strbuf_printf(out, "%s /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n", method, name);
	if (body)
		strbuf_printf(out, "Content-Length: %zu\r\n", strlen(body));
	strbuf_printf(out, "\r\n%s", body ? body : "");
}

static void ask(int fd, const char *method, const char *name, const char *body)
{
	autostrbuf struct strbuf request = {};

	add_request(&request, method, name, body);
	client_send(fd, request.text);
}

static char *ping_body(void)
{
	static char text[160];

	snprintf(text, sizeof(text),
		 "{\"build_version\":\"forkd-vmm " FORKD_VERSION "\",\"version\":\"" FORKD_VERSION
		 "\",\"pid\":%d,\"features\":[\"kvm\",\"io_uring\"]}",
		 getpid());
	return text;
}

static void expect_alive(int fd)
{
	ask(fd, "GET", "vmm.ping", NULL);
	expect_answer(fd, 200, ping_body());
}

static int setup(void **state)
{
	struct err err = {};

	(void)state;
	fds_before = count_fds();
	if (loop_init(&loop, &err) < 0)
		return -1;
	vmm = vmm_new(&loop, &err);
	api = vmm ? api_server_new(&loop, vmm, socket_path, -1, &err) : NULL;
	return api ? 0 : -1;
}

/* Each test ends with its clients gone; the descriptors that are left are those of the server. */
static int teardown(void **state)
{
	(void)state;
	api_server_free(api);
	vmm_free(vmm);
	loop_done(&loop);
	return count_fds() == fds_before ? 0 : -1;
}

static int make_dir(void **state)
{
	(void)state;
	log_init("test_api", LOG_ERROR, open("/dev/null", O_WRONLY | O_CLOEXEC));
	if (!mkdtemp(socket_dir))
		return -1;
	snprintf(socket_path, sizeof(socket_path), "%s/api.sock", socket_dir);
	return 0;
}

static int remove_dir(void **state)
{
	char lock[80];

	(void)state;
	snprintf(lock, sizeof(lock), "%s.lock", socket_path);
	unlink(lock);
	return rmdir(socket_dir);
}

/* ---- endpoints ---- */

#define BAD_REQUEST "[\"Bad Request\"]"
#define NOT_FOUND "[\"Not Found\"]"
#define FAILED(second, last) "[\"Error from API\",\"" second "\",\"" last "\"]"
#define NOT_RUNNING(second) FAILED(second, "VM is not running")
#define NOT_CREATED(second) FAILED(second, "VM is not created")
#define CONFIG "{\"payload\":{\"kernel\":\"/k\"}}"
#define SNAPSHOT "{\"destination_url\":\"file:///s\"}"
#define RESTORE "{\"source_url\":\"file:///s\"}"

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

/* ---- HTTP ---- */

#define REFUSED(length, text)                                                    \
	"HTTP/1.1 400 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n" \
	"Content-Type: application/json\r\nContent-Length: " length "\r\n\r\n"   \
	"{ \"error\": \"" text "\nAll previous unanswered requests will be dropped.\" }"
#define INVALID_REQUEST REFUSED("81", "Invalid request.")
#define UNSUPPORTED_METHOD REFUSED("110", "Invalid HTTP Method: Unsupported HTTP method.")
#define UNSUPPORTED_VERSION REFUSED("112", "Invalid HTTP Version: Unsupported HTTP version.")
#define PING_LINE "GET /api/v1/vmm.ping HTTP/1.1\r\n"
#define SNAPSHOT_LINE "PUT /api/v1/vm.snapshot HTTP/1.1\r\n"

static void refuses_what_is_not_http(void **state)
{
	static const struct {
		const char *request, *answer;
	} cases[] = {
		{ "POST /api/v1/vmm.ping HTTP/1.1\r\n\r\n", UNSUPPORTED_METHOD },
		{ "HEAD /api/v1/vmm.ping HTTP/1.1\r\n\r\n", UNSUPPORTED_METHOD },
		{ "CONNECT /api/v1/vmm.ping HTTP/1.1\r\n\r\n", UNSUPPORTED_METHOD },
		{ "get /api/v1/vmm.ping HTTP/1.1\r\n\r\n", UNSUPPORTED_METHOD },
		{ "POST /api/v1/vmm.ping HTTP/1.1\r\n\r\n" PING_LINE "\r\n", UNSUPPORTED_METHOD },
		{ "GET /api/v1/vmm.ping HTTP/0.9\r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping HTTP/1.2\r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping HTTP/2.0\r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping http/1.1\r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping HTTP/1.1 \r\n\r\n", UNSUPPORTED_VERSION },
		{ "GET /api/v1/vmm.ping\r\n\r\n", INVALID_REQUEST },
		{ "GET  /api/v1/vmm.ping HTTP/1.1\r\n\r\n", REFUSED("100", "Invalid URI: Empty URI not allowed.") },
		{ "GET /\xff HTTP/1.1\r\n\r\n", REFUSED("104", "Invalid URI: Cannot parse URI as UTF-8.") },
		{ "hello\r\n", INVALID_REQUEST },
		{ "\r\n\r\n", INVALID_REQUEST },
		{ "\x01\x02\r\n\r\n", INVALID_REQUEST },
		{ "GET /api/v1/vmm.ping HTTP/1.1\n\n", INVALID_REQUEST },
		{ PING_LINE "Host: x\n\r\n", INVALID_REQUEST },
		{ PING_LINE "foo\r\n\r\n",
		  REFUSED("130", "Invalid header. Reason: Header is incorrectly formatted. Key: foo") },
		{ PING_LINE "foo: x\r\n y\r\n\r\n",
		  REFUSED("129", "Invalid header. Reason: Header is incorrectly formatted. Key:  y") },
		{ PING_LINE "foo\"\\\xff\r\n\r\n",
		  REFUSED("133", "Invalid header. Reason: Header is incorrectly formatted. Key: foo???") },
		{ SNAPSHOT_LINE "Content-Length: abc\r\n\r\n{}",
		  REFUSED("134", "Invalid header. Reason: Invalid value. Key:Content-Length; Value: abc") },
		{ SNAPSHOT_LINE "Content-Length: -1\r\n\r\n{}",
		  REFUSED("133", "Invalid header. Reason: Invalid value. Key:Content-Length; Value: -1") },
		{ SNAPSHOT_LINE "Content-Length: 18446744073709551616\r\n\r\n{}",
		  REFUSED("151",
			  "Invalid header. Reason: Invalid value. Key:Content-Length; Value: 18446744073709551616") },
		{ SNAPSHOT_LINE "Content-Length: 4194305\r\n\r\n{}",
		  REFUSED("153", "Request payload with size 4194305 is larger than the limit of 4194304 allowed by "
				 "server.") },
		{ SNAPSHOT_LINE "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", INVALID_REQUEST },
		{ SNAPSHOT_LINE "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", INVALID_REQUEST },
		{ SNAPSHOT_LINE "Transfer-Encoding: gzip\r\n\r\n2\r\n{}\r\n0\r\n\r\n", INVALID_REQUEST },
		{ SNAPSHOT_LINE "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", INVALID_REQUEST },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int fd = client_connect();
		client_send(fd, cases[i].request);
		expect_text(fd, cases[i].answer, true);
		client_send(fd, "PUT /api/v1/vm.delete HTTP/1.1\r\n\r\n"); /* what follows is thrown away */
		expect_text(fd, "", true);
		client_close(fd);
	}
	assert_int_equal(vmm->calls, 0);
}

static void takes_odd_but_valid_http(void **state)
{
	static const char *const requests[] = {
		PING_LINE "\r\n",
		"GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n",
		"GET http://localhost/api/v1/vmm.ping HTTP/1.1\r\n\r\n",
		PING_LINE "Connection: close\r\n\r\n",
		PING_LINE "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		PING_LINE "Empty:\r\nX: \t y \t\r\n\r\n",
		PING_LINE "content-length:2\r\nExpect: something-else\r\n\r\n{}",
		PING_LINE "Content-Length: 02\r\n\r\n{}",
		PING_LINE "Expect: 100-continue\r\n\r\n",
	};
	int fd = client_connect();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		client_send(fd, requests[i]);
		expect_answer(fd, 200, ping_body());
	}
	client_send(fd, "GET http://localhost HTTP/1.1\r\n\r\nGET * HTTP/1.1\r\n\r\n");
	expect_text(fd,
		    "HTTP/1.1 404 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
		    "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n[\"Not Found\"]"
		    "HTTP/1.1 404 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
		    "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n[\"Not Found\"]",
		    false);
	client_close(fd);
}

static void continues_when_asked(void **state)
{
	int fd = client_connect();

	(void)state;
	client_send(fd, SNAPSHOT_LINE "expect: 100-continue\r\nContent-Length: 31\r\n\r\n");
	expect_text(fd, "HTTP/1.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n", false);
	client_send(fd, SNAPSHOT);
	expect_answer(fd, 500, NOT_RUNNING("The VM could not be snapshotted"));
	client_send(fd, "PUT /api/v1/vm.snapshot HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 31\r\n\r\n");
	expect_text(fd, "HTTP/1.0 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n", false);
	client_close(fd);
}

static void takes_requests_cut_anywhere(void **state)
{
	autostrbuf struct strbuf request = {}, expected = {};
	int fd = client_connect();

	(void)state;
	add_request(&request, "PUT", "vm.snapshot", SNAPSHOT);
	add_answer(&expected, 500, NOT_RUNNING("The VM could not be snapshotted"));
	for (size_t cut = 1; cut < request.len; cut++) {
		client_send_fds(fd, request.text, cut, NULL, 0);
		expect_text(fd, "", false);
		client_send_fds(fd, request.text + cut, request.len - cut, NULL, 0);
		expect_text(fd, expected.text, false);
	}
	for (size_t i = 0; i < request.len; i++)
		client_send_fds(fd, request.text + i, 1, NULL, 0);
	expect_text(fd, expected.text, false);
	client_close(fd);
}

static void answers_pipelined_requests_in_order(void **state)
{
	autostrbuf struct strbuf request = {}, expected = {};
	int fd = client_connect();

	(void)state;
	for (int i = 0; i < 50; i++) {
		add_request(&request, "GET", "vmm.ping", NULL);
		add_answer(&expected, 200, ping_body());
		add_request(&request, "PUT", "vm.snapshot", SNAPSHOT);
		add_answer(&expected, 500, NOT_RUNNING("The VM could not be snapshotted"));
		add_request(&request, "PUT", "vm.delete", NULL);
		add_answer(&expected, 204, NULL);
	}
	client_send(fd, request.text);
	expect_text(fd, expected.text, false);
	client_send(fd, PING_LINE "\r\nPOST / HTTP/1.1\r\n\r\n");
	strbuf_done(&expected);
	add_answer(&expected, 200, ping_body());
	strbuf_puts(&expected, UNSUPPORTED_METHOD);
	expect_text(fd, expected.text, true);
	client_close(fd);
}

/* ---- limits ---- */

/* A line of `len` bytes, CR LF included. */
static void add_line(struct strbuf *out, const char *head, const char *tail, size_t len)
{
	strbuf_puts(out, head);
	for (size_t i = strlen(head) + strlen(tail) + 2; i < len; i++)
		strbuf_putc(out, 'a');
	strbuf_printf(out, "%s\r\n", tail);
}

static void limits_lines(void **state)
{
	(void)state;
	for (size_t len = 1020; len <= 1030; len++) {
		autostrbuf struct strbuf uri = {}, header = {}, expected = {}, text = {};
		int fd = client_connect();
		add_line(&uri, "GET /api/v1/", " HTTP/1.1", len);
		strbuf_puts(&uri, "\r\n");
		client_send(fd, uri.text);
		if (len <= HTTP_LINE_MAX)
			expect_answer(fd, 404, NOT_FOUND);
		else
			expect_text(fd, INVALID_REQUEST, true);
		client_close(fd);

		fd = client_connect();
		strbuf_puts(&header, PING_LINE);
		add_line(&header, "X: ", "", len);
		strbuf_puts(&header, "\r\n");
		client_send(fd, header.text);
		add_answer(&expected, 200, ping_body());
		bool closed = client_read(fd, &text);
		assert_int_equal(closed, len > HTTP_LINE_MAX);
		if (closed)
			assert_non_null(strstr(text.text, "Content-Length: 1145\r\n\r\n{ \"error\": \"Invalid header. "
							  "Reason: Invalid content length. Header: X: aaaa"));
		else
			assert_string_equal(text.text, expected.text);
		client_close(fd);
	}
	/* No line end at all: refused as soon as the line is full. */
	autostrbuf struct strbuf endless = {};
	int fd = client_connect();
	for (size_t i = 0; i < HTTP_LINE_MAX - 1; i++)
		strbuf_putc(&endless, 'G');
	client_send(fd, endless.text);
	expect_text(fd, "", false);
	client_send(fd, "G");
	expect_text(fd, INVALID_REQUEST, true);
	client_close(fd);
}

static void limits_heads(void **state)
{
	autostrbuf struct strbuf head = {}, text = {};
	int fd = client_connect();

	(void)state;
	strbuf_puts(&head, PING_LINE);
	while (head.len < HTTP_HEAD_MAX - 1024)
		add_line(&head, "X: ", "", 500);
	strbuf_puts(&head, "\r\n");
	client_send(fd, head.text);
	expect_answer(fd, 200, ping_body());
	head.len -= 2;
	for (int i = 0; i < 4; i++)
		add_line(&head, "X: ", "", 500);
	client_send(fd, head.text);
	assert_true(client_read(fd, &text));
	assert_string_equal(text.text, INVALID_REQUEST);
	client_close(fd);
}

static void limits_bodies(void **state)
{
	autostrbuf struct strbuf request = {}, expected = {};
	int fd = client_connect();

	(void)state;
	strbuf_printf(&request, SNAPSHOT_LINE "Content-Length: %d\r\n\r\n" SNAPSHOT, HTTP_BODY_MAX);
	for (size_t i = strlen(SNAPSHOT); i < HTTP_BODY_MAX; i++)
		strbuf_putc(&request, ' ');
	client_send(fd, request.text);
	expect_answer(fd, 500, NOT_RUNNING("The VM could not be snapshotted"));
	expect_alive(fd);

	/* Above it the answer comes at once, and the client can send all it has and still read the answer. */
	strbuf_done(&request);
	strbuf_printf(&request, SNAPSHOT_LINE "Content-Length: %d\r\n\r\n", HTTP_BODY_MAX + 1);
	for (size_t i = 0; i < HTTP_BODY_MAX + 1; i++)
		strbuf_putc(&request, ' ');
	client_send(fd, request.text);
	strbuf_printf(
		&expected,
		REFUSED("153", "Request payload with size %d is larger than the limit of 4194304 allowed by server."),
		HTTP_BODY_MAX + 1);
	expect_text(fd, expected.text, true);
	client_close(fd);
}

static void limits_connections(void **state)
{
	int fds[HTTP_CONNECTIONS_MAX];

	(void)state;
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < HTTP_CONNECTIONS_MAX; i++)
			fds[i] = client_connect();
		int extra = client_connect();
		expect_text(extra,
			    "HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\n"
			    "Content-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }",
			    true);
		client_close(extra);
		expect_alive(fds[round]);
		client_close(fds[round]);
		fds[round] = client_connect(); /* the slot is free again */
		for (int i = 0; i < HTTP_CONNECTIONS_MAX; i++) {
			expect_alive(fds[i]);
			client_close(fds[i]);
		}
	}
}

/* No descriptor numbers left: the client is turned away, the loop comes to rest, and afterwards all is well. */
static void survives_without_descriptors(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct rlimit old, tight;
	char c;

	(void)state;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), next = dup(fd);
	close(next);
	getrlimit(RLIMIT_NOFILE, &old);
	tight = (struct rlimit){ .rlim_cur = (rlim_t)next, .rlim_max = old.rlim_max };
	setrlimit(RLIMIT_NOFILE, &tight);
	int r = connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr));
	settle();
	setrlimit(RLIMIT_NOFILE, &old);
	assert_int_equal(r, 0);
	assert_int_equal(recv(fd, &c, 1, 0), 1);
	client_close(fd);
	fd = client_connect();
	expect_alive(fd);
	client_close(fd);
}

/* ---- clients that do not behave ---- */

static void does_not_wait_for_slow_clients(void **state)
{
	autostrbuf struct strbuf request = {}, answer = {}, text = {};
	struct err err = {};
	size_t asked = 0;
	int slow = client_connect(), other = client_connect();

	(void)state;
	add_answer(&answer, 200, ping_body());
	for (int i = 0; i < 100; i++)
		strbuf_puts(&request, PING_LINE "\r\n");
	for (;;) { /* until the server stops reading and the socket is full */
		ssize_t n = sock_send(slow, request.text, request.len, NULL, 0, &err);
		settle();
		if (n != (ssize_t)request.len) {
			asked += n > 0 ? (size_t)n : 0;
			break;
		}
		asked += request.len;
		assert_true(asked < 64 << 20);
	}
	expect_alive(other);
	assert_false(client_read(slow, &text));
	assert_int_equal(text.len, asked / strlen(PING_LINE "\r\n") * answer.len);
	assert_memory_equal(text.text + text.len - answer.len, answer.text, answer.len);
	client_close(slow);
	expect_alive(other);
	client_close(other);
}

static void outlives_clients_that_leave(void **state)
{
	autostrbuf struct strbuf request = {};

	(void)state;
	add_request(&request, "PUT", "vm.snapshot", SNAPSHOT);
	for (size_t cut = 0; cut <= request.len; cut++) {
		struct err err = {};
		int fd = client_connect();
		assert_int_equal(cut == 0 ? 0 : sock_send(fd, request.text, cut, NULL, 0, &err), (ssize_t)cut);
		client_close(fd); /* before the server has seen anything */
	}
	int fd = client_connect();
	client_send(fd, PING_LINE "\r\n");
	shutdown(fd, SHUT_WR); /* half closed: the answer still comes */
	settle();
	autostrbuf struct strbuf expected = {};
	add_answer(&expected, 200, ping_body());
	expect_text(fd, expected.text, true);
	client_close(fd);
}

/* ---- descriptors ---- */

static int make_memfd(ino_t *ret_inode)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	struct stat st;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	*ret_inode = st.st_ino;
	return fd;
}

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
	ino_t inode;
	int fd = client_connect();

	(void)state;
	sent[0] = make_memfd(&inode);
	for (int i = 1; i < SOCK_FDS_MAX; i++)
		sent[i] = sent[0];
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

static void closes_descriptors_nobody_wants(void **state)
{
	int sent[SOCK_FDS_MAX];
	ino_t inode;
	int fd = client_connect();

	(void)state;
	sent[0] = make_memfd(&inode);
	for (int i = 1; i < SOCK_FDS_MAX; i++)
		sent[i] = sent[0];
	unsigned before = count_fds();
	client_send_fds(fd, PING_LINE "\r\n", strlen(PING_LINE "\r\n"), sent, 5);
	expect_answer(fd, 200, ping_body());
	static const char create[] = "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
	client_send_fds(fd, create, strlen(create), sent, 5);
	expect_answer(fd, 204, NULL);
	assert_int_equal(count_fds(), before);
	client_send_fds(fd, "GET /", 5, sent, 5);
	assert_int_equal(count_fds(), before + 5);
	client_close(fd); /* in the middle of a request */
	assert_int_equal(count_fds(), before - 2);

	fd = client_connect();
	client_send_fds(fd, "POST / HTTP/1.1\r\n", 17, sent, 5);
	expect_text(fd, UNSUPPORTED_METHOD, true);
	client_send_fds(fd, "more", 4, sent, 5);
	assert_int_equal(count_fds(), before);
	client_close(fd);

	fd = client_connect();
	client_send(fd, "GET ");
	for (unsigned n = 0; n + SOCK_FDS_MAX <= HTTP_FDS_MAX; n += SOCK_FDS_MAX)
		client_send_fds(fd, "/", 1, sent, SOCK_FDS_MAX);
	expect_text(fd, "", false);
	client_send_fds(fd, "/", 1, sent, SOCK_FDS_MAX);
	expect_text(fd, REFUSED("86", "Too many descriptors."), true);
	assert_int_equal(count_fds(), before);
	client_close(fd);
	close(sent[0]);
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

/* ---- noise ---- */

static uint64_t noise;

static uint32_t rnd(uint32_t below)
{
	noise = noise * 6364136223846793005ULL + 1442695040888963407ULL;
	return (uint32_t)(noise >> 33) % below;
}

/* Mostly requests with a few bytes changed, dropped or doubled; sometimes bytes without any sense. */
static void add_noise(struct strbuf *out)
{
	static const char *const methods[] = { "GET", "PUT", "DELETE", "PATCH", "POST", "" };
	static const char *const names[] = { "vmm.ping", "vm.create", "vm.restore", "vm.info", "vm.snapshot", "x" };
	static const char *const bodies[] = { NULL, "", "{}", CONFIG, SNAPSHOT, RESTORE, "[[[[" };
	static const char *const headers[] = { "Content-Length: 7\r\n", "Expect: 100-continue\r\n", ":\r\n",
					       "Transfer-Encoding: chunked\r\n", "Content-Length: 99999999\r\n" };

	if (rnd(10) == 0) {
		for (uint32_t i = rnd(200); i > 0; i--)
			strbuf_putc(out, (char)rnd(256));
		return;
	}
	autostrbuf struct strbuf text = {};
	strbuf_printf(&text, "%s /api/v1/%s HTTP/1.%u\r\n", methods[rnd(6)], names[rnd(6)], rnd(3));
	const char *body = bodies[rnd(7)];
	if (rnd(3) == 0)
		strbuf_puts(&text, headers[rnd(5)]);
	if (body)
		strbuf_printf(&text, "Content-Length: %zu\r\n", strlen(body));
	strbuf_printf(&text, "\r\n%s", body ? body : "");
	for (uint32_t i = rnd(3); i > 0; i--)
		text.text[rnd((uint32_t)text.len)] = (char)rnd(256);
	size_t from = rnd(4) == 0 ? rnd((uint32_t)text.len) : 0;
	strbuf_add(out, text.text + from, text.len - from);
	if (rnd(4) == 0)
		strbuf_add(out, text.text, text.len);
}

static void survives_noise(void **state)
{
	enum { REQUESTS = 5000 };
	int probe = client_connect(), spare[3];
	ino_t inode;

	(void)state;
	noise = 1;
	for (unsigned i = 0; i < ARRAY_LEN(spare); i++)
		spare[i] = make_memfd(&inode);
	unsigned before = count_fds();
	for (int i = 0; i < REQUESTS; i++) {
		autostrbuf struct strbuf bytes = {}, answers = {};
		int fd = client_connect();
		strbuf_puts(&bytes, "");
		add_noise(&bytes);
		size_t cut = bytes.len ? rnd((uint32_t)bytes.len) : 0;
		client_send_fds(fd, bytes.text, cut, spare, cut ? rnd(4) : 0);
		client_send_fds(fd, bytes.text + cut, bytes.len - cut, spare, bytes.len > cut ? rnd(4) : 0);
		client_read(fd, &answers);
		if (answers.len > 0)
			assert_int_equal(strncmp(answers.text, "HTTP/1.", 7), 0);
		client_close(fd);
		assert_int_equal(count_fds(), before);
		if (i % 100 == 0)
			expect_alive(probe);
	}
	for (unsigned i = 0; i < ARRAY_LEN(spare); i++)
		close(spare[i]);
	client_close(probe);
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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		T(answers_every_endpoint),
		T(answers_info),
		T(refuses_by_method_and_body),
		T(counters_buttons_and_sizes),
		T(devices_come_and_go),
		T(says_what_it_lacks),
		T(serves_what_the_specification_lists),
		T(names_what_is_wrong_in_a_body),
		T(maps_error_codes),
		T(stops_after_the_answer),
		T(refuses_what_is_not_http),
		T(takes_odd_but_valid_http),
		T(continues_when_asked),
		T(takes_requests_cut_anywhere),
		T(answers_pipelined_requests_in_order),
		T(limits_lines),
		T(limits_heads),
		T(limits_bodies),
		T(limits_connections),
		T(survives_without_descriptors),
		T(does_not_wait_for_slow_clients),
		T(outlives_clients_that_leave),
		T(deals_descriptors_out),
		T(counts_descriptors),
		T(closes_descriptors_nobody_wants),
		T(a_net_gets_its_descriptors),
		T(survives_noise),
		T(starts_from_a_descriptor),
		T(refuses_a_second_server),
	};

	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
