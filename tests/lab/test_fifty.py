# SPDX-License-Identifier: Apache-2.0
"""Fifty clones of a Linux guest that has been up for minutes and whose snapshot is an hour old, with a Python and an OpenSSL process
that were running: from the first draw on nothing is the same twice, and no frame leaves a clone before it is itself. And twins of the
same snapshot without the agent's work, which do draw the same: what the other clones have, they have by it."""
import atexit           # noqa: F401: this and others without a use here are what warm.py needs: files_of_python()
import encodings.ascii  # noqa: F401
import encodings.idna   # noqa: F401
import fcntl            # noqa: F401
import json
import os
import random           # noqa: F401
import re
import shutil
import signal           # noqa: F401
import socket
import ssl              # noqa: F401
import struct
import subprocess
import sys
import threading
import time
import uuid             # noqa: F401

from daemon import Forkd, shell
from lab import DIR, EMULATED, INITRD, KERNEL, RESTORE_VMM, TMP, Vm, check, test, vsock_connect, wait_for

CLONES, AT_ONCE = 50, 8
UPTIME_S = 150          # Linux seeds its generators ever more seldom; from two minutes on once a minute
AGE_S = 3600
RESEED = "/usr/local/lib/forkd/reseed"
PYTHON = os.path.realpath(sys.executable)
FILES = "/run/draws", "/run/uuid", "/run/openssl"
CMDLINE = "console=ttyS0 quiet panic=-1 forkd.test=agent forkd.ip=192.168.77.2/24"


def files_of_python():
    """This interpreter, the modules and the libraries that it has loaded."""
    found = {PYTHON}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and path.startswith("/usr/"):
            found.add(path)
    with open("/proc/self/maps") as f:
        found |= set(re.findall(r" (/\S+\.so\S*)$", f.read(), re.M))
    return found


def make_initrd(path):
    root = os.path.join(TMP, "fifty-root")
    for f in files_of_python():
        os.makedirs(os.path.dirname(root + f), exist_ok=True)
        shutil.copyfile(f, root + f)
        os.chmod(root + f, 0o755)
    shutil.copytree(os.path.join(DIR, "reseed"), root + RESEED)
    shutil.copyfile(os.path.join(DIR, "tests/warm.py"), root + "/warm.py")
    names = subprocess.run(["find", "."], cwd=root, stdout=subprocess.PIPE, check=True).stdout
    with open(path, "wb") as out, open(INITRD, "rb") as base:
        shutil.copyfileobj(base, out)
        subprocess.run(["cpio", "-o", "-H", "newc"], input=names, cwd=root, stdout=out, stderr=subprocess.DEVNULL, check=True)
    shutil.rmtree(root)


class Capture:
    """All frames that come out of taps: when the first one came, and the hostnames that were sent."""

    def __init__(self):
        self.first_ns, self.names = {}, {}
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))     # ETH_P_ALL
        self.socket.setsockopt(socket.SOL_SOCKET, 35, 1)                                    # SO_TIMESTAMPNS
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            frame, extra, _, address = self.socket.recvmsg(2048, 256)
            if address[2] == 4:                                                             # PACKET_OUTGOING
                continue
            seconds, ns = struct.unpack_from("<qq", extra[0][2])
            self.first_ns.setdefault(address[0], seconds * 10 ** 9 + ns)
            if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == struct.pack(">H", 7777):
                self.names.setdefault(address[0], set()).add(frame[42:14 + struct.unpack_from(">H", frame, 16)[0]].decode())


def column_of(file):
    """Where a line has the monotonic time."""
    return 1 if file == "/run/draws" else 0


def lines_of(clone, file, after_ns, most=200):
    """The words of the first draws after that; the newest line may be half written."""
    text = shell(clone, f"awk '${column_of(file) + 1} > {after_ns}' {file} | head -n {most}")
    return [line.split() for line in text.split("\n")[:-1] if line]


class Draws:
    """What clones have drawn since they were clones, by file and column; each value once."""

    def __init__(self):
        self.seen = {}

    def add(self, who, file, lines):
        for line in lines:
            for column, value in enumerate(line[column_of(file) + 1:]):
                other = self.seen.setdefault((file, column, value), who)
                check(other == who, f"{file}: {who} has drawn {value}, as {other} has")

    def once(self, who, what, value):
        other = self.seen.setdefault((what, 0, value), who)
        check(other == who, f"{what}: {who} has {value}, as {other} has")


def warm_template(d):
    """A guest that has been up for a while, with all that draws."""
    initrd = os.path.join(TMP, "fifty.img")
    make_initrd(initrd)
    d.template("cold", {"kernel": KERNEL, "initramfs": initrd, "cmdline": CMDLINE}, {"agent": True}, memory=512 << 20, net=[{"id": "net0"}])
    os.unlink(initrd)
    c, = d.call("POST", "/v1/templates/cold/clones", {})["clones"]
    shell(c, "hostname warm; ip route add default dev eth0")
    for what in ("uuid", "openssl", "name"):
        conf = f"OPENSSL_CONF={RESEED}/openssl.cnf" if what == "openssl" else ""
        shell(c, f"PYTHONPATH={RESEED} {conf} setsid {PYTHON} /warm.py {what} > /run/{what}.log 2>&1 < /dev/null &")
    for f in FILES:
        wait_for(f"{f}", lambda f=f: shell(c, f"wc -l < {f} || cat {f}.log").isdigit() and int(shell(c, f"wc -l < {f}")) > 5,
                 context=lambda f=f: shell(c, f"cat {f}.log"))
    wait_for("the guest's uptime", lambda: float(shell(c, "cut -d ' ' -f 1 /proc/uptime")) > UPTIME_S, 2 * UPTIME_S)
    check(shell(c, "ls /run/forkd/notify.d") != "", "the Python process has not registered")
    last_ns = {f: int(shell(c, f"tail -n 2 {f} | head -n 1 | cut -d ' ' -f {column_of(f) + 1}")) for f in FILES}
    d.call("POST", f"/v1/clones/{c['id']}/snapshot", {"name": "warm"})
    d.call("DELETE", f"/v1/clones/{c['id']}")
    return last_ns


