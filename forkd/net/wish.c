// SPDX-License-Identifier: Apache-2.0
/* Loads overrides.network: every value is checked here, and nowhere else. */
#include "forkd/net/wish.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include "forkd/body.h"
#include "forkd/errors.h"

enum { WHERE_MAX = 80, RATE_MIN = 1024, RATE_MAX = 2000000000 };

/* ---- domains and networks ---- */

/* "com" of "example.com": no number, which would be an address. */
static bool ends_in_number(const char *text)
{
	const char *dot = strrchr(text, '.');
	const char *label = dot ? dot + 1 : text;

	return label[strspn(label, "0123456789")] == '\0';
}

/* Letters, digits, '-' and '_' in labels; lower case afterwards. */
static bool take_domain(const char *text, char ret[WISH_NAME_MAX + 1])
{
	size_t label = 0;

	if (strncmp(text, "*.", 2) == 0)
		text += 2; /* a name stands for all below it anyway */
	size_t len = strlen(text);
	if (len > WISH_NAME_MAX || ends_in_number(text))
		return false;
	for (size_t i = 0; i <= len; i++) {
		unsigned char c = (unsigned char)text[i];
		bool end = c == '.' || c == '\0';
		if ((!end && !isalnum(c) && c != '-' && c != '_') || (end && (label == 0 || label > 63)))
			return false;
		label = end ? 0 : label + 1;
		ret[i] = (char)tolower(c);
	}
	return true;
}

static int load_rule(const struct json_node *node, const char *where, struct wish_rule *ret, struct err *err)
{
	char domain[WISH_NAME_MAX + 1];

	if (node->type != JSON_STRING)
		return fail(err, E_BAD_OVERRIDE, "%s: expected a string, found %s", where, json_type_name(node));
	if (cidr_parse(node->str, &ret->net))
		return 0;
	if (!take_domain(node->str, domain))
		return fail(
			err, E_BAD_OVERRIDE,
			"%s: '%.80s' is neither an address, nor a network (10.1.0.0/16, without bits behind the prefix), nor "
			"a domain",
			where, node->str);
	ret->domain = strdup(domain);
	return ret->domain ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "load '%s'", where);
}

static int load_rules(const struct json_node *node, const char *key, struct wish_rules *ret, struct err *err)
{
	char where[WHERE_MAX];

	if (!node)
		return 0;
	if (node->type != JSON_ARRAY || node->count > WISH_RULES_MAX)
		return fail(err, E_BAD_OVERRIDE, "overrides.network.egress.%s: expected an array of at most %d strings",
			    key, WISH_RULES_MAX);
	ret->list = calloc(node->count + 1UL, sizeof(*ret->list));
	if (!ret->list)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load overrides.network");
	for (json_each(child, node)) {
		snprintf(where, sizeof(where), "overrides.network.egress.%s[%u]", key, ret->n);
		if (load_rule(child, where, &ret->list[ret->n++], err) < 0)
			return err->num;
	}
	return 0;
}

/* E_UNKNOWN_FIELD for a member that is none of `keys`, which end with NULL. */
static int check_keys(const struct json_node *node, const char *where, const char *const *keys, struct err *err)
{
	if (node->type != JSON_OBJECT)
		return fail(err, E_BAD_OVERRIDE, "%s: expected an object, found %s", where, json_type_name(node));
	for (json_each(child, node)) {
		const char *const *k = keys;
		while (*k && strcmp(*k, child->key) != 0)
			k++;
		if (!*k)
			return fail(err, E_UNKNOWN_FIELD, "%s: there is no field '%.64s'", where, child->key);
	}
	return 0;
}

static const struct json_node *get(const struct json_node *node, const char *key)
{
	const struct json_node *found = json_get(node, key);

	return found && found->type != JSON_NULL ? found : NULL;
}

static int load_egress(const struct json_node *node, struct net_wish *w, struct err *err)
{
	static const char *const keys[] = { "allow", "deny", NULL };

	if (!node)
		return 0;
	if (node->type == JSON_STRING && strcmp(node->str, "open") == 0)
		return 0;
	if (node->type == JSON_STRING && strcmp(node->str, "none") == 0) {
		w->egress = EGRESS_NONE;
		return 0;
	}
	if (node->type != JSON_OBJECT)
		return fail(err, E_BAD_OVERRIDE,
			    "overrides.network.egress: expected \"open\", \"none\" or an object with allow and deny");
	w->egress = EGRESS_LIST;
	w->only_allowed = get(node, "allow") != NULL;
	if (check_keys(node, "overrides.network.egress", keys, err) < 0 ||
	    load_rules(get(node, "allow"), "allow", &w->allow, err) < 0)
		return err->num;
	return load_rules(get(node, "deny"), "deny", &w->deny, err);
}

/* ---- ports ---- */

