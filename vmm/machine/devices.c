// SPDX-License-Identifier: Apache-2.0
/*
 * Devices of a machine: made in Cloud Hypervisor's order, saved and loaded as the tree below
 * "device-manager".
 */
#include "vmm/machine/devices.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "vmm/console/serial.h"
#include "vmm/machine/hotplug.h"
#include "vmm/state/state.h"
#include "vmm/virtio/kinds.h"
#include "vmm/virtio/transport.h"

/* Where the devices of a machine come from. */
struct origin {
	bool hot;                     /* the machine was made before: it runs, or is paused */
	const struct json_node *tree; /* "device_tree" of the snapshot; NULL: there is none */
};

struct virtio_pci *devices_find(const struct vm *vm, const char *id)
{
	for (unsigned i = 0; i < vm->n_devs; i++)
		if (strcmp(vm->dev[i]->vdev->id, id) == 0)
			return vm->dev[i];
	return NULL;
}

static int auto_id(struct vm *vm, char **id, const char *prefix, struct err *err)
{
	char text[32];

	if (*id)
		return 0;
	do
		snprintf(text, sizeof(text), "%s%u", prefix, vm->device_id_cnt++);
	while (devices_find(vm, text));
	*id = strdup(text);
	return *id ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "name a device");
}

/* What the snapshot's device tree says of a device's transport; NULL: nothing. */
static const struct json_node *tree_entry(const struct json_node *tree, const char *id)
{
	char name[96];

	snprintf(name, sizeof(name), TRANSPORT_PREFIX "%s", id);
	return json_get(tree, name);
}

/*
 * Takes slot and kind of BAR from the snapshot: a device that was plugged in later differs there
 * from one that was there at the boot.
 */
static struct pci_place saved_place(const struct json_node *entry, struct pci_place place)
{
	const struct json_node *bdf = json_get(entry, "pci_bdf"), *resources = json_get(entry, "resources");
	unsigned slot = 0;

	if (place.slot == 0 && bdf && bdf->type == JSON_STRING && sscanf(bdf->str, "0000:00:%2x.0", &slot) == 1 &&
	    slot < PCI_SLOTS)
		place.slot = slot;
	if (!resources || resources->type != JSON_ARRAY)
		return place;
	for (json_each(r, resources)) {
		const struct json_node *type = json_get(json_get(r, "PciBar"), "type_");
		if (type && type->type == JSON_STRING)
			place.bar32 = strcmp(type->str, "Mmio32") == 0;
	}
	return place;
}

static int attach_device(struct vm *vm, const struct origin *origin, struct virtio_dev *vdev, unsigned slot,
			 struct err *err)
{
	struct pci_place place = { .slot = slot,
				   .bar32 = vdev->ops->bar32 && !origin->hot,
				   .saved = origin->tree != NULL };

	struct virtio_pci *t = NULL;

	if (origin->tree)
		place = saved_place(tree_entry(origin->tree, vdev->id), place);
	place.area = (place.bar32 ? arch_mmio32(vm) : arch_mmio64(vm)).first;
	if (vm->n_devs == ARRAY_LEN(vm->dev)) {
		vdev->ops->free(vdev);
		return err_set(err, ERR_INTERNAL, "more than %zu devices", ARRAY_LEN(vm->dev));
	}
	bool ran = origin->hot && vcpus_hold(&vm->vcpus);
	vdev->paused = origin->hot && !ran;
	int r = virtio_pci_attach(&vm->env, vdev, &place, &t, err);
	if (r >= 0)
		vm->dev[vm->n_devs++] = t;
	vcpus_go_on(&vm->vcpus, ran);
	return r;
}

/* `made` is the result of the constructor that filled *vdev. */
static int add_device(struct vm *vm, const struct origin *origin, int made, struct virtio_dev **vdev, bool has_slot,
		      uint8_t slot, struct err *err)
{
	return made < 0 ? made : attach_device(vm, origin, *vdev, has_slot ? slot : 0, err);
}

