// SPDX-License-Identifier: Apache-2.0
/* What a request wants to be run in a guest. */
#include <errno.h>
#include <string.h>

#include "common/base64.h"
#include "forkd/agent/exec.h"
#include "forkd/body.h"
#include "forkd/errors.h"

struct exec_body {
	char *cmd, *shell, *cwd, *user, *stdin, *stdin_b64;
	char **args;
	uint32_t n_args;
	uint64_t timeout_s, max_output_bytes;
};
static const struct field exec_body_fields[] = {
	F(struct exec_body, cmd),
	F(struct exec_body, shell),
	F_LIST(struct exec_body, args),
	F(struct exec_body, cwd),
	F(struct exec_body, user),
	F(struct exec_body, stdin),
	F(struct exec_body, stdin_b64),
	F(struct exec_body, timeout_s, .min = 1, .max = EXEC_TIMEOUT_MAX_S, .def = EXEC_TIMEOUT_S),
	F(struct exec_body, max_output_bytes, .min = 1, .max = EXEC_OUTPUT_MAX, .def = EXEC_OUTPUT_BYTES),
	F_END,
};
static const char *const by_hand[] = { "env" };

void exec_wish_done(struct exec_wish *w)
{
	wipe_text(w->start);
	free(w->start);
	free(w->user);
	if (w->input.text)
		explicit_bzero(w->input.text, w->input.len);
	strbuf_done(&w->input);
	*w = (struct exec_wish){};
}

static int check(const struct exec_body *b, struct err *err)
{
	if (!b->cmd == !b->shell)
		return fail(err, E_INVALID, "body: expected one of cmd and shell");
	if (b->cmd && !b->cmd[0])
		return fail(err, E_INVALID, "cmd: is empty");
	if (b->shell && b->n_args > 0)
		return fail(err, E_INVALID, "args: they belong to cmd, and shell was given");
	if (b->stdin && b->stdin_b64)
		return fail(err, E_INVALID, "body: expected one of stdin and stdin_b64");
	return 0;
}

static void add_string(struct strbuf *out, const char *text)
{
	strbuf_json(out, text, strlen(text));
}

/* The agent's message: {"process": {"cmd", "args", "cwd", "envs"}, "stdin", "killOnDisconnect"}. */
static void add_start(const struct exec_body *b, const struct json_node *env, struct strbuf *out)
{
	strbuf_puts(out, "{\"process\":{\"cmd\":");
	add_string(out, b->shell ? "/bin/sh" : b->cmd);
	strbuf_puts(out, ",\"args\":[");
	if (b->shell) {
		strbuf_puts(out, "\"-c\",");
		add_string(out, b->shell);
	}
	for (uint32_t i = 0; i < b->n_args; i++) {
		strbuf_puts(out, i ? "," : "");
		add_string(out, b->args[i]);
	}
	strbuf_putc(out, ']');
	if (b->cwd)
		json_member(out, "cwd", b->cwd);
	if (env) {
		strbuf_puts(out, ",\"envs\":");
		json_text(env, out);
	}
	strbuf_printf(out, "},\"stdin\":%s,\"killOnDisconnect\":true}", b->stdin || b->stdin_b64 ? "true" : "false");
}

static int take_input(const struct exec_body *b, struct strbuf *out, struct err *err)
{
	if (b->stdin)
		strbuf_puts(out, b->stdin);
	if (b->stdin_b64) {
		ssize_t n = base64_decode(b->stdin_b64, b->stdin_b64, strlen(b->stdin_b64));
		if (n < 0)
			return fail(err, E_INVALID, "stdin_b64: is no base64");
		strbuf_add(out, b->stdin_b64, (size_t)n);
	}
	return 0;
}

static int wish_from(struct exec_body *b, const struct json_node *env, struct exec_wish *ret, struct err *err)
{
	struct strbuf start = {};

	if (check(b, err) < 0 || (env && body_check_env(env, "env", err) < 0))
		return err->num;
	add_start(b, env, &start);
	ret->start = start.text;
	ret->user = steal_ptr(&b->user);
	ret->timeout_s = b->timeout_s;
	ret->max_output = b->max_output_bytes;
	ret->has_input = b->stdin || b->stdin_b64;
	if (take_input(b, &ret->input, err) < 0)
		return err->num;
	return start.failed || ret->input.failed ? err_num(err, ERR_INTERNAL, ENOMEM, "load a command") : 0;
}

int exec_wish_load(const struct json_node *node, const char *other, struct exec_wish *ret, struct err *err)
{
	const struct json_node *env = json_get(node, "env");
	const char *const others[] = { by_hand[0], other, NULL };
	struct exec_body b;

	if (!node)
		return fail(err, E_INVALID, "body: expected an object with 'cmd' or 'shell'");
	fields_init(exec_body_fields, &b);
	int r = body_load(exec_body_fields, others, &b, node, "body", err);
	if (r >= 0)
		r = wish_from(&b, env && env->type != JSON_NULL ? env : NULL, ret, err);
	wipe_text(b.stdin);
	wipe_text(b.stdin_b64);
	fields_free(exec_body_fields, &b);
	return r;
}
