// SPDX-License-Identifier: Apache-2.0
/* forkd/clone/dial: what a clone's process may answer, and what comes behind the line of the guest's acceptance. */
#include "forkd/clone/dial.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#include "forkd/clone/talk.h"
#include "forkd/errors.h"
#include "tests/unit/unit.h"

/* The clone's process: answers one request. */
struct process {
	int control;
	const char *answer; /* a packet */
	size_t wants;       /* so many bytes are read from the descriptor before the answer */
	size_t got;
	const char *bytes; /* for the descriptor that came; NULL: none */
	bool keeps;        /* the descriptor, so that the stream does not end */
	bool begun;        /* the request was sent before somebody takes its answer */
	char request[64];
	int kept;
};

/* Takes what is there already, at most `most` bytes. Returns how many. */
static size_t read_bytes(int fd, size_t most)
{
	char bytes[4096];
	size_t got = 0;

	for (ssize_t n = 1; n > 0 && got<most; got += n> 0 ? (size_t)n : 0)
		n = recv(fd, bytes, most - got < sizeof(bytes) ? most - got : sizeof(bytes), MSG_DONTWAIT);
	return got;
}

static void *serve(void *arg)
{
	struct process *p = arg;
	autoctl struct ctl_packet packet = {};
	struct err err = {};

	p->kept = -1;
	if (ctl_recv(p->control, &packet, &err) != 1)
		return NULL;
	struct ctl_dial rq = {};
	if (fields_load(ctl_dial_fields, &rq, packet.json.nodes, "dial", &err) >= 0)
		snprintf(p->request, sizeof(p->request), "%s %u with %u", json_get(packet.json.nodes, "op")->str,
			 rq.port, packet.n_fds);
	p->got += packet.n_fds == 1 ? read_bytes(packet.fds[0], p->wants) : 0;
	if (p->bytes && packet.n_fds == 1)
		(void)!write(packet.fds[0], p->bytes, strlen(p->bytes));
	if (p->keeps && packet.n_fds == 1)
		p->kept = steal_fd(&packet.fds[0]);
	(void)!send(p->control, p->answer, strlen(p->answer), 0);
	return NULL;
}

static int begin(struct clone *c, struct dial *ret, const struct dial_to *to, struct err *err)
{
	if (dial_begin(ret, to, err) < 0)
		return err->num;
	return control_send(c->control.fd, ret->call.op, ret->call.rows, ret->call.obj, NULL, ret->call.fds,
			    ret->call.n_fds, err);
}

/* Returns what clone_dial() or, after begin(), clone_dial_begun() does for a clone with that process. */
static int dial_first(struct process *p, int version, const struct dial_to *to, struct err *err)
{
	struct forkd d = {};
	struct clone *c = clone_new("c-aaaaaaaaaaaa");
	pthread_t thread;
	int pair[2];

	assert_non_null(c);
	assert_int_equal(registry_new(&d.registry, err), 0);
	assert_int_equal(watch_start(&d.watcher, err), 0);
	registry_add(d.registry, c);
	registry_swap_state(d.registry, c, 1u << CLONE_CREATING, CLONE_RUNNING);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	c->control.fd = pair[0];
	c->line = LINE_UP;
	c->version = version;
	p->control = pair[1];
	assert_int_equal(pthread_create(&thread, NULL, serve, p), 0);
	autodial struct dial begun = DIAL_INIT;
	int fd = p->begun ? begin(c, &begun, to, err) : 0;
	if (fd >= 0)
		fd = p->begun ? clone_dial_begun(&d, c, &begun, deadline_in_ms(to->timeout_ms), err)
			      : clone_dial(&d, c, to, err);
	shutdown(pair[0], SHUT_RDWR);
	pthread_join(thread, NULL);
	close(pair[1]);
	watch_stop(d.watcher);
	registry_remove(d.registry, c);
	clone_unref(d.registry, c);
	registry_free(d.registry);
	watch_free(d.watcher);
	return fd;
}

static int dial(struct process *p, int version, uint64_t timeout_ms, struct err *err)
{
	return dial_first(p, version, &(struct dial_to){ .port = 983, .timeout_ms = timeout_ms }, err);
}

