// SPDX-License-Identifier: Apache-2.0
/* Files, terminals, ptys and sockets behind the guest's consoles. */
#include "vmm/console/chardev.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>

#include "common/io.h"
#include "common/log.h"
#include "vmm/core/host_open.h"

enum { STUCK_AFTER_MS = 50, WRITE_MAX = 512 /* what poll() promises of a pipe */ };
/* The process has one terminal: the mode that was found, and the mode that was set. */
static struct termios found_terminal, raw_terminal;

/*
 * Makes the terminal raw, if the process is in the foreground: in the background another process owns
 * the terminal's mode. A shell may take the terminal, change the mode and give the terminal back, so
 * this is called at each input. With the lock held.
 */
static void take_terminal(struct chardev *c)
{
	pid_t front = tcgetpgrp(STDIN_FILENO); /* -1: not the controlling terminal, so there is no background */
	struct termios now;

	if ((front >= 0 && front != getpgrp()) || tcgetattr(STDIN_FILENO, &now) < 0)
		return;
	c->was_front = true;
	if (!(now.c_lflag & (ICANON | ECHO | ISIG)))
		return;
	found_terminal = raw_terminal = now;
	cfmakeraw(&raw_terminal);
	raw_terminal.c_oflag = now.c_oflag;
	c->has_made_raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw_terminal) == 0;
}

/*
 * Restores the terminal's mode, unless somebody has changed the mode since. From the background, too.
 */
static void leave_terminal(const struct chardev *c)
{
	struct termios now;

	if (c->has_made_raw && tcgetattr(STDIN_FILENO, &now) == 0 && now.c_lflag == raw_terminal.c_lflag &&
	    now.c_iflag == raw_terminal.c_iflag)
		tcsetattr(STDIN_FILENO, TCSANOW, &found_terminal);
}

static void drop_peer(struct chardev *c)
{
	loop_del(c->loop, &c->in);
	pthread_mutex_lock(&c->lock);
	if (c->mode == CONSOLE_SOCKET && c->in.fd >= 0)
		close(c->in.fd);
	if (c->mode == CONSOLE_SOCKET)
		c->out_fd = -1;
	pthread_mutex_unlock(&c->lock);
	c->in.fd = -1;
}

static void on_input(struct source *s, uint32_t events)
{
	struct chardev *c = container_of(s, struct chardev, in);
	uint8_t buf[256];

	(void)events;
	if (c->has_terminal) {
		pthread_mutex_lock(&c->lock);
		take_terminal(c);
		pthread_mutex_unlock(&c->lock);
	}
	ssize_t n = read(s->fd, buf, sizeof(buf));
	if (n > 0 && c->hung_up) {
		c->hung_up = false;
		loop_mod(c->loop, s, c->wants_input ? EPOLLIN : 0);
	}
	if (n > 0) {
		c->input(c->opaque, buf, (size_t)n);
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR && errno != EIO)) {
		drop_peer(c);                     /* end of input; output goes on, except to a socket */
	} else if (errno == EIO && !c->hung_up) { /* once: each loop_mod() reports EIO anew */
		c->hung_up = true;
		loop_mod(c->loop, s, (c->wants_input ? EPOLLIN : 0) | EPOLLET);
	}
}

/* What was typed before the process came to the foreground is read now: no further input may come. */
static void on_continued(struct source *s, uint32_t events)
{
	struct chardev *c = container_of(s, struct chardev, continued);
	struct signalfd_siginfo info;

	(void)events;
	if (read(s->fd, &info, sizeof(info)) != (ssize_t)sizeof(info) || !c->hung_up || c->in.fd < 0)
		return;
	c->hung_up = false;
	loop_mod(c->loop, &c->in, c->wants_input ? EPOLLIN : 0);
}

static void on_connect(struct source *s, uint32_t events)
{
	struct chardev *c = container_of(s, struct chardev, listener);
	struct err err = {};

	(void)events;
	int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	if (c->in.fd >= 0) { /* one peer at a time */
		close(fd);
		return;
	}
	c->in.fd = fd;
	pthread_mutex_lock(&c->lock);
	c->out_fd = fd;
	pthread_mutex_unlock(&c->lock);
	if (loop_add(c->loop, &c->in, 0, &err) < 0)
		drop_peer(c);
	else if (c->wants_input) /* looked at after loop_add(): a vCPU may have set wants_input meanwhile */
		loop_mod(c->loop, &c->in, EPOLLIN);
}

static int open_file(struct chardev *c, const char *path, struct err *err)
{
	c->out_fd = host_open_output(path, O_TRUNC, 0666);
	return c->out_fd < 0 ? err_sys(err, ERR_INTERNAL, "open the console's file '%s'", path) : 0;
}

static int watch_continued(struct chardev *c, struct err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCONT); /* blocked by loop_signals_init() */
	c->continued = (struct source){ .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .ready = on_continued };
	if (c->continued.fd < 0)
		return err_sys(err, ERR_INTERNAL, "watch for SIGCONT");
	return loop_add(c->loop, &c->continued, EPOLLIN, err);
}

