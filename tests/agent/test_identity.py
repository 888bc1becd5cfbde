# SPDX-License-Identifier: Apache-2.0
"""The private port: freezing, thawing, and what makes a clone itself."""
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid

from agenttest import ROOT, Connection, Stream, b64, frame, unb64, wait_for
from systemtest import SystemTest, new_identity

STEPS = ["reseed", "clock", "generation", "hostname", "machine_id", "boot_id", "ssh_host_keys", "dhcp", "net", "files", "env",
         "before", "thaw", "after"]

# Says what a program can see of its machine's identity, and says it again when it changes. What it has read counts when the counter
# is the same before and after.
OBSERVER = r"""
import mmap, os, socket, struct, sys
page = mmap.mmap(os.open("/run/forkd/generation", os.O_RDONLY), 4096, mmap.MAP_SHARED, mmap.PROT_READ)
def read(path):
    with open(path) as f:
        return f.read().strip()
last = None
while True:
    counter, = struct.unpack_from("<Q", page, 8)
    seen = (counter, socket.gethostname(), read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"), os.path.exists("/etc/secret"))
    if seen != last and struct.unpack_from("<Q", page, 8) == (counter,):
        print(*seen, sep="|", flush=True)
        last = seen
"""


class Hello(SystemTest):
    def test_hello(self):
        h = self.daemon("GET", "/v1/hello")
        self.assertRegex(h["agent"], r"^\d+\.\d+\.\d+$")
        self.assertEqual({k: h[k] for k in ("protocol", "generation", "boot", "frozen")},
                         {"protocol": 1, "generation": str(uuid.UUID(int=0)), "boot": "service", "frozen": False})
        self.assertIn("freeze", h["features"])

    def test_not_on_the_api(self):
        """What the daemon alone may ask is not to be had from the API, nor the other way round."""
        self.assertEqual(self.http("GET", "/v1/hello").status, 404)
        with Connection(self.private) as c:
            c.request("GET", "/health")
            self.assertEqual(c.answer().status, 404)

    def test_groups(self):
        self.assertEqual(self.group_of(self.agent.pid), "forkd/agent")


