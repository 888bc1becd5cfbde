# SPDX-License-Identifier: Apache-2.0
"""The balloon: memory really goes back to the host, and what comes back is never a byte of the snapshot."""
import json
import os
import time

from kvmtest import FULL, IS_FORKD, MIB, VMM, KvmTest, modes, only_forkd, peer, read, wait_for

BALLOON = "size=0,deflate_on_oom=on,free_page_reporting=on"


class BalloonTest(KvmTest):
    def boot_balloon(self, options="", balloon=BALLOON, program=None, mib=8, strict=1, **more):
        return self.boot("devices", f"rounds=0 dev=balloon balloon={mib} strict={strict} pause=5 {options}", program=program,
                         extra=["--balloon", balloon], **more)

    def resize(self, vmm, mib):
        vmm.put("vm.resize", {"desired_balloon": mib * MIB})

    def actual(self, vmm):
        info = vmm.get("vm.info")
        return info["config"]["memory"]["size"] - info["memory_actual_size"]

    def wait_actual(self, vmm, mib):
        wait_for(f"a balloon of {mib} MiB", lambda: vmm.check_guest() or self.actual(vmm) == mib * MIB, context=vmm.context)

    def rss(self, vmm):
        """Pages of its own, in bytes."""
        with open(f"/proc/{vmm.pid}/status") as f:
            fields = dict(line.split(":", 1) for line in f)
        return int(fields["RssAnon"].split()[0]) * 1024


