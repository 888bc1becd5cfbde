// SPDX-License-Identifier: Apache-2.0
/* Boots a VM, waits until the guest is ready, and takes the snapshot. */
#include "forkd/template/builder.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "forkd/access/admission.h"
#include "forkd/agent/dial.h"
#include "forkd/agent/identity.h"
#include "forkd/body.h"
#include "forkd/errors.h"
#include "forkd/metrics.h"
#include "forkd/options.h"
#include "forkd/template/build_disks.h"
#include "forkd/template/vm_config.h"
#include "forkd/wire/control.h"

enum {
	BOOT_TIMEOUT_MS = 30000,
	PAUSE_TIMEOUT_MS = 30000,
	SNAPSHOT_TIMEOUT_MS = 600000,
	QUIT_TIMEOUT_MS = 2000,
	AGENT_TRY_MS = 2000,
	FREEZE_TIMEOUT_MS = 60000,
	LOOK_MS = 20,             /* how often the serial log is looked at */
	TAIL_BYTES = 400,         /* the end of the serial log, in messages */
	WINDOW_BYTES = 64 * 1024, /* how much of the serial log is kept at a time */
};

struct vm_build {
	struct forkd *d;
	struct vm_needs needs; /* the configuration and its descriptors */
	struct place place;    /* RUNTIME/builds/ID */
	char id[CLONE_ID_CHARS + 1];
	char *serial_log; /* path */
	char *wanted;     /* text of ready.serial; NULL: delay_ms */
	bool by_agent;    /* the guest's agent says that the guest is ready, and freezes it */
	struct agent_hello agent;
	uint64_t delay_ms;
	struct vm_build_wish wish;
	struct build_disks disks;
	struct payload_images payload;
	int control, pidfd;
	pid_t pid;
	char *exit_reason;
	char window[WINDOW_BYTES + 1]; /* the newest output that was read */
	size_t in_window;
	off_t seen; /* bytes of the log that were read */
};

/* ---- the request ---- */

struct ready {
	char *serial;
	uint64_t delay_ms;
	bool has_delay_ms, agent;
};

static const struct field ready_fields[] = {
	F(struct ready, serial),
	F_OPT(struct ready, delay_ms, .max = 3600000),
	F(struct ready, agent),
	F_END,
};

static int load_ready(struct vm_build *v, const struct json_node *node, struct err *err)
{
	struct ready r;

	if (!node)
		return fail(err, E_INVALID, "ready: missing; it says when the guest is to be snapshotted");
	fields_init(ready_fields, &r);
	if (body_load(ready_fields, NULL, &r, node, "ready", err) < 0)
		return err->num;
	v->wanted = steal_ptr(&r.serial);
	v->delay_ms = r.delay_ms; /* from here on nothing of r is on the heap */
	v->by_agent = r.agent;
	if ((v->wanted != NULL) + r.has_delay_ms + r.agent != 1)
		return fail(err, E_INVALID, "ready: expected one of serial, delay_ms and agent");
	if (v->wanted && (!v->wanted[0] || strlen(v->wanted) > 1024))
		return fail(err, E_INVALID, "ready.serial: must have 1 to 1024 bytes");
	return 0;
}

static int add_sinks(struct vm_build *v, struct err *err)
{
	struct handover *h = &v->needs.fds;

	if (v->needs.has_serial && handover_log(h, CTL_FD_SERIAL_LOG, &v->place, "serial.log", &v->serial_log, err) < 0)
		return err->num;
	if (v->needs.has_console && handover_log(h, CTL_FD_CONSOLE_LOG, &v->place, "console.log", NULL, err) < 0)
		return err->num;
	if (v->needs.has_vsock && handover_socket(h, CTL_FD_VSOCK, &v->place, "vsock.sock", NULL, err) < 0)
		return err->num;
	if (v->by_agent && !v->needs.has_vsock)
		return fail(err, E_INVALID, "ready.agent: vm.vsock is missing; the agent is reached by it");
	return v->wanted && !v->needs.has_serial ? fail(err, E_INVALID, "ready.serial: vm.serial.mode is \"Off\"") : 0;
}

static int admit(const struct vm_build *v, struct err *err)
{
	const struct admission_ask ask = {
		.count = 1,
		.bytes_each = v->needs.ram_bytes,
		.threads_each = v->needs.vcpus + ADMISSION_THREADS_EXTRA,
		.clones_now = registry_count(v->d->registry, NULL),
	};

	if (admission_enter(v->d->admission, &ask, err) >= 0)
		return 0;
	metrics_count(v->d->metrics, METRIC_ADMISSION_REFUSED, 1);
	return err->num;
}

int vm_build_new(struct forkd *d, const struct origin *from, const struct json_node *vm, const struct json_node *ready,
		 const struct vm_build_wish *wish, struct vm_build **ret, struct err *err)
{
	struct vm_build *v = calloc(1, sizeof(*v));

	if (!v)
		return err_num(err, ERR_INTERNAL, ENOMEM, "build a template");
	*ret = v;
	v->d = d;
	v->control = v->pidfd = -1;
	v->wish = *wish;
	record_new_id(v->id);
	if (load_ready(v, ready, err) < 0)
		return err->num;
	if (place_make(d, from->caller, "builds", v->id, &v->place, err) < 0)
		return err->num;
	const struct vm_wish needs = { v->id, v->by_agent, wish->disks_brought };
	if (vm_needs_load(vm, &v->place, &needs, &v->needs, err) < 0 || add_sinks(v, err) < 0 || admit(v, err) < 0)
		return err->num;
	v->place.caller = NULL; /* the request, and its caller, may be gone before the VM is ready */
	return 0;
}

static void end_process(struct vm_build *v)
{
	struct err err = {};

	if (v->pid <= 0)
		return;
	if (control_quit(v->control, QUIT_TIMEOUT_MS, &err) < 0)
		kill(v->pid, SIGKILL);
	waitpid(v->pid, NULL, 0);
	v->pid = 0;
}

void vm_build_free(struct vm_build *v)
{
	if (!v)
		return;
	end_process(v);
	if (v->control >= 0)
		close(v->control);
	if (v->pidfd >= 0)
		close(v->pidfd);
	if (v->place.path)
		place_clear(v->d, "builds", v->id);
	place_done(&v->place);
	build_disks_done(&v->disks);
	payload_images_done(v->d, &v->payload);
	vm_needs_done(&v->needs);
	free(v->serial_log);
	free(v->wanted);
	fields_free(agent_hello_fields, &v->agent);
	free(v->exit_reason);
	free(v);
}

/* ---- boot ---- */

static int start_process(struct vm_build *v, struct err *err)
{
	autoclose int listener = -1;

	if (place_listen(&v->place, "control.sock", SOCK_SEQPACKET, &listener, err) < 0 ||
	    place_connect(v->d, "builds", v->id, &v->control, err) < 0)
		return err->num;
	return spawn_vmm(v->d->options->vmm, "--control", listener, &v->pid, &v->pidfd, err);
}

/* Keeps the reason that event "exiting" has. No other event matters here. */
static void on_event(void *arg, const struct ctl_packet *p)
{
	struct vm_build *v = arg;
	const struct json_node *reason = json_get(&p->json.nodes[0], "reason");

	if (!reason || reason->type != JSON_STRING || v->exit_reason)
		return;
	v->exit_reason = strdup(reason->str);
}

static int died(const struct vm_build *v, struct err *err)
{
	return fail(err, E_CLONE_DIED, "the VM ended before it was ready: %s",
		    v->exit_reason ? v->exit_reason : "its process is gone");
}

static int boot(struct vm_build *v, struct err *err)
{
	autoctl struct ctl_packet p = {};
	autofree char *extra = NULL;
	struct ctl_status status;
	const struct ctl_boot request = { .fds = v->needs.fds.kinds, .n_fds = v->needs.fds.n };

	if (asprintf(&extra, "\"config\":%s", v->needs.config.text) < 0)
		return err_num(err, ERR_INTERNAL, ENOMEM, "boot the VM");
	if (control_hello(v->control, v->d->options->vmm, BOOT_TIMEOUT_MS, err) < 0)
		return err->num == -EPIPE ? died(v, err) : err->num;
	if (control_send(v->control, "boot", ctl_boot_fields, &request, extra, v->needs.fds.fds, v->needs.fds.n, err) <
	    0)
		return err->num;
	handover_done(&v->needs.fds);
	if (control_reply(v->control, deadline_in_ms(BOOT_TIMEOUT_MS), on_event, v, &p, err) < 0)
		return err->num == -EPIPE ? died(v, err) : fail_as(err, E_TIMEOUT, "boot the VM");
	fields_init(ctl_status_fields, &status);
	int r = ctl_parse_reply(&p, ctl_status_fields, &status, err);
	fields_free(ctl_status_fields, &status);
	return r < 0 ? err_wrap(err, "boot the VM") : 0;
}