static void accepted(void **state)
{
	struct process p = { .answer = "{\"ok\":true}", .bytes = "OK 1073741824\nHTTP", .keeps = true };
	struct err err = {};
	char text[32] = "";

	(void)state;
	unsigned before = count_fds();
	int fd = dial(&p, 2, 20000, &err);
	if (fd < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(p.request, "dial 983 with 1");
	assert_int_equal(recv(fd, text, sizeof(text), 0), 4);
	assert_string_equal(text, "HTTP");
	close(p.kept);
	assert_int_equal(recv(fd, text, sizeof(text), 0), 0);
	close(fd);
	assert_int_equal(count_fds(), before);
}

/* What is said first is there before the guest has accepted; what the socket pair has no room for comes afterwards. */
static void said_first(void **state)
{
	enum { LONG = 4 << 20 };
	struct process p = { .answer = "{\"ok\":true}", .bytes = "OK 1\nHTTP", .keeps = true, .wants = 5 };
	autofree char *text = calloc(1, LONG);
	struct err err = {};

	(void)state;
	int fd = dial_first(&p, 2, &(struct dial_to){ 983, 20000, "hello", 5 }, &err);
	if (fd < 0)
		fail_msg("%s", err.msg);
	assert_int_equal(p.got, 5);
	close(fd);
	close(p.kept);

	p = (struct process){ .answer = "{\"ok\":true}", .bytes = "OK 1\n", .wants = LONG };
	assert_non_null(text);
	assert_true(dial_first(&p, 2, &(struct dial_to){ 983, 20000, text, LONG }, &err) < 0);
	assert_true(p.got > 0 && p.got < LONG);
	assert_non_null(strstr(err.msg, "takes no request"));

	p = (struct process){ .answer = "{\"ok\":true}", .bytes = "OK 1\n", .keeps = true };
	err = (struct err){};
	assert_true(dial_first(&p, 2, &(struct dial_to){ 983, 500, text, LONG }, &err) < 0);
	assert_int_equal(err.detail, E_TIMEOUT);
	close(p.kept);
}

static void begun(void **state)
{
	struct process p = {
		.answer = "{\"ok\":true}", .bytes = "OK 1\nHTTP", .keeps = true, .wants = 5, .begun = true
	};
	const struct dial_to to = { 984, 20000, "hello", 5 };
	struct err err = {};
	char text[8] = "";

	(void)state;
	unsigned before = count_fds();
	int fd = dial_first(&p, 2, &to, &err);
	if (fd < 0)
		fail_msg("%s", err.msg);
	assert_string_equal(p.request, "dial 984 with 1");
	assert_int_equal(p.got, 5);
	assert_int_equal(recv(fd, text, sizeof(text), 0), 4);
	close(fd);
	close(p.kept);

	static const struct {
		const char *answer;
		enum error_row row;
	} cases[] = {
		{ "{\"error\":{\"code\":2,\"num\":2,\"message\":\"no device\"}}", E_AGENT },
		{ "{\"error\":{\"code\":4,\"num\":16,\"message\":\"full\"}}", E_BUSY },
		{ "{\"ok\":true}", E_AGENT }, /* and the stream ends */
		{ "{\"event\":\"x\"}", E_TIMEOUT },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct err wanted = {};
		p = (struct process){ .answer = cases[i].answer, .begun = true };
		err = (struct err){};
		assert_true(dial_first(&p, 2, &(struct dial_to){ .port = 984, .timeout_ms = 500 }, &err) < 0);
		(fail)(&wanted, cases[i].row, "-");
		assert_string_equal(error_info(&err)->code, error_info(&wanted)->code);
	}
	assert_int_equal(count_fds(), before);
}

static void refused(void **state)
{
	static const struct {
		struct process p;
		int version;
		enum error_row row;
		const char *msg;
	} cases[] = {
		{ { .answer = "{\"ok\":true}" },
		  2,
		  E_AGENT,
		  "clone 'c-aaaaaaaaaaaa'\nthe guest refuses vsock port 983" },
		{ { .answer = "{\"ok\":true}", .bytes = "OK 1" }, 2, E_AGENT, "refuses vsock port 983" },
		{ { .answer = "{\"ok\":true}", .bytes = "NO 1\n" }, 2, E_AGENT, "refuses vsock port 983" },
		{ { .answer = "{\"ok\":true}", .bytes = "OK 12345678901234567890\n" }, 2, E_AGENT, "refuses vsock" },
		{ { .answer = "{\"ok\":true}", .keeps = true },
		  2,
		  E_AGENT,
		  "the guest does not answer on vsock port 983" },
		{ { .answer = "{\"error\":{\"code\":2,\"num\":2,\"message\":\"no device\"}}" },
		  2,
		  E_AGENT,
		  "reach vsock port 983\nclone 'c-aaaaaaaaaaaa'\nno device" },
		{ { .answer = "{\"error\":{\"code\":4,\"num\":16,\"message\":\"full\"}}" }, 2, E_BUSY, "full" },
		{ { .answer = "" },
		  1,
		  E_VERSION,
		  "clone 'c-aaaaaaaaaaaa': its forkd-vmm is too old to connect to its guest" },
		{ { .answer = "" }, -1, E_NO_ANSWER, "has not answered yet" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct process p = cases[i].p;
		struct err err = {}, wanted = {};
		unsigned before = count_fds();
		assert_true(dial(&p, cases[i].version, p.keeps ? 1000 : 20000, &err) < 0);
		(fail)(&wanted, cases[i].row, "-");
		assert_string_equal(error_info(&err)->code, error_info(&wanted)->code);
		if (!strstr(err.msg, cases[i].msg))
			fail_msg("case %zu: %s", i, err.msg);
		if (p.kept >= 0)
			close(p.kept);
		assert_int_equal(count_fds(), before);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(accepted), cmocka_unit_test(said_first),
					    cmocka_unit_test(begun), cmocka_unit_test(refused) };

	return cmocka_run_group_tests_name("dial", tests, NULL, NULL);
}