static int add_disk(struct vm *vm, const struct origin *origin, struct disk_config *d, struct err *err)
{
	struct virtio_dev *vdev = NULL;

	if (auto_id(vm, &d->id, "_disk", err) < 0)
		return err->num;
	return add_device(vm, origin, virtio_blk_new(&vm->env, d, &vdev, err), &vdev, d->has_pci_device_id,
			  d->pci_device_id, err);
}

static int add_net(struct vm *vm, const struct origin *origin, struct net_config *n, struct err *err)
{
	struct virtio_dev *vdev = NULL;

	if (auto_id(vm, &n->id, "_net", err) < 0)
		return err->num;
	return add_device(vm, origin, virtio_net_new(&vm->env, n, &vdev, err), &vdev, n->has_pci_device_id,
			  n->pci_device_id, err);
}

static int add_vsock(struct vm *vm, const struct origin *origin, struct vsock_config *v, struct err *err)
{
	struct virtio_dev *vdev = NULL;

	if (auto_id(vm, &v->id, "_vsock", err) < 0)
		return err->num;
	return add_device(vm, origin, virtio_vsock_new(&vm->env, v, &vdev, err), &vdev, v->has_pci_device_id,
			  v->pci_device_id, err);
}

/* The order of these calls is the order of PCI slots, which the guest sees. */
static int add_virtio(struct vm *vm, const struct origin *o, struct err *err)
{
	struct vm_config *c = vm->config;
	struct virtio_dev *vdev = NULL;

	if (c->console.mode != CONSOLE_OFF &&
	    add_device(vm, o, virtio_console_new(&vm->env, &c->console, &vdev, err), &vdev,
		       c->console.has_pci_device_id, c->console.pci_device_id, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < c->n_disks; i++)
		if (add_disk(vm, o, &c->disks[i], err) < 0)
			return err->num;
	for (uint32_t i = 0; i < c->n_net; i++)
		if (add_net(vm, o, &c->net[i], err) < 0)
			return err->num;
	if (add_device(vm, o, virtio_rng_new(&vm->env, &c->rng, &vdev, err), &vdev, c->rng.has_pci_device_id,
		       c->rng.pci_device_id, err) < 0)
		return err->num;
	if (c->vsock && add_vsock(vm, o, c->vsock, err) < 0)
		return err->num;
	if (c->balloon && add_device(vm, o, virtio_balloon_new(&vm->env, c->balloon, &vdev, err), &vdev,
				     c->balloon->has_pci_device_id, c->balloon->pci_device_id, err) < 0)
		return err->num;
	return 0;
}

static const struct origin hot = { .hot = true };

int devices_plug_disk(struct vm *vm, struct disk_config *cfg, struct err *err)
{
	return add_disk(vm, &hot, cfg, err);
}

int devices_plug_net(struct vm *vm, struct net_config *cfg, struct err *err)
{
	return add_net(vm, &hot, cfg, err);
}

int devices_plug_vsock(struct vm *vm, struct vsock_config *cfg, struct err *err)
{
	return add_vsock(vm, &hot, cfg, err);
}

static void pulse_serial(void *opaque)
{
	arch_irq_pulse(opaque, arch_serial_gsi);
}

static int make_devices(struct vm *vm, const struct origin *origin, struct err *err)
{
	const struct serial_env env = { .loop = vm->loop, .pio = &vm->pio, .pulse = pulse_serial, .opaque = vm };

	if (vm->config->serial.mode != CONSOLE_OFF && serial_new(&env, &vm->config->serial, &vm->serial, err) < 0)
		return err->num;
	return add_virtio(vm, origin, err);
}

int devices_new(struct vm *vm, struct err *err)
{
	return make_devices(vm, &(struct origin){}, err);
}

void devices_remove(struct vm *vm, struct virtio_pci *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < vm->n_devs; i++)
		if (vm->dev[i] != t)
			vm->dev[n++] = vm->dev[i];
	vm->n_devs = n;
	virtio_pci_remove(t);
}

void devices_free(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_devs; i++)
		virtio_pci_free(vm->dev[i]);
	vm->n_devs = 0;
	serial_free(vm->serial);
	vm->serial = NULL;
}

