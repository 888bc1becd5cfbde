// SPDX-License-Identifier: Apache-2.0
/*
 * What is known of a clone that outlives a daemon: clone.json in its directory. Plain data; strings and lists are heap, released by
 * record_free().
 */
#ifndef FORKD_REGISTRY_RECORD_H
#define FORKD_REGISTRY_RECORD_H

#include <sys/types.h>

#include "common/field.h"
#include "common/sock.h"

enum { CLONE_ID_CHARS = 14, LABELS_MAX = 32, LABEL_CHARS_MAX = 63 };
#define OWNER_REMOTE UINT32_MAX /* uid and gid of a caller that has none here */

struct label {
	char *key, *value;
};

struct record_net {
	char *id;
	bool lost; /* it was deleted under the clone; under the registry's lock, and not written */
	char *tap; /* the interface's name at the start; NULL: descriptors whose name is not known here */
};

struct record {
	char *id, *template;
	uint32_t pid;
	uint32_t uid, gid; /* of its owner; OWNER_REMOTE */
	uint8_t memory_restore_mode;
	struct record_net *net;
	uint32_t n_net;
	char *serial, *serial_socket, *console, *console_socket, *vsock_socket; /* paths; NULL: none */
	struct sock_file vsock_file; /* of a vsock socket that the caller named: removed with the clone */
	struct label *labels;
	uint32_t n_labels;
	uint64_t ttl_s;       /* 0: none */
	uint64_t expires_ns;  /* CLOCK_MONOTONIC; 0: never */
	char *created_at;     /* RFC 3339, UTC */
	uint64_t begun_ns;    /* CLOCK_MONOTONIC at the request's first byte */
	uint64_t accepted_ns; /* when it was checked and admitted */
};
extern const struct field record_fields[], label_fields[];

void record_free(struct record *r);
/* "c-" and 12 random characters of a-z2-7. */
void record_new_id(char ret_id[CLONE_ID_CHARS + 1]);
/* Writes it into the directory; it counts from record_commit() on. */
MUST_CHECK int record_save(const struct record *r, int dir_fd, struct err *err);
MUST_CHECK int record_commit(int dir_fd, struct err *err);
/* *ret_committed false: it was never committed. ERR_NOT_FOUND: there is none. */
MUST_CHECK int record_load(struct record *ret, int dir_fd, bool *ret_committed, struct err *err);
/* The labels of a request: an object of strings within the limits. `what` names it in messages. */
MUST_CHECK int labels_load(const struct json_node *node, const char *what, struct label **ret, uint32_t *ret_n,
			   struct err *err);
void labels_free(struct label *labels, uint32_t n);
MUST_CHECK int labels_copy(const struct label *from, uint32_t n, struct label **ret, struct err *err);
void labels_json(const struct label *labels, uint32_t n, struct strbuf *out);

#endif