static int open_tty(struct chardev *c, struct err *err)
{
	/*
	 * stdout is opened anew: O_NONBLOCK on the shared open file would be the shell's, too. Without
	 * O_NONBLOCK a write may wait: poll() promises too much of a terminal.
	 */
	if (isatty(STDOUT_FILENO))
		c->out_fd = host_open("/proc/self/fd/1", O_WRONLY | O_NONBLOCK | O_NOCTTY, 0);
	if (c->out_fd < 0) {
		c->out_fd = STDOUT_FILENO;
		io_set_append(STDOUT_FILENO, true);
	}
	c->has_terminal = isatty(STDIN_FILENO);
	c->in.fd = STDIN_FILENO;
	if (!c->has_terminal)
		return 0;
	take_terminal(c);
	return watch_continued(c, err);
}

static int open_pty(struct chardev *c, struct console_config *cfg, struct err *err)
{
	char name[128];
	int master, slave;

	if (openpty(&master, &slave, name, NULL, NULL) < 0)
		return err_sys(err, ERR_INTERNAL, "open a pty");
	struct termios raw;
	if (tcgetattr(slave, &raw) == 0) {
		cfmakeraw(&raw);
		tcsetattr(slave, TCSANOW, &raw);
	}
	close(slave);
	fcntl(master, F_SETFD, FD_CLOEXEC);
	fcntl(master, F_SETFL, O_RDWR | O_NONBLOCK);
	c->in.fd = c->out_fd = master;
	free(cfg->file);
	cfg->file = strdup(name);
	return 0;
}

static int open_socket(struct chardev *c, const char *path, struct err *err)
{
	c->listener.fd = host_bind(path, "bind socket", &c->socket_file, err);
	if (c->listener.fd < 0)
		return err->num;
	c->socket_path = path;
	if (listen(c->listener.fd, 1) < 0)
		return err_sys(err, ERR_INTERNAL, "listen on socket '%s'", path);
	c->listener.ready = on_connect;
	return loop_add(c->loop, &c->listener, EPOLLIN, err);
}

static int take_given(int given, int *fd, struct err *err)
{
	if (given == 0)
		return 0;
	*fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
	return *fd < 0 ? err_sys(err, ERR_INTERNAL, "duplicate descriptor %d", given) : 0;
}

/* Uses the descriptors of the config. */
static int open_given(struct chardev *c, const struct console_config *cfg, struct err *err)
{
	struct stat st = {};

	c->mode = CONSOLE_SOCKET;
	if (take_given(cfg->log_fd, &c->log_fd, err) < 0 || take_given(cfg->listen_fd, &c->listener.fd, err) < 0)
		return err->num;
	if (c->log_fd >= 0) {
		io_set_append(c->log_fd, true);
		c->log_bytes = fstat(c->log_fd, &st) == 0 ? (uint64_t)st.st_size : 0;
	}
	if (c->listener.fd < 0 && c->log_fd >= 0 &&
	    !S_ISREG(st.st_mode)) { /* a device or a FIFO, which does not grow */
		c->mode = CONSOLE_FILE;
		c->out_fd = steal_fd(&c->log_fd);
	}
	if (c->listener.fd < 0)
		return 0;
	c->listener.ready = on_connect;
	return loop_add(c->loop, &c->listener, EPOLLIN, err);
}

static int open_backend(struct chardev *c, struct console_config *cfg, struct err *err)
{
	if (cfg->log_fd > 0 || cfg->listen_fd > 0)
		return open_given(c, cfg, err);
	if (host_open_is_shut()) { /* a clone that got no descriptors: the output vanishes, whatever the snapshot says */
		c->mode = CONSOLE_NULL;
		return 0;
	}
	switch (cfg->mode) {
	case CONSOLE_FILE:
		return open_file(c, cfg->file, err);
	case CONSOLE_TTY:
		return open_tty(c, err);
	case CONSOLE_PTY:
		return open_pty(c, cfg, err);
	case CONSOLE_SOCKET:
		return open_socket(c, cfg->socket, err);
	default:
		return 0;
	}
}

int chardev_open(struct chardev *c, struct loop *loop, struct console_config *cfg, const char *name, struct err *err)
{
	*c = (struct chardev){
		.loop = loop,
		.in = { .fd = -1 },
		.listener = { .fd = -1 },
		.continued = { .fd = -1 },
		.out_fd = -1,
		.log_fd = -1,
		.mode = cfg->mode,
		.lock = PTHREAD_MUTEX_INITIALIZER,
	};
	if (open_backend(c, cfg, err) < 0) {
		chardev_close(c);
		err_wrap(err, "%s", name);
		return err_wrap(err, "Error creating console devices");
	}
	c->in.ready = on_input;
	if (c->in.fd < 0)
		return 0;
	struct err ignored = {}; /* epoll refuses a regular file as stdin: no input then */
	if (loop_add(loop, &c->in, 0, &ignored) < 0)
		c->in.fd = c->mode == CONSOLE_TTY ? -1 : c->in.fd;
	return 0;
}