void devices_pause(struct vm *vm)
{
	for (unsigned i = 0; i < vm->n_devs; i++)
		virtio_pause(vm->dev[i]->vdev);
}

void devices_resume(struct vm *vm, bool restored)
{
	for (unsigned i = 0; i < vm->n_devs; i++)
		virtio_resume(vm->dev[i]->vdev, restored);
}

unsigned devices_lost_nets(struct vm *vm, char *ret_ids[MAX_PCI_SLOTS])
{
	unsigned n = 0;

	for (unsigned i = 0; i < vm->n_devs; i++)
		if (virtio_net_is_lost(vm->dev[i]->vdev))
			ret_ids[n++] = vm->dev[i]->vdev->id;
	return n;
}

void devices_hold_nets(struct vm *vm)
{
	vm->env.nets_held = true;
}

void devices_unhold_nets(struct vm *vm)
{
	vm->env.nets_held = false;
	for (unsigned i = 0; i < vm->n_devs; i++)
		virtio_net_unhold(vm->dev[i]->vdev);
}

int devices_dial(struct vm *vm, int fd, uint32_t port, struct err *err)
{
	for (unsigned i = 0; i < vm->n_devs; i++)
		if (vm->dev[i]->vdev->ops->type == VIRTIO_ID_VSOCK)
			return virtio_vsock_dial(vm->dev[i]->vdev, fd, port, err);
	return err_set(err, ERR_NOT_FOUND, "the VM has no vsock device");
}

void devices_counters(struct vm *vm, struct virtio_counters *ret)
{
	for (unsigned i = 0; i < vm->n_devs; i++) {
		struct virtio_dev *vdev = vm->dev[i]->vdev;
		pthread_mutex_lock(&vdev->lock);
		const struct virtio_counters c = vdev->counters;
		pthread_mutex_unlock(&vdev->lock);
		ret->disk_read_bytes += c.disk_read_bytes;
		ret->disk_written_bytes += c.disk_written_bytes;
		ret->disk_ops += c.disk_ops;
		ret->net_rx_bytes += c.net_rx_bytes;
		ret->net_tx_bytes += c.net_tx_bytes;
		ret->net_rx_frames += c.net_rx_frames;
		ret->net_tx_frames += c.net_tx_frames;
		ret->net_held_frames += c.net_held_frames;
	}
}

void devices_counters_json(struct vm *vm, struct strbuf *out)
{
	const char *separator = "";

	strbuf_putc(out, '{');
	for (unsigned i = 0; i < vm->n_devs; i++) {
		struct virtio_dev *vdev = vm->dev[i]->vdev;
		if (!vdev->ops->counters)
			continue;
		strbuf_printf(out, "%s\"%s\":", separator, vdev->id);
		separator = ",";
		pthread_mutex_lock(&vdev->lock);
		fields_save(vdev->ops->counters, &vdev->counters, out);
		pthread_mutex_unlock(&vdev->lock);
	}
	strbuf_putc(out, '}');
}

/* The device of that type with that id (NULL: any); NULL: there is none. */
static struct virtio_dev *find_device(const struct vm *vm, uint16_t type, const char *id)
{
	for (unsigned i = 0; i < vm->n_devs; i++) {
		struct virtio_dev *vdev = vm->dev[i]->vdev;
		if (vdev->ops->type == type && (!id || strcmp(vdev->id, id) == 0))
			return vdev;
	}
	return NULL;
}

bool devices_resize_balloon(struct vm *vm, uint64_t bytes)
{
	struct virtio_dev *balloon = find_device(vm, VIRTIO_ID_BALLOON, NULL);

	if (balloon)
		virtio_balloon_resize(balloon, bytes);
	return balloon;
}

uint64_t devices_balloon_bytes(const struct vm *vm)
{
	struct virtio_dev *balloon = find_device(vm, VIRTIO_ID_BALLOON, NULL);

	return balloon ? virtio_balloon_bytes(balloon) : 0;
}

