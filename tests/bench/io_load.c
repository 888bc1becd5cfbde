// SPDX-License-Identifier: Apache-2.0
/*
 * Measures a block device or a network from inside a guest. Static, so that it runs in any.
 *
 *   io_load blk DEVICE read|write seq|rand THREADS BLOCK SECONDS    O_DIRECT; a request per thread at once
 *   io_load echo PORT                                                answers UDP datagrams and ends at one of length 1
 *   io_load ask ADDRESS PORT SECONDS                                 UDP round trips of 64 bytes, one at a time
 *   io_load sink PORT                                                takes one TCP stream
 *   io_load send ADDRESS PORT SECONDS                                one TCP stream; counts what the sink confirmed
 * Each prints "OPERATIONS_PER_S BYTES_PER_S MEDIAN_NS": the median of one operation's time, 0 where it means nothing.
 */
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
	THREADS_MAX = 64,
	SAMPLES_MAX = 200000,
	PIECE_BYTES = 65536,
	DATAGRAM_BYTES = 64,
	PATIENCE_S = 10,
	NS_PER_S = 1000000000
};

struct load {
	pthread_t thread;
	int fd, write, random;
	uint64_t block, begin, end, seed, deadline_ns, operations;
	size_t samples;
	uint32_t *sample_ns;
};

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static uint64_t number(const char *text, uint64_t max)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (end == text || *end || !value || value > max)
		errx(2, "'%s' is not a number from 1 to %llu", text, (unsigned long long)max);
	return value;
}

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void report(uint64_t operations, uint64_t bytes, uint64_t ns, uint32_t *sample_ns, size_t samples)
{
	double s = (double)ns / NS_PER_S;

	if (samples)
		qsort(sample_ns, samples, sizeof(*sample_ns), by_size);
	printf("%.1f %.1f %u\n", (double)operations / s, (double)bytes / s, samples ? sample_ns[samples / 2] : 0);
}

static void *blk_thread(void *data)
{
	struct load *l = data;
	uint64_t blocks = (l->end - l->begin) / l->block, next = 0, start = now_ns();
	void *buffer;

	if (posix_memalign(&buffer, 4096, l->block))
		errx(1, "no memory");
	memset(buffer, 0x5a, l->block);
	while (start < l->deadline_ns) {
		l->seed = l->seed * 6364136223846793005ULL + 1442695040888963407ULL;
		off_t at = (off_t)(l->begin + (l->random ? (l->seed >> 33) % blocks : next++ % blocks) * l->block);
		ssize_t n = l->write ? pwrite(l->fd, buffer, l->block, at) : pread(l->fd, buffer, l->block, at);
		uint64_t done = now_ns();

		if (n != (ssize_t)l->block)
			err(1, "%s at %lld: %zd bytes", l->write ? "write" : "read", (long long)at, n);
		if (l->samples < SAMPLES_MAX)
			l->sample_ns[l->samples++] = (uint32_t)(done - start);
		l->operations++;
		start = done;
	}
	free(buffer);
	return NULL;
}

/* The first MiB stays as it is: some VMMs do not let a guest write to the first sector. */
static void blk(char **arg)
{
	uint64_t threads = number(arg[3], THREADS_MAX), block = number(arg[4], 1 << 20), operations = 0,
		 first = 1 << 20;
	int write = !strcmp(arg[1], "write"), fd = open(arg[0], (write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC);
	uint32_t *sample_ns = calloc(threads, sizeof(uint32_t[SAMPLES_MAX]));
	off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	struct load *loads = calloc(threads, sizeof(*loads));
	size_t samples = 0;

	if (!sample_ns || !loads || size < (off_t)(first + threads * block))
		err(1, "'%s' of %lld bytes", arg[0], (long long)size);
	uint64_t start = now_ns(), share = ((uint64_t)size - first) / threads / block * block;

	for (uint64_t i = 0; i < threads; i++) {
		loads[i] = (struct load){ .fd = fd,
					  .write = write,
					  .random = !strcmp(arg[2], "rand"),
					  .block = block,
					  .begin = first + i * share,
					  .end = first + (i + 1) * share,
					  .seed = i + 1,
					  .deadline_ns = start + number(arg[5], 3600) * NS_PER_S,
					  .sample_ns = sample_ns + i * SAMPLES_MAX };
		if (pthread_create(&loads[i].thread, NULL, blk_thread, &loads[i]))
			errx(1, "cannot start thread %llu", (unsigned long long)i);
	}
	for (uint64_t i = 0; i < threads; i++) {
		pthread_join(loads[i].thread, NULL);
		operations += loads[i].operations;
		memmove(sample_ns + samples, loads[i].sample_ns, loads[i].samples * sizeof(*sample_ns));
		samples += loads[i].samples;
	}
	report(operations, operations * block, now_ns() - start, sample_ns, samples);
}

static int open_socket(int type, const char *address, const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)number(port, 65535)) };
	struct timeval patience = { .tv_sec = PATIENCE_S };
	int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		err(1, "socket");
	if (address && !inet_aton(address, &a.sin_addr))
		errx(2, "'%s' is not an address", address);
	if (address ? connect(fd, (struct sockaddr *)&a, sizeof(a)) : bind(fd, (struct sockaddr *)&a, sizeof(a)))
		err(1, "%s port %s", address ? address : "own", port);
	return fd;
}

