// SPDX-License-Identifier: Apache-2.0
/* The words of option strings, Cloud Hypervisor's grammar. */
#include "common/option_words.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

/*
 * Steps over one character, outside or inside quotes; false: a bracket closes that was never
 * opened.
 */
static bool step(char c, int *depth, bool *quoted)
{
	if (c == '"')
		*quoted = !*quoted;
	else if (!*quoted && c == '[')
		++*depth;
	else if (!*quoted && c == ']')
		--*depth;
	return *depth >= 0;
}

bool option_balanced(const char *text)
{
	int depth = 0;
	bool quoted = false;

	for (; *text; text++)
		if (!step(*text, &depth, &quoted))
			return false;
	return depth == 0 && !quoted;
}

char *option_cut(char **rest)
{
	char *part = *rest, *p = part;
	int depth = 0;
	bool quoted = false;

	for (; *p && (*p != ',' || depth > 0 || quoted); p++)
		step(*p, &depth, &quoted);
	*rest = *p ? p + 1 : NULL;
	*p = '\0';
	return part;
}

char *option_trim(char *text)
{
	while (isspace((unsigned char)*text))
		text++;
	size_t len = strlen(text);
	while (len > 0 && isspace((unsigned char)text[len - 1]))
		len--;
	text[len] = '\0';
	return text;
}

void option_unquote(char *text)
{
	char *out = text;
	bool quoted = false;

	for (const char *p = text; *p; p++) {
		if (*p != '"') {
			*out++ = *p;
		} else if (quoted && p[1] == '"') {
			*out++ = '"';
			p++;
		} else {
			quoted = !quoted;
		}
	}
	*out = '\0';
}

int option_toggle(const char *text, bool *ret)
{
	bool on = strcasecmp(text, "on") == 0 || strcasecmp(text, "true") == 0;

	if (!on && strcasecmp(text, "off") != 0 && strcasecmp(text, "false") != 0)
		return -EINVAL;
	*ret = on;
	return 0;
}

/* Reads the decimal digits at *p and moves *p behind them. */
static int take_u64(const char **p, uint64_t *ret)
{
	uint64_t v = 0;

	if (**p == '+')
		++*p;
	if (!isdigit((unsigned char)**p))
		return -EINVAL;
	for (; isdigit((unsigned char)**p); ++*p) {
		uint64_t d = (uint64_t)(**p - '0');
		if (v > (UINT64_MAX - d) / 10)
			return -EINVAL;
		v = v * 10 + d;
	}
	*ret = v;
	return 0;
}

int option_u64(const char *text, uint64_t *ret)
{
	uint64_t v;

	if (take_u64(&text, &v) < 0 || *text)
		return -EINVAL;
	*ret = v;
	return 0;
}

int option_size(const char *text, uint64_t *ret)
{
	uint64_t v;

	if (take_u64(&text, &v) < 0)
		return -EINVAL;
	unsigned shift = *text == 'K' ? 10 : *text == 'M' ? 20 : *text == 'G' ? 30 : 0;
	text += shift > 0;
	if (*text || v > UINT64_MAX >> shift)
		return -EINVAL;
	*ret = v << shift;
	return 0;
}

/* Appends the range at *p, `n` or `n-m`, to the list. */
static int take_range(const char **p, uint64_t *list, uint32_t *n)
{
	uint64_t first, last;

	if (take_u64(p, &first) < 0)
		return -EINVAL;
	last = first;
	if (**p == '-') {
		++*p;
		if (take_u64(p, &last) < 0 || last <= first)
			return -EINVAL;
	}
	if (last - first >= OPTION_LIST_MAX - *n)
		return -E2BIG;
	for (uint64_t v = first; v - first <= last - first; v++)
		list[(*n)++] = v;
	return 0;
}

int option_int_list(const char *text, uint64_t **ret, uint32_t *ret_n)
{
	autofree uint64_t *list = calloc(OPTION_LIST_MAX, sizeof(*list));
	uint32_t n = 0;
	bool bracket = *text == '[';

	if (!list)
		return -ENOMEM;
	text += bracket;
	for (;;) {
		int r = take_range(&text, list, &n);
		if (r < 0)
			return r;
		if (*text != ',')
			break;
		text++;
	}
	text += bracket && *text == ']';
	if (*text || (bracket && text[-1] != ']'))
		return -EINVAL;
	*ret = steal_ptr(&list);
	*ret_n = n;
	return 0;
}
