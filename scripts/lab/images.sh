#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes what the lab boots, from the distribution's own kernel package (downloaded and unpacked, never installed), and prints the folder
# it is in:
#   vmlinuz vmlinux   the kernel, as bzImage and as ELF (the latter only where its compressor is installed)
#   inner.img         initramfs of the guests under test: busybox, virtio modules, guest-init
#   outer.img         initramfs of the Linux that has /dev/kvm: busybox, kvm modules, e2fsprogs, Python, vmlinuz, inner.img, outer-init
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

inner_modules="virtio_pci virtio_net virtio_blk virtio_console virtio-rng virtio_balloon vmw_vsock_virtio_transport ext4 kvm-amd kvm-intel"
outer_modules="kvm-amd kvm-intel tun bridge veth vhost_net vhost_vsock loop ext4 xfs overlay nf_tables"
outer_programs="mke2fs e2fsck debugfs ip"

# Debian has a small kernel for virtual machines; Ubuntu's counterpart splits its modules into a second package.
kernel_packages() {
	local meta image
	for meta in linux-image-cloud-amd64 linux-image-virtual; do
		image=$(apt-cache depends "$meta" 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
		[ -n "$image" ] || continue
		echo "$image"
		apt-cache depends "$image" 2>/dev/null | sed -n 's/.*Depends: \(linux-modules-[0-9].*\)/\1/p'
		return
	done
}
packages=$(kernel_packages)
[ -n "$packages" ] || fail "apt knows neither linux-image-cloud-amd64 nor linux-image-virtual (apt-get update?)"
versions=$(for p in $packages; do echo "$p=$(apt-cache policy "$p" | sed -n 's/ *Candidate: //p')"; done)

kernel=$cache/kernel-$(echo "$versions" | sha256sum | cut -c 1-16)
images=$cache/$kind-$({
	echo "$versions $inner_modules"
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

if [ ! -e "$kernel/done" ]; then
	note "downloading" $versions
	mkdir "$work/deb" "$work/kernel"
	for p in $packages; do
		(cd "$work/deb" && apt-get -o APT::Sandbox::User=root download -q "$p" >&2) || fail "cannot download package '$p'"
	done
	for deb in "$work"/deb/*.deb; do dpkg -x "$deb" "$work/kernel"; done
	# busybox's modprobe reads plain modules only
	find "$work/kernel" -name '*.ko.xz' -exec xz -d {} +
	find "$work/kernel" -name '*.ko.zst' -exec zstd -q -d --rm {} +
	kver=$(basename "$work"/kernel/boot/vmlinuz-*); kver=${kver#vmlinuz-}
	# on a merged-/usr system the package may have its modules below /usr
	[ -d "$work/kernel/lib/modules" ] || { mkdir -p "$work/kernel/lib"; mv "$work/kernel/usr/lib/modules" "$work/kernel/lib/"; }
	depmod -b "$work/kernel" "$kver"
	touch "$work/kernel/done"
	rm -rf "$kernel"
	mv "$work/kernel" "$kernel"
fi
kver=$(basename "$kernel"/boot/vmlinuz-*); kver=${kver#vmlinuz-}

tree() {	# tree DIR MODULE...: busybox, and the modules with those that they need
	local dir=$1 module applet file
	shift
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
cp "$kernel/boot/vmlinuz-$kver" "$work/images/vmlinuz"
cp "$busybox" "$work/images/busybox"
"$python" "$here/extract-vmlinux.py" "$work/images/vmlinuz" "$work/images/vmlinux" || note "no vmlinux: tests with an ELF kernel will be skipped"

tree "$work/inner" $inner_modules
cp "$here/guest-init" "$work/inner/init"
cp "$here/guest-ask" "$here/guest-work" "$work/inner/bin/"
chmod 755 "$work/inner/init" "$work/inner/bin"/guest-*
pack "$work/inner" "$work/images/inner.img"

if [ "$kind" = qemu ]; then
	outer=$work/outer
	tree "$outer" $outer_modules
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
	cp "$work/images/vmlinuz" "$work/images/inner.img" "$outer/lab/"
	[ ! -e "$work/images/vmlinux" ] || cp "$work/images/vmlinux" "$outer/lab/"
	pack "$outer" "$work/images/outer.img"
fi
touch "$work/images/done"
rm -rf "$images"
mv "$work/images" "$images"
# older images of this kind are of no use any more
for old in "$cache/$kind"-*; do [ "$old" = "$images" ] || rm -rf "$old"; done
for old in "$cache"/kernel-*; do [ "$old" = "$kernel" ] || rm -rf "$old"; done
note "made $images ($(du -sh "$images" | cut -f 1))"
echo "$images"
