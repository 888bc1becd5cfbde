# SPDX-License-Identifier: Apache-2.0
"""filesystem.Filesystem of the agent's API: calls with one answer."""
import datetime
import grp
import json
import os
import pwd
import subprocess
import tempfile

from agenttest import FULL, AgentTest, b64, wait_for

ROOT = os.geteuid() == 0


class FilesystemTest(AgentTest):
    """self.work: a folder for files, with a few."""

    def setUp(self):
        super().setUp()
        self.work = os.path.join(self.dir, "work")
        os.mkdir(self.work)

    def work_in_memory(self):
        """Thousands of files are no matter for a tmpfs."""
        if os.access("/dev/shm", os.W_OK):
            os.rmdir(self.work)
            self.work = tempfile.mkdtemp(dir="/dev/shm", prefix="forkd-agent.")
            self.addCleanup(subprocess.run, ["rm", "-rf", self.work])

    def at(self, *names):
        return os.path.join(self.work, *names)

    def make(self, name, text="", mode=0o644):
        os.makedirs(os.path.dirname(self.at(name)), exist_ok=True)
        with open(self.at(name), "w") as f:
            f.write(text)
        os.chmod(self.at(name), mode)
        return self.at(name)

    def fs(self, method, status=200, headers=None, **message):
        return self.call("filesystem.Filesystem/" + method, message, headers, status)

    def refused(self, method, code, **message):
        status = {"not_found": 404, "invalid_argument": 400, "already_exists": 409, "unauthenticated": 401, "resource_exhausted": 429}[code]
        answer = self.fs(method, status, **message)
        self.assertEqual(answer["code"], code, answer)
        self.assertTrue(answer["message"])
        return answer["message"]

    def names(self, **message):
        return [os.path.relpath(e["path"], self.work) for e in self.fs("ListDir", **message)["entries"]]


