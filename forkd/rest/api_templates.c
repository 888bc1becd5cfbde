// SPDX-License-Identifier: Apache-2.0
/* /v1/templates. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "forkd/access/policy.h"
#include "forkd/body.h"
#include "forkd/errors.h"
#include "forkd/events.h"
#include "forkd/jobs.h"
#include "forkd/metrics.h"
#include "forkd/rest/api.h"
#include "forkd/template/builder.h"
#include "forkd/template/flatten.h"
#include "forkd/template/template_host.h"
#include "forkd/template/templates.h"

enum { TIMEOUT_S = 120, TIMEOUT_MAX_S = 3600 };

/* ---- POST /v1/templates ---- */

struct wanted {
	char *name, *snapshot;
	uint64_t timeout_s;
	bool async;
	uint8_t disks; /* enum disks_from */
};

/* Where the disks that the guest writes come from: a copy in the store, or each clone brings its own. */
enum disks_from { DISKS_COPY, DISKS_CALLER };
static const char *const disks_from[] = { "copy", "caller", NULL };

static const struct field wanted_fields[] = {
	F(struct wanted, name, .flags = F_REQUIRED),
	F(struct wanted, snapshot),
	F(struct wanted, timeout_s, .def = TIMEOUT_S, .min = 1, .max = TIMEOUT_MAX_S),
	F(struct wanted, async),
	F_ENUM(struct wanted, disks, disks_from),
	F_END,
};
static const char *const by_hand[] = { "vm", "ready", NULL };

/* All that is left of the request when a job does the work in the background. */
struct work {
	struct build b;
	struct snapshot_source files;
	char *source; /* URL of the snapshot; NULL: the template comes from a VM */
	struct vm_build *vm;
};

static void work_free(struct work *w)
{
	snapshot_source_close(&w->files);
	vm_build_free(w->vm);
	free(w->source);
	free(w);
}

/* Makes the template; the event stream tells the result too. `from` NULL: in the background. */
static int work_run(struct work *w, const struct origin *from, struct err *err)
{
	int r = w->vm ? vm_build_run(w->vm, &w->b, from, err) : build_from_files(&w->b, &w->files, w->source, err);

	vm_build_free(steal_ptr(&w->vm)); /* the VM's taps and disks are free before anybody hears of the template */
	return build_end(&w->b, r, err);
}

static void work_job(void *arg)
{
	struct work *w = arg;
	struct err err = {};

	if (work_run(w, NULL, &err) < 0)
		err.code = ERR_NONE; /* event template.failed has told the error */
	work_free(w);
}

static int open_snapshot(struct forkd *d, const struct request *rq, const char *url, struct work *w, struct err *err)
{
	static const char scheme[] = "file://";

	if (strncmp(url, scheme, sizeof(scheme) - 1) != 0)
		return fail(err, E_INVALID, "snapshot: '%.200s' does not begin with file:///", url);
	const char *path = url + sizeof(scheme) - 1;
	if (snapshot_source_open(d, &rq->caller, path, &w->files, err) < 0)
		return err_wrap(err, "snapshot");
	w->source = strdup(url);
	return w->source ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "import a snapshot");
}

static int prepare(struct forkd *d, const struct request *rq, const struct wanted *wanted, struct work *w,
		   struct err *err)
{
	const struct json_node *vm = json_get(rq->body, "vm"), *ready = json_get(rq->body, "ready");

	if (!wanted->snapshot == !vm)
		return fail(err, E_INVALID, "body: expected one of 'snapshot' and 'vm'");
	if (wanted->snapshot && ready)
		return fail(err, E_INVALID, "ready: goes with 'vm', not with 'snapshot'");
	if (store_check_name(wanted->name, err) < 0)
		return fail_as(err, E_BAD_NAME, NULL);
	if (wanted->snapshot)
		return open_snapshot(d, rq, wanted->snapshot, w, err);
	const struct origin from = request_origin(rq);
	const struct vm_build_wish wish = { wanted->timeout_s, wanted->disks == DISKS_CALLER };
	return vm_build_new(d, &from, vm, ready, &wish, &w->vm, err);
}

static int run_now(struct forkd *d, struct work *w, const struct origin *from, const char *name, struct reply *reply,
		   struct err *err)
{
	int r = work_run(w, from, err);

	work_free(w);
	reply->status = 201;
	return r < 0 ? r : template_json(d, name, &reply->body, err);
}

static int run_later(struct forkd *d, struct work *w, const char *name, struct reply *reply, struct err *err)
{
	if (jobs_run(d->jobs, work_job, w, err) < 0) {
		build_end(&w->b, err->num, err);
		work_free(w);
		return err->num;
	}
	reply->status = 202;
	strbuf_printf(&reply->body, "{\"name\":\"%s\",\"state\":\"building\"}", name);
	return 0;
}

