# SPDX-License-Identifier: Apache-2.0
"""Linux with forkd-agent as its first process: the template, and clones of which none is another (docs/identity.md)."""
import binascii
import json
import os
import re
import socket
import struct
import subprocess

from lab import DIR, INITRD, KERNEL, TMP, check, run, test, wait_for

CLONES = 3
AGENT, FORKD = os.path.join(DIR, "bin/forkd-agent"), os.path.join(DIR, "bin/forkd")
# Draws all the time. The hostname comes first: what is drawn in a line with a clone's name was drawn in the clone.
WORK = """#!/bin/sh
while :; do
	echo "$(hostname) $(head -c 16 /dev/urandom | md5sum | cut -c 1-32) $(cat /proc/sys/kernel/random/uuid)" \
		"$(cat /etc/machine-id) $(cat /proc/sys/kernel/random/boot_id)"
	sleep 0.02
done > /run/draws
"""
FILES = {"work": WORK, "etc/passwd": "root:x:0:0::/:/bin/sh\n", "etc/group": "root:x:0:\n", "etc/hostname": "template\n",
         "etc/machine-id": "0123456789abcdef0123456789abcdef\n", "etc/hosts": "127.0.0.1 localhost template\n"}
CMDLINE = "console=ttyS0 quiet panic=-1 rdinit=/bin/forkd-agent -- --init --stay /bin/sh /work"


def exchange(path, text, hello=b""):
    """One HTTP request over a unix socket, until its connection ends: status and body."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(300)
        s.connect(path)
        s.sendall(hello)
        if hello:
            check(s.recv(64).startswith(b"OK "), f"{path}: no answer to {hello}")
        s.sendall(text)
        answer = b"".join(iter(lambda: s.recv(1 << 16), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def http(method, path, body, kind="application/json"):
    return (f"{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Type: {kind}\r\nConnect-Protocol-Version: 1\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


def make_initrd(path):
    root = os.path.join(TMP, "agent-root")
    os.makedirs(os.path.join(root, "bin"))
    os.makedirs(os.path.join(root, "etc"))
    run("cp", AGENT, os.path.join(root, "bin"))
    for name, text in FILES.items():
        with open(os.path.join(root, name), "w", encoding="ascii") as f:
            f.write(text)
    names = "".join(f"{n}\n" for n in ("bin/forkd-agent", *FILES)).encode()
    with open(path, "wb") as out, open(INITRD, "rb") as base:
        out.write(base.read())
        out.write(subprocess.run(["cpio", "-o", "-H", "newc"], input=names, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 check=True).stdout)


class Daemon:
    def __enter__(self):
        self.socket = os.path.join(TMP, "agent-forkd.sock")
        self.log = os.path.join(TMP, "agent-forkd.log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([FORKD, "--socket", self.socket, "--store", os.path.join(TMP, "agent-store"), "--runtime-dir",
                                             os.path.join(TMP, "agent-run")], stdout=log, stderr=log)
        wait_for("the daemon", lambda: os.path.exists(self.socket))
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def must(self, wanted, method, path, body):
        status, text = exchange(self.socket, http(method, path, json.dumps(body).encode()))
        with open(self.log, encoding="utf-8") as f:
            check(status == wanted, f"{method} {path}: {status}, not {wanted}: {text[-600:]}; the daemon's log ends: {f.read()[-1500:]}")
        return json.loads(text) if text else None


def shell(clone, words):
    """What a shell in the clone writes, by the agent's API."""
    message = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", words]}}).encode()
    _, body = exchange(clone["vsock_socket"], http("POST", "/process.Process/Start", struct.pack(">BI", 0, len(message)) + message,
                                                   "application/connect+json"), b"CONNECT 983\n")
    return b"".join(binascii.a2b_base64(part) for part in re.findall(rb'"stdout":"([^"]*)"', body)).decode()


@test("agent", "full")
def agent():
    initrd = os.path.join(TMP, "agent.img")
    make_initrd(initrd)
    vm = {"cpus": {"boot_vcpus": 2, "max_vcpus": 2}, "memory": {"size": 256 << 20}, "vsock": {"cid": 3, "socket": "x"},
          "payload": {"kernel": KERNEL, "initramfs": initrd, "cmdline": CMDLINE}}
    with Daemon() as d:
        d.must(201, "POST", "/v1/templates", {"name": "agent", "vm": vm, "ready": {"agent": True}, "timeout_s": 300})
        clones = d.must(201, "POST", "/v1/templates/agent/clones", {"count": CLONES})["clones"]
        drawn = []
        for c in clones:
            check(c["identity"] == "unique", f"{c['id']}: identity is {c['identity']}")

            def own():
                return [line.split() for line in shell(c, "cat /run/draws").splitlines() if line.startswith(c["id"] + " ")]     # noqa: B023
            wait_for(f"draws of {c['id']}", lambda: len(own()) >= 3)    # noqa: B023
            drawn.append(own()[:3])
            check(shell(c, "cat /proc/self/cgroup") == "0::/forkd/user\n", f"{c['id']}: what the agent starts is not in its group")
        for column, name in ((1, "/dev/urandom"), (2, "UUIDs")):
            values = [line[column] for lines in drawn for line in lines]
            check(len(set(values)) == len(values), f"{name}: the same twice: {drawn}")
        for column, name in ((3, "machine id"), (4, "boot id")):
            check(len({lines[0][column] for lines in drawn}) == CLONES, f"{name}: the same in two clones: {drawn}")
        for c in clones:
            d.must(204, "DELETE", f"/v1/clones/{c['id']}", {})
