// SPDX-License-Identifier: Apache-2.0
/*
 * The endpoints, one row each, and what all endpoints share: the checks before a handler runs, and the
 * JSON array of messages when something fails. Statuses, texts and oddities are Cloud Hypervisor's.
 */
#include "vmm/api/api.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "common/sock.h"
#include "common/version.h"
#include "vmm/api/http.h"

#define API_ROOT "/api/v1/"

struct api_server {
	struct vmm *vmm;
	struct sock_listener listener;
	struct http_server *http;
};

struct snapshot_request {
	char *destination_url;
};

struct resize_disk_request {
	char *id;
	uint64_t desired_size;
};

struct remove_request {
	char *id;
};

/* The body of a request, after its checks. */
union api_body {
	struct vm_config config;
	struct restore_config restore;
	struct snapshot_request snapshot;
	struct vm_resize resize;
	struct resize_disk_request resize_disk;
	struct disk_config disk;
	struct net_config net;
	struct vsock_config vsock;
	struct remove_request remove;
};

struct call {
	struct vmm *vmm;
	struct http_request *request;
	struct http_response *response; /* begins as 204 without a body */
	union api_body body;
};

enum body_rule { BODY_IGNORED, BODY_NONE, BODY_JSON };

struct endpoint {
	const char *method, *name;
	const char *failed;       /* the second message of an error */
	const struct field *body; /* with BODY_JSON: the fields of the body, and the body's name in messages */
	const char *body_name;
	enum body_rule rule;
	bool explains_method; /* DELETE and PATCH are answered with "Bad Request", not with an empty 400 */
	bool no_body_silent;  /* a request without a body is answered with an empty 400 */
	int (*run)(struct call *call, struct err *err); /* NULL: this program lacks the endpoint */
};

static const struct field snapshot_fields[] = {
	F(struct snapshot_request, destination_url, .flags = F_REQUIRED),
	F_END,
};

static const struct field resize_fields[] = {
	F_OPT(struct vm_resize, desired_vcpus),
	F_OPT(struct vm_resize, desired_ram),
	F_OPT(struct vm_resize, desired_balloon),
	F_END,
};

static const struct field resize_disk_fields[] = {
	F(struct resize_disk_request, id, .flags = F_REQUIRED),
	F(struct resize_disk_request, desired_size, .flags = F_REQUIRED),
	F_END,
};

static const struct field remove_fields[] = {
	F(struct remove_request, id, .flags = F_REQUIRED),
	F_END,
};

static const struct field any_fields[] = { F_END };

/* ---- handlers ---- */

static int run_ping(struct call *c, struct err *err)
{
	(void)err;
	strbuf_printf(&c->response->body,
		      "{\"build_version\":\"forkd-vmm " FORKD_VERSION "\",\"version\":\"" FORKD_VERSION
		      "\",\"pid\":%d,\"features\":[\"kvm\",\"io_uring\"]}",
		      getpid());
	c->response->status = 200;
	return 0;
}

static int run_stop(struct call *c, struct err *err)
{
	(void)err;
	c->response->status = 200;
	c->response->stops_loop = true;
	return 0;
}

/* Numbers of descriptors in a request are the client's and mean nothing in this process. */
static void drop_fd_numbers(struct net_config *net, const char *request)
{
	if (net->fds)
		log_warn("api: %s: the numbers in 'fds' of a net are ignored", request);
	free(steal_ptr(&net->fds));
	net->n_fds = 0;
}

static int run_create(struct call *c, struct err *err)
{
	struct vm_config *config = &c->body.config;

	for (uint32_t i = 0; i < config->n_net; i++)
		drop_fd_numbers(&config->net[i], "vm.create");
	return vmm_create(c->vmm, config, err);
}

static int run_boot(struct call *c, struct err *err)
{
	return vmm_boot(c->vmm, err);
}

static int run_info(struct call *c, struct err *err)
{
	c->response->status = 200;
	return vmm_info(c->vmm, &c->response->body, err);
}

static int run_counters(struct call *c, struct err *err)
{
	c->response->status = 200;
	return vmm_counters_json(c->vmm, &c->response->body, err);
}

static int run_power_button(struct call *c, struct err *err)
{
	return vmm_power_button(c->vmm, err);
}

static int run_nmi(struct call *c, struct err *err)
{
	return vmm_nmi(c->vmm, err);
}

static int run_resize(struct call *c, struct err *err)
{
	return vmm_resize(c->vmm, &c->body.resize, err);
}

static int run_resize_disk(struct call *c, struct err *err)
{
	const struct resize_disk_request *rq = &c->body.resize_disk;

	return vmm_resize_disk(c->vmm, rq->id, rq->desired_size, err);
}

