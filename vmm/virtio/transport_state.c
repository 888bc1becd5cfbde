// SPDX-License-Identifier: Apache-2.0
/*
 * The saved state of a virtio-pci transport: writes and reads the nodes in state.json, and writes the
 * device tree's.
 */
#include <errno.h>
#include <string.h>

#include "vmm/state/state.h"
#include "vmm/virtio/transport_private.h"

struct saved_device {
	bool device_activated;
	struct vring_state *queues;
	uint32_t n_queues;
	uint64_t interrupt_status;
	uint32_t cap_pci_cfg_offset;
	uint8_t cap_pci_cfg[CAP_PCI_CFG_BYTES];
};

static const struct field device_fields[] = {
	F(struct saved_device, device_activated, .flags = F_REQUIRED),
	F_OBJ_LIST(struct saved_device, queues, vring_fields, .flags = F_REQUIRED, .count = VIRTIO_MAX_QUEUES),
	F(struct saved_device, interrupt_status, .flags = F_REQUIRED),
	F(struct saved_device, cap_pci_cfg_offset, .flags = F_REQUIRED),
	F_ARRAY(struct saved_device, cap_pci_cfg, .flags = F_REQUIRED),
	F_END,
};

struct saved_common {
	uint8_t driver_status, config_generation;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t queue_select, msix_config;
	uint16_t *msix_queues;
	uint32_t n_msix_queues;
};

static const struct field common_fields[] = {
	F(struct saved_common, driver_status, .flags = F_REQUIRED),
	F(struct saved_common, config_generation, .flags = F_REQUIRED),
	F(struct saved_common, device_feature_select, .flags = F_REQUIRED),
	F(struct saved_common, driver_feature_select, .flags = F_REQUIRED),
	F(struct saved_common, queue_select, .flags = F_REQUIRED),
	F(struct saved_common, msix_config, .flags = F_REQUIRED),
	F_LIST(struct saved_common, msix_queues, .flags = F_REQUIRED, .count = VIRTIO_MAX_QUEUES),
	F_END,
};

/* ---- save ---- */

static void save_device(const struct virtio_pci *t, struct strbuf *out)
{
	struct vring_state queues[VIRTIO_MAX_QUEUES];
	struct saved_device s = {
		.device_activated = t->vdev->active,
		.queues = queues,
		.n_queues = t->vdev->n_queues,
		.interrupt_status = t->interrupt_status,
		.cap_pci_cfg_offset = t->cap_pci_cfg_offset,
	};

	for (unsigned i = 0; i < s.n_queues; i++)
		queues[i] = t->vdev->queue[i].s;
	memcpy(s.cap_pci_cfg, t->cap_pci_cfg, sizeof(s.cap_pci_cfg));
	fields_save(device_fields, &s, out);
}

void virtio_pci_save(struct virtio_pci *t, struct strbuf *out)
{
	autostrbuf struct strbuf device = {};
	struct saved_common c = {
		.driver_status = t->driver_status,
		.config_generation = t->config_generation,
		.device_feature_select = t->device_feature_select,
		.driver_feature_select = t->driver_feature_select,
		.queue_select = t->queue_select,
		.msix_config = t->msix_config,
		.msix_queues = t->msix_queues,
		.n_msix_queues = t->vdev->n_queues,
	};

	pthread_mutex_lock(&t->vdev->lock);
	save_device(t, &device);
	state_open(out, t->id);
	state_leaf(out, "msix_config", msix_fields, &t->msix);
	state_leaf(out, "pci_configuration", pci_config_fields, &t->pci.cfg);
	state_leaf(out, "virtio_pci_common_config", common_fields, &c);
	state_close(out, &device);
	pthread_mutex_unlock(&t->vdev->lock);
}

/* ---- load ---- */

static int check_queues(const struct virtio_pci *t, const struct saved_device *s, struct err *err)
{
	if (s->n_queues != t->vdev->n_queues)
		return err_set(err, ERR_INVALID, "state.json: %s: %u queues, the configuration has %u", t->id,
			       s->n_queues, t->vdev->n_queues);
	for (unsigned i = 0; i < s->n_queues; i++)
		if (s->queues[i].size > s->queues[i].max_size || s->queues[i].max_size != t->vdev->queue[i].s.max_size)
			return err_set(err, ERR_INVALID, "state.json: %s: queue %u has size %u of %u, configured is %u",
				       t->id, i, s->queues[i].size, s->queues[i].max_size,
				       t->vdev->queue[i].s.max_size);
	if (s->cap_pci_cfg_offset != t->cap_pci_cfg_offset)
		return err_set(err, ERR_INVALID, "state.json: %s: cap_pci_cfg_offset is %u, expected %u", t->id,
			       s->cap_pci_cfg_offset, t->cap_pci_cfg_offset);
	return 0;
}

