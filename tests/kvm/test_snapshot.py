# SPDX-License-Identifier: Apache-2.0
"""Snapshots and restores: every mode, every device, every byte."""
import fcntl
import json
import os
import shutil
import time

from kvmtest import FULL, IS_FORKD, MIB, KvmTest, Tap, modes, only_forkd, read, tmpfs, wait_for

FILES = ["config.json", "memory-ranges", "state.json"]


class Snapshot(KvmTest):
    def loop_guest(self, cpus=1, mem=8, memory="64M", options="", extra=(), **more):
        """A guest that checks its memory and its devices for ever."""
        vmm = self.boot("devices", f"rounds=0 cpus={cpus} mem={mem} batches=4 {options}", cpus=cpus, memory=memory, extra=extra,
                        **more)
        vmm.wait_rounds(2)
        return vmm

    def goes_on(self, before, clone, rounds=3):
        """The clone's first round is the next one after what the snapshot has seen."""
        first, last = clone.first_round(rounds), before.rounds()[-1]
        self.assertIn(first, (last + 1, last + 2), "the guest did not go on from where it was")

    def test_files(self):
        vmm = self.boot("ticker", "tick=2000000 warm=4", memory="256M")
        vmm.wait_bytes(5)
        before = vmm.cpu_ticks()
        directory = vmm.snapshot()
        took = vmm.cpu_ticks() - before
        self.assertEqual(vmm.state(), "Paused")
        self.assertEqual(sorted(os.listdir(directory)), FILES)
        for name in FILES:
            self.assertEqual(os.stat(os.path.join(directory, name)).st_mode & 0o7777, 0o600, name)
        text = read(os.path.join(directory, "config.json")).decode()
        config = json.loads(text)
        self.assertEqual(text, json.dumps(config, separators=(",", ":"), ensure_ascii=False), "config.json is not compact")
        self.assertEqual(config["memory"]["size"], 256 * MIB)
        self.assertEqual(config["serial"], {"mode": "Tty"})
        memory = os.stat(os.path.join(directory, "memory-ranges"))
        self.assertEqual(memory.st_size, 256 * MIB)
        if IS_FORKD:
            self.assertLess(memory.st_blocks * 512, 32 * MIB, "memory-ranges is not sparse")
            self.assertLess(took, 500, "ticks of 10 ms")
        state = json.loads(read(os.path.join(directory, "state.json")))
        self.assertEqual(sorted(state["snapshots"]), ["cpu-manager", "device-manager", "memory-manager"])
        seen = len(vmm.all_output())
        time.sleep(0.05)
        self.assertEqual(len(vmm.all_output()), seen)
        vmm.put("vm.resume")
        vmm.wait_bytes(5)
        vmm.stop()

    def test_ticker_counts_on(self):
        """The counter in guest memory, found by comparing two snapshots, is as many ticks on as were printed."""
        vmm = self.boot("ticker", "tick=2000000 warm=0", memory="64M")
        vmm.wait_bytes(30)
        first = vmm.snapshot(resume=True)
        clone = self.restore(first, modes()[-1])
        clone.wait_bytes(300)
        second = clone.snapshot()
        a, b = (read(os.path.join(d, "memory-ranges")) for d in (first, second))
        counters = []
        for page in range(0, len(a), 4096):
            was, now = (int.from_bytes(m[page:page + 8], "little") for m in (a, b))
            if 20 <= was < now < 10000:
                counters.append((was, now))
        clone.stop()
        ticks = len(clone.output)
        self.assertTrue(any(abs(now - was - ticks) <= 1 for was, now in counters), f"{ticks} ticks, changed words {counters}")
        vmm.wait_bytes(10)
        vmm.stop()

    def test_every_mode_and_way(self):
        vmm = self.loop_guest()
        directory = vmm.snapshot()
        vmm.stop()
        for mode in modes():
            for by in ("cmdline", "api"):
                for resume in (True, False):
                    with self.subTest(mode=mode, by=by, resume=resume):
                        clone = self.restore(directory, mode, resume, by)
                        if not resume:
                            wait_for("a paused clone", lambda: clone.state() == "Paused")
                            time.sleep(0.05)
                            self.assertEqual(clone.output, b"")
                            clone.put("vm.resume")
                        self.goes_on(vmm, clone)
                        wait_for("a running clone", lambda: clone.state() == "Running")
                        clone.stop()
        for by in ("cmdline", "api"):
            with self.subTest(prefault=by):
                clone = self.restore(directory, "Copy", by=by, prefault=True)
                self.goes_on(vmm, clone)
                clone.stop()
        if IS_FORKD:
            clone = self.restore(directory, by="cmdline")       # no mode: copyonwrite
            self.goes_on(vmm, clone)
            with open(f"/proc/{clone.pid}/maps") as f:
                self.assertIn("memory-ranges", f.read())
            clone.stop()

    def test_prefault_only_with_copy(self):
        vmm = self.boot("ticker", "tick=2000000 warm=1")
        directory = vmm.snapshot()
        vmm.stop()
        for mode in modes()[1:]:
            clone = self.start()
            answer = clone.call("PUT", "vm.restore", {"source_url": "file://" + directory, "memory_restore_mode": mode,
                                                      "prefault": True})
            self.assertEqual(answer.status, 400, mode)
            self.assertIn("prefault", answer.json[-1])
            clone.put("vm.restore", {"source_url": "file://" + directory, "resume": True})
            clone.wait_bytes(3)
            clone.stop()

    def many(self, n, cpus, irq, mode, devices):
        """n restores of one snapshot; each clone has a disk and a tap of its own and finds every byte right."""
        disk, extra, fds = self.disk(4), [], ()
        if devices:
            tap = Tap(self)
            fds = tap.fds
            extra = ["--disk", f"id=disk0,path={disk},image_type=raw,num_queues={cpus}",
                     "--net", f"id=net0,fd=[{tap.fds[0]}],num_queues=2", "--console", "null"]
        vmm = self.loop_guest(cpus, 8, options=f"mode={'irq' if irq else 'poll'} sectors=1024 split=odd", extra=extra, pass_fds=fds)
        first = vmm.snapshot()
        vmm.stop()
        if devices:
            tap.close()
        for _ in range(n):
            if devices:
                self.one_of_many(vmm, first, disk, mode)
            else:
                clone = self.restore(first, mode)
                self.goes_on(vmm, clone, 2)
                clone.kill()

    def one_of_many(self, vmm, first, disk, mode):
        mine, tap = self.clone_disk(disk), Tap(self)
        copy = self.copy_snapshot(first, lambda c: c["disks"][0].update(path=mine))
        clone = self.restore(copy, mode, net_fds=[{"id": "net0", "num_fds": 1}], fds=tap.fds)
        self.goes_on(vmm, clone, 2)
        clone.kill()
        tap.close()
        shutil.rmtree(copy)
        for path in (mine, clone.stderr_path, clone.socket):
            os.unlink(path)

    def test_many_restores_1_cpu(self):
        for mode in modes():
            self.many(200 if FULL else 10, 1, False, mode, True)

    def test_many_restores_2_cpus_interrupts(self):
        for mode in modes():
            self.many(200 if FULL else 10, 2, True, mode, True)

    def test_many_restores_1_cpu_interrupts(self):
        self.many(200 if FULL else 10, 1, True, modes()[-1], True)

    def test_many_restores_2_cpus_memory_only(self):
        self.many(200 if FULL else 20, 2, False, modes()[-1], False)

    def test_generations(self):
        """A snapshot of a clone of a clone … needs none of its ancestors."""
        disk = self.disk(4)
        vmm = self.loop_guest(2, 16, options="mode=irq sectors=1024", extra=["--disk", f"path={disk},image_type=raw"])
        directory = vmm.snapshot()
        vmm.stop()
        before = vmm
        for n in range(12 if FULL else 4):
            mode = modes()[::-1][n % len(modes())] if n else modes()[-1]
            clone = self.restore(directory, mode)
            self.goes_on(before, clone, 4)
            if mode == "OnDemand":          # refused until all memory is there
                clone.put("vm.pause")
                older, directory = directory, self.new_dir("snapshot")
                wait_for("a snapshot after an on-demand restore", lambda: clone.call(
                    "PUT", "vm.snapshot", {"destination_url": "file://" + directory}).status == 204, context=clone.context)
            else:
                older, directory = directory, clone.snapshot()
            clone.stop()
            shutil.rmtree(older)
            before = clone

    def test_clone_sees_nothing_of_its_siblings(self):
        vmm = self.loop_guest(1, 16)
        directory = vmm.snapshot()
        vmm.stop()
        was = read(os.path.join(directory, "memory-ranges"))
        clones = [self.restore(directory, modes()[-1]) for _ in range(4)]
        for clone in clones:
            self.goes_on(vmm, clone, 5)
        for clone in clones:
            clone.stop()
        self.assertEqual(was == read(os.path.join(directory, "memory-ranges")), True, "the template's memory changed")

    def test_8_gib_of_sparse_ram(self):
        vmm = self.boot("devices", "rounds=0 mem=16", memory="8G", cpus=2)
        vmm.wait_rounds(2)
        if not IS_FORKD:
            self.skipTest("Cloud Hypervisor writes all 8 GiB")
        vmm.put("vm.pause")
        directory = self.new_dir("snapshot")
        before = vmm.cpu_ticks()
        vmm.put("vm.snapshot", {"destination_url": "file://" + directory})
        self.assertLess(vmm.cpu_ticks() - before, 500, "ticks of 10 ms for a snapshot of 8 GiB that are hardly used")
        memory = os.stat(os.path.join(directory, "memory-ranges"))
        self.assertEqual(memory.st_size, 8 << 30)
        self.assertLess(memory.st_blocks * 512, 64 * MIB)
        vmm.stop()
        for mode in modes():
            clone = self.restore(directory, mode)
            self.goes_on(vmm, clone)
            self.assertLess(clone.cpu_ticks(), 1000, f"ticks of 10 ms, {mode}")
            clone.kill()

    def test_snapshot_while_running(self):
        vmm = self.boot("ticker", "tick=2000000 warm=1")
        vmm.wait_bytes(2)
        answer = vmm.call("PUT", "vm.snapshot", {"destination_url": "file://" + self.new_dir("snapshot")})
        self.assertEqual((answer.status, answer.json[-1]), (500, "Trying to snapshot while VM is running"))
        self.assertEqual(os.listdir(self.path("snapshot1")), [])
        vmm.wait_bytes(2)
        vmm.stop()

    def fails(self, vmm, url, last, status=500):
        answer = vmm.call("PUT", "vm.snapshot", {"destination_url": url})
        self.assertEqual(answer.status, status, answer)
        self.assertEqual(answer.json[:2], ["Error from API", "The VM could not be snapshotted"])
        self.assertIn(last, answer.json[-1])

    def test_bad_destinations(self):
        vmm = self.boot("ticker", "tick=2000000 warm=1")
        vmm.wait_bytes(2)
        vmm.put("vm.pause")
        self.fails(vmm, "file://" + self.path("missing"), "Destination is not a directory")
        self.assertFalse(os.path.exists(self.path("missing")))
        self.fails(vmm, "file://" + vmm.stderr_path, "Destination is not a directory")
        self.fails(vmm, self.dir, "Could not extract path from URL")
        for name in FILES:
            directory = self.new_dir("taken")
            with open(os.path.join(directory, name), "w") as f:
                f.write("precious")
            self.fails(vmm, "file://" + directory, "File exists")
            self.assertEqual(read(os.path.join(directory, name)), b"precious")
            if IS_FORKD:
                self.assertEqual(os.listdir(directory), [name], "a partial file is left")
        directory = self.new_dir("other")
        with open(os.path.join(directory, "notes.txt"), "w") as f:
            f.write("unrelated")
        vmm.put("vm.snapshot", {"destination_url": "file://" + directory})
        self.assertEqual(sorted(os.listdir(directory)), sorted([*FILES, "notes.txt"]))
        vmm.put("vm.resume")
        vmm.wait_bytes(3)
        vmm.stop()

    @only_forkd
    def test_disk_full(self):
        vmm = self.boot("ticker", "tick=2000000 warm=32")
        vmm.wait_bytes(2)
        vmm.put("vm.pause")
        small = self.new_dir("small")
        for kib in (0, 4, 64, 4096):
            # the VMM is in our mount namespace and sees what we mount
            with tmpfs(small, f"{kib}k" if kib else "4k"):
                if kib == 0:
                    with open(os.path.join(small, "fill"), "wb") as f:
                        f.write(bytes(4096))
                was = os.listdir(small)
                self.fails(vmm, "file://" + small, "No space left on device")
                self.assertEqual(os.listdir(small), was, "a partial file is left")
        directory = self.new_dir("snapshot")
        vmm.put("vm.snapshot", {"destination_url": "file://" + directory})
        vmm.put("vm.resume")
        vmm.wait_bytes(2)
        vmm.stop()
        clone = self.restore(directory, modes()[-1])
        clone.wait_bytes(2)
        clone.stop()

    def test_restore_needs_an_empty_vmm(self):
        vmm = self.boot("ticker", "tick=2000000 warm=1")
        directory = vmm.snapshot()
        answer = vmm.call("PUT", "vm.restore", {"source_url": "file://" + directory})
        self.assertEqual((answer.status, answer.json[-1]), (500, "VM is already created"))
        vmm.put("vm.delete")
        vmm.put("vm.restore", {"source_url": "file://" + directory, "resume": True})
        seen = len(vmm.output)
        wait_for("ticks", lambda: len(vmm.output) > seen + 3)
        vmm.stop()

    def test_many_restores_in_one_vmm(self):
        """Nothing of one machine gets in the way of the next in the same process."""
        disk, tap = self.disk(4), Tap(self, persistent=True)
        vmm = self.loop_guest(2, 2, options="sectors=512 mode=irq", extra=[
            "--disk", f"path={disk},image_type=raw", "--net", f"tap={tap.name}", "--console", "null"])
        directory = vmm.snapshot()
        vmm.stop()
        clone = self.start(name="clone")
        fds = None
        for n in range(100 if FULL else 15):
            copy = self.copy_snapshot(directory, lambda c: c["disks"][0].update(path=self.clone_disk(disk)))
            mode = modes()[n % len(modes())]
            for resume in (False, True):
                seen = len(clone.output)
                clone.put("vm.restore", {"source_url": "file://" + copy, "resume": resume, "memory_restore_mode": mode})
                if resume:
                    found = clone.wait_output(rb"round (\d+) ok[^$]*round", seen)
                    self.assertIn(int(found.group(1)), (vmm.rounds()[-1] + 1, vmm.rounds()[-1] + 2))
                clone.put("vm.delete")
                wait_for("the disk's lock", lambda: unlocked(copy), 5)
            fds = fds or clone.n_fds()
            wait_for("descriptors to be closed", lambda: clone.n_fds() <= fds, 5)
        clone.stop()

    def test_reset_of_a_clone_boots_again(self):
        vmm = self.loop_guest(options="")
        directory = vmm.snapshot()
        vmm.stop()
        clone = self.restore(directory, modes()[-1])
        self.goes_on(vmm, clone)
        clone.put("vm.reboot")
        clone.wait_output(rb"devices: cpus[^$]*round 3 ok")
        clone.stop()

    def test_console_echo_across_a_snapshot(self):
        """What is typed before and after comes back once and in order."""
        vmm = self.boot("devices", "rounds=0 dev=console pause=1 mode=irq", extra=["--serial", "null", "--console", "tty"],
                        terminal=True)
        vmm.wait_output(rb"console ready")
        vmm.type(b"before-")
        vmm.wait_output(rb"before-")
        directory = vmm.snapshot()
        vmm.stop()
        for mode in modes():
            clone = self.restore(directory, mode, terminal=True)
            clone.type(b"after.")
            clone.wait_output(rb"after\.")
            self.assertEqual(clone.output, b"after.")
            clone.stop()


def unlocked(directory):
    """Can the disk of this snapshot be locked?"""
    path = json.loads(read(os.path.join(directory, "config.json")))["disks"][0]["path"]
    with open(path, "rb+") as f:
        try:
            fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
