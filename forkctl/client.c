// SPDX-License-Identifier: Apache-2.0
/* forkctl's HTTP: libcurl, error answers for people, server-sent events. */
#include "forkctl/client.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/clock.h"
#include "forkctl/client_private.h"
#include "forkctl/table.h"

enum { TOKEN_MAX = 4096, CONNECT_TIMEOUT_MS = 5000, ANSWER_MAX = 256 << 20 };

/* ---- how to reach it ---- */

static int read_token(const char *path, char **ret_header)
{
	const char *token = getenv("FORKD_TOKEN");
	char text[TOKEN_MAX + 1];

	if (path) {
		autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
		if (n < 0) {
			fprintf(stderr, "forkctl: cannot read the token file '%s': %s\n", path, strerror(errno));
			return EXIT_USAGE;
		}
		text[n] = '\0';
		text[strcspn(text, "\r\n")] = '\0';
		token = text;
	}
	if (!token || !*token)
		return EXIT_FINE;
	for (const char *at = token; *at; at++)
		if (*at <= ' ' || *at > '~') {
			fprintf(stderr, "forkctl: the token of %s has a character that no token has\n",
				path ? path : "$FORKD_TOKEN");
			return EXIT_USAGE;
		}
	return asprintf(ret_header, "Authorization: Bearer %s", token) < 0 ? EXIT_FAILED : EXIT_FINE;
}

/*
 * The socket that forkd chooses: root's, else the user's own. The socket of root's daemon comes first when it exists.
 */
static void default_socket(struct client *c)
{
	const char *env = getenv("FORKD_SOCKET"), *dir = getenv("XDG_RUNTIME_DIR");

	c->socket = env && *env ? env : "/run/forkd/forkd.sock";
	if ((env && *env) || geteuid() == 0 || !dir || access(c->socket, F_OK) == 0)
		return;
	if (asprintf(&c->own_socket, "%s/forkd/forkd.sock", dir) < 0)
		c->own_socket = NULL;
	else
		c->socket = c->own_socket;
}

int client_new(const struct args *args, struct client **ret)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c || curl_global_init(CURL_GLOBAL_DEFAULT) != 0 || !(c->curl = curl_easy_init())) {
		free(c);
		fprintf(stderr, "forkctl: libcurl does not start\n");
		return EXIT_FAILED;
	}
	*ret = c;
	c->json = args_option(args, "json");
	c->base = args_option(args, "url");
	c->cacert = args_option(args, "cacert");
	c->socket = args_option(args, "socket");
	if (c->base && c->socket) {
		args_wrong(args, "--socket and --url exclude each other");
		return EXIT_USAGE;
	}
	if (c->base)
		return read_token(args_option(args, "token-file"), &c->token_header);
	if (!c->socket)
		default_socket(c);
	c->base = "http://localhost";
	return EXIT_FINE;
}

void client_free(struct client *c)
{
	if (!c)
		return;
	curl_easy_cleanup(c->curl);
	curl_multi_cleanup(c->multi);
	free(c->token_header);
	free(c->own_socket);
	free(c);
}

void answer_done(struct answer *a)
{
	strbuf_done(&a->body);
	json_done(&a->json);
	free(a->text);
	*a = (struct answer){};
}

/* ---- one request ---- */

static size_t on_body(char *bytes, size_t size, size_t n, void *arg)
{
	struct strbuf *body = arg;

	if (body->len + size * n > ANSWER_MAX)
		return 0;
	strbuf_add(body, bytes, size * n);
	return body->failed ? 0 : size * n;
}

static struct curl_slist *add_header(struct curl_slist *list, const char *text)
{
	return text ? curl_slist_append(list, text) : list;
}

bool prepare_transfer(struct client *c, CURL *curl, const char *path, const char *header, struct curl_slist **headers)
{
	autostrbuf struct strbuf url = {};
	size_t base_len = strlen(c->base);

	if (base_len > 0 && c->base[base_len - 1] == '/')
		base_len--;
	strbuf_printf(&url, "%.*s%s", (int)base_len, c->base, path);
	if (url.failed)
		return false;
	*headers = add_header(*headers, header);
	*headers = add_header(*headers, c->token_header);
	*headers = add_header(*headers, "Expect:");
	curl_easy_setopt(curl, CURLOPT_URL, url.text);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, *headers);
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_TIMEOUT_MS);
	c->detail[0] = '\0';
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, c->detail);
	if (c->socket) {
		curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, c->socket);
		curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
	}
	if (c->cacert)
		curl_easy_setopt(curl, CURLOPT_CAINFO, c->cacert);
	return true;
}

