# SPDX-License-Identifier: Apache-2.0
"""Devices that come to a running machine and go: API, guest (which drives them), snapshots in between."""
import fcntl
import json
import os
import struct
import subprocess

from forkdtest import ForkdTest
from kvmtest import FULL, IS_FORKD, MIB, VMM, KvmTest, Tap, call, guest, modes, only_forkd, peer, read, wait_for

TOP_RESERVED, BLOCK = 0x10000, 0x1000          # where ACPI's register blocks are, below the top of the address space


class Hotplug(KvmTest):
    bits = None

    def registers(self):
        """The guest options that say where ACPI's PCI hot-plug and event registers are."""
        if Hotplug.bits is None:
            probe = self.boot("ticker", "warm=1")
            bars = [r["PciBar"]["base"] for node in probe.get("vm.info")["device_tree"].values() for r in node["resources"]]
            probe.kill()
            Hotplug.bits = max(bars).bit_length()
        pci = (1 << Hotplug.bits) - TOP_RESERVED - BLOCK
        return f"hotplug={pci:#x} ged={pci - 2 * BLOCK:#x}"

    def machine(self, options="", cpus=1, **more):
        return self.boot("devices", f"rounds=0 pause=5 mode=irq batches=4 bad=0 cpus={cpus} {self.registers()} {options}",
                         cpus=cpus, **more)

    def add(self, vmm, kind, **config):
        """Adds it, and waits until the guest drives it; returns (id, slot)."""
        after = len(vmm.output)
        answer = vmm.put(f"vm.add-{kind}", config, status=200)
        self.assertEqual(sorted(answer), ["bdf", "id"])
        slot = int(answer["bdf"][8:10], 16)
        self.assertEqual(answer["bdf"], f"0000:00:{slot:02x}.0")
        vmm.wait_output(rb"hotplug: up %x down 0\n" % (1 << slot), after)
        vmm.wait_output(rb"found \w+ slot %d " % slot, after)
        vmm.wait_rounds(1)
        return answer["id"], slot

    def remove(self, vmm, name, slot):
        after = len(vmm.output)
        vmm.put("vm.remove-device", {"id": name})
        vmm.wait_output(rb"hotplug: up 0 down %x\n" % (1 << slot), after)
        vmm.wait_output(rb"slot %d ejected, id 10[0-9a-f]{2}1af4, then ffffffff\n" % slot, after)
        wait_for("the end of the device", lambda: name not in vmm.get("vm.info")["device_tree"], context=vmm.context)
        vmm.wait_rounds(1)

    def raw(self, path):
        return {"path": path, "image_type": "Raw"}

    def is_locked(self, path):
        with open(path, "r+b") as f:
            try:
                fcntl.fcntl(f, 37, struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))      # F_OFD_SETLK
            except BlockingIOError:
                return True
        return False

    def open_taps(self, vmm):
        folder = f"/proc/{vmm.pid}/fd"
        return sum(os.readlink(os.path.join(folder, fd)) == "/dev/net/tun" for fd in os.listdir(folder))

    def with_own_disks(self, directory):
        return self.copy_snapshot(directory, lambda c: [d.update(path=self.clone_disk(d["path"])) for d in c["disks"]])

    def bars(self, vmm):
        return {k: (v["pci_bdf"], v["resources"]) for k, v in vmm.get("vm.info")["device_tree"].items() if "pci_bdf" in v}


