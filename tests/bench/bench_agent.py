# SPDX-License-Identifier: Apache-2.0
"""The parts of bench.py with a guest that answers as forkd-agent does: request to ready, and commands."""
import json
import os
import subprocess
import sys
import time

from benchtest import ForkdBench, host, percentile, tool
from forkdtest import Daemon
from kvmtest import guest, write

PHASES = ("accepted", "restored", "resumed", "agent", "identity", "ready")
CLONES = "/v1/templates/t/clones"


def template(d, more=""):
    vm = {"memory": {"size": 256 << 20}, "cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "vsock": {"cid": 3, "socket": "x"},
          "payload": {"kernel": guest("agent"), "cmdline": "quiet=1" + more}}
    d.must(201, "POST", "/v1/templates", {"name": "t", "vm": vm, "ready": {"agent": True}, "timeout_s": 60})


def request_file(b, method, url, body=None):
    text = "" if body is None else f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    path = b.path(b.unique("request"))
    write(path, f"{method} {url} HTTP/1.1\r\nHost: x\r\n{text}\r\n{body or ''}".encode())
    return path


def round_trips(plans, warm, runs):
    """{name: µs of each run}."""
    text = "".join("\t".join(plan) + "\n" for plan in plans)
    done = subprocess.run([tool("round_trip"), str(warm), str(runs)], input=text.encode(), stdout=subprocess.PIPE, check=True)
    times = {}
    for line in done.stdout.decode().splitlines():
        name, ns = line.split("\t")
        times.setdefault(name, []).append(int(ns) / 1000)
    return times


def figure(us):
    return {"p50": round(percentile(us, 0.5), 1), "p99": round(percentile(us, 0.99), 1)}


# ---- request to ready

def clone_once(d, wait, figures):
    begin = time.monotonic_ns()
    [c] = d.must(201, "POST", CLONES, {"wait": wait})["clones"]
    figures.setdefault((wait, "201"), []).append((time.monotonic_ns() - begin) / 1000)
    url = f"/v1/clones/{c['id']}"
    while c["identity"] != "unique":
        time.sleep(0.001)
        c = d.get(url)
    for phase in PHASES:
        figures.setdefault((wait, phase), []).append(c["phases_us"][phase])
    d.delete([c])


def agent_floor(b, d, runs):
    """The agent's part by hand: a stream, a short exchange and one with as much as an identity, with the API's port, where the guest
    does the same."""
    [c] = d.clone("t")
    plan = ["floor", os.path.join(d.runtime, "clones", c["id"], "vsock.sock"), "CONNECT 983", request_file(b, "GET", "/v1/hello"),
            request_file(b, "POST", "/v1/identity", json.dumps({"nonce": "x" * 380}))]
    us = round_trips([plan], 5, runs)["floor"]
    d.delete([c])
    return us


def bench_ready(options):
    runs = int(options.get("runs", 20 if "quick" in options else 100))
    for park in (2, 0):
        b = ForkdBench()
        b.setUp()
        try:
            d = Daemon(b, "--park", park)
            template(d, f" touch={options.get('touch', 0)}")
            figures = {}
            for i in range(-5, runs):
                for wait in ("resumed", "ready"):
                    clone_once(d, wait, figures if i >= 0 else {})
                    time.sleep(0.02)
            show_ready(park, {key: figure(us) for key, us in figures.items()}, figure(agent_floor(b, d, runs)))
        finally:
            b.doCleanups()


def show_ready(park, figures, floor):
    for wait in ("resumed", "ready"):
        print(json.dumps({"bench": "ready", "parked": park, "wait": wait, "floor_us": floor, "host": host(),
                          **{f"{name}_us": value for (w, name), value in figures.items() if w == wait}}), flush=True)
    print(f"\nready, {park} parked: us from the request on, p50 and p99; the agent's part by hand {floor['p50']:.0f} {floor['p99']:.0f}\n"
          f"  {'':12}{'wait: resumed':>20}{'wait: ready':>20}", file=sys.stderr)
    for name in (*PHASES, "201"):
        print(f"  {name:12}" + "".join(f"{figures[wait, name]['p50']:>11.0f}{figures[wait, name]['p99']:>9.0f}" for wait in ("resumed", "ready")),
              file=sys.stderr)


# ---- commands

def bench_exec(options):
    runs = int(options.get("runs", 200 if "quick" in options else 1000))
    b = ForkdBench()
    b.setUp()
    try:
        d = Daemon(b)
        template(d)
        [c] = d.clone("t")
        url = f"/v1/clones/{c['id']}"
        command = json.dumps({"cmd": "true"})
        execs, echo = request_file(b, "POST", url + "/exec", command), request_file(b, "POST", url + "/agent/echo", command)
        times = round_trips([["exec", d.socket, "-", execs], ["echo through the daemon", d.socket, "-", echo],
                             ["the daemon alone", d.socket, "-", request_file(b, "GET", "/healthz")], ["unix socket", "echo", "-", echo]],
                            20, runs)
        show_exec({name: figure(us) for name, us in times.items()})
    finally:
        b.doCleanups()


def show_exec(figures):
    ratio = round(figures["exec"]["p50"] / figures["echo through the daemon"]["p50"], 2)
    print(json.dumps({"bench": "exec", "ratio": ratio, "host": host(), **{f"{name.replace(' ', '_')}_us": value
                                                                       for name, value in figures.items()}}), flush=True)
    print(f"\nexec: round trips, us; {ratio:.2f} x the echo through the daemon\n  {'':26}{'p50':>8}{'p99':>8}", file=sys.stderr)
    for name, value in figures.items():
        print(f"  {name:26}{value['p50']:>8.0f}{value['p99']:>8.0f}", file=sys.stderr)
