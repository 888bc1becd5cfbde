// SPDX-License-Identifier: Apache-2.0
/*
 * The x86 machine around its vCPUs: memory map, platform registers, and state of the VM as a whole.
 */
#include "vmm/machine/machine.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "common/log.h"
#include "vmm/x86/acpi.h"
#include "vmm/x86/clock.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/ioapic.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/needs.h"

enum { NSEC_PER_SEC = 1000000000 };
const unsigned arch_serial_gsi = ACPI_GSI_SERIAL;

void arch_layout_ram(struct gmem *mem, uint64_t size)
{
	gmem_layout(mem, size, LOW_RAM_END, HIGH_RAM_START);
}

int arch_vm_init(struct vm *vm, bool is_checked, struct err *err)
{
	uint64_t identity_map = KVM_IDENTITY_MAP_ADDRESS;

	if (!is_checked && needs_check_kvm(&vm->kvm, err) < 0)
		return err->num;
	if (clock_init(vm, err) < 0)
		return err->num;
	int khz = ioctl(vm->kvm.vm_fd, KVM_GET_TSC_KHZ);
	vm->arch.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	if (kvm_ioctl(vm->kvm.vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map, "place the identity map", err) < 0)
		return err->num;
	return kvm_ioctl(vm->kvm.vm_fd, KVM_SET_TSS_ADDR, (void *)(uintptr_t)KVM_TSS_ADDRESS, "place the TSS", err);
}

int arch_cpu_init(struct vm *vm, struct err *err)
{
	struct arch_vm *a = &vm->arch;

	if (cpuid_common(&vm->kvm, &vm->config->cpus, a->tsc_khz, &a->cpuid, err) < 0)
		return err->num;
	a->phys_bits = cpuid_phys_bits(&a->cpuid);
	return 0;
}

int arch_irqchip_init(struct vm *vm, struct err *err)
{
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };

	if (kvm_ioctl(vm->kvm.vm_fd, KVM_ENABLE_CAP, &split, "split the irqchip", err) < 0)
		return err->num;
	/*
	 * only where vCPUs need 32-bit APIC ids in MSIs: the capability changes what the guest is
	 * told
	 */
	struct kvm_enable_cap x2apic = { .cap = KVM_CAP_X2APIC_API,
					 .args = { KVM_X2APIC_API_USE_32BIT_IDS |
						   KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK } };
	if (vm->config->cpus.max_vcpus > 254 &&
	    kvm_ioctl(vm->kvm.vm_fd, KVM_ENABLE_CAP, &x2apic, "enable 32-bit APIC ids", err) < 0)
		return err->num;
	return 0;
}

/* ---- ports ---- */

static void sleep_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	uint8_t v = *(const uint8_t *)data;

	(void)off;
	if (len == 1 && v == ACPI_SLEEP_RESET)
		vm_guest_event(opaque, GUEST_RESET);
	else if (len == 1 && v == ACPI_SLEEP_S5)
		vm_guest_event(opaque, GUEST_POWEROFF);
}

static void zero_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	(void)opaque;
	(void)off;
	memset(data, 0, len);
}

/*
 * The timer counts the time of the guest's kvmclock, so the two agree over a pause and a restore:
 * Linux compares its TSC with this timer.
 */
static void pm_timer_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	__uint128_t ns = clock_guest_ns(opaque);

	reg_put(data, len, (uint32_t)(ns * ACPI_PM_TIMER_HZ / NSEC_PER_SEC) >> 8 * off);
}

/* The i8042 keyboard controller has nothing but its reset line. */
enum { I8042_BASE = 0x61, I8042_PORTS = 4, I8042_COMMAND = 3, I8042_RESET = 0xfe, PORT_B_REFRESH = 0x20 };

static void i8042_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	(void)opaque;
	memset(data, 0, len);
	if (off == 0)
		*(uint8_t *)data = PORT_B_REFRESH;
}

static void i8042_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	if (len == 1 && off == I8042_COMMAND && *(const uint8_t *)data == I8042_RESET)
		vm_guest_event(opaque, GUEST_RESET);
}

