# SPDX-License-Identifier: Apache-2.0
"""Clients use clones in every way at once, while processes of VMs, template hosts and the daemon are killed and held at random.

No request hangs; what is called whole is whole; a clone that is called unique is so, and went on as nobody else; nobody stands still
afterwards; nothing is left. FORKD_TEST_FULL=1 does it for FORKD_SOAK_S seconds (600); FORKD_SOAK_SEED repeats a run's choices.
"""
import collections
import contextlib
import http.client
import json
import os
import random
import signal
import threading
import time
import zlib
from unittest import mock

import kvmtest
import test_agent
from forkdtest import Daemon, UnixConnection, request
from kvmtest import FULL, MIB, PATIENCE_S, read, wait_for
from test_forkd_clones import SANITIZED, footprint, vm_processes
from test_forkd_trouble import parent

SEED = int(os.environ.get("FORKD_SOAK_SEED") or (time.time_ns() if FULL else 1))
LONG_S = float(os.environ.get("FORKD_SOAK_S", "600"))
CLIENTS, CLONES, TEMPLATES = 6, 10, 4
ROUNDS, OPERATIONS = 3, 200     # a round ends with a look at all that should be there, and at what should not
CHAOS_EVERY = 20                # operations
MEMORY = 32 * MIB               # by which the daemon may have grown after a round
AFTERMATH_S = 3                 # in which what a kill has ended may still be found

GONE = {"clone_not_found", "template_not_found"}
STATES = GONE | {"invalid_state", "paused", "template_in_use", "template_not_ready", "busy"}    # of what others do meanwhile
BROKEN = {"agent_unreachable", "clone_died", "template_host_failed", "clone_not_responding", "timeout"}     # where something was killed
OPS = {"clone": 12, "clone_resumed": 6, "exec": 14, "exec_leave": 5, "run": 5, "run_leave": 2, "put": 10, "put_leave": 5, "get": 10,
       "get_leave": 5, "pause": 8, "resume": 10, "snapshot": 5, "delete": 8, "delete_template": 3, "look": 10}


class Clone:
    def __init__(self, answer):
        self.id, self.pid, self.serial = answer["id"], answer["pid"], answer["serial"]
        self.begun, self.ended = 0, 0       # what may break a request that has nothing to do with it
        self.cut = []                       # files that never came whole

    @contextlib.contextmanager
    def disturbed(self):
        self.begun += 1
        yield
        self.ended += 1

    @property
    def url(self):
        return f"/v1/clones/{self.id}"


