// SPDX-License-Identifier: Apache-2.0
/* The routes of the private port, but for the tunnel and what makes a clone itself. */
#include "guest/private.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/field.h"
#include "common/log.h"
#include "common/version.h"
#include "guest/fsfreeze.h"
#include "guest/kernel_state.h"

enum { FREEZE_S = 20, JOB_S = 120 }; /* time for all processes to stand still, and for all of a job */

int private_status(const struct err *err)
{
	switch (err->code) {
	case ERR_INVALID:
		return 400;
	case ERR_NOT_FOUND:
		return 404;
	case ERR_CONFLICT:
		return 409;
	default:
		return 500;
	}
}

static void fail(struct exchange *ex, const struct err *err)
{
	char line[ERR_MSG_BYTES];

	ex_fail(ex, private_status(err), "%s", err_line(err, line, sizeof(line)));
}

static int load(struct json *json, struct exchange *ex, const struct field *rows, void *obj, struct err *err)
{
	fields_init(rows, obj);
	if (ex->body_len == 0)
		return 0;
	if (json_parse(json, ex->body, ex->body_len, err) < 0)
		return err->num;
	if (json->nodes->type != JSON_OBJECT)
		return err_set(err, ERR_INVALID, "expected an object, found %s", json_type_name(json->nodes));
	if (fields_check_known(rows, json->nodes, "body", err) < 0)
		return err->num;
	return fields_load(rows, obj, json->nodes, "body", err);
}

bool private_body(struct exchange *ex, const struct field *rows, void *obj)
{
	struct json json = {};
	struct err err = {};
	int r = load(&json, ex, rows, obj, &err);

	json_done(&json);
	if (r < 0)
		fail(ex, &err);
	return r >= 0;
}

static void answer(struct exchange *ex, struct strbuf *body)
{
	if (body->failed)
		ex_fail(ex, 500, "no memory for the answer");
	else
		ex_answer(ex, 200, "application/json", body->text, body->len);
	strbuf_done(body);
}

static void hello(struct exchange *ex)
{
	const struct private *private = ex->agent->private;
	char generation[GENERATION_TEXT_BYTES];
	struct strbuf body = {};

	generation_text(&private->generation, generation);
	strbuf_printf(&body, "{\"agent\":\"%s\",\"protocol\":%d,\"generation\":\"%s\",\"boot\":\"%s\",\"frozen\":%s,",
		      FORKD_VERSION, PRIVATE_PROTOCOL, generation, private->is_init ? "init" : "service",
		      groups_frozen(&private->groups) ? "true" : "false");
	strbuf_printf(&body, "\"features\":[%s\"identity\",\"tunnel\",\"fsfreeze\",\"clock\"]}",
		      private->groups.kind ? "\"freeze\"," : "");
	answer(ex, &body);
}

struct clock_request {
	uint64_t wall_ns;
};
static const struct field clock_fields[] = {
	F(struct clock_request, wall_ns, .flags = F_REQUIRED, .min = 1, .max = INT64_MAX),
	F_END,
};

static void set_clock(struct exchange *ex)
{
	struct clock_request rq;
	struct err err = {};
	struct strbuf body = {};

	if (!private_body(ex, clock_fields, &rq))
		return;
	if (wall_clock_set(rq.wall_ns, &err) < 0)
		return fail(ex, &err);
	strbuf_puts(&body, "{}");
	answer(ex, &body);
}

/* ---- jobs: a child does them, and the client waits ---- */

static void on_job_gone(struct exchange *ex)
{
	ex->agent->private->job_ex = NULL;
}

static void answer_count(struct exchange *ex, const char *name, int n)
{
	struct strbuf body = {};

	strbuf_printf(&body, "{\"%s\":%d}", name, n);
	answer(ex, &body);
}

static int start(struct private *private, struct exchange *ex, struct loop *loop, const char *name,
		 int (*run)(void *arg, struct err *err), void (*done)(struct job *, int, const struct err *),
		 struct err *err)
{
	private->job.done = done;
	int r = job_start(&private->job, loop, name, run, private, monotonic_ns() + JOB_S * 1000000000ULL, err);
	if (r < 0)
		return r;
	private->job_ex = ex;
	if (ex)
		ex->on_gone = on_job_gone;
	return 0;
}

static int run_fs_thaw(void *arg, struct err *err)
{
	(void)arg;
	return fs_thaw_all(err);
}

static void on_fs_thawed(struct job *job, int result, const struct err *err)
{
	struct private *private = container_of(job, struct private, job);
	struct exchange *ex = steal_ptr(&private->job_ex);

	if (result < 0)
		log_warn("thaw the file systems: %s", err->msg);
	if (ex && result < 0)
		fail(ex, err);
	else if (ex)
		answer_count(ex, "thawed", result);
}