struct port {
	uint16_t host, guest;
	char *protocol, *address;
};
static const struct field port_fields[] = {
	F(struct port, host),
	F(struct port, guest, .flags = F_REQUIRED, .min = 1),
	F(struct port, protocol),
	F(struct port, address),
	F_END,
};

static int check_port(const struct port *p, const char *where, struct wish_port *ret, struct err *err)
{
	*ret = (struct wish_port){ .host = p->host, .guest = p->guest };
	if (p->protocol && strcmp(p->protocol, "tcp") != 0 && strcmp(p->protocol, "udp") != 0)
		return fail(err, E_BAD_OVERRIDE, "%s.protocol: '%.40s' is neither tcp nor udp", where, p->protocol);
	ret->udp = p->protocol && p->protocol[0] == 'u';
	if (!cidr_parse_address(p->address ? p->address : "127.0.0.1", &ret->address))
		return fail(err, E_BAD_OVERRIDE, "%s.address: '%.60s' is no IP address", where, p->address);
	if (ret->address.version == 6 && cidr_is_loopback(&ret->address))
		return fail(err, E_BAD_OVERRIDE, "%s.address: the kernel forwards nothing from ::1; use 127.0.0.1",
			    where);
	return 0;
}

static int load_port(const struct json_node *node, const char *where, struct wish_port *ret, struct err *err)
{
	struct port p;

	fields_init(port_fields, &p);
	int r = body_load(port_fields, NULL, &p, node, where, err);
	if (r >= 0)
		r = check_port(&p, where, ret, err);
	else if (err->detail == E_INVALID)
		fail_as(err, E_BAD_OVERRIDE, NULL);
	fields_free(port_fields, &p);
	return r;
}

static int load_ports(const struct json_node *node, struct net_wish *w, struct err *err)
{
	char where[WHERE_MAX];

	if (!node)
		return 0;
	if (node->type != JSON_ARRAY || node->count > WISH_PORTS_MAX)
		return fail(err, E_BAD_OVERRIDE, "overrides.network.ports: expected an array of at most %d objects",
			    WISH_PORTS_MAX);
	w->ports = calloc(node->count + 1UL, sizeof(*w->ports));
	if (!w->ports)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load overrides.network");
	for (json_each(child, node)) {
		snprintf(where, sizeof(where), "overrides.network.ports[%u]", w->n_ports);
		if (load_port(child, where, &w->ports[w->n_ports++], err) < 0)
			return err->num;
	}
	return 0;
}

/* ---- the rest ---- */

static int load_dns(const struct json_node *node, struct net_wish *w, struct err *err)
{
	if (!node)
		return 0;
	if (node->type != JSON_ARRAY || node->count > WISH_DNS_MAX)
		return fail(err, E_BAD_OVERRIDE, "overrides.network.dns: expected an array of at most %d addresses",
			    WISH_DNS_MAX);
	for (json_each(child, node)) {
		struct cidr *c = &w->dns[w->n_dns];
		if (child->type != JSON_STRING || !cidr_parse_address(child->str, c) || cidr_is_loopback(c))
			return fail(err, E_BAD_OVERRIDE,
				    "overrides.network.dns[%u]: '%.60s' is no IP address of a server", w->n_dns,
				    child->type == JSON_STRING ? child->str : json_type_name(child));
		w->n_dns++;
	}
	return 0;
}

struct bandwidth {
	uint64_t rx_bytes_per_s, tx_bytes_per_s;
};
static const struct field bandwidth_fields[] = {
	F(struct bandwidth, rx_bytes_per_s, .min = RATE_MIN, .max = RATE_MAX, .def = 0),
	F(struct bandwidth, tx_bytes_per_s, .min = RATE_MIN, .max = RATE_MAX, .def = 0),
	F_END,
};

static int load_bandwidth(const struct json_node *node, struct net_wish *w, struct err *err)
{
	struct bandwidth b;

	if (!node)
		return 0;
	fields_init(bandwidth_fields, &b);
	if (body_load(bandwidth_fields, NULL, &b, node, "overrides.network.bandwidth", err) < 0)
		return err->detail == E_INVALID ? fail_as(err, E_BAD_OVERRIDE, NULL) : err->num;
	w->rx_bytes_per_s = b.rx_bytes_per_s;
	w->tx_bytes_per_s = b.tx_bytes_per_s;
	return 0;
}

static int load_all(const struct json_node *node, struct net_wish *w, struct err *err)
{
	static const char *const by_hand[] = { "egress", "ports", "dns", "bandwidth", NULL };

	if (check_keys(node, "overrides.network", by_hand, err) < 0 || load_egress(get(node, "egress"), w, err) < 0 ||
	    load_ports(get(node, "ports"), w, err) < 0 || load_dns(get(node, "dns"), w, err) < 0)
		return err->num;
	return load_bandwidth(get(node, "bandwidth"), w, err);
}

