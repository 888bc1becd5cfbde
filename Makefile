# SPDX-License-Identifier: Apache-2.0
# Programs go to build/; a new source file or test is picked up by its place, without an edit here.
CC ?= gcc
BUILD ?= build
SAN ?=
OPT ?= -O2
WARN = -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual \
	-Wwrite-strings -Wvla -Wundef -Wformat=2 -Wimplicit-fallthrough
ARCH ?= x86
CFLAGS += -iquote vmm/$(ARCH) -std=gnu17 $(OPT) -g $(WARN) -fno-common -fstack-protector-strong -D_GNU_SOURCE -I. -MMD -MP -pthread $(SAN)
ifeq ($(SAN),)
CFLAGS += -D_FORTIFY_SOURCE=2
endif
LDFLAGS += -pthread $(SAN)

COMMON_SRC = $(wildcard common/*.c)
VMM_SRC = $(filter-out vmm/main.c,$(wildcard vmm/*.c)) $(wildcard vmm/$(ARCH)/*.c)
VMM_LIBS = -l:liburing.a -lhttp_parser
obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
LIB = $(BUILD)/libvmm.a
UNIT = $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/test_*.c))

all: $(BUILD)/forkd-vmm
$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c $< -o $@
$(LIB): $(call obj,$(COMMON_SRC) $(VMM_SRC))
	@rm -f $@
	ar rcs $@ $^
$(BUILD)/forkd-vmm: $(BUILD)/vmm/main.o $(LIB)
	$(CC) $(LDFLAGS) $^ $(VMM_LIBS) -o $@
$(BUILD)/tests/unit/%: $(BUILD)/tests/unit/%.o $(LIB)
	$(CC) $(LDFLAGS) $^ -lcmocka $(VMM_LIBS) -o $@

check-unit: $(UNIT)
	@for t in $(UNIT); do ./$$t || exit 1; done
clean:
	rm -rf $(BUILD)
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
.PHONY: all check-unit clean
.SECONDARY:
