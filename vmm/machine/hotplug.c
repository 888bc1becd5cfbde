// SPDX-License-Identifier: Apache-2.0
/* Adds and removes devices: configuration, machine, guest, in this order. */
#include "vmm/machine/hotplug.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "vmm/core/event_monitor.h"
#include "vmm/machine/devices.h"
#include "vmm/virtio/kinds.h"
#include "vmm/virtio/transport.h"

/* ---- entries of a configuration ---- */

/* A list of VmConfig whose elements begin with their id. */
struct list {
	size_t items, count,
		bytes; /* items, count: offsets of the list's pointer and length; bytes: the size of an element */
	const struct field *rows;
};

enum { DISKS, NETS };
static const struct list lists[] = {
	[DISKS] = { offsetof(struct vm_config, disks), offsetof(struct vm_config, n_disks), sizeof(struct disk_config),
		    disk_fields },
	[NETS] = { offsetof(struct vm_config, net), offsetof(struct vm_config, n_net), sizeof(struct net_config),
		   net_fields },
};
_Static_assert(offsetof(struct disk_config, id) == 0 && offsetof(struct net_config, id) == 0, "struct list");

static char **items_of(const struct list *l, struct vm_config *c)
{
	return (char **)(void *)((char *)c + l->items);
}

static uint32_t *count_of(const struct list *l, struct vm_config *c)
{
	return (uint32_t *)(void *)((char *)c + l->count);
}

static const char *id_of(const char *item)
{
	const char *id;

	memcpy(&id, item, sizeof(id));
	return id;
}

static int index_of(const struct list *l, struct vm_config *c, const char *id)
{
	return list_find_id(*items_of(l, c), *count_of(l, c), l->bytes, id);
}

/* Appends *item, which is moved from. NULL: no memory. */
static void *append(const struct list *l, struct vm_config *c, void *item, struct err *err)
{
	uint32_t *n = count_of(l, c);
	char *items = realloc(*items_of(l, c), (*n + 1) * l->bytes);

	if (!items) {
		err_num(err, ERR_INTERNAL, ENOMEM, "add a device");
		return NULL;
	}
	*items_of(l, c) = items;
	char *at = items + *n * l->bytes;
	memcpy(at, item, l->bytes);
	fields_init(l->rows, item);
	++*n;
	return at;
}

/* Takes element i out of the list; *ret_item becomes the caller's. */
static void take_out(const struct list *l, struct vm_config *c, uint32_t i, void *ret_item)
{
	char *at = *items_of(l, c) + i * l->bytes;

	memcpy(ret_item, at, l->bytes);
	memmove(at, at + l->bytes, (--*count_of(l, c) - i) * l->bytes);
}

union item {
	struct disk_config disk;
	struct net_config net;
};

/* Frees an item and closes its descriptors. */
static void drop_item(const struct list *l, void *item)
{
	struct vm_config one = {};

	*items_of(l, &one) = item;
	*count_of(l, &one) = 1;
	vm_config_close_fds(&one);
	fields_free(l->rows, item);
}

static bool has_id(const char *own, const char *id)
{
	return own && strcmp(own, id) == 0;
}

/*
 * Moves the item called `id` from one configuration to another; `to` NULL: frees it. false: there
 * is none.
 */
static bool move_item(const struct list *l, struct vm_config *from, struct vm_config *to, const char *id)
{
	struct err err = {};
	union item item;
	int i = index_of(l, from, id);

	if (i < 0)
		return false;
	take_out(l, from, (uint32_t)i, &item);
	if (!to || !append(l, to, &item, &err))
		drop_item(l, &item);
	return true;
}

static void drop_vsock(struct vm_config *from)
{
	struct vm_config one = {};

	one.vsock = steal_ptr(&from->vsock);
	vm_config_close_fds(&one);
	fields_free(vsock_fields, one.vsock);
	free(one.vsock);
}

