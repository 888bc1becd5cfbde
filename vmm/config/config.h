// SPDX-License-Identifier: Apache-2.0
/*
 * VmConfig: what a virtual machine is made of. The same struct is the body of vm.create, config.json,
 * what vm.info shows, and what the command line builds; the tables in config.c are the only
 * description of the struct. The struct is plain data. Strings and lists are on the heap and belong to
 * the holder of the struct; vm_config_free() releases them and closes no descriptor.
 */
#ifndef VMM_CONFIG_CONFIG_H
#define VMM_CONFIG_CONFIG_H

#include "common/field.h"

enum { MAX_VCPUS = 254, MAX_PCI_SLOTS = 31, CMDLINE_MAX_BYTES = 65536 };
enum console_mode { CONSOLE_OFF, CONSOLE_PTY, CONSOLE_TTY, CONSOLE_FILE, CONSOLE_SOCKET, CONSOLE_NULL };
enum image_type { IMAGE_UNKNOWN, IMAGE_RAW, IMAGE_QCOW2 };
enum lock_granularity { LOCK_BYTE_RANGE, LOCK_FULL };
enum restore_mode { RESTORE_COPY, RESTORE_ONDEMAND, RESTORE_COPYONWRITE };
/*
 * How the clocks of a guest go on after the guest stood still, in a snapshot or in a pause: ahead by
 * the time that has passed, or from where they stopped.
 */
enum clock_choice { CLOCK_ADVANCE, CLOCK_CONTINUE };

struct topology_config {
	uint16_t threads_per_core, cores_per_die, dies_per_package, packages;
};

struct cpu_affinity {
	uint32_t vcpu;
	uint32_t *host_cpus;
	uint32_t n_host_cpus;
};

struct cpu_features {
	bool amx;
};

struct cpus_config {
	uint32_t boot_vcpus, max_vcpus;
	struct topology_config *topology;
	bool kvm_hyperv;
	uint8_t max_phys_bits;
	struct cpu_affinity *affinity;
	uint32_t n_affinity;
	struct cpu_features features;
	bool nested;
	uint8_t core_scheduling; /* written back as given; no effect here */
	char *profile;
};

struct memory_config {
	uint64_t size;
	bool mergeable;
	uint8_t hotplug_method;
	bool shared, hugepages, prefault, reserve, thp;
};

struct payload_config {
	char *firmware, *kernel, *cmdline, *initramfs;
	int32_t kernel_fd, initramfs_fd; /* used instead of opening the paths; 0: none */
};

/* What every PCI device's configuration begins with. */
struct pci_config_common {
	char *id;
	bool iommu;
	uint16_t pci_segment;
	uint8_t pci_device_id;
	bool has_pci_device_id;
};

struct disk_config {
	char *id;
	bool iommu;
	uint16_t pci_segment;
	uint8_t pci_device_id;
	bool has_pci_device_id;
	char *path;
	bool readonly, direct;
	uint32_t num_queues;
	uint16_t queue_size;
	bool vhost_user, disable_io_uring, disable_aio;
	char *serial;
	bool backing_files, sparse;
	uint8_t image_type, lock_granularity;
	int32_t fd, lock_fd; /* two open files of the image, used instead of opening the path; 0: none */
	int32_t *base_fds;   /* with these: what is behind a qcow2 image, in order, used instead of the names in it */
	uint32_t n_base_fds;
	uint32_t base_qcow2; /* bit i: the file base_fds[i] is qcow2, not raw */
};

struct net_config {
	char *id;
	bool iommu;
	uint16_t pci_segment;
	uint8_t pci_device_id;
	bool has_pci_device_id;
	char *tap, *ip, *mask, *mac, *host_mac;
	uint16_t mtu;
	bool has_mtu;
	uint32_t num_queues;
	uint16_t queue_size;
	bool vhost_user;
	uint8_t vhost_mode;
	int32_t *fds;
	uint32_t n_fds;
	bool offload_tso, offload_ufo, offload_csum;
};

