# SPDX-License-Identifier: Apache-2.0
"""Scenes of snapshots: where they can be written, what is in them, and every way to restore one or to fail at it."""
import json
import os

from differential import scene
from kvmtest import MIB, Tap, tmpfs, write


def url(path):
    return f"file://{path}"


def snapshot_of(look, more=None, **options):
    """A snapshot of a machine whose guest has halted."""
    vmm = look.start(**options)
    vmm.put("vm.create", {**look.config(), "payload": {"kernel": look.kernel, "cmdline": "rounds=1 dev=none end=halt"}, **(more or {})})
    vmm.put("vm.boot")
    vmm.wait_output(rb"PASS")
    directory = vmm.snapshot()
    vmm.stop()
    return directory


@scene
def snapshot(look):
    """vm.snapshot: destinations good and bad, and the machine afterwards."""
    vmm = look.boot(memory="64M")
    good, full, readonly = look.test.new_dir("snap"), look.test.new_dir("snap"), look.test.path("file")
    write(readonly, "x")
    write(os.path.join(full, "config.json"), "x")
    look.put("running", vmm, "vm.snapshot", {"destination_url": url(good)})
    vmm.put("vm.pause")
    for step, destination in [
        ("no such folder", url(look.test.path("nothing"))), ("a file", url(readonly)), ("no file URL", "http://x/"), ("no URL", good),
        ("nothing", ""), ("empty path", "file://"), ("has one already", url(full)), ("good", url(good)), ("again", url(good)),
        ("relative", "file://snap1"), ("percent", url(good.replace("snap", "s%6eap"))),
    ]:
        look.put(step, vmm, "vm.snapshot", {"destination_url": destination})
        look.see(f"{step}, state", look.state(vmm))
    look.files("good, files", good)
    look.see("one that was there", sorted(os.listdir(full)))
    look.put("extra keys", vmm, "vm.snapshot", {"destination_url": url(look.test.new_dir("snap")), "more": 1})
    look.put("no string", vmm, "vm.snapshot", {"destination_url": 5})
    look.put("resume", vmm, "vm.resume")
    vmm.stop()


@scene
def snapshot_contents(look):
    """config.json and state.json: of an idle machine, and with every device, not used and used by the guest."""
    disks = [look.test.disk(), look.test.disk(), look.test.disk()]
    for step, config in [
        ("plain", {"payload": {"kernel": look.kernel, "cmdline": "rounds=1 dev=none end=halt"}}),
        ("idle devices", {
            "payload": {"kernel": look.kernel, "cmdline": "rounds=1 dev=none end=halt"},
            "cpus": {"boot_vcpus": 2, "max_vcpus": 2, "max_phys_bits": 40},
            "disks": [{"path": disks[0], "image_type": "Raw"}, {"path": disks[1], "readonly": True, "num_queues": 2, "id": "ro", "image_type": "Raw"},
                      {"path": disks[2], "sparse": False, "serial": "abc", "image_type": "Raw"}],
            "net": [{"mac": "12:34:56:78:9a:bc"}, {"id": "net1", "mac": "12:34:56:78:9a:bd", "num_queues": 4, "mtu": 1400, "offload_tso": False}],
            "balloon": {"size": 0, "deflate_on_oom": True, "free_page_reporting": True}, "console": {"mode": "Null"},
            "vsock": {"cid": 3, "socket": look.test.path("vsock")}}),
        ("used devices", {
            "payload": {"kernel": look.kernel, "cmdline": "rounds=1 end=halt"}, "disks": [{"path": disks[0], "image_type": "Raw"}],
            "balloon": {"size": 0}, "console": {"mode": "Null"}}),
        ("high memory", {"memory": {"size": (3 << 30) + 64 * MIB, "thp": False}}),
    ]:
        vmm = look.start()
        vmm.put("vm.create", look.config(**config))
        vmm.put("vm.boot")
        vmm.wait_output(rb"PASS")
        with tmpfs(look.test.new_dir("snap"), "4G") as directory:                # the real program writes all of RAM
            vmm.snapshot(directory)
            vmm.kill()
            look.snapshot_files(step, directory)
        for left in [name for name in os.listdir(look.test.dir) if name == "vsock"]:
            os.unlink(look.test.path(left))


