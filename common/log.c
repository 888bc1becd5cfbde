// SPDX-License-Identifier: Apache-2.0
/* The log. Its settings are process-wide and fixed before the first thread exists. */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "common/io.h"

static struct {
	const char *program;
	enum log_level max;
	int fd;
	struct timespec start;
} log_state = { .program = "forkd", .max = LOG_WARN, .fd = STDERR_FILENO };

static _Thread_local char thread_name[16] = "main";

void log_init(const char *program, enum log_level max, int fd)
{
	log_state.program = program;
	log_state.max = max;
	log_state.fd = fd;
	io_set_append(fd, true);
	clock_gettime(CLOCK_MONOTONIC, &log_state.start);
}

bool log_enabled(enum log_level level)
{
	return level <= log_state.max;
}

void log_thread_name(const char *name)
{
	snprintf(thread_name, sizeof(thread_name), "%s", name);
	prctl(PR_SET_NAME, thread_name);
}

void log_write(enum log_level level, const char *file, int line, const char *fmt, ...)
{
	static const char *const names[] = { "ERROR", "WARN", "INFO", "DEBUG" };
	struct timespec now;
	char text[4096];
	va_list ap;

	clock_gettime(CLOCK_MONOTONIC, &now);
	long usec = (now.tv_sec - log_state.start.tv_sec) * 1000000L + (now.tv_nsec - log_state.start.tv_nsec) / 1000;
	int n = snprintf(text, sizeof(text), "%s: %3ld.%06lds: <%s> %s:%s:%d -- ", log_state.program, usec / 1000000,
			 usec % 1000000, thread_name, names[level], file, line);
	va_start(ap, fmt);
	int m = vsnprintf(text + n, sizeof(text) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	if (m < 0)
		return;
	size_t len = strlen(text);
	for (size_t i = (size_t)n; i < len; i++)
		if (text[i] == '\n')
			text[i] = ' ';
	text[len++] = '\n';
	if (write(log_state.fd, text, len) < 0)
		return; /* a full or closed log is no reason to stop a machine */
}
