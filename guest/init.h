// SPDX-License-Identifier: Apache-2.0
/*
 * The agent as the first process of a system (--init): mounts, devices' modules, loopback, one
 * command, and the end of all. Orphans are reaped by guest/loop.h. The loop's thread.
 */
#ifndef GUEST_INIT_H
#define GUEST_INIT_H

#include <stdbool.h>

#include "guest/agent.h"
#include "guest/groups.h"

enum { INIT_TERM_S = 5 }; /* time for all processes to end after SIGTERM */

struct init {
	struct loop *loop;
	struct child command; /* pid 0: there is none */
	struct timer shutdown;
	bool stay; /* the end of the command is not the end of the system */
	bool stopping;
	uint64_t give_up_ns;
};

/*
 * Before anything else: mounts /proc, /sys, /dev, /dev/pts, /dev/shm, /run and /sys/fs/cgroup where
 * they are missing, makes mounts shared, takes the console, sets the hostname of /etc/hostname, loads
 * the modules of the devices that are there, and brings the loopback interface up. What cannot be
 * done is logged: a system that comes up half is easier to repair than one that does not.
 */
void init_system(void);
/*
 * Runs the command (argv, ends with NULL; NULL: none) in the group of started processes, with the
 * console as its terminal. Takes the loop's signals: SIGTERM, SIGINT and SIGHUP go to the command,
 * SIGPWR ends the system; without a command all but SIGHUP end it. ERR_INVALID: there is no such program.
 */
MUST_CHECK int init_start(struct init *init, struct agent *agent, const struct groups *groups, char *const *argv,
			  bool stay, struct err *err);
/* Ends all processes, syncs, and powers the machine off. */
void init_shutdown(struct init *init);

#endif
