#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compares our firmware tables with those that Cloud Hypervisor itself puts into a guest, over many
# configurations. FORKD_PEERS names the folder with its programs. Arguments: the test_acpi program,
# and a guest kernel with a PVH note that writes no memory below 1 MiB.
set -euo pipefail

if [[ -z ${FORKD_PEERS:-} ]]; then
	echo "SKIP compare_tables: FORKD_PEERS is not set, nothing was compared" >&2
	exit 77
fi
builder=$(realpath "${1:-build/tests/unit/test_acpi}")
guest=$(realpath "${2:-build/tests/guests/ticker}")
dir=$(mktemp -d)
vmm_pid=
cleanup() {
	[[ -z $vmm_pid ]] || kill "$vmm_pid" 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT

remote() { "$FORKD_PEERS/ch-remote" --api-socket "$dir/api" "$@"; }

# peer_tables ARGUMENT…: boots a guest, leaves its memory at 0xa0000 and 0xf0000 in $dir/peer.
peer_tables() {
	local ram
	mkdir -p "$dir/peer"
	mkdir "$dir/snapshot"
	"$FORKD_PEERS/cloud-hypervisor" --api-socket "$dir/api" --kernel "$guest" \
		--console off "$@" >"$dir/log" 2>&1 &
	vmm_pid=$!
	for _ in $(seq 200); do
		remote info 2>/dev/null | grep -q '"Running"' && break
		kill -0 $vmm_pid 2>/dev/null || break
		sleep 0.05
	done
	remote pause && remote snapshot "file://$dir/snapshot" || { cat "$dir/log" >&2; return 1; }
	ram=$dir/snapshot/memory-ranges
	dd if="$ram" of="$dir/peer/acpi" bs=64K skip=10 count=5 status=none
	dd if="$ram" of="$dir/peer/firmware" bs=64K skip=15 count=1 status=none
	kill $vmm_pid
	wait $vmm_pid 2>/dev/null || true
	vmm_pid=
	rm -rf "$dir/snapshot" "$dir/api"
}

n=0 failed=0
# check OURS PEER: one configuration, as key=value for our builder and as options for the peer.
check() {
	local ours theirs file
	read -rd '' -a ours <<<"$1" || true	# over several lines
	read -rd '' -a theirs <<<"$2" || true
	mkdir -p "$dir/ours"
	n=$((n + 1))
	if ! "$builder" --dump "$dir/ours" "${ours[@]}" || ! peer_tables "${theirs[@]}"; then
		echo "FAIL $1: could not be built"
		failed=$((failed + 1))
		return
	fi
	for file in acpi firmware; do
		if ! cmp "$dir/ours/$file" "$dir/peer/$file"; then
			echo "FAIL $1: $file differs"
			failed=$((failed + 1))
			return
		fi
	done
	echo "same $1"
}

memory="--memory size=128M" serial="--serial null"
for boot in 1 2 3 4 8 16 17 64 253 254 255 256; do
	check "boot=$boot ram_mib=128" "--cpus boot=$boot $memory $serial"
done
for max in 2 9 15 100 255 256 300 1024; do
	check "boot=1 max=$max ram_mib=128" "--cpus boot=1,max=$max $memory $serial"
done
check "boot=2 max=4 ram_mib=256" "--cpus boot=2,max=4 --memory size=256M $serial"
for bits in 36 38 39 40 42 44 46 48; do
	check "bits=$bits ram_mib=128" "--cpus boot=1,max_phys_bits=$bits $memory $serial"
done
for mib in 512 3072 3074 3300 5120; do
	check "ram_mib=$mib" "--cpus boot=1 --memory size=${mib}M $serial"
done
check "ram_mib=256 hotplug_mib=512" "--memory size=256M,hotplug_size=512M $serial"
for mib in 3100 3300; do
	check "ram_mib=$mib hotplug_mib=256" "--memory size=${mib}M,hotplug_size=256M $serial"
done
check "ram_mib=3300 hotplug_mib=256 hotplug_acpi=0" \
	"--memory size=3300M,hotplug_method=virtio-mem,hotplug_size=256M $serial"
check "boot=6 max=12 threads=2 cores=3 dies=1 ram_mib=128" \
	"--cpus boot=6,max=12,topology=2:3:1:2 $memory $serial"
check "boot=12 threads=2 cores=3 dies=1 ram_mib=128" \
	"--cpus boot=12,topology=2:3:1:2 $memory $serial"
check "boot=10 threads=1 cores=5 dies=2 ram_mib=128" \
	"--cpus boot=10,topology=1:5:2:1 $memory $serial"
check "boot=66 max=195 threads=1 cores=65 dies=3 ram_mib=128" \
	"--cpus boot=66,max=195,topology=1:65:3:1 $memory $serial"
check "boot=195 threads=1 cores=65 dies=3 ram_mib=128" \
	"--cpus boot=195,topology=1:65:3:1 $memory $serial"
check "boot=254 threads=1 cores=127 dies=2 ram_mib=128" \
	"--cpus boot=254,topology=1:127:2:1 $memory $serial"
check "serial=0 ram_mib=128" "$memory --serial off"
check "serial=1 ram_mib=128" "$memory --serial file=$dir/serial"
check "serial=0 ram_mib=128" "$memory --serial off --debug-console file=$dir/debug"
truncate -s 16M "$dir/disk"
check "boot=2 ram_mib=128" "--cpus boot=2 $memory $serial --disk path=$dir/disk,image_type=raw
	--balloon size=0 --vsock cid=3,socket=$dir/vsock --watchdog --pvpanic --rtc"

uuid=00112233-4455-6677-8899-aabbccddeeff
platform=system_serial_number=ABC,system_uuid=$uuid
check "${platform//,/ } oem=foo oem=bar ram_mib=128" \
	"$memory $serial --platform $platform,oem_strings=[foo,bar]"
platform=system_manufacturer=M,system_product_name=P,system_version=V,system_serial_number=S
platform+=,system_uuid=$uuid,system_sku_number=K,system_family=F,chassis_asset_tag=A
check "${platform//,/ } oem=x ram_mib=128" "$memory $serial --platform $platform,oem_strings=[x]"
for key in system_manufacturer system_product_name system_version system_sku_number system_family \
	chassis_asset_tag; do
	check "$key=Some ram_mib=128" "$memory $serial --platform $key=Some"
done

echo "$n configurations compared, $failed differ"
[[ $failed -eq 0 ]]
