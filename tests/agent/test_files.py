# SPDX-License-Identifier: Apache-2.0
"""GET and POST /files of the agent's API."""
import errno
import gzip
import hashlib
import os
import pwd
import subprocess
import urllib.parse

from agenttest import b64, wait_for
from test_filesystem import ROOT, FilesystemTest


def multipart(*parts, boundary="b0undary"):
    """(name, filename, data) for each part: content type, body."""
    body = b""
    for name, filename, data in parts:
        given = f'; filename="{filename}"' if filename is not None else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{given}\r\n\r\n'.encode() + data + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


class FilesTest(FilesystemTest):
    def url(self, path=None, **query):
        if path is not None:
            query["path"] = path
        return "/files?" + urllib.parse.urlencode(query)

    def get(self, path, headers=None, **query):
        return self.http("GET", self.url(path, **query), headers=headers)

    def post(self, path, body, headers=None, chunked=False, **query):
        return self.http("POST", self.url(path, **query), body,
                         {"Content-Type": "application/octet-stream", **(headers or {})}, chunked)

    def post_parts(self, path, *parts, headers=None, **query):
        kind, body = multipart(*parts)
        return self.http("POST", self.url(path, **query), body, {"Content-Type": kind, **(headers or {})})

    def text(self, name):
        with open(self.at(name), "rb") as f:
            return f.read()

    def assert_fails(self, answer, status, text=""):
        self.assertEqual(answer.status, status, answer)
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.json()["code"], status)
        self.assertIn(text, answer.json()["message"])

    def assert_done(self, answer, *names):
        self.assertEqual(answer.status, 200, answer)
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.json(), [{"name": os.path.basename(n), "type": "file", "path": self.at(n)} for n in names])


class Get(FilesTest):
    def test_bytes(self):
        data = os.urandom(1_000_000)
        with open(self.at("a b+c&d"), "wb") as f:
            f.write(data)
        a = self.get(self.at("a b+c&d"))
        self.assertEqual((a.status, a.headers["content-type"], a.headers["content-length"]), (200, "application/octet-stream", "1000000"))
        self.assertTrue(a.body == data)
        self.make("empty")
        a = self.get(self.at("empty"))
        self.assertEqual((a.status, a.headers["content-length"], a.body), (200, "0", b""))

    def test_kept_connection(self):
        self.make("a", "text")
        c = self.connect()
        for path, status in ((self.at("a"), 200), (self.at("none"), 404), (self.at("a"), 200)):
            c.request("GET", self.url(path))
            self.assertEqual(c.answer().status, status)

    def test_through_a_link(self):
        self.make("a", "text")
        os.symlink("a", self.at("l"))
        self.assertEqual(self.get(self.at("l")).body, b"text")

    def test_files_without_a_size(self):
        """Those of /proc: short ones have a length, long ones come in chunks."""
        self.assertEqual(self.get("/proc/sys/kernel/ostype").body, b"Linux\n")
        self.assertEqual(self.get("/proc/sys/kernel/ostype").headers["content-length"], "6")
        big = subprocess.Popen(["sleep", "600"], env={f"V{i}": "x" * 60_000 for i in range(10)})
        self.addCleanup(big.wait)
        self.addCleanup(big.kill)
        a = wait_for("the process has its environment", lambda: (a := self.get(f"/proc/{big.pid}/environ")).body.startswith(b"V0") and a)
        self.assertEqual((a.status, a.headers.get("transfer-encoding")), (200, "chunked"))
        self.assertEqual(a.body, b"".join(b"V%d=" % i + b"x" * 60_000 + b"\0" for i in range(10)))

    def test_refused(self):
        self.make("file")
        os.mkfifo(self.at("fifo"))
        os.symlink("loop", self.at("loop"))
        self.assert_fails(self.get(self.work), 400, "is a directory")
        self.assert_fails(self.get(None), 400, "is a directory")    # the home
        self.assert_fails(self.get(self.at("fifo")), 400, "no regular file")
        self.assert_fails(self.get("/dev/zero"), 400, "no regular file")
        self.assert_fails(self.get(self.at("loop")), 400, "loop")
        self.assert_fails(self.get(self.at("none")), 404, "none")
        self.assert_fails(self.get(self.at("file/x")), 404)
        self.assert_fails(self.get("/" + "x" * 5000), 400, "at most 4095")
        self.assert_fails(self.get("~root/x"), 400)
        self.assert_fails(self.get("a\0b"), 400, "NUL")
        self.assert_fails(self.get(self.at("file"), username="nobody-here"), 401, "nobody-here")
        self.assert_fails(self.get(self.at("file"), {"Authorization": "Bearer x"}), 401)

    def test_encodings(self):
        self.make("a", "text")
        for value, status in (("", 200), ("gzip", 200), ("gzip, deflate, br", 200), ("*", 200), ("identity;q=0.1", 200), ("*;q=0, identity", 200),
                              ("identity;q=0", 406), ("gzip, Identity; Q=0.000", 406), ("gzip;q=1, *;q=0", 406)):
            with self.subTest(value=value):
                a = self.get(self.at("a"), {"Accept-Encoding": value})
                self.assertEqual(a.status, status, a)
                self.assertNotIn("content-encoding", a.headers)

    def test_homes(self):
        """A relative path is in the home of the user."""
        home = pwd.getpwnam("nobody").pw_dir
        self.assert_fails(self.get("x", username="nobody"), 404, f"'{home}/x'")
        self.assert_fails(self.get("~/../x", {"Authorization": "Basic " + b64("nobody:")}), 404, f"'{os.path.dirname(home).rstrip('/')}/x'")

    def test_file_that_is_cut(self):
        """Fewer bytes than were promised: the client sees an end too early, not a whole answer."""
        with open(self.at("a"), "wb") as f:
            f.truncate(64 << 20)
        c = self.connect()
        c.request("GET", self.url(self.at("a")))
        self.assertEqual(c.head().headers["content-length"], str(64 << 20))
        os.truncate(self.at("a"), 1 << 20)
        got = 0
        while part := c.sock.recv(1 << 20):
            got += len(part)
        self.assertLess(got, 64 << 20)

    def test_client_that_does_not_read(self):
        with open(self.at("a"), "wb") as f:
            f.truncate(1 << 30)
        slow = [self.connect() for _ in range(10)]
        for c in slow:
            c.request("GET", self.url(self.at("a")))
            c.head()
        self.assertEqual(self.http("GET", "/health").status, 204)
        self.small(7 << 20)


