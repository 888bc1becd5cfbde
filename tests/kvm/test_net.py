# SPDX-License-Identifier: Apache-2.0
"""Network devices on restore: descriptors by SCM_RIGHTS (net_fds), taps by name, and what must be refused."""
import array
import fcntl
import json
import os
import socket
import struct

from kvmtest import IS_FORKD, KvmTest, Tap, open_files, read, wait_for, write


class NetFds(KvmTest):
    def two_nets(self, cpus=2):
        """A guest with two nets of two queue pairs each, checking every frame; its snapshot."""
        taps = [Tap(self, queues=2), Tap(self, queues=2)]
        nets = [f"id={name},fd=[{','.join(map(str, tap.fds))}],num_queues=4" for name, tap in zip(("left", "right"), taps)]
        vmm = self.boot("devices", f"rounds=0 cpus={cpus} mode=irq batches=4 dev=net mem=4", cpus=cpus, extra=["--net", *nets],
                        pass_fds=taps[0].fds + taps[1].fds)
        vmm.wait_rounds(2)
        directory = vmm.snapshot()
        vmm.stop()
        for tap in taps:
            tap.close()
        return vmm, directory

    def test_descriptors_in_another_order(self):
        vmm, directory = self.two_nets()
        config = json.loads(read(os.path.join(directory, "config.json")))
        self.assertEqual([(n["id"], len(n["fds"]), n["num_queues"]) for n in config["net"]], [("left", 2, 4), ("right", 2, 4)])
        for order in (("left", "right"), ("right", "left")):
            taps = {name: Tap(self, queues=2) for name in order}
            before = len(os.listdir("/proc/self/fd"))
            clone = self.restore(directory, net_fds=[{"id": n, "num_fds": 2} for n in order],
                                 fds=[fd for n in order for fd in taps[n].fds])
            self.assertEqual(len(os.listdir("/proc/self/fd")) - before, 2)     # the pipes to the VMM
            self.assertGreaterEqual(clone.wait_rounds(4), vmm.rounds()[-1] + 1)
            self.check_frames(directory, order, taps)
            clone.stop()
            for tap in taps.values():
                tap.close()

    def check_frames(self, directory, order, taps):
        """Each tap hears the MAC of its own net, no other."""
        config = json.loads(read(os.path.join(directory, "config.json")))
        macs = {n["id"]: bytes.fromhex(n["mac"].replace(":", "")) for n in config["net"]}
        for name in order:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as s:     # hears nothing before bind()
                s.bind((taps[name].name, 0x88b5))
                s.settimeout(20)
                frame = s.recv(2048)
                while frame[6:12] == b"\x02\0\0\0\0\x01":       # the echo's own
                    frame = s.recv(2048)
                self.assertEqual(frame[6:12], macs[name], name)

    def refused(self, clone, body, fds, status, last):
        answer = clone.call("PUT", "vm.restore", body, fds)
        self.assertEqual(answer.status, status, answer)
        self.assertIn(last, answer.json[-1], answer)

    def test_wrong_descriptors(self):
        _, directory = self.two_nets()
        url = "file://" + directory
        taps = {name: Tap(self, queues=2) for name in ("left", "right")}
        four = taps["left"].fds + taps["right"].fds

        def body(*nets):
            return {"source_url": url, "resume": True, "net_fds": [{"id": i, "num_fds": n} for i, n in nets]}
        both = body(("left", 2), ("right", 2))
        clone = self.start(name="clone")
        clone.get("vmm.ping")
        before = clone.n_fds()
        cases = [
            ("none", {"source_url": url}, [], 400, "is associated with FDs and is required"),
            ("fewer than announced", both, four[:3], 400, "Bad Request"),
            ("more than announced", both, four + four[:1], 400, "Bad Request"),
            ("announced none", {"source_url": url}, four, 400, "Bad Request"),
            ("one net missing", body(("left", 2)), four[:2], 400, "Net id right is associated with FDs and is required"),
            ("too few for one", body(("left", 1), ("right", 2)), four[:3], 400,
             "Number of Net FDs passed for 'left' during Restore: 1. Expected: 2"),
            ("too many for one", body(("left", 2), ("right", 3)), four + four[:1], 400,
             "Number of Net FDs passed for 'right' during Restore: 3. Expected: 2"),
            ("twice the same", body(("left", 2), ("left", 2)), four, 409, "Identifier left is not unique"),
        ]
        for what, request, fds, status, last in cases:
            with self.subTest(what):
                self.refused(clone, request, fds, status, last)
        null = os.open("/dev/null", os.O_RDWR)
        answer = clone.call("PUT", "vm.restore", both, [null] * 4)
        self.assertIn(answer.status, (400, 500), answer)
        wait_for("descriptors to be closed", lambda: clone.n_fds() <= before,
                 context=lambda: f": {before} before, {clone.n_fds()} now: {clone.fds()}")
        os.close(null)
        self.assertEqual(clone.call("GET", "vm.info").status, 404)
        # an id that nobody has is a warning; the restore is fine and the descriptor is closed
        spare = Tap(self, echo=False)
        clone.put("vm.restore", body(("left", 2), ("right", 2), ("nobody", 1)), four + spare.fds)
        clone.wait_rounds(3)
        clone.put("vm.delete")
        wait_for("descriptors to be closed", lambda: clone.n_fds() <= before,
                 context=lambda: f": {before} before, {clone.n_fds()} now: {clone.fds()}")
        clone.stop()

    def test_descriptors_of_other_requests_are_closed(self):
        clone = self.start(name="clone")
        clone.get("vmm.ping")
        before = clone.n_fds()
        null = os.open("/dev/null", os.O_RDWR)
        for _ in range(20):
            self.assertEqual(clone.call("GET", "vmm.ping", fds=[null] * 50).status, 200)
            self.assertEqual(clone.call("GET", "nothing", fds=[null] * 3).status, 404)
        os.close(null)
        wait_for("descriptors to be closed", lambda: clone.n_fds() <= before,
                 context=lambda: f": {before} before, {clone.n_fds()} now")
        clone.stop()

    def test_command_line_descriptors(self):
        vmm, directory = self.two_nets()
        for separator in [",", " "] if IS_FORKD else [","]:         # the second form stands in Cloud Hypervisor's guide
            taps = {name: Tap(self, queues=2) for name in ("left", "right")}
            lists = ",".join(f"{n}@[{','.join(map(str, taps[n].fds))}]" for n in ("right", "left"))
            words = f"source_url=file://{directory},resume=on{separator}net_fds=[{lists}]".split(" ")
            clone = self.start("--restore", *words, name="clone", pass_fds=[fd for t in taps.values() for fd in t.fds])
            self.assertGreaterEqual(clone.first_round(3), vmm.rounds()[-1] + 1)
            clone.stop()
            for tap in taps.values():
                tap.close()

    def test_tap_by_name(self):
        tap = Tap(self, persistent=True)
        vmm = self.boot("devices", "rounds=0 dev=net batches=4", extra=["--net", f"tap={tap.name},mac=2e:00:00:00:00:07"])
        vmm.wait_rounds(2)
        directory = vmm.snapshot()
        config = json.loads(read(os.path.join(directory, "config.json")))
        self.assertEqual((config["net"][0]["tap"], config["net"][0]["mac"]), (tap.name, "2e:00:00:00:00:07"))
        # in use by the first
        clone = self.start(name="clone")
        answer = clone.call("PUT", "vm.restore", {"source_url": "file://" + directory})
        self.assertEqual(answer.status, 500)
        self.assertIn("Device or resource busy", answer.json[-1])
        # another one
        other = Tap(self, persistent=True)
        copy = self.copy_snapshot(directory, lambda c: c["net"][0].update(tap=other.name))
        clone.put("vm.restore", {"source_url": "file://" + copy, "resume": True})
        clone.wait_rounds(3)
        vmm.put("vm.resume")
        vmm.wait_rounds(3)
        clone.stop()
        vmm.stop()

    def test_taps_are_gone_after_the_end(self):
        before = interfaces()
        vmm = self.boot("devices", "rounds=1 dev=rng end=halt", extra=["--net", "mac=2e:00:00:00:00:08"])
        vmm.wait_output(rb"PASS")
        self.assertEqual(len(interfaces()), len(before) + 1)
        vmm.stop()
        self.assertEqual(interfaces(), before)


