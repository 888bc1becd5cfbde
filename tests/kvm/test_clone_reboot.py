# SPDX-License-Identifier: Apache-2.0
"""Guests that reset inside a clone: the machine is built again from what forkd has handed over, and the template keeps what it boots."""
import os
import re
import socket

import test_agent
from forkdtest import Daemon, ForkdTest, request
from kvmtest import MIB, call, guest, open_files, read, wait_for, write

KERNEL = guest("reboot")


class RebootTest(ForkdTest):
    def from_vm(self, d, name="t", cmdline="end=reset", **vm):
        """A template of a VM that forkd has booted; its disk is copied."""
        return d.must(201, "POST", "/v1/templates", {"name": name, "ready": {"serial": "boot 1"}, "vm": {
            "payload": {"kernel": KERNEL, "cmdline": cmdline}, "memory": {"size": 64 * MIB}, "console": {"mode": "Off"},
            "disks": [{"id": "root", "path": self.disk(1), "image_type": "Raw"}], **vm}})

    def snapshot_by_hand(self, kernel=KERNEL, extra=()):
        vmm = self.start("--kernel", kernel, "--cmdline", "end=reset", "--memory", "size=64M", "--serial", "tty", "--console", "off",
                         "--disk", f"path={self.disk(1)},id=root,image_type=raw", *extra)
        vmm.wait_output(b"boot 1\n")
        directory = vmm.snapshot()
        vmm.stop()
        return directory

    def tell(self, clone, text):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(clone["serial_socket"])
            s.sendall(text)
            s.shutdown(socket.SHUT_WR)
            while s.recv(4096):                                 # the clone lets go when the machine goes, or when we do
                if text not in (b"r", b"f"):
                    return

    def printed(self, clone):
        text = read(clone["serial"])
        self.assertNotIn(b"FAIL", text)
        return text

    def wait_printed(self, clone, what):
        wait_for(f"{what!r}", lambda: re.search(what, self.printed(clone)), context=lambda: f": {read(clone['serial'])[-300:]!r}")

    def reset(self, clone, boot):
        """The guest resets, and counts that boot."""
        self.tell(clone, b"r")
        self.wait_printed(clone, rb"(^|\n)boot %d\n" % boot)

    def assert_alive(self, clone, boot):
        """It goes on: it answers what it is told."""
        before = self.printed(clone).count(b"alive %d\n" % boot)
        self.tell(clone, b"x")
        wait_for("an answer", lambda: self.printed(clone).count(b"alive %d\n" % boot) > before, context=lambda: f": {read(clone['serial'])[-300:]!r}")

    def kinds(self, clone):
        """What its process has open, but for the template's memory, and the one ring that a thread keeps (common/uring.c)."""
        names = [re.sub(r"[0-9]+", "", f) for f in open_files(clone["pid"]).values() if "memory-ranges" not in f]
        if "anon_inode:[io_uring]" in names:
            names.remove("anon_inode:[io_uring]")
        return sorted(names)

    def state(self, d, clone):
        return d.get(f"/v1/clones/{clone['id']}")

    def image_ids(self, d):
        return sorted(os.listdir(os.path.join(d.store, "images")))