class Identity(SystemTest):
    def test_all_steps(self):
        self.put("forkd/clone.d/ignored", "not a program")
        body = new_identity(hostname="clone-1", machine_id="00112233445566778899aabbccddeeff", boot_id=str(uuid.uuid4()),
                            files=[{"path": "/etc/app/secret", "content": b64(b"s3cret\0")},
                                   {"path": "/etc/app/conf", "content": b64(b"x"), "mode": 0o640, "owner": "daemon:adm"}])
        a = self.daemon("POST", "/v1/identity", body)
        self.assertEqual(a["nonce"], body["nonce"])
        self.assertEqual(list(a["steps_us"]), STEPS)
        self.assertEqual(self.daemon("GET", "/v1/hello")["generation"], body["generation"])
        out = self.start("x.slice", ["hostname"], stdout=subprocess.PIPE).stdout.read()
        self.assertEqual(out, b"clone-1\n")
        self.assertEqual(self.get("/etc/hostname"), "clone-1\n")
        self.assertEqual(self.get("/etc/hosts"),
                         "127.0.0.1 localhost\n127.0.1.1\tclone-1 template.example\n10.0.0.1 template\n")
        self.assertEqual(self.get("/etc/machine-id"), "00112233445566778899aabbccddeeff\n")
        self.assertEqual(self.get("/proc/sys/kernel/random/boot_id"), body["boot_id"] + "\n")
        secret, conf = (os.stat(os.path.join(self.dir, "etc/app", n)) for n in ("secret", "conf"))
        self.assertEqual((secret.st_mode & 0o7777, secret.st_uid, secret.st_size), (0o600, 0, 7))
        self.assertEqual((conf.st_mode & 0o7777, conf.st_uid, conf.st_gid), (0o640, 1, 4))

    def test_random_where_nothing_is_said(self):
        boots, machines = set(), set()
        for _ in range(3):
            self.identity()
            boots.add(self.get("/proc/sys/kernel/random/boot_id"))
            machines.add(self.get("/etc/machine-id"))
        self.assertEqual((len(boots), len(machines)), (3, 3))
        for b in boots:
            self.assertEqual(str(uuid.UUID(b.strip())), b.strip())
        for m in machines:
            self.assertRegex(m, r"^[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}\n$")
        with open(f"/proc/{self.agent.pid}/mounts", encoding="ascii") as f:
            self.assertEqual(f.read().count("/proc/sys/kernel/random/boot_id"), 1)

    def test_boot_id_in_other_namespaces(self):
        """A service with a mount namespace of its own, as systemd makes them, sees the new boot id too."""
        p = self.start("x.slice", ["unshare", "-m", "--propagation", "slave", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE)
        p.stdout.readline()
        boot_id = str(uuid.uuid4())
        self.identity(boot_id=boot_id)
        with open(f"/proc/{p.pid}/root/proc/sys/kernel/random/boot_id", encoding="ascii") as f:
            self.assertEqual(f.read(), boot_id + "\n")

    def test_nobody_sees_half_of_it(self):
        p = self.start("x.slice", [sys.executable, "-c", OBSERVER], stdout=subprocess.PIPE, text=True)
        old = p.stdout.readline()
        self.assertEqual(self.daemon("POST", "/v1/freeze", {})["frozen"], 2)  # and forkd/user
        self.identity(hostname="new", machine_id="1" * 32, boot_id=str(uuid.UUID(int=1)), files=[{"path": "/etc/secret", "content": ""}])
        new = p.stdout.readline()
        self.assertEqual(old.split("|")[1], "template")
        self.assertEqual(new, f"2|new|{'1' * 32}|{uuid.UUID(int=1)}|True\n")

    def test_step_that_fails(self):
        """The answer names step and reason, nothing is thawed, and the same again with the fault gone is well."""
        p = self.start("x.slice", ["sleep", "1000"])
        self.daemon("POST", "/v1/freeze", {})
        self.put("forkd/clone.d/before/10-good", "#!/bin/sh\necho $FORKD_GENERATION $FORKD_HOSTNAME $(pwd) > /run/good\n", 0o755)
        self.put("forkd/clone.d/before/20-bad", "#!/bin/sh\necho one >&2; echo two >&2; exit 3\n", 0o755)
        self.put("forkd/clone.d/before/30-never", "#!/bin/sh\ntouch /run/never\n", 0o755)
        a = self.identity(status=500, hostname="h1")
        self.assertEqual(a["message"], "before: '/etc/forkd/clone.d/before/20-bad' has failed with exit status 3: one two")
        self.assertTrue(self.stands_still("x.slice"))
        self.assertTrue(self.daemon("GET", "/v1/hello")["frozen"])
        self.assertFalse(os.path.exists(f"/proc/{self.agent.pid}/root/run/never"))
        os.remove(os.path.join(self.dir, "etc/forkd/clone.d/before/20-bad"))
        generation = str(uuid.uuid4())
        self.identity(hostname="h2", generation=generation)
        self.assertFalse(self.stands_still("x.slice"))
        self.assertEqual(self.get("/run/good"), f"{generation} h2 /etc/forkd/clone.d/before\n")
        self.get("/run/never")
        self.assertIsNone(p.poll())

    etc = {**SystemTest.etc, "forkd/clone.d/keep": ""}

    def test_hooks_run_where_they_should(self):
        """Hooks of `before` run while all others stand still, those of `after` when they do not."""
        self.start("x.slice", ["sleep", "1000"])
        for when in ("before", "after"):
            self.put(f"forkd/clone.d/{when}/hook", "#!/bin/sh\ncat /proc/self/cgroup /sys/fs/cgroup/x.slice/cgroup.events > "
                     f"/run/{when}\n", 0o755)
        self.daemon("POST", "/v1/freeze", {})
        self.identity()
        self.assertRegex(self.get("/run/before"), r"0::/forkd/agent\n[^$]*frozen 1")
        self.assertRegex(self.get("/run/after"), r"0::/forkd/user\n[^$]*frozen 0")

    def test_shipped_hook(self):
        """Of systemd's services it restarts those that remember ids, without waiting for them; without systemd it does nothing."""
        with open(os.path.join(ROOT, "guest/clone.d/after/50-services"), encoding="utf-8") as f:
            self.put("forkd/clone.d/after/50-services", f.read(), 0o755)
        self.identity()
        fake = os.path.join(self.dir, "lib", "systemctl")
        with open(fake, "w", encoding="ascii") as f:
            f.write('#!/bin/sh\necho "$@" >> /run/asked\n')
        os.chmod(fake, 0o755)
        self.start("x.slice", ["sh", "-c", "mkdir -p /run/systemd/system; mount -t tmpfs tmpfs /usr/local/sbin; cp /var/lib/systemctl /usr/local/sbin/"]).wait()
        self.identity()
        asked = self.get("/run/asked").split()
        self.assertEqual(asked[:2], ["--no-block", "try-restart"])
        self.assertIn("systemd-journald.service", asked)

    def test_thaw_later(self):
        """An identity without a thaw: the hooks of `after` wait for the thaw."""
        self.put("forkd/clone.d/after/hook", "#!/bin/sh\necho x >> /run/after\n", 0o755)
        self.start("x.slice", ["sleep", "1000"])
        self.daemon("POST", "/v1/freeze", {})
        self.identity(thaw=False)
        self.assertTrue(self.stands_still("x.slice"))
        self.assertFalse(os.path.exists(f"/proc/{self.agent.pid}/root/run/after"))
        a = self.daemon("POST", "/v1/thaw", {"wall_ns": time.time_ns()})
        self.assertEqual(list(a["steps_us"]), ["clock", "thaw", "after"])
        self.assertFalse(self.stands_still("x.slice"))
        self.daemon("POST", "/v1/thaw")
        self.assertEqual(self.get("/run/after"), "x\n")

    def test_daemon_goes_away(self):
        """The daemon dies while a hook runs: the hook is ended, nothing is thawed, and the next daemon begins anew."""
        self.put("forkd/clone.d/before/hook", "#!/bin/sh\necho $$ > /run/hook\n[ -e /etc/quick ] || exec sleep 1000\n", 0o755)
        self.start("x.slice", ["sleep", "1000"])
        self.daemon("POST", "/v1/freeze", {})
        c = Connection(self.private)
        c.request("POST", "/v1/identity", json.dumps(new_identity()).encode())
        hook = f"/proc/{self.agent.pid}/root/run/hook"
        pid = int(wait_for("the hook runs", lambda: os.path.exists(hook) and open(hook, encoding="ascii").read()))
        self.assertIn("busy", self.identity(status=409)["message"])
        c.close()
        wait_for("the hook has ended", lambda: not os.path.exists(f"/proc/{pid}"))
        self.assertTrue(self.stands_still("x.slice"))
        self.put("quick", "")
        self.identity()
        self.assertFalse(self.stands_still("x.slice"))

    def test_agent_dies_in_between(self):
        """What an agent has frozen is frozen for the next one, and thawed by it. Its generation goes on."""
        self.identity()
        self.start("x.slice", ["sleep", "1000"])
        self.daemon("POST", "/v1/freeze", {})
        words = os.readlink(f"/proc/{self.agent.pid}/exe")
        p = self.start("forkd/agent", [words, "--listen", f"unix:{self.path}2", "--listen-private", f"unix:{self.private}2"])
        self.private += "2"
        wait_for("the second agent listens", lambda: os.path.exists(self.private))
        self.assertTrue(self.daemon("GET", "/v1/hello")["frozen"])
        self.identity()
        self.assertFalse(self.stands_still("x.slice"))
        with open(f"/proc/{self.agent.pid}/root/run/forkd/generation", "rb") as f:
            self.assertEqual(int.from_bytes(f.read(16)[8:], "little"), 3)
        p.send_signal(signal.SIGTERM)
        p.wait()

    def test_wrong_requests(self):
        """Wrong requests are refused by name, and change nothing; values are in no message and no log."""
        wrong = [({"colour": 1}, "identity.colour: unknown field"),
                 ({"nonce": None}, "identity.nonce: missing"),
                 ({"nonce": "12"}, "nonce: expected 32 hexadecimal digits"),
                 ({"generation": "x"}, "generation: 'x' is no UUID"),
                 ({"entropy": b64(b"x" * 63)}, "entropy: expected 64 to 4096 bytes in base64"),
                 ({"hostname": "-x"}, "hostname: '-x' is none"),
                 ({"machine_id": "0" * 32}, f"machine_id: '{'0' * 32}' is none"),
                 ({"boot_id": "no"}, "boot_id: 'no' is no UUID"),
                 ({"ssh_host_keys": "old"}, "identity.ssh_host_keys:"),
                 ({"files": [{"path": "/a/../b", "content": ""}]}, "files[0].path: expected an absolute path"),
                 ({"files": [{"path": "relative", "content": ""}]}, "files[0].path: expected an absolute path"),
                 ({"files": [{"path": "/etc/", "content": ""}]}, "files[0].path: expected an absolute path"),
                 ({"files": [{"path": "/etc/x", "content": "s3cret!"}]}, "files[0].content: expected base64"),
                 ({"files": [{"path": "/etc/x", "content": "", "color": 1}]}, "identity.files[0].color: unknown field"),
                 ({"files": [{"path": f"/etc/{i}", "content": ""} for i in range(65)]}, "identity.files:"),
                 ({"env": {"s3cret=": "x"}}, "env: expected names without '=' and strings"),
                 ({"env": {"A": 1}}, "env: expected names without '=' and strings"),
                 ({"env": {f"V{i}": "" for i in range(257)}}, "env: expected an object of at most 256 strings"),
                 ({"net": [{"mac": "x"}]}, "net[0].mac: 'x' is no MAC address"),
                 ({"net": [{"mac": "02:00:00:00:00:01", "new_mac": "03:00:00:00:00:01"}]}, "net[0].new_mac:"),
                 ({"net": [{"mac": "02:00:00:00:00:01", "addresses": ["1.2.3.4/33"]}]}, "net[0].addresses[0]: '1.2.3.4/33' is no address"),
                 ({"net": [{"mac": "02:00:00:00:00:01", "dns": ["1.2.3.4\nx"]}]}, "net[0].dns[0]:"),
                 ({"net": [{"mac": "02:00:00:00:00:01"}] * 17}, "identity.net:"),
                 ({"entropy": b64(b"x" * 4097)}, "entropy: expected 64 to 4096 bytes in base64"),
                 ({"wall_ns": 0}, "identity.wall_ns:")]
        for members, message in wrong:
            with self.subTest(members=str(members)[:60]):
                self.assertIn(message, self.identity(status=400, **members)["message"])
        self.assertEqual(self.daemon("GET", "/v1/hello")["generation"], str(uuid.UUID(int=0)))
        with open(self.log, encoding="utf-8") as f:
            self.assertNotIn("s3cret", f.read())
        with Connection(self.private) as c:
            c.request("POST", "/v1/identity", b" " * ((1 << 20) + 1))
            self.assertEqual(c.answer().status, 413)
        self.daemon("POST", "/v1/freeze", {"what": 1}, 400)
        self.daemon("POST", "/v1/clock", {}, 400)
        self.daemon("POST", "/v1/thaw", [], 400)

    def test_unknown_owner(self):
        self.start("x.slice", ["sleep", "1000"])
        self.daemon("POST", "/v1/freeze", {})
        a = self.identity(status=500, files=[{"path": "/etc/x", "content": "", "owner": "nobody-of-that-name"}])
        self.assertEqual(a["message"], "files: '/etc/x': user 'nobody-of-that-name' does not exist")
        self.assertFalse(os.path.exists(os.path.join(self.dir, "etc/x")))
        self.assertTrue(self.stands_still("x.slice"))

    def test_ssh_host_keys(self):
        self.identity()
        self.assertFalse(os.path.exists(os.path.join(self.dir, "etc/ssh")))   # none before, none after
        for kind in ("ed25519", "rsa"):
            self.put(f"ssh/ssh_host_{kind}_key", "old", 0o600)
            self.put(f"ssh/ssh_host_{kind}_key.pub", "old")
        self.put("ssh/sshd_config", "mine")
        self.identity(ssh_host_keys="keep")
        self.assertEqual(self.get("/etc/ssh/ssh_host_rsa_key"), "old")
        keys = set()
        for _ in range(2):
            self.identity(ssh_host_keys="new")
            self.assertEqual(sorted(os.listdir(os.path.join(self.dir, "etc/ssh"))),
                             ["ssh_host_ed25519_key", "ssh_host_ed25519_key.pub", "sshd_config"])
            keys.add(self.get("/etc/ssh/ssh_host_ed25519_key.pub"))
        self.assertEqual(len(keys), 2)
        self.assertEqual(os.stat(os.path.join(self.dir, "etc/ssh/ssh_host_ed25519_key")).st_mode & 0o777, 0o600)

    def test_network(self):
        run = lambda *words: self.start("x.slice", words, stdout=subprocess.PIPE, text=True).communicate()[0]  # noqa: E731
        run("ip", "link", "add", "eth0", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "peer0")
        run("ip", "link", "set", "peer0", "up")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "address", "add", "10.0.0.1/24", "dev", "eth0")
        net = {"mac": "02:00:00:00:00:01", "new_mac": "02:00:00:00:00:77", "addresses": ["10.0.0.9/24", "fd00::9/64"],
               "gateway": "10.0.0.254", "dns": ["10.0.0.53"]}
        for _ in range(2):      # the second time the interface has the new address already
            self.identity(net=[net])
            eth0 = json.loads(run("ip", "-j", "address", "show", "eth0"))[0]
            self.assertEqual(eth0["address"], "02:00:00:00:00:77")
            self.assertEqual(sorted((a["local"], a["prefixlen"]) for a in eth0["addr_info"]),
                             [("10.0.0.9", 24), ("fd00::9", 64), ("fe80::ff:fe00:77", 64)])
            route = json.loads(run("ip", "-j", "route", "show", "default"))
            self.assertEqual([(r["gateway"], r["dev"]) for r in route], [("10.0.0.254", "eth0")])
            self.assertEqual(self.get("/etc/resolv.conf"), "nameserver 10.0.0.53\n")
        a = self.identity(status=500, net=[{"mac": "02:00:00:00:00:99"}])
        self.assertEqual(a["message"], "net: there is no interface with the MAC address 02:00:00:00:00:99")


