# SPDX-License-Identifier: Apache-2.0
"""Images and block devices as they are: of odd sizes, of sizes that change."""
import json
import os
import subprocess

from kvmtest import MIB, KvmTest, read, write


class DiskTest(KvmTest):
    def saved(self, directory):
        """The disk's node in state.json."""
        state = json.loads(read(os.path.join(directory, "state.json")))
        return json.loads(state["snapshots"]["device-manager"]["snapshots"]["_disk0"]["snapshot_data"]["state"])

    def loop(self, path, block=512):
        """A loop device over an image, with logical blocks of that size."""
        made = subprocess.run(["losetup", "-f", "--show", "-b", str(block), path], capture_output=True, text=True)
        if made.returncode != 0:
            self.skipTest(f"no loop device: {made.stderr.strip()}")
        device = made.stdout.strip()
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=True)
        return device


class OddSizes(DiskTest):
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


class BlockDevices(DiskTest):
    def test_resize(self):
        """Its size is its own: the guest is told of it when asked for, and another one is refused with both."""
        image = self.disk(8)
        device = self.loop(image)
        vmm = self.boot("devices", "rounds=0 pause=5 bad=0", extra=["--disk", f"path={device},image_type=raw"])
        vmm.wait_rounds(1)
        vmm.put("vm.resize-disk", {"id": "_disk0", "desired_size": 8 * MIB})
        for size in (4 * MIB, 12 * MIB):
            answer = vmm.call("PUT", "vm.resize-disk", {"id": "_disk0", "desired_size": size})
            self.assertEqual((answer.status, answer.json[-2:]), (500, [
                "Resize failed", f"Block device size {8 * MIB} does not match requested size {size}"]))
        os.truncate(image, 12 * MIB)
        subprocess.run(["losetup", "-c", device], check=True)
        vmm.put("vm.resize-disk", {"id": "_disk0", "desired_size": 12 * MIB})
        vmm.wait_rounds(2)
        directory = vmm.snapshot()
        self.assertEqual(self.saved(directory)["config"]["capacity"], 12 * 2048)
        vmm.put("vm.resume")
        vmm.put("vm.reboot")
        vmm.wait_output(rb"blk: 24576 sectors")
        vmm.stop()
