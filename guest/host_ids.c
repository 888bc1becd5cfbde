// SPDX-License-Identifier: Apache-2.0
/* Hostname, machine id, boot id, DHCP identity. */
#include "guest/host_ids.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/io.h"
#include "common/json64.h"
#include "guest/generation.h"
#include "guest/put_file.h"

enum { HOSTS_BYTES = 64 << 10 };
#define BOOT_ID "/run/forkd/boot_id"
#define PROC_BOOT_ID "/proc/sys/kernel/random/boot_id"

int uuid_random(uint8_t ret_id[16], struct err *err)
{
	if (getrandom(ret_id, 16, 0) != 16)
		return err_sys(err, ERR_INTERNAL, "16 random bytes");
	ret_id[6] = (uint8_t)((ret_id[6] & 0x0f) | 0x40);
	ret_id[8] = (uint8_t)((ret_id[8] & 0x3f) | 0x80);
	return 0;
}

/* ---- hostname ---- */

bool hostname_is_good(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > HOSTNAME_MAX)
		return false;
	for (size_t i = 0; i < len; i++) {
		bool inner = i > 0 && i + 1 < len && name[i - 1] != '.';
		if (!isalnum((unsigned char)name[i]) && !(inner && (name[i] == '-' || name[i] == '.')))
			return false;
	}
	return true;
}

static bool is_loopback_line(const char *line)
{
	return strncmp(line, "127.", 4) == 0 || strncmp(line, "::1", 3) == 0;
}

/* Appends the line with each word `old` replaced. */
static void replace_word(struct strbuf *out, const char *line, size_t len, const char *old, const char *new)
{
	static const char blank[] = " \t\n";

	for (const char *p = line, *end = line + len; p < end;) {
		size_t gap = strspn(p, blank), word = strcspn(p + gap, blank);
		if (gap > (size_t)(end - p))
			gap = (size_t)(end - p);
		if (word > (size_t)(end - p) - gap)
			word = (size_t)(end - p) - gap;
		bool is_old = word == strlen(old) && memcmp(p + gap, old, word) == 0;
		strbuf_add(out, p, gap);
		strbuf_add(out, is_old ? new : p + gap, is_old ? strlen(new) : word);
		p += gap + word;
	}
}

static int hosts_rename(int root_fd, const char *old, const char *new, struct err *err)
{
	autofree char *text = malloc(HOSTS_BYTES);
	autostrbuf struct strbuf out = {};

	if (!text)
		return err_num(err, ERR_INTERNAL, ENOMEM, "/etc/hosts");
	/* A file that is absent or longer than any that a person has written has no name of ours. */
	if (!*old || get_text(root_fd, "/etc/hosts", text, HOSTS_BYTES) <= 0)
		return 0;
	for (const char *line = text, *end; *line; line = end) {
		end = line + strcspn(line, "\n");
		end += *end == '\n';
		if (is_loopback_line(line))
			replace_word(&out, line, (size_t)(end - line), old, new);
		else
			strbuf_add(&out, line, (size_t)(end - line));
	}
	if (out.failed || !out.text)
		return err_num(err, ERR_INTERNAL, ENOMEM, "/etc/hosts");
	return strcmp(out.text, text) == 0 ? 0 : rewrite_text(root_fd, "/etc/hosts", out.text, err);
}

int hostname_set(int root_fd, const char *name, struct err *err)
{
	char old[HOSTNAME_MAX + 1] = "";
	char line[HOSTNAME_MAX + 2];

	if (gethostname(old, sizeof(old)) < 0)
		return err_sys(err, ERR_INTERNAL, "the hostname");
	if (sethostname(name, strlen(name)) < 0)
		return err_sys(err, ERR_INTERNAL, "set the hostname '%s'", name);
	snprintf(line, sizeof(line), "%s\n", name);
	if (faccessat(root_fd, "etc/hostname", F_OK, 0) == 0 && rewrite_text(root_fd, "/etc/hostname", line, err) < 0)
		return err->num;
	return hosts_rename(root_fd, old, name, err);
}

/* ---- machine id ---- */

bool machine_id_is_good(const char *text)
{
	return strlen(text) == MACHINE_ID_DIGITS && strspn(text, "0123456789abcdef") == MACHINE_ID_DIGITS &&
	       strspn(text, "0") != MACHINE_ID_DIGITS;
}

