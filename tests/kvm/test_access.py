# SPDX-License-Identifier: Apache-2.0
"""Attempts of another uid to reach, through a VM of a root daemon, what is root's: each worked once."""
import contextlib
import fcntl
import json
import os
import shutil
import socket
import stat
import struct
import threading
import time

import kvmtest
from forkdtest import Daemon, ForkdTest, alive, request
from kvmtest import MIB, PATIENCE_S, VMM, give_to, guest, open_files, read, wait_for, write

USER = 65534


def as_user(work, uid=USER):
    """What work() answers as that uid: something that is JSON."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(writer, json.dumps(work()).encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as f:
        text = f.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else None


class OtherUser(ForkdTest):
    """The VMM by itself, run by a user who may do little."""

    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("needs root to become another user")
        os.chmod(self.dir, 0o777)

    def program(self, mode=0o755, capabilities=False):
        """A copy of the VMM that runs as uid 65534, with a /dev/kvm that it may open and a /dev/userfaultfd that it may not."""
        path, node = self.path(self.unique("forkd-vmm")), self.path(self.unique("kvm"))
        shutil.copy(VMM, path)
        os.chmod(path, mode)
        if capabilities:                                                # cap_net_admin+ep, as setcap writes it
            os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << 12, 0, 0, 0))
        os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        os.chmod(node, 0o666)
        secret = self.path(self.unique("secret"))
        write(secret, b"")
        os.chmod(secret, 0o600)
        write(path + ".sh", f"""#!/bin/sh
