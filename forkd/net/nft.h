// SPDX-License-Identifier: Apache-2.0
/*
 * Runs commands of nftables (libnftables) in the network namespace of the calling thread. One at a time in
 * the whole process: the library shares its state. Any thread.
 */
#ifndef FORKD_NET_NFT_H
#define FORKD_NET_NFT_H

#include "common/json64.h"

/* All of the commands, or none of them. */
MUST_CHECK int nft_run(const char *commands, const char *what, struct err *err);
/* The same, and *out gets what the commands print. */
MUST_CHECK int nft_ask(const char *commands, const char *what, struct strbuf *out, struct err *err);
/*
 * Closes the sockets of earlier commands. The kernel takes some 15 ms for each, once it has changed rules, so whoever runs
 * commands leaves that to a thread with time; NFT_SPENT_MAX of them at most stay open.
 */
enum { NFT_SPENT_MAX = 32 };
void nft_tidy(void);

#endif
