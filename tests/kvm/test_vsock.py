# SPDX-License-Identifier: Apache-2.0
"""virtio-vsock: streams both ways, half-closed ones, hosts that do not read, snapshots in the middle of it all.

The guest "devices" echoes on port 1000, and with streams= sends patterns to the host's port 2000 and checks what comes back.
"""
import contextlib
import json
import os
import re
import select
import socket
import threading
import time

import test_template_host
from kvmtest import IS_FORKD, PATIENCE_S, VMM, KvmTest, guest, modes, only_forkd, open_files, peer, wait_for

DEVICES = "rounds=0 dev=vsock,rng pause=5"


class EchoServer:
    """The host's port 2000 of one VM: sends back what comes, until the end."""

    def __init__(self, test, vsock, port=2000):
        self.path, self.n_accepted, self.n_broken = f"{vsock}_{port}", 0, 0
        self.n_going, self.held, self.turn = 0, False, threading.Condition()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.threads = []
        self.main = threading.Thread(target=self._accept, daemon=True)
        self.main.start()
        test.addCleanup(self.close)

    def _accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            self.n_accepted += 1
            with self.turn:
                self.n_going += 1
            t = threading.Thread(target=self._serve, args=(s,), daemon=True)
            t.start()

    def _serve(self, s):
        with s, contextlib.suppress(OSError):
            while True:
                data = s.recv(50000)
                if not data:
                    with self.turn:
                        self.turn.wait_for(lambda: not self.held)
                        self.n_going -= 1
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(4096):
                        pass
                    return
                s.sendall(data)
        self.n_broken += 1

    def hold(self):
        """Returns when a stream is going on that will not end before release(): the guest is in the middle of a round."""
        with self.turn:
            self.held = True
        wait_for("a stream of the guest", lambda: self.n_going > 0)

    def release(self):
        with self.turn:
            self.held = False
            self.turn.notify_all()

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def n_sockets(vmm):
    return sum(target.startswith("socket:") for target in open_files(vmm.pid).values())


