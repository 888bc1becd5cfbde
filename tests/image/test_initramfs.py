# SPDX-License-Identifier: Apache-2.0
"""The initramfs: agent, modules in the order in which they are loaded, and what a kernel may lack. tests/lab/test_build.py boots one."""
import gzip
import json
import lzma
import os
import subprocess

from imagetest import BUILD, ImageTest, zstd

AGENT = os.path.join(os.path.abspath(BUILD), "forkd-agent")
# As depmod writes it: all that a module needs, and the last one is loaded first.
DEP = """kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci.ko.xz: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/block/virtio_blk.ko.zst: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/net/vsock.ko:
kernel/net/vmw_vsock_virtio_transport.ko.gz: kernel/net/vsock.ko kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/char/virtio-rng.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/other/not_wanted.ko:
"""
BUILTIN = "kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n"
ORDER = ["virtio_ring", "virtio", "virtio_pci", "virtio_blk", "vsock", "vmw_vsock_virtio_transport", "virtio_rng"]


class Initramfs(ImageTest):
    def setUp(self):
        super().setUp()
        self.modules = self.dir + "/6.1.0"
        self.kernel(DEP, BUILTIN)

    def kernel(self, dep, builtin):
        for line in dep.splitlines():
            name = line.split(":")[0]
            path = os.path.join(self.modules, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            data = b"\x7fELF " + os.path.basename(name).split(".ko")[0].replace("-", "_").encode() * 100
            pack = {".xz": lzma.compress, ".zst": zstd, ".gz": gzip.compress}.get(os.path.splitext(name)[1], bytes)
            with open(path, "wb") as f:
                f.write(pack(data))
        for name, text in (("modules.dep", dep), ("modules.builtin", builtin)):
            with open(os.path.join(self.modules, name), "w", encoding="ascii") as f:
                f.write(text)

    def words(self, *more):
        return "--kernel-modules", self.modules, "--agent", AGENT, *more

    def build(self, *more):
        done = self.run_program("--initramfs", self.out, *self.words(*more))
        self.assertEqual((done.stderr, done.returncode), (b"", 0))
        return json.loads(done.stdout)

    def bad(self, message, *more, status=1):
        done = self.run_program("--initramfs", self.out, *self.words(*more))
        self.assertIn(message, done.stderr.decode())
        self.assertEqual((done.returncode, done.stdout, os.listdir(self.work)), (status, b"", []))

    def unpack(self, command):
        root = self.dir + "/unpacked"
        os.makedirs(root, exist_ok=True)
        with open(self.out, "rb") as f:
            data = subprocess.run(command, stdin=f, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["cpio", "-idm", "--quiet", "-u"], input=data, cwd=root, check=True)
        return root

    def test_contents(self):
        """Each module is there without its packing; the list has them behind what they need; the same again, byte for byte."""
        with open(AGENT, "rb") as f:
            agent = f.read()
        for word, command in (("gzip", ["gzip", "-dc"]), ("zstd", ["zstd", "-dc"]), ("none", ["cat"])):
            with self.subTest(word=word):
                report = self.build("--compress", word)
                self.assertEqual((report["modules"], report["bytes"]), (ORDER, os.path.getsize(self.out)))
                with open(self.out, "rb") as f:
                    first = f.read()
                root = self.unpack(command)
                with open(root + "/forkd/modules.list", encoding="ascii") as f:
                    self.assertEqual(f.read().split(), ORDER)
                for name in ORDER:
                    with open(f"{root}/forkd/modules/{name}.ko", "rb") as f:
                        self.assertEqual(f.read(), b"\x7fELF " + name.encode() * 100)
                with open(root + "/init", "rb") as f:
                    self.assertTrue(f.read() == agent)
                self.assertTrue(os.access(root + "/init", os.X_OK))
                self.assertEqual(sorted(os.listdir(root)), ["dev", "forkd", "init", "proc", "run", "sys", "sysroot"])
                os.unlink(self.out)
                self.build("--compress", word)
                with open(self.out, "rb") as f:
                    self.assertTrue(f.read() == first)
                os.unlink(self.out)

    def test_config(self):
        path = self.dir + "/config"
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"User": "a", "Env": ["B=ä"], "Cmd": ["x"], "ExposedPorts": ["80/tcp"]}, f)
        self.build("--image-config", path)
        with open(self.unpack(["gzip", "-dc"]) + "/forkd/image.json", encoding="utf-8") as f:
            self.assertEqual(json.load(f), {"User": "a", "Env": ["B=ä"], "Cmd": ["x"], "ExposedPorts": ["80/tcp"]})

    def test_bad_config(self):
        for text, message in (("{", "is no JSON"), ("[]", "expected an object"), ('{"Env": 5}', "Env: "), ('{"More": 5}', "More: unknown field")):
            with open(self.dir + "/config", "w", encoding="utf-8") as f:
                f.write(text)
            self.bad(message, "--image-config", self.dir + "/config")
        self.bad("open '/none': No such file", "--image-config", "/none")

    def test_kernels(self):
        """What a kernel lacks, and folders that are none of a kernel."""
        self.kernel(DEP, "")
        self.bad(f"'{self.modules}': the kernel has no ext4, neither as a module nor built in")
        self.kernel("\n".join(line for line in DEP.splitlines() if "virtio_blk.ko" not in line), BUILTIN)
        self.bad("the kernel has no virtio_blk, neither")
        self.kernel(DEP, BUILTIN)
        os.unlink(self.modules + "/kernel/drivers/virtio/virtio.ko")
        self.bad("open kernel/drivers/virtio/virtio.ko: No such file")
        self.kernel(DEP, BUILTIN)
        with open(self.modules + "/kernel/net/vsock.ko", "wb") as f:
            f.write(b"no module")
        self.bad("'kernel/net/vsock.ko': not a module")
        self.kernel(DEP, BUILTIN)
        with open(self.modules + "/kernel/drivers/block/virtio_blk.ko.zst", "r+b") as f:
            f.truncate(20)
        self.bad("virtio_blk.ko.zst': ")
        with open(self.modules + "/modules.dep", "w", encoding="ascii") as f:
            f.write("../../../etc/virtio_pci.ko:\n" + "".join(DEP.splitlines(True)[3:]))
        self.bad("open ../../../etc/virtio_pci.ko: ")
        with open(self.modules + "/modules.dep", "w", encoding="ascii") as f:
            f.write("a/virtio_pci.ko:" + "".join(f" a/m{i}.ko" for i in range(200)) + "\n")
        self.bad("the guest needs more than 128 modules")
        os.unlink(self.modules + "/modules.dep")
        self.bad("this is no folder of a kernel's modules: open modules.dep: No such file")
        os.rename(self.modules, self.modules + ".away")
        self.bad(f"open '{self.modules}': No such file")

    def test_bomb(self):
        """A module that unpacks to more than a module can be."""
        path = self.modules + "/kernel/drivers/block/virtio_blk.ko.zst"
        with open(path, "wb") as f:
            f.write(zstd(b"\x7fELF" + bytes(80 << 20)))
        self.bad("'kernel/drivers/block/virtio_blk.ko.zst': more than 64 MiB")

    def test_agents(self):
        for path, message in (("/etc/passwd", "'/etc/passwd': not a program"), ("/dev/zero", "'/dev/zero': not a regular file"),
                              ("/none", "open '/none': No such file")):
            done = self.run_program("--initramfs", self.out, "--kernel-modules", self.modules, "--agent", path)
            self.assertIn(message, done.stderr.decode())
            self.assertEqual((done.returncode, os.listdir(self.work)), (1, []))

    def test_usage(self):
        for words, message in ((["--initramfs", self.out], "--kernel-modules and --agent are needed"), (["--agent", "x"], "are for --initramfs"),
                               (["--initramfs", self.out, *self.words("--compress", "lz4")], "--compress lz4: must be gzip, zstd or none"),
                               (["--initramfs", self.out, *self.words("--dir", "x")], "one at a time")):
            done = self.run_program(*words)
            self.assertIn(message, done.stderr.decode())
            self.assertEqual((done.returncode, os.listdir(self.work)), (2, []))
