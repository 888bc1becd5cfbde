# SPDX-License-Identifier: Apache-2.0
"""A guest is snapshotted while it writes files and pings; its clones go on without noticing."""
import contextlib
import errno
import itertools
import json
import os
import shutil
import time

from lab import DIR, MAC, RESTORE_VMM, TMP, VMM, ApiError, Skipped, Vm, check, run, test, wait_for

MODES = {"copyonwrite": "CopyOnWrite", "copy": "Copy", "ondemand": "OnDemand"}     # command line: API


class Snapshot:
    """A snapshot directory, the disk as it was at that moment, and what the guest had confirmed by then."""

    def __init__(self, name, cpus, program):
        self.name, self.cpus, self.program = name, cpus, program
        self.dir = os.path.join(TMP, name)
        self.disk = os.path.join(self.dir, "disk")
        os.makedirs(os.path.join(self.dir, "snapshot"))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        shutil.rmtree(self.dir)

    def take(self, prepare="true"):
        """Boots a guest, snapshots it at work, and lets it go on: it must not notice either. It runs the line `prepare` before."""
        with Vm(self.name + "-source") as vm:
            vm.boot(cpus=self.cpus, test="work", program=self.program, tap_by_name=False)
            vm.wait_ready()
            vm.check_work()
            vm.check_devices(self.cpus)
            vm.ping()
            vm.ask(prepare)
            vm.learn_messages()
            vm.clock_ahead = self.clock_ahead = vm.clock_error()
            vm.api("PUT", "vm.pause")
            self.taken_at = time.time()
            self.files = int(vm.wait_serial(r"(?s).*files=(\d+)").group(1))
            vm.api("PUT", "vm.snapshot", {"destination_url": "file://" + os.path.join(self.dir, "snapshot")})
            copy_sparse(vm.disk, self.disk)
            vm.api("PUT", "vm.resume")
            vm.check_work()
            vm.check_clock()
            vm.check_messages()
            vm.power_off()
        for name in ("config.json", "state.json", "memory-ranges"):
            check(os.path.exists(os.path.join(self.dir, "snapshot", name)), f"snapshot has no {name}")

    def for_clone(self, vm):
        """A copy of the snapshot directory and of the disk, for this clone. The directory's URL."""
        copy_sparse(self.disk, vm.disk)
        return snapshot_for(vm, os.path.join(self.dir, "snapshot"))

    def restore_by_api(self, vm, mode):
        """An idle VMM gets the snapshot and the tap through its API socket."""
        url = self.for_clone(vm)
        vm.start(RESTORE_VMM)
        fd = vm.net.tap()
        vm.wait("an answer of the API", lambda: answers(vm), 30)
        vm.api("PUT", "vm.restore", {"source_url": url, "memory_restore_mode": MODES[mode], "resume": True,
                                     "net_fds": [{"id": "net1", "num_fds": 1}]}, fds=[fd])
        vm.net.close_tap()

    def restore_by_command_line(self, vm, mode, program=RESTORE_VMM):
        url = self.for_clone(vm)
        fd = vm.net.tap()
        vm.start(program, "--restore", f"source_url={url},memory_restore_mode={mode},resume=true,net_fds=[net1@[{fd}]]", fds=(fd,))
        vm.net.close_tap()

    def restore_by_ch_remote(self, vm, mode):
        url = self.for_clone(vm)
        vm.start(RESTORE_VMM)
        fd = vm.net.tap()
        vm.wait("an answer of the API", lambda: answers(vm), 30)
        run(os.path.join(DIR, "bin/ch-remote"), "--api-socket", vm.api_path, "restore",
            f"source_url={url},memory_restore_mode={mode},resume=true,net_fds=[net1@[{fd}]]", pass_fds=(fd,))
        vm.net.close_tap()

    def check_clone(self, vm):
        """The clone is the guest that was snapshotted, and has lost nothing."""
        vm.clock_ahead = self.clock_ahead
        vm.wait_serial("lab-guest: beat")
        vm.check_clock()
        files = int(vm.ask("files"))
        check(files >= self.files, f"{vm.name}: {files} files, but {self.files} were confirmed before the snapshot")
        vm.ping()
        vm.check_work()
        check(vm.ask("nproc") == str(self.cpus), f"{vm.name}: {vm.ask('nproc')} processors, not {self.cpus}")
        check("lab-guest: start" not in vm.printed(), f"{vm.name}: was booted, not restored{vm.context()}")
        vm.wait("a line through hvc0", lambda: "beat" in open(vm.hvc0, errors="replace").read(), 60)
        vm.ask("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | md5sum")
        check(MAC in vm.ask("cat /sys/class/net/eth0/address"), f"{vm.name}: another MAC address")
        vm.check_messages()


