// SPDX-License-Identifier: Apache-2.0
/* What a host lacks for networks of clones. None of it is needed: clones get bare taps then. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "common/program.h"
#include "forkctl/doctor.h"

#define RANGE_NET 0x0ac90000u /* 10.201.0.0/16, the daemon's default */
#define RANGE_MASK 0xffff0000u

/* Whether dnsmasq says that it fills sets of nftables. */
static bool fills_sets(const char *path)
{
	char name[] = "dnsmasq", option[] = "--version", said[4096];
	char *const args[] = { name, option, NULL };
	autoclose int out = memfd_create("forkctl-dnsmasq", MFD_CLOEXEC);
	struct err ignored = {};

	if (out < 0 || program_run(path, args, -1, out, &ignored) < 0)
		return false;
	ssize_t n = pread(out, said, sizeof(said) - 1, 0);
	said[n > 0 ? n : 0] = '\0';
	return strstr(said, " nftset") != NULL;
}

enum grade doctor_networks(struct cli *cli, struct finding *f)
{
	autoclose int netfilter = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	char forward[16] = "?", path[PROGRAM_PATH_BYTES];

	(void)cli;
	if (netfilter < 0)
		return grade(GRADE_WARN, f, "Load the kernel's nf_tables: modprobe nf_tables.",
			     "no nftables in the kernel: %s", strerror(errno));
	if (!program_find("dnsmasq", path))
		return grade(GRADE_WARN, f, "Install dnsmasq-base; until then clones get bare taps.",
			     "the program dnsmasq is missing, which serves names and addresses to clones");
	if (!fills_sets(path))
		return grade(GRADE_WARN, f, "Install dnsmasq 2.87 or later.",
			     "dnsmasq fills no sets of nftables: rules by domain are refused");
	if (geteuid() != 0)
		return grade(GRADE_WARN, f, "Run forkd as root.", "only root makes networks; clones get bare taps");
	doctor_read_line("/proc/sys/net/ipv4/ip_forward", forward, sizeof(forward));
	return grade(GRADE_OK, f, "", "nftables and dnsmasq are there; ip_forward is %s%s", forward,
		     strcmp(forward, "0") == 0 ? ", and is switched on with the first network" : "");
}

/* Networks of a daemon of this host are no obstacle for it. */
static bool is_own(const char *interface)
{
	return strncmp(interface, "fn", 2) == 0 && strchr(interface, '-') != NULL;
}

/* The first route into the default range; false: there is none. */
static bool find_route(char ret_interface[32], struct in_addr *ret_net)
{
	FILE *routes = fopen("/proc/net/route", "re");
	char line[256], interface[32];
	unsigned net, mask;
	bool found = false;

	while (routes && !found && fgets(line, sizeof(line), routes)) {
		if (sscanf(line, "%31s %x %*x %*x %*d %*d %*d %x", interface, &net, &mask) != 3 || mask == 0 ||
		    is_own(interface))
			continue;
		unsigned both = ntohl(mask) & RANGE_MASK;
		found = (ntohl(net) & both) == (RANGE_NET & both);
		ret_net->s_addr = net;
		memcpy(ret_interface, interface, sizeof(interface));
	}
	if (routes)
		fclose(routes);
	return found;
}

enum grade doctor_network_range(struct cli *cli, struct finding *f)
{
	char interface[32], text[INET_ADDRSTRLEN];
	struct in_addr net;

	(void)cli;
	if (!find_route(interface, &net))
		return grade(GRADE_OK, f, "", "no route leads into 10.201.0.0/16, where networks of clones are");
	return grade(GRADE_WARN, f, "forkd takes the next range that is free; --network-range names another.",
		     "the route to %s through %s leads into 10.201.0.0/16, where networks of clones are by default",
		     inet_ntop(AF_INET, &net, text, sizeof(text)), interface);
}

enum grade doctor_firewalls(struct cli *cli, struct finding *f)
{
	char path[PROGRAM_PATH_BYTES];
	bool firewalld = access("/run/firewalld", F_OK) == 0;
	bool docker = access("/sys/class/net/docker0", F_OK) == 0;

	(void)cli;
	if (firewalld)
		return grade(
			GRADE_WARN, f,
			"firewall-cmd --zone=trusted --add-source=10.201.0.0/16 --add-source=fd6b:ac9::/48 (and --permanent).",
			"firewalld runs, and drops what clones send");
	if (docker && !program_find("iptables", path))
		return grade(GRADE_WARN, f, "Install iptables.",
			     "Docker drops what it does not know, and without iptables forkd cannot tell it of clones");
	return grade(GRADE_OK, f, "",
		     docker ? "Docker: forkd adds two rules to DOCKER-USER" : "neither firewalld nor Docker");
}
