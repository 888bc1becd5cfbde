// SPDX-License-Identifier: Apache-2.0
/*
 * The command line of forkd-vmm has Cloud Hypervisor's options: argv becomes one struct of plain data.
 * The parser does not look at the host. cmdline_free() releases what the caller has not moved out of
 * the struct.
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

/*
 * A usage error is ERR_INVALID with one sentence; an error in an option string is a chain that names
 * the option. *cl needs cmdline_free() in any case.
 */
MUST_CHECK int cmdline_parse(int argc, char *const *argv, struct cmdline *cl, struct err *err);
void cmdline_free(struct cmdline *cl);
void cmdline_help(FILE *out);

#endif