def snapshot_for(vm, directory):
    """A copy of the snapshot directory whose config.json has this VM's files. The memory is linked, not copied. Its URL."""
    path = os.path.join(vm.dir, "snapshot")
    os.mkdir(path)
    for name in ("state.json", "memory-ranges"):
        os.link(os.path.join(directory, name), os.path.join(path, name))
    with open(os.path.join(directory, "config.json")) as f:
        config = json.load(f)
    config["serial"]["file"] = vm.serial
    if config.get("disks"):
        config["disks"][0]["path"] = vm.disk
    if config["console"]["mode"] == "File":
        config["console"]["file"] = vm.hvc0
    if "vsock" in config:
        config["vsock"]["socket"] = vm.vsock
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    return "file://" + path


def copy_sparse(source, target):
    """Copies without the holes; disks and snapshots are in RAM here."""
    with open(source, "rb") as src, open(target, "wb") as dst:
        end = os.fstat(src.fileno()).st_size
        dst.truncate(end)
        hole = 0
        while hole < end:
            try:
                data = os.lseek(src.fileno(), hole, os.SEEK_DATA)
            except OSError as e:
                if e.errno != errno.ENXIO:
                    raise
                return      # holes up to its end
            hole = os.lseek(src.fileno(), data, os.SEEK_HOLE)
            while data < hole:
                data += os.copy_file_range(src.fileno(), dst.fileno(), hole - data, data, data)


def answers(vm):
    try:
        return vm.api("GET", "vmm.ping")
    except ApiError:
        return None


def no_copyonwrite(mode):
    """Cloud Hypervisor of this version does not know the mode."""
    if mode != "copyonwrite" or "cloud-hypervisor" not in os.path.basename(RESTORE_VMM):
        return
    raise Skipped("cloud-hypervisor has no memory_restore_mode=copyonwrite")


def default_mode():
    return "copy" if "cloud-hypervisor" in os.path.basename(RESTORE_VMM) else "copyonwrite"


def two_clones(name, snapshot, mode_a, mode_b):
    """Two restores of one snapshot run at the same time, each on its own disk and tap."""
    with Vm(name + "-a") as a, Vm(name + "-b") as b:
        snapshot.restore_by_api(a, mode_a)
        snapshot.restore_by_command_line(b, mode_b)
        for vm in (a, b):
            snapshot.check_clone(vm)
        a.ask("echo mine > /mnt/only-a; sync")
        check(b.ask("ls /mnt/only-a 2>&1", may_fail=True) != "/mnt/only-a", "the clones write to the same disk")
        for vm in (a, b):
            vm.ask("verify")
            vm.check_messages()
            vm.power_off()


def one_clone(name, snapshot, mode, restore):
    with Vm(name) as vm:
        restore(vm, mode)
        snapshot.check_clone(vm)
        vm.check_vsock()
        vm.check_balloon()
        vm.power_off()


shared = contextlib.ExitStack()     # the snapshot that the tests of a tier share
taken = {}


