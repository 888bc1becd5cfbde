// SPDX-License-Identifier: Apache-2.0
/* forkctl's option grammar and its help texts. */
#include "forkctl/args.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

enum { FILE_MAX = 8 << 20 };

static const struct option_row common_options[] = {
	{ "socket", "PATH", "the daemon's unix socket; default: $FORKD_SOCKET, or where forkd has it by default", 0,
	  false },
	{ "url", "URL", "the daemon's address on the network instead, as in https://host:8443", 0, false },
	{ "token-file", "FILE", "with --url: file with the token; default: $FORKD_TOKEN holds the token itself", 0,
	  false },
	{ "cacert", "FILE", "with --url: trust the certificates of this file only", 0, false },
	{ "json", NULL, "print the server's JSON; an error's JSON goes to stderr", 0, false },
	{ "help", NULL, "print this", 'h', false },
	{ "version", NULL, "print the version of this program", 'V', false },
	{ NULL, NULL, NULL, 0, false },
};

bool args_wrong(const struct args *args, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "forkctl: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	if (args->verb)
		fprintf(stderr, "\nTry: forkctl %s --help\n", args->verb->name);
	else
		fprintf(stderr, "\nTry: forkctl --help\n");
	return false;
}

/* ---- parsing ---- */

static const struct option_row *find_in(const struct option_row *rows, const char *name, size_t len, char letter)
{
	for (; rows && rows->name; rows++)
		if (name ? strlen(rows->name) == len && memcmp(rows->name, name, len) == 0 : rows->letter == letter)
			return rows;
	return NULL;
}

static const struct option_row *find_option(const struct args *args, const char *name, size_t len, char letter)
{
	const struct option_row *row = find_in(common_options, name, len, letter);

	return row || !args->verb ? row : find_in(args->verb->options, name, len, letter);
}

static bool add_option(struct args *args, const struct option_row *row, const char *value)
{
	if (!row->many && args_option(args, row->name))
		return args_wrong(args, "--%s is given twice", row->name);
	if (args->n_given == ARGS_OPTIONS_MAX)
		return args_wrong(args, "more than %d options", ARGS_OPTIONS_MAX);
	args->given[args->n_given++] = (struct given){ row, value ? value : "" };
	return true;
}

static bool no_option(const struct args *args, const char *text, int len)
{
	return args_wrong(args, "there is no option '%.*s'%s%s", len, text, args->verb ? " for " : "",
			  args->verb ? args->verb->name : "");
}

/* The option's value may be the next argument. Moves *i to the last argument used. */
static bool take_value(struct args *args, const struct option_row *row, const char *value, int argc, char **argv,
		       int *i)
{
	if (!value && ++*i >= argc)
		return args_wrong(args, "--%s needs a value: %s", row->name, row->meta);
	return add_option(args, row, value ? value : argv[*i]);
}

static bool take_long(struct args *args, int argc, char **argv, int *i)
{
	const char *text = argv[*i];
	size_t len = strcspn(text + 2, "=");
	const struct option_row *row = find_option(args, text + 2, len, 0);
	const char *value = text[2 + len] == '=' ? text + 3 + len : NULL;

	if (!row)
		return no_option(args, text, (int)len + 2);
	if (row->meta)
		return take_value(args, row, value, argc, argv, i);
	if (value)
		return args_wrong(args, "--%s takes no value, not '%s'", row->name, value);
	return add_option(args, row, NULL);
}

/* Letters; the rest of the word behind one that takes a value is the value. */
static bool take_letters(struct args *args, int argc, char **argv, int *i)
{
	for (const char *at = argv[*i] + 1; *at; at++) {
		const struct option_row *row = find_option(args, NULL, 0, *at);
		const char letter[] = { '-', *at };
		if (!row)
			return no_option(args, letter, 2);
		if (row->meta)
			return take_value(args, row, at[1] ? at + 1 : NULL, argc, argv, i);
		if (!add_option(args, row, NULL))
			return false;
	}
	return true;
}

/* The first word, or the first two, name the verb. */
static bool find_verb(struct args *args, const struct verb *verbs)
{
	size_t first = strlen(args->words[0]);
	bool is_group = false;

	for (const struct verb *v = verbs; v->name; v++) {
		if (strncmp(v->name, args->words[0], first) != 0)
			continue;
		if (!v->name[first])
			args->verb = v;
		if (v->name[first] != ' ')
			continue;
		is_group = true;
		if (args->n_words == 2 && strcmp(v->name + first + 1, args->words[1]) == 0)
			args->verb = v;
	}
	if (args->verb) {
		args->n_words = 0;
		return true;
	}
	if (is_group && args->n_words == 1) /* the second word is to come */
		return true;
	return args_wrong(args, "there is no command '%s%s%s'", args->words[0], args->n_words == 2 ? " " : "",
			  args->n_words == 2 ? args->words[1] : "");
}

static bool take_word(struct args *args, const struct verb *verbs, const char *word)
{
	if (args->n_words == ARGS_WORDS_MAX)
		return args_wrong(args, "more than %d arguments", ARGS_WORDS_MAX);
	args->words[args->n_words++] = word;
	return args->verb || find_verb(args, verbs);
}

bool args_runs_command(const struct args *args)
{
	return args->verb && args->verb->max_words == ARGS_COMMAND;
}

