// SPDX-License-Identifier: Apache-2.0
/* Loads a template once, forks clones, and reports which clones ended. */
#include "vmm/clone/template_host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/ctl.h"
#include "common/log.h"
#include "vmm/clone/control.h"
#include "vmm/clone/flatten.h"
#include "vmm/state/state.h"

enum { IDLE_MS = 3 };

/* A parked clone has done everything that does not depend on a request, and waits for a request. */
struct parked {
	pid_t pid;
	int fd; /* carries the request to the parked clone */
};

struct host {
	int control_fd;
	int child_fd; /* signalfd for SIGCHLD */
	struct template *tmpl;
	bool loaded;
	struct parked parked[CTL_PARK_MAX];
	unsigned n_parked, want_parked; /* fewer than `park` after one ended, until another clone was made */
	unsigned park;
	int report_fd,
		reporter_fd; /* until the first clone that is ready has sent its list of pages, or -1; the clones' end */
	struct clone_start *child;
	bool is_child;
};

void template_done(struct template *t)
{
	saved_done(&t->saved);
	vm_config_free(&t->config);
	snapshot_close(&t->snap);
	kvm_close(&t->kvm);
}

/* ---- pages ---- */

/* A socket for the list of the first clone that is ready. Without one no page is copied ahead. */
static void await_report(struct host *h)
{
	int pair[2];

	if (h->want_parked == 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return;
	h->report_fd = pair[0];
	h->reporter_fd = pair[1];
}

/* The list comes from a process that runs a guest: it is checked, and no second one is heard. */
static void take_report(struct host *h)
{
	if (!own_pages_recv(h->report_fd, h->tmpl->config.memory.size, &h->tmpl->ahead))
		log_warn("a clone's list of pages is none");
	close(steal_fd(&h->report_fd));
	close(steal_fd(&h->reporter_fd));
}

/* ---- load ---- */

static int describe_nets(const struct vm_config *c, struct ctl_template *d, struct err *err)
{
	d->nets = calloc(c->n_net + 1, sizeof(*d->nets));
	if (!d->nets)
		return err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
	for (; d->n_nets < c->n_net; d->n_nets++) {
		const struct net_config *n = &c->net[d->n_nets];
		if (!n->id)
			return err_set(err, ERR_INVALID, "config.json: net[%u].id: missing", d->n_nets);
		d->nets[d->n_nets] = (struct ctl_net){
			.id = n->id,
			.tap = n->tap,
			.num_fds = n->num_queues / 2,
			.mac = n->mac,
			.host_mac = n->host_mac,
			.mtu = n->has_mtu ? n->mtu : 0,
		};
	}
	return 0;
}

/* The part of a disk's saved state that says how long the disk is for the guest. */
struct known_disk {
	struct known_space {
		uint64_t capacity; /* sectors */
	} config;
};
static const struct field known_space_fields[] = {
	F(struct known_space, capacity, .flags = F_REQUIRED, .max = INT64_MAX >> 9),
	F_END,
};
static const struct field known_disk_fields[] = {
	F_OBJ(struct known_disk, config, known_space_fields, .flags = F_REQUIRED),
	F_END,
};

static int describe_disks(const struct template *t, struct ctl_template *d, struct err *err)
{
	const struct vm_config *c = &t->config;
	const struct json_node *devices = NULL;
	struct known_disk known;

	if (state_child(&t->snap.state.nodes[0], "device-manager", &devices, err) < 0)
		return err->num;
	d->disks = calloc(c->n_disks + 1, sizeof(*d->disks));
	if (!d->disks)
		return err_num(err, ERR_INTERNAL, ENOMEM, "describe the template");
	for (; d->n_disks < c->n_disks; d->n_disks++) {
		const struct disk_config *disk = &c->disks[d->n_disks];
		if (!disk->id)
			return err_set(err, ERR_INVALID, "config.json: disks[%u].id: missing", d->n_disks);
		if (state_peek_leaf(devices, disk->id, known_disk_fields, &known, err) < 0)
			return err->num;
		d->disks[d->n_disks] = (struct ctl_disk){
			.id = disk->id,
			.path = disk->path,
			.readonly = disk->readonly,
			.direct = disk->direct,
			.qcow2 = disk->image_type == IMAGE_QCOW2,
			.backing_files = disk->backing_files,
			.bytes = known.config.capacity << 9,
		};
	}
	return 0;
}

/* Writes the answer to "load". */
static int describe(const struct template *t, struct strbuf *out, struct err *err)
{
	const struct vm_config *c = &t->config;
	char host_cpu[80];
	arch_state_describe(&t->saved.arch, &t->saved.cpu[0], host_cpu, sizeof(host_cpu));
	struct ctl_template d = {
		.ram_bytes = c->memory.size,
		.vcpus = c->cpus.boot_vcpus,
		.has_serial = c->serial.mode != CONSOLE_OFF,
		.has_console = c->console.mode != CONSOLE_OFF,
		.has_vsock = c->vsock != NULL,
		.kernel = c->payload->kernel,
		.initramfs = c->payload->initramfs,
		.host_cpu = host_cpu,
	};

	int r = arch_needs_save(&t->saved.needs, &d.needs, err);
	if (r == 0)
		r = describe_nets(c, &d, err);
	if (r == 0)
		r = describe_disks(t, &d, err);
	if (r == 0)
		ctl_reply(out, ctl_template_fields, &d);
	fields_free(host_needs_fields, &d.needs);
	free(d.nets);
	free(d.disks);
	return r;
}

/* Checks that the saved memory fits the configuration, and plans how clones map the memory. */
static int check_memory(struct template *t, struct err *err)
{
	struct gmem mem;

	arch_layout_ram(&mem, t->config.memory.size);
	return snapshot_check_memory(&t->snap, &mem, err);
}

/* The source of random numbers is the one file of the configuration that a clone opens by name. */
static int check_rng(const struct vm_config *c, struct err *err)
{
	if (ctl_is_random_source(c->rng.src))
		return 0;
	return err_set(err, ERR_INVALID, "config.json: rng.src: '%s' is not a source of randomness that clones may use",
		       c->rng.src);
}

static int load_template(struct host *h, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	struct template *t = h->tmpl;
	struct ctl_load rq;

	if (h->loaded)
		return err_set(err, ERR_CONFLICT, "a template is loaded already");
	if (p->n_fds != 1)
		return err_set(err, ERR_INVALID, "load: %u descriptors came, expected the directory's", p->n_fds);
	fields_init(ctl_load_fields, &rq);
	if (fields_load(ctl_load_fields, &rq, &p->json.nodes[0], "load", err) < 0)
		return err->num;
	h->loaded = true;
	if (snapshot_open_at(&t->snap, p->fds[0], "snapshot", err) < 0 ||
	    snapshot_config(&t->snap, &t->config, err) < 0 || vm_config_check(&t->config, err) < 0 ||
	    check_rng(&t->config, err) < 0 || check_memory(t, err) < 0 || kvm_open(&t->kvm, err) < 0 ||
	    saved_read(&t->saved, &t->snap, t->config.cpus.boot_vcpus, err) < 0 ||
	    arch_needs_check(t->kvm.fd, &t->saved.needs, true, err) < 0)
		return err->num;
	h->park = h->want_parked = rq.park;
	await_report(h);
	return describe(t, out, err);
}

/* ---- check: what some template needs, with no snapshot at hand ---- */

static int compare(const struct host_needs *needs, struct err *err)
{
	struct arch_needs n;
	struct kvm kvm = { .fd = -1, .vm_fd = -1 };

	if (arch_needs_load(needs, &n, err) < 0 || kvm_open(&kvm, err) < 0)
		return err->num;
	int r = arch_needs_check(kvm.fd, &n, true, err);
	kvm_close(&kvm);
	return r;
}

static int check(const struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	struct host_needs needs;

	fields_init(host_needs_fields, &needs);
	int r = fields_load(host_needs_fields, &needs, &p->json.nodes[0], "check", err);
	if (r == 0)
		r = compare(&needs, err);
	if (r == 0)
		ctl_reply(out, NULL, NULL);
	fields_free(host_needs_fields, &needs);
	return r;
}

/* ---- children ---- */

static int fd_order(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/*
 * Closes all descriptors but 0 to 2 and the n in `fds`. A child does this first: other descriptors
 * would keep other clones' sockets and files open.
 */
static void keep_only(const int *fds, unsigned n)
{
	int keep[8] = { STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO };

	memcpy(keep + 3, fds, n * sizeof(*fds));
	qsort(keep, n + 3, sizeof(keep[0]), fd_order);
	for (unsigned i = 0; i < n + 3; i++) {
		unsigned first = (unsigned)keep[i] + 1, last = i + 1 < n + 3 ? (unsigned)keep[i + 1] - 1 : ~0U;
		if (first <= last)
			(void)close_range(first, last, 0);
	}
}

/* Makes a clone of this process, which was just forked. Takes over the one descriptor in *start. */
static void become_child(struct host *h, const struct clone_start *start)
{
	struct template *t = h->tmpl;
	const int needed[] = { start->control_fd >= 0 ? start->control_fd : start->wait_fd, t->kvm.fd, t->snap.mem_fd,
			       h->reporter_fd };
	sigset_t none;

	keep_only(needed, h->reporter_fd >= 0 ? 4 : 3);
	h->control_fd = h->child_fd = h->report_fd = -1;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	*h->child = *start;
	h->child->tmpl = t;
	h->child->report_fd = steal_fd(&h->reporter_fd);
	h->is_child = true;
}

/* ---- parked clones ---- */

static void park_one(struct host *h)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return; /* fork_clone() does without a parked clone */
	pid_t pid = fork();
	if (pid == 0) {
		become_child(
			h, &(struct clone_start){ .control_fd = -1, .wait_fd = pair[1], .mode = RESTORE_COPYONWRITE });
		return;
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		h->want_parked = h->n_parked;
	} else {
		h->parked[h->n_parked++] = (struct parked){ .pid = pid, .fd = pair[0] };
	}
}

static void forget_parked(struct host *h, unsigned i)
{
	close(h->parked[i].fd);
	h->parked[i] = h->parked[--h->n_parked];
}

/* Hands the request on to a parked clone, and returns the clone's pid; 0: no clone is parked. */
static pid_t take_parked(struct host *h, const struct ctl_fork *request, int control_fd)
{
	while (h->n_parked > 0) {
		const struct parked p = h->parked[0]; /* the oldest clone: ready by now */
		autostrbuf struct strbuf out = {};
		struct err err = {};
		ctl_request(&out, "fork", ctl_fork_fields, request, NULL);
		int r = ctl_send(p.fd, &out, &control_fd, 1, &err);
		memmove(h->parked, h->parked + 1, --h->n_parked * sizeof(p));
		close(p.fd);
		if (r == 0)
			return p.pid;
	}
	return 0;
}

/* ---- fork ---- */

struct forked {
	uint32_t pid;
};
static const struct field forked_fields[] = { F(struct forked, pid), F_END };

/*
 * The answer has a pidfd: forkd can end the process and wait for it, without a doubt which process
 * that is.
 */
static int answer_forked(struct host *h, pid_t pid, struct err *err)
{
	autostrbuf struct strbuf out = {};
	const struct forked answer = { .pid = (uint32_t)pid };
	autoclose int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (pidfd < 0) {
		int r = err_sys(err, ERR_INTERNAL, "open process %d", pid);
		kill(pid, SIGKILL);
		return r;
	}
	ctl_reply(&out, forked_fields, &answer);
	return ctl_send(h->control_fd, &out, &pidfd, 1, err);
}

static int fork_clone(struct host *h, struct ctl_packet *p, struct ctl_fork *request, struct err *err)
{
	if (!h->loaded || h->tmpl->kvm.fd < 0)
		return err_set(err, ERR_CONFLICT, "no template is loaded");
	if (fields_load(ctl_fork_fields, request, &p->json.nodes[0], "fork", err) < 0)
		return err->num;
	if (p->n_fds != 1)
		return err_set(err, ERR_INVALID, "fork: %u descriptors came, expected the control socket", p->n_fds);
	pid_t pid = request->memory_restore_mode == CTL_COPYONWRITE ? take_parked(h, request, p->fds[0]) : 0;
	if (pid == 0)
		pid = fork();
	if (pid < 0)
		return err_sys(err, ERR_INTERNAL, "fork a clone");
	if (pid == 0) {
		become_child(h, &(struct clone_start){ .id = steal_ptr(&request->id),
						       .control_fd = steal_fd(&p->fds[0]),
						       .wait_fd = -1,
						       .mode = request->memory_restore_mode });
		return 0;
	}
	h->want_parked = h->park;
	return answer_forked(h, pid, err);
}

/* ---- the host's loop ---- */

static int greet(const struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	if (ctl_agree(&p->json.nodes[0], "forkd", "this forkd-vmm", err) < 0)
		return err->num;
	ctl_reply(out, ctl_hello_fields, &ctl_ours);
	return 0;
}

/* `out` stays empty when the answer is sent already. */
static int run_request(struct host *h, struct ctl_packet *p, struct strbuf *out, struct err *err)
{
	const struct json_node *op = json_get(&p->json.nodes[0], "op");
	const char *name = op && op->type == JSON_STRING ? op->str : "";

	if (strcmp(name, "check") == 0)
		return check(p, out, err);
	if (strcmp(name, "hello") == 0)
		return greet(p, out, err);
	if (strcmp(name, "load") == 0)
		return load_template(h, p, out, err);
	if (strcmp(name, "flatten") == 0)
		return flatten_serve(p, out, err);
	if (strcmp(name, "fork") != 0)
		return err_set(err, ERR_INVALID, "template host: unknown request '%.32s'", name);
	struct ctl_fork request;
	fields_init(ctl_fork_fields, &request);
	int r = fork_clone(h, p, &request, err);
	fields_free(ctl_fork_fields, &request);
	return r;
}

static int serve_request(struct host *h, struct ctl_packet *p, struct err *err)
{
	autostrbuf struct strbuf out = {};
	struct err failed = {};

	if (run_request(h, p, &out, &failed) < 0) {
		strbuf_done(&out);
		ctl_reply_error(&out, &failed);
	}
	return h->is_child || out.len == 0 ? 0 : ctl_send(h->control_fd, &out, NULL, 0, err);
}

/* Whether the process was a parked clone, of which forkd does not know. */
static bool was_parked(struct host *h, pid_t pid)
{
	for (unsigned i = 0; i < h->n_parked; i++)
		if (h->parked[i].pid == pid) {
			log_warn("a parked clone ended");
			forget_parked(h, i);
			h->want_parked = h->n_parked; /* another one may end as well, at once */
			return true;
		}
	return false;
}

static int report_ended(struct host *h, struct err *err)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	if (read(h->child_fd, &info, sizeof(info)) < 0 && errno != EAGAIN)
		return err_sys(err, ERR_INTERNAL, "read signals");
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		autostrbuf struct strbuf out = {};
		if (was_parked(h, pid))
			continue;
		const struct ctl_exited e = { .pid = (uint32_t)pid, .status = status };
		ctl_event(&out, "exited", ctl_exited_fields, &e);
		if (ctl_send(h->control_fd, &out, NULL, 0, err) < 0)
			return err->num;
	}
	return 0;
}

