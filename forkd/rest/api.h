// SPDX-License-Identifier: Apache-2.0
/*
 * Every handler of the REST API. routes.c has the table that names them; each runs in a thread of the
 * front and may wait.
 */
#ifndef FORKD_REST_API_H
#define FORKD_REST_API_H

#include "forkd/rest/server.h"

extern const struct route forkd_routes[];
extern const unsigned forkd_n_routes;

/* api_templates.c */
handler_fn api_template_create, api_template_list, api_template_get, api_template_delete, api_template_verify,
	api_template_flatten;
/* api_clones.c */
handler_fn api_clone_create, api_clone_list, api_clone_get, api_clone_delete, api_clone_pause, api_clone_resume;
handler_fn api_clone_patch, api_clone_wait, api_clone_snapshot;
/* api_agent.c */
handler_fn api_clone_agent, api_clone_files, api_clone_port, api_clone_tunnel;
/* api_exec.c */
handler_fn api_clone_exec, api_template_run, api_clone_remove_file;
/* api_misc.c */
handler_fn api_health, api_version, api_metrics, api_events;

struct clone;
/* api_clones.c: a reference to the clone that the request's path names. E_NO_CLONE: there is none. */
MUST_CHECK int api_find_clone(struct forkd *d, const struct request *rq, struct clone **ret, struct err *err);
/* api_agent.c: the file of the guest that the query names. NULL: none, or the empty path, which would be the user's home. */
const char *api_file_path(const struct request *rq, struct err *err);
/* clone_json.c: the clone as the API shows it; `stats`: members of its "stats", or NULL. */
void clone_json(struct forkd *d, struct clone *c, const struct strbuf *stats, struct strbuf *out);
/* template_json.c: the template as the API shows it. */
MUST_CHECK int template_json(struct forkd *d, const char *name, struct strbuf *out, struct err *err);
/* The answer to a clone's snapshot, with the template that was made. */
MUST_CHECK int snapshotted_json(struct forkd *d, const char *name, uint64_t paused_us, struct strbuf *out,
				struct err *err);

#endif
