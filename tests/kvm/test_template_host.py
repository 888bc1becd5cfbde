# SPDX-License-Identifier: Apache-2.0
"""The control protocol of common/ctl.h: the test plays forkd for a template host and its clones."""
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time

from kvmtest import VMM, KvmTest, Tap, call, only_forkd, open_files, read, wait_for, write
from runner import alive, children

PACKET_MAX = 1 << 18


def receive(sock):
    text, fds, _, _ = socket.recv_fds(sock, PACKET_MAX, 253)
    return (json.loads(text) if text else None), fds


def own_kib(pid):
    """How much of guest memory is the process's own."""
    total, counted = 0, False
    for line in read(f"/proc/{pid}/smaps").decode().splitlines():
        if "-" in line.split()[0]:
            counted = line.endswith("memory-ranges")
        elif counted and line.startswith("Private_Dirty:"):
            total += int(line.split()[1])
    return total


class Host:
    """A template host, and what it says unasked."""

    def __init__(self, test, directory, load=True, park=0):
        self.test, self.events, self.park = test, [], park
        self.sock, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.log = os.path.join(test.dir, test.unique("host") + ".log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([VMM, "--template-host", f"fd={child.fileno()}", "-v"], pass_fds=[child.fileno()],
                                            stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        child.close()
        test.addCleanup(self.leave)
        if load:
            self.template = self.load(directory)

    def end(self):
        self.sock.close()
        self.process.wait(20)

    def leave(self):
        """Ends it behind its clones; those that are parked end with it, each in its own time."""
        children = []
        if self.process.poll() is None:
            for pid in self.children():
                with contextlib.suppress(ProcessLookupError):
                    children.append(os.pidfd_open(pid))
        self.end()
        for pidfd in children:
            self.test.assertTrue(select.select([pidfd], [], [], 20)[0], "a process of the host goes on")
            os.close(pidfd)

    def ask(self, op, passed=(), **members):
        socket.send_fds(self.sock, [json.dumps({"op": op, **members}).encode()], list(passed))
        while True:
            answer, got = receive(self.sock)
            if "event" not in answer:
                return answer, got
            self.events.append(answer)

    def load(self, directory):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        answer, _ = self.ask("load", [fd], park=self.park)
        os.close(fd)
        return answer

    def children(self):
        """Its processes, ended ones not."""
        return list(filter(alive, children(self.process.pid)))

    def wait_event(self, pid):
        while not any(e["pid"] == pid for e in self.events):
            self.events.append(receive(self.sock)[0])
        return next(e for e in self.events if e["pid"] == pid)


class Clone:
    """A forked VM process over its control socket."""

    def __init__(self, host, name, mode="copyonwrite"):
        test = host.test
        self.name, self.host = name, host
        self.path = os.path.join(test.dir, name + ".control")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(self.path)
            listener.listen(4)
            self.connect()
            answer, fds = host.ask("fork", [listener.fileno()], id=name, memory_restore_mode=mode)
        test.assertTrue(answer.get("ok"), answer)
        self.pid, self.pidfd = answer["pid"], fds[0]
        test.addCleanup(self.kill)
        self.log_path = os.path.join(test.dir, name + ".serial")
        self.api = os.path.join(test.dir, name + ".api")
        self.events = []

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(20)
        self.sock.connect(self.path)

    def kill(self):
        if self.sock.fileno() < 0:
            return
        if not self.ended(0):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            self.ended(10)
        self.sock.close()
        os.close(self.pidfd)

    def ended(self, timeout_s=10):
        return bool(select.select([self.pidfd], [], [], timeout_s)[0])

    def ask(self, op, passed=(), **members):
        socket.send_fds(self.sock, [json.dumps({"op": op, **members}).encode()], list(passed))
        while True:
            answer, got = receive(self.sock)
            if answer is None or "event" not in answer:
                return answer, got
            self.events.append(answer)

    def restore(self, resume=True, disks=(), nets=(), overrides=None, more=None, kernel=None):
        """`disks`: (id, path), `nets`: (id, descriptor), `kernel`: a path."""
        what, fds, mine = [], [], []
        log = os.open(self.log_path, os.O_RDWR | os.O_CREAT, 0o600)
        api = socket.socket(socket.AF_UNIX)
        api.bind(self.api)
        api.listen(8)
        for kind, fd in (("serial_log", log), ("api", api.fileno())):
            what.append({"kind": kind})
            fds.append(fd)
        mine.append(log)
        if kernel:
            mine.append(os.open(kernel, os.O_RDONLY))
            what.append({"kind": "kernel"})
            fds.append(mine[-1])
        for name, path in disks:
            for kind in ("disk", "disk_lock"):
                mine.append(os.open(path, os.O_RDWR))
                what.append({"kind": kind, "id": name})
                fds.append(mine[-1])
        for name, fd in nets:
            what.append({"kind": "net", "id": name})
            fds.append(fd)
        members = {"fds": what, "resume": resume, **(more or {})}
        if overrides is not None:
            members["overrides"] = overrides
        answer, _ = self.ask("restore", fds, **members)
        for fd in mine:
            os.close(fd)
        api.close()
        return answer

    def output(self):
        return read(self.log_path) if os.path.exists(self.log_path) else b""


@only_forkd
class TemplateHost(KvmTest):
    def ticker(self, memory="64M"):
        vmm = self.boot("ticker", "tick=2000000 warm=4", memory=memory)
        vmm.wait_bytes(5)
        directory = vmm.snapshot()
        vmm.stop()
        return directory

    def test_clones_tick(self):
        host = Host(self, self.ticker())
        self.assertEqual(host.template["ram_bytes"], 64 << 20)
        self.assertEqual(host.template["vcpus"], 1)
        self.assertTrue(host.template["has_serial"])
        self.assertRegex(host.template["host_cpu"], r"^\S+ family \d+ model \d+, TSC \d+ kHz$")
        clones = [Clone(host, f"c{i}") for i in range(5)]
        for c in clones:
            answer = c.restore()
            self.assertEqual(answer.get("state"), "Running", answer)
            self.assertEqual(answer["pid"], c.pid)
            self.assertGreaterEqual(answer["resumed_ns"], answer["restored_ns"])
        for c in clones:
            wait_for(f"ticks of {c.name}", lambda c=c: len(c.output()) > 5)
        ping = call(clones[0].api, "GET", "vmm.ping").json
        self.assertEqual(ping["pid"], clones[0].pid)
        for c in clones:
            self.assertEqual(c.ask("quit")[0], {"ok": True})
            self.assertTrue(c.ended())
            self.assertEqual(host.wait_event(c.pid)["status"], 0)

    def test_pause_resume_stats_snapshot(self):
        host = Host(self, self.ticker())
        c = Clone(host, "c")
        self.assertEqual(c.restore(resume=False)["state"], "Paused")
        self.assertEqual(c.output(), b"")
        self.assertEqual(c.ask("resume")[0]["state"], "Running")
        self.assertEqual(c.ask("resume")[0]["state"], "Running")
        wait_for("ticks", lambda: len(c.output()) > 3)
        self.assertEqual(c.ask("pause")[0]["state"], "Paused")
        seen = len(c.output())
        time.sleep(0.05)
        self.assertEqual(len(c.output()), seen)
        self.assertEqual(call(c.api, "PUT", "vm.resume").status, 204)
        self.assertEqual(c.ask("stats")[0]["state"], "Running")
        self.assertIn({"event": "state", "state": "Running"}, [{k: e[k] for k in ("event", "state")} for e in c.events])
        directory = self.new_dir("again")
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        answer, _ = c.ask("snapshot", [fd])
        os.close(fd)
        self.assertGreater(answer.get("paused_us", 0), 0, answer)
        self.assertEqual(sorted(os.listdir(directory)), ["config.json", "memory-ranges", "state.json"])
        child = Clone(Host(self, directory), "child")
        self.assertEqual(child.restore()["state"], "Running")
        wait_for("ticks of the clone's clone", lambda: len(child.output()) > 3)

    def test_daemon_goes_and_comes_back(self):
        host = Host(self, self.ticker())
        c = Clone(host, "c")
        c.restore()
        c.sock.close()
        host.end()
        seen = len(c.output())
        wait_for("ticks without a daemon", lambda: len(c.output()) > seen + 3)
        c.connect()
        answer, _ = c.ask("hello")
        self.assertEqual((answer["id"], answer["pid"], answer["state"]), ("c", c.pid, "Running"))
        c.ask("quit")
        self.assertTrue(c.ended())
        self.assertEqual(os.waitpid(c.pid, 0)[1], 0)        # its parent is gone: it came to us

    def test_parked_clone_ends_with_its_daemon(self):
        host = Host(self, self.ticker())
        c = Clone(host, "c")
        self.assertEqual(c.ask("hello")[0]["state"], "Parked")
        c.sock.close()
        self.assertTrue(c.ended())

    def test_children_hold_nothing_of_the_host(self):
        host = Host(self, self.ticker())
        first, second = Clone(host, "first"), Clone(host, "second")
        first.restore()
        second.restore()
        links = open_files(second.pid).values()
        self.assertNotIn(self.dir, " ".join(x for x in links if "first" in x))
        sockets = {x for x in links if x.startswith("socket:")}
        self.assertLessEqual(len(sockets), 3, f"control listener, control connection, API: {links}")

    def test_guest_ends(self):
        """A guest that halts its VM: the reason comes first, then the end of the process."""
        vmm = self.boot("devices", "rounds=0 cpus=1 mem=4 batches=2 end=reset", memory="64M")
        vmm.wait_rounds(1)
        directory = vmm.snapshot()
        vmm.stop()
        host = Host(self, directory)
        c = Clone(host, "c")
        disks = [(d["id"], d["path"]) for d in host.template["disks"]]
        nets = [(n["id"], Tap(self).fds[0]) for n in host.template["nets"]] if host.template["nets"] else []
        self.assertTrue(c.restore(disks=disks, nets=nets).get("ok"))
        call(c.api, "PUT", "vm.shutdown")
        while not any(e["event"] == "exiting" for e in c.events):
            c.events.append(receive(c.sock)[0])
        self.assertEqual(c.events[-1], {"event": "exiting", "reason": "ended through its API", "code": 0})
        self.assertTrue(c.ended())

    def test_refusals(self):
        directory = self.ticker()
        host = Host(self, directory)
        cases = [
            ({"cpus": {"boot_vcpus": 2}}, "overrides.cpus cannot be changed on restore"),
            ({"colour": "red"}, "overrides.colour: unknown field"),
            ({"net": [{"id": "net7", "tap": "x"}]}, "the template has no net 'net7'"),
            ({"net": [{"id": "net7", "mac": "x"}]}, "overrides.net[0].mac cannot be changed on restore"),
            ({"disks": {"id": 1}}, "overrides.disks: expected an array"),
        ]
        for i, (overrides, message) in enumerate(cases):
            c = Clone(host, f"c{i}")
            answer = c.restore(overrides=overrides)
            self.assertIn(message, answer["error"]["message"])
            self.assertTrue(c.ended(), "a clone that could not be restored goes on")
        self.assertIn("unknown request", host.ask("dance")[0]["error"]["message"])
        self.assertIn("loaded already", host.load(directory)["error"]["message"])
        self.assertIn("descriptors came", host.ask("fork", id="x", memory_restore_mode="copy")[0]["error"]["message"])

    def test_bad_templates(self):
        for name, break_it, message in (
            ("config.json", lambda p: os.unlink(p), "config.json"),
            ("memory-ranges", lambda p: os.truncate(p, 4096), "has 4096 bytes"),
            ("state.json", lambda p: os.truncate(p, 100), "state.json"),
            ("config.json", lambda p: write(p, read(p).replace(b"/dev/urandom", b"/etc/shadow")), "rng.src: '/etc/shadow'"),
        ):
            directory = self.ticker()
            break_it(os.path.join(directory, name))
            host = Host(self, directory, load=False)
            self.assertIn(message, host.load(directory)["error"]["message"])

    def test_pages_are_copied_ahead(self):
        """What the first clone had written when forkd released its nets, clones that are parked later have as memory of their own."""
        host = Host(self, self.ticker(), park=1)
        wait_for("a parked clone", lambda: len(host.children()) == 1)
        c = Clone(host, "c")
        c.restore()
        wait_for("ticks", lambda: len(c.output()) > 3)
        wait_for("another one", lambda: len(host.children()) == 2)
        [before] = set(host.children()) - {c.pid}
        written = own_kib(c.pid)
        self.assertLess(own_kib(before), written)       # nobody was ready
        self.assertTrue(c.ask("net_release")[0]["ok"])
        d = Clone(host, "d")
        self.assertEqual(d.pid, before)
        wait_for("its successor", lambda: len(host.children()) == 3)
        [after] = set(host.children()) - {c.pid, d.pid}
        wait_for("its pages", lambda: own_kib(after) >= min(written, 2048 * 4), context=lambda: f" ({own_kib(after)} of {written} KiB)")
        d.restore()
        self.assertTrue(d.ask("net_release")[0]["ok"])  # its list is not heard
        e = Clone(host, "e")
        self.assertEqual(e.pid, after)
        self.assertEqual(e.restore()["state"], "Running")
        wait_for("ticks", lambda: len(e.output()) > 3)

    def test_parked_clones(self):
        """They are ready before they are wanted, are replaced, and end with the host."""
        host = Host(self, self.ticker(), park=3)
        wait_for("three parked clones", lambda: len(host.children()) == 3)
        time.sleep(0.1)
        parked = host.children()
        c = Clone(host, "c")
        self.assertIn(c.pid, parked)
        answer = c.restore()
        self.assertEqual((answer["id"], answer["state"]), ("c", "Running"))
        wait_for("ticks", lambda: len(c.output()) > 3)
        wait_for("another one", lambda: len(host.children()) == 4)
        slow = Clone(host, "copy", "copy")
        self.assertNotIn(slow.pid, parked)
        victim = next(p for p in parked if p != c.pid)
        os.kill(victim, signal.SIGKILL)
        wait_for("the host to have noticed", lambda: not os.path.exists(f"/proc/{victim}"))
        burst = [Clone(host, f"b{i}") for i in range(6)]        # more than are parked
        for b in burst:
            self.assertEqual(b.restore()["state"], "Running")
        self.assertNotIn("exited", [e["event"] for e in host.events])
        wait_for("three parked clones, for those that were taken and the one that ended", lambda: len(host.children()) == 2 + 6 + 3)
        rest = set(host.children()) - {b.pid for b in burst} - {c.pid, slow.pid}
        host.end()
        wait_for("the parked ones to end", lambda: not any(map(alive, rest)))
        for p in rest:
            os.waitpid(p, 0)
        self.assertTrue(all(not b.ended(0) for b in burst))
        for b in [*burst, c, slow]:
            b.kill()
            os.waitpid(b.pid, 0)

    def test_modes(self):
        host = Host(self, self.ticker())
        for mode in ("copy", "ondemand", "copyonwrite"):
            c = Clone(host, mode, mode)
            self.assertEqual(c.restore()["state"], "Running")
            wait_for(f"ticks in mode {mode}", lambda c=c: len(c.output()) > 3)

    def test_snapshot_by_api_needs_the_open_service(self):
        host = Host(self, self.ticker())
        c = Clone(host, "c")
        c.restore(resume=False)
        answer = call(c.api, "PUT", "vm.snapshot", {"destination_url": f"file://{self.new_dir('x')}"})
        self.assertEqual(answer.status, 500)
        self.assertIn("may not name paths of the host", answer.body.decode())
        self.assertEqual(call(c.api, "PUT", "vm.restore", {"source_url": "file:///x"}).status, 500)
