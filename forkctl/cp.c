// SPDX-License-Identifier: Apache-2.0
/* forkctl cp: what goes where. */
#include "forkctl/cp.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "common/clock.h"
#include "forkctl/table.h"
#include "forkctl/terminal.h"
#include "forkctl/transfer.h"

enum { SHOW_FROM_BYTES = 4 << 20, SHOW_EVERY_MS = 200 };

const struct option_row cp_options[] = {
	{ "user", "USER", "read and write in the guest as this user; default root", 'u', false },
	{ NULL, NULL, NULL, 0, false },
};

/* ---- progress ---- */

void progress_show(struct progress *p, uint64_t done)
{
	char so_far[UNIT_TEXT], total[UNIT_TEXT], rate[UNIT_TEXT];
	uint64_t now = monotonic_ns();

	if (!p->begun_ns) {
		p->begun_ns = p->shown_ns = now;
		p->terminal = isatty(STDERR_FILENO);
	}
	if (!p->terminal || (p->total ? p->total : done) < SHOW_FROM_BYTES ||
	    now - p->shown_ns < SHOW_EVERY_MS * 1000000ULL)
		return;
	p->shown_ns = now;
	p->shown = true;
	fprintf(stderr, "\r");
	print_clean(stderr, p->name);
	fprintf(stderr, ": %s", format_bytes(so_far, done));
	if (p->total)
		fprintf(stderr, " of %s", format_bytes(total, p->total));
	fprintf(stderr, ", %s/s\033[K",
		format_bytes(rate, (uint64_t)((double)done * 1e9 / (double)(now - p->begun_ns))));
}

void progress_end(struct progress *p)
{
	if (p->shown)
		fprintf(stderr, "\r\033[K");
	p->shown = false;
}

/* ---- paths ---- */

char *last_part(const char *path)
{
	size_t end = strlen(path);

	while (end > 0 && path[end - 1] == '/')
		end--;
	size_t begin = end;
	while (begin > 0 && path[begin - 1] != '/')
		begin--;
	size_t len = end - begin;
	if ((len == 1 && path[begin] == '.') || (len == 2 && memcmp(path + begin, "..", 2) == 0))
		len = 0;
	return strndup(path + begin, len);
}

char *join(const char *directory, const char *name)
{
	size_t len = strlen(directory);
	char *path = NULL;

	if (asprintf(&path, "%s%s%s", directory, len == 0 || directory[len - 1] == '/' || !*name ? "" : "/", name) < 0)
		return NULL;
	return path;
}

/* ID:PATH; what has a '/' before its first ':' is a local path. The length of ID; 0: local. */
static size_t id_len(const char *word)
{
	size_t len = strcspn(word, ":/");

	return word[len] == ':' ? len : 0;
}

/* ---- the guest ---- */

bool copy_signalled(struct copy *c)
{
	for (int signo; (signo = signals_next(c->signal_fd)) > 0;)
		if (signo != SIGWINCH)
			c->signal = signo;
	return c->signal;
}

/* A call of the agent's filesystem.Filesystem with a path. */
static int filesystem_call(struct copy *c, const char *method, const char *path, struct exchange *x)
{
	if (!utf8_valid(path)) {
		fprintf(stderr, "forkctl: the guest's path is not UTF-8: it cannot be passed on\n");
		return EXIT_USAGE;
	}
	x->user = c->user;
	path_add(&x->path, "/v1/clones/", c->id);
	strbuf_printf(&x->path, "/agent/filesystem.Filesystem/%s", method);
	strbuf_putc(&x->body, '{');
	body_text(&x->body, "path", path);
	strbuf_putc(&x->body, '}');
	int status = exchange_run(c->cli->client, x, "POST", c->signal_fd);
	c->signal = x->signal ? x->signal : c->signal;
	return status;
}

int guest_stat(struct copy *c, const char *path, enum guest_kind *ret_kind, unsigned *ret_mode)
{
	autoexchange struct exchange x = {};
	autojson struct json json = {};
	struct err err = {};
	char code[32];
	uint64_t mode = 0;
	int status = filesystem_call(c, "Stat", path, &x);

	*ret_kind = GUEST_NOTHING;
	*ret_mode = 0;
	if (status != EXIT_FINE)
		return status;
	transfer_error_code(&x.transfer, code, sizeof(code));
	if (x.transfer.status == 404 && strcmp(code, "not_found") == 0)
		return EXIT_FINE;
	status = transfer_judge(&x.transfer);
	if (status != EXIT_FINE)
		return status;
	const struct json_node *entry =
		json_parse(&json, x.answer.text, x.answer.len, &err) < 0 ? NULL : json_get(json.nodes, "entry");
	const char *type = member_text(entry, "type", "");
	if (member_number(entry, "mode", &mode))
		*ret_mode = mode & 0777;
	*ret_kind = strcmp(type, "FILE_TYPE_DIRECTORY") == 0 ? GUEST_DIRECTORY : GUEST_FILE;
	return EXIT_FINE;
}