void chardev_close(struct chardev *c)
{
	if (!c->loop)
		return;
	if (c->in.fd >= 0)
		loop_del(c->loop, &c->in);
	if (c->listener.fd >= 0) {
		loop_del(c->loop, &c->listener);
		close(c->listener.fd);
	}
	if (c->continued.fd >= 0) {
		loop_del(c->loop, &c->continued);
		close(c->continued.fd);
	}
	if (c->socket_path)
		host_unbind(c->socket_path, &c->socket_file);
	leave_terminal(c);
	if (c->mode != CONSOLE_TTY && c->in.fd >= 0 && c->in.fd != c->out_fd)
		close(c->in.fd);
	if (c->out_fd >= 0 && c->out_fd != STDOUT_FILENO)
		close(c->out_fd);
	if (c->log_fd >= 0)
		close(c->log_fd);
	c->loop = NULL;
}

static ssize_t write_some(const struct chardev *c, const char *data, size_t len)
{
	struct pollfd out = { .fd = c->out_fd, .events = POLLOUT };

	if (c->mode == CONSOLE_SOCKET)
		return send(c->out_fd, data, len, MSG_NOSIGNAL);
	if (c->out_fd == STDOUT_FILENO && poll(&out, 1, 0) <= 0) { /* stdout may be shared, and a write may wait */
		errno = EAGAIN;
		return -1;
	}
	return write(c->out_fd, data, len < WRITE_MAX ? len : WRITE_MAX);
}

/*
 * A terminal may be held (Ctrl-S), a pipe full: the guest waits a moment once, then output is lost
 * until some output is taken again. The wait is by time, not by poll(): poll() calls a terminal
 * writable that has no room for a line end.
 */
static bool wait_for_reader(struct chardev *c, unsigned *waited_ms)
{
	c->stuck = c->stuck || *waited_ms == STUCK_AFTER_MS;
	if (c->mode != CONSOLE_TTY || c->stuck)
		return false;
	usleep(1000);
	++*waited_ms;
	return true;
}

/*
 * Returns the number of bytes written, or len when the rest is lost. After a wait only one piece is
 * written.
 */
static size_t write_out(struct chardev *c, const char *data, size_t len)
{
	unsigned waited_ms = 0;
	size_t done = 0;

	if (c->out_fd < 0)
		return len;
	while (done < len && !(waited_ms > 0 && done > 0)) {
		ssize_t n = write_some(c, data + done, len - done);
		if (n > 0) {
			c->stuck = false;
			done += (size_t)n;
		} else if (n == 0 || (errno != EINTR && errno != EAGAIN) ||
			   (errno == EAGAIN && !wait_for_reader(c, &waited_ms))) {
			return len;
		}
	}
	return done;
}

/* The log is full: the newer half moves to the front. A file that cannot be read begins anew. */
static void shorten_log(struct chardev *c)
{
	enum { PIECE = 64 * 1024 };
	uint64_t from = c->log_bytes - CHARDEV_LOG_MAX / 2, to = 0;
	autofree char *piece = malloc(PIECE);

	io_set_append(c->log_fd, false);
	for (ssize_t n; piece && (n = pread(c->log_fd, piece, PIECE, (off_t)from)) > 0; from += (uint64_t)n)
		to += pwrite(c->log_fd, piece, (size_t)n, (off_t)to) == n ? (uint64_t)n : 0;
	io_set_append(c->log_fd, true);
	if (ftruncate(c->log_fd, (off_t)to) == 0)
		c->log_bytes = to;
	else
		log_warn("a console's log of %llu bytes cannot be cut: it ends here", (unsigned long long)c->log_bytes);
	c->log_stuck = c->log_bytes > to;
}

/*
 * Whether the log takes `len` bytes more. Others may cut the log, too: so the size is asked for when
 * the log seems to be full.
 */
static bool log_has_room(struct chardev *c, size_t len)
{
	struct stat st;

	if (c->log_bytes + len <= CHARDEV_LOG_MAX)
		return true;
	if (fstat(c->log_fd, &st) == 0)
		c->log_bytes = (uint64_t)st.st_size;
	if (c->log_bytes + len > CHARDEV_LOG_MAX && !c->log_stuck)
		shorten_log(c);
	return c->log_bytes + len <= CHARDEV_LOG_MAX;
}

static void write_log(struct chardev *c, const char *data, size_t len)
{
	if (!log_has_room(c, len))
		return;
	ssize_t n = write(c->log_fd, data, len);
	c->log_bytes += n > 0 ? (uint64_t)n : 0; /* a full file system loses output, as a slow reader does */
}

size_t chardev_write(struct chardev *c, const void *data, size_t len)
{
	pthread_mutex_lock(&c->lock);
	if (c->has_terminal && !c->was_front)
		take_terminal(c);
	size_t taken = write_out(c, data, len < CHARDEV_WRITE_MAX ? len : CHARDEV_WRITE_MAX);
	if (c->log_fd >= 0)
		write_log(c, data, taken);
	pthread_mutex_unlock(&c->lock);
	return taken;
}

void chardev_want_input(struct chardev *c, bool want)
{
	if (c->wants_input == want)
		return;
	c->wants_input = want;
	c->hung_up = false;
	if (c->in.fd >= 0)
		loop_mod(c->loop, &c->in, want ? EPOLLIN : 0);
}
