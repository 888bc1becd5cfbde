# SPDX-License-Identifier: Apache-2.0
"""An agent that believes to be in a guest: mounts, hostname, network and control groups of its own, with the private port open.

What the agent does to its system happens in namespaces: /run is empty, /etc and /var/lib are folders of the test. self.group is the
root of the control groups that the agent sees, by its path in this host.
"""
import base64
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import uuid

from agenttest import AGENT, AgentTest, Connection, wait_for

# $1: the test's folder; $2: the version of control groups. The rest is the command.
INSIDE = r"""
set -e
dir=$1 version=$2; shift 2
mount --make-rprivate /
umount -R -l /sys/fs/cgroup
if [ "$version" = 2 ]; then
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
elif [ "$version" = 1 ]; then
	mount -t tmpfs tmpfs /sys/fs/cgroup
	mkdir /sys/fs/cgroup/freezer
	mount -t cgroup -o freezer cgroup /sys/fs/cgroup/freezer
fi
mount -t tmpfs tmpfs /run
mount --bind "$dir/etc" /etc
mount --bind "$dir/lib" /var/lib
mount --make-rshared /
hostname template
ip link set lo up
exec "$@"
"""


def hierarchy(version):
    """Where this host has the control groups; None: it has not."""
    wanted = r"cgroup2 \S+" if version == 2 else r"cgroup \S*\bfreezer\b\S*"
    with open("/proc/mounts", encoding="ascii") as f:
        found = re.search(rf"^\S+ (\S+) {wanted} ", f.read(), re.M)
    return found.group(1) if found else None


class SystemTest(AgentTest):
    version = 2
    etc = {"hostname": "template\n", "machine-id": "0123456789abcdef0123456789abcdef\n",
           "hosts": "127.0.0.1 localhost\n127.0.1.1\ttemplate template.example\n10.0.0.1 template\n"}
    command = ()    # in front of the agent's own
    namespaces = ["-m", "-u", "-n", "-C"]

    def setUp(self):
        top = hierarchy(self.version)
        if os.geteuid() != 0 or not top:
            self.skipTest(f"needs root, and control groups of version {self.version}")
        self.group = os.path.join(top, f"forkd-test-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        self.started = []
        super().setUp()

    def start_agent(self):
        if not os.path.exists(self.group):
            os.mkdir(self.group)
            self.addCleanup(self.remove_groups)
            self.make_folders()
        self.private = os.path.join(self.dir, "p")
        self.log = os.path.join(self.dir, "log")
        words = ["unshare", *self.namespaces, "sh", "-c", INSIDE, "sh", self.dir, str(self.version), *self.command,
                 AGENT, "--listen", f"unix:{self.path}", "--listen-private", f"unix:{self.private}", *self.options]
        with open(self.log, "ab") as log:
            self.agent = subprocess.Popen(words, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=lambda: self.enter(""))
        self.addCleanup(self.stop_agent)
        wait_for("the agent listens", lambda: self._listens() or self.agent.poll() is not None)

    def make_folders(self):
        for name in ("etc", "lib"):
            os.mkdir(os.path.join(self.dir, name))
        for name in ("passwd", "group", "ld.so.cache"):
            source, target = os.path.join("/etc", name), os.path.join(self.dir, "etc", name)
            if os.path.isdir(source):
                shutil.copytree(source, target, symlinks=True)
            elif os.path.exists(source):
                shutil.copy(source, target)
        for name, text in self.etc.items():
            self.put(name, text)

    def put(self, name, text, mode=0o644):
        """A file below the agent's /etc."""
        path = os.path.join(self.dir, "etc", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(path, mode)

    def get(self, path):
        """A file as the agent sees it."""
        with open(f"/proc/{self.agent.pid}/root{path}", encoding="utf-8") as f:
            return f.read()

    # ---- control groups ----

    def enter(self, group):
        with open(os.path.join(self.group, group, "cgroup.procs"), "w", encoding="ascii") as f:
            f.write("0")

    def start(self, group, words, **more):
        """A process of the guest, in a control group and in the agent's namespaces."""
        os.makedirs(os.path.join(self.group, group), exist_ok=True)
        namespaces = [f"/proc/{self.agent.pid}/ns/{n}" for n in ("mnt", "uts", "net", "cgroup")]

        def inside():
            self.enter(group)
            libc = ctypes.CDLL(None, use_errno=True)
            for fd in [os.open(n, os.O_RDONLY) for n in namespaces]:
                if libc.setns(fd, 0) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                os.close(fd)
        p = subprocess.Popen(words, preexec_fn=inside, **more)
        self.started.append(p)
        self.addCleanup(self.end, p)
        return p

    def end(self, p):
        if p.poll() is None:
            self.thaw_by_force()    # in version 1 nobody can kill what is frozen
            p.kill()
            p.wait()
        for stream in (p.stdin, p.stdout, p.stderr):
            if stream:
                stream.close()

    def stands_still(self, group):
        """Whether a group is frozen, in the kernel's own words."""
        name, word = ("cgroup.events", "frozen 1") if self.version == 2 else ("freezer.state", "FROZEN")
        with open(os.path.join(self.group, group, name), encoding="ascii") as f:
            return word in f.read()

    def group_of(self, pid):
        with open(f"/proc/{pid}/cgroup", encoding="ascii") as f:
            paths = dict(line.split(":", 1)[1].rstrip("\n").split(":", 1) for line in f)
        path = paths[""] if self.version == 2 else next(v for k, v in paths.items() if "freezer" in k.split(","))
        return os.path.relpath(path, "/" + os.path.basename(self.group))

    def thaw_by_force(self):
        for folder, _, _ in os.walk(self.group):
            file, word = ("cgroup.freeze", "0") if self.version == 2 else ("freezer.state", "THAWED")
            if os.path.exists(os.path.join(folder, file)):
                with open(os.path.join(folder, file), "w", encoding="ascii") as f:
                    f.write(word)

    def remove_groups(self):
        """Kills whatever a failed test has left, and removes its groups."""
        self.thaw_by_force()
        for folder, _, _ in os.walk(self.group, topdown=False):
            with open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as f:
                for pid in f.read().split():
                    os.kill(int(pid), signal.SIGKILL)

            def removed():
                try:
                    os.rmdir(folder)
                    return True
                except OSError:
                    return False
            wait_for(f"{folder} is empty", removed)

    # ---- the private port ----

    def daemon(self, method, path, message=None, status=200):
        """One request to the private port: the answer's object."""
        with Connection(self.private) as c:
            c.request(method, path, None if message is None else json.dumps(message).encode())
            a = c.answer()
        self.assertEqual(a.status, status, a)
        return a.json()

    def identity(self, status=200, **members):
        return self.daemon("POST", "/v1/identity", new_identity(**members), status)


def new_identity(**members):
    import time
    body = {"nonce": uuid.uuid4().hex, "generation": str(uuid.uuid4()), "entropy": base64.b64encode(os.urandom(64)).decode(),
            "wall_ns": time.time_ns(), **members}
    return {k: v for k, v in body.items() if v is not None}