class Stat(FilesystemTest):
    def test_file(self):
        path = self.make("a b.txt", "hello", 0o640)
        os.utime(path, ns=(1, 1_700_000_000_123_456_789))
        st = os.stat(path)
        self.assertEqual(self.fs("Stat", path=path), {"entry": {
            "name": "a b.txt", "type": "FILE_TYPE_FILE", "path": path, "size": "5", "mode": 0o640, "permissions": "-rw-r-----",
            "owner": pwd.getpwuid(st.st_uid).pw_name, "group": grp.getgrgid(st.st_gid).gr_name,
            "modifiedTime": "2023-11-14T22:13:20.123456789Z"}})

    def test_directory(self):
        entry = self.fs("Stat", path=self.work + "/./x/../")["entry"]
        self.assertEqual((entry["name"], entry["type"], entry["path"]), ("work", "FILE_TYPE_DIRECTORY", self.work))
        self.assertEqual((entry["mode"], entry["permissions"]), (0o755, "drwxr-xr-x"))
        self.assertEqual(self.fs("Stat", path="/")["entry"]["name"], "/")

    def test_kinds(self):
        """What is neither file nor directory; the letters are those of Go's FileMode."""
        os.mkfifo(self.at("fifo"), 0o644)
        os.chmod(self.make("suid", "", 0o755), 0o4755)
        os.mkdir(self.at("sticky"))
        os.chmod(self.at("sticky"), 0o1777)
        for path, kind, letters in ((self.at("fifo"), "UNSPECIFIED", "prw-r--r--"), ("/dev/null", "UNSPECIFIED", "Dcrw-rw-rw-"),
                                    (self.at("suid"), "FILE", "urwxr-xr-x"), (self.at("sticky"), "DIRECTORY", "dtrwxrwxrwx")):
            with self.subTest(path=path):
                entry = self.fs("Stat", path=path)["entry"]
                self.assertEqual((entry["type"], entry["permissions"]), ("FILE_TYPE_" + kind, letters))

    def test_links(self):
        """A link has the type and the mode of what it leads to."""
        self.make("target", "12345", 0o600)
        os.symlink("target", self.at("link"))
        os.symlink("nothing", self.at("dangling"))
        os.symlink("loop", self.at("loop"))
        entry = self.fs("Stat", path=self.at("link"))["entry"]
        self.assertEqual((entry["type"], entry["mode"], entry["permissions"]), ("FILE_TYPE_FILE", 0o600, "Lrwxrwxrwx"))
        self.assertEqual((entry["symlinkTarget"], entry["isSymlink"]), (os.path.realpath(self.at("target")), True))
        for name in ("dangling", "loop"):
            entry = self.fs("Stat", path=self.at(name))["entry"]
            self.assertEqual((entry["type"], entry["symlinkTarget"]), ("FILE_TYPE_SYMLINK", self.at(name)))
        self.refused("Stat", "invalid_argument", path=self.at("loop/x"))

    def test_metadata(self):
        path = self.make("m")
        try:
            os.setxattr(path, "user.e2b.author", b"me")
            os.setxattr(path, "user.e2b.raw", b"\xff")
            os.setxattr(path, "user.other", b"x")
        except OSError as e:
            self.skipTest(f"no extended attributes here: {e}")
        self.assertEqual(self.fs("Stat", path=path)["entry"]["metadata"], {"author": "me", "raw": "\ufffd"})

    def test_names_of_any_bytes(self):
        with open(os.path.join(self.work.encode(), b"bad\xff"), "w"):
            pass
        self.make('"quoted"\n')
        self.assertEqual([e["name"] for e in self.fs("ListDir", path=self.work)["entries"]], ['"quoted"\n', "bad\ufffd"])

    def test_absent(self):
        self.make("file")
        for path in (self.at("none"), self.at("none/deeper"), self.at("file/x")):
            self.assertIn("does not exist", self.refused("Stat", "not_found", path=path))

    def test_paths(self):
        home = pwd.getpwuid(os.geteuid()).pw_dir
        for path in ("", ".", "~", "~/", "x/.."):
            self.assertEqual(self.fs("Stat", path=path)["entry"]["path"], home)
        self.assertEqual(self.fs("Stat")["entry"]["path"], home)
        self.assertEqual(self.fs("Stat", path=None, unknown=[1])["entry"]["path"], home)
        self.assertEqual(self.fs("Stat", path="/../../etc/../etc//passwd")["entry"]["path"], "/etc/passwd")
        self.assertEqual(self.fs("Stat", path=".", headers={"Authorization": "Basic " + b64("root:")})["entry"]["path"], home)
        self.refused("Stat", "invalid_argument", path="~root")
        self.refused("Stat", "invalid_argument", path="/" + "x" * 5000)
        self.refused("Stat", "invalid_argument", path="/" + "x" * 300)
        self.refused("Stat", "invalid_argument", path=5)
        self.refused("Stat", "invalid_argument", path="a\0b")
        answer = self.fs("Stat", 401, {"Authorization": "Basic " + b64("nobody-here:")}, path="/")
        self.assertEqual(answer["code"], "unauthenticated")


