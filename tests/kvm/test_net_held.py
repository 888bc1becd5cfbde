# SPDX-License-Identifier: Apache-2.0
"""Nets that are held: a VM that is restored with net_held sends and hears nothing until net_release.

The guest "devices" pings its gateway, for ever again until it answers.
"""
import os
import re
import select
import socket
import struct

import test_hotplug
import test_template_host
from kvmtest import Tap, call, guest, only_forkd, wait_for

HOST_MAC, GATEWAY = "02:00:00:00:0a:01", "10.0.0.1"
PING = "rounds=0 dev=net ping=1 pause=20"
RARP, IPV4 = 0x8035, 0x0800


class Capture:
    """What a guest sends through a tap, from now on; and the way to send frames to the guest."""
    OUTGOING = 4

    def __init__(self, test, tap):
        self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)     # hears nothing before bind()
        self.sock.bind((tap.name, 0x0003))                                  # ETH_P_ALL
        self.frames = []
        test.addCleanup(self.sock.close)

    def taken(self):
        """The ethertypes of all frames of the guest so far."""
        while select.select([self.sock], [], [], 0)[0]:
            frame, address = self.sock.recvfrom(2048)
            if address[2] != self.OUTGOING:
                self.frames.append(int.from_bytes(frame[12:14], "big"))
        return self.frames

    def send_poison(self, n):
        """Frames by which the guest breaks if it ever gets one."""
        for _ in range(n):
            self.sock.send(b"\xff" * 6 + b"\x02\0\0\0\0\x01" + b"\x88\xb5" + struct.pack("<HI", 60, 99) + bytes(40))


@only_forkd
class Held(test_hotplug.Hotplug):
    def gateway(self):
        """A tap whose host's side answers pings."""
        tap = Tap(self, echo=False)
        tap.set_mac(HOST_MAC)
        tap.set_ip(GATEWAY)
        return tap

    def pinging(self):
        """The snapshot of a guest that knows the MAC of its gateway."""
        tap = self.gateway()
        vmm = self.boot("devices", PING, extra=["--net", f"id=net,fd={tap.fds[0]}"], pass_fds=tap.fds)
        vmm.wait_rounds(2)
        directory = vmm.snapshot()
        vmm.stop()
        tap.close()
        return directory

    def begin(self, host, name, **more):
        tap = self.gateway()
        clone, capture = test_template_host.Clone(host, name), Capture(self, tap)
        self.assertIn("there is no VM", str(clone.ask("net_release")[0]))
        answer = clone.restore(nets=[("net", tap.fds[0])], more=more, kernel=guest("devices"))
        self.assertEqual((answer.get("state"), answer.get("net_held")), ("Running", bool(more.get("net_held"))), answer)
        return clone, capture, tap

    def stats(self, clone):
        answer, _ = clone.ask("stats")
        return answer["net_held_frames"], answer["net_rx_frames"] + answer["net_tx_frames"]

    def wait_held(self, clone, capture, n_more):
        """The guest goes on sending; nothing of it is heard, and it hears nothing."""
        least = self.stats(clone)[0] + n_more
        wait_for("frames to be dropped", lambda: self.stats(clone)[0] >= least, context=lambda: f": {self.stats(clone)}, {least} expected")
        self.assertEqual((self.stats(clone)[1], capture.taken()), (0, []))

    def wait_rounds(self, clone, n):
        wait_for(f"{n} rounds", lambda: len(re.findall(rb"round \d+", clone.output())) >= n, context=lambda: str(clone.output()[-300:]))
        self.assertNotIn(b"FAIL", clone.output())

    def snapshot(self, clone):
        directory = self.path(self.unique("held"))
        os.mkdir(directory)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.assertIn("paused_us", clone.ask("snapshot", [fd])[0])
        os.close(fd)
        return directory

    def test_held_until_released(self):
        host = test_template_host.Host(self, self.pinging())
        clone, capture, tap = self.begin(host, "c", net_held=True)
        self.wait_held(clone, capture, 3)
        heard = clone.output()      # of an answer that had come before the snapshot
        capture.send_poison(50)
        self.wait_held(clone, capture, 3)
        self.assertGreater(self.stats(clone)[0], 50)
        clone.ask("pause")
        clone.ask("resume")
        self.wait_held(clone, capture, 3)
        directory = self.snapshot(clone)
        self.wait_held(clone, capture, 3)
        clone.sock.close()                                  # as when the daemon begins anew
        clone.connect()
        self.assertTrue(clone.ask("hello")[0]["net_held"])
        self.assertEqual(clone.output(), heard)
        clone.ask("pause")
        capture.send_poison(50)                             # nor does what came before the release reach it
        before = self.stats(clone)[0]
        answer, _ = clone.ask("net_release")
        self.assertEqual(answer, {"ok": True, "held_frames": before + 50})
        self.assertEqual(capture.taken(), [RARP])         # it announces itself now, not at the restore
        self.assertFalse(clone.ask("resume")[0].get("net_held"))
        self.wait_rounds(clone, 3)
        self.assertEqual(clone.ask("net_release")[0], answer)
        wait_for("frames of the guest", lambda: IPV4 in capture.taken() and self.stats(clone)[1] > 3)
        self.assertEqual(capture.taken().count(RARP), 1)
        # The snapshot does not say that it was held: each restore is asked anew.
        clone.kill()
        tap.close()
        child, capture, _ = self.begin(test_template_host.Host(self, directory), "child")
        self.wait_rounds(child, 3)
        self.assertEqual(self.stats(child)[0], 0)
        self.assertEqual(capture.taken()[0], RARP)

    def test_reboot(self):
        """A guest that resets before it is released is as silent as before; one that was released is not held again."""
        host = test_template_host.Host(self, self.pinging())
        clone, capture, _ = self.begin(host, "c", net_held=True)
        self.wait_held(clone, capture, 3)
        self.assertEqual(call(clone.api, "PUT", "vm.reboot").status, 204)
        self.wait_held(clone, capture, 3)
        self.assertTrue(clone.ask("hello")[0]["net_held"])
        clone.ask("net_release")
        self.wait_rounds(clone, 3)
        self.assertEqual(call(clone.api, "PUT", "vm.reboot").status, 204)
        self.assertEqual((clone.ask("hello")[0]["net_held"], clone.ask("hello")[0]["reboots"]), (False, 2))
        wait_for("another boot", lambda: clone.output().count(b"devices: cpus") == 2)
        before = self.stats(clone)[1]
        wait_for("frames of the guest", lambda: self.stats(clone)[1] > before + 3)
        self.assertEqual(self.stats(clone)[0], 0)

    def test_card_that_comes_later(self):
        """A net that is added by the VM's API is held like the others."""
        vmm = self.boot("devices", f"{PING} {self.registers()}")
        vmm.wait_rounds(1)
        host = test_template_host.Host(self, vmm.snapshot())
        vmm.stop()
        clone = test_template_host.Clone(host, "c")
        self.assertTrue(clone.restore(more={"net_held": True}).get("net_held"))
        tap = self.gateway()
        capture = Capture(self, tap)
        self.assertEqual(call(clone.api, "PUT", "vm.add-net", {"id": "more"}, tap.fds).status, 200)
        wait_for("the guest to find it", lambda: b"found net slot" in clone.output(), context=lambda: str(clone.output()[-300:]))
        self.wait_held(clone, capture, 3)
        capture.send_poison(50)
        self.wait_held(clone, capture, 53)
        clone.ask("net_release")
        wait_for("a frame of the guest", lambda: IPV4 in capture.taken(), context=lambda: str(clone.output()[-300:]))
