// SPDX-License-Identifier: Apache-2.0
/* Commands in a guest: against the agent itself, run on this host, and against agents that answer whatever they like. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/auto.h"
#include "common/clock.h"
#include "common/sock.h"
#include "forkd/agent/exec.h"
#include "forkd/errors.h"

/* fail() is forkd's here; cmocka has a macro of this name. */
#include <cmocka.h>

/* ---- wishes ---- */

static int load(const char *text, struct exec_wish *ret, struct err *err)
{
	autojson struct json json = {};
	autofree char *copy = strdup(text);

	assert_int_equal(json_parse(&json, copy, strlen(copy), err), 0);
	return exec_wish_load(json.nodes, NULL, ret, err);
}

static void wishes(void **state)
{
	autoexecwish struct exec_wish w = {};
	struct err err = {};

	(void)state;
	assert_int_equal(
		load("{\"cmd\": \"a b\", \"args\": [\"c\", \"\"], \"env\": {\"X\": \"1\"}, \"cwd\": \"/\", \"user\": "
		     "\"joe\", \"stdin_b64\": \"AAE=\", \"timeout_s\": 5, \"max_output_bytes\": 7}",
		     &w, &err),
		0);
	assert_string_equal(w.start,
			    "{\"process\":{\"cmd\":\"a b\",\"args\":[\"c\",\"\"],\"cwd\":\"/\",\"envs\":{\"X\":\"1\"}},"
			    "\"stdin\":true,\"killOnDisconnect\":true}");
	assert_string_equal(w.user, "joe");
	assert_true(w.has_input && w.input.len == 2 && w.input.text[1] == 1);
	assert_int_equal(w.timeout_s, 5);
	assert_int_equal(w.max_output, 7);
	exec_wish_done(&w);
	assert_int_equal(load("{\"shell\": \"echo \\\"hi\\\"\"}", &w, &err), 0);
	assert_string_equal(w.start, "{\"process\":{\"cmd\":\"/bin/sh\",\"args\":[\"-c\",\"echo \\\"hi\\\"\"]},"
				     "\"stdin\":false,\"killOnDisconnect\":true}");
	assert_int_equal(w.timeout_s, EXEC_TIMEOUT_S);
	assert_int_equal(w.max_output, EXEC_OUTPUT_BYTES);
}

static void bad_wishes(void **state)
{
	static const struct {
		const char *body, *says;
	} cases[] = {
		{ "{}", "one of cmd and shell" },
		{ "{\"cmd\": \"a\", \"shell\": \"b\"}", "one of cmd and shell" },
		{ "{\"cmd\": \"\"}", "cmd: is empty" },
		{ "{\"shell\": \"a\", \"args\": [\"b\"]}", "args: they belong to cmd" },
		{ "{\"cmd\": \"a\", \"args\": \"b\"}", "args" },
		{ "{\"cmd\": \"a\", \"args\": [1]}", "args" },
		{ "{\"cmd\": \"a\", \"env\": []}", "env: expected an object" },
		{ "{\"cmd\": \"a\", \"env\": {\"A=\": \"\"}}", "env: a name" },
		{ "{\"cmd\": \"a\", \"env\": {\"A\": 1}}", "env.A: expected a string" },
		{ "{\"cmd\": \"a\", \"stdin\": \"\", \"stdin_b64\": \"\"}", "one of stdin and stdin_b64" },
		{ "{\"cmd\": \"a\", \"stdin_b64\": \"=\"}", "stdin_b64: is no base64" },
		{ "{\"cmd\": \"a\", \"timeout_s\": 0}", "timeout_s" },
		{ "{\"cmd\": \"a\", \"timeout_s\": 86401}", "timeout_s" },
		{ "{\"cmd\": \"a\", \"max_output_bytes\": 16777217}", "max_output_bytes" },
		{ "{\"cmd\": \"a\", \"tty\": true}", "no field 'tty'" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoexecwish struct exec_wish w = {};
		struct err err = {};
		char line[ERR_MSG_BYTES];
		assert_true(load(cases[i].body, &w, &err) < 0);
		if (!strstr(err_line(&err, line, sizeof(line)), cases[i].says))
			fail_msg("%s: %s", cases[i].body, line);
		assert_int_equal(error_info(&err)->status, 400);
	}
}

/* ---- the agent itself ---- */

struct native {
	pid_t pid;
	char dir[64], path[80];
};

/* build/forkd-agent, beside build/tests/unit/. */
static void agent_program(char ret[PATH_MAX + 64])
{
	char exe[PATH_MAX + 1] = "";

	assert_true(readlink("/proc/self/exe", exe, PATH_MAX) > 0);
	snprintf(ret, PATH_MAX + 64, "%s/../../forkd-agent", dirname(exe));
}

static int begin_agent(void **state)
{
	static struct native n;
	char program[PATH_MAX + 64], listen[96];

	agent_program(program);
	strcpy(n.dir, "/tmp/forkd-exec.XXXXXX");
	assert_non_null(mkdtemp(n.dir));
	snprintf(n.path, sizeof(n.path), "%s/agent", n.dir);
	snprintf(listen, sizeof(listen), "unix:%s", n.path);
	n.pid = fork();
	if (n.pid == 0) {
		execl(program, program, "--listen", listen, (char *)NULL);
		_exit(127);
	}
	*state = &n;
	return 0;
}

static int end_agent(void **state)
{
	struct native *n = *state;

	kill(n->pid, SIGTERM);
	waitpid(n->pid, NULL, 0);
	unlink(n->path);
	return rmdir(n->dir);
}

static int reach(const struct native *n)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	for (unsigned i = 0; i < 3000; i++) {
		struct err err = {};
		if (sock_connect(fd, n->path, &err) == 0)
			return fd;
		usleep(10000);
	}
	fail_msg("the agent does not listen at %s", n->path);
	return -1;
}

