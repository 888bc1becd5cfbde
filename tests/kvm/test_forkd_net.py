# SPDX-License-Identifier: Apache-2.0
"""Taps of clones: the MTU and the MAC address of their configuration, and a guest that knows its host by another address."""
import os
import subprocess

from forkdtest import Daemon, ForkdTest
from kvmtest import Tap, guest, mac_of, mtu_of, read, set_ip, wait_for
import test_net
from test_net import GATEWAY, OLD_MAC, OTHER_MAC, interfaces

THIRD_MAC = "02:00:00:00:0c:03"


class Taps(ForkdTest):
    pinging, net_of = test_net.HostMac.pinging, test_net.HostMac.net_of

    def named_tap(self):
        tap = Tap(self, persistent=True, echo=False)
        tap.set_mac(OTHER_MAC)
        tap.set_ip(GATEWAY)
        return tap

    def template(self, edit=None):
        """A daemon with template t: a guest that pings its host at the MAC that it knew (OLD_MAC)."""
        directory = self.pinging("mtu=1400")
        if edit:
            directory = self.copy_snapshot(directory, lambda c: edit(c["net"][0]))
        d = Daemon(self)
        d.template("t", directory)
        return d

    def clone(self, d, **override):
        return d.clone("t", overrides={"net": [{"id": "net", **override}]})[0]

    def wait_answers(self, d, clone, n=2):
        before = read(clone["serial"]).count(b"round")
        wait_for("answers to the guest's pings", lambda: read(clone["serial"]).count(b"round") >= before + n,
                 context=lambda: f": {clone['net']}, {read(clone['serial'])}{d.context()}")

    def test_mtu_and_recorded_mac(self):
        d = self.template()
        before = interfaces()
        for c in d.clone("t", 2):
            name = c["net"][0]["tap"]
            self.assertEqual((mac_of(name), mtu_of(name)), (OLD_MAC, 1400))
            set_ip(name, GATEWAY)
            self.wait_answers(d, c)
            d.delete([c])
        wait_for("the taps to go", lambda: interfaces() == before)
        tap = self.named_tap()
        c = self.clone(d, tap=tap.name)
        self.assertEqual((tap.mac(), mtu_of(tap.name)), (OLD_MAC, 1400))
        self.wait_answers(d, c)

    def test_mac_of_the_request(self):
        d = self.template()
        c = self.clone(d, host_mac=THIRD_MAC)
        name = c["net"][0]["tap"]
        self.assertEqual(mac_of(name), THIRD_MAC)
        set_ip(name, GATEWAY)
        self.wait_answers(d, c)                 # told of the other one
        saved = d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})
        self.assertEqual(saved["template"]["state"], "ready")
        self.assertEqual(self.net_of(os.path.join(d.store, "templates", "u"))["host_mac"], THIRD_MAC)
        d.delete([c])
        url = "/v1/templates/t/clones"
        for mac, message in (("x", "overrides.net[0].host_mac: 'x' is not a MAC address"),
                             ("01:00:5e:00:00:01", "set the MAC address '01:00:5e:00:00:01'")):
            said = d.call("POST", url, {"overrides": {"net": [{"id": "net", "host_mac": mac}]}})
            self.assertEqual(said.status, 400, said)
            self.assertIn(message, said.json["message"])
        tap = Tap(self)
        said = d.call("POST", url, {"net_fds": [{"id": "net", "num_fds": 1}],
                                    "overrides": {"net": [{"id": "net", "host_mac": OLD_MAC}]}}, fds=tap.fds)
        self.assertEqual((said.status, said.json["code"]), (400, "invalid_override"), said)
        self.assertIn("comes as a descriptor, and stays as it is", said.json["message"])

    def test_snapshot_that_does_not_say(self):
        """The guest is told who has the address: at once where the tap has one, else when it gets it."""
        d = self.template(lambda net: net.pop("host_mac"))
        tap = self.named_tap()
        c = self.clone(d, tap=tap.name)
        self.assertEqual(tap.mac(), OTHER_MAC)
        self.wait_answers(d, c)
        d.delete([c])
        tap.delete()
        c = d.clone("t")[0]
        set_ip(c["net"][0]["tap"], GATEWAY)
        self.assertNotEqual(mac_of(c["net"][0]["tap"]), OLD_MAC)
        self.wait_answers(d, c)

    def test_link_that_comes_up(self):
        """The guest is told again: while the link was down it could not hear who has the address now."""
        d = self.template()
        tap = self.named_tap()
        c = self.clone(d, tap=tap.name)
        self.wait_answers(d, c)
        for command in (["down"], ["address", THIRD_MAC], ["up"]):
            subprocess.run(["ip", "link", "set", "dev", tap.name, *command], check=True)
        self.wait_answers(d, c)

    def test_deleted_under_a_clone(self):
        d = self.template()
        for ended in ("running", "paused"):
            tap = self.named_tap()
            c = self.clone(d, tap=tap.name)
            self.wait_answers(d, c)
            tap.delete()

            def nets(c=c):
                return d.get(f"/v1/clones/{c['id']}")["net"]
            wait_for("the loss to be shown", lambda: nets() == [{"id": "net", "tap": tap.name, "lost": True}], context=lambda: f": {nets()}")
            said = [e for e in d.events() if e["type"] == "clone.tap_lost"]
            self.assertEqual([(e["clone"], e["template"], e["net"]) for e in said][-1:], [(c["id"], "t", "net")])
            self.assertEqual(read(d.log).decode().count("net 'net': its tap is gone"), len(said))
            if ended == "paused":
                d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
            d.stop()
            d.start()                           # another daemon knows it, too
            wait_for("the loss to be shown", lambda: nets()[0].get("lost"), context=lambda: f": {nets()}")
            d.delete([c])

    def test_of_a_build(self):
        """The VM from which a template is made."""
        d = Daemon(self)
        net = {"id": "net", "host_mac": THIRD_MAC, "mtu": 1300}
        vm = {"payload": {"kernel": guest("devices"), "cmdline": "rounds=0 dev=rng"}, "memory": {"size": 64 << 20},
              "serial": {"mode": "Null"}, "console": {"mode": "Off"}, "net": [net]}
        d.must(201, "POST", "/v1/templates", {"name": "built", "vm": vm, "ready": {"serial": "round 1 ok"}})
        self.assertEqual(self.net_of(os.path.join(d.store, "templates", "built"))["host_mac"], THIRD_MAC)
        name = d.clone("built")[0]["net"][0]["tap"]
        self.assertEqual((mac_of(name), mtu_of(name)), (THIRD_MAC, 1300))
        bad = {**vm, "net": [{**net, "host_mac": "x"}]}
        said = d.refused(400, "invalid_request", "POST", "/v1/templates", {"name": "bad", "vm": bad, "ready": {"delay_ms": 1}})
        self.assertIn("host_mac 'x' is not a MAC address", said)
