// SPDX-License-Identifier: Apache-2.0
/*
 * The open service: a VM process whose API names a host directory asks here for its descriptor, and gets it if the owner of its clone
 * may go there. One thread, which serves every connection in turn.
 */
#ifndef FORKD_ACCESS_OPENER_H
#define FORKD_ACCESS_OPENER_H

#include "common/err.h"
#include "forkd/forkd.h"

struct opener;
/* Listens at d->open_socket. */
MUST_CHECK int opener_start(struct forkd *d, struct opener **ret, struct err *err);
void opener_stop(struct opener *o); /* NULL is fine */

#endif
