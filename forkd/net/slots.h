// SPDX-License-Identifier: Apache-2.0
/*
 * The slots of a daemon: some are made ahead, a clone takes one, and what comes back is removed and made
 * anew. One thread ("slots") makes and removes; a request makes one itself when none is ready. Nothing is
 * changed on the host before the first slot is wanted. Functions may be called from any thread.
 */
#ifndef FORKD_NET_SLOTS_H
#define FORKD_NET_SLOTS_H

#include "common/tap.h"
#include "forkd/forkd.h"
#include "forkd/net/wish.h"
#include "forkd/registry/record.h"

struct slots;

/*
 * Looks whether this host can have slots, and for those of an earlier daemon. A host that cannot is an error
 * only when the options ask for slots.
 */
MUST_CHECK int slots_start(struct forkd *d, struct slots **ret, struct err *err);
/* Removes the slots that nobody uses, and all that was changed on the host when none stays. NULL is fine. */
void slots_stop(struct slots *s);
/* NULL: there are slots. Else why there are none. */
const char *slots_missing(const struct slots *s);

/* What a clone wants of a slot. */
struct slot_ask {
	const char *clone; /* its id */
	const struct net_wish *wish;
	const char *host_mac; /* NULL: as it is */
	uint16_t mtu;         /* 0: as it is */
	uint32_t queues;      /* of the tap, 1 to TAP_QUEUES_MAX */
	bool trusted;         /* may have ports below 1024 */
};
/*
 * Takes a slot for a clone: ret_fds are the tap's, the caller's to close; the record's net says which slot it is.
 * E_BUSY: as many as may be are in use. E_CONFLICT: a port of the host is taken. Blocks for some milliseconds when none
 * is ready, or the wish is more than an empty one.
 */
MUST_CHECK int slots_take(struct slots *s, const struct slot_ask *ask, struct record_net *net,
			  int ret_fds[TAP_QUEUES_MAX], struct err *err);
/* Gives back what the clone has. May be called again, and for clones without a slot. */
void slots_give(struct slots *s, const struct record *r);

/* At the start, for each clone of an earlier daemon that lives; then slots_settle() removes the slots that have none. */
void slots_adopt(struct slots *s, const struct record *r);
void slots_settle(struct slots *s);

/* For metrics. */
struct slots_count {
	unsigned ready, used;
};
struct slots_count slots_count(struct slots *s);

#endif
