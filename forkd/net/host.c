// SPDX-License-Identifier: Apache-2.0
/* The host's switches and its table. */
#include "forkd/net/host.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/field.h"
#include "common/log.h"
#include "forkd/net/firewalls.h"
#include "forkd/net/nft.h"
#include "forkd/net/sysctl.h"

enum { STATE_MAX_BYTES = 1 << 20, HEARS_ROUTERS = 1, HEARS_ROUTERS_AS_ROUTER = 2 };

const struct field host_state_fields[] = {
	F(struct host_state, range, .flags = F_REQUIRED),
	F(struct host_state, inner, .flags = F_REQUIRED),
	F(struct host_state, ip_forward, .flags = F_REQUIRED),
	F(struct host_state, ipv6_forward, .flags = F_REQUIRED),
	F_LIST(struct host_state, accept_ra),
	F_END,
};

void host_state_done(struct host_state *s)
{
	fields_free(host_state_fields, s);
}

int host_state_load(const char *path, struct host_state *ret, bool *ret_found, struct err *err)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	autofree char *text = calloc(1, STATE_MAX_BYTES);
	autojson struct json json = {};

	*ret_found = false;
	if (fd < 0 && errno == ENOENT)
		return 0;
	ssize_t n = fd >= 0 && text ? read(fd, text, STATE_MAX_BYTES - 1) : -1;
	if (n < 0)
		return err_sys(err, ERR_INTERNAL, "read '%s'", path);
	fields_init(host_state_fields, ret);
	if (json_parse(&json, text, (size_t)n, err) < 0 ||
	    fields_load(host_state_fields, ret, &json.nodes[0], "network.json", err) < 0)
		return err_wrap(err, "'%s'", path);
	*ret_found = true;
	return 0;
}

/* Under another name first: a file that is there is whole. */
static int save(const struct host_state *s, const char *path, struct err *err)
{
	autostrbuf struct strbuf text = {};
	autofree char *new_path = NULL;

	fields_save(host_state_fields, s, &text);
	if (text.failed || asprintf(&new_path, "%s.new", path) < 0) {
		new_path = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "write '%s'", path);
	}
	autoclose int fd = open(new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, text.text, text.len) != (ssize_t)text.len || rename(new_path, path) < 0)
		return err_sys(err, ERR_INTERNAL, "write '%s'", path);
	return 0;
}

/* ---- forwarding ---- */

/*
 * An interface that forwards IPv6 hears no routers any more, and the host would lose its own way out. So those that hear
 * routers now are told to go on.
 */
static void find_listeners(struct host_state *s)
{
	DIR *dir = opendir("/proc/sys/net/ipv6/conf");
	char name[128];

	for (const struct dirent *e = dir ? readdir(dir) : NULL; e; e = readdir(dir)) {
		snprintf(name, sizeof(name), "ipv6/conf/%.32s/accept_ra", e->d_name);
		if (e->d_name[0] == '.' || strcmp(e->d_name, "all") == 0 || sysctl_get(name) != HEARS_ROUTERS)
			continue;
		char **more = reallocarray(s->accept_ra, s->n_accept_ra + 1, sizeof(*more));
		if (!more)
			break;
		s->accept_ra = more;
		s->accept_ra[s->n_accept_ra] = strdup(e->d_name);
		s->n_accept_ra += s->accept_ra[s->n_accept_ra] != NULL;
	}
	if (dir)
		closedir(dir);
}

static int start_forwarding(const struct host_state *s, struct err *err)
{
	for (uint32_t i = 0; i < s->n_accept_ra; i++)
		if (sysctl_set_of("ipv6", s->accept_ra[i], "accept_ra", HEARS_ROUTERS_AS_ROUTER, err) < 0)
			*err = (struct err){}; /* the interface is gone */
	if (s->ip_forward == 0 && sysctl_set("ipv4/ip_forward", 1, err) < 0)
		return err->num;
	return s->ipv6_forward == 0 ? sysctl_set("ipv6/conf/all/forwarding", 1, err) : 0;
}

static void end_forwarding(const struct host_state *s)
{
	struct err err = {};
	char line[ERR_MSG_BYTES], name[128];

	if ((s->ip_forward == 0 && sysctl_set("ipv4/ip_forward", 0, &err) < 0) ||
	    (s->ipv6_forward == 0 && sysctl_set("ipv6/conf/all/forwarding", 0, &err) < 0))
		log_warn("forwarding stays on: %s", err_line(&err, line, sizeof(line)));
	for (uint32_t i = 0; i < s->n_accept_ra; i++) {
		snprintf(name, sizeof(name), "ipv6/conf/%.32s/accept_ra", s->accept_ra[i]);
		struct err gone = {};
		if (sysctl_get(name) == HEARS_ROUTERS_AS_ROUTER && sysctl_set(name, HEARS_ROUTERS, &gone) < 0)
			log_warn("%s", err_line(&gone, line, sizeof(line)));
	}
}

