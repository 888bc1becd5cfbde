// SPDX-License-Identifier: Apache-2.0
/*
 * argv is read in two steps. First one table tells the options and their values apart: mistakes there
 * are usage errors. Then each option string is parsed by the field table of the struct that the string
 * describes.
 */
#include "vmm/config/cmdline.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

enum arg_kind {
	ARG_FLAG,
	ARG_STRING,
	ARG_PAYLOAD,
	ARG_FIELDS,
	ARG_ENDPOINT,
	ARG_CONSOLE,
	ARG_DISK,
	ARG_NET,
	ARG_BALLOON,
	ARG_VSOCK,
	ARG_PLATFORM
};
enum arg_flags {
	A_VM = 1,     /* describes a machine to boot */
	A_MANY = 2,   /* takes several values */
	A_REPEAT = 4, /* may be given several times */
	A_BARE = 8,   /* a path alone will do */
};
enum { NOT_GIVEN = UINT8_MAX }; /* an enum that no option string has named yet */

struct arg {
	const char *name;
	const char *value;          /* what the help shows after the option; NULL: the option has no value */
	const char *help;           /* lines end at '\n' */
	const struct field *fields; /* of an option string */
	size_t offset; /* of the struct or string in struct cmdline; ARG_PAYLOAD: in struct payload_config */
	uint8_t kind, flags;
	char letter;
};

struct given {
	const struct arg *arg;
	const char *value;
};

static const char *const seccomp_modes[] = { "true", "false", "log", "errno", NULL };

static const struct field endpoint_fields[] = {
	F(struct endpoint, path, .opt = "path"),
	F_OPT(struct endpoint, fd, .opt = "fd"),
	F_END,
};

static const struct field seccomp_fields[] = {
	F_ENUM(struct cmdline, seccomp, seccomp_modes, .opt = "", .flags = F_WORD),
	F_END,
};

#define AT(member) .offset = offsetof(struct cmdline, member)
#define IN_PAYLOAD(member) .kind = ARG_PAYLOAD, .offset = offsetof(struct payload_config, member)

