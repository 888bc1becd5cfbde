// SPDX-License-Identifier: Apache-2.0
/* One table of options drives the command line, the configuration file and --help. */
#include "forkd/options.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "common/ctl.h"

enum kind { STRING, LIST, MIB, PARK, LEVEL, FLAG, NETWORK, SLOTS, SLOTS_MAX, ACTION };

struct row {
	const char *name, *arg; /* arg NULL: takes none */
	const char *help;
	size_t offset; /* in struct forkd_options */
	enum kind kind;
	enum options_action action;
};

#define ROW(name_, arg_, kind_, member, help_)                                                                     \
	{                                                                                                          \
		.name = (name_), .arg = (arg_), .kind = (kind_), .offset = offsetof(struct forkd_options, member), \
		.help = (help_),                                                                                   \
	}
#define ACT(name_, action_, help_)                                                    \
	{                                                                             \
		.name = (name_), .kind = ACTION, .action = (action_), .help = (help_) \
	}

static const struct row rows[] = {
	ROW("socket", "PATH", STRING, socket,
	    "Serve the REST API on this unix socket. Default: forkd.sock in the runtime directory. A socket that systemd hands "
	    "over is used instead."),
	ROW("store", "DIR", STRING, store,
	    "Keep the templates here. Default: /var/lib/forkd; not as root: $XDG_DATA_HOME/forkd or ~/.local/share/forkd."),
	ROW("runtime-dir", "DIR", STRING, runtime_dir,
	    "Keep the sockets, logs and records of running clones here; a restarted daemon finds its clones in it. Default: "
	    "/run/forkd; not as root: $XDG_RUNTIME_DIR/forkd."),
	ROW("config", "FILE", STRING, config,
	    "Read options from this file: lines of 'name = value' with the names of this list, '#' begins a comment. The command "
	    "line wins."),
	ROW("listen", "ADDR:PORT", STRING, listen,
	    "Serve the REST API on TCP too, at an address in digits. Needs --token-file."),
	ROW("token-file", "FILE", STRING, token_file,
	    "One line: the token that TCP clients send as 'Authorization: Bearer TOKEN'. Its mode must be 0600 or less."),
	ROW("tls-cert", "FILE", STRING, tls_cert, "Serve TCP with TLS: the certificate and its chain, PEM."),
	ROW("tls-key", "FILE", STRING, tls_key, "The certificate's private key, PEM."),
	ROW("insecure-plain-http", NULL, FLAG, insecure_plain_http,
	    "Let --listen name an address that is not loopback without TLS: everybody on the way can read the token."),
	ROW("allow-path", "DIR", LIST, allow_paths,
	    "Let clients that are neither root nor the daemon's user name host paths below this directory. May be given more than "
	    "once; those of the file count too."),
	ROW("vmm", "PATH", STRING, vmm, "The program forkd-vmm. Default: the one beside forkd, else the one in PATH."),
	ROW("socket-group", "GROUP", STRING, socket_group,
	    "The group, by name or number, that may use the socket. Default: the daemon's."),
	ROW("memory-reserve", "MIB", MIB, memory_reserve_mib,
	    "Refuse clones that would leave the host less free memory than this. Default: 256."),
	ROW("park", "N", PARK, park,
	    "Keep so many clones of each template that is in use ready to run, 0 to 64: about 1 MiB of memory each. Default: 2."),
	ROW("network", "auto|on|off", NETWORK, network,
	    "Give each clone a network of its own: addresses, a way out, a resolver. off: a bare tap. Default: auto, on where the host "
	    "can."),
	ROW("network-slots", "N", SLOTS, network_slots,
	    "Make so many networks ahead, at the start. Default: 8, when the first clone wants one."),
	ROW("network-slots-max", "N", SLOTS_MAX, network_slots_max,
	    "At most so many networks at a time. Default: 1024."),
	ROW("network-range", "CIDR", STRING, network_range,
	    "The IPv4 addresses of the networks on the host, two for each. Default: 10.201.0.0/16, or the next free one."),
	ROW("network-inner", "ADDR/BITS", STRING, network_inner,
	    "The address of each guest's gateway; the guest has the next one. Default: 172.16.0.1/30."),
	ROW("log-level", "LEVEL", LEVEL, log_level,
	    "error, warn, info or debug. Default: info. The log goes to stderr."),
	ACT("version", OPTIONS_VERSION, "Print the version."),
	ACT("help", OPTIONS_HELP, "Print this text."),
};

