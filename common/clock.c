// SPDX-License-Identifier: Apache-2.0
/* The time of day. */
#include "common/clock.h"

#include <stdio.h>

char *time_text(bool with_ms)
{
	struct timespec now;
	struct tm tm;
	char seconds[32], ms[8] = "";
	char *text = NULL;

	clock_gettime(CLOCK_REALTIME, &now);
	if (!gmtime_r(&now.tv_sec, &tm) || strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
		return NULL;
	if (with_ms)
		snprintf(ms, sizeof(ms), ".%03u", (unsigned)(now.tv_nsec / 1000000) % 1000);
	return asprintf(&text, "%s%sZ", seconds, ms) < 0 ? NULL : text;
}
