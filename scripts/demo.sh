#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The main job, from nothing: installs what is missing, builds, boots a Linux guest, makes a template of it while it works, and
# clones it, each clone with a network of its own.
#   scripts/demo.sh [CLONES]      as root, on Debian or Ubuntu; default: 4
# Where this machine's KVM cannot run Linux it says so and does the same in the lab: a Linux with KVM inside QEMU.
set -eu
cd "$(dirname "$0")/.."
clones=${1:-4}

case $clones in
"" | *[!0-9]* | 0) echo "usage: scripts/demo.sh [CLONES]" >&2; exit 2 ;;
esac
step() { printf '\n=== %s\n' "$*"; }

step "1. Packages (scripts/setup.sh)"
scripts/setup.sh
step "2. Build (make)"
make -s -j"$(nproc)"
ls -l build/forkd build/forkd-vmm build/forkctl
step "3. What this host can do (build/forkctl doctor)"
build/forkctl doctor || true
if [ -d /sys/module/kvm_intel ] || [ -d /sys/module/kvm_amd ]; then
	step "4. The demonstration, right here"
else
	step "4. The demonstration, in the lab: this host's KVM cannot run Linux, so a Linux with KVM is started inside QEMU"
	echo "Everything is emulated there: it works the same, some hundred times slower. Its times say nothing of real hardware."
fi
exec scripts/lab.sh scripts/demo/demo.py "$clones"
