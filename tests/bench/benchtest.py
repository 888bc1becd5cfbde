# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: folders, the programs that time, percentiles, the host."""
import os
import re
import sys

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [os.path.join(TESTS, "kvm"), TESTS]
from forkdtest import ForkdTest  # noqa: E402
from kvmtest import BUILD, PEERS, KvmTest  # noqa: E402


class Bench(KvmTest):
    """A test's folder and its care for what is left, without a test."""

    def runTest(self):
        pass


class ForkdBench(ForkdTest, Bench):
    pass


def peer(name):
    path = os.path.join(PEERS, name)
    if PEERS and os.access(path, os.X_OK):
        return path
    print(f"SKIPPED {name}: {'not in ' + PEERS if PEERS else 'FORKD_PEERS is not set'}", file=sys.stderr)
    return None


def tool(name):
    return os.path.join(BUILD, "tests", "bench", name)


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * p))]


def host():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*: (.*)", f.read())
    kvm = [m for m in ("kvm_intel", "kvm_amd", "kvm_pvm") if os.path.isdir("/sys/module/" + m)]
    return {"cpus": os.cpu_count(), "model": model.group(1) if model else "?", "kernel": os.uname().release, "kvm": "+".join(kvm)}
