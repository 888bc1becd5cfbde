# SPDX-License-Identifier: Apache-2.0
"""Scenes of the command line: usage, option strings, what ends with which code, the socket and its lock, signals."""
import os
import signal
import socket

from differential import scene
from kvmtest import read, wait_for, write


# Where vm.info shows an option; others have its name or nothing.
PARTS = {"--disk": "disks", "--debug-console": "debug_console", "--kernel": "payload", "--initramfs": "payload", "--cmdline": "payload",
         "--event-monitor": None, "--seccomp": None, "--log-file": None}


@scene
def usage(look):
    """What is wrong before anything is read."""
    kernel = ["--kernel", look.kernel]
    for step, *args in [
        ("nothing",), ("version", "--version"), ("version, short", "-V"), ("help", "--help"), ("help, short", "-h"),
        ("unknown option", "--bogus"), ("surplus word", *kernel, "surplus"), ("no value", "--kernel"),
        ("option twice", *kernel, *kernel), ("cpus without a kernel", "--cpus", "boot=1"), ("api-socket without a value", "--api-socket"),
        ("letters", "-x"), ("cmdline alone", "--cmdline", "x"), ("version and nonsense", "--version", "--bogus"),
        ("restore with a kernel's options", "--restore", "source_url=file:///nothing", "--cpus", "boot=1"),
        ("seccomp", "--seccomp", "maybe", *kernel),
    ]:
        look.ends(step, *args)


@scene
def option_strings(look):
    """One option that is wrong, or that is fine."""
    disk = look.test.disk()
    for option, value in [
        *(("--cpus", v) for v in ("boot=0", "boot=x", "boot=2,max=1", "bogus=1", "boot", "boot=1,", "boot=1,,max=1", " boot=1", "boot=1, max=1", "boot= 1",
                                  "boot=1,boot=2", "boot=", "max=2", "topology=1:1:1:1", "topology=1:1:1", "topology=2:1:1:1", "affinity=[0@[0]]",
                                  "affinity=[0@0]", "affinity=0@[0]", "affinity=[0@[0", "core_scheduling=OFF", "core_scheduling=x", "nested=off",
                                  "max_phys_bits=36", "features=x", "profile=x")),
        *(("--memory", v) for v in ("size=0", "size=64M", "size=64m", "size=67108864", "size=1Z", "size=-1", "size=", "size=0x10", "size=64M,thp=maybe", "size=64M,thp=OFF",
                                    "size=64M,mergeable=true", "size=64M,file=x", "size=64M,hotplug_method=acpi", "size=64M,hotplug_method=x",
                                    "size=4097", "size=64M,bogus=on")),
        *(("--serial", v) for v in ("off", "null", "tty", "file=serial.out", "file=", "file=/nothing/x", "bogus", "socket=serial.sock", "Off", "")),
        *(("--console", v) for v in ("off", "null", "file=console.out", "file=", "bogus", "socket=x", "off,pci_device_id=4", "null,id=__x")),
        *(("--disk", v) for v in (f"path={disk}", f"path={disk},image_type=raw", f"path={disk},image_type=bogus", "path=/nothing", "readonly=on", "path=",
                                  f"path={disk},id=", f"path={disk},id=x", f"path={disk},num_queues=0", f"path={disk},num_queues=x", f"path={disk},queue_size=3",
                                  f'path="{disk}"', f'path={disk},serial="a,b"', f'path={disk},serial="a', f"path={disk},lock_granularity=full", f"path={disk},sparse=off")),
        *(("--net", v) for v in ("tap=", "mac=hello", "mac=12:34:56:78:9a:bc", "num_queues=1", "num_queues=2", "fd=[1]", "fd=1", "fd=[77]", "mtu=100", "mtu=x", "ip=1.2.3",
                                 "ip=1.2.3.4", "ip=10.9.8.7,mask=255.255.255.0", "offload_csum=off", "bogus=1", "host_mac=x")),
        *(("--rng", v) for v in ("src=/dev/zero", "src=/nothing", "bogus=1", "src=")),
        *(("--balloon", v) for v in ("size=0", "size=1M", "size=512M", "size=x", "deflate_on_oom=on", "")),
        *(("--vsock", v) for v in ("cid=3", "socket=x", "cid=3,socket=vsock", "cid=2,socket=vsock", "cid=x,socket=x")),
        *(("--debug-console", v) for v in ("off", "bogus")),
        *(("--event-monitor", v) for v in ("path=events", "path=/nothing/x", "fd=77", "fd=x", "events", "")),
        *(("--seccomp", v) for v in ("false", "log")),
        ("--log-file", "log"), ("--log-file", "/nothing/x"), ("--kernel", "/nothing"), ("--kernel", "/dev/null"), ("--initramfs", "/nothing"), ("--cmdline", ""),
    ]:
        args = {"--kernel": look.kernel, "--cmdline": "rounds=1 end=halt", "--console": "off", "--memory": "size=64M", option: value}
        look.ends(f"{option} {look.name(value)!r}", *(word for pair in args.items() for word in pair), api=True,
                  part=PARTS.get(option, option[2:]))
        for left in set(os.listdir(look.test.dir)) - {os.path.basename(disk)}:
            if not left.endswith((".stderr",)):
                os.unlink(look.test.path(left))


