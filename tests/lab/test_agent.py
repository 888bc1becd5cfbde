# SPDX-License-Identifier: Apache-2.0
"""Linux with forkd-agent as its first process: the template, and clones of which none is another (docs/identity.md)."""
import os
import subprocess

from daemon import Forkd, shell
from lab import DIR, INITRD, KERNEL, TMP, check, run, test, wait_for

CLONES = 3
AGENT = os.path.join(DIR, "bin/forkd-agent")
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


def make_initrd(path, work=WORK):
    """`work`: the script that runs under the agent."""
    root = path + "-root"
    os.makedirs(os.path.join(root, "bin"))
    os.makedirs(os.path.join(root, "etc"))
    run("cp", AGENT, os.path.join(root, "bin"))
    for name, text in {**FILES, "work": work}.items():
        with open(os.path.join(root, name), "w", encoding="ascii") as f:
            f.write(text)
    names = "".join(f"{n}\n" for n in ("bin/forkd-agent", *FILES)).encode()
    with open(path, "wb") as out, open(INITRD, "rb") as base:
        out.write(base.read())
        out.write(subprocess.run(["cpio", "-o", "-H", "newc"], input=names, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                 check=True).stdout)


@test("agent", "full")
def agent():
    initrd = os.path.join(TMP, "agent.img")
    make_initrd(initrd)
    with Forkd("agent") as d:
        d.template("agent", {"kernel": KERNEL, "initramfs": initrd, "cmdline": CMDLINE}, {"agent": True}, cpus=2)
        clones = d.call("POST", "/v1/templates/agent/clones", {"count": CLONES})["clones"]
        drawn = []
        for c in clones:
            check(c["identity"] == "unique", f"{c['id']}: identity is {c['identity']}")

            def own():
                return [line.split() for line in shell(c, "cat /run/draws").splitlines() if line.startswith(c["id"] + " ")]     # noqa: B023
            wait_for(f"draws of {c['id']}", lambda: len(own()) >= 3)    # noqa: B023
            drawn.append(own()[:3])
            check(shell(c, "cat /proc/self/cgroup") == "0::/forkd/user", f"{c['id']}: what the agent starts is not in its group")
        for column, name in ((1, "/dev/urandom"), (2, "UUIDs")):
            values = [line[column] for lines in drawn for line in lines]
            check(len(set(values)) == len(values), f"{name}: the same twice: {drawn}")
        for column, name in ((3, "machine id"), (4, "boot id")):
            check(len({lines[0][column] for lines in drawn}) == CLONES, f"{name}: the same in two clones: {drawn}")
        for c in clones:
            d.call("DELETE", f"/v1/clones/{c['id']}")