int guest_mkdir(struct copy *c, const char *path)
{
	autoexchange struct exchange x = {};
	char code[32];
	int status = filesystem_call(c, "MakeDir", path, &x);

	if (status != EXIT_FINE)
		return status;
	transfer_error_code(&x.transfer, code, sizeof(code));
	return strcmp(code, "already_exists") == 0 ? EXIT_FINE : transfer_judge(&x.transfer);
}

struct ticking {
	struct copy *copy;
	struct command *cmd;
};

static void tick(void *arg)
{
	const struct ticking *t = arg;

	progress_show(&t->copy->progress, t->cmd->in_fd >= 0 ? t->cmd->n_in : t->cmd->n_out);
}

int guest_command(struct copy *c, const char *const *argv, const char *cwd, int in_fd, int out_fd)
{
	struct command cmd = { .id = c->id,
			       .argv = argv,
			       .user = c->user,
			       .cwd = cwd,
			       .in_fd = in_fd,
			       .out_fd = out_fd,
			       .err_fd = STDERR_FILENO,
			       .plain_err = true,
			       .signal_fd = c->signal_fd,
			       .tick = tick };
	struct ticking ticking = { c, &cmd };

	while (argv[cmd.argc])
		cmd.argc++;
	cmd.arg = &ticking;
	int status = command_run(c->cli->client, &cmd);
	c->signal = cmd.signal ? cmd.signal : c->signal;
	progress_end(&c->progress);
	return status;
}

/* ---- directions ---- */

/* What the copy is called in the guest: an existing directory keeps the source's name inside. NULL: said why not. */
static char *name_in_guest(struct copy *c, enum guest_kind kind)
{
	autofree char *name = last_part(c->local);

	return name ? join(c->guest, kind == GUEST_DIRECTORY ? name : "") : NULL;
}

static int copy_in(struct copy *c)
{
	enum guest_kind kind;
	unsigned mode;
	struct stat st = {};
	bool standard = strcmp(c->local, "-") == 0;
	size_t len = strlen(c->guest);

	if (!standard && stat(c->local, &st) < 0) {
		fprintf(stderr, "forkctl: cannot copy '%s': %s\n", c->local, strerror(errno));
		return EXIT_FAILED;
	}
	int status = guest_stat(c, c->guest, &kind, &mode);
	if (status != EXIT_FINE)
		return status;
	if (standard)
		return kind == GUEST_DIRECTORY ? copy_tree_in(c, c->guest) : copy_file_in(c, c->guest);
	if (kind != GUEST_DIRECTORY && !S_ISDIR(st.st_mode) && len > 0 && c->guest[len - 1] == '/') {
		fprintf(stderr, "forkctl: '%s' is no directory of the guest\n", c->guest);
		return EXIT_FAILED;
	}
	autofree char *path = name_in_guest(c, kind);
	if (!path)
		return EXIT_FAILED;
	return S_ISDIR(st.st_mode) ? copy_tree_in(c, path) : copy_file_in(c, path);
}

static int copy_out(struct copy *c)
{
	enum guest_kind kind;
	unsigned mode;
	struct stat st;
	autofree char *name = last_part(c->guest), *path = NULL;
	int status = guest_stat(c, c->guest, &kind, &mode);

	if (status != EXIT_FINE)
		return status;
	if (kind == GUEST_NOTHING || !name) {
		fprintf(stderr, "forkctl: there is no '%s' in the guest\n", c->guest);
		return EXIT_FAILED;
	}
	if (strcmp(c->local, "-") != 0 && stat(c->local, &st) == 0 && S_ISDIR(st.st_mode)) {
		path = join(c->local, name);
		c->local = path;
	}
	if (!c->local)
		return EXIT_FAILED;
	return kind == GUEST_DIRECTORY ? copy_tree_out(c, c->guest) : copy_file_out(c, c->guest, mode);
}

int copy_files(struct cli *cli)
{
	const char *from = cli->args->words[0], *to = cli->args->words[1];
	size_t from_id = id_len(from), to_id = id_len(to);
	bool in = to_id > 0;
	const char *there = in ? to : from;

	if ((from_id > 0) == (to_id > 0)) {
		args_wrong(cli->args, "one of '%s' and '%s' has to be in a clone (ID:PATH), the other one not", from,
			   to);
		return EXIT_USAGE;
	}
	autofree char *id = strndup(there, in ? to_id : from_id);
	autoclose int signal_fd = signals_open();
	const char *guest = there + (in ? to_id : from_id) + 1;
	struct copy c = { .cli = cli,
			  .id = id,
			  .user = args_option(cli->args, "user"),
			  .local = in ? from : to,
			  .guest = *guest ? guest : ".",
			  .signal_fd = signal_fd };
	c.progress.name = in ? from : guest;
	if (c.user && !user_name_valid(c.user)) {
		args_wrong(cli->args, "--user: that is no user's name");
		return EXIT_USAGE;
	}
	if (!id)
		return EXIT_FAILED;
	int status = in ? copy_in(&c) : copy_out(&c);
	progress_end(&c.progress);
	return c.signal && status != EXIT_FINE ? COMMAND_SIGNAL + c.signal : status;
}
