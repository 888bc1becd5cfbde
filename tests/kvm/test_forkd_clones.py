# SPDX-License-Identifier: Apache-2.0
"""Templates and clones over REST and forkctl: they run, share memory, go away without a trace, survive the daemon."""
import json
import os
import signal
import socket
import threading
import time

import kvmtest
from forkdtest import Daemon, ForkdTest, alive, request, ticks
from kvmtest import BUILD, FULL, MIB, peer, read, wait_for, write
from test_vsock import EchoServer, dial, echo, pattern


SANITIZED = os.path.basename(BUILD) in ("asan", "tsan")       # their shadow memory is private, too


def vm_processes():
    """Template hosts, parked clones and clones of the program under test."""
    own = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as f:
                    command = f.read()
                    if kvmtest.VMM.encode() in command and b"--template-host" in command and alive(entry):
                        own.append(int(entry))
            except OSError:
                pass
    return own


def footprint(daemon):
    """What could be left behind: VM processes, the daemon's descriptors, files of the runtime directory, mounts, interfaces."""
    files = sorted(os.path.join(d, f) for d, _, names in os.walk(daemon.runtime) for f in names)
    return {
        "vms": len(vm_processes()),
        "fds": len(os.listdir(f"/proc/{daemon.process.pid}/fd")),
        "files": files,
        "mounts": len(read("/proc/self/mounts").splitlines()),
        "taps": sorted(os.listdir("/sys/class/net")),
    }


class Footprint(ForkdTest):
    def settled(self, daemon, template):
        """The footprint with nothing but the template's host and its two parked clones."""
        daemon.delete(daemon.clone(template))
        wait_for("the template host and its parked clones", lambda: footprint(daemon)["vms"] == 3)
        time.sleep(0.3)
        return footprint(daemon)

    def left_behind(self, daemon, before):
        wait_for("nothing to be left behind", lambda: footprint(daemon) == before, context=lambda: f": {before} -> {footprint(daemon)}")


def private_dirty(pid):
    for line in read(f"/proc/{pid}/smaps_rollup").decode().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Private_Dirty in smaps_rollup")


