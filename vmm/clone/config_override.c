// SPDX-License-Identifier: Apache-2.0
/* One table for each object that can be overridden: the keys that a clone may change. */
#include "vmm/clone/config_override.h"

#include <string.h>

static const struct field net_override[] = {
	F(struct net_config, tap),
	F(struct net_config, host_mac),
	F_END,
};
static const struct field disk_override[] = {
	F(struct disk_config, path),
	F_END,
};
static const struct field rng_override[] = {
	F(struct rng_config, src),
	F_END,
};
static const struct field vsock_override[] = {
	F(struct vsock_config, socket),
	F_END,
};

/* An object of config.json: the keys that may change, and all keys. */
struct section {
	const char *key;
	const struct field *may_change, *all;
};

static const struct section sections[] = {
	{ "net", net_override, net_fields }, { "disks", disk_override, disk_fields },
	{ "rng", rng_override, rng_fields }, { "vsock", vsock_override, vsock_fields },
	{ "serial", NULL, serial_fields }, /* ignored here: forkd has opened what these two name */
	{ "console", NULL, console_fields },
};

static int refuse_key(const char *where, const char *key, bool known, struct err *err)
{
	if (known)
		return err_set(err, ERR_INVALID,
			       "overrides.%s%s%.64s cannot be changed on restore: the guest has read it already", where,
			       where[0] ? "." : "", key);
	return err_set(err, ERR_INVALID, "overrides.%s%s%.64s: unknown field", where, where[0] ? "." : "", key);
}

static int check_keys(const struct section *s, const struct json_node *node, const char *where, struct err *err)
{
	if (node->type != JSON_OBJECT)
		return err_set(err, ERR_INVALID, "overrides.%s: expected an object, found %s", where,
			       json_type_name(node));
	for (json_each(child, node))
		if (strcmp(child->key, "id") != 0 && !fields_find(s->may_change, child->key))
			return refuse_key(where, child->key, fields_find(s->all, child->key) != NULL, err);
	return 0;
}

/* The net or disk of *c with this id; NULL: there is none. */
static void *find_entry(struct vm_config *c, const struct section *s, const char *id)
{
	int n = s->all == net_fields ? LIST_FIND_ID(c->net, c->n_net, id) : LIST_FIND_ID(c->disks, c->n_disks, id);

	if (n < 0)
		return NULL;
	return s->all == net_fields ? (void *)&c->net[n] : (void *)&c->disks[n];
}

static int apply_entry(struct vm_config *c, const struct section *s, const struct json_node *node, unsigned i,
		       struct err *err)
{
	const struct json_node *id = json_get(node, "id");
	char where[64];

	snprintf(where, sizeof(where), "%s[%u]", s->key, i);
	if (check_keys(s, node, where, err) < 0)
		return err->num;
	if (!id || id->type != JSON_STRING)
		return err_set(err, ERR_INVALID, "overrides.%s.id: missing", where);
	void *entry = find_entry(c, s, id->str);
	if (!entry)
		return err_set(err, ERR_INVALID, "overrides.%s.id: the template has no %s '%.64s'", where,
			       s->all == net_fields ? "net" : "disk", id->str);
	return fields_load(s->may_change, entry, node, where, err);
}

static int apply_list(struct vm_config *c, const struct section *s, const struct json_node *node, struct err *err)
{
	unsigned n = 0;

	if (node->type != JSON_ARRAY)
		return err_set(err, ERR_INVALID, "overrides.%s: expected an array, found %s", s->key,
			       json_type_name(node));
	for (json_each(child, node))
		if (apply_entry(c, s, child, n++, err) < 0)
			return err->num;
	return 0;
}

static int apply_rng(struct vm_config *c, const struct section *s, const struct json_node *node, struct err *err)
{
	if (check_keys(s, node, s->key, err) < 0)
		return err->num;
	return fields_load(s->may_change, &c->rng, node, "overrides.rng", err);
}

static int apply_vsock(struct vm_config *c, const struct section *s, const struct json_node *node, struct err *err)
{
	if (!c->vsock)
		return err_set(err, ERR_INVALID, "overrides.vsock: the template has no vsock device");
	if (check_keys(s, node, s->key, err) < 0)
		return err->num;
	return fields_load(s->may_change, c->vsock, node, "overrides.vsock", err);
}

static int apply(struct vm_config *c, const struct section *s, const struct json_node *node, struct err *err)
{
	if (!s->may_change)
		return 0;
	if (s->all == vsock_fields)
		return apply_vsock(c, s, node, err);
	return s->all == rng_fields ? apply_rng(c, s, node, err) : apply_list(c, s, node, err);
}

int vm_config_override(struct vm_config *config, const struct json_node *overrides, struct err *err)
{
	if (overrides->type != JSON_OBJECT)
		return err_set(err, ERR_INVALID, "overrides: expected an object, found %s", json_type_name(overrides));
	for (json_each(child, overrides)) {
		const struct section *s = sections, *end = sections + ARRAY_LEN(sections);
		while (s < end && strcmp(s->key, child->key) != 0)
			s++;
		if (s == end)
			return refuse_key("", child->key, fields_find(vm_config_fields, child->key) != NULL, err);
		if (apply(config, s, child, err) < 0)
			return err->num;
	}
	return 0;
}
