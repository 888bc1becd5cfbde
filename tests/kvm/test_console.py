# SPDX-License-Identifier: Apache-2.0
"""Where the output of the serial port and of the virtio console goes, and the other streams that a VM's process writes."""
import contextlib
import json
import os
import re

from forkdtest import Daemon, ForkdTest
from kvmtest import KvmTest, only_forkd, read, wait_for

LOG_MAX = 16 << 20


class Clones(ForkdTest):
    def test_log_keeps_its_bound(self):
        """A guest whose chains are 256 MiB each: its vCPU goes on, it can be paused in the middle, and its log stays small."""
        vmm = self.boot("devices", "dev=console flood=4", extra=("--console", "null"))
        vmm.wait_output(rb"kicked")
        directory = vmm.snapshot()
        vmm.stop()
        d = Daemon(self)
        d.template("t", directory)
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
        self.assertEqual([json.loads(e)["event"] for e in re.findall(r"\{.*?\n\}\n", events, re.S)], ["pausing", "paused", "resuming", "resumed"])
        vmm.stop()
