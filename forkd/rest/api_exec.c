// SPDX-License-Identifier: Apache-2.0
/* One call for one command: in a clone, or in a clone of its own that ends with the command. And the removal of a guest's files. */
#include <errno.h>
#include <string.h>

#include "common/agent_ports.h"
#include "common/base64.h"
#include "common/log.h"
#include "forkd/agent/agent_http.h"
#include "forkd/agent/exec.h"
#include "forkd/body.h"
#include "forkd/clone/clone.h"
#include "forkd/clone/dial.h"
#include "forkd/clone/life.h"
#include "forkd/errors.h"
#include "forkd/rest/api.h"
#include "forkd/rest/url.h"
#include "forkd/template/templates.h"
#include "forkd/wire/control.h"

enum {
	DIAL_MS = 5000,
	REMOVE_MS = 60000,
	SPARE_S = 120, /* of a clone's time to live beyond its command's, for when this daemon does not end it */
};

/* ---- the answer ---- */

/* Whether the bytes are text, which JSON can carry. What was cut off may end in the middle of a character: that goes, too. */
static bool is_text(struct exec_output *o)
{
	struct strbuf *b = &o->bytes;

	if (b->len == 0)
		return true;
	if (memchr(b->text, '\0', b->len))
		return false;
	for (size_t cut = 0; cut <= (o->truncated ? 3 : 0) && cut < b->len; cut++) {
		char *end = b->text + b->len - cut, kept = *end;
		*end = '\0';
		if (utf8_valid(b->text))
			return true;
		*end = kept;
	}
	return false;
}

static void add_text(struct strbuf *out, const char *key, const struct exec_output *o)
{
	json_member(out, key, o->bytes.text ? o->bytes.text : "");
}

static void add_b64(struct strbuf *out, const char *key, const struct exec_output *o)
{
	strbuf_printf(out, ",\"%s\":\"", key);
	base64_add(out, o->bytes.text, o->bytes.len);
	strbuf_putc(out, '"');
}

static void add_number(struct strbuf *out, const char *key, bool is, int32_t number)
{
	strbuf_printf(out, "%s\"%s\":", out->text[out->len - 1] == '{' ? "" : ",", key);
	if (is)
		strbuf_printf(out, "%d", number);
	else
		strbuf_puts(out, "null");
}

static void add_result(struct exec_result *r, struct strbuf *out)
{
	add_number(out, "exit_code", r->signal == 0, r->exit_code);
	add_number(out, "signal", r->signal != 0, r->signal);
	if (is_text(&r->out))
		add_text(out, "stdout", &r->out);
	else
		add_b64(out, "stdout_b64", &r->out);
	if (is_text(&r->err))
		add_text(out, "stderr", &r->err);
	else
		add_b64(out, "stderr_b64", &r->err);
	strbuf_printf(out, ",\"stdout_truncated\":%s,\"stderr_truncated\":%s,\"timed_out\":%s,\"took_us\":%llu",
		      r->out.truncated ? "true" : "false", r->err.truncated ? "true" : "false",
		      r->timed_out ? "true" : "false", (unsigned long long)r->took_us);
}

/* ---- POST /v1/clones/{id}/exec ---- */

static const struct dial_to plain = { .port = AGENT_PORT, .timeout_ms = DIAL_MS };

/* A connection on which the command was asked for. */
static int dial_start(struct forkd *d, struct clone *c, const struct exec_wish *wish, struct err *err)
{
	autostrbuf struct strbuf text = {};
	struct dial_to to = plain;

	if (exec_request(wish, &text, err) < 0)
		return err->num;
	to.first = text.text;
	to.first_len = text.len;
	int fd = clone_dial_running(d, c, &to, err);
	explicit_bzero(text.text, text.len);
	return fd;
}

static int exec(struct forkd *d, struct clone *c, const struct exec_wish *wish, const struct request *rq,
		struct strbuf *out, struct err *err)
{
	autoexecresult struct exec_result result = {};
	autoclose int fd = dial_start(d, c, wish, err);
	autoclose int input_fd = fd >= 0 && wish->has_input ? clone_dial(d, c, &plain, err) : -1;

	if (fd < 0 || (wish->has_input && input_fd < 0))
		return err->num;
	const struct origin from = request_origin(rq);
	const struct exec_call call = {
		.fd = fd, .input_fd = input_fd, .wish = wish, .gone = from.gone, .arg = from.request
	};
	if (exec_run(&call, &result, err) < 0)
		return err_wrap(err, "clone '%s'", c->record.id);
	add_result(&result, out);
	return 0;
}

int api_clone_exec(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	autoexecwish struct exec_wish wish = {};
	struct clone *c;

	if (exec_wish_load(rq->body, NULL, &wish, err) < 0 || api_find_clone(d, rq, &c, err) < 0)
		return err->num;
	strbuf_putc(&reply->body, '{');
	int r = exec(d, c, &wish, rq, &reply->body, err);
	strbuf_putc(&reply->body, '}');
	clone_unref(d->registry, c);
	return r;
}

/* ---- POST /v1/templates/{name}/run ---- */