static int create(struct forkd *d, struct request *rq, const struct wanted *wanted, struct reply *reply,
		  struct err *err)
{
	struct work *w = calloc(1, sizeof(*w));

	if (!w)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make a template");
	for (unsigned i = 0; i < STORE_FILES; i++)
		w->files.files[i].fd = -1;
	const struct origin from = request_origin(rq);
	if (prepare(d, rq, wanted, w, err) < 0 || build_begin(d, wanted->name, &from, &w->b, err) < 0) {
		work_free(w);
		return err->num;
	}
	w->b.disks.brought = wanted->disks == DISKS_CALLER;
	return wanted->async ? run_later(d, w, wanted->name, reply, err)
			     : run_now(d, w, &from, wanted->name, reply, err);
}

int api_template_create(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct wanted wanted;

	if (!rq->body)
		return fail(err, E_INVALID, "body: expected an object with 'name' and one of 'snapshot' and 'vm'");
	fields_init(wanted_fields, &wanted);
	int r = body_load(wanted_fields, by_hand, &wanted, rq->body, "body", err);
	if (r >= 0)
		r = create(d, rq, &wanted, reply, err);
	fields_free(wanted_fields, &wanted);
	return r;
}

/* ---- GET ---- */

static void add_unready(const struct tmpl_info *t, struct strbuf *out)
{
	strbuf_printf(out, "{\"name\":\"%s\",\"state\":\"%s\",\"step\":\"%s\"}", t->name,
		      t->state == TMPL_BUILDING ? "building" : "deleting", t->step);
}

int api_template_list(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct tmpl_info *list = NULL;
	unsigned n = 0, shown = 0;

	(void)rq;
	if (templates_list(d->registry, &list, &n, err) < 0)
		return err->num;
	strbuf_puts(&reply->body, "{\"templates\":[");
	for (unsigned i = 0; i < n; i++) {
		autostrbuf struct strbuf one = {};
		struct err gone = {};
		if (list[i].state != TMPL_READY)
			add_unready(&list[i], &one);
		else if (template_json(d, list[i].name, &one, &gone) >= 0)
			;
		else if (gone.code == ERR_NOT_FOUND)
			continue; /* deleted meanwhile */
		else
			strbuf_printf(&one, "{\"name\":\"%s\",\"state\":\"damaged\"}", list[i].name);
		if (shown++)
			strbuf_putc(&reply->body, ',');
		strbuf_add(&reply->body, one.text, one.len);
	}
	strbuf_puts(&reply->body, "]}");
	free(list);
	return 0;
}

int api_template_get(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct tmpl_info *list = NULL;
	unsigned n = 0, i = 0;
	int r = 0;

	if (templates_list(d->registry, &list, &n, err) < 0)
		return err->num;
	while (i < n && strcmp(list[i].name, rq->param[0]) != 0)
		i++;
	if (i == n)
		r = fail(err, E_NO_TEMPLATE, "there is no template '%s'", rq->param[0]);
	else if (list[i].state == TMPL_READY)
		r = template_json(d, rq->param[0], &reply->body, err);
	else
		add_unready(&list[i], &reply->body);
	free(list);
	return r;
}

/* ---- DELETE, verify, flatten ---- */

int api_template_delete(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct tmpl *t = NULL;

	if (tmpl_begin_delete(d->registry, rq->param[0], &t, err) < 0)
		return err->num;
	tmpl_drop_host(d, t);
	if (store_delete(d->store, t->name, err) < 0) {
		tmpl_ready(d->registry, t);
		return err->code == ERR_CONFLICT ? fail_as(err, E_TEMPLATE_IN_USE, NULL) : err->num;
	}
	tmpl_forget(d->registry, t);
	metrics_count(d->metrics, METRIC_TEMPLATES_DELETED, 1);
	events_emit(d->events, "template.deleted", rq->param[0], NULL, NULL);
	reply->status = 204;
	return 0;
}

int api_template_verify(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct tmpl *t = NULL;

	if (tmpl_use(d->registry, rq->param[0], &t, err) < 0)
		return err->num;
	int r = store_verify(d->store, rq->param[0], err);
	tmpl_unuse(d->registry, t);
	if (r < 0)
		return err->code == ERR_INVALID ? fail_as(err, E_BAD_SNAPSHOT, NULL) : r;
	strbuf_printf(&reply->body, "{\"name\":\"%s\",\"verified\":true}", rq->param[0]);
	return 0;
}

int api_template_flatten(struct forkd *d, struct request *rq, struct reply *reply, struct err *err)
{
	struct tmpl *t = NULL;

	if (tmpl_use(d->registry, rq->param[0], &t, err) < 0)
		return err->num;
	int r = template_flatten(d, t, err);
	if (r >= 0)
		r = template_json(d, t->name, &reply->body, err);
	tmpl_unuse(d->registry, t);
	return r;
}
