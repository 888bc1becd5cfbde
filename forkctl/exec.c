// SPDX-License-Identifier: Apache-2.0
/* forkctl exec and run: from options to a command in a guest. */
#include <signal.h>
#include <string.h>

#include "forkctl/command.h"
#include "forkctl/forkctl.h"
#include "forkctl/table.h"
#include "forkctl/terminal.h"
#include "forkctl/transfer.h"

#define EXEC_OPTION_ROWS                                                                          \
	{ "interactive", NULL, "stdin goes to the command", 'i', false },                         \
		{ "tty", NULL, "the command gets a terminal", 't', false },                       \
		{ "user", "USER", "run it as this user of the guest; default root", 'u', false }, \
		{ "cwd", "DIR", "run it there; default the user's home", 0, false },              \
		{ "env", "KEY=VALUE", "a variable", 'e', true },                                  \
	{                                                                                         \
		"timeout", "S", "kill it after so many seconds", 0, false                         \
	}

const struct option_row exec_options[] = {
	EXEC_OPTION_ROWS,
	{ NULL, NULL, NULL, 0, false },
};

const struct option_row run_options[] = {
	EXEC_OPTION_ROWS,
	CLONE_OPTION_ROWS,
	{ NULL, NULL, NULL, 0, false },
};

enum { TIMEOUT_MAX_S = 1 << 30 };

/* Members of the command's envs. A command with a terminal knows which. */
static bool add_envs(const struct args *args, struct strbuf *out)
{
	const char *text, *term = args_option(args, "tty") ? getenv("TERM") : NULL;
	size_t len;

	for (unsigned i = 0; (text = args_value(args, "env", i)); i++) {
		if (!args_pair(args, text, &len))
			return false;
		if (!utf8_valid(text))
			return args_wrong(args, "--env: the variable '%.*s' is not UTF-8", (int)len, text);
		for (unsigned k = 0; k < i; k++)
			if (strncmp(args_value(args, "env", k), text, len + 1) == 0)
				return args_wrong(args, "--env: %.*s is given twice", (int)len, text);
		body_pair(out, text, len, text + len + 1);
		if (len == 4 && memcmp(text, "TERM", len) == 0)
			term = NULL;
	}
	if (term && utf8_valid(term))
		body_text(out, "TERM", term);
	strbuf_puts(out, "");
	return true;
}

static bool check_options(const struct args *args, struct strbuf *envs, struct command *cmd)
{
	bool input = args_option(args, "interactive");

	*cmd = (struct command){ .argv = args->words + 1,
				 .argc = args->n_words - 1,
				 .user = args_option(args, "user"),
				 .cwd = args_option(args, "cwd"),
				 .tty = args_option(args, "tty"),
				 .in_fd = input ? STDIN_FILENO : -1,
				 .out_fd = STDOUT_FILENO,
				 .err_fd = STDERR_FILENO };
	if (!args_number(args, "timeout", 1, TIMEOUT_MAX_S, &cmd->timeout_s) || !add_envs(args, envs))
		return false;
	cmd->envs = envs->text;
	if (cmd->user && !user_name_valid(cmd->user))
		return args_wrong(args, "--user: that is no user's name");
	return (!cmd->cwd || utf8_valid(cmd->cwd)) || args_wrong(args, "--cwd is not UTF-8");
}

static int exec_command(struct cli *cli, const struct command *wanted, const char *id)
{
	autoterminal struct terminal terminal = {};
	struct command cmd = *wanted;

	cmd.id = id;
	if (cmd.tty && cmd.in_fd >= 0)
		cmd.terminal = &terminal;
	return command_run(cli->client, &cmd);
}

int exec_in_clone(struct cli *cli)
{
	autostrbuf struct strbuf envs = {};
	struct command cmd;

	if (!check_options(cli->args, &envs, &cmd))
		return COMMAND_FAILED;
	autoclose int signal_fd = signals_open();
	cmd.signal_fd = signal_fd;
	return exec_command(cli, &cmd, cli->args->words[0]);
}

/* ---- run ---- */

static int make_clone(struct cli *cli, int signal_fd, char *id, size_t size, int *ret_signal)
{
	/* One signal does not end the wait: the clone is to be known, to be deleted. */
	autoexchange struct exchange rq = { .n_signals = 2 };
	autojson struct json json = {};
	struct err err = {};

	if (!clone_body(cli->args, 1, false, &rq.body))
		return EXIT_USAGE;
	path_add(&rq.path, "/v1/templates/", cli->args->words[0]);
	strbuf_puts(&rq.path, "/clones");
	int status = exchange_run(cli->client, &rq, "POST", signal_fd);
	*ret_signal = rq.signal;
	if (status == EXIT_FINE)
		status = transfer_judge(&rq.transfer);
	if (status != EXIT_FINE)
		return status;
	if (json_parse(&json, rq.answer.text, rq.answer.len, &err) == 0) {
		const struct json_node *clones = json_get(json.nodes, "clones");
		bool one = clones && clones->type == JSON_ARRAY && clones->count == 1;
		snprintf(id, size, "%s", one ? member_text(clones + 1, "id", "") : "");
	}
	if (id[0])
		return EXIT_FINE;
	fprintf(stderr, "forkctl: the answer to POST %s names no clone\n", rq.path.text);
	return EXIT_FAILED;
}

/* A clone that is gone already is fine. */
static int delete_clone(struct cli *cli, int signal_fd, const char *id)
{
	autoexchange struct exchange rq = { .n_signals = 2 };

	path_add(&rq.path, "/v1/clones/", id);
	int status = exchange_run(cli->client, &rq, "DELETE", signal_fd);
	return status != EXIT_FINE || rq.transfer.status == 404 ? status : transfer_judge(&rq.transfer);
}

int run_in_clone(struct cli *cli)
{
	autostrbuf struct strbuf envs = {};
	struct command cmd;
	char id[256] = "";
	int signo = 0;

	if (!check_options(cli->args, &envs, &cmd))
		return COMMAND_FAILED;
	autoclose int signal_fd = signals_open();
	cmd.signal_fd = signal_fd;
	if (make_clone(cli, signal_fd, id, sizeof(id), &signo) != EXIT_FINE)
		return COMMAND_FAILED;
	int status = signo ? COMMAND_SIGNAL + signo : exec_command(cli, &cmd, id);
	if (delete_clone(cli, signal_fd, id) == EXIT_FINE)
		return status;
	fprintf(stderr, "forkctl: clone %s is still there\n", id);
	return status ? status : COMMAND_FAILED;
}
