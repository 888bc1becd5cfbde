// SPDX-License-Identifier: Apache-2.0
/*
 * Making a clone itself: steps in a fixed order, each timed and named in the answer. All other
 * processes of the guest stand still until the step "thaw", so they never see a half of it. A step
 * that fails ends it: the answer names the step, and what was frozen stays frozen. So does a client
 * that goes away before the answer. Whoever begins anew begins with the first step. The loop's thread.
 */
#ifndef GUEST_PERSONALIZE_H
#define GUEST_PERSONALIZE_H

#include "guest/hooks.h"
#include "guest/http.h"
#include "guest/personality.h"

#define HOOKS_BEFORE "/etc/forkd/clone.d/before"
#define HOOKS_AFTER "/etc/forkd/clone.d/after"
enum { PERSONALIZE_STEPS_MAX = 16 };

struct personalize {
	bool running;
	bool thaw_only; /* clock, thaw, after: for what was made itself without being thawed */
	struct exchange *ex;
	struct personality p;
	size_t step;
	uint64_t step_ns; /* when it began, CLOCK_MONOTONIC */
	uint32_t us[PERSONALIZE_STEPS_MAX];
	struct hooks hooks;
	struct command keygen;
	char generation_var[64], hostname_var[96];
	const char *hook_env[4];
};

/*
 * POST /v1/identity. 400: the body is wrong; 409: one is being applied already. The daemon's secrets
 * are wiped from the body.
 */
void personalize_begin(struct exchange *ex);
/*
 * POST /v1/thaw {"wall_ns": n?}: sets the clock and thaws, and runs the hooks that an identity
 * without a thaw has left out.
 */
void personalize_thaw(struct exchange *ex);

#endif