/* Moves, or frees, the disk, net or vsock called `id`; false: there is none. */
static bool move_entry(struct vm_config *from, struct vm_config *to, const char *id)
{
	for (unsigned k = 0; k < ARRAY_LEN(lists); k++)
		if (move_item(&lists[k], from, to, id))
			return true;
	if (!from->vsock || !has_id(from->vsock->id, id))
		return false;
	if (to)
		to->vsock = steal_ptr(&from->vsock);
	else
		drop_vsock(from);
	return true;
}

/* ---- coming ---- */

enum { NO_SLOT = -1 };

static int wanted_slot(bool has, uint8_t slot)
{
	return has ? slot : NO_SLOT;
}

/*
 * Checks that the new device can have a slot. A number that is out of range is refused by
 * vm_config_check().
 */
static int check_slot(struct vm *vm, int wanted, struct err *err)
{
	unsigned unused;

	if (!vm)
		return 0;
	hotplug_ejected(vm);
	if (wanted != NO_SLOT && (wanted < 1 || wanted > MAX_PCI_SLOTS))
		return 0;
	int r = pci_find_slot(&vm->pci, wanted == NO_SLOT ? 0 : (unsigned)wanted, &unused, err);
	return r < 0 ? err_wrap(err, "Error from device manager") : 0;
}

/* Checks a configuration that has the new entry already. */
static int check_entry(const struct vm_config *config, const struct vm *vm, const char *id, struct err *err)
{
	if (vm_config_check(config, err) < 0)
		return err_wrap(err, "Failed to validate config");
	if (!vm || !id || !devices_find(vm, id))
		return 0;
	err_set(err, ERR_INTERNAL, "Invalid identifier as it is not unique: %.64s", id);
	return err_wrap(err, "Error from device manager");
}

/*
 * Tells the guest of its new device, the last of vm->dev[], and writes the answer. `made` is the
 * result of adding it.
 */
static int announce(struct vm *vm, int made, struct strbuf *out, struct err *err)
{
	char bdf[PCI_BDF_BYTES];

	if (made < 0)
		return err->num;
	const struct virtio_pci *t = vm->dev[vm->n_devs - 1];
	pci_bdf(&t->pci, bdf);
	arch_pci_changed(vm, 1U << t->pci.slot, 0);
	strbuf_puts(out, "{\"id\":");
	strbuf_json(out, t->vdev->id, strlen(t->vdev->id));
	strbuf_printf(out, ",\"bdf\":\"%s\"}", bdf);
	log_info("device '%s' was added at %s", t->vdev->id, bdf);
	return 0;
}

static void drop_last(const struct list *l, struct vm_config *config)
{
	union item item;

	take_out(l, config, *count_of(l, config) - 1, &item);
	drop_item(l, &item);
}

/* Adds `item`, which is moved from, to a list. NULL: the item was refused, and freed. */
static void *add_item(const struct list *l, struct vm_config *config, struct vm *vm, void *item, int slot,
		      struct err *err)
{
	void *at = check_slot(vm, slot, err) < 0 ? NULL : append(l, config, item, err);

	if (!at) {
		drop_item(l, item);
	} else if (check_entry(config, vm, id_of(at), err) < 0) {
		drop_last(l, config);
		at = NULL;
	}
	return at;
}

int hotplug_add_disk(struct vm_config *config, struct vm *vm, struct disk_config *disk, struct strbuf *out,
		     struct err *err)
{
	int slot = wanted_slot(disk->has_pci_device_id, disk->pci_device_id);
	struct disk_config *d = add_item(&lists[DISKS], config, vm, disk, slot, err);

	if (!d)
		return err->num;
	if (!vm || announce(vm, devices_plug_disk(vm, d, err), out, err) == 0)
		return 0;
	drop_last(&lists[DISKS], config);
	return err->num;
}

int hotplug_add_net(struct vm_config *config, struct vm *vm, struct net_config *net, struct strbuf *out,
		    struct err *err)
{
	int slot = wanted_slot(net->has_pci_device_id, net->pci_device_id);
	struct net_config *n = add_item(&lists[NETS], config, vm, net, slot, err);

	if (!n)
		return err->num;
	if (!vm || announce(vm, devices_plug_net(vm, n, err), out, err) == 0)
		return 0;
	drop_last(&lists[NETS], config);
	return err->num;
}

