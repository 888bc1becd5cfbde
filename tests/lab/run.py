# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of the lab:  run.py quick | full | bench | peers | NAME...   (started by scripts/lab.sh)"""
import signal
import sys

import lab
import test_agent       # noqa: F401: importing registers its tests
import test_boot        # noqa: F401
import test_build       # noqa: F401
import test_snapshot
import test_clock       # noqa: F401
import test_checks      # noqa: F401
import test_disks       # noqa: F401
import test_fifty       # noqa: F401
import test_first_command       # noqa: F401
import test_forkctl     # noqa: F401
import test_hotplug     # noqa: F401
import test_identity    # noqa: F401
import test_io          # noqa: F401
import test_nested      # noqa: F401
import test_reboot       # noqa: F401
import test_vmgenid     # noqa: F401
import test_guide       # noqa: F401
import test_peers       # noqa: F401

# Ended from outside (time is up): unwind, so that VMMs and namespaces end as well.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("lab: ended by SIGTERM"))
with test_snapshot.shared:
    status = lab.run_tests(sys.argv[1:])
sys.exit(status)
