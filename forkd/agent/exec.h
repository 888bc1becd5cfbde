// SPDX-License-Identifier: Apache-2.0
/*
 * One command in a guest, from its start to its end, through the agent's process.Process
 * (docs/agent.md). The guest may be hostile: whatever it sends is bounded, and checked before it is
 * used. Any thread.
 */
#ifndef FORKD_AGENT_EXEC_H
#define FORKD_AGENT_EXEC_H

#include "common/json64.h"

enum {
	EXEC_OUTPUT_BYTES = 1 << 20, /* of stdout and of stderr, each, unless the request says another number */
	EXEC_OUTPUT_MAX = 16 << 20,
	EXEC_HELD_MAX = 512 << 20, /* of all commands' output together; what comes beyond it is cut off */
	EXEC_TIMEOUT_S = 60,
	EXEC_TIMEOUT_MAX_S = 86400,
};

/* What a request wants to be run. */
struct exec_wish {
	char *start;         /* heap; the agent's message, JSON */
	char *user;          /* heap; NULL: the agent's default user */
	struct strbuf input; /* the bytes of stdin */
	bool has_input;
	uint64_t timeout_s, max_output;
};
/*
 * Loads and checks `node`: cmd with args, or shell; env, cwd, user, stdin or stdin_b64, timeout_s,
 * max_output_bytes. `other`: a member that somebody else reads, or NULL.
 * exec_wish_done() frees *ret, also after a failure, and wipes what may be secret.
 */
MUST_CHECK int exec_wish_load(const struct json_node *node, const char *other, struct exec_wish *ret, struct err *err);
void exec_wish_done(struct exec_wish *w);
#define autoexecwish __attribute__((cleanup(exec_wish_done)))

struct exec_output {
	struct strbuf bytes;
	bool truncated; /* there was more */
};

/* How a command ended. Zeroed before use; released by exec_result_done(). */
struct exec_result {
	struct exec_output out, err;
	int32_t exit_code, signal; /* signal: 0, or what ended it; exit_code is -1 then */
	bool timed_out;            /* its time was over, and it was killed */
	uint64_t took_us;          /* from exec_run() on until the command's end */
};
void exec_result_done(struct exec_result *r);
#define autoexecresult __attribute__((cleanup(exec_result_done)))

/* The request to the agent's API that starts the command; the caller wipes it. E_INVALID: the user cannot be a name. */
MUST_CHECK int exec_request(const struct exec_wish *w, struct strbuf *out, struct err *err);

struct exec_call {
	int fd, input_fd; /* connections to the agent that stay the caller's; input_fd -1: the wish has no input */
	const struct exec_wish *wish;
	bool (*gone)(const void *arg); /* nobody waits for the result any more */
	const void *arg;
};
/*
 * Runs the command, whose exec_request() was sent on `fd`. The guest kills its process group when the time is over and when `fd` is closed
 * before its end. E_INVALID: the agent knows no such user, directory or program. E_BUSY: it has too
 * many processes. E_AGENT: it hung up, or answers what is no answer. E_TIMEOUT: it does not even say
 * that the time is over, or `gone` said so.
 */
MUST_CHECK int exec_run(const struct exec_call *call, struct exec_result *ret, struct err *err);

#endif
