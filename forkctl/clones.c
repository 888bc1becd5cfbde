// SPDX-License-Identifier: Apache-2.0
/* forkctl's commands for clones that are there: list, show, delete, pause, resume, label, wait, snapshot. */
#include <string.h>

#include "forkctl/forkctl.h"
#include "forkctl/table.h"

const struct option_row clone_list_options[] = {
	{ "template", "NAME", "only clones of this template", 0, false },
	{ "label", "KEY=VALUE", "only clones with this label", 0, true },
	{ "state", "STATE", "only clones in this state: creating, paused, running, exited or deleting", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

const struct option_row clone_delete_options[] = {
	{ "all", NULL, "every clone", 0, false },
	{ "template", "NAME", "with --all: only clones of this template", 0, false },
	{ "label", "KEY=VALUE", "with --all: only clones with this label", 0, true },
	{ NULL, NULL, NULL, 0, false },
};

const struct option_row clone_label_options[] = {
	{ "ttl", "S", "delete it so many seconds from now; 0: never", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

const struct option_row clone_wait_options[] = {
	{ "state", "STATE", "wait for this one: paused, running (default) or exited", 0, false },
	{ "timeout", "S", "give up after so many seconds", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

static void clone_path(struct strbuf *path, const char *id, const char *more)
{
	path_add(path, "/v1/clones/", id);
	strbuf_puts(path, more);
}

/* One request for the clone that the first word names; prints the JSON, or calls show(). */
static int ask(struct cli *cli, const char *method, const char *more, const char *body,
	       void (*show)(const struct json_node *clone))
{
	autoanswer struct answer a = {};
	autostrbuf struct strbuf path = {};

	clone_path(&path, cli->args->words[0], more);
	int status = client_call_json(cli->client, method, path.text, body, &a);
	if (status != EXIT_FINE)
		return status;
	if (cli->json)
		puts(a.body.text);
	else
		show(a.json.nodes);
	return EXIT_FINE;
}

/* ---- lists ---- */

static void list_query(const struct args *args, const char *after, struct strbuf *path)
{
	const char *label;

	strbuf_puts(path, "/v1/clones?limit=1000");
	if (args_option(args, "template"))
		path_add(path, "&template=", args_option(args, "template"));
	for (unsigned i = 0; (label = args_value(args, "label", i)); i++)
		path_add(path, "&label=", label);
	if (*after)
		path_add(path, "&after=", after);
}

/* The state of a clone that does not answer is what it was when it last did. */
static void cell_state(struct table *t, const struct json_node *c, const char *key)
{
	const struct json_node *responsive = json_get(c, "responsive");
	bool silent = responsive && responsive->type == JSON_BOOL && !responsive->num;

	table_cell(t, "%s%s", member_text(c, key, "-"), silent ? " (no answer)" : "");
}

static void add_row(struct table *t, const struct json_node *c)
{
	cell_text(t, c, "id");
	cell_text(t, c, "template");
	cell_state(t, c, "state");
	cell_number(t, c, "pid");
	cell_us(t, json_get(c, "phases_us"), "resumed");
	cell_age(t, c, "created_at");
	cell_nets(t, json_get(c, "net"));
	cell_pairs(t, json_get(c, "labels"));
}

/* Calls page() for every page of the list. `state` NULL: any. */
static int each_page(struct cli *cli, const char *state, int (*page)(void *arg, const struct answer *a), void *arg)
{
	char after[256] = "";

	for (;;) {
		autoanswer struct answer a = {};
		autostrbuf struct strbuf path = {};
		list_query(cli->args, after, &path);
		if (state)
			path_add(&path, "&state=", state);
		int status = client_call_json(cli->client, "GET", path.text, NULL, &a);
		if (status == EXIT_FINE)
			status = page(arg, &a);
		const char *next = member_text(a.json.nodes, "next", NULL);
		if (status != EXIT_FINE || !next || !*next)
			return status;
		snprintf(after, sizeof(after), "%s", next);
	}
}

static int add_rows(void *arg, const struct answer *a)
{
	const struct json_node *list = json_get(a->json.nodes, "clones");

	if (list && list->type == JSON_ARRAY)
		for (json_each(c, list))
			add_row(arg, c);
	return EXIT_FINE;
}

/* The text between the brackets of the first array. */
static const char *array_text(const char *text, size_t *ret_len)
{
	const char *begin = strchr(text, '[');
	bool quoted = false;
	int depth = 0;

	for (const char *at = begin; at && *at; at++) {
		if (*at == '"')
			quoted = !quoted;
		else if (quoted && *at == '\\' && at[1])
			at++;
		else if (!quoted && *at == '[')
			depth++;
		else if (!quoted && *at == ']' && --depth == 0) {
			*ret_len = (size_t)(at - begin - 1);
			return begin + 1;
		}
	}
	*ret_len = 0;
	return text;
}

static int add_items(void *arg, const struct answer *a)
{
	struct strbuf *items = arg;
	size_t len;
	const char *text = array_text(a->body.text, &len);

	if (len && items->len)
		strbuf_putc(items, ',');
	strbuf_add(items, text, len);
	return EXIT_FINE;
}

int clone_list(struct cli *cli)
{
	const char *state = args_option(cli->args, "state");
	autostrbuf struct strbuf items = {};
	autotable struct table t;

	table_init(&t, "ID TEMPLATE STATE >PID >RESUMED >AGE NET LABELS", 0);
	int status = cli->json ? each_page(cli, state, add_items, &items) : each_page(cli, state, add_rows, &t);
	if (status == EXIT_FINE && cli->json)
		printf("{\"clones\":[%s]}\n", items.len ? items.text : "");
	else if (status == EXIT_FINE)
		table_print(&t, stdout);
	return status;
}

/* ---- one clone ---- */

static void show_stats(struct table *t, const struct json_node *stats)
{
	static const struct {
		const char *key;
		void (*cell)(struct table *t, const struct json_node *node, const char *key);
	} rows[] = {
		{ "private_dirty_bytes", cell_bytes },
		{ "private_clean_bytes", cell_bytes },
		{ "shared_bytes", cell_bytes },
		{ "swap_bytes", cell_bytes },
		{ "cpu_us", cell_us },
		{ "disk_read_bytes", cell_bytes },
		{ "disk_written_bytes", cell_bytes },
		{ "disk_ops", cell_number },
		{ "net_rx_bytes", cell_bytes },
		{ "net_tx_bytes", cell_bytes },
		{ "net_rx_frames", cell_number },
		{ "net_tx_frames", cell_number },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		show_member(t, rows[i].key, stats, rows[i].cell);
}

static void show_exit(struct table *t, const struct json_node *exited)
{
	const struct json_node *code = json_get(exited, "code");

	if (!exited || exited->type != JSON_OBJECT)
		return;
	table_cell(t, "exit");
	table_cell(t, "%s, code %s%llu", member_text(exited, "reason", "?"), code && code->negative ? "-" : "",
		   code ? (unsigned long long)code->num : 0);
}

/* The clone's own disks, and where they are. */
static void show_disks(struct table *t, const struct json_node *disks)
{
	if (!disks || disks->type != JSON_ARRAY)
		return;
	for (json_each(disk, disks)) {
		table_cell(t, "disk %s", member_text(disk, "id", "?"));
		table_cell(t, "%s", member_text(disk, "path", "-"));
	}
}

static void show_clone(const struct json_node *c)
{
	static const char *const texts[] = { "id",          "template",       "memory_restore_mode",
					     "created_at",  "serial",         "serial_socket",
					     "console",     "console_socket", "api_socket",
					     "vsock_socket" };
	static const char *const phases[] = { "accepted", "restored", "resumed", "ready" };
	autotable struct table t;

	table_init(&t, "", 2);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		show_member(&t, texts[i], c, cell_text);
	show_member(&t, "state", c, cell_state);
	show_member(&t, "pid", c, cell_number);
	table_cell(&t, "net");
	cell_nets(&t, json_get(c, "net"));
	show_disks(&t, json_get(c, "disks"));
	table_cell(&t, "labels");
	cell_pairs(&t, json_get(c, "labels"));
	show_member(&t, "ttl_s", c, cell_number);
	for (size_t i = 0; i < ARRAY_LEN(phases); i++)
		show_member(&t, phases[i], json_get(c, "phases_us"), cell_us);
	show_exit(&t, json_get(c, "exit"));
	show_stats(&t, json_get(c, "stats"));
	table_print(&t, stdout);
}

int clone_show(struct cli *cli)
{
	return ask(cli, "GET", "", NULL, show_clone);
}

static void show_state(const struct json_node *c)
{
	printf("clone ");
	print_clean(stdout, member_text(c, "id", "?"));
	printf(" is %s\n", member_text(c, "state", "?"));
}

int clone_pause(struct cli *cli)
{
	return ask(cli, "PUT", "/pause", NULL, show_state);
}

int clone_resume(struct cli *cli)
{
	return ask(cli, "PUT", "/resume", NULL, show_state);
}

int clone_wait(struct cli *cli)
{
	const char *state = args_option(cli->args, "state");
	autostrbuf struct strbuf query = {};
	uint64_t timeout_s = 0;

	if (!args_number(cli->args, "timeout", 0, UINT32_MAX, &timeout_s))
		return EXIT_USAGE;
	path_add(&query, "/wait?state=", state ? state : "running");
	if (args_option(cli->args, "timeout"))
		strbuf_printf(&query, "&timeout_s=%llu", (unsigned long long)timeout_s);
	return ask(cli, "GET", query.text, NULL, show_state);
}

static void show_labels(const struct json_node *c)
{
	autotable struct table t;

	table_init(&t, "", 2);
	table_cell(&t, "labels");
	cell_pairs(&t, json_get(c, "labels"));
	show_member(&t, "ttl_s", c, cell_number);
	table_print(&t, stdout);
}

/* The clone's labels together with those of the command line; "k=" takes label k away. */
static bool merge_labels(const struct args *args, const struct json_node *old, struct strbuf *out)
{
	strbuf_putc(out, '{');
	if (old && old->type == JSON_OBJECT)
		for (json_each(label, old)) {
			bool given = false;
			for (unsigned i = 1; i < args->n_words; i++)
				given = given || (strncmp(args->words[i], label->key, strlen(label->key)) == 0 &&
						  args->words[i][strlen(label->key)] == '=');
			if (!given && label->str)
				body_pair(out, label->key, strlen(label->key), label->str);
		}
	for (unsigned i = 1; i < args->n_words; i++) {
		const char *text = args->words[i], *equals = strchr(text, '=');
		if (!equals || equals == text)
			return args_wrong(args, "'%s' is not of the form KEY=VALUE", text);
		if (equals[1])
			body_pair(out, text, (size_t)(equals - text), equals + 1);
	}
	strbuf_putc(out, '}');
	return true;
}

int clone_label(struct cli *cli)
{
	autoanswer struct answer old = {};
	autostrbuf struct strbuf path = {}, labels = {}, body = {};
	char text[UNIT_TEXT];
	uint64_t ttl_s = 0;

	if (!args_number(cli->args, "ttl", 0, UINT32_MAX, &ttl_s) || !merge_labels(cli->args, NULL, &labels))
		return EXIT_USAGE;
	clone_path(&path, cli->args->words[0], "");
	int status = client_call_json(cli->client, "GET", path.text, NULL, &old);
	if (status != EXIT_FINE)
		return status;
	labels.len = 0;
	if (!merge_labels(cli->args, json_get(old.json.nodes, "labels"), &labels))
		return EXIT_USAGE;
	strbuf_putc(&body, '{');
	if (cli->args->n_words > 1)
		body_raw(&body, "labels", labels.text);
	snprintf(text, sizeof(text), "%llu", (unsigned long long)ttl_s);
	if (args_option(cli->args, "ttl"))
		body_raw(&body, "ttl_s", text);
	strbuf_putc(&body, '}');
	return ask(cli, "PATCH", "", body.text, show_labels);
}

static void show_snapshot(const struct json_node *answer)
{
	char paused[UNIT_TEXT];
	uint64_t us = 0;

	printf("template ");
	print_clean(stdout, member_text(json_get(answer, "template"), "name", "?"));
	if (member_number(answer, "paused_us", &us))
		printf(" is made; the clone stood still for %s\n", format_us(paused, us));
	else
		printf(" is made\n");
}

int clone_snapshot(struct cli *cli)
{
	autostrbuf struct strbuf body = {};

	strbuf_putc(&body, '{');
	body_text(&body, "name", cli->args->words[1]);
	strbuf_putc(&body, '}');
	return ask(cli, "POST", "/snapshot", body.text, show_snapshot);
}

/* ---- delete ---- */

static int delete_one(struct cli *cli, const char *id)
{
	autoanswer struct answer a = {};
	autostrbuf struct strbuf path = {};

	clone_path(&path, id, "");
	int status = client_call(cli->client, "DELETE", path.text, NULL, &a);
	if (status == EXIT_FINE && !cli->json)
		printf("clone %s is deleted\n", id);
	return status;
}

struct ids {
	char **ids;
	size_t n;
};

static int add_ids(void *arg, const struct answer *a)
{
	const struct json_node *list = json_get(a->json.nodes, "clones");
	struct ids *ids = arg;

	if (!list || list->type != JSON_ARRAY)
		return EXIT_FINE;
	ids->ids = realloc(ids->ids, (ids->n + list->count) * sizeof(*ids->ids));
	if (!ids->ids)
		abort();
	for (json_each(c, list))
		if (strcmp(member_text(c, "state", ""), "deleting") != 0)
			ids->ids[ids->n++] = strdup(member_text(c, "id", ""));
	return EXIT_FINE;
}

static int delete_all(struct cli *cli)
{
	struct ids ids = {};
	int worst = each_page(cli, NULL, add_ids, &ids);

	for (size_t i = 0; i < ids.n; i++) {
		int status = worst == EXIT_UNREACHABLE ? worst : delete_one(cli, ids.ids[i]);
		worst = status > worst ? status : worst;
		free(ids.ids[i]);
	}
	free(ids.ids);
	if (worst == EXIT_FINE && ids.n == 0 && !cli->json)
		printf("there is no such clone\n");
	return worst;
}

int clone_delete(struct cli *cli)
{
	const struct args *args = cli->args;
	bool filter = args_option(args, "template") || args_option(args, "label");
	int worst = EXIT_FINE;

	if (args_option(args, "all") ? args->n_words > 0 : args->n_words == 0 || filter) {
		args_wrong(args, "give the ids of clones, or --all with or without --template and --label");
		return EXIT_USAGE;
	}
	if (args_option(args, "all"))
		return delete_all(cli);
	for (unsigned i = 0; i < args->n_words && worst != EXIT_UNREACHABLE; i++) {
		int status = delete_one(cli, args->words[i]);
		worst = status > worst ? status : worst;
	}
	return worst;
}
