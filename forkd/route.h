// SPDX-License-Identifier: Apache-2.0
/* A row of the REST API, which rest/ serves and metrics count. */
#ifndef FORKD_ROUTE_H
#define FORKD_ROUTE_H

#include <stdbool.h>

struct err;
struct forkd;
struct reply;
struct request;

typedef int handler_fn(struct forkd *d, struct request *rq, struct reply *reply, struct err *err);

/* An endpoint: each has one row, the same as in api-spec/openapi.yaml. Parts of the path in braces are parameters. */
struct route {
	const char *method, *path;
	handler_fn *run;
	bool takes_fds;
	bool streams; /* passed on before its body has come; the last parameter is the rest of the path */
	bool open;    /* answered without a token: /healthz */
};

#endif
