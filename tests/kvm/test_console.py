# SPDX-License-Identifier: Apache-2.0
"""Where the output of the serial port and of the virtio console goes."""
import os

from forkdtest import Daemon, ForkdTest
from kvmtest import read, wait_for

LOG_MAX = 16 << 20


class Clones(ForkdTest):
    def test_log_keeps_its_bound(self):
        """A guest whose chains are 256 MiB each: its vCPU goes on, it can be paused in the middle, and its log stays small."""
        vmm = self.boot("devices", "dev=console flood=4", extra=("--console", "null"))
        vmm.wait_output(rb"kicked")
        directory = vmm.snapshot()
        vmm.stop()
        d = Daemon(self)
        d.template("t", directory)
        clone = d.clone("t")[0]
        bytes_seen = []

        def kicks():
            bytes_seen.append(os.stat(clone["console"]).st_size)
            return read(clone["serial"]).count(b"kicked")
        wait_for("the guest to go on beside its output", lambda: kicks() >= 2, context=d.context)
        d.must(200, "PUT", f"/v1/clones/{clone['id']}/pause")
        paused_at = os.stat(clone["console"]).st_size
        self.assertLessEqual(max(bytes_seen + [paused_at]), LOG_MAX)
        self.assertEqual(os.stat(clone["console"]).st_size, paused_at)
        d.must(200, "PUT", f"/v1/clones/{clone['id']}/resume")
        before = kicks()
        wait_for("the next chain", lambda: kicks() > before, context=d.context)
        self.assertLessEqual(max(bytes_seen), LOG_MAX)
