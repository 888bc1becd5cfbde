// SPDX-License-Identifier: Apache-2.0
/*
 * A snapshot from outside, on the way that a clone takes: the template host reads and checks it, a machine is made of it, its devices are
 * loaded and resumed, then everything is saved again and taken down. KVM and taps are this file's ioctl().
 *
 * The input is {"config": …, "state": …} with the nodes' states as JSON instead of strings of JSON, so that a change of a value is one
 * change: state.json is made of it here. A state that is a string stays as it is.
 */
#include "tests/fuzz/fuzz.h"

#include <errno.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "common/log.h"
#include "vmm/machine/devices.h"
#include "vmm/state/saved.h"
#include "vmm/state/snapshot_read.h"

enum { RUN_BYTES = 12288, XSAVE_BYTES = 4096, TSC_KHZ = 2000000 };
#define DISK_BYTES (8ULL << 20) /* as those of the guests were */
#define RAM_MAX (1ULL << 40)

/* What stands in for the host, made once. */
static struct {
	int dir, config, state, ram, disk, vsock, tap, run;
	struct loop loop;
} host;

/* ---- KVM ---- */

/* A sanitizer sees whether all that KVM would read is there. */
static void look_at(const void *data, size_t size)
{
	for (size_t i = 0; i < size; i++)
		(void)((const volatile uint8_t *)data)[i];
}

static int new_fd(void)
{
	return fcntl(host.run, F_DUPFD_CLOEXEC, 3);
}

/* A CPU that has everything. */
static int supported_cpuid(struct kvm_cpuid2 *c)
{
	static const uint32_t functions[] = { 0, 1, 7, 0xd, 0x1d, 0x1e, 0xb, 0x1f, 0x40000001, 0x80000001, 0x80000008 };
	uint32_t n = 0;

	c->entries[n++] = (struct kvm_cpuid_entry2){
		.function = 0x40000000, .eax = 0x40000001, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d
	};
	for (size_t i = 0; i < ARRAY_LEN(functions); i++)
		c->entries[n++] = (struct kvm_cpuid_entry2){ .function = functions[i],
							     .eax = UINT32_MAX,
							     .ebx = UINT32_MAX,
							     .ecx = UINT32_MAX,
							     .edx = UINT32_MAX };
	c->nent = n;
	return 0;
}

/* Those that the guests of the corpus use. */
static int list_msrs(struct kvm_msr_list *l)
{
	static const uint32_t index[] = { 0x10, 0x12, 0xce, 0x174, 0x1a0, 0x277, 0x480, 0x6e0, 0x4b564d01, 0x4b564d05 };

	l->nmsrs = ARRAY_LEN(index);
	memcpy(l->indices, index, sizeof(index));
	return 0;
}

/* Stops at one that it does not know, as KVM does. */
static int set_msrs(const struct kvm_msrs *m)
{
	look_at(m->entries, m->nmsrs * sizeof(m->entries[0]));
	for (uint32_t i = 0; i < m->nmsrs; i++)
		if ((m->entries[i].index & 15) == 11)
			return (int)i;
	return (int)m->nmsrs;
}

/* As KVM, which takes 48 and 57 bits of linear address. */
static int set_cpuid(const struct kvm_cpuid2 *c)
{
	look_at(c->entries, c->nent * sizeof(c->entries[0]));
	for (uint32_t i = 0; i < c->nent; i++) {
		uint32_t bits = c->entries[i].eax >> 8 & 0xff;
		if (c->entries[i].function == 0x80000008 && bits != 0 && bits != 48 && bits != 57)
			return -EINVAL;
	}
	return 0;
}

static int other_request(unsigned long request, void *arg)
{
	if (_IOC_DIR(request) & _IOC_WRITE)
		look_at(arg, _IOC_SIZE(request));
	else if (_IOC_DIR(request) & _IOC_READ)
		memset(arg, 0, _IOC_SIZE(request));
	return 0;
}

