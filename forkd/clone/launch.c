// SPDX-License-Identifier: Apache-2.0
/*
 * What one clone needs from the host, and the exchanges with template host and VM process that make
 * the clone.
 */
#include "forkd/clone/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "forkd/access/announce.h"
#include "forkd/access/handover.h"
#include "forkd/access/policy.h"
#include "forkd/access/taps.h"
#include "forkd/agent/identity.h"
#include "forkd/clone/clone_disks.h"
#include "forkd/errors.h"
#include "forkd/net/slots.h"
#include "forkd/template/disks.h"
#include "forkd/wire/control.h"

static uint8_t clock_for(const struct batch *b, const struct clone_spec *spec)
{
	return b->host->agent && !spec->has_clock ? CTL_CLOCK_CONTINUE : spec->clock;
}

static int fill_record(const struct batch *b, struct job *j, struct err *err)
{
	struct record *r = &j->c->record;
	const struct caller *caller = b->from->caller;
	const struct ctl_template *info = &b->host->info;

	r->template = strdup(b->t->name);
	r->created_at = time_text(true);
	r->uid = caller->local ? caller->uid : OWNER_REMOTE;
	r->gid = caller->local ? caller->gid : OWNER_REMOTE;
	r->memory_restore_mode = j->spec->memory_restore_mode;
	r->clock = clock_for(b, j->spec);
	r->identity = b->host->agent ? IDENTITY_PENDING : IDENTITY_UNMANAGED;
	r->wished = j->spec->identity.given;
	r->secrets = b->host->secrets || identity_wish_is_secret(&j->spec->identity);
	r->ttl_s = j->spec->ttl_s;
	r->expires_ns = r->ttl_s ? monotonic_ns() + r->ttl_s * 1000000000 : 0;
	r->begun_ns = b->from->accepted_ns;
	r->accepted_ns = b->accepted_ns;
	r->net = calloc(info->n_nets + 1UL, sizeof(*r->net));
	if (!r->template || !r->created_at || !r->net)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make a clone");
	r->n_net = info->n_nets;
	for (uint32_t i = 0; i < info->n_nets; i++) {
		r->net[i].id = strdup(info->nets[i].id);
		if (!r->net[i].id)
			return err_num(err, ERR_INTERNAL, ENOMEM, "make a clone");
	}
	if (labels_copy(j->spec->labels, j->spec->n_labels, &r->labels, err) < 0)
		return err->num;
	r->n_labels = j->spec->n_labels;
	return 0;
}

/*
 * Makes the clone's directory and both ends of the clone's control socket, and sends the request to
 * the template host. The process starts while the daemon does the rest.
 */
static int begin(struct batch *b, struct job *j, struct place *place, struct err *err)
{
	char id[CLONE_ID_CHARS + 1];
	autoclose int control = -1;

	record_new_id(id);
	j->c = clone_new(id);
	if (!j->c)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make a clone");
	if (fill_record(b, j, err) < 0 || place_make(b->d, b->from->caller, "clones", id, place, err) < 0)
		return err->num;
	j->c->line = LINE_UP; /* the template host has agreed on the protocol; the clone's process is a copy */
	j->c->version = CTL_VERSION;
	j->dir = true;
	if (place_listen(place, "control.sock", SOCK_SEQPACKET, &control, err) < 0 ||
	    place_connect(b->d, "clones", id, &j->c->control.fd, err) < 0)
		return err->num;
	registry_add(b->d->registry, j->c);
	if (template_host_send_fork(b->host, id, j->spec->memory_restore_mode, control, err) < 0)
		return err->num;
	j->fork_sent = true;
	return 0;
}

static int add_all(struct handover *h, char *id, const int *fds, uint32_t n, bool borrowed, struct err *err)
{
	for (uint32_t k = 0; k < n; k++)
		if (handover_add(h, CTL_FD_NET, id, fds[k], borrowed, err) < 0) {
			while (!borrowed && ++k < n)
				close(fds[k]);
			return err->num;
		}
	return 0;
}

