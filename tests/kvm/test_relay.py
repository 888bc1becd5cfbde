# SPDX-License-Identifier: Apache-2.0
"""/v1/clones/{id}/agent/…: what reaches an agent in a guest, what comes back, and what a guest or a client cannot do to others."""
import base64
import os
import threading

import test_agent
from forkdtest import Daemon
from kvmtest import wait_for


class AgentRoute(test_agent.AgentTest):
    def daemon(self, n=1):
        d = Daemon(self)
        self.template(d)
        return d, d.clone("t", n)

    def url(self, c, path):
        return f"/v1/clones/{c['id']}/agent{path}"

    def test_passes(self):
        d, (c,) = self.daemon()
        self.assertEqual(d.call("GET", self.url(c, "/health")).status, 204)
        answer = d.call("POST", self.url(c, "/x"), {"a": [1, 2]}, headers={"Content-Type": "application/anything"})
        self.assertEqual((answer.status, answer.json), (200, {"a": [1, 2]}))
        self.assertEqual(answer.headers["Content-Security-Policy"], "sandbox")
        big = os.urandom(1500).hex().encode()
        self.assertEqual(d.call("PUT", self.url(c, "/x"), big).body, big)
        secrets = {"Authorization": "Bearer secret", "Cookie": "a=secret", "X-API-Key": "secret", "X-Access-Token": "secret",
                   "X-Forkd-User": "joe", "X-Other": "kept", "Connection": "X-Hop", "X-Hop": "1"}
        head = d.call("GET", self.url(c, "/head/a%2fb?q=%20"), headers=secrets).body.decode()
        self.assertEqual(head.split("\r\n")[0], "GET /head/a%2fb?q=%20 HTTP/1.1")
        self.assertNotIn("secret", head)
        self.assertNotIn("X-Hop", head)
        self.assertIn("X-Other: kept\r\n", head)
        self.assertIn(f"Authorization: Basic {base64.b64encode(b'joe:').decode()}\r\n", head)
        head = d.call("GET", self.url(c, "/head?username=ann")).body.decode()
        self.assertIn(f"Authorization: Basic {base64.b64encode(b'ann:').decode()}\r\n", head)
        self.assertIn('method="GET",route="/v1/clones/{id}/agent/{path}",status="2xx"', d.call("GET", "/metrics").body.decode())

    def test_one_connection_for_all(self):
        """Routes of both kinds on one kept connection, sent at once."""
        d, (c,) = self.daemon()
        s = self.raw(d)
        one = f"GET {self.url(c, '/health')} HTTP/1.1\r\nHost: x\r\n\r\n"
        s.sendall((one + "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + one + "GET /v1/clones/none/agent/x HTTP/1.1\r\nHost: x\r\n\r\n" +
                   f"POST {self.url(c, '/x')} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc").encode())
        got = b""
        while not got.endswith(b"\r\n\r\nabc"):
            part = s.recv(65536)
            self.assertTrue(part, got)
            got += part
        self.assertEqual([int(p[:3]) for p in got.split(b"HTTP/1.1 ")[1:]], [204, 200, 204, 404, 200])

    def test_refused(self):
        d, (c,) = self.daemon()
        d.refused(404, "clone_not_found", "GET", "/v1/clones/c-none/agent/health")
        d.refused(404, "not_found", "GET", f"/v1/clones/{c['id']}/agent")
        d.refused(405, "method_not_allowed", "OPTIONS", self.url(c, "/health"))
        d.refused(400, "invalid_request", "GET", self.url(c, "/head"), headers={"X-Forkd-User": "a:b"})
        d.refused(400, "invalid_request", "GET", self.url(c, "/head"), headers={"X-Forkd-User": "x" * 65})
        self.assertIn("not of HTTP/1.1", d.refused(502, "agent_unreachable", "GET", self.url(c, "/garbage")))
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        self.assertIn("is paused", d.refused(409, "paused", "GET", self.url(c, "/health")))
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.assertEqual(d.call("GET", self.url(c, "/health")).status, 204)

    def test_no_agent(self):
        """A guest that has no vsock device, and one whose process is gone."""
        d, (c,) = self.daemon()
        d.template("other", self.ticker())
        other = d.clone("other")[0]
        d.refused(502, "agent_unreachable", "GET", self.url(other, "/health"))
        d.delete([c])
        d.refused(404, "clone_not_found", "GET", self.url(c, "/health"))

    def test_a_guest_that_floods(self):
        """Nobody reads what it sends: the daemon's memory does not grow, and others are served."""
        d, (c, other) = self.daemon(2)

        def rss():
            with open(f"/proc/{d.process.pid}/status", encoding="ascii") as f:
                return int(next(line for line in f if line.startswith("VmRSS")).split()[1]) // 1024
        before = rss()
        stuck = [self.raw(d) for _ in range(10)]
        for s in stuck:
            s.sendall(f"GET {self.url(c, '/flood')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            self.assertIn(b"200 OK", s.recv(15))
        for _ in range(20):
            self.assertEqual(d.call("GET", self.url(other, "/health")).status, 204)
        self.assertLess(rss() - before, 20)

    def test_clone_ends_meanwhile(self):
        d, (c,) = self.daemon()
        s = self.raw(d)
        s.sendall(f"GET {self.url(c, '/silent')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        waiting = threading.Thread(target=lambda: got.append(s.recv(65536)))
        got = []
        waiting.start()
        wait_for("the request to reach the guest", lambda: "agent: silent" in self.serial(c))
        d.delete([c])
        waiting.join(30)
        self.assertIn(b"HTTP/1.1 502 Bad Gateway", got[0])

    def test_files(self):
        d, (c,) = self.daemon()
        url = f"/v1/clones/{c['id']}/files"
        head = d.call("GET", url + "?path=/a%20b&username=ann").body.decode()
        self.assertEqual(head.split("\r\n")[0], "GET /files?path=/a%20b&username=ann HTTP/1.1")
        head, _, body = d.call("PUT", url + "?path=x", b"\0bytes", headers={"Content-Type": "text/html"}).body.decode().partition("\r\n\r\n")
        self.assertEqual((head.split("\r\n")[0], head.count("Content-Type")), ("POST /files?path=x HTTP/1.1", 1))
        self.assertIn("\r\nContent-Type: application/octet-stream\r\n", head)
        self.assertEqual(body, "")      # a text of the guest ends at the first NUL
        head = d.call("HEAD", url + "?path=/a")         # the agent knows no HEAD of it
        self.assertEqual((head.status, head.headers["Content-Length"], head.body), (200, d.call("GET", url + "?path=/a").headers["Content-Length"], b""))
        for query in ("", "?path", "?path="):
            for method in ("GET", "PUT", "DELETE"):
                self.assertIn("path: missing", d.refused(400, "invalid_request", method, url + query))
        self.assertIn("fragment", d.refused(400, "invalid_request", "GET", url + "?path=/a#b"))
        d.refused(405, "method_not_allowed", "POST", url + "?path=x")

    def test_ports(self):
        d, (c,) = self.daemon()
        url = f"/v1/clones/{c['id']}/ports"
        head = d.call("GET", url + "/80/head?a=b", headers={"Authorization": "Bearer secret", "Cookie": "x"}).body.decode()
        self.assertEqual(head.split("\r\n")[:2], ["GET /head?a=b HTTP/1.1", "Host: localhost"])
        self.assertNotIn("Authorization", head)
        answer = d.call("POST", url + "/80/x", b"hello")
        self.assertEqual((answer.status, answer.body, answer.headers["Content-Security-Policy"]), (200, b"hello", "sandbox"))
        self.assertIn("Connection refused", d.refused(502, "agent_unreachable", "GET", url + "/81/x"))
        self.assertIn("not of HTTP/1.1", d.refused(502, "agent_unreachable", "GET", url + "/80/garbage"))
        for port in ("0", "65536", "x", "-1"):
            d.refused(400, "invalid_request", "GET", f"{url}/{port}/x")

    def test_tunnel(self):
        """Bytes instead of HTTP, with errors before them as for any request."""
        d, (c,) = self.daemon()
        url = f"/v1/clones/{c['id']}/tunnel"
        upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
        s = self.raw(d)
        s.sendall(f"GET {url}?port=80 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nGET /health HTTP/1.1\r\n\r\n".encode())
        got = b""
        while got.count(b"\r\n\r\n") < 2:
            part = s.recv(65536)
            self.assertTrue(part, got)
            got += part
        self.assertEqual(got, b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
        answer = d.call("GET", url + "?port=80")
        self.assertEqual((answer.status, answer.json["code"], answer.headers["Upgrade"]), (426, "upgrade_required", "tcp"))
        d.refused(426, "upgrade_required", "GET", url + "?port=80", headers={"Connection": "Upgrade", "Upgrade": "websocket"})
        self.assertIn("Connection refused", d.refused(502, "agent_unreachable", "GET", url + "?port=81", headers=upgrade))
        self.assertIn("port: missing", d.refused(400, "invalid_request", "GET", url, headers=upgrade))
        for port in ("0", "65536", "x"):
            d.refused(400, "invalid_request", "GET", f"{url}?port={port}", headers=upgrade)
        d.refused(404, "clone_not_found", "GET", "/v1/clones/c-none/tunnel?port=80", headers=upgrade)
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        d.refused(409, "paused", "GET", url + "?port=80", headers=upgrade)
