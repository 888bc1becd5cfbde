// SPDX-License-Identifier: Apache-2.0
/*
 * What the daemon sends to make a clone itself (POST /v1/identity), checked once: everything here is
 * as the steps need it. Plain data; the strings are the request's own.
 */
#ifndef GUEST_PERSONALITY_H
#define GUEST_PERSONALITY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/json64.h"
#include "guest/env.h"
#include "guest/generation.h"
#include "guest/link.h"

enum {
	PERSONALITY_ENTROPY_MIN = 64, /* bytes */
	PERSONALITY_ENTROPY_MAX = 4096,
	PERSONALITY_FILES_MAX = 64,
	PERSONALITY_ENV_MAX = 256,
	PERSONALITY_NETS_MAX = 16,
	PERSONALITY_DNS_MAX = 3, /* resolv.conf(5) */
	PERSONALITY_NONCE = 32,  /* hexadecimal digits */
};

struct personality_file {
	char *path, *owner; /* owner "user", "user:group", by name or number; NULL: root */
	char *content;      /* n_content bytes, decoded */
	uint32_t mode, n_content;
};

struct personality_net {
	char *mac, *ifname, *new_mac, *gateway;
	char **addresses, **dns;
	uint32_t n_addresses, n_dns;
	struct link_change change; /* all of that but dns */
};

enum ssh_keys { SSH_KEYS_NEW, SSH_KEYS_KEEP };

struct personality {
	char *nonce, *generation;
	char *entropy; /* n_entropy bytes, decoded */
	uint64_t wall_ns;
	char *hostname, *machine_id, *boot_id; /* NULL: as it is; random; random */
	char *default_user;                    /* NULL: as it is */
	struct personality_net *net;
	struct personality_file *files;
	uint32_t n_net, n_files, n_entropy;
	uint8_t ssh_host_keys; /* enum ssh_keys */
	bool thaw;
	uint8_t id[GENERATION_ID_BYTES]; /* of `generation` */
	struct env env;
};

/*
 * Loads the body of a request. ERR_INVALID: a member is unknown, missing or wrong; the message names
 * the member, never the value of one that may be secret. `personality` is filled on success only;
 * personality_done() wipes and frees it.
 */
MUST_CHECK int personality_load(struct personality *personality, const struct json_node *body, struct err *err);
void personality_done(struct personality *personality);

#endif
