// SPDX-License-Identifier: Apache-2.0
/* vmm/chardev: file, pty, socket and nothing; peers that come, go and do not read; input held back and let go. */
#include "vmm/console/chardev.h"

#include "tests/unit/rounds.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>

static char dir[] = "/tmp/forkd-test-chardev-XXXXXX";
static char path[64];
static struct chardev c;
static char got[8192];
static size_t n_got;

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/x", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

static int make(void **state)
{
	struct err err = {};

	(void)state;
	n_got = 0;
	return loop_init(&loop, &err);
}

static int done(void **state)
{
	(void)state;
	chardev_close(&c);
	chardev_close(&c);
	loop_done(&loop);
	unlink(path);
	return 0;
}

static void on_input(void *opaque, const uint8_t *data, size_t len)
{
	assert_ptr_equal(opaque, &c);
	assert_true(len >= 1 && len <= 256 && n_got + len <= sizeof(got));
	memcpy(got + n_got, data, len);
	n_got += len;
}

static int open_it(struct console_config *cfg, struct err *err)
{
	int r = chardev_open(&c, &loop, cfg, "serial", err);

	c.input = on_input;
	c.opaque = &c;
	return r;
}

static int connect_to(void)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	memcpy(addr.sun_path, path, strlen(path) + 1);
	assert_int_equal(connect(fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)), 0);
	return fd;
}

static void to_a_file(void **state)
{
	struct console_config cfg = { .mode = CONSOLE_FILE, .file = path };
	struct err err = {};
	char buf[32];

	(void)state;
	autoclose int old = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_int_equal(write(old, "a longer old text", 17), 17);
	assert_int_equal(open_it(&cfg, &err), 0);
	chardev_want_input(&c, true);
	chardev_write(&c, "hello ", 6);
	chardev_write(&c, "", 0);
	chardev_write(&c, "there", 5);
	run_rounds(1);
	assert_int_equal(n_got, 0);
	chardev_close(&c);
	chardev_write(&c, "gone", 0);
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, buf, sizeof(buf)), 11);
	assert_memory_equal(buf, "hello there", 11);
}

static void nothing(void **state)
{
	struct console_config cfg = { .mode = CONSOLE_NULL };
	struct err err = {};

	(void)state;
	assert_int_equal(open_it(&cfg, &err), 0);
	chardev_want_input(&c, true);
	chardev_write(&c, "x", 1);
	run_rounds(1);
}

static void errors(void **state)
{
	char no_dir[] = "/nonexistent/file", long_path[200];
	struct console_config cfg = { .mode = CONSOLE_FILE, .file = no_dir };
	struct err err = {};

	(void)state;
	assert_int_equal(open_it(&cfg, &err), -ENOENT);
	assert_int_equal(
		strncmp(err.msg,
			"Error creating console devices\nserial\nopen the console's file '/nonexistent/file'\n", 81),
		0);
	memset(long_path, 'a', sizeof(long_path));
	long_path[108] = '\0';
	cfg = (struct console_config){ .mode = CONSOLE_SOCKET, .socket = long_path };
	assert_int_equal(open_it(&cfg, &err), -EINVAL);
	assert_non_null(strstr(err.msg, "is longer than 107 bytes"));
	cfg.socket = path;
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(open_it(&cfg, &err), -EADDRINUSE);
	assert_int_equal(access(path, F_OK), 0); /* not ours: not removed */
}

