// SPDX-License-Identifier: Apache-2.0
/* The event monitor. Its settings are process-wide and fixed before the first thread exists. */
#include "vmm/core/event_monitor.h"

#include <fcntl.h>
#include <string.h>
#include <time.h>

#include "common/json64.h"

static struct {
	int fd;
	struct timespec start;
} monitor = { .fd = -1 };

void event_monitor_init(int fd)
{
	monitor.fd = fd;
	clock_gettime(CLOCK_MONOTONIC, &monitor.start);
	if (fd >= 0)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK | O_APPEND);
}

struct property {
	const char *key, *value;
};

static void emit(const char *source, const char *event, const struct property *properties, unsigned n)
{
	autostrbuf struct strbuf out = {};
	struct timespec now;

	if (monitor.fd < 0)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	time_t secs = now.tv_sec - monitor.start.tv_sec;
	long nanos = now.tv_nsec - monitor.start.tv_nsec;
	if (nanos < 0) {
		secs--;
		nanos += 1000000000;
	}
	strbuf_printf(&out, "{\n  \"timestamp\": {\n    \"secs\": %lld,\n    \"nanos\": %ld\n  },\n", (long long)secs,
		      nanos);
	strbuf_printf(&out, "  \"source\": \"%s\",\n  \"event\": \"%s\",\n  \"properties\": ", source, event);
	for (unsigned i = 0; i < n; i++) {
		strbuf_printf(&out, "%s\n    \"%s\": ", i == 0 ? "{" : ",", properties[i].key);
		strbuf_json(&out, properties[i].value, strlen(properties[i].value));
	}
	strbuf_puts(&out, n > 0 ? "\n  }" : "null");
	strbuf_puts(&out, "\n}\n\n");
	/*
	 * One write for each event, so that threads do not mix. A reader that is too slow loses
	 * events; the machine never waits for it.
	 */
	if (!out.failed && write(monitor.fd, out.text, out.len) < 0)
		return;
}

void event_emit(const char *source, const char *event, const char *key, const char *value)
{
	const struct property p = { key, value };

	emit(source, event, &p, key != NULL);
}

void event_emit_device(const char *event, const char *id, const char *bdf)
{
	const struct property p[] = { { "id", id }, { "bdf", bdf } };

	emit("vm", event, p, 2);
}