class Freeze(SystemTest):
    def test_all_but_the_agent(self):
        """Services, what is loose in the root and in the agent's own group: all stand still; init.scope does not."""
        groups = ["system.slice/a.service", "user.slice", "init.scope", "", "forkd/agent", "forkd/user"]
        ps = {g: self.start(g, ["sleep", "1000"]) for g in groups}
        self.assertGreaterEqual(self.daemon("POST", "/v1/freeze", {"sync": True})["frozen"], 4)
        for g in groups:
            with self.subTest(group=g):
                self.assertEqual(self.stands_still(self.group_of(ps[g].pid)), g != "init.scope")
        self.assertEqual(self.group_of(ps[""].pid), "forkd.loose")
        # Once more, for a daemon that does not know: all that has come since.
        before = self.daemon("POST", "/v1/freeze", {})["frozen"]
        self.start("late.slice", ["sleep", "1000"])
        self.assertEqual(self.daemon("POST", "/v1/freeze", {})["frozen"], before + 1)
        self.assertTrue(self.stands_still("late.slice"))
        self.daemon("POST", "/v1/thaw", {})
        for g in groups:
            self.assertFalse(self.stands_still(self.group_of(ps[g].pid)), g)
        self.assertFalse(self.stands_still("late.slice"))
        self.assertEqual(self.daemon("POST", "/v1/freeze", {}).keys(), {"frozen"})
        self.daemon("POST", "/v1/thaw", {})

    def test_what_somebody_else_has_frozen(self):
        """A group that was frozen before stays so after the thaw."""
        self.start("mine.slice", ["sleep", "1000"])
        file, word = ("cgroup.freeze", "1") if self.version == 2 else ("freezer.state", "FROZEN")
        with open(os.path.join(self.group, "mine.slice", file), "w", encoding="ascii") as f:
            f.write(word)
        wait_for("it is frozen", lambda: self.stands_still("mine.slice"))
        self.start("other.slice", ["sleep", "1000"])
        self.daemon("POST", "/v1/freeze", {})
        self.daemon("POST", "/v1/thaw", {})
        self.assertTrue(self.stands_still("mine.slice"))
        self.assertFalse(self.stands_still("other.slice"))

    def test_forks_all_the_time(self):
        """Processes that fork while they are being frozen are frozen too."""
        for g in ("a.slice", ""):
            self.start(g, ["sh", "-c", "while :; do (sleep 0.01)& done"] if g else ["sh", "-c", "while :; do (:); done"])
        self.daemon("POST", "/v1/freeze", {})
        for g in ("a.slice", "forkd.loose"):
            self.assertTrue(self.stands_still(g))

    def test_too_many_groups(self):
        for i in range(1025):
            os.mkdir(os.path.join(self.group, f"{i}.slice"))
        a = self.daemon("POST", "/v1/freeze", {}, 500)
        self.assertRegex(a["message"], r"^\d+ control groups to freeze, at most 1024 are possible$")
        self.assertFalse(self.daemon("GET", "/v1/hello")["frozen"])
        self.assertFalse(self.stands_still("0.slice"))

    def test_client_goes_away(self):
        """Nothing stays frozen that nobody knows of."""
        self.start("x.slice", ["sleep", "1000"])
        c = Connection(self.private)
        c.request("POST", "/v1/freeze", b"{}")
        c.close()
        self.daemon("GET", "/v1/hello")     # what was sent before is read by now
        wait_for("the freeze is over", self.is_free)
        self.assertFalse(self.daemon("GET", "/v1/hello")["frozen"])
        wait_for("all go on", lambda: not self.stands_still("x.slice"))

    def is_free(self):
        with Connection(self.private) as c:
            c.request("POST", "/v1/fsthaw", b"{}")
            return c.answer().status != 409

    def test_processes_of_the_api(self):
        """They are frozen like all others. One that is started meanwhile begins after the thaw, with the clone's environment."""
        request = lambda script: {"process": {"cmd": "/bin/sh", "args": ["-c", script]}}     # noqa: E731
        before = self.stream("process.Process/Start", request("sleep 1000"))
        pid = before.next()["event"]["start"]["pid"]
        self.assertEqual(self.group_of(pid), "forkd/user")
        self.daemon("POST", "/v1/freeze", {})
        self.assertTrue(self.stands_still("forkd/user"))
        c = self.connect()
        c.request("POST", "/process.Process/Start", frame(request("hostname; echo $WORD $OTHER")),
                  {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"})
        self.assertEqual(self.http("GET", "/health").status, 204)
        self.identity(hostname="clone", env={"WORD": "hello"})
        out = b""
        for message in Stream(c):
            out += unb64(message["event"].get("data", {}).get("stdout", ""))
        # Its environment was made when it was asked for.
        self.assertEqual(out, b"clone\n\n")
        later = self.stream("process.Process/Start", request("echo $WORD"))
        self.assertIn(b"hello\n", [unb64(m["event"].get("data", {}).get("stdout", "")) for m in later])


class FreezeV1(Freeze):
    version = 1


class WithoutGroups(SystemTest):
    """A system that has no control groups at all."""
    version = 2

    def start_agent(self):
        self.version = 0
        try:
            super().start_agent()
        finally:
            self.version = 2

    def test_says_so(self):
        self.assertNotIn("freeze", self.daemon("GET", "/v1/hello")["features"])
        a = self.daemon("POST", "/v1/freeze", {}, 500)
        self.assertEqual(a["message"], "the guest has no control groups that can be frozen")
        self.identity()
