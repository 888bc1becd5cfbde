// SPDX-License-Identifier: Apache-2.0
/* The request "flatten" of a template host: one raw image of a chain, for forkd. */
#ifndef VMM_CLONE_FLATTEN_H
#define VMM_CLONE_FLATTEN_H

#include "common/ctl.h"

/* Reads the request and does it; see common/ctl.h. Writes the answer. */
MUST_CHECK int flatten_serve(const struct ctl_packet *p, struct strbuf *out, struct err *err);

#endif
