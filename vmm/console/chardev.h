// SPDX-License-Identifier: Apache-2.0
/*
 * The host's end of the serial port and of the virtio console: nothing, a file, the terminal, a new
 * pty, or a unix socket. Output may come from any thread; input arrives on the main thread. A reader
 * that does not keep up loses output: the console never stops a guest.
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
	struct source continued; /* SIGCONT: a shell may have put the process into the foreground; fd -1: no terminal */
	int out_fd;              /* -1: output vanishes */
	uint8_t mode;            /* enum console_mode */
	bool has_terminal;       /* stdin is a terminal; the lock guards the terminal's mode */
	bool was_front;          /* the process was seen in the foreground: output asks no more */
	bool has_made_raw;
	_Atomic bool wants_input;
	/*
	 * Reading gave EIO: nobody has the pty open, or the process is not in the terminal's foreground.
	 * The loop waits with EPOLLET, or epoll would report that for ever.
	 */
	_Atomic bool hung_up;
	int log_fd; /* a second output: a file with the newest CHARDEV_LOG_MAX bytes; -1: none */
	uint64_t log_bytes;
	bool log_stuck;          /* the file is full and cannot be cut; the process's log says so */
	bool stuck;              /* the terminal or pipe took nothing for a while: no more waiting */
	const char *socket_path; /* the config's; the socket is removed at the end */
	struct sock_file socket_file;
	pthread_mutex_t lock; /* guards out_fd: a socket's peer may come and go */
	/* Called with 1..256 bytes, never before the first chardev_want_input(). */
	void (*input)(void *opaque, const uint8_t *data, size_t len);
	void *opaque;
};

/*
 * Opens what the config says. Descriptors in the config (log_fd, readable and writable; listen_fd)
 * come before the config's mode, and stay the caller's. With CONSOLE_OFF the caller makes no chardev.
 * A pty's name is written to cfg->file: vm.info shows it.
 */
MUST_CHECK int chardev_open(struct chardev *c, struct loop *loop, struct console_config *cfg, const char *name,
			    struct err *err);
void chardev_close(struct chardev *c);
/*
 * Returns the number of bytes that were written or lost: CHARDEV_WRITE_MAX at most, and at least one
 * unless len is 0. When the number is below len, the caller lets others have their turn, then calls
 * again with the rest. A call waits for a terminal for 50 ms at most, and only once until the terminal
 * takes bytes again. Any thread.
 */
size_t chardev_write(struct chardev *c, const void *data, size_t len);
/*
 * Says whether input() may be called: a device whose guest has no buffer wants no input. Any thread.
 */
void chardev_want_input(struct chardev *c, bool want);

#endif
