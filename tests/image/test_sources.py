# SPDX-License-Identifier: Apache-2.0
"""Archives, directories, and layouts that other programs have written; whole root file systems of Debian's packages."""
import glob
import os
import shutil
import struct
import subprocess
import tempfile

from imagetest import PATIENCE_S, ImageTest, Layer, look


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE_S, **options).stdout


def small_root(path):
    """A root file system with busybox, its links, and one of each kind of file."""
    for folder in ("bin", "dev", "etc", "proc", "tmp", "usr/lib"):
        os.makedirs(os.path.join(path, folder))
    shutil.copy(shutil.which("busybox"), path + "/bin/busybox")
    for applet in ("sh", "ls", "mount"):
        os.symlink("busybox", f"{path}/bin/{applet}")
    os.link(path + "/bin/busybox", path + "/bin/ash")
    os.symlink("usr/lib", path + "/lib")
    os.chmod(path + "/tmp", 0o1777)
    os.mknod(path + "/dev/null", 0o20666, os.makedev(1, 3))
    os.mkfifo(path + "/dev/fifo", 0o640)
    os.setxattr(path + "/bin/busybox", "security.capability", b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12))
    os.setxattr(path + "/etc", "user.note", b"here")
    with open(path + "/etc/shadow", "w", encoding="ascii") as f:
        f.write("root:*:1::::::\n")
    os.chmod(path + "/etc/shadow", 0o640)
    os.chown(path + "/etc/shadow", 0, 42)
    with open(path + "/etc/holes", "wb") as f:
        f.seek(10 << 20)
        f.write(b"end")
    return path


def times_of_tar(found):
    """Whole seconds, as archives of most formats have them."""
    return {path: [value // 10**9 * 10**9 if i == 2 else value for i, value in enumerate(entry)] for path, entry in found.items()}


class Archive(ImageTest):
    def test_packed(self):
        """An archive as it is and in each packing is the same image, which has what was archived."""
        root = small_root(self.dir + "/root")
        archive = self.dir + "/root.tar"
        run("tar", "-C", root, "--xattrs", "--xattrs-include=*", "--format=pax", "-S", "-cf", archive, ".")
        for name, command in (("tar", None), ("tar.gz", ["gzip", "-n"]), ("tar.zst", ["zstd", "-q"]), ("tar.xz", ["xz", "-0"]), ("tar.bz2", ["bzip2"])):
            with self.subTest(name=name):
                path = f"{self.dir}/root.{name}"
                if command:
                    with open(path, "wb") as f, open(archive, "rb") as g:
                        subprocess.run([*command, "-c"], stdin=g, stdout=f, check=True)
                self.make("--tar", path)
                self.assertSame(self.contents(), look(root))
                os.unlink(self.out)

    def test_access_control_lists(self):
        """They are text in an archive, and attributes in the image; the mask is where Linux has it, in the group's bits."""
        root = self.dir + "/root"
        os.makedirs(root + "/d")
        with open(root + "/f", "w", encoding="ascii") as f:
            f.write("f")

        def acl(*lines):
            return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *line) for line in lines)
        none = 0xffffffff
        os.chmod(root + "/f", 0o640)
        os.setxattr(root + "/f", "system.posix_acl_access", acl((1, 6, none), (2, 7, 45678), (2, 4, 45679), (4, 4, none), (8, 5, 45680), (16, 7, none), (32, 0, none)))
        os.setxattr(root + "/d", "system.posix_acl_default", acl((1, 7, none), (2, 5, 12345), (4, 5, none), (16, 5, none), (32, 1, none)))
        archive = self.dir + "/a.tar"
        run("tar", "-C", root, "--acls", "--format=pax", "-cf", archive, ".")
        with open(archive, "rb") as f:
            self.assertIn(b"SCHILY.acl.access", f.read())
        self.make("--tar", archive)
        expected = look(root)
        self.assertEqual(expected["f"][0], "0o100670")
        self.assertSame(self.contents(), expected)
        os.unlink(self.out)
        os.setxattr(root + "/f", "system.posix_acl_access", acl((1, 6, none), (2, 7, 1), (4, 4, none), (16, 7, none), (32, 0, none)))
        run("tar", "-C", root, "--acls", "--format=pax", "-cf", archive, ".")
        self.refuses("--tar", archive, message="'./f': its access control list names somebody without a number")

    def test_names_of_whiteouts(self):
        """They mean nothing in an archive that is no layer."""
        path = self.dir + "/a.tar"
        with open(path, "wb") as f:
            f.write(Layer().add("a", "a").add(".wh.a", "b").bytes())
        report = self.make("--tar", path)
        self.assertFiles({"a": "a", ".wh.a": "b"})
        self.assertEqual(sorted(report)[:3], ["bytes", "data_bytes", "digest"])

    def test_bad(self):
        self.refuses("--tar", self.dir, message="not a regular file")
        self.refuses("--tar", self.dir + "/none", message="No such file")
        with open(self.dir + "/x", "wb") as f:
            f.write(b"x" * 5000)
        self.refuses("--tar", self.dir + "/x", message=f"{self.dir}/x: Unrecognized archive format")
        with open(self.dir + "/empty", "wb"):
            pass
        self.refuses("--tar", self.dir + "/empty", message="Unrecognized archive format")


