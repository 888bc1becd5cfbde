# SPDX-License-Identifier: Apache-2.0
"""OCI layouts that are as they should be: packing, platforms, names, layers over each other."""
import os
import subprocess
import tarfile

from imagetest import DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LIST, DOCKER_MANIFEST, INDEX, LAYER, PACKS, ImageTest, Layer, look, named


def hello():
    return Layer().dir("etc").add("etc/hello", "hello\n", mode=0o640, uid=1000, gid=70000)


class OneLayer(ImageTest):
    def test_image(self):
        """One gzip layer: what is in it, whose it is, and what the report says."""
        layout = self.layout().image(hello(), config={"Env": ["A=b", "C="], "User": "1000", "WorkingDir": "/srv", "Entrypoint": ["/bin/x"],
                                                      "Cmd": None, "ExposedPorts": {"80/tcp": {}, "443/tcp": {}}, "Labels": {"a": "b"}})
        report = self.make("--oci", layout.path)
        found = self.contents()
        self.assertEqual(sorted(found), [".", "etc", "etc/hello"])
        self.assertEqual(found["etc/hello"][:3], ["0o100640", (1000, 70000), 1600000000 * 10**9])
        self.assertFiles({"etc/hello": "hello\n"})
        self.assertEqual(report["config"], {"User": "1000", "WorkingDir": "/srv", "Env": ["A=b", "C="], "Entrypoint": ["/bin/x"],
                                            "ExposedPorts": ["80/tcp", "443/tcp"]})
        self.assertEqual((report["source"], report["entries"], report["data_bytes"]), ("oci", 2, 6))
        self.assertEqual(report["bytes"], os.path.getsize(self.out))
        self.assertEqual(len(report["layers"]), 1)

    def test_same_bytes(self):
        """The same image becomes the same bytes, by another path, at another time, as another user, and takes little of the disk."""
        layout = self.layout().image(hello())
        self.make("--oci", layout.path)
        with open(self.out, "rb") as f:
            first = f.read()
        os.unlink(self.out)
        os.rename(layout.path, layout.path + "-elsewhere")
        self.make("--oci", layout.path + "-elsewhere", user=0)
        with open(self.out, "rb") as f:
            self.assertTrue(first == f.read())
        self.assertLess(os.stat(self.out).st_blocks * 512, 4 << 20)


class Packing(ImageTest):
    def test_each(self):
        """Layers in gzip, in zstd and as they are, Docker's media types and OCI's, are the same image."""
        expected = None
        for pack, kind in (("", None), ("+gzip", None), ("+zstd", None), ("+gzip", DOCKER_LAYER)):
            with self.subTest(pack=pack, kind=kind):
                layout = self.layout()
                config = layout.config(kind=DOCKER_CONFIG) if kind else None
                layout.index([layout.manifest([layout.layer(hello(), pack, kind)], config, kind=DOCKER_MANIFEST if kind else
                                              "application/vnd.oci.image.manifest.v1+json")])
                self.make("--oci", layout.path)
                found = self.contents()
                os.unlink(self.out)
                expected = expected or found
                self.assertEqual(found, expected)

    def test_members(self):
        """Several gzip members and zstd frames behind each other, and a frame that is to be skipped, are one archive."""
        data = Layer().add("a", "a" * 5000).bytes()
        for pack, extra in (("+gzip", b""), ("+zstd", b"\x50\x2a\x4d\x18\x04\0\0\0abcd")):
            with self.subTest(pack=pack):
                layout = self.layout()
                packed = PACKS[pack](data[:3000]) + PACKS[pack](data[3000:]) + extra
                layout.index([layout.manifest([layout.blob(packed, LAYER + pack)])])
                self.make("--oci", layout.path)
                self.assertFiles({"a": "a" * 5000})
                os.unlink(self.out)


