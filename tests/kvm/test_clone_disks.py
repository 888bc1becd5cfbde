# SPDX-License-Identifier: Apache-2.0
"""Disks of clones: what the store keeps of a template's, what each clone has of its own, and what is left when they are gone."""
import contextlib
import glob
import hashlib
import http.client
import json
import os
import random
import shutil
import subprocess
import threading
import time

from forkdtest import Daemon, ForkdTest
from kvmtest import FULL, MIB, guest, read, tmpfs, wait_for, write
from test_qcow2 import qemu_img

ROUNDS = "rounds=0 dev=blk batches=4"


class DisksTest(ForkdTest):
    def boot_on(self, disk, more="image_type=raw"):
        """A guest that writes its disk and knows every byte of it; it stops at one that is wrong."""
        vmm = self.boot("devices", ROUNDS, extra=["--disk", f"path={disk},id=root,{more}"])
        vmm.wait_rounds(2)
        return vmm

    def snapshot_of(self, disk, more="image_type=raw"):
        vmm = self.boot_on(disk, more)
        directory = vmm.snapshot()
        vmm.stop()
        return directory

    def wait_rounds(self, *clones, n=3):
        for c in clones:
            begin = read(c["serial"]).count(b"round")
            wait_for("rounds or a failure", lambda c=c, begin=begin: read(c["serial"]).count(b"round") >= begin + n or b"FAIL" in read(c["serial"]))
            self.assertNotIn(b"FAIL", read(c["serial"]))

    def kept(self, d, what):
        """What is kept, but for the images that the templates' guests boot."""
        kernels = set()
        for path in glob.glob(os.path.join(d.store, "templates", "*", "manifest.json")):
            with contextlib.suppress(FileNotFoundError):
                kernels |= set((json.loads(read(path)).get("payload") or {}).values())
        return sorted(set(os.listdir(os.path.join(d.store, what))) - kernels)

    def assert_kept(self, d, images, overlays):
        wait_for("what is not used to go", lambda: (len(self.kept(d, "images")), len(self.kept(d, "overlays"))) == (images, overlays),
                 context=lambda: f": {self.kept(d, 'images')} {self.kept(d, 'overlays')}")

    def check_image(self, path):
        """Of a paused clone, which has the file locked: a copy beside it is looked at."""
        copy = os.path.dirname(path) + ".copy"
        shutil.copytree(os.path.dirname(path), copy)
        done = subprocess.run(["qemu-img", "check", "-f", "qcow2", os.path.join(copy, "data")], capture_output=True, text=True)
        self.assertIn(done.returncode, (0, 3), done.stdout + done.stderr)   # sound, or sound but for leaks
        shutil.rmtree(copy)