/* A net with a network of its own, out of those that are made ahead. */
static int add_slot(const struct batch *b, const struct job *j, struct handover *h, uint32_t i, struct err *err)
{
	struct ctl_net *net = &b->host->info.nets[i];
	const char *mac = j->plan->nets[i].host_mac;
	const struct slot_ask ask = {
		.clone = j->c->record.id,
		.wish = &j->spec->network,
		.host_mac = mac ? mac : net->host_mac,
		.mtu = net->mtu,
		.queues = net->num_fds,
		.trusted = b->from->caller->trusted,
	};
	int fds[TAP_QUEUES_MAX];

	if (slots_take(b->d->slots, &ask, &j->c->record.net[i], fds, err) < 0)
		return err_wrap(err, "net '%s'", net->id);
	return add_all(h, net->id, fds, net->num_fds, false, err);
}

static int add_taps(const struct batch *b, const struct job *j, struct handover *h, uint32_t i, struct err *err)
{
	struct ctl_net *net = &b->host->info.nets[i];
	const struct net_plan *plan = &j->plan->nets[i];
	const struct caller *caller = b->from->caller;
	bool given = plan->from == NET_FDS;
	char name[IFNAMSIZ] = "", other[CLONE_ID_CHARS + 1] = "";
	const struct tap_settings settings = { plan->host_mac ? plan->host_mac : net->host_mac, net->mtu };
	int fds[TAP_QUEUES_MAX];

	if (net->num_fds > TAP_QUEUES_MAX)
		return fail(err, E_INVALID, "net '%s' has more than %d queue pairs", net->id, TAP_QUEUES_MAX);
	if (plan->from == NET_SLOT)
		return add_slot(b, j, h, i, err);
	if (plan->from == NET_TAP && !caller->trusted)
		return fail(err, E_FORBIDDEN, "net '%s': only root may name a tap ('%s'); send its descriptors",
			    net->id, plan->tap);
	if (plan->from == NET_TAP)
		snprintf(name, sizeof(name), "%s", plan->tap);
	else if (plan->from == NET_AUTO)
		taps_auto_name(j->c->record.id, i, name);
	if (given) {
		memcpy(fds, b->from->fds + plan->first_fd, net->num_fds * sizeof(int));
		if (taps_check(fds, net->num_fds, net->id, plan->first_fd, name, err) < 0)
			return err->num;
	}
	if (!registry_claim_tap(b->d->registry, j->c, i, name, given ? NULL : other))
		return other[0] ? fail(err, E_CONFLICT, "net '%s': clone '%s' has tap '%s'", net->id, other, name)
				: err_num(err, ERR_INTERNAL, ENOMEM, "net '%s'", net->id);
	if (!given && taps_open(name, net->num_fds, &settings, fds, err) < 0)
		return err_wrap(err, "net '%s'", net->id);
	if (plan->from == NET_TAP)
		announce_tap(name);
	return add_all(h, net->id, fds, net->num_fds, given, err);
}

struct sink_place {
	const char *log, *socket;
	enum ctl_fd_kind log_kind, socket_kind;
	char **ret_log, **ret_socket;
};

/*
 * Opens the file that the caller named for output. Only a trusted caller may name anything but a
 * regular file. The file is opened for reading too: then a FIFO needs no other reader, and the
 * newer half of a full log can be kept. A caller who may only write gets the file without reading.
 */
static int open_sink(const struct place *p, const char *path, int *ret_fd, struct err *err)
{
	const int flags = O_APPEND | O_NONBLOCK | O_NOCTTY;
	const struct caller *c = p->caller;
	autoclose int fd = -1;
	struct stat st;

	int r = policy_open(p->d->policy, c, path, flags | O_RDWR | O_CREAT | O_EXCL, &fd, err);
	if (r == -EEXIST) {
		*err = (struct err){};
		r = policy_open(p->d->policy, c, path, flags | O_RDWR, &fd, err);
	}
	if (r == -EACCES) {
		*err = (struct err){};
		r = policy_open(p->d->policy, c, path, flags | O_WRONLY, &fd, err);
	}
	if (r < 0)
		return r;
	if (fstat(fd, &st) < 0 || (!c->trusted && !S_ISREG(st.st_mode)))
		return fail(err, E_FORBIDDEN, "'%s' is not a regular file", path);
	*ret_fd = steal_fd(&fd);
	return 0;
}

