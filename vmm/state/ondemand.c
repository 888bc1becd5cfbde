// SPDX-License-Identifier: Apache-2.0
/*
 * The pager thread answers page faults first. While there are none, the thread fetches the rest of
 * RAM.
 */
#include "vmm/state/ondemand.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "common/io.h"
#include "common/log.h"
#include "vmm/state/memfile.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

enum { CHUNK_BYTES = 256 << 10 };

struct ondemand {
	const struct gmem *mem;
	int mem_fd, uffd, stop_fd;
	pthread_t thread;
	bool has_thread;
	_Atomic bool complete;
	uint8_t *buf;    /* CHUNK_BYTES, page-aligned */
	unsigned region; /* region and off: where the background fetch goes on */
	uint64_t off;
};

/* Makes a userfaultfd by the device, else by the system call. The message says what each way needs. */
static int new_uffd(struct err *err)
{
	autoclose int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	char why[128];

	if (dev >= 0) {
		int fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		return fd < 0 ? err_sys(err, ERR_INTERNAL, "make a userfaultfd with /dev/userfaultfd") : fd;
	}
	const char *text = strerror_r(errno, why, sizeof(why));
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? err_sys(err, ERR_INTERNAL,
				"open /dev/userfaultfd: %s; without it the system call needs CAP_SYS_PTRACE, or the "
				"sysctl vm.unprivileged_userfaultfd=1",
				text)
		      : fd;
}

static int open_uffd(struct err *err)
{
	struct uffdio_api api = { .api = UFFD_API };
	autoclose int fd = new_uffd(err);

	if (fd < 0)
		return err_wrap(err, "memory_restore_mode=ondemand");
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		return err_sys(err, ERR_INTERNAL, "memory_restore_mode=ondemand: set up the userfaultfd");
	return steal_fd(&fd);
}

static const struct gmem_region *region_of(const struct ondemand *od, uint64_t address)
{
	for (unsigned i = 0; i < od->mem->n; i++) {
		const struct gmem_region *r = &od->mem->region[i];
		if (address >= (uintptr_t)r->hva && address - (uintptr_t)r->hva < r->size)
			return r;
	}
	return NULL;
}

/*
 * Puts [off, off + len) of the region in place. -EEXIST: (part of) the range is there already;
 * -EAGAIN: try again.
 */
static int put(struct ondemand *od, const struct gmem_region *r, uint64_t off, uint64_t len, bool zero)
{
	struct uffdio_copy copy = { .dst = (uintptr_t)r->hva + off, .src = (uintptr_t)od->buf, .len = len };
	struct uffdio_zeropage zp = { .range = { .start = (uintptr_t)r->hva + off, .len = len } };

	if (ioctl(od->uffd, zero ? UFFDIO_ZEROPAGE : UFFDIO_COPY, zero ? (void *)&zp : (void *)&copy) == 0)
		return 0;
	return errno == ENOENT ? -EEXIST : -errno; /* gmem_discard() has put other memory there */
}

static int read_chunk(const struct ondemand *od, uint64_t off, uint64_t len)
{
	assert(len <= CHUNK_BYTES);
	ssize_t n = io_read(od->mem_fd, od->buf, len, off);

	return n < 0 ? (int)n : (uint64_t)n < len ? -ENODATA : 0;
}

/* Puts one page in place. A page that is there already is no error. */
static int put_page(struct ondemand *od, const struct gmem_region *r, uint64_t off)
{
	int ret = read_chunk(od, r->file_offset + off, GUEST_PAGE);

	while (ret == 0 || ret == -EAGAIN) {
		ret = put(od, r, off, GUEST_PAGE, false);
		if (ret != -EAGAIN)
			break;
	}
	return ret == -EEXIST ? 0 : ret;
}

