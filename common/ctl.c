// SPDX-License-Identifier: Apache-2.0
/* The control protocol's packets and their tables. */
#include "common/ctl.h"

#include <errno.h>
#include <string.h>

const char *const ctl_fd_kinds[] = { "api",        "disk",          "disk_lock",   "net",
				     "serial_log", "serial_socket", "console_log", "console_socket",
				     "kernel",     "initramfs",     "vsock",       "disk_base",
				     NULL };
const char *const ctl_formats[] = { "configured", "raw", "qcow2", NULL };
const char *const ctl_memory_modes[] = { "copy", "ondemand", "copyonwrite", NULL };
const char *const ctl_clocks[] = { "advance", "continue", NULL };

static const struct field fd_fields[] = {
	F_ENUM(struct ctl_fd, kind, ctl_fd_kinds, .flags = F_REQUIRED),
	F(struct ctl_fd, id),
	F(struct ctl_fd, path),
	F_ENUM(struct ctl_fd, format, ctl_formats),
	F_END,
};

const struct ctl_hello ctl_ours = { .version = CTL_VERSION, .oldest = CTL_VERSION_OLDEST };

const struct field ctl_hello_fields[] = {
	F(struct ctl_hello, version, .max = INT32_MAX),
	F(struct ctl_hello, oldest, .max = INT32_MAX),
	F_END,
};

const struct field ctl_load_fields[] = {
	F(struct ctl_load, park, .max = CTL_PARK_MAX),
	F_END,
};

const struct field ctl_fork_fields[] = {
	F(struct ctl_fork, id, .flags = F_REQUIRED),
	F_ENUM(struct ctl_fork, memory_restore_mode, ctl_memory_modes, .flags = F_REQUIRED),
	F_END,
};

const struct field ctl_exited_fields[] = {
	F(struct ctl_exited, pid, .flags = F_REQUIRED),
	F(struct ctl_exited, status, .flags = F_REQUIRED),
	F_END,
};

const struct field ctl_restore_fields[] = {
	F_OBJ_LIST(struct ctl_restore, fds, fd_fields, .count = SOCK_FDS_MAX),
	F(struct ctl_restore, resume),
	F(struct ctl_restore, net_held),
	F_ENUM(struct ctl_restore, clock, ctl_clocks),
	F(struct ctl_restore, open_socket),
	F(struct ctl_restore, vsock_socket),
	F_END,
};

const struct field ctl_boot_fields[] = {
	F_OBJ_LIST(struct ctl_boot, fds, fd_fields, .count = SOCK_FDS_MAX),
	F(struct ctl_boot, open_socket),
	F_END,
};

const struct field ctl_status_fields[] = {
	F(struct ctl_status, id),
	F(struct ctl_status, pid),
	F(struct ctl_status, state, .flags = F_REQUIRED),
	F(struct ctl_status, restored_ns),
	F(struct ctl_status, resumed_ns),
	F(struct ctl_status, version),
	F(struct ctl_status, oldest),
	F(struct ctl_status, net_held),
	F(struct ctl_status, reboots),
	F_END,
};

const struct field ctl_state_fields[] = {
	F(struct ctl_state, state, .flags = F_REQUIRED),
	F(struct ctl_state, reboots),
	F_LIST(struct ctl_state, lost_nets),
	F_END,
};

const struct field ctl_exiting_fields[] = {
	F(struct ctl_exiting, reason, .flags = F_REQUIRED),
	F(struct ctl_exiting, code, .flags = F_REQUIRED),
	F_END,
};

const struct field ctl_snapshot_fields[] = {
	F_OBJ_LIST(struct ctl_snapshot, fds, fd_fields, .count = SOCK_FDS_MAX - 1),
	F_END,
};

const struct field ctl_snapshotted_fields[] = {
	F(struct ctl_snapshotted, paused_us),
	F(struct ctl_snapshotted, reboots),
	F_END,
};

const struct field ctl_net_released_fields[] = {
	F(struct ctl_net_released, held_frames),
	F_END,
};

const struct field ctl_dial_fields[] = {
	F(struct ctl_dial, port, .flags = F_REQUIRED),
	F_END,
};

const struct field ctl_stats_fields[] = {
	F(struct ctl_stats, state),
	F(struct ctl_stats, disk_read_bytes),
	F(struct ctl_stats, disk_written_bytes),
	F(struct ctl_stats, disk_ops),
	F(struct ctl_stats, net_rx_bytes),
	F(struct ctl_stats, net_tx_bytes),
	F(struct ctl_stats, net_rx_frames),
	F(struct ctl_stats, net_tx_frames),
	F(struct ctl_stats, net_held_frames),
	F_END,
};

