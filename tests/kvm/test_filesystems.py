# SPDX-License-Identifier: Apache-2.0
"""Whole programs on file systems that lack something, as NFS, 9p and FUSE do: strace makes the system call fail as it does there."""
import contextlib
import os
import shutil
import subprocess
import unittest
import unittest.mock

import forkdtest
import kvmtest
from forkdtest import Daemon, ForkdTest
from kvmtest import MIB, only_forkd, tmpfs, wait_for, write


def cannot_trace():
    """Why strace is of no use here, or None."""
    if not shutil.which("strace"):
        return "strace is missing: scripts/setup.sh installs it"
    return None if subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], check=False).returncode == 0 else "processes cannot be traced here"


def under_strace(test, program, *faults):
    """A program that is `program` under strace, with its calls failing."""
    path = os.path.join(test.new_dir("strace"), os.path.basename(program))
    names = ",".join(f.split(":")[0] for f in faults)
    injected = " ".join(f"-e inject={f}" for f in faults)
    write(path, f"#!/bin/sh\nexec strace -D -f -qq --seccomp-bpf -o '{path}.log' -e trace={names} {injected} '{program}' \"$@\"\n".encode())
    os.chmod(path, 0o755)
    test.addCleanup(wait_for, "the tracer to end", lambda: not any(path.encode() in kvmtest.read(f"/proc/{pid}/cmdline") for pid in kvmtest.strays()))
    return path


@only_forkd
class FileSystems(ForkdTest):
    def setUp(self):
        super().setUp()
        if why := cannot_trace():
            self.skipTest(why)

    def test_snapshots_of_a_vm(self):
        """Where renameat2() knows no flags, and a directory cannot be locked."""
        for error in ("EBADF", "ENOLCK", "EOPNOTSUPP"):
            with self.subTest(flock=error):
                program = under_strace(self, kvmtest.VMM, "renameat2:error=EINVAL", f"flock:error={error}")
                vmm = self.boot("ticker", "tick=2000000 warm=4", program=program)
                vmm.wait_bytes(3)
                directory = vmm.snapshot()
                self.assertEqual(sorted(os.listdir(directory)), ["config.json", "memory-ranges", "state.json"])
                answer = vmm.call("PUT", "vm.snapshot", {"destination_url": "file://" + directory})
                self.assertEqual(answer.status, 500)
                self.assertIn("File exists", str(answer))
                self.assertEqual(len(os.listdir(directory)), 3)
                vmm.stop()
                self.assertIn("(INJECTED)", kvmtest.read(program + ".log").decode())
                clone = self.restore(directory)
                clone.wait_bytes(3)
                clone.stop()

    def test_a_store(self):
        """The daemon, its template host and the clones: import, and a template that is there already."""
        directory = self.ticker()
        program = under_strace(self, forkdtest.FORKD, "renameat2:error=EINVAL", "flock:error=ENOLCK")
        with unittest.mock.patch.object(forkdtest, "FORKD", program):
            forkd = Daemon(self)
        forkd.template("one", directory)
        self.assertIn("template 'one' exists", forkd.refused(409, "template_exists", "POST", "/v1/templates",
                                                      {"name": "one", "snapshot": "file://" + directory}))
        clones = forkd.clone("one")
        self.wait_ticks(clones)
        forkd.delete(clones)
        forkd.stop()
        injected = [line for line in kvmtest.read(program + ".log").decode().splitlines() if line.endswith("(INJECTED)")]
        for call in ("renameat2", "flock"):
            self.assertTrue([line for line in injected if call in line], call)


def read_guest_memory(pid):
    """Reads all of a VM's RAM as KVM does, through the mappings of its process: memory-ranges and what lies around it. How much it was."""
    runs = []
    with open(f"/proc/{pid}/maps") as f:
        for line in f:
            fields = line.split(maxsplit=5)
            first, last = (int(x, 16) for x in fields[0].split("-"))
            ours = len(fields) > 5 and fields[5].startswith("/") and "memory-ranges" in fields[5]
            if runs and runs[-1][1] == first and fields[1] == "rw-p":
                runs[-1] = (runs[-1][0], last, runs[-1][2] or ours)
            elif fields[1] == "rw-p":
                runs.append((first, last, ours))
    total = 0
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as mem:
        for first, last in [(first, last) for first, last, ours in runs if ours]:
            mem.seek(first)
            while first < last:
                got = len(mem.read(min(MIB, last - first)))
                first, total = first + got, total + got
    return total


@only_forkd
class Tmpfs(ForkdTest):
    """A template in a tmpfs stays as it is, however much of it clones look at."""

    def blocks(self, path):
        return os.stat(os.path.join(path, "memory-ranges")).st_blocks

    def fill(self, directory):
        with open(os.path.join(directory, "fill"), "wb", buffering=0) as f, contextlib.suppress(OSError):
            while f.write(bytes(MIB)):
                pass
        self.assertEqual(os.statvfs(directory).f_bavail, 0)

    def overlay(self, directory):
        """An overlay whose files are in `directory`."""
        lower, upper, work, merged = (os.path.join(directory, n) for n in ("lower", "upper", "work", "merged"))
        for d in (lower, upper, work, merged):
            os.mkdir(d)
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", merged], check=True)
        return merged

    def test_restore(self):
        self.restores(lambda directory: directory)

    def test_restore_from_an_overlay(self):
        self.restores(self.overlay)

    def restores(self, place):
        vmm = self.boot("ticker", "tick=2000000 warm=4")
        vmm.wait_bytes(3)
        mounted = self.new_dir("small")
        with tmpfs(mounted, "48m"):
            small = place(mounted)
            vmm.snapshot(small)
            vmm.stop()
            before = self.blocks(small)
            self.assertLess(before * 512, 24 * MIB)
            self.fill(mounted)
            clone = self.restore(small, "CopyOnWrite")
            clone.wait_bytes(3)
            self.assertGreaterEqual(read_guest_memory(clone.pid), 64 * MIB)
            self.assertEqual(self.blocks(small), before)
            clone.wait_bytes(3)
            again = clone.snapshot()
            self.assertLess(self.blocks(again) * 512, 24 * MIB, "holes that were read became data")
            clone.stop()
        clone = self.restore(again)
        clone.wait_bytes(3)
        clone.stop()

    def test_clones(self):
        directory = self.ticker()
        root = self.new_dir("forkd")
        store = os.path.join(root, "store")
        os.mkdir(store)
        with tmpfs(store, "48m"):
            forkd = Daemon(self, root=root)
            forkd.template("one", directory)
            template = os.path.join(store, "templates", "one")
            before = self.blocks(template)
            self.fill(store)
            clones = forkd.clone("one", 3)
            self.wait_ticks(clones)
            for c in clones:
                self.assertGreaterEqual(read_guest_memory(c["pid"]), 64 * MIB)
            self.wait_ticks(clones)
            self.assertEqual(self.blocks(template), before)
            forkd.delete(clones)
            forkd.stop()
