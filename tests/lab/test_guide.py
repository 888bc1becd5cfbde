# SPDX-License-Identifier: Apache-2.0
"""The walk of Cloud Hypervisor's snapshot guide: boot from a disk, pause, snapshot, restore, resume; nets by descriptors; config.json
edited by hand. With the stock ch-remote (tier "peers"; it always asks for mode Copy), and with JSON and CopyOnWrite (tier "full")."""
import contextlib
import json
import os
import re
import stat
import struct

from lab import BUSYBOX, DIR, GATEWAY, GUEST, INITRD, KERNEL, VMM, Skipped, Vm, check, run, test
from test_snapshot import answers, copy_sparse

CPUS = 4
RAM_MIB = 256
DISK_BYTES = 96 << 20
PARTITION_AT = 1 << 20
NETS = (("net1", "tap0", GATEWAY, GUEST, "52:54:00:77:00:02"), ("net2", "tap1", "192.168.78.1", "192.168.78.2", "52:54:00:78:00:02"))
FDS = (23, 24, 25, 26)          # the guide's numbers
CH_REMOTE = os.path.join(DIR, "bin/ch-remote")


class Stock:
    """Orders through ch-remote."""

    def send(self, vm, *words, fds=()):
        run(CH_REMOTE, "--api-socket", vm.api_path, *words, pass_fds=fds)

    def snapshot(self, vm, url):
        self.send(vm, "snapshot", url)

    def restore(self, vm, url, nets):
        net_fds = ",".join(f"{name}@[{','.join(map(str, fds))}]" for name, fds in nets.items())
        self.send(vm, "restore", f"source_url={url}" + (f",net_fds=[{net_fds}]" if nets else ""), fds=sum(nets.values(), ()))


class Json:
    """The same orders as JSON, in the mode that ch-remote cannot ask for."""

    def send(self, vm, word):
        vm.api("PUT", "vmm.shutdown" if word == "shutdown-vmm" else "vm." + word)

    def snapshot(self, vm, url):
        vm.api("PUT", "vm.snapshot", {"destination_url": url})

    def restore(self, vm, url, nets):
        vm.api("PUT", "vm.restore", {"source_url": url, "memory_restore_mode": "CopyOnWrite",
                                     "net_fds": [{"id": name, "num_fds": len(fds)} for name, fds in nets.items()]},
               fds=sum(nets.values(), ()))