[ "$1" = inside ] || exec unshare -m "$0" inside "$@"
shift
mount --bind {node} /dev/kvm
[ ! -e /dev/userfaultfd ] || mount --bind {secret} /dev/userfaultfd
# setpriv still has its capabilities when it starts something, and would be able to read the program
exec setpriv --reuid {USER} --regid {USER} --clear-groups sh -c 'exec "$0" "$@"' {path} "$@"
""")
        os.chmod(path + ".sh", 0o755)
        return path + ".sh"

    def snapshot(self, vmm):
        directory = self.new_dir("snapshot")
        os.chown(directory, USER, USER)
        vmm.snapshot(directory)
        self.assertLess(os.stat(os.path.join(directory, "memory-ranges")).st_blocks * 512, 32 * MIB)
        vmm.stop()
        return directory

    def test_ondemand_says_what_it_needs(self):
        if read("/proc/sys/vm/unprivileged_userfaultfd").strip() != b"0":
            self.skipTest("this host lets every user have a userfaultfd")
        program = self.program()
        vmm = self.boot("ticker", "tick=2000000 warm=1", program=program)
        vmm.wait_bytes(2)
        directory = self.snapshot(vmm)
        clone = self.start(program=program)
        answer = clone.call("PUT", "vm.restore", {"source_url": "file://" + directory, "memory_restore_mode": "OnDemand"})
        self.assertEqual(answer.status, 500)
        self.assertRegex(str(answer), "open /dev/userfaultfd: (Permission denied|No such file or directory); ")
        self.assertIn("vm.unprivileged_userfaultfd=1", str(answer))
        clone.stop()

    def test_snapshots_without_a_pagemap(self):
        """A program that its user may run and not read, or that has file capabilities, may not open its own pagemap."""
        for mode, capabilities in ((0o711, False), (0o755, True)):
            with self.subTest(mode=oct(mode), capabilities=capabilities):
                program = self.program(mode, capabilities)
                vmm = self.boot("devices", "rounds=0 mem=8 batches=4", program=program)
                vmm.wait_rounds(2)
                self.assertEqual(os.stat(f"/proc/{vmm.pid}/pagemap").st_uid, 0, "it may read its pagemap: this tests nothing")
                self.assertIn(f"Uid:\t{USER}\t", read(f"/proc/{vmm.pid}/status").decode())
                directory = self.snapshot(vmm)
                for _ in range(2):                                      # from anonymous memory, and from a copy-on-write mapping
                    clone = self.restore(directory, "CopyOnWrite", program=program)
                    clone.wait_rounds(2)
                    directory = self.snapshot(clone)


class AccessTest(ForkdTest):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("needs root to become another user")
        os.chmod(self.dir, 0o755)
        self.theirs = self.new_dir("theirs")
        os.chown(self.theirs, USER, USER)

    def daemon(self):
        d = Daemon(self, "--allow-path", self.theirs)
        os.chmod(d.root, 0o755)
        os.chmod(d.socket, 0o666)
        return d

    def ask(self, d, method, url, body=None, uid=USER):
        def work():
            answer = request(d.socket, method, url, body)
            return answer.status, answer.body.decode()
        status, text = as_user(work, uid)
        return status, json.loads(text) if text.strip() else None

    def give(self, directory):
        """A snapshot that the other user owns."""
        copy = os.path.join(self.theirs, "snapshot")
        shutil.copytree(directory, copy)
        give_to(USER, copy)
        return copy

    def secret(self):
        path = self.path("secret")
        with open(path, "w", encoding="utf-8") as f:
            f.write("root's own")
        os.chmod(path, 0o600)
        return path


class Links(AccessTest):
    """Snapshots that are named by links, or made of them: who may read what they lead to may import it."""

    def linked(self, directory, where):
        """A directory of links to the files of another, and a link to that."""
        links, link = os.path.join(where, "links"), os.path.join(where, "link")
        os.mkdir(links)
        for name in os.listdir(directory):
            os.symlink(os.path.join(directory, name), os.path.join(links, name))
        os.symlink("links", link)
        return link

    def import_as(self, d, name, path, uid=USER):
        """(status, code, message); an imported template is compared with what it was made from."""
        status, answer = self.ask(d, "POST", "/v1/templates", {"name": name, "snapshot": "file://" + path}, uid)
        if status == 201:
            for f in ("config.json", "memory-ranges", "state.json"):
                self.assertEqual(read(os.path.join(d.store, "templates", name, f)), read(os.path.join(path, f)), f)
        return status, answer.get("code"), answer.get("message")

    def test_root(self):
        directory, d = self.ticker(), Daemon(self)
        self.assertEqual(self.import_as(d, "a", self.linked(directory, self.new_dir("links")), 0)[0], 201)

    def test_owner(self):
        snapshot, d = self.give(self.ticker()), self.daemon()
        link = self.linked(snapshot, self.theirs)
        self.assertEqual(self.import_as(d, "a", link)[0], 201)
        clone = self.ask(d, "POST", "/v1/templates/a/clones", {})[1]["clones"][0]
        self.wait_ticks([clone])

    def test_out_of_the_roots(self):
        """His own files, but not where the administrator allows it: told where the link leads."""
        directory, d = self.give(self.ticker()), self.daemon()
        outside = os.path.join(self.new_dir("outside"), "snapshot")
        shutil.move(directory, outside)
        link = self.linked(outside, self.theirs)
        self.assertEqual(self.import_as(d, "a", link)[:2], (403, "path_not_allowed"))
        message = self.import_as(d, "a", link)[2]
        self.assertIn(f"'config.json' leads to '{outside}/config.json', which is not below a root of --allow-path", message)
        os.symlink(outside, os.path.join(self.theirs, "direct"))
        status, code, message = self.import_as(d, "a", os.path.join(self.theirs, "direct"))
        self.assertEqual((status, code), (403, "path_not_allowed"))
        self.assertIn(f"leads to '{outside}', which is not below a root of --allow-path", message)

    def test_files_of_others(self):
        """In a directory that he may look into, there are files that he may not read: by a link or by their own names."""
        directory, d = self.ticker(), self.daemon()
        roots = os.path.join(self.theirs, "roots")
        shutil.copytree(directory, roots)
        os.chmod(roots, 0o755)
        for path in (roots, self.linked(roots, self.theirs)):
            status, code, message = self.import_as(d, "a", path)
            self.assertEqual((status, code), (400, "invalid_request"), message)
            self.assertIn("open 'config.json': Permission denied", message)
        for name in os.listdir(roots):
            os.chmod(os.path.join(roots, name), 0o644)
        self.assertEqual(self.import_as(d, "b", os.path.join(self.theirs, "link"))[0], 201)

    def test_not_through_proc(self):
        """The daemon acts for him by a copy of itself: what that has open is not his."""
        snapshot, d = self.give(self.ticker()), self.daemon()
        state = os.path.join(snapshot, "state.json")
        os.unlink(state)
        os.symlink("/proc/self/exe", state)
        status, code, message = self.import_as(d, "a", snapshot)
        self.assertEqual((status, code), (403, "path_not_allowed"), message)
        self.assertIn("'state.json' leads through a symbolic link", message)


class Clones(AccessTest):
    def test_sockets_and_logs(self):
        """What the daemon makes for a clone belongs to who asked for it."""
        d = self.daemon()
        os.chmod(d.runtime, 0o755)
        self.assertEqual(self.ask(d, "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + self.give(self.ticker())})[0], 201)
        [ours] = d.clone("t")
        [theirs] = self.ask(d, "POST", "/v1/templates/t/clones", {})[1]["clones"]

        def reached(c):
            with contextlib.suppress(PermissionError):
                with open(c["serial"], "rb"):
                    pass
                return request(c["api_socket"], "GET", "/api/v1/vm.info").status
        self.assertEqual([as_user(lambda c=c: reached(c)) for c in (ours, theirs)], [None, 200])
        for name in ("serial", "api_socket"):
            self.assertEqual([as_user(lambda path=c[name]: os.access(path, os.R_OK | os.W_OK)) for c in (ours, theirs)], [False, True], name)

    def test_idempotency_keys(self):
        """The same key of two users is two keys: nobody gets another's answer."""
        d = self.daemon()
        self.assertEqual(self.ask(d, "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + self.give(self.ticker())})[0], 201)

        def make():
            answer = request(d.socket, "POST", "/v1/templates/t/clones", {}, headers={"Idempotency-Key": "one"})
            return answer.status, answer.json["clones"][0]["id"]
        ours, theirs = make(), tuple(as_user(make))
        self.assertEqual((ours[0], theirs[0], ours[1] == theirs[1]), (201, 201, False))
        self.assertEqual((make(), tuple(as_user(make))), (ours, theirs))


class SharedDisk(AccessTest):
    def test_rights_of_the_owner(self):
        """A read-only disk that the owner of the template may not read is one that his clones cannot have, whoever asks."""
        image = os.path.join(self.theirs, "base.img")
        write(image, bytes(MIB))
        vmm = self.boot("devices", "rounds=0 dev=rng", extra=["--disk", f"path={image},image_type=raw,id=base,readonly=on"])
        vmm.wait_rounds(1)
        snapshot = self.give(vmm.snapshot())
        vmm.stop()
        d = self.daemon()
        os.chmod(image, 0o644)
        self.assertEqual(self.ask(d, "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + snapshot})[0], 201)
        self.assertEqual(d.get("/v1/templates/t")["state"], "ready")
        os.chmod(image, 0o600)
        said = f"open '{image}': Permission denied (os error 13)"
        shown = d.get("/v1/templates/t")
        self.assertEqual((shown["state"], shown.get("reason")), ("incomplete", "disk 'base' of the snapshot: " + said))
        self.assertIn(said, d.refused(409, "disk_unusable", "POST", "/v1/templates/t/clones", {}))
        status, answer = self.ask(d, "POST", "/v1/templates", {"name": "u", "snapshot": "file://" + snapshot})
        self.assertEqual((status, answer["code"]), (409, "disk_unusable"), answer)
        self.assertIn(said, answer["message"])


class OwnApi(AccessTest):
    def test_another_machine_in_a_clone(self):
        """vm.delete (or vm.shutdown), vm.create with a file of root's, vm.boot: in one write, so that the process has no time to end."""
        secret, d = self.secret(), self.daemon()
        snapshot = self.give(self.ticker())
        self.assertEqual(self.ask(d, "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + snapshot})[0], 201)
        kernel = os.path.join(self.theirs, "kernel")
        shutil.copy(guest("ticker"), kernel)
        config = json.dumps({"payload": {"kernel": kernel}, "memory": {"size": 64 << 20}, "console": {"mode": "Off"},
                             "serial": {"mode": "File", "file": secret}})
        for ended in ("vm.delete", "vm.shutdown"):
            with self.subTest(ended=ended):
                status, answer = self.ask(d, "POST", "/v1/templates/t/clones", {})
                self.assertEqual(status, 201, answer)
                clone = answer["clones"][0]

                def attack(api=clone["api_socket"], ended=ended):
                    def put(what, body=""):
                        return (f"PUT /api/v1/{what} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                                f"Content-Length: {len(body)}\r\n\r\n{body}").encode()
                    with socket.socket(socket.AF_UNIX) as s:
                        s.settimeout(60)
                        s.connect(api)
                        s.sendall(put(ended) + (put("vm.delete") if ended != "vm.delete" else b"") + put("vm.create", config) + put("vm.boot"))
                        text = b""
                        with contextlib.suppress(OSError):
                            while got := s.recv(65536):
                                text += got
                    return text.decode(errors="replace")
                text = as_user(attack)
                self.assertIn("204", text)                              # the first request was understood
                wait_for("the clone's end", lambda pid=clone["pid"]: not alive(pid))
                self.assertEqual(read(secret), b"root's own", text)


class Snapshots(AccessTest):
    def test_console_files_of_a_snapshot(self):
        """config.json names root's file for a console; the override that says Null must not leave it open to the guest."""
        secret, d = self.secret(), self.daemon()
        snapshot = self.give(self.ticker())
        path = os.path.join(snapshot, "config.json")
        config = json.loads(read(path))
        for i, (mode, key) in enumerate((("File", "file"), ("Socket", "socket"), ("Tty", None), ("Pty", None))):
            with self.subTest(mode=mode):
                target = secret if mode == "File" else self.path("socket-of-root")
                config["serial"] = {"mode": mode, **({key: target} if key else {})}
                with open(path, "w", encoding="utf-8") as f:
                    json.dump(config, f)
                self.assertEqual(self.ask(d, "POST", "/v1/templates", {"name": f"t{i}", "snapshot": "file://" + snapshot})[0], 201)
                logged = os.stat(d.log).st_size
                status, answer = self.ask(d, "POST", f"/v1/templates/t{i}/clones", {"overrides": {"serial": {"mode": "Null"}}})
                self.assertEqual(status, 201, answer)
                clone = answer["clones"][0]
                fds = open_files(clone["pid"]).values()
                self.assertEqual([f for f in fds if f.startswith(("/dev/pts", "/dev/ptmx", target))], [], mode)
                self.assertEqual(self.ask(d, "DELETE", f"/v1/clones/{clone['id']}")[0], 204)
                with open(d.log, "rb") as f:
                    f.seek(logged)
                    self.assertNotIn(b"....", f.read(), mode)           # the guest's ticks
                self.assertEqual(read(secret), b"root's own", mode)
                self.assertFalse(os.path.exists(self.path("socket-of-root")), mode)


class OpenService(AccessTest):
    def test_connections_have_a_bound(self):
        """The 65th connection ends the first one, and no other."""
        d = self.daemon()
        connections = []
        for _ in range(65):
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self.addCleanup(s.close)
            s.settimeout(PATIENCE_S)
            s.connect(os.path.join(d.runtime, "open.sock"))
            connections.append(s)
        self.assertEqual(connections[0].recv(100), b"")
        for s in connections[1:]:
            s.send(b"{}")
            self.assertIn(b"'op'", s.recv(4096))


class Vsock(AccessTest):
    def listener(self, path):
        """Who connects there: a list of uids."""
        s, uids = socket.socket(socket.AF_UNIX), []
        s.bind(path)
        s.listen(16)
        self.addCleanup(s.close)

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    c, _ = s.accept()
                    uids.append(struct.unpack("3i", c.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
                    c.close()
        threading.Thread(target=serve, daemon=True).start()
        return uids

    def snapshot(self):
        vmm = self.boot("devices", "rounds=0 dev=vsock,rng pause=5 streams=1", extra=["--vsock", f"cid=3,socket={self.path('v')}"])
        vmm.wait_output(rb"vsock: cid 3")
        directory = vmm.snapshot()
        vmm.stop()
        return self.give(directory)

    def test_connection_is_the_owners(self):
        """The guest's connection to port 2000 arrives as the clone's owner, and not through a link to a socket of root's."""
        d = self.daemon()
        snapshot = self.snapshot()
        self.assertEqual(self.ask(d, "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + snapshot})[0], 201)
        roots = self.listener(self.path("root.sock"))
        os.chmod(self.path("root.sock"), 0o600)
        clones = {}
        for name in ("linked", "closed", "own"):                        # `own` is the last: the others had as much time
            status, answer = self.ask(d, "POST", "/v1/templates/t/clones", {})
            self.assertEqual(status, 201, answer)
            clones[name] = answer["clones"][0]
        ports = {name: c["vsock_socket"] + "_2000" for name, c in clones.items()}
        os.symlink(self.path("root.sock"), ports["linked"])
        closed = self.listener(ports["closed"])
        os.chmod(ports["closed"], 0o600)                                # root's, without a link
        uids = self.listener(ports["own"])
        os.chmod(ports["own"], 0o666)
        wait_for("a connection of the guest", lambda: len(uids) >= 20)
        self.assertEqual((set(uids), roots, closed), ({USER}, [], []))
        for c in clones.values():
            self.assertEqual(self.ask(d, "DELETE", f"/v1/clones/{c['id']}")[0], 204)

    def test_template_that_is_built(self):
        """A VM that is booted for a template of another user reaches no socket of root's either."""
        d = self.daemon()
        roots = self.listener(self.path("root.sock"))
        os.chmod(self.path("root.sock"), 0o600)
        os.symlink(self.path("root.sock"), os.path.join(self.theirs, "x_2000"))
        kernel = os.path.join(self.theirs, "kernel")
        shutil.copy(guest("devices"), kernel)
        os.chmod(kernel, 0o644)
        vm = {"payload": {"kernel": kernel, "cmdline": "rounds=0 dev=vsock,rng pause=5 streams=1"}, "memory": {"size": 64 << 20},
              "console": {"mode": "Off"}, "serial": {"mode": "File", "file": os.path.join(self.theirs, "log")},
              "vsock": {"cid": 3, "socket": os.path.join(self.theirs, "x")}}
        status, answer = self.ask(d, "POST", "/v1/templates", {"name": "t", "vm": vm, "ready": {"delay_ms": 1500}, "timeout_s": 60})
        self.assertIn(status, (201, 400, 403), answer)
        self.assertEqual(roots, [], answer)


class Descriptors(AccessTest):
    """Sockets that are sent along and linger: whoever closes one last waits for an hour, unless SO_LINGER is off by then."""

    def lingering(self):
        """A TCP socket with bytes that nobody takes, and what keeps it so."""
        listener, s = socket.socket(), socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        s.connect(listener.getsockname())
        peer = listener.accept()[0]
        s.setblocking(False)
        outq = -1                                                       # SIOCOUTQ: full, and stays so
        while outq != (outq := struct.unpack("i", fcntl.ioctl(s, 0x5411, bytes(4)))[0]) or outq == 0:
            with contextlib.suppress(BlockingIOError):
                while True:
                    s.send(bytes(65536))
            time.sleep(0.2)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        return s, (peer, listener)

    def send(self, d, data, more=b""):
        """As the other user: sends the socket along; goes at once after one byte, else when the daemon has hung up."""
        s, kept = self.lingering()
        with socket.socket(socket.AF_UNIX) as c:
            c.settimeout(60)
            c.connect(d.socket)
            socket.send_fds(c, [data], [s.fileno()])
            if more:
                socket.send_fds(c, [more], [s.fileno()])
            s.close()
            if len(data) > 1:
                with contextlib.suppress(ConnectionResetError):
                    while c.recv(4096):
                        pass
        return kept

    def test_nobody_waits(self):
        kvmtest.Tap.up(type("Loopback", (), {"name": "lo"}))
        d = self.daemon()
        whole = b"GET /v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        for data, more in ((whole, b""), (b"G", b""), (b"G", b"E")):
            with self.subTest(data=data, more=more):
                reader, writer = os.pipe()
                stay, end = os.pipe()
                child = os.fork()
                if child == 0:
                    with contextlib.suppress(BaseException):
                        os.close(end)
                        os.setgroups([])
                        os.setgid(USER)
                        os.setuid(USER)
                        kept = self.send(d, data, more)
                        os.write(writer, b"sent" if kept else b"")
                        os.read(stay, 1)                                # the sockets' other ends stay open until then
                    os._exit(0)
                os.close(writer)
                os.close(stay)
                try:
                    with open(reader, "rb") as f:
                        self.assertEqual(f.read(4), b"sent")
                    for _ in range(3):
                        self.assertEqual(d.call("GET", "/v1/version", timeout_s=20).status, 200)
                    if more:
                        d.stop()                                        # no thread is held
                finally:
                    os.close(end)
                    os.waitpid(child, 0)


class OtherDaemon(AccessTest):
    """A daemon of uid 65534: its own user and root are served wholly, a third user as far as no file must be his."""
    THIRD = 65533

    def unprivileged(self):
        """With a /dev/kvm of its own that it may open."""
        root, node = self.new_dir("forkd"), self.path("kvm")
        os.chown(root, USER, USER)
        os.chmod(os.path.dirname(kvmtest.VMM), 0o755)
        os.mknod(node, 0o666 | stat.S_IFCHR, os.stat("/dev/kvm").st_rdev)
        os.chmod(node, 0o666)
        become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
        d = Daemon(self, "--allow-path", self.dir, root=root, prefix=[
            "unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev/kvm && exec "$@"', node, *become])
        os.chmod(d.root, 0o755)
        os.chmod(d.socket, 0o666)
        self.assertEqual(os.stat(f"/proc/{d.process.pid}").st_uid, USER)
        return d

    def use(self, ask, api):
        """The whole life of a clone. `ask` and `api`: requests of one user to the daemon, and to a clone's API."""
        def must(status, method, url, body=None):
            got, answer = ask(method, url, body)
            self.assertEqual(got, status, (method, url, answer))
            return answer
        c = must(201, "POST", "/v1/templates/t/clones", {})["clones"][0]
        url = f"/v1/clones/{c['id']}"
        self.wait_ticks([c])
        self.assertEqual(os.stat(c["serial"]).st_uid, USER)
        self.assertEqual(api(c["api_socket"], "PUT", "/api/v1/vm.pause"), 204)
        must(200, "PUT", url + "/resume")
        must(201, "POST", url + "/snapshot", {"name": "child"})
        must(204, "DELETE", url)
        must(204, "DELETE", "/v1/templates/child")
        config = {"payload": {"kernel": guest("ticker"), "cmdline": "tick=2000000 warm=4"}, "memory": {"size": 64 << 20}, "console": {"mode": "Off"}}
        must(201, "POST", "/v1/templates", {"name": "vm", "vm": config, "ready": {"serial": "...."}})
        must(204, "DELETE", "/v1/templates/vm")

    def test_root_and_its_own_user(self):
        d = self.unprivileged()
        directory = self.ticker()
        for root, _, files in os.walk(directory):
            os.chmod(root, 0o755)
            for f in files:
                os.chmod(os.path.join(root, f), 0o644)
        d.template("t", directory)

        def by_root(method, url, body=None):
            answer = d.call(method, url, body)
            return answer.status, answer.json if answer.body else None
        self.use(by_root, lambda *ask: request(*ask).status)
        self.use(lambda *ask: self.ask(d, *ask), lambda *ask: as_user(lambda: request(*ask).status))

    def test_a_third_user(self):
        d = self.unprivileged()
        directory = self.ticker()
        d.template("t", self.give(directory))
        c = d.clone("t")[0]

        def ask(*request_of):
            return self.ask(d, *request_of, uid=self.THIRD)
        config = {"payload": {"kernel": guest("ticker")}, "memory": {"size": 64 << 20}}
        for url, body in (("/v1/templates/t/clones", {}), ("/v1/templates/t/clones", {"count": 3}),
                          ("/v1/templates", {"name": "u", "snapshot": "file://" + directory}),
                          ("/v1/templates", {"name": "u", "vm": config, "ready": {"delay_ms": 1}})):
            with self.subTest(url=url, body=body):
                status, answer = ask("POST", url, body)
                self.assertEqual((status, answer["code"]), (403, "user_not_served"), answer)
                self.assertIn(f"forkd runs as user {USER}: it can neither open files with the rights of user {self.THIRD} nor give", answer["message"])
        self.assertEqual(os.listdir(os.path.join(d.runtime, "clones")), [c["id"]])
        self.assertEqual(os.listdir(os.path.join(d.runtime, "builds")), [])
        self.assertEqual([t["name"] for t in ask("GET", "/v1/templates")[1]["templates"]], ["t"])
        self.assertEqual([a["id"] for a in ask("GET", "/v1/clones")[1]["clones"]], [c["id"]])
        url = f"/v1/clones/{c['id']}"
        for method, action, status in (("GET", "", 200), ("PUT", "/pause", 200), ("PUT", "/resume", 200), ("DELETE", "", 204)):
            self.assertEqual(ask(method, url + action)[0], status, (method, action))