/* c->curl, ready for curl_easy_perform() or a multi handle. */
static bool prepare_request(struct client *c, const char *method, const char *path, const char *body, struct answer *a,
			    struct curl_slist **headers)
{
	curl_easy_reset(c->curl);
	answer_done(a);
	curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, method);
	if (body || strcmp(method, "POST") == 0) {
		curl_easy_setopt(c->curl, CURLOPT_POSTFIELDSIZE, body ? (long)strlen(body) : 0L);
		curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, body ? body : "");
	}
	curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, &a->body);
	return prepare_transfer(c, c->curl, path, body ? "Content-Type: application/json" : NULL, headers);
}

static CURLcode request(struct client *c, const char *method, const char *path, const char *body, struct answer *a)
{
	struct curl_slist *headers = NULL;
	CURLcode code = CURLE_OUT_OF_MEMORY;

	if (prepare_request(c, method, path, body, a, &headers))
		code = curl_easy_perform(c->curl);
	curl_slist_free_all(headers);
	curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &a->status);
	return code;
}

/* ---- what went wrong ---- */

int say_unreachable(const struct client *c, CURL *curl, CURLcode code)
{
	const char *detail = c->detail[0] ? c->detail : curl_easy_strerror(code);
	long num = 0;

	curl_easy_getinfo(curl, CURLINFO_OS_ERRNO, &num);
	if (!c->socket) {
		fprintf(stderr, "forkctl: cannot reach forkd at %s: %s\n", c->base, detail);
		fprintf(stderr,
			"Start it with --listen ADDR:PORT --token-file FILE, and give its address with --url.\n");
	} else if (num == EACCES || num == EPERM) {
		fprintf(stderr, "forkctl: you may not open forkd's socket %s: %s\n", c->socket, strerror((int)num));
		fprintf(stderr, "Run this as root, or join the group that owns the socket.\n");
	} else if (code == CURLE_COULDNT_CONNECT) {
		fprintf(stderr, "forkctl: cannot reach forkd at %s: %s\n", c->socket,
			num ? strerror((int)num) : detail);
		fprintf(stderr, "Start it: systemctl start forkd, or: forkd --socket %s\n", c->socket);
	} else {
		fprintf(stderr, "forkctl: lost forkd at %s: %s\n", c->socket, detail);
	}
	return EXIT_UNREACHABLE;
}

int say_error(const struct client *c, struct answer *a)
{
	struct err err = {};
	const char *body = a->body.text ? a->body.text : "";

	if (c->json && *body) {
		fprintf(stderr, "%s\n", body);
		return EXIT_FAILED;
	}
	a->text = strdup(body);
	const struct json_node *root = NULL;
	if (a->text && json_parse(&a->json, a->text, strlen(body), &err) == 0)
		root = a->json.nodes;
	const char *message = member_text(root, "message", NULL), *remedy = member_text(root, "remedy", "");
	if (!message) {
		fprintf(stderr, "forkctl: the answer has status %ld and is not forkd's: %.200s\n", a->status, body);
		return EXIT_FAILED;
	}
	fprintf(stderr, "forkctl: ");
	print_clean(stderr, message);
	fprintf(stderr, " (%s)\n", member_text(root, "code", "no code"));
	print_clean(stderr, remedy);
	fprintf(stderr, "%s", *remedy ? "\n" : "");
	return EXIT_FAILED;
}

static int judge(struct client *c, CURLcode code, struct answer *a)
{
	if (code != CURLE_OK)
		return say_unreachable(c, c->curl, code);
	return a->status >= 200 && a->status < 300 ? EXIT_FINE : say_error(c, a);
}

int client_call(struct client *c, const char *method, const char *path, const char *body, struct answer *a)
{
	return judge(c, request(c, method, path, body, a), a);
}

