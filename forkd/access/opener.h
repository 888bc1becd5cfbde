// SPDX-License-Identifier: Apache-2.0
/*
 * The open service for VM processes. A VM process whose API names a host directory asks here for
 * the directory's descriptor. A VM process whose guest connects to a vsock port of the host asks
 * here for a connection to the port's socket. The service acts with the rights of the clone's
 * owner. One thread serves every connection in turn.
 */
#ifndef FORKD_ACCESS_OPENER_H
#define FORKD_ACCESS_OPENER_H

#include "common/err.h"
#include "forkd/forkd.h"

struct opener;
/* Listens at d->open_socket. */
MUST_CHECK int opener_start(struct forkd *d, struct opener **ret, struct err *err);
void opener_stop(struct opener *o); /* sets d->stopping, and waits for the thread; NULL is fine */

#endif
