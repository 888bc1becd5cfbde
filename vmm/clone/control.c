// SPDX-License-Identifier: Apache-2.0
/* The control socket of a VM process: one row for each request, and what forkd is told unasked. */
#include "vmm/clone/control.h"

#include <errno.h>
#include <malloc.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/ctl.h"
#include "common/log.h"
#include "common/sock.h"
#include "vmm/api/api.h"
#include "vmm/api/machine_state.h"
#include "vmm/clone/config_override.h"
#include "vmm/clone/control_fds.h"
#include "vmm/core/host_open.h"
#include "vmm/machine/machine.h"
#include "vmm/snapshot/snapshot_write.h"

struct owned_vm {
	struct vmm_owner owner;
	struct loop loop;
	struct loop_signals signals;
	struct vmm *vmm;
	struct api_server *api;
	char *id, *open_socket;
	struct template *tmpl;        /* NULL: not made from a template, or the template was let go of */
	struct source listener, conn; /* conn.fd -1: forkd is not connected */
	int report_fd;                /* to the template host; -1: nothing is to be reported */
	struct err park_err;          /* why parking failed: the answer to "restore" */
	bool started;                 /* restored or booted */
	bool is_ready;                /* forkd has released the nets: the guest is itself */
	bool serving;                 /* a request of forkd, which is not told of changes that it asked for */
	bool state_owed;              /* forkd was not told of the newest state yet */
	const char *end_reason;       /* NULL: through vmm.shutdown, or a signal */
	uint64_t restored_ns, resumed_ns;
};

/* A request of forkd. ends_if_failed: after a failure the process ends, unless the VM has started. */
struct op {
	const char *name;
	int (*run)(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err);
	bool ends_if_failed;
};

/* ---- forkd's end of the line ---- */

static void hang_up(struct owned_vm *c)
{
	if (c->conn.fd < 0)
		return;
	loop_del(&c->loop, &c->conn);
	close(steal_fd(&c->conn.fd));
	if (!c->started)
		loop_stop(&c->loop, 1); /* nobody knows of this process */
}

/*
 * Sends an answer or the last word, even when news that forkd has not read fill the socket: the
 * socket's buffer is doubled for that one packet. (The kernel doubles the number that SO_SNDBUF sets:
 * setting the number that was read doubles the buffer.)
 */
static int send_past_news(int fd, const struct strbuf *text, struct err *err)
{
	int bytes = 0;
	socklen_t len = sizeof(bytes);

	int r = ctl_send(fd, text, NULL, 0, err);
	if (r != -ETIMEDOUT || getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &len) < 0 ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, len) < 0)
		return r;
	r = ctl_send(fd, text, NULL, 0, err);
	bytes /= 2;
	if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, len) < 0)
		log_warn("control socket: its size stays doubled: %s", strerror(errno));
	return r;
}

static void tell(struct owned_vm *c, const struct strbuf *text)
{
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (c->conn.fd < 0 || send_past_news(c->conn.fd, text, &err) == 0)
		return;
	log_warn("control socket: %s", err_line(&err, line, sizeof(line)));
	hang_up(c);
}

/*
 * Tells forkd the newest state. When the socket is full, the state is sent after forkd has read.
 * States in between are not kept.
 */
static void say_state(struct owned_vm *c)
{
	char *lost[MAX_PCI_SLOTS];
	const struct ctl_state state = {
		.state = (char *)(uintptr_t)vmm_state(c->vmm),
		.reboots = vmm_reboots(c->vmm),
		.lost_nets = lost,
		.n_lost_nets = vmm_lost_nets(c->vmm, lost),
	};
	autostrbuf struct strbuf out = {};
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (c->conn.fd < 0 || !c->state_owed)
		return;
	ctl_event(&out, "state", ctl_state_fields, &state);
	int r = ctl_send(c->conn.fd, &out, NULL, 0, &err);
	c->state_owed = r == -ETIMEDOUT;
	if (c->state_owed) {
		loop_mod(&c->loop, &c->conn, EPOLLIN | EPOLLOUT);
	} else if (r < 0) {
		log_warn("control socket: %s", err_line(&err, line, sizeof(line)));
		hang_up(c);
	}
}

static void on_ended(struct vmm_owner *owner, const char *reason, int exit_code)
{
	struct owned_vm *c = container_of(owner, struct owned_vm, owner);

	(void)exit_code;
	c->end_reason = reason;
}