static void echo(char **arg)
{
	int fd = open_socket(SOCK_DGRAM, NULL, arg[0]);
	struct sockaddr_in peer;
	char data[2048];
	ssize_t n;

	do {
		socklen_t len = sizeof(peer);

		n = recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&peer, &len);
		if (n < 0)
			err(1, "no datagram");
		if (sendto(fd, data, (size_t)n, 0, (struct sockaddr *)&peer, len) != n)
			err(1, "answer");
	} while (n > 1);
}

static void ask(char **arg)
{
	int fd = open_socket(SOCK_DGRAM, arg[0], arg[1]);
	uint64_t start = now_ns(), end = start + number(arg[2], 3600) * NS_PER_S, operations = 0, before = start;
	static uint32_t sample_ns[SAMPLES_MAX];
	char data[DATAGRAM_BYTES] = "";

	while (before < end) {
		if (send(fd, data, sizeof(data), 0) != sizeof(data) || recv(fd, data, sizeof(data), 0) != sizeof(data))
			err(1, "round trip %llu", (unsigned long long)operations);
		uint64_t now = now_ns();

		if (operations < SAMPLES_MAX)
			sample_ns[operations] = (uint32_t)(now - before);
		operations++;
		before = now;
	}
	report(operations, operations * sizeof(data), now_ns() - start, sample_ns,
	       operations < SAMPLES_MAX ? operations : SAMPLES_MAX);
	if (send(fd, data, 1, 0) != 1)
		err(1, "end");
}

static void sink(char **arg)
{
	int fd = open_socket(SOCK_STREAM, NULL, arg[0]), peer;
	static char data[PIECE_BYTES];
	uint64_t bytes = 0;
	ssize_t n;

	if (listen(fd, 1) || (peer = accept(fd, NULL, NULL)) < 0)
		err(1, "nobody connected");
	while ((n = recv(peer, data, sizeof(data), 0)) > 0)
		bytes += (uint64_t)n;
	if (n < 0 || send(peer, &bytes, sizeof(bytes), 0) != sizeof(bytes))
		err(1, "stream after %llu bytes", (unsigned long long)bytes);
}

static void send_stream(char **arg)
{
	int fd = open_socket(SOCK_STREAM, arg[0], arg[1]);
	uint64_t start = now_ns(), end = start + number(arg[2], 3600) * NS_PER_S, bytes = 0, arrived = 0;
	static char data[PIECE_BYTES];

	while (now_ns() < end) {
		ssize_t n = send(fd, data, sizeof(data), 0);

		if (n < 0)
			err(1, "stream after %llu bytes", (unsigned long long)bytes);
		bytes += (uint64_t)n;
	}
	if (shutdown(fd, SHUT_WR) || recv(fd, &arrived, sizeof(arrived), MSG_WAITALL) != sizeof(arrived))
		err(1, "no confirmation");
	if (arrived != bytes)
		errx(1, "%llu bytes were sent, %llu arrived", (unsigned long long)bytes, (unsigned long long)arrived);
	report(bytes / PIECE_BYTES, bytes, now_ns() - start, NULL, 0);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int args;
		void (*run)(char **arg);
	} modes[] = { { "blk", 6, blk },
		      { "echo", 1, echo },
		      { "ask", 3, ask },
		      { "sink", 1, sink },
		      { "send", 3, send_stream } };

	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		if (argc == modes[i].args + 2 && !strcmp(argv[1], modes[i].name)) {
			modes[i].run(argv + 2);
			return 0;
		}
	}
	errx(2, "the first lines of io_load.c say how it is used");
}
