// SPDX-License-Identifier: Apache-2.0
/*
 * forkctl's command line: one table of verbs, each with its words and options, drives parsing, usage errors and --help.
 * An option is written --name value, --name=value or by its letter; letters without a value can stand together (-it).
 * "--" ends the options. Everything points into argv; one thread.
 */
#ifndef FORKCTL_ARGS_H
#define FORKCTL_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/json64.h"

enum { ARGS_WORDS_MAX = 4096, ARGS_OPTIONS_MAX = 4096, ARGS_COMMAND = ARGS_WORDS_MAX + 1 };

struct option_row {
	const char *name; /* without dashes; NULL ends a list */
	const char *meta; /* what stands for the option's value in help; NULL: the option takes no value */
	const char *help;
	char letter; /* 0: none */
	bool many;   /* may be given more than once */
};

struct cli;
struct verb {
	const char *name;  /* one or two words */
	const char *words; /* what follows, for help */
	const char *summary, *more;
	const struct option_row *options; /* NULL: none but the common ones */
	unsigned min_words,
		max_words; /* max_words ARGS_COMMAND: the word min_words begins a command, whose options are not ours */
	int (*run)(struct cli *cli);
};

struct given {
	const struct option_row *row;
	const char *value; /* "" when the option takes no value */
};

struct args {
	const struct verb *verb;
	const char *words[ARGS_WORDS_MAX];
	unsigned n_words;
	struct given given[ARGS_OPTIONS_MAX];
	unsigned n_given;
};

/* False: a usage error, said on stderr. --help and --version are options like others, and waive the rest. */
MUST_CHECK bool args_parse(struct args *args, const struct verb *verbs, int argc, char **argv);
/* Whether the verb runs a command in a guest. */
bool args_runs_command(const struct args *args);
/* The value of the i-th --name, or NULL. */
const char *args_value(const struct args *args, const char *name, unsigned i);
static inline const char *args_option(const struct args *args, const char *name)
{
	return args_value(args, name, 0);
}
/* A whole number in [min, max]; *ret stays when the option is absent. False: a usage error, said on stderr. */
MUST_CHECK bool args_number(const struct args *args, const char *name, uint64_t min, uint64_t max, uint64_t *ret);
/* Says on stderr what is wrong and where help is; returns false. */
bool args_wrong(const struct args *args, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* A JSON object from an option: `text` as it was given; the nodes point into a copy of `text`. */
struct object {
	struct strbuf text;
	char *copy;
	struct json json;
};
void object_done(struct object *o);
#define autoobject __attribute__((cleanup(object_done)))
/* Of the option's value, which must be there: JSON, a file with or without @ in front, or - for stdin; *ret zeroed. False: said. */
MUST_CHECK bool args_object(const struct args *args, const char *name, struct object *ret);
/* Cuts KEY=VALUE: the key's length. False: a usage error, said on stderr. */
MUST_CHECK bool args_pair(const struct args *args, const char *text, size_t *ret_key_len);

void help_all(const struct verb *verbs);
void help_verb(const struct verb *verb);

#endif
