// SPDX-License-Identifier: Apache-2.0
/*
 * What is passed through to a clone's guest. No token, key or cookie of the daemon's clients reaches a
 * guest, and no answer of a guest acts for the daemon in a browser.
 */
#include <string.h>
#include <strings.h>

#include "common/agent_ports.h"
#include "forkd/agent/agent_http.h"
#include "forkd/agent/tunnel.h"
#include "forkd/clone/dial.h"
#include "forkd/errors.h"
#include "forkd/front/front.h"
#include "forkd/rest/api.h"
#include "forkd/rest/url.h"
#include "forkd/wire/control.h"

enum { DIAL_MS = 5000 };

#define HIDDEN                                                                                                   \
	"Host", "Authorization", "Proxy-Authorization", "Cookie", "X-API-Key", "X-Access-Token", "X-Forkd-User", \
		"E2B-Traffic-Access-Token", "E2b-Sandbox-Id", "E2b-Sandbox-Port"
static const char *const hidden_from_guest[] = { HIDDEN, NULL };
static const char *const hidden_of_file[] = { HIDDEN, "Content-Type", NULL }; /* whatever the client calls the bytes */
static const char *const hidden_from_client[] = {
	"Set-Cookie", "Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", NULL,
};
/* A page of a guest runs in no origin, and is what it says. */
#define ADDED "Content-Security-Policy: sandbox\r\nX-Content-Type-Options: nosniff\r\n"

/* A connection to the agent's API, or through the agent to a TCP port of the guest. */
static int dial(struct forkd *d, struct clone *c, unsigned tcp_port, struct err *err)
{
	const struct dial_to to = { .port = tcp_port ? AGENT_PRIVATE_PORT : AGENT_PORT, .timeout_ms = DIAL_MS };
	autoclose int fd = clone_dial_running(d, c, &to, err);
	if (fd < 0)
		return fd;
	if (tcp_port && agent_tunnel(fd, tcp_port, deadline_in_ms(DIAL_MS), err) < 0)
		return err_wrap(err, "clone '%s'", c->record.id);
	return steal_fd(&fd);
}

/* Where a request goes to, and as what. */
struct way {
	const char *method, *target;
	unsigned tcp_port;         /* 0: the agent's API */
	const char *const *hidden; /* fields that the guest does not get */
	const char *added;         /* and such as the guest gets instead; "" for none */
};

static int pass_on(struct forkd *d, const struct request *rq, const struct way *way, struct reply *reply,
		   struct err *err)
{
	struct relay_options *relay = &reply->relay;
	struct clone *c;

	if (api_find_clone(d, rq, &c, err) < 0)
		return err->num;
	strbuf_printf(&relay->head, "%s %s HTTP/1.1\r\nHost: %s\r\n%s", way->method, way->target,
		      way->tcp_port ? "localhost" : "agent", way->added);
	relay_copy_fields(request_message(rq), way->hidden, &relay->head);
	snprintf(relay->what, sizeof(relay->what),
		 way->tcp_port ? "clone '%s': port %u" : "clone '%s': the guest's agent", c->record.id, way->tcp_port);
	relay->dropped = hidden_from_client;
	relay->added = ADDED;
	relay->upgrades = true;
	int r = way->tcp_port ? 0 : agent_user_field(request_user(rq), &relay->head, err);
	if (r == 0 && relay->head.failed)
		r = fail(err, E_INTERNAL, "no memory for the request");
	relay->upstream = r == 0 ? dial(d, c, way->tcp_port, err) : -1;
	clone_unref(d->registry, c);
	reply->relays = relay->upstream >= 0;
	return reply->relays ? 0 : err->num;
}

int api_clone_agent(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	const struct way way = { rq->method, rq->tail, 0, hidden_from_guest, "" };

	return pass_on(d, rq, &way, reply, err);
}

const char *api_file_path(const struct request *rq, struct err *err)
{
	const char *path = request_query(rq, "path", 0);

	if (path && *path)
		return path;
	fail(err, E_INVALID, "path: missing; it names the file: ?path=/etc/hostname");
	return NULL;
}

/* The agent's /files, where a file is written by POST. It knows no HEAD: what it answers GET is cut off behind its head. */
int api_clone_files(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	const char *query = strchr(request_message(rq)->target, '?');
	bool put = strcmp(rq->method, "PUT") == 0;
	autostrbuf struct strbuf target = {};

	if (!api_file_path(rq, err))
		return err->num;
	strbuf_printf(&target, "/files%s", query);
	if (target.failed)
		return fail(err, E_INTERNAL, "no memory for the request");
	const struct way way = { put ? "POST" : "GET", target.text, 0, put ? hidden_of_file : hidden_from_guest,
				 put ? "Content-Type: application/octet-stream\r\n" : "" };
	return pass_on(d, rq, &way, reply, err);
}

static int read_port(const char *text, uint64_t *ret_port, struct err *err)
{
	if (query_number(text, "port", UINT16_MAX, ret_port, err) < 0)
		return err->num;
	return *ret_port == 0 ? fail(err, E_INVALID, "port: 0 is below 1") : 0;
}

int api_clone_port(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	uint64_t port;

	if (read_port(rq->param[1], &port, err) < 0)
		return err->num;
	const struct way way = { rq->method, rq->tail, (unsigned)port, hidden_from_guest, "" };
	return pass_on(d, rq, &way, reply, err);
}

/* Bytes instead of HTTP: the client's connection becomes the guest's. */
int api_clone_tunnel(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	const char *text = request_query(rq, "port", 0), *protocol = request_header(rq, "Upgrade");
	uint64_t port;

	if (!text)
		return fail(err, E_INVALID, "port: missing; it is a TCP port of the guest: ?port=22");
	if (read_port(text, &port, err) < 0)
		return err->num;
	if (!relay_upgrade_asked(request_message(rq)) || strcasecmp(protocol, "tcp") != 0)
		return fail(err, E_UPGRADE, "a tunnel needs a connection that is upgraded to tcp");
	const struct way way = { rq->method, "", (unsigned)port, hidden_from_guest, "" };
	reply->relay.tunnel = true;
	return pass_on(d, rq, &way, reply, err);
}
