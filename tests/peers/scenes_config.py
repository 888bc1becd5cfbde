# SPDX-License-Identifier: Apache-2.0
"""Scenes of VmConfig: every default, what is kept and what is refused by vm.create and by vm.boot."""
import os

from differential import scene
from kvmtest import MIB, guest


def deep(config, path, value):
    """A copy of `config` with another value at cpus.boot_vcpus, disks.0.path and the like."""
    copy = list(config) if isinstance(config, list) else dict(config)
    key, _, rest = path.partition(".")
    at = int(key) if isinstance(copy, list) else key
    copy[at] = deep(copy[at], rest, value) if rest else value
    return copy


@scene
def defaults(look):
    """What vm.info shows of the shortest configurations: every default."""
    vmm = look.start()
    for step, config in [
        ("empty", {}),
        ("payload", {"payload": {"kernel": "/x"}}),
        ("cpus and memory", {"cpus": {"boot_vcpus": 2, "max_vcpus": 4}, "memory": {"size": 65536}}),
        ("disk", {"disks": [{"path": "/x"}]}),
        ("disk, empty", {"disks": [{}]}),
        ("no disks", {"disks": []}),
        ("net", {"net": [{}]}),
        ("net with descriptors", {"net": [{"fds": [5, 6]}]}),
        ("no nets", {"net": []}),
        ("rng", {"rng": {"src": "/dev/null"}}),
        ("balloon", {"balloon": {"size": 5}}),
        ("serial", {"serial": {"mode": "Tty"}}),
        ("console", {"console": {"mode": "Off"}}),
        ("debug console", {"debug_console": {"mode": "Off"}}),
        ("vsock", {"vsock": {"cid": 3, "socket": "/x"}}),
        ("null everywhere", {"payload": None, "disks": None, "net": None, "balloon": None, "vsock": None, "fs": None,
                             "pmem": None, "devices": None, "user_devices": None, "vdpa": None, "numa": None,
                             "pci_segments": None, "platform": None, "tpm": None, "rate_limit_groups": None,
                             "landlock_rules": None}),
        ("no platform", {"platform": {}}),
        ("platform", {"platform": {"num_pci_segments": 1, "iommu_segments": None, "iommu_address_width_bits": 64,
                                   "system_uuid": None, "iommufd": False, "vfio_p2p_dma": True, "nothing": 1}}),
        ("unknown keys", {"nothing": {"x": 1}, "cpus": {"boot_vcpus": 1, "max_vcpus": 1, "nothing": []}}),
    ]:
        look.put(f"{step}, create", vmm, "vm.create", config)
        look.get(f"{step}, info", vmm, "vm.info")
        look.put(f"{step}, delete", vmm, "vm.delete")
    vmm.stop()


