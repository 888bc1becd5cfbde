// SPDX-License-Identifier: Apache-2.0
/* Names and addresses of slots. */
#include "forkd/net/layout.h"

#include <errno.h>
#include <string.h>

#include "forkd/errors.h"

enum { RANGE_PREFIX_MIN = 8, RANGE_PREFIX_MAX = 28, INNER_PREFIX_MAX = 30, NUMBER_DIGITS = 5 };

/* A few letters that tell the daemons of one host apart: FNV-1a of the path. */
static void make_tag(const char *runtime_dir, char ret[LAYOUT_TAG_MAX + 1])
{
	static const char digits[] = "abcdefghijklmnopqrstuvwxyz234567";
	uint32_t hash = 2166136261;

	ret[0] = '\0';
	if (strcmp(runtime_dir, "/run/forkd") == 0 || strcmp(runtime_dir, "/var/run/forkd") == 0)
		return;
	for (const char *p = runtime_dir; *p; p++)
		hash = (hash ^ (uint8_t)*p) * 16777619;
	for (unsigned i = 0; i < LAYOUT_TAG_MAX; i++)
		ret[i] = digits[hash >> (27 - 5 * i) & 31];
	ret[LAYOUT_TAG_MAX] = '\0';
}

/* fd6b, and the 32 bits of the range; what follows numbers the slots. */
static struct cidr range6_of(const struct cidr *range4)
{
	struct cidr c = { .version = 6, .prefix = 48, .addr = { 0xfd, 0x6b } };

	memcpy(c.addr + 2, range4->addr, 4);
	return c;
}

static int parse_inner(const char *text, struct layout *l, struct err *err)
{
	const char *slash = strchr(text, '/');
	char address[INET_ADDRSTRLEN], prefix[8];
	size_t len = slash ? (size_t)(slash - text) : 0;
	uint8_t mask[4];

	if (len < 1 || len >= sizeof(address) || strlen(slash + 1) >= sizeof(prefix))
		return fail(err, E_INVALID, "'%s' is no address with a prefix, as in " SLOT_INNER_DEFAULT, text);
	memcpy(address, text, len);
	address[len] = '\0';
	unsigned long bits = strtoul(slash + 1, NULL, 10);
	if (!cidr_parse_address(address, &l->gateway4) || l->gateway4.version != 4 || bits < RANGE_PREFIX_MIN ||
	    bits > INNER_PREFIX_MAX || slash[1] < '0' || slash[1] > '9')
		return fail(err, E_INVALID,
			    "'%s' is no IPv4 address with a prefix of 8 to 30, as in " SLOT_INNER_DEFAULT, text);
	l->guest4 = cidr_nth(&l->gateway4, 1);
	l->inner4 = l->gateway4;
	l->inner4.prefix = (uint8_t)bits;
	for (unsigned i = 0; i < 4; i++) {
		mask[i] = bits >= 8 * (i + 1) ? 0xff : bits <= 8 * i ? 0 : (uint8_t)(0xff << (8 * (i + 1) - bits));
		l->inner4.addr[i] &= mask[i];
	}
	if (!cidr_within(&l->guest4, &l->inner4))
		return fail(err, E_INVALID, "'%s': the guest has the next address, which is not in this network", text);
	return 0;
}

int layout_make(const char *runtime_dir, const char *range, const char *inner, struct layout *ret, struct err *err)
{
	struct layout l = {};

	if (!cidr_parse(range, &l.range4) || l.range4.version != 4 || l.range4.prefix < RANGE_PREFIX_MIN ||
	    l.range4.prefix > RANGE_PREFIX_MAX)
		return fail(err, E_INVALID,
			    "'%s' is no IPv4 network with a prefix of 8 to 28, as in " SLOT_RANGE_DEFAULT, range);
	if (parse_inner(inner, &l, err) < 0)
		return err->num;
	if (cidr_overlap(&l.range4, &l.inner4))
		return fail(err, E_INVALID, "the range '%s' and the guests' network '%s' overlap", range, inner);
	make_tag(runtime_dir, l.tag);
	const char *dash = l.tag[0] ? "-" : "", *line = l.tag[0] ? "_" : "";
	snprintf(l.table, sizeof(l.table), "forkd%s%s", line, l.tag);
	snprintf(l.veth_prefix, sizeof(l.veth_prefix), "fn%s-", l.tag);
	snprintf(l.ns_prefix, sizeof(l.ns_prefix), "forkd%s%s-", dash, l.tag);
	l.range6 = range6_of(&l.range4);
	l.n = (1u << (32 - l.range4.prefix)) / 2 - 1;
	if (l.n > SLOTS_LIMIT)
		l.n = SLOTS_LIMIT;
	*ret = l;
	return 0;
}

struct slot_place layout_place(const struct layout *l, unsigned number)
{
	struct slot_place p = { .number = number };
	const struct cidr link = { .version = 6, .addr = { 0xfe, 0x80 } };
	struct cidr net6 = l->range6;

	net6.addr[6] = (uint8_t)(number >> 8);
	net6.addr[7] = (uint8_t)number;
	snprintf(p.name, sizeof(p.name), "%s%u", l->ns_prefix, number);
	snprintf(p.veth, sizeof(p.veth), "%s%u", l->veth_prefix, number);
	p.host4 = cidr_nth(&l->range4, 2UL * number);
	p.slot4 = cidr_nth(&l->range4, 2UL * number + 1);
	p.host6 = cidr_nth(&net6, 1);
	p.slot6 = cidr_nth(&net6, 2);
	p.host_link = cidr_nth(&link, 1);
	p.slot_link = cidr_nth(&link, 2);
	return p;
}

static unsigned number_behind(const char *prefix, const char *name)
{
	size_t len = strlen(prefix);

	if (strncmp(name, prefix, len) != 0)
		return 0;
	name += len;
	size_t digits = strspn(name, "0123456789");
	if (digits < 1 || digits > NUMBER_DIGITS || name[digits] || name[0] == '0')
		return 0;
	unsigned long n = strtoul(name, NULL, 10);
	return n <= SLOTS_LIMIT ? (unsigned)n : 0;
}

unsigned layout_ns_number(const struct layout *l, const char *name)
{
	return number_behind(l->ns_prefix, name);
}

unsigned layout_veth_number(const struct layout *l, const char *name)
{
	return number_behind(l->veth_prefix, name);
}
