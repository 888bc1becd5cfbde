// SPDX-License-Identifier: Apache-2.0
/* forkd/front/accept: the shares of connections, who makes room for whom, and how long a connection may be unproven. */
#include "forkd/front/accept.h"

#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/log.h"
#include "forkd/rest/api.h"
#include "tests/unit/http_client.h"

#define TOKEN "0123456789abcdef-token"

enum { SHARE = 16, HALF = SHARE / 2, OTHER_UID = 65534, FDS = 250, FDS_CONNECTIONS = 5 };

static char dir[] = "/tmp/forkd-test-accept-XXXXXX";
static char sock[64], token[64];
static struct http_server *server;
static unsigned port;
static atomic_bool let_go;
static atomic_uint n_lasting;

/* Lasts until the test lets go. */
static int lasting(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	(void)d;
	(void)err;
	atomic_fetch_add(&n_lasting, 1);
	while (!atomic_load(&let_go) && !request_gone(rq))
		usleep(1000);
	strbuf_printf(&reply->body, "{\"n_fds\":%u}", rq->n_fds);
	return 0;
}

static const struct route routes[] = {
	{ .method = "GET", .path = "/healthz", .run = api_health, .open = true },
	{ .method = "GET", .path = "/v1/version", .run = api_version },
	{ .method = "GET", .path = "/lasting", .run = lasting, .takes_fds = true },
};

static int set_up_all(void **state)
{
	(void)state;
	log_init("test", LOG_ERROR, STDERR_FILENO);
	if (!mkdtemp(dir) || chmod(dir, 0711) < 0)
		return -1;
	snprintf(sock, sizeof(sock), "%s/forkd.sock", dir);
	snprintf(token, sizeof(token), "%s/token", dir);
	int fd = open(token, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	ssize_t n = write(fd, TOKEN, strlen(TOKEN));
	close(fd);
	return n > 0 ? 0 : -1;
}

static int tear_down_all(void **state)
{
	char lock[80];

	(void)state;
	snprintf(lock, sizeof(lock), "%s.lock", sock);
	unlink(lock);
	unlink(token);
	return rmdir(dir);
}

static void start(unsigned token_s)
{
	const struct http_options opt = {
		.routes = routes,
		.n_routes = ARRAY_LEN(routes),
		.socket_path = sock,
		.socket_fd = -1,
		.listen_addr = "0.0.0.0:0",
		.token_file = token,
		.insecure_plain_http = true,
		.max_connections = SHARE,
		.token_s = token_s,
	};
	struct err err = {};

	atomic_store(&let_go, false);
	atomic_store(&n_lasting, 0);
	if (http_start(NULL, &opt, &server, &err) < 0)
		fail_msg("%s", err.msg);
	port = (unsigned)strtoul(strrchr(http_where(server), ':') + 1, NULL, 10);
	chmod(sock, 0666);
}

static int tear_down(void **state)
{
	(void)state;
	atomic_store(&let_go, true);
	http_stop(steal_ptr(&server));
	return 0;
}

/* From 127.0.0.`host`: each is a peer of its own. */
static int connect_from(unsigned host)
{
	struct sockaddr_in from = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + host) };
	const struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (const struct sockaddr *)(const void *)&from, sizeof(from)), 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)(const void *)&to, sizeof(to)), 0);
	return fd;
}

/* As another user; of this thread alone, the server's are root's. */
static int connect_as_other(void)
{
	assert_int_equal(syscall(SYS_setresuid, -1, OTHER_UID, -1), 0);
	int fd = client_unix(sock);
	assert_int_equal(syscall(SYS_setresuid, -1, 0, -1), 0);
	return fd;
}

static void puts_get(int fd, const char *target, bool with_token)
{
	char text[256];

	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", target,
		 with_token ? "Authorization: Bearer " TOKEN "\r\n" : "");
	client_puts(fd, text);
}

static int read_status(int fd)
{
	autoanswer struct answer a = {};

	client_read(fd, false, &a);
	return a.status;
}

static int get(int fd, const char *target, bool with_token)
{
	puts_get(fd, target, with_token);
	return read_status(fd);
}

static void expect_busy(int fd, const char *message)
{
	autoanswer struct answer a = {};

	client_read(fd, false, &a);
	assert_int_equal(a.status, 429);
	assert_string_equal(answer_text(&a, "code"), "busy");
	assert_string_equal(answer_text(&a, "message"), message);
	assert_true(client_closed(fd));
	close(fd);
}

