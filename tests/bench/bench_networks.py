# SPDX-License-Identifier: Apache-2.0
"""The part of bench.py about networks: what a clone pays for one, and how long the daemon works on one."""
import json
import os
import subprocess
import sys
import time

from benchtest import ForkdBench, host, percentile
from forkdtest import Daemon
from kvmtest import VMM, Vmm, guest, tmpfs, wait_for

URL = "/v1/templates/t/clones"
KINDS = (("no net", "off", None), ("bare tap", "off", None), ("network", "on", {}),
         ("network, egress by address", "on", {"egress": {"allow": ["192.0.2.0/24"]}}),
         ("network, a port", "on", {"ports": [{"guest": 80}]}))


def snapshot(b, net):
    vmm = Vmm(b, "--kernel", guest("resumed"), "--cmdline", "warm=32", "--cpus", "boot=1", "--memory", "size=256M", "--serial", "tty",
              "--console", "off", *(["--net", "id=net,mac=02:00:00:00:00:02"] if net else []), program=VMM)
    vmm.wait_bytes(1)
    directory = vmm.snapshot()
    vmm.stop()
    return directory


def is_ready(d, mode):
    """Its slots are made, and nothing is being removed: what is timed is a daemon at rest."""
    return mode == "off" or b'forkd_networks{state="ready"} 8\n' in d.call("GET", "/metrics").body and \
        sum(n.startswith("forkd") for n in os.listdir("/run/netns")) == 8


def bench_networks(options):
    runs = int(options.get("runs", 20 if "quick" in options else 100))
    b = ForkdBench()
    b.setUp()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.makedirs("/run/netns", exist_ok=True)
    b.enterContext(tmpfs("/run/netns", "1m"))
    try:
        daemons, waits = {}, {what: [] for what, _, _ in KINDS}
        for what, mode, _ in KINDS:
            key = (mode, what != "no net")
            if key not in daemons:
                daemons[key] = Daemon(b, "--network", mode, *(["--network-slots", "8"] if mode == "on" else []))
                daemons[key].template("t", snapshot(b, what != "no net"))
        for i in range(-3, runs):
            for what, mode, wish in KINDS:
                d = daemons[mode, what != "no net"]
                wait_for("networks", lambda d=d, mode=mode: is_ready(d, mode))
                time.sleep(0.03)        # another clone is parked
                begin = time.monotonic_ns()
                c = d.must(201, "POST", URL, {"overrides": {"network": wish}} if wish else {})["clones"]
                if i >= 0:
                    waits[what].append((time.monotonic_ns() - begin) // 1000)
                d.delete(c)
        burst_us = burst(daemons["on", True]), burst(daemons["off", True])
        show(waits, burst_us)
    finally:
        b.doCleanups()


def burst(d):
    begin = time.monotonic_ns()
    clones = d.must(201, "POST", URL, {"count": 50})["clones"]
    took = (time.monotonic_ns() - begin) // 1000
    d.delete(clones)
    return took


def show(waits, burst_us):
    for what, values in waits.items():
        print(json.dumps({"bench": "networks", "what": what, "host": host(), "request_to_201_us": {
            "p50": percentile(values, 0.5), "p99": percentile(values, 0.99)}}), flush=True)
        print(f"  {what:28}{percentile(values, 0.5):>8} us p50{percentile(values, 0.99):>8} us p99", file=sys.stderr)
    print(json.dumps({"bench": "networks", "what": "fifty at once, eight made ahead", "network_us": burst_us[0], "bare_tap_us": burst_us[1]}), flush=True)
    print(f"  fifty at once, eight networks made ahead: {burst_us[0] / 1000:.1f} ms, bare taps {burst_us[1] / 1000:.1f} ms", file=sys.stderr)
