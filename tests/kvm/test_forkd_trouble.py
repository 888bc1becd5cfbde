# SPDX-License-Identifier: Apache-2.0
"""The daemon in trouble: processes that hang, a daemon that dies half-way, files that are exchanged under a template; and 1000 at once."""
import json
import os
import shutil
import signal
import socket
import threading
import time
import unittest

from forkdtest import Daemon, ForkdTest, alive, request, ticks
from kvmtest import FULL, give_to, read, wait_for, write
from test_forkd_input import Callers


def parent(pid):
    with open(f"/proc/{pid}/stat") as f:
        return int(f.read().rsplit(") ", 1)[1].split()[1])


class Hangs(ForkdTest):
    def stopped(self, pid):
        os.kill(pid, signal.SIGSTOP)
        self.addCleanup(lambda: alive(pid) and os.kill(pid, signal.SIGCONT))

    def test_clone_that_hangs(self):
        """It is shown, it does not hold up the others, and it can be deleted."""
        d = Daemon(self)
        d.template("t", self.ticker())
        hung, other = d.clone("t", 2)
        self.stopped(hung["pid"])
        begin = time.monotonic()
        self.assertEqual(d.get(f"/v1/clones/{hung['id']}")["state"], "running")
        self.assertNotIn("disk_ops", d.get(f"/v1/clones/{hung['id']}").get("stats", {}))
        self.assertLess(time.monotonic() - begin, 15)
        self.wait_ticks([other])
        begin = time.monotonic()
        d.must(204, "DELETE", f"/v1/clones/{hung['id']}")
        self.assertLess(time.monotonic() - begin, 5)
        wait_for("the process to end", lambda: not alive(hung["pid"]))
        self.wait_ticks([other])

    @unittest.skipUnless(FULL, "long: FORKD_TEST_FULL=1 runs it")
    def test_template_host_that_hangs(self):
        """The request fails with its reason, and the next one gets another host."""
        d = Daemon(self)
        d.template("t", self.ticker())
        first = d.clone("t")[0]
        self.stopped(parent(first["pid"]))
        d.refused(503, "template_host_failed", "POST", "/v1/templates/t/clones", {"count": 3})
        second = d.clone("t")[0]
        self.wait_ticks([first, second])
        self.assertEqual(len(d.get("/v1/clones")["clones"]), 2)

    def calls(self, clones):
        """How often each was called: the ends of its control socket in its own process, answered or not, and the listening one."""
        with open("/proc/net/unix", encoding="utf-8") as f:
            paths = [line.split()[-1] for line in f]
        return [paths.count(os.path.join(os.path.dirname(c["api_socket"]), "control.sock")) for c in clones]

    def test_restarted_daemon_and_clones_that_hang(self):
        """All are called at once and adopted; who does not answer is asked on, and ended by nobody but its owner."""
        d = Daemon(self)
        d.template("t", self.ticker())
        clones = d.clone("t", 5)
        hung, other, was_paused = clones[:3], clones[3], clones[0]
        d.must(200, "PUT", f"/v1/clones/{was_paused['id']}/pause")
        for c in hung:
            self.stopped(c["pid"])
        d.kill()
        before, waited_for = self.calls(hung), []

        def watch():
            wait_for("all three to be called", lambda: all(now > then for now, then in zip(self.calls(hung), before)))
            waited_for.append(read(d.log).count(b"have not answered"))
        watcher = threading.Thread(target=watch)
        watcher.start()
        d.start()
        watcher.join()
        self.assertIn(waited_for, ([0], [1]))
        log = read(d.log).decode()
        self.assertEqual(log.count("have not answered"), 1, log)        # one deadline, for all three
        self.assertRegex(log, "[345] of them have not answered")        # a slow host's others may need longer than that, too
        for c in clones[3:]:
            wait_for("the others to answer", lambda c=c: d.get(f"/v1/clones/{c['id']}")["responsive"])
        listed = {c["id"]: c for c in d.get("/v1/clones")["clones"]}
        self.assertEqual(set(listed), {c["id"] for c in clones})
        self.assertEqual({i for i, c in listed.items() if not c["responsive"]}, {c["id"] for c in hung})
        self.assertTrue(all(alive(c["pid"]) for c in clones))
        self.wait_ticks([other])
        self.assertEqual(d.ctl("list").count("(no answer)"), 3)
        self.assertIn("(no answer)", d.ctl("show", hung[1]["id"]))

        url = f"/v1/clones/{hung[1]['id']}"
        for method, what, body in (("PUT", "/pause", None), ("PUT", "/resume", None), ("POST", "/snapshot", {"name": "s"})):
            self.assertIn(f"process {hung[1]['pid']} lives", d.refused(503, "clone_not_responding", method, url + what, body))
        self.assertNotIn("disk_ops", d.get(url)["stats"])
        self.assertGreater(d.get(url)["stats"]["private_dirty_bytes"], 0)
        self.assertEqual(d.must(200, "PATCH", url, {"labels": {"k": "v"}})["labels"], {"k": "v"})

        d.must(204, "DELETE", f"/v1/clones/{hung[2]['id']}")
        wait_for("the process to end", lambda: not alive(hung[2]["pid"]))
        self.assertFalse(os.path.exists(os.path.dirname(hung[2]["api_socket"])))

        for c in hung[:2]:
            os.kill(c["pid"], signal.SIGCONT)
            wait_for("it to answer", lambda c=c: d.get(f"/v1/clones/{c['id']}")["responsive"])
        self.assertEqual([d.get(f"/v1/clones/{c['id']}")["state"] for c in hung[:2]], ["paused", "running"])
        d.must(200, "PUT", f"/v1/clones/{was_paused['id']}/resume")
        self.wait_ticks([*hung[:2], other])
        d.must(201, "POST", url + "/snapshot", {"name": "s"})
        d.stop()
        d.start()
        self.assertEqual({c["id"]: c["responsive"] for c in d.get("/v1/clones")["clones"]},
                         {c["id"]: True for c in clones if c is not hung[2]})

    def test_clone_that_hangs_for_a_while(self):
        """Once it was asked in vain it is not waited for again and again; when it goes on, so do its operations."""
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        url = f"/v1/clones/{c['id']}"
        self.assertTrue(d.get(url)["responsive"])
        self.stopped(c["pid"])
        d.get(url)      # its statistics
        self.assertFalse(d.get(url)["responsive"])
        d.refused(503, "clone_not_responding", "PUT", url + "/pause")
        os.kill(c["pid"], signal.SIGCONT)
        wait_for("it to answer", lambda: d.get(url)["responsive"])
        self.assertEqual(d.must(200, "PUT", url + "/pause")["state"], "paused")

    def test_half_made_clones_that_hang(self):
        """What the daemon never handed out is ended, by force if need be, also when there are several."""
        d = Daemon(self)
        d.template("t", self.ticker())
        clones = d.clone("t", 3)
        for c in clones[:2]:
            self.stopped(c["pid"])
            folder = os.path.dirname(c["api_socket"])
            os.rename(os.path.join(folder, "clone.json"), os.path.join(folder, "clone.json.new"))
        d.kill()
        d.start()
        self.assertEqual([c["id"] for c in d.get("/v1/clones")["clones"]], [clones[2]["id"]])
        self.assertEqual(os.listdir(os.path.join(d.runtime, "clones")), [clones[2]["id"]])
        for c in clones[:2]:
            wait_for("the process to end", lambda c=c: not alive(c["pid"]))


