# SPDX-License-Identifier: Apache-2.0
"""Devices that come to a running machine and go: API, guest (which drives them), snapshots in between."""
import fcntl
import json
import os
import struct

from kvmtest import IS_FORKD, MIB, KvmTest, Tap, modes, only_forkd, wait_for

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

    def bars(self, vmm):
        return {k: (v["pci_bdf"], v["resources"]) for k, v in vmm.get("vm.info")["device_tree"].items() if "pci_bdf" in v}


class ComesAndGoes(Hotplug):
    def test_disk(self):
        """Slot, BAR, interrupt, registers; then all of it again and again: nothing is left behind."""
        events = self.path("events")
        vmm = self.machine(extra=["--disk", self.disk_option(), "--event-monitor", f"path={events}"])
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
        self.assertEqual(vmm.n_fds(), before)
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
        before = vmm.n_fds()
        self.remove(vmm, "two", int(answer["bdf"][8:10], 16))
        self.assertEqual(vmm.n_fds(), before - 4 if IS_FORKD else vmm.n_fds())    # the two, and what the device made of them
        self.remove(vmm, *a)
        again = Tap(self, queues=1)
        again.close()
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
        for kind, config in (("disk", self.raw(path)), ("net", {}), ("vsock", {"cid": 3, "socket": self.path("v")})):
            answer = vmm.call("PUT", f"vm.add-{kind}", config)
            self.assertEqual((answer.status, answer.json[2:]), (500, full))
        self.assertEqual(len(vmm.get("vm.info")["config"]["disks"]), 30)
        vmm.kill()
