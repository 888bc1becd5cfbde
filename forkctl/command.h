// SPDX-License-Identifier: Apache-2.0
/*
 * A command in a guest, by the agent there: its input and output are descriptors of this process, byte for byte, and signals
 * are passed on. Neither input nor output is ever in memory as a whole: who does not read holds up who writes. One thread.
 */
#ifndef FORKCTL_COMMAND_H
#define FORKCTL_COMMAND_H

#include "forkctl/client.h"
#include "forkctl/terminal.h"

/* Exit statuses besides the command's own, as docker's and timeout's; 128 + N: signal N has ended the command. */
enum { COMMAND_TIMEOUT = 124, COMMAND_FAILED = 125, COMMAND_CANNOT = 126, COMMAND_ABSENT = 127, COMMAND_SIGNAL = 128 };

struct command {
	const char *id;          /* the clone's */
	const char *const *argv; /* `argc` of them */
	unsigned argc;
	const char *user, *cwd;    /* NULL: as the agent has it */
	const char *envs;          /* members of a JSON object, without braces; NULL: none */
	uint64_t timeout_s;        /* 0: none */
	bool tty;                  /* its stdin, stdout and stderr are one terminal, as large as this process' */
	int in_fd;                 /* -1: its stdin is /dev/null */
	int out_fd, err_fd;        /* -1: dropped */
	bool plain_err;            /* what its stderr has besides printable ASCII and line ends becomes '?' */
	struct terminal *terminal; /* to be raw from the command's start to its end; NULL: none */
	int signal_fd;             /* of signals_open() */
	void (*tick)(void *arg);   /* some times a second; NULL: none */
	void *arg;
	/* what came of it */
	uint64_t n_in, n_out; /* bytes that were taken from in_fd and written to out_fd */
	int signal;           /* the last signal that came; 0: none */
};

/*
 * Runs the command until it has ended and all its output is written. The first SIGINT, SIGTERM, SIGHUP or
 * SIGQUIT is passed on as SIGTERM (there is no other name for it in the protocol), the second one as SIGKILL,
 * and the third one leaves the command alone; so does, after 10 s, SIGHUP for a command with a terminal. A descriptor for its output that takes nothing more (EPIPE) is
 * a SIGTERM too. Returns the exit status; what is not the command's own was said on stderr.
 */
MUST_CHECK int command_run(struct client *client, struct command *cmd);

#endif
