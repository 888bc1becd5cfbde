// SPDX-License-Identifier: Apache-2.0
/* Opens the host's objects that a VmConfig names. */
#include "forkd/template/vm_config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "forkd/access/policy.h"
#include "forkd/access/taps.h"
#include "forkd/body.h"
#include "forkd/errors.h"

enum { RAM_DEFAULT_BYTES = 512 << 20 };

void vm_needs_done(struct vm_needs *n)
{
	handover_done(&n->fds);
	strbuf_done(&n->config);
	for (uint32_t i = 0; i < n->n_disks; i++)
		disk_source_free(n->disks[i].source);
	free(n->disks);
	for (unsigned i = 0; i < n->n_ids; i++)
		free(n->ids[i]);
	free(n->ids);
	*n = (struct vm_needs){};
}

static char *place_id(struct vm_needs *n, unsigned i)
{
	char **ids = reallocarray(n->ids, n->n_ids + 1UL, sizeof(*ids));
	char *text;

	if (!ids)
		return NULL;
	n->ids = ids;
	if (asprintf(&text, "#%u", i) < 0)
		return NULL;
	return ids[n->n_ids++] = text;
}

/* Gets a string member; NULL when the member is absent or null. */
static int get_string(const struct json_node *node, const char *key, const char *what, const char **ret,
		      struct err *err)
{
	const struct json_node *value = json_get(node, key);

	*ret = NULL;
	if (!value || value->type == JSON_NULL)
		return 0;
	if (value->type != JSON_STRING)
		return fail(err, E_INVALID, "%s.%s: expected a string, found %s", what, key, json_type_name(value));
	*ret = value->str;
	return 0;
}

static bool is_true(const struct json_node *node, const char *key)
{
	const struct json_node *value = json_get(node, key);

	return value && value->type == JSON_BOOL && value->num;
}

static uint64_t number(const struct json_node *node, const char *key, uint64_t otherwise, uint64_t most)
{
	const struct json_node *value = json_get(node, key);

	if (!value || value->type != JSON_INT || value->negative)
		return otherwise;
	return value->num < most ? value->num : most;
}

static int add_file(struct vm_needs *n, enum ctl_fd_kind kind, const struct json_node *node, const char *key,
		    const char *what, const struct place *p, struct err *err)
{
	autoclose int fd = -1;
	const char *path;
	struct stat st;

	if (get_string(node, key, what, &path, err) < 0)
		return err->num;
	if (!path)
		return 0;
	if (policy_open(p->d->policy, p->caller, path, O_RDONLY | O_NOCTTY | O_NONBLOCK, &fd, err) < 0)
		return err_wrap(err, "%s.%s", what, key);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return fail(err, E_INVALID, "%s.%s: '%s' is not a regular file", what, key, path);
	return handover_add(&n->fds, kind, NULL, steal_fd(&fd), false, err);
}

static int add_payload(struct vm_needs *n, const struct json_node *vm, const struct place *p, struct err *err)
{
	const struct json_node *payload = json_get(vm, "payload");

	if (!payload || payload->type != JSON_OBJECT)
		return fail(err, E_INVALID, "vm.payload: missing or no object");
	if (add_file(n, CTL_FD_KERNEL, payload, "kernel", "vm.payload", p, err) < 0)
		return err->num;
	return add_file(n, CTL_FD_INITRAMFS, payload, "initramfs", "vm.payload", p, err);
}

/* Opens a disk's image, to be copied before the VM boots. */
static int add_source(struct vm_needs *n, const struct ctl_disk *disk, const char *what, const struct place *p,
		      struct err *err)
{
	return disk_source_open(p->d, p->caller, disk, &n->disks[n->n_disks - 1].source, err) < 0
		       ? err_wrap(err, "%s", what)
		       : 0;
}

static int add_disk(struct vm_needs *n, const struct json_node *entry, const struct place *p,
		    const struct vm_wish *wish, struct err *err)
{
	unsigned i = n->n_disks;
	struct vm_disk *more = reallocarray(n->disks, i + 1UL, sizeof(*more));
	const char *path, *type;
	char what[32], *id = place_id(n, i);

	snprintf(what, sizeof(what), "vm.disks[%u]", i);
	if (more)
		n->disks = more;
	if (!more || !id)
		return err_num(err, ERR_INTERNAL, ENOMEM, "%s", what);
	n->disks[n->n_disks++] = (struct vm_disk){ .id = id };
	if (get_string(entry, "path", what, &path, err) < 0 || get_string(entry, "image_type", what, &type, err) < 0)
		return err->num;
	if (!path)
		return fail(err, E_INVALID, "%s.path: missing", what);
	autofree char *copy = strdup(path);
	if (!copy)
		return err_num(err, ERR_INTERNAL, ENOMEM, "%s", what);
	const struct ctl_disk disk = { .id = id,
				       .path = copy,
				       .readonly = is_true(entry, "readonly"),
				       .direct = is_true(entry, "direct"),
				       .qcow2 = type && strcmp(type, "Qcow2") == 0,
				       .backing_files = is_true(entry, "backing_files") };
	if (!disk.readonly && !wish->disks_brought)
		return add_source(n, &disk, what, p, err);
	return handover_disk(&n->fds, p->d->policy, p->caller, &disk, path, err) < 0 ? err_wrap(err, "vm.disks") : 0;
}

static int add_net(struct vm_needs *n, const struct json_node *entry, unsigned i, const struct place *p, const char *id,
		   struct err *err)
{
	const struct json_node *queues = json_get(entry, "num_queues"), *fds = json_get(entry, "fds");
	unsigned pairs = queues && queues->type == JSON_INT && queues->num >= 2 ? (unsigned)(queues->num / 2) : 1;
	char what[32], name[IFNAMSIZ];
	int taps[TAP_QUEUES_MAX];
	struct tap_settings settings = { .mtu = (uint16_t)number(entry, "mtu", 0, UINT16_MAX) };
	const char *tap;

