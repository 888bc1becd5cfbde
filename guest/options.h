// SPDX-License-Identifier: Apache-2.0
/* The agent's command line. */
#ifndef GUEST_OPTIONS_H
#define GUEST_OPTIONS_H

#include <stdbool.h>

#include "common/err.h"

struct options {
	const char *listen;         /* path of a unix socket for the API; NULL: vsock port 983 */
	const char *listen_private; /* the same for the daemon's own port, 984 */
	const char *default_user;   /* who a request without a user is for; NULL: root */
	const char *image_config;   /* what the image says about processes; NULL: nothing */
	bool init, stay;            /* run as the first process; keep the system up when the command has ended */
	char *const *command;       /* of the first process: argv, ends with NULL; NULL: none */
	bool help, version;
};

/* Prints the options to stdout. */
void options_help(void);
MUST_CHECK int options_parse(int argc, char **argv, struct options *ret_options, struct err *err);

#endif