class ListDir(FilesystemTest):
    def test_depths(self):
        for name in ("b/c/d", "a", "B", "e"):
            self.make(name)
        os.mkdir(self.at("z"))
        os.symlink("b", self.at("link"))
        for depth in (0, 1, None):
            self.assertEqual(self.names(path=self.work, depth=depth), ["B", "a", "b", "e", "link", "z"])
        self.assertEqual(self.names(path=self.work, depth=2), ["B", "a", "b", "b/c", "e", "link", "z"])
        self.assertEqual(self.names(path=self.work, depth=2**32 - 1), ["B", "a", "b", "b/c", "b/c/d", "e", "link", "z"])
        self.assertEqual(self.names(path=self.at("z")), [])
        self.assertEqual(self.fs("ListDir", path=self.at("z")), {"entries": []})

    def test_entries_are_those_of_stat(self):
        self.make("a", "123")
        os.symlink("a", self.at("l"))
        entries = self.fs("ListDir", path=self.work)["entries"]
        self.assertEqual(entries, [self.fs("Stat", path=self.at(n))["entry"] for n in ("a", "l")])

    def test_through_a_link(self):
        """The paths are as they were asked for."""
        self.make("real/x")
        os.symlink("real", self.at("link"))
        self.assertEqual(self.names(path=self.at("link")), ["link/x"])

    def test_refused(self):
        self.make("file")
        os.symlink("loop", self.at("loop"))
        self.assertIn("not a directory", self.refused("ListDir", "invalid_argument", path=self.at("file")))
        self.refused("ListDir", "not_found", path=self.at("none"))
        self.refused("ListDir", "not_found", path=self.at("file/x"))
        self.refused("ListDir", "invalid_argument", path=self.at("loop"))
        for depth in (-1, 2**32, "x", 1.5, True):
            self.refused("ListDir", "invalid_argument", path=self.work, depth=depth)

    def test_100000_entries(self):
        """Listings are not held by the agent, also when clients do not take them."""
        self.work_in_memory()
        for i in range(100_000):
            os.mknod(f"{self.work}/entry-{i:06}")
        slow = [self.connect() for _ in range(2)]
        body = json.dumps({"path": self.work}).encode()
        for c in slow:
            c.request("POST", "/filesystem.Filesystem/ListDir", body, {"Content-Type": "application/json"})
            c.head()
        names = self.names(path=self.work)
        self.assertEqual(names, [f"entry-{i:06}" for i in range(100_000)])
        self.small(8 << 20)
        slow[0].close()
        last = b"".join(iter(slow[1].chunk, b""))
        self.assertEqual(len(json.loads(last)["entries"]), 100_000)

    def test_bound_on_helpers(self):
        """16 listings that clients do not take; the 17th is refused, and works when one of them is gone."""
        self.work_in_memory()
        for i in range(3000):
            self.make("x" * 200 + str(i))
        body = json.dumps({"path": self.work}).encode()
        slow = [self.connect() for _ in range(16)]
        for c in slow:
            c.request("POST", "/filesystem.Filesystem/ListDir", body, {"Content-Type": "application/json"})
            c.head()
        self.assertIn("16 listings", self.refused("ListDir", "resource_exhausted", path=self.work))
        slow[3].close()
        wait_for("a place", lambda: self.http("POST", "/filesystem.Filesystem/ListDir", body, {"Content-Type": "application/json"}).status == 200)

    def test_connections_end_beside_a_helper(self):
        """A helper keeps no connection of others open."""
        self.work_in_memory()
        for i in range(3000):
            self.make("x" * 200 + str(i))
        other = self.connect()
        other.send(f"POST /files?path={self.at('half')} HTTP/1.1\r\nContent-Type: application/octet-stream\r\n"
                   "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n".encode())
        slow = self.connect()
        slow.request("POST", "/filesystem.Filesystem/ListDir", json.dumps({"path": self.work}).encode(), {"Content-Type": "application/json"})
        slow.head()
        other.send(b"no chunk\r\n")      # breaks the request off: the agent closes, without a word
        other.sock.settimeout(20)
        self.assertTrue(other.at_end())


class MakeDir(FilesystemTest):
    def test_with_parents(self):
        entry = self.fs("MakeDir", path=self.at("a/b/c"))["entry"]
        self.assertEqual((entry["path"], entry["type"], entry["mode"]), (self.at("a/b/c"), "FILE_TYPE_DIRECTORY", 0o755))
        self.assertTrue(os.path.isdir(self.at("a/b/c")))

    def test_owner(self):
        if not ROOT:
            self.skipTest("needs root")
        entry = self.fs("MakeDir", path=self.at("own/er"), headers={"Authorization": "Basic " + b64("nobody:")})["entry"]
        self.assertEqual(entry["owner"], "nobody")
        self.assertEqual(os.stat(self.at("own")).st_uid, pwd.getpwnam("nobody").pw_uid)
        self.assertEqual(os.stat(self.work).st_uid, 0)

    def test_refused(self):
        self.make("file")
        os.symlink("loop", self.at("loop"))
        self.refused("MakeDir", "already_exists", path=self.work)
        self.refused("MakeDir", "already_exists", path="/")
        self.refused("MakeDir", "invalid_argument", path=self.at("file"))
        self.refused("MakeDir", "invalid_argument", path=self.at("file/x"))
        self.refused("MakeDir", "invalid_argument", path=self.at("loop/x"))
        self.refused("MakeDir", "invalid_argument", path=self.at("n" * 256))


