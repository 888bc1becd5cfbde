# SPDX-License-Identifier: Apache-2.0
"""Layouts that are not as they should be: each has an error of its own, which names what is wrong, and leaves nothing."""
import gzip
import json
import os


from imagetest import DOCKER_LAYER, INDEX, LAYER, MANIFEST, ImageTest, Layer, digest

NO_BLOB = "sha256:" + "0" * 64
GOOD = Layer().add("a", "a").bytes()


class Bad(ImageTest):
    def bad(self, layout, message, *words):
        self.refuses("--oci", layout.path, *words, message=message)

    def bad_layer(self, layer, message):
        self.bad(self.layout().image(layer), message)

    def bad_manifest(self, manifest, message):
        layout = self.layout()
        layout.index([layout.blob(manifest(layout), MANIFEST)])
        self.bad(layout, message)


class Layouts(Bad):
    def test_nothing_there(self):
        self.refuses("--oci", self.dir + "/none", message=f"open '{self.dir}/none': No such file or directory")
        self.refuses("--oci", os.path.abspath(__file__), message="Not a directory")

    def test_no_mark(self):
        layout = self.layout().image(GOOD)
        os.unlink(layout.path + "/oci-layout")
        self.bad(layout, "this is no OCI layout: open oci-layout: No such file")

    def test_wrong_mark(self):
        layout = self.layout().image(GOOD)
        layout.write("oci-layout", '{"imageLayoutVersion": "2.0"}')
        self.bad(layout, "oci-layout: imageLayoutVersion '2.0' is not 1.0.0")
        layout.write("oci-layout", '{}')
        self.bad(layout, "oci-layout.imageLayoutVersion: missing")

    def test_no_index(self):
        self.bad(self.layout(), "open index.json: No such file")

    def test_index_is_no_json(self):
        layout = self.layout()
        layout.write("index.json", '{"schemaVersion": 2, "manifests": [')
        self.bad(layout, "index.json is no JSON: ")
        layout.write("index.json", b'{"schemaVersion": 2, "a": "\xff"}')
        self.bad(layout, "index.json is no JSON: ")
        layout.write("index.json", '[]')
        self.bad(layout, "index.json: expected an object, found an array")

    def test_index_without_members(self):
        layout = self.layout()
        layout.write("index.json", '{"schemaVersion": 2}')
        self.bad(layout, "index.json.manifests: missing")
        layout.write("index.json", '{"schemaVersion": 1, "manifests": []}')
        self.bad(layout, "index.json.schemaVersion: 1")
        layout.index([])
        self.bad(layout, "index.json: there is no manifest")
        layout.index([{"mediaType": MANIFEST, "size": 3}])
        self.bad(layout, "index.json.manifests[0].digest: missing")
        layout.index([{"mediaType": MANIFEST, "size": -3, "digest": NO_BLOB}])
        self.bad(layout, "index.json.manifests[0].size: -3")

    def test_unknown_media_type(self):
        layout = self.layout()
        layout.index([layout.blob({}, "application/vnd.unknown+json")])
        self.bad(layout, "media type 'application/vnd.unknown+json' is neither a manifest's nor an index's")

    def test_platform_absent(self):
        layout = self.layout()
        layout.index([{**layout.manifest([layout.layer(GOOD)]), "platform": {"os": "linux", "architecture": a}} for a in ("s390x", "arm64")])
        self.bad(layout, "no image for linux/amd64: those there are for linux/s390x, linux/arm64")

    def test_platform_of_the_configuration(self):
        layout = self.layout()
        layout.index([layout.manifest([layout.layer(GOOD)], layout.config(platform=("linux", "arm64")))])
        self.bad(layout, "the image is for linux/arm64, not for linux/amd64")

    def test_index_in_itself(self):
        """An index whose digest is a lie may name itself: the digest ends it."""
        layout = self.layout()
        inner = {"schemaVersion": 2, "manifests": [{"mediaType": INDEX, "digest": NO_BLOB, "size": 161}]}
        data = json.dumps(inner).encode()
        inner["manifests"][0]["size"] = len(data)
        with open(layout.blob_path(NO_BLOB), "wb") as f:
            f.write(json.dumps(inner).encode())
        layout.index(inner["manifests"])
        self.bad(layout, f"{NO_BLOB}: its digest should be {NO_BLOB}, and is sha256:")


