// SPDX-License-Identifier: Apache-2.0
/*
 * The tables of VmConfig and RestoreConfig, and the checks that a table cannot express. Key names,
 * order and defaults are Cloud Hypervisor's (v53/v54); .opt is the key's name on the command line.
 */
#include "vmm/config/config.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <string.h>

#include "common/mac.h"

static const char *const console_modes[] = { "Off", "Pty", "Tty", "File", "Socket", "Null", NULL };
/* Types after IMAGE_QCOW2 are refused by name; the last two types are spellings of the command line. */
static const char *const image_types[] = { "Unknown",  "Raw", "Qcow2", "FixedVhd", "Vhdx",
					   "FlatVmdk", "Vhd", "Vmdk",  NULL };
static const char *const lock_granularities[] = { "ByteRange", "Full", NULL };
static const char *const restore_modes[] = { "Copy", "OnDemand", "CopyOnWrite", NULL };
static const char *const clock_choices[] = { "Advance", "Continue", NULL };
static const char *const hotplug_methods[] = { "Acpi", "VirtioMem", NULL };
static const char *const core_schedulings[] = { "Vm", "Vcpu", "Off", NULL };
static const char *const vhost_modes[] = { "Client", "Server", NULL };

static const struct field topology_fields[] = {
	F(struct topology_config, threads_per_core, .flags = F_REQUIRED, .min = 1),
	F(struct topology_config, cores_per_die, .flags = F_REQUIRED, .min = 1),
	F(struct topology_config, dies_per_package, .flags = F_REQUIRED, .min = 1),
	F(struct topology_config, packages, .flags = F_REQUIRED, .min = 1),
	F_END,
};

static const struct field affinity_fields[] = {
	F(struct cpu_affinity, vcpu, .flags = F_REQUIRED),
	F_LIST(struct cpu_affinity, host_cpus, .flags = F_REQUIRED),
	F_END,
};

static const struct field features_fields[] = {
	F(struct cpu_features, amx, .flags = F_REFUSE),
	F_END,
};

const struct field cpus_fields[] = {
	F(struct cpus_config, boot_vcpus, .opt = "boot", .flags = F_REQUIRED, .def = 1, .min = 1, .max = MAX_VCPUS),
	F(struct cpus_config, max_vcpus, .opt = "max", .flags = F_REQUIRED, .def = 1, .min = 1, .max = MAX_VCPUS),
	F_OBJ_PTR(struct cpus_config, topology, topology_fields, .opt = "topology"),
	F(struct cpus_config, kvm_hyperv, .opt = "kvm_hyperv", .flags = F_REFUSE),
	F(struct cpus_config, max_phys_bits, .opt = "max_phys_bits", .def = 46, .min = 36, .max = 52),
	F_OBJ_LIST(struct cpus_config, affinity, affinity_fields, .opt = "affinity", .flags = F_ITEMS),
	F_OBJ(struct cpus_config, features, features_fields, .opt = "features"),
	F(struct cpus_config, nested, .opt = "nested", .def = true),
	F_ENUM(struct cpus_config, core_scheduling, core_schedulings, .opt = "core_scheduling"),
	F(struct cpus_config, profile, .opt = "profile", .def_str = "Host"),
	F_END,
};

const struct field memory_fields[] = {
	F(struct memory_config, size, .opt = "size", .flags = F_REQUIRED | F_SIZE, .def = 512 << 20),
	F(struct memory_config, mergeable, .opt = "mergeable"),
	F_ENUM(struct memory_config, hotplug_method, hotplug_methods, .opt = "hotplug_method"),
	F_UNSUPPORTED("hotplug_size", .opt = "hotplug_size"),
	F_UNSUPPORTED("hotplugged_size", .opt = "hotplugged_size"),
	F(struct memory_config, shared, .opt = "shared", .flags = F_REFUSE),
	F(struct memory_config, hugepages, .opt = "hugepages", .flags = F_REFUSE),
	F_UNSUPPORTED("hugepage_size", .opt = "hugepage_size"),
	F(struct memory_config, prefault, .opt = "prefault"),
	F(struct memory_config, reserve, .opt = "reserve"),
	F_UNSUPPORTED("zones"),
	F(struct memory_config, thp, .opt = "thp", .def = true),
	F_IGNORED_OPT("file"),
	F_END,
};

