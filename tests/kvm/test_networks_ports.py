# SPDX-License-Identifier: Apache-2.0
"""Ports of the host that lead to a guest, and limits of its rates."""
import os
import socket

from kvmtest import wait_for
from nettest import HOST, HOST6, PUBLIC, Guest, NetworkTest, Server, sh, tcp, udp


class Ports(NetworkTest):
    def setUp(self):
        super().setUp()
        self.d = self.daemon("--network-slots", "0")

    def with_ports(self, *ports, servers=(80,)):
        c = self.clone(self.d, {"ports": list(ports)})
        guest = Guest(self, c)
        for port in servers:
            for address in ("0.0.0.0", "::"):
                self.serve_in(guest, address, port)
        return c, guest, c["net"][0]["network"]["ports"]

    def serve_in(self, guest, address, port, kind=socket.SOCK_STREAM):
        server = Server(guest.ns, address, port, kind)
        self.addCleanup(server.close)
        return server

    def outside(self, address, port, timeout_s=10):
        return self.internet.call(lambda: tcp(address, port, timeout_s=timeout_s))

    def test_loopback(self):
        """By default a port is for this host alone."""
        c, _, ports = self.with_ports({"host": 8080, "guest": 80})
        self.assertEqual(ports, [{"host": 8080, "guest": 80, "protocol": "tcp", "address": "127.0.0.1"}])
        self.assertIsNotNone(tcp("127.0.0.1", 8080))
        self.assertIsNone(tcp(HOST, 8080, timeout_s=0.4))
        self.assertIsNone(self.outside(HOST, 8080, timeout_s=0.4))
        self.assertIsNone(self.outside(c["net"][0]["address"], 80, timeout_s=0.4))
        self.assertIsNone(tcp("127.0.0.1", 80, timeout_s=0.4))

    def test_all_addresses(self):
        _, _, ports = self.with_ports({"guest": 80, "address": "0.0.0.0"}, {"guest": 80, "address": "::"})
        self.assertEqual([p["address"] for p in ports], ["0.0.0.0", "::"])
        for address in ("127.0.0.1", HOST):
            self.assertIsNotNone(tcp(address, ports[0]["host"]), address)
        self.assertIsNotNone(self.outside(HOST, ports[0]["host"]))
        self.assertIsNotNone(self.outside(HOST6, ports[1]["host"]))
        self.assertIsNotNone(tcp(HOST6, ports[1]["host"]))

    def test_who_asks(self):
        """The guest sees who connects from outside."""
        _, guest, ports = self.with_ports({"guest": 81, "address": HOST}, servers=())
        server = self.serve_in(guest, "0.0.0.0", 81)
        self.assertEqual(self.outside(HOST, ports[0]["host"]), "hello 198.51.100.2")
        self.assertEqual(server.peers, ["198.51.100.2"])

    def test_udp(self):
        _, guest, ports = self.with_ports({"guest": 90, "protocol": "udp"}, {"guest": 90, "protocol": "udp", "address": "0.0.0.0"}, servers=())
        self.serve_in(guest, "0.0.0.0", 90, socket.SOCK_DGRAM)
        self.assertEqual(udp("127.0.0.1", ports[0]["host"], b"ask"), b"ask")
        self.assertEqual(self.internet.call(lambda: udp(HOST, ports[1]["host"], b"ask")), b"ask")

    def test_taken(self):
        """A port that a program or another clone has is refused; it is free again with the clone."""
        holder = self.serve("127.0.0.1", 8090, here=True)
        url, code = "/v1/templates/t/clones", "conflict"
        wish = {"overrides": {"network": {"ports": [{"host": 8090, "guest": 80}]}}}
        said = self.d.refused(409, code, "POST", url, wish)
        self.assertIn("overrides.network.ports[0]: tcp port 8090 of address 127.0.0.1", said)
        holder.close()
        c, _, _ = self.with_ports({"host": 8090, "guest": 80})
        self.d.refused(409, code, "POST", url, wish)
        with self.assertRaises(OSError):
            Server(None, "127.0.0.1", 8090)
        self.d.refused(409, code, "POST", url, {"count": 2, "overrides": {"network": {"ports": [{"host": 8091, "guest": 80}]}}})
        self.d.delete([c])
        wait_for("the port to be free", lambda: self.d.call("POST", url, wish).status == 201)
        wait_for("rules of ports to go", lambda: (rules := sh("nft list ruleset")).count(". 8090 :") == 1 and ". 8091 :" not in rules)

    def test_egress_none(self):
        """A port leads in where nothing leads out."""
        self.serve(PUBLIC)
        c = self.clone(self.d, {"egress": "none", "ports": [{"guest": 80}]})
        guest = Guest(self, c)
        self.serve_in(guest, "0.0.0.0", 80)
        self.assertIsNotNone(tcp("127.0.0.1", c["net"][0]["network"]["ports"][0]["host"]))
        self.assertTrue(guest.is_kept_from(PUBLIC))

    def test_below_1024(self):
        """Who is not root gets none of root's ports."""
        os.chmod(self.d.socket, 0o666)
        program = ("import http.client,json,socket,sys;c=http.client.HTTPConnection('x');c.sock=socket.socket(socket.AF_UNIX);"
                   "c.sock.connect(sys.argv[1]);c.request('POST','/v1/templates/t/clones',json.dumps({'overrides':{'network':"
                   "{'ports':[{'host':int(sys.argv[2]),'guest':80}]}}}),{'Content-Type':'application/json'});"
                   "r=c.getresponse();print(r.status,r.read().decode())")
        for folder in (self.dir, self.d.root):
            os.chmod(folder, 0o755)
        ask = "setpriv --reuid 65534 --regid 65534 --clear-groups python3 -c \"$PROGRAM\" " + self.d.socket
        environment = {**os.environ, "PROGRAM": program}
        self.assertIn("only root may have a port below 1024", said := sh(f"{ask} 443", env=environment))
        self.assertTrue(said.startswith("403"), said)
        self.assertTrue(sh(f"{ask} 8443", env=environment).startswith("201"))


class Bandwidth(NetworkTest):
    def test_limits(self):
        """Far more bytes than a limit lets through in a tenth of a second take longer than with none: the queues say so, no clock."""
        self.serve(PUBLIC)
        d = self.daemon("--network-slots", "0")
        c = self.clone(d, {"bandwidth": {"rx_bytes_per_s": 4000000, "tx_bytes_per_s": 3000000}})
        slot, guest = c["net"][0]["slot"], Guest(self, c)

        def send():
            with socket.create_connection((PUBLIC, 80), 20) as s:
                s.makefile("rb").readline()
                s.sendall(bytes(1500000))
                left = 1500000
                while left:
                    left -= len(s.recv(65536))
        guest.ns.call(send)
        shown = sh(f"ip netns exec {slot} tc -s qdisc show")
        for interface, rate in (("fkguest", "32Mbit"), ("fkhost", "24Mbit")):
            line = shown[shown.index(f"dev {interface} root "):]
            self.assertIn(f" rate {rate} ", line.split("\n")[0])
            self.assertGreater(int(line.split("Sent ")[1].split()[0]), 1500000, shown)
            self.assertGreater(int(line.split("overlimits ")[1].split()[0]), 0, shown)
        self.assertEqual(shown.count("qdisc tbf"), 2, shown)
        plain = self.clone(d)["net"][0]["slot"]
        self.assertNotIn("tbf", sh(f"ip netns exec {plain} tc qdisc show"))
