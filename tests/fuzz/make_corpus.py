#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Takes the snapshots that fuzzing starts from: ours and, with FORKD_PEERS, Cloud Hypervisor's, of guests on /dev/kvm.

    tests/fuzz/make_corpus.py DIR      writes DIR/corpus-config/*.json and DIR/corpus-state/*.json

Host paths are replaced, all else is as it was written. The states in state.json stand as JSON instead of strings (fuzz_state.c).
"""
import json
import os
import sys
import unittest

TESTS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TESTS, "kvm"))
import kvmtest                                                  # noqa: E402
from kvmtest import VMM, KvmTest, Tap, peer                     # noqa: E402

OUT = ""
NEUTRAL = {"path": "/srv/vm/disk.img", "disk_path": "/srv/vm/disk.img", "kernel": "/srv/vm/kernel", "socket": "/srv/vm/vsock",
           "file": "/srv/vm/console.log"}

ARGUMENTS = [
    ["--kernel", "/srv/vm/kernel", "--initramfs", "/srv/vm/initrd", "--cmdline", "console=hvc0 root=/dev/vda1", "--cpus",
     "boot=2,max=4,topology=1:2:2:1,affinity=[0@[0,2-3],1@[1]],max_phys_bits=46,nested=off,core_scheduling=vm",
     "--memory", "size=2G,mergeable=on,prefault=off,reserve=off,thp=on", "--disk",
     "path=/srv/vm/disk.img,readonly=on,direct=on,num_queues=2,queue_size=256,id=root,serial=abc,pci_device_id=5,sparse=off,"
     "image_type=raw,lock_granularity=byte-range", "path=\"/srv/vm/a,b.img\"", "--net",
     "tap=tap0,mac=12:34:56:78:90:ab,host_mac=12:34:56:78:90:ac,ip=192.0.2.1,mask=255.255.255.0,mtu=1500,num_queues=4,"
     "queue_size=512,id=net1,offload_tso=off", "fd=[3,4],num_queues=4", "--rng", "src=/dev/urandom", "--balloon",
     "size=128M,deflate_on_oom=on,free_page_reporting=on,id=b", "--vsock", "cid=3,socket=/srv/vm/vsock", "--serial",
     "file=/srv/vm/serial.log", "--console", "off", "--debug-console", "off", "--seccomp", "log", "-vv"],
    ["--restore", "source_url=file:///srv/snapshot,resume=on,memory_restore_mode=copyonwrite,net_fds=[net1@[3,4],net2@[5]]",
     "--api-socket", "path=/srv/vm/api.sock", "--event-monitor", "fd=3", "--log-file", "/srv/vm/log"],
    ["--api-socket=fd=3", "--control", "fd=4", "--control-id", "c-1", "--template-host", "fd=5", "--version"],
    ["--kernel=/srv/vm/kernel", "--cpus", "boot=1,features=amx"],
    ["--kernel=/srv/vm/kernel", "--serial", "socket=/srv/vm/serial.sock", "--console", "tty", "-Vv", "-h"],
]
EVERY_FIELD = {
    "cpus": {"boot_vcpus": 2, "max_vcpus": 4, "topology": {"threads_per_core": 1, "cores_per_die": 2, "dies_per_package": 2, "packages": 1},
             "kvm_hyperv": False, "max_phys_bits": 46, "affinity": [{"vcpu": 0, "host_cpus": [0, 1]}], "features": {"amx": False},
             "nested": False, "core_scheduling": "Off", "profile": "Host"},
    "memory": {"size": 2 << 30, "mergeable": True, "hotplug_method": "VirtioMem", "hotplug_size": None, "hotplugged_size": None,
               "shared": False, "hugepages": False, "hugepage_size": None, "prefault": True, "reserve": True, "zones": None, "thp": False},
    "payload": {"firmware": None, "kernel": "/srv/vm/kernel", "cmdline": "quiet", "initramfs": "/srv/vm/initrd"},
    "disks": [{"id": "root", "pci_segment": 0, "pci_device_id": 5, "path": "/srv/vm/disk.img", "readonly": True, "direct": True,
               "num_queues": 2, "queue_size": 256, "vhost_user": False, "rate_limiter_config": None, "serial": "abc",
               "queue_affinity": [], "backing_files": False, "sparse": False, "image_type": "Raw", "lock_granularity": "Full"}],
    "net": [{"id": "net1", "tap": "tap0", "ip": "192.0.2.1", "mask": "255.255.255.0", "mac": "12:34:56:78:90:ab",
             "host_mac": "12:34:56:78:90:ac", "mtu": 1500, "num_queues": 4, "queue_size": 512, "vhost_mode": "Client",
             "fds": [5, 6], "pci_device_id": 6, "offload_tso": False, "offload_ufo": False, "offload_csum": False}],
    "rng": {"id": "r", "src": "/dev/random", "pci_device_id": 7},
    "balloon": {"id": "b", "size": 1 << 20, "deflate_on_oom": True, "free_page_reporting": True, "pci_device_id": 8},
    "serial": {"mode": "Socket", "socket": "/srv/vm/serial.sock"}, "console": {"mode": "File", "file": "/srv/vm/log", "id": "c",
                                                                               "pci_device_id": 9},
    "debug_console": {"mode": "Off", "iobase": 233}, "vsock": {"id": "v", "cid": 3, "socket": "/srv/vm/v.sock", "pci_device_id": 10},
    "fs": None, "pmem": [], "devices": None, "numa": None, "pvpanic": False, "iommu": False, "watchdog": False, "landlock_enable": False,
}
RESTORE = {"source_url": "file:///srv/snapshot", "prefault": False, "memory_restore_mode": "OnDemand", "resume": True,
           "net_fds": [{"id": "net1", "num_fds": 2}], "zone_updates": None, "vfio_fds": None, "iommufd_fd": None}
NEEDS = {"cpu": ["fpu", "la57", "phys_bits=46"], "tsc_khz": 2500104, "xsave_bytes": 4096, "msrs": ["0x10"], "kvm": ["split_irqchip"]}
TEMPLATE = {"ram_bytes": 67108864, "vcpus": 2, "nets": [{"id": "net1", "tap": "tap0", "num_fds": 2, "mac": "12:34:56:78:90:ab"},
                                                        {"id": "_net2", "num_fds": 1}],
            "disks": [{"id": "root", "path": "/srv/vm/disk.img", "readonly": True}, {"id": "_disk0", "path": "/srv/vm/b.img"}],
            "has_serial": True, "has_console": True, "has_vsock": True, "host_cpu": "GenuineIntel family 6 model 85", "needs": NEEDS}
OVERRIDES = {"disks": [{"id": "_disk0", "path": "/srv/vm/c.img"}], "net": [{"id": "net1", "tap": "tap1"}],
             "serial": {"mode": "File", "file": "/srv/vm/serial.log"}, "console": {"mode": "Null"}, "rng": {"src": "/dev/random"},
             "vsock": {"socket": "/srv/vm/v.sock"}}
CONFIG = {"cpus": {"boot_vcpus": 2, "max_vcpus": 2}, "memory": {"size": 67108864}, "payload": {"kernel": "/srv/vm/kernel",
          "initramfs": "/srv/vm/kernel", "cmdline": "console=ttyS0"}, "disks": [{"id": "_disk0", "path": "/srv/vm/disk.img"}],
          "net": [{"id": "net1", "num_queues": 4}], "rng": {"src": "/dev/urandom"}, "serial": {"mode": "Null"},
          "console": {"mode": "Off"}, "vsock": {"cid": 3, "socket": "/srv/vm/v.sock"}}
FILES = [{"name": name, "bytes": size, "allocated_bytes": size, "inode": 7, "mtime_ns": 1, "ctime_ns": 2,
          "sha256": ["0123456789abcdef" * 4] * ((size + (2 << 20) - 1) // (2 << 20))}
         for name, size in (("config.json", 900), ("memory-ranges", 6 << 20), ("state.json", 30000))]
FORKD = {
    "clones": {"template": TEMPLATE, "fds": 0, "body": {"count": 1, "overrides": OVERRIDES, "ttl_s": 60, "paused": True,
                                                        "wait": "resumed", "memory_restore_mode": "ondemand",
                                                        "labels": {"job": "a", "n": "1"}}},
    "clones-list": {"template": TEMPLATE, "fds": 4, "body": {"clones": [
        {"overrides": {"disks": [{"id": "_disk0", "path": "/srv/vm/c.img"}]}, "net_fds": [{"id": "net1", "num_fds": 2}]},
        {"overrides": {"disks": [{"id": "_disk0", "path": "/srv/vm/d.img"}]}, "net_fds": [{"id": "net1", "num_fds": 2}]}]}},
    "exec": {"wish": {"cmd": "cat", "args": ["-"], "env": {"A": "b"}, "cwd": "/", "user": "u", "stdin": "in", "timeout_s": 1, "max_output_bytes": 9},
             "says": [{"event": {"start": {"pid": 7}}}, {"event": {"data": {"stdout": "aGVsbG8gaGVsbG8="}}}, {"event": {"data": {"stderr": "IQ=="}}},
                      {"event": {"keepalive": {}}}, {"event": {"end": {"exitCode": 3, "exited": True, "status": "exit status 3"}}}, {}]},
    "exec-error": {"wish": {"shell": "exit", "stdin_b64": "AAE="},
                   "says": [{"error": {"code": "invalid_argument", "message": "start 'x': No such file or directory"}}]},
    "exec-late": {"wish": {"cmd": "sleep", "args": ["9"]},
                  "says": [{"event": {"start": {"pid": 7}}}, {"error": {"code": "deadline_exceeded", "message": "late"}}]},
    "manifest": {"format": 1, "name": "t", "created_at": "2026-01-01T00:00:00.000Z", "program_version": "0.1", "source": "file:///srv",
                 "parent": None, "owner_uid": 0, "ram_bytes": 6 << 20, "vcpus": 1, "host_cpu": None, "needs": NEEDS, "files": FILES},
    "record": {"id": "c-abcdefghijkl", "template": "t", "pid": 12, "uid": 0, "gid": 0, "memory_restore_mode": "copyonwrite",
               "net": [{"id": "net1", "tap": "tap0"}], "serial": "/srv/vm/serial.log", "serial_socket": None, "console": None,
               "vsock_socket": "/srv/vm/v.sock", "labels": [{"key": "job", "value": "a"}], "ttl_s": 5, "expires_ns": 1,
               "created_at": "2026-01-01T00:00:00.000Z", "begun_ns": 1, "accepted_ns": 2},
    "reply": {"ok": True, "pid": 12, "id": "c-a", "state": "Paused", "restored_ns": 1, "resumed_ns": 2, "reason": "guest power-off",
              "code": 0, "disk_ops": 3, **TEMPLATE},
    "reply-error": {"error": {"code": 2, "num": 28, "message": "Error from device manager\nno space"}},
    "request-restore": {"config": CONFIG, "packet": {"op": "restore", "resume": True, "open_socket": "/srv/vm/o.sock", "overrides": OVERRIDES,
                                                      "vsock_socket": "/srv/vm/v.sock", "fds": [
            {"kind": "api"}, {"kind": "disk", "id": "_disk0"}, {"kind": "disk_lock", "id": "#0"}, {"kind": "net", "id": "net1"},
            {"kind": "net", "id": "#0"}, {"kind": "serial_log"}, {"kind": "serial_socket"}, {"kind": "console_log"},
            {"kind": "console_socket"}, {"kind": "vsock"}]}},
    "request-boot": {"packet": {"op": "boot", "config": CONFIG, "fds": [
        {"kind": "kernel"}, {"kind": "initramfs"}, {"kind": "disk", "id": "_disk0"}, {"kind": "disk_lock", "id": "_disk0"},
        {"kind": "net", "id": "net1"}, {"kind": "net", "id": "net1"}, {"kind": "vsock"}]}},
    "vm": CONFIG,
}


def neutral(value, key=None):
    if isinstance(value, dict):
        return {k: neutral(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [neutral(v, key) for v in value]
    return NEUTRAL[key] if key in NEUTRAL and isinstance(value, str) else value


def unfold(node):
    data = node.get("snapshot_data")
    if data:
        data = {"state": neutral(json.loads(data["state"]))}
    return {"snapshots": {k: unfold(v) for k, v in node["snapshots"].items()}, "snapshot_data": data}


def shorten(value):
    """The same with short lists of CPUID leaves and MSRs: most of a snapshot, each entry like the others."""
    if isinstance(value, list):
        return [e for i, e in enumerate(value) if i < 2 or isinstance(e, dict) and e.get("function") == 0x40000000]
    return {k: shorten(v) if isinstance(v, dict) or k in ("cpuid", "common_cpuid", "msrs") else v for k, v in value.items()}


def state_of(state, *path):
    for key in path:
        state = state["snapshots"][key]
    return state["snapshot_data"]["state"]


def rarely_seen(state):
    """What these guests do not do: level-triggered interrupts, open streams, input that waits."""
    devices = state["snapshots"]["device-manager"]
    state_of(devices, "__ioapic")["reg_entries"][4:6] = [0x0100000000008024, 0x8025 | 0x4000]
    state_of(devices, next(key for key in devices["snapshots"] if key.startswith("_vsock")))["connections"] = [[1024, 5000], [1, 2]]
    state_of(devices, "__serial")["in_buffer"] = [97, 98, 10]
    state_of(devices, "__console")["in_buffer"] = [97, 98, 10]
    state_of(state, "cpu-manager", "0")["Kvm"]["msrs"] += [{"index": 0x6e0, "data": 5}, {"index": 0x10, "data": 7}]


def put(kind, name, value):
    directory = os.path.join(OUT, "corpus-" + kind)
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name + ".json"), "w") as f:
        f.write(json.dumps(value, separators=(",", ":")))


class Corpus(KvmTest):
    def take(self, name, program, kernel, cmdline, rounds, **options):
        vmm = self.boot(kernel, cmdline, program=program, **options)
        if rounds:
            vmm.wait_rounds(rounds)
        else:
            vmm.wait_bytes(2)
        directory = vmm.snapshot()
        vmm.stop()
        with open(os.path.join(directory, "config.json")) as f:
            config = neutral(json.load(f))
        with open(os.path.join(directory, "state.json")) as f:
            state = unfold(json.load(f))
        put("config", name, config)
        if name.endswith("-all"):
            rarely_seen(state)
        put("state", name, {"config": config, "state": state if name.endswith("-all") else shorten(state)})

    def of(self, who, program):
        ticker = "tick=2000000 warm=1"
        # only what is always there
        self.take(f"{who}-plain", program, "ticker", ticker, 0)
        # every device, idle: no driver ever looked at it
        self.take(f"{who}-idle", program, "ticker", ticker, 0, memory="512M", cpus=2, extra=[
            "--disk", self.disk_option("num_queues=2", "id=root"), "--vsock", f"cid=5,socket={self.path('idle.vsock')}",
            "--balloon", "size=1M", "--console", "off"])
        # every device in use
        tap = Tap(self, persistent=True)
        self.take(f"{who}-all", program, "devices", "rounds=0 mem=2 batches=2", 2, extra=[
            "--disk", self.disk_option(), "--net", f"tap={tap.name},mac=12:34:56:78:90:ab", "--vsock",
            f"cid=3,socket={self.path('all.vsock')}", "--console", "null", "--balloon",
            "size=0,free_page_reporting=on,deflate_on_oom=on"])
        tap.close()
        # several queues, interrupts, RAM on both sides of the hole
        taps = [Tap(self, queues=2, persistent=True), Tap(self, persistent=True)]
        self.take(f"{who}-queues", program, "devices", "rounds=0 cpus=4 mode=irq event=1 indirect=1 mem=2 batches=2 dev=blk,net,rng",
                  2, memory="5G", cpus=4, extra=[
                      "--disk", self.disk_option("num_queues=4", "queue_size=256", "id=root"),
                      self.disk_option("queue_size=64", "pci_device_id=9"), "--net",
                      f"tap={taps[0].name},num_queues=4,queue_size=512,id=net1", f"tap={taps[1].name}", "--console", "null"])
        for tap in taps:
            tap.close()

    def test_ours(self):
        self.of("forkd", VMM)

    def test_theirs(self):
        self.of("peer", peer("cloud-hypervisor"))

    def test_written(self):
        for i, arguments in enumerate(ARGUMENTS):
            put("config", f"arguments-{i}", arguments)
        put("config", "every-field", EVERY_FIELD)
        put("config", "restore", RESTORE)
        for name, value in FORKD.items():
            put("forkd", name, {name.split("-")[0]: value})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    OUT = os.path.abspath(sys.argv.pop())
    kvmtest.isolate()
    unittest.main()
