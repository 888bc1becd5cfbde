// SPDX-License-Identifier: Apache-2.0
/* Loads and checks the body of a request. */
#include "forkd/clone/clone_request.h"

#include <errno.h>
#include <string.h>

#include "forkd/body.h"
#include "forkd/errors.h"

/* ---- loading ---- */

static const char *const wait_names[] = { "resumed", "ready", NULL };

struct scalars {
	struct net_fds *net_fds;
	uint32_t n_net_fds;
	uint64_t ttl_s;
	uint8_t wait, memory_restore_mode, clock;
	bool paused;
	uint32_t count;
};

static const struct field net_fds_fields[] = {
	F(struct net_fds, id, .flags = F_REQUIRED),
	F(struct net_fds, num_fds, .flags = F_REQUIRED, .min = 1, .max = SOCK_FDS_MAX),
	F_END,
};

#define SPEC_FIELDS                                                                                                \
	F_OBJ_LIST(struct scalars, net_fds, net_fds_fields), F(struct scalars, ttl_s, .max = 10ULL * 365 * 86400), \
		F(struct scalars, paused), F_ENUM(struct scalars, wait, wait_names),                               \
		F_ENUM(struct scalars, memory_restore_mode, ctl_memory_modes, .def = CTL_COPYONWRITE),             \
		F_ENUM(struct scalars, clock, ctl_clocks)
static const struct field spec_fields[] = { SPEC_FIELDS, F_END };
static const struct field request_fields[] = {
	SPEC_FIELDS,
	F(struct scalars, count, .def = 1, .min = 1, .max = CLONES_MAX),
	F_END,
};
static const char *const by_hand[] = { "overrides", "labels", NULL };

/* Entries of both kinds, disks and nets, are freed alike: any entry may have any of these members. */
static void objects_free(struct host_object *objects, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		free(objects[i].id);
		free(objects[i].path);
		free(objects[i].tap);
		free(objects[i].host_mac);
	}
	free(objects);
}

static void spec_done(struct clone_spec *s)
{
	free(s->overrides);
	identity_wish_done(&s->identity);
	net_wish_done(&s->network);
	objects_free(s->disks, s->n_disks);
	objects_free(s->nets, s->n_nets);
	for (uint32_t i = 0; i < s->n_net_fds; i++)
		free(s->net_fds[i].id);
	free(s->net_fds);
	free(s->rng_src);
	free(s->vsock_socket);
	free(s->serial.file);
	free(s->console.file);
	labels_free(s->labels, s->n_labels);
}

void clone_request_free(struct clone_request *rq)
{
	for (unsigned i = 0; i < rq->n_specs; i++)
		spec_done(&rq->specs[i]);
	free(rq->specs);
	*rq = (struct clone_request){};
}

const struct clone_spec *clone_request_spec(const struct clone_request *rq, unsigned i)
{
	return &rq->specs[rq->n_specs == 1 ? 0 : i];
}

static int copy_string(const struct json_node *node, const char *what, char **ret, struct err *err)
{
	if (!node || node->type == JSON_NULL)
		return 0;
	if (node->type != JSON_STRING)
		return fail(err, E_BAD_OVERRIDE, "%s: expected a string, found %s", what, json_type_name(node));
	*ret = strdup(node->str);
	return *ret ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "load '%s'", what);
}

/* Loads overrides.disks or overrides.net. */
static int load_objects(const struct json_node *list, const char *key, struct host_object **ret, uint32_t *ret_n,
			struct err *err)
{
	char what[64];

	if (!list || list->type == JSON_NULL)
		return 0;
	if (list->type != JSON_ARRAY)
		return fail(err, E_BAD_OVERRIDE, "overrides.%s: expected an array of objects, found %s", key,
			    json_type_name(list));
	*ret = calloc(list->count + 1UL, sizeof(**ret));
	if (!*ret)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load overrides");
	for (json_each(entry, list)) {
		struct host_object *o = &(*ret)[*ret_n];
		snprintf(what, sizeof(what), "overrides.%s[%u]", key, (*ret_n)++);
		if (entry->type != JSON_OBJECT)
			return fail(err, E_BAD_OVERRIDE, "%s: expected an object, found %s", what,
				    json_type_name(entry));
		if (copy_string(json_get(entry, "id"), what, &o->id, err) < 0 ||
		    copy_string(json_get(entry, "path"), what, &o->path, err) < 0 ||
		    copy_string(json_get(entry, "tap"), what, &o->tap, err) < 0 ||
		    copy_string(json_get(entry, "host_mac"), what, &o->host_mac, err) < 0)
			return err->num;
		if (!o->id)
			return fail(err, E_BAD_OVERRIDE, "%s: 'id' is missing: entries are matched by it", what);
	}
	return 0;
}

