# SPDX-License-Identifier: Apache-2.0
# Programs go to build/; a new source file or test is picked up by its place, without an edit here.
#
#   make                 programs in build/ (CC=clang works too)
#   make check           unit tests, tests on /dev/kvm, the short lab: what CI runs
#   make check-unit check-agent check-image check-kvm check-lab check-api check-peers check-full
#   make check-fuzz check-fuzz-planted fuzz-coverage
#   make asan tsan       the same programs with sanitizers, in build/asan and build/tsan
#   make bench lint install guests clean
#
# FORKD_PEERS=DIR names a folder with cloud-hypervisor, ch-remote and firecracker, to compare with; nothing needs it.
ifeq ($(origin CC),default)
CC = gcc
endif
BUILD ?= build
SAN ?=
OPT ?= -O2
ARCH ?= x86
PYTHON ?= python3
PREFIX ?= /usr/local
# Tests find mkfs.xfs and the like after `su`, too
export PATH := $(PATH):/usr/sbin:/sbin
WARN = -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual \
	-Wwrite-strings -Wvla -Wundef -Wformat=2 -Wimplicit-fallthrough -Wno-gnu-variable-sized-type-not-at-end
CPPFLAGS += -iquote vmm/$(ARCH) -I. -isystem /usr/include/libnl3 -D_GNU_SOURCE -MMD -MP
CFLAGS += -std=gnu17 $(OPT) -g $(WARN) -fno-common -fstack-protector-strong -pthread $(SAN)
LDFLAGS += -pthread $(SAN)
ifeq ($(SAN),)
CPPFLAGS += -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
LDFLAGS += -Wl,-z,relro,-z,now
# The program starts 0.5 ms earlier without a dynamic linker: a fifth of a restore.
STATIC = -static-pie
endif