static int load_common(struct virtio_pci *t, const struct json_node *node, struct err *err)
{
	struct saved_common c = {};
	int r = state_load_leaf(node, "virtio_pci_common_config", common_fields, &c, err);

	if (r == 0 && c.n_msix_queues != t->vdev->n_queues)
		r = err_set(err, ERR_INVALID, "state.json: %s: msix_queues has %u entries, expected %u", t->id,
			    c.n_msix_queues, t->vdev->n_queues);
	if (r == 0) {
		t->driver_status = c.driver_status;
		t->config_generation = c.config_generation;
		t->device_feature_select = c.device_feature_select;
		t->driver_feature_select = c.driver_feature_select;
		t->queue_select = c.queue_select;
		t->msix_config = virtio_pci_vector(t, c.msix_config);
		for (unsigned i = 0; i < c.n_msix_queues; i++)
			t->msix_queues[i] = virtio_pci_vector(t, c.msix_queues[i]);
	}
	fields_free(common_fields, &c);
	return r;
}

/*
 * Loads the configuration space. The guest knows the capabilities and BAR 0: they must be those of
 * this program.
 */
static int load_pci(struct virtio_pci *t, const struct json_node *node, struct err *err)
{
	autofree struct pci_config *c = calloc(1, sizeof(*c));

	if (!c)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load '%s'", t->id);
	if (state_load_leaf(node, "pci_configuration", pci_config_fields, c, err) < 0)
		return err->num;
	if (c->registers[0] != t->pci.cfg.registers[0] || c->msix_cap_reg_idx != t->pci.cfg.msix_cap_reg_idx ||
	    c->bars[0].type != t->pci.cfg.bars[0].type || c->bars[0].size != t->pci.cfg.bars[0].size)
		return err_set(err, ERR_INVALID, "state.json: %s: pci_configuration is not that of a %s device", t->id,
			       t->vdev->ops->name);
	t->pci.bar0 = pci_bar0_address(c);
	t->pci.cfg = *c;
	return virtio_pci_map_bar(t, err) < 0 ? err_wrap(err, "state.json: %s", t->id) : 0;
}

static int load_msix(struct virtio_pci *t, const struct json_node *node, struct err *err)
{
	struct msix m = {};

	if (state_load_leaf(node, "msix_config", msix_fields, &m, err) < 0)
		return err->num;
	if (msix_check(&m, t->vdev->n_queues + 1, t->id, err) < 0) {
		msix_done(&m);
		return err->num;
	}
	msix_done(&t->msix);
	t->msix = m;
	return 0;
}

static int load_device(struct virtio_pci *t, const struct json_node *node, struct saved_device *s, struct err *err)
{
	autojson struct json json = {};
	const struct json_node *state = NULL;

	if (state_parse(node, t->id, &json, &state, err) < 0)
		return err->num;
	if (fields_load(device_fields, s, state, t->id, err) < 0)
		return err_wrap(err, "state.json");
	if (check_queues(t, s, err) < 0)
		return err->num;
	if (load_common(t, node, err) < 0 || load_pci(t, node, err) < 0 || load_msix(t, node, err) < 0)
		return err->num;
	for (unsigned i = 0; i < s->n_queues; i++)
		t->vdev->queue[i].s = s->queues[i];
	t->interrupt_status = s->interrupt_status;
	memcpy(t->cap_pci_cfg, s->cap_pci_cfg, sizeof(t->cap_pci_cfg));
	t->vdev->paused = true;
	t->vdev->broken = t->driver_status & STATUS_NEEDS_RESET;
	if (s->device_activated)
		virtio_activate(t->vdev);
	if (s->device_activated && !t->vdev->active)
		return err_set(err, ERR_INVALID, "state.json: %s: its queues are not in guest RAM", t->id);
	return 0;
}

int virtio_pci_load(struct virtio_pci *t, const struct json_node *node, struct err *err)
{
	struct saved_device s = {};
	int r = load_device(t, node, &s, err);

	fields_free(device_fields, &s);
	return r;
}

/* ---- the device tree ---- */

void virtio_pci_tree(const struct virtio_pci *t, struct strbuf *out)
{
	bool bar32 = t->pci.cfg.bars[0].type == PCI_BAR_MEMORY32;
	char bdf[PCI_BDF_BYTES];

	pci_bdf(&t->pci, bdf);
	strbuf_printf(out,
		      "\"%s\":{\"id\":\"%s\",\"resources\":[{\"PciBar\":{\"index\":0,\"base\":%llu,\"size\":%d,"
		      "\"type_\":\"%s\",\"prefetchable\":false}}],\"children\":[\"%s\"],\"pci_bdf\":\"%s\"},",
		      t->id, t->id, (unsigned long long)t->pci.bar0, VIRTIO_PCI_BAR_BYTES, bar32 ? "Mmio32" : "Mmio64",
		      t->vdev->id, bdf);
	strbuf_printf(out, "\"%s\":{\"id\":\"%s\",\"resources\":[],\"parent\":\"%s\",\"children\":[]}", t->vdev->id,
		      t->vdev->id, t->id);
}
