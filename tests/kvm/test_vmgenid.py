# SPDX-License-Identifier: Apache-2.0
"""The generation id (--platform vmgenid=on): where ACPI says that it is, another one after each restore, and the event that says so."""
import json
import os
import re

import test_template_host
from forkdtest import Daemon, ForkdTest
from kvmtest import KvmTest, guest, modes, only_forkd, read, wait_for, write

IDS = re.compile(rb"vmgenid: ([0-9a-f]+ [0-9a-f]+)\n")
EVENT = b"events 10, then 0\n"


@only_forkd
class VmGenId(KvmTest):
    def boot_guest(self, *extra):
        probe = self.boot("ticker", "warm=1")
        bars = [r["PciBar"]["base"] for node in probe.get("vm.info")["device_tree"].values() for r in node["resources"]]
        probe.kill()
        ged = (1 << max(bars).bit_length()) - 0x13000                   # below the top of the address space
        vmm = self.boot("devices", f"rounds=0 pause=5 mode=irq dev=rng vmgenid=1 ged={ged:#x}", extra=extra)
        vmm.wait_rounds(2)
        return vmm

    def with_id(self):
        vmm = self.boot_guest("--platform", "vmgenid=on")
        self.assertIn(b"vmgenid: at fe000\n", vmm.output)
        return vmm

    def wait_id(self, output, n=1):
        """The n-th id that the guest tells of."""
        wait_for(f"generation id {n}", lambda: len(IDS.findall(output())) >= n, context=lambda: str(output()[-300:]))
        return IDS.findall(output())[n - 1]

    def test_each_restore_has_its_own(self):
        vmm = self.with_id()
        first = self.wait_id(lambda: vmm.output)
        for _ in range(3):
            vmm.put("vm.pause")
            vmm.put("vm.resume")
            vmm.wait_rounds(2)
        directory = vmm.snapshot(resume=True)
        vmm.wait_rounds(2)
        self.assertEqual(IDS.findall(vmm.output), [first])              # neither a pause nor a snapshot changes it
        self.assertNotIn(b"events", vmm.output)
        self.assertEqual(vmm.get("vm.info")["config"]["platform"]["vmgenid"], True)
        vmm.stop()
        found = {first}
        for mode in modes():
            clone = self.restore(directory, mode)
            found.add(self.wait_id(lambda c=clone: c.output))
            clone.wait_output(EVENT)
            clone.put("vm.pause")
            clone.put("vm.resume")
            clone.wait_rounds(3)
            self.assertEqual((len(IDS.findall(clone.output)), clone.output.count(EVENT)), (1, 1))
            second = clone.snapshot_when_filled()                       # a copy of a copy
            clone.stop()
            again = self.restore(second, mode)
            found.add(self.wait_id(lambda c=again: c.output))
            again.wait_output(EVENT)
            again.stop()
        self.assertEqual(len(found), 1 + 2 * len(modes()))

    def test_reboot(self):
        """The same machine has the same id, unless it is a copy by then."""
        vmm = self.with_id()
        first = self.wait_id(lambda: vmm.output)
        vmm.put("vm.reboot")
        self.assertEqual(self.wait_id(lambda: vmm.output, 2), first)
        directory = vmm.snapshot()
        vmm.stop()
        clone = self.restore(directory)
        second = self.wait_id(lambda: clone.output)
        self.assertNotEqual(second, first)
        clone.put("vm.reboot")
        self.assertEqual(self.wait_id(lambda: clone.output, 2), second)

    def test_clones(self):
        """Each one of a template host, parked or not; and with a resume that comes later."""
        vmm = self.with_id()
        first = self.wait_id(lambda: vmm.output)
        directory = vmm.snapshot()
        vmm.stop()
        found = [first]
        for park in (0, 3):
            host = test_template_host.Host(self, directory, park=park)
            for i in range(4):
                clone = test_template_host.Clone(host, f"c{park}{i}")
                self.assertEqual(clone.restore(resume=i > 0)["state"], "Running" if i > 0 else "Paused")
                if i == 0:
                    clone.ask("resume")
                found.append(self.wait_id(clone.output))
                wait_for("the event", lambda c=clone: EVENT in c.output(), context=lambda c=clone: str(c.output()[-300:]))
        self.assertEqual(len(set(found)), 9, found)

    def test_absent_unless_asked(self):
        """Neither in tables nor in memory, configuration and state; a restore touches nothing."""
        vmm = self.boot_guest()
        self.assertIn(b"vmgenid: at 0\n", vmm.output)
        directory = vmm.snapshot()
        vmm.stop()
        self.assertNotIn("platform", json.loads(read(os.path.join(directory, "config.json"))))
        self.assertNotIn(b"vmgenid", read(os.path.join(directory, "state.json")))
        clone = self.restore(directory)
        clone.wait_rounds(3)
        self.assertNotIn(b"events", clone.output)
        again = clone.snapshot()
        clone.stop()
        for name in (directory, again):
            memory = read(os.path.join(name, "memory-ranges"))
            self.assertNotIn(b"VGEN", memory[0xa0000:0x100000])
            self.assertEqual(memory[0xfe000:0xff000], bytes(0x1000))

    def test_state_that_cannot_be(self):
        """A snapshot of another program, whose place of the id is not known; and places that are none."""
        vmm = self.with_id()
        directory = vmm.snapshot()
        vmm.stop()
        path = os.path.join(directory, "state.json")
        state = json.loads(read(path))
        root = json.loads(state["snapshot_data"]["state"])
        self.assertEqual(root["vmgenid_gpa"], 0xfe000)
        cases = [(None, "state.json does not say where the guest has its id"), (0, "root.vmgenid_gpa: 0 is below 8"),
                 (0xfe004, "root.vmgenid_gpa: 1040388 is not a multiple of 8"), (1 << 40, "generation id"), ((1 << 64) - 8, "generation id")]
        for gpa, message in cases:
            with self.subTest(gpa=gpa):
                changed = {**root, "vmgenid_gpa": gpa}
                if gpa is None:
                    del changed["vmgenid_gpa"]
                state["snapshot_data"]["state"] = json.dumps(changed)
                write(path, json.dumps(state))
                clone = self.start(name=self.unique("clone"))
                answer = clone.call("PUT", "vm.restore", {"source_url": "file://" + directory})
                self.assertGreaterEqual(answer.status, 400)
                self.assertIn(message, " ".join(answer.json))
                clone.stop()


class OfADaemon(ForkdTest):
    def test_template_from_a_vm(self):
        d = Daemon(self)
        vm = {"payload": {"kernel": guest("devices"), "cmdline": "rounds=0 pause=5 dev=rng vmgenid=1"}, "memory": {"size": 64 << 20},
              "cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "platform": {"vmgenid": True}}
        d.must(201, "POST", "/v1/templates", {"name": "t", "vm": vm, "ready": {"serial": "round 2"}})
        clones = d.clone("t", 3)
        d.must(201, "POST", f"/v1/clones/{clones[0]['id']}/snapshot", {"name": "child"})
        clones += d.clone("child", 2)
        for c in clones:
            wait_for("its generation id", lambda c=c: IDS.search(read(c["serial"])), context=lambda c=c: str(read(c["serial"])[-300:]))
        found = [IDS.findall(read(c["serial"])) for c in clones]
        self.assertEqual([len(ids) for ids in found], [1] * 5)
        self.assertEqual(len({ids[0] for ids in found}), 5, found)