static int parse_answer(struct answer *a, const char *method, const char *path)
{
	struct err err = {};
	char line[ERR_MSG_BYTES];

	a->text = strdup(a->body.text ? a->body.text : "");
	if (a->text && json_parse(&a->json, a->text, a->body.len, &err) == 0)
		return EXIT_FINE;
	fprintf(stderr, "forkctl: the answer to %s %s cannot be read: %s\n", method, path,
		err_line(&err, line, sizeof(line)));
	return EXIT_FAILED;
}

int client_call_json(struct client *c, const char *method, const char *path, const char *body, struct answer *a)
{
	int status = client_call(c, method, path, body, a);

	return status != EXIT_FINE ? status : parse_answer(a, method, path);
}

bool client_probe(struct client *c, const char *path, struct answer *a, char *why)
{
	CURLcode code = request(c, "GET", path, NULL, a);
	long num = 0;

	why[0] = '\0';
	curl_easy_getinfo(c->curl, CURLINFO_OS_ERRNO, &num);
	if (code != CURLE_OK)
		snprintf(why, 256, "%s: %.150s", c->socket ? c->socket : c->base,
			 code == CURLE_COULDNT_CONNECT && num ? strerror((int)num) : curl_easy_strerror(code));
	else if (a->status < 200 || a->status >= 300)
		snprintf(why, 256, "%s answers %ld", path, a->status);
	return !why[0];
}

/* ---- server-sent events ---- */

enum { LINE_MAX_BYTES = 1 << 20, TICK_MS = 200 };

struct sse {
	const struct event_handler *handler;
	struct strbuf line, id, type, data;
	CURL *curl;
	struct curl_slist *headers;
	uint64_t ticked_ns;
	bool enough;
	struct strbuf error; /* body of an answer that is no stream */
};
#define autosse __attribute__((cleanup(sse_done)))

static void set(struct strbuf *b, const char *text)
{
	b->len = 0;
	strbuf_puts(b, text);
}

static void on_line(struct sse *s)
{
	char *text = s->line.text;

	text[strcspn(text, "\r")] = '\0';
	if (!*text) { /* an empty line ends an event */
		if (s->data.len && !s->enough)
			s->enough = !s->handler->event(s->handler->arg, s->id.len ? s->id.text : "",
						       s->type.len ? s->type.text : "message", s->data.text);
		s->data.len = 0;
		s->type.len = 0;
		return;
	}
	char *value = strchr(text, ':');
	if (!value || value == text) /* a comment keeps the connection alive */
		return;
	*value++ = '\0';
	value += *value == ' ';
	if (strcmp(text, "id") == 0)
		set(&s->id, value);
	else if (strcmp(text, "event") == 0)
		set(&s->type, value);
	else if (strcmp(text, "data") == 0)
		strbuf_printf(&s->data, "%s%s", s->data.len ? "\n" : "", value);
}

static size_t on_stream(char *bytes, size_t size, size_t n, void *arg)
{
	struct sse *s = arg;
	long status = 0;

	curl_easy_getinfo(s->curl, CURLINFO_RESPONSE_CODE, &status);
	if (status != 200)
		return on_body(bytes, size, n, &s->error);
	for (size_t i = 0; i < size * n && !s->enough; i++) {
		if (bytes[i] != '\n') {
			strbuf_putc(&s->line, bytes[i]);
			continue;
		}
		strbuf_puts(&s->line, ""); /* ends the text with NUL, an empty text too */
		if (!s->line.failed)
			on_line(s);
		s->line.len = 0;
	}
	return s->enough || s->line.failed || s->line.len > LINE_MAX_BYTES ? 0 : size * n;
}

static int on_progress(void *arg, curl_off_t dl_total, curl_off_t dl, curl_off_t ul_total, curl_off_t ul)
{
	struct sse *s = arg;
	uint64_t now = monotonic_ns();

	(void)dl_total, (void)dl, (void)ul_total, (void)ul;
	if (!s->handler->tick || now - s->ticked_ns < TICK_MS * 1000000ULL)
		return 0;
	s->ticked_ns = now;
	s->enough = s->enough || !s->handler->tick(s->handler->arg);
	return s->enough;
}

static void sse_done(struct sse *s)
{
	strbuf_done(&s->line);
	strbuf_done(&s->id);
	strbuf_done(&s->type);
	strbuf_done(&s->data);
	strbuf_done(&s->error);
	curl_easy_cleanup(s->curl);
	curl_slist_free_all(s->headers);
}

