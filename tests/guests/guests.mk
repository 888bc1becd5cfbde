# SPDX-License-Identifier: Apache-2.0
# Builds the freestanding test guests into build/tests/guests/: included by the top Makefile, or alone with
# make -f tests/guests/guests.mk
BUILD ?= build
GUEST_CC ?= $(CC)
GUEST_CFLAGS = -std=gnu17 -ffreestanding -nostdlib -static -no-pie -fno-pie -mno-red-zone -mgeneral-regs-only -O2 -Wall -Wextra \
	-Werror -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -MMD -MP
GUEST_LDFLAGS = -nostdlib -static -no-pie -Wl,-T,tests/guests/guest.ld -Wl,--build-id=none -Wl,--no-warn-rwx-segments
GUEST_OBJ = $(BUILD)/tests/guests/obj
GUEST_PROGRAMS = $(addprefix $(BUILD)/tests/guests/,ticker resumed clock devices hostile agent reboot)

guests: $(GUEST_PROGRAMS)

$(BUILD)/tests/guests/devices: $(patsubst %,$(GUEST_OBJ)/%.o,dev_blk dev_net dev_rng dev_console dev_vsock dev_balloon dev_button dev_vmgenid dev_hotplug virtio pci)
$(BUILD)/tests/guests/hostile: $(patsubst %,$(GUEST_OBJ)/%.o,virtio pci)
$(BUILD)/tests/guests/agent: $(patsubst %,$(GUEST_OBJ)/%.o,virtio pci)
$(BUILD)/tests/guests/reboot: $(patsubst %,$(GUEST_OBJ)/%.o,virtio pci)

$(GUEST_PROGRAMS): $(BUILD)/tests/guests/%: $(GUEST_OBJ)/%.o $(GUEST_OBJ)/start.o $(GUEST_OBJ)/lib.o tests/guests/guest.ld
	$(GUEST_CC) $(GUEST_LDFLAGS) -o $@ $(filter %.o,$^)

$(GUEST_OBJ)/%.o: tests/guests/%.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_CFLAGS) -c -o $@ $<

$(GUEST_OBJ)/%.o: tests/guests/%.S
	@mkdir -p $(@D)
	$(GUEST_CC) -MMD -MP -c -o $@ $<

-include $(wildcard $(GUEST_OBJ)/*.d)
.PHONY: guests