static void on_state(struct vmm_owner *owner)
{
	struct owned_vm *c = container_of(owner, struct owned_vm, owner);

	if (c->serving)
		return;
	c->state_owed = true;
	say_state(c);
}

static void say_exiting(struct owned_vm *c, int exit_code)
{
	const char *reason = c->end_reason ? c->end_reason : "ended through its API, or by a signal";
	const struct ctl_exiting e = { .reason = (char *)(uintptr_t)reason, .code = exit_code };
	autostrbuf struct strbuf out = {};

	ctl_event(&out, "exiting", ctl_exiting_fields, &e);
	tell(c, &out);
}

/* ---- requests ---- */

static int answer_status(struct owned_vm *c, struct strbuf *out)
{
	const struct ctl_status status = {
		.id = c->id,
		.pid = (uint32_t)getpid(),
		.state = (char *)(uintptr_t)vmm_state(c->vmm),
		.restored_ns = c->restored_ns,
		.resumed_ns = c->resumed_ns,
		.version = ctl_ours.version,
		.oldest = ctl_ours.oldest,
		.net_held = vmm_holds_nets(c->vmm),
		.reboots = vmm_reboots(c->vmm),
	};

	ctl_reply(out, ctl_status_fields, &status);
	return 0;
}

static int op_hello(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	int version = ctl_agree(&p->json.nodes[0], "forkd", "this forkd-vmm", err);

	return version < 0 ? version : answer_status(c, out);
}

static int start_api(struct owned_vm *c, int *api_fd, struct err *err)
{
	if (*api_fd < 0)
		return 0;
	c->api = api_server_new(&c->loop, c->vmm, NULL, steal_fd(api_fd), err);
	return c->api ? 0 : err->num;
}

/* Names the vsock socket. A connection of the guest goes to the socket "<path>_<port>". */
static int name_vsock(struct vsock_config *vsock, const char *path, struct err *err)
{
	free(vsock->socket);
	vsock->socket = strdup(path);
	return vsock->socket ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "name the vsock socket");
}

static int restore_owned(struct owned_vm *c, struct ctl_packet *p, const struct ctl_restore *rq, struct err *err)
{
	const struct json_node *overrides = json_get(&p->json.nodes[0], "overrides");
	struct vm_config *config = vmm_config(c->vmm);
	autoclose int api_fd = -1;

	if (c->park_err.code != ERR_NONE) {
		*err = c->park_err;
		return err->num;
	}
	if (overrides && vm_config_override(config, overrides, err) < 0)
		return err->num;
	if (rq->vsock_socket && config->vsock && name_vsock(config->vsock, rq->vsock_socket, err) < 0)
		return err->num;
	if (rq->net_held)
		vmm_hold_nets(c->vmm);
	if (clone_take_fds(config, p, rq->fds, rq->n_fds, &api_fd, err) < 0 || vmm_unpark(c->vmm, rq->clock, err) < 0)
		return err->num;
	c->restored_ns = monotonic_ns();
	if (rq->resume && vmm_resume(c->vmm, err) < 0)
		return err->num;
	c->resumed_ns = rq->resume ? monotonic_ns() : 0;
	return start_api(c, &api_fd, err);
}

static int op_restore(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	struct ctl_restore rq;

	if (c->started)
		return err_set(err, ERR_CONFLICT, "this VM was restored already");
	fields_init(ctl_restore_fields, &rq);
	int r = fields_load(ctl_restore_fields, &rq, &p->json.nodes[0], "restore", err);
	free(c->open_socket);
	c->open_socket = steal_ptr(&rq.open_socket); /* the guest may ask for something as soon as it runs */
	if (r == 0)
		r = restore_owned(c, p, &rq, err);
	if (r == 0) {
		c->started = true;
		answer_status(c, out);
	}
	fields_free(ctl_restore_fields, &rq);
	return r;
}

static int boot_owned(struct owned_vm *c, struct ctl_packet *p, const struct ctl_boot *rq, struct vm_config *config,
		      struct err *err)
{
	const struct json_node *node = json_get(&p->json.nodes[0], "config");
	autoclose int api_fd = -1;