static const struct field net_fields[] = {
	F(struct ctl_net, id, .flags = F_REQUIRED),
	F(struct ctl_net, tap),
	F(struct ctl_net, num_fds, .flags = F_REQUIRED),
	F(struct ctl_net, mac),
	F(struct ctl_net, host_mac),
	F(struct ctl_net, mtu),
	F_END,
};

static const struct field disk_fields[] = {
	F(struct ctl_disk, id, .flags = F_REQUIRED),
	F(struct ctl_disk, path),
	F(struct ctl_disk, readonly),
	F(struct ctl_disk, direct),
	F(struct ctl_disk, qcow2),
	F(struct ctl_disk, backing_files),
	F(struct ctl_disk, bytes),
	F_END,
};

const struct field ctl_template_fields[] = {
	F(struct ctl_template, ram_bytes, .flags = F_REQUIRED),
	F(struct ctl_template, vcpus, .flags = F_REQUIRED),
	F_OBJ_LIST(struct ctl_template, nets, net_fields),
	F_OBJ_LIST(struct ctl_template, disks, disk_fields),
	F(struct ctl_template, has_serial),
	F(struct ctl_template, has_console),
	F(struct ctl_template, has_vsock),
	F(struct ctl_template, kernel),
	F(struct ctl_template, initramfs),
	F(struct ctl_template, host_cpu),
	F_OBJ(struct ctl_template, needs, host_needs_fields),
	F_END,
};

const struct field ctl_open_dir_fields[] = {
	F(struct ctl_open_dir, id, .flags = F_REQUIRED),
	F(struct ctl_open_dir, path, .flags = F_REQUIRED),
	F_END,
};

const struct field ctl_dir_fields[] = {
	F(struct ctl_dir, uid, .def = UINT32_MAX),
	F(struct ctl_dir, gid, .def = UINT32_MAX),
	F_END,
};

const struct field ctl_connect_fields[] = {
	F(struct ctl_connect, id, .flags = F_REQUIRED),
	F(struct ctl_connect, port, .flags = F_REQUIRED),
	F_END,
};

/* ---- packets ---- */

bool ctl_is_random_source(const char *path)
{
	static const char *const sources[] = { "/dev/urandom", "/dev/random", "/dev/hwrng" };

	for (unsigned i = 0; i < ARRAY_LEN(sources); i++)
		if (strcmp(path, sources[i]) == 0)
			return true;
	return false;
}

void ctl_packet_done(struct ctl_packet *p)
{
	for (uint32_t i = 0; i < p->n_fds; i++)
		if (p->fds[i] >= 0)
			close(p->fds[i]);
	json_done(&p->json);
	free(p->text);
	*p = (struct ctl_packet){};
}

int ctl_send(int fd, const struct strbuf *text, const int *fds, uint32_t n_fds, struct err *err)
{
	if (text->failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "make a control packet");
	if (text->len > CTL_PACKET_MAX)
		return err_set(err, ERR_INVALID, "a control packet of %zu bytes is longer than %d", text->len,
			       CTL_PACKET_MAX);
	ssize_t n = sock_send(fd, text->text, text->len, fds, n_fds, err);
	if (n == -EAGAIN)
		return err_num(err, ERR_INTERNAL, ETIMEDOUT, "send a control packet");
	return n < 0 ? err->num : 0;
}

/* Parses the `len` bytes in p->text, which has room for one more. */
static int parse_packet(struct ctl_packet *p, size_t len, struct err *err)
{
	if (len > CTL_PACKET_MAX)
		return err_set(err, ERR_INVALID, "a control packet is longer than %d bytes", CTL_PACKET_MAX);
	p->text[len] = '\0';
	if (json_parse(&p->json, p->text, len, err) < 0)
		return err_wrap(err, "control packet");
	if (p->json.nodes[0].type != JSON_OBJECT)
		return err_set(err, ERR_INVALID, "a control packet is %s, not an object",
			       json_type_name(&p->json.nodes[0]));
	return 1;
}

static ssize_t receive(int fd, struct ctl_packet *p, struct err *err)
{
	return sock_recv(fd, p->text, CTL_PACKET_MAX + 1, p->fds, &p->n_fds, err);
}