class Move(FilesystemTest):
    def test_move(self):
        self.make("a", "text")
        entry = self.fs("Move", source=self.at("a"), destination=self.at("new/dir/b"))["entry"]
        self.assertEqual((entry["path"], entry["name"], entry["size"]), (self.at("new/dir/b"), "b", "4"))
        self.assertFalse(os.path.exists(self.at("a")))
        self.make("c", "other")
        self.fs("Move", source=self.at("c"), destination=self.at("new/dir/b"))
        with open(self.at("new/dir/b")) as f:
            self.assertEqual(f.read(), "other")
        self.fs("Move", source=self.at("new"), destination=self.at("old"))
        self.assertTrue(os.path.isfile(self.at("old/dir/b")))

    def test_links_are_moved_themselves(self):
        os.symlink("nothing", self.at("l"))
        self.fs("Move", source=self.at("l"), destination=self.at("m"))
        self.assertEqual(os.readlink(self.at("m")), "nothing")

    def test_refused(self):
        self.make("d/x")
        self.make("e/y")
        self.make("file")
        self.refused("Move", "not_found", source=self.at("none"), destination=self.at("new/b"))
        self.assertFalse(os.path.exists(self.at("new")))
        self.refused("Move", "already_exists", source=self.at("d"), destination=self.at("e"))
        self.refused("Move", "invalid_argument", source=self.at("d"), destination=self.at("d/in"))
        self.refused("Move", "invalid_argument", source=self.at("file"), destination=self.at("d"))
        self.refused("Move", "invalid_argument", source=self.at("d"), destination=self.at("file/in"))
        self.refused("Move", "invalid_argument", source="/", destination=self.at("root"))
        self.refused("Move", "invalid_argument", source=self.at("d"), destination="/")


class Remove(FilesystemTest):
    def test_file_and_tree(self):
        self.make("a")
        self.assertEqual(self.fs("Remove", path=self.at("a")), {})
        self.assertFalse(os.path.exists(self.at("a")))
        self.make("outside")
        for name in ("t/b/c/d", "t/b/e", "t/f"):
            self.make(name)
        os.symlink(self.at("outside"), self.at("t/link"))
        os.symlink(self.work, self.at("t/b/up"))
        os.mkfifo(self.at("t/fifo"))
        os.chmod(self.at("t/b"), 0o500)
        self.assertEqual(self.fs("Remove", path=self.at("t")), {})
        self.assertEqual(os.listdir(self.work), ["outside"])

    def test_link_to_a_directory(self):
        self.make("d/x")
        os.symlink("d", self.at("l"))
        self.fs("Remove", path=self.at("l"))
        self.assertEqual(sorted(os.listdir(self.work)), ["d"])

    def test_absent(self):
        self.make("file")
        self.assertEqual(self.fs("Remove", path=self.at("none")), {})
        self.assertEqual(self.fs("Remove", path=self.at("none/deeper")), {})
        self.refused("Remove", "invalid_argument", path=self.at("file/x"))
        self.refused("Remove", "invalid_argument", path="/")
        self.refused("Remove", "invalid_argument", path="/..")

    def test_what_cannot_be_removed(self):
        self.assertIn("/proc/self", self.refused("Remove", "invalid_argument", path="/proc/self/fd"))

    def test_deep(self):
        """Deeper than a path can be long."""
        self.work_in_memory()
        os.mkdir(self.at("t"))
        fd = os.open(self.at("t"), os.O_RDONLY)
        for _ in range(5000 if FULL else 3000):
            os.mkdir("dd", dir_fd=fd)
            down = os.open("dd", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = down
        os.close(fd)
        self.fs("ListDir", path=self.at("t"), depth=2**32 - 1)
        self.assertEqual(self.fs("Remove", path=self.at("t")), {})
        self.assertEqual(os.listdir(self.work), [])

    def test_goes_on_without_its_client(self):
        self.work_in_memory()
        for i in range(2000):
            self.make(f"t/{i % 50}/{i}")
        c = self.connect()
        c.request("POST", "/filesystem.Filesystem/Remove", json.dumps({"path": self.at("t")}).encode(), {"Content-Type": "application/json"})
        c.close()
        wait_for("all is removed", lambda: os.listdir(self.work) == [])
