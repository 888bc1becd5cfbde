#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes what the lab boots, from the distribution's own kernel packages (downloaded and unpacked, never installed), and prints the folder
# it is in:
#   vmlinuz vmlinux   the kernel, as bzImage and as ELF (the latter only where its compressor is installed)
#   inner.img         initramfs of the guests under test: busybox, virtio modules, guest-init
#   full-vmlinuz full-inner.img   the same of the distribution's full kernel, which has what the small one for virtual machines lacks (VMGenID)
#   outer.img         initramfs of the Linux that has /dev/kvm: busybox, kvm modules, e2fsprogs, Python, the files above, outer-init
#   busybox
# The folder's name is a hash of all inputs: what is there already is not made again.
#   usage: images.sh CACHE direct|qemu
# Archives are not compressed: unpacking costs more than loading, under emulation.
set -eu
umask 022
cache=$1 kind=$2
here=$(cd "$(dirname "$0")" && pwd)

fail() { echo "lab images: $*" >&2; exit 1; }
note() { echo "lab images: $*" >&2; }

tools="cpio depmod modprobe dpkg apt-get apt-cache"
[ "$kind" = direct ] || tools="$tools mke2fs e2fsck debugfs ldd"
for tool in $tools; do
	PATH=$PATH:/sbin:/usr/sbin command -v "$tool" >/dev/null || fail "'$tool' is missing (Debian: apt-get install cpio kmod e2fsprogs)"
done
PATH=$PATH:/sbin:/usr/sbin
busybox=$(command -v busybox) || fail "busybox is missing (Debian: apt-get install busybox-static)"
! ldd "$busybox" >/dev/null 2>&1 || fail "$busybox needs shared libraries; install busybox-static"
python=/usr/bin/python3
[ -x $python ] || python=$(command -v python3) || fail "python3 is missing"

inner_modules="virtio_pci virtio_net virtio_blk virtio_console virtio-rng virtio_balloon vmw_vsock_virtio_transport crc32c_generic ext4 kvm-amd kvm-intel"
outer_modules="kvm-amd kvm-intel tun bridge veth vhost_net vhost_vsock loop ext4 xfs overlay nf_tables"
outer_programs="mke2fs e2fsck debugfs ip"

# Debian has a small kernel for virtual machines; Ubuntu's counterpart splits its modules into a second package.
kernel_packages() {	# kernel_packages META...: those of the first that apt knows
	local meta image
	for meta in "$@"; do
		image=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
		[ -n "$image" ] || continue
		echo "$image"
		apt-cache depends "$image" 2>/dev/null | sed -n 's/.*Depends: \(linux-modules-[0-9].*\)/\1/p'
		return
	done
}
versions_of() { for p in "$@"; do echo "$p=$(apt-cache policy "$p" | sed -n 's/ *Candidate: //p')"; done; }
folder_of() { echo "$cache/kernel-$(echo "$1" | sha256sum | cut -c 1-16)"; }
packages=$(kernel_packages linux-image-cloud-amd64 linux-image-virtual)
[ -n "$packages" ] || fail "apt knows neither linux-image-cloud-amd64 nor linux-image-virtual (apt-get update?)"
full_packages=$(kernel_packages linux-image-amd64 linux-image-generic)
[ -n "$full_packages" ] || fail "apt knows neither linux-image-amd64 nor linux-image-generic (apt-get update?)"
versions=$(versions_of $packages) full_versions=$(versions_of $full_packages)
kernel=$(folder_of "$versions") full_kernel=$(folder_of "$full_versions")
images=$cache/$kind-$({
	echo "$versions $full_versions $inner_modules"
	sha256sum "$here"/guest-* "$here/images.sh" "$busybox"
	[ "$kind" = direct ] || { echo "$outer_modules $outer_programs"; sha256sum "$here"/outer-* "$here/python-files.py" "$(realpath $python)"; }
} | sha256sum | cut -c 1-16)
if [ -e "$images/done" ]; then
	echo "$images"
	exit 0
fi

mkdir -p "$cache"
work=$(mktemp -d "$cache/tmp.XXXXXX")
trap 'rm -rf "$work"' EXIT

