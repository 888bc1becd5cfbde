// SPDX-License-Identifier: Apache-2.0
/*
 * A client's connection, in the thread that its source runs in: what front.c, conn.c and the files of
 * what a connection can be share.
 */
#ifndef FORKD_FRONT_CONN_H
#define FORKD_FRONT_CONN_H

#include <pthread.h>
#include <stdatomic.h>

#include "forkd/front/front.h"
#include "forkd/front/tls.h"

enum { DEADLINE_IDLE, DEADLINE_LINGER, DEADLINE_TICK };
enum { CONN_READ_BYTES = 16 * 1024 };

TAILQ_HEAD(conns, conn);

struct front {
	struct front_hooks hooks;
	struct pool *pool;
	struct acceptor *acceptor;
	struct tls_server *tls;
	atomic_bool stopping;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t idle;
	unsigned n_running;   /* requests at work, and answers that are being sent */
	struct conns streams; /* connections that have a stream */
	struct source waker;  /* lets the streams run */
	int wake_fd;
	atomic_uint n_streams;
};

enum conn_state {
	CONN_HANDSHAKE,
	CONN_READ,   /* a request comes in */
	CONN_RUN,    /* the request has come, or is to run before its body */
	CONN_WRITE,  /* `out` is sent, then comes the next request, or the end */
	CONN_RELAY,  /* request and response are passed through: relay.h */
	CONN_STREAM, /* `out` is sent, and filled by the stream again and again */
	CONN_LINGER, /* the last answer is sent; what the client still sends is dropped */
	CONN_END,
};

struct conn {
	struct front *front;
	struct peer *peer;
	struct tls *tls; /* NULL: none */
	enum conn_state state;
	struct message request;
	uint64_t begun_ns;  /* 0: no byte of the request has come */
	void *rq;           /* the owner's; NULL: none, or done with */
	struct strbuf rest; /* came behind the request, or before it was looked at */
	struct strbuf out;
	size_t out_sent;
	struct stream stream;
	struct relay *relay;
	TAILQ_ENTRY(conn) link; /* in front->streams */
	bool answered, begin_now, cut;
	bool counted;    /* in front->n_running */
	bool raw_stream; /* the client speaks HTTP/1.0: the stream has no chunks, and ends with the connection */
	bool close;      /* no request comes after this one */
};

/* What a step of a connection leads to. */
enum step { STEP_ON, STEP_WAIT };

/* Takes a peer over, as accept_options.spoken says. */
bool conn_start(struct front *f, struct peer *peer);

/* As recv() and send() without a wait, through TLS if there is TLS. */
ssize_t conn_recv(struct conn *c, char *buf, size_t size);
ssize_t conn_send(struct conn *c, const char *bytes, size_t len);
/* Sends `out`. 0: all of it; -EAGAIN; else the connection is broken. */
int conn_flush(struct conn *c);
/* Waits for events of the client's socket, and for a deadline (-1: none). */
enum step conn_wait(struct conn *c, uint32_t events, int deadline);
/* Whether bytes of the client are at hand without a look at the socket. */
bool conn_has_more(const struct conn *c);

/* The request is answered: the front need not wait for it when it stops. */
void conn_settle(struct conn *c);

/* write.c */
/* The head of an answer, all of whose framing is in a->fields. Releases *a. */
void conn_begin_answer(struct conn *c, struct response *a);
enum step conn_stream_step(struct conn *c);
/* The connection has a stream no more. */
void conn_end_stream(struct conn *c);

#endif
