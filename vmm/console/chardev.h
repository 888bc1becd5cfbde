// SPDX-License-Identifier: Apache-2.0
/*
 * The host's end of the serial port and of the virtio console: nothing, a file, the terminal, a new pty, or a unix
 * socket. Output may come from any thread; input arrives on the main thread. A reader that does not keep up loses
 * output: a guest is never stopped by its console.
 */
#ifndef VMM_CONSOLE_CHARDEV_H
#define VMM_CONSOLE_CHARDEV_H

#include <pthread.h>

#include "common/sock.h"
#include "vmm/config/config.h"
#include "vmm/core/loop.h"

enum { CHARDEV_LOG_MAX = 16 << 20, CHARDEV_WRITE_MAX = 64 << 10 };

struct chardev {
	struct loop *loop;
	struct source in, listener; /* fd -1: none */
	int out_fd;                 /* -1: output vanishes */
	uint8_t mode;               /* enum console_mode */
	bool has_terminal;          /* stdin is one; the lock guards its mode */
	bool has_made_raw;
	_Atomic bool wants_input;
	_Atomic bool hung_up; /* a pty nobody has open: EPOLLET, or its hang-up would be reported for ever */
	int log_fd;           /* besides: a file with the newest CHARDEV_LOG_MAX bytes of output; -1: none */
	uint64_t log_bytes;
	bool log_stuck;          /* the log is full and cannot be cut; said in the log of the process */
	bool stuck;              /* a terminal or pipe that took nothing for a while: do not wait for it again */
	const char *socket_path; /* of the config, removed at the end */
	struct sock_file socket_file;
	pthread_mutex_t lock; /* out_fd: a socket's peer may come and go */
	/* Called with 1..256 bytes, never before the first chardev_want_input(). */
	void (*input)(void *opaque, const uint8_t *data, size_t len);
	void *opaque;
};

/*
 * Opens what the config says; descriptors in it (log_fd, readable and writable; listen_fd) come before its mode and stay the caller's. CONSOLE_OFF is the caller's business. A pty's name is written to cfg->file, as
 * vm.info shows it.
 */
MUST_CHECK int chardev_open(struct chardev *c, struct loop *loop, struct console_config *cfg, const char *name,
			    struct err *err);
void chardev_close(struct chardev *c);
/*
 * Returns how many bytes were taken, written or lost: CHARDEV_WRITE_MAX at most, one at least of any. Fewer than len: the caller lets
 * others have their turn, then comes with the rest. It waits for a terminal once, for 50 ms at most. Any thread.
 */
size_t chardev_write(struct chardev *c, const void *data, size_t len);
/* Whether input() may be called: back-pressure for a device whose guest has no buffer. Any thread. */
void chardev_want_input(struct chardev *c, bool want);

#endif