/* When there is a machine, the answer is 200 with the device's id and PCI address. */
static int added(struct call *c, int r)
{
	if (r == 0 && c->response->body.len > 0)
		c->response->status = 200;
	return r;
}

static int run_add_disk(struct call *c, struct err *err)
{
	return added(c, vmm_add_disk(c->vmm, &c->body.disk, &c->response->body, err));
}

/* The net gets the descriptors that came with the request. */
static int take_net_fds(struct net_config *net, struct http_request *request, struct err *err)
{
	drop_fd_numbers(net, "vm.add-net");
	if (request->n_fds == 0)
		return 0;
	net->fds = calloc(request->n_fds, sizeof(*net->fds));
	if (!net->fds)
		return err_num(err, ERR_INTERNAL, ENOMEM, "take %u descriptors", request->n_fds);
	while (net->n_fds < request->n_fds) {
		net->fds[net->n_fds] = steal_fd(&request->fds[net->n_fds]);
		net->n_fds++;
	}
	return 0;
}

static int run_add_net(struct call *c, struct err *err)
{
	struct net_config *net = &c->body.net;

	if (take_net_fds(net, c->request, err) < 0)
		return err->num;
	int r = vmm_add_net(c->vmm, net, &c->response->body, err);
	for (uint32_t i = 0; i < net->n_fds; i++) /* descriptors that were not taken over */
		if (net->fds[i] >= 0)
			close(net->fds[i]);
	return added(c, r);
}

static int run_add_vsock(struct call *c, struct err *err)
{
	return added(c, vmm_add_vsock(c->vmm, &c->body.vsock, &c->response->body, err));
}

static int run_remove_device(struct call *c, struct err *err)
{
	return vmm_remove_device(c->vmm, c->body.remove.id, err);
}

static int run_pause(struct call *c, struct err *err)
{
	return vmm_pause(c->vmm, err);
}

static int run_resume(struct call *c, struct err *err)
{
	return vmm_resume(c->vmm, err);
}

static int run_snapshot(struct call *c, struct err *err)
{
	return vmm_snapshot(c->vmm, c->body.snapshot.destination_url, err);
}

static int run_shutdown(struct call *c, struct err *err)
{
	return vmm_shutdown(c->vmm, err);
}

static int run_delete(struct call *c, struct err *err)
{
	return vmm_delete(c->vmm, err);
}

static int run_reboot(struct call *c, struct err *err)
{
	return vmm_reboot(c->vmm, err);
}

/* Deals the descriptors of the request out to the nets, in order. *rc owns what was dealt. */
static int deal_fds(struct restore_config *rc, struct http_request *request, struct err *err)
{
	int *next = request->fds;

	for (uint32_t i = 0; i < rc->n_net_fds; i++) {
		struct restored_net *net = &rc->net_fds[i];
		if (net->num_fds == 0)
			continue;
		int *fds = calloc(net->num_fds, sizeof(*fds));
		if (!fds)
			return err_num(err, ERR_INTERNAL, ENOMEM, "take %u descriptors for '%s'", net->num_fds,
				       net->id);
		net->fds = fds;
		for (; net->n_fds < net->num_fds; net->n_fds++)
			net->fds[net->n_fds] = steal_fd(next++);
	}
	return 0;
}

static void close_dealt(struct restore_config *rc)
{
	for (uint32_t i = 0; i < rc->n_net_fds; i++)
		for (uint32_t k = 0; k < rc->net_fds[i].n_fds; k++)
			close(rc->net_fds[i].fds[k]);
}

static int run_restore(struct call *c, struct err *err)
{
	struct restore_config *rc = &c->body.restore;
	uint64_t expected = 0;

	for (uint32_t i = 0; i < rc->n_net_fds; i++)
		expected += rc->net_fds[i].num_fds;
	if (expected != c->request->n_fds) {
		log_error("api: Expected %llu FDs in VmRestore request, received %u", (unsigned long long)expected,
			  c->request->n_fds);
		strbuf_puts(&c->response->body, "[\"Bad Request\"]");
		c->response->status = 400;
		return 0;
	}
	if (deal_fds(rc, c->request, err) < 0) {
		close_dealt(rc);
		return err->num;
	}
	return vmm_restore(c->vmm, rc, err);
}

/* ---- the table ---- */

#define GET(name_, failed_, ...)                                                     \
	{                                                                            \
		.method = "GET", .name = (name_), .failed = (failed_), ##__VA_ARGS__ \
	}
#define PUT(name_, failed_, ...)                                                                        \
	{                                                                                               \
		.method = "PUT", .name = (name_), .failed = (failed_), .rule = BODY_NONE, ##__VA_ARGS__ \
	}
