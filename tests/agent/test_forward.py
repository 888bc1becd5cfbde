# SPDX-License-Identifier: Apache-2.0
"""forkctl forward, against a real agent, whose guest's loopback is this host's."""
import os
import resource
import signal
import socket
import threading
import time

from agenttest import wait_for
from ctltest import ID, CtlTest
from systemtest import SystemTest

BIG = 3 << 20


class Forward(CtlTest, SystemTest):
    namespaces = ["-m", "-u", "-C"]

    def server(self):
        """A port of the guest."""
        s = socket.create_server(("127.0.0.1", 0))
        s.settimeout(60)
        self.addCleanup(s.close)
        return s

    def forward(self, *servers, address=""):
        """forkctl forward for these, and the ports of this host."""
        p = self.begin("forward", ID, *[f"{address}0:{s.getsockname()[1]}" for s in servers])
        ports = []
        for s in servers:
            line = p.stdout.readline().decode()
            self.assertIn(f" leads to port {s.getsockname()[1]} of clone {ID}\n", line)
            ports.append(int(line.split(" ")[0].rsplit(":", 1)[1]))
        return p, ports

    def connect(self, port, server=None, host="127.0.0.1"):
        """Both ends of a connection through the tunnel."""
        c = socket.create_connection((host, port), 60)
        self.addCleanup(c.close)
        if not server:
            return c
        s, _ = server.accept()
        s.settimeout(60)
        self.addCleanup(s.close)
        return c, s

    def read(self, s, n):
        got = b""
        while len(got) < n:
            part = s.recv(n - len(got))
            self.assertTrue(part, got)
            got += part
        return got

    def both_ways(self, client, server):
        client.sendall(b"to the guest")
        self.assertEqual(self.read(server, 12), b"to the guest")
        server.sendall(b"to the client")
        self.assertEqual(self.read(client, 13), b"to the client")

    def test_two_at_once(self):
        one, other = self.server(), self.server()
        p, ports = self.forward(one, other)
        pairs = [self.connect(ports[0], one), self.connect(ports[1], other), self.connect(ports[0], one)]
        for pair in pairs + pairs:
            self.both_ways(*pair)
        pairs[0][0].close()
        self.assertEqual(pairs[0][1].recv(1), b"")
        self.both_ways(*pairs[1])
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(60), 0)
        self.assertEqual(pairs[1][1].recv(1), b"")

    def test_half_closes(self):
        """The end of one direction is passed on, and the other one goes on."""
        server = self.server()
        _, (port,) = self.forward(server)
        c, s = self.connect(port, server)
        c.sendall(b"question")
        c.shutdown(socket.SHUT_WR)
        self.assertEqual(s.makefile("rb").read(), b"question")
        s.sendall(b"answer")
        s.close()
        self.assertEqual(c.makefile("rb").read(), b"answer")
        c, s = self.connect(port, server)
        s.shutdown(socket.SHUT_WR)
        self.assertEqual(c.recv(1), b"")
        c.sendall(b"still")
        c.close()
        self.assertEqual(s.makefile("rb").read(), b"still")

    def test_much_and_slow(self):
        """Who does not read holds up its own connection alone; in the end every byte is there."""
        server = self.server()
        p, (port,) = self.forward(server)
        data = os.urandom(1 << 16) * (BIG >> 16) * 4
        for towards in ("guest", "client"):
            c, s = self.connect(port, server)
            source, sink = (c, s) if towards == "guest" else (s, c)
            sender = threading.Thread(target=lambda x=source: (x.sendall(data), x.shutdown(socket.SHUT_WR)))
            sender.start()
            self.both_ways(*self.connect(port, server))
            with open(f"/proc/{p.pid}/status", encoding="ascii") as f:
                anonymous = int(next(line for line in f if line.startswith("RssAnon")).split()[1])
            self.assertLess(anonymous, 16 << 10)
            self.assertTrue(sink.makefile("rb").read() == data)
            sender.join()

    def test_idle_costs_nothing(self):
        """A side that has hung up is not polled again and again while the other one is held up."""
        server = self.server()
        p, (port,) = self.forward(server)
        c, s = self.connect(port, server)
        s.shutdown(socket.SHUT_WR)
        self.assertEqual(c.recv(1), b"")

        def switches():
            with open(f"/proc/{p.pid}/status", encoding="ascii") as f:
                return [line for line in f if "ctxt_switches" in line]

        def sleeps():
            before = switches()
            time.sleep(0.3)         # who is busy is interrupted, or waits, in that time
            return switches() == before
        wait_for("forkctl sleeps", sleeps, 10)

    def test_bound(self):
        """The 257th connection waits until another one has ended."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, limit[1]), limit[1]))     # all ends are this process'
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, limit)
        server = self.server()
        server.listen(512)
        _, (port,) = self.forward(server)
        pairs = [self.connect(port, server) for _ in range(256)]
        waiting = self.connect(port)
        waiting.sendall(b"hello")
        self.both_ways(*pairs[200])
        server.settimeout(0.5)
        with self.assertRaises(TimeoutError):
            server.accept()
        server.settimeout(60)
        for s in pairs[0]:
            s.close()
        s, _ = server.accept()
        self.addCleanup(s.close)
        self.assertEqual(self.read(s, 5), b"hello")

    def test_refused(self):
        closed = self.server()
        p, (port,) = self.forward(closed)
        closed.close()
        with self.assertRaises(ConnectionResetError):
            self.connect(port).recv(1)
        self.assertIn(b"Connection refused", p.stderr.readline())
        self.daemon.listener.close()        # the daemon is gone, too
        os.unlink(self.socket)
        with self.assertRaises(ConnectionResetError):
            self.connect(port).recv(1)
        self.assertIn(b"cannot reach forkd", p.stderr.readline())
        self.assertIsNone(p.poll())

    def test_broken_connection(self):
        server = self.server()
        p, (port,) = self.forward(server)
        c, s = self.connect(port, server)
        self.both_ways(c, s)
        self.daemon.cut()
        self.assertEqual(s.recv(1), b"")
        try:
            self.assertEqual(c.recv(1), b"")
        except ConnectionResetError:
            pass
        self.both_ways(*self.connect(port, server))      # the next one is as good as new
        self.assertIsNone(p.poll())

    def test_addresses_and_mistakes(self):
        server = self.server()
        _, (port,) = self.forward(server, address="localhost:")
        self.both_ways(*self.connect(port, server, host="localhost"))     # ::1 or 127.0.0.1, as /etc/hosts has it
        for word in ("80", "x:80", "80:x", "80:0", "80:65536", "65536:80", ":80", "80:"):
            self.assertIn("form" if ":" not in word or word in ("80:x", "80:0", "80:65536", "80:") else "not a port",
                          self.ctl("forward", ID, word, status=2)[1])
        self.assertIn("in use", self.ctl("forward", ID, f"localhost:{port}:80", status=1)[1])
        self.assertIn("no such clone", self.ctl("forward", "c-2", "0:80", status=1)[1])
        self.ctl("forward", ID, status=2)

    def test_over_tls(self):
        self.over_tls()
        server = self.server()
        _, (port,) = self.forward(server)
        c, s = self.connect(port, server)
        self.both_ways(c, s)
        data = os.urandom(BIG)
        sender = threading.Thread(target=lambda: (c.sendall(data), c.shutdown(socket.SHUT_WR)))
        sender.start()
        self.assertTrue(s.makefile("rb").read() == data)        # its end has come, too
        sender.join()
        s.sendall(data)
        s.close()
        self.assertTrue(c.makefile("rb").read() == data)
        self.env["FORKD_TOKEN"] = "wrong"
        self.assertIn("unauthorized", self.ctl("forward", ID, "0:80", status=1)[1])
