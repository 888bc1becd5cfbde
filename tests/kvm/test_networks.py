# SPDX-License-Identifier: Apache-2.0
"""Networks of clones: each its own way out, the same address inside, nothing left behind."""
import json
import os
import signal

from forkdtest import Daemon
from kvmtest import FULL, read, wait_for
from nettest import HOST, OTHER, PUBLIC, PUBLIC6, Guest, NetworkTest, Server, sh, tcp


class Networks(NetworkTest):
    def test_way_out(self):
        """Two clones have the same address, and each gets its own answers; the server sees the host."""
        four, six = self.serve(PUBLIC), self.serve(PUBLIC6)
        d = self.daemon()
        clones = self.clone(d, count=2)
        self.assertEqual(len({c["net"][0]["address"] for c in clones}), 2)
        for c in clones:
            net = c["net"][0]
            self.assertEqual((net["guest_address"], net["guest_address6"]), ("172.16.0.2", "fd00:666b::2"))
            guest = Guest(self, c)
            self.assertEqual(guest.tcp(PUBLIC), f"hello {HOST}")
            self.assertIsNotNone(guest.tcp(PUBLIC6))
        self.assertEqual((four.peers, len(six.peers)), ([HOST] * 2, 2))
        d.delete(clones)
        d.stop()
        self.assertEqual(self.host_state(), self.before)

    def test_made_when_wanted(self):
        """Nothing changes on the host before a clone has a net; a net with a tap of its own gets none."""
        d = Daemon(self, "--network", "on")
        d.template("none", self.resumed())
        d.template("t", self.with_net())
        d.clone("none")
        d.clone("t", overrides={"net": [{"id": "net", "tap": "mine"}]})
        self.assertEqual(self.host_state(), self.before)
        self.clone(d)
        self.assertEqual(self.host_state()["switches"], ["1", "1", "2"])
        self.ready(d, 8)

    def test_queues_mtu_and_mac(self):
        """The tap has as many queues as the net, and the address and MTU that the template says."""
        d = Daemon(self, "--network", "on")
        d.template("t", self.with_net("id=net,mac=02:00:00:00:00:02,host_mac=02:00:00:00:00:99,mtu=1400,num_queues=4", cpus=2))
        net = self.clone(d)["net"][0]
        shown = sh(f"ip netns exec {net['slot']} ip -d link show fkguest")
        self.assertIn("link/ether 02:00:00:00:00:99", shown)
        self.assertIn("mtu 1400", shown)
        self.assertIn("numqueues 1 numdisabled 1", shown)      # until the guest uses the second

    def test_bounds(self):
        """--network-slots-max is a bound; a slot that comes back is made anew and taken again."""
        d = self.daemon("--network-slots-max", "2", "--network-slots", "1")
        clones = self.clone(d, count=2)
        self.assertIn("all 2 networks for clones are in use", d.refused(429, "busy", "POST", "/v1/templates/t/clones", {}))
        self.assertEqual(len(d.get("/v1/clones")["clones"]), 2)
        before = clones[0]["net"][0]
        inode = os.stat(f"/run/netns/{before['slot']}").st_ino
        d.delete(clones[:1])
        after = self.clone(d)["net"][0]     # waits for the other to be gone
        self.assertEqual((after["slot"], after["address"]), (before["slot"], before["address"]))
        self.assertNotEqual(os.stat(f"/run/netns/{after['slot']}").st_ino, inode)

    def test_clone_that_dies(self):
        """Its network goes with it, whoever ends it."""
        d = self.daemon("--network-slots", "0")
        c = self.clone(d)
        os.kill(c["pid"], signal.SIGKILL)
        wait_for("the network to go", lambda: self.host_state()["namespaces"] == [])
        self.assertEqual(d.get(f"/v1/clones/{c['id']}")["net"][0]["slot"], c["net"][0]["slot"])

    def test_request_that_fails(self):
        """Nothing stays of the networks that a request had when a later step failed."""
        d = self.daemon("--network-slots", "0")
        d.refused(400, "invalid_override", "POST", "/v1/templates/t/clones",
                  {"count": 3, "overrides": {"rng": {"nothing": 1}}})
        wait_for("the networks to go", lambda: self.host_state()["namespaces"] == [])

    def test_off(self):
        d = Daemon(self, "--network", "off")
        d.template("t", self.with_net())
        said = d.refused(400, "invalid_override", "POST", "/v1/templates/t/clones", {"overrides": {"network": {}}})
        self.assertIn("overrides.network: clones have no networks here: forkd runs with --network off", said)
        self.assertNotIn("slot", self.clone(d)["net"][0])

    def test_not_possible(self):
        """auto goes on with bare taps, and says once why; on is refused."""
        lacking = ["unshare", "-m", "--propagation", "slave", "sh", "-c",
                   "mount --bind /dev/null /usr/sbin/dnsmasq && exec \"$@\"", "sh"]
        d = Daemon(self, "--network", "auto", prefix=lacking)
        d.template("t", self.with_net())
        self.assertNotIn("slot", self.clone(d)["net"][0])
        self.assertEqual(read(d.log).count(b"clones get no networks of their own, but bare taps: the program dnsmasq"), 1)
        with self.assertRaisesRegex(AssertionError, "networks for clones: the program dnsmasq is not installed"):
            Daemon(self, "--network", "on", prefix=lacking)

    def test_range_that_is_taken(self):
        """The default range makes way; one that was asked for is refused."""
        sh("ip link add taken type veth peer name taken1; ip addr add 10.201.7.1/24 dev taken; ip link set taken up")
        self.addCleanup(sh, "ip link del taken")
        d = self.daemon()
        self.assertTrue(self.clone(d)["net"][0]["address"].startswith("10.202."))
        checks = {c["name"]: c for c in json.loads(d.ctl("doctor", "--json"))["checks"]}
        self.assertEqual((checks["networks"]["result"], checks["firewalls"]["result"]), ("ok", "ok"), checks)
        self.assertIn("the route to 10.201.7.0 through taken leads into 10.201.0.0/16", checks["network range"]["detail"])
        with self.assertRaisesRegex(AssertionError, "collides with the route to 10.201.7"):
            Daemon(self, "--network", "on", "--network-range", "10.201.0.0/16")

    def test_two_daemons(self):
        """Each has its names and its range; what one switched on stays as long as the other has networks."""
        self.serve(PUBLIC)
        first, second = self.daemon(), self.daemon()
        clones = [self.clone(d) for d in (first, second)]
        nets = [c["net"][0] for c in clones]
        self.assertNotEqual(nets[0]["slot"], nets[1]["slot"])
        self.assertNotEqual(nets[0]["address"], nets[1]["address"])
        first.delete(clones[:1])
        first.stop()
        self.assertEqual(Guest(self, clones[1]).tcp(PUBLIC), f"hello {HOST}")
        second.delete(clones[1:])
        second.stop()
        self.assertEqual(self.host_state()["namespaces"], [])

    def test_beside_docker(self):
        """A firewall that drops what is forwarded lets slots through in its chain for that, and is as before afterwards."""
        self.serve(PUBLIC)
        self.serve(PUBLIC6)
        for program in ("iptables", "ip6tables"):
            sh(f"{program} -N DOCKER-USER && {program} -P FORWARD DROP && {program} -A FORWARD -j DOCKER-USER")
            self.addCleanup(sh, f"{program} -P FORWARD ACCEPT; {program} -F; {program} -X; nft flush ruleset")
        before = sh("iptables -S; ip6tables -S")
        d = self.daemon()
        c = self.clone(d, {"ports": [{"guest": 80, "address": "0.0.0.0"}]})
        guest = Guest(self, c)
        self.assertEqual(guest.tcp(PUBLIC), f"hello {HOST}")
        self.assertIsNotNone(guest.tcp(PUBLIC6))
        self.addCleanup(Server(guest.ns, "0.0.0.0", 80).close)
        port = c["net"][0]["network"]["ports"][0]["host"]
        self.assertIsNotNone(self.internet.call(lambda: tcp(HOST, port)))
        self.assertEqual(sh("iptables -S DOCKER-USER").count("--comment forkd"), 2)
        d.delete([c])
        d.stop()
        self.assertEqual(sh("iptables -S; ip6tables -S"), before)


