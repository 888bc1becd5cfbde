// SPDX-License-Identifier: Apache-2.0
/*
 * The control protocol between forkd, its template hosts and its VM processes.
 *
 * SOCK_SEQPACKET unix sockets. A packet is one JSON object of up to CTL_PACKET_MAX bytes with up to SOCK_FDS_MAX
 * descriptors. A request has "op"; it gets one reply, in order: {"ok":true,…} or {"error":{"code","num","message"}}.
 * Packets with "event" come unasked, between replies.
 *
 * The two sides may be of different builds: processes outlive the daemon that started them. `hello` says the versions that each side
 * speaks (struct ctl_hello), and they go by the newest that both do. Who does not name one speaks version 0. There is none in common:
 * an error, and the other side is left alone. Members that a side does not know are ignored.
 *   0  without versions
 *   1  hello names versions, also to a template host; a VM process opens no path by its name (`connect`, restore's vsock_socket), and
 *      takes no snapshot while it runs and has a writable disk
 *   2  a VM process knows `dial`, and its vsock socket does not lead to AGENT_PRIVATE_PORT; it knows `net_held` and `clock` of
 *      `restore`, and `net_release`
 *   3  a VM process knows CTL_FD_DISK_BASE, and path and format of a disk's descriptor, and a snapshot's disks
 *
 * Template host (its socket is a socketpair given by forkd; end of file ends it; the VM processes go on):
 *   hello    struct ctl_hello                         -> struct ctl_hello. First. Version 0 does not know it.
 *   check    struct host_needs                        -> {"ok":true}; an error of code ERR_HOST names what this host lacks
 *   load     struct ctl_load; fds: the template's directory   -> struct ctl_template. Once, before any fork.
 *   flatten  struct ctl_snapshot, its `fds` all CTL_FD_DISK_BASE: a qcow2 image and what is behind it; fds: an empty file, then those
 *                                                     -> {"ok":true}; the file is what a guest would read, raw. In a host without a template.
 *   fork     struct ctl_fork; fds: a listening control socket   -> {"ok":true,"pid":n}, fds: a pidfd
 *   event "exited"  struct ctl_exited                 a VM process of this host ended
 *
 * VM process (accepts on the listening socket that came with `fork`, one connection at a time; a new one ends the old one; without a
 * connection it goes on running, and may be called again; before its first successful restore or boot the end of the connection ends it):
 *   hello    struct ctl_hello                         -> struct ctl_status
 *   restore  struct ctl_restore; fds as listed there  -> struct ctl_status. Once.
 *   boot     struct ctl_boot; fds as listed there     -> struct ctl_status. Once; process not made by a template host.
 *   pause, resume                                     -> struct ctl_status; done already: fine
 *   snapshot struct ctl_snapshot; fds: an empty directory, then as listed there   -> struct ctl_snapshotted. Pauses while it is written,
 *                                                        when it runs. A disk that is listed gets another image over its present one,
 *                                                        which is as the snapshot knows it then, and which the process has no right to
 *                                                        write any more. A VM that runs and has a writable disk which is not
 *                                                        listed: ERR_CONFLICT. ERR_CONFLICT, too: what is listed is over another image.
 *   dial     struct ctl_dial; fds: a stream socket    -> {"ok":true}; the socket gets the line "OK PORT" when the guest accepts, then
 *                                                        what the guest sends; it is closed when the guest refuses.
 *                                                        ERR_NOT_FOUND: no vsock device. ERR_BUSY: too many streams.
 *   net_release                                       -> struct ctl_net_released. The frames of a VM that was restored with net_held
 *                                                        pass from now on; done already: fine.
 *   stats                                             -> struct ctl_stats
 *   quit                                              -> {"ok":true} when no vCPU can run and taps, disks and locks are free; then exits
 *   event "state"   struct ctl_state                  changed through its own API socket, a reboot, a net lost its tap, or a new connection: the newest
 *                                                     state. Those that did not fit into the socket in between are not sent.
 *   event "exiting" {"reason":"text","code":n}        the guest or the VM API ended it; the process exits next
 *
 * Open service (forkd listens on `open.sock` in its runtime directory; a VM process connects when its API names a host path, or its
 * guest connects to a vsock port of the host):
 *   open_dir struct ctl_open_dir                      -> struct ctl_dir, fds: the directory, if the clone's owner may write there
 *   connect  struct ctl_connect                       -> {"ok":true}, fds: a non-blocking stream socket, connected with the owner's
 *                                                      rights to "<its vsock socket>_<n>"
 */
#ifndef COMMON_CTL_H
#define COMMON_CTL_H

#include "common/field.h"
#include "common/host_needs.h"
#include "common/sock.h"