class Reboots(RebootTest):
    def test_twice(self):
        """What it wrote to its disk is there; its memory is not; the template and its other clone know nothing of it."""
        d = Daemon(self)
        t = self.from_vm(d)
        self.assertEqual(t["reboots"], True)
        c, other = d.clone("t", 2)
        maps = f"/proc/{c['pid']}/maps"
        self.assertIn(b"memory-ranges", read(maps))
        for boot in (2, 3):
            self.reset(c, boot)
            self.assertNotIn(b"memory-ranges", read(maps))          # the template's memory is let go of
            self.assert_alive(c, boot)
        now = self.state(d, c)
        self.assertEqual((now["state"], now["pid"], now["responsive"]), ("running", c["pid"], True))
        self.assert_alive(other, 1)
        self.reset(other, 2)
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.assert_alive(c, 3)
        self.assertNotIn("clone.exited", [e["type"] for e in d.events()])

    def test_by_its_api(self):
        """The clone's own API reboots it, also when it is paused, and forkd knows that it runs."""
        d = Daemon(self)
        self.from_vm(d)
        c = d.clone("t")[0]
        self.assertEqual(request(c["api_socket"], "PUT", "/api/v1/vm.reboot").status, 204)
        self.wait_printed(c, rb"boot 2\n")
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        self.assertEqual(request(c["api_socket"], "PUT", "/api/v1/vm.reboot").status, 204)
        self.wait_printed(c, rb"boot 3\n")
        wait_for("forkd to know", lambda: self.state(d, c)["state"] == "running")
        self.assert_alive(c, 3)

    def test_initramfs_and_devices(self):
        """Each device has what it had: the net its tap, the disk its overlay, the vsock socket its listener."""
        initramfs = self.path("initramfs")
        write(initramfs, b"of the template")
        d = Daemon(self)
        self.from_vm(d, payload={"kernel": KERNEL, "initramfs": initramfs, "cmdline": "end=acpi-reset initramfs=1"},
                     net=[{"id": "net0"}], vsock={"cid": 3, "socket": "vsock"}, console={"mode": "Null"})
        write(initramfs, b"changed")
        c = d.clone("t")[0]
        self.reset(c, 2)
        before = self.kinds(c)
        self.reset(c, 3)
        self.assertEqual(self.printed(c).count(b"initramfs of the template\n"), 2)
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(c["vsock_socket"])                            # nobody listens in the guest: the VMM answers by closing
            s.sendall(b"CONNECT 5\n")
        self.assertEqual(self.kinds(c), before)
        self.assertEqual([n.get("lost", False) for n in self.state(d, c)["net"]], [False])

    def test_snapshot_of_one_that_rebooted(self):
        """Its clones go on where it was, and reboot in their turn: the child keeps what its parent boots."""
        d = Daemon(self)
        self.from_vm(d)
        kept = {os.path.join(d.store, "images", i) for i in self.image_ids(d)}
        c = d.clone("t")[0]
        self.reset(c, 2)
        t = d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})["template"]
        self.assertEqual(t["reboots"], True)
        d.delete([c])
        d.must(204, "DELETE", "/v1/templates/t")
        e = d.clone("u")[0]
        self.assert_alive(e, 2)
        self.reset(e, 3)
        self.assert_alive(e, 3)
        d.delete([e])
        self.assertTrue(all(os.path.exists(path) for path in kept))
        d.must(200, "POST", "/v1/templates/u/flatten")              # other disks, the same kernel
        self.reset(d.clone("u")[0], 3)
        d.delete(d.get("/v1/clones")["clones"])
        d.must(204, "DELETE", "/v1/templates/u")
        wait_for("the store to be empty", lambda: self.image_ids(d) == [], context=lambda: f": {self.image_ids(d)}")

    def test_daemon_killed(self):
        """The next daemon adopts a clone that has rebooted, also while no daemon was there, and knows what its template keeps."""
        d = Daemon(self)
        self.from_vm(d)
        kept = self.image_ids(d)
        c = d.clone("t")[0]
        self.reset(c, 2)
        d.kill()
        self.reset(c, 3)
        d.start()
        self.assertEqual(self.state(d, c)["state"], "running")
        self.assertEqual(self.image_ids(d), kept)
        self.reset(c, 4)
        self.assertEqual(d.get("/v1/templates/t")["reboots"], True)
        self.reset(d.clone("t")[0], 2)
        d.must(200, "POST", "/v1/templates/t/verify")

    def test_without_end(self):
        """A guest that resets again and again leaves nothing behind in its process, and keeps nobody else from it."""
        d = Daemon(self)
        self.from_vm(d, cmdline="end=reset flood=100")
        c = d.clone("t")[0]
        self.reset(c, 2)                                            # the first one lets go of the template's memory
        count = lambda: sum(1 for f in open_files(c["pid"]).values())
        before, mapped = count(), len(read(f"/proc/{c['pid']}/maps").splitlines())
        self.tell(c, b"f")
        for _ in range(5):                                          # meanwhile it answers
            d.must(200, "GET", f"/v1/clones/{c['id']}")
        self.wait_printed(c, rb"boot 102\n")
        self.assert_alive(c, 102)
        wait_for("the same descriptors as before", lambda: count() <= before, context=lambda: f": {count()} instead of {before}")
        self.assertLess(len(read(f"/proc/{c['pid']}/maps").splitlines()), mapped + 20)
        self.assertLess(len([line for line in read(d.log).splitlines() if b"the guest reset" in line]), 16 + 8)
        d.must(204, "DELETE", f"/v1/clones/{c['id']}")

    def test_deleted_while_it_resets(self):
        d = Daemon(self)
        self.from_vm(d, cmdline="end=reset flood=1000000")
        clones = d.clone("t", 3)
        for c in clones:
            self.tell(c, b"f")
        for c in clones:
            self.wait_printed(c, rb"boot 4\n")
        d.must(200, "PUT", f"/v1/clones/{clones[0]['id']}/pause")
        d.must(200, "PUT", f"/v1/clones/{clones[0]['id']}/resume")
        d.delete(clones)
        d.must(204, "DELETE", "/v1/templates/t")


