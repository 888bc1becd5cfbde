# SPDX-License-Identifier: Apache-2.0
"""Snapshots cross between Cloud Hypervisor and forkd-vmm, and become clones of forkd, with many kinds of machines (FORKD_PEERS)."""
import json
import os
import re

from forkdtest import Daemon, ForkdTest
from kvmtest import VMM, Tap, modes, only_forkd, peer, read, wait_for
from test_vsock import EchoServer

# Each machine: what it has. disks and nets are options behind path= and tap=; PATHS fills in what belongs to one VM.
MACHINES = {
    "bare, 128 MiB": dict(memory="128M", guest="dev=rng"),
    "one small disk, short queue": dict(memory="128M", disks=["queue_size=16"]),
    "long queues, indirect chains": dict(memory="256M", disks=["queue_size=1024"], nets=["queue_size=1024"], guest="indirect=1"),
    "two vCPUs, interrupts, a queue each": dict(cpus=2, memory="512M", disks=["num_queues=2"], nets=["num_queues=4"], guest="mode=irq"),
    "four vCPUs, four queues": dict(cpus=4, memory="1G", disks=["num_queues=4,queue_size=64"], nets=["num_queues=8"], guest="event=1"),
    "three disks, ids given and not": dict(cpus=2, memory="256M", disks=["id=root", "", "id=_disk7,serial=abc123,num_queues=2"]),
    "devices in slots of their own": dict(memory="192M", disks=["pci_device_id=20", ""], nets=["pci_device_id=11,id=net1", ""]),
    "a MAC address, an MTU, a host MAC": dict(memory="128M", nets=["mac=02:00:00:00:00:07,mtu=3000", "mac=02:00:00:00:00:08"]),
    "everything": dict(cpus=2, memory="768M", disks=["id=a", "id=b,readonly=on"], nets=[""], vsock="cid=17,id=vs", console=True,
                       balloon="size=0,deflate_on_oom=on,free_page_reporting=on,id=bal", rng="src=/dev/urandom",
                       guest="mode=irq dev=blk,net,rng,console,balloon,vsock streams=2 vsock_bytes=50000"),
    "idle devices": dict(memory="128M", disks=[""], nets=[""], vsock="cid=3", balloon="size=0", guest="dev=blk"),
    "up to the hole": dict(memory="3G", disks=[""]),
    "a page over the hole": dict(memory="3074M", disks=[""]),
    "5 GiB, memory on both sides": dict(cpus=2, memory="5G", disks=["num_queues=2"], nets=[""], guest="mode=irq"),
}


@only_forkd
class Across(ForkdTest):
    def machine(self, program, cpus=1, memory="128M", disks=(), nets=(), vsock=None, balloon=None, rng=None, console=False, guest=""):
        extra, self.files, self.taps = [], [], []
        if disks:
            self.files = [self.disk() for _ in disks]
            extra += ["--disk", *[",".join(filter(None, [f"path={p}", "image_type=raw", o])) for p, o in zip(self.files, disks)]]
        if nets:
            self.taps = [Tap(self, queues=2 if "num_queues=4" in o else 4 if "num_queues=8" in o else 1, persistent=True) for o in nets]
            extra += ["--net", *[",".join(filter(None, [f"tap={t.name}", o])) for t, o in zip(self.taps, nets)]]
        if vsock:
            path = self.path(self.unique("vsock"))
            EchoServer(self, path)
            extra += ["--vsock", f"{vsock},socket={path}"]
        for name, value in (("--balloon", balloon), ("--rng", rng), ("--console", "null" if console else None)):
            extra += [name, value] if value else []
        vmm = self.boot("devices", f"rounds=0 cpus={cpus} mem=8 batches=4 {guest}", cpus=cpus, memory=memory, program=program, extra=extra)
        vmm.wait_rounds(2)
        return vmm

    def own_copy(self, directory):
        """The snapshot with disks and a vsock socket of its own; the persistent taps are free again."""
        def edit(config):
            for disk in config.get("disks") or []:
                disk["path"] = self.clone_disk(disk["path"])
            if config.get("vsock"):
                config["vsock"]["socket"] = self.path(self.unique("vsock"))
                EchoServer(self, config["vsock"]["socket"])
        return self.copy_snapshot(directory, edit)

    def goes_on(self, directory, last, program, mode):
        clone = self.restore(self.own_copy(directory), mode, program=program)
        self.assertIn(clone.first_round(3), (last + 1, last + 2))
        self.assertEqual(len(clone.get("vm.info")["device_tree"]), self.n_devices)
        return clone

    def across(self, first, second, modes, **machine):
        vmm = self.machine(first, **machine)
        self.n_devices = len(vmm.get("vm.info")["device_tree"])
        directory = vmm.snapshot()
        vmm.stop()
        last = vmm.rounds()[-1]
        for mode in modes:
            clone = self.goes_on(directory, last, second, mode)
            again = clone.snapshot_when_filled()
            clone.stop()
            after = clone.rounds()[-1]
        self.goes_on(again, after, first, "Copy").stop()            # and back
        return directory

    def clones(self, directory):
        """Cloud Hypervisor's snapshot as a template: 8 clones at once, then 50 in turn, each on disks of its own."""
        disks = json.loads(read(os.path.join(directory, "config.json"))).get("disks") or []
        d = Daemon(self)
        d.template("theirs", directory)

        def make(n):
            specs = [{"overrides": {"disks": [{"id": k["id"], "path": self.clone_disk(k["path"])} for k in disks]}} for _ in range(n)]
            found = d.must(201, "POST", "/v1/templates/theirs/clones", {"clones": specs})["clones"]
            for c in found:
                wait_for("two rounds", lambda c=c: len(re.findall(rb"round \d+ ok", read(c["serial"]))) >= 2,
                         context=lambda c=c: f" ({c}): {read(c['serial'])[-300:]!r}")
                self.assertNotIn(b"FAIL", read(c["serial"]))
            d.delete(found)
        make(8)
        for _ in range(50):
            make(1)

    def test_theirs_here(self):
        theirs = peer("cloud-hypervisor")
        for name, machine in MACHINES.items():
            with self.subTest(machine=name):
                self.across(theirs, VMM, modes(), **machine)

    def test_clones_of_theirs(self):
        """The nets of these guests are idle: each clone has a tap of its own, on which nobody answers."""
        theirs = peer("cloud-hypervisor")
        for machine in (dict(disks=["id=root", ""], nets=[""], balloon="size=0", guest="dev=blk,rng"),
                        dict(cpus=2, memory="5G", disks=["num_queues=2"], guest="mode=irq")):
            with self.subTest(machine=machine):
                vmm = self.machine(theirs, **machine)
                directory = vmm.snapshot()
                vmm.stop()
                self.clones(directory)

    def test_ours_there(self):
        theirs = peer("cloud-hypervisor")
        for name, machine in MACHINES.items():
            with self.subTest(machine=name):
                self.across(VMM, theirs, ["Copy"], **machine)