static int run_freeze(void *arg, struct err *err)
{
	struct private *private = arg;
	int n = groups_freeze(&private->groups, monotonic_ns() + FREEZE_S * 1000000000ULL, err);

	if (n >= 0 && private->freeze.sync)
		sync();
	if (n >= 0 && private->freeze.fsfreeze && fs_freeze_all(err) < 0)
		return err->num;
	return n;
}

/* Nothing stays frozen that nobody knows of. */
static void undo_freeze(struct private *private)
{
	struct err err = {};

	if (groups_thaw(&private->groups, &err) < 0)
		log_error("thaw: %s", err.msg);
	if (private->freeze.fsfreeze &&
	    start(private, NULL, private->job.loop, "fsthaw", run_fs_thaw, on_fs_thawed, &err) < 0)
		log_error("thaw the file systems: %s", err.msg);
}

static void on_frozen(struct job *job, int result, const struct err *err)
{
	struct private *private = container_of(job, struct private, job);
	struct exchange *ex = steal_ptr(&private->job_ex);
	struct err mine = *err, lost = {};

	/* The child has left the list, also when it was killed. */
	if (groups_read(&private->groups, &lost) < 0 && result >= 0) {
		mine = lost;
		result = lost.num;
	}
	if (result < 0 || !ex)
		undo_freeze(private);
	if (ex && result < 0)
		fail(ex, &mine);
	else if (ex)
		answer_count(ex, "frozen", result);
}

static const struct field freeze_fields[] = {
	F(struct freeze_request, sync, .def = true),
	F(struct freeze_request, fsfreeze),
	F_END,
};

static void freeze(struct exchange *ex)
{
	struct private *private = ex->agent->private;
	struct err err = {};

	if (!private_free(ex) || !private_body(ex, freeze_fields, &private->freeze))
		return;
	if (start(private, ex, &ex->agent->loop, "freeze", run_freeze, on_frozen, &err) < 0)
		fail(ex, &err);
}

static void fs_thaw(struct exchange *ex)
{
	static const struct field fields[] = { F_END };
	struct err err = {};

	if (!private_free(ex) || !private_body(ex, fields, &(char){ 0 }))
		return;
	if (start(ex->agent->private, ex, &ex->agent->loop, "fsthaw", run_fs_thaw, on_fs_thawed, &err) < 0)
		fail(ex, &err);
}

/* ---- all of it ---- */

bool private_free(struct exchange *ex)
{
	const struct private *private = ex->agent->private;

	if (!private->personalize.running && !private->job.running)
		return true;
	ex_fail(ex, 409, "the agent is busy with '%s'", private->job.running ? private->job.name : "identity");
	return false;
}

const struct route private_routes[] = {
	{ "GET", "/v1/hello", BODY_NONE, STYLE_PLAIN, 0, hello },
	{ "POST", "/v1/freeze", BODY_WHOLE, STYLE_PLAIN, PRIVATE_BODY_MAX, freeze },
	{ "POST", "/v1/thaw", BODY_WHOLE, STYLE_PLAIN, PRIVATE_BODY_MAX, personalize_thaw },
	{ "POST", "/v1/fsthaw", BODY_WHOLE, STYLE_PLAIN, PRIVATE_BODY_MAX, fs_thaw },
	{ "POST", "/v1/identity", BODY_WHOLE, STYLE_PLAIN, PRIVATE_BODY_MAX, personalize_begin },
	{ "POST", "/v1/clock", BODY_WHOLE, STYLE_PLAIN, PRIVATE_BODY_MAX, set_clock },
	{ "GET", "/v1/tunnel", BODY_NONE, STYLE_PLAIN, 0, tunnel_begin },
	{},
};

int private_open(struct private *private, bool is_init, struct err *err)
{
	*private = (struct private)PRIVATE_NONE;
	private->is_init = is_init;
	private->root_fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (private->root_fd < 0)
		return err_sys(err, ERR_INTERNAL, "open /");
	if (generation_open(&private->generation, private->root_fd, err) < 0 ||
	    groups_open(&private->groups, private->root_fd, err) < 0) {
		private_close(private);
		return err->num;
	}
	if (!private->groups.kind)
		log_warn("this system has no control groups that can be frozen");
	return 0;
}

void private_close(struct private *private)
{
	tunnels_done(&private->tunnels);
	groups_close(&private->groups);
	generation_close(&private->generation);
	if (private->root_fd >= 0)
		close(private->root_fd);
	private->root_fd = -1;
}
