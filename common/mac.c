// SPDX-License-Identifier: Apache-2.0
#include "common/mac.h"

#include <stdio.h>
#include <string.h>

bool mac_parse(const char *text, uint8_t ret_mac[MAC_BYTES])
{
	unsigned b[MAC_BYTES];
	int end = 0;

	if (strlen(text) != 3 * MAC_BYTES - 1 || strspn(text, "0123456789abcdefABCDEF:") != 3 * MAC_BYTES - 1)
		return false; /* sscanf alone takes blanks, signs and single digits */
	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5], &end) != MAC_BYTES ||
	    text[end] != '\0')
		return false;
	for (unsigned i = 0; i < MAC_BYTES; i++)
		ret_mac[i] = (uint8_t)b[i];
	return true;
}

void mac_text(const uint8_t mac[MAC_BYTES], char ret_text[MAC_TEXT_BYTES])
{
	snprintf(ret_text, MAC_TEXT_BYTES, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
		 mac[5]);
}
