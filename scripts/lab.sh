#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs test scripts where /dev/kvm can run an unmodified Linux guest.
#
#   scripts/lab.sh [OPTION]... [SCRIPT [ARG]...]...        without SCRIPT: tests/lab/run.py quick
#     -f           the full tier: tests/lab/run.py full
#     -p FILE      one more program to take along (with its shared libraries), on the PATH of the scripts
#     -d FILE      one more data file to take along; scripts find it in $LAB_DIR
#     -o DIR       keep what the scripts leave in $LAB_KEEP (a few MiB at most)
#     -b           only build the images
#   Several scripts are separated by `--`:   scripts/lab.sh tests/lab/run.py boot-1cpu -- my-test.sh 3
#
# Where the processor offers KVM the scripts run right here ("direct"). Elsewhere they run in one QEMU (TCG, with SVM): a Debian kernel,
# the "outer" Linux, has a real /dev/kvm there. The guests that the scripts start are "inner". scripts/lab/images.sh makes both images.
#
# Scripts run as root and find: LAB_DIR (what was taken along, and tests/lab), LAB_TMP (empty, removed afterwards), LAB_KEEP,
# LAB_KERNEL, LAB_VMLINUX, LAB_INITRD (for guests), LAB_FULL_KERNEL, LAB_FULL_INITRD (the distribution's full kernel), LAB_VMM and LAB_RESTORE_VMM (programs under test), LAB_BUSYBOX, LAB_PYTHON.
#
# Environment:
#   VMM, RESTORE_VMM   program under test, and the one that restores (default: the same): a path, or a name in build/ or $FORKD_PEERS
#   FORKD_PEERS        folder with cloud-hypervisor and ch-remote, for comparing; not needed
#   FORKD_LAB          "qemu" or "direct": do not find out
#   FORKD_LAB_CACHE    folder for images (default build/lab)
#   FORKD_LAB_TIMEOUT  seconds that all scripts together may take (default 1500)
#   FORKD_LAB_MEMORY   MiB of RAM for the outer Linux (default 3072)
# Exit status: of the first script that failed; 124: time is up; 125: the lab itself failed.
set -eu
umask 022
root=$(cd "$(dirname "$0")/.." && pwd)
cache=${FORKD_LAB_CACHE:-$root/build/lab}
limit_s=${FORKD_LAB_TIMEOUT:-1500}
hung_s=120
peers=${FORKD_PEERS:-}

fail() { echo "lab: $*" >&2; exit 125; }

only_build=no tier=quick keep_dir= programs=() data=()
while getopts fp:d:o:b opt; do
	case $opt in
	f) tier=full ;;
	p) programs+=("$OPTARG") ;;
	d) data+=("$OPTARG") ;;
	o) keep_dir=$OPTARG ;;
	b) only_build=yes ;;
	*) fail "unknown option; the first lines of $0 explain them" ;;
	esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- "$root/tests/lab/run.py" "$tier"

