// SPDX-License-Identifier: Apache-2.0
#include "forkctl/tunnel.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

#include "forkctl/client_private.h"

enum { HEAD_MAX = 16 << 10, BODY_MAX = 64 << 10 };

/* ---- the request ---- */

/* The address of the daemon: what is behind "://" and before the path, and the path. */
static void split_base(const char *base, int *ret_host_len, const char **ret_host, const char **ret_path)
{
	const char *scheme = strstr(base, "://"), *host = scheme ? scheme + 3 : base;

	*ret_host = host;
	*ret_host_len = (int)strcspn(host, "/");
	*ret_path = host + *ret_host_len;
}

static void write_request(const struct client *c, struct tunnel *t)
{
	const char *host, *path;
	int host_len;

	split_base(c->base, &host_len, &host, &path);
	size_t path_len = strlen(path);
	while (path_len > 0 && path[path_len - 1] == '/')
		path_len--;
	strbuf_printf(&t->request, "GET %.*s%s HTTP/1.1\r\nHost: %.*s\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
		      (int)path_len, path, t->path.text, host_len, host);
	if (c->token_header)
		strbuf_printf(&t->request, "%s\r\n", c->token_header);
	strbuf_puts(&t->request, "\r\n");
}

int tunnel_begin(struct client *c, struct tunnel *t, const char *id, unsigned port)
{
	struct transfer_request rq = { .method = "GET", .connect_only = true };

	path_add(&t->path, "/v1/clones/", id);
	strbuf_printf(&t->path, "/tunnel?port=%u", port);
	write_request(c, t);
	if (t->request.failed || t->path.failed) {
		fprintf(stderr, "forkctl: no memory for a tunnel\n");
		return EXIT_FAILED;
	}
	rq.path = t->path.text;
	return transfer_begin(c, &t->transfer, &rq);
}

void tunnel_done(struct tunnel *t)
{
	transfer_done(&t->transfer);
	strbuf_done(&t->path);
	strbuf_done(&t->request);
	strbuf_done(&t->head);
	*t = (struct tunnel){};
}

/* ---- bytes ---- */

int tunnel_fd(const struct tunnel *t)
{
	curl_socket_t fd = CURL_SOCKET_BAD;

	if (t->state != TUNNEL_CONNECTS && t->state != TUNNEL_FAILED)
		curl_easy_getinfo((CURL *)t->transfer.curl, CURLINFO_ACTIVESOCKET, &fd);
	return fd == CURL_SOCKET_BAD ? -1 : fd;
}

short tunnel_wants(const struct tunnel *t)
{
	return t->state != TUNNEL_ASKS ? 0 : t->sent < t->request.len ? POLLOUT : POLLIN;
}

static ssize_t receive(struct tunnel *t, char *buf, size_t size)
{
	size_t n = 0;
	CURLcode code = curl_easy_recv((CURL *)t->transfer.curl, buf, size, &n);

	return code == CURLE_OK ? (ssize_t)n : code == CURLE_AGAIN ? -EAGAIN : -EIO;
}

ssize_t tunnel_recv(struct tunnel *t, char *buf, size_t size)
{
	size_t rest = t->head.len - t->head_len; /* came together with the answer */

	if (rest == 0)
		return receive(t, buf, size);
	if (rest > size)
		rest = size;
	memcpy(buf, t->head.text + t->head_len, rest);
	t->head_len += rest;
	return (ssize_t)rest;
}

ssize_t tunnel_send(struct tunnel *t, const char *bytes, size_t len)
{
	size_t n = 0;
	CURLcode code = curl_easy_send((CURL *)t->transfer.curl, bytes, len, &n);

	return code == CURLE_OK ? (ssize_t)n : code == CURLE_AGAIN ? -EAGAIN : -EIO;
}