class ComesAndGoes(Hotplug):
    def test_disk(self):
        """Slot, BAR, interrupt, registers; then all of it again and again: nothing is left behind."""
        events = self.path("events")
        vmm = self.machine("dev=blk", extra=["--disk", self.disk_option(), "--event-monitor", f"path={events}"])
        vmm.wait_rounds(2)
        path = self.disk()
        name, slot = self.add(vmm, "disk", **self.raw(path))
        self.assertEqual((name, slot), ("_disk1", 3))                   # behind the first disk and rng
        vmm.wait_output(rb"button: interrupt 1, events 4, then 0\n")
        info = vmm.get("vm.info")
        self.assertEqual([d["id"] for d in info["config"]["disks"]], ["_disk0", "_disk1"])
        resources = info["device_tree"]["_virtio-pci-_disk1"]["resources"]
        self.assertEqual(resources[0]["PciBar"]["type_"], "Mmio64")       # though a disk's BAR is low when it boots with it
        self.assertTrue(self.is_locked(path))
        self.remove(vmm, name, slot)
        self.assertFalse(self.is_locked(path))
        self.remove(vmm, "_disk0", 1)                                   # one that it booted with
        self.assertEqual(vmm.get("vm.info")["config"]["disks"], [])
        before = vmm.n_fds()
        for n in range(12):
            name, again = self.add(vmm, "disk", id=f"d{n}" if n % 2 else None, **self.raw(path))
            self.assertEqual(again, 1)                                  # the first that is free
            self.assertEqual(vmm.get("vm.info")["device_tree"][f"_virtio-pci-{name}"]["resources"], resources)
            self.remove(vmm, name, again)
        wait_for("the descriptors of gone devices to be closed", lambda: vmm.n_fds() <= before, 5, vmm.context)
        removed = [e for e in self.events(events) if e["event"] == "device-removed"]
        self.assertEqual(len(removed), 14)
        self.assertEqual((removed[0]["source"], removed[0]["properties"]), ("vm", {"id": "_disk1", "bdf": "0000:00:03.0"}))
        vmm.stop()

    def events(self, path):
        with open(path) as f:
            return [json.loads(e) for e in f.read().split("\n\n") if e.strip()]

    def test_net(self):
        """By name, by descriptors; traffic on both."""
        vmm = self.machine("dev=net", cpus=2)
        vmm.wait_rounds(1)
        named, passed = Tap(self, persistent=True), Tap(self, queues=2)
        a = self.add(vmm, "net", tap=named.name)
        answer = vmm.put("vm.add-net", {"id": "two", "num_queues": 4}, passed.fds, status=200)
        passed.close_fds()
        vmm.wait_output(rb"found net slot %d " % int(answer["bdf"][8:10], 16))
        vmm.wait_rounds(3)
        nets = {n["id"]: n for n in vmm.get("vm.info")["config"]["net"]}
        self.assertEqual(len(nets["two"]["fds"]), 2)
        self.assertEqual(nets[a[0]]["tap"], named.name)
        self.remove(vmm, "two", int(answer["bdf"][8:10], 16))
        if IS_FORKD:                                                    # else it keeps those that came
            self.assertEqual(self.open_taps(vmm), 1)
        self.remove(vmm, *a)
        self.add(vmm, "net", tap=named.name)                            # nobody holds it
        vmm.stop()

    def test_vsock(self):
        vmm = self.machine("dev=vsock")
        vmm.wait_rounds(1)
        path = self.path("vsock")
        for n in range(3):
            name, slot = self.add(vmm, "vsock", cid=3 + n, socket=path)
            self.assertTrue(os.path.exists(path))
            self.remove(vmm, name, slot)
            self.assertFalse(os.path.exists(path))
        vmm.stop()

    def test_while_paused(self):
        """Both wait for the guest; several at once come as one map of slots."""
        vmm = self.machine(extra=["--disk", self.disk_option()])
        vmm.wait_rounds(1)
        vmm.put("vm.pause")
        for n in range(3):
            vmm.put("vm.add-disk", {"id": f"d{n}", **self.raw(self.disk())}, status=200)
        vmm.put("vm.remove-device", {"id": "_disk0"})
        vmm.put("vm.resume")
        vmm.wait_output(rb"hotplug: up 38 down 2\n")
        vmm.wait_output(rb"slot 1 ejected")
        vmm.wait_rounds(2)
        self.assertEqual(len(self.bars(vmm)), 4)
        vmm.stop()

    def test_every_slot(self):
        vmm = self.machine("dev=none")
        vmm.wait_rounds(1)
        path = self.disk()
        for slot in range(2, 32):
            answer = vmm.put("vm.add-disk", {"readonly": True, **self.raw(path)}, status=200)
            self.assertEqual(answer["bdf"], f"0000:00:{slot:02x}.0")
        full = ["Error from device manager", "Failed to find an available PCI device ID",
                "Could not find an available device slot on the PCI bus"]
        for kind, config in (("disk", self.raw(self.disk())), ("net", {}), ("vsock", {"cid": 3, "socket": self.path("v")})):
            answer = vmm.call("PUT", f"vm.add-{kind}", config)
            self.assertEqual((answer.status, answer.json[2:]), (500, full))
        self.assertEqual(len(vmm.get("vm.info")["config"]["disks"]), 30)
        vmm.kill()

    def test_guest_that_never_ejects(self):
        """Asked for again and again it stays, and so does its name; the configuration has forgotten it."""
        vmm = self.machine("eject=0", extra=["--disk", self.disk_option()])
        vmm.wait_rounds(1)
        for _ in range(2):
            after = len(vmm.output)
            vmm.put("vm.remove-device", {"id": "_disk0"})
            vmm.wait_output(rb"hotplug: up 0 down 2\n", after)
        self.assertEqual(vmm.get("vm.info")["config"]["disks"], [])
        self.assertIn("_virtio-pci-_disk0", vmm.get("vm.info")["device_tree"])
        answer = vmm.call("PUT", "vm.add-disk", {"id": "_disk0", **self.raw(self.disk())})
        self.assertEqual((answer.status, answer.json[2:]),
                         (500, ["Error from device manager", "Invalid identifier as it is not unique: _disk0"]))
        vmm.put("vm.reboot")                                            # now it is gone
        vmm.wait_output(rb"(?s)devices: cpus.*devices: cpus.*round 2 ok")
        self.assertEqual(sorted(self.bars(vmm)), ["_virtio-pci-__rng"])
        vmm.stop()

    def test_thrown_out(self):
        """A guest may eject a disk that nobody asked for: it is there again after a reboot. Not rng (here)."""
        vmm = self.machine("dev=blk throw=0xfffffffc", extra=["--disk", self.disk_option(), self.disk_option()])
        vmm.wait_output(rb"slot 31 ejected, id ffffffff")
        vmm.wait_rounds(2)
        self.assertEqual([d["id"] for d in vmm.get("vm.info")["config"]["disks"]], ["_disk0", "_disk1"])
        left = ["_virtio-pci-__rng", "_virtio-pci-_disk0"] if IS_FORKD else ["_virtio-pci-_disk0"]
        wait_for("the end of the devices", lambda: sorted(self.bars(vmm)) == left, context=vmm.context)
        if IS_FORKD:                                                    # else config.json says more than state.json
            directory = vmm.snapshot(resume=True)
            with open(os.path.join(directory, "config.json")) as f:
                self.assertEqual([d["id"] for d in json.load(f)["disks"]], ["_disk0"])
        self.add(vmm, "disk", id="new", **self.raw(self.disk()))
        vmm.put("vm.reboot")
        vmm.wait_output(rb"(?s)devices: cpus.*devices: cpus.*slot 31 ejected.*round 2 ok")
        self.assertEqual(vmm.output.count(b"slot 3 ejected, id 10421af4"), 1)
        vmm.stop()