static void socket_peer(void **state)
{
	struct console_config cfg = { .mode = CONSOLE_SOCKET, .socket = path };
	struct err err = {};
	char buf[16];

	(void)state;
	assert_int_equal(open_it(&cfg, &err), 0);
	chardev_write(&c, "lost", 4); /* nobody is there */
	chardev_want_input(&c, true);
	int peer = connect_to();
	run_rounds(2);
	chardev_write(&c, "out", 3);
	assert_int_equal(read(peer, buf, sizeof(buf)), 3);
	assert_memory_equal(buf, "out", 3);
	assert_int_equal(write(peer, "in", 2), 2);
	run_rounds(2);
	assert_int_equal(n_got, 2);
	assert_memory_equal(got, "in", 2);

	autoclose int second = connect_to(); /* one at a time */
	run_rounds(2);
	assert_int_equal(read(second, buf, 1), 0);
	close(peer);
	chardev_write(&c, "lost", 4); /* and no SIGPIPE */
	run_rounds(2);
	int pair[2]; /* may have the old numbers: not for us */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
	chardev_write(&c, "lost", 4);
	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(read(pair[i], buf, sizeof(buf)), -1);
	close(pair[0]);
	close(pair[1]);
	autoclose int third = connect_to();
	run_rounds(2);
	chardev_write(&c, "hi", 2);
	assert_int_equal(read(third, buf, sizeof(buf)), 2);
	assert_int_equal(write(third, "3", 1), 1);
	run_rounds(2);
	assert_int_equal(n_got, 3);
	chardev_close(&c);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(read(third, buf, 1), 0);
}

static void input_is_held_back(void **state)
{
	struct console_config cfg = { .mode = CONSOLE_SOCKET, .socket = path };
	struct err err = {};
	char text[1000];

	(void)state;
	memset(text, 't', sizeof(text));
	assert_int_equal(open_it(&cfg, &err), 0);
	autoclose int peer = connect_to();
	assert_int_equal(write(peer, text, sizeof(text)), sizeof(text));
	run_rounds(3);
	assert_int_equal(n_got, 0); /* never before it is wanted */
	chardev_want_input(&c, true);
	run_rounds(1);
	assert_true(n_got > 0 && n_got < sizeof(text));
	size_t before = n_got;
	chardev_want_input(&c, false);
	run_rounds(5);
	assert_int_equal(n_got, before);
	chardev_want_input(&c, true);
	run_rounds(10);
	assert_int_equal(n_got, sizeof(text));
	assert_memory_equal(got, text, sizeof(text));
}

/* A peer that does not read loses output; the guest goes on. */
static void output_is_dropped(void **state)
{
	struct console_config cfg = { .mode = CONSOLE_SOCKET, .socket = path };
	static char block[65536];
	struct err err = {};
	size_t total = 0;

	(void)state;
	assert_int_equal(open_it(&cfg, &err), 0);
	autoclose int peer = connect_to();
	run_rounds(2);
	for (unsigned i = 0; i < 100; i++)
		chardev_write(&c, block, sizeof(block));
	for (ssize_t n; (n = read(peer, block, sizeof(block))) > 0;)
		total += (size_t)n;
	assert_true(total > 0 && total < 100 * sizeof(block));
	chardev_write(&c, "again", 5);
	assert_int_equal(read(peer, block, sizeof(block)), 5);
}

