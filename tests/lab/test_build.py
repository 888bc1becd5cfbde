# SPDX-License-Identifier: Apache-2.0
"""From an OCI layout to a guest: forkd-image makes disk and initramfs, the agent finds the disk and is the first process of the image, with
the image's user, variables and directory; or the image's own systemd is, and the agent a unit of it."""
import hashlib
import json
import os
import shutil
import subprocess

from daemon import shell
from lab import BUSYBOX, DIR, INITRD, KERNEL, TMP, VMM, Vm, check, run, test

IMAGE = os.path.join(DIR, "bin/forkd-image")
AGENT = os.path.join(DIR, "bin/forkd-agent")
CONFIG = {"User": "app:5", "Env": ["PATH=/bin", "GREETING=hello from the image"], "WorkingDir": "/srv/made"}
FILES = {"etc/passwd": "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n", "etc/group": "root:x:0:\napp:x:1000:\n"}
# Stands for systemd: says what it would start, and starts the agent as that unit does.
SYSTEMD = """#!/bin/sh
echo "systemd is $$"
unit=/run/systemd/system/multi-user.target.wants/forkd-agent.service
grep ^ExecStart= $unit
exec $(sed -n s/^ExecStart=//p $unit) --init --stay
"""


def write(path, data, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    os.chmod(path, mode)


def make_layout(path, more):
    """An OCI layout of one layer: busybox, users, and `more`."""
    root = path + "-root"
    os.makedirs(root + "/bin")
    shutil.copy(BUSYBOX, root + "/bin/busybox")
    for applet in ("sh", "id", "pwd", "cat", "grep", "sed", "kill", "sync", "stat"):
        os.symlink("busybox", f"{root}/bin/{applet}")
    for name, (text, mode) in {**{name: (text, 0o644) for name, text in FILES.items()}, **more}.items():
        write(f"{root}/{name}", text, mode)
    blobs = os.path.join(path, "blobs/sha256")
    os.makedirs(blobs)

    def blob(data, kind):
        name = hashlib.sha256(data).hexdigest()
        write(f"{blobs}/{name}", data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": "sha256:" + name, "size": len(data)}
    layer = blob(subprocess.run([BUSYBOX, "tar", "-C", root, "-czf", "-", "."], stdout=subprocess.PIPE, check=True).stdout, "layer.v1.tar+gzip")
    config = blob(json.dumps({"os": "linux", "architecture": "amd64", "config": CONFIG}).encode(), "config.v1+json")
    manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": [layer]}).encode(), "manifest.v1+json")
    write(path + "/index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    write(path + "/oci-layout", '{"imageLayoutVersion": "1.0.0"}')


def make_initramfs(path, config):
    """Of the modules that the lab's own initramfs has."""
    tree = path + "-modules"
    os.mkdir(tree)
    with open(INITRD, "rb") as f:
        subprocess.run([BUSYBOX, "cpio", "-idm", "lib/*"], stdin=f, cwd=tree, stderr=subprocess.DEVNULL, check=False)
    kernel, = os.listdir(tree + "/lib/modules")
    write(path + "-config", json.dumps(config))
    run(IMAGE, "--initramfs", path, "--kernel-modules", f"{tree}/lib/modules/{kernel}", "--agent", AGENT, "--image-config", path + "-config",
        "--compress", "none")


def boot(vm, layout, more=""):
    report = json.loads(run(IMAGE, "--oci", layout, "--size", "64M", "--out", vm.disk))
    check(report["config"] == {"User": CONFIG["User"], "WorkingDir": CONFIG["WorkingDir"], "Env": CONFIG["Env"]}, f"report: {report}")
    initramfs = os.path.join(vm.dir, "initramfs")
    make_initramfs(initramfs, report["config"])
    vm.start(VMM, "--cpus", "boot=1", "--memory", "size=256M", "--kernel", KERNEL, "--initramfs", initramfs,
             "--cmdline", f"console=ttyS0 quiet panic=-1 {more}", "--disk", f"path={vm.disk},image_type=raw",
             "--serial", f"file={vm.serial}", "--vsock", f"cid=3,socket={vm.vsock}")
    vm.wait_serial(r"forkd-agent \S+ is ready")
    return {"vsock_socket": vm.vsock}


@test("build", "full")
def build():
    layout = os.path.join(TMP, "layout")
    make_layout(layout, {"etc/secret": ("secret\n", 0o600)})
    with Vm("build") as vm:
        guest = boot(vm, layout)
        said = shell(guest, 'id -u; id -G; pwd; echo "$GREETING"; echo "$HOME"; grep " / " /proc/mounts; cat /proc/1/comm; cat /etc/secret 2>&1; true')
        lines = said.splitlines()
        check(lines[:5] == ["1000", "5", "/srv/made", "hello from the image", "/srv"], f"user, groups, directory, variables: {lines}")
        check("/dev/vda / ext4 rw" in lines[5] or "/dev/root / ext4 rw" in lines[5], f"the root is {lines[5]}")
        check(lines[6].startswith("forkd-agent") and "Permission denied" in lines[7], f"first process, and a file of root's: {lines[6:]}")
        check(shell(guest, "cat /etc/secret; kill -PWR 1", user="root") == "secret", "root's file")
        check(vm.wait_exit() == 0, "the VMM's status")
        done = subprocess.run(["e2fsck", "-fn", vm.disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        check(done.returncode == 0, f"e2fsck after the guest: {done.stdout}")


@test("build-systemd", "full")
def build_systemd():
    layout = os.path.join(TMP, "layout-systemd")
    make_layout(layout, {"usr/lib/systemd/systemd": (SYSTEMD, 0o755)})
    with Vm("build-systemd") as vm:
        guest = boot(vm, layout)
        vm.wait_serial("systemd is 1")
        vm.wait_serial("ExecStart=/run/forkd/forkd-agent --image-config /run/forkd/image.json")
        check(shell(guest, "id -u; pwd") == "1000\n/srv/made", "user and directory")
