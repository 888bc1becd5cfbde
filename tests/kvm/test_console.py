# SPDX-License-Identifier: Apache-2.0
"""Where the output of the serial port and of the virtio console goes, and the other streams that a VM's process writes."""
import contextlib
import json
import os
import re
import signal
import termios

from forkdtest import Daemon, ForkdTest
import kvmtest
from kvmtest import KvmTest, call, only_forkd, read, wait_for

LOG_MAX = 16 << 20


class Clones(ForkdTest):
    def test_log_keeps_its_bound(self):
        """A guest whose chains are 256 MiB each: its vCPU goes on, it can be paused in the middle, and its log stays small."""
        vmm = self.boot("devices", "dev=console flood=4", extra=("--console", "null"))
        vmm.wait_output(rb"kicked")
        d = self.daemon_of(vmm)
        clone = d.clone("t")[0]
        bytes_seen = []

        def kicks():
            bytes_seen.append(os.stat(clone["console"]).st_size)
            return read(clone["serial"]).count(b"kicked")
        wait_for("the guest to go on beside its output", lambda: kicks() >= 2, context=d.context)
        d.must(200, "PUT", f"/v1/clones/{clone['id']}/pause")
        paused_at = os.stat(clone["console"]).st_size
        self.assertLessEqual(max(bytes_seen + [paused_at]), LOG_MAX)
        self.assertEqual(os.stat(clone["console"]).st_size, paused_at)
        d.must(200, "PUT", f"/v1/clones/{clone['id']}/resume")
        before = kicks()
        wait_for("the next chain", lambda: kicks() > before, context=d.context)
        self.assertLessEqual(max(bytes_seen), LOG_MAX)

    def test_files_of_the_caller(self):
        """A clone's serial port goes to a file, which is cut while it runs, and to a FIFO that has no reader yet."""
        d = Daemon(self)
        d.template("t", self.ticker())
        log, fifo = self.path("log"), self.path("fifo")
        os.mkfifo(fifo)
        to_file, to_fifo = (d.clone("t", overrides={"serial": {"mode": "File", "file": f}})[0] for f in (log, fifo))
        for _ in range(2):
            wait_for("ticks in the file", lambda: len(read(log)) > 3, context=d.context)
            os.truncate(log, 0)
        wait_for("ticks in the file", lambda: len(read(log)) > 3, context=d.context)
        self.assertEqual(read(log).count(b"\0"), 0)
        own = d.clone("t")[0]
        wait_for("ticks in the log", lambda: len(read(own["serial"])) > 3, context=d.context)
        os.truncate(own["serial"], 0)
        wait_for("ticks in the log", lambda: len(read(own["serial"])) > 3, context=d.context)
        self.assertEqual(read(own["serial"]).count(b"\0"), 0)
        for _ in range(2):
            read_fifo(fifo, rb"\.")
        d.delete([to_file, to_fifo, own])


def read_fifo(path, text):
    """A reader comes, finds the text, and goes."""
    found = b""

    def probe():
        nonlocal found
        with contextlib.suppress(BlockingIOError):
            found += os.read(fd, 65536)
        return re.search(text, found)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        wait_for(f"{text} in {os.path.basename(path)}", probe, context=lambda: f", which has {found[-300:]}")
    finally:
        os.close(fd)


@only_forkd
class Streams(KvmTest):
    def boot_with(self, streams):
        """A guest that writes to its serial port, and a VM process that writes to its log and sends events."""
        return self.boot("devices", "dev=console rounds=0 pause=5",
                         extra=("--serial", f"file={streams['serial']}", "--console", f"file={streams['console']}", "-vv",
                                "--log-file", streams["log"], "--event-monitor", f"path={streams['events']}"))

    def test_readers_come_and_go(self):
        """All four are FIFOs that nobody reads when the VM starts."""
        streams = {name: self.path(name) for name in ("serial", "console", "log", "events")}
        for path in streams.values():
            os.mkfifo(path)
        vmm = self.boot_with(streams)
        self.assertEqual(vmm.state(), "Running")
        for turn in range(2):
            for name, text in (("serial", rb"round"), ("console", rb"console ready"), ("log", rb"forkd-vmm: "), ("events", rb'"event": "')):
                if turn == 1 and name == "console":     # the guest says one thing there
                    continue
                with self.subTest(stream=name, turn=turn):
                    if turn == 1:
                        vmm.put("vm.pause")             # is in the log, and an event
                        vmm.put("vm.resume")
                    read_fifo(streams[name], text)
        vmm.stop()

    def test_files_are_cut(self):
        """truncate -s 0 leaves no hole: what is written goes to the end that the file has."""
        streams = {name: self.path(name) for name in ("serial", "console", "log", "events")}
        vmm = self.boot_with(streams)
        for name in ("serial", "log", "events"):
            path = streams[name]
            with self.subTest(stream=name):
                wait_for(f"text in {name}", lambda path=path: os.path.exists(path) and os.stat(path).st_size > 0, context=vmm.context)
                os.truncate(path, 0)
                vmm.put("vm.pause")
                vmm.put("vm.resume")
                wait_for(f"more text in {name}", lambda path=path: os.stat(path).st_size > 0, context=vmm.context)
                self.assertEqual(read(path).count(b"\0"), 0)
        events = read(streams["events"]).decode()
        found = [json.loads(e) for e in re.findall(r"\{.*?\n\}\n", events, re.S)]
        # The guest's driver activates its device when it gets there, before the cut or after it.
        self.assertEqual([e["event"] for e in found if e["source"] == "vm"], ["pausing", "paused", "resuming", "resumed"])
        vmm.stop()