class Directory(ImageTest):
    def test_root(self):
        """All that is there, to the nanosecond."""
        root = small_root(self.dir + "/root")
        report = self.make("--dir", root, user=0)
        found = self.contents()
        self.assertSame(found, look(root))
        with open(self.out, "rb") as f:
            first = f.read()
        os.unlink(self.out)
        # the same files in another order of the directory, at another place
        run("cp", "-a", "--sparse=always", root, self.dir + "/copy")
        self.assertEqual(self.make("--dir", self.dir + "/copy", user=0), report)
        with open(self.out, "rb") as f:
            self.assertTrue(first == f.read())

    def test_own_rights(self):
        """What the user may not read is an error that names it."""
        root = small_root(self.dir + "/root")
        os.unlink(root + "/dev/null")
        self.refuses("--dir", root, message="open './etc/shadow': Permission denied")
        os.chmod(root + "/etc", 0o700)
        self.refuses("--dir", root, message="open './etc': Permission denied")

    def test_links_are_not_followed(self):
        root = self.dir + "/root"
        os.mkdir(root)
        os.symlink("/etc/passwd", root + "/a")
        os.symlink("/etc", root + "/b")
        self.make("--dir", root)
        found = self.contents()
        self.assertEqual({path: entry[3] for path, entry in found.items()}, {".": None, "a": "/etc/passwd", "b": "/etc"})

    def test_grows_meanwhile(self):
        """A file that another process writes to is an error, not half a file."""
        root = self.dir + "/root"
        os.mkdir(root)
        with open(root + "/log", "wb") as f:
            f.write(bytes(64 << 20))
        writer = subprocess.Popen(["sh", "-c", f"while :; do echo x >> {root}/log; done"])
        try:
            self.refuses("--dir", root, message="'./log' changed while it was read")
        finally:
            writer.kill()
            writer.wait()


class LayoutTest(ImageTest):
    """The image of a layout is what umoci unpacks of it as root."""


    def unpacked(self, layout, tag):
        bundle = tempfile.mkdtemp(prefix="bundle.", dir=self.dir)
        run("umoci", "unpack", "--image", f"{layout}:{tag}", bundle + "/b")
        return look(bundle + "/b/rootfs")

    def compare(self, layout, tag, *words, origin=None):
        """`origin`: the layout that it is a copy of, for umoci cannot read zstd."""
        run("chmod", "-R", "a+rX", layout)
        report = self.make("--oci", layout, *words)
        found, expected = times_of_tar(self.contents()), times_of_tar(self.unpacked(*(origin or (layout, tag))))
        found["."], expected["."] = found["."][:2], expected["."][:2]
        self.assertSame(found, expected)
        self.assertGreater(len(found), 10)
        os.unlink(self.out)
        return report


