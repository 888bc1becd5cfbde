// SPDX-License-Identifier: Apache-2.0
/*
 * The command line of forkd-vmm, which is Cloud Hypervisor's: argv to one struct of plain data. Nothing of the host is
 * looked at here. cmdline_free() releases what was not moved out.
 */
#ifndef VMM_CONFIG_CMDLINE_H
#define VMM_CONFIG_CMDLINE_H

#include <stdio.h>

#include "vmm/config/config.h"

enum cmdline_action { CMDLINE_RUN, CMDLINE_HELP, CMDLINE_VERSION };
enum seccomp_mode { SECCOMP_TRUE, SECCOMP_FALSE, SECCOMP_LOG, SECCOMP_ERRNO };
enum { EXIT_USAGE = 2 };

/* `path=P` or `fd=N`; neither: not given. */
struct endpoint {
	char *path;
	int32_t fd;
	bool has_fd;
};

struct cmdline {
	enum cmdline_action action;
	int exit_code; /* after a failure: EXIT_USAGE, or 1 for a bad value in an option string */
	struct endpoint api_socket, event_monitor;
	struct endpoint template_host, control; /* fd only: started by forkd */
	char *control_id;
	char *log_file;
	uint8_t verbosity;        /* number of v's */
	uint8_t seccomp;          /* enum seccomp_mode */
	bool has_vm, has_restore; /* at most one of them */
	struct vm_config config;
	struct restore_config restore; /* net_fds[].fds: inherited descriptors */
};

/* ERR_INVALID with one sentence (usage), or a chain that names the option. *cl needs cmdline_free() in any case. */
MUST_CHECK int cmdline_parse(int argc, char *const *argv, struct cmdline *cl, struct err *err);
void cmdline_free(struct cmdline *cl);
void cmdline_help(FILE *out);

#endif
