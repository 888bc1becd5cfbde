// SPDX-License-Identifier: Apache-2.0
/* IP addresses and networks of both versions, as text and as plain data. Pure functions, any thread. */
#ifndef FORKD_NET_CIDR_H
#define FORKD_NET_CIDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

enum { CIDR_TEXT_BYTES = 64 };

/* A network, or one address with all bits of prefix. */
struct cidr {
	uint8_t version; /* 4 or 6 */
	uint8_t prefix;
	uint8_t addr[16]; /* network byte order; version 4 uses 4 of them */
};

/* Reads "10.0.0.0/8", "10.0.0.1", "fd00::/8" … False: the text is none, or has bits set behind its prefix. */
bool cidr_parse(const char *text, struct cidr *ret);
/* The same for one address without a prefix. */
bool cidr_parse_address(const char *text, struct cidr *ret);
/* Writes the address, with the prefix unless it is a single address. Returns `buf`. */
const char *cidr_text(const struct cidr *c, char buf[CIDR_TEXT_BYTES]);
/* The address alone. */
const char *cidr_address_text(const struct cidr *c, char buf[CIDR_TEXT_BYTES]);
/* Whether all addresses of `inner` are of `outer`. */
bool cidr_within(const struct cidr *inner, const struct cidr *outer);
bool cidr_overlap(const struct cidr *a, const struct cidr *b);
bool cidr_is_single(const struct cidr *c);
/* The `n`-th address behind the network's own, as a single address. Version 4: within 32 bits. */
struct cidr cidr_nth(const struct cidr *net, uint64_t n);
bool cidr_equal(const struct cidr *a, const struct cidr *b);
/* 127.0.0.0/8 or ::1. */
bool cidr_is_loopback(const struct cidr *c);

#endif
