// SPDX-License-Identifier: Apache-2.0
/*
 * What is passed through to a clone's guest. No token, key or cookie of the daemon's clients reaches a
 * guest, and no answer of a guest acts for the daemon in a browser.
 */
#include <gnutls/gnutls.h>
#include <string.h>

#include "forkd/clone/dial.h"
#include "forkd/errors.h"
#include "forkd/front/front.h"
#include "forkd/rest/api.h"

enum { AGENT_PORT = 983, DIAL_MS = 5000, USER_MAX = 64 };

static const char *const hidden_from_guest[] = {
	"Host",
	"Authorization",
	"Proxy-Authorization",
	"Cookie",
	"X-API-Key",
	"X-Access-Token",
	"X-Forkd-User",
	"E2B-Traffic-Access-Token",
	"E2b-Sandbox-Id",
	"E2b-Sandbox-Port",
	NULL,
};
static const char *const hidden_from_client[] = {
	"Set-Cookie", "Service-Worker-Allowed", "Clear-Site-Data", "Strict-Transport-Security", "Alt-Svc", NULL,
};
/* A page of a guest runs in no origin, and is what it says. */
#define ADDED "Content-Security-Policy: sandbox\r\nX-Content-Type-Options: nosniff\r\n"

/* The agent takes the user's name from Basic authentication without a password. */
static int add_user(const struct request *rq, struct strbuf *head, struct err *err)
{
	const char *query = request_query(rq, "username", 0), *field = request_header(rq, "X-Forkd-User");
	const char *user = field ? field : query;
	gnutls_datum_t text = {}, coded = {};
	char name[USER_MAX + 2];

	if (!user || !user[0])
		return 0;
	if (strlen(user) > USER_MAX || strchr(user, ':'))
		return fail(err, E_INVALID, "the user's name '%.80s' has a ':', or more than %d bytes", user, USER_MAX);
	text.size = (unsigned)snprintf(name, sizeof(name), "%s:", user);
	text.data = (unsigned char *)name;
	if (gnutls_base64_encode2(&text, &coded) < 0)
		return fail(err, E_INTERNAL, "no memory for the user's name");
	strbuf_printf(head, "Authorization: Basic %.*s\r\n", (int)coded.size, (const char *)coded.data);
	gnutls_free(coded.data);
	return 0;
}

static int agent_dial(struct forkd *d, struct clone *c, struct err *err)
{
	if (clone_state(d->registry, c) == CLONE_PAUSED)
		return fail(err, E_PAUSED, "clone '%s' is paused: its agent cannot answer", c->record.id);
	return clone_dial(d, c, AGENT_PORT, DIAL_MS, err);
}

static int pass_on(struct forkd *d, struct clone *c, const struct request *rq, struct relay_options *relay,
		   struct err *err)
{
	strbuf_printf(&relay->head, "%s %s HTTP/1.1\r\nHost: agent\r\n", rq->method, rq->tail);
	if (add_user(rq, &relay->head, err) < 0)
		return err->num;
	relay_copy_fields(request_message(rq), hidden_from_guest, &relay->head);
	snprintf(relay->what, sizeof(relay->what), "clone '%s': the guest's agent", c->record.id);
	relay->dropped = hidden_from_client;
	relay->added = ADDED;
	relay->upgrades = true;
	return agent_dial(d, c, err);
}

int api_clone_agent(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct clone *c = registry_find(d->registry, rq->param[0]);

	if (!c)
		return fail(err, E_NO_CLONE, "there is no clone '%s'", rq->param[0]);
	int fd = pass_on(d, c, rq, &reply->relay, err);
	clone_unref(d->registry, c);
	if (fd < 0)
		return fd;
	reply->relay.upstream = fd;
	reply->relays = true;
	return 0;
}