static int answer_faults(struct ondemand *od)
{
	struct uffd_msg msg[16];
	ssize_t bytes = read(od->uffd, msg, sizeof(msg));

	if (bytes < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	for (size_t i = 0; i < (size_t)bytes / sizeof(msg[0]); i++) {
		if (msg[i].event != UFFD_EVENT_PAGEFAULT)
			continue;
		uint64_t page = msg[i].arg.pagefault.address & ~(GUEST_PAGE - 1ULL);
		const struct gmem_region *r = region_of(od, page);
		int ret = r ? put_page(od, r, page - (uintptr_t)r->hva) : -EFAULT;
		if (ret < 0)
			return ret;
		struct uffdio_range wake = { .start = page, .len = GUEST_PAGE };
		(void)ioctl(od->uffd, UFFDIO_WAKE, &wake);
	}
	return 0;
}

/*
 * Puts a chunk in place: as a whole or, where the guest has touched pages of the chunk, page by page.
 */
static int put_chunk(struct ondemand *od, const struct gmem_region *r, uint64_t off, uint64_t len, bool zero)
{
	int ret = zero ? 0 : read_chunk(od, r->file_offset + off, len);

	if (ret < 0)
		return ret;
	ret = put(od, r, off, len, zero);
	if (ret == 0)
		return 0;
	for (uint64_t at = 0; at < len; at += GUEST_PAGE) {
		ret = zero ? put(od, r, off + at, GUEST_PAGE, true) : put_page(od, r, off + at);
		if (ret < 0 && ret != -EEXIST && ret != -EAGAIN)
			return ret;
		if (ret == -EAGAIN)
			at -= GUEST_PAGE;
	}
	return 0;
}

/*
 * Fetches the next chunk. In holes of the file, which are zero, a chunk is larger. 1: nothing is left.
 */
static int fetch_next(struct ondemand *od)
{
	if (od->region == od->mem->n)
		return 1;
	const struct gmem_region *r = &od->mem->region[od->region];
	uint64_t start, end, base = r->file_offset;
	bool data = memfile_next_data(od->mem_fd, base + od->off, base + r->size, &start, &end);
	bool hole = !data || start > base + od->off;
	uint64_t len = hole ? (data ? start - base : r->size) - od->off : end - base - od->off;
	uint64_t most = hole ? CHUNK_BYTES * 16 : CHUNK_BYTES;
	if (len > most)
		len = most;
	int ret = put_chunk(od, r, od->off, len, hole);
	od->off += len;
	if (od->off == r->size) {
		od->region++;
		od->off = 0;
	}
	return ret;
}

static void *pager(void *arg)
{
	struct ondemand *od = arg;
	bool fetching = true;

	log_thread_name("pager");
	for (;;) {
		struct pollfd fds[2] = { { .fd = od->uffd, .events = POLLIN },
					 { .fd = od->stop_fd, .events = POLLIN } };
		int n = poll(fds, 2, fetching ? 0 : -1);
		int ret = 0;
		if (fds[1].revents)
			return NULL;
		if (n > 0 && fds[0].revents)
			ret = answer_faults(od);
		else if (fetching)
			ret = fetch_next(od);
		if (ret < 0) { /* without that page the guest would see memory that the guest never had */
			log_error("on-demand restore: a page cannot be read: errno %d", -ret);
			_exit(1);
		}
		if (ret == 1) {
			fetching = false;
			od->complete = true;
		}
	}
}

static int start(struct ondemand *od, struct err *err)
{
	od->buf = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (od->buf == MAP_FAILED)
		return err_sys(err, ERR_INTERNAL, "make a buffer");
	od->uffd = open_uffd(err);
	if (od->uffd < 0)
		return err->num;
	for (unsigned i = 0; i < od->mem->n; i++) {
		struct uffdio_register reg = {
			.range = { .start = (uintptr_t)od->mem->region[i].hva, .len = od->mem->region[i].size },
			.mode = UFFDIO_REGISTER_MODE_MISSING,
		};
		if (ioctl(od->uffd, UFFDIO_REGISTER, &reg) < 0)
			return err_sys(err, ERR_INTERNAL, "register guest RAM with the userfaultfd");
	}
	od->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (od->stop_fd < 0)
		return err_sys(err, ERR_INTERNAL, "make an eventfd");
	int r = pthread_create(&od->thread, NULL, pager, od);
	if (r)
		return err_num(err, ERR_INTERNAL, r, "start the pager");
	od->has_thread = true;
	return 0;
}

int ondemand_start(const struct gmem *mem, int *mem_fd, struct ondemand **ret, struct err *err)
{
	struct ondemand *od = calloc(1, sizeof(*od));

	if (!od)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start the pager");
	*od = (struct ondemand){ .mem = mem, .mem_fd = *mem_fd, .uffd = -1, .stop_fd = -1, .buf = MAP_FAILED };
	if (start(od, err) < 0) {
		od->mem_fd = -1;
		ondemand_stop(od);
		return err->num;
	}
	*mem_fd = -1;
	*ret = od;
	return 0;
}

bool ondemand_complete(const struct ondemand *od)
{
	return !od || od->complete;
}

void ondemand_stop(struct ondemand *od)
{
	if (!od)
		return;
	if (od->has_thread) {
		(void)!write(od->stop_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
		pthread_join(od->thread, NULL);
	}
	const int fds[] = { od->uffd, od->stop_fd, od->mem_fd };
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (od->buf != MAP_FAILED)
		munmap(od->buf, CHUNK_BYTES);
	free(od);
}