/* A descriptor that came from another process; never in JSON. */
#define F_FD(s, m) F(s, m, .flags = F_RUNTIME)

static const struct field payload_fields[] = {
	F(struct payload_config, firmware),
	F(struct payload_config, kernel),
	F(struct payload_config, cmdline),
	F(struct payload_config, initramfs),
	F_FD(struct payload_config, kernel_fd),
	F_FD(struct payload_config, initramfs_fd),
	F_END,
};

#define PCI_FIELDS(s)                                                                   \
	F(s, id, .opt = "id"), F(s, iommu, .opt = "iommu", .flags = F_REFUSE | F_OMIT), \
		F(s, pci_segment, .opt = "pci_segment", .flags = F_REFUSE),             \
		F_OPT(s, pci_device_id, .opt = "pci_device_id")
#define RATE_LIMITER_OPTS                                                                                           \
	F_UNSUPPORTED("rate_limiter_config"), F_UNSUPPORTED_OPT("bw_size"), F_UNSUPPORTED_OPT("bw_one_time_burst"), \
		F_UNSUPPORTED_OPT("bw_refill_time"), F_UNSUPPORTED_OPT("ops_size"),                                 \
		F_UNSUPPORTED_OPT("ops_one_time_burst"), F_UNSUPPORTED_OPT("ops_refill_time")

const struct field disk_fields[] = {
	PCI_FIELDS(struct disk_config),
	F(struct disk_config, path, .opt = "path"),
	F(struct disk_config, readonly, .opt = "readonly"),
	F(struct disk_config, direct, .opt = "direct"),
	F(struct disk_config, num_queues, .opt = "num_queues", .def = 1, .min = 1, .max = MAX_VCPUS),
	F(struct disk_config, queue_size, .opt = "queue_size", .def = 128),
	F(struct disk_config, vhost_user, .opt = "vhost_user", .flags = F_REFUSE),
	F_UNSUPPORTED("vhost_socket", .opt = "socket"),
	F_UNSUPPORTED("rate_limit_group", .opt = "rate_limit_group"),
	RATE_LIMITER_OPTS,
	F(struct disk_config, disable_io_uring, .opt = "_disable_io_uring"),
	F(struct disk_config, disable_aio, .opt = "_disable_aio"),
	F(struct disk_config, serial, .opt = "serial"),
	F_UNSUPPORTED("queue_affinity", .opt = "queue_affinity"),
	F(struct disk_config, backing_files, .opt = "backing_files"),
	F(struct disk_config, sparse, .opt = "sparse", .def = true),
	F_ENUM(struct disk_config, image_type, image_types, .opt = "image_type", .max = IMAGE_QCOW2),
	F_ENUM(struct disk_config, lock_granularity, lock_granularities, .opt = "lock_granularity"),
	F_FD(struct disk_config, fd),
	F_FD(struct disk_config, lock_fd),
	F_LIST(struct disk_config, base_fds, .flags = F_RUNTIME),
	F_FD(struct disk_config, base_qcow2),
	F_END,
};

const struct field net_fields[] = {
	PCI_FIELDS(struct net_config),
	F(struct net_config, tap, .opt = "tap"),
	F(struct net_config, ip, .opt = "ip"),
	F(struct net_config, mask, .opt = "mask"),
	F(struct net_config, mac, .opt = "mac"),
	F(struct net_config, host_mac, .opt = "host_mac"),
	F_OPT(struct net_config, mtu, .opt = "mtu"),
	F(struct net_config, num_queues, .opt = "num_queues", .def = 2),
	F(struct net_config, queue_size, .opt = "queue_size", .def = 256),
	F(struct net_config, vhost_user, .opt = "vhost_user", .flags = F_REFUSE),
	F_UNSUPPORTED("vhost_socket", .opt = "socket"),
	F_ENUM(struct net_config, vhost_mode, vhost_modes, .opt = "vhost_mode"),
	F_LIST(struct net_config, fds, .opt = "fd"),
	RATE_LIMITER_OPTS,
	F(struct net_config, offload_tso, .opt = "offload_tso", .def = true),
	F(struct net_config, offload_ufo, .opt = "offload_ufo", .def = true),
	F(struct net_config, offload_csum, .opt = "offload_csum", .def = true),
	F_END,
};