static int load_sink(const struct json_node *node, const char *key, struct sink *sink, struct err *err)
{
	const struct json_node *mode = json_get(node, "mode");

	if (!node || node->type == JSON_NULL)
		return 0;
	if (node->type != JSON_OBJECT)
		return fail(err, E_BAD_OVERRIDE, "overrides.%s: expected an object, found %s", key,
			    json_type_name(node));
	if (!mode || mode->type != JSON_STRING)
		return fail(err, E_BAD_OVERRIDE, "overrides.%s.mode is missing or no string", key);
	for (json_each(child, node))
		if (strcmp(child->key, "mode") != 0 && strcmp(child->key, "file") != 0)
			return fail(err, E_BAD_OVERRIDE, "overrides.%s.%.64s cannot be changed: only mode and file can",
				    key, child->key);
	if (strcmp(mode->str, "Null") == 0) {
		sink->mode = SINK_NULL;
		return 0;
	}
	if (strcmp(mode->str, "File") != 0)
		return fail(
			err, E_BAD_OVERRIDE,
			"overrides.%s.mode '%.40s': a clone here can have \"File\" or \"Null\"; without an override "
			"it has a log and a socket",
			key, mode->str);
	sink->mode = SINK_FILE;
	if (copy_string(json_get(node, "file"), key, &sink->file, err) < 0)
		return err->num;
	return sink->file ? 0 : fail(err, E_BAD_OVERRIDE, "overrides.%s.file is missing for mode \"File\"", key);
}

static int load_overrides(const struct json_node *node, struct clone_spec *s, struct err *err)
{
	autostrbuf struct strbuf text = {};

	if (!node || node->type == JSON_NULL)
		return 0;
	if (node->type != JSON_OBJECT)
		return fail(err, E_BAD_OVERRIDE, "overrides: expected an object, found %s", json_type_name(node));
	if (load_objects(json_get(node, "disks"), "disks", &s->disks, &s->n_disks, err) < 0 ||
	    load_objects(json_get(node, "net"), "net", &s->nets, &s->n_nets, err) < 0 ||
	    load_sink(json_get(node, "serial"), "serial", &s->serial, err) < 0 ||
	    load_sink(json_get(node, "console"), "console", &s->console, err) < 0 ||
	    copy_string(json_get(json_get(node, "rng"), "src"), "overrides.rng.src", &s->rng_src, err) < 0 ||
	    copy_string(json_get(json_get(node, "vsock"), "socket"), "overrides.vsock.socket", &s->vsock_socket, err) <
		    0 ||
	    identity_wish_load(json_get(node, "identity"), &s->identity, err) < 0 ||
	    net_wish_load(json_get(node, "network"), &s->network, err) < 0)
		return err->num;
	json_text_without(node, (const char *const[]){ "identity", "network", NULL }, &text);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load overrides");
	if (text.len > CTL_PACKET_MAX / 2)
		return fail(err, E_BAD_OVERRIDE, "overrides: %zu bytes of JSON are more than %d", text.len,
			    CTL_PACKET_MAX / 2);
	s->overrides = steal_ptr(&text.text);
	return 0;
}

static int load_spec(const struct field *rows, const char *const *others, const struct json_node *node,
		     const char *what, struct clone_spec *s, uint32_t *ret_count, struct err *err)
{
	struct scalars v;
	const struct json_node *labels = json_get(node, "labels");

	fields_init(rows, &v);
	if (body_load(rows, others, &v, node, what, err) < 0)
		return err->num;
	*s = (struct clone_spec){
		.net_fds = v.net_fds,
		.n_net_fds = v.n_net_fds,
		.ttl_s = v.ttl_s,
		.paused = v.paused,
		.memory_restore_mode = v.memory_restore_mode,
		.clock = v.clock,
		.has_clock = json_get(node, "clock"),
		.wait = json_get(node, "wait") ? v.wait : WAIT_DEFAULT,
	};
	if (ret_count)
		*ret_count = v.count;
	if (labels && labels->type != JSON_NULL && labels_load(labels, "labels", &s->labels, &s->n_labels, err) < 0)
		return err->num;
	return load_overrides(json_get(node, "overrides"), s, err);
}

static int load_list(const struct json_node *list, struct clone_request *rq, struct err *err)
{
	char what[32];

	if (list->type != JSON_ARRAY || list->count < 1 || list->count > CLONES_MAX)
		return fail(err, E_INVALID, "clones: expected an array of 1 to %d objects", CLONES_MAX);
	rq->specs = calloc(list->count, sizeof(*rq->specs));
	if (!rq->specs)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load the request");
	for (json_each(entry, list)) {
		snprintf(what, sizeof(what), "clones[%u]", rq->n_specs);
		if (load_spec(spec_fields, by_hand, entry, what, &rq->specs[rq->n_specs++], NULL, err) < 0)
			return err->num;
	}
	rq->count = rq->n_specs;
	return 0;
}

static int load_request(const struct json_node *node, struct clone_request *rq, struct err *err)
{
	const struct json_node *list = json_get(node, "clones");

	if (list && node->count > 1)
		return fail(err, E_INVALID, "'clones' stands alone: everything else goes into its entries");
	if (list)
		return load_list(list, rq, err);
	rq->specs = calloc(1, sizeof(*rq->specs));
	if (!rq->specs)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load the request");
	rq->n_specs = 1;
	rq->count = 1;
	return node ? load_spec(request_fields, by_hand, node, "body", &rq->specs[0], &rq->count, err) : 0;
}

int clone_request_load(const struct json_node *node, struct clone_request *ret, struct err *err)
{
	autoclonerequest struct clone_request rq = {};

	if (node && node->type != JSON_OBJECT)
		return fail(err, E_INVALID, "body: expected an object, found %s", json_type_name(node));
	if (load_request(node, &rq, err) < 0)
		return err->num;
	if (!node) {
		rq.specs[0].memory_restore_mode = CTL_COPYONWRITE;
		rq.specs[0].wait = WAIT_DEFAULT;
	}
	*ret = rq;
	rq = (struct clone_request){};
	return 0;
}
