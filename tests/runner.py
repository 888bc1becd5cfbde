# SPDX-License-Identifier: Apache-2.0
"""Runs a folder's unittest modules: one line per test, and at the end `N passed, N failed` and what was skipped, why."""
import os
import signal
import sys
import time
import traceback
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


def alive(pid):
    """Runs; a zombie does not. It may end at any time: a read then fails with ENOENT or ESRCH."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as f:
            return f.read().rsplit(") ", 1)[1][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    """The numbers of its children, ended ones too."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as f:
        return [int(child) for child in f.read().split()]


class Lines(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.passed, self.failed, self.skips, self.began = 0, 0, [], 0.0

    def name(self, test):
        return test.id().replace("__main__.", "")

    def startTest(self, test):
        super().startTest(test)
        self.began, self.bad = time.monotonic(), None

    def _note(self, test, err):
        kind, value, tb = err
        text = str(value).strip()
        if not issubclass(kind, AssertionError):
            text = f"{kind.__name__}: {text}\n{''.join(traceback.format_tb(tb))}"
        lines = [f for f in traceback.extract_tb(tb) if f.filename.startswith(HERE) and os.path.basename(f.filename).startswith("test_")]
        where = f" [{os.path.basename(lines[-1].filename)}:{lines[-1].lineno}]" if lines else ""
        self.bad = (self.bad + "; also: " if self.bad else "") + text + where

    def addError(self, test, err):
        self._note(test, err)
        if not isinstance(test, unittest.TestCase) or not hasattr(test, "dir"):       # setUpClass and the like
            self.stopTest(test)

    def addFailure(self, test, err):
        self._note(test, err)

    def addSubTest(self, test, subtest, err):
        if err:
            params = ", ".join(f"{k}={v}" for k, v in subtest.params.items())
            self._note(test, (err[0], AssertionError(f"({params}) {err[1]}") if issubclass(err[0], AssertionError) else err[1], err[2]))

    def addSkip(self, test, reason):
        self.skips.append((self.name(test), reason))
        print(f"SKIPPED {self.name(test)}: {reason}", flush=True)
        self.bad = "skipped"

    def stopTest(self, test):
        took = time.monotonic() - self.began
        if self.bad == "skipped":
            return
        if self.bad:
            self.failed += 1
            print(f"not ok {self.name(test)} ({took:.1f} s): {self.bad}", flush=True)
        else:
            self.passed += 1
            print(f"ok {self.name(test)} ({took:.1f} s)", flush=True)


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def run_tests(folder, wanted):
    """Runs the folder's tests whose name has one of `wanted` in it. The exit status."""
    tests = list(flatten(unittest.defaultTestLoader.discover(folder)))
    tests = [t for t in tests if not wanted or any(w in t.id() for w in wanted)]
    result = Lines()

    def end(*_):
        result.stop()           # this test fails and cleans up; no other begins
        sys.exit("ended by SIGTERM")
    signal.signal(signal.SIGTERM, end)
    unittest.TestSuite(tests).run(result)
    for name, reason in result.skips:
        print(f"skipped: {name}: {reason}")
    if result.skips:
        print(f"{len(result.skips)} skipped")
    print(f"{result.passed} passed, {result.failed} failed")
    return 1 if result.failed or not result.passed else 0