static int add_vsock(struct vm_config *config, struct vm *vm, struct vsock_config *v, struct strbuf *out,
		     struct err *err)
{
	if (check_slot(vm, wanted_slot(v->has_pci_device_id, v->pci_device_id), err) < 0 ||
	    check_entry(config, vm, v->id, err) < 0)
		return err->num;
	return vm ? announce(vm, devices_plug_vsock(vm, v, err), out, err) : 0;
}

int hotplug_add_vsock(struct vm_config *config, struct vm *vm, struct vsock_config *vsock, struct strbuf *out,
		      struct err *err)
{
	if (config->vsock || (vm && vm->removed.vsock))
		return err_set(err, ERR_INTERNAL, "Too many virtio-vsock devices");
	config->vsock = malloc(sizeof(*vsock));
	if (!config->vsock)
		return err_num(err, ERR_INTERNAL, ENOMEM, "add a vsock device");
	*config->vsock = *vsock;
	fields_init(vsock_fields, vsock);
	int r = add_vsock(config, vm, config->vsock, out, err);
	if (r < 0)
		drop_vsock(config);
	return r;
}

/* ---- going ---- */

/* Finds a device that may go, by its own id or by its transport's. */
static int find_removable(const struct vm *vm, const char *id, struct virtio_pci **ret, struct err *err)
{
	const char *own = strncmp(id, TRANSPORT_PREFIX, strlen(TRANSPORT_PREFIX)) == 0 ? id + strlen(TRANSPORT_PREFIX)
										       : id;
	struct virtio_pci *t = devices_find(vm, own);

	if (strcmp(id, arch_irqchip_id) == 0 || (vm->serial && strcmp(id, "__serial") == 0))
		return err_set(err, ERR_INTERNAL, "Could not find the node in the device tree");
	if (!t)
		return err_set(err, ERR_NOT_FOUND, "Failed to find device corresponding to the given identifier: %.80s",
			       id);
	if (!t->vdev->ops->hotplug)
		return err_set(err, ERR_INTERNAL, "Not allowed to remove this type of device from the VM: %s",
			       t->vdev->ops->name);
	*ret = t;
	return 0;
}

int hotplug_remove(struct vm_config *config, struct vm *vm, const char *id, struct err *err)
{
	struct virtio_pci *t = NULL;

	if (!vm) {
		return move_entry(config, NULL, id)
			       ? 0
			       : err_set(err, ERR_NOT_FOUND, "No device with id \"%.80s\" to remove", id);
	}
	hotplug_ejected(vm);
	if (find_removable(vm, id, &t, err) < 0)
		return err_wrap(err, "Error from device manager");
	move_entry(config, &vm->removed, id); /* does nothing when `id` was removed before, or is the transport's */
	arch_pci_changed(vm, 0, 1U << t->pci.slot);
	log_info("device '%s' is to go", t->vdev->id);
	return 0;
}

/*
 * Frees an ejected device. When nobody had asked for the ejection, the device's configuration
 * stays: the device is there again after a reboot.
 */
static void remove_device(struct vm *vm, struct virtio_pci *t)
{
	char id[sizeof(t->vdev->id)], bdf[PCI_BDF_BYTES];

	memcpy(id, t->vdev->id, sizeof(id));
	pci_bdf(&t->pci, bdf);
	devices_remove(vm, t);
	move_entry(&vm->removed, NULL, id);
	event_emit_device("device-removed", id, bdf);
	log_info("device '%s' at %s is gone", id, bdf);
}

void hotplug_ejected(struct vm *vm)
{
	bool ran = vcpus_hold(&vm->vcpus);

	for (unsigned i = vm->n_devs; i > 0; i--)
		if (vm->dev[i - 1]->pci.ejected)
			remove_device(vm, vm->dev[i - 1]);
	vcpus_go_on(&vm->vcpus, ran);
}

/* ---- snapshots ---- */

/*
 * Replaces a list of *all by a new one: those of its own entries and of the entries in *more whose
 * device is there. The strings are not copied. NULL: no memory.
 */