@scene
def wide(look):
    """Every key that both programs have, with another value than its default."""
    vmm = look.start()
    look.put("create", vmm, "vm.create", {
        "cpus": {"boot_vcpus": 4, "max_vcpus": 8, "max_phys_bits": 40, "nested": False, "core_scheduling": "Off",
                 "topology": {"threads_per_core": 2, "cores_per_die": 2, "dies_per_package": 1, "packages": 2},
                 "affinity": [{"vcpu": 0, "host_cpus": [0, 1]}, {"vcpu": 3, "host_cpus": [1]}], "profile": "Host",
                 "kvm_hyperv": False, "features": {"amx": False}},
        "memory": {"size": 256 * MIB, "mergeable": True, "hotplug_method": "VirtioMem", "prefault": True, "reserve": True,
                   "thp": False, "shared": False, "hugepages": False},
        "payload": {"kernel": "/k", "cmdline": "a b", "initramfs": "/i"},
        "disks": [{"id": "d0", "path": "/d", "readonly": True, "direct": True, "num_queues": 4, "queue_size": 256,
                   "serial": "s", "sparse": False, "image_type": "Raw", "lock_granularity": "Full", "pci_device_id": 9,
                   "disable_io_uring": True, "disable_aio": True, "pci_segment": 0, "iommu": False, "vhost_user": False}],
        "net": [{"id": "n0", "tap": "t", "ip": "10.0.0.1", "mask": "255.255.255.0", "mac": "12:34:56:78:9a:bc",
                 "host_mac": "12:34:56:78:9a:bd", "mtu": 1400, "num_queues": 4, "queue_size": 512, "offload_tso": False,
                 "offload_ufo": False, "offload_csum": False, "vhost_mode": "Server", "pci_device_id": 10}],
        "rng": {"src": "/dev/zero", "pci_device_id": 11},
        "balloon": {"size": 4096, "deflate_on_oom": True, "free_page_reporting": True, "id": "b", "pci_device_id": 12},
        "serial": {"mode": "Tty", "file": "/f"},
        "console": {"mode": "Null", "pci_device_id": 13},
        "debug_console": {"mode": "Off", "iobase": 234},
        "vsock": {"cid": 1234, "socket": "/v", "id": "v", "pci_device_id": 14},
        "pvpanic": False, "iommu": False, "watchdog": False, "landlock_enable": False})
    look.get("info", vmm, "vm.info")
    look.put("twice", vmm, "vm.create", {})
    vmm.stop()


@scene
def refused_by_create(look):
    """Bodies of vm.create that are no VmConfig."""
    vmm = look.start()
    base = look.config(disks=[{"path": "/x"}], net=[{}], vsock={"cid": 3, "socket": "/x"}, balloon={"size": 0})
    base["payload"]["kernel"] = "/x"        # the real program tells the column: not to depend on where this tree is
    for path, value in [
        ("cpus", {}), ("cpus.boot_vcpus", "1"), ("cpus.boot_vcpus", -1), ("cpus.boot_vcpus", 1.5), ("cpus.boot_vcpus", 1 << 32),
        ("cpus.boot_vcpus", None), ("cpus.core_scheduling", "vm"), ("memory", {}), ("memory.size", "64M"),
        ("memory.size", 1 << 64), ("memory.hotplug_method", "acpi"), ("memory.thp", 1), ("payload", []), ("payload.kernel", 1),
        ("disks", {}), ("disks.0", []), ("disks.0.path", 1), ("disks.0.image_type", "raw"), ("disks.0.queue_size", 65536),
        ("net.0.mac", "x"), ("net.0.mac", "12:34:56:78:9a"), ("net.0.ip", "x"), ("net.0.mtu", 65536), ("net.0.fds", [-1]),
        ("net.0.fds", ["x"]), ("net.0.vhost_mode", "client"), ("serial", {}), ("serial.mode", "tty"), ("console.mode", None),
        ("vsock.cid", -1), ("vsock.cid", None), ("vsock.socket", None), ("balloon.size", None),
    ]:
        look.put(f"{path} = {value!r}", vmm, "vm.create", deep(base, path, value))
        look.put(f"{path} = {value!r}, then delete", vmm, "vm.delete")
    for step, body in [
        ("no object", b"[]"), ("a number", b"5"), ("a string", b'"x"'), ("empty text", b" "), ("half", b'{"cpus":'),
        ("two values", b"{}{}"), ("comma", b'{"cpus":{"boot_vcpus":1,"max_vcpus":1,}}'), ("comment", b"/**/{}"),
        ("bad UTF-8", b'{"payload":{"kernel":"\xff"}}'), ("a NUL", b'{"payload":{"kernel":"\\u0000"}}'),
        ("half a surrogate pair", b'{"payload":{"kernel":"\\ud800"}}'), ("key twice", b'{"memory":{"size":1,"size":2}}'),
        ("unknown key twice", b'{"x":1,"x":2}'), ("deep", b"[" * 200 + b"]" * 200), ("not a number", b'{"x":NaN}'),
    ]:
        look.put(step, vmm, "vm.create", body)
        look.put(f"{step}, then delete", vmm, "vm.delete")
    vmm.stop()