/* ---- until ready ---- */

/*
 * Reads what is new in the log, and looks for the wanted text. New output goes behind old output in
 * the window, so that a text that came in two pieces is found. A log that was cut is read from its
 * beginning.
 */
static bool look_for(struct vm_build *v)
{
	struct stat st;
	autoclose int fd = openat(v->place.fd, "serial.log", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0 || fstat(fd, &st) < 0)
		return false;
	if (st.st_size < v->seen)
		v->seen = 0;
	while (v->seen < st.st_size) {
		if (v->in_window > WINDOW_BYTES / 2) {
			size_t kept = WINDOW_BYTES / 4;
			memmove(v->window, v->window + v->in_window - kept, kept);
			v->in_window = kept;
		}
		ssize_t n = pread(fd, v->window + v->in_window, WINDOW_BYTES - v->in_window, v->seen);
		if (n <= 0)
			break;
		v->seen += n;
		v->in_window += (size_t)n;
		if (v->wanted && memmem(v->window, v->in_window, v->wanted, strlen(v->wanted)))
			return true;
	}
	return false;
}

/* The end of the output, in printable characters for a message. */
static void tail(const struct vm_build *v, char ret[TAIL_BYTES + 1])
{
	size_t n = v->in_window < TAIL_BYTES ? v->in_window : TAIL_BYTES;

	memcpy(ret, v->window + v->in_window - n, n);
	ret[n] = '\0';
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)ret[i] < 0x20 || (unsigned char)ret[i] > 0x7e)
			ret[i] = ret[i] == '\n' ? '|' : ' ';
}

static int too_late(const struct vm_build *v, struct err *err)
{
	char end[TAIL_BYTES + 1];

	tail(v, end);
	if (v->by_agent)
		return fail(err, E_TIMEOUT,
			    "the guest's agent has not answered after %llu s; the serial output ends: %s",
			    (unsigned long long)v->wish.timeout_s, end[0] ? end : "(nothing)");
	return fail(err, E_TIMEOUT, "the serial output has no '%s' after %llu s; it ends: %s", v->wanted,
		    (unsigned long long)v->wish.timeout_s, end[0] ? end : "(nothing)");
}

/* Connects to the agent, with a request or NULL. E_AGENT: it does not listen yet. */
static int dial_agent(struct vm_build *v, const char *first, uint64_t timeout_ms, struct err *err)
{
	autodial struct dial dial = DIAL_INIT;
	const struct dial_to to = { .port = AGENT_PRIVATE_PORT,
				    .timeout_ms = timeout_ms,
				    .first = first,
				    .first_len = first ? strlen(first) : 0 };

	if (dial_begin(&dial, &to, err) < 0)
		return err->num;
	dial.call.on_event = on_event;
	dial.call.arg = v;
	if (control_call(v->control, &dial.call, err) < 0)
		return err->num == -EPIPE ? died(v, err) : err->num;
	return dial_end(&dial, deadline_in_ms(timeout_ms), err);
}

/* 1: the agent answers; 0: not yet. */
static int ask_agent(struct vm_build *v, struct err *err)
{
	struct err why = {};
	autoclose int fd = dial_agent(v, agent_hello_request, AGENT_TRY_MS, &why);

	if (fd >= 0 && agent_hello(fd, deadline_in_ms(AGENT_TRY_MS), &v->agent, &why) >= 0)
		return 1;
	if (why.detail == E_AGENT || why.detail == E_TIMEOUT)
		return 0;
	*err = why;
	return err->num;
}

static int freeze_guest(struct vm_build *v, struct err *err)
{
	autoclose int fd = dial_agent(v, NULL, AGENT_TRY_MS, err);

	return fd < 0 || agent_freeze(fd, deadline_in_ms(FREEZE_TIMEOUT_MS), err) < 0
		       ? err_wrap(err, "freeze the guest")
		       : 0;
}

