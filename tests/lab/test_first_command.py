# SPDX-License-Identifier: Apache-2.0
"""From the request to a command's answer: forkd beside cloud-hypervisor (ondemand), the same guest and agent, in turns.

The tracepoints of KVM tell whose time it was: the monitor's until the first KVM_RUN, then the guest's, its page faults', its other exits'.
forkd's clones have new identities when the command runs; cloud-hypervisor's are twins. FORKD_PEERS=DIR scripts/lab.sh tests/lab/run.py first-command
"""
import contextlib
import os
import re
import shutil
import subprocess
import time

from daemon import AGENT_PORT, Forkd, shell
from lab import DIR, KERNEL, PATIENCE_S, TMP, Skipped, Vm, api, check, quartiles, run, test, vsock_connect
from test_agent import CMDLINE, make_initrd
from test_snapshot import answers, snapshot_for

PEER = os.path.join(DIR, "bin/cloud-hypervisor")
ROUNDS = 12
MEMORY = 256 << 20
TRACING = "/sys/kernel/tracing"
EVENT = re.compile(r"\s(\d+\.\d+): (kvm_entry|kvm_exit|kvm_page_fault):")
PARTS = ("first KVM_RUN", "guest", "page faults", "other exits", "after the last exit", "all", "faults")


class Trace:
    """What KVM did; for one guest with one processor at a time."""

    def __enter__(self):
        if not os.path.exists(TRACING + "/events"):
            run("mount", "-t", "tracefs", "tracefs", TRACING)
        self.dir = TRACING + "/instances/forkd"
        os.mkdir(self.dir)
        self.set("trace_clock", "mono")
        self.set("buffer_size_kb", 16384)
        for event in ("kvm_entry", "kvm_exit", "kvm_page_fault"):
            self.set(f"events/kvm/{event}/enable", 1)
        return self

    def __exit__(self, *exception):
        os.rmdir(self.dir)

    def set(self, name, value):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(str(value))

    def measure(self, work):
        """Runs work(). Returns the parts of its time, in µs, and how many page faults there were."""
        self.set("tracing_on", 0)
        self.set("trace", "")
        self.set("tracing_on", 1)
        begin = time.monotonic()
        work()
        end = time.monotonic()
        self.set("tracing_on", 0)
        with open(os.path.join(self.dir, "trace")) as f:
            events = [(float(m.group(1)), m.group(2)) for m in map(EVENT.search, f) if m]
        return divide(begin, end, [e for e in events if begin <= e[0] <= end])


def divide(begin, end, events):
    """The parts of the time from begin to end; events: (seconds, name), of one processor."""
    entries = [at for at, name in events if name == "kvm_entry"]
    check(entries, "no KVM_RUN between the request and the command's answer")
    parts = dict.fromkeys(PARTS, 0)
    parts["first KVM_RUN"] = entries[0] - begin
    parts["all"] = end - begin
    last, inside, fault = entries[0], False, False
    for at, name in events:
        if name == "kvm_entry":
            if not inside and at > entries[0]:
                parts["page faults" if fault else "other exits"] += at - last
            last, inside, fault = at, True, False
        elif name == "kvm_exit" and inside:
            parts["guest"] += at - last
            last, inside = at, False
        elif name == "kvm_page_fault":
            parts["faults"] += 1
            fault = True
    parts["guest" if inside else "after the last exit"] += end - last
    return {name: value if name == "faults" else value * 1e6 for name, value in parts.items()}


def peer_snapshot(payload):
    """cloud-hypervisor boots the guest, and makes a snapshot of it once the agent answers. Its directory."""
    directory = os.path.join(TMP, "peer")
    os.mkdir(directory)
    with Vm("peer-source") as vm:
        vm.start(PEER, "--cpus", "boot=1", "--memory", f"size={MEMORY}", "--kernel", payload["kernel"], "--initramfs", payload["initramfs"],
                 "--cmdline", payload["cmdline"], "--serial", f"file={vm.serial}", "--console", "off", "--vsock", f"cid=3,socket={vm.vsock}")
        vm.wait("an answer of the agent", lambda: agent_answers(vm.vsock))
        vm.api("PUT", "vm.pause")
        vm.api("PUT", "vm.snapshot", {"destination_url": "file://" + directory})
    return directory


