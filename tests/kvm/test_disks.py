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


class LargeBlocks(DiskTest):
    """Storage that takes 4 KiB at a time, and guests that ask for single sectors: 12 sectors for each request of theirs in flight."""
    GUEST = "dev=blk cpus=2 sectors=200 pause=2"

    def told(self, directory):
        space = self.saved(directory)["config"]
        return space["blk_size"], space["discard_sector_alignment"]

    def boot_on(self, path, more="", rounds=0, batches=8):
        return self.boot("devices", f"{self.GUEST} rounds={rounds} batches={batches}", cpus=2, extra=[
            "--disk", f"path={path},image_type=raw,num_queues=2{more}"])

    def test_guest_of_sectors(self):
        for more in (",direct=on", "", ",direct=on,_disable_io_uring=on"):
            with self.subTest(options=more):
                vmm = self.boot_on(self.loop(self.disk(8), 4096), more, rounds=5)
                vmm.wait_output(rb"PASS")
                self.assertNotIn("failed", vmm.stderr)
                vmm.stop()

    def test_from_small_blocks_and_back(self):
        """A snapshot moves between storages: the guest keeps what it was told."""
        for block, other in ((512, 4096), (4096, 512)):
            with self.subTest(begins_on=block):
                image = self.disk(8)
                vmm = self.boot_on(self.loop(image, block), ",direct=on")
                vmm.wait_rounds(2)
                directory = vmm.snapshot()
                vmm.stop()
                self.assertEqual(self.told(directory), (block, block // 512))
                device = self.loop(self.clone_disk(image), other)
                moved = self.copy_snapshot(directory, lambda c: c["disks"][0].update(path=device))
                clone = self.restore(moved)
                clone.wait_rounds(3)
                self.assertEqual(self.told(clone.snapshot()), (block, block // 512))
                self.assertNotIn("failed", clone.stderr)
                clone.stop()

    def test_file_that_ends_within_a_block(self):
        """It does not grow, and its last sectors are read and written like all others."""
        device, folder = self.loop(self.disk(64), 4096), self.new_dir("mnt")
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", device], check=True)
        subprocess.run(["mount", device, folder], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", folder], check=True)
        path, tail = os.path.join(folder, "disk.img"), b"tail"
        write(path, bytes(166 * 512) + tail)             # two areas of 83, of which the guest writes to 80
        vmm = self.boot_on(path, ",direct=on", batches=64)
        vmm.wait_rounds(3)
        self.assertEqual(self.told(vmm.snapshot()), (4096, 8))
        vmm.stop()
        with open(path, "rb") as f:
            data = f.read()
        self.assertEqual((len(data), data[166 * 512:]), (166 * 512 + len(tail), tail))
        self.assertTrue(any(data[160 * 512:163 * 512]))