int net_wish_load(const struct json_node *node, struct net_wish *ret, struct err *err)
{
	autonetwish struct net_wish w = {};

	if (node && node->type != JSON_NULL) {
		w.given = true;
		if (load_all(node, &w, err) < 0)
			return err->num;
	}
	*ret = w;
	w = (struct net_wish){};
	return 0;
}

int net_wish_parse(const char *text, struct net_wish *ret, struct err *err)
{
	autofree char *copy = strdup(text);
	autojson struct json json = {};

	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the record of a network");
	if (json_parse(&json, copy, strlen(copy), err) < 0)
		return err->num;
	return net_wish_load(&json.nodes[0], ret, err);
}

static void rules_done(struct wish_rules *r)
{
	for (uint32_t i = 0; i < r->n; i++)
		free(r->list[i].domain);
	free(r->list);
}

void net_wish_done(struct net_wish *w)
{
	rules_done(&w->allow);
	rules_done(&w->deny);
	free(w->ports);
	*w = (struct net_wish){};
}

/* ---- writing ---- */

static void add_rules(const struct wish_rules *r, const char *key, struct strbuf *out)
{
	char text[CIDR_TEXT_BYTES];

	strbuf_printf(out, "\"%s\":[", key);
	for (uint32_t i = 0; i < r->n; i++)
		strbuf_printf(out, "%s\"%s\"", i ? "," : "",
			      r->list[i].domain ? r->list[i].domain : cidr_text(&r->list[i].net, text));
	strbuf_putc(out, ']');
}

static void add_egress(const struct net_wish *w, struct strbuf *out)
{
	strbuf_puts(out, "\"egress\":");
	if (w->egress != EGRESS_LIST) {
		strbuf_puts(out, w->egress == EGRESS_OPEN ? "\"open\"" : "\"none\"");
		return;
	}
	strbuf_putc(out, '{');
	if (w->only_allowed) {
		add_rules(&w->allow, "allow", out);
		strbuf_putc(out, ',');
	}
	add_rules(&w->deny, "deny", out);
	strbuf_putc(out, '}');
}

static void add_ports(const struct net_wish *w, struct strbuf *out)
{
	char text[CIDR_TEXT_BYTES];

	strbuf_puts(out, ",\"ports\":[");
	for (uint32_t i = 0; i < w->n_ports; i++) {
		const struct wish_port *p = &w->ports[i];
		strbuf_printf(out, "%s{\"host\":%u,\"guest\":%u,\"protocol\":\"%s\",\"address\":\"%s\"}", i ? "," : "",
			      p->host, p->guest, p->udp ? "udp" : "tcp", cidr_address_text(&p->address, text));
	}
	strbuf_putc(out, ']');
}

void net_wish_json(const struct net_wish *w, struct strbuf *out)
{
	char text[CIDR_TEXT_BYTES];

	strbuf_putc(out, '{');
	add_egress(w, out);
	add_ports(w, out);
	strbuf_puts(out, w->n_dns ? ",\"dns\":[" : "");
	for (uint32_t i = 0; i < w->n_dns; i++)
		strbuf_printf(out, "%s\"%s\"", i ? "," : "", cidr_address_text(&w->dns[i], text));
	strbuf_puts(out, w->n_dns ? "]" : "");
	if (w->rx_bytes_per_s || w->tx_bytes_per_s)
		strbuf_puts(out, ",\"bandwidth\":{");
	if (w->rx_bytes_per_s)
		strbuf_printf(out, "\"rx_bytes_per_s\":%llu", (unsigned long long)w->rx_bytes_per_s);
	if (w->tx_bytes_per_s)
		strbuf_printf(out, "%s\"tx_bytes_per_s\":%llu", w->rx_bytes_per_s ? "," : "",
			      (unsigned long long)w->tx_bytes_per_s);
	if (w->rx_bytes_per_s || w->tx_bytes_per_s)
		strbuf_putc(out, '}');
	strbuf_putc(out, '}');
}

int net_wish_copy(const struct net_wish *from, struct net_wish *ret, struct err *err)
{
	autostrbuf struct strbuf text = {};

	net_wish_json(from, &text);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "copy overrides.network");
	return net_wish_parse(text.text, ret, err);
}

bool net_wish_is_plain(const struct net_wish *w)
{
	return w->egress == EGRESS_OPEN && w->n_ports == 0 && w->n_dns == 0 && !w->rx_bytes_per_s && !w->tx_bytes_per_s;
}

bool net_wish_has_domains(const struct net_wish *w)
{
	for (uint32_t i = 0; i < w->allow.n; i++)
		if (w->allow.list[i].domain)
			return true;
	for (uint32_t i = 0; i < w->deny.n; i++)
		if (w->deny.list[i].domain)
			return true;
	return false;
}