void tunnel_shut(struct tunnel *t)
{
	struct curl_tlssessioninfo *tls = NULL;

	curl_easy_getinfo((CURL *)t->transfer.curl, CURLINFO_TLS_SSL_PTR, &tls);
	if (!tls || tls->backend == CURLSSLBACKEND_NONE || !tls->internals)
		shutdown(tunnel_fd(t), SHUT_WR);
	else if (tls->backend == CURLSSLBACKEND_GNUTLS)
		(void)gnutls_bye(tls->internals, GNUTLS_SHUT_WR);
	/* Other libraries' sessions are not known here: their tunnels end when both directions have. */
}

/* ---- the answer ---- */

static enum tunnel_state fail(struct tunnel *t, const char *why)
{
	fprintf(stderr, "forkctl: %s: %s\n", t->path.text, why);
	return t->state = TUNNEL_FAILED;
}

/* The number of Content-Length; 0 when there is none. */
static size_t body_len(const char *head)
{
	for (const char *line = head; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncasecmp(line, "Content-Length:", 15) == 0)
			return strtoul(line + 15, NULL, 10);
	}
	return 0;
}

/* The answer is no agreement: it is printed when it is whole. */
static enum tunnel_state take_refusal(struct tunnel *t, bool ended)
{
	autoanswer struct answer a = { .status = strtol(t->head.text + strlen("HTTP/1.1 "), NULL, 10) };
	size_t have = t->head.len - t->head_len, want = body_len(t->head.text);

	if (!ended && have < want && have < BODY_MAX)
		return t->state;
	strbuf_add(&a.body, t->head.text + t->head_len, have);
	strbuf_puts(&a.body, "");
	if (say_error(t->transfer.client, &a) != EXIT_FINE)
		t->state = TUNNEL_FAILED;
	return t->state;
}

static enum tunnel_state take_answer(struct tunnel *t, bool ended)
{
	static const char agreed[] = "HTTP/1.1 101 ", any[] = "HTTP/1.1 ";

	if (t->head_len == 0) {
		const char *end = t->head.len ? memmem(t->head.text, t->head.len, "\r\n\r\n", 4) : NULL;
		if (!end)
			return ended                    ? fail(t, "the daemon has hung up")
			       : t->head.len > HEAD_MAX ? fail(t, "the answer has too long a head")
							: t->state;
		t->head_len = (size_t)(end - t->head.text) + 4;
	}
	if (strncmp(t->head.text, agreed, sizeof(agreed) - 1) == 0)
		return t->state = TUNNEL_OPEN;
	if (strncmp(t->head.text, any, sizeof(any) - 1) != 0)
		return fail(t, "the answer is not HTTP");
	return take_refusal(t, ended);
}

static enum tunnel_state ask(struct tunnel *t)
{
	char bytes[4096];
	ssize_t n;

	while (t->sent < t->request.len) {
		n = tunnel_send(t, t->request.text + t->sent, t->request.len - t->sent);
		if (n == -EAGAIN)
			return t->state;
		if (n < 0)
			return fail(t, "the daemon has hung up");
		t->sent += (size_t)n;
	}
	while (t->state == TUNNEL_ASKS && (n = receive(t, bytes, sizeof(bytes))) != -EAGAIN) {
		if (n > 0)
			strbuf_add(&t->head, bytes, (size_t)n);
		if (take_answer(t, n <= 0) == TUNNEL_ASKS && n <= 0)
			return fail(t, "the daemon has hung up");
	}
	return t->state;
}

enum tunnel_state tunnel_step(struct tunnel *t)
{
	if (t->state == TUNNEL_CONNECTS && !t->transfer.busy) {
		t->state = t->transfer.code == CURLE_OK ? TUNNEL_ASKS : TUNNEL_FAILED;
		if (t->state == TUNNEL_FAILED && transfer_judge(&t->transfer) != EXIT_FINE)
			return t->state;
	}
	return t->state == TUNNEL_ASKS ? ask(t) : t->state;
}