bool args_parse(struct args *args, const struct verb *verbs, int argc, char **argv)
{
	bool options = true;

	for (int i = 1; i < argc; i++) {
		if (options && strcmp(argv[i], "--") == 0)
			options = false;
		else if (options && argv[i][0] == '-' && argv[i][1]) {
			if (!(argv[i][1] == '-' ? take_long : take_letters)(args, argc, argv, &i))
				return false;
		} else if (!take_word(args, verbs, argv[i]))
			return false;
		if (args_runs_command(args) && args->n_words >= args->verb->min_words)
			options = false;
	}
	if (args_option(args, "help") || args_option(args, "version"))
		return true;
	if (!args->verb)
		return args_wrong(args, args->n_words ? "'%s' needs a second word" : "no command given",
				  args->n_words ? args->words[0] : "");
	if (args->n_words < args->verb->min_words)
		return args_wrong(args, "%s needs: %s", args->verb->name, args->verb->words);
	if (args->n_words > args->verb->max_words)
		return args_wrong(args, "%s has no use for '%s'", args->verb->name, args->words[args->verb->max_words]);
	return true;
}

/* ---- what was given ---- */

const char *args_value(const struct args *args, const char *name, unsigned i)
{
	assert(find_option(args, name, strlen(name), 0));
	for (unsigned k = 0; k < args->n_given; k++)
		if (strcmp(args->given[k].row->name, name) == 0 && i-- == 0)
			return args->given[k].value;
	return NULL;
}

bool args_number(const struct args *args, const char *name, uint64_t min, uint64_t max, uint64_t *ret)
{
	const char *text = args_option(args, name);
	char *end;

	if (!text)
		return true;
	errno = 0;
	uint64_t v = strtoull(text, &end, 10);
	if (errno || *end || text[0] < '0' || text[0] > '9' || v < min || v > max)
		return args_wrong(args, "--%s: '%s' is not a number from %llu to %llu", name, text,
				  (unsigned long long)min, (unsigned long long)max);
	*ret = v;
	return true;
}

bool args_pair(const struct args *args, const char *text, size_t *ret_key_len)
{
	const char *equals = strchr(text, '=');

	*ret_key_len = equals ? (size_t)(equals - text) : 0;
	return *ret_key_len > 0 || args_wrong(args, "'%s' is not of the form KEY=VALUE", text);
}

/* -errno, or 0. */
static int read_file(const char *path, struct strbuf *out)
{
	autoclose int file_fd = strcmp(path, "-") == 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	int fd = strcmp(path, "-") == 0 ? STDIN_FILENO : file_fd;
	char piece[65536];
	ssize_t n = fd < 0 ? -1 : 0;

	while (fd >= 0 && (n = read(fd, piece, sizeof(piece))) > 0) {
		if (out->len > FILE_MAX)
			return -EFBIG;
		strbuf_add(out, piece, (size_t)n);
	}
	return n < 0 ? -errno : 0;
}

void object_done(struct object *o)
{
	strbuf_done(&o->text);
	json_done(&o->json);
	free(o->copy);
}

bool args_object(const struct args *args, const char *name, struct object *ret)
{
	const char *value = args_option(args, name);
	char line[ERR_MSG_BYTES];
	struct err err = {};
	int r = 0;

	if (!value)
		return args_wrong(args, "%s needs --%s", args->verb->name, name);
	if (value[strspn(value, " \t\r\n")] == '{')
		strbuf_puts(&ret->text, value);
	else
		r = read_file(value + (value[0] == '@'), &ret->text);
	if (r < 0)
		return args_wrong(args, "--%s: cannot read '%s': %s", name, value + (value[0] == '@'), strerror(-r));
	strbuf_puts(&ret->text, "");
	ret->copy = ret->text.failed ? NULL : strdup(ret->text.text);
	if (!ret->copy || json_parse(&ret->json, ret->copy, strlen(ret->copy), &err) < 0)
		return args_wrong(args, "--%s: %s", name, err_line(&err, line, sizeof(line)));
	if (ret->json.nodes->type != JSON_OBJECT)
		return args_wrong(args, "--%s: expected an object, found %s", name, json_type_name(ret->json.nodes));
	return true;
}

/* ---- help ---- */

static void help_options(const char *title, const struct option_row *rows)
{
	printf("\n%s:\n", title);
	for (; rows->name; rows++) {
		char text[64];
		snprintf(text, sizeof(text), "%c%c%s--%s%s%s", rows->letter ? '-' : ' ',
			 rows->letter ? rows->letter : ' ', rows->letter ? ", " : "  ", rows->name,
			 rows->meta ? " " : "", rows->meta ? rows->meta : "");
		printf("  %-28s %s%s%s", text, strlen(text) > 28 ? "\n                               " : "", rows->help,
		       rows->many ? "; may be repeated\n" : "\n");
	}
}

void help_verb(const struct verb *verb)
{
	printf("Usage: forkctl %s%s%s%s\n\n%s.\n", verb->name, verb->options ? " [options]" : "",
	       verb->words[0] ? " " : "", verb->words, verb->summary);
	if (verb->more)
		printf("\n%s\n", verb->more);
	if (verb->options)
		help_options("Options", verb->options);
	help_options("Common options", common_options);
}

void help_all(const struct verb *verbs)
{
	printf("Usage: forkctl COMMAND [options] …\n\nTemplates of paused virtual machines, and running clones of them.\n\n"
	       "Commands:\n");
	for (const struct verb *v = verbs; v->name; v++)
		printf("  %-16s %s\n", v->name, v->summary);
	help_options("Common options", common_options);
	printf("\nforkctl COMMAND --help tells more. Exit status: 0 fine, 1 the daemon answered an error, 2 wrong usage, "
	       "3 the daemon cannot be reached; exec and run: the command's.\n");
}