class Own(DisksTest):
    def test_each_clone_its_own(self):
        """Clones write their disks at once, and none sees another's bytes; the template's stay as they are."""
        disk = self.disk()
        directory = self.snapshot_of(disk)
        d = Daemon(self, "--park", "0")
        shown = d.template("t", directory)["disks"]
        self.assertEqual([(s["id"], s["path"], s["bytes"], len(s["image"])) for s in shown], [("root", disk, os.stat(disk).st_size, 64)])
        image = os.path.join(d.store, "images", shown[0]["image"], "data")
        was = hashlib.sha256(read(image)).digest()
        self.assertEqual(was, hashlib.sha256(read(disk)).digest())
        os.unlink(disk)                                         # the template owns what it needs
        clones = d.clone("t", 4)
        paths = [c["disks"][0]["path"] for c in clones]
        self.assertEqual(len(set(paths)), 4)
        self.wait_rounds(*clones)
        for c in clones:
            self.assertEqual(c["disks"][0]["image"], shown[0]["image"])
            config = self.own_api(c, "vm.info")["config"]["disks"][0]
            self.assertEqual((config["path"], config["image_type"]), (c["disks"][0]["path"], "Qcow2"))
        self.assert_kept(d, 1, 4)
        self.assertIn(paths[0], d.ctl("show", clones[0]["id"]))
        self.assertIn(f"8.0 MiB, image {shown[0]['image']}", d.ctl("template", "show", "t"))
        d.delete(clones[:2])
        for c in clones[2:]:
            d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
            self.check_image(c["disks"][0]["path"])
        self.assert_kept(d, 1, 2)
        self.assertEqual(hashlib.sha256(read(image)).digest(), was)
        d.must(200, "POST", "/v1/templates/t/verify")
        d.delete(clones[2:])
        d.must(204, "DELETE", "/v1/templates/t")
        self.assert_kept(d, 0, 0)

    def own_api(self, clone, what):
        from forkdtest import request
        return request(clone["api_socket"], "GET", "/api/v1/" + what).json

    def test_path_of_the_request(self):
        """A clone that brings a disk has that one."""
        disk = self.disk()
        d = Daemon(self, "--park", "0")
        d.template("t", self.snapshot_of(disk))
        mine = self.clone_disk(disk)
        c = d.clone("t", overrides={"disks": [{"id": "root", "path": mine}]})[0]
        self.wait_rounds(c)
        self.assertEqual(c["disks"], [])
        self.assert_kept(d, 1, 0)

    def test_same_image_twice(self):
        """What the store has already is not kept twice, and stays until the last template is gone."""
        disk = self.disk()
        directory = self.snapshot_of(disk)
        d = Daemon(self, "--park", "0")
        one, two = d.template("one", directory)["disks"][0], d.template("two", directory)["disks"][0]
        self.assertEqual(one["image"], two["image"])
        self.assert_kept(d, 1, 0)
        d.must(204, "DELETE", "/v1/templates/one")
        self.assert_kept(d, 1, 0)
        self.wait_rounds(*d.clone("two", 2))

    def test_vm_that_becomes_a_template(self):
        """It writes a copy: what the caller named stays as it was, and others may use it meanwhile."""
        base = self.disk()
        with open(base, "r+b") as f:
            f.seek(5 << 20)
            f.write(os.urandom(1 << 20))
        over = self.path("over.qcow2")
        qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", os.path.basename(base), over)
        for name, path, more, images in (("raw", base, {"image_type": "Raw"}, 1), ("qcow2", over, {"image_type": "Qcow2", "backing_files": True}, 3)):
            with self.subTest(name):
                was = [read(p) for p in (base, over)]
                d = Daemon(self, "--park", "0")
                d.must(201, "POST", "/v1/templates", {"name": "t", "ready": {"serial": "round 2"}, "vm": {
                    "payload": {"kernel": guest("devices"), "cmdline": ROUNDS}, "memory": {"size": 64 << 20}, "console": {"mode": "Off"},
                    "disks": [{"id": "root", "path": path, **more}]}})
                self.assertEqual([read(p) for p in (base, over)], was)
                self.wait_rounds(*d.clone("t", 2))
                self.assert_kept(d, images, 2)

    def test_daemon_killed(self):
        """The next daemon finds the disks of living clones, and removes those of dead ones."""
        d = Daemon(self, "--park", "0")
        d.template("t", self.snapshot_of(self.disk()))
        alive, dead = d.clone("t", 2)
        d.kill()
        os.kill(dead["pid"], 9)
        wait_for("the clone to end", lambda: not os.path.exists(f"/proc/{dead['pid']}") or b"Z" in read(f"/proc/{dead['pid']}/stat"))
        stray = os.path.join(d.store, "overlays", "0123456789abcdef")
        os.mkdir(stray)
        write(os.path.join(stray, "data"), b"of nobody")
        d.start()
        self.assert_kept(d, 1, 1)
        self.assertTrue(os.path.exists(alive["disks"][0]["path"]))
        self.wait_rounds(alive)
        d.must(204, "DELETE", f"/v1/clones/{alive['id']}")
        d.must(204, "DELETE", "/v1/templates/t")
        self.assert_kept(d, 0, 0)

    def test_clone_of_another_daemon(self):
        """A daemon that does not know the clone does not take its disk away."""
        d = Daemon(self, "--park", "0")
        d.template("t", self.snapshot_of(self.disk()))
        c = d.clone("t")[0]
        d.kill()
        other = Daemon(self, "--park", "0", root=self.new_dir("other"))
        other.stop()
        os.rename(other.store, other.store + ".own")
        os.rename(d.store, other.store)
        other.start()
        self.assert_kept(other, 1, 1)
        self.assertIn("a VM that is not known here has the overlay", read(other.log).decode())
        self.wait_rounds(c)
        other.stop()
        os.rename(other.store, d.store)
        d.start()
        d.delete([c])

    def test_damage(self):
        """An image that is not what was sealed is refused by name, and so is a template without its image."""
        d = Daemon(self, "--park", "0")
        image = d.template("t", self.snapshot_of(self.disk()))["disks"][0]["image"]
        data = os.path.join(d.store, "images", image, "data")
        os.chmod(data, 0o600)
        with open(data, "r+b") as f:
            f.write(b"x")
        self.assertIn(f"image {image} is damaged", d.refused(500, "internal", "POST", "/v1/templates/t/clones", {}))
        self.assertIn(f"image {image} is damaged", d.refused(500, "internal", "POST", "/v1/templates/t/verify"))
        shutil.rmtree(os.path.dirname(data))
        d.stop()
        d.start()
        self.assertIn(image, d.refused(500, "internal", "POST", "/v1/templates/t/clones", {}))
        d.must(204, "DELETE", "/v1/templates/t")

    def test_no_space(self):
        """The store's file system is full: the template is not made, and nothing of it stays."""
        disk = self.disk(8)
        with open(disk, "r+b") as f:
            f.write(os.urandom(8 << 20))
        directory = self.snapshot_of(disk)
        root = self.new_dir("small")
        os.mkdir(os.path.join(root, "store"))
        with tmpfs(os.path.join(root, "store"), 7 * MIB):
            d = Daemon(self, "--park", "0", root=root)
            d.refused(507, "no_space", "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + directory})
            self.assert_kept(d, 0, 0)
            self.assertEqual(self.kept(d, "staging"), [])
            d.stop()


class Spares(DisksTest):
    """Disks that are made before anybody asks for them."""

    def test_made_and_removed(self):
        d = Daemon(self, "--park", "3")
        d.template("t", self.snapshot_of(self.disk()))
        first = d.clone("t")
        self.assert_kept(d, 1, 4)
        ready = set(self.kept(d, "overlays"))
        taken = d.clone("t", 5)                     # more than there are
        self.assertEqual(len({c["disks"][0]["path"] for c in taken}), 5)
        self.assertEqual(len(ready & {c["disks"][0]["path"].split("/")[-2] for c in taken}), 3)
        self.wait_rounds(*taken)
        self.assert_kept(d, 1, 9)
        d.kill()
        d.start()
        self.assert_kept(d, 1, 6)                   # what nobody has taken is of no use to the next daemon
        d.delete(first + d.clone("t"))
        self.assert_kept(d, 1, 8)
        d.stop()
        self.assertEqual(len(self.kept(d, "overlays")), 5)
        d.start()
        d.delete(taken)
        d.must(204, "DELETE", "/v1/templates/t")
        self.assert_kept(d, 0, 0)

    def test_store_that_is_full(self):
        """Without a spare disk, a request makes its own, and says what is wrong."""
        d = Daemon(self, "--park", "1")
        d.template("t", self.snapshot_of(self.disk()))
        overlays = os.path.join(d.store, "overlays")
        subprocess.run(["chattr", "+i", overlays], check=True)
        self.addCleanup(subprocess.run, ["chattr", "-i", overlays])
        d.must(500, "POST", "/v1/templates/t/clones", {})
        wait_for("the thread to give up", lambda: b"no disk is made ahead" in read(d.log))
        subprocess.run(["chattr", "-i", overlays], check=True)
        self.wait_rounds(*d.clone("t"))
        self.assert_kept(d, 1, 2)


class Chains(DisksTest):
    def test_qcow2(self):
        """An image with files behind it comes into the store with them, whatever they are."""
        base, middle, top = self.disk(), self.path("middle.qcow2"), self.path("top.qcow2")
        qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", base, middle)
        qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", "middle.qcow2", top)
        d = Daemon(self, "--park", "0")
        d.template("t", self.snapshot_of(top, "image_type=qcow2,backing_files=on"))
        for path in (base, middle, top):
            os.unlink(path)
        self.assert_kept(d, 3, 0)
        clones = d.clone("t", 3)
        self.wait_rounds(*clones)
        d.delete(clones)
        d.must(204, "DELETE", "/v1/templates/t")
        self.assert_kept(d, 0, 0)

    def test_refused(self):
        """Each by its own words, and nothing of it stays in the store."""
        base = self.disk()
        directory = self.snapshot_of(base)
        d = Daemon(self, "--park", "0")

        def image(name, behind=None, form="raw"):
            path = self.path(name + ".qcow2")
            qemu_img("create", "-f", "qcow2", *(["-u", "-F", form, "-b", behind] if behind else []), path, "8M")
            return path

        def patched(name, at, new):
            path = image(name)
            with open(path, "r+b") as f:
                f.seek(at)
                f.write(new)
            return path
        deep = base
        for n in range(20):
            deep = image(f"deep{n}", deep, "qcow2" if n else "raw")
        loop = image("loop", "loop2.qcow2", "qcow2")
        image("loop2", "loop.qcow2", "qcow2")
        short = image("short")
        with open(short, "r+b") as f:
            f.truncate(60)
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        for path, said in (
                (loop, "loop.qcow2' comes twice in the chain"), (deep, "has more than 14 files in its chain"),
                (image("device", "/dev/zero"), "'/dev/zero' is neither a file nor a block device"),
                (image("pipe", fifo), "is neither a file nor a block device"),
                (image("relative", "../x"), "must not have '..' in it"), (image("missing", "/no/such"), "open '/no/such': No such file"),
                (image("vmdk", base, "vmdk"), "the format of its backing file is 'vmdk'"),
                (patched("bits8", 20, b"\0\0\0\x08"), "cluster_bits"), (patched("bits22", 20, b"\0\0\0\x16"), "cluster_bits"),
                (patched("crypt", 32, b"\0\0\0\1"), "is encrypted"), (patched("huge", 24, b"\x80" + bytes(7)), "its size, which is too large"),
                (patched("snapshots", 60, b"\0\0\0\1"), "internal snapshots"), (patched("data", 79, b"\4"), "external data file"),
                (patched("l1", 40, b"\x7f"), "L1 table"), (short, "has no header of qcow2"), (base, "has no header of qcow2")):
            with self.subTest(path=path):
                copy = self.copy_snapshot(directory, lambda c, path=path: c["disks"][0].update(path=path, image_type="Qcow2", backing_files=True))
                message = d.refused(409, "disk_unusable", "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + copy})
                self.assertIn("disk 'root' of the snapshot: ", message)
                self.assertIn(said, message)
                self.assert_kept(d, 0, 0)
        over = image("over", base)
        copy = self.copy_snapshot(directory, lambda c: c["disks"][0].update(path=over, image_type="Qcow2"))
        self.assertIn("has no backing_files=on", d.refused(409, "disk_unusable", "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + copy}))

    def test_header_of_a_raw_disk(self):
        """A guest may write any header onto a raw disk: the type is the configuration's, nothing is looked for."""
        disk, secret = self.disk(), self.path("secret")
        write(secret, b"s" * 4096)
        directory = self.snapshot_of(disk)
        forged = self.path("forged.qcow2")
        qemu_img("create", "-f", "qcow2", "-u", "-F", "raw", "-b", secret, forged, "8M")
        with open(disk, "r+b") as f:
            f.seek(4 << 20)             # behind what the guest looks at
            f.write(b"x")
            f.seek(0)
            f.write(read(forged)[:65536])
        d = Daemon(self, "--park", "0")
        d.template("t", self.copy_snapshot(directory, lambda c: c["disks"][0].update(image_type="Raw")))
        image = d.get("/v1/templates/t")["disks"][0]["image"]
        self.assertEqual(self.kept(d, "images"), [image])       # and nothing of the secret
        self.assertEqual(read(os.path.join(d.store, "images", image, "data"))[:4], b"QFI\xfb")
        d.refused(409, "disk_unusable", "POST", "/v1/templates", {
            "name": "u", "snapshot": "file://" + self.copy_snapshot(directory, lambda c: c["disks"][0].update(path=self.path("none")))})

    def test_in_use(self):
        """A disk that a VM may write is not copied."""
        disk = self.disk()
        vmm = self.boot_on(disk)
        directory = vmm.snapshot()
        d = Daemon(self, "--park", "0")
        body = {"name": "t", "snapshot": "file://" + directory}
        self.assertIn(f"'{disk}' is locked by another VM", d.refused(409, "conflict", "POST", "/v1/templates", body))
        d.must(201, "POST", "/v1/templates", {**body, "disks": "caller"})
        vmm.stop()
        d.must(201, "POST", "/v1/templates", {**body, "name": "u"})
        self.wait_rounds(d.clone("u")[0])


class Reflinks(DisksTest):
    def test_xfs(self):
        """Where the file system can, a clone has a raw file that shares its blocks with the template's."""
        volume, root = self.path("volume"), self.new_dir("xfs")
        with open(volume, "wb") as f:
            f.truncate(400 << 20)
        subprocess.run(["mkfs.xfs", "-q", volume], check=True)
        subprocess.run(["mount", "-o", "loop", volume, root], check=True)
        self.addCleanup(wait_for, "the volume to be free", lambda: subprocess.run(["umount", root], stderr=subprocess.DEVNULL).returncode == 0)
        disk = self.disk()
        with open(disk, "r+b") as f:
            f.seek(2 << 20)
            f.write(os.urandom(4 << 20))
        directory = self.snapshot_of(disk)
        d = Daemon(self, "--park", "0", root=root)
        self.addCleanup(d.end)
        d.template("t", directory)
        clones = d.clone("t", 3)
        self.wait_rounds(*clones)
        for c in clones:
            self.assertNotEqual(read(c["disks"][0]["path"])[:4], b"QFI\xfb")
            extents = subprocess.run(["filefrag", "-v", c["disks"][0]["path"]], stdout=subprocess.PIPE, text=True, check=True).stdout
            self.assertIn("shared", extents)
        self.assert_kept(d, 1, 3)
        for name in ("child", "grandchild"):
            d.must(201, "POST", f"/v1/clones/{clones[0]['id']}/snapshot", {"name": name})
            self.wait_rounds(clones[0], *d.clone(name, 2))


class Snapshots(DisksTest):
    def daemon(self, more=""):
        d = Daemon(self, "--park", "0")
        self.image = d.template("t", self.snapshot_of(self.disk(), "image_type=raw" + more))["disks"][0]["image"]
        return d

    def take(self, d, clone, name):
        return d.must(201, "POST", f"/v1/clones/{clone['id']}/snapshot", {"name": name})["template"]["disks"][0]["image"]

    def data(self, d, image):
        return os.path.join(d.store, "images", image, "data")

    def test_of_a_clone_that_writes(self):
        """Each template has the disk as it was at its pause; all go on, and none sees what another writes later."""
        d = self.daemon()
        c = d.clone("t")[0]
        images, all_of_them = [self.image], [c]
        for n in range(4):
            self.wait_rounds(c, n=2)
            images.append(self.take(d, c, f"child{n}"))
            all_of_them += d.clone(f"child{n}", 2)
            self.assertEqual(d.get(f"/v1/clones/{c['id']}")["state"], "running")
        self.wait_rounds(*all_of_them)
        self.assertEqual(len(set(images)), 5)
        self.assert_kept(d, 5, 9)
        chain = subprocess.run(["qemu-img", "info", "--backing-chain", self.data(d, images[-1])], capture_output=True, text=True)
        self.assertEqual((chain.returncode, chain.stdout.count("\nfile format:")), (0, 5), chain.stdout + chain.stderr)
        for image in images[1:]:
            self.check_image(self.data(d, image))
        for n in range(4):
            d.must(200, "POST", f"/v1/templates/child{n}/verify")
        self.assertEqual(d.get("/v1/templates/child1")["parent"], "t")

    def test_ways_to_the_disk(self):
        for more in (",direct=on", ",_disable_io_uring=on"):
            with self.subTest(more):
                d = self.daemon(more)
                c = d.clone("t")[0]
                for name in ("one", "two"):
                    self.wait_rounds(c)
                    self.take(d, c, name)
                    self.wait_rounds(c, *d.clone(name))

    def test_of_a_paused_clone(self):
        d = self.daemon()
        c = d.clone("t")[0]
        self.wait_rounds(c)
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        self.take(d, c, "one")
        self.take(d, c, "two")      # nothing was written in between
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.wait_rounds(c, *d.clone("one"), *d.clone("two"))

    def test_parents_go_first(self):
        """A template needs its parents' images, not their names."""
        d = self.daemon()
        c = d.clone("t")[0]
        self.wait_rounds(c)
        self.take(d, c, "child")
        d.delete([c])
        d.must(204, "DELETE", "/v1/templates/t")
        self.assert_kept(d, 2, 0)
        g = d.clone("child")[0]
        self.wait_rounds(g)
        self.take(d, g, "grandchild")
        d.must(409, "DELETE", "/v1/templates/child")
        d.delete([g])
        d.must(204, "DELETE", "/v1/templates/child")
        self.assert_kept(d, 3, 0)
        d.stop()
        d.start()
        self.assert_kept(d, 3, 0)
        last = d.clone("grandchild")
        self.wait_rounds(*last)
        d.delete(last)
        d.must(204, "DELETE", "/v1/templates/grandchild")
        self.assert_kept(d, 0, 0)

    def test_template_goes_while_the_clone_lives(self):
        """The clone has a reference of its own to what it stands on."""
        d = self.daemon()
        c = d.clone("t")[0]
        self.wait_rounds(c)
        self.take(d, c, "child")
        d.must(204, "DELETE", "/v1/templates/child")
        self.assert_kept(d, 2, 1)
        d.kill()
        d.start()
        self.assert_kept(d, 2, 1)
        self.take(d, c, "again")
        self.wait_rounds(c, *d.clone("again"))

    def test_too_deep(self):
        """A chain has an end: it is refused before it is too long, and the clone goes on."""
        d = self.daemon()
        c = d.clone("t")[0]
        for n in range(14):
            self.wait_rounds(c, n=1)
            self.take(d, c, f"t{n}")
        said = d.refused(409, "invalid_state", "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "more"})
        self.assertIn("has 15 images behind it", said)
        self.wait_rounds(c, *d.clone("t13", 2))

    def test_flatten(self):
        """The template's disks are what they were, in one image; who stands on the others goes on."""
        d = self.daemon()
        c = d.clone("t")[0]
        for n in range(3):
            self.wait_rounds(c, n=1)
            image = self.take(d, c, f"t{n}")
        before = d.clone("t2")[0]
        bytes_before = self.path("before.raw")
        qemu_img("convert", "-f", "qcow2", "-O", "raw", self.data(d, image), bytes_before)
        self.assert_kept(d, 4, 2)
        flat = d.must(200, "POST", "/v1/templates/t2/flatten")["disks"][0]["image"]
        self.assertEqual(read(self.data(d, flat)), read(bytes_before))
        self.assertEqual(d.must(200, "POST", "/v1/templates/t2/flatten")["disks"][0]["image"], flat)
        self.assert_kept(d, 5, 2)
        d.must(200, "POST", "/v1/templates/t2/verify")
        after = d.clone("t2", 2)
        self.wait_rounds(c, before, *after)
        self.assertEqual({a["disks"][0]["image"] for a in after}, {flat})
        d.stop()
        d.start()
        d.delete([c, before])
        for name in ("t", "t0", "t1"):
            d.must(204, "DELETE", f"/v1/templates/{name}")
        self.assert_kept(d, 1, 2)
        self.wait_rounds(*after)
        self.take(d, after[0], "next")
        self.assertIn("stands alone", d.ctl("template", "flatten", "next"))
        self.wait_rounds(*d.clone("next"))

    def test_flatten_and_killed(self):
        """Clones that share what no template has any more: the dead ones do not take it from the living one."""
        d = self.daemon()
        c = d.clone("t")[0]
        self.wait_rounds(c, n=1)
        image = self.take(d, c, "child")
        d.delete([c])
        clones = {c["id"]: c for c in d.clone("child", 4)}
        d.must(200, "POST", "/v1/templates/child/flatten")
        order = [c for c in os.listdir(os.path.join(d.runtime, "clones")) if c in clones]     # as the next daemon finds them
        d.kill()
        for c in order[:-1]:
            os.kill(clones[c]["pid"], 9)
        for c in order[:-1]:
            wait_for("a clone to end", lambda p=clones[c]["pid"]: not os.path.exists(f"/proc/{p}") or b"Z" in read(f"/proc/{p}/stat"))
        d.start()
        alive = clones[order[-1]]
        self.assertTrue(os.path.exists(self.data(d, image)))
        self.take(d, alive, "next")
        self.wait_rounds(alive, *d.clone("next"))

    def test_flatten_at_once(self):
        """Requests for it do not queue up in the daemon: one of them is done, the others are told so, or find it done."""
        d = self.daemon()
        c = d.clone("t")[0]
        self.wait_rounds(c)
        self.take(d, c, "child")
        answers, threads = [], [threading.Thread(target=lambda: answers.append(d.call("POST", "/v1/templates/child/flatten"))) for _ in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertIn(200, [a.status for a in answers])
        self.assertEqual({(a.status, a.json.get("code")) for a in answers} - {(200, None), (429, "busy")}, set())
        self.wait_rounds(c, *d.clone("child", 2))

    def test_damaged_twin(self):
        """A damaged image of the store is not taken for a sound one that is the same."""
        disk = self.disk()
        directory = self.snapshot_of(disk)
        d = Daemon(self, "--park", "0")
        image = d.template("t", directory)["disks"][0]["image"]
        os.chmod(self.data(d, image), 0o600)
        with open(self.data(d, image), "r+b") as f:
            f.write(b"x")
        self.assertIn(f"image {image} is damaged", d.refused(500, "internal", "POST", "/v1/templates", {"name": "u", "snapshot": "file://" + directory}))
        d.must(204, "DELETE", "/v1/templates/t")
        d.template("u", directory)
        self.wait_rounds(*d.clone("u"))

    def test_control_socket_that_is_gone(self):
        """Somebody has swept the runtime directory: a clone that lives keeps its disk."""
        d = self.daemon()
        c = d.clone("t")[0]
        d.kill()
        control = os.path.join(d.runtime, "clones", c["id"], "control.sock")
        os.rename(control, control + ".away")
        d.start()
        self.assertTrue(os.path.exists(c["disks"][0]["path"]))
        self.assertIn("is left alone", read(d.log).decode())
        d.kill()
        os.rename(control + ".away", control)
        d.start()
        self.take(d, c, "child")
        self.wait_rounds(c, *d.clone("child"))

    def test_flatten_compressed(self):
        """What an import took: compressed clusters, clusters of 512 bytes, and a smaller file behind."""
        base, over = self.disk(3), self.path("over.qcow2")
        with open(base, "r+b") as f:
            for at in range(0, 3 << 20, 200 << 10):
                f.seek(at)
                f.write(os.urandom(50 << 10))
        packed = self.path("packed.qcow2")
        qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=512", base, packed)
        qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", packed, over, "8M")
        d = Daemon(self, "--park", "0")
        image = d.template("t", self.snapshot_of(over, "image_type=qcow2,backing_files=on"))["disks"][0]["image"]
        expected = self.path("expected.raw")
        qemu_img("convert", "-f", "qcow2", "-O", "raw", over, expected)
        flat = d.must(200, "POST", "/v1/templates/t/flatten")["disks"][0]["image"]
        self.assertNotEqual(flat, image)
        self.assertEqual(read(self.data(d, flat)), read(expected))
        self.assert_kept(d, 1, 0)
        self.wait_rounds(*d.clone("t", 2))

    def test_snapshot_fails(self):
        """Wherever a snapshot fails: the clone goes on, and the next snapshot has all that it wrote."""
        d = self.daemon()
        c = d.clone("t")[0]
        self.wait_rounds(c)
        os.chmod(os.path.join(d.store, "staging"), 0o500)
        subprocess.run(["chattr", "+i", os.path.join(d.store, "staging")], check=True)
        self.addCleanup(subprocess.run, ["chattr", "-i", os.path.join(d.store, "staging")])
        d.must(500, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "child"})
        self.wait_rounds(c)
        subprocess.run(["chattr", "-i", os.path.join(d.store, "staging")], check=True)
        self.take(d, c, "child")
        self.wait_rounds(c, *d.clone("child"))

    def test_daemon_killed(self):
        """At any moment of a snapshot: no byte is lost, whatever the next daemon finds."""
        d, draw = self.daemon(), random.Random(self.id())
        c = d.clone("t")[0]
        for n in range(30 if FULL else 8):
            self.wait_rounds(c, n=1)
            asked = threading.Thread(target=self.ask, args=(d, c, f"k{n}"))
            asked.start()
            time.sleep(draw.random() / 40)
            d.kill()
            asked.join()
            d.start()
            wait_for("the clone to answer", lambda: d.get(f"/v1/clones/{c['id']}").get("responsive"))
            image = self.take(d, c, f"t{n}")
            child = d.clone(f"t{n}")
            self.wait_rounds(c, *child, n=2)
            d.delete(child)
            self.check_image(self.data(d, image))
            d.must(204, "DELETE", f"/v1/templates/t{n}")
            if d.call("GET", f"/v1/templates/k{n}").status == 200:
                self.wait_rounds(*d.clone(f"k{n}"))
            if n % 4 == 3:                      # chains have an end
                d.delete([c])
                c = d.clone("t")[0]

    def test_daemon_ended_before_it_could_say_so(self):
        """An overlay has become an image, and clone.json knows no more than that it was to: the image is the clone's."""
        d = self.daemon()
        c = d.clone("t")[0]
        path = os.path.join(d.runtime, "clones", c["id"], "clone.json")
        before = json.loads(read(path))["disks"][0]
        self.wait_rounds(c)
        image = self.take(d, c, "one")
        d.must(204, "DELETE", "/v1/templates/one")
        d.kill()
        record = json.loads(read(path))
        disk = record["disks"][0]
        disk["overlays"].append({**before["overlays"][0], "image": image})
        disk["image"] = before["image"]
        write(path, json.dumps(record).encode())
        d.start()
        self.assert_kept(d, 2, 1)
        self.wait_rounds(c)
        self.take(d, c, "two")
        self.wait_rounds(c, *d.clone("two"))
        d.must(204, "DELETE", f"/v1/clones/{c['id']}")

    def test_ended_while_it_is_sealed(self):
        """A clone that ends under its snapshot takes nothing with it that others need."""
        d, draw = self.daemon(), random.Random(self.id())
        for n in range(20 if FULL else 6):
            c = d.clone("t")[0]
            self.wait_rounds(c, n=1)
            asked = threading.Thread(target=self.ask, args=(d, c, f"k{n}"))
            asked.start()
            time.sleep(draw.random() / 40)
            os.kill(c["pid"], 9)
            asked.join()
            if d.call("GET", f"/v1/templates/k{n}").status == 200:
                d.must(200, "POST", f"/v1/templates/k{n}/verify")
                self.wait_rounds(*d.clone(f"k{n}"))
            d.must(204, "DELETE", f"/v1/clones/{c['id']}")
            d.must(200, "POST", "/v1/templates/t/verify")
        self.wait_rounds(*d.clone("t"))

    def ask(self, d, clone, name):
        with contextlib.suppress(OSError, http.client.HTTPException):
            d.call("POST", f"/v1/clones/{clone['id']}/snapshot", {"name": name})