class Balloon(BalloonTest):
    def test_memory_goes_back(self):
        for balloon in (BALLOON, "size=0"):
            vmm = self.boot_balloon("mode=irq" if balloon is BALLOON else "", balloon, mib=24)
            vmm.wait_rounds(2)
            full = self.rss(vmm)
            self.resize(vmm, 20)
            self.wait_actual(vmm, 20)
            vmm.wait_rounds(2)
            self.assertLess(self.rss(vmm), full - 16 * MIB)
            self.assertEqual(vmm.get("vm.info")["config"]["balloon"]["size"], 20 * MIB)
            self.resize(vmm, 0)
            self.wait_actual(vmm, 0)
            vmm.wait_rounds(3)
            self.assertGreater(self.rss(vmm), full - 4 * MIB)
            vmm.stop()

    def test_size_at_boot(self):
        vmm = self.boot_balloon(balloon="size=4M,id=bal,pci_device_id=9")
        self.wait_actual(vmm, 4)
        tree = vmm.get("vm.info")["device_tree"]
        self.assertEqual(tree["_virtio-pci-bal"]["pci_bdf"], "0000:00:09.0")
        vmm.put("vm.reboot")
        vmm.wait_output(rb"balloon: 1024 pages given", after=len(vmm.output) // 2)
        vmm.stop()

    @only_forkd
    def test_snapshots(self):
        """In every mode: given up before and after the restore, snapshots of what was restored, and of that again."""
        vmm = self.boot_balloon(mib=16)
        self.resize(vmm, 6)
        self.wait_actual(vmm, 6)
        directory = vmm.snapshot()
        vmm.stop()
        for mode in modes():
            for size in (12, 2):
                clone = self.restore(directory, mode)
                self.wait_actual(clone, 6)
                self.resize(clone, size)
                self.wait_actual(clone, size)
                clone.wait_rounds(3)
                wait_for("the memory to be there", lambda: clone.call("PUT", "vm.pause").status == 204)
                again = self.new_dir("snapshot")
                wait_for("a snapshot", lambda: clone.call("PUT", "vm.snapshot", {"destination_url": "file://" + again}).status == 204,
                         context=clone.context)
                clone.put("vm.resume")
                clone.wait_rounds(2)
                clone.stop()
                for second_mode in modes():
                    second = self.restore(again, second_mode)
                    self.wait_actual(second, size)
                    second.wait_rounds(2)
                    self.resize(second, 8)
                    self.wait_actual(second, 8)
                    second.wait_rounds(2)
                    second.stop()

    @only_forkd
    def test_first_round_on_demand(self):
        """Given up while memory is still being fetched."""
        vmm = self.boot_balloon("pause=0", mib=48, memory="96M")
        vmm.wait_rounds(1)
        vmm.put("vm.pause")
        self.resize(vmm, 40)                    # the first that the restored guest sees
        directory = self.new_dir("snapshot")
        vmm.put("vm.snapshot", {"destination_url": "file://" + directory})
        vmm.stop()
        for _ in range(4):
            clone = self.restore(directory, "OnDemand")
            self.wait_actual(clone, 40)
            clone.wait_rounds(2)
            clone.stop()

    @only_forkd
    def test_given_pages_are_not_copied(self):
        """A snapshot of a clone has holes where its guest gave pages up."""
        vmm = self.boot_balloon("mem=1", mib=32)
        vmm.wait_rounds(1)
        directory = vmm.snapshot()
        vmm.stop()
        clone = self.restore(directory, "CopyOnWrite")
        self.resize(clone, 30)
        self.wait_actual(clone, 30)
        again = clone.snapshot()
        clone.stop()
        used = [os.stat(os.path.join(d, "memory-ranges")).st_blocks * 512 for d in (directory, again)]
        self.assertLess(used[1], used[0] - 24 * MIB)

    def test_hostile_guest(self):
        """It may give its own program away, and then does nothing more; the VMM goes on."""
        for seed in range(500, 520 if FULL else 502):
            vmm = self.boot("hostile", f"seed={seed} rounds=0 dev=balloon what=queues check=0", extra=["--balloon", BALLOON])
            vmm.wait_output(rb"hostile: \d+ devices")
            for _ in range(3):
                time.sleep(0.3)
                self.assertEqual(vmm.state(), "Running")
                vmm.put("vm.resize", {"desired_balloon": 3 * MIB})
                vmm.snapshot(resume=True)
            vmm.kill()

    def test_refused(self):
        vmm = self.boot_balloon()
        vmm.wait_rounds(1)
        answer = vmm.call("PUT", "vm.resize", {"desired_vcpus": 2, "desired_balloon": MIB})
        self.assertEqual((answer.status, answer.json), (500, ["Error from API", "The VM could not be resized",
                                                              "Error from CPU manager", "Requested vCPUs exceed maximum"]))
        self.assertEqual(vmm.get("vm.info")["config"]["balloon"]["size"], 0)
        vmm.put("vm.resize", {"desired_vcpus": 1, "desired_ram": 64 * MIB, "desired_balloon": None})
        answer = vmm.call("PUT", "vm.resize", {"desired_ram": 65 * MIB})
        self.assertEqual(answer.json[2:], ["Memory manager error", "The requested hotplug memory addition is not a valid size"])
        answer = vmm.call("PUT", "vm.resize", {"desired_ram": 192 * MIB})
        self.assertEqual(answer.json[2:], ["Memory manager error", "Not enough space in the hotplug RAM region"])
        if IS_FORKD:
            answer = vmm.call("PUT", "vm.resize", {"desired_balloon": 64 * MIB})
            self.assertEqual((answer.status, answer.json[2]), (400, "Balloon size (67108864) greater than RAM (67108864)"))
        vmm.stop()
        vmm = self.boot("devices", "rounds=0 pause=5")
        vmm.wait_rounds(1)
        answer = vmm.call("PUT", "vm.resize", {"desired_balloon": MIB})
        self.assertEqual((answer.status, answer.json[2:]), (500, ["Error from device manager",
                                                                  "Missing virtio-balloon, can't proceed as expected"]))
        vmm.stop()


class Rest(KvmTest):
    """Counters, buttons, disks that change their size."""

    def test_counters(self):
        vmm = self.boot("devices", "rounds=0 pause=5", extra=["--disk", self.disk_option("id=disk0"), self.disk_option()])
        vmm.wait_rounds(2)
        vmm.put("vm.pause")
        counters = vmm.get("vm.counters")
        self.assertEqual(sorted(counters), ["_disk0", "disk0"])
        for disk in counters.values():
            self.assertEqual(sorted(disk), sorted(f"{way}_{what}" for way in ("read", "write") for what in
                                                  ("bytes", "ops", "latency_min", "latency_max", "latency_avg")))
            for way in ("read", "write"):
                self.assertGreater(disk[way + "_ops"], 0)
                self.assertGreater(disk[way + "_bytes"], disk[way + "_ops"] * 511)
                self.assertLessEqual(disk[way + "_latency_min"], disk[way + "_latency_avg"])
                self.assertLessEqual(disk[way + "_latency_avg"], disk[way + "_latency_max"])
        vmm.put("vm.shutdown")
        answer = vmm.call("GET", "vm.counters")
        self.assertEqual((answer.status, answer.json), (500, ["Error from API", "The VM info is not available", "VM is not running"]))
        vmm.stop()

    def test_idle_disk(self):
        vmm = self.boot("ticker", "warm=1 tick=2000000", extra=["--disk", self.disk_option()])
        vmm.wait_bytes(2)
        disk = vmm.get("vm.counters")["_disk0"]
        self.assertEqual((disk["read_latency_min"], disk["read_latency_avg"], disk["write_latency_max"]),
                         (2**64 - 1, 1844674407370955, 2**64 - 1))
        vmm.stop()

    def test_buttons(self):
        vmm = self.boot("devices", "rounds=0 pause=5 cpus=2", cpus=2)
        vmm.wait_rounds(1)
        for name in ("vm.nmi", "vm.power-button"):
            vmm.put(name)
        vmm.wait_rounds(2)
        vmm.put("vm.pause")
        for name in ("vm.nmi", "vm.power-button"):
            vmm.put(name)
        vmm.put("vm.resume")
        vmm.wait_rounds(2)
        vmm.put("vm.shutdown")
        for name, text in (("vm.nmi", "Error triggering NMI"), ("vm.power-button", "Error triggering power button")):
            answer = vmm.call("PUT", name)
            self.assertEqual((answer.status, answer.json), (500, ["Error from API", text, "VM is not running"]))
        vmm.stop()

    def test_power_button(self):
        """The interrupt and the event register of ACPI; also while it is paused, and after a restore."""
        disk = ["--disk", self.disk_option()]
        probe = self.boot("ticker", "warm=1", extra=disk)
        bars = [r["PciBar"]["base"] for node in probe.get("vm.info")["device_tree"].values() for r in node["resources"]]
        probe.kill()
        ged = (1 << max(bars).bit_length()) - 0x13000                   # below the top of the address space
        vmm = self.boot("devices", f"rounds=0 pause=5 mode=irq ged={ged:#x}")
        vmm.wait_rounds(2)
        self.assertNotIn(b"interrupt", vmm.output)
        vmm.put("vm.power-button")
        vmm.wait_output(rb"button: interrupt 1, events 8, then 0\n")
        vmm.put("vm.pause")
        vmm.put("vm.power-button")
        vmm.put("vm.resume")
        vmm.wait_output(rb"button: interrupt 2, events 8, then 0\n")
        vmm.wait_rounds(2)
        self.assertEqual(vmm.output.count(b"button: interrupt"), 2)
        clone = self.restore(vmm.snapshot())
        clone.wait_rounds(2)
        clone.put("vm.power-button")
        clone.wait_output(rb"button: interrupt 3, events 8, then 0\n")
        clone.stop()
        vmm.stop()

    def test_resize_disk(self):
        path = self.disk(8)
        vmm = self.boot("devices", "rounds=0 pause=5 bad=0", extra=["--disk", f"path={path},image_type=raw"])
        vmm.wait_rounds(1)
        vmm.put("vm.resize-disk", {"id": "_disk0", "desired_size": 12 * MIB})
        self.assertEqual(os.stat(path).st_size, 12 * MIB)
        vmm.wait_rounds(2)
        failed = ["Error from API", "The disk could not be resized", "Error from device manager"]
        missing = "Failed to find device corresponding to the given identifier: "
        for disk, size, status, chain in (
                ("other", 4096, 404, [missing + "other"]), ("__rng", 4096, 404, [missing + "__rng"]),
                ("_disk0", 1000, 500, ["Disk resize error", "Disk image size is not a multiple of 512"]),
                ("_disk0", 1 << 63, 500, ["Disk resize error", "Disk resize failed", "I/O error", "Resize failed",
                                          "out of range integral type conversion attempted"])):
            answer = vmm.call("PUT", "vm.resize-disk", {"id": disk, "desired_size": size})
            self.assertEqual((answer.status, answer.json), (status, failed + chain))
        directory = vmm.snapshot()
        self.assertEqual(json.loads(self.saved(directory, "_disk0"))["config"]["capacity"], 12 * 2048)
        vmm.put("vm.shutdown")
        answer = vmm.call("PUT", "vm.resize-disk", {"id": "_disk0", "desired_size": 4096})
        self.assertEqual((answer.status, answer.json[2:]), (500, ["Failed resizing a disk image"]))
        vmm.stop()
        clone = self.restore(directory)
        clone.wait_rounds(2)
        clone.stop()

    def saved(self, directory, device):
        state = json.loads(read(os.path.join(directory, "state.json")))
        return state["snapshots"]["device-manager"]["snapshots"][device]["snapshot_data"]["state"]


@only_forkd
class Peers(BalloonTest):
    def across(self, first, second, second_modes):
        vmm = self.boot_balloon(program=first, mib=16)
        self.resize(vmm, 6)
        self.wait_actual(vmm, 6)
        directory = vmm.snapshot()
        vmm.stop()
        for mode in second_modes:
            clone = self.restore(directory, mode, program=second)
            self.wait_actual(clone, 6)
            self.resize(clone, 12)
            self.wait_actual(clone, 12)
            clone.wait_rounds(2)
            again = clone.snapshot_when_filled()
            clone.stop()
            back = self.restore(again, "Copy", program=first)
            self.wait_actual(back, 12)
            self.resize(back, 1)
            self.wait_actual(back, 1)
            back.wait_rounds(2)
            back.stop()

    def test_ours_there(self):
        self.across(VMM, peer("cloud-hypervisor"), ["Copy"])        # its OnDemand brings the snapshot's bytes back

    def test_theirs_here(self):
        self.across(peer("cloud-hypervisor"), VMM, modes())
