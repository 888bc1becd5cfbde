// SPDX-License-Identifier: Apache-2.0
/*
 * Processes that clients have started, who listens to their output, and who feeds them. The loop's thread.
 *
 * A process belongs to the agent, not to the connection that has started it: unless the client has asked for the
 * opposite, it goes on when its client is gone, and its output is thrown away while nobody listens. A listener that does not read holds the process'
 * output up, for the others too; nothing is lost for who listens. A process is gone when it has ended and what
 * it had written by then is delivered; what its descendants write later is not.
 */
#ifndef GUEST_PROCESS_H
#define GUEST_PROCESS_H

#include "common/json64.h"
#include "guest/http.h"
#include "guest/process/spawn.h"

struct process;

struct output {
	struct watch watch; /* fd owned; -1: closed */
	struct process *process;
	const char *kind; /* "stdout", "stderr" or "pty" */
	bool last;        /* the process has ended: only `left` bytes are still to be read */
	size_t left;
};

struct process {
	struct agent *agent;
	struct process *next, **link;
	struct child child;
	char *command, *cwd, *tag; /* the tag may be NULL */
	char *config;              /* the request's process, as JSON */
	size_t config_len;
	bool pty;
	struct watch status; /* fd owned; -1: it is known whether the program runs */
	bool runs, ended;
	int wait_status; /* once it has ended */
	struct output outputs[2];
	struct watch input; /* fd owned; -1: there is none, or it is closed */
	bool input_ends;    /* close it when all is written */
	struct timer deadline;
	struct subscriber *subscribers;
	struct feeder *feeders; /* in the order in which they came */
	struct feeder *feeding; /* the one in the middle of something; NULL: none */
};

struct process_request {
	struct spawn_spec spec;
	const char *tag;      /* NULL: none */
	const char *config;   /* JSON */
	uint64_t deadline_ns; /* from now; 0: none */
	bool bound;           /* its process group is killed when the client that starts it goes away */
};

/*
 * Starts a process; `ex` is its first subscriber, and hears by a start event or an error whether that went
 * well. ERR_BUSY: LIMIT_PROCESSES are there, or LIMIT_PROCESS_BYTES of their configurations.
 */
MUST_CHECK int process_start(struct exchange *ex, const struct process_request *request, struct err *err);
/* The running process that the message's member `process` selects. ERR_NOT_FOUND: there is none. */
MUST_CHECK int process_select(struct agent *agent, const struct json_node *message, struct process **ret_process,
			      struct err *err);
/* Signals its process group. */
MUST_CHECK int process_signal(struct process *p, int signo, struct err *err);
/* Sets the size of its terminal. ERR_CONFLICT: it has none. */
MUST_CHECK int process_resize(struct process *p, uint16_t cols, uint16_t rows, struct err *err);
/* Kills all of them, and frees what the agent has of them. */
void processes_done(struct agent *agent);

/* ---- subscribers (guest/process/subscribers.c) ---- */

/*
 * Makes the exchange a subscriber: events go to its stream. timeout_ns: the stream's deadline from now, 0: none.
 * `bound`: when the client goes away, the process is killed.
 */
MUST_CHECK int subscriber_new(struct exchange *ex, struct process *p, uint64_t timeout_ns, bool bound, struct err *err);
/* Sends the start event. */
void subscribers_start(struct process *p);
/* Sends output, 64 KiB at most. */
void subscribers_data(struct process *p, const char *kind, const char *bytes, size_t len);
/* Sends the end event, and ends the streams. */
void subscribers_end(struct process *p);
/* Ends the streams with an error. */
void subscribers_fail(struct process *p, const struct err *err);
/* Has one of them no room? Then process_go_on() is called when there is room again. */
bool subscribers_full(struct process *p);
/* A subscriber is gone or can take more. */
void process_go_on(struct process *p);

/* ---- input (guest/process/input.c) ---- */

/* The service's calls SendInput and StreamInput. */
void process_send_input(struct exchange *ex);
void process_stream_input(struct exchange *ex);
/* Closes its stdin when all that was sent before is written. ERR_CONFLICT: it has a terminal. */
MUST_CHECK int process_close_stdin(struct process *p, struct err *err);
/* The process has ended: who still feeds it is told. */
void process_input_done(struct process *p);

/* ---- the service's other calls (guest/process/service.c) ---- */

/* connect_fail_err(), where ERR_CONFLICT says that the process is not in the state for it. */
void process_fail(struct exchange *ex, const struct err *err);

void process_call_start(struct exchange *ex);
void process_call_connect(struct exchange *ex);
void process_call_list(struct exchange *ex);
void process_call_signal(struct exchange *ex);
void process_call_close_stdin(struct exchange *ex);
void process_call_update(struct exchange *ex);

#endif