int devices_resize_disk(struct vm *vm, const char *id, uint64_t bytes, struct err *err)
{
	struct virtio_dev *disk = find_device(vm, VIRTIO_ID_BLOCK, id);

	if (!disk)
		return err_set(err, ERR_NOT_FOUND, "Failed to find device corresponding to the given identifier: %.64s",
			       id);
	return virtio_blk_resize(disk, bytes, err) < 0 ? err_wrap(err, "Disk resize error") : 0;
}

void devices_sync_disk(struct vm *vm, const char *id)
{
	struct virtio_dev *disk = find_device(vm, VIRTIO_ID_BLOCK, id);

	if (disk)
		virtio_blk_sync(disk);
}

int devices_put_over_disk(struct vm *vm, struct disk_config *cfg, struct err *err)
{
	struct virtio_dev *disk = find_device(vm, VIRTIO_ID_BLOCK, cfg->id);

	return disk ? virtio_blk_put_over(disk, cfg, err)
		    : err_set(err, ERR_NOT_FOUND, "there is no disk '%s'", cfg->id);
}

/* ---- state ---- */

static void save_platform(struct vm *vm, const char *id, struct strbuf *out)
{
	autostrbuf struct strbuf state = {};

	if (strcmp(id, "__serial") == 0)
		serial_save(vm->serial, &state);
	else
		arch_irqchip_save(vm, &state);
	state_open(out, id);
	state_close(out, &state);
}

static void save_device(struct virtio_dev *vdev, struct strbuf *out)
{
	autostrbuf struct strbuf state = {};

	pthread_mutex_lock(&vdev->lock);
	vdev->ops->save(vdev, &state);
	pthread_mutex_unlock(&vdev->lock);
	state_open(out, vdev->id);
	state_close(out, &state);
}

/* One child of "device-manager": children stand in the order of their ids. */
struct child {
	const char *id;
	struct virtio_pci *transport; /* its own node */
	struct virtio_dev *device;    /* its device's node; both NULL: a platform device */
};

static int child_order(const void *a, const void *b)
{
	return strcmp(((const struct child *)a)->id, ((const struct child *)b)->id);
}

void devices_save(struct vm *vm, struct strbuf *out)
{
	struct child child[2 * MAX_PCI_SLOTS + 2];
	autostrbuf struct strbuf state = {};
	unsigned n = 0;

	child[n++] = (struct child){ .id = arch_irqchip_id };
	if (vm->serial)
		child[n++] = (struct child){ .id = "__serial" };
	for (unsigned i = 0; i < vm->n_devs; i++) {
		child[n++] = (struct child){ .id = vm->dev[i]->id, .transport = vm->dev[i] };
		child[n++] = (struct child){ .id = vm->dev[i]->vdev->id, .device = vm->dev[i]->vdev };
	}
	qsort(child, n, sizeof(child[0]), child_order);
	state_open(out, "device-manager");
	for (unsigned i = 0; i < n; i++) {
		if (child[i].transport)
			virtio_pci_save(child[i].transport, out);
		else if (child[i].device)
			save_device(child[i].device, out);
		else
			save_platform(vm, child[i].id, out);
	}
	strbuf_puts(&state, "{\"device_tree\":");
	devices_tree(vm, &state);
	strbuf_printf(&state, ",\"device_id_cnt\":%u", vm->device_id_cnt);
	hotplug_save(vm, &state);
	strbuf_putc(&state, '}');
	state_close(out, &state);
}

static void tree_leaf(const char *id, struct strbuf *out)
{
	strbuf_printf(out, "\"%s\":{\"id\":\"%s\",\"resources\":[],\"children\":[]}", id, id);
}

void devices_tree(const struct vm *vm, struct strbuf *out)
{
	strbuf_putc(out, '{');
	tree_leaf(arch_irqchip_id, out);
	if (vm->serial) {
		strbuf_putc(out, ',');
		tree_leaf("__serial", out);
	}
	for (unsigned i = 0; i < vm->n_devs; i++) {
		strbuf_putc(out, ',');
		virtio_pci_tree(vm->dev[i], out);
	}
	strbuf_putc(out, '}');
}

