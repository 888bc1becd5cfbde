# SPDX-License-Identifier: Apache-2.0
"""exec, run and the removal of files: one request for one command, with a guest that answers as forkd-agent does."""
import base64
import json
import os

import test_agent
from forkdtest import Daemon
from kvmtest import read, wait_for

RESULT = {"exit_code": 3, "signal": None, "timed_out": False, "stdout": "hi\n", "stdout_truncated": False,
          "stderr_b64": base64.b64encode(b"\xff").decode(), "stderr_truncated": False}


class Exec(test_agent.AgentTest):
    def setUp(self):
        super().setUp()
        self.d = Daemon(self)
        self.template(self.d)

    def url(self, c):
        return f"/v1/clones/{c['id']}/exec"

    def same(self, answer, more=()):
        self.assertGreater(answer.pop("took_us"), 0)
        for key in more:
            answer.pop(key)
        self.assertEqual(answer, RESULT)

    def test_exec(self):
        [c] = self.d.clone("t")
        for body in ({"cmd": "x"}, {"shell": "x", "stdin": "y" * 100000}, {"cmd": "x", "args": ["a"], "env": {"A": "b"}, "cwd": "/", "user": "joe"}):
            self.same(self.d.must(200, "POST", self.url(c), body))

    def test_refused(self):
        [c] = self.d.clone("t")
        self.d.refused(400, "invalid_request", "POST", self.url(c))
        self.d.refused(400, "unknown_field", "POST", self.url(c), {"cmd": "x", "argv": []})
        self.d.refused(400, "unknown_field", "POST", self.url(c), {"cmd": "x", "clone": {}})
        self.d.refused(404, "clone_not_found", "POST", "/v1/clones/c-none/exec", {"cmd": "x"})
        self.assertIn("not twice", self.d.refused(400, "invalid_request", "POST", self.url(c), {"cmd": "twice"}))
        self.assertIn(f"clone '{c['id']}'", self.d.refused(502, "agent_unreachable", "POST", self.url(c), {"cmd": "reset"}))
        self.d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        self.d.refused(409, "paused", "POST", self.url(c), {"cmd": "x"})
        self.d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.same(self.d.must(200, "POST", self.url(c), {"cmd": "x"}))

    def test_waits_until_the_clone_is_itself(self):
        [c] = self.d.clone("t", wait="resumed")
        self.same(self.d.must(200, "POST", self.url(c), {"cmd": "x"}))
        self.assertEqual(self.d.get(f"/v1/clones/{c['id']}")["identity"], "unique")

    def test_without_an_agent(self):
        self.d.template("other", self.ticker())
        [c] = self.d.clone("other")
        self.d.refused(502, "agent_unreachable", "POST", self.url(c), {"cmd": "x"})
        self.assertIn("needs a guest agent", self.d.refused(400, "invalid_request", "POST", "/v1/templates/other/run", {"cmd": "x"}))
        self.assertEqual(len(self.d.get("/v1/clones")["clones"]), 1)

    def begin(self, url, body):
        """A request whose answer does not come."""
        s = self.raw(self.d)
        text = json.dumps(body)
        s.sendall(f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())
        return s

    def test_a_client_that_leaves(self):
        """The guest's connection is closed, which kills the command; and a run's clone is deleted."""
        [c] = self.d.clone("t")
        s = self.begin(self.url(c), {"cmd": "silent"})
        wait_for("the command", lambda: "agent: start\n" in self.serial(c))
        s.close()
        wait_for("the guest's connection to end", lambda: "agent: closed\n" in self.serial(c))
        s = self.begin("/v1/templates/t/run", {"cmd": "silent"})
        [other] = wait_for("its clone", lambda: [x for x in self.d.get("/v1/clones")["clones"] if x["id"] != c["id"] and x["state"] == "running"])
        s.close()
        wait_for("its end", lambda: [x["id"] for x in self.d.get("/v1/clones")["clones"]] == [c["id"]])
        self.assertFalse(os.path.exists(os.path.join(self.d.runtime, "clones", other["id"])))

    def test_a_clone_that_ends(self):
        [c] = self.d.clone("t")
        s = self.begin(self.url(c), {"cmd": "silent"})
        wait_for("the command", lambda: "agent: start\n" in self.serial(c))
        self.d.must(204, "DELETE", f"/v1/clones/{c['id']}")
        self.assertIn(b"HTTP/1.1 502 ", s.recv(65536))

    def test_run(self):
        answer = self.d.must(200, "POST", "/v1/templates/t/run", {"shell": "x"})
        made = answer["clone"]
        self.same(answer, ["clone"])
        self.assertEqual((made["template"], made["identity"]), ("t", "unique"))
        self.assertEqual(self.d.get("/v1/clones")["clones"], [])
        answer = self.d.must(200, "POST", "/v1/templates/t/run", {
            "shell": "x", "clone": {"labels": {"job": "7"}, "overrides": {"identity": {"hostname": "web-1", "env": {"TOKEN": "s3cret"}}}}})
        self.assertEqual(answer["clone"]["labels"], {"job": "7"})
        self.assertNotIn("s3cret", json.dumps(answer) + read(self.d.log).decode(errors="replace"))
        for clone, says in (({"count": 2}, "in one clone, not in 2"), ({"paused": True}, "leave out paused"), ({"wait": "resumed"}, "leave out wait"),
                            ([], "clone: expected an object"), ({"x": 1}, "no field 'x'")):
            status, code = (400, "unknown_field") if clone == {"x": 1} else (400, "invalid_request")
            self.assertIn(says, self.d.refused(status, code, "POST", "/v1/templates/t/run", {"cmd": "x", "clone": clone}))
        self.d.refused(404, "template_not_found", "POST", "/v1/templates/none/run", {"cmd": "x"})
        self.d.refused(502, "agent_unreachable", "POST", "/v1/templates/t/run", {"cmd": "reset"})
        self.assertEqual(self.d.get("/v1/clones")["clones"], [])

    def test_run_of_a_daemon_that_is_killed(self):
        """Its clone has a time to live, by which the next daemon ends it."""
        self.begin("/v1/templates/t/run", {"cmd": "silent", "timeout_s": 7})
        [c] = wait_for("its clone", lambda: [x for x in self.d.get("/v1/clones")["clones"] if x["state"] == "running"])
        self.assertEqual(c["ttl_s"], 127)
        self.d.kill()
        self.d.start()
        self.assertEqual(self.d.get(f"/v1/clones/{c['id']}")["ttl_s"], 127)

    def test_remove_a_file(self):
        [c] = self.d.clone("t")
        url = f"/v1/clones/{c['id']}/files"
        self.d.must(204, "DELETE", url + "?path=/tmp/x")
        self.assertIn("agent: remove /tmp/x\n", self.serial(c))
        self.assertIn("recursive=true", self.d.refused(400, "invalid_request", "DELETE", url + "?path=/dir"))
        self.assertNotIn("agent: remove /dir\n", self.serial(c))
        self.d.must(204, "DELETE", url + "?path=/dir&recursive=true")
        self.assertIn("agent: remove /dir\n", self.serial(c))
        self.assertIn("it is not there", self.d.refused(404, "not_found", "DELETE", url + "?path=/none"))
        self.d.refused(400, "invalid_request", "DELETE", url)
        self.d.refused(400, "invalid_request", "DELETE", url + "?path=&recursive=true")     # not the user's home
        self.assertNotIn("agent: remove \n", self.serial(c))
        self.d.refused(400, "invalid_request", "DELETE", url + "?path=/x&recursive=1")