enum { CTL_PACKET_MAX = 128 * 1024, CTL_PARK_MAX = 64 };
/* The newest version that this build speaks, and the oldest. forkd starts no process that does not speak the newest. */
enum { CTL_VERSION = 3, CTL_VERSION_OLDEST = 0 };

struct ctl_hello {
	uint32_t version, oldest;
};
extern const struct ctl_hello ctl_ours;

/* What a descriptor of struct ctl_restore or struct ctl_boot is for. */
enum ctl_fd_kind {
	CTL_FD_API,           /* listening stream socket of the per-VM API */
	CTL_FD_DISK,          /* a disk's image, opened as the configuration says (read-only, O_DIRECT); with id */
	CTL_FD_DISK_LOCK,     /* the same image opened once more: it holds the image's lock; with id */
	CTL_FD_NET,           /* a queue pair of a tap, in order; with id */
	CTL_FD_SERIAL_LOG,    /* file for the serial port's output; the VM process keeps it short */
	CTL_FD_SERIAL_SOCKET, /* listening stream socket of the serial port */
	CTL_FD_CONSOLE_LOG,   /* the same two of the virtio console */
	CTL_FD_CONSOLE_SOCKET,
	CTL_FD_KERNEL, /* a regular file; with a restore: what the VM boots when its guest resets, else the VM ends then */
	CTL_FD_INITRAMFS, /* likewise, if the configuration has one */
	CTL_FD_VSOCK,     /* listening stream socket of the vsock device */
	CTL_FD_DISK_BASE, /* a file behind a disk's qcow2 image, in order, read-only; with id and format */
};
extern const char *const ctl_fd_kinds[]; /* "api", "disk", "disk_lock", "net", … */

enum ctl_format { CTL_FORMAT_CONFIGURED, CTL_FORMAT_RAW, CTL_FORMAT_QCOW2 };
extern const char *const ctl_formats[]; /* "configured" (of a disk: image_type of its configuration), "raw", "qcow2" */

struct ctl_fd {
	uint8_t kind;   /* enum ctl_fd_kind */
	char *id;       /* the id of the disk or net, or "#0": its place in the list; NULL for the other kinds */
	char *path;     /* of CTL_FD_DISK: the image's path from now on; NULL: as configured */
	uint8_t format; /* of CTL_FD_DISK and CTL_FD_DISK_BASE: enum ctl_format */
};

enum ctl_memory_mode { CTL_COPY, CTL_ONDEMAND, CTL_COPYONWRITE };
extern const char *const ctl_memory_modes[]; /* "copy", "ondemand", "copyonwrite" */
enum ctl_clock { CTL_CLOCK_ADVANCE, CTL_CLOCK_CONTINUE };
extern const char *const ctl_clocks[]; /* "advance", "continue" */

struct ctl_load {
	uint32_t park; /* how many clones the host keeps ready, up to CTL_PARK_MAX */
};

struct ctl_fork {
	char *id; /* the clone's id; names the process in logs */
	uint8_t memory_restore_mode;
};

struct ctl_exited {
	uint32_t pid;
	int32_t status; /* as waitpid() gives it */
};

/* Of `restore`. The packet may also have "overrides", an object of the shape of config.json. */
struct ctl_restore {
	struct ctl_fd *fds; /* one for each descriptor of the packet, in order */
	uint32_t n_fds;
	bool resume;
	bool net_held;      /* all nets drop every frame, both ways, until `net_release` */
	uint8_t clock;      /* enum ctl_clock: for this resume and all later ones */
	char *open_socket;  /* path of forkd's open service; NULL: the API of this VM names no host path */
	char *vsock_socket; /* path of the CTL_FD_VSOCK socket: the guest's own connections go to files beside it */
};

/* Of `boot`. The packet also has "config", a VmConfig, which runs at once. */
struct ctl_boot {
	struct ctl_fd *fds;
	uint32_t n_fds;
	char *open_socket;
};

struct ctl_status {
	char *id;
	uint32_t pid;
	char *state;                      /* "Parked" (nothing restored yet), "Paused", "Running" */
	uint64_t restored_ns, resumed_ns; /* CLOCK_MONOTONIC, 0: not yet */
	uint32_t version, oldest;         /* as in ctl_hello */
	bool net_held;
	uint32_t reboots; /* of the VM, in this process */
};

struct ctl_state {
	char *state;
	uint32_t reboots;
	char **lost_nets; /* ids of those whose taps were deleted */
	uint32_t n_lost_nets;
};

struct ctl_exiting {
	char *reason; /* "guest power-off", … */
	int32_t code; /* exit code to come */
};

/* Of `snapshot`: CTL_FD_DISK, CTL_FD_DISK_LOCK and CTL_FD_DISK_BASE. */
struct ctl_snapshot {
	struct ctl_fd *fds; /* one for each descriptor of the packet but the first, in order */
	uint32_t n_fds;
};

