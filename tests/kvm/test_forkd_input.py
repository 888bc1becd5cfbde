# SPDX-License-Identifier: Apache-2.0
"""What the daemon gets from outside: descriptors, names, paths, snapshots, bodies; and who may ask."""
import contextlib
import json
import os
import shutil
import socket
import subprocess

from forkdtest import FORKD, Daemon, ForkdTest, request
from kvmtest import MIB, Tap, give_to, guest, read, tmpfs, wait_for, write
from test_net import NetFds, interfaces


class NetDescriptors(ForkdTest):
    two_nets = NetFds.two_nets
    check_frames = NetFds.check_frames

    def daemon(self):
        _, directory = self.two_nets()
        d = Daemon(self)
        d.template("nets", directory)
        return d, directory

    def test_in_another_order(self):
        d, directory = self.daemon()
        for order in (("left", "right"), ("right", "left")):
            taps = {name: Tap(self, queues=2) for name in order}
            c = d.must(201, "POST", "/v1/templates/nets/clones", {"net_fds": [{"id": n, "num_fds": 2} for n in order]},
                       fds=[fd for n in order for fd in taps[n].fds])["clones"][0]
            wait_for("rounds of the guest", lambda: read(c["serial"]).count(b"round") > 2, context=lambda: f": {read(c['serial'])}")
            self.check_frames(directory, order, taps)
            d.delete([c])
            for tap in taps.values():
                tap.close()

    def test_wrong_ones(self):
        d, _ = self.daemon()
        taps = {name: Tap(self, queues=2) for name in ("left", "right")}
        four = taps["left"].fds + taps["right"].fds
        null = os.open("/dev/null", os.O_RDWR)
        url = "/v1/templates/nets/clones"
        d.delete(d.clone("nets"))       # the template host is there from now on
        before = len(os.listdir(f"/proc/{d.process.pid}/fd"))

        def body(*nets, **more):
            return {"net_fds": [{"id": i, "num_fds": n} for i, n in nets], **more}
        both = (("left", 2), ("right", 2))
        cases = [
            ("one too few", body(*both), four[:3], "3"),
            ("one too many", body(*both), four + four[:1], "5"),
            ("too few for one net", body(("left", 1), ("right", 2)), four[:3], "left"),
            ("too many for one net", body(("left", 2), ("right", 3)), four + four[:1], "right"),
            ("unknown id", body(("left", 2), ("up", 2)), four, "up"),
            ("not a tap", body(*both), four[:3] + [null], "tap"),
            ("twice the same net", body(("left", 2), ("left", 2)), four, "left"),
            ("unasked", {}, four, "4"),
        ]
        for what, request_body, fds, named in cases:
            with self.subTest(what):
                message = d.refused(400, "invalid_net_fds", "POST", url, request_body, fds)
                self.assertIn(named, message)
        d.refused(400, "invalid_request", "POST", url, body(*both, count=2), four)
        os.close(null)
        wait_for("descriptors to be closed", lambda: len(os.listdir(f"/proc/{d.process.pid}/fd")) <= before)
        self.assertEqual(d.get("/v1/clones")["clones"], [])

    def test_automatic_and_named_taps(self):
        d, _ = self.daemon()
        before = interfaces()
        a, b = d.clone("nets", 2)
        names = [n["tap"] for c in (a, b) for n in c["net"]]
        self.assertEqual(len(set(names)), 4)
        self.assertTrue(set(names) <= set(interfaces()))
        d.delete([a, b])
        wait_for("the taps to go", lambda: interfaces() == before, context=lambda: f": {interfaces()}")
        tap = Tap(self, queues=2, persistent=True)
        override = {"overrides": {"net": [{"id": "left", "tap": tap.name}]}}
        c = d.clone("nets", **override)[0]
        self.assertEqual({n["id"]: n["tap"] for n in c["net"]}["left"], tap.name)
        d.refused(409, "conflict", "POST", "/v1/templates/nets/clones", override)
        d.refused(400, "invalid_request", "POST", "/v1/templates/nets/clones", {"count": 2, **override})
        self.assertEqual(len(d.get("/v1/clones?state=running")["clones"]), 1)