static int fake_kvm(unsigned long request, void *arg)
{
	const struct kvm_irq_routing *routes = arg;

	switch (request) {
	case KVM_CREATE_VM:
	case KVM_CREATE_VCPU:
		return new_fd();
	case KVM_CHECK_EXTENSION:
		return (uintptr_t)arg == KVM_CAP_XSAVE2 ? XSAVE_BYTES : 1;
	case KVM_GET_SUPPORTED_CPUID:
		return supported_cpuid(arg);
	case KVM_GET_TSC_KHZ:
		return TSC_KHZ;
	case KVM_SET_TSC_KHZ:
		return (uintptr_t)arg > 5UL * TSC_KHZ ? -EINVAL : 0;
	case KVM_SET_TSS_ADDR:
		return 0;
	case KVM_RUN: /* only of vCPUs that are parked, which ask to leave at once */
		return -EINTR;
	case KVM_SET_CPUID2:
		return set_cpuid(arg);
	case KVM_GET_MSR_INDEX_LIST:
		return list_msrs(arg);
	case KVM_SET_MSRS:
		return set_msrs(arg);
	case KVM_SET_XSAVE:
		look_at(arg, XSAVE_BYTES);
		return 0;
	case KVM_SET_NESTED_STATE:
		look_at(arg, ((const struct kvm_nested_state *)arg)->size);
		return 0;
	case KVM_SET_MP_STATE:
		return *(const uint32_t *)arg > KVM_MP_STATE_AP_RESET_HOLD ? -EINVAL : 0;
	case KVM_SET_GSI_ROUTING:
		look_at(routes->entries, routes->nr * sizeof(routes->entries[0]));
		return 0;
	default:
		return other_request(request, arg);
	}
}

static int fake_tun(unsigned long request, void *arg)
{
	if (request == TUNGETIFF)
		*(struct ifreq *)arg = (struct ifreq){ .ifr_flags = IFF_TAP | IFF_VNET_HDR };
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	int r;

	va_start(ap, request);
	void *arg = va_arg(ap, void *);
	va_end(ap);
	if (_IOC_TYPE(request) == KVMIO)
		r = fake_kvm(request, arg);
	else if (_IOC_TYPE(request) == 'T' && _IOC_NR(request) >= 200)
		r = fake_tun(request, arg);
	else
		return (int)syscall(SYS_ioctl, fd, request, arg);
	if (r < 0)
		errno = -r;
	return r < 0 ? -1 : r;
}

/* ---- the host ---- */