	if (!node)
		return err_set(err, ERR_INVALID, "boot: config: missing");
	if (fields_check_known(vm_config_fields, node, "vm", err) < 0 ||
	    fields_load(vm_config_fields, config, node, "vm", err) < 0)
		return err->num;
	if (vmm_create(c->vmm, config, err) < 0)
		return err->num;
	if (clone_take_fds(vmm_config(c->vmm), p, rq->fds, rq->n_fds, &api_fd, err) < 0 || vmm_boot(c->vmm, err) < 0)
		return err->num;
	c->resumed_ns = monotonic_ns();
	return start_api(c, &api_fd, err);
}

static int op_boot(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	autovmconfig struct vm_config config;
	struct ctl_boot rq;

	vm_config_init(&config);
	if (c->started || vmm_config(c->vmm)->memory.size)
		return err_set(err, ERR_CONFLICT, "this process has a VM already");
	fields_init(ctl_boot_fields, &rq);
	int r = fields_load(ctl_boot_fields, &rq, &p->json.nodes[0], "boot", err);
	free(c->open_socket);
	c->open_socket = steal_ptr(&rq.open_socket);
	if (r == 0)
		r = boot_owned(c, p, &rq, &config, err);
	if (r == 0) {
		c->started = true;
		answer_status(c, out);
	}
	fields_free(ctl_boot_fields, &rq);
	return r;
}

static int op_pause(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	(void)p;
	if (strcmp(vmm_state(c->vmm), "Paused") != 0 && vmm_pause(c->vmm, err) < 0)
		return err->num;
	return answer_status(c, out);
}

static int op_resume(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	(void)p;
	if (strcmp(vmm_state(c->vmm), "Running") != 0) {
		if (vmm_resume(c->vmm, err) < 0)
			return err->num;
		c->resumed_ns = monotonic_ns();
	}
	return answer_status(c, out);
}

/*
 * A disk must fit the guest's memory in the snapshot: the VM may not write to it afterwards. A disk that gets
 * another image over it is not written any more, and a paused VM writes to none.
 */
static int check_disks_rest(const struct vm_config *config, const struct vm_config *over, struct err *err)
{
	for (uint32_t i = 0; i < config->n_disks; i++)
		if (!config->disks[i].readonly && LIST_FIND_ID(over->disks, over->n_disks, config->disks[i].id) < 0)
			return err_set(
				err, ERR_CONFLICT,
				"the VM runs and may write to its disk '%s', which would not fit the snapshot any "
				"more: pause the VM, take the snapshot, copy the disk, then resume the VM",
				config->disks[i].id);
	return 0;
}