@scene
def refused_by_boot(look):
    """Configurations that vm.create or vm.boot refuses: which, how, and what is there then."""
    disk = look.test.disk()
    base = look.config(disks=[{"path": disk, "image_type": "Raw"}], net=[], vsock=None, balloon=None)
    for path, value in [
        ("payload", None), ("payload", {}), ("payload", {"cmdline": "x"}), ("payload.kernel", "/nothing"),
        ("payload.kernel", "/dev/null"), ("payload.kernel", "/bin/true"), ("payload.initramfs", "/nothing"),
        ("payload.cmdline", "x" * 70000),
        ("cpus.max_vcpus", 0), ("cpus.boot_vcpus", 0), ("cpus.boot_vcpus", 2), ("cpus.max_vcpus", 8193),
        ("cpus.topology", {"threads_per_core": 1, "cores_per_die": 1, "dies_per_package": 1, "packages": 2}),
        ("cpus.topology", {"threads_per_core": 0, "cores_per_die": 1, "dies_per_package": 1, "packages": 1}),
        ("cpus.affinity", [{"vcpu": 1, "host_cpus": [0]}]), ("cpus.affinity", [{"vcpu": 0, "host_cpus": [100000]}]),
        ("cpus.max_phys_bits", 20),
        ("memory.size", 0), ("memory.size", 1), ("memory.size", 65537), ("memory.hugepages", True),
        ("disks.0.path", "/nothing"), ("disks.0.path", look.test.dir), ("disks.0.path", None), ("disks", [{}]),
        ("disks.0.num_queues", 0), ("disks.0.num_queues", 2), ("disks.0.queue_size", 0), ("disks.0.queue_size", 3),
        ("disks.0.queue_size", 2), ("disks.0.serial", "x" * 21), ("disks.0.id", "__x"), ("disks.0.id", ""),
        ("disks.0.id", "_disk0"), ("disks.0.id", "a/b"), ("disks.0.pci_device_id", 0), ("disks.0.pci_device_id", 32),
        ("disks.0.pci_segment", 1), ("disks.0.pci_segment", 97), ("disks.0.image_type", "Qcow2"), ("disks.0.direct", True),
        ("disks", [{"path": disk, "id": "x"}, {"path": disk, "id": "x"}]),
        ("disks", [{"path": disk, "id": "x"}, {"path": disk, "id": "y"}]),
        ("disks", [{"path": disk, "pci_device_id": 5}, {"path": look.test.disk(), "pci_device_id": 5}]),
        ("net", [{"num_queues": 0}]), ("net", [{"num_queues": 1}]), ("net", [{"num_queues": 3}]), ("net", [{"num_queues": 4}]),
        ("net", [{"queue_size": 3}]), ("net", [{"queue_size": 0}]), ("net", [{"queue_size": 65535}]), ("net", [{"mtu": 1279}]),
        ("net", [{"ip": "10.0.0.1"}]), ("net", [{"mask": "255.255.255.0"}]), ("net", [{"offload_csum": False}]),
        ("net", [{"offload_csum": False, "offload_ufo": False}]), ("net", [{"fds": [1]}]), ("net", [{"fds": [5, 6]}]),
        ("net", [{"fds": []}]), ("net", [{"fds": [1000]}]), ("net", [{"id": "_net1"}]), ("net", [{"id": "_rng"}]),
        ("net", [{"tap": "name-that-is-too-long"}]), ("net", [{"tap": "a/b"}]), ("net", [{"tap": ""}]), ("net", [{"tap": "lo"}]),
        ("rng", {"src": "/nothing"}), ("rng", {"src": look.test.dir}),
        ("balloon", {"size": 64 * MIB}), ("balloon", {"size": 64 * MIB + 1}),
        ("vsock", {"cid": 0, "socket": "/x"}), ("vsock", {"cid": 2, "socket": "/x"}), ("vsock", {"cid": 0xffffffff, "socket": "/x"}),
        ("vsock", {"cid": 3, "socket": disk}), ("vsock", {"cid": 3, "socket": "/nothing/x"}), ("vsock", {"cid": 3, "socket": ""}),
        ("vsock", {"cid": 3, "socket": "/tmp/" + "x" * 120}),
    ]:
        text = repr(value) if len(repr(value)) < 200 else repr(value)[:20] + "…"
        step = look.name(f"{path} = {text}")
        vmm = look.start()
        seen = {"by": "vm.create", **look.ask(vmm, "PUT", "vm.create", deep(base, path, value))}
        if seen.get("status") == 204:
            seen = {"by": "vm.boot", **look.ask(vmm, "PUT", "vm.boot")}
        look.see(step, {**seen, "then": look.state(vmm)})
        vmm.kill()