static void close_all(const int *fds, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		close(fds[i]);
}

static void wait_for_lasting(unsigned n)
{
	for (unsigned i = 0; i < 20000 && atomic_load(&n_lasting) < n; i++)
		usleep(1000);
	assert_true(atomic_load(&n_lasting) >= n);
}

/* ---- tests ---- */

/* Silent ones, and such that began to speak. */
static void silent_tcp_locks_nobody_out(void **state)
{
	int fds[2 * SHARE];

	(void)state;
	start(60);
	for (unsigned i = 0; i < ARRAY_LEN(fds); i++) {
		fds[i] = connect_from(1 + i);
		if (i % 2)
			client_puts(fds[i], "GET /healthz HT");
		if (i == SHARE - 1) {
			autoclose int root = client_unix(sock);
			assert_int_equal(get(root, "/v1/version", false), 200);
		}
	}
	autoclose int root = client_unix(sock);
	assert_int_equal(get(root, "/v1/version", false), 200);
	autoclose int remote = connect_from(100);
	assert_int_equal(get(remote, "/v1/version", true), 200);
	for (unsigned i = 0; i < SHARE + 1; i++) /* the oldest made room */
		assert_true(client_closed(fds[i]));
	for (unsigned i = SHARE + 1; i < ARRAY_LEN(fds); i++) {
		if (i % 2)
			client_puts(fds[i], "TP/1.1\r\nHost: x\r\n\r\n");
		assert_int_equal(i % 2 ? read_status(fds[i]) : get(fds[i], "/healthz", false), 200);
	}
	close_all(fds, ARRAY_LEN(fds));
}

/* One address has half of the share, for others the rest is free. */
static void one_address_is_one_peer(void **state)
{
	int silent[SHARE], proven[HALF];

	(void)state;
	start(60);
	autoclose int first = connect_from(2);
	for (unsigned i = 0; i < SHARE; i++)
		silent[i] = connect_from(1);
	for (unsigned i = 0; i < HALF; i++) {
		assert_true(client_closed(silent[i]));
		proven[i] = connect_from(1);
		assert_int_equal(get(proven[i], "/v1/version", true), 200);
	}
	for (unsigned i = HALF; i < SHARE; i++)
		assert_true(client_closed(silent[i]));
	expect_busy(connect_from(1), "you have 8 connections already");
	assert_int_equal(get(first, "/v1/version", true), 200);
	for (unsigned i = 0; i < HALF; i++)
		assert_int_equal(get(proven[i], "/v1/version", true), 200);
	close_all(silent, SHARE);
	close_all(proven, HALF);
}

static void a_share_full_of_proven_ones(void **state)
{
	static const char ask[] = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
	int fds[SHARE];

	(void)state;
	start(60);
	for (unsigned i = 0; i < SHARE; i++) {
		fds[i] = connect_from(1 + i);
		assert_int_equal(get(fds[i], "/v1/version", true), 200);
	}
	expect_busy(connect_from(100), "there are 16 connections already");
	autoclose int root = client_unix(sock);
	assert_int_equal(get(root, "/v1/version", false), 200);
	close(fds[0]);
	int status = 0; /* the server sees its end when it comes to it */
	for (unsigned i = 0; i < 1000 && status != 200; i++) {
		autoclose int fd = connect_from(100);
		status = client_send(fd, ask, strlen(ask)) ? read_status(fd) : 0;
		if (status != 200)
			usleep(10000);
	}
	assert_int_equal(status, 200);
	close_all(fds + 1, SHARE - 1);
}