/* Takes the snapshot of a paused VM, and puts the images over its disks. */
static int snapshot_paused(struct owned_vm *c, int dir_fd, struct vm_config *over, struct err *err)
{
	if (vmm_snapshot_at(c->vmm, &(struct snapshot_dir){ dir_fd, "template", (uid_t)-1, (gid_t)-1 }, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < over->n_disks; i++)
		if (vmm_put_over_disk(c->vmm, &over->disks[i], err) < 0)
			return err->num;
	return 0;
}

static int snapshot(struct owned_vm *c, int dir_fd, struct vm_config *over, struct strbuf *out, struct err *err)
{
	struct ctl_snapshotted answer = { .reboots = vmm_reboots(c->vmm) };
	bool runs = strcmp(vmm_state(c->vmm), "Running") == 0;

	if (runs && check_disks_rest(vmm_config(c->vmm), over, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < over->n_disks; i++)
		vmm_sync_disk(c->vmm, over->disks[i].id);
	uint64_t begin = monotonic_ns();
	if (runs && vmm_pause(c->vmm, err) < 0)
		return err->num;
	int r = snapshot_paused(c, dir_fd, over, err);
	if (runs) {
		struct err resume_err = {};
		if (vmm_resume(c->vmm, &resume_err) < 0 && r == 0) {
			*err = resume_err;
			return err->num;
		}
		answer.paused_us = (monotonic_ns() - begin) / 1000;
	}
	if (r == 0)
		ctl_reply(out, ctl_snapshotted_fields, &answer);
	return r;
}

static int op_snapshot(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	struct vm_config over = {};
	struct ctl_snapshot rq;

	if (p->n_fds == 0)
		return err_set(err, ERR_INVALID, "snapshot: the directory's descriptor did not come");
	fields_init(ctl_snapshot_fields, &rq);
	int r = fields_load(ctl_snapshot_fields, &rq, &p->json.nodes[0], "snapshot", err);
	if (r == 0)
		r = clone_take_disks(&over, p, rq.fds, rq.n_fds, err);
	if (r == 0)
		r = snapshot(c, p->fds[0], &over, out, err);
	vm_config_close_fds(&over);
	vm_config_free(&over);
	fields_free(ctl_snapshot_fields, &rq);
	return r;
}

static int op_dial(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	struct ctl_dial rq = {};

	if (p->n_fds != 1)
		return err_set(err, ERR_INVALID, "dial: %u descriptors came, expected one", p->n_fds);
	if (fields_load(ctl_dial_fields, &rq, &p->json.nodes[0], "dial", err) < 0 ||
	    vmm_dial(c->vmm, p->fds[0], rq.port, err) < 0)
		return err->num;
	steal_fd(&p->fds[0]);
	ctl_reply(out, NULL, NULL);
	return 0;
}

static int op_net_release(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	struct virtio_counters n;

	(void)p;
	if (!c->started)
		return err_set(err, ERR_CONFLICT, "there is no VM whose nets could be released");
	vmm_unhold_nets(c->vmm);
	c->is_ready = true;
	vmm_counters(c->vmm, &n);
	ctl_reply(out, ctl_net_released_fields, &(struct ctl_net_released){ .held_frames = n.net_held_frames });
	return 0;
}

static int op_stats(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	struct virtio_counters n;

	(void)p;
	(void)err;
	vmm_counters(c->vmm, &n);
	const struct ctl_stats stats = {
		.state = (char *)(uintptr_t)vmm_state(c->vmm),
		.disk_read_bytes = n.disk_read_bytes,
		.disk_written_bytes = n.disk_written_bytes,
		.disk_ops = n.disk_ops,
		.net_rx_bytes = n.net_rx_bytes,
		.net_tx_bytes = n.net_tx_bytes,
		.net_rx_frames = n.net_rx_frames,
		.net_tx_frames = n.net_tx_frames,
		.net_held_frames = n.net_held_frames,
	};
	ctl_reply(out, ctl_stats_fields, &stats);
	return 0;
}

static int op_quit(struct owned_vm *c, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	(void)p;
	(void)err;
	vmm_release(c->vmm);
	c->end_reason = "deleted";
	loop_stop(&c->loop, 0);
	ctl_reply(out, NULL, NULL);
	return 0;
}

static const struct op ops[] = {
	{ "hello", op_hello, false },   { "restore", op_restore, true },
	{ "boot", op_boot, true },      { "pause", op_pause, false },
	{ "resume", op_resume, false }, { "snapshot", op_snapshot, false },
	{ "dial", op_dial, false },     { "stats", op_stats, false },
	{ "quit", op_quit, false },     { "net_release", op_net_release, false },
};

static const struct op *find_op(const struct ctl_packet *p)
{
	const struct json_node *name = json_get(&p->json.nodes[0], "op");

	for (unsigned i = 0; name && name->type == JSON_STRING && i < ARRAY_LEN(ops); i++)
		if (strcmp(ops[i].name, name->str) == 0)
			return &ops[i];
	return NULL;
}

/*
 * Frees what was read of the snapshot, and what building the VM left in the heap: a clone keeps little
 * memory.
 */
static void let_go_of_template(struct owned_vm *c)
{
	snapshot_close(&c->tmpl->snap);
	c->tmpl = NULL;
	malloc_trim(0);
}

/* The pages that a clone of this template writes before it is ready. */
static void report_pages(struct owned_vm *c)
{
	autoclose int fd = steal_fd(&c->report_fd);
	struct own_pages list;
	struct err err = {};

	if (vmm_list_own_pages(c->vmm, &list, &err) < 0)
		log_debug("pages are not copied ahead: %s", err.msg);
	else
		own_pages_send(fd, &list);
}

static void serve_packet(struct owned_vm *c, struct ctl_packet *p)
{
	const struct op *op = find_op(p);
	autostrbuf struct strbuf out = {};
	struct err err = {};
	char line[ERR_MSG_BYTES];

	c->serving = true;
	int r = op ? op->run(c, p, &out, &err) : err_set(&err, ERR_INVALID, "unknown request");
	c->serving = false;
	if (r < 0) {
		log_warn("%s: %s", op ? op->name : "control socket", err_line(&err, line, sizeof(line)));
		strbuf_done(&out);
		ctl_reply_error(&out, &err);
	}
	bool ends = r < 0 && op && op->ends_if_failed && !c->started;
	if (ends) {
		c->end_reason = "could not be started";
		loop_stop(&c->loop, 1);
	}
	tell(c, &out);
	if (c->started && c->tmpl)
		let_go_of_template(c);
	if (c->is_ready && c->report_fd >= 0)
		report_pages(c);
}

static void on_packet(struct source *source, uint32_t events)
{
	struct owned_vm *c = container_of(source, struct owned_vm, conn);
	autoctl struct ctl_packet p = {};
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (events & EPOLLOUT) { /* forkd has read */
		loop_mod(&c->loop, source, EPOLLIN);
		say_state(c);
	}
	int r = c->conn.fd < 0 ? -EAGAIN : ctl_recv(source->fd, &p, &err);
	if (r > 0) {
		serve_packet(c, &p);
	} else if (r != -EAGAIN) {
		if (r < 0)
			log_warn("control socket: %s", err_line(&err, line, sizeof(line)));
		hang_up(c);
	}
}

static void on_connect(struct source *source, uint32_t events)
{
	struct owned_vm *c = container_of(source, struct owned_vm, listener);
	int fd = accept4(source->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct err err = {};

	(void)events;
	if (fd < 0)
		return;
	if (c->conn.fd >= 0) { /* a new daemon: the connection of the old daemon ends */
		loop_del(&c->loop, &c->conn);
		close(c->conn.fd);
	}
	c->conn = (struct source){ .fd = fd, .ready = on_packet };
	if (loop_add(&c->loop, &c->conn, EPOLLIN, &err) < 0)
		hang_up(c);
	c->state_owed = c->started; /* this daemon does not know what another daemon was told */
	say_state(c);
}

/* ---- the open service of forkd ---- */

/*
 * A guest that waits for a connection holds the vsock device's lock, and a pause waits for that lock.
 */
enum { OPEN_PATIENCE_S = 5, CONNECT_PATIENCE_S = 1 };

static int connect_service(const char *path, unsigned patience_s, struct err *err)
{
	const struct timeval patience = { .tv_sec = patience_s };
	autoclose int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd >= 0 && (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0 ||
			setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0))
		return err_sys(err, ERR_INTERNAL, "set the timeouts of a socket");
	if (sock_connect(fd, path, err) < 0)
		return err_wrap(err, "ask forkd to open a path");
	return steal_fd(&fd);
}

struct question {
	struct strbuf text;
	unsigned patience_s;
	const char *what;    /* for messages */
	struct ctl_dir *dir; /* what the answer says, unless NULL */
};

/* Sends one request. Returns the one descriptor of the answer, or < 0. */
static int ask_service(const struct owned_vm *c, const struct question *q, struct err *err)
{
	autoctl struct ctl_packet p = {};

	if (!c->open_socket)
		return err_set(err, ERR_INTERNAL, "this VM may not name paths of the host: '%s'", q->what);
	autoclose int fd = connect_service(c->open_socket, q->patience_s, err);
	if (fd < 0 || ctl_send(fd, &q->text, NULL, 0, err) < 0)
		return err->num;
	int r = ctl_recv(fd, &p, err);
	if (r == 0 || r == -EAGAIN)
		return err_set(err, ERR_INTERNAL, "forkd did not answer when asked to open '%s'", q->what);
	if (r < 0 || ctl_parse_reply(&p, q->dir ? ctl_dir_fields : NULL, q->dir, err) < 0)
		return err->num;
	if (p.n_fds != 1)
		return err_set(err, ERR_INTERNAL, "forkd sent %u descriptors for '%s'", p.n_fds, q->what);
	return steal_fd(&p.fds[0]);
}

static int on_open_dir(struct vmm_owner *owner, const char *path, struct snapshot_dir *ret, struct err *err)
{
	struct owned_vm *c = container_of(owner, struct owned_vm, owner);
	const struct ctl_open_dir rq = { .id = c->id, .path = (char *)(uintptr_t)path };
	struct ctl_dir dir;
	struct question q = { .patience_s = OPEN_PATIENCE_S, .what = path, .dir = &dir };

	fields_init(ctl_dir_fields, &dir);
	ctl_request(&q.text, "open_dir", ctl_open_dir_fields, &rq, NULL);
	int fd = ask_service(c, &q, err);
	strbuf_done(&q.text);
	if (fd < 0)
		return err->num;
	*ret = (struct snapshot_dir){ fd, path, dir.uid, dir.gid };
	return 0;
}

/*
 * Opens a connection of the guest to a port of the host; -1: none. On the thread that serves the vsock
 * device.
 */
static int on_connect_port(void *opaque, uint32_t port)
{
	const struct owned_vm *c = opaque;
	const struct ctl_connect rq = { .id = c->id, .port = port };
	struct err err = {};
	char what[32];
	struct question q = { .patience_s = CONNECT_PATIENCE_S, .what = what };

	snprintf(what, sizeof(what), "vsock port %u", port);
	ctl_request(&q.text, "connect", ctl_connect_fields, &rq, NULL);
	int fd = ask_service(c, &q, &err);
	strbuf_done(&q.text);
	return fd < 0 ? -1 : fd;
}

/* ---- life ---- */

static void park(struct owned_vm *c, const struct clone_start *start)
{
	struct template *t = start->tmpl;
	const struct vm_restore how = { .mode = start->mode, .kvm = &t->kvm, .saved = &t->saved };
	char line[ERR_MSG_BYTES];

	int r = vmm_park(c->vmm, &t->config, &t->snap, &how, &c->park_err);
	if (r >= 0 && start->wait_fd >= 0)
		vmm_make_own_pages(c->vmm, &t->ahead);
	t->kvm = (struct kvm){ .fd = -1, .vm_fd = -1 };
	if (r < 0)
		log_error("%s", err_line(&c->park_err, line, sizeof(line)));
}

/*
 * Waits until the parked clone is wanted, and takes its name and control socket. 0: nobody will want
 * the clone any more.
 */
static int wait_until_wanted(struct owned_vm *c, struct clone_start *start, struct err *err)
{
	autoctl struct ctl_packet p = {};
	struct ctl_fork wanted;

	int r = ctl_recv(start->wait_fd, &p, err);
	if (r <= 0)
		return r;
	fields_init(ctl_fork_fields, &wanted);
	r = fields_load(ctl_fork_fields, &wanted, &p.json.nodes[0], "fork", err);
	if (r < 0 || p.n_fds != 1) {
		fields_free(ctl_fork_fields, &wanted);
		return r < 0 ? r : err_set(err, ERR_INVALID, "%u descriptors came, expected one", p.n_fds);
	}
	c->id = start->id = wanted.id;
	c->listener.fd = steal_fd(&p.fds[0]);
	log_thread_name(c->id);
	return 1;
}

static int run_owned(struct owned_vm *c, struct clone_start *start, struct err *err)
{
	if (loop_init(&c->loop, err) < 0 || loop_signals_init(&c->signals, &c->loop, err) < 0)
		return err->num;
	c->vmm = vmm_new(&c->loop, err);
	if (!c->vmm)
		return err->num;
	vmm_set_owner(c->vmm, &c->owner);
	if (start->tmpl)
		park(c, start);
	int wanted = start->wait_fd >= 0 ? wait_until_wanted(c, start, err) : 1;
	if (wanted <= 0)
		return wanted;
	if (loop_add(&c->loop, &c->listener, EPOLLIN, err) < 0)
		return err->num;
	int exit_code = loop_run(&c->loop);
	say_exiting(c, exit_code);
	return exit_code;
}

int clone_run(struct clone_start *start, struct err *err)
{
	struct owned_vm c = {
		.owner = { .ended = on_ended, .state_changed = on_state, .open_dir = on_open_dir },
		.loop.epoll_fd = -1,
		.signals.source.fd = -1,
		.id = start->id,
		.tmpl = start->tmpl,
		.listener = { .fd = start->control_fd, .ready = on_connect },
		.conn.fd = -1,
		.report_fd = start->report_fd,
	};

	host_open_shut(on_connect_port, &c);
	log_thread_name(c.id ? c.id : "parked");
	int r = run_owned(&c, start, err);
	api_server_free(c.api);
	vmm_free(c.vmm);
	if (c.conn.fd >= 0)
		close(c.conn.fd);
	if (c.listener.fd >= 0)
		close(c.listener.fd);
	if (start->wait_fd >= 0)
		close(start->wait_fd);
	if (c.report_fd >= 0)
		close(c.report_fd);
	loop_signals_done(&c.signals);
	loop_done(&c.loop);
	free(c.open_socket);
	return r;
}
