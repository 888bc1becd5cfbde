// SPDX-License-Identifier: Apache-2.0
/* What a guest of forkd needs of its kernel: its devices, its disk's file system, and what these need. */
#include "forkd/build/modules.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "common/io.h"
#include "forkd/build/blob.h"

enum { DEP_BYTES_MAX = 16 << 20 };

/* In the order in which they are loaded. ext4 asks for crc32c by another name than its module's. */
static const struct {
	const char *name;
	bool needed; /* without it there is no guest, unless the kernel has it built in */
} wanted[] = {
	{ "virtio_pci", true },
	{ "virtio_blk", true },
	{ "crc32c_generic", false },
	{ "crc32c_intel", false },
	{ "ext4", true },
	{ "vmw_vsock_virtio_transport", true },
	{ "virtio_net", false },
	{ "virtio_console", false },
	{ "virtio_rng", false },
	{ "virtio_balloon", false },
};

void modules_name(const char *path, char *ret_name, size_t size)
{
	const char *slash = strrchr(path, '/');
	const char *name = slash ? slash + 1 : path, *end = strstr(name, ".ko");

	snprintf(ret_name, size, "%.*s", end ? (int)(end - name) : (int)strlen(name), name);
	for (char *p = ret_name; *p; p++)
		*p = *p == '-' ? '_' : *p;
}

static int read_text(int dir_fd, const char *name, char **ret_text, struct err *err)
{
	uint64_t size = 0;

	autoclose int fd = blob_open_plain(dir_fd, name, &size, err);
	if (fd < 0)
		return err_wrap(err, "this is no folder of a kernel's modules");
	if (size > DEP_BYTES_MAX)
		return err_set(err, ERR_INVALID, "%s: %llu bytes, more than %d", name, (unsigned long long)size,
			       DEP_BYTES_MAX);
	autofree char *text = malloc(size + 1);
	ssize_t n = text ? io_read(fd, text, size, 0) : -ENOMEM;
	if (n < 0)
		return err_num(err, ERR_INTERNAL, (int)-n, "read %s", name);
	text[n] = '\0';
	*ret_text = steal_ptr(&text);
	return 0;
}

/* The line of modules.dep, or of modules.builtin, that is about the module: where it begins, and how long it is. */
static const char *find_line(const char *text, const char *name, size_t *ret_len)
{
	char own[128];

	for (const char *line = text ? text : ""; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		size_t len = strcspn(line, "\n"), path = strcspn(line, ":\n");
		autofree char *copy = strndup(line, path);
		if (!copy)
			return NULL;
		modules_name(copy, own, sizeof(own));
		if (strcmp(own, name) != 0)
			continue;
		*ret_len = len;
		return line;
	}
	return NULL;
}

/* Paths lead to files below the folder: blob_open_plain() sees to that. */
static int add_path(struct modules *m, const char *path, struct err *err)
{
	for (uint32_t i = 0; i < m->n; i++)
		if (strcmp(m->paths[i], path) == 0)
			return 0;
	if (m->n == MODULES_MAX)
		return err_set(err, ERR_INVALID, "modules.dep: the guest needs more than %d modules", MODULES_MAX);
	m->paths[m->n] = strdup(path);
	if (!m->paths[m->n])
		return err_num(err, ERR_INTERNAL, ENOMEM, "read modules.dep");
	m->n++;
	return 0;
}

/* The line is "module: need need …", all that is needed, and the last one is to be loaded first. */
static int add_line(struct modules *m, const char *line, size_t len, struct err *err)
{
	autofree char *copy = strndup(line, len);

	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "read modules.dep");
	for (char *last = NULL; (last = strrchr(copy, ' '));) {
		*last = '\0';
		if (last[1] && add_path(m, last + 1, err) < 0)
			return err->num;
	}
	copy[strcspn(copy, ":")] = '\0';
	return add_path(m, copy, err);
}

int modules_find(int dir_fd, struct modules *ret_modules, struct err *err)
{
	automodules struct modules m = {};
	autofree char *dep = NULL, *builtin = NULL;
	size_t len = 0;

	if (read_text(dir_fd, "modules.dep", &dep, err) < 0 || read_text(dir_fd, "modules.builtin", &builtin, err) < 0)
		return err->num;
	for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
		const char *line = find_line(dep, wanted[i].name, &len);
		if (line && add_line(&m, line, len, err) < 0)
			return err->num;
		if (!line && wanted[i].needed && !find_line(builtin, wanted[i].name, &len))
			return err_set(err, ERR_INVALID, "the kernel has no %s, neither as a module nor built in",
				       wanted[i].name);
	}
	*ret_modules = m;
	m = (struct modules){};
	return 0;
}

void modules_done(struct modules *modules)
{
	for (uint32_t i = 0; i < modules->n; i++)
		free(modules->paths[i]);
	modules->n = 0;
}