static int new_file(const char *name)
{
	return openat(host.dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

static int new_listener(void)
{
	const struct sockaddr_un anywhere = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	must(fd >= 0 && bind(fd, (const struct sockaddr *)&anywhere, sizeof(anywhere.sun_family)) == 0 &&
		     listen(fd, 1) == 0,
	     "no socket");
	return fd;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *tmp = getenv("TMPDIR");
	char path[256];
	struct err err = {};

	(void)argc;
	(void)argv;
	log_init("fuzz_state", getenv("FUZZ_DEBUG") ? LOG_DEBUG : LOG_ERROR, STDERR_FILENO);
	snprintf(path, sizeof(path), "%s/forkd-fuzz-XXXXXX", tmp ? tmp : "/tmp");
	must(mkdtemp(path) != NULL, "no directory");
	host.dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	host.config = new_file("config.json");
	host.state = new_file("state.json");
	host.ram = new_file("memory-ranges");
	host.disk = new_file("disk");
	host.vsock = new_listener();
	host.tap = new_listener(); /* something that can be waited for */
	host.run = memfd_create("run", MFD_CLOEXEC);
	must(ftruncate(host.run, RUN_BYTES) == 0 && ftruncate(host.disk, DISK_BYTES) == 0, "no files");
	must(loop_init(&host.loop, &err) == 0, "no loop");
	return 0;
}

/* Whatever names something of the host becomes one of its stand-ins. */
static void use_stand_ins(struct vm_config *c)
{
	for (uint32_t i = 0; i < c->n_disks; i++) {
		c->disks[i].fd = c->disks[i].lock_fd = host.disk;
		c->disks[i].disable_io_uring = true; /* slow to make and to end */
	}
	for (uint32_t i = 0; i < c->n_net; i++) {
		struct net_config *n = &c->net[i];
		free(n->fds);
		n->n_fds = n->num_queues / 2;
		n->fds = calloc(n->n_fds + 1UL, sizeof(*n->fds));
		for (uint32_t k = 0; k < n->n_fds; k++)
			n->fds[k] = host.tap;
	}
	if (c->vsock)
		c->vsock->listen_fd = host.vsock;
	c->serial.mode = c->serial.mode == CONSOLE_OFF ? CONSOLE_OFF : CONSOLE_NULL;
	c->console.mode = c->console.mode == CONSOLE_OFF ? CONSOLE_OFF : CONSOLE_NULL;
	free(c->rng.src);
	c->rng.src = strdup("/dev/zero");
	c->memory.mergeable = false;
}

/* ---- the directory ---- */

static void put_file(int fd, const struct strbuf *text)
{
	must(ftruncate(fd, 0) == 0 && pwrite(fd, text->text ? text->text : "", text->len, 0) == (ssize_t)text->len,
	     "no space for files");
}

/* false: the input is no JSON. */
static bool make_snapshot(const uint8_t *data, size_t size)
{
	autostrbuf struct strbuf config = {}, state = {};
	uint64_t ram_bytes = 0;

	if (!document_fold(data, size, &config, &state, &ram_bytes))
		return false;
	put_file(host.config, &config);
	put_file(host.state, &state);
	must(ftruncate(host.ram, (off_t)(ram_bytes < RAM_MAX ? ram_bytes : RAM_MAX)) == 0, "no space for RAM");
	return true;
}

/* ---- a machine ---- */

static void use(struct vm *vm)
{
	autostrbuf struct strbuf out = {};
	struct err err = {};

	for (vm->clock = CLOCK_ADVANCE; vm->clock <= CLOCK_CONTINUE; vm->clock++)
		if (arch_clock_resume(vm, true, &err) < 0)
			return;
	devices_resume(vm, true);
	devices_pause(vm);
	devices_save(vm, &out);
	must(!out.failed, "no memory");
	log_debug("restored");
}

/* true: it was one that could run. */
static bool restore(struct vm_config *config, struct snapshot *snap, struct saved *saved)
{
	const struct kvm kvm = { .fd = new_fd(), .vm_fd = -1, .run_bytes = RUN_BYTES };
	const struct vm_restore how = { .mode = RESTORE_COPYONWRITE, .kvm = &kvm, .saved = saved };
	struct vm *vm = NULL;
	struct err err = {};

	use_stand_ins(config);
	if (vm_new_parked(&host.loop, config, snap, &how, &vm, &err) < 0) {
		log_debug("refused: %s", err.msg);
		return false;
	}
	bool restored = vm_finish_restore(vm, &err) == 0;
	if (restored)
		use(vm);
	else
		log_debug("refused: %s", err.msg);
	vm_free(vm);
	return restored;
}

/* As the template host does. */
static int load(struct snapshot *snap, struct vm_config *config, struct saved *saved, struct err *err)
{
	struct gmem mem;
	char host_cpu[80];

	if (snapshot_open_at(snap, host.dir, "snapshot", err) < 0 || snapshot_config(snap, config, err) < 0 ||
	    vm_config_check(config, err) < 0)
		return err->num;
	arch_layout_ram(&mem, config->memory.size);
	if (snapshot_check_memory(snap, &mem, err) < 0 || saved_read(saved, snap, config->cpus.boot_vcpus, err) < 0 ||
	    arch_needs_check(host.run, &saved->needs, true, err) < 0)
		return err->num;
	arch_state_describe(&saved->arch, &saved->cpu[0], host_cpu, sizeof(host_cpu));
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct snapshot snap = { .mem_fd = -1 };
	struct saved saved = {};
	struct vm_config config;
	struct err err = {};
	int fd = next_fd();

	if (!make_snapshot(data, size))
		return 0;
	vm_config_init(&config);
	if (load(&snap, &config, &saved, &err) < 0)
		log_debug("refused: %s", err.msg);
	else if (restore(&config, &snap, &saved))
		document_is_good(data, size);
	must(err.code == ERR_NONE || err.msg[0], "an error without a message");
	saved_done(&saved);
	vm_config_free(&config);
	snapshot_close(&snap);
	must(next_fd() == fd, "a descriptor is left open");
	return 0;
}
