# SPDX-License-Identifier: Apache-2.0
"""forkctl cp, against a real agent: files, directories, and a guest that means harm."""
import io
import os
import pty
import shutil
import signal
import stat
import subprocess
import tarfile

from agenttest import wait_for
from ctltest import ID, CtlTest

BIG = 6 << 20


class Copy(CtlTest):
    guest_path = None       # the PATH of the guest

    def setUp(self):
        before = os.environ["PATH"]
        self.own_path = before
        if self.guest_path is not None:
            os.environ["PATH"] = self.guest_path
        try:
            super().setUp()
        finally:
            os.environ["PATH"] = before
        self.env["PATH"] = before
        self.here, self.there = self.file("here"), self.file("there")
        os.mkdir(self.here)
        os.mkdir(self.there)

    def cp(self, source, target, **more):
        return self.ctl("cp", source, target, **{"cwd": self.here, **more})

    def at(self, name):
        """A path of the guest, for forkctl."""
        return f"{ID}:{self.there}/{name}"

    def put(self, folder, name, data=b"", mode=None):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as f:
            f.write(data)
        if mode is not None:
            os.chmod(path, mode)
        return path

    @staticmethod
    def get(*path):
        with open(os.path.join(*path), "rb") as f:
            return f.read()

    @staticmethod
    def tree(folder):
        """{name: bytes, "/" for a directory, or "-> …"} of all below."""
        found = {}
        for base, directories, files in os.walk(folder):
            for name in directories + files:
                path = os.path.join(base, name)
                found[os.path.relpath(path, folder)] = (f"-> {os.readlink(path)}" if os.path.islink(path) else
                                                        "/" if os.path.isdir(path) else Copy.get(path))
        return found


