# SPDX-License-Identifier: Apache-2.0
"""What the age of a template does to the processes of a Linux guest, with both choices of `clock`: busy ones, sleeping ones, the network.

Nothing here asserts how long something takes by the host's clock. The lines with "#" are what docs/identity.md has as a table.
"""
import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import time

from daemon import Forkd, shell
from lab import BUSYBOX, EMULATED, GUEST, INITRD, KERNEL, RESTORE_VMM, TMP, VMM, Skipped, Vm, check, test, wait_for

AGES = {"60 s": 60, "1 h": 3600, "1 d": 86400, "30 d": 30 * 86400, "3 y": 3 * 365 * 86400}
CHOICES = "Advance", "Continue"
WATCH_S = 12
BUSY = slice(2, 6)
LINE = re.compile(r"^\d+(?: \d+){7}$", re.M)


class Template:
    """A guest of two processors with guest_clock on hvc0, paused while it works."""

    def __init__(self):
        self.dir = os.path.join(TMP, "clock-template")
        os.mkdir(self.dir)
        with Vm("clock-source") as vm:
            vm.boot(cpus=2, program=VMM, tap_by_name=False)
            vm.wait_ready()
            vm.check_boot_clock()
            vm.ping()
            vm.ask("guest_clock < /dev/null > /dev/hvc0 2> /dev/console &")
            vm.wait("lines of guest_clock", lambda: len(lines(vm)) > 12)
            print(f"# before any snapshot: {Watch(vm, lines(vm)[-1])}", flush=True)
            vm.learn_messages()     # the last moment: the guest has come to rest
            vm.api("PUT", "vm.pause")
            vm.api("PUT", "vm.snapshot", {"destination_url": "file://" + self.dir})
            self.last = lines(vm)[-1]
            self.disk = self.dir + ".disk"
            shutil.copyfile(vm.disk, self.disk)

    def clone(self, vm, age_s, choice):
        """Restores it into `vm`, paused, as if it were so old."""
        path = os.path.join(vm.dir, "snapshot")
        shutil.copytree(self.dir, path, copy_function=os.link)
        with open(os.path.join(self.dir, "config.json")) as f:
            config = json.load(f)
        config["disks"][0]["path"], config["serial"]["file"], config["console"]["file"] = vm.disk, vm.serial, vm.hvc0
        config["vsock"]["socket"] = vm.vsock
        shutil.copyfile(self.disk, vm.disk)
        replace(os.path.join(path, "config.json"), config)
        with open(os.path.join(self.dir, "state.json")) as f:
            tree = json.load(f)
        root = json.loads(tree["snapshot_data"]["state"])
        clock = bytearray(root["clock"]["Kvm"])
        stamp, = struct.unpack_from("<Q", clock, 16)
        struct.pack_into("<Q", clock, 16, int(time.time() - age_s) * 10 ** 9)
        check(stamp < time.time_ns(), "the snapshot is from the future")
        root["clock"]["Kvm"] = list(clock)
        tree["snapshot_data"]["state"] = json.dumps(root)
        replace(os.path.join(path, "state.json"), tree)
        vm.start(RESTORE_VMM)
        fd = vm.net.tap()
        vm.api("PUT", "vm.restore", {"source_url": "file://" + path, "memory_restore_mode": "Copy", "clock": choice,
                                     "net_fds": [{"id": "net1", "num_fds": 1}]}, fds=[fd])
        vm.net.close_tap()

    def remove(self):
        shutil.rmtree(self.dir)
        os.unlink(self.disk)


def replace(path, tree):
    os.unlink(path)
    with open(path, "w") as f:
        json.dump(tree, f)


def lines(vm):
    """What guest_clock has said, as lists of numbers; not the first line, whose beginning a restored guest has written before."""
    with contextlib.suppress(FileNotFoundError), open(vm.hvc0, errors="replace") as f:
        return [[int(w) for w in m.group().split(" ")] for m in LINE.finditer(f.read().replace("\r", ""))][1:]
    return []


class Watch:
    """What guest_clock counts while the host's clock goes on by WATCH_S, beginning with vm.resume, or now if the guest runs."""

    def __init__(self, vm, last):
        self.last, self.ping_s = last, None
        with vm.net.inside():
            ping = subprocess.Popen([BUSYBOX, "ping", "-i", "0.1", "-w", str(WATCH_S), "-c", "1", GUEST], stdout=subprocess.DEVNULL)
        begun = time.monotonic()
        if vm.api("GET", "vm.info")["state"] == "Paused":
            vm.api("PUT", "vm.resume")
        while time.monotonic() < begun + WATCH_S:
            time.sleep(0.02)
            if self.ping_s is None and ping.poll() == 0:
                self.ping_s = time.monotonic() - begun
        ping.wait()
        self.line = lines(vm)[-1] if lines(vm) else None

    def least_share(self):
        """Of the busy process that has got least: percent of the average."""
        gained = [b - a for a, b in zip(self.last[BUSY], self.line[BUSY])]
        return min(gained) * 400 // max(sum(gained), 1)

    def slept(self):
        return self.line[6] - self.last[6]

    def __str__(self):
        ping = "no ping answered" if self.ping_s is None else f"first ping answered after {self.ping_s:.1f} s"
        if not self.line:
            return f"no line, {ping}"
        return f"{self.slept()} sleeps of 1 s, a busy process has got {self.least_share()} % of the average, {ping}"