/*
 * The CMOS clock (MC146818), in UTC and BCD, and the registers in which firmware looks for the size
 * of RAM.
 */
enum { CMOS_BASE = 0x70, CMOS_PORTS = 2 };

static uint8_t bcd(int v)
{
	return (uint8_t)(v / 10 % 10 << 4 | v % 10);
}

static uint8_t cmos_register(const struct vm *vm, uint8_t index)
{
	struct timespec now;
	struct tm tm;
	uint64_t low = vm->mem.region[0].size, ext = low > 16 << 20 ? (low - (16 << 20)) >> 16 : 0;
	uint64_t high = vm->mem.n > 1 ? vm->mem.region[1].size >> 16 : 0;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	switch (index) {
	case 0x00:
		return bcd(tm.tm_sec);
	case 0x02:
		return bcd(tm.tm_min);
	case 0x04:
		return bcd(tm.tm_hour);
	case 0x06:
		return bcd(tm.tm_wday + 1);
	case 0x07:
		return bcd(tm.tm_mday);
	case 0x08:
		return bcd(tm.tm_mon + 1);
	case 0x09:
		return bcd(tm.tm_year % 100);
	case 0x32:
		return bcd((tm.tm_year + 1900) / 100);
	case 0x0a: /* an update is in progress for the last 8 ms of each second: guests wait for its edge */
		return (uint8_t)(0x26 | (now.tv_nsec > 992000000 ? 0x80 : 0));
	case 0x0b:
		return 0x02; /* 24 hours, BCD */
	case 0x0d:
		return 0x80; /* the battery is fine */
	case 0x34:
	case 0x35:
		return (uint8_t)(ext >> 8 * (index - 0x34));
	case 0x5b:
	case 0x5c:
	case 0x5d:
		return (uint8_t)(high >> 8 * (index - 0x5b));
	default:
		return 0;
	}
}

static void cmos_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	struct vm *vm = opaque;

	memset(data, 0, len);
	if (off == 1 && len == 1)
		*(uint8_t *)data = cmos_register(vm, vm->arch.cmos_index);
}

static void cmos_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	struct vm *vm = opaque;

	if (off == 0 && len == 1)
		vm->arch.cmos_index = *(const uint8_t *)data & 0x7f;
}

static void acpi_block_read(void *opaque, uint64_t off, void *data, unsigned len)
{
	struct acpi_block_dev *d = opaque;

	pthread_mutex_lock(&d->arch->acpi_lock);
	acpi_regs_read(&d->arch->acpi_regs, d->block, off, data, len);
	pthread_mutex_unlock(&d->arch->acpi_lock);
}

static void acpi_block_write(void *opaque, uint64_t off, const void *data, unsigned len)
{
	struct acpi_block_dev *d = opaque;

	pthread_mutex_lock(&d->arch->acpi_lock);
	acpi_regs_write(&d->arch->acpi_regs, d->block, off, data, len);
	pthread_mutex_unlock(&d->arch->acpi_lock);
}

static void on_eject(void *owner, unsigned pci_slot)
{
	vm_eject(owner, pci_slot);
}

static int map_acpi(struct vm *vm, struct err *err)
{
	struct acpi_addrs at = acpi_addrs(vm->arch.phys_bits, false);
	const struct {
		enum acpi_block block;
		uint64_t base, size;
	} blocks[] = {
		{ ACPI_BLOCK_PCI, at.pci, ACPI_PCI_BLOCK_BYTES },
		{ ACPI_BLOCK_CPU, at.cpu, ACPI_CPU_BLOCK_BYTES },
		{ ACPI_BLOCK_GED, at.ged, ACPI_GED_BLOCK_BYTES },
	};

	pthread_mutex_init(&vm->arch.acpi_lock, NULL);
	vm->arch.acpi_regs.n_vcpus = vm->config->cpus.boot_vcpus;
	vm->arch.acpi_regs.eject = on_eject;
	vm->arch.acpi_regs.owner = vm;
	for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
		struct acpi_block_dev *d = &vm->arch.acpi_dev[i];
		*d = (struct acpi_block_dev){ .arch = &vm->arch, .block = blocks[i].block };
		struct bus_range r = { .base = blocks[i].base,
				       .size = blocks[i].size,
				       .dev = d,
				       .read = acpi_block_read,
				       .write = acpi_block_write };
		if (bus_add(&vm->mmio, &r, err) < 0)
			return err->num;
	}
	return 0;
}

