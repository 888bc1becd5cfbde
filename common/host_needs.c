// SPDX-License-Identifier: Apache-2.0
/* The table of struct host_needs, and its lists. */
#include "common/host_needs.h"

#include <string.h>

enum { NAMES_MAX = 1024 };

const struct field host_needs_fields[] = {
	F_LIST(struct host_needs, cpu, .flags = F_REQUIRED, .count = NAMES_MAX),
	F(struct host_needs, tsc_khz, .flags = F_REQUIRED),
	F(struct host_needs, xsave_bytes, .flags = F_REQUIRED),
	F_LIST(struct host_needs, msrs, .flags = F_REQUIRED, .count = NAMES_MAX),
	F_LIST(struct host_needs, kvm, .flags = F_REQUIRED, .count = NAMES_MAX),
	F_END,
};

bool names_add(char ***list, uint32_t *n, const char *name)
{
	autofree char *copy = strdup(name);
	char **longer = copy ? realloc(*list, (*n + 1UL) * sizeof(*longer)) : NULL;

	if (!longer)
		return false;
	longer[(*n)++] = steal_ptr(&copy);
	*list = longer;
	return true;
}