static const struct arg args[] = {
	{ "kernel", "FILE", "Linux kernel: a bzImage, or an ELF file with a PVH entry", .flags = A_VM,
	  IN_PAYLOAD(kernel) },
	{ "initramfs", "FILE", "initial RAM disk", .flags = A_VM, IN_PAYLOAD(initramfs) },
	{ "cmdline", "TEXT", "the kernel's command line", .flags = A_VM, IN_PAYLOAD(cmdline) },
	{ "cpus", "KEYS",
	  "virtual CPUs: boot=1 max=(boot) topology=threads:cores:dies:packages\n"
	  "affinity=[0@[1,2],1@[3]] max_phys_bits=46 nested=on",
	  cpus_fields, AT(config.cpus), ARG_FIELDS, A_VM },
	{ "memory", "KEYS", "RAM: size=512M mergeable=off prefault=off reserve=off thp=on", memory_fields,
	  AT(config.memory), ARG_FIELDS, A_VM },
	{ "disk", "KEYS [KEYS …]",
	  "block devices (raw images): path=FILE readonly=off direct=off num_queues=1\n"
	  "queue_size=128 id= serial= pci_device_id= sparse=on image_type=raw\n"
	  "lock_granularity=byte-range|full",
	  disk_fields, .kind = ARG_DISK, .flags = A_VM | A_MANY | A_REPEAT },
	{ "net", "KEYS [KEYS …]",
	  "network devices: tap=NAME (default: a new one) or fd=[N,…] (inherited)\n"
	  "mac= host_mac= ip= mask= mtu= num_queues=2 queue_size=256 id= pci_device_id=\n"
	  "offload_tso=on offload_ufo=on offload_csum=on",
	  net_fields, .kind = ARG_NET, .flags = A_VM | A_MANY | A_REPEAT },
	{ "rng", "KEYS", "entropy device: src=/dev/urandom", rng_fields, AT(config.rng), ARG_FIELDS, A_VM },
	{ "balloon", "KEYS",
	  "balloon, by which the guest gives memory back: size=0 deflate_on_oom=off\n"
	  "free_page_reporting=off id= pci_device_id=",
	  balloon_fields, .kind = ARG_BALLOON, .flags = A_VM },
	{ "vsock", "KEYS",
	  "streams between guest and host: cid=N socket=PATH (the host's end: connect and say\n"
	  "CONNECT PORT; the guest's connections go to PATH_PORT) id= pci_device_id=",
	  vsock_fields, .kind = ARG_VSOCK, .flags = A_VM },
	{ "platform", "KEYS",
	  "vmgenid=off (on: the guest notices that it was restored, and reseeds its random numbers)", platform_fields,
	  .kind = ARG_PLATFORM, .flags = A_VM },
	{ "serial", "WHERE", "port 0x3f8 (ttyS0): off, null (default), pty, tty, file=FILE or socket=PATH",
	  serial_fields, AT(config.serial), ARG_CONSOLE, A_VM },
	{ "console", "WHERE", "virtio console (hvc0): off, null, pty, tty (default) or file=FILE", console_fields,
	  AT(config.console), ARG_CONSOLE, A_VM },
	{ "debug-console", "off", "there is none; for compatibility", debug_console_fields, AT(config.debug_console),
	  ARG_FIELDS, A_VM },
	{ "restore", "KEYS",
	  "continue from a snapshot: source_url=file:///DIR resume=off prefault=off\n"
	  "memory_restore_mode=copyonwrite|ondemand|copy net_fds=[ID@[FD,FD],…]\n"
	  "clock=advance|continue (the guest's clocks jump by the snapshot's age, or not)",
	  restore_config_fields, AT(restore), ARG_FIELDS, A_MANY },
	{ "api-socket", "PATH", "serve the REST API on a unix socket: PATH, path=PATH, or fd=N (listening)",
	  endpoint_fields, AT(api_socket), ARG_ENDPOINT, A_BARE },
	{ "event-monitor", "WHERE", "write what happens to the machine, as JSON: path=FILE or fd=N", endpoint_fields,
	  AT(event_monitor), ARG_ENDPOINT },
	{ "template-host", "fd=N", "used by forkd: fork clones of one template, on request", endpoint_fields,
	  AT(template_host), ARG_ENDPOINT },
	{ "control", "fd=N", "used by forkd: serve its control socket (listening)", endpoint_fields, AT(control),
	  ARG_ENDPOINT },
	{ "control-id", "NAME", "used by forkd: the VM's name in the log", .kind = ARG_STRING, AT(control_id) },
	{ "log-file", "FILE", "log to FILE instead of stderr", .kind = ARG_STRING, AT(log_file) },
	{ "seccomp", "MODE", "true, false, log or errno; for compatibility", seccomp_fields, .kind = ARG_FIELDS },
	{ "verbose", NULL, "log more: once for information, twice for everything", .letter = 'v', .flags = A_REPEAT },
	{ "version", NULL, "print the version", .letter = 'V' },
	{ "help", NULL, "print this text", .letter = 'h' },
};

/* Options of Cloud Hypervisor that this program does not have. */
static const char *const unsupported[] = {
	"device",  "firmware",    "fs",          "fw-cfg-config",  "gdb",        "generic-vhost-user", "host-data",
	"igvm",    "ivshmem",     "landlock",    "landlock-rules", "log-format", "memory-zone",        "no-shutdown",
	"numa",    "pci-segment", "pmem",        "pvmemcontrol",   "pvpanic",    "rate-limit-group",   "rtc",
	"sgx-epc", "tpm",         "user-device", "vdpa",           "watchdog",
};

/* ---- step one: options ---- */

static const struct arg *find_arg(const char *name, size_t len)
{
	for (unsigned i = 0; i < ARRAY_LEN(args); i++)
		if (strlen(args[i].name) == len && memcmp(args[i].name, name, len) == 0)
			return &args[i];
	return NULL;
}

static int unknown_option(const char *name, size_t len, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_LEN(unsupported); i++)
		if (strlen(unsupported[i]) == len && memcmp(unsupported[i], name, len) == 0)
			return err_set(err, ERR_INVALID, "'--%s' of Cloud Hypervisor is not supported by this program",
				       unsupported[i]);
	return err_set(err, ERR_INVALID, "unexpected argument '--%.*s' found", (int)len, name);
}

static void take_flag(struct cmdline *cl, char letter)
{
	if (letter == 'v')
		cl->verbosity += cl->verbosity < UINT8_MAX;
	else if (cl->action == CMDLINE_RUN)
		cl->action = letter == 'h' ? CMDLINE_HELP : CMDLINE_VERSION;
}

/* -v, -vvv, -Vv … */
static int take_letters(struct cmdline *cl, const char *text, struct err *err)
{
	for (const char *c = text + 1; *c; c++) {
		if (!strchr("vVh", *c))
			return err_set(err, ERR_INVALID, "unexpected argument '%s' found", text);
		take_flag(cl, *c);
	}
	return 0;
}

