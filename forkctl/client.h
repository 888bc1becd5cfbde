// SPDX-License-Identifier: Apache-2.0
/*
 * Requests to the daemon: libcurl over its unix socket or over the network. Functions that return an exit status have said
 * on stderr what was wrong. One thread, one connection that is kept.
 */
#ifndef FORKCTL_CLIENT_H
#define FORKCTL_CLIENT_H

#include "common/json64.h"
#include "forkctl/args.h"

enum exit_status { EXIT_FINE, EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE };

struct client;

/* How to reach the daemon, from the common options and the environment; connects to nothing yet. */
MUST_CHECK int client_new(const struct args *args, struct client **ret);
void client_free(struct client *c);

/* An answer: zeroed before first use, answer_done() after the last. */
struct answer {
	long status;
	struct strbuf body; /* as the server sent the body */
	char *text;         /* a copy, into which the JSON points */
	struct json json;
};
void answer_done(struct answer *a);
#define autoanswer __attribute__((cleanup(answer_done)))

/* One request; `body` is JSON or NULL. EXIT_FINE on a 2xx; an error of the server's was printed (its JSON with --json). */
MUST_CHECK int client_call(struct client *c, const char *method, const char *path, const char *body, struct answer *a);
/* The same with the body parsed: a->json.nodes[0]. */
MUST_CHECK int client_call_json(struct client *c, const char *method, const char *path, const char *body,
				struct answer *a);
/* A GET that prints nothing: false when there is no 2xx; `why` (of 256 bytes) has the reason. */
MUST_CHECK bool client_probe(struct client *c, const char *path, struct answer *a, char *why);

struct event_handler {
	bool (*event)(void *arg, const char *id, const char *type, const char *data); /* false: enough */
	bool (*tick)(void *arg); /* some times a second; false: enough; may be NULL */
	void (*end)(void *arg); /* client_call_watching(): the last call, before anything else is printed; may be NULL */
	void *arg;
};
/* Follows server-sent events until a handler has enough or the server ends them. */
MUST_CHECK int client_events(struct client *c, const char *path, const struct event_handler *h);

/* A long POST, with the events of meanwhile: what the handlers return is ignored, and so is a failure of the events. Parsed. */
MUST_CHECK int client_call_watching(struct client *c, const char *path, const char *body, struct answer *a,
				    const struct event_handler *h);

/* "/a/" and then the text percent-encoded, and likewise for a query: path_add(b, "?state=", text). */
void path_add(struct strbuf *b, const char *fixed, const char *text);
/* ,"key":"text" (without the comma behind a '{' or '[') */
void body_text(struct strbuf *b, const char *key, const char *text);
void body_raw(struct strbuf *b, const char *key, const char *json);
void body_pair(struct strbuf *b, const char *key, size_t key_len, const char *text);

#endif
