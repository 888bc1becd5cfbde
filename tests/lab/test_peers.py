# SPDX-License-Identifier: Apache-2.0
"""Linux guests cross between cloud-hypervisor and forkd-vmm, both ways; forkd clones what cloud-hypervisor snapshotted. Tier "peers"."""
import contextlib
import os
import signal
import subprocess

from lab import (BUSYBOX, DIR, GATEWAY, GUEST, PATIENCE_S, PORT, TMP, Failed, Net, Skipped, Vm, ask_stream, check, request, run, tail,
                 test, vsock_connect, wait_for)
from test_snapshot import Snapshot, copy_sparse, snapshot_of

PEER = os.path.join(DIR, "bin/cloud-hypervisor")
FORKD, VMM = os.path.join(DIR, "bin/forkd"), os.path.join(DIR, "bin/forkd-vmm")
AT_ONCE, IN_TURN = 8, 50


def theirs():
    """A snapshot that cloud-hypervisor made of a guest at work with two processors."""
    if not os.path.exists(PEER):
        raise Skipped("no cloud-hypervisor: FORKD_PEERS is not set")
    return snapshot_of(2, PEER)


def goes_on(name, snapshot, mode, program):
    with Vm(name) as vm:
        snapshot.restore_by_command_line(vm, mode, program)
        snapshot.check_clone(vm)
        vm.check_vsock()
        vm.check_balloon()
        vm.power_off()


@test("peer-snapshot", "peers")
def peer_snapshot():
    theirs()


@test("peer-copyonwrite", "peers")
def peer_copyonwrite():
    goes_on("peer-copyonwrite", theirs(), "copyonwrite", VMM)


@test("peer-copy", "peers")
def peer_copy():
    goes_on("peer-copy", theirs(), "copy", VMM)


@test("peer-ondemand", "peers")
def peer_ondemand():
    goes_on("peer-ondemand", theirs(), "ondemand", VMM)


