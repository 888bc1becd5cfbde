// SPDX-License-Identifier: Apache-2.0
/*
 * The record of a clone, clone.json in the clone's directory: what the next daemon must know of the
 * clone. Plain data; strings and lists are on the heap, released by record_free().
 */
#ifndef FORKD_REGISTRY_RECORD_H
#define FORKD_REGISTRY_RECORD_H

#include <sys/types.h>

#include "common/field.h"
#include "common/sock.h"

enum { CLONE_ID_CHARS = 14, LABELS_MAX = 32, LABEL_CHARS_MAX = 63 };
#define OWNER_REMOTE UINT32_MAX /* uid and gid of a caller without an account on this host */

/* Whether the guest is like no other clone of its template. */
enum identity_state {
	IDENTITY_UNMANAGED, /* the template has no agent: the guest is the twin of its siblings */
	IDENTITY_PENDING,   /* the guest has not proved yet that it is itself */
	IDENTITY_UNIQUE,
	IDENTITY_STATES,
};
extern const char *const identity_states[]; /* as in the API, NULL-terminated */

struct label {
	char *key, *value;
};

struct record_net {
	char *id;
	bool lost; /* the tap was deleted under the clone; under the registry's lock, not in clone.json */
	char *tap; /* the interface's name at the start; NULL: not known */
	/* A net with a slot: its name, its addresses on the host, what the guest has, and the network of the request as JSON. */
	char *slot, *address, *address6, *guest_address, *guest_address6, *network;
};

/* An overlay in the store. */
struct record_overlay {
	char *name;
	uint8_t type; /* enum store_image_type */
	char *image;  /* the id of the image that it is about to become, or has just become; NULL: not known yet */
};

/* A disk of the clone's own. Changed under talk and the registry's lock. */
struct record_disk {
	char *id;
	struct record_overlay
		*overlays; /* the newest first, which the clone writes; those behind it are to become images */
	uint32_t n_overlays;
	char *image; /* the id of the image behind them: the clone has a reference */
	char *path;  /* of the newest, for people */
	bool gone;   /* the clone has none of this any more; under the registry's lock, not in clone.json */
};

struct record {
	char *id, *template;
	uint32_t pid;
	uint32_t uid, gid;                  /* the clone's owner, or OWNER_REMOTE */
	uint8_t memory_restore_mode, clock; /* enum ctl_memory_mode, enum ctl_clock */
	uint8_t identity;                   /* enum identity_state; under the registry's lock */
	bool frozen;                        /* the guest's processes stand still, or are about to; likewise */
	uint32_t frozen_reboots;            /* how often the guest had rebooted then */
	bool wished;                        /* the request had overrides.identity, which no later daemon knows */
	bool secrets; /* the guest has been given values that nobody else may see, or its template has them */
	struct record_net *net;
	uint32_t n_net;
	struct record_disk *disks;
	uint32_t n_disks;
	char *serial, *serial_socket, *console, *console_socket, *vsock_socket; /* paths; NULL: none */
	struct sock_file vsock_file; /* the file of a vsock socket that the caller named: removed with the clone */
	struct label *labels;
	uint32_t n_labels;
	uint64_t ttl_s;       /* 0: no TTL */
	uint64_t expires_ns;  /* CLOCK_MONOTONIC; 0: never */
	char *created_at;     /* RFC 3339, UTC */
	uint64_t begun_ns;    /* CLOCK_MONOTONIC at the request's first byte */
	uint64_t accepted_ns; /* CLOCK_MONOTONIC when the request was checked and admitted */
};
extern const struct field record_fields[], label_fields[];

void record_free(struct record *r);
/* Makes an id: "c-" and 12 random characters of a-z2-7. */
void record_new_id(char ret_id[CLONE_ID_CHARS + 1]);
/* Writes the record into the directory as clone.json.new, which record_commit() renames to clone.json. */
MUST_CHECK int record_save(const struct record *r, int dir_fd, struct err *err);
MUST_CHECK int record_commit(int dir_fd, struct err *err);
/*
 * Loads the record in the directory; record_free() frees *ret, also after a failure, if *ret was
 * zeroed. *ret_committed false: the record was never committed. ERR_NOT_FOUND: there is no record.
 */
MUST_CHECK int record_load(struct record *ret, int dir_fd, bool *ret_committed, struct err *err);
/*
 * Loads the labels of a request: an object of strings within the limits, else E_INVALID. `what`
 * names the object in messages. labels_free() frees *ret.
 */
MUST_CHECK int labels_load(const struct json_node *node, const char *what, struct label **ret, uint32_t *ret_n,
			   struct err *err);
void labels_free(struct label *labels, uint32_t n);
MUST_CHECK int labels_copy(const struct label *from, uint32_t n, struct label **ret, struct err *err);
void labels_json(const struct label *labels, uint32_t n, struct strbuf *out);

#endif