release_of() { local v; v=$(basename "$1"/boot/vmlinuz-*); echo "${v#vmlinuz-}"; }	# release_of FOLDER: the kernel's `uname -r`
fetch_kernel() {	# fetch_kernel FOLDER VERSIONS PACKAGE...
	local folder=$1 wanted=$2
	shift 2
	[ ! -e "$folder/done" ] || return 0
	note "downloading" $wanted
	rm -rf "$work/deb" "$work/kernel"
	mkdir "$work/deb" "$work/kernel"
	for p in "$@"; do
		(cd "$work/deb" && apt-get -o APT::Sandbox::User=root download -q "$p" >&2) || fail "cannot download package '$p'"
	done
	for deb in "$work"/deb/*.deb; do dpkg -x "$deb" "$work/kernel"; done
	# busybox's modprobe reads plain modules only
	find "$work/kernel" -name '*.ko.xz' -exec xz -d {} +
	find "$work/kernel" -name '*.ko.zst' -exec zstd -q -d --rm {} +
	# on a merged-/usr system the package may have its modules below /usr
	[ -d "$work/kernel/lib/modules" ] || { mkdir -p "$work/kernel/lib"; mv "$work/kernel/usr/lib/modules" "$work/kernel/lib/"; }
	depmod -b "$work/kernel" "$(release_of "$work/kernel")"
	touch "$work/kernel/done"
	rm -rf "$folder"
	mv "$work/kernel" "$folder"
}
fetch_kernel "$kernel" "$versions" $packages
fetch_kernel "$full_kernel" "$full_versions" $full_packages

tree() {	# tree DIR KERNEL MODULE...: busybox, and the kernel's modules with those that they need
	local dir=$1 kernel=$2 kver module applet file
	kver=$(release_of "$kernel")
	shift 2
	mkdir -p "$dir"/{bin,sbin,dev,proc,sys,tmp,run,mnt,etc} "$dir/lib/modules/$kver"
	cp "$busybox" "$dir/bin/busybox"
	for applet in $("$busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$dir/bin/$applet"; done
	cp "$kernel/lib/modules/$kver"/modules.{builtin,builtin.modinfo,order} "$dir/lib/modules/$kver/"
	for module in "$@"; do
		modprobe -d "$kernel" -S "$kver" --show-depends "$module" > "$work/depends" 2>/dev/null || {
			note "kernel $kver has no module '$module'"
			continue
		}
		while read -r _ file _; do
			case $file in
			"$kernel"/*) mkdir -p "$dir/$(dirname "${file#"$kernel"/}")"; cp "$file" "$dir/${file#"$kernel"/}" ;;
			esac
		done < "$work/depends"
	done
	depmod -b "$dir" "$kver"
}
pack() { (cd "$1" && find . | cpio -o -H newc --quiet) > "$2"; }	# padded to 512 bytes: another archive can follow
with_libraries() {	# with_libraries DIR FILE...: each file at its own path, with its shared libraries
	local dir=$1 file
	shift
	for file in "$@"; do
		{ echo "$file"; ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true; } | while read -r path; do
			[ -e "$dir$path" ] || (cd / && cp -pL --parents "$path" "$dir/")
		done
	done
}

mkdir "$work/images"
cp "$kernel"/boot/vmlinuz-* "$work/images/vmlinuz"
cp "$full_kernel"/boot/vmlinuz-* "$work/images/full-vmlinuz"
cp "$busybox" "$work/images/busybox"
"$python" "$here/extract-vmlinux.py" "$work/images/vmlinuz" "$work/images/vmlinux" || note "no vmlinux: tests with an ELF kernel will be skipped"

guest_image() {	# guest_image KERNEL FILE
	tree "$work/inner" "$1" $inner_modules
	cp "$here/guest-init" "$work/inner/init"
	cp "$here/guest-ask" "$here/guest-work" "$work/inner/bin/"
	chmod 755 "$work/inner/init" "$work/inner/bin"/guest-*
	pack "$work/inner" "$2"
	rm -rf "$work/inner"
}
guest_image "$kernel" "$work/images/inner.img"
guest_image "$full_kernel" "$work/images/full-inner.img"

if [ "$kind" = qemu ]; then
	outer=$work/outer
	tree "$outer" "$kernel" $outer_modules
	cp "$here/outer-init" "$outer/init"
	chmod 755 "$outer/init"
	for p in $outer_programs; do
		path=$(command -v "$p") || { note "no '$p' on this machine, so none in the lab"; continue; }
		rm -f "$outer/bin/$p"
		with_libraries "$outer" "$(realpath "$path")"
		ln -s "$(realpath "$path")" "$outer/bin/$p"
	done
	"$python" -I "$here/python-files.py" > "$work/python"
	with_libraries "$outer" $(cat "$work/python")
	ln -s "$(head -n 1 "$work/python")" "$outer/bin/python3"
	mkdir -p "$outer/lab"
	cp "$work"/images/{,full-}vmlinuz "$work"/images/{,full-}inner.img "$outer/lab/"
	[ ! -e "$work/images/vmlinux" ] || cp "$work/images/vmlinux" "$outer/lab/"
	pack "$outer" "$work/images/outer.img"
fi
touch "$work/images/done"
rm -rf "$images"
mv "$work/images" "$images"
# older images of this kind are of no use any more
for old in "$cache/$kind"-*; do [ "$old" = "$images" ] || rm -rf "$old"; done
for old in "$cache"/kernel-*; do [ "$old" = "$kernel" ] || [ "$old" = "$full_kernel" ] || rm -rf "$old"; done
note "made $images ($(du -sh "$images" | cut -f 1))"
echo "$images"