class Peer:
    """Restores of a snapshot by cloud-hypervisor: `idle` = in a process that waits for it, else in a new one."""

    def __init__(self, snapshot, idle):
        self.snapshot, self.idle, self.n = snapshot, idle, 0

    @contextlib.contextmanager
    def prepared(self):
        """What is there before the request. Gives the function that makes it, and comes back with the command's answer."""
        self.n += 1
        with Vm(f"peer-{self.idle}-{self.n}") as vm:
            url = snapshot_for(vm, self.snapshot)
            if self.idle:
                vm.start(PEER)
                vm.wait("an answer of the API", lambda: answers(vm))
            yield lambda: self.restore(vm, url)

    def restore(self, vm, url):
        if self.idle:
            api(vm.api_path, "PUT", "vm.restore", {"source_url": url, "memory_restore_mode": "OnDemand", "resume": True})
        else:
            with open(vm.out, "ab") as out:
                vm.process = subprocess.Popen([PEER, "--restore", f"source_url={url},memory_restore_mode=ondemand,resume=true"],
                                              stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        while True:
            try:
                return shell({"vsock_socket": vm.vsock}, "true")
            except (FileNotFoundError, ConnectionRefusedError):     # not yet
                check(vm.process.poll() is None, f"cloud-hypervisor ended{vm.context()}")
                time.sleep(0.001)


def agent_answers(socket_path):
    with contextlib.suppress(OSError), vsock_connect(socket_path, AGENT_PORT, PATIENCE_S) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n")
        return s.recv(12) == b"HTTP/1.1 204"


class Ours:
    """A template of the guest in a daemon of its own."""

    def __init__(self, stack, payload, park):
        self.daemon = stack.enter_context(Forkd(f"park-{park}", "--park", str(park)))
        self.daemon.template("t", payload, {"agent": True}, memory=MEMORY)

    @contextlib.contextmanager
    def prepared(self):
        time.sleep(3)       # the next one is parked
        yield self.clone
        for c in self.daemon.call("GET", "/v1/clones")["clones"]:
            self.daemon.call("DELETE", f"/v1/clones/{c['id']}")

    def clone(self):
        c, = self.daemon.call("POST", "/v1/templates/t/clones")["clones"]
        done = self.daemon.call("POST", f"/v1/clones/{c['id']}/exec", {"cmd": "/bin/true"})
        check(done["exit_code"] == 0 and c["identity"] == "unique", f"{c}: {done}")


@test("first-command", "bench")
def first_command():
    if not os.path.exists(PEER):
        raise Skipped("no cloud-hypervisor: FORKD_PEERS is not set")
    initrd = os.path.join(TMP, "first-command.img")
    make_initrd(initrd, "#!/bin/sh\nexec sleep 1000000\n")
    payload = {"kernel": KERNEL, "initramfs": initrd, "cmdline": CMDLINE}
    with contextlib.ExitStack() as stack:
        snapshot = peer_snapshot(payload)
        stack.callback(shutil.rmtree, snapshot)
        who = {"forkd, parked": Ours(stack, payload, 1), "forkd, not parked": Ours(stack, payload, 0),
               "cloud-hypervisor, waiting": Peer(snapshot, True), "cloud-hypervisor, new": Peer(snapshot, False)}
        trace = stack.enter_context(Trace())
        found = {name: [] for name in who}
        for i in range(ROUNDS + 1):
            for name in list(who)[i % len(who):] + list(who)[:i % len(who)]:
                with who[name].prepared() as request:
                    parts = trace.measure(request)
                if i > 0:       # the first time is for the caches
                    found[name].append(parts)
        report(found)


def report(found):
    print(f"{f'us, medians of {ROUNDS}':<26}" + "".join(f"{p:>20}" for p in PARTS))
    for name, rounds in found.items():
        print(f"{name:<26}" + "".join(f"{quartiles(r[p] for r in rounds)[1]:>20.0f}" for p in PARTS))
    for peer in ("cloud-hypervisor, waiting", "cloud-hypervisor, new"):
        for ours in ("forkd, parked", "forkd, not parked"):
            ratios = {p: quartiles(a[p] / b[p] for a, b in zip(found[peer], found[ours]))[1] for p in ("first KVM_RUN", "all")}
            print(f"{peer} / {ours}: " + ", ".join(f"{p} {r:.1f}" for p, r in ratios.items()), flush=True)