/* 1: the guest is ready; 0: not yet. */
static int is_ready(struct vm_build *v, uint64_t ready_ns, struct err *err)
{
	if (look_for(v)) /* reads the log for messages, too */
		return 1;
	if (v->by_agent)
		return ask_agent(v, err);
	return !v->wanted && monotonic_ns() >= ready_ns;
}

static int wait_ready(struct vm_build *v, const struct origin *from, struct err *err)
{
	uint64_t ready = deadline_in_ms(v->delay_ms), late = deadline_in_ms(v->wish.timeout_s * 1000);

	for (;;) {
		autoctl struct ctl_packet p = {};
		int found = is_ready(v, ready, err);
		if (found != 0)
			return found < 0 ? found : 0;
		if (monotonic_ns() >= late)
			return v->wanted || v->by_agent
				       ? too_late(v, err)
				       : fail(err, E_TIMEOUT, "timeout_s is shorter than ready.delay_ms");
		if (v->d->stopping || origin_gone(from))
			return fail(err, E_TIMEOUT, "nobody waits for the template any more");
		int r = wait_readable(v->control, deadline_in_ms(LOOK_MS));
		if (r > 0 && (r = ctl_recv(v->control, &p, err)) > 0)
			on_event(v, &p);
		else if (r == 0 && wait_readable(v->pidfd, 0) > 0)
			return died(v, err);
		else if (r < 0 && r != -EAGAIN)
			return died(v, err);
		if (v->exit_reason)
			return died(v, err);
	}
}

/*
 * Pauses the VM and takes the snapshot. The guest does not run again, so the disks stay as the
 * guest's memory knows them.
 */
static int take_snapshot(struct vm_build *v, int dir_fd, struct err *err)
{
	struct ctl_status status;
	struct ctl_snapshotted done;
	struct control_call call = { .op = "pause",
				     .ret_rows = ctl_status_fields,
				     .ret = &status,
				     .timeout_ms = PAUSE_TIMEOUT_MS,
				     .on_event = on_event,
				     .arg = v };

	fields_init(ctl_status_fields, &status);
	int r = control_call(v->control, &call, err);
	fields_free(ctl_status_fields, &status);
	if (r >= 0) {
		fields_init(ctl_snapshotted_fields, &done);
		call.op = "snapshot";
		call.ret_rows = ctl_snapshotted_fields;
		call.ret = &done;
		call.fds = &dir_fd;
		call.n_fds = 1;
		call.timeout_ms = SNAPSHOT_TIMEOUT_MS;
		r = control_call(v->control, &call, err);
	}
	return r < 0 && err->num == -EPIPE ? died(v, err) : r;
}

/* Publishes the snapshot with the disks that belong to it. The VM has ended. */
static int publish(struct vm_build *v, struct build *b, struct staged **s, struct err *err)
{
	const struct manifest_agent agent = { v->agent.agent, v->agent.protocol };

	if (build_disks_seal(&v->disks, err) < 0)
		return err->num;
	b->agent = v->by_agent ? &agent : NULL;
	b->disks.ready = v->disks.ready;
	b->disks.n_ready = v->disks.n;
	b->payload.ready = &v->payload;
	int r = build_publish(b, s, "vm", NULL, err);
	b->agent = NULL;
	b->disks.n_ready = 0;
	b->payload.ready = NULL;
	return r;
}

int vm_build_run(struct vm_build *v, struct build *b, const struct origin *from, struct err *err)
{
	struct staged *s = NULL;

	if (v->needs.n_disks > 0)
		build_step(b, "copying disks");
	if (build_disks_stage(v->d, &v->needs, &v->disks, err) < 0 ||
	    payload_copy(v->d, b->t->name, &v->needs.fds, &v->payload, err) < 0)
		return err->num;
	build_step(b, "booting");
	if (start_process(v, err) < 0 || boot(v, err) < 0)
		return err->num;
	build_step(b, "waiting");
	if (wait_ready(v, from, err) < 0 || store_stage(v->d->store, &s, err) < 0)
		return err->num;
	build_step(b, "snapshotting");
	int r = v->by_agent ? freeze_guest(v, err) : 0;
	if (r >= 0)
		r = take_snapshot(v, staged_dir(s), err);
	end_process(v);
	if (r >= 0)
		r = publish(v, b, &s, err);
	staged_discard(s);
	return r;
}