static bool is_option(const char *text)
{
	return text[0] == '-' && text[1];
}

static bool was_given(const struct given *given, unsigned n, const struct arg *arg)
{
	for (unsigned i = 0; i < n; i++)
		if (given[i].arg == arg)
			return true;
	return false;
}

/* Takes the option at argv[*i] and the option's values. *i moves to the last argument taken. */
static int take_option(struct cmdline *cl, char *const *argv, int *i, struct given *given, unsigned *n, struct err *err)
{
	const char *name = argv[*i] + 2, *equals = strchr(name, '=');
	size_t len = equals ? (size_t)(equals - name) : strlen(name);
	const struct arg *arg = find_arg(name, len);

	if (!arg)
		return unknown_option(name, len, err);
	if (arg->kind == ARG_FLAG) {
		if (equals)
			return err_set(err, ERR_INVALID, "'--%s' takes no value", arg->name);
		take_flag(cl, arg->letter);
		return 0;
	}
	if (!(arg->flags & A_REPEAT) && was_given(given, *n, arg))
		return err_set(err, ERR_INVALID, "the argument '--%s' cannot be used multiple times", arg->name);
	if (equals) {
		given[(*n)++] = (struct given){ arg, equals + 1 };
		return 0;
	}
	if (!argv[*i + 1] || is_option(argv[*i + 1]))
		return err_set(err, ERR_INVALID, "a value is required for '--%s' but none was supplied", arg->name);
	do
		given[(*n)++] = (struct given){ arg, argv[++*i] };
	while ((arg->flags & A_MANY) && argv[*i + 1] && !is_option(argv[*i + 1]));
	return 0;
}

/* Which options go together. */
static int check_options(struct cmdline *cl, const struct given *given, unsigned n, struct err *err)
{
	const char *vm = NULL;

	for (unsigned i = 0; i < n && !vm; i++)
		vm = (given[i].arg->flags & A_VM) ? given[i].arg->name : NULL;
	cl->has_vm = was_given(given, n, find_arg("kernel", 6));
	cl->has_restore = was_given(given, n, find_arg("restore", 7));
	if (cl->has_restore && vm)
		return err_set(err, ERR_INVALID,
			       "'--%s' cannot be used with '--restore': the snapshot says what the "
			       "machine is",
			       vm);
	if (vm && !cl->has_vm)
		return err_set(err, ERR_INVALID, "'--%s' needs '--kernel'", vm);
	if (was_given(given, n, find_arg("template-host", 13)) || was_given(given, n, find_arg("control", 7)))
		return 0;
	if (!cl->has_vm && !cl->has_restore && !was_given(given, n, find_arg("api-socket", 10)))
		return err_set(err, ERR_INVALID, "nothing to do: give '--kernel', '--restore' or '--api-socket'");
	return 0;
}

/* ---- step two: option strings ---- */

static int take_string(char **dst, const char *value, struct err *err)
{
	free(*dst);
	*dst = strdup(value);
	return *dst ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "parse '%.64s'", value);
}

static int parse_endpoint(const struct arg *arg, struct endpoint *at, const char *value, struct err *err)
{
	bool keyed = strncmp(value, "path=", 5) == 0 || strncmp(value, "fd=", 3) == 0;

	if (!keyed && (arg->flags & A_BARE) && value[0])
		return take_string(&at->path, value, err);
	if (fields_parse_options(arg->fields, at, value, err) < 0)
		return err->num;
	if (!at->path != at->has_fd)
		return err_set(err, ERR_INVALID, "one of path and fd is needed");
	return 0;
}

static int parse_console(const struct arg *arg, struct console_config *c, const char *value, struct err *err)
{
	c->mode = NOT_GIVEN;
	if (fields_parse_options(arg->fields, c, value, err) < 0)
		return err->num;
	if (c->mode == NOT_GIVEN)
		c->mode = c->file ? CONSOLE_FILE : c->socket ? CONSOLE_SOCKET : NOT_GIVEN;
	return c->mode == NOT_GIVEN ? err_set(err, ERR_INVALID, "Invalid console mode given") : 0;
}

static int parse_disk(struct vm_config *c, const char *value, struct err *err)
{
	struct disk_config *disks = reallocarray(c->disks, c->n_disks + 1UL, sizeof(*disks));

	if (!disks)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse '%.64s'", value);
	c->disks = disks;
	fields_init(disk_fields, &disks[c->n_disks]);
	return fields_parse_options(disk_fields, &disks[c->n_disks++], value, err);
}