/* A connection without the token has its time, whatever it says meanwhile; a proven one stays. */
static void deadline_for_the_token(void **state)
{
	(void)state;
	start(1);
	autoclose int proven = connect_from(1);
	assert_int_equal(get(proven, "/v1/version", true), 200);
	autoclose int silent = connect_from(1);
	autoclose int begun = connect_from(2);
	client_puts(begun, "GET /healthz HT");
	autoclose int body = connect_from(3);
	client_puts(body, "POST /v1/version HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
	autoclose int local = client_unix(sock);
	assert_true(client_closed(silent));
	assert_true(client_closed(begun));
	assert_true(client_closed(body));
	assert_int_equal(get(proven, "/v1/version", true), 200);
	assert_int_equal(get(local, "/v1/version", false), 200);
}

/* What needs no token, and what is refused for want of it, is answered once a connection. */
static void one_answer_without_token(void **state)
{
	static const char *const targets[] = { "/healthz", "/v1/version", "/nothing" };

	(void)state;
	start(60);
	for (unsigned i = 0; i < ARRAY_LEN(targets); i++) {
		autoclose int fd = connect_from(1);
		assert_int_equal(get(fd, targets[i], false), i == 0 ? 200 : 401);
		assert_true(client_closed(fd));
	}
	autoclose int fd = connect_from(1);
	assert_int_equal(get(fd, "/healthz", true), 200);
	assert_int_equal(get(fd, "/v1/version", false), 401);
	assert_true(client_closed(fd));
}

/* Another user's connections: half of a share that root's are not in. */
static void users_have_shares(void **state)
{
	int silent[SHARE], busy[HALF], own[SHARE];

	(void)state;
	if (geteuid() != 0)
		skip();
	start(60);
	for (unsigned i = 0; i < SHARE; i++)
		silent[i] = connect_as_other();
	for (unsigned i = 0; i < HALF; i++) {
		assert_true(client_closed(silent[i]));
		busy[i] = connect_as_other();
		puts_get(busy[i], "/lasting", false);
		assert_true(client_closed(silent[HALF + i]));
		wait_for_lasting(i + 1);
	}
	expect_busy(connect_as_other(), "you have 8 connections already");
	for (unsigned i = 0; i < SHARE; i++) { /* root may fill the own share alone */
		own[i] = client_unix(sock);
		assert_int_equal(get(own[i], "/v1/version", false), 200);
	}
	expect_busy(client_unix(sock), "there are 16 connections already");
	atomic_store(&let_go, true);
	for (unsigned i = 0; i < HALF; i++)
		assert_int_equal(read_status(busy[i]), 200);
	close_all(silent, SHARE);
	close_all(busy, HALF);
	close_all(own, SHARE);
}

/* A request with as many descriptors as go with one. */
static int send_many_fds(bool as_other)
{
	static const char text[] = "GET /lasting HTTP/1.1\r\nHost: x\r\n\r\n";
	int connection = as_other ? connect_as_other() : client_unix(sock), fds[FDS];
	struct err err = {};

	for (unsigned i = 0; i < FDS; i++)
		fds[i] = STDERR_FILENO;
	assert_int_equal(sock_send(connection, text, strlen(text), fds, FDS, &err), strlen(text));
	return connection;
}

static unsigned count_good(const int *connections)
{
	unsigned good = 0;

	for (unsigned i = 0; i < FDS_CONNECTIONS; i++) {
		int status = read_status(connections[i]);
		assert_true(status == 200 || status == 400);
		good += status == 200;
	}
	close_all(connections, FDS_CONNECTIONS);
	return good;
}

/* 1024 of a user who is not trusted, on all connections together; more, when those have ended. */
static void descriptors_are_bounded(void **state)
{
	int other[FDS_CONNECTIONS], own[FDS_CONNECTIONS], status = 0;
	struct rlimit files;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	files.rlim_cur = files.rlim_max;
	if (geteuid() != 0 || files.rlim_max < 4096 || setrlimit(RLIMIT_NOFILE, &files) < 0)
		skip();
	start(60);
	for (unsigned i = 0; i < FDS_CONNECTIONS; i++) {
		other[i] = send_many_fds(true);
		own[i] = send_many_fds(false);
	}
	wait_for_lasting(2 * FDS_CONNECTIONS - 1);
	atomic_store(&let_go, true);
	assert_int_equal(count_good(other), FDS_CONNECTIONS - 1);
	assert_int_equal(count_good(own), FDS_CONNECTIONS);
	for (unsigned i = 0; i < 2000 && status != 200; i++) { /* the server ends them after its answers */
		autoclose int fd = send_many_fds(true);
		status = read_status(fd);
		if (status != 200)
			usleep(10000);
	}
	assert_int_equal(status, 200);
}

#define TEST(f) cmocka_unit_test_teardown(f, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(silent_tcp_locks_nobody_out), TEST(one_address_is_one_peer),  TEST(a_share_full_of_proven_ones),
		TEST(deadline_for_the_token),      TEST(one_answer_without_token), TEST(users_have_shares),
		TEST(descriptors_are_bounded),
	};
	return cmocka_run_group_tests(tests, set_up_all, tear_down_all);
}
