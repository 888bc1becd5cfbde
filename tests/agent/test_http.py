# SPDX-License-Identifier: Apache-2.0
"""The agent's HTTP/1.1: one request after the other, how they are cut, what is refused and how."""
import socket
import time
import unittest

from agenttest import AgentTest, Connection


class Http(AgentTest):
    def test_health(self):
        a = self.http("GET", "/health")
        self.assertEqual((a.status, a.body), (204, b""))
        self.assertNotIn("content-length", a.headers)

    def test_kept_connection(self):
        c = self.connect()
        for _ in range(3):
            c.request("GET", "/health")
            self.assertEqual(c.answer().status, 204)

    def test_cut_anywhere(self):
        """A request that comes byte by byte, and several in one piece, are answered alike."""
        one = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
        c = self.connect()
        for i in range(len(one)):
            c.send(one[i:i + 1])
        self.assertEqual(c.answer().status, 204)
        c.send(one * 20)
        for _ in range(20):
            self.assertEqual(c.answer().status, 204)

    def test_half_closed(self):
        """A client that has no more to say still gets its answers."""
        c = self.connect()
        c.send(b"GET /health HTTP/1.1\r\n\r\n" * 3)
        c.sock.shutdown(socket.SHUT_WR)
        for _ in range(3):
            self.assertEqual(c.answer().status, 204)
        self.assertTrue(c.at_end())

    def test_connection_close(self):
        for head in (b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", b"GET /health HTTP/1.0\r\n\r\n"):
            with self.subTest(head=head), Connection(self.path) as c:
                c.send(head)
                self.assertEqual(c.answer().status, 204)
                self.assertTrue(c.at_end())

    def test_unknown(self):
        for method, path, status in (("GET", "/", 404), ("GET", "/healthy", 404), ("POST", "/health", 405), ("GET", "/init", 404),
                                     ("OPTIONS", "/health", 405), ("GET", "/process.Process/Nothing", 404)):
            with self.subTest(method=method, path=path):
                a = self.http(method, path, b"{}" if method == "POST" else None)
                self.assertEqual((a.status, a.json()["code"]), (status, status))
                self.assertTrue(a.json()["message"])

    def test_not_http(self):
        """What is no request is answered once, and the connection ends."""
        cases = {
            b"hello\r\n\r\n": 400,
            b"GET / HTTP/1.1\r\nA: " + b"x" * 33000 + b"\r\n\r\n": 431,
            b"GET /" + b"x" * 33000 + b" HTTP/1.1\r\n\r\n": 431,
            b"POST /health HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n": 400,
            b"POST /health HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n": 400,
            b"POST /health HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\n": 400,
            b"POST /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n": 400,
            b"POST /health HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n": 400,
            b"GET /health?a=%00 HTTP/1.1\r\n\r\n": 400,
            b"GET /health?a=%ff HTTP/1.1\r\n\r\n": 400,
            b"GET /health?a=%4 HTTP/1.1\r\n\r\n": 400,
        }
        for text, status in cases.items():
            with self.subTest(text=text[:60]), Connection(self.path) as c:
                c.send(text)
                a = c.answer()
                self.assertEqual((a.status, a.json()["code"]), (status, status), a)
        self.assertEqual(self.http("GET", "/health").status, 204)

    def test_chunk_of_2_to_the_64(self):
        with Connection(self.path) as c:
            c.send(b"POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\nx")
            self.assertEqual(c.answer().status, 405)
            self.assertTrue(c.at_end())
        self.assertEqual(self.http("GET", "/health").status, 204)

    def test_a_body_that_nobody_wants(self):
        """The next request is found behind it."""
        c = self.connect()
        for chunked in (False, True):
            c.request("POST", "/health", b"x" * 300000, chunked=chunked)
            self.assertEqual(c.answer().status, 405)
            c.request("GET", "/health", b"also here")
            self.assertEqual(c.answer().status, 204)

    def test_too_many_connections(self):
        """The one that waits longest for its client makes room."""
        first = self.connect()
        first.request("GET", "/health")
        self.assertEqual(first.answer().status, 204)
        others = [self.connect() for _ in range(256)]
        others[-1].request("GET", "/health")
        self.assertEqual(others[-1].answer().status, 204)
        self.assertTrue(first.at_end())

    def test_idle(self):
        """Idle it takes no processor time and little memory."""
        self.assertEqual(self.http("GET", "/health").status, 204)

        def cpu():
            with open(f"/proc/{self.agent.pid}/stat", encoding="ascii") as f:
                return f.read().rsplit(")", 1)[1].split()[11:13]
        before = cpu()
        kept = self.connect()
        time.sleep(0.3)
        kept.request("GET", "/health")
        self.assertEqual(kept.answer().status, 204)
        self.small(2 << 20)
        self.assertEqual(cpu(), before)


if __name__ == "__main__":
    unittest.main()