int ctl_recv(int fd, struct ctl_packet *p, struct err *err)
{
	ctl_packet_done(p);
	p->text = malloc(CTL_PACKET_MAX + 2);
	if (!p->text)
		return err_num(err, ERR_INTERNAL, ENOMEM, "receive a control packet");
	ssize_t n = receive(fd, p, err);
	if (n ==
	    -ECONNRESET) { /* the other side has not read all and has closed: this is said once, before what it has sent */
		*err = (struct err){};
		n = receive(fd, p, err);
	}
	if (n <= 0)
		return (int)n;
	return parse_packet(p, (size_t)n, err);
}

/* Writes `head`, which opens an object, and the members of the struct. The object stays open. */
static void members(struct strbuf *out, const char *head, const struct field *rows, const void *obj)
{
	autostrbuf struct strbuf s = {};

	strbuf_puts(out, head);
	if (!rows)
		return;
	fields_save(rows, obj, &s);
	out->failed |= s.failed;
	if (s.failed || s.len <= 2)
		return;
	strbuf_putc(out, ',');
	strbuf_add(out, s.text + 1, s.len - 2);
}

static void named(struct strbuf *out, const char *key, const char *name, const struct field *rows, const void *obj)
{
	char head[64];

	snprintf(head, sizeof(head), "{\"%s\":\"%s\"", key, name);
	members(out, head, rows, obj);
}

void ctl_request(struct strbuf *out, const char *op, const struct field *rows, const void *obj, const char *extra)
{
	named(out, "op", op, rows, obj);
	if (extra) {
		strbuf_putc(out, ',');
		strbuf_puts(out, extra);
	}
	strbuf_putc(out, '}');
}

void ctl_event(struct strbuf *out, const char *event, const struct field *rows, const void *obj)
{
	named(out, "event", event, rows, obj);
	strbuf_putc(out, '}');
}

void ctl_reply(struct strbuf *out, const struct field *rows, const void *obj)
{
	members(out, "{\"ok\":true", rows, obj);
	strbuf_putc(out, '}');
}

/* An error's code travels as its number. One that the other side has and this one has not is ERR_INTERNAL. */
struct wire_error {
	uint32_t code, num; /* num: errno */
	char *message;
};

static const struct field wire_error_fields[] = {
	F(struct wire_error, code, .flags = F_REQUIRED, .min = ERR_INVALID),
	F(struct wire_error, num, .max = 4095),
	F(struct wire_error, message, .flags = F_REQUIRED),
	F_END,
};

void ctl_reply_error(struct strbuf *out, const struct err *err)
{
	strbuf_printf(out, "{\"error\":{\"code\":%u,\"num\":%d,\"message\":", err->code, err->num < 0 ? -err->num : 0);
	strbuf_json(out, err->msg, strlen(err->msg));
	strbuf_puts(out, "}}");
}

/* Sets *err as it was at the other end, with all links of its chain. */
static int take_error(const struct json_node *node, struct err *err)
{
	struct wire_error e = {};

	fields_init(wire_error_fields, &e);
	if (fields_load(wire_error_fields, &e, node, "error", err) < 0)
		return err_wrap(err, "control packet");
	err_set(err, e.code <= ERR_HOST ? (enum err_code)e.code : ERR_INTERNAL, "-");
	if (e.num == ENOSPC || e.num == EDQUOT) /* any other number would look like a fault of this end's socket */
		err->num = -(int)e.num;
	snprintf(err->msg, sizeof(err->msg), "%s", e.message);
	fields_free(wire_error_fields, &e);
	return err->num;
}

int ctl_parse_reply(const struct ctl_packet *p, const struct field *rows, void *obj, struct err *err)
{
	const struct json_node *root = &p->json.nodes[0], *error = json_get(root, "error");

	if (error)
		return take_error(error, err);
	if (!json_get(root, "ok"))
		return err_set(err, ERR_INTERNAL, "a control packet is neither an answer nor an error");
	return rows ? fields_load(rows, obj, root, "answer", err) : 0;
}

int ctl_agree(const struct json_node *hello, const char *theirs, const char *ours, struct err *err)
{
	struct ctl_hello h;

	fields_init(ctl_hello_fields, &h);
	if (fields_load(ctl_hello_fields, &h, hello, "hello", err) < 0)
		return err->num;
	int both = h.version < CTL_VERSION ? (int)h.version : CTL_VERSION;
	if (both < (int)h.oldest || both < CTL_VERSION_OLDEST)
		return err_set(err, ERR_CONFLICT, "%s speaks versions %u to %u of the control protocol, %s %d to %d",
			       theirs, h.oldest, h.version, ours, CTL_VERSION_OLDEST, CTL_VERSION);
	return both;
}