/* A child's state, handed to a function that loads it. */
static int load_node(const struct json_node *node, const char *id, struct json *json,
		     const struct json_node **ret_state, struct err *err)
{
	const struct json_node *child = NULL;

	if (state_child(node, id, &child, err) < 0)
		return err->num;
	return state_parse(child, id, json, ret_state, err);
}

static int load_device(struct virtio_pci *t, const struct json_node *node, struct json *json, struct err *err)
{
	const struct json_node *state = NULL, *own = NULL;

	if (load_node(node, t->vdev->id, json, &state, err) < 0 || t->vdev->ops->load(t->vdev, state, err) < 0)
		return err->num;
	if (state_child(node, t->id, &own, err) < 0)
		return err->num;
	return virtio_pci_load(t, own, err);
}

/*
 * Ids below "device-manager" that nothing of this configuration claims: a device that we would
 * silently lose.
 */
static int check_all_known(const struct vm *vm, const struct json_node *node, struct err *err)
{
	const struct json_node *children = json_get(node, "snapshots");

	for (json_each(c, children)) {
		bool known = strcmp(c->key, arch_irqchip_id) == 0 || (vm->serial && strcmp(c->key, "__serial") == 0);
		for (unsigned i = 0; i < vm->n_devs && !known; i++)
			known = strcmp(c->key, vm->dev[i]->id) == 0 || strcmp(c->key, vm->dev[i]->vdev->id) == 0;
		if (!known)
			return err_set(err, ERR_INVALID,
				       "state.json: device '%s' is not in config.json, or not supported", c->key);
	}
	return 0;
}

/*
 * The guest knows each device by its slot: a configuration that gives it another one is not that of
 * this snapshot.
 */
static int check_slots(const struct vm *vm, const struct json_node *tree, struct err *err)
{
	for (unsigned i = 0; i < vm->n_devs; i++) {
		const struct json_node *bdf = json_get(json_get(tree, vm->dev[i]->id), "pci_bdf");
		char here[PCI_BDF_BYTES];
		pci_bdf(&vm->dev[i]->pci, here);
		if (bdf && (bdf->type != JSON_STRING || strcmp(bdf->str, here) != 0))
			return err_set(err, ERR_INVALID,
				       "state.json: device '%s' is at %s in the snapshot, config.json puts it at %s",
				       vm->dev[i]->vdev->id, bdf->type == JSON_STRING ? bdf->str : "?", here);
	}
	return 0;
}

static int restore_tree(struct vm *vm, const struct json_node *manager, struct err *err)
{
	const struct origin origin = { .tree = json_get(manager, "device_tree") };
	const struct json_node *cnt = json_get(manager, "device_id_cnt");

	if (!origin.tree || origin.tree->type != JSON_OBJECT)
		return err_set(err, ERR_INVALID, "state.json: device-manager.device_tree: missing");
	if (make_devices(vm, &origin, err) < 0 || check_slots(vm, origin.tree, err) < 0)
		return err->num;
	if (cnt && cnt->type == JSON_INT && cnt->num < UINT32_MAX)
		vm->device_id_cnt = (unsigned)cnt->num;
	return hotplug_load(vm, manager, err);
}

int devices_restore(struct vm *vm, const struct json_node *node, struct err *err)
{
	autojson struct json json = {};
	const struct json_node *state = NULL;

	if (state_parse(node, "device-manager", &json, &state, err) < 0)
		return err->num;
	return restore_tree(vm, state, err);
}

int devices_load(struct vm *vm, const struct json_node *node, struct err *err)
{
	autojson struct json json = {};
	const struct json_node *state = NULL;

	if (load_node(node, arch_irqchip_id, &json, &state, err) < 0 || arch_irqchip_load(vm, state, err) < 0)
		return err->num;
	if (vm->serial &&
	    (load_node(node, "__serial", &json, &state, err) < 0 || serial_load(vm->serial, state, err) < 0))
		return err->num;
	for (unsigned i = 0; i < vm->n_devs; i++)
		if (load_device(vm->dev[i], node, &json, err) < 0)
			return err->num;
	return check_all_known(vm, node, err);
}
