// SPDX-License-Identifier: Apache-2.0
/*
 * What the image that the guest was made of says about processes: variables, user, working directory. forkd-image writes it, from the
 * image's configuration. The loop's thread, before it runs.
 */
#ifndef GUEST_IMAGE_CONFIG_H
#define GUEST_IMAGE_CONFIG_H

#include "guest/agent.h"

/*
 * Reads the file, JSON with Env, User and WorkingDir, and sets the agent's variables, default user and default directory. A working
 * directory that is not there is made, as container runtimes do. On failure the agent is as it was.
 */
MUST_CHECK int image_config_load(struct agent *agent, const char *path, struct err *err);

#endif
