# SPDX-License-Identifier: Apache-2.0
"""The command line client against a live daemon."""
import json
import os
import signal
import socket
import subprocess

import test_agent
from forkdtest import FORKCTL, Daemon, ForkdTest, alive, ticks
from kvmtest import Tap, guest, wait_for


class Forkctl(ForkdTest):
    def test_walk(self):
        """Import, one and ten clones, show, pause, label, snapshot, logs, delete: tables and --json."""
        d = Daemon(self)
        directory = self.ticker()
        d.ctl("template", "import", "t", directory)
        self.assertIn("t", d.ctl("template", "list"))
        self.assertEqual(json.loads(d.ctl("template", "show", "t", "--json"))["name"], "t")
        one = json.loads(d.ctl("clone", "t", "--json"))["clones"][0]
        table = d.ctl("clone", "t", "-n", "10", "--label", "kind=ten")
        ids = [c["id"] for c in d.get("/v1/clones?label=kind=ten")["clones"]]
        self.assertEqual(len(ids), 10)
        for name in ids:
            self.assertIn(name, table)
        self.assertIn(one["id"], d.ctl("list"))
        self.assertNotIn(one["id"], d.ctl("list", "--label", "kind=ten"))
        self.assertIn(str(one["pid"]), d.ctl("show", one["id"]))
        d.ctl("pause", one["id"])
        self.assertEqual(d.get(f"/v1/clones/{one['id']}")["state"], "paused")
        d.ctl("resume", one["id"])
        d.ctl("wait", one["id"], "--state", "running")
        d.ctl("label", one["id"], "a=b")
        self.assertEqual(d.get(f"/v1/clones/{one['id']}")["labels"], {"a": "b"})
        d.ctl("snapshot", one["id"], "child")
        wait_for("ticks", lambda: ticks(one) > 3)
        self.assertIn("...", d.ctl("logs", one["id"]))
        d.ctl("delete", one["id"])
        d.ctl("delete", "--all")
        self.assertEqual(d.get("/v1/clones?state=running")["clones"], [])
        d.ctl("template", "verify", "t")
        d.ctl("template", "delete", "child")
        self.assertIn("clone.created", d.ctl("events"))
        d.ctl("version")
        d.ctl("health")

    def test_many(self):
        d = Daemon(self)
        d.ctl("template", "import", "t", self.resumed())
        d.ctl("clone", "t", "-n", "200")
        clones = d.get("/v1/clones?limit=1000")["clones"]
        self.assertEqual(len(clones), 200)
        for c in clones:
            wait_for(f"the byte of clone {c['id']}", lambda c=c: ticks(c) > 0)
        d.ctl("delete", "--all")
        wait_for("the processes to end", lambda: not any(alive(c["pid"]) for c in clones))

    def test_template_from_a_vm(self):
        """Boots a guest, waits for what it prints, and clones it."""
        d = Daemon(self)
        config = self.path("vm.json")
        with open(config, "w") as f:
            json.dump({"cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 64 << 20},
                       "payload": {"kernel": guest("ticker"), "cmdline": "tick=2000000 warm=4"},
                       "serial": {"mode": "Null"}, "console": {"mode": "Off"}}, f)
        d.ctl("template", "create", "t", "--vm", config, "--ready-serial", "....", "--timeout", "30")
        clone = json.loads(d.ctl("clone", "t", "--json"))["clones"][0]
        wait_for("ticks", lambda: ticks(clone) > 3)
        self.assertIn("never printed", d.ctl("template", "create", "u", "--vm", config, "--ready-serial", "never printed", "--timeout", "1",
                                             status=1))
        self.assertEqual([t["name"] for t in d.get("/v1/templates")["templates"]], ["t"])

    def test_mistakes(self):
        d = Daemon(self)
        self.assertIn("nothing", d.ctl("show", "nothing", status=1))
        d.ctl("dance", status=2)
        d.ctl("clone", status=2)
        done = subprocess.run([FORKCTL, "--socket", self.path("nobody"), "list"], stderr=subprocess.PIPE, timeout=20)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"forkd --socket", done.stderr)

    def test_output_that_nobody_takes(self):
        """A full disk is an error with its reason, however little was written; a pipe without a reader is none."""
        d = Daemon(self)
        d.template("t", self.ticker())
        [c] = d.clone("t")
        for words in (["list"], ["list", "--json"], ["show", c["id"]], ["template", "list"], ["events"], ["events", "--follow", "--after", "0"],
                      ["metrics"], ["version"], ["health"], ["--help"]):
            with self.subTest(words=words), open("/dev/full", "wb") as full:
                command = [FORKCTL, "--socket", d.socket, *words]
                done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)
                self.assertEqual((done.returncode, done.stderr), (1, b"forkctl: cannot write: No space left on device\n"))
                reader, writer = os.pipe()
                os.close(reader)
                with open(writer, "wb") as pipe:
                    done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=60, restore_signals=False)   # no SIGPIPE
                self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_doctor(self):
        done = subprocess.run([FORKCTL, "doctor", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        self.assertIn(b"/dev/kvm", done.stdout)


class Guest(test_agent.AgentTest):
    """What reaches a guest through the daemon's own routes; tests/agent/test_exec.py and its neighbours have the rest."""

    def start(self, *words, **more):
        p = subprocess.Popen([FORKCTL, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        self.addCleanup(lambda: (p.kill(), p.wait(), p.stdout.close(), p.stderr.close()))
        return p

    def test_exec_and_run(self):
        d = Daemon(self)
        self.template(d)
        c, = d.clone("t")
        p = self.start("exec", "--socket", d.socket, c["id"], "anything", "--json")
        self.assertEqual((*p.communicate(timeout=60), p.returncode), (b"hi\n", b"\xff", 3))
        self.assertIn("not twice", d.ctl("exec", c["id"], "twice", status=126))
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        self.assertIn("is paused", d.ctl("exec", c["id"], "x", status=125))
        d.ctl("delete", c["id"])
        p = self.start("run", "--socket", d.socket, "--label", "of=run", "t", "anything")
        self.assertEqual((*p.communicate(timeout=60), p.returncode), (b"hi\n", b"\xff", 3))
        self.assertEqual(d.get("/v1/clones")["clones"], [])
        self.assertIn("clone.deleted", d.ctl("events"))

    def test_run_ends_by_a_signal(self):
        """The command does not end; the clone does."""
        d = Daemon(self)
        self.template(d)
        p = self.start("run", "--socket", d.socket, "t", "silent")
        wait_for("the command runs", lambda: any(c["state"] == "running" and "agent: start" in self.serial(c) for c in d.get("/v1/clones")["clones"]))
        for signo in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):        # as ones of one kind may come as one
            p.send_signal(signo)
        self.assertGreater(p.wait(60), 124)
        wait_for("the clone is gone", lambda: d.get("/v1/clones")["clones"] == [])

    def test_forward(self):
        Tap.up(type("Loopback", (), {"name": "lo"}))
        d = Daemon(self)
        self.template(d)
        c, = d.clone("t")
        p = self.start("forward", "--socket", d.socket, c["id"], "0:80", "0:81")
        open_port, closed_port = (int(p.stdout.readline().split(b" ")[0].rsplit(b":")[-1]) for _ in range(2))
        with socket.create_connection(("127.0.0.1", open_port), 60) as s:
            s.sendall(b"GET /health HTTP/1.1\r\n\r\n")
            self.assertEqual(s.recv(1000), b"HTTP/1.1 204 No Content\r\n\r\n")
        with self.assertRaises(ConnectionResetError):       # on some days as early as by connect()
            with socket.create_connection(("127.0.0.1", closed_port), 60) as s:
                s.recv(1)
        self.assertIn(b"Connection refused (agent_unreachable)", p.stderr.readline())
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(60), 0)