/* The one clone of the request's member "clone". */
static int load_clone(const struct json_node *node, uint64_t timeout_s, struct clone_request *ret, struct err *err)
{
	if (node && node->type != JSON_OBJECT)
		return fail(err, E_INVALID, "clone: expected an object, found %s", json_type_name(node));
	if (clone_request_load(node, ret, err) < 0)
		return err_wrap(err, "clone");
	struct clone_spec *s = &ret->specs[0];
	if (ret->count != 1 || ret->n_specs != 1)
		return fail(err, E_INVALID, "clone: a command runs in one clone, not in %u", ret->count);
	if (s->paused || s->wait == WAIT_RESUMED)
		return fail(err, E_INVALID, "clone: a command runs in a clone that is ready; leave out %s",
			    s->paused ? "paused" : "wait");
	s->wait = WAIT_READY;
	if (s->ttl_s == 0 || s->ttl_s > timeout_s + SPARE_S)
		s->ttl_s = timeout_s + SPARE_S;
	return 0;
}

/* A reference, or NULL. */
static struct clone *make_clone(struct forkd *d, struct request *rq, const struct clone_request *wanted,
				struct err *err)
{
	struct clone **list = NULL, *c = NULL;
	struct tmpl *t = NULL;

	if (tmpl_use(d->registry, rq->param[0], &t, err) < 0)
		return NULL;
	const struct origin from = request_origin(rq);
	int r = clones_create(d, t, wanted, &from, &list, err);
	tmpl_unuse(d->registry, t);
	if (r >= 0)
		c = list[0];
	else
		err_wrap(err, "template '%s'", rq->param[0]);
	free(list);
	return c;
}

/* A clone that was deleted by somebody else is gone, too. */
static void end_clone(struct forkd *d, struct clone *c)
{
	char line[ERR_MSG_BYTES];
	struct err err = {};

	if (clone_delete(d, c, &err) < 0 && err.detail != E_NO_CLONE)
		log_warn("clone %s, whose command has ended: %s", c->record.id, err_line(&err, line, sizeof(line)));
}

int api_template_run(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	autoclonerequest struct clone_request wanted = {};
	autoexecwish struct exec_wish wish = {};

	if (exec_wish_load(rq->body, "clone", &wish, err) < 0 ||
	    load_clone(json_get(rq->body, "clone"), wish.timeout_s, &wanted, err) < 0)
		return err->num;
	struct clone *c = make_clone(d, rq, &wanted, err);
	if (!c)
		return err->num;
	strbuf_putc(&reply->body, '{');
	int r = exec(d, c, &wish, rq, &reply->body, err);
	strbuf_puts(&reply->body, ",\"clone\":");
	clone_json(d, c, NULL, &reply->body);
	strbuf_putc(&reply->body, '}');
	end_clone(d, c);
	clone_unref(d->registry, c);
	return r;
}

/* ---- DELETE /v1/clones/{id}/files ---- */

/* A unary call of filesystem.Filesystem. */
static int call_files(int fd, const char *method, const char *path, const char *user, struct agent_answer *ret,
		      struct err *err)
{
	autostrbuf struct strbuf body = {}, fields = {};
	char target[64], shown[AGENT_SHOWN_BYTES];

	strbuf_puts(&body, "{\"path\":");
	strbuf_json(&body, path, strlen(path));
	strbuf_putc(&body, '}');
	snprintf(target, sizeof(target), "/filesystem.Filesystem/%s", method);
	if (agent_user_field(user, &fields, err) < 0)
		return err->num;
	const struct agent_request rq = { .method = "POST",
					  .target = target,
					  .body = &body,
					  .deadline_ns = deadline_in_ms(REMOVE_MS),
					  .fields = fields.text };
	if (agent_exchange(fd, &rq, ret, err) < 0)
		return err->num;
	if (ret->status == 200)
		return 0;
	return fail(err,
		    ret->status == 404                                               ? E_NOT_FOUND
		    : ret->status == 400 || ret->status == 401 || ret->status == 403 ? E_INVALID
		    : ret->status == 429                                             ? E_BUSY
										     : E_AGENT,
		    "path '%.200s': the guest's agent answers %u: %s", path, ret->status,
		    agent_message(ret->body, shown));
}

/* A directory goes only where the request says so. */
static int check_kind(int fd, const char *path, const char *user, struct err *err)
{
	autoanswer struct agent_answer a = {};

	if (call_files(fd, "Stat", path, user, &a, err) < 0)
		return err->num;
	const struct json_node *type = json_get(json_get(a.body, "entry"), "type");
	if (type && type->type == JSON_STRING && strcmp(type->str, "FILE_TYPE_DIRECTORY") == 0)
		return fail(err, E_INVALID, "path '%.200s' is a directory: recursive=true removes it with all in it",
			    path);
	return 0;
}

static int remove_file(struct forkd *d, struct clone *c, const struct request *rq, bool tree, struct err *err)
{
	const char *path = api_file_path(rq, err), *user = request_user(rq);
	autoanswer struct agent_answer a = {};

	autoclose int fd = clone_dial_running(d, c, &plain, err);
	if (fd < 0)
		return fd;
	if ((!tree && check_kind(fd, path, user, err) < 0) || call_files(fd, "Remove", path, user, &a, err) < 0)
		return err_wrap(err, "clone '%s'", c->record.id);
	return 0;
}

int api_clone_remove_file(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	const char *tree = request_query(rq, "recursive", 0);
	struct clone *c;

	if (!api_file_path(rq, err))
		return err->num;
	if (tree && strcmp(tree, "true") != 0 && strcmp(tree, "false") != 0)
		return fail(err, E_INVALID, "recursive: '%.40s' is neither true nor false", tree);
	if (api_find_clone(d, rq, &c, err) < 0)
		return err->num;
	int r = remove_file(d, c, rq, tree && strcmp(tree, "true") == 0, err);
	clone_unref(d->registry, c);
	reply->status = 204;
	return r;
}