# A name stands for a program in build/ or among the peers; a path for itself.
find_program() {
	case $1 in
	*/*) [ -x "$1" ] || fail "program '$1': not there, or not executable"; realpath "$1"; return ;;
	esac
	for dir in "$root/build" ${peers:+"$peers"}; do
		[ ! -x "$dir/$1" ] || { realpath "$dir/$1"; return; }
	done
	fail "program '$1': not in $root/build${peers:+ or $peers}"
}

# kvm_intel and kvm_amd are KVM on hardware. Other modules may offer /dev/kvm and yet not run a whole Linux.
lab_kind() {
	case ${FORKD_LAB:-} in
	direct | qemu) echo "$FORKD_LAB" ;;
	"") if [ -w /dev/kvm ] && { [ -d /sys/module/kvm_intel ] || [ -d /sys/module/kvm_amd ]; }; then echo direct; else echo qemu; fi ;;
	*) fail "FORKD_LAB is '$FORKD_LAB', not 'direct' or 'qemu'" ;;
	esac
}

kind=$(lab_kind)
images=$("$root/scripts/lab/images.sh" "$cache" "$kind") || fail "no images, see above"
[ $only_build = no ] || { echo "lab: images are in $images"; exit 0; }

vmm=$(find_program "${VMM:-forkd-vmm}") || exit 125
restore_vmm=$(find_program "${RESTORE_VMM:-$vmm}") || exit 125
for p in forkd forkd-vmm forkd-image forkctl forkd-agent; do [ ! -f "$root/build/$p" ] || programs+=("$root/build/$p"); done
[ -z "$peers" ] || for p in cloud-hypervisor ch-remote; do programs+=("$(find_program "$peers/$p")"); done
programs+=("$vmm" "$restore_vmm")	# last: they may have the name of another

work=$(mktemp -d "${TMPDIR:-/tmp}/forkd-lab.XXXXXX")
runner=
finish() {
	status=$?
	trap - EXIT INT TERM
	[ -z "$runner" ] || { kill "$runner" 2>/dev/null && wait "$runner" 2>/dev/null; } || true
	rm -rf "$work"
	exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# $work/tree/lab is LAB_DIR: programs in bin, the tests, the scripts named on the command line (s1, s2, …), and "plan", which runs them.
lab=$work/tree/lab
mkdir -p "$lab/bin" "$lab/tests"
cp -R "$root/tests/lab/." "$lab/tests/"
for p in "${programs[@]}"; do
	[ -x "$p" ] || fail "program '$p': not there, or not executable"
	cp -L "$p" "$lab/bin/"
done
for d in ${data[@]+"${data[@]}"}; do cp -L "$d" "$lab/" || fail "data file '$d': cannot copy"; done

# The guests' initramfs: the cached one, and behind it the programs that run in guests: the agent, and for the tests their own, which
# `make` alone does not build.
in_guests=("$root/build/forkd-agent")
case "$*" in *"$root/tests/lab/"* | tests/lab/* | *" tests/lab/"*)
	in_guests+=("$root"/build/tests/lab/guest_{vsock,nested,draw,clock})
	mkdir -p "$lab/reseed"
	cp "$root"/guest/reseed/forkd_reseed.py "$root"/guest/reseed/openssl.cnf "$root/build/forkd-rand.so" "$lab/reseed/" ||
		fail "the tests' modules are not built: make test-programs"
esac
mkdir -p "$work/guest/bin"
for p in "${in_guests[@]}"; do
	cp "$p" "$work/guest/bin/" 2>/dev/null || fail "'$p' is not built: make test-programs"
done
(cd "$work/guest" && find . | cpio -o -H newc --quiet) > "$work/guest.img"
cat "$images/inner.img" "$work/guest.img" > "$lab/inner.img"
cat "$images/full-inner.img" "$work/guest.img" > "$lab/full-inner.img"
initrd=$lab/inner.img full_initrd=$lab/full-inner.img

plan() {	# the words of the command line as shell commands; `--` ends one
	local first=yes line= n=0 name path
	for word in "$@" --; do
		if [ "$word" = -- ]; then
			[ -z "$line" ] || printf '%s || { s=$?; [ $status -ne 0 ] || status=$s; }\n' "$line"
			first=yes line=
		elif [ $first = yes ]; then
			[ -f "$word" ] || fail "script '$word': no such file"
			path=$(realpath "$word")
			case $path in
			"$root"/tests/lab/*) name=tests/${path#"$root"/tests/lab/} ;;
			*) n=$((n + 1)) name=s$n/$(basename "$word"); mkdir -p "$lab/s$n"; cp "$word" "$lab/$name" ;;
			esac
			case $name in *.py) line="\"\$LAB_PYTHON\" " ;; *.sh) line="sh " ;; *) line= ;; esac
			line="$line\"\$LAB_DIR/$name\"" first=no
		else
			line="$line $(printf %q "$word")"
		fi
	done
}
{
	printf 'trap "exit 143" TERM\n'	# scripts get SIGTERM too: wait until they have cleaned up
	printf 'cd "$LAB_DIR"\nexport PATH="$LAB_DIR/bin:$PATH" PYTHONDONTWRITEBYTECODE=1\nstatus=0\n'
	printf 'export LAB_VMM="$LAB_DIR/bin/%s" LAB_RESTORE_VMM="$LAB_DIR/bin/%s"\n' "$(basename "$vmm")" "$(basename "$restore_vmm")"
	plan "$@"
	printf 'exit $status\n'
} > "$lab/plan"

run_direct() {
	mkdir "$work/tmp" "$work/keep"
	export LAB_DIR=$lab LAB_TMP=$work/tmp LAB_KEEP=$work/keep LAB_KERNEL=$images/vmlinuz LAB_VMLINUX=$images/vmlinux
	export LAB_FULL_KERNEL=$images/full-vmlinuz LAB_FULL_INITRD=$full_initrd
	export LAB_INITRD=$initrd LAB_BUSYBOX=$images/busybox LAB_PYTHON=${PYTHON:-python3}
	timeout -k 10 "$limit_s" sh "$lab/plan" &
	runner=$!
	wait "$runner" && status=0 || status=$?
	runner=
	[ -z "$keep_dir" ] || { mkdir -p "$keep_dir" && cp -R "$work/keep/." "$keep_dir/"; }
}

# watch_signs QEMU: until it ends; or ends it when the outer Linux, which writes a dot to ttyS1 every few seconds, has hung.
watch_signs() {
	local before=0 now since=$SECONDS
	while sleep 1 && kill -0 "$1" 2>/dev/null; do
		now=$(stat -c %s "$work/status")
		[ "$now" = "$before" ] || before=$now since=$SECONDS
		[ $((SECONDS - since)) -lt "$hung_s" ] && continue
		echo "lab: no sign of life from the outer Linux for $hung_s s" >&2
		kill "$1"
		return
	done
}

# The kernel takes several cpio archives one after another: the cached one, then what is to be tested (also over it). ttyS0 is what the scripts print;
# ttyS1 brings signs of life and the exit status; ttyS2 a tar of LAB_KEEP.
run_qemu() {
	command -v qemu-system-x86_64 >/dev/null || fail "qemu-system-x86_64 is missing (Debian: qemu-system-x86)"
	for f in "$lab"/bin/*; do
		ldd "$f" 2>/dev/null | grep -o '/[^ ]*' | while read -r lib; do
			[ -e "$work/tree$lib" ] || (cd / && cp -L --parents "$lib" "$work/tree/")
		done
	done
	# forkd-image reads names of files as bytes of UTF-8
	[ ! -e /usr/lib/locale/C.utf8/LC_CTYPE ] || (cd / && cp -L --parents usr/lib/locale/C.utf8/LC_CTYPE "$work/tree/")
	(cd "$work/tree" && find . | cpio -o -H newc --quiet) > "$work/tests.img"
	cat "$images/outer.img" "$work/tests.img" > "$work/initrd.img"
	rm -rf "$work/tree" "$work/tests.img"
	: > "$work/status"
	# tsc=reliable: else the outer Linux takes the HPET as its clock; guests are half as fast then, and KVM has no master clock.
	# XSETBV of a guest goes past KVM in QEMU 7.2: Debian's kernel notices ("XSAVE consistency problem") and does without XSAVE, so
	# AVX state is not tested here.
	# -la57: Ubuntu 24.04's kernel as a guest in its QEMU 8.2 resets when it turns five-level paging on.
	# -smp 3 and thread=multi: the scripts have two processors, for with one, guests with several vCPUs spin for each other and get
	# nowhere; outer-init says why not the first.
	timeout -k 10 "$limit_s" qemu-system-x86_64 -M q35 -accel tcg,thread=multi -smp 3 -cpu max,+svm,+npt,-la57 \
		-m "${FORKD_LAB_MEMORY:-3072}" -display none -monitor none -no-reboot -nic none \
		-chardev stdio,id=out,signal=off -serial chardev:out -serial "file:$work/status" -serial "file:$work/keep.tar" \
		-kernel "$images/vmlinuz" -initrd "$work/initrd.img" -append "console=ttyS0 quiet panic=-1 tsc=reliable" </dev/null &
	runner=$!
	watch_signs "$runner" &
	wait "$runner" && status=0 || status=$?
	runner=
	[ $status -ne 124 ] || { echo "lab: time is up: not finished after $limit_s s; the last lines above are all there is" >&2; return; }
	[ $status -eq 0 ] || fail "QEMU ended with status $status"
	status=$(tr -d '.\r\n' < "$work/status")
	case $status in
	"" | *[!0-9]*) fail "the outer Linux ended without a status ('$status'); see its last lines above" ;;
	esac
	[ -z "$keep_dir" ] || { mkdir -p "$keep_dir" && tar -C "$keep_dir" -xzf "$work/keep.tar"; }
}

"run_$kind"
exit "$status"
