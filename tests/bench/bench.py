#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks on the host's /dev/kvm:  bench.py [restore] [clones] [own] [ready] [exec] [networks] [io[=net|blk]] [runs=N] [secs=N] [quick]

restore: process start to the first byte of a guest that notices that it was resumed, for our memory modes, the bare KVM
floor, and, with FORKD_PEERS, Cloud Hypervisor, its snapshot under ours, and Firecracker; all take turns in the same run.
clones: through the daemon, by the client's clock: request to 201 and the phases of the answer, one at a time with a pause between
them (a clone is parked) and without parked ones, fifty at once, memory of each; the floor is the bare KVM VM's steps in the same run.
own: a parked clone with a disk of its own, with one that it is given, and with none, in turns.
ready: clones of a guest that answers as forkd-agent does: request to resumed beside request to ready, with each phase, parked and not;
the floor is the agent's part by hand, on a clone that runs. [touch=N]: the guest writes N pages before it acknowledges.
exec: a command's round trip on a kept connection, beside the guest's echo of as many bytes through the daemon, a request that never
leaves the daemon, and the echo of a process behind a unix socket; all take turns.
networks: clones with a network of their own beside bare taps and no net at all, in turns; fifty at once.
io: block and network speed of the same guest under each program, in turns; "ratio" is ours against the best peer's, above 1
where ours is faster. io=net: the network alone.
A JSON line per row (stdout), then a table for people (stderr).
"""
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "kvm")]
import kvmtest  # noqa: E402
from bench_agent import bench_exec, bench_ready  # noqa: E402
from bench_networks import bench_networks  # noqa: E402
from benchtest import Bench, ForkdBench, host, peer, percentile, tool  # noqa: E402
from forkdtest import Daemon  # noqa: E402
from kvmtest import VMM, Tap, Vmm, guest, wait_for, write  # noqa: E402


# ---- restore

def snapshot(b, program, mib, cpus):
    vmm = Vmm(b, "--kernel", guest("resumed"), "--cmdline", "warm=32", "--cpus", f"boot={cpus}", "--memory", f"size={mib}M",
              "--serial", "tty", "--console", "off", program=program)
    vmm.wait_output(rb"\x02")
    time.sleep(0.3)                             # it polls its clock page now
    directory = vmm.snapshot()
    vmm.stop()
    return directory


def connected(path):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(60)
    wait_for(f"somebody to listen on {path}", lambda: s.connect_ex(path) == 0)
    return s


def firecracker_api(path, method, name, body):
    with connected(path) as s:
        s.sendall(http(method, name, body))
        answer = kvmtest.read_answer(s)[0]
    if answer.status // 100 != 2:
        raise AssertionError(f"firecracker {name}: {answer}")


def http(method, name, body):
    data = json.dumps(body).encode()
    return f"{method} {name} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def firecracker_boot(b, program, kernel, cmdline, mib, cpus, drives=(), nets=(), args=()):
    sock = b.path(b.unique("fc") + ".sock")
    err = b.path(b.unique("fc") + ".log")
    with open(err, "wb") as log:
        p = subprocess.Popen([program, "--api-sock", sock, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
    firecracker_api(sock, "PUT", "/machine-config", {"vcpu_count": cpus, "mem_size_mib": mib})
    firecracker_api(sock, "PUT", "/boot-source", {"kernel_image_path": kernel, "boot_args": cmdline})
    for n, path in enumerate(drives):
        firecracker_api(sock, "PUT", f"/drives/d{n}", {"drive_id": f"d{n}", "path_on_host": path, "is_root_device": False,
                                                     "is_read_only": False})
    for n, name in enumerate(nets):
        firecracker_api(sock, "PUT", f"/network-interfaces/n{n}", {"iface_id": f"n{n}", "host_dev_name": name})
    firecracker_api(sock, "PUT", "/actions", {"action_type": "InstanceStart"})
    return p, sock


def firecracker_snapshot(b, program, mib, cpus):
    p, sock = firecracker_boot(b, program, guest("resumed"), "warm=32", mib, cpus)
    try:
        while p.stdout.read(1) != b"\x02":      # its own log may share the output
            if p.poll() is not None:
                raise AssertionError("firecracker ended")
        time.sleep(0.3)
        firecracker_api(sock, "PATCH", "/vm", {"state": "Paused"})
        directory = b.new_dir("fc-snapshot")
        firecracker_api(sock, "PUT", "/snapshot/create", {"snapshot_type": "Full", "snapshot_path": directory + "/state",
                                                        "mem_file_path": directory + "/memory"})
    finally:
        p.kill()
        p.wait()
        p.stdout.close()
    return directory


def restore_plans(b, mib, cpus):
    """(name, socket, request file, argv) of everything that is compared."""
    floor = b.path(b.unique("floor") + ".mem")
    subprocess.run([tool("kvm_floor"), "make", floor, str(mib)], check=True)
    plans = [("floor", "-", "-", [tool("kvm_floor"), "once", floor, str(cpus)])]
    ours = snapshot(b, VMM, mib, cpus)
    for mode in ("copyonwrite", "ondemand", "copy"):
        plans.append((f"forkd-vmm {mode}", "-", "-",
                      [VMM, "--restore", f"source_url=file://{ours},memory_restore_mode={mode},resume=on"]))
    program = peer("cloud-hypervisor")
    if program:
        theirs = snapshot(b, program, mib, cpus)
        plans.append(("forkd-vmm, their snapshot", "-", "-",
                      [VMM, "--restore", f"source_url=file://{theirs},memory_restore_mode=copyonwrite,resume=on"]))
        for mode in ("ondemand", "copy"):
            plans.append((f"cloud-hypervisor {mode}", "-", "-",
                          [program, "--restore", f"source_url=file://{theirs},memory_restore_mode={mode},resume=on"]))
    program = peer("firecracker")
    if program:
        directory, sock, request = firecracker_snapshot(b, program, mib, cpus), b.path("fc-clone.sock"), b.path(b.unique("fc") + ".request")
        write(request, http("PUT", "/snapshot/load", {"snapshot_path": directory + "/state", "resume_vm": True, "mem_backend": {
            "backend_type": "File", "backend_path": directory + "/memory"}}))
        plans.append(("firecracker file", sock, request, [program, "--api-sock", sock, "--level", "Off"]))
    return plans


def time_plans(plans, warm, runs):
    text = "".join("\t".join([name, sock, request, *argv]) + "\n" for name, sock, request, argv in plans)
    done = subprocess.run([tool("first_byte"), str(warm), str(runs)], input=text.encode(), stdout=subprocess.PIPE, check=True)
    times = {}
    for line in done.stdout.decode().splitlines():
        name, ns = line.split("\t")
        times.setdefault(name, []).append(int(ns) / 1000)
    return times


def time_slow(plan):
    """By itself: on a busy host a peer may take longer than first_byte waits, which is no reason to stop."""
    try:
        return time_plans([plan], 1, 5)
    except subprocess.CalledProcessError:
        if plan[0].startswith("forkd-vmm"):
            raise
        print(f"SKIPPED {plan[0]}: it printed nothing in time", file=sys.stderr)
        return {}


def own_memory_kib(plan, ram_bytes):
    """Private memory and Pss of the monitor itself: mappings of the guest's size or of its memory file left out."""
    _, sock, request, argv = plan
    if os.path.exists(sock):
        os.unlink(sock)
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if sock != "-":
            with connected(sock) as s:
                s.sendall(kvmtest.read(request))
                kvmtest.read_answer(s)
        p.stdout.read(1)
        time.sleep(0.2)
        with open(f"/proc/{p.pid}/smaps") as f:
            text = f.read()
    finally:
        p.kill()
        p.wait()
        p.stdout.close()
    totals = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0, "guest": 0}
    counted = True
    for line in text.splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line)
        if head:
            size = int(head.group(2), 16) - int(head.group(1), 16)
            counted = not ("memory-ranges" in head.group(3) or head.group(3).endswith("/memory") or "memfd" in head.group(3)
                           or size >= ram_bytes // 4)
            continue
        key, _, value = line.partition(":")
        if key in totals and counted:
            totals[key] += int(value.split()[0])
        if key in ("Private_Clean", "Private_Dirty") and not counted:
            totals["guest"] += int(value.split()[0])
    return totals["Private_Clean"] + totals["Private_Dirty"], totals["Pss"], totals["guest"]


def bench_restore(options):
    sizes = [(256, 1)] if "quick" in options else [(256, 1), (256, 2), (1024, 1), (1024, 2), (4096, 1), (4096, 2)]
    for mib, cpus in sizes:
        b = Bench()
        b.setUp()
        try:
            runs = int(options.get("runs", 50 if mib == 256 else 30 if mib == 1024 else 15))
            plans = restore_plans(b, mib, cpus)
            slow = [p for p in plans if p[0].endswith(" copy") and mib > 256]
            times = time_plans([p for p in plans if p not in slow], 3, runs)
            for plan in slow:                   # reading all of RAM would only push the others out of the caches
                times.update(time_slow(plan))
            rows = []
            for plan in [plan for plan in plans if plan[0] in times]:
                us = times[plan[0]]
                private, pss, guest_kib = (0, 0, 0) if plan[0] == "floor" else own_memory_kib(plan, mib << 20)
                rows.append({"bench": "restore", "what": plan[0], "mib": mib, "vcpus": cpus, "n": len(us),
                             "p50_us": round(percentile(us, 0.5), 1), "p99_us": round(percentile(us, 0.99), 1),
                             "max_us": round(max(us), 1), "own_private_kib": private, "own_pss_kib": pss,
                             "guest_private_kib": guest_kib})
            show_restore(rows)
            floor_steps(b, plans[0][3][2], cpus, mib)
        finally:
            b.doCleanups()


def show_restore(rows):
    p50 = {row["what"]: row["p50_us"] for row in rows}
    best = p50["forkd-vmm copyonwrite"]
    print(f"\nrestore {rows[0]['mib']} MiB, {rows[0]['vcpus']} vCPU: process start to first guest byte, µs", file=sys.stderr)
    print(f"  {'':28} {'p50':>10} {'p99':>10} {'max':>10} {'/ floor':>8} {'/ ours':>8} {'own KiB':>9}", file=sys.stderr)
    for row in rows:
        row["over_floor"] = round(row["p50_us"] / p50["floor"], 2)
        row["over_ours"] = round(row["p50_us"] / best, 2)
        print(json.dumps({**row, "host": host()}), flush=True)
        print(f"  {row['what']:28} {row['p50_us']:10.0f} {row['p99_us']:10.0f} {row['max_us']:10.0f} {row['over_floor']:8.2f} "
              f"{row['over_ours']:8.2f} {row['own_private_kib'] or '':>9}", file=sys.stderr)


def floor_steps(b, path, cpus, mib):
    done = subprocess.run([tool("kvm_floor"), "steps", path, str(cpus), "100"], stdout=subprocess.PIPE, check=True, text=True)
    print("  floor, step by step (µs p50, p99):", file=sys.stderr)
    for line in done.stdout.splitlines():
        name, p50, p99, most = line.split()
        print(json.dumps({"bench": "floor-step", "what": name, "mib": mib, "vcpus": cpus, "p50_us": int(p50) / 1000,
                          "p99_us": int(p99) / 1000, "max_us": int(most) / 1000}), flush=True)
        print(f"    {name:26} {int(p50) / 1000:10.1f} {int(p99) / 1000:10.1f}", file=sys.stderr)


# ---- clones

def clone_once(d, url, waits):
    begin = time.monotonic_ns()
    c = d.must(201, "POST", url, {})["clones"][0]
    waits["request to 201"].append((time.monotonic_ns() - begin) // 1000)
    for phase in ("accepted", "restored", "resumed"):
        waits[phase].append(c["phases_us"][phase])
    d.delete([c])


def clones_burst(d, url, n):
    begin = time.monotonic_ns()
    clones = d.must(201, "POST", url, {"count": n})["clones"]
    took_us = (time.monotonic_ns() - begin) // 1000
    private = [d.get(f"/v1/clones/{c['id']}")["stats"]["private_dirty_bytes"] // 1024 for c in clones]
    d.delete(clones)
    return took_us, statistics.median(private)


def bench_clones(options):
    runs = int(options.get("runs", 20 if "quick" in options else 100))
    for mib, cpus in ((256, 1), (1024, 2)):
        for park in (2, 0):
            b = ForkdBench()
            b.setUp()
            try:
                d = Daemon(b, "--park", park)
                d.template("t", snapshot(b, VMM, mib, cpus))
                url = "/v1/templates/t/clones"
                waits = {name: [] for name in ("accepted", "restored", "resumed", "request to 201")}
                for i in range(-5, runs):
                    clone_once(d, url, waits if i >= 0 else {name: [] for name in waits})
                    time.sleep(0.02)
                took_us, private_kib = clones_burst(d, url, 50)
                floor_us = floor_total_us(b, cpus, mib)
                show_clones(mib, cpus, park, waits, took_us, private_kib, floor_us)
            finally:
                b.doCleanups()


def floor_total_us(b, cpus, mib):
    """The median of each step of a bare KVM VM, from nothing to its first exit."""
    path = b.path(b.unique("floor"))
    subprocess.run([tool("kvm_floor"), "make", path, str(mib)], check=True)
    done = subprocess.run([tool("kvm_floor"), "steps", path, str(cpus), "100"], stdout=subprocess.PIPE, check=True, text=True)
    steps = [line.split() for line in done.stdout.splitlines()]
    return sum(int(p50) for name, p50, _, _ in steps if name != "teardown") / 1000


def show_clones(mib, cpus, park, waits, took_us, private_kib, floor_us):
    row = {"bench": "clones", "mib": mib, "vcpus": cpus, "parked": park, "burst_of_50_us": took_us, "private_kib": private_kib,
           "floor_us": floor_us, "host": host(), **{f"{name.replace(' ', '_')}_us": {"p50": percentile(v, 0.5), "p99": percentile(v, 0.99)}
                                                    for name, v in waits.items()}}
    print(json.dumps(row), flush=True)
    print(f"\nclones of {mib} MiB, {cpus} vCPUs, {park} parked: floor {floor_us:.0f} us; fifty at once {took_us / 1000:.1f} ms; "
          f"{private_kib:.0f} KiB private each", file=sys.stderr)
    for name, v in waits.items():
        print(f"  {name:16}{percentile(v, 0.5):>8} us p50{percentile(v, 0.99):>8} us p99{percentile(v, 0.5) / floor_us:>8.2f} x floor",
              file=sys.stderr)


# ---- what a clone has of its own

def snapshot_with_disk(b, mib, disk):
    vmm = Vmm(b, "--kernel", guest("resumed"), "--cmdline", "warm=32", "--memory", f"size={mib}M", "--serial", "tty", "--console", "off",
              "--disk", f"path={disk},id=root,image_type=raw")
    vmm.wait_output(rb"\x02")
    time.sleep(0.3)
    directory = vmm.snapshot()
    vmm.stop()
    return directory


def sparse(b, name, gib):
    path = b.path(name)
    with open(path, "wb") as f:
        f.truncate(gib << 30)
    return path


def bench_own(options):
    """A parked clone with a disk of 2 GiB of its own, with a file that it is given, and without a disk; in turns."""
    runs = int(options.get("runs", 20 if "quick" in options else 200))
    b = ForkdBench()
    b.setUp()
    try:
        d = Daemon(b, "--park", 2)
        disk, given = sparse(b, "disk.img", 2), sparse(b, "given.img", 2)
        d.template("none", snapshot(b, VMM, 256, 1))
        d.template("disk", snapshot_with_disk(b, 256, disk))
        ways = {"no disk": ("none", {}), "a disk by path": ("disk", {"overrides": {"disks": [{"id": "root", "path": given}]}}), "its own disk": ("disk", {})}
        waits = {name: [] for name in ways}
        for i in range(-5, runs):
            for name, (template, body) in ways.items():
                begin = time.monotonic_ns()
                clones = d.must(201, "POST", f"/v1/templates/{template}/clones", body)["clones"]
                took = (time.monotonic_ns() - begin) // 1000
                d.delete(clones)
                time.sleep(0.02)
                if i >= 0:
                    waits[name].append(took)
        least = percentile(waits["no disk"], 0.5)
        print("\nparked clone of 256 MiB, request to 201:", file=sys.stderr)
        for name, v in waits.items():
            print(json.dumps({"bench": "own", "what": name, "p50_us": percentile(v, 0.5), "p99_us": percentile(v, 0.99),
                              "ratio": percentile(v, 0.5) / least, "host": host()}), flush=True)
            print(f"  {name:16}{percentile(v, 0.5):>8} us p50{percentile(v, 0.99):>8} us p99{percentile(v, 0.5) / least:>8.2f} x no disk", file=sys.stderr)
    finally:
        b.doCleanups()


# ---- io

SPEED = re.compile(r"speed (.*?): (.*)")


# What a guest is asked for; net also as a driver that sleeps until its interrupt, and with full frames.
IO_PARTS = [("poll", "blk", 64), ("poll", "net", 64), ("irq", "net", 64), ("irq", "net", 1500)]


def io_guest(b, program, cmdline, disk, tap, secs):
    """What the guest prints under one program."""
    if os.path.basename(program) != "firecracker":
        vmm = Vmm(b, "--kernel", guest("devices"), "--cmdline", cmdline, "--cpus", "boot=1", "--memory", "size=256M", "--serial",
                  "tty", "--console", "off", "--disk", f"path={disk},image_type=raw", "--net", f"tap={tap}", program=program)
        try:
            vmm.wait_exit(60 + 20 * secs)
        finally:
            vmm.kill()
        return vmm.output
    p, _ = firecracker_boot(b, program, guest("devices"), cmdline + " end=reset ecam=0", 256, 1, [disk], [tap], ["--enable-pci"])
    try:
        text, deadline = b"", time.monotonic() + 60 + 20 * secs
        while b"PASS" not in text and b"FAIL" not in text and time.monotonic() < deadline:
            piece = os.read(p.stdout.fileno(), 65536)
            if not piece:
                break
            text += piece
    finally:
        p.kill()
        p.wait()
        p.stdout.close()
    return text


def io_run(b, program, part, secs):
    """The guest's speed lines under one program, as {name: value}."""
    mode, dev, frame = part
    tap = Tap(b, persistent=True)
    text = io_guest(b, program, f"speed=1 secs={secs} mode={mode} dev={dev} frame={frame}", b.disk(256), tap.name, secs)
    tap.close()
    text = text.decode(errors="replace")
    if "PASS" not in text:
        raise AssertionError(f"no PASS: {text[-500:]}")
    figures = {}
    for what, values in SPEED.findall(text):
        for number, unit in re.findall(r"(?:p50 )?(\d+) (iops|ns|round trips|frames/s|Mbit/s|lost)", values):
            figures[f"{mode} {what} [{unit}]"] = int(number)
    return figures


def io_turn(program, part, secs):
    """One run in a folder of its own; None, said on stderr, when the guest cannot be driven so under this program."""
    b = Bench()
    b.setUp()
    try:
        return io_run(b, program, part, secs)
    except AssertionError as e:
        print(f"SKIPPED io {' '.join(map(str, part))} under {os.path.basename(program)}: {e}", file=sys.stderr)
        return None
    finally:
        b.doCleanups()


def bench_io(options):
    secs, runs = int(options.get("secs", 1)), int(options.get("runs", 1 if "quick" in options else 3))
    programs = [VMM] + [p for p in (peer("cloud-hypervisor"), peer("firecracker")) if p]
    only = options["io"] if isinstance(options.get("io"), str) else ""
    ok = True
    print(f"\nio, median of {runs} runs of {secs} s\n  {'':42}" + "".join(f"{os.path.basename(p):>18}" for p in programs) +
          f"{'ratio':>8}", file=sys.stderr)
    for part in [part for part in IO_PARTS if only in part[1]]:
        figures = {p: [] for p in programs}
        for _ in range(runs):
            for program in programs:
                if figures[program] is not None:
                    turn = io_turn(program, part, secs)
                    figures[program] = figures[program] + [turn] if turn else None
        ok = ok and bool(figures[VMM])
        for what in figures[VMM][0] if figures[VMM] else ():
            show_io(what, {p: statistics.median(f.get(what, 0) for f in fs) if fs else None for p, fs in figures.items()})
    return ok


def show_io(what, values):
    peers = [v for p, v in values.items() if p != VMM and v]
    ours, lower_is_better = values[VMM], what.endswith("[ns]")
    ratio = None
    if peers and ours and not what.endswith("[lost]"):
        ratio = round(min(peers) / ours if lower_is_better else ours / max(peers), 2)
    print(json.dumps({"bench": "io", "what": what, **{os.path.basename(p): v for p, v in values.items()}, "ratio": ratio,
                      "host": host()}), flush=True)
    print(f"  {what:42}" + "".join(f"{'-' if v is None else format(v, '.0f'):>18}" for v in values.values()) +
          f"{'' if ratio is None else format(ratio, '.2f'):>8}", file=sys.stderr)


# ---- qcow2

# Requests of the guest's speed=1, by number: see blk_speed() in tests/guests/dev_blk.c.
SEQUENTIAL_WRITES, RANDOM_WRITES = {1: "sequential write qd 1", 3: "sequential write qd 16"}, {5: "random write qd 1", 7: "random write qd 16"}
FIRST_WRITES, APART_KIB = 16384, 64     # 1 GiB, one write in each cluster


def qemu_img(*args):
    return subprocess.run(["qemu-img", *args], check=True, capture_output=True, text=True).stdout


def qcow2_image(b, kind, mib):
    """(path, option) of a new image: `raw` or `qcow2`, with `data`, with `holes`, or `over` a raw file of data."""
    form, has = kind.split()
    raw = b.path(b.unique("raw") + ".img")
    with open(raw, "wb") as f:
        for _ in range(mib if has != "holes" else 0):
            f.write(b"\x55" * (1 << 20))
        f.truncate(mib << 20)
    if form == "raw":
        return raw, "image_type=raw"
    path = b.path(b.unique("image") + ".qcow2")
    if has == "data":
        qemu_img("convert", "-f", "raw", "-O", "qcow2", raw, path)
    elif has == "holes":
        qemu_img("create", "-f", "qcow2", path, f"{mib}M")
    else:
        qemu_img("create", "-f", "qcow2", "-F", "raw", "-b", raw, path)
    return path, "image_type=qcow2,backing_files=on"


def qcow2_guest(program, kind, mib, cmdline):
    """The guest's figures on a new image, as {what: iops}."""
    b = Bench()
    b.setUp()
    try:
        path, option = qcow2_image(b, kind, mib)
        vmm = Vmm(b, "--kernel", guest("devices"), "--cmdline", f"speed=1 dev=blk {cmdline}", "--cpus", "boot=1", "--memory",
                  "size=256M", "--serial", "tty", "--console", "off", "--disk", f"path={path},{option}", program=program)
        try:
            vmm.wait_exit(120)
        finally:
            vmm.kill()
        text = vmm.output.decode(errors="replace")
        if "PASS" not in text:
            raise AssertionError(f"no PASS: {text[-500:]}")
        return {what.removeprefix("blk "): int(re.match(r"(\d+) iops", values)[1]) for what, values in SPEED.findall(text)}
    finally:
        b.doCleanups()


def first_writes(run):
    """First writes over data, per second, by what writes a new overlay in the seconds that run(path) returns."""
    b = Bench()
    b.setUp()
    try:
        path, _ = qcow2_image(b, "qcow2 over", FIRST_WRITES * APART_KIB >> 10)
        return FIRST_WRITES / run(path)
    finally:
        b.doCleanups()


def qcow2_qemu(depth):
    """By qemu's own qcow2: the better of its ways to do I/O."""
    def run(path, way):
        text = qemu_img("bench", "-w", "-f", "qcow2", "-t", "writeback", "-i", way, "-c", str(FIRST_WRITES), "-d", str(depth),
                        "-s", "4096", "-S", str(APART_KIB << 10), path)
        return float(re.search(r"completed in ([0-9.]+) seconds", text)[1])
    return max(first_writes(lambda path, way=way: run(path, way)) for way in ("threads", "io_uring"))


def qcow2_alone(depth):
    """By our disk without a guest."""
    args = ["qcow2", str(FIRST_WRITES), str(depth), str(APART_KIB << 10)]
    return first_writes(lambda path: float(subprocess.run([tool("image_speed"), path, *args], check=True, capture_output=True, text=True).stdout))


def show_qcow2(what, values, wanted):
    names = list(values)
    ratio = round(values[names[0]] / values[names[1]], 2)
    print(json.dumps({"bench": "qcow2", "what": what, **{n: round(v) for n, v in values.items()}, "ratio": ratio, "wanted": wanted,
                      "host": host()}), flush=True)
    print(f"  {what:44}" + "".join(f"  {n} {v:.0f}" for n, v in values.items()) + f"  ratio {ratio:.2f} (wanted {wanted})", file=sys.stderr)


def bench_qcow2(options):
    """qcow2 beside raw, beside qemu's own, and beside Cloud Hypervisor's; the same guest, in turns. Requests per second, medians."""
    runs, secs = int(options.get("runs", 1 if "quick" in options else 3)), int(options.get("secs", 1))
    them = peer("cloud-hypervisor")
    print(f"\nqcow2, 4 KiB requests per second, median of {runs} runs", file=sys.stderr)

    def compare(what, wanted, parts):
        """parts: {name: function that gives {figure: value}}, the first over the second."""
        seen = {name: [] for name in parts}
        for _ in range(runs):
            for name, run in parts.items():
                seen[name].append(run())
        for figure in seen[next(iter(parts))][0]:
            show_qcow2(f"{what}: {figure}", {n: statistics.median(f[figure] for f in fs) for n, fs in seen.items()}, wanted)

    def on(program, kind, mib, cmdline):
        return lambda: qcow2_guest(program, kind, mib, cmdline)

    def versus(what, kind, mib, cmdline, other, wanted):
        parts = {"qcow2": on(VMM, kind, mib, cmdline), other: on(VMM, f"{other} {kind.split()[1]}", mib, cmdline)}
        compare(what, wanted, parts)
        if them:
            compare(what, 1, {"qcow2": on(VMM, kind, mib, cmdline), "cloud-hypervisor": on(them, kind, mib, cmdline)})

    versus("allocated", "qcow2 data", 256, f"secs={secs}", "raw", 0.9)
    for number in SEQUENTIAL_WRITES | RANDOM_WRITES:
        versus("holes", "qcow2 holes", 4096, f"secs={secs} only={number}", "raw", 0.6)
    first = FIRST_WRITES * APART_KIB >> 10
    for number, depth in ((1, 1), (3, 16)):
        figure = SEQUENTIAL_WRITES[number]
        compare("first writes over data, no guest", 1, {
            "qcow2": lambda depth=depth, figure=figure: {figure: qcow2_alone(depth)},
            "qemu-img bench": lambda depth=depth, figure=figure: {figure: qcow2_qemu(depth)}})
        if them:
            cmdline = f"only={number} count={FIRST_WRITES} kib={APART_KIB}"
            compare("first writes over data", 1, {"qcow2": on(VMM, "qcow2 over", first, cmdline),
                                                  "cloud-hypervisor": on(them, "qcow2 over", first, cmdline)})


def main():
    words = sys.argv[1:]
    options = dict(w.split("=", 1) if "=" in w else (w, True) for w in words)
    kvmtest.isolate()
    ok = True
    everything = not {"restore", "clones", "own", "ready", "exec", "networks", "io", "qcow2"} & set(options)
    if "restore" in options or everything:
        bench_restore(options)
    if "clones" in options or everything:
        bench_clones(options)
    if "own" in options or everything:
        bench_own(options)
    if "ready" in options or everything:
        bench_ready(options)
    if "exec" in options or everything:
        bench_exec(options)
    if "networks" in options or everything:
        bench_networks(options)
    if "io" in options or everything:
        ok = bench_io(options)
    if "qcow2" in options or everything:
        bench_qcow2(options)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