const struct field rng_fields[] = {
	PCI_FIELDS(struct rng_config),
	F(struct rng_config, src, .opt = "src", .def_str = "/dev/urandom"),
	F_END,
};

const struct field balloon_fields[] = {
	PCI_FIELDS(struct balloon_config),
	F(struct balloon_config, size, .opt = "size", .flags = F_REQUIRED | F_SIZE),
	F(struct balloon_config, deflate_on_oom, .opt = "deflate_on_oom"),
	F(struct balloon_config, free_page_reporting, .opt = "free_page_reporting"),
	F_END,
};

const struct field serial_fields[] = {
	F(struct console_config, file, .opt = "file"),
	F_ENUM(struct console_config, mode, console_modes, .opt = "", .flags = F_REQUIRED | F_WORD,
	       .def = CONSOLE_NULL),
	F(struct console_config, socket, .opt = "socket"),
	F_FD(struct console_config, log_fd),
	F_FD(struct console_config, listen_fd),
	F_END,
};

const struct field console_fields[] = {
	F(struct console_config, file, .opt = "file"),
	F_ENUM(struct console_config, mode, console_modes, .opt = "", .flags = F_REQUIRED | F_WORD, .def = CONSOLE_TTY),
	F(struct console_config, socket, .opt = "socket"),
	PCI_FIELDS(struct console_config),
	F_FD(struct console_config, log_fd),
	F_FD(struct console_config, listen_fd),
	F_END,
};

const struct field debug_console_fields[] = {
	F(struct debug_console_config, file),
	F_ENUM(struct debug_console_config, mode, console_modes, .opt = "", .flags = F_REQUIRED | F_WORD,
	       .def = CONSOLE_OFF),
	F(struct debug_console_config, iobase, .def = 233),
	F_END,
};

const struct field vsock_fields[] = {
	PCI_FIELDS(struct vsock_config),
	F(struct vsock_config, cid, .opt = "cid", .flags = F_REQUIRED),
	F(struct vsock_config, socket, .opt = "socket", .flags = F_REQUIRED),
	F_FD(struct vsock_config, listen_fd),
	F_END,
};

const struct field platform_fields[] = {
	F(struct platform_config, num_pci_segments, .flags = F_REFUSE, .def = 1),
	F_UNSUPPORTED("iommu_segments"),
	F(struct platform_config, iommu_address_width_bits, .flags = F_REFUSE, .def = 64),
	F_UNSUPPORTED("serial_number"),
	F_UNSUPPORTED("system_serial_number"),
	F_UNSUPPORTED("uuid"),
	F_UNSUPPORTED("system_uuid"),
	F_UNSUPPORTED("oem_strings"),
	F_UNSUPPORTED("system_manufacturer"),
	F_UNSUPPORTED("system_product_name"),
	F_UNSUPPORTED("system_version"),
	F_UNSUPPORTED("system_family"),
	F_UNSUPPORTED("system_sku_number"),
	F_UNSUPPORTED("chassis_asset_tag"),
	F(struct platform_config, iommufd, .flags = F_REFUSE),
	F_UNSUPPORTED("iommufd_fd"),
	F(struct platform_config, vfio_p2p_dma, .flags = F_REFUSE, .def = true),
	F(struct platform_config, vmgenid, .opt = "vmgenid", .flags = F_OMIT),
	F(struct platform_config, generation_low, .flags = F_RUNTIME),
	F(struct platform_config, generation_high, .flags = F_RUNTIME),
	F(struct platform_config, has_generation, .flags = F_RUNTIME),
	F_END,
};