def snapshot_of(cpus, program=VMM):
    """The snapshot that this program made of a guest with so many processors; taken at its first use."""
    key = cpus, program
    if key not in taken:
        taken[key] = "failed"
        snapshot = shared.enter_context(Snapshot(f"snapshot-{cpus}cpu-{os.path.basename(program)}", cpus, program))
        snapshot.take()
        taken[key] = snapshot
    check(taken[key] != "failed", "taking the snapshot failed in an earlier test")
    return taken[key]


@test("snapshot-at-work", "quick", "full")
def snapshot_at_work():
    """Pause, snapshot, copy the disk, resume: the guest itself does not notice."""
    snapshot_of(2)


@test("two-clones", "full")          # the quick tier has the clones of "identity"
def two_clones_at_once():
    """The default mode through the API, beside ondemand from the command line. One virtual CPU each: with two, the four of them
    wait for each other on the emulated host's two."""
    two_clones("two-clones", snapshot_of(1), default_mode(), "ondemand")


@test("two-clones-2cpu", "full")
def two_clones_of_two():
    two_clones("two-clones-2cpu", snapshot_of(2), default_mode(), "ondemand")


@test("two-clones-copyonwrite", "full")
def two_clones_copyonwrite():
    no_copyonwrite("copyonwrite")
    two_clones("two-clones-copyonwrite", snapshot_of(2), "copyonwrite", "copyonwrite")


@test("restore-copyonwrite", "quick", "full")
def restore_copyonwrite():
    no_copyonwrite("copyonwrite")
    snapshot = snapshot_of(2)
    one_clone("restore-copyonwrite", snapshot, "copyonwrite", snapshot.restore_by_command_line)


@test("restore-copy", "full")
def restore_copy():
    snapshot = snapshot_of(2)
    one_clone("restore-copy", snapshot, "copy", snapshot.restore_by_command_line)


@test("restore-ondemand", "full")
def restore_ondemand():
    snapshot = snapshot_of(2)
    one_clone("restore-ondemand", snapshot, "ondemand", snapshot.restore_by_api)


@test("clone-1cpu", "full")
def clone_1cpu():
    snapshot = snapshot_of(1)
    one_clone("clone-1cpu", snapshot, default_mode(), snapshot.restore_by_api)


@test("clone-4cpu", "full")
def clone_4cpu():
    snapshot = snapshot_of(4)
    one_clone("clone-4cpu", snapshot, default_mode(), snapshot.restore_by_api)


@test("restore-often", "full")
def restore_often():
    """A guest of four processors that starts processes all the time, restored again and again: for what goes wrong only rarely."""
    snapshot = snapshot_of(4)
    for i, mode in zip(range(30), itertools.cycle((default_mode(), "copy", "ondemand"))):
        with Vm(f"restore-often-{i}") as vm:
            snapshot.restore_by_command_line(vm, mode)
            vm.wait_serial("lab-guest: beat")
            vm.ask("for i in $(seq 6); do (while :; do busybox sh -c 'busybox true | busybox cat'; done) < /dev/null > /dev/null 2>&1 & done")
            snapshot.check_clone(vm)


@test("clone-much-later", "full")
def clone_much_later():
    """Restored a minute after the snapshot: the guest's watchdogs (20 s) must not take that for a hang, and the clock is right."""
    snapshot = snapshot_of(2)
    wait_for("a minute after the snapshot", lambda: time.time() > snapshot.taken_at + 60)
    one_clone("clone-much-later", snapshot, default_mode(), snapshot.restore_by_api)


@test("restore-ch-remote", "full")
def restore_ch_remote():
    """The stock client passes the tap."""
    if not os.path.exists(os.path.join(DIR, "bin/ch-remote")):
        raise Skipped("no ch-remote: FORKD_PEERS is not set")
    snapshot = snapshot_of(2)
    one_clone("restore-ch-remote", snapshot, "copy", snapshot.restore_by_ch_remote)