class Soak:
    """What clients and chaos of one daemon share."""

    def __init__(self, daemon, rng):
        self.d, self.rng = daemon, rng
        self.lock = threading.Lock()
        self.clones, self.templates = {}, ["t"]
        self.owners = {}                    # nonces and generations, and whose they are
        self.counts, self.kills, self.wrong = collections.Counter(), collections.Counter(), []
        self.left, self.names, self.under_way = 0, 0, {}
        self.life, self.killed_at = 0, 0.0  # life: odd while there is no daemon
        self.serving = threading.Condition()

    def found(self, text):
        with self.lock:
            self.wrong.append(text)

    def name(self):
        with self.lock:
            self.names += 1
            return f"n{self.names}"

    def add(self, answers):
        with self.lock:
            for a in answers:
                if a["state"] in ("running", "paused"):     # others have no process
                    self.clones.setdefault(a["id"], Clone(a))

    def pick(self, rng):
        with self.lock:
            return rng.choice(list(self.clones.values())) if self.clones else None

    # ---- requests

    def wait_served(self):
        with self.serving:
            if not self.serving.wait_for(lambda: self.life % 2 == 0, PATIENCE_S):
                raise AssertionError("there is no daemon")
            return self.life

    def aftermath(self):
        return time.monotonic() < self.killed_at + AFTERMATH_S

    @contextlib.contextmanager
    def excused(self, what, clone=None):
        """A connection may break, and an answer say that something did, only when something was killed. Yields whether it may."""
        life = self.wait_served()
        begun = clone.begun if clone else 0
        quiet = not self.aftermath() and (not clone or clone.begun == clone.ended)

        def may_break():
            return not (quiet and life == self.life and not self.aftermath() and (not clone or clone.begun == begun))
        try:
            yield may_break
        except TimeoutError:
            self.found(f"{what} hangs: no byte for {PATIENCE_S} s")
        except (OSError, http.client.HTTPException) as e:
            if not may_break():
                self.found(f"{what}: {type(e).__name__} {e}, and nothing was killed")

    def call(self, method, url, body=None, clone=None, tolerated=STATES):
        """The answer when it is what was asked for, else None."""
        what = f"{method} {url}"
        with self.excused(what, clone) as may_break:
            answer = request(self.d.socket, method, url, body, timeout_s=PATIENCE_S)
            if answer.status < 300:
                self.counts["answers"] += 1
                return answer
            self.counts["refusals"] += 1
            code = answer.json.get("code") if answer.body.startswith(b"{") else None
            if code not in tolerated and not (code in BROKEN and may_break()):
                self.found(f"{what}: {answer}")
        return None

    # ---- what is asked about a clone

    def owns(self, clone, what, value):
        with self.lock:
            owner = self.owners.setdefault(value, clone.id)
        if not value or owner != clone.id:
            self.found(f"clone {clone.id} is unique with {what} {value!r} of {owner}")

    def look(self, clone):
        """What the guest says of itself, when it does. Whom one can talk with is unique."""
        answer = self.call("GET", clone.url + "/agent/self", clone=clone)
        if not answer:
            return None
        me = answer.json
        if me["hostname"] != clone.id:
            self.found(f"clone {clone.id} is {me['hostname'] or 'nobody'}")
        if me["ran"]:
            self.found(f"clone {clone.id} went on before it was itself")
        self.owns(clone, "nonce", me["nonce"])
        self.owns(clone, "generation", me["generation"])
        for name in clone.cut[-3:]:
            answer = self.call("GET", f"{clone.url}/files?path=/kept/{name}", clone=clone, tolerated=STATES | {"not_found"})
            if answer:
                self.found(f"clone {clone.id} has a file that was not sent to its end: {answer}")
        return me

    # ---- operations; each is called with a random number generator, and a clone if it needs one

    def new_clones(self, rng, **more):
        if len(self.clones) >= CLONES:
            return self.delete(rng, self.pick(rng))
        url = f"/v1/templates/{rng.choice(self.templates)}/clones"
        answer = self.call("POST", url, {"count": rng.choice((1, 1, 2)), **more})
        for a in answer.json["clones"] if answer else ():
            if more["wait"] == "ready" and a["identity"] != "unique":
                self.found(f"a clone that was waited for: {a}")
            self.add([a])
            if a["state"] == "running":
                self.look(self.clones.get(a["id"]) or Clone(a))
        return None

    def clone(self, rng, _):
        self.new_clones(rng, wait="ready", paused=rng.random() < 0.2)

    def clone_resumed(self, rng, _):
        self.new_clones(rng, wait="resumed")

    def is_result(self, what, answer):
        if answer and (answer.json["exit_code"], answer.json["stdout"]) != (3, "hi\n"):
            self.found(f"{what}: {answer}")

    def command(self, rng):
        stdin = {"stdin": "y" * rng.randrange(100000)} if rng.random() < 0.3 else {}
        return {rng.choice(("cmd", "shell")): "x", "timeout_s": 20, **stdin}

    def exec(self, rng, clone):
        self.is_result("exec", self.call("POST", clone.url + "/exec", self.command(rng), clone))

    def run(self, rng, _):
        answer = self.call("POST", f"/v1/templates/{rng.choice(self.templates)}/run", self.command(rng))
        self.is_result("run", answer)
        if answer and answer.json["clone"]["identity"] != "unique":
            self.found(f"run: {answer}")

    def leave(self, rng, what, clone, send):
        """A client that goes away after a moment."""
        with self.excused(what, clone):
            connection = UnixConnection(self.d.socket, timeout_s=PATIENCE_S)
            try:
                send(connection)
                time.sleep(rng.random() * 0.03)
            finally:
                connection.close()

    def begin(self, url, body):
        return lambda connection: connection.request("POST", url, json.dumps(body), {"Content-Type": "application/json"})

    def exec_leave(self, rng, clone):
        self.leave(rng, "exec", clone, self.begin(clone.url + "/exec", {"cmd": rng.choice(("silent", "x"))}))

    def run_leave(self, rng, _):
        url = f"/v1/templates/{rng.choice(self.templates)}/run"
        self.leave(rng, "run", None, self.begin(url, {"cmd": rng.choice(("silent", "x")), "timeout_s": 60}))

    def put(self, rng, clone):
        body = rng.randbytes(int(2 * MIB * rng.random() ** 3))
        pieces = iter([body[i:i + 50000] for i in range(0, len(body), 50000)]) if rng.random() < 0.5 else None
        url = f"{clone.url}/files?path=/kept/{self.name()}"
        with self.excused("PUT " + url, clone) as may_break:
            connection = UnixConnection(self.d.socket, timeout_s=PATIENCE_S)
            try:
                connection.request("PUT", url, pieces or body)
                answer = connection.getresponse()
                got = json.loads(answer.read())
            finally:
                connection.close()
            if answer.status == 200 and (got["bytes"], got["sum"]) != (len(body), zlib.adler32(body)):
                self.found(f"PUT {url}: sent {len(body)} bytes, {zlib.adler32(body)}; arrived as {got}")
            if answer.status != 200 and got.get("code") not in STATES and not (got.get("code") in BROKEN and may_break()):
                self.found(f"PUT {url}: {answer.status} {got}")

    def put_leave(self, rng, clone):
        name = self.name()
        clone.cut.append(name)

        def send(connection):
            connection.putrequest("PUT", f"{clone.url}/files?path=/kept/{name}")
            chunked, sent = rng.random() < 0.5, rng.randbytes(rng.randrange(1, 300000))
            connection.putheader(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", len(sent) + 1)))
            connection.endheaders()
            connection.send(b"%x\r\n%s\r\n" % (len(sent), sent) if chunked else sent)
        self.leave(rng, "PUT", clone, send)
        self.look(clone)

    def get(self, rng, clone):
        n, seed = int(4 * MIB * rng.random() ** 3), rng.randrange(256)
        url = f"{clone.url}/files?path=/{rng.choice(('sized', 'chunked'))}/{n + 1}/{seed}"
        answer = self.call("GET", url, clone=clone)
        wanted = (bytes((seed + i) & 255 for i in range(251)) * (n // 251 + 1))[:n + 1]
        if answer and answer.body != wanted:
            self.found(f"GET {url}: {len(answer.body)} bytes, {'right so far' if wanted.startswith(answer.body) else 'wrong'}")

    def get_leave(self, rng, clone):
        def send(connection):
            connection.request("GET", f"{clone.url}/files?path=/sized/{4 * MIB}/1")
            connection.getresponse().read(rng.randrange(1, 2 * MIB))
        self.leave(rng, "GET", clone, send)

    def pause(self, _, clone):
        with clone.disturbed():
            self.call("PUT", clone.url + "/pause", clone=clone)

    def resume(self, _, clone):
        self.call("PUT", clone.url + "/resume", clone=clone)

    def snapshot(self, _, clone):
        if len(self.templates) >= TEMPLATES:
            return
        name = self.name()
        if self.call("POST", clone.url + "/snapshot", {"name": name}, clone):
            self.templates.append(name)

    def delete(self, _, clone):
        with self.lock:
            self.clones.pop(clone.id, None)
        with clone.disturbed():
            self.call("DELETE", clone.url, clone=clone)

    def delete_template(self, rng, _):
        with self.lock:
            name = self.templates.pop(rng.randrange(1, len(self.templates))) if len(self.templates) > 1 else None
        if name and not self.call("DELETE", f"/v1/templates/{name}"):
            self.templates.append(name)

    # ---- clients

    def take(self):
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def client(self, n, rng):
        without_clone = {"clone", "clone_resumed", "run", "run_leave", "delete_template"}
        while not self.wrong and self.take():
            op = rng.choices(list(OPS), OPS.values())[0]
            clone = self.pick(rng)
            if not clone and op not in without_clone:
                op = "clone"
            self.under_way[n] = (op, clone and clone.id, time.monotonic())
            try:
                getattr(self, op if op != "look" else "look_at")(rng, clone)
            except Exception as e:      # a thread's last words
                self.found(f"{op}: {type(e).__name__} {e} at line {e.__traceback__.tb_next and e.__traceback__.tb_next.tb_lineno}")
            self.under_way.pop(n)
            self.counts[op] += 1

    def look_at(self, _, clone):
        answer = self.call("GET", clone.url, clone=clone)
        if answer and answer.json["state"] == "running":
            self.look(clone)
        with contextlib.suppress(FileNotFoundError):    # another client may delete it meanwhile
            if answer and b"FAIL" in (serial := read(clone.serial)):
                self.found(f"clone {clone.id}: {serial[serial.index(b'FAIL'):][:200]}")

    # ---- chaos

    def kill_process(self, pids):
        self.killed_at = time.monotonic()
        with contextlib.suppress(OSError, IndexError):
            pid = self.rng.choice(pids)
            for c in list(self.clones.values()):
                c.begun += c.pid == pid
            os.kill(pid, signal.SIGKILL)
        self.killed_at = time.monotonic()

    def kill_clone(self):
        clone = self.pick(self.rng)
        if clone and clone.pid in vm_processes():
            clone.begun += 1
            with contextlib.suppress(OSError):
                os.kill(clone.pid, signal.SIGKILL)

    def kill_any(self):
        self.kill_process(vm_processes())

    def hosts(self):
        found = []
        for pid in vm_processes():
            with contextlib.suppress(OSError):
                found += [pid] if parent(pid) == self.d.process.pid else []
        return found

    def kill_host(self):
        self.kill_process(self.hosts())

    def kill_daemon(self):
        self.killed_at = time.monotonic()
        with self.serving:
            self.life += 1
        self.d.kill()
        time.sleep(self.rng.random() * 0.2)
        self.d.start()
        self.killed_at = time.monotonic()
        with self.serving:
            self.life += 1
            self.serving.notify_all()
        self.add(self.d.get("/v1/clones")["clones"])

    def hold(self):
        clone = self.pick(self.rng)
        if not clone or clone.pid not in vm_processes():
            return
        with clone.disturbed(), contextlib.suppress(OSError):
            os.kill(clone.pid, signal.SIGSTOP)
            time.sleep(self.rng.random() * 0.5)
            os.kill(clone.pid, signal.SIGCONT)

    def chaos(self, kinds):
        before = self.left
        while kinds and self.left > 0 and not self.wrong:
            if self.left > before - CHAOS_EVERY:
                time.sleep(0.01)
                continue
            before, kind = self.left, self.rng.choice(kinds)
            try:
                getattr(self, kind)()
            except Exception as e:
                self.found(f"{kind}: {type(e).__name__} {e}")
            self.kills[kind] += 1

    def wake(self):
        """A transfer waits as long as its clone is paused, and nobody else may be left to resume it."""
        with contextlib.suppress(OSError):
            for c in self.d.call("GET", "/v1/clones?state=paused").json["clones"]:
                self.d.call("PUT", f"/v1/clones/{c['id']}/resume")

    def hangs(self):
        return any(time.monotonic() - began > 3 * PATIENCE_S for *_, began in list(self.under_way.values()))

    def round(self, kinds):
        self.left = OPERATIONS
        seeds = [self.rng.randrange(1 << 32) for _ in range(CLIENTS)]
        threads = [threading.Thread(target=self.client, args=(n, random.Random(s)), daemon=True) for n, s in enumerate(seeds)]
        threads.append(threading.Thread(target=self.chaos, args=(kinds,), daemon=True))
        for t in threads:
            t.start()
        for t in threads:
            while t.is_alive() and not self.hangs():
                t.join(0.2)
                if self.left < 0 or self.wrong:
                    self.wake()
        if any(t.is_alive() for t in threads):
            self.found(f"operations that do not end: {self.under_way}")


class AgentSoak(test_agent.AgentTest):
    def has(self, d):
        with open(f"/proc/{d.process.pid}/status", encoding="ascii") as f:
            status = dict(line.split(":", 1) for line in f)
        store = sorted(os.path.join(folder, f) for folder, folders, files in os.walk(d.store) for f in folders + files)
        return {**footprint(d), "threads": int(status["Threads"]), "store": store}, int(status["VmRSS"].split()[0]) * 1024

    def settled(self, soak, before=None):
        """Nothing but the template's host and its parked clones, as before. What the daemon has, and its memory. The host is a new
        one: where a parked clone was killed there are fewer."""
        for pid in soak.hosts():
            os.kill(pid, signal.SIGKILL)
        url, last = "/v1/templates/t/clones", []
        soak.d.delete(wait_for("a clone of a new host", lambda: (soak.d.call("POST", url, {}).json or {}).get("clones")))

        def same():     # without a request, which would keep a thread
            last[:] = self.has(soak.d)
            return last[0]["vms"] == 3 and (not before or last[0] == before)

        def differs():
            return f": {[(key, (before or {}).get(key), value) for key, value in last[0].items() if not before or before[key] != value]}"
        wait_for("nothing to be left behind", same, context=differs, step_s=0.1)
        time.sleep(0 if before else 3)      # until idle threads end
        return last if before else self.has(soak.d)

    def awake(self, soak, clone):
        """Until the clone runs as itself, or has ended."""
        def state():
            now = soak.d.call("GET", clone.url)
            if now.status == 404 or now.json["state"] == "exited":
                return "gone"
            if now.json["state"] == "paused":
                soak.call("PUT", clone.url + "/resume")
                return None
            me = now.json["identity"] == "unique" and soak.look(clone)
            return me and not me["frozen"]
        return wait_for(f"clone {clone.id} to go on", state, context=soak.d.context)

    def ends(self, soak):
        """After a round: all go on, and all can go."""
        self.assertEqual(soak.wrong, [], f"seed {SEED}; {soak.d.context()}")
        self.assertIsNone(soak.d.process.poll(), soak.d.context())
        soak.add(soak.d.get("/v1/clones")["clones"])
        for clone in soak.clones.values():
            self.awake(soak, clone)
        self.assertEqual(soak.wrong, [], f"seed {SEED}; {soak.d.context()}")
        for clone in soak.d.get("/v1/clones")["clones"]:
            url = f"/v1/clones/{clone['id']}"       # of a run whose client has left, too, which is being deleted
            wait_for("its end", lambda url=url: soak.d.call("DELETE", url).status in (204, 404), context=soak.d.context)
        soak.clones.clear()
        for t in soak.d.get("/v1/templates")["templates"]:
            if t["name"] != "t":
                soak.d.must(204, "DELETE", f"/v1/templates/{t['name']}")
        soak.templates[:] = ["t"]
        kvmtest.strays()        # reaps what came to us from template hosts

    def test_soak(self):
        print(f"# soak: seed {SEED}", flush=True)
        # At its end a sanitized process traces itself for leaks. SIGCONT takes pending SIGSTOPs away (signal(7)), the one by which
        # the tracer attaches too: it waits for ever.
        options = mock.patch.dict(os.environ, {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"})
        options.start()
        self.addCleanup(options.stop)
        d = Daemon(self)
        self.template(d, cmdline="identity_ms=3")
        d.stop()
        d.start()               # as a daemon that has only clones
        soak = Soak(d, random.Random(SEED))
        before, memory = self.settled(soak)
        all_kinds = ["kill_clone", "kill_any", "kill_host", "hold", "kill_daemon"]
        until, n = time.monotonic() + LONG_S, 0
        while n < ROUNDS or (FULL and time.monotonic() < until):
            soak.round((all_kinds, all_kinds[:-1], [])[n % 3])      # a daemon lives for a whole round, and one in peace
            self.ends(soak)
            _, now = self.settled(soak, before)
            if not SANITIZED:
                self.assertLess(now - memory, MEMORY)
            n += 1
        print(f"# soak: the daemon has {memory >> 10} KiB at first, {now >> 10} KiB now", flush=True)
        kinds = ", ".join(f"{k} {v}" for k, v in sorted({**soak.counts, **soak.kills}.items()))
        operations = sum(soak.counts[op] for op in OPS)
        print(f"# soak: {n} rounds, {operations} operations, {soak.kills.total()} disturbances: {kinds}", flush=True)


