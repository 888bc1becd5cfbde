// SPDX-License-Identifier: Apache-2.0
/* Addresses and networks. */
#include "forkd/net/cidr.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned bits_of(const struct cidr *c)
{
	return c->version == 4 ? 32 : 128;
}

bool cidr_parse_address(const char *text, struct cidr *ret)
{
	struct cidr c = {};

	if (inet_pton(AF_INET, text, c.addr) == 1)
		c.version = 4;
	else if (inet_pton(AF_INET6, text, c.addr) == 1)
		c.version = 6;
	else
		return false;
	c.prefix = (uint8_t)bits_of(&c);
	*ret = c;
	return true;
}

static bool bit(const struct cidr *c, unsigned i)
{
	return c->addr[i / 8] & 0x80u >> i % 8;
}

/* "8", "24": digits alone, without a leading zero. */
static bool parse_prefix(const char *text, unsigned max, uint8_t *ret)
{
	size_t len = strspn(text, "0123456789");

	if (len < 1 || len > 3 || text[len] || (text[0] == '0' && len > 1))
		return false;
	unsigned long n = strtoul(text, NULL, 10);
	*ret = (uint8_t)n;
	return n <= max;
}

bool cidr_parse(const char *text, struct cidr *ret)
{
	const char *slash = strchr(text, '/');
	size_t len = slash ? (size_t)(slash - text) : strlen(text);
	char address[INET6_ADDRSTRLEN];
	struct cidr c;

	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	address[len] = '\0';
	if (!cidr_parse_address(address, &c))
		return false;
	if (slash && !parse_prefix(slash + 1, bits_of(&c), &c.prefix))
		return false;
	for (unsigned i = c.prefix; i < bits_of(&c); i++)
		if (bit(&c, i))
			return false;
	*ret = c;
	return true;
}

const char *cidr_address_text(const struct cidr *c, char buf[CIDR_TEXT_BYTES])
{
	if (!inet_ntop(c->version == 4 ? AF_INET : AF_INET6, c->addr, buf, CIDR_TEXT_BYTES))
		buf[0] = '\0';
	return buf;
}

const char *cidr_text(const struct cidr *c, char buf[CIDR_TEXT_BYTES])
{
	cidr_address_text(c, buf);
	if (!cidr_is_single(c)) {
		size_t len = strlen(buf);
		snprintf(buf + len, CIDR_TEXT_BYTES - len, "/%u", c->prefix);
	}
	return buf;
}

bool cidr_is_single(const struct cidr *c)
{
	return c->prefix == bits_of(c);
}

bool cidr_within(const struct cidr *inner, const struct cidr *outer)
{
	if (inner->version != outer->version || inner->prefix < outer->prefix)
		return false;
	for (unsigned i = 0; i < outer->prefix; i++)
		if (bit(inner, i) != bit(outer, i))
			return false;
	return true;
}

bool cidr_overlap(const struct cidr *a, const struct cidr *b)
{
	return cidr_within(a, b) || cidr_within(b, a);
}

bool cidr_equal(const struct cidr *a, const struct cidr *b)
{
	return a->version == b->version && a->prefix == b->prefix && memcmp(a->addr, b->addr, bits_of(a) / 8) == 0;
}

bool cidr_is_loopback(const struct cidr *c)
{
	static const struct cidr net4 = { .version = 4, .prefix = 8, .addr = { 127 } };
	static const struct cidr one6 = { .version = 6, .prefix = 128, .addr = { [15] = 1 } };

	return cidr_within(c, c->version == 4 ? &net4 : &one6);
}

struct cidr cidr_nth(const struct cidr *net, uint64_t n)
{
	struct cidr c = *net;

	c.prefix = (uint8_t)bits_of(net);
	for (unsigned i = c.prefix / 8; i-- > 0 && n > 0; n >>= 8) {
		n += c.addr[i];
		c.addr[i] = (uint8_t)n;
	}
	return c;
}
