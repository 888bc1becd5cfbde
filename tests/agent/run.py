#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of the guest agent, natively on this host:  run.py [PART-OF-A-NAME...]

BUILD: the folder of the programs under test (build). FORKD_TEST_FULL=1: the long tests too.
"""
import faulthandler
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import agenttest  # noqa: E402
import runner  # noqa: E402


def main():
    faulthandler.enable()
    if not os.path.exists(agenttest.AGENT):
        print(f"agent tests: {agenttest.AGENT} is missing; run make first")
        return 1
    print(f"agent tests of {agenttest.AGENT}{', long ones too' if agenttest.FULL else ''}", flush=True)
    return runner.run_tests(HERE, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
