# SPDX-License-Identifier: Apache-2.0
"""The demonstration itself: run by scripts/demo.sh through scripts/lab.sh, as root, where KVM can run Linux.

A user does the same with forkctl; each command is printed before it runs. Only the network of the clones is set up without it.
"""
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time

TMP, BUSYBOX = os.environ["LAB_TMP"], os.environ["LAB_BUSYBOX"]
GATEWAY, GUEST = "192.168.77.1", "192.168.77.2"
VM = {
    "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
    "memory": {"size": 256 << 20},
    "payload": {
        "kernel": os.environ["LAB_KERNEL"],
        "initramfs": os.environ["LAB_INITRD"],
        "cmdline": f"console=ttyS0 forkd.test=work forkd.ip={GUEST}/24 forkd.gw={GATEWAY}",
    },
    "net": [{"id": "net0", "mac": "52:54:00:77:00:02"}],
    "console": {"mode": "Off"},
    "serial": {"mode": "Null"},
}
SOCKET = os.path.join(TMP, "forkd.sock")


def say(text):
    print(f"\n--- {text}", flush=True)


def forkctl(*args, show=True):
    """Runs and prints it; returns the JSON when --json is among the arguments."""
    quiet = "--json" in args
    if show:
        print("$ forkctl", shlex.join(args), flush=True)
    done = subprocess.run(["forkctl", "--socket", SOCKET, *args], stdout=subprocess.PIPE if quiet else None, check=True, timeout=600)
    return json.loads(done.stdout) if quiet else None


def wait_for(what, probe, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if answer := probe():
                return answer
        if time.monotonic() > deadline:
            sys.exit(f"demo: waited {timeout_s} s for {what}")
        time.sleep(0.2)


class Network:
    """A network namespace where the host's end of one clone's tap lives: so all clones can have the same address."""

    def __init__(self, tap):
        self.holder = subprocess.Popen([BUSYBOX, "unshare", "-n", BUSYBOX, "sleep", "100000"])
        ours = os.stat("/proc/self/ns/net").st_ino
        wait_for("a network namespace", lambda: os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino != ours)
        subprocess.run(["ip", "link", "set", tap, "netns", str(self.holder.pid)], check=True)
        self.run("ip", "addr", "add", GATEWAY + "/24", "dev", tap)
        self.run("ip", "link", "set", tap, "up")

    def run(self, *command, text=None):
        return subprocess.run([BUSYBOX, "nsenter", "-t", str(self.holder.pid), "-n", BUSYBOX, *command], input=text, check=True,
                              stdout=subprocess.PIPE, timeout=60).stdout.decode()

    def ask(self, question):
        """A line of shell for the guest, over its network."""
        answer = self.run("nc", "-w", "20", GUEST, "7", text=(question + "\n").encode())
        return answer.rpartition("rc=")[0].strip()

    def close(self):
        self.holder.kill()
        self.holder.wait()


def table(rows):
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  " + "  ".join(str(cell).rjust(w) for cell, w in zip(row, widths)), flush=True)


def mib(n):
    return f"{n / (1 << 20):.1f} MiB"


def ms(us):
    return f"{us / 1000:.2f} ms"


def start_daemon(stack):
    print("$ forkd --socket … --store … &", flush=True)
    daemon = subprocess.Popen(["forkd", "--socket", SOCKET, "--store", os.path.join(TMP, "store"), "--runtime-dir", os.path.join(TMP, "run"),
                               "--vmm", os.environ["LAB_VMM"]], stdout=subprocess.PIPE)
    stack.callback(stop, daemon)
    line = daemon.stdout.readline().decode().strip()
    if not line:
        sys.exit("demo: forkd did not start")
    print(line, flush=True)


def stop(daemon):
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(60)


def demo(n, stack):
    say("forkd starts")
    start_daemon(stack)

    say("A Linux guest boots, begins to work (writes files, pings its gateway), and becomes a template")
    config = os.path.join(TMP, "vm.json")
    with open(config, "w") as f:
        json.dump(VM, f, indent=2)
    begin = time.monotonic()
    forkctl("template", "create", "busy", "--vm", config, "--ready-serial", "lab-guest: beat", "--timeout", "300")
    boot_s = time.monotonic() - begin
    forkctl("template", "list")

    say(f"{n} clones of it")
    clones = forkctl("clone", "busy", "-n", str(n), "--json")["clones"]
    stack.callback(lambda: forkctl("delete", "--all", show=False) if clones else None)
    nets = []
    for c in clones:
        nets.append(Network(c["net"][0]["tap"]))
        stack.callback(nets[-1].close)
    forkctl("list")

    say("Each is alive and goes on working on its own: asked over its own network")
    rows = [("clone", "tap", "up since", "files so far", "random number", "its own mark")]
    for i, (c, net) in enumerate(zip(clones, nets)):
        wait_for(f"clone {c['id']} on its network", lambda net=net: net.run("ping", "-c", "1", "-W", "2", GUEST))
        wait_for(f"an answer of clone {c['id']}", lambda net=net, i=i: net.ask(f"echo I am clone {i} > /run/mark; echo done") == "done")
    for c, net in zip(clones, nets):
        rows.append((c["id"], c["net"][0]["tap"], net.ask("cut -d ' ' -f 1 /proc/uptime") + " s", net.ask("cat /run/files"),
                     net.ask("head -c 4 /dev/hwrng | od -An -tx4").strip(), net.ask("cat /run/mark")))
    table(rows)
    for column, what in ((1, "taps"), (4, "random numbers"), (5, "marks")):
        if len({row[column] for row in rows[1:]}) != n:
            sys.exit(f"demo: the clones do not differ in their {what}")

    say("They share the template's memory: only what a clone has written is its own")
    rows = [("clone", "own memory", "shared with the template")]
    for c in clones:
        stats = forkctl("show", c["id"], "--json", show=False)["stats"]
        rows.append((c["id"], mib(stats["private_dirty_bytes"]), mib(stats["shared_bytes"] + stats["private_clean_bytes"])))
    table(rows)

    say("Times, from the first byte of the request")
    rows = [("clone", "process there", "restored", "guest runs")]
    for c in clones:
        p = c["phases_us"]
        rows.append((c["id"], ms(p["accepted"]), ms(p["restored"]), ms(p["resumed"])))
    table(rows)
    print(f"  booting, getting ready and snapshotting the same guest took {boot_s:.1f} s", flush=True)

    say("Cleaning up")
    forkctl("delete", "--all")
    clones.clear()
    forkctl("template", "delete", "busy")


def main():
    with contextlib.ExitStack() as stack:
        demo(int(sys.argv[1]) if len(sys.argv) > 1 else 4, stack)
    left = [name for name in os.listdir(os.path.join(TMP, "run", "clones"))]
    if left:
        sys.exit(f"demo: left behind: {left}")
    print("\ndemo: done; nothing is left behind", flush=True)


main()