class Imported(RebootTest):
    def test_from_a_snapshot(self):
        """The kernel that config.json names is copied: what becomes of the file later does not matter."""
        kernel = self.path("kernel")
        os.symlink(KERNEL, self.path("link"))
        for path in (kernel, self.path("link")):
            write(kernel, read(KERNEL))
            d = Daemon(self, root=self.new_dir("forkd"))
            self.assertEqual(d.template("t", self.snapshot_by_hand(path))["reboots"], True)
            os.unlink(kernel)
            c = d.clone("t")[0]
            self.reset(c, 2)
            self.assert_alive(c, 2)

    def test_two_templates_have_one_kernel(self):
        d = Daemon(self)
        directory = self.snapshot_by_hand()
        for name in ("t", "u"):
            d.template(name, directory)
        self.assertEqual(len(self.image_ids(d)), 2)                 # the disk and the kernel
        d.must(204, "DELETE", "/v1/templates/t")
        self.assertEqual(len(self.image_ids(d)), 2)
        self.reset(d.clone("u")[0], 2)

    def test_kernel_that_is_gone(self):
        """The template is made all the same; its clone ends at the reset, and says why."""
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        large = self.path("large")
        with open(large, "wb") as f:
            f.truncate((1 << 30) + 1)
        directory = self.snapshot_by_hand()
        for path, said in ((self.path("none"), "none is missing"), (fifo, "fifo is not a regular file"), (large, "is no regular file of 1 to 1073741824 bytes"),
                           ("relative", "relative"), ("/dev/null", "null is not a regular file")):
            with self.subTest(path):
                copy = self.copy_snapshot(directory, lambda c, path=path: c["payload"].update(kernel=path))
                d = Daemon(self, root=self.new_dir("forkd"))
                self.assertEqual(d.template("t", copy)["reboots"], False)
                line = next(x for x in read(d.log).decode().splitlines() if "is made without a kernel" in x)
                self.assertIn(said, line)
                self.assertEqual(len(self.image_ids(d)), 1)
                c = d.clone("t")[0]
                self.assert_alive(c, 1)
                answer = request(c["api_socket"], "PUT", "/api/v1/vm.reboot")
                self.assertEqual(answer.status, 500)
                self.assertIn("its template has not kept the kernel", answer.json[-1])
                self.assert_alive(c, 1)
                self.tell(c, b"r")
                wait_for("the clone to end", lambda: self.state(d, c)["state"] == "exited")
                self.assertEqual(self.state(d, c)["exit"], {
                    "reason": "the guest reset: the VM cannot boot again: its template has not kept the kernel", "code": 0})

    def test_no_rights(self):
        """The kernel is read with the rights of who imports the snapshot."""
        directory = self.snapshot_by_hand()
        place = self.new_dir("allowed")
        copy = self.copy_snapshot(directory)
        d = Daemon(self, "--allow-path", place)
        self.assertEqual(d.template("t", copy)["reboots"], True)    # root's

    def test_kernel_that_is_none(self):
        """What config.json names is no kernel any more: the reset ends the clone, by these words."""
        directory = self.snapshot_by_hand()
        other = self.path("other")
        write(other, b"no kernel" * 1000)
        d = Daemon(self)
        d.template("t", self.copy_snapshot(directory, lambda c: c["payload"].update(kernel=other)))
        c = d.clone("t")[0]
        self.tell(c, b"r")
        wait_for("the clone to end", lambda: self.state(d, c)["state"] == "exited")
        ended = self.state(d, c)["exit"]
        self.assertIn("neither an ELF file nor a bzImage", ended["reason"])
        self.assertEqual(ended["code"], 1)
        self.assertEqual([e["type"] for e in d.events()].count("clone.exited"), 1)


class Agents(test_agent.AgentTest):
    def reboot(self, d, clone, boots):
        """The guest resets, and its agent listens again."""
        d.call("GET", f"/v1/clones/{clone['id']}/agent/reboot")         # it breaks off
        wait_for("the agent", lambda: self.serial(clone).count("agent: ready") == boots, context=lambda: self.serial(clone)[-300:])

    def self_of(self, d, clone):
        return d.call("GET", f"/v1/clones/{clone['id']}/agent/self").json

    def test_agent_answers_again(self):
        """The clone stays unique, its connections break off, new ones reach the new agent, and its generation id stays."""
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t")
        for boots in (1, 2):
            self.reboot(d, c, boots)
            shown = d.get(f"/v1/clones/{c['id']}")
            self.assertEqual((shown["identity"], shown["state"], shown["reboots"]), ("unique", "running", boots))
            self.assertEqual(d.call("GET", f"/v1/clones/{c['id']}/agent/health").status, 204)
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.assertEqual(self.serial(c).count("agent: freeze"), 1)      # of this boot's agent
        d.kill()
        d.start()
        self.assertEqual(d.get(f"/v1/clones/{c['id']}")["reboots"], 2)
        d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})
        [e] = d.clone("u")
        self.assertEqual((e["identity"], e["reboots"]), ("unique", 0))

    def test_what_was_frozen_before(self):
        """A reboot undoes the freeze of a paused clone: no snapshot is taken of processes that ran."""
        d = Daemon(self)
        self.template(d)
        [c] = d.clone("t")
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        for name, state in (("vm.reboot", "running"), ("vm.pause", "paused")):
            self.assertEqual(call(c["api_socket"], "PUT", name).status, 204)
            wait_for(state, lambda state=state: d.get(f"/v1/clones/{c['id']}")["state"] == state)
        for _ in range(2):
            message = d.refused(409, "invalid_state", "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})
            self.assertIn("was paused while its processes ran", message)
            d.kill()                                                    # the next daemon knows it, too
            d.start()
        d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        wait_for("the agent", lambda: "agent: ready" in self.serial(c))
        d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "u"})