static int run_gone(const struct native *n, const char *body, bool (*gone)(const void *), const void *arg,
		    struct exec_result *ret, struct err *err)
{
	autoexecwish struct exec_wish w = {};

	assert_int_equal(load(body, &w, err), 0);
	autoclose int fd = reach(n), input_fd = w.has_input ? reach(n) : -1;
	autostrbuf struct strbuf text = {};
	if (exec_request(&w, &text, err) < 0)
		return err->num;
	assert_int_equal(send(fd, text.text, text.len, 0), text.len);
	const struct exec_call call = { .fd = fd, .input_fd = input_fd, .wish = &w, .gone = gone, .arg = arg };
	return exec_run(&call, ret, err);
}

static int run(const struct native *n, const char *body, struct exec_result *ret, struct err *err)
{
	return run_gone(n, body, NULL, NULL, ret, err);
}

static void assert_text(const struct exec_output *o, const char *text)
{
	assert_int_equal(o->bytes.len, strlen(text));
	assert_memory_equal(o->bytes.len ? o->bytes.text : "", text, strlen(text));
}

static void ends(void **state)
{
	static const struct {
		const char *body, *out, *err;
		int code, signal;
	} cases[] = {
		{ "{\"cmd\": \"true\"}", "", "", 0, 0 },
		{ "{\"cmd\": \"printf\", \"args\": [\"%s-\", \"a b\", \"$X\"]}", "a b-$X-", "", 0, 0 },
		{ "{\"shell\": \"echo out; echo $X >&2; exit 3\", \"env\": {\"X\": \"e r\"}}", "out\n", "e r\n", 3, 0 },
		{ "{\"shell\": \"kill -9 $$\"}", "", "", -1, SIGKILL },
		{ "{\"shell\": \"pwd\", \"cwd\": \"/proc\"}", "/proc\n", "", 0, 0 },
		{ "{\"shell\": \"cat\", \"stdin\": \"in\"}", "in", "", 0, 0 },
		{ "{\"shell\": \"cat\", \"stdin\": \"\"}", "", "", 0, 0 },
		{ "{\"shell\": \"cat\"}", "", "", 0, 0 },
		{ "{\"shell\": \"true\", \"stdin\": \"nobody reads it\"}", "", "", 0, 0 },
		{ "{\"shell\": \"id -un\", \"user\": \"root\"}", "root\n", "", 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoexecresult struct exec_result r = {};
		struct err err = {};
		char line[ERR_MSG_BYTES];
		if (run(*state, cases[i].body, &r, &err) < 0)
			fail_msg("%s: %s", cases[i].body, err_line(&err, line, sizeof(line)));
		assert_text(&r.out, cases[i].out);
		assert_text(&r.err, cases[i].err);
		assert_int_equal(r.exit_code, cases[i].code);
		assert_int_equal(r.signal, cases[i].signal);
		assert_false(r.timed_out || r.out.truncated || r.err.truncated);
	}
}

static void refusals(void **state)
{
	static const struct {
		const char *body, *says;
		unsigned status;
	} cases[] = {
		{ "{\"cmd\": \"/no/such\"}", "/no/such", 400 },
		{ "{\"cmd\": \"true\", \"cwd\": \"/no/such\"}", "/no/such", 400 },
		{ "{\"cmd\": \"true\", \"user\": \"nobody-here\"}", "nobody-here", 400 },
		{ "{\"cmd\": \"true\", \"user\": \"a:b\"}", "has a ':'", 400 },
	};

	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoexecresult struct exec_result r = {};
		struct err err = {};
		char line[ERR_MSG_BYTES];
		assert_true(run(*state, cases[i].body, &r, &err) < 0);
		if (!strstr(err_line(&err, line, sizeof(line)), cases[i].says))
			fail_msg("%s: %s", cases[i].body, line);
		assert_int_equal(error_info(&err)->status, cases[i].status);
	}
}