static int add_sink(struct handover *h, const struct place *p, const struct sink *sink, const struct sink_place *s,
		    struct err *err)
{
	int fd = -1;

	if (sink->mode == SINK_NULL)
		return 0;
	if (sink->mode == SINK_FILE) {
		if (open_sink(p, sink->file, &fd, err) < 0)
			return err_wrap(err, "%s", s->log);
		*s->ret_log = strdup(sink->file);
		return handover_add(h, s->log_kind, NULL, fd, false, err);
	}
	if (handover_log(h, s->log_kind, p, s->log, s->ret_log, err) < 0)
		return err->num;
	return handover_socket(h, s->socket_kind, p, s->socket, s->ret_socket, err);
}

/* Checks the path here, because the VM process opens it without the daemon. */
static int check_rng(const char *path, struct err *err)
{
	return ctl_is_random_source(path)
		       ? 0
		       : fail(err, E_FORBIDDEN, "overrides.rng.src: '%s' is no source of random numbers", path);
}

static int add_vsock(const struct batch *b, const struct job *j, const struct place *place, struct handover *h,
		     struct err *err)
{
	struct record *r = &j->c->record;
	const char *path = j->spec->vsock_socket;

	if (!path)
		return handover_socket(h, CTL_FD_VSOCK, place, "vsock.sock", &r->vsock_socket, err);
	if (!b->from->caller->trusted)
		return fail(err, E_FORBIDDEN, "overrides.vsock.socket: only root may name a socket ('%s')", path);
	if (path[0] != '/')
		return fail(err, E_BAD_OVERRIDE, "overrides.vsock.socket: '%s' is not an absolute path", path);
	return handover_vsock_at(h, path, r, err);
}

static int add_disk(const struct batch *b, const struct job *j, struct handover *h, uint32_t i, struct err *err)
{
	const struct ctl_disk *disk = &b->host->info.disks[i];
	const struct store_chain *chain = b->host->chains[i];
	const char *own = j->plan->disks[i].path, *path = own ? own : disk->path;

	if (!own && chain)
		return clone_disk_make(b->host, i, &j->c->record, h, err);
	if (!path)
		return fail(err, E_DISK_SHARED, "disk '%s' has no path: override it", disk->id);
	const struct caller *who = own ? b->from->caller : &b->host->owner;
	if (handover_disk(h, b->d->policy, who, disk, path, err) >= 0)
		return 0;
	return own ? err->num : disks_unusable(err);
}

static int gather(const struct batch *b, const struct job *j, const struct place *place, struct handover *h,
		  struct err *err)
{
	const struct ctl_template *info = &b->host->info;
	struct record *r = &j->c->record;
	const struct sink_place serial = { "serial.log",         "serial.sock", CTL_FD_SERIAL_LOG,
					   CTL_FD_SERIAL_SOCKET, &r->serial,    &r->serial_socket };
	const struct sink_place console = { "console.log",         "console.sock", CTL_FD_CONSOLE_LOG,
					    CTL_FD_CONSOLE_SOCKET, &r->console,    &r->console_socket };