const struct field vm_config_fields[] = {
	F_OBJ(struct vm_config, cpus, cpus_fields),
	F_OBJ(struct vm_config, memory, memory_fields),
	F_OBJ_PTR(struct vm_config, payload, payload_fields),
	F_UNSUPPORTED("rate_limit_groups"),
	F_OBJ_LIST(struct vm_config, disks, disk_fields, .count = MAX_PCI_SLOTS),
	F_OBJ_LIST(struct vm_config, net, net_fields, .count = MAX_PCI_SLOTS),
	F_OBJ(struct vm_config, rng, rng_fields),
	F_OBJ_PTR(struct vm_config, balloon, balloon_fields),
	F_UNSUPPORTED("generic_vhost_user"),
	F_UNSUPPORTED("fs"),
	F_UNSUPPORTED("pmem"),
	F_OBJ(struct vm_config, serial, serial_fields),
	F_OBJ(struct vm_config, console, console_fields),
	F_OBJ(struct vm_config, debug_console, debug_console_fields),
	F_UNSUPPORTED("devices"),
	F_UNSUPPORTED("user_devices"),
	F_UNSUPPORTED("vdpa"),
	F_OBJ_PTR(struct vm_config, vsock, vsock_fields),
	F(struct vm_config, pvpanic, .flags = F_REFUSE),
	F(struct vm_config, iommu, .flags = F_REFUSE),
	F_UNSUPPORTED("numa"),
	F(struct vm_config, watchdog, .flags = F_REFUSE),
	F_UNSUPPORTED("rtc"),
	F_UNSUPPORTED("pci_segments"),
	F_OBJ_PTR(struct vm_config, platform, platform_fields),
	F_UNSUPPORTED("tpm"),
	F(struct vm_config, landlock_enable, .flags = F_REFUSE),
	F_UNSUPPORTED("landlock_rules"),
	F_END,
};

static const struct field restored_net_fields[] = {
	F(struct restored_net, id, .flags = F_REQUIRED),
	F(struct restored_net, num_fds, .max = 253),
	F_LIST(struct restored_net, fds, .flags = F_RUNTIME),
	F_END,
};

const struct field restore_config_fields[] = {
	F(struct restore_config, source_url, .opt = "source_url", .flags = F_REQUIRED),
	F(struct restore_config, prefault, .opt = "prefault"),
	F_ENUM(struct restore_config, memory_restore_mode, restore_modes, .opt = "memory_restore_mode"),
	F_OBJ_LIST(struct restore_config, net_fds, restored_net_fields, .opt = "net_fds", .flags = F_ITEMS,
		   .count = MAX_PCI_SLOTS),
	F_UNSUPPORTED("vfio_fds", .opt = "vfio_fds"),
	F_UNSUPPORTED("iommufd_fd", .opt = "iommufd_fd"),
	F(struct restore_config, resume, .opt = "resume"),
	F_UNSUPPORTED("zone_updates", .opt = "zone_updates"),
	F_ENUM(struct restore_config, clock, clock_choices, .opt = "clock"),
	F_END,
};

void vm_config_init(struct vm_config *c)
{
	fields_init(vm_config_fields, c);
}

void vm_config_free(struct vm_config *c)
{
	fields_free(vm_config_fields, c);
}

static void close_fd(int32_t *fd)
{
	if (*fd > 0)
		close(*fd);
	*fd = 0;
}

void vm_config_close_fds(struct vm_config *c)
{
	for (uint32_t i = 0; i < c->n_net; i++)
		for (uint32_t k = 0; k < c->net[i].n_fds; k++)
			if (c->net[i].fds[k] >= 0)
				close(steal_fd(&c->net[i].fds[k]));
	for (uint32_t i = 0; i < c->n_disks; i++) {
		close_fd(&c->disks[i].fd);
		close_fd(&c->disks[i].lock_fd);
		for (uint32_t k = 0; k < c->disks[i].n_base_fds; k++)
			close(c->disks[i].base_fds[k]);
		c->disks[i].n_base_fds = 0;
	}
	close_fd(&c->serial.log_fd);
	close_fd(&c->serial.listen_fd);
	close_fd(&c->console.log_fd);
	close_fd(&c->console.listen_fd);
	if (c->vsock)
		close_fd(&c->vsock->listen_fd);
	if (c->payload) {
		close_fd(&c->payload->kernel_fd);
		close_fd(&c->payload->initramfs_fd);
	}
}

const char *url_path(const char *url, struct err *err)
{
	if (strncmp(url, "file://", 7) == 0)
		return url + 7;
	err_set(err, ERR_INTERNAL, "Could not extract path from URL: %s", url);
	return NULL;
}

