// SPDX-License-Identifier: Apache-2.0
/* The mapped page, and the signals for those who registered. */
#include "guest/generation.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/log.h"
#include "guest/put_file.h"

static bool is_dash(unsigned at)
{
	return at == 8 || at == 13 || at == 18 || at == 23;
}

bool uuid_parse(const char *text, uint8_t ret_id[GENERATION_ID_BYTES])
{
	uint8_t id[GENERATION_ID_BYTES];
	unsigned n = 0;

	if (strlen(text) != GENERATION_TEXT_BYTES - 1)
		return false;
	for (unsigned i = 0; text[i]; i++)
		if (is_dash(i) ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
			return false;
	for (unsigned i = 0; text[i]; i += 2) {
		i += text[i] == '-';
		id[n++] = (uint8_t)strtoul((const char[]){ text[i], text[i + 1], '\0' }, NULL, 16);
	}
	memcpy(ret_id, id, sizeof(id));
	return true;
}

void uuid_text(const uint8_t id[GENERATION_ID_BYTES], char ret_text[GENERATION_TEXT_BYTES])
{
	char *p = ret_text;

	for (unsigned i = 0; i < GENERATION_ID_BYTES; i++) {
		if (is_dash((unsigned)(p - ret_text)))
			*p++ = '-';
		p += sprintf(p, "%02x", id[i]);
	}
}

int generation_open(struct generation *gen, int root_fd, struct err *err)
{
	int r = make_dirs(root_fd, GENERATION_NOTIFY_DIR, 01777, err);
	if (r < 0)
		return r;
	/* The umask does not count here: every user may register. */
	if (fchmodat(root_fd, path_below(GENERATION_NOTIFY_DIR), 01777, 0) < 0)
		return err_sys(err, ERR_INTERNAL, "mode of '%s'", GENERATION_NOTIFY_DIR);
	autoclose int fd =
		openat(root_fd, path_below(GENERATION_PATH), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return err_sys(err, ERR_INTERNAL, "open '%s'", GENERATION_PATH);
	if (fchmod(fd, 0644) < 0 || ftruncate(fd, GENERATION_FILE_BYTES) < 0)
		return err_sys(err, ERR_INTERNAL, "size of '%s'", GENERATION_PATH);
	void *page = mmap(NULL, GENERATION_FILE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED)
		return err_sys(err, ERR_INTERNAL, "map '%s'", GENERATION_PATH);
	*gen = (struct generation){ .page = page, .root_fd = root_fd };
	memcpy(gen->page->magic, GENERATION_MAGIC, sizeof(gen->page->magic));
	if (gen->page->counter == 0)
		__atomic_store_n(&gen->page->counter, 1, __ATOMIC_RELEASE);
	return 0;
}

void generation_close(struct generation *gen)
{
	if (gen->page)
		munmap(gen->page, GENERATION_FILE_BYTES);
	*gen = (struct generation){};
}

void generation_set(struct generation *gen, const uint8_t id[GENERATION_ID_BYTES])
{
	uint64_t next = gen->page->counter + 1;

	memcpy(gen->page->id, id, GENERATION_ID_BYTES);
	__atomic_store_n(&gen->page->counter, next ? next : 1, __ATOMIC_RELEASE);
}

void generation_text(const struct generation *gen, char ret_text[GENERATION_TEXT_BYTES])
{
	uuid_text(gen->page->id, ret_text);
}

/* The process that holds the file's lock; 0: nobody, or somebody in another PID namespace. */
static pid_t holder_of(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

	if (fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK || lock.l_pid <= 1)
		return 0;
	return lock.l_pid;
}

static bool owned_by(pid_t pid, uid_t uid)
{
	char path[32];
	struct stat st;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	return stat(path, &st) == 0 && st.st_uid == uid;
}

/* Sends the signal of one registration. false: it does not count. */
static bool notify(int dir_fd, const char *name)
{
	char text[16] = "";
	struct stat st;
	autoclose int fd = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || io_read(fd, text, sizeof(text) - 1, 0) < 0)
		return false;
	long number = strtol(text, NULL, 10);
	pid_t pid = holder_of(fd);
	if (number < 1 || number > SIGRTMAX || !pid || !owned_by(pid, st.st_uid))
		return false;
	return kill(pid, (int)number) == 0;
}

unsigned generation_notify(const struct generation *gen)
{
	int fd = openat(gen->root_fd, path_below(GENERATION_NOTIFY_DIR), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	unsigned sent = 0;

	if (!dir) {
		log_warn("open '%s': %m", GENERATION_NOTIFY_DIR);
		if (fd >= 0)
			close(fd);
		return 0;
	}
	struct dirent *entry;
	for (unsigned n = 0; n < GENERATION_NOTIFY_MAX && (entry = readdir(dir));)
		if (entry->d_name[0] != '.') {
			n++;
			sent += notify(dirfd(dir), entry->d_name);
		}
	closedir(dir);
	return sent;
}
