# SPDX-License-Identifier: Apache-2.0
"""Whole programs on file systems that lack something, as NFS, 9p and FUSE do: strace makes the system call fail as it does there."""
import os
import shutil
import subprocess
import unittest
import unittest.mock

import forkdtest
import kvmtest
from forkdtest import Daemon, ForkdTest
from kvmtest import only_forkd, write


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