class Daemon:
    """A forkd with one template."""

    def __init__(self, name):
        self.dir = os.path.join(TMP, name)
        os.mkdir(self.dir)
        self.socket, self.log = os.path.join(self.dir, "forkd.sock"), os.path.join(self.dir, "log")
        self.name = name
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([FORKD, "--socket", self.socket, "--store", os.path.join(self.dir, "store"), "--runtime-dir",
                                             os.path.join(self.dir, "run"), "--vmm", VMM], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def __enter__(self):
        wait_for("forkd", lambda: os.path.exists(self.socket), 60, self.context)
        return self

    def __exit__(self, *exception):
        try:
            for clone in self.clones():
                self.call("DELETE", "/v1/clones/" + clone["id"])
        finally:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
            self.process.kill()
        check(self.process.wait() == 0, f"forkd ended with status {self.process.returncode}{self.context()}")
        run(BUSYBOX, "rm", "-rf", self.dir)

    def context(self):
        return f"\n  last lines of forkd:{tail(self.log)}"

    def call(self, method, url, body=None):
        try:
            return request(self.socket, method, url, body)
        except Failed as e:
            raise Failed(f"{e}{self.context()}") from None

    def clones(self):
        return self.call("GET", "/v1/clones")["clones"]

    def import_template(self, directory):
        self.call("POST", "/v1/templates", {"name": self.name, "snapshot": "file://" + directory})

    def clone(self, disks):
        """One clone for each disk, all in one request."""
        body = {"clones": [{"overrides": {"disks": [{"id": "disk0", "path": disk}]}} for disk in disks]}
        return self.call("POST", f"/v1/templates/{self.name}/clones", body)["clones"]

    def ask(self, clone, question):
        try:
            answer = ask_stream(vsock_connect(clone["vsock_socket"], PORT, PATIENCE_S), question)
        except OSError as e:
            raise Failed(f"clone {clone['id']}: question '{question}': {e}; now it is {self.call('GET', '/v1/clones/' + clone['id'])}"
                         f"{self.context()}") from None
        text, _, status = answer.rstrip("\n").rpartition("rc=")
        check(status == "0", f"clone {clone['id']}: question '{question}': {answer.strip()}")
        return text.strip()


def copies(snapshot, directory, n):
    """Disks for clones, as the disk was at the snapshot."""
    paths = [os.path.join(directory, f"disk{i}") for i in range(n)]
    for path in paths:
        copy_sparse(snapshot.disk, path)
    return paths


def check_net(clone, net):
    """The clone's tap moves to a namespace, as all clones have the same address."""
    run("ip", "link", "set", clone["net"][0]["tap"], "netns", str(net.holder.pid))
    with net.inside():
        run(BUSYBOX, "ip", "addr", "add", GATEWAY + "/24", "dev", clone["net"][0]["tap"])
        run(BUSYBOX, "ip", "link", "set", clone["net"][0]["tap"], "up")
        run(BUSYBOX, "ping", "-A", "-c", "3", "-W", "20", GUEST)


def note(text):
    print(f"  # {text}", flush=True)


def check_at_once(daemon, snapshot):
    """Once all are alive their work ends: two emulated processors are few for so many."""
    clones = daemon.clone(copies(snapshot, daemon.dir, AT_ONCE))
    note(f"{AT_ONCE} clones run after {max(c['phases_us']['resumed'] for c in clones)} us")
    check(len({c["pid"] for c in clones}) == AT_ONCE, f"not {AT_ONCE} processes: {clones}")
    for i, clone in enumerate(clones):
        files, cpus = daemon.ask(clone, f"files; nproc; killall guest-work; echo {i} > /mnt/mark; sync").split()
        check(int(files) >= snapshot.files and cpus == "2", f"clone {clone['id']} has {files} files and {cpus} processors")
    for i, clone in enumerate(clones):
        check(daemon.ask(clone, "verify > /tmp/verified || cat /tmp/verified; cat /mnt/mark") == str(i),
              f"clone {clone['id']}: its disk is damaged, or another's")
        with contextlib.closing(Net(clone["id"])) as net:
            check_net(clone, net)
    note(f"{AT_ONCE} clones at once answered, each with its own disk and network")
    for clone in clones:
        daemon.call("DELETE", "/v1/clones/" + clone["id"])


def check_in_turn(daemon, snapshot):
    for i in range(IN_TURN):
        clone, = daemon.clone(copies(snapshot, daemon.dir, 1))
        check(daemon.ask(clone, "cat /run/mark 2>/dev/null; echo of this clone > /run/mark; nproc") == "2",
              f"clone {i + 1} is not as the snapshot was")
        daemon.call("DELETE", "/v1/clones/" + clone["id"])
        if (i + 1) % 10 == 0:
            note(f"{i + 1} clones in turn answered")
    check(not daemon.clones(), f"clones are left: {daemon.clones()}")
    wait_for("the clones' taps to go", lambda: not [name for name in os.listdir("/sys/class/net") if name.startswith("fk")], 20)


@test("peer-clones", "peers")
def peer_clones():
    """forkd imports their snapshot: so many clones at once, then so many in turn."""
    snapshot = theirs()
    with Daemon("theirs") as daemon:
        daemon.import_template(os.path.join(snapshot.dir, "snapshot"))
        check_at_once(daemon, snapshot)
        check_in_turn(daemon, snapshot)


@test("peer-way-back", "peers")
def peer_way_back():
    """What forkd-vmm snapshotted goes on under cloud-hypervisor. There a restored guest takes the time since the snapshot for a hang
    (docs/differences.md), and reports it with an NMI, which may not return from an emulated processor: its watchdogs are off."""
    if not os.path.exists(PEER):
        raise Skipped("no cloud-hypervisor: FORKD_PEERS is not set")
    with Snapshot("way-back", 2, VMM) as snapshot:
        snapshot.take("echo 0 > /proc/sys/kernel/watchdog; echo 1 > /sys/module/rcupdate/parameters/rcu_cpu_stall_suppress")
        goes_on("peer-way-back", snapshot, "copy", PEER)