class Configuration(Hotplug):
    """Before the machine runs: its configuration only."""
    failed = {"disk": "The disk could not be added to the VM", "net": "The network device could not be added to the VM",
              "vsock": "The vsock device could not be added to the VM"}

    def config(self):
        return {"cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 64 * MIB}, "console": {"mode": "Off"},
                "payload": {"kernel": guest("devices"), "cmdline": "rounds=0 pause=5 dev=blk bad=0"},
                "serial": {"mode": "Tty"}}

    def refused(self, vmm, kind, config, status, *chain):
        answer = vmm.call("PUT", f"vm.add-{kind}", config)
        self.assertEqual((answer.status, answer.json), (status, ["Error from API", self.failed[kind], *chain]))

    def test_created(self):
        vmm = self.start()
        for kind, config in (("disk", {"path": "/d"}), ("net", {}), ("vsock", {"cid": 3, "socket": "/s"})):
            self.refused(vmm, kind, config, 404, "VM is not created")
        gone = "The device could not be removed from the VM"
        self.assertEqual(vmm.call("PUT", "vm.remove-device", {"id": "x"}).json, ["Error from API", gone, "VM is not created"])
        vmm.put("vm.create", self.config())
        path = self.disk()
        vmm.put("vm.add-disk", {"path": "/nonexistent", "id": "wrong"})
        vmm.put("vm.add-disk", self.raw(path))
        vmm.put("vm.add-disk", {"id": "mine", **self.raw(self.disk())})
        vmm.put("vm.add-net", {"id": "n1", "fds": [99]})
        vmm.put("vm.add-vsock", {"cid": 3, "socket": self.path("vsock")})
        check = "Failed to validate config"
        self.refused(vmm, "disk", {"id": "mine", "path": "/d"}, 409, check, "Identifier mine is not unique")
        self.refused(vmm, "net", {"id": "mine"}, 409, check, "Identifier mine is not unique")
        self.refused(vmm, "disk", {"id": "__x", "path": "/d"}, 400, check, "Identifier __x is not valid")
        self.refused(vmm, "disk", {"num_queues": 2, "path": "/d"}, 400, check, "Queue count (2) must not exceed boot vCPUs (1)")
        self.refused(vmm, "net", {"num_queues": 1}, 400, check, "Number of queues (1) to virtio_net should be higher than 2")
        self.refused(vmm, "vsock", {"cid": 4, "socket": "/s"}, 500, "Too many virtio-vsock devices")
        answer = vmm.call("PUT", "vm.remove-device", {"id": "_disk1"})   # it has no name yet
        self.assertEqual((answer.status, answer.json), (404, ["Error from API", gone, 'No device with id "_disk1" to remove']))
        vmm.put("vm.remove-device", {"id": "wrong"})
        vmm.put("vm.remove-device", {"id": "n1"})
        info = vmm.get("vm.info")
        self.assertEqual([d.get("id") for d in info["config"]["disks"]], [None, "mine"])
        self.assertEqual(info["config"]["net"], [])
        self.assertNotIn("device_tree", info)
        vmm.put("vm.boot")
        vmm.wait_rounds(1)
        self.assertEqual(sorted(self.bars(vmm)), ["_virtio-pci-__rng", "_virtio-pci-_disk0", "_virtio-pci-_vsock1",
                                                  "_virtio-pci-mine"])
        vmm.stop()

    def test_refused_while_running(self):
        """Nothing of what is refused stays: no name, no lock, no descriptor."""
        vmm = self.start()
        vmm.put("vm.create", self.config())
        vmm.put("vm.boot")
        vmm.wait_rounds(1)
        path, machine = self.disk(), "Error from device manager"
        first = vmm.put("vm.add-disk", {"pci_device_id": 9, **self.raw(path)}, status=200)
        self.assertEqual(first, {"id": "_disk0", "bdf": "0000:00:09.0"})
        tree, before, free = self.bars(vmm), vmm.n_fds(), self.disk()
        self.refused(vmm, "disk", self.raw(path), 500, machine, "Cannot lock images of all block devices",
                     f"Failed to get Write lock for disk image: {path}", "The file is already locked")
        self.refused(vmm, "disk", {"id": "_disk0", "path": free}, 409, "Failed to validate config",
                     "Identifier _disk0 is not unique")
        self.refused(vmm, "disk", {"pci_device_id": 9, "path": free}, 500, machine,
                     "Failed to find an available PCI device ID", "Valid PCI device identifier but already used: 9")
        answer = vmm.call("PUT", "vm.add-disk", {"path": "/nonexistent"})
        self.assertEqual((answer.status, answer.json[2]), (500, machine))
        for name, status, why in (
                ("x", 404, "Failed to find device corresponding to the given identifier: x"),
                ("__rng", 500, "Not allowed to remove this type of device from the VM: rng"),
                ("_virtio-pci-__rng", 500, "Not allowed to remove this type of device from the VM: rng"),
                ("__serial", 500, "Could not find the node in the device tree")):
            answer = vmm.call("PUT", "vm.remove-device", {"id": name})
            self.assertEqual((answer.status, answer.json), (status, ["Error from API",
                             "The device could not be removed from the VM", machine, why]))
        self.assertEqual(self.bars(vmm), tree)
        self.assertEqual([d["id"] for d in vmm.get("vm.info")["config"]["disks"]], ["_disk0"])
        if IS_FORKD:
            wait_for("the descriptors to be closed", lambda: vmm.n_fds() <= before, 5, vmm.context)
            self.assertFalse(self.is_locked(free))
        self.assertEqual(vmm.put("vm.add-net", {}, status=200)["bdf"], "0000:00:02.0")
        vmm.stop()