class Clones(Footprint):
    def test_one_ten_many(self):
        """Each runs; when all are deleted nothing is left: processes, descriptors, files, mounts, taps."""
        d = Daemon(self)
        t = d.template("resumed", self.resumed())
        self.assertEqual((t["name"], t["state"], t["ram_bytes"], t["vcpus"]), ("resumed", "ready", 64 * MIB, 1))
        before = self.settled(d, "resumed")
        for count in (1, 10, 200):
            with self.subTest(count=count):
                clones = d.clone("resumed", count)
                self.assertEqual(len({c["id"] for c in clones}), count)
                self.assertEqual(len({c["pid"] for c in clones}), count)
                self.assertEqual({c["state"] for c in clones}, {"running"})
                listed = d.get(f"/v1/clones?limit={count + 1}")["clones"]
                self.assertEqual({c["id"] for c in listed}, {c["id"] for c in clones})
                for c in clones:
                    wait_for(f"the byte of clone {c['id']}", lambda c=c: ticks(c) > 0)
                d.delete(clones)
                self.assertEqual(d.get("/v1/clones?state=running")["clones"], [])
        self.left_behind(d, before)

    def test_answer(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t", labels={"who": "me"}, ttl_s=600)[0]
        phases = c["phases_us"]
        self.assertLessEqual(0, phases["accepted"])
        self.assertLessEqual(phases["accepted"], phases["restored"])
        self.assertLessEqual(phases["restored"], phases["resumed"])
        self.assertEqual((c["template"], c["state"], c["labels"], c["memory_restore_mode"]), ("t", "running", {"who": "me"}, "copyonwrite"))
        self.assertEqual(os.stat(c["api_socket"]).st_mode & 0o7777, 0o600)
        ping = request(c["api_socket"], "GET", "/api/v1/vmm.ping")
        self.assertEqual((ping.status, ping.json["pid"]), (200, c["pid"]))
        self.assertEqual(request(c["api_socket"], "PUT", "/api/v1/vm.pause").status, 204)
        wait_for("the pause by its own API to be known", lambda: d.get(f"/v1/clones/{c['id']}")["state"] == "paused")
        self.assertEqual(d.get("/v1/clones?label=who=me")["clones"][0]["id"], c["id"])
        self.assertEqual(d.get("/v1/clones?label=who=you")["clones"], [])

    def test_memory_is_shared(self):
        """A guest that touched 64 MiB, and wrote a known number of pages since: only those are private."""
        d = Daemon(self)
        d.template("t", self.ticker(memory="256M", warm=64, tick=3000000))
        c = d.clone("t")[0]
        wait_for("100 pages written", lambda: ticks(c) >= 100)
        d.must(200, "PUT", f"/v1/clones/{c['id']}/pause")
        pages = ticks(c)
        dirty = private_dirty(c["pid"])
        self.assertLessEqual(dirty, pages * 4096 + (256 * 1024 if not SANITIZED else 4 * MIB), f"{pages} pages were written")
        stats = d.get(f"/v1/clones/{c['id']}")["stats"]
        self.assertLessEqual(abs(stats["private_dirty_bytes"] - dirty), 64 * 1024)
        self.assertGreater(stats["cpu_us"], 0)

    def test_pause_resume_wait(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t", paused=True)[0]
        self.assertEqual(c["state"], "paused")
        url = f"/v1/clones/{c['id']}"
        time.sleep(0.05)
        self.assertEqual(ticks(c), 0)
        answers = []
        waiter = threading.Thread(target=lambda: answers.append(d.call("GET", url + "/wait?state=running&timeout_s=20")))
        waiter.start()
        time.sleep(0.1)
        self.assertEqual(d.must(200, "PUT", url + "/resume")["state"], "running")
        waiter.join(20)
        self.assertEqual((answers[0].status, answers[0].json["state"]), (200, "running"))
        self.wait_ticks([c])
        self.assertEqual(d.must(200, "PUT", url + "/pause")["state"], "paused")
        seen = ticks(c)
        time.sleep(0.05)
        self.assertEqual(ticks(c), seen)
        d.refused(504, "timeout", "GET", url + "/wait?state=running&timeout_s=0")

    def test_labels_and_ttl(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        a, b = d.clone("t", 2, labels={"k": "v"})
        changed = d.must(200, "PATCH", f"/v1/clones/{a['id']}", {"labels": {"k": "w"}, "ttl_s": 1})
        self.assertEqual(changed["labels"], {"k": "w"})
        wait_for("the clone to be deleted when its time is up", lambda: d.call("GET", f"/v1/clones/{a['id']}").status == 404, 10)
        wait_for("its process to end", lambda: not alive(a["pid"]))
        self.assertTrue(alive(b["pid"]))

    def test_snapshot_of_a_clone_is_a_template(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        self.wait_ticks([c])
        t = d.must(201, "POST", f"/v1/clones/{c['id']}/snapshot", {"name": "child"})
        self.assertGreater(t["paused_us"], 0)
        self.wait_ticks([c])
        child = d.clone("child")[0]
        self.wait_ticks([child])
        self.assertEqual(d.get("/v1/templates/child")["parent"], "t")

    def test_template_life(self):
        d = Daemon(self)
        directory = self.ticker()
        d.template("t", directory)
        d.refused(409, "template_exists", "POST", "/v1/templates", {"name": "t", "snapshot": "file://" + directory})
        self.assertEqual([t["name"] for t in d.get("/v1/templates")["templates"]], ["t"])
        c = d.clone("t")[0]
        self.assertIn(c["id"], d.refused(409, "template_in_use", "DELETE", "/v1/templates/t"))
        d.delete([c])
        d.must(204, "DELETE", "/v1/templates/t")
        d.refused(404, "template_not_found", "GET", "/v1/templates/t")
        d.refused(404, "template_not_found", "POST", "/v1/templates/t/clones", {})
        self.assertEqual(os.listdir(os.path.join(d.store, "templates")), [])

    def test_template_does_not_need_its_source(self):
        d = Daemon(self)
        directory = self.ticker()
        d.template("t", directory)
        for name in os.listdir(directory):
            os.unlink(os.path.join(directory, name))
        self.wait_ticks(d.clone("t"))
        self.assertEqual(d.must(200, "POST", "/v1/templates/t/verify").get("name"), "t")

    def test_verify_finds_a_flipped_bit(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        path = os.path.join(d.store, "templates/t/memory-ranges")
        with open(path, "r+b") as f:
            f.seek(3 * MIB)
            byte = f.read(1)
            f.seek(3 * MIB)
            f.write(bytes([byte[0] ^ 1]))
        answer = d.call("POST", "/v1/templates/t/verify")
        self.assertNotEqual(answer.status, 200)
        self.assertIn("memory-ranges", answer.json["message"])

    def test_modes(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        for mode in ("copy", "ondemand", "copyonwrite"):
            c = d.clone("t", memory_restore_mode=mode)[0]
            self.assertEqual(c["memory_restore_mode"], mode)
            self.wait_ticks([c])

    def test_different_clones_in_one_request(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        got = d.must(201, "POST", "/v1/templates/t/clones", {"clones": [{"labels": {"n": "1"}}, {"labels": {"n": "2"}, "paused": True}]})["clones"]
        self.assertEqual([(c["labels"]["n"], c["state"]) for c in got], [("1", "running"), ("2", "paused")])

    def test_idempotency(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        key = {"Idempotency-Key": "abc"}
        first = d.must(201, "POST", "/v1/templates/t/clones", {}, headers=key)
        again = d.must(201, "POST", "/v1/templates/t/clones", {}, headers=key)
        self.assertEqual(first, again)
        self.assertEqual(len(d.get("/v1/clones")["clones"]), 1)
        d.refused(409, "idempotency_key_reused", "POST", "/v1/templates/t/clones", {"count": 2}, headers=key)

    def test_events(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        d.delete([c])
        wait_for("the release", lambda: any(e["type"] == "clone.released" for e in d.events()))
        events = d.events()
        types = [e["type"] for e in events if e.get("clone") == c["id"]]
        self.assertEqual(types[0], "clone.created")
        self.assertEqual(types[-1], "clone.released")
        self.assertIn("clone.deleted", types)
        numbers = [e["seq"] for e in events]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual([e["seq"] for e in d.events(after=numbers[0])], numbers[1:])

    def test_metrics(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        d.clone("t", 3)
        text = d.call("GET", "/metrics").body.decode()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        self.assertTrue(any("clone" in k and float(v) == 3 for k, v in values.items()), text)
        self.assertTrue(any("_bucket{" in k for k in values), "no histogram")


class Vsock(ForkdTest):
    def test_each_its_own_socket(self):
        """Both ways for each clone: the host dials the guest, and the guest dials the host's port 2000."""
        vmm = self.boot("devices", "rounds=0 dev=vsock,rng pause=5 streams=1", extra=["--vsock", f"cid=3,socket={self.path('v')}"])
        vmm.wait_output(rb"vsock: cid 3")
        d = self.daemon_of(vmm)
        own = self.path("own.vsock")
        clones = d.clone("t", 2) + d.clone("t", overrides={"vsock": {"socket": own}})
        self.assertEqual(clones[2]["vsock_socket"], own)
        self.assertEqual(len({c["vsock_socket"] for c in clones}), 3)
        for i, c in enumerate(clones):
            self.assertEqual(os.stat(c["vsock_socket"]).st_mode & 0o777, 0o600)
            server = EchoServer(self, c["vsock_socket"])
            wait_for("a connection of the guest", lambda: server.n_accepted > 0)
            with dial(c["vsock_socket"]) as s:
                echo(s, pattern(100000, i)[:100000])
        d.refused(409, "conflict", "POST", "/v1/templates/t/clones", {"overrides": {"vsock": {"socket": own}}})
        d.refused(400, "invalid_request", "POST", "/v1/templates/t/clones", {"count": 2, "overrides": {"vsock": {"socket": own + "2"}}})
        d.delete(clones)
        self.assertFalse(os.path.exists(own))

    def daemon(self):
        vmm = self.boot("ticker", "tick=2000000 warm=4", extra=["--vsock", f"cid=3,socket={self.path('v')}"])
        vmm.wait_bytes(5)
        d = self.daemon_of(vmm)
        return d

    def at(self, d, path):
        return d.clone("t", overrides={"vsock": {"socket": path}})[0]

    def test_name_of_a_socket_goes_to_another_clone(self):
        """A clone that ends, and DELETE, remove the clone's own socket; a name that is another's by now stays."""
        d = self.daemon()
        own = self.path("own.vsock")
        exited = self.at(d, own)
        os.kill(exited["pid"], signal.SIGKILL)
        d.must(200, "GET", f"/v1/clones/{exited['id']}/wait?state=exited")
        self.assertFalse(os.path.exists(own))
        running = self.at(d, own)
        d.delete([exited])
        self.assertTrue(os.path.exists(own))
        os.unlink(own)
        last = self.at(d, own)
        d.delete([running])
        wait_for("its release", lambda: [e for e in d.events() if e["type"] == "clone.released" and e["clone"] == running["id"]])
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(own)
        d.delete([last])
        self.assertFalse(os.path.exists(own))

    def test_name_of_a_socket_and_a_restart(self):
        """The record on disk says which socket is the clone's."""
        d = self.daemon()
        lives, replaced, dead = (self.path(f"{name}.vsock") for name in ("lives", "replaced", "dead"))
        clones = [self.at(d, path) for path in (lives, replaced, dead)]
        d.kill()
        for c in clones[1:]:
            os.kill(c["pid"], signal.SIGKILL)
            wait_for("the process to end", lambda c=c: not alive(c["pid"]))
        os.unlink(replaced)
        other = socket.socket(socket.AF_UNIX)
        self.addCleanup(other.close)
        other.bind(replaced)
        d.start()
        # a process that was just killed may be found while its sockets go
        wait_for("the others to be gone", lambda: [c["id"] for c in d.get("/v1/clones?state=running")["clones"]] == [clones[0]["id"]])
        self.assertTrue(os.path.exists(replaced))
        self.assertFalse(os.path.exists(dead))
        os.unlink(lives)
        heir = self.at(d, lives)
        d.delete(clones[:1])
        self.assertTrue(os.path.exists(lives))
        d.delete([heir])
        self.assertFalse(os.path.exists(lives))

    def test_socket_of_an_earlier_version(self):
        """Its record does not say which file the socket is: the socket goes with the clone all the same."""
        d = self.daemon()
        own = self.path("own.vsock")
        c = self.at(d, own)
        d.kill()
        path = os.path.join(d.runtime, "clones", c["id"], "clone.json")
        record = json.loads(read(path))
        del record["vsock_file"]
        write(path, json.dumps(record).encode())
        d.start()
        self.assertTrue(os.path.exists(own))
        d.delete([c])
        self.assertFalse(os.path.exists(own))


class Peers(ForkdTest):
    def test_their_snapshot(self):
        """A snapshot of the real Cloud Hypervisor is a template like ours."""
        vmm = self.boot("ticker", "tick=2000000 warm=4", program=peer("cloud-hypervisor"))
        vmm.wait_bytes(5)
        directory = vmm.snapshot()
        vmm.stop()
        d = Daemon(self)
        d.template("theirs", directory)
        self.wait_ticks(d.clone("theirs", 8))
        for _ in range(50):
            c = d.clone("theirs")
            self.wait_ticks(c, 1)
            d.delete(c)


class Trouble(Footprint):
    """Killed daemons, hosts and clones."""

    def test_daemon_killed(self):
        """Fifty clones go on, and the next daemon owns them again."""
        d = Daemon(self)
        d.template("t", self.resumed())
        clones = d.clone("t", 50, labels={"a": "b"})
        d.kill()
        self.assertTrue(all(alive(c["pid"]) for c in clones))
        d.start()
        after = {c["id"]: c for c in d.get("/v1/clones?limit=100")["clones"]}
        self.assertEqual(set(after), {c["id"] for c in clones})
        for c in clones:
            self.assertEqual(after[c["id"]]["pid"], c["pid"])
            self.assertEqual((after[c["id"]]["state"], after[c["id"]]["labels"], after[c["id"]]["template"]), ("running", {"a": "b"}, "t"))
        d.must(200, "PUT", f"/v1/clones/{clones[0]['id']}/pause")
        d.must(200, "PUT", f"/v1/clones/{clones[0]['id']}/resume")
        newest = d.clone("t")[0]
        wait_for("the byte of a new clone", lambda: ticks(newest) > 0)
        d.delete(clones)
        wait_for("the processes to end", lambda: not any(alive(c["pid"]) for c in clones))

    def test_daemon_stopped_leaves_clones(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        c = d.clone("t")[0]
        d.stop()
        self.wait_ticks([c])
        d.start()
        self.assertEqual(d.get(f"/v1/clones/{c['id']}")["state"], "running")

    def test_host_killed(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        first = d.clone("t")[0]
        with open(f"/proc/{first['pid']}/stat") as f:
            host = int(f.read().rsplit(") ", 1)[1].split()[1])
        os.kill(host, signal.SIGKILL)
        wait_for("the event", lambda: any(e["type"] == "host.failed" for e in d.events()))
        second = d.clone("t")[0]
        self.wait_ticks([first, second])

    def test_clone_killed(self):
        d = Daemon(self)
        d.template("t", self.ticker())
        c, other = d.clone("t", 2)
        os.kill(c["pid"], signal.SIGKILL)
        wait_for("the state exited", lambda: d.get(f"/v1/clones/{c['id']}")["state"] == "exited")
        event = wait_for("the event", lambda: next((e for e in d.events() if e["type"] == "clone.exited"), None))
        self.assertEqual(event["clone"], c["id"])
        self.assertIn("9", json.dumps(event))
        self.wait_ticks([other])
        d.must(204, "DELETE", f"/v1/clones/{c['id']}")
        self.assertFalse(os.path.exists(os.path.dirname(c["api_socket"])))

    def test_deleted_while_it_is_cloned(self):
        """Either the clone is there and the template stays, or the template is gone; nothing else, and nothing left."""
        d = Daemon(self)
        directory = self.resumed()
        for i in range(10):
            name = f"t{i}"
            d.template(name, directory)
            answers = {}
            threads = [threading.Thread(target=lambda k=k: answers.update({k: d.call("POST", f"/v1/templates/{name}/clones", {})})) for k in range(4)]
            threads.append(threading.Thread(target=lambda: answers.update(delete=d.call("DELETE", f"/v1/templates/{name}"))))
            for t in threads:
                t.start()
            for t in threads:
                t.join(60)
            deleted = answers.pop("delete")
            clones = [c for a in answers.values() if a.status == 201 for c in a.json["clones"]]
            self.assertIn((deleted.status, (deleted.json or {}).get("code")), ((204, None), (409, "template_in_use")), deleted)
            for a in answers.values():
                self.assertIn((a.status, a.json.get("code")), ((201, None), (404, "template_not_found"), (409, "template_not_ready")), a)
            self.assertFalse(deleted.status == 204 and clones, "a clone of a deleted template")
            d.delete(clones)
            if deleted.status != 204:
                d.must(204, "DELETE", f"/v1/templates/{name}")

    def test_many_clients(self):
        """Mixed requests of 64 clients: nothing but documented answers, nothing left."""
        d = Daemon(self)
        d.template("t", self.resumed())
        before = self.settled(d, "t")
        deadline = time.monotonic() + (60 if FULL else 8)
        wrong, done = [], [0]
        lock = threading.Lock()

        def client(n):
            names = 0
            while time.monotonic() < deadline and not wrong:
                answers = [d.call("POST", "/v1/templates/t/clones", {"count": 1 + n % 3})]
                clones = answers[0].json.get("clones", [])
                answers.append(d.call("GET", "/v1/clones?limit=10"))
                for c in clones:
                    url = f"/v1/clones/{c['id']}"
                    answers += [d.call("PUT", url + "/pause"), d.call("GET", url), d.call("PUT", url + "/resume")]
                if clones and n % 16 == 0:
                    names += 1
                    name = f"s{n}-{names}"
                    answers.append(d.call("POST", f"/v1/clones/{clones[0]['id']}/snapshot", {"name": name}, timeout_s=120))
                    answers.append(d.call("DELETE", f"/v1/templates/{name}"))
                answers += [d.call("DELETE", f"/v1/clones/{c['id']}") for c in clones]
                with lock:
                    done[0] += len(answers)
                    wrong.extend(a for a in answers if a.status >= 400 and a.json.get("code") not in ("busy", "not_enough_memory"))

        threads = [threading.Thread(target=client, args=(n,)) for n in range(64)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(180)
        self.assertEqual(wrong, [], f"of {done[0]} answers")
        self.assertEqual(d.get("/v1/clones?state=running")["clones"], [])
        self.left_behind(d, before)
