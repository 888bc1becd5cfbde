# SPDX-License-Identifier: Apache-2.0
"""Scenes with the real ch-remote: every command of it that is served here, its output and exit code, and its failures."""
import json

from differential import scene
from kvmtest import MIB, Tap, write


@scene
def remote_life(look):
    """A machine's life by ch-remote alone."""
    vmm = look.start()
    config, disk = look.test.path("vm.json"), look.test.disk()
    write(config, json.dumps(look.config(disks=[{"path": disk, "image_type": "Raw"}], balloon={"size": 0})))
    directory = look.test.new_dir("snap")
    look.remote("ping", vmm, "ping")
    look.remote("info of nothing", vmm, "info")
    look.remote("boot of nothing", vmm, "boot")
    look.remote("create", vmm, "create", config)
    look.remote("create again", vmm, "create", config)
    look.remote("boot", vmm, "boot")
    vmm.wait_output(rb"PASS")
    look.remote("boot again", vmm, "boot")
    look.remote("info", vmm, "info")
    look.remote("snapshot of a running machine", vmm, "snapshot", f"file://{directory}")
    look.remote("nmi", vmm, "nmi")
    look.remote("power-button", vmm, "power-button")
    look.remote("pause", vmm, "pause")
    look.remote("pause again", vmm, "pause")
    look.remote("snapshot", vmm, "snapshot", f"file://{directory}")
    look.remote("snapshot again", vmm, "snapshot", f"file://{directory}")
    look.files("snapshot, files", directory)
    look.remote("resume", vmm, "resume")
    look.remote("resume again", vmm, "resume")
    look.remote("resize", vmm, "resize", "--balloon", "1M")
    look.remote("resize all", vmm, "resize", "--cpus", "1", "--memory", "64M", "--balloon", "0")
    look.remote("resize-disk", vmm, "resize-disk", "--disk", "_disk0", "--size", str(16 * MIB))
    look.remote("resize-disk, unknown", vmm, "resize-disk", "--disk", "nothing", "--size", "16M")
    look.remote("resize-zone", vmm, "resize-zone", "--id", "x", "--size", "16M")
    look.remote("reboot", vmm, "reboot")
    look.remote("shutdown", vmm, "shutdown")
    look.remote("shutdown again", vmm, "shutdown")
    look.remote("delete", vmm, "delete")
    look.remote("delete again", vmm, "delete")
    look.remote("coredump", vmm, "coredump", f"file://{directory}")
    look.remote("unknown command", vmm, "nonsense")
    look.remote("shutdown-vmm", vmm, "shutdown-vmm")
    look.see("exit", vmm.wait_exit())
    vmm.release()


@scene
def remote_restore(look):
    """ch-remote restore in its spellings."""
    vmm = look.boot("rounds=1 dev=none end=halt", memory="64M")
    good = vmm.snapshot()
    vmm.stop()
    source = f"source_url=file://{good}"
    for step, *args in [
        ("plain", source), ("resume", f"{source},resume=true"), ("prefault", f"{source},prefault=on"), ("copy", f"{source},memory_restore_mode=copy"),
        ("ondemand", f"{source},memory_restore_mode=ondemand,resume=on"), ("ondemand, prefault", f"{source},memory_restore_mode=ondemand,prefault=on"),
        ("no URL", "resume=true"), ("two words", source, "resume=true"), ("no such folder", "source_url=file:///nothing"), ("unknown key", f"{source},bogus=1"),
        ("unused net_fds", f"{source},net_fds=[x@[0]]"),
    ]:
        vmm = look.start()
        look.remote(step, vmm, "restore", *args, fds=(0,) if "net_fds" in step else ())
        look.see(f"{step}, state", look.state(vmm))
        vmm.kill()


@scene
def remote_net_fds(look):
    """The walk of the snapshot guide with descriptors, and one of them missing."""
    taps = [Tap(look.test, queues=2, echo=False), Tap(look.test, queues=2, echo=False)]
    numbers = [",".join(map(str, tap.fds)) for tap in taps]
    fds = taps[0].fds + taps[1].fds
    vmm = look.boot("rounds=1 dev=none end=halt", ["--net", *(f"id=net{n},fd=[{fd}],num_queues=4,mac=12:34:56:78:9a:b{n}" for n, fd in enumerate(numbers, 1))],
                    cpus=2, memory="64M", pass_fds=fds)
    good = vmm.snapshot()
    vmm.stop()
    for step, net_fds, given in [
        ("both", f"[net1@[{numbers[0]}],net2@[{numbers[1]}]]", fds), ("other order", f"[net2@[{numbers[1]}],net1@[{numbers[0]}]]", fds[2:] + fds[:2]),
        ("one", f"[net1@[{numbers[0]}]]", fds[:2]), ("too few", f"[net1@[{numbers[0]}],net2@[{fds[2]}]]", fds[:3]),
    ]:
        vmm = look.start()
        look.remote(step, vmm, "restore", f"source_url=file://{good},net_fds={net_fds}", fds=given)
        look.see(f"{step}, state", look.state(vmm))
        look.remote(f"{step}, resume", vmm, "resume")
        vmm.kill()