class Snapshots(Hotplug):
    def test_same_places(self):
        """What was plugged in is where it was, in every mode; what is free is given out again."""
        disks = [self.disk() for _ in range(4)]
        vmm = self.machine("mem=4", cpus=2, extra=["--disk", f"path={disks[0]},image_type=raw"])
        vmm.wait_rounds(1)
        for n in (1, 2, 3):
            self.add(vmm, "disk", id=f"d{n}", **self.raw(disks[n]))
        self.remove(vmm, "_disk0", 1)
        self.remove(vmm, "d2", 4)                                       # slots 2 rng, 3 d1, 5 d3
        places, last = self.bars(vmm), vmm.rounds()[-1]
        directory = vmm.snapshot()
        vmm.stop()
        last = vmm.rounds()[-1]
        for mode in modes():
            clone = self.restore(self.with_own_disks(directory), mode)
            self.assertIn(clone.first_round(3), (last + 1, last + 2))
            self.assertEqual(self.bars(clone), places)
            name, slot = self.add(clone, "disk", **self.raw(self.disk()))
            self.assertEqual((name, slot), ("_disk1", 1))                # the counter went on
            name, slot = self.add(clone, "disk", **self.raw(self.disk()))
            self.assertEqual(slot, 4)
            self.remove(clone, "d1", 3)
            places_now, again = self.bars(clone), clone.snapshot()
            clone.stop()
            clone = self.restore(again, mode)
            clone.wait_rounds(2)
            self.assertEqual(self.bars(clone), places_now)
            clone.stop()

    @only_forkd
    def test_what_the_guest_did_not_see(self):
        """Added or asked to go while it is paused: a guest that is restored hears of it; Cloud Hypervisor forgets it."""
        disks = [self.disk() for _ in range(3)]
        vmm = self.machine(extra=["--disk", *(f"path={d},image_type=raw" for d in disks[:2])])
        vmm.wait_rounds(1)
        vmm.put("vm.pause")
        vmm.put("vm.add-disk", {"id": "late", **self.raw(disks[2])}, status=200)
        vmm.put("vm.remove-device", {"id": "_disk0"})
        directory = self.new_dir("snapshot")
        vmm.put("vm.snapshot", {"destination_url": "file://" + directory})
        vmm.stop()
        with open(os.path.join(directory, "state.json")) as f:
            self.assertTrue('\\"hotplug\\":{' in f.read(), "what to tell is not in state.json")
        with open(os.path.join(directory, "config.json")) as f:         # all that the guest has; the one to go comes last
            self.assertEqual([d["id"] for d in json.load(f)["disks"]], ["_disk1", "late", "_disk0"])
        paused = self.restore(directory, resume=False)
        self.assertEqual([d["id"] for d in paused.get("vm.info")["config"]["disks"]], ["_disk1", "late"])
        second = self.new_dir("snapshot")                               # still not seen
        paused.put("vm.snapshot", {"destination_url": "file://" + second})
        paused.stop()
        for d in (directory, second):
            clone = self.restore(self.with_own_disks(d))
            clone.wait_output(rb"button: interrupt 1, events 4, then 0\n")
            clone.wait_output(rb"hotplug: up 10 down 2\n")
            clone.wait_output(rb"slot 1 ejected, id 10421af4, then ffffffff")
            clone.wait_rounds(2)
            self.assertEqual(sorted(self.bars(clone)), ["_virtio-pci-__rng", "_virtio-pci-_disk1", "_virtio-pci-late"])
            clone.stop()
        seen = self.machine(extra=["--disk", *(f"path={d},image_type=raw" for d in disks[:2])])
        seen.wait_rounds(1)
        self.add(seen, "disk", id="late", **self.raw(disks[2]))
        directory = seen.snapshot()
        seen.stop()
        with open(os.path.join(directory, "state.json")) as f:
            self.assertFalse('\\"hotplug\\":' in f.read(), "there was nothing to tell")
        clone = self.restore(directory)
        clone.wait_rounds(2)
        self.assertNotIn(b"hotplug: up", clone.output)
        clone.stop()

    def test_net_and_vsock(self):
        """Named tap, passed descriptors (new ones on restore), vsock: all added later."""
        named, passed = Tap(self, persistent=True), Tap(self, queues=2)
        vmm = self.machine(cpus=2)
        vmm.wait_rounds(1)
        self.add(vmm, "net", tap=named.name)
        vmm.put("vm.add-net", {"id": "two", "num_queues": 4}, passed.fds, status=200)
        passed.close_fds()
        vmm.wait_output(rb"found net slot 3 ")
        self.add(vmm, "vsock", cid=5, socket=self.path("vsock"))
        vmm.wait_rounds(2)
        places = self.bars(vmm)
        directory = vmm.snapshot()
        vmm.stop()
        passed = Tap(self, queues=2)
        clone = self.restore(directory, net_fds=[{"id": "two", "num_fds": 2}], fds=passed.fds)
        passed.close_fds()
        clone.wait_rounds(3)
        self.assertEqual(self.bars(clone), places)
        self.remove(clone, "two", int(places["_virtio-pci-two"][0][8:10], 16))
        clone.stop()


