// SPDX-License-Identifier: Apache-2.0
/*
 * The routes of the REST API, one row each. api-spec/openapi.yaml has the same routes, and a test
 * compares both.
 */
#include "common/auto.h"
#include "forkd/rest/api.h"

#define R(method_, path_, run_, ...)                                               \
	{                                                                          \
		.method = (method_), .path = (path_), .run = (run_), ##__VA_ARGS__ \
	}

const struct route forkd_routes[] = {
	R("GET", "/healthz", api_health, .open = true),
	R("GET", "/metrics", api_metrics),
	R("GET", "/v1/version", api_version),
	R("GET", "/v1/events", api_events),
	R("POST", "/v1/templates", api_template_create),
	R("GET", "/v1/templates", api_template_list),
	R("GET", "/v1/templates/{name}", api_template_get),
	R("DELETE", "/v1/templates/{name}", api_template_delete),
	R("POST", "/v1/templates/{name}/verify", api_template_verify),
	R("POST", "/v1/templates/{name}/flatten", api_template_flatten),
	R("POST", "/v1/templates/{name}/clones", api_clone_create, .takes_fds = true),
	R("POST", "/v1/templates/{name}/run", api_template_run, .takes_fds = true),
	R("GET", "/v1/clones", api_clone_list),
	R("GET", "/v1/clones/{id}", api_clone_get),
	R("DELETE", "/v1/clones/{id}", api_clone_delete),
	R("PATCH", "/v1/clones/{id}", api_clone_patch),
	R("PUT", "/v1/clones/{id}/pause", api_clone_pause),
	R("PUT", "/v1/clones/{id}/resume", api_clone_resume),
	R("GET", "/v1/clones/{id}/wait", api_clone_wait),
	R("POST", "/v1/clones/{id}/snapshot", api_clone_snapshot),
	R("POST", "/v1/clones/{id}/exec", api_clone_exec),
	R("DELETE", "/v1/clones/{id}/files", api_clone_remove_file),
	R("GET", "/v1/clones/{id}/files", api_clone_files, .streams = true),
	R("PUT", "/v1/clones/{id}/files", api_clone_files, .streams = true),
	R("GET", "/v1/clones/{id}/tunnel", api_clone_tunnel, .streams = true),
	R("GET", "/v1/clones/{id}/ports/{port}/{path}", api_clone_port, .streams = true),
	R("POST", "/v1/clones/{id}/ports/{port}/{path}", api_clone_port, .streams = true),
	R("PUT", "/v1/clones/{id}/ports/{port}/{path}", api_clone_port, .streams = true),
	R("PATCH", "/v1/clones/{id}/ports/{port}/{path}", api_clone_port, .streams = true),
	R("DELETE", "/v1/clones/{id}/ports/{port}/{path}", api_clone_port, .streams = true),
	R("GET", "/v1/clones/{id}/agent/{path}", api_clone_agent, .streams = true),
	R("POST", "/v1/clones/{id}/agent/{path}", api_clone_agent, .streams = true),
	R("PUT", "/v1/clones/{id}/agent/{path}", api_clone_agent, .streams = true),
	R("PATCH", "/v1/clones/{id}/agent/{path}", api_clone_agent, .streams = true),
	R("DELETE", "/v1/clones/{id}/agent/{path}", api_clone_agent, .streams = true),
};
const unsigned forkd_n_routes = ARRAY_LEN(forkd_routes);
