# SPDX-License-Identifier: Apache-2.0
"""Linux guests with forkd-agent, cloned by forkd: no clone draws what another draws, and each has ids, a name and a clock of its own."""
import binascii
import contextlib
import json
import os
import re
import subprocess
import time

from lab import DIR, INITRD, KERNEL, TMP, check, request, tail, test, vsock_connect, wait_for

CLONES = 4
AGENT_PORT = 983
DRAWS = "/run/draws"


class Forkd:
    """A daemon of its own, and what its clones say."""

    def __init__(self, name):
        self.dir = os.path.join(TMP, name)
        os.mkdir(self.dir)
        self.socket, self.log = os.path.join(self.dir, "sock"), os.path.join(self.dir, "log")
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([os.path.join(DIR, "bin/forkd"), "--socket", self.socket, "--store", os.path.join(self.dir, "store"),
                                             "--runtime-dir", os.path.join(self.dir, "run"), "--vmm", os.path.join(DIR, "bin/forkd-vmm")],
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

    def template(self, name, ready):
        vm = {"payload": {"kernel": KERNEL, "initramfs": INITRD, "cmdline": "console=ttyS0 quiet panic=-1 forkd.test=agent"},
              "memory": {"size": 256 << 20}, "cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "vsock": {"cid": 3, "socket": "vsock"}}
        return self.call("POST", "/v1/templates", {"name": name, "vm": vm, "ready": ready, "timeout_s": 300})


def ask(clone, method, target, body=b"", content_type="application/json"):
    """One request to the clone's agent. Returns the body of the answer."""
    with vsock_connect(clone["vsock_socket"], AGENT_PORT, 60) as s:
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


def shell(clone, command):
    """What the command prints, run by the agent."""
    start = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", command]}, "stdin": False}).encode()
    frames = ask(clone, "POST", "/process.Process/Start", b"\0" + len(start).to_bytes(4, "big") + start, "application/connect+json")
    printed = b""
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


def draws(clone):
    """(time of day, monotonic time, bytes) of each draw so far; the newest may be half written."""
    return [(int(a), int(b), c) for a, b, c in re.findall(r"^(\d+) (\d+) ([0-9a-f]{32})$", shell(clone, f"cat {DRAWS}"), re.M)]


def after_the_clone(all_draws):
    """What each clone has drawn since it was cloned: all behind the draws that come from the template. These are found by their
    monotonic time and their bytes both being the same; a clone that draws what its sibling draws does so at another instant."""
    common = 0
    while all(len(d) > common for d in all_draws) and len({(d[common][1], d[common][2]) for d in all_draws}) == 1:
        common += 1
    check(common > 10, f"only {common} draws come from the template")
    return common, [d[common:] for d in all_draws]


@test("identity", "quick", "full")
def identity():
    with Forkd("identity") as d:
        t = d.template("t", {"agent": True})
        check(t["agent"]["protocol"] == 1, f"the template has no agent: {t}")
        asked_ns = time.time_ns()
        clones = d.call("POST", "/v1/templates/t/clones", {"count": CLONES})["clones"]
        check([c["identity"] for c in clones] == ["unique"] * CLONES, f"not all are unique: {clones}")
        print(f"  {CLONES} clones are ready after {max(c['phases_us']['ready'] for c in clones) / 1000:.0f} ms: {clones[0]['phases_us']}")
        for c in clones:
            wait_for(f"five draws of {c['id']}", lambda c=c: len(draws(c)) > 5 and draws(c)[-5][0] >= asked_ns,
                     context=lambda c=c: f": {draws(c)[-5:]}, asked for at {asked_ns}")
        common, own = after_the_clone([draws(c) for c in clones])
        values = [value for d_ in own for _, _, value in d_]
        check(len(values) == len(set(values)), "two clones have drawn the same bytes")
        for c, d_ in zip(clones, own):
            check(d_[0][0] >= asked_ns - 200_000_000, f"{c['id']} has drawn {asked_ns - d_[0][0]} ns before it was asked for")
        names = {shell(c, "hostname") for c in clones}
        check(names == {c["id"] for c in clones}, f"hostnames {names}")
        for what in ("cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "cat /proc/sys/kernel/random/uuid"):
            found = {shell(c, what) for c in clones}
            check(len(found) == CLONES, f"{what}: {found}")
        for c in clones:
            off = 0.1 + (c["phases_us"]["identity"] - c["phases_us"]["agent"]) / 2e6
            before = time.time()
            inside = int(shell(c, "date +%s"))      # whole seconds
            check(before - 1 - off <= inside <= time.time() + off, f"{c['id']} has the time {inside}, the host {before}; {off} s are allowed")
        print(f"  {common} draws in the template, then {len(values)} draws, all different")
        # A clone of a clone, and one that was paused
        d.call("PUT", f"/v1/clones/{clones[0]['id']}/pause")
        d.call("POST", f"/v1/clones/{clones[0]['id']}/snapshot", {"name": "u"})
        d.call("PUT", f"/v1/clones/{clones[0]['id']}/resume")
        again = d.call("POST", "/v1/templates/u/clones", {"count": 2, "overrides": {"identity": {"env": {"TOKEN": "s3cret"}, "files": [
            {"path": "/run/secret", "content": "s3cret\n"}]}}})["clones"]
        check(len({shell(c, "cat /etc/machine-id /proc/sys/kernel/random/boot_id") for c in [*again, *clones]}) == CLONES + 2, "ids of clones of a clone")
        for c in again:
            check(shell(c, "echo $TOKEN; cat /run/secret; stat -c %a /run/secret") == "s3cret\ns3cret\n600", "settings of a clone")


@test("twins", "full")
def twins():
    """The same guest without the contract: its clones draw the same bytes. This is what the test above would see."""
    with Forkd("twins") as d:
        d.template("t", {"serial": "lab-guest: ready"})
        clones = d.call("POST", "/v1/templates/t/clones", {"count": 2})["clones"]
        check([c["identity"] for c in clones] == ["unmanaged"] * 2, f"{clones}")
        def same():
            a, b = ({value for _, _, value in draws(c)[-200:]} for c in clones)
            return a & b
        check(same() or wait_for("the same draw in both", same), "no draw is the same")