int machine_id_set(int root_fd, const char *text, struct err *err)
{
	static const char dbus[] = "var/lib/dbus/machine-id";
	char line[MACHINE_ID_DIGITS + 2];
	char *p = line;
	uint8_t id[16];
	struct stat st;

	if (!text && faccessat(root_fd, "etc/machine-id", F_OK, 0) < 0)
		return 0;
	if (!text && uuid_random(id, err) < 0)
		return err->num;
	for (unsigned i = 0; !text && i < sizeof(id); i++)
		p += sprintf(p, "%02x", id[i]);
	snprintf(p, sizeof(line) - (size_t)(p - line), "%s\n", text ? text : "");
	if (rewrite_text(root_fd, "/etc/machine-id", line, err) < 0)
		return err->num;
	if (fstatat(root_fd, dbus, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return 0;
	return rewrite_text(root_fd, dbus, line, err);
}

/* ---- boot id ---- */

static bool same_file(int root_fd, const char *a, const char *b)
{
	struct stat x, y;

	return fstatat(root_fd, path_below(a), &x, 0) == 0 && fstatat(root_fd, path_below(b), &y, 0) == 0 &&
	       x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int mount_over(int root_fd, const char *from, const char *to, struct err *err)
{
	char source[32], target[32];
	autoclose int from_fd = openat(root_fd, path_below(from), O_PATH | O_CLOEXEC);
	autoclose int to_fd = openat(root_fd, path_below(to), O_PATH | O_CLOEXEC);

	snprintf(source, sizeof(source), "/proc/self/fd/%d", from_fd);
	snprintf(target, sizeof(target), "/proc/self/fd/%d", to_fd);
	if (from_fd < 0 || to_fd < 0 || mount(source, target, NULL, MS_BIND, NULL) < 0)
		return err_sys(err, ERR_INTERNAL, "mount '%s' over '%s'", from, to);
	return 0;
}

int boot_id_set(int root_fd, const char *uuid, struct err *err)
{
	char line[GENERATION_TEXT_BYTES + 1];
	uint8_t id[16];

	if (!uuid && uuid_random(id, err) < 0)
		return err->num;
	if (!uuid)
		uuid_text(id, line);
	else
		snprintf(line, sizeof(line), "%s", uuid);
	strcat(line, "\n");
	/* In place: what is mounted is the file, not its name. */
	int r = make_dirs(root_fd, "/run/forkd", 0755, err);
	if (r < 0)
		return r;
	autoclose int fd = openat(root_fd, path_below(BOOT_ID), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0444);
	if (fd < 0 || fchmod(fd, 0444) < 0)
		return err_sys(err, ERR_INTERNAL, "open '%s'", BOOT_ID);
	ssize_t n = io_write(fd, line, strlen(line), 0);
	if (n != (ssize_t)strlen(line))
		return err_num(err, ERR_INTERNAL, n < 0 ? (int)-n : ENOSPC, "write '%s'", BOOT_ID);
	return same_file(root_fd, BOOT_ID, PROC_BOOT_ID) ? 0 : mount_over(root_fd, BOOT_ID, PROC_BOOT_ID, err);
}

/* ---- DHCP ---- */

/* Directories, and the beginnings of names in them: systemd-networkd, dhclient, dhcpcd, NetworkManager, udhcpc. */
static const struct {
	const char *dir, *prefix;
} dhcp_files[] = {
	{ "run/systemd/netif/leases", "" },
	{ "var/lib/systemd/network", "" },
	{ "var/lib/dhcp", "dhclient" },
	{ "var/lib/dhclient", "dhclient" },
	{ "var/lib/dhcpcd", "" },
	{ "var/lib/NetworkManager", "internal-" },
	{ "var/lib/NetworkManager", "dhclient" },
};

static const char *const dhcp_single[] = { "etc/dhcpcd.duid", "etc/dhcpcd.secret",
					   "var/lib/NetworkManager/secret_key" };

static int drop_files(int root_fd, const char *path, const char *prefix, struct err *err)
{
	int fd = openat(root_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	int r = 0;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return 0; /* this client is not there */
	}
	for (struct dirent *e; r == 0 && (e = readdir(dir));)
		if (e->d_type == DT_REG && strncmp(e->d_name, prefix, strlen(prefix)) == 0 &&
		    unlinkat(dirfd(dir), e->d_name, 0) < 0)
			r = err_sys(err, ERR_INTERNAL, "remove '/%s/%s'", path, e->d_name);
	closedir(dir);
	return r;
}

int dhcp_identity_drop(int root_fd, struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_LEN(dhcp_single); i++)
		if (unlinkat(root_fd, dhcp_single[i], 0) < 0 && errno != ENOENT && errno != ENOTDIR)
			return err_sys(err, ERR_INTERNAL, "remove '/%s'", dhcp_single[i]);
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(dhcp_files); i++)
		r = drop_files(root_fd, dhcp_files[i].dir, dhcp_files[i].prefix, err);
	return r;
}
