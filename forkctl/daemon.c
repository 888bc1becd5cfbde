// SPDX-License-Identifier: Apache-2.0
/* forkctl events, metrics, version, health. */
#include <string.h>

#include "common/version.h"
#include "forkctl/forkctl.h"
#include "forkctl/table.h"

const struct option_row daemon_events_options[] = {
	{ "follow", NULL, "go on with those that come", 'f', false },
	{ "after", "N", "begin behind event number N; 0: with the oldest that the daemon still has", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

/* Time, number, type, and every other member of the event as key=value. */
static void print_event(const char *id, const char *type, const struct json_node *event)
{
	int pad = 18 - (int)strlen(type);

	printf("%s  %s  %s", member_text(event, "time", "-"), id, type);
	if (event->type == JSON_OBJECT)
		for (json_each(m, event)) {
			bool shown = strcmp(m->key, "time") == 0 || strcmp(m->key, "type") == 0 ||
				     strcmp(m->key, "seq") == 0;
			if (shown || m->type == JSON_NULL || m->type == JSON_OBJECT || m->type == JSON_ARRAY)
				continue;
			printf("%*s %s=", pad > 0 ? pad : 0, "", m->key);
			pad = 0;
			if (m->type == JSON_STRING || m->type == JSON_FLOAT)
				print_clean(stdout, m->str);
			else if (m->type == JSON_BOOL)
				printf("%s", m->num ? "true" : "false");
			else
				printf("%s%llu", m->negative ? "-" : "", (unsigned long long)m->num);
		}
	putchar('\n');
}

static bool on_event(void *arg, const char *id, const char *type, const char *data)
{
	const struct cli *cli = arg;
	autofree char *text = strdup(data);
	autojson struct json json = {};
	struct err err = {};

	if (cli->json)
		puts(data);
	else if (text && json_parse(&json, text, strlen(text), &err) == 0)
		print_event(id, type, json.nodes);
	fflush(stdout);
	return !ferror(stdout);
}

int daemon_events(struct cli *cli)
{
	const struct event_handler handler = { .event = on_event, .arg = cli };
	bool follow = args_option(cli->args, "follow");
	char path[64], query[40] = "";
	uint64_t after = 0;

	if (!args_number(cli->args, "after", 0, UINT64_MAX, &after))
		return EXIT_USAGE;
	if (args_option(cli->args, "after"))
		snprintf(query, sizeof(query), "&after=%llu", (unsigned long long)after);
	snprintf(path, sizeof(path), "/v1/events?follow=%d%s", follow, query);
	return client_events(cli->client, path, &handler);
}

int daemon_metrics(struct cli *cli)
{
	autoanswer struct answer a = {};
	int status = client_call(cli->client, "GET", "/metrics", NULL, &a);

	if (status == EXIT_FINE && a.body.len)
		fwrite(a.body.text, 1, a.body.len, stdout);
	return status;
}

int daemon_version(struct cli *cli)
{
	autoanswer struct answer a = {};
	int status = client_call_json(cli->client, "GET", "/v1/version", NULL, &a);

	if (status != EXIT_FINE)
		return status;
	if (cli->json) {
		puts(a.body.text);
		return EXIT_FINE;
	}
	printf("forkctl %s\nforkd   ", FORKD_VERSION);
	print_clean(stdout, member_text(a.json.nodes, "version", "?"));
	printf("\n");
	return EXIT_FINE;
}

int daemon_health(struct cli *cli)
{
	autoanswer struct answer a = {};
	int status = client_call(cli->client, "GET", "/healthz", NULL, &a);

	if (status == EXIT_FINE)
		puts(cli->json && a.body.text ? a.body.text : "forkd is well");
	return status;
}