struct ctl_snapshotted {
	uint64_t paused_us; /* how long the guest stood still; 0: it was paused before */
	uint32_t reboots;   /* before the snapshot */
};

struct ctl_net_released {
	uint64_t held_frames; /* dropped since the restore */
};

struct ctl_dial {
	uint32_t port; /* vsock, of the guest */
};

struct ctl_stats {
	char *state;
	uint64_t disk_read_bytes, disk_written_bytes, disk_ops;
	uint64_t net_rx_bytes, net_tx_bytes, net_rx_frames, net_tx_frames, net_held_frames;
};

/* What a clone of this template needs from the host, in the order of config.json. */
struct ctl_net {
	char *id;
	char *tap;        /* name in config.json; NULL: none */
	uint32_t num_fds; /* queue pairs: descriptors to give */
	char *mac;
	char *host_mac; /* the tap's; NULL: not known */
	uint16_t mtu;   /* the tap's; 0: as it is */
};
struct ctl_disk {
	char *id, *path;
	bool readonly, direct, qcow2, backing_files;
	uint64_t bytes; /* as the guest knows it, whole sectors; 0: not known */
};
struct ctl_template {
	uint64_t ram_bytes;
	uint32_t vcpus;
	struct ctl_net *nets;
	uint32_t n_nets;
	struct ctl_disk *disks;
	uint32_t n_disks;
	bool has_serial, has_console, has_vsock; /* the guest has the device */
	char *kernel, *initramfs;                /* paths of what it has booted; initramfs NULL: none */
	char *host_cpu;                          /* the CPU and its rate, in words */
	struct host_needs needs;
};

/* Requests to the open service; `id` is the clone's. */
struct ctl_open_dir {
	char *id, *path;
};
/* Whose the files shall be that are made in the directory; absent or UINT32_MAX: the VM process's. */
struct ctl_dir {
	uint32_t uid, gid;
};
struct ctl_connect {
	char *id;
	uint32_t port;
};

/*
 * Is the path a source of random numbers? A VM process of forkd opens no other file by a name of
 * its configuration.
 */
bool ctl_is_random_source(const char *path);

extern const struct field ctl_hello_fields[], ctl_state_fields[], ctl_load_fields[], ctl_fork_fields[],
	ctl_exited_fields[], ctl_restore_fields[], ctl_boot_fields[], ctl_status_fields[], ctl_exiting_fields[],
	ctl_snapshot_fields[], ctl_snapshotted_fields[], ctl_dial_fields[], ctl_net_released_fields[],
	ctl_stats_fields[], ctl_template_fields[], ctl_open_dir_fields[], ctl_dir_fields[], ctl_connect_fields[];

/*
 * A packet that came in: its JSON and its descriptors. It is zeroed before the first use;
 * ctl_packet_done() closes the descriptors that are left.
 */
struct ctl_packet {
	char *text;
	struct json json; /* root: json.nodes[0], an object */
	int fds[SOCK_FDS_MAX];
	uint32_t n_fds;
};
void ctl_packet_done(struct ctl_packet *p);
#define autoctl __attribute__((cleanup(ctl_packet_done)))

/*
 * Sends one packet; the descriptors stay the caller's. Waits as long as the socket's SO_SNDTIMEO
 * allows.
 */
MUST_CHECK int ctl_send(int fd, const struct strbuf *text, const int *fds, uint32_t n_fds, struct err *err);
/*
 * Receives one packet; waits as long as the socket's SO_RCVTIMEO allows. 1: a packet came; 0: end
 * of file, also when the other side has closed without having read all; -EAGAIN: time is over, without an error message.
 */
MUST_CHECK int ctl_recv(int fd, struct ctl_packet *p, struct err *err);

/*
 * Writes {"op":"OP"} plus the members of the struct (rows NULL: none), and `extra`, which is
 * "key":value text or NULL.
 */
void ctl_request(struct strbuf *out, const char *op, const struct field *rows, const void *obj, const char *extra);
/* Writes {"ok":true} plus the members, or {"error":…} made from *err. */
void ctl_reply(struct strbuf *out, const struct field *rows, const void *obj);
void ctl_reply_error(struct strbuf *out, const struct err *err);
void ctl_event(struct strbuf *out, const char *event, const struct field *rows, const void *obj);
/*
 * Reads a reply: fills *obj, which fields_init() has initialised, or sets *err as it was at the
 * other end.
 */
MUST_CHECK int ctl_parse_reply(const struct ctl_packet *p, const struct field *rows, void *obj, struct err *err);
/*
 * The version by which the two sides go: the other one's are in its hello or in the answer to ours. ERR_CONFLICT: they have none in
 * common. The names of the two are for the message.
 */
MUST_CHECK int ctl_agree(const struct json_node *hello, const char *theirs, const char *ours, struct err *err);

#endif