static int watch_children(struct host *h, struct err *err)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	h->child_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return h->child_fd < 0 ? err_sys(err, ERR_INTERNAL, "watch for signals") : 0;
}

static int serve_forkd(struct host *h, struct err *err)
{
	while (!h->is_child) {
		struct pollfd fds[] = { { .fd = h->control_fd, .events = POLLIN },
					{ .fd = h->child_fd, .events = POLLIN },
					{ .fd = h->report_fd, .events = POLLIN } };
		autoctl struct ctl_packet p = {};
		bool fewer = h->n_parked < h->want_parked;
		int n = poll(fds, ARRAY_LEN(fds), fewer ? IDLE_MS : -1);
		if (n == 0) { /* nothing else to do: parking delays no request */
			park_one(h);
			continue;
		}
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return err_sys(err, ERR_INTERNAL, "wait for forkd");
		}
		if (fds[1].revents && report_ended(h, err) < 0)
			return err->num;
		if (fds[2].revents)
			take_report(h);
		int r = fds[0].revents ? ctl_recv(h->control_fd, &p, err) : -EAGAIN;
		if (r == 0)
			return 0; /* forkd is gone, or done with this template */
		if (r == -EAGAIN)
			continue;
		if (r < 0 || serve_request(h, &p, err) < 0)
			return err->num;
	}
	return 1;
}

int template_serve(int control_fd, struct template *t, struct clone_start *ret_child, struct err *err)
{
	struct host h = { .control_fd = control_fd,
			  .child_fd = -1,
			  .report_fd = -1,
			  .reporter_fd = -1,
			  .tmpl = t,
			  .child = ret_child };

	*t = (struct template){ .snap.mem_fd = -1, .kvm = { .fd = -1, .vm_fd = -1 } };
	vm_config_init(&t->config);
	int r = watch_children(&h, err);
	if (r == 0)
		r = serve_forkd(&h, err);
	while (r == 0 && h.n_parked > 0)
		forget_parked(&h, 0);
	if (h.child_fd >= 0)
		close(h.child_fd);
	if (h.report_fd >= 0)
		close(h.report_fd);
	if (h.reporter_fd >= 0)
		close(h.reporter_fd);
	if (h.control_fd >= 0)
		close(h.control_fd);
	return r;
}
