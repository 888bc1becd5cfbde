# SPDX-License-Identifier: Apache-2.0
"""The identity contract (docs/identity.md) from outside: a guest that answers as forkd-agent does, or as it must not."""
import contextlib
import glob
import json
import os
import signal
import socket
import threading
import uuid

from forkdtest import Daemon, ForkdTest
from kvmtest import call, guest, read, tmpfs, wait_for

VM = {"memory": {"size": 64 << 20}, "cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "vsock": {"cid": 3, "socket": "x"}}


class AgentTest(ForkdTest):
    def template(self, d, name="t", cmdline="", **more):
        vm = {**VM, "payload": {"kernel": guest("agent"), "cmdline": cmdline}}
        return d.must(201, "POST", "/v1/templates", {"name": name, "vm": vm, "ready": {"agent": True}, "timeout_s": 60, **more})

    def raw(self, d):
        """A connection for requests that are written by hand."""
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(30)
        s.connect(d.socket)
        self.addCleanup(s.close)
        return s

    def serial(self, c):
        return read(c["serial"]).decode(errors="replace")


class Templates(AgentTest):
    def test_made_when_the_agent_answers(self):
        d = Daemon(self)
        t = self.template(d)
        self.assertEqual(t["agent"], {"version": "test", "protocol": 1})
        self.assertFalse(t["secrets"])
        self.assertEqual(d.get("/v1/templates/t")["agent"], {"version": "test", "protocol": 1})

    def test_generation_id(self):
        """With an agent, the VM has one unless the request says otherwise."""
        d = Daemon(self)
        vm = {**VM, "payload": {"kernel": guest("agent")}}
        for i, (platform, found) in enumerate(((None, True), ({}, True), ({"num_pci_segments": 1}, True), ({"vmgenid": False}, False))):
            more = {} if platform is None else {"platform": platform}
            d.must(201, "POST", "/v1/templates", {"name": f"t{i}", "vm": {**vm, **more}, "ready": {"agent": True}, "timeout_s": 60})
            [path] = glob.glob(os.path.join(d.root, "**", f"t{i}", "config.json"), recursive=True)
            self.assertEqual(json.loads(read(path)).get("platform", {}).get("vmgenid", False), found)
        self.assertIn("platform", d.refused(400, "invalid_request", "POST", "/v1/templates", {
            "name": "u", "vm": {**vm, "platform": 1}, "ready": {"agent": True}}))
        d.must(201, "POST", "/v1/templates", {"name": "plain", "vm": vm, "ready": {"serial": "agent: ready"}, "timeout_s": 60})
        [path] = glob.glob(os.path.join(d.root, "**", "plain", "config.json"), recursive=True)
        self.assertNotIn("vmgenid", json.loads(read(path)).get("platform", {}))

    def test_without_an_agent(self):
        d = Daemon(self)
        vm = {**VM, "payload": {"kernel": guest("agent"), "cmdline": "deaf=1"}}
        message = d.refused(504, "timeout", "POST", "/v1/templates", {"name": "t", "vm": vm, "ready": {"agent": True}, "timeout_s": 1})
        self.assertIn("the guest's agent has not answered after 1 s", message)
        self.assertIn("agent: ready", message)    # the end of the serial output
        novsock = {k: v for k, v in vm.items() if k != "vsock"}
        message = d.refused(400, "invalid_request", "POST", "/v1/templates", {"name": "t", "vm": novsock, "ready": {"agent": True}})
        self.assertIn("vm.vsock is missing", message)
        d.must(201, "POST", "/v1/templates", {"name": "t", "vm": vm, "ready": {"serial": "agent: ready"}, "timeout_s": 60})
        self.assertIsNone(d.get("/v1/templates/t")["agent"])
        message = d.refused(400, "invalid_request", "POST", "/v1/templates/t/clones", {"wait": "ready"})
        self.assertIn("needs a guest agent", message)
        message = d.refused(400, "invalid_override", "POST", "/v1/templates/t/clones", {"overrides": {"identity": {}}})
        self.assertIn("needs a guest agent", message)
        [c] = d.clone("t")
        self.assertEqual(c["identity"], "unmanaged")
        self.assertIsNone(c["phases_us"]["ready"])

    def test_of_another_protocol(self):
        d = Daemon(self)
        vm = {**VM, "payload": {"kernel": guest("agent"), "cmdline": "protocol=2"}}
        message = d.refused(409, "incompatible_version", "POST", "/v1/templates", {"name": "t", "vm": vm, "ready": {"agent": True}, "timeout_s": 60})
        self.assertIn("speaks protocol 2, this forkd 1", message)


class Identity(AgentTest):
    def test_ready_means_acknowledged(self):
        d = Daemon(self)
        self.template(d)
        clones = d.clone("t", count=5)
        for c in clones:
            self.assertEqual((c["state"], c["identity"]), ("running", "unique"))
            self.assertIn(f"identity of {c['id']}\n", self.serial(c))
            p = c["phases_us"]
            self.assertLessEqual(p["resumed"], p["agent"])
            self.assertLessEqual(p["agent"], p["identity"])
            self.assertLessEqual(p["identity"], p["ready"])

    def test_what_the_guest_must_not(self):
        d = Daemon(self)
        self.template(d)
        for name, text in (("twin", "another identity"), ("garbage", "is not HTTP"), ("flood", "sends more than"),
                           ("step", "step 'hooks': 10-dns"), ("reset", "hung up")):
            message = d.refused(502, "agent_unreachable", "POST", "/v1/templates/t/clones", {"overrides": {"identity": {"hostname": name}}})
            self.assertIn(text, message)
            self.assertIn("identity", message)
        self.assertEqual(d.get("/v1/clones")["clones"], [])
        self.assertEqual(os.listdir(os.path.join(d.runtime, "clones")), [])

    def test_one_bad_clone_undoes_all(self):
        d = Daemon(self)
        self.template(d)
        wanted = [{}, {"overrides": {"identity": {"hostname": "twin"}}}, {}]
        message = d.refused(502, "agent_unreachable", "POST", "/v1/templates/t/clones", {"clones": wanted})
        self.assertIn("clone 2 of 3", message)
        self.assertEqual(d.get("/v1/clones")["clones"], [])

    def test_resumed_comes_before_ready(self):
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t", wait="resumed")
        self.assertIn(c["identity"], ("pending", "unique"))
        wait_for("the identity", lambda: d.get(f"/v1/clones/{c['id']}")["identity"] == "unique")
        wait_for("the event", lambda: "clone.ready" in [e["type"] for e in d.events()])

    def test_a_clone_that_is_no_one_ends(self):
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t", wait="resumed", overrides={"identity": {"hostname": "twin"}})
        wait_for("the end", lambda: d.get(f"/v1/clones/{c['id']}")["state"] == "exited")
        self.assertIn("another identity", d.get(f"/v1/clones/{c['id']}")["exit"]["reason"])

    def test_not_unique_before_the_next_daemon_would_know(self):
        """Where the record cannot be written the clone ends, and nobody has seen it unique."""
        d = Daemon(self)
        self.template(d, cmdline="identity_ms=500")
        [c] = d.clone("t", wait="resumed")
        os.mkdir(os.path.join(os.path.dirname(c["api_socket"]), "clone.json.new"))
        wait_for("the end", lambda: d.get(f"/v1/clones/{c['id']}")["state"] == "exited")
        ended = d.get(f"/v1/clones/{c['id']}")
        self.assertEqual(ended["identity"], "pending")
        self.assertIn("write the record", ended["exit"]["reason"])

    def test_names_are_for_one(self):
        d = Daemon(self)
        self.template(d)
        for identity in ({"hostname": "a"}, {"machine_id": uuid.uuid4().hex}):
            message = d.refused(400, "invalid_override", "POST", "/v1/templates/t/clones", {"count": 2, "overrides": {"identity": identity}})
            self.assertIn("for one clone", message)
        [c] = d.clone("t", overrides={"identity": {"hostname": "web-1"}})
        self.assertIn("identity of web-1\n", self.serial(c))


class Pauses(AgentTest):
    def test_processes_stand_still_before_the_vcpus(self):
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t")
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        self.assertIn("agent: freeze\n", self.serial(c))
        self.assertNotIn("agent: thaw\n", self.serial(c))
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.assertIn("agent: thaw\n", self.serial(c))

    def test_paused_from_the_start(self):
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t", paused=True)
        self.assertEqual((c["state"], c["identity"]), ("paused", "unique"))
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.assertIn("agent: thaw\n", self.serial(c))

    def check_no_freeze(self, d, c):
        """The clone is paused though its processes run: that is no state for a template, and a resume ends it."""
        url = f"/v1/clones/{c['id']}"
        self.assertEqual(d.must(200, "PUT", url + "/pause")["state"], "paused")
        self.assertIn("was paused while its processes ran", d.refused(409, "invalid_state", "POST", url + "/snapshot", {"name": "u"}))
        self.assertEqual(d.must(200, "PUT", url + "/resume")["state"], "running")

    def test_a_freeze_that_fails(self):
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t", overrides={"identity": {"hostname": "stiff"}})
        self.check_no_freeze(d, c)
        self.assertIn("agent: freeze\n", self.serial(c))
        self.assertIn("agent: thaw\n", self.serial(c))     # who knows how far it came

    def test_a_record_that_cannot_be_written(self):
        """Nothing stands still that the next daemon would not know of; who stands still goes on all the same."""
        if os.geteuid() != 0:
            self.skipTest("needs root to mount a small file system")
        root = self.new_dir("forkd")
        run = os.path.join(root, "run")
        os.mkdir(run)
        with tmpfs(run, "1M"):
            d = Daemon(self, root=root)
            self.template(d)
            [c, other] = d.clone("t", count=2)
            d.must(200, "PUT", f"/v1/clones/{other['id']}/pause")
            with open(os.path.join(run, "filler"), "wb", buffering=0) as f, contextlib.suppress(OSError):
                while True:
                    f.write(bytes(4096))
            self.check_no_freeze(d, c)
            self.assertNotIn("agent: freeze\n", self.serial(c))
            self.assertEqual(d.must(200, "PUT", f"/v1/clones/{other['id']}/resume")["state"], "running")
            self.assertIn("agent: thaw\n", self.serial(other))
            os.unlink(os.path.join(run, "filler"))
            d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})
            d.delete([c, other])
            d.stop()

    def test_a_daemon_that_ends_leaves_nobody_frozen(self):
        d = Daemon(self)
        self.template(d)
        [a, b] = d.clone("t", count=2)
        d.must(200, "PUT", f"/v1/clones/{a['id']}/pause")
        d.kill()
        d.start()
        self.assertEqual(d.get(f"/v1/clones/{a['id']}")["identity"], "unique")
        self.assertEqual(d.get(f"/v1/clones/{b['id']}")["identity"], "unique")
        self.assertNotIn("agent: thaw\n", self.serial(b))
        d.must(200, "PUT", f"/v1/clones/{a['id']}/resume")
        self.assertIn("agent: thaw\n", self.serial(a))


