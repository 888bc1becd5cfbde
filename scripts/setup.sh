#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is needed to build and test on Debian or Ubuntu. May be run again at any time.
#   scripts/setup.sh [-n]      -n: only say what is missing
set -eu
export PATH=$PATH:/usr/sbin:/sbin	# after `su` dpkg misses its tools

build="gcc clang make pkg-config libc6-dev liburing-dev libhttp-parser-dev libgnutls28-dev libsystemd-dev libnftables-dev libnl-route-3-dev libcurl4-gnutls-dev musl-tools zlib1g-dev libzstd-dev libssl-dev libarchive-dev libext2fs-dev comerr-dev"
unit="libcmocka-dev xfsprogs e2fsprogs acpica-tools qemu-utils"
kvm="python3 python3-venv python3-yaml python3-jsonschema openapi-specification curl coreutils procps openssh-client strace dnsmasq-base nftables iptables iproute2 libmicrohttpd-dev"	# libmicrohttpd-dev: for the older release that test_upgrade builds
lab="qemu-system-x86 busybox-static cpio kmod e2fsprogs xz-utils zstd lz4 iproute2"
fuzz="libclang-rt-dev llvm patch"
lint="clang-format clang-tidy cppcheck git"
image="skopeo umoci zstd xz-utils attr libcap2-bin"
packages="$build $unit $kvm $lab $image $fuzz $lint"

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

command -v apt-get >/dev/null && command -v dpkg-query >/dev/null ||
	fail "there is no apt-get here; install by other means what these Debian packages hold: $packages"

missing=
for p in $packages; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing="$missing $p"
done

if [ -z "$missing" ]; then
	say "every package is there already"
elif [ "${1:-}" = -n ]; then
	say "missing:$missing"
	exit 1
else
	[ "$(id -u)" = 0 ] || fail "packages are missing; as root: apt-get install$missing"
	say "installing, which takes some minutes:$missing"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update || say "apt-get update failed; trying with the lists that are there"
	# shellcheck disable=SC2086
	apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi

[ -e /dev/kvm ] || say "note: there is no /dev/kvm; the tests that need it will be skipped or fail"
[ ! -e /dev/kvm ] || [ -w /dev/kvm ] || say "note: /dev/kvm is not yours to open; join the group 'kvm'"
[ -e /dev/net/tun ] || say "note: there is no /dev/net/tun; network tests need it (modprobe tun)"
say "done"