class Recovery(NetworkTest):
    def test_kill_9(self):
        """The next daemon takes the networks of those that live, with their ports, and removes all others."""
        self.serve(PUBLIC)
        d = self.daemon("--network-slots", "3")
        kept = self.clone(d, {"ports": [{"guest": 80}], "egress": {"allow": [PUBLIC]}})
        ended = self.clone(d)
        guest = Guest(self, kept)
        self.assertEqual(guest.tcp(PUBLIC), f"hello {HOST}")
        port = kept["net"][0]["network"]["ports"][0]["host"]
        self.ready(d, 3)
        d.kill()
        os.kill(ended["pid"], signal.SIGKILL)
        self.assertEqual(guest.tcp(PUBLIC), f"hello {HOST}")        # no daemon is needed for it
        self.assertEqual(len(self.host_state()["namespaces"]), 5)
        d.start()
        self.assertEqual(d.get(f"/v1/clones/{kept['id']}")["net"], kept["net"])
        self.assertEqual(guest.tcp(PUBLIC), f"hello {HOST}")
        self.assertTrue(guest.is_kept_from(OTHER))
        self.assertIn(f"port {port}", d.refused(409, "conflict", "POST", "/v1/templates/t/clones",
                                                {"overrides": {"network": {"ports": [{"host": port, "guest": 1}]}}}))
        self.ready(d, 3)
        wait_for("the others to go", lambda: len(self.host_state()["namespaces"]) == 4)
        d.delete([kept])
        d.stop()
        self.assertEqual(self.host_state(), self.before)

    def test_daemon_that_stops(self):
        """Clones outlive it, with their networks; the rest goes at once, and all of it with the last clone."""
        self.serve(PUBLIC)
        d = self.daemon()
        c = self.clone(d)
        guest = Guest(self, c)
        self.ready(d, 8)
        d.stop()
        left = self.host_state()
        self.assertEqual((left["namespaces"], len(left["resolvers"])), ([c["net"][0]["slot"]], 1))
        self.assertEqual(guest.tcp(PUBLIC), f"hello {HOST}")
        d.start()
        d.delete([c])
        d.stop()
        self.assertEqual(self.host_state(), self.before)

    def test_rules_that_were_flushed(self):
        """Whoever empties the host's tables takes the way out away; the next daemon puts it back, ports too."""
        self.serve(PUBLIC)
        d = self.daemon()
        c = self.clone(d, {"ports": [{"guest": 80}]})
        guest = Guest(self, c)
        d.kill()
        sh("nft flush ruleset")
        self.assertTrue(guest.is_kept_from(PUBLIC))
        d.start()
        self.assertEqual(guest.tcp(PUBLIC), f"hello {HOST}")
        self.assertIn(f"{c['net'][0]['address']} . 80", sh("nft list ruleset"))

    def test_many(self):
        """Made, used, killed with the daemon, adopted, given back: the host is as before."""
        n = 200 if FULL else 40
        self.serve(PUBLIC)
        d = self.daemon("--network-slots", "10")
        clones = self.clone(d, count=n)
        self.assertEqual(len({c["net"][0]["address"] for c in clones}), n)
        for c in clones[::max(1, n // 8)]:
            self.assertEqual((guest := Guest(self, c)).tcp(PUBLIC), f"hello {HOST}")
            guest.close()
        d.kill()
        for c in clones[:n // 2]:
            os.kill(c["pid"], signal.SIGKILL)
        d.start()

        def living():
            return [c for c in d.get("/v1/clones")["clones"] if c["state"] != "exited"]
        wait_for("the end of those that were killed", lambda: {c["id"] for c in living()} == {c["id"] for c in clones[n // 2:]})
        alive = living()
        for c in alive[::max(1, n // 8)]:
            self.assertEqual(Guest(self, c).tcp(PUBLIC), f"hello {HOST}")
        d.delete(alive)
        d.stop()
        self.assertEqual(self.host_state(), self.before)
