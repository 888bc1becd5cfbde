// SPDX-License-Identifier: Apache-2.0
/*
 * Work on files that may take long, done by a short-lived child of the agent: its output goes to the
 * client as the client takes it, and nothing of it is held. The loop's thread.
 */
#ifndef GUEST_FILES_HELPER_H
#define GUEST_FILES_HELPER_H

#include "guest/http.h"

/* What the child does: writes the answer's JSON to out_fd (nothing: the answer is {}), or fails before. */
struct helper_job {
	int (*run)(int out_fd, const struct helper_job *job, struct err *err);
	const char *path;
	unsigned depth;
	bool outlives_client; /* goes on when the client has gone */
};

/*
 * Starts the child and answers the unary Connect call with what it says. The exchange is the
 * helper's from here on. `job` is used during the call alone.
 */
void helper_start(struct exchange *ex, const struct helper_job *job);

#endif