class Post(FilesTest):
    def test_raw(self):
        data = os.urandom(2_000_000)
        for chunked in (False, True):
            self.assert_done(self.post(self.at("dir/ect/ory/a"), data, chunked=chunked), "dir/ect/ory/a")
            self.assertTrue(self.text("dir/ect/ory/a") == data)
            data = b"x" + data[:1_000_000]
        self.assert_done(self.post(self.at("empty"), b""), "empty")
        self.assertEqual(self.text("empty"), b"")
        self.assertEqual(os.stat(self.at("empty")).st_mode & 0o777, 0o644)
        self.assertEqual(sorted(os.listdir(self.work)), ["dir", "empty"])

    def test_parts(self):
        self.assert_done(self.post_parts(None, ("file", self.at("a"), b"1\r\n--b0"), ("note", None, b"ignored"), ("file", self.at("b/c"), b"")), "a", "b/c")
        self.assertEqual((self.text("a"), self.text("b/c")), (b"1\r\n--b0", b""))
        # the parameter wins over the name
        self.assert_done(self.post_parts(self.at("d"), ("file", "other", b"2")), "d")
        self.assert_done(self.post_parts(self.at("d"), ("file", None, b"3")), "d")
        self.assertEqual(self.text("d"), b"3")
        self.assert_done(self.post_parts(None))
        big = os.urandom(1_000_000)
        self.assert_done(self.post_parts(None, ("file", self.at("big"), big), ("file", self.at("after"), b"x")), "big", "after")
        self.assertTrue(self.text("big") == big)

    def test_gzip(self):
        data = os.urandom(100_000) * 30
        self.assert_done(self.post(self.at("a"), gzip.compress(data), {"Content-Encoding": "gzip"}), "a")
        self.assertTrue(self.text("a") == data)
        kind, body = multipart(("file", self.at("b"), b"zipped"))
        self.assert_done(self.http("POST", "/files", gzip.compress(body), {"Content-Type": kind, "Content-Encoding": "gzip"}), "b")
        self.assertEqual(self.text("b"), b"zipped")
        for body in (b"no gzip", gzip.compress(data)[:-1], b"", gzip.compress(b"x") + b"behind"):
            self.assert_fails(self.post(self.at("c"), body, {"Content-Encoding": "gzip"}), 400, "gzip")
        self.assert_fails(self.post(self.at("c"), b"", {"Content-Encoding": "br"}), 400, "br")
        self.assertEqual(sorted(os.listdir(self.work)), ["a", "b"])

    def test_owner(self):
        if not ROOT:
            self.skipTest("needs root")
        nobody = pwd.getpwnam("nobody")
        self.assert_done(self.post(self.at("d/a"), b"", username="nobody"), "d/a")
        self.assert_done(self.post_parts(None, ("file", self.at("b"), b""), headers={"Authorization": "Basic " + b64("nobody:")}), "b")
        for name in ("d", "d/a", "b"):
            st = os.stat(self.at(name))
            self.assertEqual((st.st_uid, st.st_gid), (nobody.pw_uid, nobody.pw_gid))

    def test_home(self):
        home = pwd.getpwuid(os.geteuid()).pw_dir
        name = os.path.basename(self.dir)
        self.addCleanup(subprocess.run, ["rm", "-rf", os.path.join(home, name)])
        a = self.post(name + "/./x/../a", b"1")
        self.assertEqual(a.json()[0]["path"], f"{home}/{name}/a")
        a = self.post_parts(None, ("file", f"~/{name}/b", b"2"))
        self.assertEqual(a.json()[0]["path"], f"{home}/{name}/b")

    def test_modes_and_links_stay(self):
        self.make("script", "old", 0o755)
        os.symlink("script", self.at("link"))
        self.assert_done(self.post(self.at("link"), b"new"), "link")
        self.assertTrue(os.path.islink(self.at("link")))
        self.assertEqual((self.text("script"), os.stat(self.at("script")).st_mode & 0o777), (b"new", 0o755))

    def test_metadata(self):
        try:
            os.setxattr(self.make("probe"), "user.x", b"")
        except OSError as e:
            self.skipTest(f"no extended attributes here: {e}")
        headers = {"X-Metadata-Author": "me ~", "x-metadata-PURPOSE": "", "X-Metadata-": "ignored"}
        a = self.post(self.at("a"), b"1", headers)
        self.assertEqual(a.json(), [{"name": "a", "type": "file", "path": self.at("a"), "metadata": {"author": "me ~", "purpose": ""}}])
        self.assertEqual(os.getxattr(self.at("a"), "user.e2b.author"), b"me ~")
        self.assertEqual(self.fs("Stat", path=self.at("a"))["entry"]["metadata"], {"author": "me ~", "purpose": ""})
        a = self.post_parts(None, ("file", self.at("a"), b""), ("file", self.at("b"), b""), headers={"X-Metadata-K": "v"})
        self.assertEqual([e["metadata"] for e in a.json()], [{"k": "v"}, {"k": "v"}])
        self.assertEqual(os.listxattr(self.at("a")), ["user.e2b.k"])     # all others are gone
        self.assert_done(self.post(self.at("a"), b"1"), "a")
        self.assertEqual(os.listxattr(self.at("a")), [])
        c = self.connect()
        c.send(f"POST {self.url(self.at('a'))} HTTP/1.1\r\nContent-Type: application/octet-stream\r\nContent-Length: 0\r\n"
               "X-Metadata-A: first\r\nX-Metadata-a: second\r\n\r\n".encode())
        self.assertEqual(c.answer().json()[0]["metadata"], {"a": "first"})
        longest = "k" * 246
        self.assertEqual(self.post(self.at("a"), b"", {"X-Metadata-" + longest: "v"}).status, 200)
        for bad in ({"X-Metadata-" + longest + "k": "v"}, {"X-Metadata-a": "caf\u00e9"}, {"X-Metadata-a": "tab\tin"},
                    {"X-Metadata-a": "v" * 4087}, {f"X-Metadata-{i}": "v" * 80 for i in range(50)}):
            self.assert_fails(self.post(self.at("a"), b"2", bad), 400, "metadata")
        self.assertEqual(self.post(self.at("a"), b"", {"X-Metadata-a": "v" * 4086}).status in (200, 507), True)

    def test_refused(self):
        self.make("file")
        os.mkfifo(self.at("fifo"))
        os.symlink("loop", self.at("loop"))
        before = sorted(os.listdir(self.work))
        self.assert_fails(self.post(self.work, b"x"), 400, "is a directory")
        self.assert_fails(self.post("/", b"x"), 400, "is a directory")
        self.assert_fails(self.post(None, b"x"), 400, "path is needed")
        self.assert_fails(self.post(self.at("fifo"), b"x"), 400, "no regular file")
        self.assert_fails(self.post("/dev/null", b"x"), 400, "no regular file")
        self.assert_fails(self.post(self.at("loop"), b"x"), 400, "loop")
        self.assert_fails(self.post(self.at("loop/x"), b"x"), 400)
        self.assert_fails(self.post(self.at("file/x"), b"x"), 400)
        self.assert_fails(self.post("/" + "x" * 5000, b"x"), 400, "at most 4095")
        self.assert_fails(self.post(self.at("n" * 256), b"x"), 400)
        self.assert_fails(self.post("a\0b", b"x"), 400, "NUL")
        self.assert_fails(self.post(self.at("a"), b"x", username="nobody-here"), 401, "nobody-here")
        self.assert_fails(self.post(self.at("a"), b"x", {"Content-Type": "text/plain"}), 400, "multipart/form-data")
        self.assert_fails(self.http("POST", self.url(self.at("a")), b"x"), 400, "multipart/form-data")
        self.assert_fails(self.post_parts(None, ("file", None, b"x")), 400, "filename")
        self.assert_fails(self.post_parts(None, ("file", "", b"x")), 400, "filename")
        self.assert_fails(self.post_parts(None, ("file", "x\0y", b"x")), 400, "NUL")
        self.assertEqual(sorted(os.listdir(self.work)), before)

    def test_two_files_for_one_path(self):
        """The first one is there; nothing of the second one is."""
        for path, name in ((None, self.at("a")), (self.at("a"), "x")):
            a = self.post_parts(path, ("file", name, b"first"), ("file", name, b"second"))
            self.assert_fails(a, 400, "two files")
            self.assertEqual(self.text("a"), b"first")

    def test_broken_multipart(self):
        kind, body = multipart(("file", self.at("a"), b"first"), ("file", self.at("b"), b"second"))
        for cut in (body[:-4], body[:-20], body[:20]):
            self.assert_fails(self.http("POST", "/files", cut, {"Content-Type": kind}), 400, "multipart")
            self.assertFalse(os.path.exists(self.at("b")) and self.text("b") != b"second")
        for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 71):
            self.assert_fails(self.http("POST", "/files", body, {"Content-Type": kind}), 400, "boundary")