@scene
def restore(look):
    """vm.restore: every key, every way to fail; afterwards the VMM is empty, or the machine is there."""
    disk = look.test.disk()
    good = snapshot_of(look, {"disks": [{"path": disk, "image_type": "Raw"}]})

    def changed(name, edit):
        """A copy of the snapshot with one file changed: None takes it away."""
        path = look.test.new_dir(name)
        for file in os.listdir(good):
            os.link(os.path.join(good, file), os.path.join(path, file))
        edit(path)
        return url(path)

    def file(path, name, data=None):
        os.unlink(os.path.join(path, name))
        if data is not None:
            write(os.path.join(path, name), data)

    def config(edit):
        def change(path):
            with open(os.path.join(path, "config.json")) as f:
                value = json.load(f)
            edit(value)
            file(path, "config.json", json.dumps(value))
        return change

    for step, body in [
        ("plain", {"source_url": url(good)}),
        ("resume", {"source_url": url(good), "resume": True}),
        ("Copy", {"source_url": url(good), "memory_restore_mode": "Copy", "prefault": True}),
        ("OnDemand", {"source_url": url(good), "memory_restore_mode": "OnDemand"}),
        ("OnDemand with prefault", {"source_url": url(good), "memory_restore_mode": "OnDemand", "prefault": True}),
        ("lower-case mode", {"source_url": url(good), "memory_restore_mode": "copy"}),
        ("unknown mode", {"source_url": url(good), "memory_restore_mode": "Fast"}),
        ("nulls", {"source_url": url(good), "net_fds": None, "vfio_fds": None, "iommufd_fd": None, "zone_updates": []}),
        ("empty lists", {"source_url": url(good), "net_fds": [], "zone_updates": []}),
        ("unknown key", {"source_url": url(good), "more": 1}),
        ("unused net_fds", {"source_url": url(good), "net_fds": [{"id": "net1", "num_fds": 0}]}),
        ("one net twice", {"source_url": url(good), "net_fds": [{"id": "net1", "num_fds": 0}, {"id": "net1", "num_fds": 0}]}),
        ("no such folder", {"source_url": url(look.test.path("nothing"))}),
        ("a file", {"source_url": url(disk)}),
        ("no URL", {"source_url": good}),
        ("no string", {"source_url": 1}),
        ("no config.json", {"source_url": changed("c", lambda p: file(p, "config.json"))}),
        ("no state.json", {"source_url": changed("s", lambda p: file(p, "state.json"))}),
        ("no memory-ranges", {"source_url": changed("m", lambda p: file(p, "memory-ranges"))}),
        ("config.json empty", {"source_url": changed("c", lambda p: file(p, "config.json", ""))}),
        ("state.json empty", {"source_url": changed("s", lambda p: file(p, "state.json", ""))}),
        ("config.json no object", {"source_url": changed("c", lambda p: file(p, "config.json", "[]"))}),
        ("state.json no object", {"source_url": changed("s", lambda p: file(p, "state.json", "[]"))}),
        ("memory-ranges short", {"source_url": changed("m", lambda p: file(p, "memory-ranges", b"x" * 4096))}),
        ("memory-ranges empty", {"source_url": changed("m", lambda p: file(p, "memory-ranges", b""))}),
        ("other disk path", {"source_url": changed("d", config(lambda c: c["disks"][0].update(path=look.test.disk())))}),
        ("no such disk", {"source_url": changed("d", config(lambda c: c["disks"][0].update(path="/nothing")))}),
        ("no payload", {"source_url": changed("d", config(lambda c: c.pop("payload")))}),
        ("kernel is gone", {"source_url": changed("d", config(lambda c: c["payload"].update(kernel="/nothing")))}),
        ("ids twice", {"source_url": changed("d", config(lambda c: c["rng"].update(id="_disk0")))}),
        ("serial to a file", {"source_url": changed("d", config(lambda c: c["serial"].update(mode="File", file=look.test.path("serial"))))}),
    ]:
        vmm = look.start("--event-monitor", f"path={look.test.path('events')}")
        look.put(step, vmm, "vm.restore", body)
        look.see(f"{step}, state", look.state(vmm))
        if look.state(vmm) == "Paused" and not step.startswith("memory-ranges"):        # a guest that ran then does anything
            look.put(f"{step}, again", vmm, "vm.restore", body)
            look.put(f"{step}, resumes", vmm, "vm.resume")
        look.see(f"{step}, events", look.events(vmm, look.test.path("events")))
        vmm.stop()


@scene
def restored_info(look):
    """vm.info after a restore: the configuration, the state and the tree."""
    good = snapshot_of(look, {"disks": [{"path": look.test.disk(), "image_type": "Raw"}], "net": [{"mac": "12:34:56:78:9a:bc"}],
                              "balloon": {"size": 0}, "vsock": {"cid": 3, "socket": look.test.path("vsock")}})
    with_socket = os.path.exists(look.test.path("vsock"))
    look.see("vsock's socket after a clean end", with_socket)
    if with_socket:
        os.unlink(look.test.path("vsock"))
    vmm = look.start()
    vmm.put("vm.restore", {"source_url": url(good)})
    look.get("info", vmm, "vm.info")
    look.get("counters", vmm, "vm.counters")
    look.put("snapshot at once", vmm, "vm.snapshot", {"destination_url": url(look.test.new_dir("again"))})
    look.put("shutdown", vmm, "vm.shutdown")
    look.get("ended", vmm, "vm.info")
    look.put("boot", vmm, "vm.boot")
    vmm.stop()