class Choice(ImageTest):
    def two_platforms(self, layout):
        made = []
        for architecture in ("arm64", "amd64"):
            manifest = layout.manifest([layout.layer(Layer().add("what", architecture))], layout.config(platform=("linux", architecture)))
            made.append({**manifest, "platform": {"os": "linux", "architecture": architecture}})
        return made

    def test_platform(self):
        """An index of several platforms, flat or inside another one, Docker's too; what belongs to an image without being one is passed by."""
        for kind in (None, INDEX, DOCKER_LIST):
            for wanted in ("amd64", "arm64"):
                with self.subTest(kind=kind, wanted=wanted):
                    layout = self.layout()
                    attestation = {**layout.manifest([layout.layer(Layer().add("what", "nothing"))]),
                                   "platform": {"os": "unknown", "architecture": "unknown"}}
                    manifests = [attestation, *self.two_platforms(layout)]
                    if kind:
                        manifests = [layout.blob({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}, kind)]
                    layout.index(manifests)
                    self.make("--oci", layout.path, "--platform", f"linux/{wanted}")
                    self.assertFiles({"what": wanted})
                    os.unlink(self.out)

    def test_variant(self):
        layout = self.layout()
        manifests = []
        for variant in ("v6", "v7"):
            manifest = layout.manifest([layout.layer(Layer().add("what", variant))], layout.config(platform=("linux", "arm")))
            manifests.append({**manifest, "platform": {"os": "linux", "architecture": "arm", "variant": variant}})
        layout.index([layout.blob({"schemaVersion": 2, "manifests": manifests}, INDEX)])
        self.make("--oci", layout.path, "--platform", "linux/arm/v7")
        self.assertFiles({"what": "v7"})
        os.unlink(self.out)
        self.make("--oci", layout.path, "--platform", "linux/arm")
        self.assertFiles({"what": "v6"})

    def test_names(self):
        """--ref; a layout with two names for one image needs none; one with two images does."""
        layout = self.layout()
        one, two = (layout.manifest([layout.layer(Layer().add("what", text))]) for text in ("one", "two"))
        layout.index([named(one, "1"), {**two, "annotations": {"io.containerd.image.name": "docker.io/library/two:latest"}}])
        self.make("--oci", layout.path, "--ref", "1")
        self.assertFiles({"what": "one"})
        os.unlink(self.out)
        self.make("--oci", layout.path, "--ref", "docker.io/library/two:latest")
        self.assertFiles({"what": "two"})
        os.unlink(self.out)
        self.refuses("--oci", layout.path, message="more than one image: say which by --ref; those there are 1, docker.io/library/two:latest")
        self.refuses("--oci", layout.path, "--ref", "3", message="no image called '3': those there are 1, docker.io/library/two:latest")
        layout.index([named(one, "1"), named(one, "2")])
        self.make("--oci", layout.path)
        self.assertFiles({"what": "one"})