static void pty(void **state)
{
	struct console_config cfg = { .mode = CONSOLE_PTY };
	struct termios t;
	struct err err = {};
	char buf[32];

	(void)state;
	assert_int_equal(open_it(&cfg, &err), 0);
	autofree char *name = cfg.file;
	assert_int_equal(strncmp(name, "/dev/pts/", 9), 0);
	chardev_want_input(&c, true);
	run_rounds(3); /* nobody has it open: that is no end */
	struct epoll_event ev;
	assert_int_equal(epoll_wait(loop.epoll_fd, &ev, 1, 20), 0); /* nor a reason to spin */
	for (unsigned turn = 0; turn < 2; turn++) {
		autoclose int fd = open(name, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
		assert_true(fd >= 0);
		assert_int_equal(tcgetattr(fd, &t), 0);
		assert_int_equal(t.c_lflag & (ECHO | ICANON), 0);
		n_got = 0;
		assert_int_equal(write(fd, "a\003b\r", 4), 4);
		for (unsigned i = 0; i < 30000 && n_got < 4; i++) { /* a pty's bytes come when the kernel has time */
			run_rounds(1);
			usleep(1000);
		}
		assert_int_equal(n_got, 4);
		assert_memory_equal(got, "a\003b\r", 4);
		chardev_write(&c, "x\ny", 3);
		assert_int_equal(read(fd, buf, sizeof(buf)), 3);
		assert_memory_equal(buf, "x\ny", 3); /* raw both ways */
		close(steal_fd(&fd));
		run_rounds(3);
	}
	static char block[65536]; /* and full at last: nothing blocks */
	chardev_write(&c, block, sizeof(block));
}

/* Descriptors instead of paths: a log beside a socket, both the caller's own. */
static void given(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	autoclose int log = unit_file(), listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct console_config cfg = { .mode = CONSOLE_TTY, .log_fd = log, .listen_fd = listener };
	struct err err = {};
	char buf[16];

	(void)state;
	memcpy(addr.sun_path, path, strlen(path) + 1);
	assert_int_equal(bind(listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(pwrite(log, "old ", 4, 0), 4);
	assert_int_equal(open_it(&cfg, &err), 0);
	chardev_want_input(&c, true);
	chardev_write(&c, "one ", 4);
	autoclose int peer = connect_to();
	run_rounds(2);
	chardev_write(&c, "two", 3);
	assert_int_equal(read(peer, buf, sizeof(buf)), 3);
	assert_memory_equal(buf, "two", 3);
	assert_int_equal(write(peer, "in", 2), 2);
	run_rounds(2);
	assert_int_equal(n_got, 2);
	chardev_close(&c);
	assert_int_equal(pread(log, buf, sizeof(buf), 0), 11);
	assert_memory_equal(buf, "old one two", 11);
	assert_true(fcntl(listener, F_GETFD) >= 0);
}

static void write_all(const char *text, size_t len)
{
	while (len > 0) {
		size_t n = chardev_write(&c, text, len);
		assert_true(n > 0 && n <= len && n <= CHARDEV_WRITE_MAX);
		text += n;
		len -= n;
	}
}

/* A log never outgrows its limit, and keeps the newest. */
static void log_is_capped(void **state)
{
	enum { PIECE = 1 << 20 };
	autoclose int log = unit_file();
	struct console_config cfg = { .log_fd = log };
	autofree char *piece = malloc(PIECE), *back = malloc(PIECE);
	struct err err = {};
	struct stat st;

	(void)state;
	assert_int_equal(open_it(&cfg, &err), 0);
	for (unsigned i = 0; i < 100; i++) {
		memset(piece, (int)(i + 1), PIECE);
		write_all(piece, PIECE);
		assert_int_equal(fstat(log, &st), 0);
		assert_true(st.st_size <= CHARDEV_LOG_MAX);
		assert_true(i < 8 || st.st_size >= CHARDEV_LOG_MAX / 2);
		assert_int_equal(pread(log, back, PIECE, st.st_size - PIECE), PIECE);
		assert_memory_equal(back, piece, PIECE);
	}
	for (off_t at = st.st_size - PIECE; at >= 0; at -= PIECE) { /* without a gap */
		assert_int_equal(pread(log, back, PIECE, at), PIECE);
		assert_int_equal(back[0], 100 - (st.st_size - PIECE - at) / PIECE);
		assert_int_equal(back[PIECE - 1], back[0]);
	}
}

static void expect_file(int fd, const char *text)
{
	char buf[64];

	assert_int_equal(pread(fd, buf, sizeof(buf), 0), strlen(text));
	assert_memory_equal(buf, text, strlen(text));
}

/* Somebody cuts what is written to, as programs that rotate logs do: no hole at its head. */
static void others_cut_the_file(void **state)
{
	autoclose int log = unit_file(), file = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	struct console_config cfg[] = { { .mode = CONSOLE_FILE, .file = path }, { .log_fd = log } };
	autofree char *text = malloc(CHARDEV_LOG_MAX);
	struct err err = {};

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		int fd = i == 0 ? file : log;
		assert_int_equal(open_it(&cfg[i], &err), 0);
		write_all("before", 6);
		expect_file(fd, "before");
		assert_int_equal(ftruncate(fd, 0), 0);
		write_all("after", 5);
		expect_file(fd, "after");
		if (i == 0)
			chardev_close(&c);
	}
	memset(text, 'x', CHARDEV_LOG_MAX); /* nor does it count what is gone */
	write_all(text, CHARDEV_LOG_MAX - 5);
	assert_int_equal(ftruncate(log, 0), 0);
	write_all("after", 5);
	expect_file(log, "after");
	memset(text, 'y', CHARDEV_LOG_MAX);
	write_all(text, CHARDEV_LOG_MAX - 5);
	assert_int_equal(pread(log, text, 10, 0), 10);
	assert_memory_equal(text, "afteryyyyy", 10);
}

static void read_fifo(const char *text)
{
	char buf[64] = "";
	autoclose int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(read(fd, buf, sizeof(buf)), strlen(text));
	assert_string_equal(buf, text);
}

/* By name, and as a descriptor: the reader comes later, goes, and comes again. A full one loses output. */
static void fifo(void **state)
{
	static char block[CHARDEV_WRITE_MAX];
	struct err err = {};

	(void)state;
	assert_int_equal(mkfifo(path, 0600), 0);
	autoclose int given = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	struct console_config cfg[] = { { .mode = CONSOLE_FILE, .file = path }, { .log_fd = given } };
	for (unsigned i = 0; i < 2; i++) {
		if (i == 0)
			close(steal_fd(&given));
		else
			cfg[i].log_fd = given = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
		assert_int_equal(open_it(&cfg[i], &err), 0);
		write_all("early ", 6);
		write_all("birds", 5);
		read_fifo("early birds");
		write_all("nobody", 6);
		read_fifo("nobody");
		for (unsigned k = 0; k < 3; k++)
			assert_int_equal(chardev_write(&c, block, sizeof(block)), sizeof(block));
		chardev_close(&c);
	}
}

/* One that cannot be cut ends where it is full. */
static void log_that_cannot_be_cut(void **state)
{
	autoclose int log = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	struct console_config cfg = { .log_fd = log };
	autofree char *text = calloc(1, CHARDEV_LOG_MAX);
	struct err err = {};
	struct stat st;

	(void)state;
	assert_int_equal(fcntl(log, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	assert_int_equal(open_it(&cfg, &err), 0);
	for (unsigned i = 0; i < 3; i++) {
		write_all(text, CHARDEV_LOG_MAX - 1);
		assert_int_equal(fstat(log, &st), 0);
		assert_true(st.st_size <= CHARDEV_LOG_MAX && st.st_size > CHARDEV_LOG_MAX - CHARDEV_WRITE_MAX);
	}
}

/* Puts another descriptor in the place of a standard one; `saved` has the one that was there. */
static void replace(int fd, int with, int *saved)
{
	*saved = fcntl(fd, F_DUPFD_CLOEXEC, 10);
	assert_true(*saved >= 0);
	assert_int_equal(dup2(with, fd), fd);
}

static void put_back(int fd, int saved)
{
	dup2(saved, fd);
	close(saved);
}

/* Reads what the pty has, when the code under test waits for that. */
static int slow_terminal = -1;
static unsigned n_lines, n_letters;

static void read_slowly(void)
{
	char buf[1000];

	for (ssize_t n = read(slow_terminal, buf, sizeof(buf)); n > 0; n--) {
		n_lines += buf[n - 1] == '\n';
		n_letters += buf[n - 1] == 'x';
	}
}

int usleep(useconds_t us)
{
	if (slow_terminal >= 0)
		read_slowly();
	return nanosleep(&(struct timespec){ .tv_nsec = us * 1000L }, NULL);
}

/* A terminal that takes a little at a time gets everything. */
static void terminal_is_slow(void **state)
{
	enum { LINES = 60000 };
	static char lines[2 * LINES];
	struct console_config cfg = { .mode = CONSOLE_TTY };
	struct err err = {};
	int fds[2], out, in;

	(void)state;
	for (unsigned i = 0; i < sizeof(lines); i += 2)
		lines[i] = i % 3 ? 'x' : '\n', lines[i + 1] = '\n';
	unsigned lines_sent = 0, letters_sent = 0;
	for (unsigned i = 0; i < sizeof(lines); i++) {
		lines_sent += lines[i] == '\n';
		letters_sent += lines[i] == 'x';
	}
	assert_int_equal(openpty(&fds[0], &fds[1], NULL, NULL, NULL), 0);
	fcntl(fds[0], F_SETFL, O_RDWR | O_NONBLOCK);
	fflush(stdout);
	replace(STDIN_FILENO, fds[1], &in);
	replace(STDOUT_FILENO, fds[1], &out);
	slow_terminal = fds[0];
	n_lines = n_letters = 0;
	int r = open_it(&cfg, &err);
	for (size_t at = 0; r == 0 && at < sizeof(lines);)
		at += chardev_write(&c, lines + at, sizeof(lines) - at);
	chardev_close(&c);
	put_back(STDOUT_FILENO, out);
	put_back(STDIN_FILENO, in);
	for (unsigned i = 0; i < 10000 && n_lines + n_letters < lines_sent + letters_sent; i++)
		usleep(1000);
	slow_terminal = -1;
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(r, 0);
	assert_int_equal(n_lines, lines_sent);
	assert_int_equal(n_letters, letters_sent);
}

/* A terminal that is held, and a pipe that nobody reads: output is lost, and nobody waits for good. Line ends take two places each. */
static void terminal_is_held(void **state)
{
	static char lines[65536];
	struct console_config cfg = { .mode = CONSOLE_TTY };
	struct err err = {};
	int fds[2], out, in;
	size_t taken;

	(void)state;
	memset(lines, '\n', sizeof(lines));
	for (unsigned kind = 0; kind < 2; kind++) {
		assert_int_equal(kind == 0 ? openpty(&fds[0], &fds[1], NULL, NULL, NULL) : pipe2(fds, O_CLOEXEC), 0);
		fflush(stdout);
		replace(STDIN_FILENO, fds[1], &in);
		replace(STDOUT_FILENO, fds[1], &out);
		alarm(60); /* instead of hanging */
		int r = open_it(&cfg, &err);
		taken = 0; /* a pty makes some room by itself, now and then */
		for (unsigned i = 0; i < 1000 && r == 0 && taken < sizeof(lines); i++)
			taken = chardev_write(&c, lines, sizeof(lines));
		chardev_close(&c);
		alarm(0);
		bool blocks = !(fcntl(STDOUT_FILENO, F_GETFL) & O_NONBLOCK);
		put_back(STDOUT_FILENO, out);
		put_back(STDIN_FILENO, in);
		close(fds[0]);
		close(fds[1]);
		assert_int_equal(r, 0);
		assert_int_equal(taken, sizeof(lines));
		assert_true(blocks); /* as others have it */
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(to_a_file, make, done),
		cmocka_unit_test_setup_teardown(nothing, make, done),
		cmocka_unit_test_setup_teardown(errors, make, done),
		cmocka_unit_test_setup_teardown(socket_peer, make, done),
		cmocka_unit_test_setup_teardown(input_is_held_back, make, done),
		cmocka_unit_test_setup_teardown(output_is_dropped, make, done),
		cmocka_unit_test_setup_teardown(pty, make, done),
		cmocka_unit_test_setup_teardown(given, make, done),
		cmocka_unit_test_setup_teardown(log_is_capped, make, done),
		cmocka_unit_test_setup_teardown(others_cut_the_file, make, done),
		cmocka_unit_test_setup_teardown(fifo, make, done),
		cmocka_unit_test_setup_teardown(log_that_cannot_be_cut, make, done),
		cmocka_unit_test_setup_teardown(terminal_is_slow, make, done),
		cmocka_unit_test_setup_teardown(terminal_is_held, make, done),
	};

	return cmocka_run_group_tests_name("chardev", tests, make_dir, remove_dir);
}
