// SPDX-License-Identifier: Apache-2.0
/* One file between this host and a guest, as a stream. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "forkctl/cp.h"
#include "forkctl/terminal.h"
#include "forkctl/transfer.h"

enum { TICK_MS = 200, GUEST_NEW_MODE = 0644 };

/* A file on its way. */
struct stream {
	struct copy *copy;
	struct transfer transfer;
	struct strbuf url;
	int fd;         /* of this host */
	bool regular;   /* a read or write of it never waits for anybody */
	uint64_t done;  /* bytes */
	uint64_t total; /* of a regular file that is sent */
	int num;        /* why this host's side failed; 0: it did not */
};

static void stream_done(struct stream *s)
{
	transfer_done(&s->transfer);
	strbuf_done(&s->url);
}
#define autostream __attribute__((cleanup(stream_done)))

static int begin(struct stream *s, const char *path, struct transfer_request *rq)
{
	char user[128];
	const char *fields[2] = {};

	path_add(&s->url, "/v1/clones/", s->copy->id);
	path_add(&s->url, "/files?path=", path);
	if (s->copy->user)
		fields[0] = user_field(user, sizeof(user), s->copy->user);
	rq->path = s->url.text;
	rq->fields = fields;
	rq->arg = s;
	return transfer_begin(s->copy->cli->client, &s->transfer, rq);
}

/* Until the transfer has ended. `events` are what a transfer that waits for this host's side waits for. */
static int finish(struct stream *s, short events)
{
	struct copy *c = s->copy;

	while (s->transfer.busy && !s->num && !copy_signalled(c)) {
		struct pollfd fds[] = { { .fd = c->signal_fd, .events = POLLIN },
					{ .fd = s->transfer.sends_nothing ? s->fd : -1, .events = events } };
		transfers_turn(c->cli->client, fds, ARRAY_LEN(fds), TICK_MS);
		if (fds[1].revents)
			transfer_go_on(&s->transfer);
		if (s->transfer.total > 0)
			c->progress.total = (uint64_t)s->transfer.total;
		progress_show(&c->progress, s->done);
	}
	progress_end(&c->progress);
	if (s->num)
		fprintf(stderr, "forkctl: '%s': %s\n", c->local, strerror(s->num));
	if (c->signal)
		fprintf(stderr, "forkctl: ended by signal %d; '%s' is not copied\n", c->signal, c->progress.name);
	return s->num || c->signal ? EXIT_FAILED : transfer_judge(&s->transfer);
}

/* ---- into the guest ---- */

static ssize_t on_send(void *arg, char *bytes, size_t size)
{
	struct stream *s = arg;
	struct pollfd p = { .fd = s->fd, .events = POLLIN };

	if (s->regular && s->total - s->done < size)
		size = (size_t)(s->total - s->done);
	if (!s->regular && poll(&p, 1, 0) == 0)
		return TRANSFER_WAIT;
	ssize_t n = size > 0 ? read(s->fd, bytes, size) : 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return TRANSFER_WAIT;
	if (n < 0)
		s->num = errno;
	else if (n == 0 && s->regular && s->done < s->total)
		s->num = ENODATA; /* it has become shorter */
	if (s->num)
		return TRANSFER_BREAK;
	s->done += (uint64_t)n;
	return n;
}

/* A new file in the guest has 0644; it gets the source's permissions. */
static int set_mode(struct copy *c, const char *path, unsigned mode)
{
	char text[16];
	const char *const argv[] = { "chmod", text, "--", path, NULL };

	snprintf(text, sizeof(text), "%o", mode);
	if (guest_command(c, argv, NULL, -1, -1) == EXIT_FINE)
		return EXIT_FINE;
	fprintf(stderr, "forkctl: '%s' is copied, but its permissions are not %s\n", path, text);
	return EXIT_FAILED;
}

