// SPDX-License-Identifier: Apache-2.0
/* filesystem.EntryInfo: type, mode, owner, time, metadata of one file. */
#include "guest/files/entry.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>

#include "common/io.h"

/* ---- names of users and groups ---- */

static char *load_text(const char *path)
{
	autoclose int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size > NAMES_FILE_MAX)
		return NULL;
	autofree char *text = malloc((size_t)st.st_size + 1);
	if (!text)
		return NULL;
	ssize_t n = io_read(fd, text, (uint64_t)st.st_size, 0);
	if (n < 0)
		return NULL;
	text[n] = '\0';
	return steal_ptr(&text);
}

void names_load(struct names *names)
{
	*names = (struct names){
		.users.text = load_text("/etc/passwd"),
		.groups.text = load_text("/etc/group"),
	};
}

void names_done(struct names *names)
{
	free(names->users.text);
	free(names->groups.text);
	*names = (struct names){};
}

/* The lines of both files are name:password:id:…  */
static void find_name(struct id_names *in, uint32_t id)
{
	in->id = id;
	in->name_len = 0;
	for (const char *line = in->text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		size_t name = strcspn(line, ":\n");
		size_t word = line[name] == ':' ? strcspn(line + name + 1, ":\n") : 0;
		const char *digits = line + name + 1 + word + 1;
		if (line[name] != ':' || digits[-1] != ':' || *digits < '0' || *digits > '9')
			continue;
		char *end;
		unsigned long long found = strtoull(digits, &end, 10);
		if (found != id || name == 0 || *end != ':')
			continue;
		in->name = line;
		in->name_len = name;
		return;
	}
}

static void id_json(struct strbuf *out, struct id_names *in, uint32_t id)
{
	if (in->name_len == 0 || in->id != id)
		find_name(in, id);
	if (in->name_len > 0)
		strbuf_json_lossy(out, in->name, in->name_len);
	else
		strbuf_printf(out, "\"%u\"", id);
}

/* ---- the entry ---- */

void entry_text(struct strbuf *out, const char *bytes)
{
	strbuf_json_lossy(out, bytes, strlen(bytes));
}

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "FILE_TYPE_FILE";
	case S_IFDIR:
		return "FILE_TYPE_DIRECTORY";
	case S_IFLNK:
		return "FILE_TYPE_SYMLINK";
	default:
		return "FILE_TYPE_UNSPECIFIED";
	}
}

/* As Go's FileMode prints it, which is what clients of the protocol know: letters of the kind, then rwx three times. */
static void permissions(mode_t mode, char text[16])
{
	static const struct {
		mode_t mask, value;
		const char *letters;
	} kinds[] = {
		{ S_IFMT, S_IFDIR, "d" },  { S_IFMT, S_IFLNK, "L" },  { S_IFMT, S_IFBLK, "D" },
		{ S_IFMT, S_IFIFO, "p" },  { S_IFMT, S_IFSOCK, "S" }, { S_ISUID, S_ISUID, "u" },
		{ S_ISGID, S_ISGID, "g" }, { S_IFMT, S_IFCHR, "Dc" }, { S_ISVTX, S_ISVTX, "t" },
	};
	char *p = text;

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
		if ((mode & kinds[i].mask) == kinds[i].value)
			p = stpcpy(p, kinds[i].letters);
	if (p == text)
		*p++ = '-';
	for (int bit = 8; bit >= 0; bit--)
		*p++ = mode & (1u << bit) ? "xwr"[bit % 3] : '-';
	*p = '\0';
}

static void time_json(struct strbuf *out, const struct timespec *t)
{
	struct tm tm;
	char text[40];

	if (!gmtime_r(&t->tv_sec, &tm) || !strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm))
		strcpy(text, "1970-01-01T00:00:00");
	strbuf_printf(out, "\"%s.%09ldZ\"", text, t->tv_nsec);
}

void entry_metadata(struct strbuf *out, const char *path)
{
	enum { PREFIX = sizeof(METADATA_PREFIX) - 1 };
	char list[8192], value[METADATA_BYTES_MAX];
	ssize_t len = llistxattr(path, list, sizeof(list));
	bool any = false;

	for (char *key = list; len > 0 && key < list + len; key += strlen(key) + 1) {
		if (strncmp(key, METADATA_PREFIX, PREFIX) != 0)
			continue;
		ssize_t n = lgetxattr(path, key, value, sizeof(value));
		if (n < 0)
			continue;
		strbuf_puts(out, any ? "," : "\"metadata\":{");
		any = true;
		entry_text(out, key + PREFIX);
		strbuf_putc(out, ':');
		strbuf_json_lossy(out, value, (size_t)n);
	}
	if (any)
		strbuf_puts(out, "},");
}

int entry_json(struct strbuf *out, struct names *names, const char *path)
{
	struct stat st, target = {};
	const char *name = strrchr(path, '/');
	autofree char *leads_to = NULL;
	char text[16];

	if (lstat(path, &st) < 0)
		return -errno;
	bool is_link = S_ISLNK(st.st_mode);
	if (is_link && stat(path, &target) == 0)
		leads_to = realpath(path, NULL);
	mode_t mode = leads_to ? target.st_mode : st.st_mode;
	strbuf_puts(out, "{\"name\":");
	entry_text(out, name && name[1] ? name + 1 : path);
	strbuf_printf(out, ",\"type\":\"%s\",\"path\":", type_name(mode));
	entry_text(out, path);
	permissions(st.st_mode, text);
	strbuf_printf(out, ",\"size\":\"%lld\",\"mode\":%u,\"permissions\":\"%s\",\"owner\":", (long long)st.st_size,
		      mode & 0777u, text);
	id_json(out, &names->users, st.st_uid);
	strbuf_puts(out, ",\"group\":");
	id_json(out, &names->groups, st.st_gid);
	strbuf_putc(out, ',');
	if (is_link) {
		strbuf_puts(out, "\"symlinkTarget\":");
		entry_text(out, leads_to ? leads_to : path);
		strbuf_puts(out, ",\"isSymlink\":true,");
	} else {
		entry_metadata(out, path);
	}
	strbuf_puts(out, "\"modifiedTime\":");
	time_json(out, &st.st_mtim);
	strbuf_putc(out, '}');
	return 0;
}