static const char *const level_names[] = { "error", "warn", "info", "debug" };

static const struct row *find_row(const char *name, size_t len)
{
	for (const struct row *r = rows; r < rows + ARRAY_LEN(rows); r++)
		if (strlen(r->name) == len && strncmp(r->name, name, len) == 0)
			return r;
	return NULL;
}

/* ---- values ---- */

static int set_string(char **member, const char *value, struct err *err)
{
	char *copy = strdup(value);

	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the options");
	free(*member);
	*member = copy;
	return 0;
}

static int add_path(struct forkd_options *opt, const char *value, struct err *err)
{
	char **paths = reallocarray(opt->allow_paths, opt->n_allow_paths + 1, sizeof(*paths));

	if (!paths)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the options");
	opt->allow_paths = paths;
	paths[opt->n_allow_paths] = NULL;
	return set_string(&paths[opt->n_allow_paths++], value, err);
}

static int set_number(uint32_t *member, const char *value, uint32_t max, const char *what, struct err *err)
{
	char *end;

	errno = 0;
	unsigned long n = strtoul(value, &end, 10);
	if (*value < '0' || *value > '9' || *end || errno || n > max)
		return err_set(err, ERR_INVALID, "'%s' is no number of %s", value, what);
	*member = (uint32_t)n;
	return 0;
}

static int set_level(enum log_level *member, const char *value, struct err *err)
{
	for (unsigned i = 0; i < ARRAY_LEN(level_names); i++) {
		if (strcmp(value, level_names[i]) == 0) {
			*member = (enum log_level)i;
			return 0;
		}
	}
	return err_set(err, ERR_INVALID, "'%s' is none of error, warn, info, debug", value);
}

static int set_network(uint8_t *member, const char *value, struct err *err)
{
	static const char *const names[] = { "auto", "on", "off" };

	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		if (strcmp(value, names[i]) == 0) {
			*member = (uint8_t)i;
			return 0;
		}
	}
	return err_set(err, ERR_INVALID, "'%s' is none of auto, on, off", value);
}

static int set_flag(bool *member, const char *value, struct err *err)
{
	if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
		return err_set(err, ERR_INVALID, "'%s' is neither true nor false", value);
	*member = value[0] == 't';
	return 0;
}

static int set(struct forkd_options *opt, const struct row *r, const char *value, struct err *err)
{
	void *member = (char *)opt + r->offset;

	if (*value == '\0')
		return err_set(err, ERR_INVALID, "the value is empty");
	switch (r->kind) {
	case STRING:
		return set_string(member, value, err);
	case LIST:
		return add_path(opt, value, err);
	case MIB:
		return set_number(member, value, UINT32_MAX, "MiB", err);
	case PARK:
		return set_number(member, value, CTL_PARK_MAX, "clones from 0 to 64", err);
	case NETWORK:
		return set_network(member, value, err);
	case SLOTS:
		opt->has_network_slots = true;
		return set_number(member, value, NETWORK_SLOTS_LIMIT, "networks from 0 to 16384", err);
	case SLOTS_MAX:
		return set_number(member, value, NETWORK_SLOTS_LIMIT, "networks from 0 to 16384", err);
	case LEVEL:
		return set_level(member, value, err);
	case FLAG:
		return set_flag(member, value, err);
	case ACTION:
		opt->action = r->action;
		break;
	}
	return 0;
}

/* ---- the command line ---- */