class AtOnce(AgentTest):
    """Pauses, resumes and snapshots of one clone at the same time, with a guest that takes its time to freeze and to thaw."""

    def begin(self, d, c, method, what, body=None, says=None):
        """Returns when the guest has said that it is doing it; the answer comes later."""
        answers, before = [], self.serial(c).count(f"agent: {says}\n")
        thread = threading.Thread(target=lambda: answers.append(d.call(method, f"/v1/clones/{c['id']}/{what}", body)))
        thread.start()
        wait_for(says, lambda: self.serial(c).count(f"agent: {says}\n") > before)
        return lambda: (thread.join(), answers[0].status)[1]

    def told(self, d, c):
        return d.must(200, "GET", f"/v1/clones/{c['id']}/agent/self")

    def test_a_resume_in_a_snapshot(self):
        """The template is of a guest that stands still, whatever comes meanwhile."""
        d = Daemon(self)
        self.template(d, cmdline="freeze_ms=500")
        [c] = d.clone("t")
        snapshot = self.begin(d, c, "POST", "snapshot", {"name": "u"}, "freeze")
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.assertEqual(snapshot(), 201)
        [e] = d.clone("u")
        self.assertEqual((self.told(d, e)["ran"], self.told(d, c)["frozen"]), (False, False))

    def test_a_pause_in_a_resume(self):
        """What stands still goes on with the next resume."""
        d = Daemon(self)
        self.template(d, cmdline="freeze_ms=600 thaw_ms=300")
        [c] = d.clone("t", paused=True)
        resume = self.begin(d, c, "PUT", "resume", says="thaw")
        pause = self.begin(d, c, "PUT", "pause", says="freeze")
        self.assertEqual((resume(), pause()), (200, 200))
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.assertFalse(self.told(d, c)["frozen"])