int arch_platform_init(struct vm *vm, struct err *err)
{
	const struct bus_range ports[] = {
		{ .base = I8042_BASE, .size = I8042_PORTS, .dev = vm, .read = i8042_read, .write = i8042_write },
		{ .base = CMOS_BASE, .size = CMOS_PORTS, .dev = vm, .read = cmos_read, .write = cmos_write },
		{ .base = 0xcf8, .size = 8, .dev = &vm->pci, .read = pci_port_read, .write = pci_port_write },
		{ .base = ACPI_PORT_SLEEP, .size = 1, .dev = vm, .read = zero_read, .write = sleep_write },
		{ .base = ACPI_PORT_PM_TIMER, .size = 4, .dev = vm, .read = pm_timer_read },
	};
	const struct bus_range ecam = {
		.base = ECAM_BASE,
		.size = ECAM_BYTES,
		.dev = &vm->pci,
		.read = pci_ecam_read,
		.write = pci_ecam_write,
	};

	for (size_t i = 0; i < ARRAY_LEN(ports); i++)
		if (bus_add(&vm->pio, &ports[i], err) < 0)
			return err->num;
	ioapic_init(&vm->arch.ioapic);
	pci_bus_init(&vm->pci, arch_mmio32(vm).last + 1, arch_mmio64(vm).last + 1);
	if (bus_add(&vm->mmio, &ecam, err) < 0 || ioapic_map(vm, err) < 0)
		return err->num;
	return map_acpi(vm, err);
}

void arch_power_button(struct vm *vm)
{
	acpi_regs_notify_power_button(&vm->arch.acpi_regs);
	arch_irq_pulse(vm, ACPI_GSI_GED);
}

void arch_pci_changed(struct vm *vm, uint32_t up, uint32_t down)
{
	pthread_mutex_lock(&vm->arch.acpi_lock);
	acpi_regs_notify_pci(&vm->arch.acpi_regs, up, down);
	pthread_mutex_unlock(&vm->arch.acpi_lock);
	arch_irq_pulse(vm, ACPI_GSI_GED);
}

uint32_t arch_pci_unseen(struct vm *vm)
{
	pthread_mutex_lock(&vm->arch.acpi_lock);
	uint32_t up = vm->arch.acpi_regs.pci_up;
	pthread_mutex_unlock(&vm->arch.acpi_lock);
	return up;
}

void arch_vm_done(struct vm *vm)
{
	cpuid_free(&vm->arch.cpuid);
	clock_done(vm);
}

struct arch_window arch_mmio64(const struct vm *vm)
{
	struct acpi_cfg cfg = { .phys_bits = vm->arch.phys_bits, .ram_bytes = vm->mem.size };
	struct acpi_range r = acpi_pci_range(&cfg);

	return (struct arch_window){ r.first, r.last };
}

struct arch_window arch_mmio32(const struct vm *vm)
{
	(void)vm;
	return (struct arch_window){ LOW_RAM_END, MMIO32_END - 1 };
}

/* ---- state ---- */

const struct field arch_state_fields[] = {
	F_OBJ(struct arch_state, clock,
	      ((const struct field[]){ F_BYTES(__typeof__(((struct arch_state *)0)->clock), Kvm, .flags = F_REQUIRED),
				       F_END }),
	      .flags = F_REQUIRED),
	F_OBJ_LIST(struct arch_state, common_cpuid, cpuid_entry_fields, .flags = F_REQUIRED,
		   .count = MAX_CPUID_ENTRIES),
	F_OPT(struct arch_state, vmgenid_gpa, .min = 8, .align = 8),
	F_END,
};