def newest_common(clones, file, last_ns):
    """The monotonic time of the last draw that comes from the template: the last line that two clones share, around last_ns."""
    a, b = ({tuple(line) for line in lines_of(c, file, last_ns - 10 ** 9, 3000)} for c in clones[:2])
    common = [int(line[column_of(file)]) for line in a & b]
    check(common, f"{file}: the clones share no line with their template")
    return max(common)


def look_at(d, clones, draws, after_ns):
    for c in clones:
        for f in FILES:
            wait_for(f"draws of {c['id']} in {f}", lambda c=c, f=f: len(lines_of(c, f, after_ns[f])) >= 5)
            draws.add(c["id"], f, lines_of(c, f, after_ns[f]))
        for what in ("cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "hostname", "head -c 16 /dev/urandom | md5sum"):
            draws.once(c["id"], what, shell(c, what))


def check_frames(c, capture, asked_ns):
    """`asked_ns`: before the request was sent; phases_us count from the daemon's first look at it."""
    tap = c["net"][0]["tap"]
    wait_for(f"frames of {c['id']}", lambda: c["id"] in capture.names.get(tap, ()))
    check(capture.names[tap] == {c["id"]}, f"{c['id']} has sent as {capture.names[tap]}")
    early_ns = asked_ns + c["phases_us"]["identity"] * 1000 - capture.first_ns[tap]
    check(early_ns <= 0, f"{c['id']}: a frame came {early_ns} ns before the acknowledgement")


def private(path, target, body):
    """One request to the agent's private port."""
    with vsock_connect(path, 984, 60) as s:
        s.sendall(f"POST {target} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = s.recv(4096)
    check(b" 200 " in answer.split(b"\r\n")[0], f"{target}: {answer}")


def twin(vm, template, after_ns):
    """Restores the template without its agent's work, and lets its processes go on. Returns what they draw."""
    path = os.path.join(vm.dir, "snapshot")
    shutil.copytree(template, path, copy_function=os.link)
    with open(os.path.join(template, "config.json")) as f:
        config = json.load(f)
    config["vsock"]["socket"] = vm.vsock
    config.get("serial", {}).pop("file", None)
    config["serial"] = {"mode": "Null"}
    config["console"] = {"mode": "Null"}
    os.unlink(os.path.join(path, "config.json"))
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(config, f)
    vm.start(RESTORE_VMM)
    fd = vm.net.tap()
    vm.api("PUT", "vm.restore", {"source_url": "file://" + path, "clock": "Continue", "net_fds": [{"id": "net0", "num_fds": 1}]}, fds=[fd])
    vm.net.close_tap()
    vm.api("PUT", "vm.resume")
    private(vm.vsock, "/v1/thaw", json.dumps({"wall_ns": time.time_ns()}))
    c = {"vsock_socket": vm.vsock}
    for f in FILES:
        wait_for(f"draws of {vm.name} in {f}", lambda f=f: len(lines_of(c, f, after_ns[f])) >= 5)
    return {f: [line[column_of(f) + 1] for line in lines_of(c, f, after_ns[f])] for f in FILES}


def check_twins(d, after_ns):
    template, = (folder for folder, _, files in os.walk(os.path.join(d.dir, "store")) if "config.json" in files and "warm" in folder)
    drawn = []
    for name in ("twin-a", "twin-b"):
        with Vm(name) as vm:
            drawn.append(twin(vm, template, after_ns))
    same = len(set(drawn[0]["/run/draws"]) & set(drawn[1]["/run/draws"]))
    check(same > 0, "twins without the agent's work draw different numbers: this test shows nothing")
    print(f"  two twins without the agent's work have drawn the same from the kernel {same} times")


@test("fifty", "full")
def fifty():
    capture, draws, n, frames = Capture(), Draws(), 0, 0
    with Forkd("fifty") as d:
        last_ns = warm_template(d)
        if EMULATED:        # this Linux is the lab's own: its clock may be set
            time.clock_settime(time.CLOCK_REALTIME, time.time() + AGE_S)
        else:
            print("  NOT TESTED: the age of the snapshot, since this host's clock is not the lab's")
        after_ns = None
        while n < CLONES:
            asked_ns = time.time_ns()
            clones = d.call("POST", "/v1/templates/warm/clones", {"count": min(AT_ONCE, CLONES - n)})["clones"]
            n += len(clones)
            if after_ns is None:
                after_ns = {f: newest_common(clones, f, last_ns[f]) for f in FILES}
            look_at(d, clones, draws, after_ns)
            for c in clones:
                check(c["identity"] == "unique", f"{c['id']}: {c['identity']}")
                check(abs(int(shell(c, "date +%s")) - time.time()) < 10, f"{c['id']} has another time than the host")
                check_frames(c, capture, asked_ns)
                frames += 1
            for c in clones:
                d.call("DELETE", f"/v1/clones/{c['id']}")
            print(f"  {n} clones: {len(draws.seen)} values, none of them twice; ready after {max(c['phases_us']['ready'] for c in clones) / 1000:.0f} ms",
                  flush=True)
        check_twins(d, after_ns)
    print(f"  {n} clones, {len(draws.seen)} values; the first frame of each of {frames} clones came after its acknowledgement, under its own name")
