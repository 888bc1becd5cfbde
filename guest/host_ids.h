// SPDX-License-Identifier: Apache-2.0
/*
 * What a Linux system tells itself apart by: hostname, machine id, boot id, DHCP
 * identity. Each function is one step of a clone's identity. Paths are looked up below root_fd,
 * which is / outside of tests. The agent's thread; nothing here waits.
 */
#ifndef GUEST_HOST_IDS_H
#define GUEST_HOST_IDS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

enum { HOSTNAME_MAX = 64, MACHINE_ID_DIGITS = 32 };

/* Letters, digits, '-' and '.', none of the latter two at an end: what Linux and DNS both take. */
bool hostname_is_good(const char *name);
/*
 * Sets the kernel's hostname, /etc/hostname when it is there, and the old name's place in
 * /etc/hosts on the lines of loopback addresses.
 */
MUST_CHECK int hostname_set(int root_fd, const char *name, struct err *err);

/* 32 lower-case hexadecimal digits, not all of them 0. */
bool machine_id_is_good(const char *text);
/*
 * Writes /etc/machine-id, and /var/lib/dbus/machine-id when that is a file of its own. NULL: a
 * random one (a UUID of version 4, as machine-id(5) wants it), when the system has a machine id.
 */
MUST_CHECK int machine_id_set(int root_fd, const char *text, struct err *err);

/*
 * Puts /run/forkd/boot_id over /proc/sys/kernel/random/boot_id. The mount reaches every mount
 * namespace that gets its mounts from the agent's own. Later calls write the same file. NULL: random.
 */
MUST_CHECK int boot_id_set(int root_fd, const char *uuid, struct err *err);

/*
 * Removes the leases and DUIDs that DHCP clients have stored; each client makes new ones from the
 * machine id, the MAC address or chance.
 */
MUST_CHECK int dhcp_identity_drop(int root_fd, struct err *err);

/* 16 random bytes as a UUID of version 4. */
MUST_CHECK int uuid_random(uint8_t ret_id[16], struct err *err);

#endif