#define ID_CHARACTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

static int check_ids(const struct vm_config *c, struct err *err)
{
	const char *ids[2 * MAX_PCI_SLOTS + 2];
	unsigned n = 0;

	for (uint32_t i = 0; i < c->n_disks; i++)
		ids[n++] = c->disks[i].id;
	for (uint32_t i = 0; i < c->n_net; i++)
		ids[n++] = c->net[i].id;
	ids[n++] = c->rng.id;
	ids[n++] = c->console.id;
	ids[n++] = c->balloon ? c->balloon->id : NULL;
	ids[n++] = c->vsock ? c->vsock->id : NULL;
	for (unsigned i = 0; i < n; i++) {
		if (!ids[i])
			continue;
		if (strncmp(ids[i], "__", 2) == 0 || strncmp(ids[i], "_virtio-pci-", 12) == 0 ||
		    strspn(ids[i], ID_CHARACTERS) != strlen(ids[i]) || ids[i][0] == '\0' || strlen(ids[i]) > 64)
			return err_set(err, ERR_INVALID, "Identifier %.80s is not valid", ids[i]);
		for (unsigned k = 0; k < i; k++)
			if (ids[k] && strcmp(ids[k], ids[i]) == 0)
				return err_set(err, ERR_CONFLICT, "Identifier %s is not unique", ids[i]);
	}
	return 0;
}

static int check_queue_size(uint16_t size, struct err *err)
{
	if (size < 2 || size > 32768 || (size & (size - 1)))
		return err_set(err, ERR_INVALID, "Queue size must be a power of 2 no greater than 32768: %u", size);
	return 0;
}

static int check_disk(const struct vm_config *c, const struct disk_config *d, struct err *err)
{
	if (!d->path || !d->path[0])
		return err_set(err, ERR_INVALID, "Path missing for disk '%s'", d->id ? d->id : "");
	if (d->num_queues > c->cpus.boot_vcpus)
		return err_set(err, ERR_INVALID, "Queue count (%u) must not exceed boot vCPUs (%u)", d->num_queues,
			       c->cpus.boot_vcpus);
	if (d->serial && strlen(d->serial) > 20)
		return err_set(err, ERR_INVALID, "Block device serial length (%zu) exceeds maximum allowed length (20)",
			       strlen(d->serial));
	if (d->queue_size == 1 || d->queue_size == 2)
		return err_set(err, ERR_INVALID, "Block queue size must be greater than 2: %u", d->queue_size);
	return check_queue_size(d->queue_size, err);
}

static bool is_mac(const char *s)
{
	uint8_t mac[MAC_BYTES];

	return mac_parse(s, mac);
}

static bool is_ip(const char *s)
{
	struct in6_addr addr;

	return inet_pton(AF_INET, s, &addr) == 1 || inet_pton(AF_INET6, s, &addr) == 1;
}

static int check_net_names(const struct net_config *n, struct err *err)
{
	if (n->mac && !is_mac(n->mac))
		return err_set(err, ERR_INVALID, "mac '%.64s' is not a MAC address", n->mac);
	if (n->host_mac && !is_mac(n->host_mac))
		return err_set(err, ERR_INVALID, "host_mac '%.64s' is not a MAC address", n->host_mac);
	if (n->ip && !is_ip(n->ip))
		return err_set(err, ERR_INVALID, "ip '%.64s' is not an IP address", n->ip);
	if (n->mask && !is_ip(n->mask))
		return err_set(err, ERR_INVALID, "mask '%.64s' is not an IP address", n->mask);
	if (!n->ip != !n->mask)
		return err_set(err, ERR_INVALID, n->ip ? "IP provided without a mask" : "Mask provided without an IP");
	if (n->tap && (!n->tap[0] || strlen(n->tap) >= IFNAMSIZ || strchr(n->tap, '/')))
		return err_set(err, ERR_INVALID, "tap '%.64s' is not the name of an interface", n->tap);
	return 0;
}