class Files(Copy):
    def test_there_and_back(self):
        data = os.urandom(1 << 16) * (BIG >> 16) + b"odd"
        self.put(self.here, "a b%", data)
        self.cp("a b%", self.at("new/dir/x y&z"))
        self.assertTrue(self.get(self.there, "new/dir/x y&z") == data)
        self.cp(self.at("new/dir/x y&z"), "back")
        self.assertTrue(self.get(self.here, "back") == data)
        self.cp("a b%", self.at("new/"))
        self.assertTrue(self.get(self.there, "new/a b%") == data)
        self.cp(self.at("new/a b%"), ".")
        self.put(self.here, "empty")
        self.cp("./empty", self.at("empty"))
        self.cp(self.at("empty"), "empty2")
        self.assertEqual(self.get(self.here, "empty2"), b"")
        self.assertEqual(sorted(os.listdir(self.here)), ["a b%", "back", "empty", "empty2"])

    def test_permissions(self):
        self.put(self.here, "run", b"x", 0o755)
        self.put(self.here, "secret", b"x", 0o600)
        for name, mode in (("run", 0o755), ("secret", 0o600)):
            self.cp(name, self.at(name))
            self.assertEqual(os.stat(os.path.join(self.there, name)).st_mode & 0o7777, mode)
            self.cp(self.at(name), "back-" + name)
            self.assertEqual(os.stat(os.path.join(self.here, "back-" + name)).st_mode & 0o7777, mode)
        os.chmod(os.path.join(self.there, "run"), 0o4777)
        self.cp(self.at("run"), "new", umask=0o027)
        self.assertEqual(os.stat(os.path.join(self.here, "new")).st_mode & 0o7777, 0o750)
        self.cp(self.at("run"), "secret")       # what is there keeps its own
        self.assertEqual(os.stat(os.path.join(self.here, "secret")).st_mode & 0o7777, 0o600)

    def test_standard_streams(self):
        data = os.urandom(300000)
        self.cp("-", self.at("x"), data=data)
        self.assertTrue(self.get(self.there, "x") == data)
        self.assertTrue(self.cp(self.at("x"), "-")[0] == data)
        os.symlink("target", os.path.join(self.here, "link"))
        self.put(self.here, "target", b"old")
        self.cp(self.at("x"), "link")
        self.assertTrue(self.get(self.here, "target") == data)
        self.assertEqual(os.readlink(os.path.join(self.here, "link")), "target")
        self.cp(self.at("x"), "/dev/null")
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))

    def test_mistakes(self):
        self.assertIn("ID:PATH", self.cp("a", "b", status=2)[1])
        self.assertIn("ID:PATH", self.cp("x:a", "y:b", status=2)[1])
        self.assertIn("No such file", self.cp("none", self.at("x"), status=1)[1])
        self.assertIn("there is no", self.cp(self.at("none"), "x", status=1)[1])
        self.assertIn("cannot write", self.cp(f"{ID}:/etc/passwd", "no/such/directory", status=1)[1])
        self.put(self.here, "x", b"1")
        self.assertIn("no directory", self.cp("x", self.at("none/"), status=1)[1])
        self.assertIn("no such clone", self.ctl("cp", "c-2:/etc/passwd", "-", status=1)[1])
        self.assertIn("no-such-user", self.ctl("cp", "-u", "no-such-user", f"{ID}:/etc/passwd", "-", status=1)[1])
        self.assertIn("user's name", self.ctl("cp", "-u", "a:b", f"{ID}:/etc/passwd", "-", status=2)[1])
        self.assertEqual(os.listdir(self.here), ["x"])

    def test_interrupted(self):
        """Nothing of a half file stays, on either side."""
        for end in ("signal", "cut"):
            p = self.begin("cp", "-", self.at("half"), stdin=subprocess.PIPE, cwd=self.here)
            p.stdin.write(b"x" * (1 << 20))
            p.stdin.flush()
            # All of it, and forkctl has nothing more to send: it must see the end without being told by a write.
            wait_for("all bytes are in the guest", lambda: self.open_files() == [1 << 20])
            p.send_signal(signal.SIGTERM) if end == "signal" else self.daemon.cut()
            self.assertEqual(p.wait(60), 128 + 15 if end == "signal" else 3, p.stderr.read())
            wait_for("the agent has given it up", lambda: self.open_files() == [])
        self.assertEqual(os.listdir(self.there), [])
        for end in ("signal", "cut"):
            self.daemon.instead_of_files = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5000000\r\n\r\n" + b"x" * 100000
            self.put(self.there, "half", b"whole")
            p = self.begin("cp", self.at("half"), "half", cwd=self.here)
            wait_for("bytes are here", lambda: any(n.startswith("half.forkctl-") and self.get(self.here, n) for n in os.listdir(self.here)))
            p.send_signal(signal.SIGINT) if end == "signal" else self.daemon.cut()
            self.assertEqual(p.wait(60), 128 + 2 if end == "signal" else 3)
            self.assertEqual([n for n in os.listdir(self.here) if "half" in n], [])

    def open_files(self):
        """The sizes of what the agent writes in the test's guest directory."""
        found = []
        for fd in os.listdir(f"/proc/{self.agent.pid}/fd"):
            path = f"/proc/{self.agent.pid}/fd/{fd}"
            try:
                if os.readlink(path).startswith(self.there + "/"):
                    found.append(os.stat(path).st_size)
            except FileNotFoundError:
                continue
        return found

    def test_progress(self):
        """On a terminal, of a large file."""
        data = b"x" * (4 << 20)
        master, slave = pty.openpty()
        p = self.begin("cp", "-", self.at("big"), stdin=subprocess.PIPE, stderr=slave)
        os.close(slave)
        for _ in range(3):
            p.stdin.write(data)
            p.stdin.flush()
        shown = b""
        while b"/s" not in shown:         # a line comes in pieces
            shown += os.read(master, 4096)
        p.stdin.close()
        self.assertEqual(p.wait(60), 0)
        self.assertRegex(shown, rb"\r-: \d+\.\d MiB, .*/s")
        os.close(master)
        self.assertEqual(self.cp(self.at("big"), "/dev/null")[1], "")

    def test_over_tls(self):
        self.over_tls()
        data = os.urandom(1 << 20)
        self.put(self.here, "x", data)
        self.cp("x", self.at("x"))
        self.assertTrue(self.cp(self.at("x"), "-")[0] == data)