class Layers(ImageTest):
    def image(self, *layers):
        self.make("--oci", self.layout().image(*layers).path)

    def test_replaced(self):
        """A later layer's file replaces an earlier one's, of whatever type; a directory over a directory keeps what is in it."""
        self.image(Layer().add("a", "1").dir("d", mode=0o700).add("d/x", "x").link("l", "d").add("f", "1").dir("e").add("e/y", "y"),
                   Layer().add("a", "2").dir("d", mode=0o711, uid=5).add("l", "a file").dir("f").add("f/z", "z").add("e", "2"))
        self.assertFiles({"a": "2", "d/x": "x", "l": "a file", "f/z": "z", "e": "2"})
        self.assertEqual(self.contents()["d"][:2], ["0o40711", (5, 0)])

    def test_whiteouts(self):
        """A whiteout takes away what is below its layer, in whatever order the layer has it, and nothing of the layer itself."""
        below = Layer().dir("d").add("d/a", "a").add("d/b", "b").dir("d/sub").add("d/sub/c", "c").add("e", "e").add("f", "f")
        self.image(below, Layer().add("d/.wh.a").add(".wh.e").add("e2", "e2").add("f", "new").add(".wh.f")
                   .add("d/sub/n", "n").add("d/.wh.sub").add(".wh.none").add("nowhere/.wh.none"))
        self.assertFiles({"d/b": "b", "d/sub/n": "n", "e2": "e2", "f": "new"})

    def test_opaque(self):
        """An opaque directory hides all below, and what its own layer has stays, before the mark and behind it."""
        below = Layer().dir("d").add("d/a", "a").dir("d/sub").add("d/sub/c", "c").add("d/both", "old")
        self.image(below, Layer().dir("d").add("d/before", "1").add("d/.wh..wh..opq").add("d/behind", "2").add("d/sub/n", "n").add("d/both", "new"))
        self.assertFiles({"d/before": "1", "d/behind": "2", "d/sub/n": "n", "d/both": "new"})

    def test_opaque_root(self):
        self.image(Layer().add("a", "a").dir("d").add("d/b", "b"), Layer().add(".wh..wh..opq").add("c", "c"))
        self.assertFiles({"c": "c"})

    def test_whiteout_of_a_replaced_link(self):
        """One name of a file is taken away, the others stay."""
        self.image(Layer().add("a", "text").hard("b", "a").hard("c", "./b"), Layer().add(".wh.a").hard("d", "c"))
        found = self.contents()
        self.assertEqual(found["b"][5], ["b", "c", "d"])
        self.assertFiles({name: "text" for name in "bcd"})

    def test_hard_links(self):
        """Within a layer, to a file of an earlier one, to a symbolic link; the file that a name is taken from lives on."""
        self.image(Layer().add("a", "old").hard("b", "/a").link("s", "a").add("x", "x"),
                   Layer().add("a", "new").hard("c", "b").hard("t", "s").hard("x", "x").hard("c", "b"))
        found = self.contents()
        self.assertFiles({"a": "new", "b": "old", "c": "old", "x": "x"})
        self.assertEqual((found["b"][5], found["t"][5], found["a"][5]), (["b", "c"], ["s", "t"], ["a"]))
        self.assertEqual(found["t"][3], "a")

    def test_through_links(self):
        """A path may go through symbolic links of the image: absolute ones, and those that try to leave it, end in it."""
        self.image(Layer().dir("usr").dir("usr/lib").link("lib", "usr/lib").link("abs", "/usr").link("out", "../../../../usr/lib/../.."),
                   Layer().add("lib/a", "1").add("abs/b", "2").add("out/c", "3").link("dangling", "made/here").add("dangling/d", "4")
                   .hard("lib/e", "lib/a"))
        self.assertFiles({"usr/lib/a": "1", "usr/lib/e": "1", "usr/b": "2", "c": "3", "made/here/d": "4"})

    def test_missing_directories(self):
        """They are root's, with mode 755; one that comes later has what it says."""
        self.image(Layer().add("a/b/c", "c").dir("a", mode=0o700, uid=7))
        found = self.contents()
        self.assertEqual((found["a"][:2], found["a/b"][:2]), (["0o40700", (7, 0)], ["0o40755", (0, 0)]))

    def test_root(self):
        """The root's own entry."""
        self.image(Layer().dir("./", mode=0o1711, uid=3, gid=4).add("./a", "a"))
        self.assertEqual(self.contents()["."][:3], ["0o41711", (3, 4), 1600000000 * 10**9])


