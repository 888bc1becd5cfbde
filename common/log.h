// SPDX-License-Identifier: Apache-2.0
/*
 * The log: one line for each message on stderr or in a file, in Cloud Hypervisor's shape, `program:
 * 1.234567s: <thread> LEVEL:file:line -- message`. Any thread; nothing is logged for each exit of a
 * vCPU.
 */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/auto.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/*
 * To be called before the first thread exists. The call is time zero of the log. `fd` stays the
 * caller's and must stay open.
 */
void log_init(const char *program, enum log_level max, int fd);
bool log_enabled(enum log_level level);
void log_write(enum log_level level, const char *file, int line, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* Names the calling thread, in the log and in the kernel (15 characters). */
void log_thread_name(const char *name);

/*
 * Counts a fault that a guest can repeat at will. true: the fault is the 1st, 2nd, 4th, 8th … and
 * gets a line; that makes 64 lines at most.
 */
static inline bool log_deserves(uint64_t *count)
{
	++*count;
	return (*count & (*count - 1)) == 0;
}

#define log_at(level, ...)                                                 \
	do {                                                               \
		if (log_enabled(level))                                    \
			log_write(level, __FILE__, __LINE__, __VA_ARGS__); \
	} while (0)
/*
 * A line that a guest can cause as often as it likes: said the first LOG_GUEST_FIRST times in the life of the process, and then the 32nd,
 * 64th, 128th … time with that number. `fmt` is a literal.
 */
enum { LOG_GUEST_FIRST = 16 };
#define log_guest(level, fmt, ...)                                                                        \
	do {                                                                                              \
		static _Atomic uint64_t times_;                                                           \
		uint64_t n_ = ++times_;                                                                   \
		if (n_ <= LOG_GUEST_FIRST)                                                                \
			log_at(level, fmt, ##__VA_ARGS__);                                                \
		else if ((n_ & (n_ - 1)) == 0)                                                            \
			log_at(level, fmt " (%llu times by now)", ##__VA_ARGS__, (unsigned long long)n_); \
	} while (0)
#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

#endif
