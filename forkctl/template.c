// SPDX-License-Identifier: Apache-2.0
/* forkctl template …: making a template takes long, so the progress goes to stderr meanwhile. */
#include <string.h>

#include "common/clock.h"
#include "forkctl/forkctl.h"
#include "forkctl/table.h"

const struct option_row template_build_options[] = {
	{ "disks", "FROM", "of disks that the guest writes: copy (default), or caller: each clone brings its own", 0,
	  false },
	{ "no-wait", NULL, "return as soon as the daemon has begun", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

const struct option_row template_create_options[] = {
	{ "vm", "FILE.json", "the virtual machine: a VmConfig, as for vm.create; - is stdin", 0, false },
	{ "ready-serial", "TEXT", "ready when the serial port has printed this", 0, false },
	{ "ready-delay", "MS", "ready so many milliseconds after the start", 0, false },
	{ "ready-agent", NULL, "ready when the guest's agent says so", 0, false },
	{ "timeout", "S", "give up after so many seconds", 0, false },
	{ "disks", "FROM", "of disks that the guest writes: copy (default), or caller: each clone brings its own", 0,
	  false },
	{ "no-wait", NULL, "return as soon as the daemon has begun", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

/* ---- progress of a template that is made ---- */

struct progress {
	const char *name; /* of the template */
	uint64_t begun_ns;
	bool terminal;
	char text[160];
};

static void print_progress(const struct progress *p)
{
	char took[UNIT_TEXT];

	if (p->terminal)
		fprintf(stderr, "\r\033[K%s: %s (%s)", p->name, p->text,
			format_us(took, (monotonic_ns() - p->begun_ns) / 1000));
	else
		fprintf(stderr, "%s: %s\n", p->name, p->text);
}

static bool on_tick(void *arg)
{
	const struct progress *p = arg;

	if (p->terminal)
		print_progress(p);
	return true;
}

static void on_end(void *arg)
{
	const struct progress *p = arg;

	if (p->terminal)
		fprintf(stderr, "\r\033[K");
}

/* The step that an event names; a text, no control characters. */
static bool on_event(void *arg, const char *id, const char *type, const char *data)
{
	struct progress *p = arg;
	autofree char *text = strdup(data);
	autojson struct json json = {};
	struct err err = {};

	(void)id;
	if (strcmp(type, "template.progress") != 0 || !text || json_parse(&json, text, strlen(text), &err) < 0 ||
	    strcmp(member_text(json.nodes, "template", ""), p->name) != 0)
		return true;
	snprintf(p->text, sizeof(p->text), "%.150s", member_text(json.nodes, "step", "building"));
	for (char *at = p->text; *at; at++)
		*at = *at > 0 && *at < ' ' ? '?' : *at;
	print_progress(p);
	return true;
}

static void say_built(const struct progress *p, const struct json_node *template)
{
	char ram[UNIT_TEXT], took[UNIT_TEXT];
	uint64_t bytes = 0, vcpus = 0;

	member_number(template, "ram_bytes", &bytes);
	member_number(template, "vcpus", &vcpus);
	printf("template %s is ready: %s, %llu vCPU%s, made in %s\n", p->name, format_bytes(ram, bytes),
	       (unsigned long long)vcpus, vcpus == 1 ? "" : "s",
	       format_us(took, (monotonic_ns() - p->begun_ns) / 1000));
}

static int begin(struct cli *cli, const char *name, const char *body)
{
	autoanswer struct answer a = {};
	int status = client_call(cli->client, "POST", "/v1/templates", body, &a);

	if (status == EXIT_FINE && cli->json)
		puts(a.body.text ? a.body.text : "{}");
	else if (status == EXIT_FINE)
		printf("template %s is being made; forkctl events --follow shows how it goes\n", name);
	return status;
}

/* POST; `body` is the object without its end. */
static int build(struct cli *cli, const char *name, struct strbuf *body)
{
	struct progress p = { .name = name, .begun_ns = monotonic_ns(), .terminal = isatty(STDERR_FILENO) };
	const struct event_handler handler = { .event = on_event, .tick = on_tick, .end = on_end, .arg = &p };
	bool wait = !args_option(cli->args, "no-wait");
	const char *disks = args_option(cli->args, "disks");
	autoanswer struct answer a = {};

	if (disks)
		body_text(body, "disks", disks);
	strbuf_puts(body, wait ? "}" : ",\"async\":true}");
	if (!wait)
		return begin(cli, name, body->text);
	snprintf(p.text, sizeof(p.text), "begun");
	int status = client_call_watching(cli->client, "/v1/templates", body->text, &a, &handler);
	if (status == EXIT_FINE && cli->json)
		puts(a.body.text);
	else if (status == EXIT_FINE)
		say_built(&p, a.json.nodes);
	return status;
}

/* ---- the verbs ---- */

int template_import(struct cli *cli)
{
	const char *name = cli->args->words[0], *dir = cli->args->words[1];
	autofree char *path = realpath(dir, NULL);
	autofree char *url = NULL;
	autostrbuf struct strbuf body = {};

	if (strncmp(dir, "file://", 7) == 0)
		url = strdup(dir);
	else if (asprintf(&url, "file://%s", path ? path : dir) < 0) /* not here: the daemon says what is wrong */
		url = NULL;
	strbuf_putc(&body, '{');
	body_text(&body, "name", name);
	body_text(&body, "snapshot", url ? url : "");
	return build(cli, name, &body);
}

static bool ready_condition(const struct args *args, struct strbuf *ready)
{
	const char *serial = args_option(args, "ready-serial"), *delay = args_option(args, "ready-delay");
	const char *agent = args_option(args, "ready-agent");
	uint64_t ms = 0;

	if (!args_number(args, "ready-delay", 0, 3600000, &ms))
		return false;
	if (!!serial + !!delay + !!agent != 1)
		return args_wrong(args, "give one of --ready-serial, --ready-delay and --ready-agent");
	strbuf_putc(ready, '{');
	if (serial)
		body_text(ready, "serial", serial);
	else if (agent)
		body_raw(ready, "agent", "true");
	else
		strbuf_printf(ready, "\"delay_ms\":%llu", (unsigned long long)ms);
	strbuf_putc(ready, '}');
	return true;
}

int template_create(struct cli *cli)
{
	autostrbuf struct strbuf ready = {}, body = {};
	autoobject struct object vm = {};
	uint64_t timeout_s = 0;

	if (!args_object(cli->args, "vm", &vm) || !ready_condition(cli->args, &ready) ||
	    !args_number(cli->args, "timeout", 1, UINT32_MAX, &timeout_s))
		return EXIT_USAGE;
	strbuf_putc(&body, '{');
	body_text(&body, "name", cli->args->words[0]);
	body_raw(&body, "vm", vm.text.text);
	body_raw(&body, "ready", ready.text);
	if (timeout_s)
		strbuf_printf(&body, ",\"timeout_s\":%llu", (unsigned long long)timeout_s);
	return build(cli, cli->args->words[0], &body);
}

int template_list(struct cli *cli)
{
	autoanswer struct answer a = {};
	int status = client_call_json(cli->client, "GET", "/v1/templates", NULL, &a);

	if (status != EXIT_FINE)
		return status;
	if (cli->json) {
		puts(a.body.text);
		return EXIT_FINE;
	}
	autotable struct table t;
	table_init(&t, "NAME STATE >RAM >VCPUS >CLONES >AGE SOURCE", 0);
	const struct json_node *list = json_get(a.json.nodes, "templates");
	if (list && list->type == JSON_ARRAY)
		for (json_each(one, list)) {
			cell_text(&t, one, "name");
			cell_text(&t, one, "state");
			cell_bytes(&t, one, "ram_bytes");
			cell_number(&t, one, "vcpus");
			cell_number(&t, one, "clones");
			cell_age(&t, one, "created_at");
			cell_text(&t, one, "source");
		}
	table_print(&t, stdout);
	return EXIT_FINE;
}

static void show_files(const struct json_node *template, struct table *t)
{
	const struct json_node *files = json_get(template, "files");
	char bytes_text[UNIT_TEXT], allocated_text[UNIT_TEXT];

	if (!files || files->type != JSON_ARRAY)
		return;
	for (json_each(f, files)) {
		uint64_t bytes = 0, allocated = 0;
		member_number(f, "bytes", &bytes);
		member_number(f, "allocated_bytes", &allocated);
		table_cell(t, "file %s", member_text(f, "name", "?"));
		table_cell(t, "%s, %s of it data", format_bytes(bytes_text, bytes),
			   format_bytes(allocated_text, allocated));
	}
}

/* A disk is an image of the store, or a file that all clones read. */
static void show_disks(const struct json_node *template, struct table *t)
{
	const struct json_node *disks = json_get(template, "disks");
	char bytes_text[UNIT_TEXT];

	if (!disks || disks->type != JSON_ARRAY)
		return;
	for (json_each(disk, disks)) {
		uint64_t bytes = 0;
		const char *image = member_text(disk, "image", NULL);
		member_number(disk, "bytes", &bytes);
		table_cell(t, "disk %s", member_text(disk, "id", "?"));
		table_cell(t, "%s, %s %s", format_bytes(bytes_text, bytes), image ? "image" : "read-only",
			   image ? image : member_text(disk, "path", "?"));
	}
}

int template_show(struct cli *cli)
{
	static const char *const texts[] = { "name",   "state",  "reason",   "step",           "created_at",
					     "source", "parent", "host_cpu", "program_version" };
	autoanswer struct answer a = {};
	autostrbuf struct strbuf path = {};

	path_add(&path, "/v1/templates/", cli->args->words[0]);
	int status = client_call_json(cli->client, "GET", path.text, NULL, &a);
	if (status != EXIT_FINE)
		return status;
	if (cli->json) {
		puts(a.body.text);
		return EXIT_FINE;
	}
	const struct json_node *template = a.json.nodes;
	autotable struct table t;
	table_init(&t, "", 2);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		show_member(&t, texts[i], template, cell_text);
	show_member(&t, "ram_bytes", template, cell_bytes);
	show_member(&t, "vcpus", template, cell_number);
	show_member(&t, "clones", template, cell_number);
	show_files(template, &t);
	show_disks(template, &t);
	table_print(&t, stdout);
	return EXIT_FINE;
}

int template_delete(struct cli *cli)
{
	int worst = EXIT_FINE;

	for (unsigned i = 0; i < cli->args->n_words && worst != EXIT_UNREACHABLE; i++) {
		autoanswer struct answer a = {};
		autostrbuf struct strbuf path = {};
		path_add(&path, "/v1/templates/", cli->args->words[i]);
		int status = client_call(cli->client, "DELETE", path.text, NULL, &a);
		if (status == EXIT_FINE && !cli->json)
			printf("template %s is deleted\n", cli->args->words[i]);
		worst = status > worst ? status : worst;
	}
	return worst;
}

/* Has the daemon do something with all of a template that may take a while. `doing`: for a terminal. */
static int long_work(struct cli *cli, const char *what, const char *doing, const char *done)
{
	autoanswer struct answer a = {};
	autostrbuf struct strbuf path = {};
	char took[UNIT_TEXT];
	uint64_t begun_ns = monotonic_ns();
	bool says = isatty(STDERR_FILENO) && !cli->json;

	path_add(&path, "/v1/templates/", cli->args->words[0]);
	strbuf_puts(&path, what);
	if (says)
		fprintf(stderr, "%s: %s…", cli->args->words[0], doing);
	int status = client_call(cli->client, "POST", path.text, NULL, &a);
	if (says)
		fprintf(stderr, "\r\033[K");
	if (status != EXIT_FINE)
		return status;
	if (cli->json)
		puts(a.body.text ? a.body.text : "{}");
	else
		printf("template %s %s in %s\n", cli->args->words[0], done,
		       format_us(took, (monotonic_ns() - begun_ns) / 1000));
	return EXIT_FINE;
}

int template_verify(struct cli *cli)
{
	return long_work(cli, "/verify", "reading it all", "is as it was sealed; read and compared");
}

int template_flatten(struct cli *cli)
{
	return long_work(cli, "/flatten", "writing its disks anew", "stands alone; written");
}