class WholeOrNothing(FilesTest):
    def test_client_that_goes_away(self):
        """Nothing of a file is seen before its end, and nothing is left of one that has none."""
        self.make("old", "old")
        for name, kind in (("new", "raw"), ("old", "raw"), ("old", "chunked"), ("old", "parts"), ("old", "gzip")):
            with self.subTest(name=name, kind=kind):
                c = self.connect()
                head = f"POST {self.url(self.at(name))} HTTP/1.1\r\n"
                data = os.urandom(300_000)
                if kind == "chunked":
                    c.send(head.encode() + b"Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(data) + data)
                elif kind == "parts":
                    boundary, body = multipart(("file", "x", data))
                    c.send(head.encode() + f"Content-Type: {boundary}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body[:-30])
                elif kind == "gzip":
                    body = gzip.compress(data)
                    c.send(head.encode() + b"Content-Type: application/octet-stream\r\nContent-Encoding: gzip\r\nContent-Length: 400000\r\n\r\n" + body)
                else:
                    c.send(head.encode() + b"Content-Type: application/octet-stream\r\nContent-Length: 300001\r\n\r\n" + data)
                fds = wait_for("the file is open", self.open_files)
                self.assertEqual(os.listdir(self.work), ["old"])
                self.assertEqual(self.text("old"), b"old")
                c.close()
                wait_for("the file is closed", lambda: not self.open_files())
                self.assertEqual(os.listdir(self.work), ["old"])
                self.assertEqual(self.text("old"), b"old")
                self.assertEqual(len(fds), 1)

    def open_files(self):
        """The agent's open files below the test's folder."""
        found = []
        for fd in os.listdir(f"/proc/{self.agent.pid}/fd"):
            try:
                path = os.readlink(f"/proc/{self.agent.pid}/fd/{fd}")
            except FileNotFoundError:
                continue
            if path.startswith(self.work) and "#" in path or path.startswith(self.work + "/.forkd"):
                found.append(path)
        return found

    def test_overwritten_while_it_is_read(self):
        """Who reads a file has all of the old one or all of the new one."""
        old, new = b"o" * 5_000_000, b"n" * 5_000_000
        self.post(self.at("a"), old)
        c = self.connect()
        c.request("GET", self.url(self.at("a")))
        c.head()
        self.post(self.at("a"), new)
        self.assertTrue(b"".join(c.exactly(100_000) for _ in range(50)) == old)
        self.assertTrue(self.get(self.at("a")).body == new)

    def test_full_disk(self):
        if not ROOT or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "none", self.work], check=False).returncode:
            self.skipTest("needs the right to mount")
        self.addCleanup(subprocess.run, ["umount", "-l", self.work])
        self.make("old", "old")
        data = os.urandom(2_000_000)
        c = self.connect()
        for body, kind, extra in ((data, "application/octet-stream", {}), (gzip.compress(bytes(5_000_000)), "application/octet-stream", {"Content-Encoding": "gzip"}),
                                  (multipart(("file", "x", data))[1], multipart()[0], {})):
            c.request("POST", self.url(self.at("old")), body, {"Content-Type": kind, **extra})
            self.assert_fails(c.answer(), 507, "No space left")
            self.assertEqual(os.listdir(self.work), ["old"])
            self.assertEqual(self.text("old"), b"old")
        self.assert_done(self.post(self.at("fits"), data[:500_000]), "fits")
        for i in range(20):
            try:
                os.mknod(self.at(str(i)))
            except OSError as e:
                self.assertEqual(e.errno, errno.ENOSPC)
        self.assert_fails(self.post(self.at("one/more"), b""), 507)
        self.assertEqual(self.fs("MakeDir", 429, path=self.at("d"))["code"], "resource_exhausted")


