# SPDX-License-Identifier: Apache-2.0
"""Guest I/O beside cloud-hypervisor's. Not part of a tier that CI runs; needs FORKD_PEERS:

    make build/tests/bench/io_load && FORKD_PEERS=dir scripts/lab.sh -p build/tests/bench/io_load tests/lab/run.py bench

Under QEMU only the ratio says something, and even that is mostly the cost of exits. One program differs from itself by
three times from minute to minute here: a guest of each runs, every figure is taken of both right after each other, and
what counts are the ratios of these pairs.
"""
import contextlib
import os
import shutil
import subprocess

from lab import DIR, GATEWAY, GUEST, PATIENCE_S, VMM, Skipped, Vm, check, quartiles, run, test

LOAD = os.path.join(DIR, "bin/io_load")
PEER = os.path.join(DIR, "bin/cloud-hypervisor")
BOOTS = 3
PAIRS = 6                   # of each figure, for each boot
SECONDS = 1                 # per figure


class Guest(Vm):
    """Brings io_load along on its disk, then uses that disk raw."""

    def make_disk(self):
        tree = os.path.join(self.dir, "tree")
        os.mkdir(tree)
        shutil.copy(LOAD, tree)
        run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, self.disk, "80M")

    def prepare(self):
        self.wait_ready()
        self.ask("cp /mnt/io_load /tmp/io_load && umount /mnt")


@contextlib.contextmanager
def background(*command, **options):
    with subprocess.Popen(command, **options) as process:
        try:
            yield
            process.wait(PATIENCE_S)
        finally:
            process.kill()


def figures(answer, source):
    words = answer.split()
    check(len(words) == 3, f"{source}: no figures: {answer!r}")
    return [float(word) for word in words]


def block(vm, arguments):
    return figures(vm.ask(f"/tmp/io_load blk /dev/vda {arguments} {SECONDS}"), arguments)


def from_guest(vm, server, client, port):
    with vm.net.inside(), background(LOAD, server, port):
        return figures(vm.ask(f"sleep 0.5; /tmp/io_load {client} {GATEWAY} {port} {SECONDS}"), client)


def from_host(vm, server, client, port):
    with vm.net.inside():
        vm.ask(f"/tmp/io_load {server} {port} </dev/null >/dev/null 2>&1 & sleep 0.5")
        return figures(run(LOAD, client, GUEST, port, str(SECONDS)), client)


PER_S, BYTES_PER_S = 0, 1   # what counts of io_load's line
FIGURES = [                 # name, what counts, how it is taken, arguments
    ("read seq 128 KiB x1", BYTES_PER_S, block, "read seq 1 131072"),
    ("write seq 128 KiB x1", BYTES_PER_S, block, "write seq 1 131072"),
    ("read rand 4 KiB x1", BYTES_PER_S, block, "read rand 1 4096"),
    ("read rand 4 KiB x16", BYTES_PER_S, block, "read rand 16 4096"),
    ("write rand 4 KiB x1", BYTES_PER_S, block, "write rand 1 4096"),
    ("write rand 4 KiB x16", BYTES_PER_S, block, "write rand 16 4096"),
    ("tcp guest to host", BYTES_PER_S, from_guest, "sink", "send", "5001"),
    ("tcp host to guest", BYTES_PER_S, from_host, "sink", "send", "5001"),
    ("udp round trip from guest", PER_S, from_guest, "echo", "ask", "5002"),
    ("udp round trip from host", PER_S, from_host, "echo", "ask", "5002"),
]


def begin(stack, name, program):
    vm = stack.enter_context(Guest(name))
    vm.boot(cpus=1, program=program)
    vm.prepare()
    return vm


def measure(found, n):
    """Fills found[figure]: pairs (ours, the peer's)."""
    with contextlib.ExitStack() as stack:
        names = ["ours", "peer"] if n % 2 == 0 else ["peer", "ours"]
        vms = {name: begin(stack, f"io-{n}-{name}", VMM if name == "ours" else PEER) for name in names}
        for i in range(PAIRS):
            order = names if i % 2 == 0 else names[::-1]
            for name, what, take, *arguments in FIGURES:
                taken = {who: take(vms[who], *arguments)[what] for who in order}
                found.setdefault(name, []).append((taken["ours"], taken["peer"]))
        for vm in vms.values():
            vm.tell("poweroff -f")
            vm.wait_exit()


@test("io-peers", "bench")
def io_peers():
    """One virtual CPU, so that the VMM's own threads have the other one of the lab."""
    for program in (LOAD, PEER):
        if not os.path.exists(program):
            raise Skipped(f"no {os.path.basename(program)} (see the first lines of test_io.py)")
    found = {}
    for n in range(BOOTS):
        measure(found, n)
    print(f"{f'{BOOTS * PAIRS} pairs; bytes or round trips a second':<44}{'ours':>12}{'peer':>12}{'ours/peer (quartiles)':>26}")
    for name, pairs in found.items():
        ours, peer = (quartiles(values)[1] for values in zip(*pairs))
        low, middle, high = quartiles(a / b for a, b in pairs)
        print(f"{name:<44}{ours:>12.4g}{peer:>12.4g}{f'{middle:.2f} ({low:.2f}, {high:.2f})':>26}", flush=True)
