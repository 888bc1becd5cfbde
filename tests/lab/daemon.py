# SPDX-License-Identifier: Apache-2.0
"""A forkd in the lab, and what the agents in its clones answer."""
import binascii
import contextlib
import json
import os
import re
import subprocess

from lab import DIR, PATIENCE_S, TMP, check, request, tail, vsock_connect

AGENT_PORT = 983


class Forkd:
    """A daemon of its own. Its clones end with it."""

    def __init__(self, name, *options):
        self.dir = os.path.join(TMP, name)
        os.mkdir(self.dir)
        self.socket, self.log = os.path.join(self.dir, "sock"), os.path.join(self.dir, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([os.path.join(DIR, "bin/forkd"), "--socket", self.socket, "--store", os.path.join(self.dir, "store"),
                                             "--runtime-dir", os.path.join(self.dir, "run"), "--vmm", os.path.join(DIR, "bin/forkd-vmm"), *options],
                                            stdout=subprocess.PIPE, stderr=log)
        check(self.process.stdout.readline(), f"forkd did not start{tail(self.log)}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        with contextlib.suppress(Exception):
            for c in self.call("GET", "/v1/clones")["clones"]:
                self.call("DELETE", f"/v1/clones/{c['id']}")
        self.process.terminate()
        self.process.wait(60)
        if exception[0] is not None:
            print(f"forkd's log:{tail(self.log, 30)}")

    def call(self, method, url, body=None):
        return request(self.socket, method, url, body, timeout_s=400)

    def template(self, name, payload, ready, cpus=1, memory=256 << 20, **more):
        """Boots a VM with a vsock device, and makes a template of it."""
        vm = {"payload": payload, "memory": {"size": memory}, "cpus": {"boot_vcpus": cpus, "max_vcpus": cpus},
              "vsock": {"cid": 3, "socket": "vsock"}, **more}
        return self.call("POST", "/v1/templates", {"name": name, "vm": vm, "ready": ready, "timeout_s": 300})


def ask(clone, method, target, body=b"", content_type="application/json"):
    """One request to the clone's agent. Returns the body of the answer."""
    with vsock_connect(clone["vsock_socket"], AGENT_PORT, PATIENCE_S) as s:
        s.sendall(f"{method} {target} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
                  f"Connect-Protocol-Version: 1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        while piece := s.recv(65536):
            answer += piece
    head, _, rest = answer.partition(b"\r\n\r\n")
    check(re.match(rb"HTTP/1.1 20\d", head), f"{method} {target}: {answer[:300]}")
    if b"chunked" in head.lower():
        plain = b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            plain, rest = plain + rest[:int(size, 16)], rest[int(size, 16) + 2:]
        rest = plain
    return rest


def shell(clone, command, user=""):
    """What the command prints, run by the agent, as its default user or another. `clone`: all that is looked at is "vsock_socket"."""
    start = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", command]}, "stdin": False}).encode()
    frames = ask(clone, "POST", "/process.Process/Start" + (f"?username={user}" if user else ""), b"\0" + len(start).to_bytes(4, "big") + start, "application/connect+json")
    printed, last = b"", False
    while frames:
        length = int.from_bytes(frames[1:5], "big")
        message, last = json.loads(frames[5:5 + length]), frames[0] == 2
        frames = frames[5 + length:]
        event = message.get("event", {})
        printed += binascii.a2b_base64(event.get("data", {}).get("stdout", ""))
        if "end" in event:
            check(event["end"].get("exitCode", 0) == 0, f"{command}: {event}")
    check(last, f"{command}: the stream broke off")
    return printed.decode().strip()