/* A command that echoes megabytes while it reads them: neither side waits for the other for ever. */
static void much_both_ways(void **state)
{
	enum { BYTES = 5 << 20 };
	autostrbuf struct strbuf body = {};
	autoexecresult struct exec_result r = {};
	struct err err = {};

	strbuf_puts(&body, "{\"cmd\": \"cat\", \"max_output_bytes\": 16777216, \"stdin\": \"");
	for (unsigned i = 0; i < BYTES; i++)
		strbuf_putc(&body, (char)('a' + i % 23));
	strbuf_puts(&body, "\"}");
	assert_int_equal(run(*state, body.text, &r, &err), 0);
	assert_int_equal(r.out.bytes.len, BYTES);
	for (unsigned i = 0; i < BYTES; i++)
		if (r.out.bytes.text[i] != (char)('a' + i % 23))
			fail_msg("byte %u is another one", i);
}

static void output_is_cut(void **state)
{
	autoexecresult struct exec_result r = {};
	struct err err = {};

	assert_int_equal(run(*state, "{\"shell\": \"yes | head -c 300000; echo e >&2\", \"max_output_bytes\": 100000}",
			     &r, &err),
			 0);
	assert_int_equal(r.out.bytes.len, 100000);
	assert_true(r.out.truncated);
	assert_text(&r.err, "e\n");
	assert_false(r.err.truncated);
	assert_int_equal(r.exit_code, 0);
}

/* Whether the process of this number runs; a zombie does not. `text`: its stat of proc(5). */
static bool runs(pid_t pid, char text[static 512])
{
	char path[64];

	memset(text, 0, 512);
	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, 511) <= 0)
		return false;
	const char *state = strrchr(text, ')');
	return state && state[2] != 'Z';
}

static void wait_gone(pid_t pid)
{
	char text[512];

	for (unsigned i = 0; i < 3000 && runs(pid, text); i++)
		usleep(10000);
	if (runs(pid, text))
		fail_msg("it runs: %s", text);
}

static void time_is_over(void **state)
{
	autoexecresult struct exec_result r = {};
	struct err err = {};

	assert_int_equal(run(*state, "{\"shell\": \"sleep 1000 & echo $!; wait\", \"timeout_s\": 1}", &r, &err), 0);
	assert_true(r.timed_out);
	assert_int_equal(r.signal, SIGKILL);
	assert_true(r.out.bytes.len > 0);
	wait_gone((pid_t)strtol(r.out.bytes.text, NULL, 10));
}

static bool has_file(const void *path)
{
	return access(path, F_OK) == 0;
}

/* Nobody waits any more: what runs is killed when the connection closes. */
static void nobody_waits(void **state)
{
	const struct native *n = *state;
	autoexecresult struct exec_result r = {};
	struct err err = {};
	char body[1024], path[96];

	snprintf(path, sizeof(path), "%s/pid", n->dir);
	snprintf(body, sizeof(body), "{\"shell\": \"echo $$ > %s.new; mv %s.new %s; sleep 1000; true\"}", path, path,
		 path);
	assert_true(run_gone(n, body, has_file, path, &r, &err) < 0);
	assert_int_equal(err.detail, E_TIMEOUT);
	FILE *f = fopen(path, "re");
	int pid = 0;
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &pid), 1);
	fclose(f);
	unlink(path);
	wait_gone(pid);
}

/* ---- agents that are none ---- */