@only_forkd
class Peers(Hotplug):
    """A snapshot with plugged-in devices goes on under the other program, and comes back."""

    def across(self, first, second, second_modes):
        disks = [self.disk() for _ in range(3)]
        vmm = self.machine("mem=4", cpus=2, program=first, extra=["--disk", f"path={disks[0]},image_type=raw"])
        vmm.wait_rounds(1)
        self.add(vmm, "disk", **self.raw(disks[1]))
        self.add(vmm, "disk", id="mine", pci_device_id=9, **self.raw(disks[2]))
        self.remove(vmm, "_disk0", 1)
        places, directory = self.bars(vmm), vmm.snapshot()
        vmm.stop()
        last = vmm.rounds()[-1]
        for mode in second_modes:
            clone = self.restore(self.with_own_disks(directory), mode, program=second)
            self.assertIn(clone.first_round(3), (last + 1, last + 2))
            self.assertEqual(self.bars(clone), places)
            self.assertEqual(self.add(clone, "disk", **self.raw(self.disk())), ("_disk2", 1))
            self.remove(clone, "mine", 9)
            now, again = self.bars(clone), clone.snapshot_when_filled()
            clone.stop()
            back = self.restore(again, "Copy", program=first)
            back.wait_rounds(3)
            self.assertEqual(self.bars(back), now)
            back.stop()

    def test_ours_there(self):
        self.across(VMM, peer("cloud-hypervisor"), ["Copy", "OnDemand"])

    def test_theirs_here(self):
        self.across(peer("cloud-hypervisor"), VMM, modes())

    def test_ch_remote(self):
        def remote(*args, fds=()):
            done = subprocess.run([peer("ch-remote"), "--api-socket", vmm.socket, *args], capture_output=True, text=True,
                                  timeout=60, pass_fds=fds)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout

        peer("ch-remote")
        vmm, tap = self.machine(), Tap(self)
        vmm.wait_rounds(1)
        self.assertEqual(json.loads(remote("add-disk", f"path={self.disk()},image_type=raw")),
                         {"id": "_disk0", "bdf": "0000:00:02.0"})
        self.assertEqual(json.loads(remote("add-net", f"id=n1,fd=[{tap.fds[0]}]", fds=tap.fds)),
                         {"id": "n1", "bdf": "0000:00:03.0"})
        tap.close_fds()
        remote("add-vsock", f"cid=3,socket={self.path('vsock')}")
        vmm.wait_output(rb"found vsock slot 4 ")
        vmm.wait_rounds(2)
        for name in ("_disk0", "n1", "_vsock1"):
            self.assertEqual(remote("remove-device", name), "")
        wait_for("the end of the devices", lambda: list(self.bars(vmm)) == ["_virtio-pci-__rng"], context=vmm.context)
        vmm.wait_rounds(1)
        vmm.stop()

    def test_ours_there_not_seen(self):
        """What the other program does not know in our state.json it leaves alone."""
        vmm = self.machine(extra=["--disk", self.disk_option()])
        vmm.wait_rounds(1)
        vmm.put("vm.pause")
        vmm.put("vm.add-disk", self.raw(self.disk()), status=200)
        directory = self.new_dir("snapshot")
        vmm.put("vm.snapshot", {"destination_url": "file://" + directory})
        vmm.stop()
        clone = self.restore(directory, "Copy", program=peer("cloud-hypervisor"))
        clone.wait_rounds(2)
        self.assertIn("_virtio-pci-_disk1", self.bars(clone))
        clone.stop()