class Disks(ForkdTest):
    def test_each_clone_its_own_disk(self):
        disk = self.disk()
        vmm = self.boot("devices", "rounds=0 dev=blk batches=4", extra=["--disk", f"path={disk},image_type=raw,id=root"])
        vmm.wait_rounds(2)
        d = self.daemon_of(vmm, disks="caller")
        url = "/v1/templates/t/clones"
        self.assertIn("root", d.refused(400, "disk_needs_override", "POST", url, {}))
        copies = [self.clone_disk(disk) for _ in range(3)]
        specs = [{"overrides": {"disks": [{"id": "root", "path": p}]}} for p in copies]
        clones = d.must(201, "POST", url, {"clones": specs})["clones"]
        for c in clones:
            wait_for("rounds", lambda c=c: read(c["serial"]).count(b"round") > 2, context=lambda c=c: f": {read(c['serial'])}")
        self.assertGreater(d.get(f"/v1/clones/{clones[0]['id']}")["stats"]["disk_ops"], 0)
        message = d.refused(409, "conflict", "POST", url, specs[0])
        self.assertIn(copies[0], message)
        d.refused(400, "invalid_request", "POST", url, {"clones": [specs[0], specs[0]]})
        d.delete(clones)
        d.delete(d.must(201, "POST", url, specs[0])["clones"])      # the lock is free again

    def wait_rounds(self, clone, n=3):
        """The guest knows every byte of its disk; it stops at one that is wrong."""
        begin = read(clone["serial"]).count(b"round")
        wait_for("rounds or a failure", lambda: read(clone["serial"]).count(b"round") >= begin + n or b"FAIL" in read(clone["serial"]))
        self.assertNotIn(b"FAIL", read(clone["serial"]))

    def child(self, d, template, disk):
        """A clone with a copy of that disk."""
        path = self.clone_disk(disk)
        return d.clone(template, overrides={"disks": [{"id": "root", "path": path}]})[0]

    def test_snapshot_of_a_clone_that_writes(self):
        """The disk is copied after the answer: the guest must not write to it meanwhile."""
        disk = self.disk()
        vmm = self.boot("devices", "rounds=0 dev=blk batches=4", extra=["--disk", f"path={disk},image_type=raw,id=root"])
        vmm.wait_rounds(2)
        d = self.daemon_of(vmm)
        own = self.clone_disk(disk)
        c = d.clone("t", overrides={"disks": [{"id": "root", "path": own}]})[0]
        url = f"/v1/clones/{c['id']}"
        self.wait_rounds(c)
        message = d.refused(409, "invalid_state", "POST", url + "/snapshot", {"name": "child"})
        self.assertIn("'root'", message)
        self.assertIn("pause the VM, take the snapshot, copy the disk, then resume the VM", message)
        self.assertIn(message, d.ctl("snapshot", c["id"], "child", status=1))
        d.refused(404, "template_not_found", "GET", "/v1/templates/child")
        self.wait_rounds(c)
        d.must(200, "PUT", url + "/pause")
        d.must(201, "POST", url + "/snapshot", {"name": "child"})
        copy = self.child(d, "child", own)
        d.must(200, "PUT", url + "/resume")
        self.wait_rounds(copy)
        self.wait_rounds(c)

    def test_snapshot_of_a_clone_that_reads(self):
        """Nothing can change on its disk: it may run."""
        disk = self.disk()
        vmm = self.boot("devices", "rounds=0 dev=blk batches=4", extra=["--disk", f"path={disk},image_type=raw,id=root,readonly=on"])
        vmm.wait_rounds(2)
        d = self.daemon_of(vmm)
        c = d.clone("t")[0]
        self.assertGreater(d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "child"})["paused_us"], 0)
        self.wait_rounds(d.clone("child")[0])
        self.wait_rounds(c)

    def test_template_of_a_vm_that_writes(self):
        """A VM that is booted to become a template does not run on behind its snapshot."""
        disk = self.disk()
        d = Daemon(self)
        d.must(201, "POST", "/v1/templates", {"name": "t", "ready": {"serial": "round 2"}, "vm": {
            "payload": {"kernel": guest("devices"), "cmdline": "rounds=0 dev=blk batches=4"},
            "memory": {"size": 64 << 20}, "console": {"mode": "Off"},
            "disks": [{"id": "root", "path": disk, "image_type": "Raw"}]}, "disks": "caller"})
        self.wait_rounds(self.child(d, "t", disk))

    def test_payload_that_is_no_file(self):
        d = Daemon(self)
        for key in ("kernel", "initramfs"):
            vm = {"payload": {"kernel": guest("devices"), key: self.dir}, "memory": {"size": 64 << 20}}
            said = d.refused(400, "invalid_request", "POST", "/v1/templates", {"name": "t", "ready": {"delay_ms": 1}, "vm": vm})
            self.assertIn(f"vm.payload.{key}: '{self.dir}' is not a regular file", said)