class GuestOffloads(KvmTest):
    """What a guest switched off (VIRTIO_NET_CTRL_GUEST_OFFLOADS) stays off on the tap of a restore."""

    def offloads(self, tap):
        """(checksums, segmentation): whether the host may leave them to who reads the tap."""
        return tuple(bool(ethtool_get(tap.name, command)) for command in (ETHTOOL_GTXCSUM, ETHTOOL_GTSO))

    def restored(self, directory):
        tap = Tap(self)
        clone = self.restore(directory, net_fds=[{"id": "net", "num_fds": 1}], fds=tap.fds)
        clone.wait_rounds(2)
        return clone, tap

    def test_stay_off(self):
        for left_on, expected in ((0, (False, False)), (1 << 1, (True, False)), (1 << 1 | 1 << 7 | 1 << 8, (True, True))):
            with self.subTest(left_on=left_on):
                tap = Tap(self)
                vmm = self.boot("devices", f"rounds=0 batches=4 dev=net mem=4 offloads={left_on}",
                                extra=["--net", f"id=net,fd={tap.fds[0]}"], pass_fds=tap.fds)
                vmm.wait_rounds(2)
                self.assertEqual(self.offloads(tap), expected)
                first = vmm.snapshot()
                vmm.stop()
                clone, tap = self.restored(first)
                self.assertEqual(self.offloads(tap), expected)
                second = clone.snapshot()       # of a restored one
                clone.stop()
                clone, tap = self.restored(second)
                self.assertEqual(self.offloads(tap), expected)
                clone.stop()

    def test_more_than_negotiated(self):
        tap = Tap(self)
        vmm = self.boot("devices", "rounds=0 batches=4 dev=net offloads=0", extra=["--net", f"id=net,fd={tap.fds[0]}"],
                        pass_fds=tap.fds)
        vmm.wait_rounds(1)
        directory = vmm.snapshot()
        vmm.stop()
        state = os.path.join(directory, "state.json")
        text = read(state).decode()
        self.assertIn('guest_offloads\\":0', text)
        write(state, text.replace('guest_offloads\\":0', 'guest_offloads\\":1024'))
        tap = Tap(self)
        clone = self.start(name="clone")
        answer = clone.call("PUT", "vm.restore", {"source_url": "file://" + directory,
                                                  "net_fds": [{"id": "net", "num_fds": 1}]}, tap.fds)
        self.assertEqual(answer.status, 400, answer)
        self.assertIn("net: guest_offloads 0x400 has more than was negotiated", answer.json[-1])