	snprintf(what, sizeof(what), "vm.net[%u]", i);
	if (get_string(entry, "tap", what, &tap, err) < 0 ||
	    get_string(entry, "host_mac", what, &settings.host_mac, err) < 0)
		return err->num;
	if (fds && fds->type != JSON_NULL && fds->count > 0)
		return fail(err, E_INVALID, "%s.fds: numbers of descriptors mean nothing here; name a tap, or none",
			    what);
	if (tap && !p->caller->trusted)
		return fail(err, E_FORBIDDEN, "%s.tap: only root may name a tap", what);
	if (tap && (!tap[0] || strlen(tap) >= IFNAMSIZ || strpbrk(tap, "/%: \t\n")))
		return fail(err, E_INVALID, "%s.tap: '%.40s' is not a name of an interface", what, tap);
	if (tap)
		snprintf(name, sizeof(name), "%s", tap);
	else
		taps_auto_name(id, i, name);
	char *number = place_id(n, i);
	if (!number)
		return err_num(err, ERR_INTERNAL, ENOMEM, "%s", what);
	if (taps_open(name, pairs, &settings, taps, err) < 0)
		return err_wrap(err, "%s", what);
	int r = 0;
	for (unsigned k = 0; k < pairs; k++)
		if (r < 0)
			close(taps[k]);
		else
			r = handover_add(&n->fds, CTL_FD_NET, number, taps[k], false, err);
	return r;
}

static int add_list(struct vm_needs *n, const struct json_node *vm, const char *key, const struct place *p,
		    const struct vm_wish *wish, struct err *err)
{
	const struct json_node *list = json_get(vm, key);
	unsigned i = 0;

	if (!list || list->type == JSON_NULL)
		return 0;
	if (list->type != JSON_ARRAY)
		return fail(err, E_INVALID, "vm.%s: expected an array of objects, found %s", key, json_type_name(list));
	for (json_each(entry, list)) {
		if (entry->type != JSON_OBJECT)
			return fail(err, E_INVALID, "vm.%s[%u]: expected an object, found %s", key, i,
				    json_type_name(entry));
		int r = strcmp(key, "net") == 0 ? add_net(n, entry, i, p, wish->id, err)
						: add_disk(n, entry, p, wish, err);
		if (r < 0)
			return r;
		i++;
	}
	return 0;
}

/*
 * Whether the VM has a serial port or a console: yes, unless the mode is "Off". Descriptors replace
 * what any other mode says.
 */
static int check_mode(const struct json_node *vm, const char *key, bool *ret_there, struct err *err)
{
	const char *mode;

	if (get_string(json_get(vm, key), "mode", key, &mode, err) < 0)
		return err_wrap(err, "vm");
	*ret_there = !mode || strcmp(mode, "Off") != 0;
	return 0;
}

static int check_rng(const struct json_node *vm, struct err *err)
{
	const char *src;

	if (get_string(json_get(vm, "rng"), "src", "vm.rng", &src, err) < 0)
		return err->num;
	if (!src || ctl_is_random_source(src))
		return 0;
	return fail(err, E_FORBIDDEN, "vm.rng.src: '%s' is no source of random numbers", src);
}

/* A clone's kernel that looks at the generation id has random numbers of its own before the agent's turn comes. */
static void add_config(const struct json_node *vm, bool vmgenid, struct strbuf *out)
{
	const struct json_node *platform = json_get(vm, "platform");
	bool is_object = platform && platform->type == JSON_OBJECT;

	if (!vmgenid || json_get(platform, "vmgenid") || (platform && !is_object && platform->type != JSON_NULL)) {
		json_text(vm, out);
		return;
	}
	json_text_without(vm, (const char *const[]){ "platform", NULL }, out);
	out->len -= out->len > 0; /* the brace */
	strbuf_puts(out, vm->count > (platform ? 1 : 0) ? ",\"platform\":" : "\"platform\":");
	if (is_object && platform->count > 0) {
		json_text(platform, out);
		out->len--;
		strbuf_puts(out, ",\"vmgenid\":true}}");
	} else {
		strbuf_puts(out, "{\"vmgenid\":true}}");
	}
}

int vm_needs_load(const struct json_node *vm, const struct place *place, const struct vm_wish *wish,
		  struct vm_needs *ret, struct err *err)
{
	*ret = (struct vm_needs){};
	if (vm->type != JSON_OBJECT)
		return fail(err, E_INVALID, "vm: expected an object, found %s", json_type_name(vm));
	add_config(vm, wish->agent, &ret->config);
	if (ret->config.failed || ret->config.len > CTL_PACKET_MAX / 2)
		return fail(err, E_INVALID, "vm: more than %d bytes", CTL_PACKET_MAX / 2);
	ret->ram_bytes = number(json_get(vm, "memory"), "size", RAM_DEFAULT_BYTES, INT64_MAX);
	ret->vcpus = (uint32_t)number(json_get(vm, "cpus"), "boot_vcpus", 1, 256);
	const struct json_node *vsock = json_get(vm, "vsock");
	ret->has_vsock = vsock && vsock->type == JSON_OBJECT;
	if (check_mode(vm, "serial", &ret->has_serial, err) < 0 ||
	    check_mode(vm, "console", &ret->has_console, err) < 0 || check_rng(vm, err) < 0)
		return err->num;
	if (add_payload(ret, vm, place, err) < 0 || add_list(ret, vm, "disks", place, wish, err) < 0)
		return err->num;
	return add_list(ret, vm, "net", place, wish, err);
}
