// SPDX-License-Identifier: Apache-2.0
/*
 * /run/forkd/generation: a page that any program may map to notice that its machine was cloned, and
 * /run/forkd/notify.d, where programs register for a signal. docs/identity.md describes both for
 * their readers. The agent's thread; made once, at the start.
 */
#ifndef GUEST_GENERATION_H
#define GUEST_GENERATION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

#define GENERATION_PATH "/run/forkd/generation"
#define GENERATION_NOTIFY_DIR "/run/forkd/notify.d"
#define GENERATION_MAGIC "FORKDGEN"
enum { GENERATION_ID_BYTES = 16, GENERATION_FILE_BYTES = 4096, GENERATION_TEXT_BYTES = 37 };

/* The head of the file; the rest is zero. Integers are little-endian, as the machine's. */
struct generation_page {
	char magic[8];                   /* GENERATION_MAGIC without its NUL */
	uint64_t counter;                /* never 0; grows by one with each new id; written last */
	uint8_t id[GENERATION_ID_BYTES]; /* the bytes of the UUID, in the order of its text */
};

struct generation {
	struct generation_page *page; /* mapped for good, and touched */
	int root_fd;                  /* the caller's */
};

/*
 * Makes directory and file, or takes the file that an earlier agent has left: programs have it
 * mapped. A new file has the counter 1 and the id 0.
 */
MUST_CHECK int generation_open(struct generation *gen, int root_fd, struct err *err);
void generation_close(struct generation *gen);
/* The new id, then the counter: who sees the new counter sees the new id. */
void generation_set(struct generation *gen, const uint8_t id[GENERATION_ID_BYTES]);
/* The id as a UUID's text. */
void generation_text(const struct generation *gen, char ret_text[GENERATION_TEXT_BYTES]);
/*
 * Sends every registered process its signal. Returns their number. A registration is a regular file
 * in the directory, which holds a signal's number, and on which the process holds a write lock of
 * fcntl(); it counts only for a process of the file's owner. At most GENERATION_NOTIFY_MAX files are
 * looked at.
 */
enum { GENERATION_NOTIFY_MAX = 4096 };
unsigned generation_notify(const struct generation *gen);

/* Parses the text of a UUID, 8-4-4-4-12 hexadecimal digits. false: it is something else. */
bool uuid_parse(const char *text, uint8_t ret_id[GENERATION_ID_BYTES]);
void uuid_text(const uint8_t id[GENERATION_ID_BYTES], char ret_text[GENERATION_TEXT_BYTES]);

#endif