class Shell:
    """A shell with job control, and its terminal."""
    def __init__(self, directory):
        self.pid, self.terminal = os.forkpty()
        if self.pid == 0:
            os.chdir(directory)
            os.execv("/bin/sh", ["sh", "-i"])
        os.set_blocking(self.terminal, False)
        self.output = b""

    def type(self, text):
        os.write(self.terminal, text)

    def wait_output(self, what):
        """Waits for a regular expression in what comes after the last one that was found."""
        def probe():
            with contextlib.suppress(BlockingIOError):
                self.output += os.read(self.terminal, 65536)
            return re.search(what, self.output)
        found = wait_for(f"{what} on the terminal", probe, context=lambda: f", which has {self.output[-500:]}")
        self.output = self.output[found.end():]
        return found

    def is_raw(self):
        return not termios.tcgetattr(self.terminal)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def end(self, pids):
        for pid in [*pids, self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in [self.pid, *pids]:                   # the jobs are ours when the shell is gone
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        os.close(self.terminal)


@only_forkd
class Jobs(KvmTest):
    def setUp(self):
        super().setUp()
        vmm = self.boot("devices", "rounds=0 dev=console pause=1 mode=irq", extra=("--serial", "null", "--console", "tty"))
        vmm.wait_output(rb"console ready")
        self.snapshot = vmm.snapshot()
        vmm.stop()
        self.shell, self.pids = Shell(self.dir), []
        self.addCleanup(lambda: self.shell.end(self.pids))
        self.shell.type(b"PS1=; stty -echoctl; echo sh''ell\n")
        self.shell.wait_output(rb"shell")

    def background(self):
        """A VM process in the background; the path of its API socket."""
        path = self.path(self.unique("job") + ".sock")
        self.shell.type(f"{kvmtest.VMM} --api-socket {path} &\n echo pi''d=$!.\n".encode())
        self.pids.append(int(self.shell.wait_output(rb"pid=(\d+)\.").group(1)))

        def answers():
            with contextlib.suppress(OSError):
                return call(path, "GET", "vmm.ping").status == 200
            return False
        wait_for("the API", answers)
        return path

    def restored(self):
        path = self.background()
        self.assertEqual(call(path, "PUT", "vm.restore", {"source_url": "file://" + self.snapshot, "resume": True}).status, 204)
        return path

    def state(self):
        with open(f"/proc/{self.pids[-1]}/stat", encoding="utf-8") as f:
            return f.read().rsplit(") ", 1)[1][0]

    def test_restored_in_the_background(self):
        """The terminal stays the shell's until the job comes to the foreground, and is the shell's again afterwards."""
        path = self.restored()
        self.assertFalse(self.shell.is_raw())
        self.shell.type(b"echo $((6 * 7))th\n")
        self.shell.wait_output(rb"42th")
        self.assertEqual(call(path, "GET", "vm.info").json["state"], "Running")
        self.assertNotEqual(self.state(), "T")
        self.shell.type(b"fg\n")
        self.shell.wait_output(rb"forkd-vmm[^\n]*\n")
        self.shell.type(b"first line\n")               # the terminal echoes it, and then the guest
        self.shell.wait_output(rb"first line\s+first line")
        wait_for("the terminal to be raw", self.shell.is_raw)
        self.shell.type(b"\x03no line")                 # Ctrl-C is the guest's
        self.shell.wait_output(rb"\x03no line")
        self.assertEqual(call(path, "PUT", "vm.delete").status, 204)
        wait_for("the terminal's mode", lambda: not self.shell.is_raw())
        call(path, "PUT", "vmm.shutdown")
        self.shell.type(b"echo $((6 * 7))nd\n")
        self.shell.wait_output(rb"42nd")

    def test_typed_ahead(self):
        """What was typed before the shell gave the terminal away is read, though nothing more is typed."""
        path = self.restored()
        self.shell.type(b"fg\nahead\n")
        self.shell.wait_output(rb"forkd-vmm[^\n]*\n")
        self.shell.wait_output(rb"ahead")
        wait_for("the terminal to be raw", self.shell.is_raw)
        self.assertEqual(call(path, "PUT", "vm.delete").status, 204)

    def test_ends_in_the_background(self):
        """What it made of the terminal in the foreground it takes back, if nobody did so before; what others made of it stays."""
        for others in (False, True):
            with self.subTest(others=others):
                path = self.restored()
                self.shell.type(b"fg\n")
                self.shell.wait_output(rb"forkd-vmm[^\n]*\n")
                self.shell.type(b"line\n")
                wait_for("the terminal to be raw", self.shell.is_raw)
                os.kill(self.pids[-1], signal.SIGSTOP)  # the shell is in the foreground then
                self.shell.wait_output(rb"Stopped")
                self.shell.type(b"bg\n")
                wait_for("the job to go on", lambda: self.state() != "T")
                if others:
                    self.shell.type(b"stty sane -echo\n")
                    wait_for("the shell's mode", lambda: not self.shell.is_raw())
                self.assertEqual(call(path, "PUT", "vm.delete").status, 204)
                wait_for("the terminal's mode", lambda: not self.shell.is_raw())
                self.assertEqual(bool(termios.tcgetattr(self.shell.terminal)[3] & termios.ECHO), not others)
                call(path, "PUT", "vmm.shutdown")
                self.shell.type(b"stty sane -echoctl; echo se''en\n")
                self.shell.wait_output(rb"seen")