/* Answers one request with these bytes, and hangs up; returns exec_run()'s result. */
static int hear(const char *head, const void *said, size_t len, struct exec_result *ret, struct err *err)
{
	autoexecwish struct exec_wish w = {};
	int fd[2];

	assert_int_equal(load("{\"cmd\": \"true\", \"max_output_bytes\": 10}", &w, err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	pid_t pid = fork();
	if (pid == 0) {
		char sink[4096];
		close(fd[0]);
		bool fine = recv(fd[1], sink, sizeof(sink), 0) > 0 && send(fd[1], head, strlen(head), MSG_NOSIGNAL) > 0;
		for (size_t at = 0; fine && at < len;) {
			ssize_t n = send(fd[1], (const char *)said + at, len - at, MSG_NOSIGNAL);
			fine = n > 0;
			at += n > 0 ? (size_t)n : 0;
		}
		_exit(0);
	}
	close(fd[1]);
	autostrbuf struct strbuf text = {};
	assert_int_equal(exec_request(&w, &text, err), 0);
	assert_int_equal(send(fd[0], text.text, text.len, 0), text.len);
	const struct exec_call call = { .fd = fd[0], .input_fd = -1, .wish = &w };
	int r = exec_run(&call, ret, err);
	close(fd[0]);
	waitpid(pid, NULL, 0);
	return r;
}

#define OK_HEAD "HTTP/1.1 200 OK\r\n\r\n"

static void hostile(void **state)
{
	static const struct {
		const char *head, *said, *says;
		size_t len;
		unsigned status;
	} cases[] = {
#define SAID(text) (text), .len = sizeof(text) - 1
		{ .head = "HTTP/1.1 500 No\r\n\r\nx", .said = SAID(""), .says = "answers 500", .status = 502 },
		{ .head = "garbage", .said = SAID(""), .says = "not HTTP", .status = 502 },
		{ .head = OK_HEAD, .said = SAID(""), .says = "how the command has ended", .status = 502 },
		{ .head = OK_HEAD,
		  .said = SAID("\0\xff\xff\xff\xff{}"),
		  .says = "message of 4294967295 bytes",
		  .status = 502 },
		{ .head = OK_HEAD, .said = SAID("\x01\0\0\0\x02{}"), .says = "a compressed message", .status = 502 },
		{ .head = OK_HEAD,
		  .said = SAID("\0\0\0\0\x02{]"),
		  .says = "a message of the guest's agent",
		  .status = 502 },
		{ .head = OK_HEAD,
		  .said = SAID("\0\0\0\0\x00"),
		  .says = "a message of the guest's agent",
		  .status = 502 },
		{ .head = OK_HEAD,
		  .said = SAID("\x02\0\0\0\x02{}"),
		  .says = "how the command has ended",
		  .status = 502 },
		{ .head = OK_HEAD,
		  .said = SAID("\0\0\0\0\x22{\"event\":{\"data\":{\"stdout\":\"=x\"}}}"),
		  .says = "output that is none",
		  .status = 502 },
		{ .head = OK_HEAD,
		  .said = SAID("\0\0\0\0\x24{\"event\":{\"data\":{\"stdin\":\"AAAA\"}}} "),
		  .says = "output that is none",
		  .status = 502 },
		{ .head = OK_HEAD,
		  .said = SAID("\x02\0\0\0\x0c{\"error\":{}}"),
		  .says = "an error without a code",
		  .status = 502 },
		{ .head = OK_HEAD,
		  .said = SAID("\x02\0\0\0\x2b{\"error\":{\"code\":\"resource_exhausted\"}}    "),
		  .says = "refuses",
		  .status = 429 },
		{ .head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
		  .said = SAID("\0\0\0\0"),
		  .says = "hung up",
		  .status = 502 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autoexecresult struct exec_result r = {};
		struct err err = {};
		char line[ERR_MSG_BYTES];
		if (hear(cases[i].head, cases[i].said, cases[i].len, &r, &err) >= 0)
			fail_msg("case %zu is fine", i);
		if (!strstr(err_line(&err, line, sizeof(line)), cases[i].says))
			fail_msg("case %zu: %s", i, line);
		if (error_info(&err)->status != cases[i].status)
			fail_msg("case %zu: %s: status %u", i, line, error_info(&err)->status);
	}
}

/* Output without end: what is kept has a bound, and what comes behind the end of the command is dropped. */
static void flood(void **state)
{
	enum { FRAMES = 20000 };
	autostrbuf struct strbuf said = {};
	autoexecresult struct exec_result r = {};
	struct err err = {};

	(void)state;
	for (unsigned i = 0; i < FRAMES; i++)
		strbuf_add(&said, "\0\0\0\0\x24{\"event\":{\"data\":{\"stdout\":\"AAAA\"}}}", 5 + 0x24);
	strbuf_add(&said, "\0\0\0\0\x22{\"event\":{\"end\":{\"exitCode\":-5}}} ", 5 + 0x22);
	strbuf_add(&said, "\0\0\0\0\x24{\"event\":{\"data\":{\"stdout\":\"AAAA\"}}}", 5 + 0x24);
	strbuf_add(&said, "\x02\0\0\0\x02{}", 7);
	assert_int_equal(hear(OK_HEAD, said.text, said.len, &r, &err), 0);
	assert_int_equal(r.out.bytes.len, 10);
	assert_true(r.out.truncated);
	assert_int_equal(r.exit_code, -5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wishes),
		cmocka_unit_test(bad_wishes),
		cmocka_unit_test(hostile),
		cmocka_unit_test(flood),
	};
	const struct CMUnitTest native[] = {
		cmocka_unit_test(ends),          cmocka_unit_test(refusals),     cmocka_unit_test(much_both_ways),
		cmocka_unit_test(output_is_cut), cmocka_unit_test(time_is_over), cmocka_unit_test(nobody_waits),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	return failed + cmocka_run_group_tests(native, begin_agent, end_agent);
}