def one_age(template, name, age_s, choice):
    with Vm(f"clock-{choice}-{name.replace(' ', '')}") as vm:
        template.clone(vm, age_s, choice)
        watch = Watch(vm, template.last)
        if choice == "Advance" and not watch.line:      # the more so, the older
            print(f"# {name:5} {choice:8} {watch}", flush=True)
            return
        vm.wait("a line of guest_clock", lambda: lines(vm))
        jump_ms, wall_s = (lines(vm)[0][i] - template.last[i] for i in (0, 1))
        print(f"# {name:5} {choice:8} uptime jumped by {jump_ms / 1000:.1f} s; {watch}", flush=True)
        if choice == "Advance":
            check(jump_ms >= (age_s - 1) * 1000, f"{vm.name}: uptime has jumped by {jump_ms} ms only")
            check(wall_s >= age_s - 1, f"{vm.name}: the time of day has jumped by {wall_s} s only")
            return
        check(jump_ms < age_s * 1000, f"{vm.name}: uptime has jumped by {jump_ms} ms")
        check(wall_s < age_s, f"{vm.name}: the time of day has jumped by {wall_s} s")
        # by the guest's own clock, whatever the host is busy with
        vm.wait("10 s of guest time", lambda: lines(vm)[-1][0] - template.last[0] > 10000)
        watch.line = lines(vm)[-1]
        check(watch.least_share() >= 2, f"{vm.name}: a busy process does not run: {template.last} then {watch.line}")
        check(watch.slept() >= (watch.line[0] - template.last[0]) // 2000, f"{vm.name}: a sleeper oversleeps: {template.last} then {watch.line}")
        vm.check_messages()


@test("clock", "full")
def ages():
    template = Template()
    try:
        for name, age_s in AGES.items():
            for choice in CHOICES:
                one_age(template, name, age_s, choice)
    finally:
        template.remove()


# ---- with an agent

def clone_lines(clone):
    return [[int(w) for w in m.group().split(" ")] for m in LINE.finditer(shell(clone, "tail -n 400 /run/clock"))]


def with_agent(d, name, age_s, last):
    """One clone of that age. Busy and sleeping processes go on, and the time of day is right from the first line on."""
    real_s = time.time()
    time.clock_settime(time.CLOCK_REALTIME, real_s + age_s)
    try:
        c, = d.call("POST", "/v1/templates/work/clones", {})["clones"]
        wait_for("10 s of guest time", lambda: clone_lines(c)[-1][0] - last[0] > 10000)
        own = [line for line in clone_lines(c) if line[0] > last[0]]
        gained = [b - a for a, b in zip(last[BUSY], own[-1][BUSY])]
        jump_ms, share, p = own[0][0] - last[0], min(gained) * 400 // max(sum(gained), 1), c["phases_us"]
        before_s = time.time()
        inside_s = int(shell(c, "date +%s"))        # whole seconds
        after_s, off_s = time.time(), 0.1 + (p["identity"] - p["agent"]) / 2e6
        print(f"# {name:5} agent    uptime jumped by {jump_ms / 1000:.1f} s; {own[-1][6] - last[6]} sleeps of 1 s, a busy process has got {share} % of the "
              f"average; ready {(p['ready'] - p['resumed']) / 1000:.0f} ms after the resume", flush=True)
        check(jump_ms < 10000, f"{name}: uptime has jumped by {jump_ms} ms")
        check(share >= 2, f"{name}: a busy process does not run: {last} then {own[-1]}")
        check(own[-1][6] - last[6] >= (own[-1][0] - last[0]) // 2000, f"{name}: a sleeper oversleeps: {last} then {own[-1]}")
        check(own[1][1] >= last[1] + age_s - 1, f"{name}: the time of day was {own[1][1]} after the thaw, in the template {last[1]}")
        check(before_s - 1 - off_s <= inside_s <= after_s + off_s, f"{name}: the time of day is {inside_s}, the host's {before_s} to {after_s}")
        d.call("DELETE", f"/v1/clones/{c['id']}")
    finally:
        time.clock_settime(time.CLOCK_REALTIME, time.time() - age_s)


@test("clock-agent", "full")
def ages_with_agent():
    if not EMULATED:
        raise Skipped("this host's clock is not the lab's, so no template gets old here")
    with Forkd("clock-agent") as d:
        d.template("fresh", {"kernel": KERNEL, "initramfs": INITRD, "cmdline": "console=ttyS0 quiet panic=-1 forkd.test=agent"}, {"agent": True}, cpus=2)
        c, = d.call("POST", "/v1/templates/fresh/clones", {})["clones"]
        shell(c, "setsid guest_clock > /run/clock 2>&1 < /dev/null &")
        wait_for("lines of guest_clock", lambda: len(clone_lines(c)) > 12)
        d.call("POST", f"/v1/clones/{c['id']}/snapshot", {"name": "work"})
        d.call("DELETE", f"/v1/clones/{c['id']}")
        pair = d.call("POST", "/v1/templates/work/clones", {"count": 2})["clones"]
        last = list(max(set(map(tuple, clone_lines(pair[0]))) & set(map(tuple, clone_lines(pair[1])))))    # of the template
        for c in pair:
            d.call("DELETE", f"/v1/clones/{c['id']}")
        for name, age_s in {"0": 0, **AGES}.items():
            with_agent(d, name, age_s, last)
