// SPDX-License-Identifier: Apache-2.0
/* dnsmasq: its configuration and its process. */
#include "forkd/net/resolver.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/program.h"
#include "forkd/errors.h"
#include "forkd/net/rules.h"
#include "forkd/wire/control.h"

enum { STOP_WAIT_MS = 2000, SAID_MAX = 4096, LINE_MAX_BYTES = 512 };

/* ---- what there is ---- */

static void read_all(int fd, char *ret, size_t size)
{
	ssize_t n = pread(fd, ret, size - 1, 0);

	ret[n > 0 ? n : 0] = '\0';
}

int resolver_find(struct resolver_setup *rs, struct err *err)
{
	char program[PROGRAM_PATH_BYTES], name[] = "dnsmasq", option[] = "--version", said[SAID_MAX];
	char *const args[] = { name, option, NULL };
	autoclose int out = memfd_create("forkd-dnsmasq", MFD_CLOEXEC);

	if (!program_find("dnsmasq", program))
		return err_set(err, ERR_NOT_FOUND, "the program dnsmasq is not installed (package dnsmasq-base)");
	if (out < 0)
		return err_sys(err, ERR_INTERNAL, "make a memory file");
	if (program_run(program, args, -1, out, err) < 0)
		return err->num;
	read_all(out, said, sizeof(said));
	rs->fills_sets = strstr(said, " nftset") != NULL; /* "no-nftset" where it is not built in */
	rs->program = strdup(program);
	return rs->program ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "look for dnsmasq");
}

void resolver_setup_done(struct resolver_setup *rs)
{
	free(rs->program);
	free(rs->dir);
	*rs = (struct resolver_setup){};
}

static void read_file(struct resolver_setup *rs, const char *path)
{
	FILE *file = fopen(path, "re");
	char line[LINE_MAX_BYTES], word[64];
	struct cidr c;

	while (file && rs->n_servers < RESOLVER_SERVERS_MAX && fgets(line, sizeof(line), file))
		if (sscanf(line, " nameserver %63s", word) == 1 && cidr_parse_address(word, &c) &&
		    !cidr_is_loopback(&c))
			rs->servers[rs->n_servers++] = c;
	if (file)
		fclose(file);
}

void resolver_read_servers(struct resolver_setup *rs, const char *resolv_conf, const char *behind_it)
{
	rs->n_servers = 0;
	read_file(rs, resolv_conf);
	if (rs->n_servers == 0)
		read_file(rs, behind_it);
}

/* ---- the configuration ---- */

/* The guest's own addresses: one lease, whatever the guest calls itself. */
static void add_dhcp(const struct layout *l, struct strbuf *out)
{
	char guest[CIDR_TEXT_BYTES], mask[CIDR_TEXT_BYTES];
	struct cidr m = { .version = 4, .prefix = 32 };

	for (unsigned i = 0; i < l->inner4.prefix; i++)
		m.addr[i / 8] |= (uint8_t)(0x80 >> i % 8);
	cidr_address_text(&l->guest4, guest);
	strbuf_printf(out, "dhcp-range=%s,%s,%s,2m\n", guest, guest, cidr_address_text(&m, mask));
	strbuf_puts(out, "dhcp-range=" SLOT_GUEST6 "," SLOT_GUEST6 ",slaac,64,2m\n"
			 "dhcp-authoritative\n"
			 "dhcp-ignore-clid\n"
			 "no-ping\n" /* the guest may have the address already */
			 "leasefile-ro\n"
			 "quiet-dhcp\nquiet-dhcp6\nquiet-ra\n");
}

static void add_server(struct strbuf *out, const char *domain, const struct cidr *server)
{
	char text[CIDR_TEXT_BYTES];

	cidr_address_text(server, text);
	if (domain)
		strbuf_printf(out, "server=/%s/%s\n", domain, text);
	else
		strbuf_printf(out, "server=%s\n", text);
}

static bool is_below(const char *name, const char *domain)
{
	size_t n = strlen(name), d = strlen(domain);

	return n >= d && strcmp(name + n - d, domain) == 0 && (n == d || name[n - d - 1] == '.');
}

/* deny wins, whichever of the two is longer. */
static bool is_denied(const struct net_wish *w, const char *name)
{
	for (uint32_t i = 0; i < w->deny.n; i++)
		if (w->deny.list[i].domain && is_below(name, w->deny.list[i].domain))
			return true;
	return false;
}

static bool lists_special(const struct net_wish *w)
{
	for (uint32_t i = 0; i < w->allow.n; i++)
		if (!w->allow.list[i].domain && rules_is_special(&w->allow.list[i].net))
			return true;
	return false;
}