class Others(LayoutTest):
    """Layouts of skopeo and umoci."""

    def umoci(self, layout, tag, *changes):
        """Puts layers onto an empty image, one for each function that changes the unpacked root."""
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", f"{layout}:{tag}")
        run("umoci", "config", "--image", f"{layout}:{tag}", "--config.env", "PATH=/bin", "--config.cmd", "/bin/sh", "--config.user", "1:2",
            "--config.workingdir", "/tmp", "--config.exposedports", "80/tcp")
        for i, change in enumerate(changes):
            bundle = f"{self.dir}/bundle{i}"
            run("umoci", "unpack", "--image", f"{layout}:{tag}", bundle)
            change(bundle + "/rootfs")
            run("umoci", "repack", "--image", f"{layout}:{tag}", bundle)

    def second(self, root):
        """What a later layer changes."""
        os.unlink(root + "/bin/ls")
        shutil.rmtree(root + "/usr/lib")
        os.mkdir(root + "/usr/lib")
        with open(root + "/usr/lib/new", "w", encoding="ascii") as f:
            f.write("new")
        os.unlink(root + "/dev/fifo")
        os.mkdir(root + "/dev/fifo")
        os.chown(root + "/tmp", 5, 6)

    def test_umoci(self):
        layout = self.dir + "/umoci"
        self.umoci(layout, "tag", lambda root: shutil.copytree(small_root(self.dir + "/root"), root, dirs_exist_ok=True, symlinks=True,
                                                              ignore=shutil.ignore_patterns("dev")) and os.makedirs(root + "/dev/fifo/x"),
                   lambda root: [os.rmdir(root + "/dev/fifo/x"), os.rmdir(root + "/dev/fifo"), os.mkfifo(root + "/dev/fifo")], self.second)
        report = self.compare(layout, "tag", "--ref", "tag")
        self.assertEqual(report["config"], {"User": "1:2", "WorkingDir": "/tmp", "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "ExposedPorts": ["80/tcp"]})

    def test_skopeo(self):
        """skopeo's layouts: other packings, Docker's manifest."""
        layout = self.dir + "/umoci"
        self.umoci(layout, "tag", lambda root: small_root(root + "/sub"))
        for words in (["--dest-compress-format", "zstd", "--dest-compress"], ["--dest-oci-accept-uncompressed-layers"], []):
            copy = tempfile.mkdtemp(prefix="skopeo.", dir=self.dir)
            run("skopeo", "--insecure-policy", "copy", "-q", *words, f"oci:{layout}:tag", f"oci:{copy}:other")
            self.compare(copy, "other", origin=(layout, "tag"))


class Debian(LayoutTest):
    """A root file system with python3, unpacked from Debian's own packages; apt-get brings those that this machine has not."""
    packages = ["base-files", "python3-minimal", "python3.11-minimal", "libpython3.11-minimal", "bash", "coreutils", "perl-base", "libc6", "libc-bin"]

    def test_python(self):
        cache = os.path.join(self.dir, "debs")
        os.mkdir(cache)
        names = subprocess.run(["apt-cache", "show", "--no-all-versions", *self.packages], capture_output=True, text=True, check=False).stdout
        wanted = [name for name in self.packages if f"Package: {name}\n" in names]
        if len(wanted) < 5:
            self.skipTest("apt knows no packages here")
        run("apt-get", "-o", "APT::Sandbox::User=root", "download", "-q", *wanted, cwd=cache)
        root = self.dir + "/debian"
        os.mkdir(root)
        for package in sorted(glob.glob(cache + "/*.deb")):
            run("dpkg-deb", "-x", package, root)
        layout = self.dir + "/layout"
        run("umoci", "init", "--layout", layout)
        run("umoci", "new", "--image", layout + ":py")
        run("umoci", "insert", "--image", layout + ":py", root, "/")
        self.assertEqual(len(self.compare(layout, "py")["layers"]), 1)