static int parse_args(int argc, char *const *argv, struct forkd_options *opt, bool *given, struct err *err)
{
	for (int i = 1; i < argc; i++) {
		const char *name = argv[i] + 2, *value = NULL;
		if (strncmp(argv[i], "--", 2) != 0)
			return err_set(err, ERR_INVALID, "unexpected argument '%s'", argv[i]);
		size_t len = strcspn(name, "=");
		const struct row *r = find_row(name, len);
		if (!r)
			return err_set(err, ERR_INVALID, "unknown option '--%.*s'", (int)len, name);
		if (name[len] == '=')
			value = name + len + 1;
		else if (r->arg)
			value = i + 1 < argc ? argv[++i] : NULL;
		if (r->arg && !value)
			return err_set(err, ERR_INVALID, "option '--%s' needs a value", r->name);
		if (!r->arg && value)
			return err_set(err, ERR_INVALID, "option '--%s' takes no value", r->name);
		if (given[r - rows] && r->kind != LIST)
			return err_set(err, ERR_INVALID, "option '--%s' is given twice", r->name);
		given[r - rows] = true;
		if (set(opt, r, value ? value : "true", err) < 0)
			return err_wrap(err, "--%s", r->name);
	}
	return 0;
}

/* ---- the file ---- */

static char *trim(char *text)
{
	text += strspn(text, " \t\r\n");
	size_t len = strlen(text);
	while (len > 0 && strchr(" \t\r\n", text[len - 1]))
		len--;
	text[len] = '\0';
	return text;
}

/* `given` by the command line; `seen` in the file already. */
static int parse_line(char *line, struct forkd_options *opt, const bool *given, bool *seen, struct err *err)
{
	char *value = strchr(line, '='), *name = trim(line);

	if (*name == '\0' || *name == '#')
		return 0;
	if (!value)
		return err_set(err, ERR_INVALID, "'%s': must be 'name = value'", name);
	*value++ = '\0';
	name = trim(name);
	const struct row *r = find_row(name, strlen(name));
	if (!r || r->kind == ACTION || strcmp(name, "config") == 0)
		return err_set(err, ERR_INVALID, "unknown key '%s'", name);
	if (seen[r - rows] && r->kind != LIST)
		return err_set(err, ERR_INVALID, "key '%s' is there twice", name);
	seen[r - rows] = true;
	if (given[r - rows] && r->kind != LIST)
		return 0;
	return set(opt, r, trim(value), err) < 0 ? err_wrap(err, "%s", name) : 0;
}

static void close_file(FILE **file)
{
	if (*file)
		fclose(*file);
}

static int parse_file(struct forkd_options *opt, const bool *given, struct err *err)
{
	__attribute__((cleanup(close_file))) FILE *file = fopen(opt->config, "re");
	bool seen[ARRAY_LEN(rows)] = {};
	char line[4096];

	if (!file)
		return err_sys(err, ERR_INVALID, "open configuration file '%s'", opt->config);
	for (unsigned n = 1; fgets(line, sizeof(line), file); n++) {
		if (strlen(line) == sizeof(line) - 1)
			return err_set(err, ERR_INVALID, "%s:%u: the line has more than %zu characters", opt->config, n,
				       sizeof(line) - 2);
		if (parse_line(line, opt, given, seen, err) < 0)
			return err_wrap(err, "%s:%u", opt->config, n);
	}
	return ferror(file) ? err_sys(err, ERR_INVALID, "read configuration file '%s'", opt->config) : 0;
}

/* ---- defaults ---- */

static int join(char **member, const char *dir, const char *name, struct err *err)
{
	if (asprintf(member, "%s/%s", dir, name) < 0) {
		*member = NULL;
		return err_num(err, ERR_INTERNAL, ENOMEM, "read the options");
	}
	return 0;
}

static int default_store(struct forkd_options *opt, struct err *err)
{
	const char *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");

	if (geteuid() == 0)
		return set_string(&opt->store, "/var/lib/forkd", err);
	if (data && *data == '/')
		return join(&opt->store, data, "forkd", err);
	if (home && *home == '/')
		return join(&opt->store, home, ".local/share/forkd", err);
	return err_set(err, ERR_INVALID, "--store is needed: there is no HOME");
}

static int default_runtime(struct forkd_options *opt, struct err *err)
{
	const char *dir = getenv("XDG_RUNTIME_DIR");

	if (geteuid() == 0)
		return set_string(&opt->runtime_dir, "/run/forkd", err);
	if (dir && *dir == '/')
		return join(&opt->runtime_dir, dir, "forkd", err);
	return err_set(err, ERR_INVALID, "--runtime-dir is needed: there is no XDG_RUNTIME_DIR");
}

