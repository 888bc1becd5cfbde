#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of forkd-image, as root (images are mounted, in a mount namespace of their own):  run.py [PART-OF-A-NAME...]

BUILD: the folder of the program under test (build).
"""
import faulthandler
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import imagetest  # noqa: E402
import runner  # noqa: E402


def main():
    faulthandler.enable()
    if os.geteuid() != 0:
        print("image tests: they need root, to mount what was made")
        return 1
    if not os.path.exists(imagetest.PROGRAM):
        print(f"image tests: {imagetest.PROGRAM} is missing; run make first")
        return 1
    imagetest.isolate()
    print(f"image tests of {imagetest.PROGRAM}", flush=True)
    return runner.run_tests(HERE, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