class Trees(Copy):
    def setUp(self):
        super().setUp()
        self.put(self.here, "src/a/b/file", os.urandom(100000), 0o640)
        self.put(self.here, "src/run", b"#!/bin/sh\n", 0o755)
        os.mkdir(os.path.join(self.here, "src/none"))
        os.symlink("a/b", os.path.join(self.here, "src/link"))
        self.whole = self.tree(os.path.join(self.here, "src"))
        self.assertEqual(len(self.whole), 6)

    def test_there_and_back(self):
        self.cp("src", self.at("new"))
        self.assertEqual(self.tree(self.there + "/new"), self.whole)
        self.cp("src/", self.at("new"))
        self.assertEqual(self.tree(self.there + "/new/src"), self.whole)
        self.cp("src/.", self.at("."))
        self.assertEqual(self.get(self.there, "run"), b"#!/bin/sh\n")
        self.assertEqual(os.stat(self.there + "/a/b/file").st_mode & 0o7777, 0o640)
        self.cp(self.at("new/src"), ".")        # over what is there
        self.assertEqual(self.tree(self.here + "/src"), self.whole)
        self.cp(self.at("new/src"), "other")
        self.assertEqual(self.tree(self.here + "/other"), self.whole)
        self.assertEqual(os.stat(self.here + "/other/run").st_mode & 0o7777, 0o755)
        self.cp(self.at("new/src/."), "other/none")
        self.assertEqual(self.tree(self.here + "/other/none"), self.whole)
        self.assertEqual(sorted(os.listdir(self.here)), ["other", "src"])

    def test_archives(self):
        out, _ = self.cp(self.at("."), "-")
        tarfile.open(fileobj=io.BytesIO(out)).close()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as t:
            t.add(self.here + "/src", "name")
        self.cp("-", self.at("."), data=archive.getvalue())
        self.assertEqual(self.tree(self.there + "/name"), self.whole)

    def test_mistakes(self):
        self.put(self.there, "file")
        self.assertIn("not a directory", self.cp("src", self.at("file"), status=1)[1])
        self.put(self.here, "file")
        self.cp(f"{ID}:{self.here}/src", "file", status=1)
        self.assertEqual(self.get(self.here, "file"), b"")
        self.assertEqual(sorted(os.listdir(self.here)), ["file", "src"])


