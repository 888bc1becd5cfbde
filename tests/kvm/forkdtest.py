# SPDX-License-Identifier: Apache-2.0
"""What the tests of the daemon share: a forkd of its own, its REST API, its command line client."""
import contextlib
import http.client
import json
import os
import socket
import subprocess

import kvmtest
from kvmtest import BUILD, Answer, KvmTest, read, wait_for
from runner import alive

FORKD = os.path.join(BUILD, "forkd")
FORKCTL = os.path.join(BUILD, "forkctl")


class UnixConnection(http.client.HTTPConnection):
    """Descriptors, when there are any, go with the first byte."""

    def __init__(self, path, fds=(), timeout_s=120):
        super().__init__("localhost", timeout=timeout_s)
        self.path, self.fds = path, list(fds)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def send(self, data):
        if self.sock is None:
            self.connect()
        if self.fds:
            sent = socket.send_fds(self.sock, [data], self.fds)
            self.fds, data = [], data[sent:]
        self.sock.sendall(data)


def request(path, method, url, body=None, fds=(), headers=None, timeout_s=120):
    connection = UnixConnection(path, fds, timeout_s)
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, url, data, {"Content-Type": "application/json", **(headers or {})} if data is not None else headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, dict(answer.getheaders()), answer.read())
    finally:
        connection.close()


class Daemon:
    def __init__(self, test, *args, root=None, prefix=(), programs=None):
        """`prefix`: a command that becomes the daemon."""
        self.test, self.args, self.prefix = test, [str(a) for a in args], list(prefix)
        self.programs = programs or (FORKD, kvmtest.VMM)    # of the next start
        self.root = root or test.new_dir("forkd")
        self.store, self.runtime = os.path.join(self.root, "store"), os.path.join(self.root, "run")
        self.socket = os.path.join(self.root, "forkd.sock")
        self.log = os.path.join(self.root, "log")
        self.process = None
        self.start()
        test.addCleanup(self.end)

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, self.programs[0], "--socket", self.socket, "--store", self.store, "--runtime-dir", self.runtime,
                 "--vmm", self.programs[1], *(["--network", "off"] if "--network" not in self.args and self.programs[0] == FORKD else []), *self.args],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        self.ready = self.process.stdout.readline().decode().strip()
        if not self.ready:
            raise AssertionError(f"forkd did not start, exit status {self.process.wait(10)}{self.context()}")

    def context(self):
        with contextlib.suppress(OSError):
            return "\n  forkd's log: " + read(self.log).decode(errors="replace")[-3000:]
        return ""

    def stop(self):
        """SIGTERM: a clean end."""
        self.process.terminate()
        status = self.process.wait(30)
        self.process.stdout.close()
        if status != 0:
            raise AssertionError(f"forkd ended with {status} after SIGTERM{self.context()}")

    def kill(self):
        self.process.kill()
        self.process.wait(30)
        self.process.stdout.close()

    def end(self):
        """After a test: no clone stays, and no daemon."""
        if self.process.poll() is not None:
            with contextlib.suppress(AssertionError):
                self.start()
        if self.process.poll() is None:
            for c in self.get("/v1/clones").get("clones", []):
                self.call("DELETE", f"/v1/clones/{c['id']}")
            self.stop()
        reap()
        if found := kvmtest.SANITIZER.search(read(self.log).decode(errors="replace")):
            raise AssertionError(f"forkd reports: {found.string[found.start():found.start() + 3000]}")

    # ---- REST

    def call(self, method, url, body=None, fds=(), headers=None, timeout_s=120):
        return request(self.socket, method, url, body, fds, headers, timeout_s)

    def must(self, status, method, url, body=None, fds=(), headers=None, timeout_s=120):
        answer = self.call(method, url, body, fds, headers, timeout_s)
        if answer.status != status:
            raise AssertionError(f"{method} {url}: expected {status}, got {answer}{self.context()}")
        return answer.json

    def get(self, url):
        return self.must(200, "GET", url)

    def refused(self, status, code, method, url, body=None, fds=(), headers=None):
        """An error with the three things every error has; returns its message."""
        answer = self.call(method, url, body, fds, headers)
        if answer.status != status or answer.json.get("code") != code:
            raise AssertionError(f"{method} {url}: expected {status} {code}, got {answer}{self.context()}")
        if not answer.json.get("message") or not answer.json.get("remedy"):
            raise AssertionError(f"{method} {url}: no message or no remedy: {answer}")
        return answer.json["message"]

    def template(self, name, directory, **more):
        return self.must(201, "POST", "/v1/templates", {"name": name, "snapshot": "file://" + directory, **more})

    def clone(self, name, count=1, **more):
        return self.must(201, "POST", f"/v1/templates/{name}/clones", {"count": count, **more})["clones"]

    def delete(self, clones):
        for c in clones:
            self.must(204, "DELETE", f"/v1/clones/{c['id']}")

    def events(self, after=None):
        """The events so far, as (type, data)."""
        url = "/v1/events?follow=0" + (f"&after={after}" if after is not None else "")
        answer = self.call("GET", url)
        if answer.status != 200:
            raise AssertionError(f"GET {url}: {answer}")
        data = [json.loads(line[6:]) for line in answer.body.decode().splitlines() if line.startswith("data: ")]
        return data

    def ctl(self, *args, status=0, text=None):
        done = subprocess.run([FORKCTL, "--socket", self.socket, *[str(a) for a in args]], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, input=text, timeout=120)
        if done.returncode != status:
            raise AssertionError(f"forkctl {' '.join(map(str, args))}: expected status {status}, got {done.returncode}: "
                                 f"{done.stdout.decode()}{done.stderr.decode()}{self.context()}")
        return done.stdout.decode() if status == 0 else done.stderr.decode()


def reap():
    """VM processes whose template host is gone came to us; they have ended, or do so now."""
    for pid in kvmtest.strays():
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                command = f.read()
                ours = not command or b"--template-host" in command     # nothing: it is just ending
        except OSError:
            ours = False
        if ours or not alive(pid):
            wait_for(f"process {pid} to end", lambda pid=pid: not alive(pid))
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def ticks(clone):
    return os.stat(clone["serial"]).st_size


class ForkdTest(KvmTest):
    def setUp(self):
        super().setUp()
        if not os.path.exists(FORKD):
            self.skipTest(f"{FORKD} is missing; run make first")

    def ticker(self, memory="64M", warm=4, tick=2000000):
        """A snapshot of a guest that prints a dot per tick."""
        vmm = self.boot("ticker", f"tick={tick} warm={warm}", memory=memory)
        vmm.wait_bytes(5)
        directory = vmm.snapshot()
        vmm.stop()
        return directory

    def resumed(self, memory="64M"):
        """A snapshot of a guest that prints a byte when it notices that it was resumed, and halts: for many at once."""
        vmm = self.boot("resumed", memory=memory)
        vmm.wait_bytes(1)
        directory = vmm.snapshot()
        vmm.stop()
        return directory

    def daemon_of(self, vmm, **more):
        """A daemon with that VM, which ends, as template "t"."""
        directory = vmm.snapshot()
        vmm.stop()
        d = Daemon(self)
        d.template("t", directory, **more)
        return d

    def wait_ticks(self, clones, n=3):
        for c in clones:
            begin = ticks(c)
            wait_for(f"ticks of clone {c['id']}", lambda c=c, begin=begin: ticks(c) >= begin + n, context=lambda c=c: f" ({c})")