int arch_state_save(struct vm *vm, struct arch_state *state, struct err *err)
{
	const struct cpuid_table *t = &vm->arch.cpuid;

	*state = (struct arch_state){
		.clock.Kvm = vm->arch.clock,
		.n_common_cpuid = t->n_entry,
		.vmgenid_gpa = vm->arch.vmgenid_gpa,
		.has_vmgenid_gpa = vm->arch.vmgenid_gpa != 0,
	};
	state->common_cpuid = malloc(t->n_entry * sizeof(*t->entry));
	if (!state->common_cpuid)
		return err_num(err, ERR_INTERNAL, ENOMEM, "save the CPUID");
	memcpy(state->common_cpuid, t->entry, t->n_entry * sizeof(*t->entry));
	return 0;
}

/* A leaf of what the guest was told about its CPU; all zero: it was told of no such leaf. */
static const struct cpuid_entry *find_leaf(const struct arch_state *state, uint32_t function)
{
	static const struct cpuid_entry none;

	for (uint32_t i = 0; i < state->n_common_cpuid; i++)
		if (state->common_cpuid[i].function == function)
			return &state->common_cpuid[i];
	return &none;
}

/*
 * Family and model as in Intel's manual, CPUID leaf 1: the extended fields count for families 6 and
 * 15.
 */
void arch_state_describe(const struct arch_state *state, const struct vcpu_state *vcpu, char *buf, size_t size)
{
	const struct cpuid_entry *vendor = find_leaf(state, 0);
	uint32_t eax = find_leaf(state, 1)->eax, family = eax >> 8 & 15, model = eax >> 4 & 15;
	char name[13] = "";

	memcpy(name, &vendor->ebx, 4);
	memcpy(name + 4, &vendor->edx, 4);
	memcpy(name + 8, &vendor->ecx, 4);
	for (unsigned i = 0; i < 12; i++)
		name[i] = name[i] >= ' ' && name[i] <= '~' ? name[i] : '?'; /* the name came from a file */
	if (family == 6 || family == 15)
		model |= eax >> 12 & 0xf0;
	if (family == 15)
		family += eax >> 20 & 255;
	int n = snprintf(buf, size, "%s family %u model %u", name, family, model);
	if (vcpu->Kvm.has_tsc_khz && n > 0 && (size_t)n < size)
		snprintf(buf + n, size - (size_t)n, ", TSC %u kHz", vcpu->Kvm.tsc_khz);
}

void arch_state_load(struct vm *vm, struct arch_state *state)
{
	vm->arch.cpuid = (struct cpuid_table){ .entry = state->common_cpuid, .n_entry = state->n_common_cpuid };
	state->common_cpuid = NULL;
	state->n_common_cpuid = 0;
	vm->arch.phys_bits = cpuid_phys_bits(&vm->arch.cpuid);
	vm->arch.vmgenid_gpa = state->has_vmgenid_gpa ? state->vmgenid_gpa : 0;
	clock_load(vm, &state->clock.Kvm);
}

uint64_t arch_device_area(uint64_t ram_end)
{
	return ram_end > HIGH_RAM_START ? ram_end : HIGH_RAM_START;
}

void arch_memory_regions_save(struct strbuf *out)
{
	strbuf_printf(out,
		      "[{\"base\":0,\"size\":%llu,\"r_type\":\"Ram\"},{\"base\":%llu,\"size\":%llu,\"r_type\":\"Ram\"},"
		      "{\"base\":%llu,\"size\":%llu,\"r_type\":\"SubRegion\"},"
		      "{\"base\":%llu,\"size\":%llu,\"r_type\":\"Reserved\"}]",
		      LOW_RAM_END, HIGH_RAM_START, ~0ULL, LOW_RAM_END, MMIO32_END - LOW_RAM_END, ECAM_BASE, ECAM_BYTES);
}
