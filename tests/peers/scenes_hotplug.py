# SPDX-License-Identifier: Apache-2.0
"""Scenes of devices that come and go: vm.add-disk, vm.add-net, vm.add-vsock and vm.remove-device, before and after the boot."""
import os

from differential import scene
from kvmtest import Tap


def device_ids(vmm):
    """The ids of what the configuration and the tree have."""
    info = vmm.get("vm.info")
    config = info["config"]
    return {"disks": [d.get("id") for d in config.get("disks") or []], "net": [n.get("id") for n in config.get("net") or []],
            "vsock": (config.get("vsock") or {}).get("id"), "tree": sorted(k for k in info.get("device_tree", {}) if k.startswith("_virtio-pci-"))}


def machine(look, state):
    vmm = look.start("--event-monitor", f"path={look.test.path('events')}")
    vmm.put("vm.create", look.config(disks=[{"path": look.test.disk(), "image_type": "Raw"}], payload={
        "kernel": look.kernel, "cmdline": "rounds=1 dev=none end=halt"}))
    if state != "created":
        vmm.put("vm.boot")
        vmm.wait_output(rb"PASS")
    if state == "paused":
        vmm.put("vm.pause")
    return vmm


@scene
def add_devices(look):
    """Each kind, good and bad, in each state."""
    disk, used = look.test.disk(), look.test.disk()
    for state in ("created", "running", "paused"):
        for step, name, body in [
            ("disk", "vm.add-disk", {"path": disk, "image_type": "Raw"}), ("disk with an id", "vm.add-disk", {"path": disk, "id": "mine", "image_type": "Raw"}),
            ("disk, id in use", "vm.add-disk", {"path": disk, "id": "_disk0"}), ("disk, no such file", "vm.add-disk", {"path": "/nothing"}),
            ("disk, no path", "vm.add-disk", {}), ("disk, bad queue", "vm.add-disk", {"path": disk, "queue_size": 3}),
            ("disk, slot", "vm.add-disk", {"path": disk, "pci_device_id": 20, "image_type": "Raw"}), ("disk, slot in use", "vm.add-disk", {"path": disk, "pci_device_id": 1}),
            ("disk, read-only", "vm.add-disk", {"path": used, "readonly": True, "image_type": "Raw"}),
            ("net", "vm.add-net", {}), ("net with an id", "vm.add-net", {"id": "net9", "mac": "12:34:56:78:9a:bc"}), ("net, bad queues", "vm.add-net", {"num_queues": 4}),
            ("net, bad MTU", "vm.add-net", {"mtu": 100}),
            ("vsock", "vm.add-vsock", {"cid": 3, "socket": look.test.path("vsock")}), ("vsock, bad cid", "vm.add-vsock", {"cid": 2, "socket": look.test.path("vsock")}),
            ("remove", "vm.remove-device", {"id": "_disk0"}), ("remove nothing", "vm.remove-device", {"id": "nothing"}),
            ("remove the rng", "vm.remove-device", {"id": "__rng"}), ("remove the serial", "vm.remove-device", {"id": "__serial"}),
        ]:
            vmm = machine(look, state)
            look.put(f"{state}, {step}", vmm, name, body)
            look.see(f"{state}, {step}, then", device_ids(vmm))
            look.see(f"{state}, {step}, events", look.events(vmm, look.test.path("events")))
            vmm.kill()
            if os.path.exists(look.test.path("vsock")):
                os.unlink(look.test.path("vsock"))


@scene
def add_nets_with_descriptors(look):
    """Descriptors of vm.add-net."""
    tap = Tap(look.test, echo=False)
    for state in ("created", "running"):
        for step, body, fds in [("one", {"num_queues": 2}, tap.fds), ("too many", {"num_queues": 2}, tap.fds * 2), ("for more queues", {"num_queues": 4}, tap.fds)]:
            vmm = machine(look, state)
            look.put(f"{state}, {step}", vmm, "vm.add-net", body, tap.fds if fds is tap.fds else fds)
            look.see(f"{state}, {step}, then", device_ids(vmm))
            vmm.kill()


@scene
def add_two_and_remove(look):
    """Names that come one after the other, the same again, and a removal of what was added."""
    disks = [look.test.disk(), look.test.disk()]
    for state in ("created", "running"):
        vmm = machine(look, state)
        look.put(f"{state}, first", vmm, "vm.add-disk", {"path": disks[0], "image_type": "Raw"})
        look.put(f"{state}, second", vmm, "vm.add-disk", {"path": disks[1], "id": "mine", "image_type": "Raw"})
        look.put(f"{state}, same id", vmm, "vm.add-net", {"id": "mine"})
        look.put(f"{state}, same file", vmm, "vm.add-disk", {"path": disks[1], "image_type": "Raw"})
        look.put(f"{state}, vsock", vmm, "vm.add-vsock", {"cid": 3, "socket": look.test.path("vsock")})
        look.put(f"{state}, second vsock", vmm, "vm.add-vsock", {"cid": 4, "socket": look.test.path("vsock2")})
        look.see(f"{state}, all", device_ids(vmm))
        look.put(f"{state}, remove", vmm, "vm.remove-device", {"id": "mine"})
        look.put(f"{state}, remove again", vmm, "vm.remove-device", {"id": "mine"})
        look.see(f"{state}, in the end", device_ids(vmm))
        vmm.kill()
        for name in ("vsock", "vsock2"):
            if os.path.exists(look.test.path(name)):
                os.unlink(look.test.path(name))


@scene
def remote_hotplug(look):
    """The same by ch-remote."""
    disk = look.test.disk()
    vmm = machine(look, "running")
    look.remote("add-disk", vmm, "add-disk", f"path={disk},id=mine,image_type=raw")
    look.remote("add-net", vmm, "add-net", "id=net9,mac=12:34:56:78:9a:bc")
    look.remote("add-vsock", vmm, "add-vsock", f"cid=3,socket={look.test.path('vsock')}")
    look.remote("remove-device", vmm, "remove-device", "mine")
    look.remote("remove-device, unknown", vmm, "remove-device", "nothing")
    look.remote("add-fs", vmm, "add-fs", "tag=x,socket=/nothing")
    look.remote("add-device", vmm, "add-device", "path=/nothing")
    look.see("then", device_ids(vmm))
    vmm.kill()