class LostTap(KvmTest):
    """A tap that is deleted under a VM is told once, and nobody waits for it any more."""

    def lost(self, how, pairs, tap):
        events = self.path(f"events-{tap.name}")
        vmm = self.boot("devices", f"rounds=0 cpus={pairs} mode=irq dev=net batches=4", cpus=pairs, pass_fds=tap.fds,
                        extra=["--net", f"id=card,num_queues={2 * pairs},{how}", "--event-monitor", f"path={events}"])
        tap.close_fds()
        vmm.wait_rounds(2)
        return vmm, events

    def check(self, vmm, events):
        wait_for("the event", lambda: b"tap-lost" in read(events), context=vmm.context)
        said = "net 'card': its tap is gone; what the guest sends is lost"
        wait_for("the log line", lambda: said in vmm.stderr, context=vmm.context)
        # the guest sends on, is heard by nobody, and adds buffers; the device is looked at again by a pause and a resume
        for _ in range(2):
            vmm.put("vm.pause")
            vmm.put("vm.resume")
        self.assertEqual(self.watched(vmm, "/dev/net/tun"), [])
        self.assertEqual(vmm.stderr.count(said), 1)
        self.assertEqual(read(events).count(b"tap-lost"), 1)
        self.assertIn(b'"event": "tap-lost",\n  "properties": {\n    "id": "card"\n  }', read(events))

    def watched(self, vmm, path):
        """The descriptors with that path that an epoll instance of the process waits for."""
        files, found = open_files(vmm.pid), []
        for fd in (fd for fd, target in files.items() if target == "anon_inode:[eventpoll]"):
            lines = read(f"/proc/{vmm.pid}/fdinfo/{fd}").decode().splitlines()
            found += [line for line in lines if line.startswith("tfd") and files.get(int(line.split()[1])) == path]
        return found

    def test_descriptors(self):
        for pairs in (1, 2):
            with self.subTest(pairs=pairs):
                tap = Tap(self, queues=pairs)
                vmm, events = self.lost(f"fd=[{','.join(map(str, tap.fds))}]", pairs, tap)
                self.assertEqual(len(self.watched(vmm, "/dev/net/tun")), pairs)
                tap.delete()
                self.check(vmm, events)
                vmm.stop()

    def test_by_name(self):
        tap = Tap(self, persistent=True)
        vmm, events = self.lost(f"tap={tap.name}", 1, tap)
        tap.delete()
        self.check(vmm, events)
        vmm.stop()

    def test_while_paused(self):
        tap = Tap(self)
        vmm, events = self.lost(f"fd={tap.fds[0]}", 1, tap)
        vmm.put("vm.pause")
        tap.delete()
        vmm.put("vm.resume")
        self.check(vmm, events)
        vmm.stop()


