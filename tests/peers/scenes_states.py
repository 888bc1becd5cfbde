# SPDX-License-Identifier: Apache-2.0
"""Scenes of the state machine: every action in every state, what the guest ends by itself, resizing, and the events of it all."""
import os

from differential import by_key, event_list, scene
from kvmtest import MIB, read, wait_for

ACTIONS = [
    ("vm.boot", None), ("vm.pause", None), ("vm.resume", None), ("vm.shutdown", None), ("vm.delete", None), ("vm.reboot", None),
    ("vm.power-button", None), ("vm.nmi", None), ("vm.create", {}), ("vm.resize", {}), ("vm.resize", {"desired_vcpus": 1}),
    ("vm.resize", {"desired_ram": 64 * MIB}), ("vm.resize", {"desired_balloon": MIB}), ("vm.snapshot", {"destination_url": "file:///nothing"}),
    ("vm.restore", {"source_url": "file:///nothing"}), ("vm.resize-disk", {"id": "_disk0", "desired_size": 4 * MIB}),
    ("vm.resize-disk", {"id": "nothing", "desired_size": 4 * MIB}), ("vmm.shutdown", None),
]
STATES = {
    "empty": [], "created": ["create"], "running": ["create", "boot"], "paused": ["create", "boot", "pause"],
    "resumed": ["create", "boot", "pause", "resume"], "ended": ["create", "boot", "shutdown"], "deleted": ["create", "boot", "delete"],
    "ended in pause": ["create", "boot", "pause", "shutdown"],
}


def every_action(look, state):
    for name, body in ACTIONS:
        vmm = look.start("--event-monitor", f"path={look.test.path('events')}")
        disk = look.test.disk()
        for step in STATES[state]:
            vmm.put(f"vm.{step}", look.config(disks=[{"path": disk, "image_type": "Raw"}], balloon={"size": 0}, payload={
                "kernel": look.kernel, "cmdline": "rounds=1 dev=none end=halt"}) if step == "create" else None)
            if step == "boot":
                vmm.wait_output(rb"PASS")
        action = f"{name} {body}" if body is not None else name
        look.put(action, vmm, name, body)
        if name == "vmm.shutdown":
            look.see(f"{action}, exit", vmm.wait_exit())
        else:
            look.see(f"{action}, then", look.state(vmm))
            deletes = STATES[state].count("delete") + (name == "vm.delete" and state not in ("empty", "deleted"))
            look.see(f"{action}, events", look.events(vmm, look.test.path("events"), deletes))
            vmm.stop()


for name in STATES:
    def one(look, state=name):
        every_action(look, state)
    one.__name__ = "actions_" + name.replace(" ", "_")
    scene(one)


@scene
def events(look):
    """A long life, event by event, and how an event is written."""
    path = look.test.path("events")
    vmm = look.start("--event-monitor", f"path={path}")
    look.see("mode", f"{os.stat(path).st_mode:o}")
    text = wait_for("the first event", lambda: read(path).decode() or None)
    secs, nanos = (text.split(key)[1].split("\n")[0].strip(" ,") for key in ('"secs":', '"nanos":'))
    look.see("the text of one", text.replace(f'"secs": {secs},', '"secs": S,').replace(f'"nanos": {nanos}', '"nanos": N'))
    snapshot = look.test.new_dir("snapshot")
    for name, body in [
        ("vm.create", look.config()), ("vm.boot", None), ("vm.pause", None), ("vm.snapshot", {"destination_url": f"file://{snapshot}"}),
        ("vm.resume", None), ("vm.reboot", None), ("vm.shutdown", None), ("vm.boot", None), ("vm.delete", None),
        ("vm.restore", {"source_url": f"file://{snapshot}"}), ("vm.resume", None), ("vm.delete", None),
        ("vm.restore", {"source_url": f"file://{snapshot}", "resume": True}),
    ]:
        n = vmm.output.count(b"PASS")
        vmm.put(name, body)
        if name in ("vm.boot", "vm.reboot"):
            wait_for("a boot", lambda n=n: vmm.output.count(b"PASS") > n, context=vmm.context)
    look.see("all", look.events(vmm, path, 2))
    vmm.stop()


@scene
def device_events(look):
    """What the monitor says when a guest takes its devices."""
    path = look.test.path("events")
    vmm = look.boot("rounds=2 end=halt", ["--disk", f"path={look.test.disk()},image_type=raw,id=one", "--balloon", "size=0", "--console", "null",
                                          "--event-monitor", f"path={path}"], memory="64M")
    seen = look.events(vmm, path)
    vmm.stop()
    look.see("by source", {source: [e[1:] for e in seen if e[0] == source] for source in ("vmm", "vm", "virtio-device")})