static void *present(const struct list *l, const struct vm *vm, struct vm_config *all, struct vm_config *more)
{
	uint32_t n = 0, most = *count_of(l, all) + *count_of(l, more);
	char *items = calloc(most + 1UL, l->bytes);

	for (unsigned k = 0; items && k < 2; k++) {
		struct vm_config *from = k == 0 ? all : more;
		for (uint32_t i = 0; i < *count_of(l, from); i++) {
			const char *item = *items_of(l, from) + i * l->bytes;
			if (id_of(item) && devices_find(vm, id_of(item)))
				memcpy(items + n++ * l->bytes, item, l->bytes);
		}
	}
	*items_of(l, all) = most > 0 || *items_of(l, all) ? items : NULL;
	*count_of(l, all) = n;
	return items;
}

/* A restored guest's tap is to have the MAC that the tap has here: the guest sends to it. Returns the texts, heap; NULL: no memory. */
static char *record_host_macs(const struct vm *vm, struct vm_config *c)
{
	char *texts = calloc(c->n_net + 1UL, MAC_TEXT_BYTES);

	for (uint32_t i = 0; texts && c->net && i < c->n_net; i++) {
		char *text = texts + (size_t)i * MAC_TEXT_BYTES;
		if (virtio_net_host_mac(devices_find(vm, c->net[i].id)->vdev, text))
			c->net[i].host_mac = text;
	}
	return texts;
}

void hotplug_save_config(const struct vm *vm, struct strbuf *out)
{
	struct vm_config c = *vm->config, more = vm->removed;
	autofree void *disks = present(&lists[DISKS], vm, &c, &more), *nets = present(&lists[NETS], vm, &c, &more);
	autofree char *macs = disks && nets ? record_host_macs(vm, &c) : NULL;

	if (!macs) {
		out->failed = true;
		return;
	}
	c.vsock = c.vsock && devices_find(vm, c.vsock->id) ? c.vsock : more.vsock;
	fields_save(vm_config_fields, &c, out);
}

/* A bit for each PCI slot. */
struct saved {
	uint32_t came, going;
};
static const struct field saved_fields[] = {
	F(struct saved, came),
	F(struct saved, going),
	F_END,
};

static bool is_going(struct vm *vm, const char *id)
{
	if (vm->removed.vsock && has_id(vm->removed.vsock->id, id))
		return true;
	for (unsigned k = 0; k < ARRAY_LEN(lists); k++)
		if (index_of(&lists[k], &vm->removed, id) >= 0)
			return true;
	return false;
}

void hotplug_save(struct vm *vm, struct strbuf *out)
{
	struct saved s = { .came = arch_pci_unseen(vm) | vm->tell_up };

	for (unsigned i = 0; i < vm->n_devs; i++)
		if (is_going(vm, vm->dev[i]->vdev->id))
			s.going |= 1U << vm->dev[i]->pci.slot;
	if (!s.came && !s.going)
		return;
	strbuf_puts(out, ",\"hotplug\":");
	fields_save(saved_fields, &s, out);
}

int hotplug_load(struct vm *vm, const struct json_node *manager, struct err *err)
{
	const struct json_node *node = json_get(manager, "hotplug");
	struct saved s = {};

	if (!node)
		return 0;
	if (fields_load(saved_fields, &s, node, "device-manager.hotplug", err) < 0)
		return err_wrap(err, "state.json");
	for (unsigned i = 0; i < vm->n_devs; i++) {
		const struct virtio_pci *t = vm->dev[i];
		uint32_t bit = 1U << t->pci.slot;
		if (!t->vdev->ops->hotplug)
			continue;
		vm->tell_up |= s.came & bit;
		if ((s.going & bit) && move_entry(vm->config, &vm->removed, t->vdev->id))
			vm->tell_down |= bit;
	}
	return 0;
}

void hotplug_tell_again(struct vm *vm)
{
	if (vm->tell_up | vm->tell_down)
		arch_pci_changed(vm, vm->tell_up, vm->tell_down);
	vm->tell_up = vm->tell_down = 0;
}

void hotplug_done(struct vm *vm)
{
	vm_config_close_fds(&vm->removed);
	vm_config_free(&vm->removed);
}
