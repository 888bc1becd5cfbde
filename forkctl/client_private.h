// SPDX-License-Identifier: Apache-2.0
/* What client.c, transfer.c and tunnel.c share of a connection to the daemon. */
#ifndef FORKCTL_CLIENT_PRIVATE_H
#define FORKCTL_CLIENT_PRIVATE_H

#include <curl/curl.h>

#include "forkctl/client.h"

struct client {
	CURL *curl;
	CURLM *multi;            /* of all transfers and tunnels; NULL: there was none yet */
	struct transfer *upload; /* the one whose body comes from send(); NULL: none */
	const char *socket;      /* NULL: by URL */
	char *own_socket;        /* owns the path of a default socket */
	const char *base;
	char *token_header;
	const char *cacert;
	bool json;
	char detail[CURL_ERROR_SIZE];
};

/*
 * Everything but the method and where the bytes go. `header` may be NULL; *headers gets what the caller frees when the
 * transfer is over. False: no memory.
 */
MUST_CHECK bool prepare_transfer(struct client *c, CURL *curl, const char *path, const char *header,
				 struct curl_slist **headers);
/* Says that the daemon cannot be reached, or was lost. */
int say_unreachable(const struct client *c, CURL *curl, CURLcode code);
/* Says the server's error: message and remedy for people, its JSON for scripts. */
int say_error(const struct client *c, struct answer *a);

#endif
