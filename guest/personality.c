// SPDX-License-Identifier: Apache-2.0
/* The members of the request, and the check of each. */
#include "guest/personality.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "common/base64.h"
#include "common/field.h"
#include "guest/host_ids.h"

static const char *const ssh_keys_names[] = { "new", "keep", NULL };

static const struct field net_fields[] = {
	F(struct personality_net, mac, .flags = F_REQUIRED),
	F(struct personality_net, ifname),
	F(struct personality_net, new_mac),
	F_LIST(struct personality_net, addresses, .count = LINK_ADDRESSES_MAX),
	F(struct personality_net, gateway),
	F_LIST(struct personality_net, dns, .count = PERSONALITY_DNS_MAX),
	F_END,
};

static const struct field file_fields[] = {
	F(struct personality_file, path, .flags = F_REQUIRED),
	F(struct personality_file, mode, .def = 0600, .max = 07777),
	F(struct personality_file, owner),
	F(struct personality_file, content, .flags = F_REQUIRED),
	F_END,
};

#define PERSONALITY_ROWS                                                                                            \
	F(struct personality, nonce, .flags = F_REQUIRED), F(struct personality, generation, .flags = F_REQUIRED),  \
		F(struct personality, entropy, .flags = F_REQUIRED),                                                \
		F(struct personality, wall_ns, .flags = F_REQUIRED, .min = 1, .max = INT64_MAX),                    \
		F(struct personality, hostname), F(struct personality, machine_id), F(struct personality, boot_id), \
		F(struct personality, default_user), F_ENUM(struct personality, ssh_host_keys, ssh_keys_names),     \
		F_OBJ_LIST(struct personality, net, net_fields, .count = PERSONALITY_NETS_MAX),                     \
		F_OBJ_LIST(struct personality, files, file_fields, .count = PERSONALITY_FILES_MAX),                 \
		F(struct personality, thaw, .def = true)
static const struct field personality_fields[] = { PERSONALITY_ROWS, F_END };
/* `env` has names that no table knows. */
static const struct field known_fields[] = { PERSONALITY_ROWS, { .name = "env" }, F_END };

/* Decodes in place; NULL is -EINVAL. The text behind the bytes is wiped. */
static ssize_t decode(char *text)
{
	size_t len = strlen(text);
	ssize_t n = base64_decode(text, text, len);

	explicit_bzero(text + (n > 0 ? n : 0), len - (size_t)(n > 0 ? n : 0));
	return n;
}

static int check_ids(struct personality *p, struct err *err)
{
	uint8_t ignored[GENERATION_ID_BYTES];

	if (strlen(p->nonce) != PERSONALITY_NONCE || strspn(p->nonce, "0123456789abcdef") != PERSONALITY_NONCE)
		return err_set(err, ERR_INVALID, "nonce: expected %d hexadecimal digits", PERSONALITY_NONCE);
	if (!uuid_parse(p->generation, p->id))
		return err_set(err, ERR_INVALID, "generation: '%.40s' is no UUID", p->generation);
	if (p->hostname && !hostname_is_good(p->hostname))
		return err_set(err, ERR_INVALID, "hostname: '%.80s' is none", p->hostname);
	if (p->machine_id && !machine_id_is_good(p->machine_id))
		return err_set(err, ERR_INVALID, "machine_id: '%.40s' is none", p->machine_id);
	if (p->boot_id && !uuid_parse(p->boot_id, ignored))
		return err_set(err, ERR_INVALID, "boot_id: '%.40s' is no UUID", p->boot_id);
	ssize_t n = decode(p->entropy);
	if (n < PERSONALITY_ENTROPY_MIN || n > PERSONALITY_ENTROPY_MAX)
		return err_set(err, ERR_INVALID, "entropy: expected %d to %d bytes in base64", PERSONALITY_ENTROPY_MIN,
			       PERSONALITY_ENTROPY_MAX);
	p->n_entropy = (uint32_t)n;
	return 0;
}

/* An absolute path without a part "..", which names something below a directory. */
static bool path_is_good(const char *path)
{
	if (path[0] != '/' || path[strlen(path) - 1] == '/' || strlen(path) > PATH_MAX - 16)
		return false;
	for (const char *at = path; (at = strstr(at, "/..")); at += 3)
		if (at[3] == '/' || at[3] == '\0')
			return false;
	return true;
}

