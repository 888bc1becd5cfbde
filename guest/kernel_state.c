// SPDX-License-Identifier: Apache-2.0
#include "guest/kernel_state.h"

#include <fcntl.h>
#include <linux/random.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

enum { CHUNK = 512 };

int kernel_reseed(const void *bytes, uint32_t len, struct err *err)
{
	union {
		struct rand_pool_info info;
		char room[sizeof(struct rand_pool_info) + CHUNK];
	} pool = {};
	autoclose int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open /dev/urandom");
	for (uint32_t at = 0, n; at < len; at += n) {
		n = len - at < CHUNK ? len - at : CHUNK;
		pool.info.buf_size = (int)n;
		pool.info.entropy_count = 8 * (int)n;
		memcpy(pool.room + sizeof(pool.info), (const char *)bytes + at, n);
		int r = ioctl(fd, RNDADDENTROPY, &pool);
		explicit_bzero(&pool, sizeof(pool));
		if (r < 0)
			return err_sys(err, ERR_INTERNAL, "RNDADDENTROPY");
	}
	if (ioctl(fd, RNDRESEEDCRNG) < 0)
		return err_sys(err, ERR_INTERNAL, "RNDRESEEDCRNG");
	return 0;
}

int wall_clock_set(uint64_t wall_ns, struct err *err)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	const int64_t now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec, off = (int64_t)wall_ns - now;
	if (off >= -CLOCK_TOLERANCE_NS && off <= CLOCK_TOLERANCE_NS)
		return 0;
	t = (struct timespec){ .tv_sec = (time_t)(wall_ns / 1000000000), .tv_nsec = (long)(wall_ns % 1000000000) };
	if (clock_settime(CLOCK_REALTIME, &t) < 0)
		return err_sys(err, ERR_INTERNAL, "set the wall clock");
	return 0;
}