class SharedDisks(ForkdTest):
    """Read-only disks that the snapshot names: what is wrong with one is said before a clone needs it."""

    def snapshot(self):
        """With a read-only disk of 1 MiB, and one that each clone brings."""
        self.image = self.disk(1, "shared")
        vmm = self.boot("devices", "rounds=0 dev=rng", extra=["--disk", f"path={self.image},image_type=raw,id=base,readonly=on",
                                                              f"path={self.disk(1)},image_type=raw,id=own"])
        vmm.wait_rounds(1)
        directory = vmm.snapshot()
        vmm.stop()
        return directory

    def broken(self):
        """What can be wrong with a path, and what is said of it."""
        short, directory = self.disk(1, "short"), self.new_dir("a-directory")
        os.truncate(short, (1 << 20) - 1)
        return (("shared.img", "path 'shared.img' must be absolute"),
                (self.path("missing"), f"open '{self.path('missing')}': No such file or directory (os error 2)"),
                (short, f"'{short}' has 1048575 bytes, the guest knows a disk of 1048576"),
                (directory, f"'{directory}' is neither a file nor a block device"))

    def own(self):
        return {"id": "own", "path": self.disk(1)}

    def test_import(self):
        directory = self.snapshot()
        d = Daemon(self)
        for path, said in self.broken():
            copy = self.copy_snapshot(directory, lambda c, path=path: c["disks"][0].update(path=path))
            message = d.refused(409, "disk_unusable", "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + copy})
            self.assertIn("disk 'base' of the snapshot: " + said, message)
        self.assertEqual(d.get("/v1/templates")["templates"], [])
        d.template("t", directory)
        self.assertEqual(d.get("/v1/templates/t")["state"], "ready")

    def test_later(self):
        d = Daemon(self)
        d.template("t", self.snapshot())
        size = os.stat(self.image).st_size
        spare = self.clone_disk(self.image)
        url = "/v1/templates/t/clones"

        def state():
            shown, listed = d.get("/v1/templates/t"), d.get("/v1/templates")["templates"][0]
            self.assertEqual((shown["state"], shown.get("reason")), (listed["state"], listed.get("reason")))
            return shown["state"], shown.get("reason")

        def broken(said):
            for _ in range(2):                  # with a host that has the template already, and in a new daemon
                self.assertEqual(state(), ("incomplete", "disk 'base' of the snapshot: " + said))
                message = d.refused(409, "disk_unusable", "POST", url, {"overrides": {"disks": [self.own()]}})
                self.assertIn("disk 'base': " + said, message)
                d.delete(d.clone("t", overrides={"disks": [self.own(), {"id": "base", "path": spare}]}))
                d.stop()
                d.start()
                self.assertIn(f"template 't': disk 'base' of the snapshot: {said}", read(d.log).decode())

        os.rename(self.image, self.path("away"))
        broken(f"open '{self.image}': No such file or directory (os error 2)")
        os.rename(self.path("away"), self.image)
        self.assertEqual(state(), ("ready", None))
        os.truncate(self.image, 4096)
        broken(f"'{self.image}' has 4096 bytes, the guest knows a disk of {size}")
        os.truncate(self.image, size + 4096)    # longer is fine
        self.assertEqual(state(), ("ready", None))
        d.delete(d.clone("t", overrides={"disks": [self.own()]}))
        # a file of the request that is too short is the request's mistake
        short = self.disk(1, "short")
        os.truncate(short, 512)
        message = d.refused(400, "invalid_request", "POST", url, {"overrides": {"disks": [{"id": "own", "path": short}]}})
        self.assertIn(f"disk 'own': '{short}' has 512 bytes, the guest knows a disk of {size}", message)


class Input(ForkdTest):
    def test_names(self):
        d = Daemon(self)
        directory = self.ticker()
        for name in ("a/b", "..", ".hidden", "x" * 300, "", "a b", "é", "-x"):
            with self.subTest(name=name):
                d.refused(400, "invalid_name", "POST", "/v1/templates", {"name": name, "snapshot": "file://" + directory})
        raw = b'{"name":"\xff","snapshot":"file:///x"}'
        d.refused(400, "invalid_json", "POST", "/v1/templates", raw)
        self.assertEqual(d.get("/v1/templates")["templates"], [])

    def test_bodies(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        url = "/v1/templates/t/clones"
        cases = [
            (400, "invalid_json", b"{"), (400, "invalid_json", b"[" * 10000), (400, "invalid_json", b'{"count":1,"count":2}'),
            (400, "unknown_field", b'{"cuont":1}'), (400, "invalid_request", b'{"count":0}'), (400, "invalid_request", b'{"count":1001}'),
            (400, "invalid_request", b'{"count":"many"}'), (400, "invalid_request", b'{"memory_restore_mode":"fast"}'),
            (400, "invalid_override", b'{"overrides":{"cpus":{"boot_vcpus":4}}}'), (400, "invalid_override", b'{"overrides":{"colour":1}}'),
            (400, "invalid_request", b'{"wait":"ready"}'), (400, "invalid_request", b'{"labels":{"k":5}}'),
        ]
        for status, code, body in cases:
            with self.subTest(body=body[:40]):
                d.refused(status, code, "POST", url, body)
        self.assertEqual(d.get("/v1/clones?state=running")["clones"], [])
        with socket.socket(socket.AF_UNIX) as s:        # 100 MiB: answered before it is all sent
            s.connect(d.socket)
            s.sendall(f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {100 * MIB}\r\n\r\n".encode())
            s.settimeout(20)
            try:
                for _ in range(100):
                    s.sendall(b" " * MIB)
            except OSError:
                pass
            self.assertIn(b" 413 ", s.recv(65536).split(b"\r\n")[0] + b" ")

    def test_routes(self):
        d = Daemon(self)
        d.refused(404, "not_found", "GET", "/v1/nothing")
        answer = d.call("PUT", "/v1/templates")
        self.assertEqual((answer.status, answer.json["code"]), (405, "method_not_allowed"))
        self.assertIn("GET", answer.headers["Allow"])
        d.refused(415, "unsupported_media_type", "POST", "/v1/templates", b"{}", headers={"Content-Type": "text/plain"})
        d.refused(404, "clone_not_found", "GET", "/v1/clones/c-nothing")
        self.assertEqual(d.get("/healthz")["status"], "ok")
        self.assertIn("version", d.get("/v1/version"))

    def test_bad_snapshots(self):
        d = Daemon(self)
        good = self.ticker()

        def broken(name, edit):
            copy = self.new_dir("bad")
            for f in os.listdir(good):
                shutil.copy(os.path.join(good, f), copy)
            edit(os.path.join(copy, name))
            return copy

        def dangling(path):
            os.unlink(path)
            os.symlink(path + ".real", path)

        def fifo(path):
            os.unlink(path)
            os.mkfifo(path)
        cases = [
            ("config.json", os.unlink), ("state.json", os.unlink), ("memory-ranges", os.unlink),
            ("config.json", fifo), ("memory-ranges", lambda p: os.truncate(p, 8 * MIB)), ("state.json", lambda p: os.truncate(p, 1000)),
            ("config.json", lambda p: write(p, "{}")), ("memory-ranges", lambda p: os.truncate(p, 0)),
        ]
        for name, edit in cases:
            with self.subTest(name=name):
                directory = broken(name, edit)
                answer = d.call("POST", "/v1/templates", {"name": "bad", "snapshot": "file://" + directory})
                self.assertEqual((answer.status, answer.json["code"]), (400, "invalid_snapshot"), answer)
                self.assertIn(name.split(".")[0].replace("memory-ranges", "mem"), answer.json["message"])
        d.refused(400, "invalid_request", "POST", "/v1/templates", {"name": "bad", "snapshot": "file:///nonexistent/dir"})
        message = d.refused(400, "invalid_request", "POST", "/v1/templates",
                            {"name": "bad", "snapshot": "file://" + broken("state.json", dangling)})
        self.assertIn("open 'state.json': No such file or directory", message)
        d.refused(400, "invalid_request", "POST", "/v1/templates", {"name": "bad", "snapshot": "http://x/y"})
        self.assertEqual(d.get("/v1/templates")["templates"], [])
        self.assertEqual(os.listdir(os.path.join(d.store, "staging")), [])

    def test_disk_full(self):
        if os.geteuid() != 0:
            self.skipTest("needs root to mount a small file system")
        d_root = self.new_dir("small")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", d_root], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", d_root], check=True)
        d = Daemon(self, root=d_root)
        answer = d.call("POST", "/v1/templates", {"name": "big", "snapshot": "file://" + self.ticker(warm=32)})
        self.assertEqual((answer.status, answer.json["code"]), (507, "no_space"), answer)
        self.assertEqual([e["error"] for e in d.events() if e["type"] == "template.failed"], [answer.json])
        self.assertEqual(os.listdir(os.path.join(d.store, "staging")), [])
        self.assertEqual(d.get("/v1/templates")["templates"], [])

    def test_runtime_directory_full(self):
        """Not the store: the remedy does not say so, and no clone is lost by it."""
        if os.geteuid() != 0:
            self.skipTest("needs root to mount a small file system")
        root = self.new_dir("forkd")
        run = os.path.join(root, "run")
        os.mkdir(run)
        with tmpfs(run, "1M"):
            d = Daemon(self, root=root)
            d.template("t", self.ticker())
            clones = d.clone("t", 4)
            with open(os.path.join(run, "filler"), "wb", buffering=0) as f, contextlib.suppress(OSError):
                while True:
                    f.write(bytes(4096))
            for method, url, body in (("POST", "/v1/templates/t/clones", {}),
                                      ("PATCH", f"/v1/clones/{clones[0]['id']}", {"labels": {"a": "b"}})):
                answer = d.call(method, url, body)
                self.assertEqual((answer.status, answer.json["code"]), (507, "no_space"), answer)
                self.assertNotIn("store", answer.json["remedy"])
            self.assertEqual(d.get(f"/v1/clones/{clones[0]['id']}")["labels"], {})
            d.kill()
            d.start()
            ids = sorted(c["id"] for c in clones)
            self.assertEqual(sorted(c["id"] for c in d.get("/v1/clones")["clones"]), ids)
            self.assertEqual(sorted(os.listdir(os.path.join(run, "clones"))), ids)
            d.delete(clones)
            d.stop()

    def test_too_much_memory(self):
        d = Daemon(self)
        d.template("t", self.ticker(memory="1G"))
        message = d.refused(507, "not_enough_memory", "POST", "/v1/templates/t/clones", {"count": 1000, "memory_restore_mode": "copy"})
        self.assertRegex(message, r"\d+ ?MiB")
        self.assertEqual(d.get("/v1/clones")["clones"], [])


class Callers(ForkdTest):
    def as_user(self, d, method, url, body=None):
        """The request of uid 65534."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.setgid(65534)
                os.setuid(65534)
                answer = request(d.socket, method, url, body)
                os.write(writer, f"{answer.status}\n".encode() + answer.body)
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as f:
            status, _, text = f.read().partition(b"\n")
        os.waitpid(child, 0)
        return int(status), json.loads(text) if text.strip() else None

    def test_paths_of_other_users(self):
        if os.geteuid() != 0:
            self.skipTest("needs root to become another user")
        directory = self.ticker()
        os.chmod(self.dir, 0o755)
        allowed = self.new_dir("allowed")
        inside = os.path.join(allowed, "snapshot")
        shutil.copytree(directory, inside)
        give_to(65534, inside)
        os.symlink(directory, os.path.join(allowed, "link"))
        d = Daemon(self, "--allow-path", allowed)
        os.chmod(d.root, 0o755)
        os.chmod(d.socket, 0o666)
        for path, code in ((directory, (403, "path_not_allowed")), ("/etc", (403, "path_not_allowed")),
                           (allowed + "/../" + os.path.basename(directory), (400, "invalid_request")),
                           (os.path.join(allowed, "link"), (403, "path_not_allowed"))):
            with self.subTest(path=path):
                status, answer = self.as_user(d, "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + path})
                self.assertEqual((status, answer["code"]), code, answer)
        status, answer = self.as_user(d, "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + inside})
        self.assertEqual(status, 201, answer)
        status, answer = self.as_user(d, "POST", "/v1/templates/t/clones", {})
        self.assertEqual(status, 201, answer)
        api = answer["clones"][0]["api_socket"]
        self.assertEqual(os.stat(api).st_uid, 65534)
        # through the clone's own API: paths below the root only
        outside, within = self.new_dir("outside"), os.path.join(allowed, "new")
        os.mkdir(within)
        self.assertEqual(request(api, "PUT", "/api/v1/vm.pause").status, 204)
        answer = request(api, "PUT", "/api/v1/vm.snapshot", {"destination_url": "file://" + outside})
        self.assertEqual(answer.status, 400, answer)
        self.assertIn("is not below a root of --allow-path", answer.body.decode())
        self.assertEqual(os.listdir(outside), [])
        answer = request(api, "PUT", "/api/v1/vm.snapshot", {"destination_url": "file://" + within})
        self.assertIn("Permission denied", answer.body.decode())       # root's directory is not his, below a root or not
        os.chown(within, 65534, 65534)
        self.assertEqual(request(api, "PUT", "/api/v1/vm.snapshot", {"destination_url": "file://" + within}).status, 204)
        self.assertEqual({os.stat(os.path.join(within, f)).st_uid for f in os.listdir(within)}, {65534})
        status, answer = self.as_user(d, "POST", "/v1/templates", {"name": "again", "snapshot": "file://" + within})
        self.assertEqual(status, 201, answer)                           # what he has taken a snapshot of, he may use

    def test_token(self):
        Tap.up(type("Loopback", (), {"name": "lo"}))
        token = self.path("token")
        write(token, "secret-of-this-test\n")
        os.chmod(token, 0o600)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        d = Daemon(self, "--listen", f"127.0.0.1:{port}", "--token-file", token)

        def get(url, *headers):
            done = subprocess.run(["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *headers, f"http://127.0.0.1:{port}{url}"],
                                  stdout=subprocess.PIPE, timeout=20)
            return int(done.stdout)
        self.assertEqual(get("/v1/templates"), 401)
        self.assertEqual(get("/v1/templates", "-H", "Authorization: Bearer wrong"), 401)
        self.assertEqual(get("/v1/templates", "-H", "Authorization: Bearer secret-of-this-test"), 200)
        self.assertEqual(get("/healthz"), 200)
        self.assertEqual(d.call("GET", "/v1/templates").status, 200)

    def test_listen_needs_a_token(self):
        done = subprocess.run([FORKD, "--socket", self.path("s"), "--store", self.path("store"), "--runtime-dir", self.path("run"),
                               "--listen", "127.0.0.1:1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"token", done.stderr)

    def test_second_daemon(self):
        d = Daemon(self)
        done = subprocess.run([FORKD, "--socket", self.path("other.sock"), "--store", d.store, "--runtime-dir", self.path("run2")],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(d.store.encode(), done.stderr)
