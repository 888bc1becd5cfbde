# SPDX-License-Identifier: Apache-2.0
"""Byte tunnels through the private port to TCP ports on the guest's loopback."""
import os
import re
import socket
import subprocess
import sys
import threading
import time

from agenttest import Connection, wait_for
from systemtest import SystemTest

UPGRADE = {"Upgrade": "tcp", "Connection": "Upgrade"}
BIG = 3 << 20


class Tunnel(SystemTest):
    """With this host's loopback, in which the ports are."""
    namespaces = ["-m", "-u", "-C"]

    def listen(self, family=socket.AF_INET):
        s = socket.create_server(("127.0.0.1" if family == socket.AF_INET else "::1", 0), family=family)
        s.settimeout(60)
        self.addCleanup(s.close)
        return s

    def ask(self, query, headers=None, early=b""):
        c = Connection(self.private)
        self.addCleanup(c.close)
        lines = [f"{k}: {v}\r\n" for k, v in (UPGRADE if headers is None else headers).items()]
        c.send(f"GET /v1/tunnel{query} HTTP/1.1\r\n{''.join(lines)}\r\n".encode() + early)
        return c

    def tunnel(self, server, early=b""):
        """Both ends of a tunnel."""
        c = self.ask(f"?port={server.getsockname()[1]}", early=early)
        a = c.head()
        self.assertEqual((a.status, a.headers.get("upgrade")), (101, "tcp"))
        port, _ = server.accept()
        port.settimeout(60)
        self.addCleanup(port.close)
        return c, port

    def test_both_ways(self):
        for family in (socket.AF_INET, socket.AF_INET6):
            c, port = self.tunnel(self.listen(family))
            c.send(b"to the port")
            self.assertEqual(port.recv(100), b"to the port")
            port.sendall(b"to the client")
            self.assertEqual(c.exactly(13), b"to the client")

    def test_bytes_behind_the_request(self):
        """What the client sends before it has seen the answer is not lost."""
        early = os.urandom(20000)
        c, port = self.tunnel(self.listen(), early)
        c.send(b"END")
        got = b""
        while not got.endswith(b"END"):
            got += port.recv(1 << 16)
        self.assertEqual(got, early + b"END")

    def test_half_closes(self):
        """The end of one direction is passed on, and the other direction goes on."""
        c, port = self.tunnel(self.listen())
        c.send(b"question")
        c.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(port.makefile("rb").read(), b"question")
        port.sendall(b"answer")
        port.shutdown(socket.SHUT_WR)
        self.assertEqual(c.exactly(6), b"answer")
        self.assertTrue(c.at_end())

        c, port = self.tunnel(self.listen())
        port.shutdown(socket.SHUT_WR)
        self.assertTrue(c.at_end())
        c.send(b"still")
        self.assertEqual(port.recv(100), b"still")
        c.close()
        self.assertEqual(port.recv(100), b"")

    def test_one_side_goes_away(self):
        """The tunnel goes with it, and the agent has no descriptor more than before."""
        fds = lambda: len(os.listdir(f"/proc/{self.agent.pid}/fd"))     # noqa: E731
        wait_for("the agent is idle", lambda: not self.connections())
        before = fds()
        for whose in ("client", "port"):
            c, port = self.tunnel(self.listen())
            side = c.sock if whose == "client" else port
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")   # a reset where there is one
            side.close()
            other = port if whose == "client" else c.sock
            try:
                self.assertEqual(other.recv(100), b"")
            except ConnectionResetError:
                pass
            other.close()
            wait_for("the agent has closed all", lambda: fds() == before)

    def connections(self):
        with open("/proc/net/unix", encoding="ascii") as f:
            return len(re.findall(rf" 03 +\d+ {re.escape(self.private)}$", f.read(), re.M))

    def test_back_pressure(self):
        """Who does not read holds up its own tunnel alone, and nothing is buffered whole; all bytes arrive in the end."""
        data = os.urandom(1 << 16) * (BIG >> 16)
        for towards in ("port", "client"):
            c, port = self.tunnel(self.listen())
            source, sink = (c.sock, port) if towards == "port" else (port, c.sock)
            sender = threading.Thread(target=source.sendall, args=(data * 8,))
            sender.start()
            self.assertEqual(self.http("GET", "/health").status, 204)
            self.small(4 << 20)
            got = b"".join(iter(lambda: sink.recv(1 << 20) if sender.is_alive() else b"", b""))   # noqa: B023
            source.shutdown(socket.SHUT_WR)
            sender.join()
            got += sink.makefile("rb").read()
            self.assertEqual((len(got), hash(got)), (len(data * 8), hash(data * 8)))

    def test_idle_costs_nothing(self):
        """A port that has hung up, which epoll would tell again and again, is not polled while the client does not read."""
        c, port = self.tunnel(self.listen())
        c.sock.shutdown(socket.SHUT_WR)
        self.assertEqual(port.recv(1), b"")
        port.sendall(b"x" * (300 << 10))
        port.close()
        time.sleep(0.2)     # the agent takes what there is room for
        before = self.cpu_ticks()
        time.sleep(1)
        self.assertLess(self.cpu_ticks() - before, 5)     # of a hundred
        self.assertEqual(len(c.sock.makefile("rb").read()), 300 << 10)

    def cpu_ticks(self):
        with open(f"/proc/{self.agent.pid}/stat", encoding="ascii") as f:
            return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))

    def test_refused(self):
        closed = self.listen()
        number = closed.getsockname()[1]
        closed.close()
        for query, headers, status, message in [
                (f"?port={number}", None, 502, f"port {number} of the guest's loopback: "),
                ("", None, 400, "port: expected a number"), ("?port=0", None, 400, "port: "), ("?port=65536", None, 400, "port: "),
                ("?port=-1", None, 400, "port: "), ("?port=80x", None, 400, "port: "), ("?port=000080", None, 400, "port: "),
                (f"?port={number}", {}, 400, "Upgrade: tcp"), (f"?port={number}", {"Upgrade": "websocket"}, 400, "Upgrade: tcp")]:
            with self.subTest(query=query):
                a = self.ask(query, headers).answer()
                self.assertEqual(a.status, status)
                self.assertIn(message, a.json()["message"])

    def test_bound(self):
        """The 257th tunnel is refused; when one has ended, there is room again."""
        server = self.listen()
        tunnels = [self.tunnel(server) for _ in range(256)]
        a = self.ask(f"?port={server.getsockname()[1]}").answer()
        self.assertEqual((a.status, a.json()["message"]), (503, "there are 256 tunnels, more are not possible"))
        for side in tunnels[0]:
            side.close()
        wait_for("there is room", lambda: self.ask(f"?port={server.getsockname()[1]}").head().status == 101)


class InGuest(SystemTest):
    def test_loopback_of_the_guest(self):
        """The port is looked for in the guest's own network."""
        script = "import socket; s = socket.create_server(('127.0.0.1', 4711)); print(flush=True); s.accept()[0].sendall(b'guest')"
        p = self.start("x.slice", [sys.executable, "-c", script], stdout=subprocess.PIPE)
        p.stdout.readline()
        with Connection(self.private) as c:
            c.request("GET", "/v1/tunnel?port=4711", headers=UPGRADE)
            self.assertEqual(c.head().status, 101)
            self.assertEqual(c.exactly(5), b"guest")
