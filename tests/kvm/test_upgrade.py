# SPDX-License-Identifier: Apache-2.0
"""The daemon and the processes of another release: clones outlive the daemon that made them, and meet a newer or an older one."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

import kvmtest
from forkdtest import FORKD, Daemon, ForkdTest, alive, request
from kvmtest import BUILD, ROOT, read, wait_for, write

# The last commit whose control protocol names no version. It has another layout of folders.
OLD = "3e9cfba825829c6dd1744dd76f48346ba5c0ef1f"
KEPT = os.path.join(BUILD, "release-" + OLD[:7])
# As this release's common/ctl.h says.
NEWEST, OLDEST = (int(n) for n in re.search(rb"CTL_VERSION = (\d+), CTL_VERSION_OLDEST = (\d+)",
                                            read(os.path.join(ROOT, "common", "ctl.h"))).groups())


def git(*args, status=None):
    done = subprocess.run(["git", "-C", ROOT, *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    if status is None and done.returncode != 0:
        raise AssertionError(f"git {' '.join(args)}: {done.stdout.decode()}")
    return done.returncode == 0


def build_old():
    """Its forkd and forkd-vmm, kept in build/."""
    if os.path.exists(KEPT):
        return
    if not shutil.which("git") or not git("rev-parse", "--git-dir", status="any"):
        raise unittest.SkipTest(f"no history of the project is here (not a git repository), so commit {OLD[:7]} cannot be built: "
                                "NOT TESTED that this daemon adopts clones of an older one")
    if not git("cat-file", "-e", OLD + "^{commit}", status="any"):
        raise unittest.SkipTest(f"commit {OLD[:7]} is not in this history (a shallow clone?), so it cannot be built: "
                                "NOT TESTED that this daemon adopts clones of an older one")
    with tempfile.TemporaryDirectory(prefix="forkd-release.") as folder:
        tree = os.path.join(folder, "tree")
        git("worktree", "add", "--detach", tree, OLD)
        try:
            env = {k: v for k, v in os.environ.items() if k not in ("BUILD", "SAN", "OPT", "MAKEFLAGS", "MFLAGS")}
            made = subprocess.run(["make", "-s", "-j2", "OPT=-O1", "build/forkd", "build/forkd-vmm"], cwd=tree, env=env,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600)
            if made.returncode != 0:
                raise AssertionError(f"commit {OLD[:7]} does not build: {made.stdout.decode()[-2000:]}")
            os.makedirs(BUILD, exist_ok=True)
            half = tempfile.mkdtemp(prefix="release.", dir=BUILD)
            for name in ("forkd", "forkd-vmm"):
                shutil.copy(os.path.join(tree, "build", name), half)
            with contextlib.suppress(OSError):      # another run was faster
                os.rename(half, KEPT)
        finally:
            git("worktree", "remove", "--force", tree)


class Older(ForkdTest):
    """A daemon of the old commit makes clones and templates and stops; this one goes on with them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        build_old()

    def setUp(self):
        super().setUp()
        self.old = (os.path.join(KEPT, "forkd"), os.path.join(KEPT, "forkd-vmm"))
        self.new = (FORKD, kvmtest.VMM)

    def snapshot_of_old(self):
        vmm = self.boot("ticker", "tick=2000000 warm=4", program=self.old[1])
        vmm.wait_bytes(5)
        directory = vmm.snapshot()
        vmm.stop()
        return directory

    def test_adopts_clones_and_templates(self):
        d = Daemon(self, programs=self.old)
        d.template("t", self.snapshot_of_old())
        running, other = d.clone("t", 2, labels={"made": "before"})
        paused = d.clone("t", paused=True)[0]
        d.must(201, "POST", f"/v1/clones/{other['id']}/snapshot", {"name": "child"})
        d.stop()
        d.programs = self.new
        d.start()
        clones = {c["id"]: c for c in d.get("/v1/clones")["clones"]}
        self.assertEqual({i: (c["state"], c["responsive"], c["labels"]) for i, c in clones.items()}, {
            running["id"]: ("running", True, {"made": "before"}), other["id"]: ("running", True, {"made": "before"}),
            paused["id"]: ("paused", True, {})})
        for c in (running, other, paused):
            url = f"/v1/clones/{c['id']}"
            self.assertEqual(d.must(200, "PUT", url + "/pause")["state"], "paused")
            self.assertEqual(d.must(200, "PUT", url + "/resume")["state"], "running")
            self.wait_ticks([c])
            self.assertIn("disk_ops", d.get(url)["stats"])
        # It would take a snapshot beside a disk that changes.
        self.assertIn("pause it first", d.refused(409, "invalid_state", "POST", f"/v1/clones/{running['id']}/snapshot", {"name": "later"}))
        d.must(200, "PUT", f"/v1/clones/{running['id']}/pause")
        d.must(201, "POST", f"/v1/clones/{running['id']}/snapshot", {"name": "later"})
        for name in ("t", "child", "later"):        # by this release's forkd-vmm
            made = d.clone(name)
            self.wait_ticks(made)
            d.delete(made)
        self.assertEqual(request(other["api_socket"], "PUT", "/api/v1/vm.pause").status, 204)
        wait_for("its news to be heard", lambda: d.get(f"/v1/clones/{other['id']}")["state"] == "paused")
        d.delete([running, other, paused])
        for c in (running, other, paused):
            wait_for("the process to end", lambda c=c: not alive(c["pid"]))
        self.assertEqual(os.listdir(os.path.join(d.runtime, "clones")), [])

    def test_old_clone_that_hangs_up(self):
        """It hangs up when 270 of its news were not read, and is called again."""
        d = Daemon(self, programs=self.old)
        d.template("t", self.snapshot_of_old())
        c = d.clone("t")[0]
        d.stop()
        d.programs = self.new
        d.start()
        os.kill(d.process.pid, signal.SIGSTOP)
        try:
            for _ in range(300):
                for what in ("pause", "resume"):
                    self.assertEqual(request(c["api_socket"], "PUT", f"/api/v1/vm.{what}").status, 204)
            self.assertEqual(request(c["api_socket"], "PUT", "/api/v1/vm.pause").status, 204)
        finally:
            os.kill(d.process.pid, signal.SIGCONT)
        url = f"/v1/clones/{c['id']}"
        wait_for("its newest state", lambda: d.get(url)["state"] == "paused" and d.get(url)["responsive"])
        self.assertEqual(d.must(200, "PUT", url + "/resume")["state"], "running")
        self.wait_ticks([c])

    def test_old_daemon_adopts_clones_of_this_release(self):
        """The way back: it names no version, and is talked with like that."""
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        d.stop()
        d.programs = self.old
        d.start()
        url = f"/v1/clones/{c['id']}"
        self.assertEqual(d.must(200, "PUT", url + "/pause")["state"], "paused")
        self.assertEqual(request(c["api_socket"], "PUT", "/api/v1/vm.resume").status, 204)
        wait_for("its news to be heard", lambda: d.get(url)["state"] == "running")
        d.must(204, "DELETE", url)
        wait_for("the process to end", lambda: not alive(c["pid"]))

    def test_old_program_is_not_started(self):
        """It opens whatever a configuration names. The clones that live are not concerned."""
        d = Daemon(self, programs=self.old)
        d.template("t", self.snapshot_of_old())
        c = d.clone("t")[0]
        d.stop()
        d.programs = (self.new[0], self.old[1])
        d.start()
        vm = {"payload": {"kernel": kvmtest.guest("ticker")}, "memory": {"size": 64 << 20}, "cpus": {"boot_vcpus": 1, "max_vcpus": 1}}
        for url, body in (("/v1/templates/t/clones", {}),
                          ("/v1/templates", {"name": "u", "snapshot": "file://" + self.snapshot_of_old()}),
                          ("/v1/templates", {"name": "v", "vm": vm, "ready": {"delay_ms": 1}})):
            message = d.refused(409, "incompatible_version", "POST", url, body)
            self.assertIn(f"{self.old[1]} speaks version 0 of the control protocol, forkd starts none below {NEWEST}", message)
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")