static bool prepare_stream(struct client *c, const char *path, struct sse *s)
{
	s->curl = curl_easy_init();
	if (!s->curl)
		return false;
	curl_easy_setopt(s->curl, CURLOPT_WRITEFUNCTION, on_stream);
	curl_easy_setopt(s->curl, CURLOPT_WRITEDATA, s);
	return prepare_transfer(c, s->curl, path, "Accept: text/event-stream", &s->headers);
}

int client_events(struct client *c, const char *path, const struct event_handler *h)
{
	autosse struct sse s = { .handler = h };
	CURLcode code = CURLE_OUT_OF_MEMORY;
	autoanswer struct answer a = {};

	if (prepare_stream(c, path, &s)) {
		curl_easy_setopt(s.curl, CURLOPT_NOPROGRESS, 0L);
		curl_easy_setopt(s.curl, CURLOPT_XFERINFOFUNCTION, on_progress);
		curl_easy_setopt(s.curl, CURLOPT_XFERINFODATA, &s);
		code = curl_easy_perform(s.curl);
	}
	if (s.enough)
		return EXIT_FINE;
	if (code != CURLE_OK)
		return say_unreachable(c, s.curl, code);
	curl_easy_getinfo(s.curl, CURLINFO_RESPONSE_CODE, &a.status);
	if (a.status == 200)
		return EXIT_FINE;
	a.body = s.error;
	s.error = (struct strbuf){};
	return say_error(c, &a);
}

/* Drives all transfers until c->curl's is over. The end of any other is no matter. */
static CURLcode drive(struct client *c, CURLM *multi, const struct event_handler *h)
{
	for (;;) {
		int n = 0;
		const CURLMsg *m;
		if (curl_multi_perform(multi, &n) != CURLM_OK)
			return CURLE_FAILED_INIT;
		while ((m = curl_multi_info_read(multi, &n)))
			if (m->msg == CURLMSG_DONE && m->easy_handle == c->curl)
				return m->data.result;
		if (h->tick)
			h->tick(h->arg);
		if (curl_multi_poll(multi, NULL, 0, TICK_MS, NULL) != CURLM_OK)
			return CURLE_FAILED_INIT;
	}
}

int client_call_watching(struct client *c, const char *path, const char *body, struct answer *a,
			 const struct event_handler *h)
{
	autosse struct sse s = { .handler = h };
	struct curl_slist *headers = NULL;
	CURLM *multi = curl_multi_init();
	CURLcode code = CURLE_OUT_OF_MEMORY;

	if (multi && prepare_stream(c, "/v1/events", &s) && prepare_request(c, "POST", path, body, a, &headers)) {
		curl_multi_add_handle(multi, s.curl);
		curl_multi_add_handle(multi, c->curl);
		code = drive(c, multi, h);
		curl_multi_remove_handle(multi, c->curl);
		curl_multi_remove_handle(multi, s.curl);
	}
	curl_slist_free_all(headers);
	curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &a->status);
	if (h->end)
		h->end(h->arg);
	int status = judge(c, code, a);
	curl_multi_cleanup(multi);
	return status != EXIT_FINE ? status : parse_answer(a, "POST", path);
}

/* ---- paths and bodies ---- */

void path_add(struct strbuf *b, const char *fixed, const char *text)
{
	strbuf_puts(b, fixed);
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;
		if (c < 0x80 && (isalnum(c) || strchr("-_~.", c)))
			strbuf_putc(b, *text);
		else
			strbuf_printf(b, "%%%02X", c);
	}
}

void body_raw(struct strbuf *b, const char *key, const char *json)
{
	if (b->len && b->text[b->len - 1] != '{' && b->text[b->len - 1] != '[')
		strbuf_putc(b, ',');
	if (key)
		strbuf_printf(b, "\"%s\":", key);
	strbuf_puts(b, json);
}

void body_pair(struct strbuf *b, const char *key, size_t key_len, const char *text)
{
	body_raw(b, NULL, "");
	strbuf_json(b, key, key_len);
	strbuf_putc(b, ':');
	strbuf_json(b, text, strlen(text));
}

void body_text(struct strbuf *b, const char *key, const char *text)
{
	body_pair(b, key, strlen(key), text);
}
