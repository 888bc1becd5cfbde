// SPDX-License-Identifier: Apache-2.0
/* MAC addresses and their text, "aa:bb:cc:dd:ee:ff". */
#ifndef COMMON_MAC_H
#define COMMON_MAC_H

#include <stdbool.h>
#include <stdint.h>

enum { MAC_BYTES = 6, MAC_TEXT_BYTES = 3 * MAC_BYTES };

/* false: `text` is something else; nothing is changed then. */
bool mac_parse(const char *text, uint8_t ret_mac[MAC_BYTES]);
void mac_text(const uint8_t mac[MAC_BYTES], char ret_text[MAC_TEXT_BYTES]);

#endif