/* forkd-vmm beside this program. False: not there. */
static bool vmm_beside(char path[PATH_MAX])
{
	ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);

	if (n <= 0)
		return false;
	path[n] = '\0';
	char *slash = strrchr(path, '/');
	if (!slash || (size_t)(slash - path) + sizeof("/forkd-vmm") > PATH_MAX)
		return false;
	memcpy(slash, "/forkd-vmm", sizeof("/forkd-vmm"));
	return access(path, X_OK) == 0;
}

static bool vmm_in_path(char path[PATH_MAX])
{
	const char *dirs = getenv("PATH");

	while (dirs && *dirs) {
		size_t len = strcspn(dirs, ":");
		if (len > 0 && snprintf(path, PATH_MAX, "%.*s/forkd-vmm", (int)len, dirs) < PATH_MAX &&
		    access(path, X_OK) == 0)
			return true;
		dirs += len + (dirs[len] == ':');
	}
	return false;
}

static int default_vmm(struct forkd_options *opt, struct err *err)
{
	char path[PATH_MAX];

	if (!vmm_beside(path) && !vmm_in_path(path))
		return err_set(err, ERR_INVALID, "forkd-vmm is neither beside forkd nor in PATH: give --vmm");
	return set_string(&opt->vmm, path, err);
}

static int add_defaults(struct forkd_options *opt, struct err *err)
{
	if (!opt->store && default_store(opt, err) < 0)
		return err->num;
	if (!opt->runtime_dir && default_runtime(opt, err) < 0)
		return err->num;
	if (!opt->socket && join(&opt->socket, opt->runtime_dir, "forkd.sock", err) < 0)
		return err->num;
	if (!opt->vmm && default_vmm(opt, err) < 0)
		return err->num;
	if (opt->listen && !opt->token_file)
		return err_set(err, ERR_INVALID, "--listen '%s' needs --token-file", opt->listen);
	if (opt->token_file && !opt->listen)
		return err_set(err, ERR_INVALID, "--token-file without --listen has no use");
	if ((opt->tls_cert || opt->tls_key) && !opt->listen)
		return err_set(err, ERR_INVALID, "--tls-cert and --tls-key without --listen have no use");
	return 0;
}

int options_parse(int argc, char *const *argv, struct forkd_options *opt, struct err *err)
{
	bool given[ARRAY_LEN(rows)] = {};

	opt->memory_reserve_mib = 256;
	opt->park = 2;
	opt->network_slots = 8;
	opt->network_slots_max = 1024;
	opt->log_level = LOG_INFO;
	if (parse_args(argc, argv, opt, given, err) < 0)
		return err->num;
	if (opt->action != OPTIONS_RUN)
		return 0;
	if (opt->config && parse_file(opt, given, err) < 0)
		return err->num;
	return add_defaults(opt, err);
}

void options_done(struct forkd_options *opt)
{
	for (const struct row *r = rows; r < rows + ARRAY_LEN(rows); r++)
		if (r->kind == STRING)
			free(*(char **)(void *)((char *)opt + r->offset));
	for (uint32_t i = 0; i < opt->n_allow_paths; i++)
		free(opt->allow_paths[i]);
	free(opt->allow_paths);
	*opt = (struct forkd_options){};
}

/* The text in lines of 70 characters, indented. */
static void print_wrapped(FILE *out, const char *text)
{
	enum { WIDTH = 70 };

	while (*text) {
		size_t len = strlen(text);
		if (len > WIDTH)
			for (len = WIDTH; len > 0 && text[len] != ' '; len--)
				;
		fprintf(out, "        %.*s\n", (int)len, text);
		text += len + (text[len] == ' ');
	}
}

void options_help(FILE *out)
{
	fputs("Usage: forkd [OPTION]...\n"
	      "Keeps templates of virtual machines and turns them into running clones.\n\n",
	      out);
	for (const struct row *r = rows; r < rows + ARRAY_LEN(rows); r++) {
		fprintf(out, "  --%s%s%s\n", r->name, r->arg ? " " : "", r->arg ? r->arg : "");
		print_wrapped(out, r->help);
	}
	fputs("\nClones go on running when forkd ends; the next one takes them back.\n"
	      "Exit status: 0 stopped by a signal, 1 failure, 2 wrong options.\n",
	      out);
}