/* Another daemon's slots need what this one switched on. */
static bool others_have_slots(const struct layout *l)
{
	autostrbuf struct strbuf tables = {};
	struct err err = {};
	char own[40];

	if (nft_ask("list tables inet\n", "look for other daemons", &tables, &err) < 0 || !tables.text)
		return false;
	snprintf(own, sizeof(own), "%s\n", l->table);
	for (const char *p = strstr(tables.text, "table inet forkd"); p; p = strstr(p + 1, "table inet forkd"))
		if (strncmp(p + strlen("table inet "), own, strlen(own)) != 0)
			return true;
	return false;
}

/* ---- the table ---- */

static int add_table(const struct layout *l, struct err *err)
{
	autostrbuf struct strbuf tables = {}, text = {};
	char line[64] = "";

	if (nft_ask("list tables inet\n", "look for the host's table", &tables, err) < 0)
		return err->num;
	snprintf(line, sizeof(line), "table inet %s\n", l->table);
	if (tables.text && strstr(tables.text, line))
		return 0;
	host_table_text(l, &text);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write the host's table");
	return nft_run(text.text, "the host's table", err);
}

static int text_of(const struct layout *l, struct host_state *s, struct err *err)
{
	char text[CIDR_TEXT_BYTES];

	s->range = strdup(cidr_text(&l->range4, text));
	if (asprintf(&s->inner, "%s/%u", cidr_address_text(&l->gateway4, text), l->inner4.prefix) < 0)
		s->inner = NULL;
	return s->range && s->inner ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "write network.json");
}

static int look(const struct layout *l, struct host_state *s, struct err *err)
{
	s->ip_forward = sysctl_get("ipv4/ip_forward");
	s->ipv6_forward = sysctl_get("ipv6/conf/all/forwarding");
	if (s->ipv6_forward == 0)
		find_listeners(s);
	return text_of(l, s, err);
}

int host_prepare(const struct layout *l, const char *path, struct err *err)
{
	struct host_state s = {};
	bool found;

	int r = host_state_load(path, &s, &found, err);
	if (r >= 0 && !found) {
		r = look(l, &s, err);
		r = r < 0 ? r : save(&s, path, err);
	}
	r = r < 0 ? r : start_forwarding(&s, err);
	r = r < 0 ? r : add_table(l, err);
	if (r >= 0)
		firewalls_open(l);
	host_state_done(&s);
	return r < 0 ? err_wrap(err, "make the host ready for networks") : 0;
}

void host_restore(const struct layout *l, const char *path)
{
	struct host_state s = {};
	struct err err = {};
	char line[ERR_MSG_BYTES], command[128];
	bool found = false;

	snprintf(command, sizeof(command), "table inet %s\ndelete table inet %s\n", l->table, l->table);
	if (host_state_load(path, &s, &found, &err) < 0)
		log_error("%s", err_line(&err, line, sizeof(line)));
	if (!found)
		return;
	if (nft_run(command, "remove the host's table", &err) < 0)
		log_error("%s", err_line(&err, line, sizeof(line)));
	firewalls_close(l);
	if (others_have_slots(l))
		log_info("forwarding stays on: another daemon has networks");
	else
		end_forwarding(&s);
	unlink(path);
	host_state_done(&s);
}

/* ---- elements ---- */

int host_add(const struct layout *l, const struct slot_place *p, const struct net_wish *w, struct err *err)
{
	autostrbuf struct strbuf text = {};

	host_elements_text(l, p, w, false, &text);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write the host's rules");
	if (text.len > 0 && nft_run(text.text, "the host's rules", err) < 0)
		return err->num;
	return w->n_dns ? host_add_servers(l, w->dns, w->n_dns, err) : 0;
}

void host_remove(const struct layout *l, const struct slot_place *p, const struct net_wish *w)
{
	autostrbuf struct strbuf text = {};
	struct err err = {};
	char line[ERR_MSG_BYTES];

	host_elements_text(l, p, w, true, &text);
	if (text.len > 0 && !text.failed && nft_run(text.text, "the host's rules", &err) < 0)
		log_warn("network '%s': %s", p->name, err_line(&err, line, sizeof(line)));
}

int host_add_servers(const struct layout *l, const struct cidr *servers, uint32_t n, struct err *err)
{
	autostrbuf struct strbuf text = {};
	char address[CIDR_TEXT_BYTES];

	for (uint32_t i = 0; i < n; i++)
		strbuf_printf(&text, "add element inet %s resolvers%u { %s }\n", l->table, servers[i].version,
			      cidr_address_text(&servers[i], address));
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write the host's rules");
	return text.len > 0 ? nft_run(text.text, "the host's rules", err) : 0;
}