static int check_net(const struct vm_config *c, const struct net_config *n, struct err *err)
{
	if (check_net_names(n, err) < 0)
		return err->num;
	if (n->num_queues < 2 || n->num_queues % 2)
		return err_set(err, ERR_INVALID, "Number of queues (%u) to virtio_net should be higher than 2",
			       n->num_queues);
	if (n->fds && n->n_fds * 2 != n->num_queues)
		return err_set(err, ERR_INVALID,
			       "Number of queues (%u) to virtio_net does not match the number of FDs (%u)",
			       n->num_queues, 2 * n->n_fds);
	for (uint32_t i = 0; i < n->n_fds; i++)
		if (n->fds[i] >= 0 && n->fds[i] <= 2)
			return err_set(err, ERR_INVALID, "Reserved fd number (<= 2): %d", n->fds[i]);
	if (n->num_queues / 2 > c->cpus.boot_vcpus)
		return err_set(err, ERR_INVALID, "Queue count (%u) must not exceed boot vCPUs (%u)", n->num_queues,
			       c->cpus.boot_vcpus);
	if (n->has_mtu && n->mtu < 1280)
		return err_set(err, ERR_INVALID,
			       "Provided MTU %u is lower than 1280 (expected by VIRTIO specification)", n->mtu);
	if (!n->offload_csum && (n->offload_tso || n->offload_ufo))
		return err_set(err, ERR_INVALID, "\"offload_tso\" and \"offload_ufo\" depend on \"offload_csum\"");
	return check_queue_size(n->queue_size, err);
}

static int check_console(const char *name, const struct console_config *c, bool socket_ok, struct err *err)
{
	if (c->mode == CONSOLE_FILE && (!c->file || !c->file[0]))
		return err_set(err, ERR_INVALID, "Path missing when using file %s mode", name);
	if (c->mode == CONSOLE_SOCKET && (!socket_ok || !c->socket || !c->socket[0]))
		return err_set(err, ERR_INVALID,
			       socket_ok ? "%s: socket mode needs a path" : "No socket option support for %s device",
			       name);
	return 0;
}

/* Refuses a pci_device_id that is 0, above 31 or given twice. *used has the slots given so far. */
static int check_slot(uint32_t *used, bool has, uint8_t slot, struct err *err)
{
	if (!has)
		return 0;
	if (slot == 0)
		return err_set(err, ERR_INVALID, "Given PCI device ID (0) is reserved");
	if (slot > MAX_PCI_SLOTS)
		return err_set(err, ERR_INVALID, "Given PCI device ID (%u) is out of the supported range of 0..%u",
			       slot, MAX_PCI_SLOTS + 1);
	if (*used & (1U << slot))
		return err_set(err, ERR_INVALID, "Valid PCI device identifier but already used: %u", slot);
	*used |= 1U << slot;
	return 0;
}

/* This check comes before check_ids(), whose list has room for no more devices. */
static int check_device_count(const struct vm_config *c, struct err *err)
{
	uint64_t n = (uint64_t)c->n_disks + c->n_net + 1 + (c->console.mode != CONSOLE_OFF) + (c->balloon != NULL) +
		     (c->vsock != NULL);

	if (n > MAX_PCI_SLOTS)
		return err_set(err, ERR_INVALID, "%llu PCI devices are more than the %u slots", (unsigned long long)n,
			       MAX_PCI_SLOTS);
	return 0;
}

static int check_slots(const struct vm_config *c, struct err *err)
{
	uint32_t used = 0;

	for (uint32_t i = 0; i < c->n_disks; i++)
		if (check_slot(&used, c->disks[i].has_pci_device_id, c->disks[i].pci_device_id, err) < 0)
			return err->num;
	for (uint32_t i = 0; i < c->n_net; i++)
		if (check_slot(&used, c->net[i].has_pci_device_id, c->net[i].pci_device_id, err) < 0)
			return err->num;
	if (check_slot(&used, c->rng.has_pci_device_id, c->rng.pci_device_id, err) < 0 ||
	    (c->balloon && check_slot(&used, c->balloon->has_pci_device_id, c->balloon->pci_device_id, err) < 0))
		return err->num;
	if (c->vsock && check_slot(&used, c->vsock->has_pci_device_id, c->vsock->pci_device_id, err) < 0)
		return err->num;
	return check_slot(&used, c->console.has_pci_device_id, c->console.pci_device_id, err);
}