#define PUT_JSON(name_, failed_, rows, type, ...)                                                         \
	{                                                                                                 \
		.method = "PUT", .name = (name_), .failed = (failed_), .rule = BODY_JSON, .body = (rows), \
		.body_name = (type), ##__VA_ARGS__                                                        \
	}

static const struct endpoint endpoints[] = {
	GET("vmm.ping", "The VMM does not answer", .run = run_ping, .explains_method = true),
	{ .method = "PUT",
	  .name = "vmm.shutdown",
	  .failed = "The VMM could not shutdown",
	  .rule = BODY_IGNORED,
	  .run = run_stop,
	  .explains_method = true },
	PUT_JSON("vm.create", "The VM could not be created", vm_config_fields, "VmConfig", .run = run_create,
		 .explains_method = true, .no_body_silent = true),
	PUT("vm.boot", "The VM could not boot", .run = run_boot),
	GET("vm.info", "The VM info is not available", .run = run_info, .explains_method = true),
	PUT("vm.pause", "The VM could not be paused", .run = run_pause),
	PUT("vm.resume", "The VM could not resume", .run = run_resume),
	PUT_JSON("vm.snapshot", "The VM could not be snapshotted", snapshot_fields, "VmSnapshotConfig",
		 .run = run_snapshot),
	PUT_JSON("vm.restore", "The VM could not be restored", restore_config_fields, "RestoreConfig",
		 .run = run_restore),
	PUT("vm.shutdown", "The VM could not shutdown", .run = run_shutdown),
	PUT("vm.delete", "The VM could not be deleted", .run = run_delete),
	PUT("vm.reboot", "The VM could not reboot", .run = run_reboot),
	GET("vm.counters", "The VM info is not available", .run = run_counters),
	PUT("vm.power-button", "Error triggering power button", .run = run_power_button),
	PUT("vm.nmi", "Error triggering NMI", .run = run_nmi),
	PUT_JSON("vm.resize", "The VM could not be resized", resize_fields, "VmResizeData", .run = run_resize),
	PUT_JSON("vm.resize-disk", "The disk could not be resized", resize_disk_fields, "VmResizeDiskData",
		 .run = run_resize_disk),
	PUT_JSON("vm.add-disk", "The disk could not be added to the VM", disk_fields, "DiskConfig",
		 .run = run_add_disk),
	PUT_JSON("vm.add-net", "The network device could not be added to the VM", net_fields, "NetConfig",
		 .run = run_add_net),
	PUT_JSON("vm.add-vsock", "The vsock device could not be added to the VM", vsock_fields, "VsockConfig",
		 .run = run_add_vsock),
	PUT_JSON("vm.remove-device", "The device could not be removed from the VM", remove_fields, "VmRemoveDeviceData",
		 .run = run_remove_device),
	/* What Cloud Hypervisor has and this program has not. */
	PUT_JSON("vm.add-device", "The device could not be added to the VM", any_fields, "DeviceConfig"),
	PUT_JSON("vm.add-fs", "The fs could not be added to the VM", any_fields, "FsConfig"),
	PUT_JSON("vm.add-generic-vhost-user", "The generic vhost-user device could not be added to the VM", any_fields,
		 "GenericVhostUserConfig"),
	PUT_JSON("vm.add-pmem", "The pmem device could not be added to the VM", any_fields, "PmemConfig"),
	PUT_JSON("vm.add-user-device", "The user device could not be added to the VM", any_fields, "UserDeviceConfig"),
	PUT_JSON("vm.add-vdpa", "The vDPA device could not be added to the VM", any_fields, "VdpaConfig"),
	PUT_JSON("vm.resize-zone", "The memory zone could not be resized", any_fields, "VmResizeZoneData"),
	PUT_JSON("vm.send-migration", "Error starting migration sender", any_fields, "VmSendMigrationData"),
	PUT_JSON("vm.receive-migration", "Error starting migration receiver", any_fields, "VmReceiveMigrationData"),
};

/* ---- answers ---- */

/* Answers with a JSON array: `first`, `second` (NULL: none), the links of the error (NULL: none). */
static void say(struct http_response *response, int status, const char *first, const char *second,
		const struct err *err)
{
	struct strbuf *out = &response->body;
	const char *link = err ? err->msg : "";

	strbuf_done(out);
	response->status = status;
	strbuf_putc(out, '[');
	strbuf_json(out, first, strlen(first));
	if (second) {
		strbuf_putc(out, ',');
		strbuf_json(out, second, strlen(second));
	}
	while (*link) {
		size_t len = strcspn(link, "\n");
		strbuf_putc(out, ',');
		strbuf_json(out, link, len);
		link += len + (link[len] == '\n');
	}
	strbuf_putc(out, ']');
}