class Bulk(FilesTest):
    def test_memory_is_flat(self):
        """256 MiB up and down: the agent holds a few pieces of it."""
        self.work_in_memory()
        size = 256 << 20
        c = self.connect()
        c.send(f"POST {self.url(self.at('big'))} HTTP/1.1\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n".encode())
        piece = os.urandom(1 << 20)
        up, down = hashlib.sha256(), hashlib.sha256()
        for i in range(size >> 20):
            c.send(piece)
            up.update(piece)
            if i % 16 == 0:
                self.small(3 << 20)
        self.assertEqual(c.answer().status, 200)
        c.request("GET", self.url(self.at("big")))
        self.assertEqual(c.head().headers["content-length"], str(size))
        for i in range(size >> 16):
            down.update(c.exactly(1 << 16))
            if i % 256 == 0:
                self.small(3 << 20)
        self.assertEqual(up.digest(), down.digest())

    def test_byte_by_byte(self):
        """A body that comes in the smallest pieces, on several connections at once."""
        kind, body = multipart(("file", self.at("a"), b"1\r\n\r\n--b0undar\r\n"), ("file", self.at("b"), b"2"))
        cs = [self.connect() for _ in range(3)]
        for c in cs:
            c.send(f"POST /files HTTP/1.1\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for i in range(len(body)):
            for c in cs:
                c.send(body[i:i + 1])
        for c in cs:
            self.assert_done(c.answer(), "a", "b")
        self.assertEqual((self.text("a"), self.text("b")), (b"1\r\n\r\n--b0undar\r\n", b"2"))
