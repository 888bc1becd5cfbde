// SPDX-License-Identifier: Apache-2.0
/*
 * The front: it owns every connection of clients, from accept() to close(). It takes TLS and HTTP's
 * frames off, collects a request without a thread, and hands the request to its owner, the REST server,
 * in a thread of the pool; the thread writes the answer itself. Streams of events and relayed streams
 * have no thread between their bytes. A kept connection may use them all, one after the other.
 */
#ifndef FORKD_FRONT_FRONT_H
#define FORKD_FRONT_FRONT_H

#include "forkd/front/accept.h"
#include "forkd/front/message.h"

enum { FRONT_HEAD_MAX = 64 * 1024 }; /* request line and headers of a client */

struct front;
struct conn;

/* What the owner does with a request. One request runs in one thread at a time. */
struct front_hooks {
	/*
	 * The head has come (conn_request()). Returns what the other functions get; NULL: the connection is
	 * to be cut. Must not wait. May call conn_answer() to answer before the body, or conn_begin_now().
	 */
	void *(*head)(void *arg, struct conn *c);
	/* A part of the body. Must not wait. False: the connection is to be cut. */
	bool (*body)(void *rq, const char *bytes, size_t len);
	/*
	 * The whole request has come. May wait. Calls conn_answer(), conn_stream() or conn_relay();
	 * otherwise the connection is cut.
	 */
	void (*run)(void *rq);
	/* What conn_relay() leads to has this status. Must not wait. */
	void (*answered)(void *rq, unsigned status);
	/* Nothing more comes for this request. */
	void (*done)(void *rq);
	void *arg;
};

struct front_options {
	struct front_hooks hooks;
	struct accept_listener listeners[ACCEPT_LISTENERS_MAX];
	unsigned n_listeners;
	const char *tls_cert, *tls_key; /* PEM; NULL: no listener has TLS */
	unsigned max_connections;       /* of each share */
	unsigned idle_s, token_s;
};

/* Starts to accept connections. `opt` is borrowed during the call. */
MUST_CHECK int front_start(const struct front_options *opt, struct front **ret, struct err *err);
/*
 * Stops accepting, waits 10 s at most for requests at work and their answers, cuts what is left, waits
 * for the threads, and frees the front. NULL is fine.
 */
void front_stop(struct front *f);
bool front_stopping(const struct front *f);
/* Lets every stream look for something new. Any thread; never waits. */
void front_wake(struct front *f);

/* ---- for the owner, about the request at hand ---- */

const struct message *conn_request(const struct conn *c);
struct peer *conn_peer(const struct conn *c);
/* CLOCK_MONOTONIC of the request's first byte. */
uint64_t conn_begun_ns(const struct conn *c);
/* Whether nobody waits for the answer: the client has left, or the front stops. Any thread. */
bool conn_gone(const struct conn *c);
/* In hooks.head: the request runs now, before its body, which is for conn_relay(). */
void conn_begin_now(struct conn *c);

struct response {
	unsigned status;
	struct strbuf fields; /* "Name: value\r\n" …, without Content-Length, Date and Connection */
	struct strbuf body;   /* taken over */
	bool dated;           /* `fields` has a Date */
	bool close;           /* the connection carries no further request */
};
/* Answers the request. Releases *a. */
void conn_answer(struct conn *c, struct response *a);

/* An answer that has no end yet. */
struct stream {
	/*
	 * Adds what is new to `out`, without waiting. Called after front_wake(), every few seconds, and while
	 * there is more. False: the stream ends behind this.
	 */
	bool (*pull)(void *arg, struct strbuf *out);
	void (*done)(void *arg); /* frees arg */
	void *arg;
};
/* Answers with a->status and a->fields, and a stream instead of a->body. Takes the stream over, and releases *a. */
void conn_stream(struct conn *c, struct response *a, const struct stream *stream);

struct relay_options {
	int upstream;       /* a connected stream socket to the server, which carries this request alone */
	char what[128];     /* the server in messages: "clone 'c-1': the guest's agent" */
	struct strbuf head; /* for the server: request line and fields, without those of relay_copy_fields() */
	const char *const *
		dropped; /* names of fields of the response that the client does not get; NULL-terminated; may be NULL */
	const char *added; /* "Name: value\r\n" … that the response gets; NULL: none */
	bool upgrades;     /* client and server may change to another protocol (status 101) */
	bool tunnel;       /* no HTTP at the server: the client gets its upgrade at once, and bytes from then on */
};
/* Whether the request asks for another protocol and has no body. */
bool relay_upgrade_asked(const struct message *m);
/*
 * Passes the request on to a server, and the server's response to the client. Takes the socket and the
 * head over. E_AGENT (502) goes to the client of a server that hangs up or answers what is no response.
 */
void conn_relay(struct conn *c, struct relay_options *opt);
/*
 * Adds the fields of a head to `out`, "Name: value\r\n" each, without those that are about one
 * connection or the framing of the body, and without those in `dropped` (NULL-terminated; may be NULL).
 */
void relay_copy_fields(const struct message *m, const char *const *dropped, struct strbuf *out);

#endif
