# SPDX-License-Identifier: Apache-2.0
"""The demonstration itself: run by scripts/demo.sh through scripts/lab.sh, as root, where KVM can run Linux.

    demo.py [CLONES [emulated]]

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
        "cmdline": f"console=ttyS0 quiet forkd.test=work forkd.agent=1 forkd.ip={GUEST}/24 forkd.gw={GATEWAY}",
    },
    "vsock": {"cid": 3, "socket": "vsock"},
    "net": [{"id": "net0", "mac": "52:54:00:77:00:02"}],
    "console": {"mode": "Off"},
    "serial": {"mode": "Null"},
}
SOCKET, STORE, RUNTIME, LOG = (os.path.join(TMP, name) for name in ("forkd.sock", "store", "run", "forkd.log"))
PROGRAMS = {os.path.realpath(os.path.join(os.environ["LAB_DIR"], "bin", name)) for name in ("forkd", "forkd-vmm")}
PATIENCE_S = 300        # everything is slow under emulation


class Failed(Exception):
    """Its text says what went wrong."""


def say(text):
    print(f"\n--- {text}", flush=True)


def forkctl(*args, show=True):
    """Runs and prints it; returns the JSON when --json is among the arguments."""
    quiet = "--json" in args
    if show:
        print("$ forkctl", shlex.join(args), flush=True)
    # Both outputs through one pipe: progress comes as lines then, for logs too.
    child = subprocess.Popen(["forkctl", "--socket", SOCKET, *args], stdout=subprocess.PIPE, stderr=None if quiet else subprocess.STDOUT)
    with child:
        output = []
        for line in child.stdout:
            output.append(line)
            if not quiet:
                print("  " + line.decode(), end="", flush=True)
    if child.returncode != 0:
        raise Failed(f"forkctl {shlex.join(args)}: exit status {child.returncode}")
    return json.loads(b"".join(output)) if quiet else None


def wait_for(what, probe, timeout_s=PATIENCE_S):
    deadline = time.monotonic() + timeout_s
    while True:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if answer := probe():
                return answer
        if time.monotonic() > deadline:
            raise Failed(f"waited {timeout_s} s for {what}")
        time.sleep(0.2)


class Network:
    """A network namespace where the host's end of one clone's tap lives: so all clones can have the same address."""

    def __init__(self, tap, stack):
        self.holder = subprocess.Popen([BUSYBOX, "unshare", "-n", BUSYBOX, "sleep", "100000"], start_new_session=True)
        stack.callback(self.close)
        ours = os.stat("/proc/self/ns/net").st_ino
        wait_for("a network namespace", lambda: os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino != ours)
        subprocess.run(["ip", "link", "set", tap, "netns", str(self.holder.pid)], check=True)
        self.run("ip", "addr", "add", GATEWAY + "/24", "dev", tap)
        self.run("ip", "link", "set", tap, "up")

    def run(self, *command):
        subprocess.run([BUSYBOX, "nsenter", "-t", str(self.holder.pid), "-n", BUSYBOX, *command], check=True, stdout=subprocess.DEVNULL, timeout=60)

    def reach(self):
        self.run("ping", "-c", "3", "-A", "-W", "20", GUEST)

    def close(self):
        self.holder.kill()
        self.holder.wait()


def table(rows):
    """The first column is text."""
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [str(cell).rjust(w) if i else str(cell).ljust(w) for i, (cell, w) in enumerate(zip(row, widths))]
        print("  " + "  ".join(cells), flush=True)


def mib(n):
    return f"{n / (1 << 20):.1f} MiB"


def ms(us):
    return f"{us / 1000:.2f} ms"


def start_daemon(stack):
    print(f"$ forkd --socket {SOCKET} --store {STORE} --runtime-dir {RUNTIME} &", flush=True)
    with open(LOG, "wb") as log:
        daemon = subprocess.Popen(["forkd", "--socket", SOCKET, "--store", STORE, "--runtime-dir", RUNTIME, "--vmm", os.environ["LAB_VMM"]],
                                  stdout=subprocess.PIPE, stderr=log, start_new_session=True)
    stack.callback(stop, daemon)
    line = daemon.stdout.readline().decode().strip()
    if not line:
        raise Failed("forkd did not start")
    print("  " + line, flush=True)


def stop(daemon):
    daemon.send_signal(signal.SIGTERM)
    daemon.wait(60)
    daemon.stdout.close()


def make_template(name):
    config = os.path.join(TMP, "vm.json")
    with open(config, "w") as f:
        json.dump(VM, f, indent=2)
    print("  vm.json: the distribution's own kernel, an initramfs with busybox and forkd-agent, 2 vCPUs, 256 MiB, a network card", flush=True)
    begin = time.monotonic()
    forkctl("template", "create", name, "--vm", config, "--ready-agent", "--timeout", str(2 * PATIENCE_S))
    took_s = time.monotonic() - begin
    forkctl("template", "list")
    return took_s


def make_clones(name, n, stack):
    clones = []
    stack.callback(lambda: forkctl("delete", "--all"))
    clones = forkctl("clone", name, "-n", str(n), "--json")["clones"]
    forkctl("list")
    return clones


def execute(clone, command, show=False):
    """What a line of shell prints in the clone."""
    if show:
        print("$ forkctl exec", clone["id"], "--", "sh -c", shlex.quote(command), flush=True)
    done = subprocess.run(["forkctl", "--socket", SOCKET, "exec", clone["id"], "--", "sh", "-c", command], stdout=subprocess.PIPE,
                          timeout=PATIENCE_S)
    if done.returncode != 0:
        raise Failed(f"forkctl exec {clone['id']} -- sh -c {shlex.quote(command)}: exit status {done.returncode}")
    return done.stdout.decode().strip()


def show_life(clones, stack):
    looks = (("its hostname", "hostname"), ("its machine id", "cut -c 1-12 /etc/machine-id"), ("a new uuid4", "cat /proc/sys/kernel/random/uuid"),
             ("up for (s)", "cut -d ' ' -f 1 /proc/uptime"), ("files written", "wc -l < /run/confirmed"))
    rows = [("clone", "tap", *(name for name, _ in looks))]
    for i, c in enumerate(clones):
        rows.append((c["id"], c["net"][0]["tap"], *(execute(c, command, show=i == 0) for _, command in looks)))
    table(rows)
    for column in (1, 2, 3, 4):
        if len({row[column] for row in rows[1:]}) != len(clones):
            raise Failed(f"the clones do not differ in this: {rows[0][column]}")
    for c, row in zip(clones, rows[1:]):
        wait_for(f"clone {c['id']} to write more than {row[6]} files", lambda c=c, was=int(row[6]): int(execute(c, "wc -l < /run/confirmed")) > was)
    print("  All differ, and each goes on with what the template did: it has written more files since.", flush=True)
    for c in clones:
        Network(c["net"][0]["tap"], stack).reach()
    print(f"  All have the address {GUEST}, each behind a tap of its own, and answer there.", flush=True)


def show_memory(clones):
    rows = [("clone", "of its own", "shared with the template")]
    for c in clones:
        stats = forkctl("show", c["id"], "--json", show=False)["stats"]
        rows.append((c["id"], mib(stats["private_dirty_bytes"]), mib(stats["shared_bytes"] + stats["private_clean_bytes"])))
    table(rows)


def show_times(clones, boot_s, emulated):
    rows = [("clone", "request checked", "restored", "guest runs", "is itself, and answers")]
    for c in clones:
        rows.append((c["id"], *(ms(c["phases_us"][phase]) for phase in ("accepted", "restored", "resumed", "ready"))))
    table(rows)
    last_s = max(c["phases_us"]["ready"] for c in clones) / 1e6
    print(f"  To boot that guest and make a template of it took {boot_s:.1f} s; then {len(clones)} clones of it were ready within {last_s * 1000:.0f} ms.")
    if emulated:
        print("  These are times of an emulated processor; on hardware a clone takes a few milliseconds.", flush=True)


def demo(n, emulated, stack):
    say("forkd starts")
    start_daemon(stack)
    say("A Linux guest boots, begins to work (writes files, pings its gateway), and becomes a template as it is")
    boot_s = make_template("busy")
    stack.callback(lambda: forkctl("template", "delete", "busy"))
    say(f"{n} clones of it: running machines, not booted, that go on where the template stopped")
    clones = make_clones("busy", n, stack)
    say("A command in each: they are alive, each is itself, and each goes on by itself")
    with contextlib.ExitStack() as nets:
        show_life(clones, nets)
    say("Memory: they share the template's, only what a clone has written is its own")
    show_memory(clones)
    say("Times, since the first byte of the request")
    show_times(clones, boot_s, emulated)
    say("Cleaning up")


def inventory():
    """What a demonstration could leave behind: programs of this lab, taps, mounts."""
    there = {f"network device {name}" for name in os.listdir("/sys/class/net") if name.startswith("fk")}
    with open("/proc/self/mounts") as f:
        there |= {f"mount {line.split()[1]}" for line in f}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/exe") in PROGRAMS:
                there.add(f"process {pid}")
    for folder in ("clones", "builds"):
        with contextlib.suppress(FileNotFoundError):
            there |= {f"directory {folder}/{name}" for name in os.listdir(os.path.join(RUNTIME, folder))}
    return there


def run(n, emulated):
    before = inventory()
    with contextlib.ExitStack() as stack:
        demo(n, emulated, stack)
    # Names and taps of a clone are free at once; its memory goes a little later.
    with contextlib.suppress(Failed):
        wait_for("the last process", lambda: inventory() <= before, 20)
    if left := inventory() - before:
        raise Failed(f"left behind: {', '.join(sorted(left))}")
    print("  Nothing is left: no process, no tap, no mount, no file.", flush=True)


def interrupted(number, _):
    for each in (signal.SIGTERM, signal.SIGINT):        # cleaning up is not interrupted
        signal.signal(each, signal.SIG_IGN)
    raise Failed(signal.strsignal(number))


def main():
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, interrupted)
    try:
        run(int(sys.argv[1]) if len(sys.argv) > 1 else 4, "emulated" in sys.argv[2:])
    except (Failed, OSError, KeyError, ValueError, subprocess.SubprocessError) as e:
        while e:        # the newest first: what cleaning up met, then why
            print(f"\ndemo: FAILED: {e if isinstance(e, Failed) else repr(e)}", flush=True)
            e = e.__context__
        with contextlib.suppress(OSError), open(LOG, errors="replace") as f:
            print("  forkd's log ended with:\n  " + "  ".join(f.readlines()[-15:]), flush=True)
        sys.exit(1)
    print("\ndemo: done", flush=True)


main()