	if (j->spec->rng_src && check_rng(j->spec->rng_src, err) < 0)
		return err->num;
	if (handover_socket(h, CTL_FD_API, place, "api.sock", NULL, err) < 0 ||
	    payload_hand_over(h, b->d->store, &b->host->payload, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < info->n_disks; i++)
		if (add_disk(b, j, h, i, err) < 0)
			return err->num;
	for (uint32_t i = 0; i < info->n_nets; i++)
		if (add_taps(b, j, h, i, err) < 0)
			return err->num;
	if (info->has_serial && add_sink(h, place, &j->spec->serial, &serial, err) < 0)
		return err->num;
	if (info->has_console && add_sink(h, place, &j->spec->console, &console, err) < 0)
		return err->num;
	return info->has_vsock ? add_vsock(b, j, place, h, err) : 0;
}

static int send_restore(const struct batch *b, const struct job *j, struct handover *h, struct err *err)
{
	const struct ctl_restore restore = {
		.fds = h->kinds,
		.n_fds = h->n,
		.clock = j->c->record.clock,
		.resume = !j->spec->paused || b->host->agent, /* the agent works before the clone is paused */
		.net_held = b->host->agent,
		.open_socket = b->d->open_socket,
		.vsock_socket = j->c->record.vsock_socket,
	};
	autofree char *extra = NULL;

	if (j->spec->overrides && asprintf(&extra, "\"overrides\":%s", j->spec->overrides) < 0)
		return err_num(err, ERR_INTERNAL, ENOMEM, "send the overrides");
	if (control_send(j->c->control.fd, "restore", ctl_restore_fields, &restore, extra, h->fds, h->n, err) >= 0)
		return 0;
	return err->num == -EPIPE ? fail_as(err, E_CLONE_DIED, NULL) : err->num;
}

static int send_dial(struct job *j, struct err *err)
{
	const struct control_call *call = &j->dial.call;

	if (dial_begin(&j->dial, &agent_hello_to, err) < 0 ||
	    control_send(j->c->control.fd, call->op, call->rows, call->obj, NULL, call->fds, call->n_fds, err) < 0)
		return err->num == -EPIPE ? fail_as(err, E_CLONE_DIED, NULL) : err->num;
	close(steal_fd(&j->dial.theirs));
	return 0;
}

int launch_clone(struct batch *b, struct job *j, struct err *err)
{
	autoplace struct place place = {};
	autohandover struct handover h = {};

	if (begin(b, j, &place, err) < 0)
		return err_wrap(err, "begin");
	if (gather(b, j, &place, &h, err) < 0)
		return err_wrap(err, "resources");
	if (send_restore(b, j, &h, err) < 0)
		return err_wrap(err, "restore");
	return j->reach && send_dial(j, err) < 0 ? err_wrap(err, "agent") : 0;
}

int launch_forked(struct batch *b, struct err *err)
{
	struct job *j = &b->jobs[b->forked];
	struct clone *c = j->c;
	autoclose int dir = -1;
	uint32_t pid;
	int pidfd;

	if (template_host_recv_fork(b->host, &pid, &pidfd, err) < 0)
		return err->num;
	pthread_mutex_lock(&b->d->registry->lock);
	c->record.pid = pid;
	c->process.fd = pidfd;
	pthread_mutex_unlock(&b->d->registry->lock);
	if (place_open(b->d, "clones", c->record.id, &dir, err) < 0)
		return err->num;
	return record_save(&c->record, dir, err);
}

/* Names what the VM process has refused: the caller's overrides, or else the snapshot. */
static int refused(const struct job *j, struct err *err)
{
	if (err->code == ERR_CONFLICT || err->code == ERR_BUSY)
		return fail_as(err, E_CONFLICT, NULL);
	if (err->code == ERR_INVALID)
		return fail_as(err, j->spec->overrides ? E_BAD_OVERRIDE : E_BAD_SNAPSHOT, NULL);
	return err->num;
}

int launch_restored(const struct batch *b, struct job *j, uint64_t deadline_ns, struct err *err)
{
	autoctl struct ctl_packet p = {};
	struct ctl_status status;
	struct clone *c = j->c;

	if (control_reply(c->control.fd, deadline_ns, NULL, NULL, &p, err) < 0)
		return err->num == -ETIMEDOUT ? fail_as(err, E_TIMEOUT, NULL) : fail_as(err, E_CLONE_DIED, NULL);
	fields_init(ctl_status_fields, &status);
	if (ctl_parse_reply(&p, ctl_status_fields, &status, err) < 0)
		return refused(j, err);
	bool running = strcmp(status.state, "Running") == 0;
	pthread_mutex_lock(&b->d->registry->lock);
	c->restored_ns = status.restored_ns;
	c->resumed_ns = status.resumed_ns;
	c->first_state = running ? CLONE_RUNNING : CLONE_PAUSED;
	pthread_mutex_unlock(&b->d->registry->lock);
	fields_free(ctl_status_fields, &status);
	return 0;
}
