// SPDX-License-Identifier: Apache-2.0
/*
 * The vsock ports on which a guest's agent listens. A guest without its root's consent listens on no
 * port below 1024.
 */
#ifndef COMMON_AGENT_PORTS_H
#define COMMON_AGENT_PORTS_H

enum {
	AGENT_PORT = 983,         /* the agent's API, for all who reach the VM's vsock socket */
	AGENT_PRIVATE_PORT = 984, /* for the daemon alone */
};

#endif
