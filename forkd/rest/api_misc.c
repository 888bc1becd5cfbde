// SPDX-License-Identifier: Apache-2.0
/* Health, version, metrics and the stream of events. */
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/version.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/forkd.h"
#include "forkd/metrics.h"
#include "forkd/rest/api.h"

enum { KEEP_ALIVE_S = 15 };

int api_health(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	(void)d;
	(void)rq;
	(void)err;
	strbuf_puts(&reply->body, "{\"status\":\"ok\"}\n");
	return 0;
}

int api_version(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	(void)d;
	(void)rq;
	(void)err;
	strbuf_puts(&reply->body, "{\"name\":\"forkd\",\"version\":\"" FORKD_VERSION "\",\"api_version\":1}\n");
	return 0;
}

int api_metrics(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	(void)rq;
	(void)err;
	reply->content_type = "text/plain; version=0.0.4; charset=utf-8";
	metrics_print(d->metrics, &reply->body);
	return 0;
}

/* ---- events ---- */

struct follower {
	struct events *events;
	uint64_t seq;      /* the last event that was sent */
	uint64_t alive_ns; /* when something was sent last */
};

static int parse_seq(const char *name, const char *text, uint64_t *ret, struct err *err)
{
	char *end;

	errno = 0;
	unsigned long long n = strtoull(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno)
		return fail(err, E_INVALID, "%s: '%s' is no event's number", name, text);
	*ret = n;
	return 0;
}

/*
 * Finds the number of the event after which the client wants to begin. E_GONE: the event is not
 * kept any more, or does not exist yet.
 */
static int first_seq(struct forkd *d, const struct request *rq, bool follow, uint64_t *ret, struct err *err)
{
	const char *after = request_query(rq, "after", 0), *last = request_header(rq, "Last-Event-ID");
	uint64_t oldest, newest, seq = 0;

	if (after && parse_seq("after", after, &seq, err) < 0)
		return err->num;
	if (!after && last && parse_seq("Last-Event-ID", last, &seq, err) < 0)
		return err->num;
	events_range(d->events, &oldest, &newest);
	uint64_t end = newest ? newest : oldest - 1;
	if (!after && !last)
		seq = follow ? end : oldest - 1;
	else if (seq == 0)
		seq = oldest - 1;
	if (seq + 1 < oldest || seq > end)
		return fail(err, E_GONE,
			    "event %llu cannot be continued from; the oldest kept is %llu, the newest %llu",
			    (unsigned long long)seq, (unsigned long long)oldest, (unsigned long long)end);
	*ret = seq;
	return 0;
}

static bool follow_on(void *arg, struct strbuf *out)
{
	struct follower *f = arg;
	int n = events_read(f->events, &f->seq, out);
	uint64_t now = monotonic_ns();

	if (n < 0) /* the client is too slow for the events; its next request gets E_GONE */
		return false;
	if (n == 0 && now - f->alive_ns < (uint64_t)KEEP_ALIVE_S * 1000000000)
		return true;
	if (n == 0)
		strbuf_puts(out, ": alive\n\n");
	f->alive_ns = now;
	return true;
}

static int start_following(struct forkd *d, uint64_t seq, struct reply *reply, struct err *err)
{
	struct follower *f = calloc(1, sizeof(*f));

	if (!f)
		return fail(err, E_INTERNAL, "no memory to follow the events");
	*f = (struct follower){ .events = d->events, .seq = seq };
	reply->stream = follow_on;
	reply->stream_done = free;
	reply->stream_arg = f;
	return 0;
}

int api_events(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	const char *text = request_query(rq, "follow", 0);
	bool follow = !text || strcmp(text, "0") != 0;
	uint64_t seq = 0;
	int n;

	if (text && strcmp(text, "0") != 0 && strcmp(text, "1") != 0)
		return fail(err, E_INVALID, "follow: '%s' is neither 0 nor 1", text);
	if (first_seq(d, rq, follow, &seq, err) < 0)
		return err->num;
	reply->content_type = "text/event-stream";
	if (follow)
		return start_following(d, seq, reply, err);
	do
		n = events_read(d->events, &seq, &reply->body);
	while (n > 0);
	return 0;
}
