// SPDX-License-Identifier: Apache-2.0
/*
 * forkctl doctor: what this host can do for forkd, one check a function and one line a check, each with what to do about it.
 * Works without the daemon; changes nothing but a file of a moment in the store's file system.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "common/ctl.h"
#include "common/version.h"
#include "forkctl/doctor.h"
#include "forkctl/forkctl.h"
#include "forkctl/probe.h"
#include "forkctl/table.h"

enum { NOFILE_WANTED = 65536, PIDS_WANTED = 4096, NET_ADMIN = 12 };

const struct option_row doctor_options[] = {
	{ "store", "DIR", "the daemon's store; default: where forkd has it by default", 0, false },
	{ "template", "NAME", "and whether this host has what the clones of that template need", 0, false },
	{ NULL, NULL, NULL, 0, false },
};

struct check {
	const char *name;
	enum grade (*run)(struct cli *cli, struct finding *f);
};

enum grade grade(enum grade g, struct finding *f, const char *fix, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->detail, sizeof(f->detail), fmt, ap);
	va_end(ap);
	snprintf(f->fix, sizeof(f->fix), "%s", fix);
	return g;
}

/* The first line of a small file; false when it cannot be read. */
bool doctor_read_line(const char *path, char *buf, size_t size)
{
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

	if (n < 0)
		return false;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return true;
}

/* The number behind "Name:" in a file of lines like /proc/meminfo. */
static bool find_number(const char *path, const char *name, int base, uint64_t *ret)
{
	FILE *in = fopen(path, "re");
	char line[256];
	bool found = false;

	while (in && !found && fgets(line, sizeof(line), in)) {
		found = strncmp(line, name, strlen(name)) == 0;
		if (found)
			*ret = strtoull(line + strlen(name), NULL, base);
	}
	if (in)
		fclose(in);
	return found;
}

/* ---- KVM ---- */

static enum grade check_kvm(struct cli *cli, struct finding *f)
{
	autoclose int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	(void)cli;
	if (fd < 0 && errno == ENOENT)
		return grade(GRADE_FAIL, f,
			     "Turn virtualization on in the firmware (or nested virtualization in the cloud), then: "
			     "modprobe kvm_intel or kvm_amd.",
			     "there is no /dev/kvm");
	if (fd < 0)
		return grade(GRADE_FAIL, f, "Run as root, or join the group kvm and log in again.", "/dev/kvm: %s",
			     strerror(errno));
	int version = ioctl(fd, KVM_GET_API_VERSION, 0UL);
	if (version != KVM_API_VERSION)
		return grade(GRADE_FAIL, f, "Use a kernel with the stable KVM API.",
			     "/dev/kvm has API version %d, not %d", version, KVM_API_VERSION);
	return grade(GRADE_OK, f, "", "/dev/kvm opens, API version %d", version);
}

static const char *kvm_module(void)
{
	static const char *const names[] = { "kvm_intel", "kvm_amd", "kvm_pvm" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char path[64];
		snprintf(path, sizeof(path), "/sys/module/%s", names[i]);
		if (access(path, F_OK) == 0)
			return names[i];
	}
	return "module unknown";
}

static enum grade check_hardware(struct cli *cli, struct finding *f)
{
	autoclose int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	char line[ERR_MSG_BYTES];
	struct err err = {};

	(void)cli;
	if (fd < 0)
		return grade(GRADE_FAIL, f, "Make /dev/kvm work first.", "not tried: /dev/kvm does not open");
	int result = probe_kvm(fd, &err);
	if (result < 0)
		return grade(GRADE_FAIL, f, "Look at the kernel's log (dmesg) for what KVM says.",
			     "the probe guest failed: %.200s", err_line(&err, line, sizeof(line)));
	if (result == PROBE_EMULATED)
		return grade(GRADE_WARN, f,
			     "Linux guests need a host with hardware virtualization; small test guests run here.",
			     "software KVM that cannot run Linux (%s)", kvm_module());
	return grade(GRADE_OK, f, "", "hardware KVM that runs Linux (%s)", kvm_module());
}