@scene
def api_socket(look):
    """Its spellings, its file and its lock."""
    path = look.test.path("s")
    for step, *args in [("path=", f"path={path}"), ("bare", path),
                        ("fd that is none", "fd=77"), ("no such folder", "path=/nothing/s"),
                        ("long", "path=/tmp/" + "x" * 120)]:
        vmm = look.start("--api-socket", *args, api=False)
        wait_for("the socket or the end", lambda vmm=vmm: vmm.process.poll() is not None or os.path.exists(path))
        if vmm.process.poll() is None:
            vmm.process.terminate()
        vmm.wait_exit()
        look.see(step, {"exit": vmm.process.returncode, "socket": os.path.exists(path), "lock": os.path.exists(path + ".lock")})
        vmm.release()
    for step, *args in [("no kernel", "--kernel", "/nothing"), ("bad option string", "--cpus", "boot=x", "--kernel", look.kernel),
                        ("bad restore", "--restore", "source_url=file:///nothing"), ("usage", "--bogus")]:
        vmm = look.start("--api-socket", f"path={path}", *args, api=False)
        vmm.wait_exit()
        look.see(f"failed start, {step}", {"exit": vmm.process.returncode, "socket": os.path.exists(path), "lock": os.path.exists(path + ".lock")})
        vmm.release()
        for left in (path, path + ".lock"):
            if os.path.exists(left):
                os.unlink(left)
    vmm = look.start()
    look.see("modes", {name: f"{os.stat(vmm.socket + name).st_mode:o}" for name in ("", ".lock")})
    look.see("locked", look.locked(vmm.socket + ".lock"))
    look.ends("double start", "--api-socket", vmm.socket)
    look.get("first goes on", vmm, "vmm.ping")
    vmm.kill()
    look.see("after a kill", {"socket": os.path.exists(vmm.socket), "lock": look.locked(vmm.socket + ".lock")})
    again = look.start("--api-socket", vmm.socket, api=False)
    again.socket = vmm.socket
    wait_for("the API", again._listens)
    look.get("stale socket", again, "vmm.ping")
    again.stop()
    look.see("after a stop", {"socket": os.path.exists(vmm.socket), "lock": os.path.exists(vmm.socket + ".lock")})


@scene
def socket_by_descriptor(look):
    """--api-socket fd=N: a listening socket."""
    path = look.test.path("s")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        s.listen()
        vmm = look.start("--api-socket", f"fd={s.fileno()}", api=False, pass_fds=[s.fileno()])
        vmm.socket = path
        look.get("answer", vmm, "vmm.ping")
        vmm.process.terminate()
        look.see("exit", vmm.wait_exit())
        look.see("socket left", os.path.exists(path))
        look.see("lock", os.path.exists(path + ".lock"))
        vmm.release()


@scene
def signals(look):
    """SIGTERM and SIGINT end an idle VMM, a machine that runs and one that is paused; SIGHUP and SIGPIPE are as they are."""
    for name in ("SIGTERM", "SIGINT"):
        for state in ("idle", "running", "paused"):
            vmm = look.start() if state == "idle" else look.boot()
            if state == "paused":
                vmm.put("vm.pause")
            vmm.process.send_signal(getattr(signal, name))
            look.see(f"{name}, {state}", {"exit": vmm.wait_exit(), "socket left": os.path.exists(vmm.socket)})
            vmm.release()


@scene
def outputs(look):
    """Files that the program makes, and where it writes."""
    write(look.test.path("old"), b"x" * 100000)
    os.chmod(look.test.path("old"), 0o666)
    vmm = look.boot(extra=["--serial", f"file={look.test.path('serial')}", "--console", f"file={look.test.path('console')}",
                           "--event-monitor", f"path={look.test.path('old')}", "--log-file", look.test.path("log")], memory="64M")
    wait_for("the guest", lambda: os.path.exists(look.test.path("serial")) and b"PASS" in read(look.test.path("serial")),
             context=vmm.context)
    vmm.stop()
    look.see("modes", {name: f"{os.stat(look.test.path(name)).st_mode:o}" for name in ("serial", "console", "old", "log")})
    look.see("event monitor cut", os.stat(look.test.path("old")).st_size < 100000)
    look.see("stdout", bool(vmm.output))
