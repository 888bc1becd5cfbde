// SPDX-License-Identifier: Apache-2.0
/* A raw HTTP client for the tests of forkd's REST server: sends bytes as they are, with descriptors, and reads one answer. */
#ifndef TESTS_UNIT_HTTP_CLIENT_H
#define TESTS_UNIT_HTTP_CLIENT_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/sock.h"
#include "tests/unit/unit.h"

struct answer {
	int status; /* 0: the connection ended without one */
	char head[4096];
	char *body; /* NUL-terminated */
	size_t body_len;
	bool closed; /* the server ended the connection behind it */
};

static inline void answer_done(struct answer *a)
{
	free(a->body);
	a->body = NULL;
}
#define autoanswer __attribute__((cleanup(answer_done)))

static inline int client_unix(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)), 0);
	return fd;
}

static inline int client_tcp(unsigned port)
{
	const struct sockaddr_in addr = {
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)), 0);
	return fd;
}

/* False: the server has closed the connection. */
static inline bool client_send(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
		if (n < 0)
			return false;
		data += n;
		len -= (size_t)n;
	}
	return true;
}

static inline void client_puts(int fd, const char *text)
{
	assert_true(client_send(fd, text, strlen(text)));
}

/* One byte, or -1 at the end; fails the test after 20 s of silence. */
static inline int client_getc(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	unsigned char c;

	assert_int_equal(poll(&p, 1, 20000), 1);
	return recv(fd, &c, 1, 0) == 1 ? c : -1;
}

static inline bool client_closed(int fd)
{
	return client_getc(fd) < 0;
}

/* The value of a header in the answer, up to the line's end; NULL: not there. */
static inline const char *answer_header(struct answer *a, const char *name)
{
	static _Thread_local char value[256];
	char want[128];

	snprintf(want, sizeof(want), "\r\n%s: ", name);
	const char *at = strcasestr(a->head, want);
	if (!at)
		return NULL;
	at += strlen(want);
	snprintf(value, sizeof(value), "%.*s", (int)strcspn(at, "\r"), at);
	return value;
}

/* Reads head and body (by Content-Length); not the body of an answer to HEAD. */
static inline void client_read(int fd, bool head_only, struct answer *a)
{
	size_t n = 0;

	*a = (struct answer){};
	while (n < sizeof(a->head) - 1 && !strstr(a->head, "\r\n\r\n")) {
		int c = client_getc(fd);
		if (c < 0)
			return;
		a->head[n++] = (char)c;
	}
	assert_int_equal(sscanf(a->head, "HTTP/1.1 %d", &a->status), 1);
	const char *len = answer_header(a, "Content-Length");
	a->body_len = len && !head_only ? strtoul(len, NULL, 10) : 0;
	a->body = calloc(1, a->body_len + 1);
	assert_non_null(a->body);
	for (size_t i = 0; i < a->body_len; i++)
		a->body[i] = (char)client_getc(fd);
}

/* The member `key` of the JSON body as text; fails the test when it is not there. */
static inline const char *answer_text(struct answer *a, const char *key)
{
	static _Thread_local char text[4096];
	autojson struct json json = {};
	struct err err = {};
	char *copy = strdup(a->body);

	assert_non_null(copy);
	assert_int_equal(json_parse(&json, copy, a->body_len, &err), 0);
	const struct json_node *node = json_get(json.nodes, key);
	assert_non_null(node);
	if (node->type == JSON_STRING)
		snprintf(text, sizeof(text), "%s", node->str);
	else
		snprintf(text, sizeof(text), "%llu", (unsigned long long)node->num);
	free(copy);
	return text;
}

#endif
