# SPDX-License-Identifier: Apache-2.0
"""Images and block devices as they are: of odd sizes."""
import json
import os

from kvmtest import MIB, KvmTest, read, write


class OddSizes(KvmTest):
    def saved(self, directory):
        state = json.loads(read(os.path.join(directory, "state.json")))
        return json.loads(state["snapshots"]["device-manager"]["snapshots"]["_disk0"]["snapshot_data"]["state"])

    def test_no_multiple_of_a_sector(self):
        """The guest sees whole sectors; the log says so, and what is behind them stays as it is."""
        path, tail = self.path("odd.img"), b"the tail is nobody's" * 5
        write(path, bytes(MIB) + tail)
        vmm = self.boot("devices", "rounds=0 pause=5", extra=["--disk", f"path={path},image_type=raw"])
        vmm.wait_output(rb"blk: 2048 sectors")
        vmm.wait_rounds(2)
        self.assertRegex(vmm.stderr, f"WARN.*'{path}' has {MIB + 100} bytes.*multiple of 512.*the last 100")
        directory = vmm.snapshot()
        self.assertEqual((self.saved(directory)["disk_nsectors"], self.saved(directory)["config"]["capacity"]), (2048, 2048))
        vmm.stop()
        clone = self.restore(directory)
        clone.wait_rounds(2)
        clone.stop()
        with open(path, "rb") as f:
            self.assertEqual(f.read()[MIB:], tail)

    def test_less_than_a_sector(self):
        path = self.path("tiny.img")
        write(path, b"x" * 300)
        vmm = self.boot("ticker", "warm=1 tick=2000000", extra=["--disk", f"path={path},image_type=raw"])
        vmm.wait_bytes(1)
        self.assertIn("300 bytes", vmm.stderr)
        self.assertEqual(self.saved(vmm.snapshot())["disk_nsectors"], 0)
        vmm.stop()