static int parse_net(struct vm_config *c, const char *value, struct err *err)
{
	struct net_config *net = reallocarray(c->net, c->n_net + 1UL, sizeof(*net));

	if (!net)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse '%.64s'", value);
	c->net = net;
	fields_init(net_fields, &net[c->n_net]);
	return fields_parse_options(net_fields, &net[c->n_net++], value, err);
}

static int parse_balloon(struct vm_config *c, const char *value, struct err *err)
{
	c->balloon = calloc(1, sizeof(*c->balloon)); /* the option comes once */
	return c->balloon ? fields_parse_options(balloon_fields, c->balloon, value, err)
			  : err_num(err, ERR_INTERNAL, ENOMEM, "parse '%.64s'", value);
}

static int parse_vsock(struct vm_config *c, const char *value, struct err *err)
{
	c->vsock = calloc(1, sizeof(*c->vsock)); /* the option comes once */
	if (!c->vsock)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse '%.64s'", value);
	if (fields_parse_options(vsock_fields, c->vsock, value, err) < 0)
		return err->num;
	if (!c->vsock->socket)
		return err_set(err, ERR_INVALID, "socket missing");
	return c->vsock->cid ? 0 : err_set(err, ERR_INVALID, "cid missing");
}

static int parse_platform(struct vm_config *c, const char *value, struct err *err)
{
	c->platform = malloc(sizeof(*c->platform)); /* the option comes once */
	if (!c->platform)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse '%.64s'", value);
	fields_init(platform_fields, c->platform);
	return fields_parse_options(platform_fields, c->platform, value, err);
}

static int parse_argument(struct cmdline *cl, const struct arg *arg, const char *value, struct err *err)
{
	char *at = (char *)cl + arg->offset;

	switch (arg->kind) {
	case ARG_PAYLOAD:
		at = (char *)cl->config.payload + arg->offset;
		return take_string((char **)(void *)at, value, err);
	case ARG_STRING:
		return take_string((char **)(void *)at, value, err);
	case ARG_CONSOLE:
		return parse_console(arg, (struct console_config *)(void *)at, value, err);
	case ARG_DISK:
		return parse_disk(&cl->config, value, err);
	case ARG_NET:
		return parse_net(&cl->config, value, err);
	case ARG_BALLOON:
		return parse_balloon(&cl->config, value, err);
	case ARG_VSOCK:
		return parse_vsock(&cl->config, value, err);
	case ARG_PLATFORM:
		return parse_platform(&cl->config, value, err);
	case ARG_ENDPOINT:
		return parse_endpoint(arg, (struct endpoint *)(void *)at, value, err);
	default:
		return fields_parse_options(arg->fields, at, value, err);
	}
}

/* Was the descriptor named before rc->net_fds[i].fds[k]? */
static bool fd_before(const struct restore_config *rc, uint32_t i, uint32_t k)
{
	int32_t fd = rc->net_fds[i].fds[k];

	for (uint32_t a = 0; a <= i; a++)
		for (uint32_t b = 0; b < (a < i ? rc->net_fds[a].n_fds : k); b++)
			if (rc->net_fds[a].fds[b] == fd)
				return true;
	return false;
}

/* Each descriptor is handed over once; 0 to 2 are this program's own. */
static int check_net_fds(struct restore_config *rc, struct err *err)
{
	for (uint32_t i = 0; i < rc->n_net_fds; i++) {
		struct restored_net *net = &rc->net_fds[i];
		net->num_fds = net->n_fds;
		for (uint32_t k = 0; k < net->n_fds; k++) {
			if (net->fds[k] <= 2)
				return err_set(err, ERR_INVALID, "Reserved fd number (<= 2): %d", net->fds[k]);
			if (fd_before(rc, i, k))
				return err_set(err, ERR_INVALID, "descriptor %d is given twice", net->fds[k]);
		}
	}
	return 0;
}

static int finish_restore(struct restore_config *rc, struct err *err)
{
	if (rc->memory_restore_mode == NOT_GIVEN) /* only Copy can prefault */
		rc->memory_restore_mode = rc->prefault ? RESTORE_COPY : RESTORE_COPYONWRITE;
	if (!rc->source_url)
		return err_set(err, ERR_INVALID, "source_url is missing");
	return check_net_fds(rc, err);
}

