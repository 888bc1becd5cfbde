// SPDX-License-Identifier: Apache-2.0
#include "forkctl/transfer.h"

#include <signal.h>
#include <string.h>

#include "forkctl/client_private.h"
#include "forkctl/table.h"
#include "forkctl/terminal.h"

enum { FDS_MAX = 1100, REFUSAL_MAX = 1 << 20, ANSWER_MAX = 1 << 20, USER_MAX = 64 };

/* ---- what libcurl calls ---- */

static size_t on_receive(char *bytes, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	size_t len = size * n;

	curl_easy_getinfo((CURL *)t->curl, CURLINFO_RESPONSE_CODE, &t->status);
	if (t->status < 200 || t->status >= 300) {
		strbuf_add(&t->refusal, bytes, t->refusal.len < REFUSAL_MAX ? len : 0);
		return len;
	}
	if (t->total < 0) {
		curl_off_t total = -1;
		curl_easy_getinfo((CURL *)t->curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &total);
		t->total = total;
	}
	return !t->rq.receive || t->rq.receive(t->rq.arg, bytes, len) ? len : 0;
}

static size_t on_send(char *bytes, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	ssize_t got = t->lost ? TRANSFER_BREAK : t->rq.send(t->rq.arg, bytes, size * n);

	t->sends_nothing = got == TRANSFER_WAIT;
	if (got >= 0)
		return (size_t)got;
	return got == TRANSFER_WAIT ? CURL_READFUNC_PAUSE : CURL_READFUNC_ABORT;
}

static int on_socket(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	struct transfer *t = arg;

	(void)purpose;
	if (t->n_sockets < ARRAY_LEN(t->sockets)) /* each address of the server that is tried */
		t->sockets[t->n_sockets++] = fd;
	return CURL_SOCKOPT_OK;
}

/* ---- one transfer ---- */

static void set_body(struct transfer *t)
{
	CURL *curl = t->curl;
	const struct transfer_request *rq = &t->rq;

	if (rq->send) {
		curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
		curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)rq->send_len);
		curl_easy_setopt(curl, CURLOPT_READFUNCTION, on_send);
		curl_easy_setopt(curl, CURLOPT_READDATA, t);
		curl_easy_setopt(curl, CURLOPT_SOCKOPTFUNCTION, on_socket);
		curl_easy_setopt(curl, CURLOPT_SOCKOPTDATA, t);
		curl_easy_setopt(curl, CURLOPT_FRESH_CONNECT, 1L);
	} else if (rq->body || strcmp(rq->method, "POST") == 0) {
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)rq->body_len);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, rq->body ? rq->body : "");
	}
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, rq->method);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_receive);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(curl, CURLOPT_PRIVATE, t);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, t->detail);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
	if (rq->connect_only) {
		curl_easy_setopt(curl, CURLOPT_CONNECT_ONLY, 1L);
		curl_easy_setopt(curl, CURLOPT_FRESH_CONNECT, 1L);
		curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	}
}

static bool add_fields(struct transfer *t)
{
	for (const char *const *f = t->rq.fields; f && *f; f++) {
		struct curl_slist *longer = curl_slist_append((struct curl_slist *)t->headers, *f);
		if (!longer)
			return false;
		t->headers = longer;
	}
	return true;
}

int transfer_begin(struct client *c, struct transfer *t, const struct transfer_request *rq)
{
	struct curl_slist *headers = NULL;

	transfer_done(t);
	*t = (struct transfer){ .client = c, .rq = *rq, .total = -1, .curl = curl_easy_init() };
	if (!c->multi)
		c->multi = curl_multi_init();
	bool ok = add_fields(t);
	headers = t->headers;
	ok = ok && t->curl && c->multi && prepare_transfer(c, t->curl, rq->path, NULL, &headers);
	t->headers = headers;
	if (ok) {
		set_body(t);
		curl_easy_setopt((CURL *)t->curl, CURLOPT_HTTPHEADER, headers);
		ok = t->added = curl_multi_add_handle(c->multi, t->curl) == CURLM_OK;
	}
	if (!ok) {
		transfer_done(t);
		fprintf(stderr, "forkctl: no memory for %s %s\n", rq->method, rq->path);
		return EXIT_FAILED;
	}
	t->busy = true;
	if (rq->send)
		c->upload = t;
	return EXIT_FINE;
}

void transfer_done(struct transfer *t)
{
	if (t->client && t->client->upload == t)
		t->client->upload = NULL;
	if (t->added)
		curl_multi_remove_handle(t->client->multi, t->curl);
	curl_easy_cleanup(t->curl);
	curl_slist_free_all(t->headers);
	strbuf_done(&t->refusal);
	*t = (struct transfer){};
}

void transfer_go_on(struct transfer *t)
{
	if (!t->busy || !t->sends_nothing)
		return;
	t->sends_nothing = false;
	curl_easy_pause((CURL *)t->curl, t->holds ? CURLPAUSE_RECV : CURLPAUSE_CONT);
}

void transfer_hold(struct transfer *t, bool hold)
{
	if (!t->busy || t->holds == hold)
		return;
	t->holds = hold;
	curl_easy_pause((CURL *)t->curl, (hold ? CURLPAUSE_RECV : 0) | (t->sends_nothing ? CURLPAUSE_SEND : 0));
}