def dial(path, port=1000, timeout_s=None):
    """A stream to a port of the guest; None: refused."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(timeout_s or PATIENCE_S)
    s.connect(path)
    s.sendall(b"CONNECT %d\n" % port)
    line = b""
    while not line.endswith(b"\n"):
        try:
            piece = s.recv(1)
        except ConnectionResetError:
            piece = b""
        if not piece:
            s.close()
            return None
        line += piece
    if not re.fullmatch(rb"OK \d+\n", line):
        raise AssertionError(f"CONNECT: expected OK and a port, got {line!r}")
    return s


def pattern(n, seed):
    return bytes((i * 7 + (i >> 8) * 13 + seed) & 0xff for i in range(min(n, 1 << 16))) * (n // (1 << 16) + 1)


def echo(s, data, half_close=True):
    """Sends it all and reads it all back, at the same time; then the end."""
    got = bytearray()
    failed = []

    def send():
        try:
            s.sendall(data)
            if half_close:
                s.shutdown(socket.SHUT_WR)
        except OSError as e:
            failed.append(e)
    t = threading.Thread(target=send)
    t.start()
    while half_close or len(got) < len(data):
        piece = s.recv(65536)
        if not piece:
            break
        got += piece
    t.join()
    if failed:
        raise failed[0]
    if got != data:
        at = next((i for i, (a, b) in enumerate(zip(got, data)) if a != b), min(len(got), len(data)))
        raise AssertionError(f"echo: {len(data)} bytes sent, {len(got)} came back, they differ at {at}")


class VsockTest(KvmTest):
    def setUp(self):
        super().setUp()
        self.vsock = self.path("vsock")

    def boot_vsock(self, options="", extra=(), **more):
        vmm = self.boot("devices", f"{DEVICES} {options}", extra=["--vsock", f"cid=3,socket={self.vsock}", *extra], **more)
        vmm.wait_output(rb"vsock: cid 3")
        return vmm

    def lost(self, vmm):
        return int(re.findall(rb"vsock: \d+ streams, \d+ bytes, (\d+) lost", vmm.output)[-1])

    def wait_sockets(self, vmm, n):
        wait_for("sockets to be closed", lambda: n_sockets(vmm) <= n, context=lambda: f": {n} before, {n_sockets(vmm)} now")


class Streams(VsockTest):
    def test_both_ways(self):
        for irq in ("poll", "irq"):
            server = EchoServer(self, self.vsock)
            vmm = self.boot_vsock(f"mode={irq} streams=5")
            vmm.wait_rounds(2)
            for n in (1, 4096, 65536, 3_000_000):
                with dial(self.vsock) as s:
                    echo(s, pattern(n, n)[:n])
            many = [dial(self.vsock) for _ in range(8)]
            workers = [threading.Thread(target=echo, args=(s, pattern(300_000, i)[:300_000])) for i, s in enumerate(many)]
            for t in workers:
                t.start()
            for t in workers:
                t.join()
            for s in many:
                s.close()
            vmm.wait_rounds(2)
            self.assertEqual(self.lost(vmm), 0)
            self.assertGreaterEqual(server.n_accepted, 20)
            server.close()
            vmm.stop()
            self.assertFalse(os.path.exists(self.vsock), "the socket is still there after a clean end")

    def test_refusals(self):
        vmm = self.boot_vsock()
        self.assertIsNone(dial(self.vsock, 1234))                       # nobody listens in the guest
        for bad in (b"HELLO 1\n", b"CONNECT\n", b"CONNECT x\n", b"CONNECT 4294967296\n", b"\n", b"x" * 64, b"\0\n", b""):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(PATIENCE_S)
                s.connect(self.vsock)
                s.sendall(bad)
                s.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(s.recv(100), b"", bad)
        before = n_sockets(vmm)
        for cut in (b"CONN", b"ECT 1000", b"\nabc"):                    # a line in pieces, and data right behind it
            if cut == b"CONN":
                s = socket.socket(socket.AF_UNIX)
                s.settimeout(PATIENCE_S)
                s.connect(self.vsock)
            s.sendall(cut)
            time.sleep(0.02)
        line = b""
        while len(line) < 8 or not line.endswith(b"abc"):
            line += s.recv(100)
        self.assertRegex(line, rb"\AOK \d+\nabc\Z")
        s.close()
        self.wait_sockets(vmm, before)
        vmm.stop()

    @only_forkd
    def test_a_host_that_does_not_read(self):
        EchoServer(self, self.vsock)
        vmm = self.boot_vsock("streams=2")
        stuck = dial(self.vsock)
        stuck.setblocking(False)
        sent, data = 0, bytes(65536)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:                              # until nothing more goes in
            if select.select([], [stuck], [], 0.3)[1]:
                with contextlib.suppress(BlockingIOError):
                    sent += stuck.send(data)
        self.assertGreater(sent, 65536)
        vmm.wait_rounds(3)                                              # all others go on
        with dial(self.vsock) as s:
            echo(s, pattern(500_000, 1)[:500_000])
        stuck.setblocking(True)
        stuck.settimeout(PATIENCE_S)
        stuck.shutdown(socket.SHUT_WR)
        got = 0
        while piece := stuck.recv(65536):
            got += len(piece)
        self.assertEqual(got, sent)
        stuck.close()
        vmm.stop()

    def test_many(self):
        vmm = self.boot_vsock()
        before = n_sockets(vmm)
        for _ in range(200):
            with dial(self.vsock) as s:
                echo(s, b"some bytes")
        abandoned = [socket.socket(socket.AF_UNIX) for _ in range(300)]
        for i, s in enumerate(abandoned):
            s.settimeout(PATIENCE_S)
            s.connect(self.vsock)
            s.sendall(b"CONNECT 1000\n" if i % 2 else b"CONN")
        for s in abandoned:
            s.close()
        self.wait_sockets(vmm, before)                                  # the guest has room for 24, and was told of all ends
        with dial(self.vsock) as s:
            echo(s, pattern(100_000, 3)[:100_000])
        self.wait_sockets(vmm, before)
        vmm.stop()

    def test_socket_in_the_way(self):
        with open(self.vsock, "w"):
            pass
        vmm = self.start("--kernel", guest("devices"), "--vsock", f"cid=3,socket={self.vsock}", api=False)
        self.assertEqual(vmm.wait_exit(), 1)
        self.assertIn("Address already in use", vmm.stderr)
        vmm.release()
        self.assertTrue(os.path.exists(self.vsock))


class Snapshots(VsockTest):
    def restored(self, directory, mode, program=None):
        vsock = self.path(self.unique("vsock"))
        server = EchoServer(self, vsock)
        copy = self.copy_snapshot(directory, lambda c: c["vsock"].update(socket=vsock))
        return self.restore(copy, mode, program=program or VMM), vsock, server

    def in_the_middle(self, first, second, second_modes):
        """A snapshot while streams are busy in both directions: the source goes on, restored guests lose those and make new ones."""
        server = EchoServer(self, self.vsock)
        vmm = self.boot_vsock("streams=4 vsock_bytes=2000000", program=first)
        vmm.wait_rounds(1)
        quiet = dial(self.vsock)
        echo(quiet, b"before", half_close=False)
        busy = dial(self.vsock)
        failed = []

        def run():
            try:
                echo(busy, pattern(20_000_000, 5)[:20_000_000])
            except (OSError, AssertionError) as e:
                failed.append(e)
        worker = threading.Thread(target=run)
        worker.start()
        server.hold()
        directory = vmm.snapshot(resume=True)
        server.release()
        worker.join()
        self.assertEqual(failed, [])
        echo(quiet, b"after")
        vmm.wait_rounds(2)
        self.assertEqual((self.lost(vmm), server.n_broken), (0, 0))
        busy.close()
        quiet.close()
        vmm.stop()
        server.close()
        for mode in second_modes:
            clone, vsock, other = self.restored(directory, mode, second)
            with dial(vsock) as s:                                      # the first request after the restore
                echo(s, pattern(1_000_000, 6)[:1_000_000])
            clone.wait_rounds(3)
            self.assertGreater(self.lost(clone), 0)
            self.assertEqual(other.n_broken, 0)
            again = clone.snapshot_when_filled()
            clone.stop()
            other.close()
            if second is not first:
                back, vsock, other = self.restored(again, "Copy", first)
                with dial(vsock) as s:
                    echo(s, pattern(1_000_000, 7)[:1_000_000])
                back.wait_rounds(3)
                back.stop()
                other.close()

    def test_in_the_middle(self):
        self.in_the_middle(VMM, VMM, modes())

    @only_forkd
    def test_ours_there(self):
        self.in_the_middle(VMM, peer("cloud-hypervisor"), ["Copy"])

    @only_forkd
    def test_theirs_here(self):
        self.in_the_middle(peer("cloud-hypervisor"), VMM, modes())

    def test_paths(self):
        vmm = self.boot_vsock()
        directory = vmm.snapshot()
        clone = self.start(name="clone")
        answer = clone.call("PUT", "vm.restore", {"source_url": "file://" + directory})
        self.assertEqual(answer.status, 500)                            # the source listens there
        self.assertIn("Address already in use", answer.json[-1])
        vmm.stop()
        clone.put("vm.restore", {"source_url": "file://" + directory, "resume": True})
        with dial(self.vsock) as s:
            echo(s, b"again")
        self.assertEqual(clone.get("vm.info")["config"]["vsock"],
                         {"id": "_vsock0", "pci_segment": 0, "cid": 3, "socket": self.vsock})
        clone.put("vm.delete")
        self.assertFalse(IS_FORKD and os.path.exists(self.vsock))
        clone.stop()


@only_forkd
class Clones(VsockTest):
    """Of a template host: each has a listening socket of its own, and its guest reaches that socket's path with a port behind it."""

    def serve_connects(self):
        """forkd's open service: connects to PATH_PORT for the clone whose id is in the request. Its path, and the list of what was asked."""
        path, asked = self.path("open.sock"), []
        service = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        service.bind(path)
        service.listen(16)
        self.addCleanup(service.close)

        def serve():
            while True:
                try:
                    s, _ = service.accept()
                except OSError:
                    return
                with s, socket.socket(socket.AF_UNIX) as target:
                    request = json.loads(s.recv(4096))
                    asked.append(request)
                    try:
                        target.connect(self.path(f"{request['id']}.vsock") + f"_{request['port']}")
                        target.setblocking(False)
                        socket.send_fds(s, [b'{"ok":true}'], [target.fileno()])
                    except OSError as e:
                        s.send(json.dumps({"error": {"code": "invalid", "num": -e.errno, "message": str(e)}}).encode())
        threading.Thread(target=serve, daemon=True).start()
        return path, asked

    def begin(self, host, name, give=True, open_socket=None):
        clone = test_template_host.Clone(host, name)
        path = self.path(name + ".vsock")
        log = os.open(clone.log_path, os.O_RDWR | os.O_CREAT, 0o600)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(16)
            fds, kinds = [log, listener.fileno()], [{"kind": "serial_log"}, {"kind": "vsock"}]
            n = 2 if give else 1
            answer, _ = clone.ask("restore", fds[:n], fds=kinds[:n], resume=True, overrides={"vsock": {"socket": path}},
                                   vsock_socket=path, **({"open_socket": open_socket} if open_socket else {}))
        os.close(log)
        return clone, path, answer

    def test_clones(self):
        server = EchoServer(self, self.vsock)
        vmm = self.boot_vsock("streams=2")
        vmm.wait_rounds(1)
        busy = dial(self.vsock)
        directory = vmm.snapshot()
        vmm.stop()
        busy.close()
        server.close()
        host = test_template_host.Host(self, directory)
        self.assertTrue(host.template["has_vsock"], host.template)
        servers = [EchoServer(self, self.path(f"c{i}.vsock")) for i in range(4)]
        service, asked = self.serve_connects()
        clones = [self.begin(host, f"c{i}", open_socket=service) for i in range(4)]
        for i, (clone, path, answer) in enumerate(clones):
            self.assertEqual(answer.get("state"), "Running", answer)
            with dial(path) as s:
                echo(s, pattern(200_000, i)[:200_000])
            wait_for("streams of the guest", lambda i=i: servers[i].n_accepted >= 4, context=lambda c=clone: str(c.output()[-300:]))
            self.assertNotIn(b"FAIL", clone.output())
            self.assertEqual(clone.ask("quit")[0], {"ok": True})
            self.assertTrue(clone.ended())
            self.assertTrue(os.path.exists(path))                       # whoever made it removes it
        self.assertEqual({(r["op"], r["port"]) for r in asked}, {("connect", 2000)})
        _, _, answer = self.begin(host, "without", give=False)
        self.assertIn("vsock: its listening socket did not come", str(answer))

    def test_dial(self):
        """The daemon's way to the guest, without the socket; and to the private port, to which the socket does not lead."""
        vmm = self.boot_vsock()
        directory = vmm.snapshot()
        vmm.stop()
        host = test_template_host.Host(self, directory)
        clone, path, _ = self.begin(host, "c")

        def dialed(port, **members):
            ours, theirs = socket.socketpair()
            ours.settimeout(PATIENCE_S)
            with theirs:
                answer, _ = clone.ask("dial", [theirs.fileno()], port=port, **members)
            return ours, answer
        ours, answer = dialed(1000)
        self.assertEqual(answer, {"ok": True})
        with ours:
            self.assertRegex(ours.recv(14), rb"\AOK \d{10}\n\Z")
            echo(ours, pattern(300_000, 8)[:300_000])
        for port in (984, 4711):                                        # nobody listens
            ours, answer = dialed(port)
            self.assertEqual((answer, ours.recv(1)), ({"ok": True}, b""))
            ours.close()
        self.assertIsNone(dial(path, 984))
        with dial(path) as s:
            echo(s, b"as before")
        self.assertIn("expected one", str(clone.ask("dial", port=1)[0]))
        for bad in (-1, 1 << 32, "x"):
            self.assertIn("dial.port", str(dialed(bad)[1]))
        self.assertEqual(clone.ask("pause")[0]["state"], "Paused")      # the guest answers when it goes on
        ours, answer = dialed(1000)
        self.assertEqual(answer, {"ok": True})
        clone.ask("resume")
        with ours:
            self.assertRegex(ours.recv(14), rb"\AOK \d{10}\n\Z")
            echo(ours, b"late")
        self.assertNotIn(b"FAIL", clone.output())
        parked = test_template_host.Clone(host, "parked")
        with socket.socketpair()[0] as s:
            self.assertIn("there is no VM", str(parked.ask("dial", [s.fileno()], port=1000)[0]))
