// SPDX-License-Identifier: Apache-2.0
/*
 * The user's side of a command: the terminal, which is raw for a time and put back whatever ends that, and signals that are
 * read, not taken. One thread.
 */
#ifndef FORKCTL_TERMINAL_H
#define FORKCTL_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>
#include <termios.h>

#include "common/auto.h"

struct terminal {
	struct termios before;
	bool raw;
};

/*
 * Blocks SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGWINCH, and ignores SIGPIPE. Returns a signalfd, which is
 * non-blocking and close-on-exec, or -errno. Comes before terminal_raw(): so no signal ends the process
 * before the terminal is restored.
 */
MUST_CHECK int signals_open(void);
/* The next signal; 0: there is none now. */
int signals_next(int signal_fd);

/* Makes the terminal raw, when stdin is one. *t starts zeroed. */
void terminal_raw(struct terminal *t);
/* Puts back what was before. NULL is fine. */
void terminal_done(struct terminal *t);
#define autoterminal __attribute__((cleanup(terminal_done)))
/* Columns and rows of the terminal at stdin, stdout or stderr; 80 and 24 when none is one. */
void terminal_size(uint16_t *ret_cols, uint16_t *ret_rows);

/* False: errno says why. */
bool write_all(int fd, const char *bytes, size_t len);

#endif
