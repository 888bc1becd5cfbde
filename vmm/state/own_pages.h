// SPDX-License-Identifier: Apache-2.0
/*
 * Which pages of guest RAM are memory of this process's own, and no longer the snapshot's: those that
 * were written. /proc/self/pagemap says it. A process may not open its own pagemap when the user may
 * not read the program, or the program has file capabilities.
 *
 * A list of such pages goes from the first clone of a template that is ready to its template host; parked
 * clones make the same pages their own before they are wanted, because each page costs the guest a fault
 * of the host, with a copy. Any thread.
 */
#ifndef VMM_STATE_OWN_PAGES_H
#define VMM_STATE_OWN_PAGES_H

#include "vmm/core/gmem.h"

enum { OWN_PAGES_MAX = 2048, OWN_RUNS_MAX = 1024 }; /* of a list; 8 MiB of pages */

/* The pagemap: a descriptor, or -1 with errno. */
int own_pages_open(void);
/* Reads the entries of n pages, from `hva` on. */
MUST_CHECK int own_pages_read(int fd, const uint8_t *hva, uint64_t n, uint64_t *ret_entry, struct err *err);
bool own_pages_is_own(uint64_t entry);

struct own_run {
	uint32_t first, n; /* pages, in the order of memory-ranges */
};
struct own_pages {
	uint32_t n;
	struct own_run run[OWN_RUNS_MAX]; /* ascending */
};
/*
 * Lists this process's own pages of RAM, which is mapped over a snapshot's: the first ones where there are
 * more than a list has room for. ERR_INVALID: RAM is all this process's own.
 */
MUST_CHECK int own_pages_list(const struct gmem *mem, struct own_pages *ret, struct err *err);
/* Makes the pages of the list this process's own, whose bytes stay. A page that cannot be made its own is left. */
void own_pages_make(const struct gmem *mem, const struct own_pages *list);

/* Sends a list over a SOCK_SEQPACKET socket, without a wait; it is lost when nobody wants it. */
void own_pages_send(int fd, const struct own_pages *list);
/* Takes one, which may be anything, for RAM of ram_bytes. false: none came, or what came is none. */
MUST_CHECK bool own_pages_recv(int fd, uint64_t ram_bytes, struct own_pages *ret);

#endif
