// SPDX-License-Identifier: Apache-2.0
/* A ring of events, each kept as the text that is sent. */
#include "forkd/events.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"

struct events {
	pthread_mutex_t lock;    /* of all below */
	void (*wake)(void *arg); /* NULL: nobody follows */
	void *wake_arg;
	uint64_t first, next;    /* numbers of the oldest event that is kept, and of the next one to come */
	char *text[EVENTS_KEPT]; /* an event stands at its number modulo EVENTS_KEPT; NULL: the event was lost */
};

int events_new(struct events **ret, struct err *err)
{
	struct events *ev = calloc(1, sizeof(*ev));
	struct timespec now;

	if (!ev)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make the list of events");
	clock_gettime(CLOCK_REALTIME, &now);
	ev->first = ev->next = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
	pthread_mutex_init(&ev->lock, NULL);
	*ret = ev;
	return 0;
}

void events_free(struct events *ev)
{
	if (!ev)
		return;
	for (unsigned i = 0; i < EVENTS_KEPT; i++)
		free(ev->text[i]);
	pthread_mutex_destroy(&ev->lock);
	free(ev);
}

static void add_member(struct strbuf *out, const char *key, const char *value)
{
	if (!value)
		return;
	strbuf_printf(out, ",\"%s\":", key);
	strbuf_json(out, value, strlen(value));
}

void events_emit(struct events *ev, const char *type, const char *template_name, const char *clone_id,
		 const char *extra)
{
	autofree char *now = time_text(true);
	struct strbuf text = {};

	pthread_mutex_lock(&ev->lock);
	strbuf_printf(&text, "id: %llu\nevent: %s\ndata: {\"seq\":%llu", (unsigned long long)ev->next, type,
		      (unsigned long long)ev->next);
	add_member(&text, "type", type);
	add_member(&text, "time", now);
	add_member(&text, "template", template_name);
	add_member(&text, "clone", clone_id);
	if (extra)
		strbuf_printf(&text, ",%s", extra);
	strbuf_puts(&text, "}\n\n");
	if (text.failed)
		strbuf_done(&text);
	char **slot = &ev->text[ev->next % EVENTS_KEPT];
	free(*slot);
	*slot = text.text;
	ev->next++;
	if (ev->next - ev->first > EVENTS_KEPT)
		ev->first++;
	if (ev->wake)
		ev->wake(ev->wake_arg);
	pthread_mutex_unlock(&ev->lock);
}

void events_set_wake(struct events *ev, void (*wake)(void *arg), void *arg)
{
	pthread_mutex_lock(&ev->lock);
	ev->wake = wake;
	ev->wake_arg = arg;
	pthread_mutex_unlock(&ev->lock);
}

void events_range(struct events *ev, uint64_t *ret_oldest, uint64_t *ret_newest)
{
	pthread_mutex_lock(&ev->lock);
	*ret_oldest = ev->first;
	*ret_newest = ev->next == ev->first ? 0 : ev->next - 1;
	pthread_mutex_unlock(&ev->lock);
}

static int read_locked(struct events *ev, uint64_t *seq, struct strbuf *out)
{
	enum { BATCH = 256 }; /* the lock is not held for long */
	int n = 0;

	if (*seq + 1 < ev->first || *seq + 1 > ev->next)
		return -ENOENT;
	for (; *seq + 1 < ev->next && n < BATCH; n++) {
		const char *text = ev->text[(*seq + 1) % EVENTS_KEPT];
		if (!text)
			return n > 0 ? n : -ENOENT;
		strbuf_puts(out, text);
		++*seq;
	}
	return n;
}

int events_read(struct events *ev, uint64_t *seq, struct strbuf *out)
{
	pthread_mutex_lock(&ev->lock);
	int n = read_locked(ev, seq, out);
	pthread_mutex_unlock(&ev->lock);
	return n;
}