class Hostile(Hotplug):
    """Ejects all it can, with every other register attacked too, while devices come and go."""

    def attack(self, seed, options="", rounds=12):
        vmm = self.boot("hostile", f"seed={seed} rounds=0 {self.registers()} {options}",
                        extra=["--disk", self.disk_option(), "--net", "id=net0"])
        vmm.wait_output(rb"hostile: \d+ devices")
        disks, added = [self.disk() for _ in range(3)], 0
        for n in range(rounds):
            for kind, config in (("disk", self.raw(disks[n % 3])), ("net", {}), ("vsock", {"cid": 3, "socket": self.path("v")})):
                added += vmm.call("PUT", f"vm.add-{kind}", {"id": f"{kind}{n}", **config}).status == 200
            for kind in ("disk", "net", "vsock"):
                vmm.call("PUT", "vm.remove-device", {"id": f"{kind}{n}"})
            if n % 4 == 3:
                vmm.put("vm.pause")
                vmm.put("vm.snapshot", {"destination_url": "file://" + self.new_dir("snapshot")})
                vmm.put("vm.resume")
            vmm.wait_output(rb"round \d+ ok", len(vmm.output))
        self.assertGreater(added, rounds)
        vmm.stop()

    @only_forkd
    def test_hostile(self):
        for seed in range(1, 10 if FULL else 2):
            self.attack(seed, "check=0 what=config,bars dev=blk,net", 12 if FULL else 5)
        for seed in range(20, 30 if FULL else 21):
            self.attack(seed, "check=0 throw=1 what=config,bars,queues dev=blk,net", 12 if FULL else 4)


