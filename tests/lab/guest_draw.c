// SPDX-License-Identifier: Apache-2.0
/*
 * Runs in a guest: every 20 ms it draws 16 bytes as any program does (getrandom), and appends a line to
 * the file that it is given: the time of day and the monotonic time in ns, taken before the draw, and the bytes in hexadecimal.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static unsigned long long now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (unsigned long long)t.tv_sec * 1000000000 + (unsigned long long)t.tv_nsec;
}

int main(int argc, char **argv)
{
	int fd = argc == 2 ? open(argv[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;

	if (fd < 0)
		return 1;
	for (;;) {
		uint8_t bytes[16];
		char line[128];
		int n = snprintf(line, sizeof(line), "%llu %llu ", now(CLOCK_REALTIME), now(CLOCK_MONOTONIC));
		if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
			return 1;
		for (unsigned i = 0; i < sizeof(bytes); i++)
			n += snprintf(line + n, sizeof(line) - (size_t)n, "%02x", bytes[i]);
		line[n++] = '\n';
		if (write(fd, line, (size_t)n) != n)
			return 1;
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
}