@scene
def guest_ends(look):
    """Power-off and resets of the guest."""
    path = look.test.path("events")
    for end in ("poweroff", "reset", "acpi-reset"):
        vmm = look.start("--event-monitor", f"path={path}", "--kernel", look.kernel, "--cmdline", f"rounds=1 end={end}",
                         "--memory", "size=64M", "--serial", "tty", "--console", "off")
        if end == "poweroff":
            look.see(f"{end}, exit", vmm.wait_exit())
            look.see(f"{end}, socket left", os.path.exists(vmm.socket))
            vmm.release()
            continue
        wait_for("three boots", lambda: vmm.output.count(b"PASS") >= 3, context=vmm.context)
        look.see(f"{end}, state", look.state(vmm))
        vmm.stop()
        look.see(f"{end}, first events", event_list(read(path).decode())[:7])


def kind(key, value):
    """What a counter shows, whatever the host's speed: a fast one serves a request in 0 us."""
    if "_latency_" in key and value < 1 << 50:      # above: nothing was measured yet
        return "a time"
    return "more than 0" if key.startswith(("read", "write")) and 0 < value < 1 << 50 else value


@scene
def counters(look):
    """Names and kinds of counters, of an idle machine and of one that worked."""
    for step, cmdline in (("idle", "rounds=0 dev=none end=halt"), ("worked", "rounds=2 end=halt dev=blk")):
        vmm = look.test.boot("devices", cmdline, program=look.program, extra=[
            "--disk", f"path={look.test.disk()},image_type=raw", "--net", "num_queues=2"])
        vmm.wait_output(rb"PASS" if step == "worked" else rb"cpus")
        seen = vmm.get("vm.counters")
        look.see(step, {dev: {k: kind(k, v) for k, v in c.items()} for dev, c in by_key(seen).items()})
        vmm.stop()


@scene
def resize(look):
    """vm.resize and vm.resize-disk, and what vm.info shows then."""
    for state in ("created", "running", "paused"):
        disk = look.test.disk()
        vmm = look.start()
        vmm.put("vm.create", look.config(disks=[{"path": disk, "image_type": "Raw"}], balloon={"size": 0},
                                         cpus={"boot_vcpus": 2, "max_vcpus": 4, "max_phys_bits": 40}))
        if state != "created":
            vmm.put("vm.boot")
            vmm.wait_output(rb"PASS")
        if state == "paused":
            vmm.put("vm.pause")
        for body in [
            {"desired_vcpus": 2}, {"desired_vcpus": 5}, {"desired_vcpus": 0}, {"desired_vcpus": -1}, {"desired_vcpus": "2"},
            {"desired_ram": 64 * MIB}, {"desired_ram": 65 * MIB}, {"desired_ram": 192 * MIB}, {"desired_ram": 0},
            {"desired_balloon": 8 * MIB}, {"desired_balloon": 4097}, {"desired_balloon": 64 * MIB}, {"desired_balloon": 1 << 40},
            {"desired_balloon": None, "desired_vcpus": None, "desired_ram": None}, {"nothing": 1},
        ]:
            look.put(f"{state}, {body}", vmm, "vm.resize", body)
            info = vmm.get("vm.info")
            look.see(f"{state}, {body}, then", {"cpus": info["config"]["cpus"]["boot_vcpus"], "memory": info["config"]["memory"],
                                                "balloon": info["config"]["balloon"]["size"]})
        for body in [
            {"id": "_disk0", "desired_size": 16 * MIB}, {"id": "_disk0", "desired_size": 4 * MIB}, {"id": "_disk0", "desired_size": 1000},
            {"id": "_disk0", "desired_size": 0}, {"id": "nothing", "desired_size": 0}, {"id": "_disk0"}, {"id": "_disk0", "desired_size": -1},
        ]:
            look.put(f"{state}, disk {body}", vmm, "vm.resize-disk", body)
            look.see(f"{state}, disk {body}, then", os.stat(disk).st_size)
        vmm.stop()
    vmm = look.start()
    vmm.put("vm.create", look.config())
    look.put("no balloon, created", vmm, "vm.resize", {"desired_balloon": MIB})
    vmm.put("vm.boot")
    look.put("no balloon, running", vmm, "vm.resize", {"desired_balloon": MIB})
    vmm.stop()