class Files(ImageTest):
    def test_all_kinds(self):
        """What tar unpacks as root is what is in the image, entry by entry: types, owners, modes, times, attributes, links."""
        capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        layer = (Layer().dir("d", mode=0o2775, uid=10, gid=20, mtime=-5).add("d/f", "text", mode=0o4755, uid=4294967294, gid=99999)
                 .hard("d/g", "d/f").add("d/cap", "c", xattrs={"security.capability": capability, "user.two": b"2"}).add("empty", "")
                 .add("null", None, tarfile.CHRTYPE, 0o666, dev=(1, 3)).add("disk", None, tarfile.BLKTYPE, 0o660, gid=6, dev=(259, 300000))
                 .add("fifo", None, tarfile.FIFOTYPE, 0o600).link("short", "/etc/passwd").link("long", "x" * 59).link("longer", "y" * 60)
                 .link("longest", "z" * 4095).hard("again", "longest").dir("sticky", mode=0o1777, mtime=4000000000, xattrs={"user.dir": b"\xc3\xa4" * 40})
                 .add("n" * 255, "n").add("deep/" * 60 + "file", "deep").add("later", "l", mtime=1700000000.123456789)
                 .add("n\u00e4me \u4e16\u754c \n", "u").add("many attributes", "m", xattrs={f"user.{i}": b"v" * 30 for i in range(30)}))
        data = layer.bytes()
        self.make("--oci", self.layout().image(data).path)
        self.assertSame(self.contents(), self.as_tar_does(data))

    def as_tar_does(self, data):
        root = os.path.join(self.dir, "unpacked")
        os.mkdir(root)
        subprocess.run(["tar", "-x", "--numeric-owner", "-p", "--same-owner", "--xattrs", "--xattrs-include=*", "-C", root], input=data, check=True)
        found = look(root)
        found["."] = self.contents()["."]       # the archive does not say it
        for path in found:
            if path.startswith("deep") and not path.endswith("file"):
                found[path][2] = 0              # nor these
        return found

    def test_names_of_bytes(self):
        """A name that is no UTF-8 stays as it is."""
        layer = Layer()
        layer.tar = tarfile.open(fileobj=layer.file, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1")
        layer.add("caf\xe9", "1").add("\xff" * 200, "2").link("l\xe9", "caf\xe9")
        self.make("--oci", self.layout().image(layer).path)
        with self.mounted() as root:
            self.assertEqual(sorted(os.listdir(root.encode())), sorted([b"caf\xe9", b"\xff" * 200, b"l\xe9", b"lost+found"]))
            self.assertEqual(os.readlink(os.path.join(root.encode(), b"l\xe9")), b"caf\xe9")

    def test_many(self):
        """A directory of many blocks, and a file of many pieces with holes in it."""
        layer = Layer()
        for i in range(20000):
            layer.add(f"many/file-{i:06d}-" + "x" * (i % 100), str(i))
        pieces = b"".join((b"\0" if i % 3 else b"x") * 4096 for i in range(9000))
        layer.add("pieces", pieces + b"end")
        self.make("--oci", self.layout().image(layer).path)
        with self.mounted() as root:
            self.assertEqual(len(os.listdir(root + "/many")), 20000)
            with open(f"{root}/many/file-{19999:06d}-" + "x" * 99, encoding="ascii") as f:
                self.assertEqual(f.read(), "19999")
            with open(root + "/pieces", "rb") as f:
                self.assertTrue(f.read() == pieces + b"end")
            self.assertLess(os.stat(root + "/pieces").st_blocks * 512, len(pieces) // 2)

    def test_attributes_without_a_place(self):
        """Attributes that Linux has no place for are left out, and counted."""
        report = self.make("--oci", self.layout().image(Layer().add("a", "a", xattrs={"com.apple.x": b"1", "user.y": b"2"})).path)
        self.assertEqual(report["dropped_xattrs"], 1)
        self.assertEqual(self.contents()["a"][4], {"user.y": b"2"})

    def test_lost_and_found(self):
        """That of the image is the file system's; one that is a file cannot be."""
        layout = self.layout().image(Layer().dir("lost+found", mode=0o711, uid=9).add("lost+found/x", "x"))
        self.make("--oci", layout.path)
        with self.mounted() as root:
            self.assertEqual(look(root)["lost+found"][:2], ["0o40711", (9, 0)])
        os.unlink(self.out)
        self.refuses("--oci", self.layout().image(Layer().add("lost+found", "x")).path, message="'/lost+found' is no directory")
