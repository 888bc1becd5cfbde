// SPDX-License-Identifier: Apache-2.0
/*
 * forkctl clone: from options to the request's JSON, and the times of each clone. With "{n}" in a --net, a --disk, a --label or the
 * overrides, every clone gets its own number there; then the request lists the clones one by one.
 */
#include <string.h>

#include "forkctl/forkctl.h"
#include "forkctl/table.h"

enum { COUNT_MAX = 1000 };

const struct option_row clone_create_options[] = {
	{ "count", "COUNT", "how many; default 1", 'n', false },
	{ "paused", NULL, "leave it paused", 0, false },
	CLONE_OPTION_ROWS,
	{ NULL, NULL, NULL, 0, false },
};

/* ---- overrides ---- */

/* "net":[{"id":…,"tap":…},…] from every --net; likewise disks. */
static bool add_devices(const struct args *args, const char *option, const char *list, const char *key,
			struct strbuf *out)
{
	autostrbuf struct strbuf items = {};
	const char *text;
	size_t len;

	strbuf_putc(&items, '[');
	for (unsigned i = 0; (text = args_value(args, option, i)); i++) {
		if (!args_pair(args, text, &len))
			return false;
		strbuf_puts(&items, i ? ",{\"id\":" : "{\"id\":");
		strbuf_json(&items, text, len);
		body_text(&items, key, text + len + 1);
		strbuf_putc(&items, '}');
	}
	strbuf_putc(&items, ']');
	if (items.len > 2)
		body_raw(out, list, items.text);
	return true;
}

/* The members of --overrides, without the braces; nets and disks only when no --net and --disk names them too. */
static bool add_given(const struct args *args, struct strbuf *out)
{
	autoobject struct object given = {};

	if (!args_option(args, "overrides"))
		return true;
	if (!args_object(args, "overrides", &given))
		return false;
	const struct json_node *root = given.json.nodes;
	if ((args_option(args, "net") && json_get(root, "net")) ||
	    (args_option(args, "disk") && json_get(root, "disks")))
		return args_wrong(args, "--overrides has nets or disks, and --net or --disk too: use one of the two");
	if (root->count == 0)
		return true;
	*strrchr(given.text.text, '}') = '\0';
	body_raw(out, NULL, strchr(given.text.text, '{') + 1);
	return true;
}

static bool add_overrides(const struct args *args, struct strbuf *out)
{
	autostrbuf struct strbuf text = {};

	strbuf_putc(&text, '{');
	if (!add_given(args, &text) || !add_devices(args, "net", "net", "tap", &text) ||
	    !add_devices(args, "disk", "disks", "path", &text))
		return false;
	strbuf_putc(&text, '}');
	if (text.len > 2)
		body_raw(out, "overrides", text.text);
	return true;
}

static bool add_labels(const struct args *args, struct strbuf *out)
{
	const char *text;
	size_t len;

	for (unsigned i = 0; (text = args_value(args, "label", i)); i++) {
		if (!args_pair(args, text, &len))
			return false;
		if (i == 0)
			body_raw(out, "labels", "{");
		body_pair(out, text, len, text + len + 1);
	}
	if (args_option(args, "label"))
		strbuf_putc(out, '}');
	return true;
}

/* ---- the body ---- */

static bool one_of(const struct args *args, const char *option, const char *const *words)
{
	const char *given = args_option(args, option);

	for (; given && *words; words++)
		if (strcmp(*words, given) == 0)
			return true;
	return !given || args_wrong(args, "--%s: '%s' is not known", option, given);
}

/* Members of one clone, without braces. */
static bool one_clone(const struct args *args, struct strbuf *out)
{
	static const char *const modes[] = { "copyonwrite", "copy", "ondemand", NULL };
	static const char *const phases[] = { "resumed", "ready", NULL };
	static const char *const clocks[] = { "advance", "continue", NULL };
	char ttl[UNIT_TEXT];
	uint64_t ttl_s = 0;

	if (!add_overrides(args, out) || !add_labels(args, out) || !args_number(args, "ttl", 1, UINT32_MAX, &ttl_s) ||
	    !one_of(args, "mode", modes) || !one_of(args, "wait", phases) || !one_of(args, "clock", clocks))
		return false;
	snprintf(ttl, sizeof(ttl), "%llu", (unsigned long long)ttl_s);
	if (ttl_s)
		body_raw(out, "ttl_s", ttl);
	if (args_option(args, "mode"))
		body_text(out, "memory_restore_mode", args_option(args, "mode"));
	if (args_option(args, "clock"))
		body_text(out, "clock", args_option(args, "clock"));
	if (args_option(args, "wait"))
		body_text(out, "wait", args_option(args, "wait"));
	return true;
}

static void add_numbered(struct strbuf *out, const char *text, uint64_t number)
{
	for (const char *at; (at = strstr(text, "{n}")); text = at + 3) {
		strbuf_add(out, text, (size_t)(at - text));
		strbuf_u64(out, number);
	}
	strbuf_puts(out, text);
}

/* A count for clones that are alike, a list for those that differ. */
bool clone_body(const struct args *args, uint64_t count, bool paused, struct strbuf *body)
{
	autostrbuf struct strbuf clone = {};

	if (!one_clone(args, &clone))
		return false;
	if (paused)
		body_raw(&clone, "paused", "true");
	strbuf_puts(&clone, "");
	if (!strstr(clone.text, "{n}")) {
		strbuf_printf(body, "{\"count\":%llu", (unsigned long long)count);
		if (clone.len)
			body_raw(body, NULL, clone.text);
		strbuf_putc(body, '}');
		return true;
	}
	strbuf_puts(body, "{\"clones\":[");
	for (uint64_t i = 0; i < count; i++) {
		strbuf_puts(body, i ? ",{" : "{");
		add_numbered(body, clone.text, i);
		strbuf_putc(body, '}');
	}
	strbuf_puts(body, "]}");
	return true;
}

/* ---- the answer ---- */

static void print_created(const struct json_node *clones)
{
	autotable struct table t;

	table_init(&t, "ID STATE >PID >ACCEPTED >RESTORED >RESUMED >READY MODE NET API-SOCKET", 0);
	for (json_each(c, clones)) {
		const struct json_node *phases = json_get(c, "phases_us");
		cell_text(&t, c, "id");
		cell_text(&t, c, "state");
		cell_number(&t, c, "pid");
		cell_us(&t, phases, "accepted");
		cell_us(&t, phases, "restored");
		cell_us(&t, phases, "resumed");
		cell_us(&t, phases, "ready");
		cell_text(&t, c, "memory_restore_mode");
		cell_nets(&t, json_get(c, "net"));
		cell_text(&t, c, "api_socket");
	}
	table_print(&t, stdout);
}

int clone_create(struct cli *cli)
{
	autostrbuf struct strbuf body = {}, path = {};
	autoanswer struct answer a = {};
	uint64_t count = 1;

	if (!args_number(cli->args, "count", 1, COUNT_MAX, &count) ||
	    !clone_body(cli->args, count, args_option(cli->args, "paused"), &body))
		return EXIT_USAGE;
	path_add(&path, "/v1/templates/", cli->args->words[0]);
	strbuf_puts(&path, "/clones");
	int status = client_call_json(cli->client, "POST", path.text, body.text, &a);
	if (status != EXIT_FINE)
		return status;
	const struct json_node *clones = json_get(a.json.nodes, "clones");
	if (cli->json)
		puts(a.body.text);
	else if (clones && clones->type == JSON_ARRAY)
		print_created(clones);
	return EXIT_FINE;
}