class Unread(ForkdTest):
    """News of a clone that nobody reads: its control socket holds about 270 of them."""

    def own(self, clone, what):
        self.assertEqual(request(clone["api_socket"], "PUT", f"/api/v1/vm.{what}").status, 204)

    def flip(self, clone, times=400):
        """Changes its state through its own API; it is paused at the end."""
        for _ in range(times):
            self.own(clone, "pause")
            self.own(clone, "resume")
        self.own(clone, "pause")

    def works(self, d, clone):
        url = f"/v1/clones/{clone['id']}"
        wait_for("the newest state to be known", lambda: d.get(url)["state"] == "paused")
        self.assertEqual(d.must(200, "PUT", url + "/resume")["state"], "running")
        self.wait_ticks([clone])
        self.assertEqual(d.must(200, "PUT", url + "/pause")["state"], "paused")
        self.own(clone, "resume")
        wait_for("news to come still", lambda: d.get(url)["state"] == "running")
        self.assertEqual(d.events()[-1]["type"], "clone.resumed")
        d.must(204, "DELETE", url)
        wait_for("the process to end", lambda: not alive(clone["pid"]))

    def test_daemon_that_does_not_read(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        os.kill(d.process.pid, signal.SIGSTOP)
        try:
            self.flip(c)
        finally:
            os.kill(d.process.pid, signal.SIGCONT)
        self.works(d, c)

    def test_answers_and_the_last_word_pass_the_news(self):
        """In the place of a daemon that reads nothing: what it asked for, the newest state and the end are there when it reads."""
        d = Daemon(self)
        d.template("t", self.ticker())
        read_late, ends = d.clone("t", 2)
        d.stop()
        for c in (read_late, ends):
            with self.subTest(clone=c["id"]), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
                control.settimeout(30)
                control.connect(os.path.join(os.path.dirname(c["api_socket"]), "control.sock"))
                self.flip(c)
                control.send(b'{"op":"stats"}')
                self.assertEqual(request(c["api_socket"], "GET", "/api/v1/vmm.ping").status, 200)     # so that was answered, too
                packets = []
                if c is ends:
                    self.assertEqual(request(c["api_socket"], "PUT", "/api/v1/vmm.shutdown").status, 200)
                    wait_for("the process to end", lambda: not alive(ends["pid"]))
                while not packets or packets[-1].get("event") != ("exiting" if c is ends else "state") or not any("ok" in p for p in packets):
                    packets.append(json.loads(control.recv(1 << 17)))
                self.assertEqual([p["state"] for p in packets if "ok" in p], ["Paused"])
                self.assertEqual([p["state"] for p in packets if p.get("event") == "state"][-1], "Paused")
                self.assertLess(len(packets), 500)      # not all 801, so they did fill it
        d.start()
        self.works(d, read_late)

    def test_process_that_hangs_up(self):
        """A control socket that ends says nothing of the process: it is called again. Here another takes the daemon's place for a moment."""
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        for _ in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
                control.settimeout(30)
                control.connect(os.path.join(os.path.dirname(c["api_socket"]), "control.sock"))
                while control.recv(1 << 17):    # until the daemon takes its place again
                    pass
            d.must(200, "PUT", f"/v1/clones/{c['id']}/resume")
        self.own(c, "pause")
        self.works(d, c)


class HalfWay(ForkdTest):
    def test_daemon_killed_in_a_request(self):
        """Clones that nobody was told of do not go on."""
        d = Daemon(self)
        d.template("t", self.resumed())
        keep = d.clone("t")[0]
        for delay in (0.02, 0.1, 0.3):
            with self.subTest(delay=delay):
                answers = []

                def ask(answers=answers):
                    try:
                        answers.append(d.call("POST", "/v1/templates/t/clones", {"count": 200}).status)
                    except OSError:
                        pass
                client = threading.Thread(target=ask)
                client.start()
                time.sleep(delay)
                d.kill()
                client.join()
                d.start()
                clones = d.get("/v1/clones?limit=1000")["clones"]
                self.assertEqual(len(clones), 201 if answers else 1)
                self.assertIn(keep["id"], [c["id"] for c in clones])
                self.assertEqual(sorted(os.listdir(os.path.join(d.runtime, "clones"))), sorted(c["id"] for c in clones))
                d.delete([c for c in clones if c["id"] != keep["id"]])

    @unittest.skipUnless(FULL, "long: FORKD_TEST_FULL=1 runs it")
    def test_thousand(self):
        d = Daemon(self)
        d.template("t", self.resumed())
        for _ in range(2):
            clones = d.must(201, "POST", "/v1/templates/t/clones", {"count": 1000}, timeout_s=300)["clones"]
            self.assertEqual(len({c["pid"] for c in clones}), 1000)
            for c in clones:
                wait_for(f"the byte of clone {c['id']}", lambda c=c: ticks(c) > 0)
            d.delete(clones)
            self.assertEqual(os.listdir(os.path.join(d.runtime, "clones")), [])


class Exchanged(ForkdTest):
    as_user = Callers.as_user

    def test_disk_exchanged_after_the_import(self):
        """A path of another user's snapshot never leads out of what that user may name, whoever clones it, whenever."""
        if os.geteuid() != 0:
            self.skipTest("needs root to become another user")
        disk = self.disk()
        vmm = self.boot("devices", "rounds=0 dev=none", extra=["--disk", f"path={disk},image_type=raw,id=root,readonly=on"])
        vmm.wait_rounds(1)
        directory = vmm.snapshot()
        vmm.stop()
        os.chmod(self.dir, 0o755)
        allowed = self.new_dir("allowed")
        inside, image = os.path.join(allowed, "snapshot"), os.path.join(allowed, "image")
        shutil.copytree(directory, inside)
        give_to(65534, inside)
        shutil.copy(disk, image)
        config = json.loads(read(os.path.join(inside, "config.json")))
        d = Daemon(self, "--allow-path", allowed)
        os.chmod(d.root, 0o755)
        os.chmod(d.socket, 0o666)
        body = {"name": "t", "snapshot": "file://" + inside}
        status, answer = self.as_user(d, "POST", "/v1/templates", body)     # still the disk outside
        self.assertEqual((status, answer["code"]), (403, "path_not_allowed"), answer)
        config["disks"][0]["path"] = image
        write(os.path.join(inside, "config.json"), json.dumps(config))
        status, answer = self.as_user(d, "POST", "/v1/templates", body)
        self.assertEqual(status, 201, answer)
        d.delete(d.clone("t"))
        os.unlink(image)
        os.symlink(disk, image)
        d.refused(403, "path_not_allowed", "POST", "/v1/templates/t/clones", {})
        d.stop()
        d.start()
        d.refused(403, "path_not_allowed", "POST", "/v1/templates/t/clones", {})
        os.unlink(image)
        shutil.copy(disk, image)
        d.delete(d.clone("t"))


del Callers     # its tests are run where they stand
