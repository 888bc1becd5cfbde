// SPDX-License-Identifier: Apache-2.0
/* process.Process: reads the calls' messages and answers them; guest/process/process.h does the work. */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "guest/connect.h"
#include "guest/files/path.h"
#include "guest/limits.h"
#include "guest/message.h"
#include "guest/private.h"
#include "guest/process/process.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

void process_fail(struct exchange *ex, const struct err *err)
{
	if (err->code == ERR_CONFLICT) /* the process is not in the state for it */
		connect_fail(ex, CONNECT_FAILED_PRECONDITION, "%s", err->msg);
	else
		connect_fail_err(ex, err);
}

/* ---- Start ---- */

/* All that a request needs until the process is started. */
struct start {
	struct process_request request;
	struct user user;
	struct env env;
	char **argv;
	char *cwd;
	struct strbuf config;
};

static void start_done(struct start *s)
{
	user_done(&s->user);
	env_done(&s->env);
	free(s->argv);
	free(s->cwd);
	strbuf_done(&s->config);
}

static void config_string(struct strbuf *b, const char *text)
{
	strbuf_json(b, text, strlen(text));
}

static const struct json_node no_members = { .span = 1 };

/* The command and its arguments; what List shows of them. */
static int read_argv(struct start *s, const struct json_node *process, struct err *err)
{
	const struct json_node *args = message_get(process, "args");
	const char *cmd;
	size_t n = 1;

	if (message_string(process, "cmd", &cmd, err) < 0)
		return err->num;
	if (!cmd || !*cmd)
		return err_set(err, ERR_INVALID, "process.cmd: is missing");
	if (args && args->type != JSON_ARRAY)
		return err_set(err, ERR_INVALID, "process.args: must be a list of strings");
	if (args && args->count > LIMIT_ARGS)
		return err_set(err, ERR_INVALID, "process.args: has %u strings; %d are the most", args->count,
			       LIMIT_ARGS);
	s->argv = calloc((args ? args->count : 0) + 2, sizeof(*s->argv));
	if (!s->argv)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read process.args");
	s->argv[0] = (char *)(uintptr_t)cmd;
	strbuf_puts(&s->config, "{\"cmd\":");
	config_string(&s->config, cmd);
	strbuf_puts(&s->config, ",\"args\":[");
	for (json_each(arg, args ? args : &no_members)) {
		if (arg->type != JSON_STRING)
			return err_set(err, ERR_INVALID, "process.args: must be a list of strings");
		if (n > 1)
			strbuf_putc(&s->config, ',');
		config_string(&s->config, arg->str);
		s->argv[n++] = arg->str;
	}
	strbuf_putc(&s->config, ']');
	return 0;
}

/* PATH, HOME, USER, LOGNAME, then the agent's variables, then the request's. */
static int base_env(struct start *s, const struct agent *agent)
{
	const char *path = getenv("PATH");
	int r = env_set(&s->env, "PATH", path && *path ? path : DEFAULT_PATH);

	if (r == 0)
		r = env_set(&s->env, "HOME", s->user.home);
	if (r == 0)
		r = env_set(&s->env, "USER", s->user.name);
	if (r == 0)
		r = env_set(&s->env, "LOGNAME", s->user.name);
	return r == 0 ? env_set_all(&s->env, &agent->env) : r;
}

static int read_env(struct start *s, const struct agent *agent, const struct json_node *process, struct err *err)
{
	const struct json_node *envs;
	int r = base_env(s, agent);

	if (message_object(process, "envs", &envs, err) < 0)
		return err->num;
	if (envs && envs->count > LIMIT_ENVS)
		return err_set(err, ERR_INVALID, "process.envs: has %u variables; %d are the most", envs->count,
			       LIMIT_ENVS);
	strbuf_puts(&s->config, ",\"envs\":{");
	bool first = true;
	for (json_each(var, envs ? envs : &no_members)) {
		if (var->type != JSON_STRING || !env_name_valid(var->key))
			return err_set(err, ERR_INVALID, "process.envs: '%.64s' is not a name, or has no string",
				       var->key);
		if (!first)
			strbuf_putc(&s->config, ',');
		first = false;
		config_string(&s->config, var->key);
		strbuf_putc(&s->config, ':');
		config_string(&s->config, var->str);
		if (r == 0)
			r = env_set(&s->env, var->key, var->str);
	}
	strbuf_putc(&s->config, '}');
	return r < 0 ? err_num(err, ERR_INTERNAL, -r, "read process.envs") : 0;
}

static int read_cwd(struct start *s, const struct agent *agent, const struct json_node *process, struct err *err)
{
	const char *cwd;

	if (message_string(process, "cwd", &cwd, err) < 0)
		return err->num;
	if (cwd) {
		strbuf_puts(&s->config, ",\"cwd\":");
		config_string(&s->config, cwd);
	}
	strbuf_putc(&s->config, '}');
	if (!cwd)
		cwd = agent->default_cwd;
	return path_resolve(cwd ? cwd : "", s->user.home, &s->cwd, err);
}

static int read_terminal(struct start *s, const struct json_node *message, struct err *err)
{
	const struct json_node *pty, *size;
	uint64_t cols, rows;

	if (message_object(message, "pty", &pty, err) < 0 || message_object(pty, "size", &size, err) < 0 ||
	    message_uint(size, "cols", UINT16_MAX, &cols, err) < 0 ||
	    message_uint(size, "rows", UINT16_MAX, &rows, err) < 0)
		return err->num;
	s->request.spec.pty = pty;
	s->request.spec.cols = (uint16_t)cols;
	s->request.spec.rows = (uint16_t)rows;
	return 0;
}

