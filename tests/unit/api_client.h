// SPDX-License-Identifier: Apache-2.0
/*
 * The per-VM API over real sockets, its server and its clients in one thread: nothing here depends on time. The machine
 * behind it is fake_vmm.h's. Each test starts a server (api_setup) and ends with its clients gone (api_teardown).
 */
#ifndef TESTS_UNIT_API_CLIENT_H
#define TESTS_UNIT_API_CLIENT_H

#include "tests/unit/fake_vmm.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/log.h"
#include "common/sock.h"
#include "common/version.h"
#include "vmm/api/api.h"

#define BAD_REQUEST "[\"Bad Request\"]"
#define NOT_FOUND "[\"Not Found\"]"
#define FAILED(second, last) "[\"Error from API\",\"" second "\",\"" last "\"]"
#define NOT_RUNNING(second) FAILED(second, "VM is not running")
#define NOT_CREATED(second) FAILED(second, "VM is not created")
#define CONFIG "{\"payload\":{\"kernel\":\"/k\"}}"
#define SNAPSHOT "{\"destination_url\":\"file:///s\"}"
#define RESTORE "{\"source_url\":\"file:///s\"}"

static char socket_dir[] = "/tmp/forkd-test-api-XXXXXX";
static char socket_path[64];
static struct loop loop;
static struct vmm *vmm;
static struct api_server *api;
static unsigned fds_before;

/* Runs the loop until nothing is ready. The bound is against a server that turns without end. */
static inline void settle(void)
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

static inline int client_connect(void)
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

static inline void client_close(int fd)
{
	close(fd);
	settle();
}

static inline void client_send_fds(int fd, const char *bytes, size_t len, const int *fds, uint32_t n_fds)
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

static inline void client_send(int fd, const char *text)
{
	client_send_fds(fd, text, strlen(text), NULL, 0);
}

/* Everything that came, into *text; true: the server has closed. */
static inline bool client_read(int fd, struct strbuf *text)
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

static inline void expect_text(int fd, const char *expected, bool closed)
{
	autostrbuf struct strbuf text = {};

	strbuf_puts(&text, "");
	assert_int_equal(client_read(fd, &text), closed);
	assert_string_equal(text.text, expected);
}

/* `body` NULL: an answer without one, which only 204 is. */
static inline void add_answer(struct strbuf *out, int status, const char *body)
{
	strbuf_printf(out, "HTTP/1.1 %d \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n", status);
	if (body)
		strbuf_printf(out, "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body),
			      body);
	else
		strbuf_puts(out, "\r\n");
}

static inline void expect_answer(int fd, int status, const char *body)
{
	autostrbuf struct strbuf expected = {};

	add_answer(&expected, status, body);
	expect_text(fd, expected.text, false);
}

static inline void add_request(struct strbuf *out, const char *method, const char *name, const char *body)
{
	strbuf_printf(out, "%s /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n", method, name);
	if (body)
		strbuf_printf(out, "Content-Length: %zu\r\n", strlen(body));
	strbuf_printf(out, "\r\n%s", body ? body : "");
}

static inline void ask(int fd, const char *method, const char *name, const char *body)
{
	autostrbuf struct strbuf request = {};

	add_request(&request, method, name, body);
	client_send(fd, request.text);
}

static inline char *ping_body(void)
{
	static char text[160];

	snprintf(text, sizeof(text),
		 "{\"build_version\":\"forkd-vmm " FORKD_VERSION "\",\"version\":\"" FORKD_VERSION
		 "\",\"pid\":%d,\"features\":[\"kvm\",\"io_uring\"]}",
		 getpid());
	return text;
}

static inline void expect_alive(int fd)
{
	ask(fd, "GET", "vmm.ping", NULL);
	expect_answer(fd, 200, ping_body());
}

static inline int api_setup(void **state)
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
static inline int api_teardown(void **state)
{
	(void)state;
	api_server_free(api);
	vmm_free(vmm);
	loop_done(&loop);
	return count_fds() == fds_before ? 0 : -1;
}

static inline int api_make_dir(void **state)
{
	(void)state;
	log_init("test_api", LOG_ERROR, open("/dev/null", O_WRONLY | O_CLOEXEC));
	if (!mkdtemp(socket_dir))
		return -1;
	snprintf(socket_path, sizeof(socket_path), "%s/api.sock", socket_dir);
	return 0;
}

static inline int api_remove_dir(void **state)
{
	char lock[80];

	(void)state;
	snprintf(lock, sizeof(lock), "%s.lock", socket_path);
	unlink(lock);
	return rmdir(socket_dir);
}

static inline int make_memfd(ino_t *ret_inode)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	struct stat st;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	*ret_inode = st.st_ino;
	return fd;
}

/* The same memory file n times. */
static inline void make_same_memfds(int *ret_fds, int n)
{
	ino_t inode;

	ret_fds[0] = make_memfd(&inode);
	for (int i = 1; i < n; i++)
		ret_fds[i] = ret_fds[0];
}

#define API_TEST(f) cmocka_unit_test_setup_teardown(f, api_setup, api_teardown)

#endif