class Snapshots(AgentTest):
    def test_clones_of_clones(self):
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t")
        made = d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})["template"]
        self.assertEqual(made["agent"], {"version": "test", "protocol": 1})
        self.assertIn("agent: freeze\n", self.serial(c))
        self.assertIn("agent: thaw\n", self.serial(c))
        [e] = d.clone("u")
        self.assertEqual(e["identity"], "unique")
        self.assertIn(f"identity of {e['id']}\n", self.serial(e))

    def test_of_a_clone_that_has_ended(self):
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t")
        os.kill(c["pid"], signal.SIGKILL)
        wait_for("the end", lambda: d.get(f"/v1/clones/{c['id']}")["state"] == "exited")
        self.assertIn("has exited", d.refused(409, "invalid_state", "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"}))
        d.must(204, "DELETE", "/v1/templates/t")    # exited clones do not hold it
        self.assertIn("has exited", d.refused(409, "invalid_state", "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"}))

    def test_paused_by_its_own_api(self):
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t")
        self.assertEqual(call(c["api_socket"], "PUT", "vm.pause").status, 204)
        wait_for("the state", lambda: d.get(f"/v1/clones/{c['id']}")["state"] == "paused")
        message = d.refused(409, "invalid_state", "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})
        self.assertIn("was paused while its processes ran", message)
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})

    def test_secrets(self):
        d = Daemon(self)
        self.template(d)
        secret = "s3cret-" + uuid.uuid4().hex
        [c] = d.clone("t", overrides={"identity": {"env": {"TOKEN": secret}, "files": [{"path": "/run/token", "content": secret}]}})
        self.assertTrue(c["secrets"])
        message = d.refused(409, "has_secrets", "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})
        self.assertNotIn(secret, message)
        made = d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u", "allow_secrets": True})["template"]
        self.assertTrue(made["secrets"])
        [e] = d.clone("u")
        self.assertTrue(e["secrets"])
        d.refused(409, "has_secrets", "POST", f"/v1/clones/{e['id']}/snapshot", {"name": "v"})
        shown = json.dumps(d.get(f"/v1/clones/{c['id']}")) + json.dumps(d.events()) + read(d.log).decode(errors="replace")
        self.assertNotIn(secret, shown)
        for folder, _, files in os.walk(d.root):
            for f in files:
                path = os.path.join(folder, f)
                if os.path.isfile(path) and f != "memory-ranges":
                    self.assertNotIn(secret.encode(), read(path), path)


class Restarts(AgentTest):
    def test_in_the_middle(self):
        """A daemon that is killed while the guest makes itself unique: the next one goes on, or ends what it cannot know."""
        d = Daemon(self)
        self.template(d)
        [plain] = d.clone("t", wait="resumed")
        [wished] = d.clone("t", wait="resumed", overrides={"identity": {"hostname": "silent"}})
        self.assertEqual(wished["identity"], "pending")
        d.kill()
        d.start()
        wait_for("the identity", lambda: d.get(f"/v1/clones/{plain['id']}")["identity"] == "unique")
        wait_for("the end", lambda: d.get(f"/v1/clones/{wished['id']}")["state"] == "exited")


if __name__ == "__main__":
    import unittest
    unittest.main()