class Hostile(Copy):
    """The guest's tar writes what it likes."""

    def setUp(self):
        self.guest_path = f"/tmp/forkd-guest-{os.getpid()}:" + os.environ["PATH"]
        self.bin = self.guest_path.partition(":")[0]
        os.mkdir(self.bin)
        self.addCleanup(shutil.rmtree, self.bin)
        super().setUp()
        self.outside = self.file("outside")
        os.mkdir(self.outside)

    def archive(self, *members, absolute=False):
        """(name, kind, what): what the guest sends instead of a directory."""
        with tarfile.open(self.file("evil.tar"), "w") as t:
            for name, kind, what in members:
                m = tarfile.TarInfo(name)
                m.type, m.mode = kind, 0o6777
                if kind == tarfile.REGTYPE:
                    m.size = len(what)
                    t.addfile(m, io.BytesIO(what))
                else:
                    m.linkname = what if isinstance(what, str) else ""
                    m.devmajor, m.devminor = what if isinstance(what, tuple) else (0, 0)
                    t.addfile(m)
        self.put(self.bin, "tar", f"#!/bin/sh\ncat {self.file('evil.tar')}\n".encode(), 0o755)

    def test_interrupted(self):
        """A signal, a connection that breaks in the middle: nothing is left."""
        self.archive(("data", tarfile.REGTYPE, os.urandom(1 << 20)))
        self.put(self.bin, "tar", f"#!/bin/sh\nhead -c 500000 {self.file('evil.tar')}; exec sleep 1000\n".encode(), 0o755)
        for end in ("signal", "cut"):
            p = self.begin("cp", self.at("."), "copy", cwd=self.here)
            wait_for("half a file", lambda: any("data" in files for _, _, files in os.walk(self.here)))
            p.send_signal(signal.SIGTERM) if end == "signal" else self.daemon.cut()
            self.assertEqual(p.wait(60), 128 + 15 if end == "signal" else 1)
            self.assertEqual(os.listdir(self.here), [])
        for q in self.processes():
            self.call("process.Process/SendSignal", {"process": {"pid": q["pid"]}, "signal": "SIGNAL_SIGKILL"})
        self.nothing_runs()

    def test_ways_out(self):
        """Names and links that lead out of the copy: nothing outside changes."""
        victim = self.put(self.outside, "victim", b"old")
        up = "../../../outside"         # from where the archive is unpacked
        new = (tarfile.REGTYPE, b"new")
        cases = [       # what tar does about it: it refuses the archive, or makes the names harmless
            ([(f"{up}/victim", *new), (f"{up}/created", *new)], 1, "contains '..'"),
            ([(f"{self.outside}/victim", *new), (f"{self.outside}/created", *new)], 0, "Removing leading"),
            ([("link", tarfile.SYMTYPE, self.outside), ("link/victim", *new), ("link/created", *new)], 1, "Not a directory"),
            ([("link", tarfile.SYMTYPE, up), ("link/victim", *new)], 1, "Not a directory"),
            ([("d/l1", tarfile.SYMTYPE, "."), ("d/l1/l2", tarfile.SYMTYPE, f"../{up}"), ("d/l2/victim", *new)], 1, "Not a directory"),
            ([("hard", tarfile.LNKTYPE, victim), ("hard", *new)], 1, "Cannot hard link"),
            ([("hard", tarfile.LNKTYPE, f"{up}/victim"), ("hard", *new)], 1, "Cannot hard link"),
        ]
        for members, status, words in cases:
            with self.subTest(first=members[0][0]):
                self.archive(*members)
                self.assertIn(words, self.cp(self.at("."), "copy", status=status)[1])
                self.assertEqual(self.tree(self.outside), {"victim": b"old"})
                self.assertEqual(os.listdir(self.here), [] if status else ["copy"])
                self.assertEqual(os.stat(victim).st_nlink, 1)
                shutil.rmtree(self.here + "/copy", ignore_errors=True)

    def test_link_of_an_earlier_copy(self):
        """The first copy leaves a link, the second one would go through it."""
        self.put(self.outside, "victim", b"old")
        self.archive(("sub", tarfile.SYMTYPE, self.outside))
        self.cp(self.at("."), "copy")
        self.assertEqual(os.readlink(self.here + "/copy/sub"), self.outside)
        self.archive(("sub/victim", tarfile.REGTYPE, b"new"), ("fine", tarfile.REGTYPE, b"fine"))
        self.assertIn("not followed", self.cp(self.at("."), "copy/.", status=1)[1])
        self.assertEqual(self.tree(self.outside), {"victim": b"old"})
        self.archive(("sub", tarfile.REGTYPE, b"new"))
        self.cp(self.at("."), "copy/.")
        self.assertEqual((self.get(self.here, "copy/sub"), self.tree(self.outside)), (b"new", {"victim": b"old"}))

    def test_modes_and_devices(self):
        """No set-id bits, no devices, nobody else's files; directories can be removed again."""
        if os.geteuid() != 0:
            self.skipTest("only root's tar makes devices")
        self.archive(("suid", tarfile.REGTYPE, b"x"), ("dev", tarfile.BLKTYPE, (8, 0)), ("fifo", tarfile.FIFOTYPE, None), ("dir", tarfile.DIRTYPE, None))
        _, err = self.cp(self.at("."), "copy", umask=0o022)
        self.assertEqual(sorted(os.listdir(self.here + "/copy")), ["dir", "suid"])
        self.assertIn("'fifo': neither", err)
        self.assertEqual([os.stat(f"{self.here}/copy/{n}").st_mode & 0o7777 for n in ("suid", "dir")], [0o755, 0o755])
        self.assertEqual({os.lstat(f"{self.here}/copy/{n}").st_uid for n in ("suid", "dir")}, {os.geteuid()})

    def test_no_archive(self):
        self.put(self.bin, "tar", b"#!/bin/sh\nhead -c 100000 /dev/urandom\n", 0o755)
        self.cp(self.at("."), "copy", status=1)
        self.put(self.bin, "tar", b"#!/bin/sh\nprintf 'tar: \\033[31m\\302\\233 no\\n' >&2; exit 3\n", 0o755)
        self.assertIn("tar: ?[31m?? no\n", self.cp(self.at("."), "copy", status=1)[1])      # nothing that a terminal would obey
        self.assertEqual(os.listdir(self.here), [])

    def test_depth(self):
        self.archive(("d/" * 300, tarfile.DIRTYPE, None))
        self.assertIn("too many directories", self.cp(self.at("."), "copy", status=1)[1])
        self.assertEqual(os.listdir(self.here + "/copy"), [])


class NoTar(Copy):
    guest_path = "/nowhere"

    def test_says_so(self):
        self.put(self.here, "src/x")
        self.assertIn("the guest's tar, which is not there", self.cp("src", self.at("x"), status=1)[1])
        self.assertIn("the guest's tar, which is not there", self.cp(self.at("."), "copy", status=1)[1])
        self.assertEqual(os.listdir(self.here), ["src"])
        self.cp("src/x", self.at("file"))
        self.assertEqual(self.get(self.there, "file"), b"")
