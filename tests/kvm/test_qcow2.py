# SPDX-License-Identifier: Apache-2.0
"""Disks of qcow2 images; qemu-img makes them, and says what became of them."""
import hashlib
import os
import random
import subprocess
import time

from kvmtest import FULL, VMM, KvmTest, guest, modes, read

SOUND, LEAKS = 0, 3     # of qemu-img check


def qemu_img(*args):
    subprocess.run(["qemu-img", *args], check=True, stdout=subprocess.DEVNULL)


class Qcow2Test(KvmTest):
    def overlay(self, base, *options):
        path = self.path(self.unique("overlay") + ".qcow2")
        qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", base, *options, path)
        return path

    def check(self, image, *good):
        done = subprocess.run(["qemu-img", "check", "-f", "qcow2", image], capture_output=True, text=True)
        self.assertIn(done.returncode, good, done.stdout + done.stderr)

    def boot_on(self, image, options="rounds=0 batches=8", more="", program=None):
        """A guest that writes its disk from two CPUs, reads it back and trims it, without end."""
        extra = ["--disk", f"path={image},image_type=qcow2,backing_files=on,num_queues=2{more}"]
        kwargs = {"program": program} if program else {}
        return self.boot("devices", f"dev=blk cpus=2 sectors=2000 {options}", cpus=2, extra=extra, **kwargs)


class Images(Qcow2Test):
    def test_forms(self):
        """As they are published: compressed by deflate and zstd, of version 2, with small and large clusters, over others."""
        raw = self.disk(8)
        with open(raw, "r+b") as f:
            for at in range(0, 8 << 20, 300 << 10):
                f.seek(at)
                f.write(os.urandom(100 << 10))
        for n, options in enumerate((["-c"], ["-c", "-o", "compression_type=zstd"], ["-c", "-o", "compat=0.10"],
                                     ["-o", "cluster_size=512"], ["-o", "cluster_size=2M"])):
            image = self.path(f"form{n}.qcow2")
            qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, raw, image)
            over = self.path(f"over{n}.qcow2")
            qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", os.path.basename(image), over)
            for path in (over, image):
                with self.subTest(options=options, over=path == over):
                    vmm = self.boot_on(path, "rounds=3 batches=8")
                    vmm.wait_output(rb"PASS")
                    self.assertNotIn("failed", vmm.stderr)
                    vmm.stop()
                    self.check(path, SOUND)

    def test_snapshot(self):
        """What stands in the overlay when the guest pauses is all that the guest wrote; the base is nobody's."""
        base = self.disk(8)
        was = hashlib.sha256(read(base)).digest()
        for more in ("", ",direct=on", ",_disable_io_uring=on"):
            with self.subTest(options=more):
                image = self.overlay(base)
                vmm = self.boot_on(image, more=more)
                vmm.wait_rounds(2)
                directory = vmm.snapshot()
                self.assertEqual(vmm.get("vm.info")["config"]["disks"][0]["image_type"], "Qcow2")
                copies = [self.clone_disk(image) for _ in modes()]
                vmm.put("vm.resume")
                vmm.wait_rounds(4)
                vmm.stop()
                for mode, copy in zip(modes(), copies):
                    mine = self.copy_snapshot(directory, lambda c, copy=copy: c["disks"][0].update(path=copy))
                    clone = self.restore(mine, mode)
                    clone.wait_rounds(3)
                    clone.put("vm.shutdown")
                    self.check(copy, SOUND, LEAKS)  # what the first had taken ahead
                    clone.stop()
        self.assertEqual(hashlib.sha256(read(base)).digest(), was)

    def test_killed(self):
        """Wherever it is killed: nothing is wrong with the image but clusters that nobody has, and the next guest goes on."""
        image, draw = self.overlay(self.disk(8)), random.Random(self.id())
        for _ in range(40 if FULL else 6):
            vmm = self.boot_on(image)
            vmm.wait_rounds(1)
            time.sleep(draw.random() / 5)
            vmm.kill()
            self.check(image, SOUND, LEAKS)

    def test_base_in_use(self):
        """Nobody writes a base while an overlay stands on it."""
        base = self.disk(8)
        vmm = self.boot_on(self.overlay(base))
        vmm.wait_rounds(1)
        other = subprocess.run([VMM, "--kernel", guest("ticker"), "--console", "off", "--disk", f"path={base},image_type=raw"],
                               stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        self.assertEqual(other.returncode, 1, other.stderr)
        self.assertIn("already locked", other.stderr)
        vmm.stop()