int copy_file_in(struct copy *c, const char *path)
{
	autostream struct stream s = { .copy = c, .fd = STDIN_FILENO };
	bool standard = strcmp(c->local, "-") == 0;
	autoclose int fd = standard ? -1 : open(c->local, O_RDONLY | O_CLOEXEC);
	enum guest_kind kind;
	unsigned mode;
	struct stat st;

	if (!standard)
		s.fd = fd;
	if (s.fd < 0 || fstat(s.fd, &st) < 0) {
		fprintf(stderr, "forkctl: cannot read '%s': %s\n", c->local, strerror(errno));
		return EXIT_FAILED;
	}
	if (S_ISREG(st.st_mode) && !standard) { /* what stands at stdin may be read in part already */
		s.regular = true;
		s.total = c->progress.total = (uint64_t)st.st_size;
	}
	int status = guest_stat(c, path, &kind, &mode);
	struct transfer_request rq = { .method = "PUT", .send = on_send, .send_len = s.regular ? st.st_size : -1 };
	if (status == EXIT_FINE)
		status = begin(&s, path, &rq);
	if (status == EXIT_FINE)
		status = finish(&s, POLLIN);
	mode = st.st_mode & 0777;
	if (status == EXIT_FINE && kind == GUEST_NOTHING && !standard && mode != GUEST_NEW_MODE)
		return set_mode(c, path, mode);
	return status;
}

/* ---- out of the guest ---- */

/* Where the bytes go: to stdout or what is no file, or to a file beside the name, which gets the name in the end. */
struct target {
	int fd;
	char *path;      /* without symbolic links; NULL: stdout */
	char *temporary; /* NULL: `path` itself is written, or nothing is left */
};

static void target_done(struct target *t)
{
	if (t->temporary)
		unlink(t->temporary);
	if (t->path && t->fd >= 0)
		close(t->fd);
	free(t->path);
	free(t->temporary);
}
#define autotarget __attribute__((cleanup(target_done)))

static bool target_open(struct target *t, const char *local)
{
	struct stat st;

	*t = (struct target){ .fd = STDOUT_FILENO };
	if (strcmp(local, "-") == 0)
		return true;
	t->fd = -1;
	bool there = stat(local, &st) == 0;
	t->path = there ? realpath(local, NULL) : strdup(local);
	if (t->path && there && !S_ISREG(st.st_mode)) {
		t->fd = open(t->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	} else if (t->path && asprintf(&t->temporary, "%s.forkctl-XXXXXX", t->path) < 0) {
		t->temporary = NULL;
	} else if (t->path) {
		t->fd = mkostemp(t->temporary, O_CLOEXEC);
		if (t->fd < 0) {
			free(t->temporary);
			t->temporary = NULL;
		}
	}
	if (t->fd < 0)
		fprintf(stderr, "forkctl: cannot write '%s': %s\n", local, strerror(errno));
	return t->fd >= 0;
}

/* A file that is replaced keeps its permissions; a new one gets those that the guest's has, as the umask has it. */
static bool target_publish(struct target *t, unsigned mode)
{
	struct stat st;
	mode_t mask = umask(0);

	umask(mask);
	if (!t->temporary)
		return true;
	mode = stat(t->path, &st) == 0 ? st.st_mode & 0777 : mode & ~mask;
	if (fchmod(t->fd, mode) < 0 || rename(t->temporary, t->path) < 0) {
		fprintf(stderr, "forkctl: cannot write '%s': %s\n", t->path, strerror(errno));
		return false;
	}
	free(t->temporary);
	t->temporary = NULL;
	return true;
}

static bool on_receive(void *arg, const char *bytes, size_t len)
{
	struct stream *s = arg;

	if (!write_all(s->fd, bytes, len))
		s->num = errno;
	s->done += len;
	return !s->num;
}

int copy_file_out(struct copy *c, const char *path, unsigned mode)
{
	autostream struct stream s = { .copy = c };
	autotarget struct target target = { .fd = -1 };
	struct transfer_request rq = { .method = "GET", .receive = on_receive };

	if (!target_open(&target, c->local))
		return EXIT_FAILED;
	s.fd = target.fd;
	int status = begin(&s, path, &rq);
	if (status == EXIT_FINE)
		status = finish(&s, 0);
	return status == EXIT_FINE && !target_publish(&target, mode) ? EXIT_FAILED : status;
}