static int not_parsed(const char *name, unsigned flags, struct err *err)
{
	err_wrap(err, "Error parsing --%s", name);
	if (flags & A_VM)
		return err_wrap(err, "Error parsing config");
	return strcmp(name, "restore") == 0 ? err_wrap(err, "Error parsing restore") : err->num;
}

static int parse_values(struct cmdline *cl, const struct given *given, unsigned n, struct err *err)
{
	if (cl->has_vm) {
		cl->config.payload = calloc(1, sizeof(*cl->config.payload));
		if (!cl->config.payload)
			return err_num(err, ERR_INTERNAL, ENOMEM, "parse the command line");
	}
	cl->config.cpus.max_vcpus = 0; /* 0 is no valid number: "max" was not given */
	if (cl->has_restore)
		cl->restore.memory_restore_mode = NOT_GIVEN;
	for (unsigned i = 0; i < n; i++)
		if (parse_argument(cl, given[i].arg, given[i].value, err) < 0)
			return not_parsed(given[i].arg->name, given[i].arg->flags, err);
	if (cl->config.cpus.max_vcpus == 0)
		cl->config.cpus.max_vcpus = cl->config.cpus.boot_vcpus;
	if (cl->has_restore && finish_restore(&cl->restore, err) < 0)
		return not_parsed("restore", 0, err);
	if (cl->has_vm && vm_config_check(&cl->config, err) < 0) {
		err_wrap(err, "Error validating configuration");
		return err_wrap(err, "Error parsing config");
	}
	return 0;
}

int cmdline_parse(int argc, char *const *argv, struct cmdline *cl, struct err *err)
{
	unsigned n = 0;

	*cl = (struct cmdline){ .exit_code = EXIT_USAGE };
	vm_config_init(&cl->config);
	fields_init(restore_config_fields, &cl->restore);
	autofree struct given *given = calloc((size_t)argc + 1, sizeof(*given));
	if (!given)
		return err_num(err, ERR_INTERNAL, ENOMEM, "parse the command line");
	for (int i = 1; i < argc; i++) {
		if (!utf8_valid(argv[i]))
			return err_set(err, ERR_INVALID, "argument %d is not valid UTF-8", i);
	}
	for (int i = 1; i < argc; i++) {
		int r = strncmp(argv[i], "--", 2) == 0 ? take_option(cl, argv, &i, given, &n, err)
			: is_option(argv[i])           ? take_letters(cl, argv[i], err)
					     : err_set(err, ERR_INVALID, "unexpected argument '%s' found", argv[i]);
		if (r < 0)
			return r;
	}
	if (cl->action != CMDLINE_RUN)
		return 0;
	if (check_options(cl, given, n, err) < 0)
		return err->num;
	cl->exit_code = 1;
	return parse_values(cl, given, n, err);
}

void cmdline_free(struct cmdline *cl)
{
	vm_config_free(&cl->config);
	fields_free(restore_config_fields, &cl->restore);
	fields_free(endpoint_fields, &cl->api_socket);
	fields_free(endpoint_fields, &cl->event_monitor);
	fields_free(endpoint_fields, &cl->template_host);
	fields_free(endpoint_fields, &cl->control);
	free(cl->control_id);
	cl->control_id = NULL;
	free(cl->log_file);
	cl->log_file = NULL;
}

void cmdline_help(FILE *out)
{
	fputs("Runs one virtual machine, or continues one from a snapshot.\n\n"
	      "Usage: forkd-vmm --kernel FILE [OPTIONS]                 boot a machine\n"
	      "       forkd-vmm --restore source_url=file:///DIR,…      continue from a snapshot\n"
	      "       forkd-vmm --api-socket PATH                       wait for requests\n\n"
	      "KEYS is key=value,key=value; shown with their defaults. Sizes take K, M or G, toggles on or off,\n"
	      "lists [0,2-4]; \"…\" protects commas. Options are those of Cloud Hypervisor.\n\nOptions:\n",
	      out);
	for (unsigned i = 0; i < ARRAY_LEN(args); i++) {
		const struct arg *arg = &args[i];
		if (arg->letter)
			fprintf(out, "  -%c, ", arg->letter);
		fprintf(out, "%s--%s%s%s\n", arg->letter ? "" : "  ", arg->name, arg->value ? " " : "",
			arg->value ? arg->value : "");
		for (const char *line = arg->help; line;) {
			int len = (int)strcspn(line, "\n");
			fprintf(out, "          %.*s\n", len, line);
			line = line[len] ? line + len + 1 : NULL;
		}
	}
}
