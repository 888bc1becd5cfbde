// SPDX-License-Identifier: Apache-2.0
/* What the fuzzing programs share. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <fcntl.h>
#include <stdint.h>
#include <string.h>

#include "common/auto.h"
#include "common/json64.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * A snapshot from {"config": …, "state": …}, in which the nodes' states are JSON: the text of config.json, and that of state.json, in which
 * they are strings of JSON; what is not there is empty. false: the input is no JSON. The RAM that the configuration asks for: 0 when it does not.
 */
bool document_fold(const uint8_t *data, size_t size, struct strbuf *ret_config, struct strbuf *ret_state,
		   uint64_t *ret_ram_bytes);

/* The reader took the input: half of all others will be changes of such. */
void document_is_good(const uint8_t *data, size_t size);

/* A heap copy of exactly these bytes: one read behind them is seen. */
static inline char *exact(const void *data, size_t size)
{
	char *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	return copy;
}

/* A finding that no sanitizer sees. */
static inline void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "finding: %s\n", what);
	abort();
}

/* The descriptor that would be next: the same after an input as before it, or one was left open. */
static inline int next_fd(void)
{
	int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);

	close(fd);
	return fd;
}

#endif