class GuideVm(Vm):
    """Its root is the disk's first partition, its console is what the VMM prints; there may be no network."""

    mount = "/"
    e2fsck_suffix = f"?offset={PARTITION_AT}"
    always_vsock = True

    def make_disk(self):
        entry = struct.pack("<B3sB3sII", 0, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", PARTITION_AT // 512, (DISK_BYTES - PARTITION_AT) // 512)
        with open(self.disk, "wb") as f:
            f.write(bytes(446) + entry + bytes(48) + b"\x55\xaa")
            f.truncate(DISK_BYTES)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-N", "8192", "-E", f"offset={PARTITION_AT}", self.disk,
            f"{(DISK_BYTES - PARTITION_AT) >> 10}k")

    def step(self, name):
        """The next VMM process of this machine."""
        self.out = self.serial = os.path.join(self.dir, name)

    def boot_as_in_guide(self, nets):
        self.make_disk()
        self.step("booted")
        arguments = [f"id={name},fd=[{','.join(map(str, nets[name]))}],num_queues=4,mac={mac}" for name, _, _, _, mac in NETS if nets]
        self.start(VMM, "--cpus", f"boot={CPUS}", "--memory", f"size={RAM_MIB}M", "--kernel", KERNEL, "--initramfs", INITRD,
                   "--cmdline", f"console=hvc0 root=/dev/vda1 quiet panic=-1 forkd.test=work forkd.ip={GUEST}/24",
                   "--disk", f"path={self.disk}", "--vsock", f"cid=3,socket={self.vsock}",
                   *(["--net", *arguments] if nets else []), fds=sum(nets.values(), ()))

    def check_guest(self):
        check(self.ask("nproc") == str(CPUS), f"{self.name}: {self.ask('nproc')} processors, not {CPUS}")
        check("/dev/vda1 / ext4 rw" in self.ask("cat /proc/mounts"), f"{self.name}: the root is not /dev/vda1")
        self.check_files()
        self.ask("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | md5sum")

    def check_goes_on(self, files):
        """The restored guest is the one that had confirmed so many files."""
        self.wait_serial("lab-guest: beat")
        self.check_clock()
        check(int(self.ask("files")) >= files, f"{self.name}: {self.ask('files')} files, but {files} were confirmed before the snapshot")
        self.check_guest()
        check("lab-guest: start" not in self.printed(), f"{self.name}: was booted, not restored{self.context()}")
        self.check_messages()

    def queues(self):
        """Interrupts that each receive queue of a network card had."""
        found = {}
        for line in self.ask("cat /proc/interrupts").splitlines():
            if match := re.match(r" *\d+:((?: +\d+)+) .*\b(virtio\d+-input\.\d+)", line):
                found[match.group(2)] = sum(map(int, match.group(1).split()))
        return found

    def check_traffic(self):
        """Each processor sends through its own queue of each card; the tap answers on the queue that a flow came from. So packets that
        arrive on every receive queue were sent on every transmit queue."""
        before = self.queues()
        check(len(before) == len(FDS), f"{self.name}: the guest has {len(before)} receive queues, not {len(FDS)}: {before}")

        def on_all():
            for _, _, gateway, _, _ in NETS:
                for cpu in range(CPUS):
                    self.ask(f"taskset {1 << cpu:x} ping -A -c 2 -W 20 {gateway}")
            now = self.queues()
            return all(now[queue] > before[queue] for queue in before)
        self.wait("packets on every queue", on_all)
        with self.net.inside():
            for _, _, _, guest, _ in NETS:
                run(BUSYBOX, "ping", "-A", "-c", "3", "-W", "20", guest)

    def state(self):
        return self.api("GET", "vm.info")["state"]

    def shut_down(self, client):
        client.send(self, "shutdown-vmm")
        status = self.wait_exit()
        check(status == 0, f"{self.name}: the VMM ended with status {status}{self.context()}")


@contextlib.contextmanager
def queues(vm, wanted):
    """Two taps of two queues each, as the descriptors that the guide has; or none. Their MAC addresses are always the same, for a
    restored guest remembers its gateways'."""
    fds = []
    try:
        for i, (_, tap, gateway, _, _) in enumerate(NETS if wanted else ()):
            fds += vm.net.make_tap(tap, gateway, 2)
            with vm.net.inside():
                run(BUSYBOX, "ip", "link", "set", tap, "address", f"52:54:00:77:01:{i:02}")
        for i, number in enumerate(FDS[:len(fds)]):
            os.dup2(fds[i], number, inheritable=False)
            os.close(fds[i])
            fds[i] = number
        yield {"net1": FDS[:2], "net2": FDS[2:]} if wanted else {}
    finally:
        for fd in fds:
            os.close(fd)


def check_snapshot(directory):
    check(sorted(os.listdir(directory)) == ["config.json", "memory-ranges", "state.json"], f"the snapshot has {os.listdir(directory)}")
    for name in os.listdir(directory):
        mode = os.stat(os.path.join(directory, name)).st_mode
        check(mode == stat.S_IFREG | 0o600, f"{name} has mode {mode:o}")
    size = os.stat(os.path.join(directory, "memory-ranges")).st_size
    check(size == RAM_MIB << 20, f"memory-ranges has {size} bytes, RAM {RAM_MIB} MiB")