static int read_start(struct start *s, struct exchange *ex, const struct json_node *message, struct err *err)
{
	const struct json_node *process;

	if (message_object(message, "process", &process, err) < 0 || read_argv(s, process, err) < 0 ||
	    read_env(s, ex->agent, process, err) < 0 || read_cwd(s, ex->agent, process, err) < 0 ||
	    read_terminal(s, message, err) < 0 || message_string(message, "tag", &s->request.tag, err) < 0)
		return err->num;
	s->request.spec.stdin_pipe = true;
	if (message_bool(message, "stdin", &s->request.spec.stdin_pipe, err) < 0 ||
	    message_bool(message, "killOnDisconnect", &s->request.bound, err) < 0)
		return err->num;
	if (s->config.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start a process");
	s->request.config = s->config.text;
	s->request.spec.argv = s->argv;
	s->request.spec.env = &s->env;
	s->request.spec.cwd = s->cwd;
	s->request.spec.user = &s->user;
	s->request.spec.group_fd = ex->agent->private ? ex->agent->private->groups.user_fd : -1;
	return 0;
}

void process_call_start(struct exchange *ex)
{
	autojson struct json json = {};
	struct start s __attribute__((cleanup(start_done))) = {};
	const struct json_node *message = connect_request(ex, &json);
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (!message || !connect_timeout(ex, &s.request.deadline_ns))
		return;
	if (ex_user(ex, &s.user, &err) < 0)
		return connect_fail(ex, CONNECT_UNAUTHENTICATED, "%s", err_line(&err, line, sizeof(line)));
	if (read_start(&s, ex, message, &err) < 0 || process_start(ex, &s.request, &err) < 0)
		connect_fail_err(ex, &err);
}

/* ---- the others ---- */

void process_call_connect(struct exchange *ex)
{
	autojson struct json json = {};
	const struct json_node *message = connect_request(ex, &json);
	struct process *p;
	struct err err = {};
	uint64_t timeout_ns;

	if (!message || !connect_timeout(ex, &timeout_ns))
		return;
	if (process_select(ex->agent, message, &p, &err) < 0 || subscriber_new(ex, p, timeout_ns, false, &err) < 0)
		connect_fail_err(ex, &err);
}

void process_call_list(struct exchange *ex)
{
	autojson struct json json = {};
	autostrbuf struct strbuf b = {};
	bool first = true;

	if (!connect_request(ex, &json))
		return;
	strbuf_puts(&b, "{\"processes\":[");
	for (const struct process *p = ex->agent->processes; p; p = p->next) {
		if (!p->runs || p->ended)
			continue;
		strbuf_puts(&b, first ? "" : ",");
		first = false;
		strbuf_printf(&b, "{\"pid\":%d,", p->child.pid);
		if (p->tag) {
			strbuf_puts(&b, "\"tag\":");
			config_string(&b, p->tag);
			strbuf_putc(&b, ',');
		}
		strbuf_puts(&b, "\"config\":");
		strbuf_add(&b, p->config, p->config_len);
		strbuf_putc(&b, '}');
	}
	strbuf_puts(&b, "]}");
	if (b.failed)
		connect_fail(ex, CONNECT_INTERNAL, "no memory for the list");
	else
		connect_reply(ex, b.text, b.len);
}

/* A call that selects a process, does something to it, and is answered {}. */
static void act(struct exchange *ex, int (*action)(struct process *p, const struct json_node *message, struct err *err))
{
	autojson struct json json = {};
	const struct json_node *message = connect_request(ex, &json);
	struct process *p;
	struct err err = {};

	if (!message)
		return;
	if (process_select(ex->agent, message, &p, &err) < 0 || action(p, message, &err) < 0)
		process_fail(ex, &err);
	else
		connect_reply(ex, "{}", 2);
}

static int send_signal(struct process *p, const struct json_node *message, struct err *err)
{
	const struct json_node *node = message_get(message, "signal");
	const char *name = node && node->type == JSON_STRING ? node->str : "";
	const uint64_t number = node && node->type == JSON_INT ? node->num : 0;

	if (strcmp(name, "SIGNAL_SIGTERM") == 0 || number == 15)
		return process_signal(p, SIGTERM, err);
	if (strcmp(name, "SIGNAL_SIGKILL") == 0 || number == 9)
		return process_signal(p, SIGKILL, err);
	return err_set(err, ERR_INVALID, "signal: must be SIGNAL_SIGTERM or SIGNAL_SIGKILL");
}

void process_call_signal(struct exchange *ex)
{
	act(ex, send_signal);
}

static int close_stdin(struct process *p, const struct json_node *message, struct err *err)
{
	(void)message;
	return process_close_stdin(p, err);
}

void process_call_close_stdin(struct exchange *ex)
{
	act(ex, close_stdin);
}

static int update(struct process *p, const struct json_node *message, struct err *err)
{
	struct start s = {};

	if (read_terminal(&s, message, err) < 0)
		return err->num;
	return s.request.spec.pty ? process_resize(p, s.request.spec.cols, s.request.spec.rows, err) : 0;
}

void process_call_update(struct exchange *ex)
{
	act(ex, update);
}