static enum grade check_capabilities(struct cli *cli, struct finding *f)
{
	static const struct {
		unsigned long cap;
		const char *name;
	} needed[] = { { KVM_CAP_USER_MEMORY, "user memory" },
		       { KVM_CAP_SPLIT_IRQCHIP, "split irqchip" },
		       { KVM_CAP_SIGNAL_MSI, "message-signalled interrupts" },
		       { KVM_CAP_IMMEDIATE_EXIT, "immediate exit" } };
	autoclose int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	(void)cli;
	if (fd < 0)
		return grade(GRADE_FAIL, f, "Make /dev/kvm work first.", "not tried: /dev/kvm does not open");
	for (size_t i = 0; i < ARRAY_LEN(needed); i++)
		if (ioctl(fd, KVM_CHECK_EXTENSION, needed[i].cap) <= 0)
			return grade(GRADE_FAIL, f, "Use a newer kernel: 5.10 or later.", "this KVM has no %s",
				     needed[i].name);
	return grade(GRADE_OK, f, "", "all that forkd-vmm needs");
}

/* ---- the kernel's other services ---- */

static enum grade check_io_uring(struct cli *cli, struct finding *f)
{
	struct io_uring ring;
	int r = io_uring_queue_init(4, &ring, 0);

	(void)cli;
	if (r < 0)
		return grade(
			GRADE_WARN, f,
			"sysctl kernel.io_uring_disabled=0; in a container, allow io_uring in its seccomp profile.",
			"not allowed: %s", strerror(-r));
	io_uring_queue_exit(&ring);
	return grade(GRADE_OK, f, "", "allowed");
}

static enum grade check_userfaultfd(struct cli *cli, struct finding *f)
{
	autoclose int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	autoclose int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	(void)cli;
	if (fd < 0 && device < 0)
		return grade(
			GRADE_WARN, f,
			"Run forkd as root, let it open /dev/userfaultfd, or: sysctl vm.unprivileged_userfaultfd=1.",
			"not allowed (%s): memory_restore_mode ondemand is not to be had", strerror(errno));
	return grade(GRADE_OK, f, "", "allowed");
}

static enum grade check_tun(struct cli *cli, struct finding *f)
{
	autoclose int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

	(void)cli;
	if (fd < 0)
		return grade(GRADE_WARN, f,
			     "modprobe tun; run forkd as root. Guests without a network need none of it.",
			     "/dev/net/tun: %s", strerror(errno));
	return grade(GRADE_OK, f, "", "/dev/net/tun opens");
}

static enum grade check_net_admin(struct cli *cli, struct finding *f)
{
	uint64_t effective = 0;

	(void)cli;
	if (!find_number("/proc/self/status", "CapEff:", 16, &effective) || !(effective >> NET_ADMIN & 1))
		return grade(GRADE_WARN, f,
			     "Run forkd as root, or give it CAP_NET_ADMIN; taps that are yours work without.",
			     "this user has no CAP_NET_ADMIN");
	return grade(GRADE_OK, f, "", "CAP_NET_ADMIN%s", geteuid() == 0 ? ", root" : "");
}

/* ---- limits ---- */

static enum grade check_nofile(struct cli *cli, struct finding *f)
{
	struct rlimit limit = {};

	(void)cli;
	getrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_max < NOFILE_WANTED)
		return grade(GRADE_WARN, f, "Raise it: LimitNOFILE=65536 in the service, or ulimit -n 65536.",
			     "%llu open files at most: too few for a thousand clones",
			     (unsigned long long)limit.rlim_max);
	return grade(GRADE_OK, f, "", "%llu open files, %llu at most", (unsigned long long)limit.rlim_cur,
		     (unsigned long long)limit.rlim_max);
}

/* pids.max of the cgroup that this process is in; UINT64_MAX: no limit, or unknown. */
static uint64_t cgroup_pids(void)
{
	char group[512], path[640], text[64];

	if (!doctor_read_line("/proc/self/cgroup", group, sizeof(group)) || strncmp(group, "0::", 3) != 0)
		return UINT64_MAX;
	snprintf(path, sizeof(path), "/sys/fs/cgroup%s/pids.max", group + 3);
	if (!doctor_read_line(path, text, sizeof(text)) || text[0] < '0' || text[0] > '9')
		return UINT64_MAX;
	return strtoull(text, NULL, 10);
}

