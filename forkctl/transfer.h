// SPDX-License-Identifier: Apache-2.0
/*
 * Requests whose bodies are streams, several beside each other and beside other descriptors, in one loop. What nobody takes
 * holds its sender up: no body is in memory as a whole. One thread.
 */
#ifndef FORKCTL_TRANSFER_H
#define FORKCTL_TRANSFER_H

#include <poll.h>

#include "forkctl/client.h"

enum { TRANSFER_WAIT = -1, TRANSFER_BREAK = -2 };

struct transfer_request {
	const char *method, *path;
	const char *const *fields; /* "Name: value" …, NULL-terminated; NULL: none */
	const char *body;          /* borrowed until the end; NULL: none, or send() */
	size_t body_len;
	/*
	 * The next bytes of the request's body: how many; 0: the body is whole; TRANSFER_WAIT: none now, until
	 * transfer_go_on(); TRANSFER_BREAK: breaks the request off. NULL: `body`. A client has one such request at a time.
	 */
	ssize_t (*send)(void *arg, char *bytes, size_t size);
	int64_t send_len; /* what send() will give; -1: not known */
	/* Bytes of a 2xx answer's body. False: breaks the request off. NULL: they are dropped. */
	bool (*receive)(void *arg, const char *bytes, size_t len);
	void *arg;
	bool connect_only; /* no request: the connection, for tunnel.c */
};

/* A request on its way; zeroed before the first use, and must not move. */
struct transfer {
	bool busy;     /* between transfer_begin() and the end */
	long status;   /* of the answer, as soon as its head has come; 0 before */
	int64_t total; /* bytes of the answer's body, as soon as its head has come; -1: not known */
	/* private */
	int code;
	struct client *client;
	void *curl, *headers;
	struct transfer_request rq;
	struct strbuf refusal; /* body of an answer that is no 2xx */
	bool sends_nothing, lost, holds, added;
	int sockets[4]; /* borrowed, of an upload's connection; those that did not become it are closed */
	unsigned n_sockets;
	char detail[256];
};

/* Begins a request. EXIT_FINE, or said why not. */
MUST_CHECK int transfer_begin(struct client *c, struct transfer *t, const struct transfer_request *rq);
/* One turn for all transfers of the client: waits for them, and for the descriptors (poll()'s terms; fd -1 is skipped). */
void transfers_turn(struct client *c, struct pollfd *fds, unsigned n, int timeout_ms);
/* send() has something again. */
void transfer_go_on(struct transfer *t);
/* Holds the answer's body back, or not: a few KiB may still come. */
void transfer_hold(struct transfer *t, bool hold);
/* Of one that has ended: EXIT_FINE when the answer was a whole 2xx; else says why not. */
MUST_CHECK int transfer_judge(struct transfer *t);
/* The member "code" of the answer of one that has ended without a 2xx; "" when there is none. */
void transfer_error_code(const struct transfer *t, char *buf, size_t size);
/* Breaks it off, if it is busy. Can begin again afterwards. */
void transfer_done(struct transfer *t);
#define autotransfer __attribute__((cleanup(transfer_done)))

/* One request with a small answer, which signals can end; zeroed before the first use. */
struct exchange {
	struct strbuf path, body; /* by the caller; a body is JSON */
	const char *user;         /* of the guest, for what its agent answers; NULL: none */
	unsigned n_signals;       /* so many signals end it; 0: one does */
	int signal;               /* the last one that came; 0: none */
	struct strbuf answer;     /* NUL-terminated */
	struct transfer transfer;
};
/* EXIT_FINE: it was answered, with whatever status: x->transfer. Else said why not. `signal_fd`: of signals_open(). */
MUST_CHECK int exchange_run(struct client *c, struct exchange *x, const char *method, int signal_fd);
void exchange_done(struct exchange *x);
#define autoexchange __attribute__((cleanup(exchange_done)))
/* Whether it can be the name of a guest's user. */
bool user_name_valid(const char *user);
/* The field that says for which user of the guest a request is, in `buf`. */
const char *user_field(char *buf, size_t size, const char *user);

#endif