@scene
def restore_locked_disk(look):
    """A second machine on the same disk."""
    disk = look.test.disk()
    good = snapshot_of(look, {"disks": [{"path": disk, "image_type": "Raw"}]})
    first = look.start()
    first.put("vm.restore", {"source_url": url(good)})
    look.see("locked", look.locked(disk))
    second = look.start()
    look.put("second", second, "vm.restore", {"source_url": url(good)})
    look.see("second, state", look.state(second))
    look.put("second, create", second, "vm.create", look.config(disks=[{"path": disk, "image_type": "Raw"}]))
    look.put("second, boot", second, "vm.boot")
    look.put("first ends", first, "vm.delete")
    look.see("locked still", look.locked(disk))
    look.put("second, boot again", second, "vm.boot")
    first.stop()
    second.stop()


@scene
def restore_by_command_line(look):
    """--restore in all its spellings."""
    good = snapshot_of(look)
    for step, *args in [
        ("plain", f"source_url={url(good)}"), ("resume", f"source_url={url(good)},resume=on"), ("resume=true", f"source_url={url(good)},resume=true"),
        ("resume=maybe", f"source_url={url(good)},resume=maybe"), ("COPY", f"source_url={url(good)},memory_restore_mode=COPY"),
        ("ondemand", f"source_url={url(good)},memory_restore_mode=ondemand"), ("OnDemand", f"source_url={url(good)},memory_restore_mode=OnDemand"),
        ("prefault", f"source_url={url(good)},prefault=on"), ("prefault, ondemand", f"source_url={url(good)},prefault=on,memory_restore_mode=ondemand"),
        ("unknown mode", f"source_url={url(good)},memory_restore_mode=fast"), ("unknown key", f"source_url={url(good)},bogus=1"),
        ("no URL", "resume=on"), ("bare", url(good)), ("no such folder", "source_url=file:///nothing"), ("empty", ""),
        ("no net_fds", f"source_url={url(good)},net_fds=[]"), ("net_fds of no net", f"source_url={url(good)},net_fds=[x@[9]]"),
        ("net_fds without brackets", f"source_url={url(good)},net_fds=x@[9]"), ("net_fds broken", f"source_url={url(good)},net_fds=[x@[9]"),
        ("two words", f"source_url={url(good)}", "resume=on"), ("space", f"source_url={url(good)}, resume=on"),
        ("with a kernel", f"source_url={url(good)}", "--kernel", "/nothing"),
    ]:
        look.ends(step, "--restore", *args, api=True)


@scene
def restore_nets(look):
    """Descriptors for nets: by SCM_RIGHTS, in any order of ids, too many, too few, and what they are in the files."""
    taps = [Tap(look.test, echo=False), Tap(look.test, queues=2, echo=False)]
    fds = taps[0].fds + taps[1].fds
    vmm = look.boot("rounds=1 dev=none end=halt", ["--net", f"id=net1,mac=12:34:56:78:9a:bc,fd=[{fds[0]}]",
                    f"id=net2,mac=12:34:56:78:9a:bd,fd=[{fds[1]},{fds[2]}],num_queues=4"], cpus=2, memory="64M", pass_fds=fds)
    good = vmm.snapshot()
    vmm.stop()
    with open(os.path.join(good, "config.json")) as f:
        nets = json.load(f)["net"]
    look.see("numbers in config.json", [len(net["fds"]) for net in nets])
    look.see("config.json", [{k: v for k, v in net.items() if k != "fds"} for net in nets])
    ask = {"source_url": url(good)}
    for step, net_fds, given in [
        ("all", [("net1", 1), ("net2", 2)], fds), ("other order", [("net2", 2), ("net1", 1)], fds[1:] + fds[:1]),
        ("none", None, []), ("net2 missing", [("net1", 1)], fds[:1]), ("net2 short", [("net1", 1), ("net2", 1)], fds[:2]),
        ("net1 long", [("net1", 2), ("net2", 2)], fds + fds[:1]), ("unknown net too", [("net1", 1), ("net2", 2), ("net3", 1)], fds + fds[:1]),
        ("net1 twice", [("net1", 1), ("net1", 1), ("net2", 2)], fds + fds[:1]), ("fewer than announced", [("net1", 1), ("net2", 2)], fds[:2]),
        ("more than announced", [("net1", 1), ("net2", 2)], fds + fds[:1]), ("not announced", None, fds),
        ("no taps", [("net1", 1), ("net2", 2)], "null"), ("numbers in the request", [("net1", 1), ("net2", 2)], fds),
    ]:
        vmm = look.start()
        null = [os.open("/dev/null", os.O_RDWR) for _ in range(3)]
        body = {**ask, **({"net_fds": [{"id": i, "num_fds": n} for i, n in net_fds]} if net_fds is not None else {})}
        if step.startswith("numbers"):
            body["net_fds"][0]["fds"] = [99]
        look.put(step, vmm, "vm.restore", body, null if given == "null" else given)
        look.see(f"{step}, state", look.state(vmm))
        vmm.kill()
        for fd in null:
            os.close(fd)