# A process with a control socket: answers hello with the versions that it is given, everything else with its state; and quits.
STRANGER = """
import json, os, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
while True:
    connection = listener.accept()[0]
    while packet := connection.recv(1 << 17):
        op = json.loads(packet)["op"]
        answer = {"ok": True, "state": "Paused" if op == "pause" else "Running", "pid": os.getpid(), "news": [1]}
        if op == "hello":
            answer.update(json.loads(sys.argv[2]))
        connection.send(json.dumps(answer).encode())
        if op == "quit":
            sys.exit(0)
"""


class Newer(ForkdTest):
    def stranger(self, d, like, name, versions):
        """A clone in the daemon's directory whose process is of another release."""
        folder = os.path.join(d.runtime, "clones", name)
        os.mkdir(folder)
        process = subprocess.Popen([sys.executable, "-c", STRANGER, os.path.join(folder, "control.sock"), json.dumps(versions)],
                                   stdout=subprocess.PIPE)
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stdout.close()))
        self.assertEqual(process.stdout.readline(), b"listens\n")
        record = json.loads(read(os.path.join(d.runtime, "clones", like["id"], "clone.json")))
        write(os.path.join(folder, "clone.json"), json.dumps({**record, "id": name, "pid": process.pid, "later": {"x": 1}}))
        return process

    def test_clones_of_a_newer_release(self):
        """One that still speaks this version is used; one that does not is refused by name, and never ended but by its owner."""
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        d.stop()
        near = self.stranger(d, c, "c-aaaaaaaaaaaa", {"version": 9, "oldest": 1})
        far = self.stranger(d, c, "c-bbbbbbbbbbbb", {"version": 9, "oldest": 7})
        d.start()
        self.assertEqual({c["id"]: c["responsive"] for c in d.get("/v1/clones")["clones"]},
                         {c["id"]: True, "c-aaaaaaaaaaaa": True, "c-bbbbbbbbbbbb": False})
        self.assertEqual(d.must(200, "PUT", "/v1/clones/c-aaaaaaaaaaaa/pause")["state"], "paused")
        for method, what in (("PUT", "pause"), ("PUT", "resume")):
            message = d.refused(409, "incompatible_version", method, f"/v1/clones/c-bbbbbbbbbbbb/{what}")
            self.assertIn(f"its forkd-vmm speaks versions 7 to 9 of the control protocol, this forkd {OLDEST} to {NEWEST}", message)
        self.assertTrue(alive(far.pid))
        d.kill()
        d.start()
        self.assertTrue(alive(near.pid) and alive(far.pid))
        self.wait_ticks([c])
        for name, process in (("c-aaaaaaaaaaaa", near), ("c-bbbbbbbbbbbb", far)):
            d.must(204, "DELETE", "/v1/clones/" + name)
            process.wait(30)

    def test_newer_daemon(self):
        """A VM process refuses one that speaks no version of its own, by name, and goes on."""
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        d.stop()
        for versions, code in (({"version": 9, "oldest": 7}, "speaks versions 7 to 9"), ({"version": 9, "oldest": 1}, None), ({}, None)):
            with self.subTest(versions=versions), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
                control.settimeout(30)
                control.connect(os.path.join(os.path.dirname(c["api_socket"]), "control.sock"))
                control.send(json.dumps({"op": "hello", **versions}).encode())
                while "event" in (answer := json.loads(control.recv(1 << 17))):
                    pass
                if code:
                    self.assertIn(code, answer["error"]["message"])
                else:
                    self.assertEqual((answer["state"], answer["version"], answer["oldest"]), ("Running", NEWEST, OLDEST))
        self.wait_ticks([c])
        d.start()
        self.assertTrue(d.get(f"/v1/clones/{c['id']}")["responsive"])
