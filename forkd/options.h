// SPDX-License-Identifier: Apache-2.0
/* What the daemon was started with: the command line, and the configuration file for what it leaves open. */
#ifndef FORKD_OPTIONS_H
#define FORKD_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/log.h"

/* auto: where the host can. */
enum network_mode { NETWORK_AUTO, NETWORK_ON, NETWORK_OFF };
enum options_action { OPTIONS_RUN, OPTIONS_HELP, OPTIONS_VERSION };

enum { NETWORK_SLOTS_LIMIT = 16384 };

struct forkd_options {
	enum options_action action;
	char *socket, *store, *runtime_dir; /* never NULL when action is OPTIONS_RUN */
	char *config, *listen, *token_file, *tls_cert, *tls_key, *socket_group; /* NULL: not given */
	char *vmm;          /* path of forkd-vmm; found, not opened */
	char **allow_paths; /* --allow-path, as given */
	uint32_t n_allow_paths;
	uint32_t memory_reserve_mib;
	uint32_t park; /* clones kept ready for each loaded template */
	enum log_level log_level;
	bool insecure_plain_http;
	uint8_t network;                     /* enum network_mode */
	uint32_t network_slots;              /* networks for clones that are made ahead */
	bool has_network_slots;              /* the number was given: they are made at the start */
	uint32_t network_slots_max;          /* all together */
	char *network_range, *network_inner; /* NULL: the default ones */
};

/* *opt must be zeroed; options_done() in any case. An error is one of usage. */
MUST_CHECK int options_parse(int argc, char *const *argv, struct forkd_options *opt, struct err *err);
void options_done(struct forkd_options *opt);
void options_help(FILE *out);

#endif