static int status_of(enum err_code code)
{
	switch (code) {
	case ERR_INVALID:
		return 400;
	case ERR_NOT_FOUND:
		return 404;
	case ERR_CONFLICT:
		return 409;
	case ERR_BUSY:
		return 429;
	default:
		return 500;
	}
}

static void say_failed(struct http_response *response, const struct endpoint *ep, const struct err *err)
{
	char line[ERR_MSG_BYTES];

	log_error("api: %s: %s: %s", ep->name, ep->failed, err_line(err, line, sizeof(line)));
	if (err->code == ERR_BUSY)
		say(response, 429, "Too Many Requests", NULL, NULL);
	else
		say(response, status_of(err->code), "Error from API", ep->failed, err);
}

/* ---- one request ---- */

/* Checks the method, and whether there is a body. False: *response has the answer. */
static bool check_request(const struct endpoint *ep, const struct http_request *rq, struct http_response *response)
{
	bool right_method = strcmp(rq->method, ep->method) == 0;
	bool get_or_put = strcmp(rq->method, "GET") == 0 || strcmp(rq->method, "PUT") == 0;
	bool no_body = rq->body_len == 0;

	if (right_method && (ep->rule == BODY_IGNORED || (ep->rule == BODY_JSON) != no_body))
		return true;
	if (right_method ? no_body && ep->no_body_silent : !get_or_put && !ep->explains_method)
		response->status = 400;
	else
		say(response, 400, "Bad Request", NULL, NULL);
	return false;
}

static int load_body(const struct endpoint *ep, const struct http_request *rq, union api_body *body, struct err *err)
{
	autojson struct json json = {};

	if (json_parse(&json, rq->body, rq->body_len, err) < 0)
		return err->num;
	return fields_load(ep->body, body, json.nodes, ep->body_name, err);
}

static void run_endpoint(struct vmm *vmm, const struct endpoint *ep, struct http_request *rq,
			 struct http_response *response)
{
	struct call call = { .vmm = vmm, .request = rq, .response = response };
	struct err err = {};

	if (ep->rule == BODY_JSON) {
		fields_init(ep->body, &call.body);
		if (load_body(ep, rq, &call.body, &err) < 0) {
			say(response, status_of(err.code), "Failed to deserialize JSON", NULL, &err);
			fields_free(ep->body, &call.body);
			return;
		}
	}
	response->status = 204;
	int r = ep->run ? ep->run(&call, &err)
			: err_set(&err, ERR_INTERNAL, "%s is not supported by this program", ep->name);
	if (r < 0)
		say_failed(response, ep, &err);
	if (ep->rule == BODY_JSON)
		fields_free(ep->body, &call.body);
}

static void handle(void *owner, struct http_request *rq, struct http_response *response)
{
	struct api_server *api = owner;
	const size_t root_len = strlen(API_ROOT);
	const struct endpoint *ep = endpoints, *end = endpoints + ARRAY_LEN(endpoints);

	while (ep < end && (strncmp(rq->path, API_ROOT, root_len) != 0 || strcmp(rq->path + root_len, ep->name) != 0))
		ep++;
	if (ep == end)
		say(response, 404, "Not Found", NULL, NULL);
	else if (check_request(ep, rq, response))
		run_endpoint(api->vmm, ep, rq, response);
	log_debug("api: %s %s: %d", rq->method, rq->path, response->status);
}

static int api_listen(struct api_server *api, const char *path, int listen_fd, struct err *err)
{
	if (!path)
		return sock_listen_fd(listen_fd, &api->listener, err);
	int r = sock_listen(path, &api->listener, err);
	if (r < 0 && err->code == ERR_BUSY)
		return err_set(err, ERR_BUSY, "API socket \"%s\" is already in use by another running instance", path);
	return r < 0 ? err_wrap(err, "Error creation API server's socket") : 0;
}

struct api_server *api_server_new(struct loop *loop, struct vmm *vmm, const char *path, int listen_fd, struct err *err)
{
	struct api_server *api = calloc(1, sizeof(*api));

	if (!api) {
		if (!path)
			close(listen_fd);
		err_num(err, ERR_INTERNAL, ENOMEM, "start the API server");
		return NULL;
	}
	api->vmm = vmm;
	if (api_listen(api, path, listen_fd, err) < 0) {
		free(api);
		return NULL;
	}
	api->http = http_server_new(loop, api->listener.fd, handle, api, err);
	if (!api->http) {
		api_server_free(api);
		return NULL;
	}
	return api;
}

void api_server_free(struct api_server *api)
{
	if (!api)
		return;
	http_server_free(api->http);
	sock_listener_done(&api->listener);
	free(api);
}
