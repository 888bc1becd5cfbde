// SPDX-License-Identifier: Apache-2.0
/*
 * What a request wants of its clones. The request is loaded and checked before anything starts, and
 * is then matched with what the template has. No I/O. forkd looks into `overrides` only for objects
 * of the host, and replaces these by descriptors. The VM process gets the whole text of
 * `overrides`, and refuses by name what cannot change.
 */
#ifndef FORKD_CLONE_CLONE_REQUEST_H
#define FORKD_CLONE_CLONE_REQUEST_H

#include "common/ctl.h"
#include "forkd/agent/identity.h"
#include "forkd/net/wish.h"
#include "forkd/registry/record.h"
#include "forkd/template/template_host.h"

enum { CLONES_MAX = 1000 };

struct host_object { /* an entry of overrides.disks or overrides.net */
	char *id, *path, *tap, *host_mac;
};
struct net_fds {
	char *id;
	uint32_t num_fds;
};
enum sink_mode { SINK_DEFAULT, SINK_FILE, SINK_NULL };
struct sink {
	enum sink_mode mode;
	char *file;
};

/* Until when a request waits. WAIT_DEFAULT: ready where the template has an agent, else resumed. */
enum clone_wait { WAIT_RESUMED, WAIT_READY, WAIT_DEFAULT };

struct clone_spec {
	char *overrides; /* as JSON text, without "identity" and "network"; NULL: none */
	struct identity_wish identity;
	struct net_wish network;
	enum clone_wait wait;
	struct host_object *disks, *nets;
	uint32_t n_disks, n_nets;
	struct sink serial, console;
	char *rng_src;      /* a path that the VM process opens; NULL: not overridden */
	char *vsock_socket; /* a path; NULL: vsock.sock in the clone's directory */
	struct net_fds *net_fds;
	uint32_t n_net_fds;
	struct label *labels;
	uint32_t n_labels;
	uint64_t ttl_s;
	bool paused;
	uint8_t memory_restore_mode, clock; /* enum ctl_memory_mode, enum ctl_clock */
	bool has_clock; /* the request says it; else: continue where the template has an agent, which sets the wall clock */
};

struct clone_request {
	unsigned count;           /* clones */
	struct clone_spec *specs; /* one for all clones, or one for each clone */
	unsigned n_specs;
};

/*
 * Loads the body of POST …/clones; `node` NULL: no body came. clone_request_free() frees *ret,
 * which stays unchanged on failure.
 */
MUST_CHECK int clone_request_load(const struct json_node *node, struct clone_request *ret, struct err *err);
void clone_request_free(struct clone_request *rq);
#define autoclonerequest __attribute__((cleanup(clone_request_free)))
const struct clone_spec *clone_request_spec(const struct clone_request *rq, unsigned i);

/* Where a clone's nets and disks come from, in the order of the template. */
struct clone_plan {
	struct net_plan {
		enum { NET_AUTO, NET_TAP, NET_FDS, NET_SLOT } from;
		const char *tap;
		const char *host_mac; /* of the override; NULL: the template's */
		uint32_t first_fd;    /* index into the request's descriptors */
	} * nets;
	struct disk_plan {
		const char *path; /* of the override; NULL: the template's, or the clone's own */
	} * disks;
};

/*
 * Makes a plan for every clone. Refuses unknown ids, a wrong number of descriptors, a disk that the
 * guest writes without a path or an image of its own, and anything used twice. `n_fds` descriptors came with
 * the request. `no_slots`: why there are no networks for clones; NULL where the first net without a tap gets
 * one. *ret becomes an array of rq->count plans for plans_free(). The plans borrow strings of the request.
 */
MUST_CHECK int clone_plans(const struct clone_request *rq, const struct template_host *host, uint32_t n_fds,
			   const char *no_slots, struct clone_plan **ret, struct err *err);
void plans_free(struct clone_plan *plans, unsigned n);

#endif