OLD_MAC, OTHER_MAC, GATEWAY = "02:00:00:00:0a:01", "02:00:00:00:0b:02", "10.0.0.1"


class HostMac(KvmTest):
    """A guest knows its host by the MAC of the tap, and does not look again soon: a snapshot has it, a restore's tap gets it."""

    def pinging(self, *more, **options):
        """The snapshot of a guest that pings the host behind its tap, with the MAC that it knows; the tap is gone."""
        tap = Tap(self, persistent=True, echo=False)
        tap.set_mac(OLD_MAC)
        tap.set_ip(GATEWAY)
        vmm = self.boot("devices", "rounds=0 dev=net ping=1 pause=20", extra=["--net", ",".join(["id=net", f"tap={tap.name}", *more])],
                        **options)
        vmm.wait_rounds(2)
        directory = vmm.snapshot()
        vmm.stop()
        tap.close()
        return directory

    def net_of(self, directory):
        return json.loads(read(os.path.join(directory, "config.json")))["net"][0]

    def test_is_in_the_snapshot_and_restored(self):
        directory = self.pinging()
        self.assertEqual(self.net_of(directory)["host_mac"], OLD_MAC)
        tap = Tap(self, persistent=True, echo=False)
        tap.set_mac(OTHER_MAC)
        tap.set_ip(GATEWAY)
        clone = self.restore(self.copy_snapshot(directory, lambda c: c["net"][0].update(tap=tap.name)))
        clone.wait_rounds(3)
        self.assertEqual(tap.mac(), OLD_MAC)
        self.assertEqual(self.net_of(clone.snapshot())["host_mac"], OLD_MAC)
        clone.stop()

    def test_newest_one_counts(self):
        tap = Tap(self, persistent=True, echo=False)
        vmm = self.boot("devices", "rounds=0 dev=rng", extra=["--net", f"id=net,tap={tap.name},host_mac={OLD_MAC}"])
        vmm.wait_rounds(1)
        self.assertEqual(tap.mac(), OLD_MAC)
        tap.set_mac(OTHER_MAC)
        directory = vmm.snapshot(resume=True)
        self.assertEqual(self.net_of(directory)["host_mac"], OTHER_MAC)
        self.assertEqual(vmm.get("vm.info")["config"]["net"][0]["host_mac"], OLD_MAC)
        tap.delete()                            # nothing is known then but what the configuration says
        self.assertEqual(self.net_of(vmm.snapshot())["host_mac"], OLD_MAC)
        vmm.stop()

    def test_not_the_guests_own(self):
        """As a macvtap has it: who is behind that is not known."""
        tap = Tap(self, echo=False)
        tap.set_mac(OTHER_MAC)
        vmm = self.boot("devices", "rounds=0 dev=rng", extra=["--net", f"id=net,fd={tap.fds[0]},mac={OTHER_MAC}"], pass_fds=tap.fds)
        vmm.wait_rounds(1)
        self.assertNotIn("host_mac", self.net_of(vmm.snapshot()))
        vmm.stop()


ETHTOOL_GTXCSUM, ETHTOOL_GTSO = 0x16, 0x1e


def ethtool_get(name, command):
    value = array.array("I", [command, 0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8946, struct.pack("16sP16x", name.encode(), value.buffer_info()[0]))       # SIOCETHTOOL
    return value[1]


def interfaces():
    return sorted(name for _, name in socket.if_nameindex())
