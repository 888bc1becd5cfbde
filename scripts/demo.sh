#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The main job, from nothing: installs what is missing, builds, boots a Linux guest, makes a template of it while it works, and
# clones it, each clone with a network of its own. Leaves build/ and the installed packages, nothing else.
#   scripts/demo.sh [CLONES]      as root, on Debian or Ubuntu; default: 4
# Where this machine's KVM cannot run Linux it says so and does the same in the lab: a Linux with KVM inside QEMU.
set -eu
cd "$(dirname "$0")/.."
export PATH=$PATH:/usr/sbin:/sbin
clones=${1:-4}

case $clones in
"" | *[!0-9]* | 0*) echo "usage: scripts/demo.sh [CLONES]" >&2; exit 2 ;;
esac
step() { printf '\n=== %s\n' "$*"; }

[ "$(uname -m)" = x86_64 ] || { echo "demo: this is $(uname -m); forkd needs x86-64" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "demo: must run as root: it installs packages, and opens /dev/kvm and network taps" >&2; exit 1; }

step "1 of 4: packages (scripts/setup.sh)"
scripts/setup.sh
step "2 of 4: build (make; about a minute)"
make -s -j"$(nproc)"
ls -1 build/forkd build/forkd-vmm build/forkctl
step "3 of 4: what this host can do (build/forkctl doctor)"
build/forkctl doctor || true
echo "The demonstration starts a forkd of its own and needs nothing of this to be changed."

# As scripts/lab.sh finds it out
where=${FORKD_LAB:-qemu}
[ -n "${FORKD_LAB:-}" ] || [ ! -w /dev/kvm ] || { [ ! -d /sys/module/kvm_intel ] && [ ! -d /sys/module/kvm_amd ]; } || where=direct
if [ "$where" = direct ]; then
	step "4 of 4: the demonstration, right here"
	FORKD_LAB=direct exec scripts/lab.sh scripts/demo/demo.py "$clones"
fi
step "4 of 4: the demonstration, in the lab"
cat <<-EOF
	This host has no KVM that can run Linux, so a Linux with KVM is started inside QEMU, and all of this happens in there.
	A processor is emulated, two deep: everything works the same, some hundred times slower. It takes about four minutes.
EOF
FORKD_LAB=qemu exec scripts/lab.sh scripts/demo/demo.py "$clones" emulated