static enum grade check_pids(struct cli *cli, struct finding *f)
{
	struct rlimit limit = {};
	uint64_t most = cgroup_pids(), host = UINT64_MAX;
	char text[64];

	(void)cli;
	getrlimit(RLIMIT_NPROC, &limit);
	if (geteuid() != 0 && limit.rlim_max < most)
		most = limit.rlim_max;
	if (doctor_read_line("/proc/sys/kernel/pid_max", text, sizeof(text)))
		host = strtoull(text, NULL, 10);
	most = host < most ? host : most;
	if (most < PIDS_WANTED)
		return grade(GRADE_WARN, f,
			     "Raise it: TasksMax=infinity in the service, pids.max of the cgroup, or ulimit -u.",
			     "%llu processes and threads at most: too few for a thousand clones",
			     (unsigned long long)most);
	return grade(GRADE_OK, f, "", "%llu processes and threads at most", (unsigned long long)most);
}

static enum grade check_memory(struct cli *cli, struct finding *f)
{
	char total_text[UNIT_TEXT], free_text[UNIT_TEXT], overcommit[16] = "";
	uint64_t total = 0, available = 0;

	(void)cli;
	find_number("/proc/meminfo", "MemTotal:", 10, &total);
	find_number("/proc/meminfo", "MemAvailable:", 10, &available);
	format_bytes(total_text, total << 10);
	format_bytes(free_text, available << 10);
	if (doctor_read_line("/proc/sys/vm/overcommit_memory", overcommit, sizeof(overcommit)) && overcommit[0] == '2')
		return grade(GRADE_WARN, f,
			     "sysctl vm.overcommit_memory=0: clones share most of the memory that they map.",
			     "vm.overcommit_memory is 2: every clone counts with its whole RAM");
	if (available < (512 << 10))
		return grade(GRADE_WARN, f, "Free memory, or use a larger host.", "%s of %s are available", free_text,
			     total_text);
	return grade(GRADE_OK, f, "", "%s of %s are available", free_text, total_text);
}

/* ---- the store ---- */

/* The store, as forkd chooses it, or the nearest directory above it that is there. */
static void nearest_dir(const char *store, char *buf, size_t size)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");

	if (store)
		snprintf(buf, size, "%s", store);
	else if (geteuid() == 0)
		snprintf(buf, size, "/var/lib/forkd");
	else if (data && *data == '/')
		snprintf(buf, size, "%s/forkd", data);
	else
		snprintf(buf, size, "%s/.local/share/forkd", home ? home : "");
	while (access(buf, F_OK) != 0 && strrchr(buf, '/')) {
		char *slash = strrchr(buf, '/');
		slash[slash == buf] = '\0';
	}
}

static enum grade check_store(struct cli *cli, struct finding *f)
{
	static const char block[4096];
	char dir[4096], free_text[UNIT_TEXT];
	struct statvfs fs = {};

	nearest_dir(args_option(cli->args, "store"), dir, sizeof(dir));
	statvfs(dir, &fs);
	format_bytes(free_text, fs.f_bavail * fs.f_frsize);
	autoclose int from = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	autoclose int to = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (from < 0 || to < 0)
		return grade(errno == EACCES || errno == EROFS || errno == EPERM ? GRADE_FAIL : GRADE_WARN, f,
			     "Name the store with --store DIR, on a local file system that you may write.",
			     "cannot make a file in %.150s: %s", dir, strerror(errno));
	if (write(from, block, sizeof(block)) < 0 || ioctl(to, FICLONE, from) < 0)
		return grade(GRADE_WARN, f,
			     "Put the store on XFS or btrfs, then imports share blocks instead of copying.",
			     "no reflink in %.150s (%s); %s free", dir, strerror(errno), free_text);
	return grade(GRADE_OK, f, "", "reflink works in %.150s; %s free", dir, free_text);
}

/* ---- the programs ---- */

/* Beside this program, else on the PATH. */
static void find_vmm(char *buf, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", buf, size - 16);
	char *slash = NULL;

	if (n > 0) {
		buf[n] = '\0';
		slash = strrchr(buf, '/');
	}
	if (slash)
		snprintf(slash + 1, 16, "forkd-vmm");
	if (!slash || access(buf, X_OK) != 0)
		snprintf(buf, size, "forkd-vmm");
}

/* The first line that `path --version` prints; false: it does not run. */
static bool ask_version(const char *path, char *buf, size_t size)
{
	int ends[2], status = 0;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return false;
	autoclose int from = ends[0];
	pid_t pid = fork();
	if (pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		execlp(path, path, "--version", (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	ssize_t n = pid < 0 ? -1 : read(from, buf, size - 1);
	buf[n > 0 ? n : 0] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static enum grade check_vmm(struct cli *cli, struct finding *f)
{
	char path[4096], version[128];

	(void)cli;
	find_vmm(path, sizeof(path));
	if (!ask_version(path, version, sizeof(version)))
		return grade(GRADE_FAIL, f, "Install it beside forkctl (make install), or put it on the PATH.",
			     "%.200s does not run", path);
	if (!strstr(version, FORKD_VERSION))
		return grade(GRADE_WARN, f, "Install forkctl, forkd and forkd-vmm of one version.",
			     "%.150s is %.60s, this is forkctl %s", path, version, FORKD_VERSION);
	return grade(GRADE_OK, f, "", "%.150s: %.100s", path, version);
}

static enum grade check_daemon(struct cli *cli, struct finding *f)
{
	autoanswer struct answer a = {};
	struct err err = {};
	char why[256];

	if (!client_probe(cli->client, "/healthz", &a, why))
		return grade(GRADE_WARN, f, "Start it: systemctl start forkd, or: forkd --socket PATH --store DIR.",
			     "no answer: %.250s", why);
	if (!client_probe(cli->client, "/v1/version", &a, why))
		return grade(GRADE_WARN, f, "Is this forkd's socket, and the token right?", "%.250s", why);
	a.text = strdup(a.body.text ? a.body.text : "");
	if (!a.text || json_parse(&a.json, a.text, strlen(a.text), &err) < 0)
		return grade(GRADE_WARN, f, "Is this forkd's socket?", "/v1/version does not answer in JSON");
	const char *version = member_text(a.json.nodes, "version", "?");
	if (strcmp(version, FORKD_VERSION) != 0)
		return grade(GRADE_WARN, f, "Restart the daemon after an upgrade: its clones go on.",
			     "forkd %.60s answers, this is forkctl %s", version, FORKD_VERSION);
	return grade(GRADE_OK, f, "", "forkd %.60s answers", version);
}

/* ---- a template ---- */

/* Asks a forkd-vmm of this host. */
static int compare_needs(const struct host_needs *needs, struct err *err)
{
	char path[4096], option[24];
	int ends[2], status;
	const struct timeval patience = { .tv_sec = 10 };

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) < 0 ||
	    setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		return err_sys(err, ERR_INTERNAL, "make a socket pair");
	find_vmm(path, sizeof(path));
	snprintf(option, sizeof(option), "fd=%d", ends[1]);
	pid_t pid = fork();
	if (pid == 0) {
		close(ends[0]);
		execlp(path, path, "--template-host", option, (char *)NULL);
		_exit(127);
	}
	close(ends[1]);
	autostrbuf struct strbuf request = {};
	autoctl struct ctl_packet p = {};
	ctl_request(&request, "check", host_needs_fields, needs, NULL);
	int r = ctl_send(ends[0], &request, NULL, 0, err);
	if (r == 0)
		r = ctl_recv(ends[0], &p, err);
	if (r > 0)
		r = ctl_parse_reply(&p, NULL, NULL, err);
	else if (r == 0 || r == -EAGAIN)
		r = err_set(err, ERR_INTERNAL, "%.200s does not answer", path);
	close(ends[0]); /* the child, which waits for that, ends */
	if (pid > 0)
		waitpid(pid, &status, 0);
	return r;
}

static enum grade grade_needs(const struct json_node *node, struct finding *f)
{
	struct host_needs needs;
	char line[ERR_MSG_BYTES];
	struct err err = {};

	fields_init(host_needs_fields, &needs);
	int r = fields_load(host_needs_fields, &needs, node, "needs", &err);
	if (r == 0)
		r = compare_needs(&needs, &err);
	fields_free(host_needs_fields, &needs);
	if (r == 0)
		return grade(GRADE_OK, f, "", "this host has all that its clones need");
	return grade(GRADE_FAIL, f,
		     err.code == ERR_HOST
			     ? "Clone it on a host that has that; GET /v1/templates/{name} lists all needs."
			     : "Make the other checks pass first.",
		     "%s", err_line(&err, line, sizeof(line)));
}

static enum grade check_template(struct cli *cli, struct finding *f)
{
	autoanswer struct answer a = {};
	autostrbuf struct strbuf path = {};
	struct err err = {};
	char why[256];

	path_add(&path, "/v1/templates/", args_option(cli->args, "template"));
	if (!client_probe(cli->client, path.text, &a, why))
		return grade(GRADE_FAIL, f, "Name a template that forkctl template list shows.", "%.250s", why);
	a.text = strdup(a.body.text ? a.body.text : "");
	if (!a.text || json_parse(&a.json, a.text, strlen(a.text), &err) < 0)
		return grade(GRADE_FAIL, f, "Is this forkd's socket?", "the daemon does not answer in JSON");
	const struct json_node *needs = json_get(a.json.nodes, "needs");
	if (!needs || needs->type != JSON_OBJECT)
		return grade(GRADE_WARN, f, "Import it again, then it says so.",
			     "it does not say what it needs: it is being built, or was made by an older forkd");
	return grade_needs(needs, f);
}

/* ---- the report ---- */

static const struct check checks[] = {
	{ "kvm", check_kvm },
	{ "virtualization", check_hardware },
	{ "kvm capabilities", check_capabilities },
	{ "io_uring", check_io_uring },
	{ "userfaultfd", check_userfaultfd },
	{ "tun", check_tun },
	{ "net admin", check_net_admin },
	{ "networks", doctor_networks },
	{ "network range", doctor_network_range },
	{ "firewalls", doctor_firewalls },
	{ "open files", check_nofile },
	{ "processes", check_pids },
	{ "memory", check_memory },
	{ "store", check_store },
	{ "forkd-vmm", check_vmm },
	{ "forkd", check_daemon },
	{ "template", check_template },
};

static void add_json(struct strbuf *out, const struct check *c, const char *result, const struct finding *f)
{
	body_raw(out, NULL, "{");
	body_text(out, "name", c->name);
	body_text(out, "result", result);
	body_text(out, "detail", f->detail);
	body_text(out, "fix", f->fix);
	strbuf_putc(out, '}');
}

static void print_line(const struct check *c, enum grade g, const struct finding *f)
{
	static const char *const words[] = { "ok  ", "warn", "FAIL" }, *const colours[] = { "32", "33", "31" };
	bool colour = isatty(STDOUT_FILENO) && !getenv("NO_COLOR");

	printf("%s%s%s%s%s  %-16s  ", colour ? "\033[" : "", colour ? colours[g] : "", colour ? "m" : "", words[g],
	       colour ? "\033[0m" : "", c->name);
	print_clean(stdout, f->detail);
	printf("\n%s%s%s", f->fix[0] ? "                        " : "", f->fix, f->fix[0] ? "\n" : "");
}

int doctor(struct cli *cli)
{
	static const char *const results[] = { "ok", "warn", "fail" };
	autostrbuf struct strbuf json = {};
	unsigned counts[3] = {};

	strbuf_puts(&json, "{\"checks\":[");
	for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
		struct finding f = {};
		if (checks[i].run == check_template && !args_option(cli->args, "template"))
			continue;
		enum grade g = checks[i].run(cli, &f);
		counts[g]++;
		if (cli->json)
			add_json(&json, &checks[i], results[g], &f);
		else
			print_line(&checks[i], g, &f);
	}
	if (cli->json)
		printf("%s],\"ok\":%s}\n", json.text, counts[GRADE_FAIL] ? "false" : "true");
	else
		printf("%u ok, %u to look at, %u missing\n", counts[GRADE_OK], counts[GRADE_WARN], counts[GRADE_FAIL]);
	return counts[GRADE_FAIL] ? EXIT_FAILED : EXIT_FINE;
}