class Blobs(Bad):
    def damaged(self, change):
        """The layout, with its layer's file changed; the layer's digest."""
        layout = self.layout()
        layer = layout.layer(GOOD)
        layout.index([layout.manifest([layer])])
        change(layout.blob_path(layer["digest"]))
        return layout, layer["digest"]

    def test_missing(self):
        layout, name = self.damaged(os.unlink)
        self.bad(layout, f"layer 1 of 1: open blobs/sha256/{name[7:]}: No such file")

    def test_wrong_digest(self):
        def change(path):
            with open(path, "r+b") as f:
                data = f.read()
                f.seek(len(data) - 1)
                f.write(bytes([data[-1] ^ 1]))
        layout, name = self.damaged(change)
        done = self.run_program("--oci", layout.path, "--out", self.out)
        self.assertEqual((done.returncode, os.listdir(self.work)), (1, []))
        self.assertIn(name, done.stderr.decode())       # libarchive may see the damage first

    def test_wrong_digest_behind_the_archive(self):
        """What follows the archive is read, too."""
        layout = self.layout()
        good = gzip.compress(GOOD, mtime=0)
        with open(layout.blob_path(digest(good + b"1")), "wb") as f:
            f.write(good + b"2")
        layout.index([layout.manifest([{"mediaType": LAYER + "+gzip", "digest": digest(good + b"1"), "size": len(good) + 1}])])
        self.bad(layout, f"its digest should be {digest(good + b'1')}, and is {digest(good + b'2')}")

    def test_wrong_size(self):
        layout, name = self.damaged(lambda path: os.truncate(path, 50))
        self.bad(layout, f"blobs/sha256/{name[7:]}: the file has 50 bytes, the descriptor says ")

    def test_size_of_the_descriptor(self):
        layout = self.layout()
        layer = layout.layer(GOOD)
        layout.index([layout.manifest([{**layer, "size": layer["size"] + 1}])])
        self.bad(layout, f"the descriptor says {layer['size'] + 1}")

    def test_no_file(self):
        for change in (lambda path: os.symlink("/etc/passwd", path), os.mkdir, os.mkfifo, lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))):
            def replace(path, change=change):
                os.unlink(path)
                change(path)
            layout, name = self.damaged(replace)
            done = self.run_program("--oci", layout.path, "--out", self.out)
            self.assertRegex(done.stderr.decode(), f"blobs/sha256/{name[7:]}: (a symbolic link, or behind one|not a regular file)")
            self.assertEqual(os.listdir(self.work), [])

    def test_folder_is_a_link(self):
        layout = self.layout().image(GOOD)
        os.rename(layout.path + "/blobs", self.dir + "/blobs")
        os.symlink("../blobs", layout.path + "/blobs")
        self.bad(layout, "a symbolic link, or behind one")

    def test_not_ours_to_read(self):
        layout, name = self.damaged(lambda path: os.chmod(path, 0o600))
        self.bad(layout, f"open blobs/sha256/{name[7:]}: Permission denied")

    def test_digests(self):
        for name, message in (("sha512:" + "0" * 128, "only sha256 is supported"), ("sha256:../../../../etc/passwd", "sha256 has 64 digits"),
                              ("sha256:" + "A" * 64, "sha256 has 64 digits"), ("", "only sha256 is supported")):
            layout = self.layout()
            layout.index([{"mediaType": MANIFEST, "digest": name, "size": 3}])
            self.bad(layout, message)


class Manifests(Bad):
    def test_no_json(self):
        self.bad_manifest(lambda layout: b"manifest", "manifest: sha256:")

    def test_without_members(self):
        self.bad_manifest(lambda layout: {"schemaVersion": 2, "layers": []}, ".config: missing")
        self.bad_manifest(lambda layout: {"schemaVersion": 2, "config": layout.config()}, ".layers: missing")
        self.bad_manifest(lambda layout: {"schemaVersion": 2, "config": layout.config(), "layers": []}, "there are no layers")
        self.bad_manifest(lambda layout: {"schemaVersion": 2, "config": layout.config(), "layers": [7]}, ".layers[0]: expected an object")

    def test_other_kind(self):
        self.bad_manifest(lambda layout: {"schemaVersion": 2, "mediaType": INDEX, "config": layout.config(), "layers": []},
                          f"mediaType '{INDEX}' is not that of a manifest")
        layout = self.layout()
        layout.index([layout.manifest([layout.layer(GOOD)], layout.blob(b"{}", "application/vnd.oci.empty.v1+json"))])
        self.bad(layout, "config.mediaType 'application/vnd.oci.empty.v1+json' is not an image's")

    def test_unknown_packing(self):
        layout = self.layout()
        layout.index([layout.manifest([layout.layer(GOOD, "", LAYER + "+lzma")])])
        self.bad(layout, f"layers[0].mediaType '{LAYER}+lzma' is not a layer's, or packed in an unknown way")

    def test_configuration(self):
        for config, message in ((b"{", "is no JSON"), (b"{}", "architecture: missing"),
                                (b'{"os": "linux", "architecture": "amd64", "config": []}', "config: expected an object"),
                                (b'{"os": "linux", "architecture": "amd64", "config": {"Env": "A=b"}}', "config.Env: "),
                                (b'{"os": "linux", "architecture": "amd64", "config": {"ExposedPorts": []}}', "ExposedPorts: expected an object"),
                                (b'{"os": "linux", "architecture": "amd64", "config": {"Cmd": [1]}}', "config.Cmd[0]: ")):
            layout = self.layout()
            layout.index([layout.manifest([layout.layer(GOOD)], layout.blob(config, "application/vnd.oci.image.config.v1+json"))])
            self.bad(layout, message)


class Archives(Bad):
    def test_other_packing(self):
        for pack, kind, message in (("", LAYER + "+gzip", "should be gzip, and its bytes are not compressed"),
                                    ("+zstd", DOCKER_LAYER, "should be gzip, and its bytes are zstd"),
                                    ("+gzip", LAYER, "should be not compressed, and its bytes are gzip")):
            layout = self.layout()
            layout.index([layout.manifest([layout.layer(GOOD, pack, kind)])])
            self.bad(layout, message)

    def test_no_archive(self):
        self.bad_layer(b"no archive at all" * 100, "Unrecognized archive format")
        self.bad_layer(b"", "Unrecognized archive format")

    def test_truncated(self):
        """The blob is what the manifest says, and yet ends too early: in the archive, in an entry, in what is compressed."""
        data = Layer().add("a", "a" * 3000).bytes()
        self.bad_layer(data[:700], "runcated")
        self.bad_layer(data[:200], "Unrecognized archive format")
        for pack, cut in (("+gzip", gzip.compress(os.urandom(3000) + data)[:2000]), ("+gzip", gzip.compress(data)[:30])):
            layout = self.layout()
            layout.index([layout.manifest([layout.blob(cut, LAYER + pack)])])
            self.bad(layout, "layer 1 of 1: sha256:")

    def test_header_checksum(self):
        data = bytearray(Layer().add("a", "a").add("b", "b").bytes())
        data[1024] ^= 1
        self.bad_layer(bytes(data), "amaged tar archive")

    def test_way_out(self):
        for name in ("../a", "a/../../b", "..", "/../etc/passwd", "a/.."):
            self.bad_layer(Layer().add(name, "x"), f"'{name}': a path with '..'")

    def test_hard_links(self):
        self.bad_layer(Layer().hard("a", "../../etc/passwd"), "hard link 'a' to '../../etc/passwd': '../../etc/passwd': a path with '..'")
        self.bad_layer(Layer().hard("a", "b"), "hard link 'a' to 'b': there is no such file")
        self.bad_layer(Layer().hard("a", "b/c"), "hard link 'a' to 'b/c': 'b/c': there is no 'b' on the way")
        self.bad_layer(Layer().hard("a", "a"), "hard link 'a' to 'a': there is no such file")
        self.bad_layer(Layer().dir("d").hard("a", "d"), "hard link 'a' to 'd': a directory")
        self.bad_layer(Layer().dir("d").add("d/f", "f").hard("d", "d/f"), "hard link 'd' to 'd/f', which it replaces")
        self.bad_layer(Layer().hard("a", "/"), "hard link 'a' to '/': there is no such file")
        self.bad_layer(Layer().link("out", "/../..").hard("a", "out/etc/passwd"), "there is no 'etc' on the way")

    def test_parents(self):
        self.bad_layer(Layer().add("a", "a").add("a/b", "b"), "'a/b': 'a' on the way is no directory")
        self.bad_layer(Layer().link("a", "b").link("b", "a").add("a/c", "c"), "'a/c': more than 40 symbolic links on the way")
        self.bad_layer(Layer().link("a", "x" * 300).add("a/c", "c"), "'a/c': a symbolic link on the way has a name of 300 bytes")

    def test_root(self):
        self.bad_layer(Layer().add(".", "x"), "the root is a directory")
        self.bad_layer(Layer().link("./", "x"), "the root is a directory")

    def test_whiteouts(self):
        for name in (".wh.", ".wh..", ".wh..."):
            self.bad_layer(Layer().dir("d").add(f"d/{name}"), f"'d/{name}': a whiteout that names no file")

    def test_links_to_nothing(self):
        self.bad_layer(Layer().link("a", ""), "'a': a link to nothing")

    def test_owner(self):
        self.bad_layer(Layer().add("a", "a", uid=1 << 32), "owner 4294967296:0 is none")

    def test_names(self):
        self.bad_layer(Layer().add("n" * 256, ""), "a name of 256 bytes, more than 255")
        self.bad_layer(Layer().add("d/" * 2048 + "f", ""), "a path of 4097 bytes")


class Output(Bad):
    def test_there_already(self):
        layout = self.layout().image(GOOD)
        with open(self.out, "w", encoding="ascii") as f:
            f.write("mine")
        done = self.run_program("--oci", layout.path, "--out", self.out)
        self.assertIn(f"make '{self.out}': File exists", done.stderr.decode())
        with open(self.out, encoding="ascii") as f:
            self.assertEqual(f.read(), "mine")

    def test_no_place(self):
        layout = self.layout().image(GOOD)
        self.refuses("--oci", layout.path, "--out", "/proc/none/disk", message="make '/proc/none/disk': No such file")
        self.refuses("--oci", layout.path, "--out", self.dir + "/disk", message="Permission denied")

    def test_descriptors(self):
        """fd=N: a file that is open for both; after a failure it is empty."""
        layout = self.layout().image(GOOD)
        bad = self.layout().image(Layer().add("../a", "a"))
        with open(self.dir + "/disk", "w+b") as f:
            f.write(b"old" * 100000)
            f.flush()
            done = self.run_program("--oci", layout.path, "--out", f"fd={f.fileno()}", pass_fds=[f.fileno()])
            self.assertEqual((done.returncode, done.stderr), (0, b""))
            self.fsck(f.name)
            done = self.run_program("--oci", bad.path, "--out", f"fd={f.fileno()}", pass_fds=[f.fileno()])
            self.assertEqual((done.returncode, os.path.getsize(f.name)), (1, 0))
            large = self.layout().image(Layer().add("a", os.urandom(20 << 20)))     # fails while it is written
            done = self.run_program("--oci", large.path, "--size", "21500K", "--out", f"fd={f.fileno()}", pass_fds=[f.fileno()])
            self.assertEqual((done.returncode, os.path.getsize(f.name)), (1, 0))
        for words, mode in (("fd=%d", "rb"), ("fd=%dx", "rb"), ("fd=", "rb")):
            with open("/dev/null" if mode == "r+b" else f.name, mode) as g:
                text = words % g.fileno() if "%" in words else words
                self.refuses("--oci", layout.path, "--out", text, message=f"--out {text}: must be", pass_fds=[g.fileno()])

    def test_usage(self):
        layout = self.layout().image(GOOD).path
        for words, message in ((["--oci", layout, "--tar", "x"], "only one of them"), ([], "one of --oci, --tar and --dir is needed"),
                               (["--oci", layout, "--size", "5x"], "--size 5x: must be a number"), (["--oci", layout, "--size", "0"], "--size 0"),
                               (["--oci", layout, "--size", "18446744073709551615G"], "must be a number"),
                               (["--oci", layout, "--platform", "linux"], "--platform linux: must be os/architecture"),
                               (["--oci", layout, "--platform", "linux/"], "must be os/architecture"),
                               (["--oci", layout, "more"], "'more' is not an option"), (["--oci", layout, "--more"], "'--more' is not an option"),
                               (["--dir", layout, "--ref", "a"], "--ref is for --oci"), (["--oci", ""], "the path is empty")):
            self.refuses(*words, message=message, status=2)

    def test_full(self):
        """The disk that the image goes to is full."""
        layout = self.layout().image(Layer().add("a", os.urandom(20 << 20)))
        os.system(f"mount -t tmpfs -o size=8M,mode=1777 none {self.work}")
        try:
            self.refuses("--oci", layout.path, message="No space left on device")
        finally:
            os.system(f"umount {self.work}")


class Sizes(Bad):
    def test_too_small(self):
        layout = self.layout().image(Layer().add("a", os.urandom(20 << 20)))
        self.bad(layout, "with it the files have more than the 16777216 bytes of the image", "--size", "16M")
        self.bad(layout, "does not fit into 20983808 bytes: its files alone need 2", "--size", str((20 << 20) + 12288))
        self.bad(layout, "'a': write at byte ", "--size", "21500K")
        self.bad(layout, ": a file system of 22016000 bytes is too small for the image", "--size", "21500K")
        layout = self.layout().image(GOOD)
        self.bad(layout, "a file system of 4096 bytes: it can have 1048576 to ", "--size", "4096")
        self.bad(layout, "it can have 1048576 to 1099511627776", "--size", "2000G")

    def test_small(self):
        """The smallest one has no journal; one of 64 MiB has one."""
        layout = self.layout().image(GOOD)
        for size, journal in (("1M", False), ("64M", True)):
            report = self.make("--oci", layout.path, "--size", size)
            self.assertEqual(os.path.getsize(self.out), report["bytes"])
            with open(self.out, "rb") as f:
                self.assertEqual(bool(f.read(2048)[1024 + 92] & 4), journal)
            os.unlink(self.out)