int transfer_judge(struct transfer *t)
{
	autoanswer struct answer a = { .status = t->status };

	if (t->code != CURLE_OK) {
		snprintf(t->client->detail, sizeof(t->client->detail), "%s", t->detail);
		return say_unreachable(t->client, t->curl, (CURLcode)t->code);
	}
	if (t->status >= 200 && t->status < 300)
		return EXIT_FINE;
	a.body = t->refusal;
	t->refusal = (struct strbuf){};
	return say_error(t->client, &a);
}

void transfer_error_code(const struct transfer *t, char *buf, size_t size)
{
	autofree char *text = strdup(t->refusal.text ? t->refusal.text : "");
	autojson struct json json = {};
	struct err err = {};
	bool readable = text && json_parse(&json, text, strlen(text), &err) == 0;

	snprintf(buf, size, "%s", readable ? member_text(json.nodes, "code", "") : "");
}

/* ---- the loop ---- */

static void take_ends(struct client *c)
{
	const CURLMsg *m;
	int n;

	while ((m = curl_multi_info_read(c->multi, &n))) {
		struct transfer *t = NULL;
		CURL *curl = m->easy_handle;
		CURLcode code = m->data.result;
		curl_easy_getinfo(curl, CURLINFO_PRIVATE, &t);
		if (m->msg != CURLMSG_DONE || !t)
			continue;
		curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &t->status);
		t->code = t->lost ? CURLE_RECV_ERROR : (int)code;
		t->busy = false;
		if (t->rq.connect_only) /* the connection goes with it */
			continue;
		t->added = false;
		curl_multi_remove_handle(c->multi, curl);
	}
}

/* libcurl does not see the end of a connection on which it has nothing to send: the upload waits, and its peer has left. */
static bool upload_left(const struct transfer *t)
{
	bool left = false;

	for (unsigned i = 0; t && t->busy && t->sends_nothing && i < t->n_sockets; i++) {
		struct pollfd p = { .fd = t->sockets[i], .events = POLLRDHUP };
		left = left || (poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLERR)); /* closed: POLLNVAL */
	}
	return left;
}

void transfers_turn(struct client *c, struct pollfd *fds, unsigned n, int timeout_ms)
{
	static struct curl_waitfd wait[FDS_MAX]; /* too large for a stack */
	unsigned n_wait = 0;
	int running = 0;

	for (unsigned i = 0; i < n && n_wait < FDS_MAX; i++)
		if (fds[i].fd >= 0 && fds[i].events)
			wait[n_wait++] =
				(struct curl_waitfd){ .fd = fds[i].fd,
						      .events = (fds[i].events & POLLIN ? CURL_WAIT_POLLIN : 0) |
								(fds[i].events & POLLOUT ? CURL_WAIT_POLLOUT : 0) };
	if (!c->multi)
		c->multi = curl_multi_init();
	curl_multi_poll(c->multi, wait, n_wait, timeout_ms, NULL);
	bool left = upload_left(c->upload);
	curl_multi_perform(c->multi, &running); /* takes the answer that came before the end */
	take_ends(c);
	if (left && c->upload->busy) {
		c->upload->lost = true;
		transfer_go_on(c->upload);
	}
	if (poll(fds, n, 0) <= 0) /* with all that poll() says of them */
		for (unsigned i = 0; i < n; i++)
			fds[i].revents = 0;
}

/* ---- a whole exchange ---- */

bool user_name_valid(const char *user)
{
	return strlen(user) <= USER_MAX && !strpbrk(user, ":\r\n");
}

const char *user_field(char *buf, size_t size, const char *user)
{
	snprintf(buf, size, "X-Forkd-User: %s", user);
	return buf;
}

static bool on_answer(void *arg, const char *bytes, size_t len)
{
	struct exchange *x = arg;

	strbuf_add(&x->answer, bytes, len);
	return !x->answer.failed && x->answer.len < ANSWER_MAX;
}

int exchange_run(struct client *c, struct exchange *x, const char *method, int signal_fd)
{
	char user[128];
	const char *fields[3] = {};
	unsigned n = 0, n_signals = 0;

	if (x->body.len)
		fields[n++] = "Content-Type: application/json";
	if (x->user)
		fields[n++] = user_field(user, sizeof(user), x->user);
	const struct transfer_request rq = { .method = method,
					     .path = x->path.text,
					     .fields = fields,
					     .body = x->body.len ? x->body.text : NULL,
					     .body_len = x->body.len,
					     .receive = on_answer,
					     .arg = x };
	if (transfer_begin(c, &x->transfer, &rq) != EXIT_FINE)
		return EXIT_FAILED;
	while (x->transfer.busy && n_signals < (x->n_signals ? x->n_signals : 1)) {
		struct pollfd p = { .fd = signal_fd, .events = POLLIN };
		transfers_turn(c, &p, 1, 60000);
		for (int signo; (signo = signals_next(signal_fd)) > 0;) {
			x->signal = signo == SIGWINCH ? x->signal : signo;
			n_signals += signo != SIGWINCH;
		}
	}
	strbuf_puts(&x->answer, "");
	if (!x->transfer.busy)
		return EXIT_FINE;
	fprintf(stderr, "forkctl: left by signal %d; %s %s was not answered\n", x->signal, method, x->path.text);
	return EXIT_FAILED;
}

void exchange_done(struct exchange *x)
{
	transfer_done(&x->transfer);
	strbuf_done(&x->path);
	strbuf_done(&x->body);
	strbuf_done(&x->answer);
}