def edit(vm, directory):
    """A snapshot directory with another disk, vsock socket and console in config.json; what the guest used before is gone."""
    edited = os.path.join(vm.dir, "edited")
    os.mkdir(edited)
    for name in ("state.json", "memory-ranges"):
        os.link(os.path.join(directory, name), os.path.join(edited, name))
    with open(os.path.join(directory, "config.json")) as f:
        config = json.load(f)
    old, vm.disk, vm.vsock, vm.serial = vm.disk, vm.disk + "-2", vm.vsock + "-2", os.path.join(vm.dir, "console-2")
    os.rename(old, vm.disk)
    config["disks"][0]["path"] = vm.disk
    config["vsock"]["socket"] = vm.vsock
    config["console"].update(mode="File", file=vm.serial)
    with open(os.path.join(edited, "config.json"), "w") as f:
        json.dump(config, f)
    return edited


def resume(vm, client):
    """The machine is there and waits; it goes on when it is told to."""
    vm.wait("the state Paused", lambda: vm.state() == "Paused")
    client.send(vm, "resume")
    check(vm.state() == "Running", f"{vm.name}: vm.info says {vm.state()} after resume")


def restore_idle(vm, client, directory, with_nets):
    vm.start(VMM)
    vm.wait("an answer of the API", lambda: answers(vm), 30)
    with queues(vm, with_nets) as nets:
        client.restore(vm, "file://" + directory, nets)
    resume(vm, client)


def take(vm, client, directory, with_nets):
    """Boots the machine and snapshots it at work, into a new directory. Returns how many files it had confirmed."""
    with queues(vm, with_nets) as nets:
        vm.boot_as_in_guide(nets)
    vm.wait_ready()
    if with_nets:
        vm.ask(f"ip addr add {NETS[1][3]}/24 dev eth1; ip link set eth1 up")
        vm.check_traffic()
    vm.check_guest()
    vm.clock_ahead = vm.clock_error()
    vm.learn_messages()
    client.send(vm, "pause")
    check(vm.state() == "Paused", f"{vm.name}: vm.info says {vm.state()} after pause")
    files = int(vm.wait_serial(r"(?s).*files=(\d+)").group(1))
    os.mkdir(directory)
    client.snapshot(vm, "file://" + directory)
    check_snapshot(directory)
    vm.shut_down(client)
    return files


def walk(name, client, with_nets):
    with GuideVm(name) as vm:
        snapshot, disk = os.path.join(vm.dir, "snapshot"), os.path.join(vm.dir, "disk-at-snapshot")
        files = take(vm, client, snapshot, with_nets)
        copy_sparse(vm.disk, disk)

        def check_all():
            vm.check_goes_on(files)
            if with_nets:
                vm.check_traffic()

        if not with_nets:           # by API alone: there they come from ch-remote
            vm.step("restored-by-command-line")
            vm.start(VMM, "--restore", f"source_url=file://{snapshot}")
            resume(vm, client)
            check_all()
            vm.shut_down(client)
            copy_sparse(disk, vm.disk)

        vm.step("restored-by-api")
        restore_idle(vm, client, snapshot, with_nets)
        check_all()
        vm.shut_down(client)

        os.rename(disk, vm.disk)
        vm.step("restored-from-edited")
        restore_idle(vm, client, edit(vm, snapshot), with_nets)
        check_all()
        vm.check_vsock()
        vm.power_off()


def stock():
    if not os.path.exists(CH_REMOTE):
        raise Skipped("no ch-remote: FORKD_PEERS is not set")
    return Stock()


@test("guide", "peers")
def guide():
    walk("guide", stock(), with_nets=False)


@test("guide-nets", "peers")
def guide_nets():
    walk("guide-nets", stock(), with_nets=True)


@test("guide-json", "full")
def guide_json():
    walk("guide-json", Json(), with_nets=False)


@test("guide-json-nets", "full")
def guide_json_nets():
    walk("guide-json-nets", Json(), with_nets=True)
