// SPDX-License-Identifier: Apache-2.0
/*
 * The per-VM REST API has Cloud Hypervisor's endpoints under /api/v1/, so that ch-remote and its kin
 * work unchanged. Requests come from vmm/api/http.h and go to vmm/api/machine_state.h. A request is
 * answered before the main loop looks at the next event. The contract is api-spec/vmm.yaml.
 */
#ifndef VMM_API_API_H
#define VMM_API_API_H

#include "vmm/api/machine_state.h"
#include "vmm/core/loop.h"

struct api_server;

/*
 * Serves the API at a socket path (see sock_listen() for the lock file) or, when `path` is NULL, on a
 * listening socket, which is taken over, also on failure. `vmm` must outlive the server. NULL: an
 * error.
 */
struct api_server *api_server_new(struct loop *loop, struct vmm *vmm, const char *path, int listen_fd, struct err *err);
/* Closes every connection and removes the socket, not its lock file. NULL is fine. */
void api_server_free(struct api_server *api);

#endif
