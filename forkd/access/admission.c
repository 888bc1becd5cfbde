// SPDX-License-Identifier: Apache-2.0
/* Compares what a request asks for with the host's memory, threads and descriptors. */
#include "forkd/access/admission.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "forkd/access/cgroup.h"
#include "forkd/errors.h"

enum { SLOTS = 10 };
static const uint64_t slot_ns = 100000000; /* SLOTS slots are one second */

struct admission {
	pthread_mutex_t lock;
	uint64_t reserve_bytes;
	struct {
		uint64_t number, bytes; /* number: the time in slots since boot */
	} entered[SLOTS];               /* under lock; slot `number` is at index number % SLOTS */
};

static uint64_t available_bytes(void)
{
	static const char key[] = "MemAvailable:";
	char text[4096];

	read_text("/proc/meminfo", text, sizeof(text));
	const char *at = strstr(text, key);
	return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

static uint64_t number_in(const char *path)
{
	char text[64];

	read_text(path, text, sizeof(text));
	uint64_t v = strtoull(text, NULL, 10);
	return v ? v : UINT64_MAX;
}

static uint64_t threads_now(void)
{
	char text[128];

	read_text("/proc/loadavg", text, sizeof(text));
	const char *slash = strchr(text, '/');
	return slash ? strtoull(slash + 1, NULL, 10) : 0;
}

int admission_new(uint64_t reserve_bytes, struct admission **ret, struct err *err)
{
	struct admission *a = calloc(1, sizeof(*a));

	if (!a)
		return err_num(err, ERR_INTERNAL, ENOMEM, "prepare admission");
	pthread_mutex_init(&a->lock, NULL);
	a->reserve_bytes = reserve_bytes;
	*ret = a;
	return 0;
}

void admission_free(struct admission *a)
{
	if (a)
		pthread_mutex_destroy(&a->lock);
	free(a);
}

static unsigned long long mib(uint64_t bytes)
{
	return bytes >> 20;
}

int admission_decide(const struct admission_ask *ask, const struct admission_host *host, uint64_t pending_bytes,
		     struct err *err)
{
	uint64_t needed = ask->count * ask->bytes_each, kept = host->reserve_bytes + pending_bytes;
	uint64_t threads = (uint64_t)ask->count * ask->threads_each;
	uint64_t files = ((uint64_t)ask->clones_now + ask->count) * ADMISSION_FDS_EACH + ADMISSION_FDS_OTHER;

	if (host->available_bytes < kept || host->available_bytes - kept < needed)
		return fail(
			err, E_NO_MEMORY,
			"%u VMs of %llu MiB each need %llu MiB: there are %llu MiB available, of which %llu MiB are "
			"kept in reserve and %llu MiB promised to requests of the last second",
			ask->count, mib(ask->bytes_each), mib(needed), mib(host->available_bytes),
			mib(host->reserve_bytes), mib(pending_bytes));
	if (host->threads_now + threads > host->threads_max)
		return fail(err, E_BUSY, "%u VMs need %llu threads: there are %llu, and %llu are allowed", ask->count,
			    (unsigned long long)threads, (unsigned long long)host->threads_now,
			    (unsigned long long)host->threads_max);
	if (files > host->files_max)
		return fail(err, E_BUSY, "%u more VMs need %llu open files in the daemon, whose limit is %llu",
			    ask->count, (unsigned long long)files, (unsigned long long)host->files_max);
	return 0;
}

static void look_at_host(struct admission_host *host)
{
	struct rlimit files = { .rlim_cur = RLIM_INFINITY };
	uint64_t pid_max = number_in("/proc/sys/kernel/pid_max");
	struct cgroup_room room;

	host->available_bytes = available_bytes();
	host->threads_now = threads_now();
	host->threads_max = number_in("/proc/sys/kernel/threads-max");
	if (pid_max < host->threads_max)
		host->threads_max = pid_max;
	getrlimit(RLIMIT_NOFILE, &files);
	host->files_max = files.rlim_cur;
	cgroup_read("/sys/fs/cgroup", "/proc/self/cgroup", &room); /* the VMs are in the daemon's control group */
	if (room.bytes < host->available_bytes)
		host->available_bytes = room.bytes;
	if (room.pids_max - room.pids_now < host->threads_max - host->threads_now) {
		host->threads_now = room.pids_now;
		host->threads_max = room.pids_max;
	}
}

int admission_enter(struct admission *a, const struct admission_ask *ask, struct err *err)
{
	struct admission_host host = { .reserve_bytes = a->reserve_bytes };
	uint64_t now = monotonic_ns() / slot_ns, pending = 0;

	look_at_host(&host);
	pthread_mutex_lock(&a->lock);
	for (unsigned i = 0; i < SLOTS; i++)
		if (now - a->entered[i].number >= SLOTS)
			a->entered[i].bytes = 0;
		else
			pending += a->entered[i].bytes;
	int r = admission_decide(ask, &host, pending, err);
	if (r >= 0) {
		a->entered[now % SLOTS].number = now;
		a->entered[now % SLOTS].bytes += ask->count * ask->bytes_each;
	}
	pthread_mutex_unlock(&a->lock);
	return r;
}