struct rng_config {
	char *id;
	bool iommu;
	uint16_t pci_segment;
	uint8_t pci_device_id;
	bool has_pci_device_id;
	char *src;
};

struct balloon_config {
	char *id;
	bool iommu;
	uint16_t pci_segment;
	uint8_t pci_device_id;
	bool has_pci_device_id;
	uint64_t size; /* bytes */
	bool deflate_on_oom, free_page_reporting;
};

struct vsock_config {
	char *id;
	bool iommu;
	uint16_t pci_segment;
	uint8_t pci_device_id;
	bool has_pci_device_id;
	uint32_t cid;
	char *socket;
	int32_t listen_fd; /* a listening socket, used instead of binding the path; 0: none */
};

/* Serial port and virtio console. */
struct console_config {
	char *file;
	uint8_t mode; /* enum console_mode */
	char *socket;
	char *id; /* console only, from here on */
	bool iommu;
	uint16_t pci_segment;
	uint8_t pci_device_id;
	bool has_pci_device_id;
	int32_t log_fd, listen_fd; /* an output file, a listening socket: used instead of what `mode` says; 0: none */
};

struct debug_console_config {
	char *file;
	uint8_t mode;
	uint16_t iobase;
};

/* All but vmgenid have Cloud Hypervisor's defaults: nothing else is supported. */
struct platform_config {
	uint16_t num_pci_segments;
	uint8_t iommu_address_width_bits;
	bool iommufd, vfio_p2p_dma;
	bool vmgenid; /* the guest has a generation id: see vmm/core/arch.h */
	/* The id that this machine has, also after a reboot: it is no part of config.json. */
	uint64_t generation_low, generation_high;
	bool has_generation;
};

struct vm_config {
	struct cpus_config cpus;
	struct memory_config memory;
	struct payload_config *payload;
	struct disk_config *disks;
	uint32_t n_disks;
	struct net_config *net;
	uint32_t n_net;
	struct rng_config rng;
	struct balloon_config *balloon;
	struct console_config serial, console;
	struct debug_console_config debug_console;
	struct vsock_config *vsock;
	bool pvpanic, iommu, watchdog, landlock_enable;
	struct platform_config *platform;
};

struct restored_net {
	char *id;
	uint32_t num_fds;
	int32_t *fds; /* filled from SCM_RIGHTS or from the command line; owned */
	uint32_t n_fds;
};

struct restore_config {
	char *source_url;
	bool prefault;
	uint8_t memory_restore_mode; /* enum restore_mode */
	uint8_t clock;               /* enum clock_choice */
	struct restored_net *net_fds;
	uint32_t n_net_fds;
	bool resume;
};

extern const struct field vm_config_fields[], restore_config_fields[];
/*
 * For the option strings of --cpus, --memory, --disk, --net, --rng, --balloon, --serial, --console,
 * --debug-console, --vsock and --platform.
 */
extern const struct field cpus_fields[], memory_fields[], disk_fields[], net_fields[], rng_fields[], balloon_fields[],
	serial_fields[], console_fields[], debug_console_fields[], vsock_fields[], platform_fields[];

void vm_config_init(struct vm_config *c);
void vm_config_free(struct vm_config *c);
/* Closes every descriptor in *c and marks each as not given. The devices have duplicates. */
void vm_config_close_fds(struct vm_config *c);
#define autovmconfig __attribute__((cleanup(vm_config_free)))
/*
 * Checks everything that does not depend on the host: ranges, combinations, unique ids, what this
 * program lacks. Called at boot and at restore. An error is ERR_INVALID; an id given twice is
 * ERR_CONFLICT. Texts are Cloud Hypervisor's where Cloud Hypervisor has one.
 */
MUST_CHECK int vm_config_check(const struct vm_config *c, struct err *err);
/* Checks a size of the balloon, in bytes, as vm_config_check() does. */
MUST_CHECK int vm_config_check_balloon(const struct vm_config *c, uint64_t size, struct err *err);

/* "file:///dir" -> "/dir" (a pointer into `url`), NULL with an error otherwise. No percent decoding. */
const char *url_path(const char *url, struct err *err);

#endif