static int check_cpus(const struct cpus_config *c, struct err *err)
{
	const struct topology_config *t = c->topology;

	if (c->max_vcpus < c->boot_vcpus)
		return err_set(err, ERR_INVALID, "Max CPUs (%u) lower than boot CPUs (%u)", c->max_vcpus,
			       c->boot_vcpus);
	if (t && (uint64_t)t->threads_per_core * t->cores_per_die * t->dies_per_package * t->packages != c->max_vcpus)
		return err_set(err, ERR_INVALID, "Product of CPU topology parts does not match maximum vCPU");
	if (c->profile && strcasecmp(c->profile, "host") != 0)
		return err_set(err, ERR_INVALID, "CPU profile '%s' is not supported by this program", c->profile);
	for (uint32_t i = 0; i < c->n_affinity; i++)
		if (c->affinity[i].vcpu >= c->max_vcpus)
			return err_set(err, ERR_INVALID, "affinity names vCPU %u of %u", c->affinity[i].vcpu,
				       c->max_vcpus);
	return 0;
}

static int check_memory(const struct vm_config *c, struct err *err)
{
	const struct memory_config *m = &c->memory;

	if (m->size == 0 || m->size % 4096)
		return err_set(err, ERR_INVALID, "memory size %llu is not a positive multiple of 4096",
			       (unsigned long long)m->size);
	if (m->size < 1 << 20)
		return err_set(err, ERR_INVALID, "memory size %llu is below 1 MiB", (unsigned long long)m->size);
	if (m->size > (1ULL << c->cpus.max_phys_bits) - (4ULL << 30))
		return err_set(err, ERR_INVALID, "memory size %llu does not fit %u bits of physical address",
			       (unsigned long long)m->size, c->cpus.max_phys_bits);
	return 0;
}

static int check_vsock(const struct vsock_config *v, struct err *err)
{
	if (v->cid <= 2 || v->cid == UINT32_MAX)
		return err_set(err, ERR_INVALID, "%u is a special VSOCK CID", v->cid);
	if (!v->socket[0])
		return err_set(err, ERR_INVALID, "Path missing for the vsock socket");
	return 0;
}

int vm_config_check_balloon(const struct vm_config *c, uint64_t size, struct err *err)
{
	if (size >= c->memory.size)
		return err_set(err, ERR_INVALID, "Balloon size (%llu) greater than RAM (%llu)",
			       (unsigned long long)size, (unsigned long long)c->memory.size);
	return 0;
}

int vm_config_check(const struct vm_config *c, struct err *err)
{
	if (c->payload && !c->payload->kernel && c->payload->firmware)
		return err_set(err, ERR_INVALID, "firmware is not supported by this program");
	if (!c->payload || !c->payload->kernel) {
		err_set(err, ERR_INVALID, "No bootitem provided: neither firmware nor kernel");
		return err_wrap(err, "Payload configuration is not bootable");
	}
	if (c->payload->cmdline && strlen(c->payload->cmdline) >= CMDLINE_MAX_BYTES)
		return err_set(err, ERR_INVALID, "command line of %zu bytes is longer than %d",
			       strlen(c->payload->cmdline), CMDLINE_MAX_BYTES - 1);
	if (c->debug_console.mode != CONSOLE_OFF)
		return err_set(err, ERR_INVALID, "debug_console is not supported by this program");
	if (check_device_count(c, err) < 0 || check_cpus(&c->cpus, err) < 0 || check_memory(c, err) < 0 ||
	    check_ids(c, err) < 0)
		return err->num;
	for (uint32_t i = 0; i < c->n_disks; i++)
		if (check_disk(c, &c->disks[i], err) < 0)
			return err->num;
	for (uint32_t i = 0; i < c->n_net; i++)
		if (check_net(c, &c->net[i], err) < 0)
			return err->num;
	if (check_console("serial", &c->serial, true, err) < 0 || check_console("console", &c->console, false, err) < 0)
		return err->num;
	if (c->balloon && vm_config_check_balloon(c, c->balloon->size, err) < 0)
		return err->num;
	if (c->vsock && check_vsock(c->vsock, err) < 0)
		return err->num;
	return check_slots(c, err);
}
