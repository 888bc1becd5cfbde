# SPDX-License-Identifier: Apache-2.0
"""What a clone reaches and what not. Each attempt works where nothing forbids it, so that its failure means the rule."""
import socket

from kvmtest import wait_for
from nettest import (HOST, METADATA, OTHER, PRIVATE, PRIVATE6, PUBLIC, PUBLIC6, RESOLVER, RESOLVER6, SILENCE_S, Guest, Namespace,
                     NetworkTest, Server, sh, tcp)

DNS = "198.51.100.2"
ALL = (PUBLIC, OTHER, PRIVATE, METADATA, PUBLIC6, PRIVATE6)


class Egress(NetworkTest):
    domains = {"www.example.com": [PUBLIC, PUBLIC6], "deep.www.example.com": [PUBLIC], "bad.example.com": [OTHER], "deep.bad.example.com": [OTHER], "other.org": [OTHER],
             "rebind.example.com": [PRIVATE], "metadata.example.com": [METADATA], "rebind6.example.com": [PRIVATE6]}

    def setUp(self):
        super().setUp()
        for address in ALL:
            self.serve(address)
        self.serve_dns()
        for address in (PUBLIC, PUBLIC6):   # other servers of DNS, over UDP and TCP
            self.serve(address, 53, socket.SOCK_DGRAM)
            self.serve(address, 53)
        self.d = self.daemon("--network-slots", "0")

    def guest(self, **network):
        c = self.clone(self.d, {"dns": [DNS], **network})
        return Guest(self, c)

    def reached(self, guest, addresses=ALL):
        """Those that answer. One that does not is asked again for long only if it should have answered."""
        return [a for a in addresses if guest.tcp(a, 80, timeout_s=SILENCE_S) is not None]

    def refused(self, network):
        return self.d.refused(400, "invalid_override", "POST", "/v1/templates/t/clones", {"overrides": {"network": network}})

    def test_open(self):
        guest = self.guest()
        self.assertEqual(self.reached(guest), [PUBLIC, OTHER, PUBLIC6])
        self.assertEqual(guest.resolve("other.org"), [OTHER])
        self.assertEqual(guest.resolve("www.example.com", RESOLVER6, 28), [PUBLIC6])
        self.assertEqual(guest.resolve("other.org", over_tcp=True), [OTHER])
        self.assertEqual(guest.udp(PUBLIC, 53, b"anything"), b"anything")
        self.assertIn(guest.resolve("rebind.example.com"), ([], "nxdomain"))

    def test_none(self):
        guest = self.guest(egress="none")
        self.assertEqual(self.reached(guest), [])
        self.assertIsNone(guest.resolve("other.org", timeout_s=SILENCE_S))
        self.assertIsNone(guest.resolve("other.org", over_tcp=True, timeout_s=SILENCE_S))
        self.assertIsNone(guest.resolve("other.org", RESOLVER6, timeout_s=SILENCE_S))
        self.assertEqual(guest.ns.call(_dhcp)["address"], "172.16.0.2")     # the gateway is there

    def test_allowed_addresses(self):
        guest = self.guest(egress={"allow": [PUBLIC, PUBLIC6]})
        self.assertEqual(self.reached(guest), [PUBLIC, PUBLIC6])
        guest = self.guest(egress={"allow": ["20.20.20.0/24"], "deny": [PUBLIC]})
        self.assertEqual(self.reached(guest), [OTHER])
        guest = self.guest(egress={"allow": ["10.9.0.0/16", "fd00:9::/64", METADATA]})
        self.assertEqual(self.reached(guest), [PRIVATE, METADATA, PRIVATE6])
        guest = self.guest(egress={"allow": ["0.0.0.0/0", "::/0"]})       # all is not private
        self.assertEqual(self.reached(guest), [PUBLIC, OTHER, PUBLIC6])
        guest = self.guest(egress={"deny": [PUBLIC]})
        self.assertEqual(self.reached(guest), [OTHER, PUBLIC6])
        guest = self.guest(egress={"allow": []})
        self.assertEqual(self.reached(guest), [])

    def test_allowed_names(self):
        guest = self.guest(egress={"allow": ["www.example.com"]})
        self.assertEqual(self.reached(guest), [])                   # an address that no name led to
        self.assertEqual(guest.resolve("other.org"), "nxdomain")
        self.assertEqual(guest.resolve("www.example.com"), [PUBLIC])
        self.assertEqual(self.reached(guest), [PUBLIC])
        self.assertEqual(guest.resolve("WWW.example.com", kind=28), [PUBLIC6])
        self.assertEqual(self.reached(guest), [PUBLIC, PUBLIC6])
        self.assertEqual(guest.resolve("deep.www.example.com", over_tcp=True), [PUBLIC])
        self.assertEqual(guest.resolve("example.com"), "nxdomain")

    def test_denied_names(self):
        guest = self.guest(egress={"allow": ["example.com", "deep.bad.example.com"], "deny": ["bad.example.com"]})
        self.assertEqual(guest.resolve("bad.example.com"), "nxdomain")
        self.assertEqual(guest.resolve("deep.bad.example.com"), "nxdomain")
        self.assertEqual(guest.resolve("www.example.com"), [PUBLIC])
        guest = self.guest(egress={"deny": ["example.com"]})
        self.assertEqual(guest.resolve("www.example.com"), "nxdomain")
        self.assertEqual(guest.resolve("other.org"), [OTHER])

    def test_other_servers(self):
        """With rules by list nobody but the gateway is asked: not by address, over TCP, or IPv6, listed or not."""
        guest = self.guest(egress={"allow": [PUBLIC, PUBLIC6]})
        self.assertEqual(self.reached(guest), [PUBLIC, PUBLIC6])
        for address in (PUBLIC, PUBLIC6):
            self.assertIsNone(guest.udp(address, 53, timeout_s=SILENCE_S))
            self.assertTrue(guest.is_kept_from(address, 53))
        guest = self.guest()
        for address in (PUBLIC, PUBLIC6):
            self.assertIsNotNone(guest.udp(address, 53))
            self.assertTrue(guest.reaches(address, 53))

    def test_rebinding(self):
        """An allowed name that leads to a private address leads nowhere, whatever the guest does with it."""
        guest = self.guest(egress={"allow": ["example.com"]})
        for name, kind in (("rebind.example.com", 1), ("metadata.example.com", 1), ("rebind6.example.com", 28)):
            self.assertIn(guest.resolve(name, kind=kind), ([], "nxdomain"), name)
        self.assertEqual(self.reached(guest), [])
        # also past the resolver's own check: what the rules say does not depend on it
        slot = self.d.get("/v1/clones")["clones"][0]["net"][0]["slot"]
        for name, address in (("names4", PRIVATE), ("names4", OTHER), ("names6", PRIVATE6)):
            sh(f"ip netns exec {slot} nft add element inet forkd {name} '{{ {address} }}'")
        self.assertEqual(self.reached(guest), [OTHER])
        guest = self.guest(egress={"allow": ["example.com", PRIVATE]})      # both are listed
        self.assertEqual(guest.resolve("rebind.example.com"), [PRIVATE])
        self.assertEqual(self.reached(guest), [PRIVATE])

    def test_bound_of_names(self):
        """The sets that names fill have a size: one address more is not taken."""
        c = self.clone(self.d, {"egress": {"allow": ["example.com"]}})
        slot = c["net"][0]["slot"]
        full = ", ".join(f"30.0.{i // 256}.{i % 256}" for i in range(4096))
        nft = f"ip netns exec {slot} nft add element inet forkd names4"
        sh(f"{nft} '{{ {full} }}'")
        with self.assertRaises(AssertionError):
            sh(f"{nft} '{{ {PUBLIC} }}'")
        guest = Guest(self, c)
        self.assertTrue(guest.is_kept_from(PUBLIC))

    def test_host(self):
        """The host's services, at each of its addresses; one that is listed by itself is reached, and no other."""
        for address in ("0.0.0.0", "::"):
            self.serve(address, 81, here=True)
        c = self.clone(self.d)
        guest, net = Guest(self, c), c["net"][0]
        peer = sh(f"ip netns exec {net['slot']} ip -4 route show default").split()[2]
        peer6 = net["address6"][:-1] + "1"
        for address in (HOST, peer, peer6, "2001:db8:1::1", net["address"]):
            self.assertTrue(guest.is_kept_from(address, 81), address)
        guest = self.guest(egress={"allow": [HOST]})
        self.assertTrue(guest.reaches(HOST, 81))
        self.assertTrue(guest.is_kept_from(peer, 81))
        guest = self.guest(egress={"allow": ["198.51.100.0/24"]})   # the neighbours, not the host
        self.assertTrue(guest.is_kept_from(HOST, 81))
        self.serve(DNS, 81)
        self.assertTrue(guest.reaches(DNS, 81))
        guest = self.guest(egress={"allow": [peer]})
        self.assertTrue(guest.reaches(peer, 81))

    def test_other_clones(self):
        """Neither by their addresses on the host nor by those that all have."""
        guests = [(c, Guest(self, c)) for c in self.clone(self.d, {"ports": [{"guest": 80, "address": "0.0.0.0"}]}, count=2)]
        (_, one), (c, other) = guests
        net, port = c["net"][0], c["net"][0]["network"]["ports"][0]["host"]
        for address in ("172.16.0.2", "fd00:666b::2"):
            server = other.ns.call(lambda a=address: Server(None, a, 80))
            self.addCleanup(server.close)
        self.assertIsNotNone(tcp("127.0.0.1", port))       # it is there for the host
        for address, number in ((net["address"], 80), (net["address6"], 80), (HOST, port)):
            self.assertTrue(one.is_kept_from(address, number), address)
        listing = self.guest(egress={"allow": [net["address"], "10.201.0.0/16", net["address6"], "fd00::/8"]})
        for address in (net["address"], net["address6"]):
            self.assertTrue(listing.is_kept_from(address, 80), address)

    def test_forged_source(self):
        """A packet from another address than the guest's goes nowhere."""
        server = self.serve(PUBLIC, 82, socket.SOCK_DGRAM)
        guest = self.guest()
        self.assertEqual(guest.udp(PUBLIC, 82), b"x")
        guest.sh("ip addr add 172.16.0.77/32 dev eth0; ip addr add 10.201.0.9/32 dev eth0; ip addr add fd00:666c::2/128 dev eth0 nodad")
        seen = len(server.peers)
        for source in ("172.16.0.77", "10.201.0.9"):
            self.assertIsNone(guest.udp(PUBLIC, 82, source=source, timeout_s=SILENCE_S))
        self.assertEqual(len(server.peers), seen)
        self.assertEqual(guest.udp(PUBLIC, 82), b"x")

    def test_host_alone_keeps_them(self):
        """The host's table does not trust the slot's: without that, the host, the other slots and forged sources are kept from all the same."""
        self.serve("0.0.0.0", 81, here=True)
        server = self.serve(PUBLIC, 82, socket.SOCK_DGRAM)
        clones = self.clone(self.d, count=2)
        guest, other = Guest(self, clones[0]), clones[1]["net"][0]
        slot = clones[0]["net"][0]["slot"]
        for n in (slot, other["slot"]):
            sh(f"ip netns exec {n} nft flush ruleset")
        sh(f"ip netns exec {other['slot']} ip link set lo up")
        self.serve_in(other["slot"], other["address"])
        self.assertEqual(sh(f"ip netns exec {slot} nft list ruleset"), "")
        sh(f"ip netns exec {slot} nft 'table ip t {{ chain c {{ type nat hook postrouting priority 100; oifname fkhost masquerade; }}; }}'")
        self.assertEqual(guest.udp(PUBLIC, 82), b"x")               # the way out is there
        self.assertTrue(guest.is_kept_from(HOST, 81))
        self.assertTrue(guest.is_kept_from(other["address"], 83))
        self.assertIsNotNone(tcp(other["address"], 83))
        sh(f"ip netns exec {slot} nft flush ruleset")
        sh(f"ip netns exec {slot} nft 'table ip t {{ chain c {{ type nat hook postrouting priority 100; oifname fkhost snat to 10.201.9.9; }}; }}'")
        seen = len(server.peers)
        self.assertIsNone(guest.udp(PUBLIC, 82, timeout_s=SILENCE_S))
        self.assertEqual(len(server.peers), seen)

    def serve_in(self, slot, address):
        space = Namespace(f"/run/netns/{slot}")
        self.addCleanup(space.close)
        self.addCleanup(Server(space, address, 83).close)

    def test_dhcp_and_router(self):
        """A guest that knows nothing gets its addresses, its way out and its resolver from its gateway."""
        c = self.clone(self.d, {"dns": [DNS]})
        guest = Guest(self, c, addresses=False)
        wait_for("an address by router advertisement", lambda: "fd00:666b:" in guest.sh("ip -6 addr show dev eth0"),
                 context=lambda: guest.sh("ip -6 addr; ip -6 route"))
        self.assertIn("default via fe80::1 dev eth0 proto ra", guest.sh("ip -6 route"))
        wait_for("IPv6 beyond the gateway", lambda: guest.tcp(PUBLIC6, timeout_s=1), context=lambda: guest.sh("ip -6 addr; ip -6 route"))
        offer = guest.ns.call(_dhcp)
        self.assertEqual(offer, {"address": "172.16.0.2", "router": RESOLVER, "dns": RESOLVER, "mask": "255.255.255.252"})


def _dhcp():
    """What a DHCP server says to a guest without an address."""
    mac = bytes.fromhex("020000000077")
    discover = (b"\1\1\6\0" + b"\0\0\0\7" + b"\0\0\x80\0" + bytes(16) + mac + bytes(10) + bytes(192) + b"\x63\x82\x53\x63"
                + b"\x35\1\1" + b"\x37\3\1\3\6" + b"\xff")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.setsockopt(socket.SOL_SOCKET, 25, b"eth0\0")      # SO_BINDTODEVICE
        s.bind(("0.0.0.0", 68))
        s.settimeout(20)
        s.sendto(discover, ("255.255.255.255", 67))
        offer = s.recv(4096)
    options, at = {}, 240
    while offer[at] != 255:
        options[offer[at]] = offer[at + 2:at + 2 + offer[at + 1]]
        at += 2 + offer[at + 1]
    text = socket.inet_ntoa
    return {"address": text(offer[16:20]), "router": text(options[3]), "dns": text(options[6]), "mask": text(options[1])}