static int check_file(struct personality_file *f, unsigned i, struct err *err)
{
	if (!path_is_good(f->path))
		return err_set(err, ERR_INVALID, "files[%u].path: expected an absolute path of a file, without '..'",
			       i);
	ssize_t n = decode(f->content);
	if (n < 0)
		return err_set(err, ERR_INVALID, "files[%u].content: expected base64", i);
	f->n_content = (uint32_t)n;
	return 0;
}

static int check_net(struct personality_net *net, unsigned i, struct err *err)
{
	struct link_change *c = &net->change;
	struct link_address dns;

	*c = (struct link_change){ .ifname = net->ifname, .has_new_mac = net->new_mac, .has_gateway = net->gateway };
	if (!mac_parse(net->mac, c->mac))
		return err_set(err, ERR_INVALID, "net[%u].mac: '%.40s' is no MAC address", i, net->mac);
	if (net->new_mac && (!mac_parse(net->new_mac, c->new_mac) || (c->new_mac[0] & 1)))
		return err_set(err, ERR_INVALID, "net[%u].new_mac: '%.40s' is no MAC address of a host", i,
			       net->new_mac);
	if (net->gateway && !link_address_parse(net->gateway, &c->gateway))
		return err_set(err, ERR_INVALID, "net[%u].gateway: '%.64s' is no address", i, net->gateway);
	for (uint32_t n = 0; n < net->n_addresses; n++, c->n_addresses++)
		if (!link_address_parse(net->addresses[n], &c->addresses[n]))
			return err_set(err, ERR_INVALID, "net[%u].addresses[%u]: '%.64s' is no address", i, n,
				       net->addresses[n]);
	for (uint32_t n = 0; n < net->n_dns; n++)
		if (strchr(net->dns[n], '/') || !link_address_parse(net->dns[n], &dns))
			return err_set(err, ERR_INVALID, "net[%u].dns[%u]: '%.64s' is no address", i, n, net->dns[n]);
	return 0;
}

static int load_env(struct env *env, const struct json_node *node, struct err *err)
{
	if (!node || node->type == JSON_NULL)
		return 0;
	if (node->type != JSON_OBJECT || node->count > PERSONALITY_ENV_MAX)
		return err_set(err, ERR_INVALID, "env: expected an object of at most %d strings", PERSONALITY_ENV_MAX);
	for (json_each(var, node)) {
		if (var->type != JSON_STRING || !env_name_valid(var->key))
			return err_set(err, ERR_INVALID, "env: expected names without '=' and strings");
		if (env_set(env, var->key, var->str) < 0)
			return err_num(err, ERR_INTERNAL, ENOMEM, "env");
	}
	return 0;
}

static int check(struct personality *p, const struct json_node *env, struct err *err)
{
	int r = check_ids(p, err);

	for (uint32_t i = 0; r == 0 && i < p->n_files; i++)
		r = check_file(&p->files[i], i, err);
	for (uint32_t i = 0; r == 0 && i < p->n_net; i++)
		r = check_net(&p->net[i], i, err);
	return r < 0 ? r : load_env(&p->env, env, err);
}

int personality_load(struct personality *personality, const struct json_node *body, struct err *err)
{
	struct personality p = {};

	if (body->type != JSON_OBJECT)
		return err_set(err, ERR_INVALID, "expected an object, found %s", json_type_name(body));
	if (fields_check_known(known_fields, body, "identity", err) < 0)
		return err->num;
	fields_init(personality_fields, &p);
	if (fields_load(personality_fields, &p, body, "identity", err) < 0)
		return err->num;
	if (check(&p, json_get(body, "env"), err) < 0) {
		personality_done(&p);
		return err->num;
	}
	*personality = p;
	return 0;
}

void personality_done(struct personality *p)
{
	for (uint32_t i = 0; i < p->n_files; i++)
		if (p->files[i].content)
			explicit_bzero(p->files[i].content, p->files[i].n_content);
	if (p->entropy)
		explicit_bzero(p->entropy, p->n_entropy);
	for (size_t i = 0; i < p->env.n; i++)
		explicit_bzero(p->env.vars[i], strlen(p->env.vars[i]));
	env_done(&p->env);
	fields_free(personality_fields, p);
	*p = (struct personality){};
}
