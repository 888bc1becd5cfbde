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

from lab import DIR, GATEWAY, GUEST, PATIENCE_S, VMM, Skipped, Vm, check, run, test

LOAD = os.path.join(DIR, "bin/io_load")
PEER = os.path.join(DIR, "bin/cloud-hypervisor")
BOOTS = 3
PAIRS = 6                   # of each figure, for each boot
SECONDS = 1                 # per figure
BLOCK = [                   # name, arguments of `io_load blk /dev/vda`
    ("read seq 128 KiB x1", "read seq 1 131072"),
    ("write seq 128 KiB x1", "write seq 1 131072"),
    ("read rand 4 KiB x1", "read rand 1 4096"),
    ("read rand 4 KiB x16", "read rand 16 4096"),
    ("write rand 4 KiB x1", "write rand 1 4096"),
    ("write rand 4 KiB x16", "write rand 16 4096"),
]
NET = ["tcp guest to host", "tcp host to guest", "udp round trip from guest", "udp round trip from host"]


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
    """Bytes a second."""
    return figures(vm.ask(f"/tmp/io_load blk /dev/vda {arguments} {SECONDS}"), arguments)[1]


def net(vm, name):
    """Bytes or round trips a second."""
    with vm.net.inside():
        if name == "tcp guest to host":
            with background(LOAD, "sink", "5001"):
                return figures(vm.ask(f"sleep 0.5; /tmp/io_load send {GATEWAY} 5001 {SECONDS}"), name)[1]
        if name == "udp round trip from guest":
            with background(LOAD, "echo", "5002"):
                return figures(vm.ask(f"sleep 0.5; /tmp/io_load ask {GATEWAY} 5002 {SECONDS}"), name)[0]
        if name == "tcp host to guest":
            vm.ask("/tmp/io_load sink 5001 </dev/null >/dev/null 2>&1 & sleep 0.5")
            return figures(run(LOAD, "send", GUEST, "5001", str(SECONDS)), name)[1]
        vm.ask("/tmp/io_load echo 5002 </dev/null >/dev/null 2>&1 & sleep 0.5")
        return figures(run(LOAD, "ask", GUEST, "5002", str(SECONDS)), name)[0]


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
            for kind, works in ((block, BLOCK), (net, [(name, name) for name in NET])):
                for name, work in works:
                    taken = {who: kind(vms[who], work) for who in order}
                    found.setdefault(name, []).append((taken["ours"], taken["peer"]))
        for vm in vms.values():
            vm.tell("poweroff -f")
            vm.wait_exit()


def quartiles(values):
    values = sorted(values)
    return [values[len(values) * i // 4] for i in (1, 2, 3)]


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
