# SPDX-License-Identifier: Apache-2.0
"""What a host must have for a template: shown, compared at import and at the daemon's start, refused by name."""
import json
import os
import subprocess

from forkdtest import FORKCTL, Daemon, ForkdTest
from kvmtest import VMM, edit_state, read, write

RATES = 1000, 0xfffffff0        # no KVM gives both: one that scales refuses the high one, one that catches up the low one


def leaf(root, function, index=0):
    return next(e for e in root["common_cpuid"] if e["function"] == function and (e["index"] == index or not e["flags"] & 1))


def impossible(root, vcpus):
    """What no host has."""
    leaf(root, 1)["edx"] |= 1 << 30                     # ia64
    leaf(root, 7)["ecx"] |= 1 << 15                     # a bit that has no name
    leaf(root, 0x80000008)["eax"] |= 0xff
    vcpus[0]["msrs"].append({"index": 0xdead, "data": 1})
    vcpus[0]["xsave"]["region"] += [0] * 65536


IMPOSSIBLE = ["ia64", "cpuid_7_0_ecx_bit_15", "phys_bits=255", "MSR 0xdead", f"xsave_bytes={4 * (1024 + 65536)} "]


class HostNeeds(ForkdTest):
    def assert_names(self, text, names=tuple(IMPOSSIBLE)):
        self.assertIn("this host lacks what the guest needs: ", text)
        for name in names:
            self.assertIn(name, text)
        self.assertNotIn("CPUID leaf", text)

    def by_hand(self, directory):
        """forkd-vmm --restore, which ends at once: what it says."""
        done = subprocess.run([VMM, "--api-socket", self.path("by-hand.sock"), "--restore", f"source_url=file://{directory}"], timeout=60,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr.decode()

    def edit_manifest(self, d, name, change):
        path = os.path.join(d.store, "templates", name, "manifest.json")
        manifest = json.loads(read(path))
        change(manifest)
        os.chmod(path, 0o600)
        write(path, json.dumps(manifest).encode())

    def doctor(self, d, name):
        """What it says of the template."""
        done = subprocess.run([FORKCTL, "--socket", d.socket, "doctor", "--template", name, "--json"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
        found, = [c for c in json.loads(done.stdout)["checks"] if c["name"] == "template"]
        if found["result"] == "fail":
            self.assertEqual(done.returncode, 1)
        return found

    def test_shown(self):
        d, directory = Daemon(self), self.ticker()
        needs = d.template("t", directory)["needs"]
        self.assertEqual(needs, d.get("/v1/templates/t")["needs"])
        self.assertEqual(sorted(needs), ["cpu", "kvm", "msrs", "tsc_khz", "xsave_bytes"])
        self.assertLessEqual({"fpu", "msr", "lm", "kvm", "kvm_clocksource"}, set(needs["cpu"]))
        self.assertTrue(any(n.startswith("phys_bits=") for n in needs["cpu"]))
        self.assertEqual(len(needs["cpu"]), len(set(needs["cpu"])))
        self.assertGreater(needs["tsc_khz"], 0)
        self.assertGreaterEqual(needs["xsave_bytes"], 4096)
        self.assertIn("0x10", needs["msrs"])            # the TSC itself
        self.assertIn("split_irqchip", needs["kvm"])
        self.assertNotIn("nested_state", needs["kvm"])
        self.assertEqual(self.doctor(d, "t")["result"], "ok")
        self.wait_ticks(d.clone("t"))
        child = d.must(201, "POST", f"/v1/clones/{d.get('/v1/clones')['clones'][0]['id']}/snapshot", {"name": "child"})
        self.assertEqual(child["template"]["needs"]["cpu"], needs["cpu"])

    def test_import_is_refused(self):
        d, directory = Daemon(self), self.ticker()
        edit_state(directory, impossible)
        self.assert_names(d.refused(409, "host_incompatible", "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + directory}))
        d.refused(404, "template_not_found", "GET", "/v1/templates/t")
        self.assert_names(self.by_hand(directory))
        answer = self.start().call("PUT", "vm.restore", {"source_url": f"file://{directory}"})
        self.assertEqual(answer.status, 500)
        self.assert_names(answer.body.decode())

    def test_rate(self):
        """One of these rates is refused, whether this host scales or not; at import, not at the clone."""
        d, refused = Daemon(self), []
        for rate in RATES:
            directory = self.ticker()
            edit_state(directory, lambda root, vcpus, rate=rate: vcpus[0].update(tsc_khz=rate))
            answer = d.call("POST", "/v1/templates", {"name": f"t{rate}", "snapshot": "file://" + directory})
            if answer.status == 201:
                self.assertEqual(d.get(f"/v1/templates/t{rate}")["needs"]["tsc_khz"], rate)
                d.clone(f"t{rate}")
                continue
            refused.append(rate)
            self.assertEqual((answer.status, answer.json["code"]), (409, "host_incompatible"))
            self.assert_names(answer.json["message"], [f"tsc_khz={rate} (it has "])
            self.assert_names(self.by_hand(directory), [f"tsc_khz={rate} (it has "])
        self.assertTrue(refused, "this host gives any rate")

    def test_no_longer(self):
        """A template that was good, on a host that is another now: the daemon starts, shows it and refuses to clone it."""
        d = Daemon(self)
        directory = self.ticker()
        d.template("bad", directory)
        d.template("good", directory)
        d.stop()
        self.edit_manifest(d, "bad", lambda m: m["needs"]["cpu"].append("ia64"))
        d.start()
        shown = d.get("/v1/templates/bad")
        self.assertEqual(shown["state"], "incompatible")
        self.assert_names(shown["reason"], ["ia64"])
        self.assertEqual({t["name"]: t["state"] for t in d.get("/v1/templates")["templates"]}, {"bad": "incompatible", "good": "ready"})
        for _ in range(2):
            self.assert_names(d.refused(409, "host_incompatible", "POST", "/v1/templates/bad/clones", {}), ["ia64", "template 'bad'"])
        self.wait_ticks(d.clone("good"))
        self.assertIn(b"\nforkd_templates 1\n", d.call("GET", "/metrics").body)
        self.assertIn("ia64", d.ctl("template", "show", "bad"))
        found = self.doctor(d, "bad")
        self.assertEqual(found["result"], "fail")
        self.assert_names(found["detail"], ["ia64"])
        d.must(204, "DELETE", "/v1/templates/bad")
        d.refused(404, "template_not_found", "POST", "/v1/templates/bad/clones", {})

    def test_found_when_loaded(self):
        """The state itself needs more than the manifest knows of: the first clone finds it, and from then on it is shown."""
        d = Daemon(self)
        d.template("t", self.ticker())
        d.stop()
        inside = os.path.join(d.store, "templates", "t")
        state = os.path.join(inside, "state.json")
        os.chmod(state, 0o600)
        edit_state(inside, impossible)

        def seal(manifest):
            st = os.stat(state)
            del manifest["needs"]
            manifest["files"][2].update(bytes=st.st_size, inode=st.st_ino, mtime_ns=st.st_mtime_ns, ctime_ns=st.st_ctime_ns)
        self.edit_manifest(d, "t", seal)
        d.start()
        self.assertEqual(d.get("/v1/templates/t")["state"], "ready")
        self.assertIsNone(d.get("/v1/templates/t")["needs"])
        self.assertEqual(self.doctor(d, "t")["result"], "warn")
        for _ in range(2):
            self.assert_names(d.refused(409, "host_incompatible", "POST", "/v1/templates/t/clones", {}))
        self.assertEqual(d.get("/v1/templates/t")["state"], "incompatible")
        self.assert_names(d.get("/v1/templates/t")["reason"])

    def test_older_manifest(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        d.stop()
        self.edit_manifest(d, "t", lambda m: m.pop("needs"))
        d.start()
        self.wait_ticks(d.clone("t"))
