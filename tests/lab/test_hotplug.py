# SPDX-License-Identifier: Apache-2.0
"""Devices that come to a running Linux guest and go: a disk and a net, by ACPI's PCI hot-plug."""
import json
import os

from lab import BUSYBOX, RESTORE_VMM, Vm, check, run, test

GATEWAY, GUEST = "192.168.78.1", "192.168.78.2"


def image(vm, name):
    path = os.path.join(vm.dir, name)
    run("mke2fs", "-q", "-F", "-t", "ext4", path, "16M")
    return path


def partitions(vm):
    return vm.ask("cat /proc/partitions").split()


def transports(vm):
    return sorted(name for name in vm.api("GET", "vm.info")["device_tree"] if name.startswith("_virtio-pci-"))


def add_disk(vm, name, path):
    info = vm.api("PUT", "vm.add-disk", {"id": name, "path": path, "image_type": "Raw"})
    check(info["id"] == name, f"vm.add-disk answers {info}")
    vm.wait(f"/dev/vdb for '{name}'", lambda: "vdb" in partitions(vm))
    check(f"{info['bdf']}" in vm.ask("readlink /sys/block/vdb"), f"/dev/vdb is not at {info['bdf']}")
    vm.ask(f"mkdir -p /tmp/more && mount -t ext4 /dev/vdb /tmp/more && echo {name} > /tmp/more/mark && sync")
    return info["bdf"]


def remove_disk(vm, name, path):
    vm.ask("umount /tmp/more")
    vm.api("PUT", "vm.remove-device", {"id": name})
    vm.wait("the end of /dev/vdb", lambda: "vdb" not in partitions(vm))
    vm.wait(f"the end of '{name}'", lambda: f"_virtio-pci-{name}" not in transports(vm))
    run("e2fsck", "-fn", path)                  # what the guest wrote is there, whole
    with open(path, "rb") as f:
        check(f"{name}\n".encode() in f.read(), f"what was written to '{name}' is not in {path}")


def add_net(vm):
    info = vm.api("PUT", "vm.add-net", {"id": "net2", "tap": "tap1"})
    with vm.net.inside():
        run(BUSYBOX, "ip", "addr", "add", GATEWAY + "/24", "dev", "tap1")
        run(BUSYBOX, "ip", "link", "set", "tap1", "up")
    vm.wait("eth1", lambda: "eth1" in vm.ask("ls /sys/class/net"))
    vm.ask(f"ip addr add {GUEST}/24 dev eth1 && ip link set eth1 up")
    with vm.net.inside():
        run(BUSYBOX, "ping", "-A", "-c", "3", "-W", "20", GUEST)
    return info["bdf"]


@test("hotplug", "full")
def hotplug():
    with Vm("hotplug") as vm:
        vm.boot(cpus=2)
        vm.wait_ready()
        before = transports(vm)
        first = image(vm, "first")
        place = add_disk(vm, "first", first)
        net = add_net(vm)
        check(net != place, f"two devices at {place}")
        remove_disk(vm, "first", first)
        second = image(vm, "second")
        check(add_disk(vm, "second", second) == place, "the slot of the first disk is not used again")
        vm.api("PUT", "vm.remove-device", {"id": "net2"})
        vm.wait("the end of eth1", lambda: "eth1" not in vm.ask("ls /sys/class/net"))
        remove_disk(vm, "second", second)
        vm.wait("the end of all that came", lambda: transports(vm) == before)
        vm.check_devices(2)                     # those that it booted with
        vm.ping()
        vm.power_off()


@test("hotplug-snapshot", "full")
def hotplug_snapshot():
    """What was plugged in goes on in another process, mounted as it was, and can be pulled out there."""
    with Vm("hotplug-source") as vm:
        vm.boot(cpus=1)
        vm.wait_ready()
        path = image(vm, "more")
        add_disk(vm, "more", path)
        directory = os.path.join(vm.dir, "snapshot")
        os.mkdir(directory)
        vm.api("PUT", "vm.pause")
        vm.api("PUT", "vm.snapshot", {"destination_url": "file://" + directory})
        vm.kill()
        os.unlink(vm.api_path)
        os.unlink(vm.vsock)
        with open(os.path.join(directory, "config.json")) as f:
            check([d["id"] for d in json.load(f)["disks"]] == ["disk0", "more"], "config.json has other disks")
        vm.start(RESTORE_VMM, "--restore", f"source_url=file://{directory},resume=true", inside=True)
        check(vm.ask("cat /tmp/more/mark") == "more", "the plugged-in disk lost what was written")
        vm.ask("echo again > /tmp/more/again && sync")
        remove_disk(vm, "more", path)
        vm.power_off()