COMMON_SRC = $(wildcard common/*.c)
STORE_SRC = $(wildcard store/*.c)
FORKCTL_SRC = $(wildcard forkctl/*.c)
FORKD_SRC = $(filter-out forkd/main.c forkd/build/%,$(wildcard forkd/*.c forkd/*/*.c))
# forkd-image, a program of its own: it alone links the libraries for archives and ext4.
IMAGE_SRC = $(filter-out forkd/build/main.c,$(wildcard forkd/build/*.c))
# One folder of vmm/ for each architecture; one is built.
OTHER_ARCH = $(wildcard $(addprefix vmm/,$(addsuffix /*.c,$(filter-out $(ARCH),x86 arm64))))
VMM_SRC = $(filter-out $(OTHER_ARCH),$(wildcard vmm/*/*.c))
# liburing 2.3's shared library lacks io_uring_enable_rings(): the archive has it
VMM_LIBS = -l:liburing.a -lhttp_parser -l:libz.a -l:libzstd.a
FORKD_LIBS = -lhttp_parser -lgnutls -lsystemd -l:liburing.a -lnftables -lnl-route-3 -lnl-3
IMAGE_LIBS = -larchive -lext2fs -lcom_err -lgnutls
FORKCTL_LIBS = -lcurl -lgnutls -l:liburing.a
obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
COMMON_LIB = $(BUILD)/libcommon.a
# The guest agent is one static program: musl, and what of common/ it needs. With sanitizers glibc builds it. guest/reseed is not of it.
MUSL_CC ?= musl-gcc
GUEST_SRC = $(filter-out guest/main.c guest/reseed/%,$(wildcard guest/*.c guest/*/*.c))
GUEST_COMMON = $(addprefix common/,base64.c clock.c err.c field.c frames.c io.c json64.c log.c mac.c)
GUEST_LIB = $(BUILD)/libguest.a
# Those of Debian need nothing that musl lacks.
GUEST_LIBS = -l:libhttp_parser.a -l:libz.a
musl_obj = $(patsubst %.c,$(BUILD)/obj-musl/%.o,$(1))
LIB = $(BUILD)/libvmm.a
FORKD_LIB = $(BUILD)/libforkd.a
IMAGE_LIB = $(BUILD)/libimage.a
PROGRAMS = $(addprefix $(BUILD)/,forkd-vmm forkd forkd-image forkctl forkd-agent)
# For programs with OpenSSL in a guest; only where its headers are.
RAND_MODULE = $(if $(wildcard /usr/include/openssl/core_dispatch.h),$(BUILD)/forkd-rand.so)
UNIT = $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/test_*.c))
# Small programs that tests and benchmarks start; each is one file.
HELPERS = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/kvm/*.c tests/bench/*.c tests/lab/*.c))
FUZZ = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
comma = ,
SANITIZE_ASAN = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANITIZE_FUZZ = -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANITIZE_TSAN = -fsanitize=thread -fno-omit-frame-pointer -Wno-tsan -Wno-unknown-warning-option

all: $(PROGRAMS) $(RAND_MODULE)
GUEST_CC ?= gcc
include tests/guests/guests.mk

$(BUILD)/obj/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -c $< -o $@
$(COMMON_LIB): $(call obj,$(COMMON_SRC))
$(LIB): $(call obj,$(VMM_SRC))
$(FORKD_LIB): $(call obj,$(STORE_SRC) $(FORKD_SRC))
$(IMAGE_LIB): $(call obj,$(IMAGE_SRC))
$(GUEST_LIB): $(call obj,$(GUEST_SRC))
$(COMMON_LIB) $(LIB) $(FORKD_LIB) $(IMAGE_LIB) $(GUEST_LIB):
	@rm -f $@
	ar rcs $@ $^
$(BUILD)/forkd-vmm: $(BUILD)/obj/vmm/main.o $(LIB) $(COMMON_LIB)
	$(CC) $(LDFLAGS) $(STATIC) $^ $(VMM_LIBS) -o $@
$(BUILD)/forkd: $(BUILD)/obj/forkd/main.o $(FORKD_LIB) $(COMMON_LIB)
	$(CC) $(LDFLAGS) $^ $(FORKD_LIBS) -o $@
$(BUILD)/forkd-image: $(BUILD)/obj/forkd/build/main.o $(IMAGE_LIB) $(COMMON_LIB)
	$(CC) $(LDFLAGS) $^ $(IMAGE_LIBS) -o $@
$(BUILD)/forkctl: $(call obj,$(FORKCTL_SRC)) $(COMMON_LIB)
	$(CC) $(LDFLAGS) $^ $(FORKCTL_LIBS) -o $@
ifeq ($(SAN),)
# Headers that musl has not got: the kernel's, and those of the two libraries.
$(BUILD)/obj-musl/include:
	@rm -rf $@ && mkdir -p $@
	@triple=$$(gcc -print-multiarch); for h in linux asm-generic http_parser.h zlib.h zconf.h; do \
		[ -e /usr/include/$$h ] && ln -sf /usr/include/$$h $@/ || ln -sf /usr/include/$$triple/$$h $@/; done; \
		ln -sf /usr/include/$$triple/asm $@/
$(BUILD)/obj-musl/%.o: %.c Makefile | $(BUILD)/obj-musl/include
	@mkdir -p $(@D)
	$(MUSL_CC) $(CPPFLAGS) -U_FORTIFY_SOURCE -idirafter $(BUILD)/obj-musl/include $(CFLAGS) -fno-pie -c $< -o $@
$(BUILD)/forkd-agent: $(call musl_obj,guest/main.c $(GUEST_SRC) $(GUEST_COMMON))
	$(MUSL_CC) -static -no-pie -Wl,-z,relro,-z,now $^ $$(gcc -print-file-name=libhttp_parser.a) $$(gcc -print-file-name=libz.a) -o $@
else
$(BUILD)/forkd-agent: $(BUILD)/obj/guest/main.o $(GUEST_LIB) $(COMMON_LIB)
	$(CC) $(LDFLAGS) $^ $(GUEST_LIBS) -o $@
endif
$(BUILD)/forkd-rand.so: guest/reseed/rand_provider.c
	@mkdir -p $(@D)
	$(CC) $(filter-out -MMD -MP,$(CPPFLAGS)) $(filter-out $(SAN),$(CFLAGS)) -shared -fPIC $< -lcrypto -o $@
# The agent's tests link with the agent alone: its names and the daemon's are not the same things.
$(BUILD)/tests/unit/test_guest_%: $(BUILD)/obj/tests/unit/test_guest_%.o $(GUEST_LIB) $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(GUEST_LIBS) -o $@
# The same goes for forkd-image.
$(BUILD)/tests/unit/test_build_%: $(BUILD)/obj/tests/unit/test_build_%.o $(IMAGE_LIB) $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(IMAGE_LIBS) -o $@
AGENT_FUZZ = $(filter $(BUILD)/tests/fuzz/fuzz_agent%,$(FUZZ))
$(AGENT_FUZZ): $(BUILD)/tests/fuzz/%: $(BUILD)/obj/tests/fuzz/%.o $(GUEST_LIB) $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -fsanitize=fuzzer $(filter %.o,$^) $(filter %.a,$^) $(GUEST_LIBS) -o $@
# A unit test links with the library of the module that it is named after; forkd's first, it has no KVM.
$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(FORKD_LIB) $(LIB) $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $(filter %.o,$^) $(filter %.a,$^) -lcmocka $(VMM_LIBS) $(FORKD_LIBS) -o $@
$(BUILD)/tests/unit/test_exec: | $(BUILD)/forkd-agent
$(BUILD)/tests/unit/test_forkctl: $(call obj,forkctl/args.c forkctl/table.c)
# Fuzzing programs: only with clang, in build/fuzz (make fuzz). document.c has a JSON reader of its own, which is not under test.
$(BUILD)/tests/fuzz/document.o: tests/fuzz/document.c common/json64.c common/err.c
	@mkdir -p $(@D)
	$(CC) $(filter-out -MMD -MP,$(CPPFLAGS)) -std=gnu17 -O2 -g $(WARN) -r -nostdlib $^ -o $@
	objcopy -G LLVMFuzzerCustomMutator -G LLVMFuzzerCustomCrossOver -G document_fold -G document_is_good $@
$(BUILD)/tests/fuzz/fuzz_oci: $(BUILD)/obj/tests/fuzz/fuzz_oci.o $(BUILD)/tests/fuzz/document.o $(IMAGE_LIB) $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -fsanitize=fuzzer $(filter %.o,$^) $(filter %.a,$^) $(IMAGE_LIBS) -o $@
# Each byte's comparisons tell the fuzzer nothing, and take half of its time.
build/fuzz/obj/common/json64.o: override SAN += -fno-sanitize-coverage=trace-cmp
$(BUILD)/obj/tests/fuzz/%: override SAN := $(subst fuzzer-no-link$(comma),,$(SAN))
$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/document.o $(FORKD_LIB) $(LIB) $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -fsanitize=fuzzer $(filter %.o,$^) $(filter %.a,$^) $(VMM_LIBS) $(FORKD_LIBS) -o $@
$(filter-out %/image_speed,$(HELPERS)): $(BUILD)/%: $(BUILD)/obj/%.o
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ -o $@
$(BUILD)/tests/bench/image_speed: $(BUILD)/obj/tests/bench/image_speed.o $(LIB) $(COMMON_LIB)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) $^ -lcmocka $(VMM_LIBS) -o $@
# They go into guests that have no libraries.
$(BUILD)/tests/bench/io_load $(patsubst %.c,$(BUILD)/%,$(wildcard tests/lab/guest_*.c)): LDFLAGS += -static
helpers: $(HELPERS)

# Everything that the tests start, and nothing run.
test-programs: all guests helpers $(UNIT)

check: check-unit check-agent check-image check-kvm check-lab

check-unit: $(UNIT)
	@failed=0; for t in $(UNIT); do echo "== $$t"; ./$$t || failed=$$((failed + 1)); done; \
	[ $$failed -eq 0 ] || { echo "$$failed unit test programs failed"; exit 1; }

# The guest agent on this host, natively, and the client's commands that talk to it
check-agent: $(BUILD)/forkd-agent $(BUILD)/forkctl $(RAND_MODULE)
	BUILD=$(BUILD) $(PYTHON) tests/agent/run.py $(TESTS)

# Disk images from layouts, archives and directories; they are mounted, in a mount namespace
check-image: $(BUILD)/forkd-image $(BUILD)/forkctl $(BUILD)/forkd-agent
	BUILD=$(BUILD) $(PYTHON) tests/image/run.py $(TESTS)

check-kvm: all guests helpers
	$(PYTHON) tests/kvm/run.py $(TESTS)

# 125: the lab itself broke (QEMU's outer Linux hung or died); a test that failed is never run again.
check-lab: all helpers
	@scripts/lab.sh || { s=$$?; [ $$s -eq 125 ] || exit $$s; echo "the lab itself broke: once more"; scripts/lab.sh; }

check-peers: all guests helpers $(BUILD)/tests/unit/test_acpi
ifeq ($(FORKD_PEERS),)
	@echo "SKIPPED check-peers: FORKD_PEERS is not set, nothing was compared with Cloud Hypervisor"
else
	tests/kvm/compare_tables.sh $(BUILD)/tests/unit/test_acpi $(BUILD)/tests/guests/ticker
	FORKD_VMM=$(FORKD_PEERS)/cloud-hypervisor $(PYTHON) tests/kvm/run.py test_lifecycle test_snapshot
	$(PYTHON) tests/kvm/run.py Peers test_peers test_vsock.Snapshots test_variations test_differential
	FORKD_LAB_TIMEOUT=3000 scripts/lab.sh tests/lab/run.py peers
endif

# What the real Cloud Hypervisor shows, for the tests that compare with it where it is not there
record-peers: guests
	$(PYTHON) tests/peers/record.py

check-api: all guests
	tests/kvm/check_api.sh

check-full: export FORKD_TEST_FULL = 1
check-full: FUZZ_SECONDS = 900
check-full: check-unit check-agent check-image check-kvm check-api check-peers check-fuzz check-fuzz-planted fuzz-coverage
	FORKD_LAB_TIMEOUT=4500 FORKD_LAB_MEMORY=6144 scripts/lab.sh -f

asan tsan: SANITIZE = $(SANITIZE_$(shell echo $@ | tr a-z A-Z))
asan tsan:
	$(MAKE) BUILD=build/$@ SAN="$(SANITIZE)" OPT="-O1" $(patsubst $(BUILD)/%,build/$@/%,$(PROGRAMS)) \
		$(patsubst $(BUILD)/%,build/$@/%,$(UNIT))

# Fuzzing of what comes from outside; tests/fuzz/run.py says more. FUZZ_SECONDS is for all programs together.
FUZZ_SECONDS ?= 60
fuzz: build/fuzz/words.dict
	$(MAKE) CC=clang BUILD=build/fuzz SAN="$(SANITIZE_FUZZ)" OPT="-O1" $(patsubst $(BUILD)/%,build/fuzz/%,$(FUZZ))

# The names in field tables and the other strings that the readers know.
build/fuzz/words.dict: $(COMMON_SRC) $(STORE_SRC) $(FORKD_SRC) $(IMAGE_SRC) $(VMM_SRC) $(GUEST_SRC)
	@mkdir -p $(@D)
	grep -ohE '\bF(_[A-Z0-9]+)?\([a-z_ ]+, [a-z0-9_]+|"[A-Za-z_][A-Za-z0-9_-]+"' $^ | \
		sed -nE 's/.*[, "]([A-Za-z0-9_-]{2,})"?$$/"\1"/p' | sort -u > $@

check-fuzz: fuzz
	$(PYTHON) tests/fuzz/run.py fuzz $(FUZZ_SECONDS)

# Bugs planted on purpose, one after the other: each must be found within two minutes.
check-fuzz-planted: fuzz
	$(PYTHON) tests/fuzz/run.py planted 120

# Of the corpora and of what runs of the fuzzing programs left in build/fuzz.
fuzz-coverage: fuzz
	$(MAKE) CC=clang BUILD=build/fuzz-coverage SAN="-fsanitize=fuzzer-no-link -fprofile-instr-generate -fcoverage-mapping" \
		OPT="-O1" $(patsubst $(BUILD)/%,build/fuzz-coverage/%,$(FUZZ))
	$(PYTHON) tests/fuzz/run.py coverage

# Unit tests, the hostile guest, bad input and the daemon on sanitizer builds. Guests are not instrumented.
check-asan: asan guests helpers
	$(MAKE) BUILD=build/asan SAN="$(SANITIZE_ASAN)" OPT="-O1" check-unit check-agent check-image
	BUILD=build/asan $(PYTHON) tests/kvm/run.py test_hostile test_hotplug test_badinput test_template_host test_forkd test_agent_soak

check-tsan: tsan guests helpers
	BUILD=build/tsan $(PYTHON) tests/kvm/run.py test_lifecycle test_hotplug test_snapshot test_template_host test_forkd

bench: all guests helpers
	$(PYTHON) tests/bench/bench.py restore clones ready exec io $(BENCH)
	$(BUILD)/tests/bench/agent_stdout $(BUILD)/forkd-agent
	$(BUILD)/tests/bench/agent_files $(BUILD)/forkd-agent

lint:
	scripts/lint.sh

install: all
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(filter-out %/forkd-agent,$(PROGRAMS))
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/lib/forkd $(BUILD)/forkd-agent
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/lib/forkd/reseed guest/reseed/forkd_reseed.* guest/reseed/openssl.cnf $(RAND_MODULE)
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/lib/forkd/clone.d/after guest/clone.d/after/50-services
	install -m 0644 guest/systemd/forkd-agent.service $(DESTDIR)$(PREFIX)/lib/forkd/
	install -m 0755 guest/openrc/forkd-agent $(DESTDIR)$(PREFIX)/lib/forkd/forkd-agent.openrc
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system forkd/systemd/forkd.service forkd/systemd/forkd.socket

clean:
	rm -rf $(BUILD)
-include $(shell find $(BUILD)/obj $(BUILD)/obj-musl -name '*.d' 2>/dev/null)
.DEFAULT_GOAL := all
.PHONY: all helpers test-programs check check-unit check-agent check-image check-kvm check-lab check-peers record-peers check-api check-full check-asan \
	check-tsan fuzz check-fuzz check-fuzz-planted fuzz-coverage asan tsan bench lint install clean
.SECONDARY:
