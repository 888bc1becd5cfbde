# SPDX-License-Identifier: Apache-2.0
"""Images that want too much: each bound is reached before anything else gives way."""
import io
import os
import resource
import tarfile
import zlib

from imagetest import BUILD, INDEX, LAYER, PACKS, ImageTest, Layer

MANY = 1000000


def header(name, size=0, **more):
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT)


def packed(*pieces):
    """gzip of (bytes, times) one behind the other, without having them in memory."""
    out, z = io.BytesIO(), zlib.compressobj(6, zlib.DEFLATED, 31)
    for data, times in pieces:
        whole, rest = divmod(times, 100)
        chunk = data * 100
        for _ in range(whole):
            out.write(z.compress(chunk))
        out.write(z.compress(data * rest))
    out.write(z.flush())
    return out.getvalue()


class Bounds(ImageTest):
    def layer(self, data, kind=LAYER + "+gzip"):
        layout = self.layout()
        layout.index([layout.manifest([layout.blob(data, kind)])])
        return layout.path

    def too_much(self, path, message, *words):
        """The program itself stays below 1 GiB, whatever the image wants."""
        def limit():
            if "asan" not in BUILD:         # which maps terabytes for itself
                resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
        self.refuses("--oci", path, *words, message=message, preexec_fn=limit)

    def test_entries(self):
        """A million entries, and one more; all of one name, which is as much work."""
        self.too_much(self.layer(packed((header("same"), MANY + 1))), f"'same': the image has more than {MANY} entries")

    def test_memory(self):
        """125000 names of 255 bytes, each with a long target, are more than the tree may hold."""
        z, out = zlib.compressobj(1, zlib.DEFLATED, 31), io.BytesIO()
        info = tarfile.TarInfo("n" * 249 + "NUMBER")     # in a block of its own, which no checksum is of
        info.type, info.linkname = tarfile.SYMTYPE, "t" * 4000
        entry = info.tobuf(tarfile.GNU_FORMAT)
        for i in range(125000):
            out.write(z.compress(entry.replace(b"NUMBER", b"%06d" % i)))
        out.write(z.flush())
        self.too_much(self.layer(out.getvalue()), "the names and attributes of the image need more than 512 MiB of memory")

    def test_terabyte_of_zeros(self):
        """The entry alone says it, and so does what comes out: nothing of it is written."""
        tera = header("zeros", 1 << 40)
        path = self.layer(packed((tera, 1), (bytes(1 << 20), 100)))
        self.too_much(path, "'zeros' of 1099511627776 bytes: more than 275951648768 bytes come out of the image's archives")
        self.too_much(path, "'zeros' of 1099511627776 bytes: more than 5368709120 bytes come out", "--size", "1G")
        path = self.layer(packed((header("zeros", 80 << 30), 1), (bytes(1 << 20), 100)))
        self.too_much(path, "'zeros' of 85899345920 bytes: with it the files have more than the 68719476736 bytes of the image")

    def test_replaced_again_and_again(self):
        """Files that replace each other never make the image larger, and yet have an end."""
        piece = header("same", 1 << 20) + bytes(1 << 20)
        self.too_much(self.layer(packed((piece, 1200))), "more than 1077936128 bytes come out of the image's archives", "--size", "1M")

    def test_headers(self):
        """Entries whose headers are long, and which have nothing else, come to an end, too."""
        pax = header("x", 900000, type=b"x") + b"900000 comment=".ljust(899999, b"c") + b"\n" + bytes(-900000 % 512) + header("same")
        self.too_much(self.layer(packed((pax, 1250))), "more than 1077936128 bytes come out of the image's archives", "--size", "1M")

    def test_entry_that_is_skipped(self):
        """Data behind an entry that has none is counted before it is skipped."""
        link = header("l", 1 << 40, type=tarfile.DIRTYPE)
        data = self.layer(packed((header("a"), 1), (link, 1), (bytes(1 << 20), 100)))
        done = self.run_program("--oci", data, "--size", "1M", "--out", self.out)
        self.assertEqual((done.returncode, os.listdir(self.work)), (1, []))

    def test_depth(self):
        """Directories inside each other; through links, where no path is long, too."""
        self.too_much(self.layer(PACKS["+gzip"](Layer().add("d/" * 513 + "f").bytes())), "more than 512 directories inside each other")
        layer = Layer().add("d/" * 300 + "f").link("l", "d/" * 300).add("l/" + "d/" * 300 + "f")
        self.too_much(self.layer(PACKS["+gzip"](layer.bytes())), "more than 512 directories inside each other")
        self.make("--oci", self.layout().image(Layer().add("d/" * 512 + "f", "deep")).path)
        self.assertFiles({"d/" * 512 + "f": "deep"})

    def test_links(self):
        """Names of one file."""
        layer = Layer().add("a")
        for i in range(65000):
            layer.hard(f"l{i}", "a")
        self.too_much(self.layer(PACKS["+gzip"](layer.bytes())), "hard link 'l64999' to 'a': a file with more than 65000 names")

    def test_directories(self):
        """More subdirectories than a directory's number of links can say."""
        layer = Layer()
        for i in range(66000):
            layer.dir(f"d{i}")
        self.make("--oci", self.layer(PACKS["+gzip"](layer.bytes())))
        with self.mounted() as root:
            self.assertEqual((os.stat(root).st_nlink, len(os.listdir(root))), (1, 66001))

    def test_attributes(self):
        self.too_much(self.layer(PACKS["+gzip"](Layer().add("a", xattrs={"user.a": b"v" * 4100}).bytes())),
                      "'a': extended attributes of 4106 bytes, more than 4096")
        self.too_much(self.layer(PACKS["+gzip"](Layer().add("a", xattrs={f"user.{i}": b"" for i in range(65)}).bytes())),
                      "'a': 65 extended attributes, more than 64")
        self.too_much(self.layer(PACKS["+gzip"](Layer().add("a", xattrs={f"user.{i}": b"v" * 57 for i in range(64)}).bytes())),
                      "its extended attributes need more room than ext4 has for them")
        self.too_much(self.layer(PACKS["+gzip"](Layer().link("a", "t" * 4096).bytes())), "'a': a symbolic link of 4096 bytes, more than 4095")

    def test_documents(self):
        """Indexes, manifests and configurations have a size, and so have their lists."""
        layout = self.layout()
        layout.write("index.json", b" " * (4 << 20) + b"{}")
        self.too_much(layout.path, "index.json: 4194306 bytes, more than 4194304")
        layout.index([layout.blob(b" " * (4 << 20) + b"{}", INDEX)])
        self.too_much(layout.path, "4194306 bytes, more than 4194304")
        layout.index([layout.blob(b"{}", INDEX)] * 1025)
        self.too_much(layout.path, "index.json.manifests: ")
        layer = layout.layer(Layer().add("a"))
        layout.index([layout.manifest([layer] * 513)])
        self.too_much(layout.path, ".layers: ")
        layout.index([layout.manifest([layer] * 512)])
        self.assertEqual(self.make("--oci", layout.path)["entries"], 512)

    def test_indexes(self):
        """Indexes inside each other, and beside each other."""
        layout = self.layout()
        inner = layout.manifest([layout.layer(Layer().add("a", "a"))])
        for depth in range(6):
            layout.index([inner])
            if depth <= 4:
                self.make("--oci", layout.path)
                os.unlink(self.out)
            else:
                self.too_much(layout.path, "more than 4 indexes inside each other")
            inner = layout.blob({"schemaVersion": 2, "manifests": [inner]}, INDEX)
        layout.index([layout.blob({"schemaVersion": 2, "manifests": [], "n": i}, INDEX) for i in range(65)])
        self.too_much(layout.path, "the layout has more than 64 indexes")

    def test_platforms_in_a_message(self):
        """What a message lists has an end."""
        layout = self.layout()
        layout.index([{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:" + "0" * 64, "size": 1,
                       "platform": {"os": "o" * 30, "architecture": f"{i:030d}"}} for i in range(1000)])
        done = self.run_program("--oci", layout.path, "--out", self.out)
        self.assertLess(len(done.stderr), 1000)
        self.assertEqual(done.returncode, 1)


