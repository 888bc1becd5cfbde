#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests on the host's /dev/kvm:  run.py [PART-OF-A-NAME...]

Prints one line per test, and at the end `N passed, N failed` and what was skipped, why. Exit status 1 on a failure.
FORKD_VMM: program under test (build/forkd-vmm). FORKD_PEERS: folder with cloud-hypervisor and ch-remote.
FORKD_TEST_FULL=1: the long tests too.
"""
import faulthandler
import os
import shutil
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import kvmtest  # noqa: E402
import runner  # noqa: E402


def main():
    faulthandler.enable()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("SKIPPED all tests on KVM: /dev/kvm is not there or not ours to open")
        print("0 passed, 0 failed")
        return 1
    for path in (kvmtest.VMM, kvmtest.guest("devices")):
        if not os.path.exists(path):
            print(f"kvm tests: {path} is missing; run make first")
            return 1
    kvmtest.isolate()
    with tempfile.TemporaryDirectory(prefix="forkd-kvm-program.") as folder:    # a build meanwhile does not disturb us
        print(f"kvm tests of {kvmtest.VMM}{', long ones too' if kvmtest.FULL else ''}", flush=True)
        kvmtest.VMM = shutil.copy(kvmtest.VMM, folder)
        return runner.run_tests(HERE, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