@scene
def consoles(look):
    """Serial and console, where vm.create opens them."""
    other = look.start()
    for device in ("serial", "console"):
        for step, value in [
            ("Off", {"mode": "Off"}), ("Null", {"mode": "Null"}), ("Tty", {"mode": "Tty"}),
            ("File", {"mode": "File", "file": look.test.path(f"{device}.out")}), ("File without a path", {"mode": "File"}),
            ("File nowhere", {"mode": "File", "file": "/nothing/x"}),
            ("Socket", {"mode": "Socket", "socket": look.test.path(f"{device}.sock")}), ("Socket without a path", {"mode": "Socket"}),
            ("Socket in use", {"mode": "Socket", "socket": other.socket}), ("Socket nowhere", {"mode": "Socket", "socket": "/nothing/x"}),
        ]:
            vmm = look.start()
            look.put(f"{device} {step}, create", vmm, "vm.create", look.config(**{device: value}))
            for then in ("vm.boot", "vm.delete"):
                look.see(f"{device} {step}, before {then}", look.state(vmm, device))
                look.put(f"{device} {step}, {then}", vmm, then)
            vmm.kill()
    look.see("files", sorted(name for name in os.listdir(look.test.dir) if "vmm" not in name))
    other.stop()


@scene
def device_trees(look):
    """vm.info of machines with all devices: ids, order, slots, bars."""
    disks = [look.test.disk(), look.test.disk()]
    for step, more in [
        ("all", {"disks": [{"path": disks[0], "image_type": "Raw"}, {"path": disks[1], "id": "mine", "image_type": "Raw"}],
                 "net": [{}, {"id": "net1", "mac": "12:34:56:78:9a:bc"}], "balloon": {"size": 0}, "console": {"mode": "Null"},
                 "vsock": {"cid": 3, "socket": look.test.path("vsock")}}),
        ("slots given", {"disks": [{"path": disks[0], "pci_device_id": 9, "image_type": "Raw"}], "rng": {"src": "/dev/urandom", "pci_device_id": 1},
                         "console": {"mode": "Null", "pci_device_id": 31}, "balloon": {"size": 1 << 20, "pci_device_id": 4}}),
        ("vCPUs", {"cpus": {"boot_vcpus": 2, "max_vcpus": 4, "max_phys_bits": 36},
                   "disks": [{"path": disks[0], "num_queues": 2, "image_type": "Raw"}], "net": [{"num_queues": 4}]}),
        ("little memory", {"memory": {"size": 2 << 20}}),
        ("much memory", {"memory": {"size": 4 << 30}}),
        ("image type not given", {"disks": [{"path": disks[0]}]}),
    ]:
        vmm = look.start()
        look.put(f"{step}, create", vmm, "vm.create", {**look.config(), **more})
        look.put(f"{step}, boot", vmm, "vm.boot")
        look.get(f"{step}, info", vmm, "vm.info")
        look.get(f"{step}, counters", vmm, "vm.counters")
        vmm.kill()
