# SPDX-License-Identifier: Apache-2.0
"""Guest I/O beside cloud-hypervisor's, in the same run. Not part of a tier that CI runs; needs FORKD_PEERS:

    make build/tests/bench/io_load && FORKD_PEERS=dir scripts/lab.sh -p build/tests/bench/io_load tests/lab/run.py bench

Under QEMU only the ratio says something, and even that is mostly the cost of exits.
"""
import contextlib
import os
import shutil
import subprocess

from lab import DIR, GATEWAY, GUEST, PATIENCE_S, VMM, Skipped, Vm, check, run, test

LOAD = os.path.join(DIR, "bin/io_load")
PEER = os.path.join(DIR, "bin/cloud-hypervisor")
ROUNDS = 3
SECONDS = 2                 # per figure
BLOCK = [                   # name, arguments of `io_load blk /dev/vda`
    ("read seq 128 KiB x1", "read seq 1 131072"),
    ("write seq 128 KiB x1", "write seq 1 131072"),
    ("read rand 4 KiB x1", "read rand 1 4096"),
    ("read rand 4 KiB x16", "read rand 16 4096"),
    ("write rand 4 KiB x1", "write rand 1 4096"),
    ("write rand 4 KiB x16", "write rand 16 4096"),
]


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


def measure_block(vm, found):
    for name, arguments in BLOCK:
        per_s, bytes_per_s, median_ns = figures(vm.ask(f"/tmp/io_load blk /dev/vda {arguments} {SECONDS}"), name)
        if "seq" in name:
            found[f"{name}, MB/s"] = bytes_per_s / 1e6
        else:
            found[f"{name}, IOPS"] = per_s
            found[f"{name}, p50 us"] = median_ns / 1e3


def measure_net(vm, found):
    with vm.net.inside():
        with background(LOAD, "sink", "5001"):
            sent = vm.ask(f"sleep 0.5; /tmp/io_load send {GATEWAY} 5001 {SECONDS}")
        with background(LOAD, "echo", "5002"):
            asked = vm.ask(f"sleep 0.5; /tmp/io_load ask {GATEWAY} 5002 {SECONDS}")
        vm.ask("/tmp/io_load sink 5001 </dev/null >/dev/null 2>&1 & sleep 0.5")
        received = run(LOAD, "send", GUEST, "5001", str(SECONDS))
        vm.ask("/tmp/io_load echo 5002 </dev/null >/dev/null 2>&1 & sleep 0.5")
        answered = run(LOAD, "ask", GUEST, "5002", str(SECONDS))
    found["tcp guest to host, MB/s"] = figures(sent, "send")[1] / 1e6
    found["tcp host to guest, MB/s"] = figures(received, "send")[1] / 1e6
    found["udp round trip from guest, p50 us"] = figures(asked, "ask")[2] / 1e3
    found["udp round trip from host, p50 us"] = figures(answered, "ask")[2] / 1e3


def measure(name, program):
    found = {}
    with Guest(name) as vm:
        vm.boot(cpus=1, program=program)
        vm.prepare()
        measure_block(vm, found)
        measure_net(vm, found)
        vm.tell("poweroff -f")
        vm.wait_exit()
    return found


def spread(values):
    return f"{values[len(values) // 2]:.1f} ({values[0]:.1f}, {values[-1]:.1f})"


@test("io-peers", "bench")
def io_peers():
    """One virtual CPU, so that the VMM's own threads have the other one of the lab."""
    for program in (LOAD, PEER):
        if not os.path.exists(program):
            raise Skipped(f"no {os.path.basename(program)} (see the first lines of test_io.py)")
    rounds = {VMM: [], PEER: []}
    for i in range(ROUNDS):
        for program in (VMM, PEER) if i % 2 == 0 else (PEER, VMM):
            rounds[program].append(measure(f"io-{i}-{os.path.basename(program)}", program))
    print(f"{'median (least, most) of ' + str(ROUNDS) + ' rounds':<36}{'ours':>30}{'peer':>30}{'ours/peer':>11}")
    for name in rounds[VMM][0]:
        ours, peer = (sorted(found[name] for found in rounds[program]) for program in (VMM, PEER))
        print(f"{name:<36}{spread(ours):>30}{spread(peer):>30}{ours[ROUNDS // 2] / peer[ROUNDS // 2]:>11.2f}", flush=True)