static void add_domain(struct strbuf *out, const char *domain, const struct cidr *servers, uint32_t n, bool special)
{
	for (uint32_t i = 0; i < n; i++)
		add_server(out, domain, &servers[i]);
	strbuf_printf(out, "nftset=/%s/4#inet#" SLOT_TABLE "#" RULES_NAMES4 ",6#inet#" SLOT_TABLE "#" RULES_NAMES6 "\n",
		      domain);
	if (special)
		strbuf_printf(out, "rebind-domain-ok=/%s/\n", domain);
}

/* With a list of what is allowed, other names do not exist. */
static void add_dns(const struct net_wish *w, const struct cidr *servers, uint32_t n, struct strbuf *out)
{
	bool special = lists_special(w);

	if (w->egress == EGRESS_LIST && w->only_allowed)
		strbuf_puts(out, "address=/#/\n");
	else
		for (uint32_t i = 0; i < n; i++)
			add_server(out, NULL, &servers[i]);
	for (uint32_t i = 0; i < w->deny.n; i++)
		if (w->deny.list[i].domain)
			strbuf_printf(out, "address=/%s/\n", w->deny.list[i].domain);
	for (uint32_t i = 0; w->only_allowed && i < w->allow.n; i++)
		if (w->allow.list[i].domain && !is_denied(w, w->allow.list[i].domain))
			add_domain(out, w->allow.list[i].domain, servers, n, special);
	/* A name that leads to such an address leads nowhere, unless the address itself is listed. */
	if (!special || w->only_allowed)
		strbuf_puts(out, "stop-dns-rebind\n");
}

void resolver_config(const struct resolver_setup *rs, const struct layout *l, const char *slot,
		     const struct net_wish *w, struct strbuf *out)
{
	const struct cidr *servers = w->n_dns ? w->dns : rs->servers;

	strbuf_printf(out, "pid-file=%s/%s.pid\n", rs->dir, slot);
	strbuf_printf(out,
		      "user=nobody\n"
		      "interface=" SLOT_TAP "\n"
		      "except-interface=lo\n"
		      "bind-interfaces\n"
		      "no-hosts\nno-resolv\nno-poll\n"
		      "dns-forward-max=%d\n",
		      RESOLVER_QUERIES_MAX);
	add_dhcp(l, out);
	add_dns(w, servers, w->n_dns ? w->n_dns : rs->n_servers, out);
}

/* ---- the process ---- */

int resolver_start(const struct resolver_setup *rs, const struct layout *l, const char *slot, const struct net_wish *w,
		   struct err *err)
{
	char name[] = "dnsmasq", option[] = "--conf-file=-", said[SAID_MAX];
	char *const args[] = { name, option, NULL };
	autostrbuf struct strbuf text = {};
	autoclose int in = memfd_create("forkd-dnsmasq", MFD_CLOEXEC);
	autoclose int out = memfd_create("forkd-dnsmasq", MFD_CLOEXEC);

	resolver_config(rs, l, slot, w, &text);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "write the resolver's configuration");
	if (in < 0 || out < 0 || write(in, text.text, text.len) != (ssize_t)text.len || lseek(in, 0, SEEK_SET) != 0)
		return err_sys(err, ERR_INTERNAL, "write the resolver's configuration");
	if (setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), 0) <
	    0) /* of this thread, which ends: slots are made at leisure */
		log_debug("resolver: %s", strerror(errno));
	if (program_run(rs->program, args, in, out, err) >= 0)
		return 0;
	read_all(out, said, sizeof(said));
	const char *line = said + strspn(said, "\n");
	return err_wrap(err, "the resolver says '%.*s'", (int)strcspn(line, "\n"), line);
}

/* The process of the pid file, if it is in the namespace; else -1: it has ended, and the number is somebody else's. */
static int open_process(const char *path, int ns_fd)
{
	char text[32] = "", ns[64];
	struct stat want, st;
	autoclose int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

	if (file < 0 || read(file, text, sizeof(text) - 1) <= 0 || fstat(ns_fd, &want) < 0)
		return -1;
	long pid = strtol(text, NULL, 10);
	autoclose int fd = pid > 1 ? (int)syscall(SYS_pidfd_open, (pid_t)pid, 0) : -1;
	snprintf(ns, sizeof(ns), "/proc/%ld/ns/net", pid);
	if (fd < 0 || stat(ns, &st) < 0 || st.st_ino != want.st_ino || st.st_dev != want.st_dev)
		return -1;
	return steal_fd(&fd);
}

void resolver_stop(const struct resolver_setup *rs, const char *slot, int ns_fd)
{
	autofree char *path = NULL;

	if (asprintf(&path, "%s/%s.pid", rs->dir, slot) < 0) {
		path = NULL;
		return;
	}
	autoclose int fd = open_process(path, ns_fd);
	if (fd >= 0 && syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0) == 0 &&
	    wait_readable(fd, deadline_in_ms(STOP_WAIT_MS)) <= 0)
		log_warn("the resolver of network '%s' does not end", slot);
	unlink(path);
}