@only_forkd
class Clones(ForkdTest, Hotplug):
    """Machines of forkd: what was plugged in before the snapshot is theirs; they open nothing by name."""

    def wait_serial(self, clone, what):
        wait_for(f"{what!r} on the serial port", lambda: what in read(clone["serial"]),
                 context=lambda: f": {read(clone['serial'])[-500:]!r}")

    def test_clones(self):
        path = self.disk()
        vmm = self.machine("dev=blk")
        vmm.wait_rounds(1)
        self.add(vmm, "disk", id="gone", **self.raw(self.disk()))
        self.add(vmm, "disk", id="mine", readonly=True, **self.raw(path))
        self.remove(vmm, "gone", 2)
        daemon = self.daemon_of(vmm)
        clone = daemon.clone("t")[0]
        info = call(clone["api_socket"], "GET", "vm.info").json
        self.assertEqual(info["device_tree"]["_virtio-pci-mine"]["pci_bdf"], "0000:00:03.0")
        for kind, config in (("disk", self.raw(path)), ("net", {}), ("net", {"tap": "t0"}), ("vsock", {"cid": 3, "socket": "v"})):
            answer = call(clone["api_socket"], "PUT", f"vm.add-{kind}", config)
            self.assertEqual(answer.status, 500, answer)
            self.assertIn("a clone opens no files or taps by name", answer.json[-1])
        tap = Tap(self, echo=False)
        answer = call(clone["api_socket"], "PUT", "vm.add-net", {"id": "net0"}, tap.fds)
        self.assertEqual((answer.status, answer.json), (200, {"id": "net0", "bdf": "0000:00:02.0"}))
        self.wait_serial(clone, b"found net slot 2 ")
        daemon.must(201, "POST", f"/v1/clones/{clone['id']}/snapshot", {"name": "child"})
        child = daemon.clone("child")[0]
        self.assertEqual([n["id"] for n in child["net"]], ["net0"])       # with a tap of its own
        answer = call(child["api_socket"], "PUT", "vm.remove-device", {"id": "net0"})
        self.assertEqual(answer.status, 204, answer)
        self.wait_serial(child, b"slot 2 ejected, id 10411af4, then ffffffff")
        self.wait_serial(child, b"ok\nround ")
        daemon.delete([clone, child])
