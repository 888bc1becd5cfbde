# SPDX-License-Identifier: Apache-2.0
"""A guest that does its worst: the VMM neither crashes nor hangs nor reports, and the devices work after a reset.

Meant for a sanitizer build: FORKD_VMM=build/asan/forkd-vmm.
"""
import collections
import re

from kvmtest import FULL, KvmTest, Tap, read, wait_for


class Hostile(KvmTest):
    def attack(self, seed, rounds, options="", cpus=1):
        tap = Tap(self, queues=cpus, echo=False)
        vmm = self.boot("hostile", f"seed={seed} rounds={rounds} {options}", cpus=cpus, extra=[
            "--disk", self.disk_option(f"num_queues={cpus}"), self.disk_option("readonly=on"),
            "--net", f"fd=[{','.join(map(str, tap.fds))}],num_queues={2 * cpus}", "--console", "null",
            "--vsock", f"cid=3,socket={self.path(self.unique('vsock'))}"], pass_fds=tap.fds)
        try:
            status = vmm.wait_exit(240)
            self.assertEqual(status, 0, vmm.context())
            self.assertIn(b"hostile done", vmm.output, vmm.context())
            vmm.release()
        except AssertionError as e:
            raise AssertionError(f"seed {seed}, options '{options}': {e}") from None
        finally:
            tap.close()

    def test_seeds(self):
        for seed in range(1, 41 if FULL else 4):
            self.attack(seed, 5 if FULL else 2)

    def test_moving_bars(self):
        for seed in range(100, 110 if FULL else 102):
            self.attack(seed, 2, "bar=1")

    def test_two_queues(self):
        for seed in range(200, 210 if FULL else 201):
            self.attack(seed, 2, "", 2)

    def test_ports_that_end_it(self):
        """Any end is fine, but a clean one."""
        for seed in range(300, 320 if FULL else 303):
            vmm = self.boot("hostile", f"seed={seed} rounds=1 fatal=1 what=ports", extra=["--disk", self.disk_option()])
            vmm.wait_output(rb"hostile: \d+ devices")
            try:
                vmm.wait_exit(5)
                self.assertEqual(vmm.process.returncode, 0, vmm.context())
                vmm.release()
            except AssertionError as e:
                if vmm.process.poll() is not None:
                    raise AssertionError(f"seed {seed}: {e}") from None
                vmm.stop()                              # it reboots again and again: also fine

    def test_snapshot_of_a_hostile_guest(self):
        """Whatever the guest did to its devices: a snapshot of it restores, or is refused; nothing breaks."""
        for seed in range(400, 420 if FULL else 403):
            vmm = self.boot("hostile", f"seed={seed} rounds=0 check=0", extra=["--disk", self.disk_option()])
            vmm.wait_output(rb"hostile: \d+ devices")
            directory = None
            for _ in range(5):
                vmm.put("vm.pause")
                directory = self.new_dir("snapshot")
                vmm.put("vm.snapshot", {"destination_url": "file://" + directory})
                vmm.put("vm.resume")
            vmm.stop()
            clone = self.start(name="clone")
            answer = clone.call("PUT", "vm.restore", {"source_url": "file://" + directory, "resume": True})
            self.assertIn(answer.status, (204, 400, 500), f"seed {seed}: {answer}")
            if answer.status == 204:
                clone.wait_output(rb"round \d+ ok", 0, 240)
            clone.stop()

    def test_log_of_a_guest_that_resets(self):
        """It breaks each ring, moves BARs and resets the machine, again and again: no line of code fills the log."""
        log, events = self.path("log"), self.path("events")
        resets = 40
        vmm = self.boot("hostile", "rounds=1 dev=rng bar=1 what=bars,queues check=0 end=reset",
                        extra=["-vv", "--log-file", log, "--event-monitor", f"path={events}"])
        wait_for(f"{resets} resets", lambda: read(events).count(b'"rebooted"') >= resets, context=vmm.context)
        vmm.stop()
        lines = re.findall(rb": <\w+> [A-Z]+:(\S+:\d+) -- ", read(log))
        # The API's lines are the client's. The more times, the rarer: 16, and one for each doubling after that.
        often = {where.decode(): n for where, n in collections.Counter(lines).items() if n > 16 + 8 and b"vmm/api/" not in where}
        self.assertEqual(often, {})
        self.assertTrue(any(b"virtio/virtio.c" in where for where in lines), "no ring was broken")
