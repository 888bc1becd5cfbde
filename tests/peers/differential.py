# SPDX-License-Identifier: Apache-2.0
"""What the differential test is made of: scenes that observe a VMM program, and the comparison of two programs.

A scene is a function that starts a program and looks at it step by step: answers, exit codes, files, events. Everything
that it sees is made into JSON in which values that must differ (process ids, folders, random MACs) have names instead.
What the real Cloud Hypervisor showed is in recorded-VERSION.json, one entry for a step, written by record.py only. Where
forkd-vmm shows something else, differences.json has that, under the key of the row in docs/differences.md that explains it.
"""
import contextlib
import fcntl
import glob
import json
import os
import re
import shutil
import socket
import subprocess
import threading

import kvmtest

HERE = os.path.dirname(os.path.abspath(__file__))
DIFFERENCES = os.path.join(HERE, "differences.json")
TABLE = os.path.join(kvmtest.ROOT, "docs", "differences.md")
ABSENT = "(absent)"
DIED = {"died": True}
CHAIN = re.compile(r"^Error: .* exited with the following chain of errors:\n((?: +\d+: .*\n?)+)", re.M)
ONE_ERROR = re.compile(r"^Error: .* exited with the following error:\n +(.*)", re.M)
LOG_LINE = re.compile(r"(cloud-hypervisor|forkd-vmm): +[0-9.]+s: ")
SCENES = {}


def scene(function):
    """Registers a scene; its name is the function's."""
    SCENES[function.__name__] = function
    return function


# ---- what was seen, as JSON

def clean(value, folders):
    """Folders by their names, and no process ids or random MACs."""
    if isinstance(value, str):
        for path, name in folders:
            value = value.replace(path, name)
        value = re.sub(r"\bdescriptor \d+ is not a tap", "descriptor N is not a tap", value)
        return RANDOM_MAC.sub("RANDOM-MAC", value)
    if isinstance(value, list):
        return [clean(v, folders) for v in value]
    if isinstance(value, dict):
        return {clean(k, folders): clean_member(k, v, folders) for k, v in value.items()}
    return value


RANDOM_MAC, KERNELS_MAC = re.compile(r"\b2e(:[0-9a-f]{2}){5}\b"), re.compile(r"(?!12:34:56)[0-9a-f][26ae](:[0-9a-f]{2}){5}")


def clean_member(key, value, folders):
    if key == "pid":
        return "PID"
    if key == "host_mac" and isinstance(value, str):        # of a tap: chosen by the kernel, where no scene did
        return KERNELS_MAC.sub("RANDOM-MAC", value)
    return clean(by_key(value) if key == "device_tree" else value, folders)


def by_key(value):
    """What the real program keeps in a hash table has no order."""
    return {k: by_key(value[k]) for k in sorted(value)} if isinstance(value, dict) else value


def text_or_json(data):
    try:
        return json.loads(data)
    except ValueError:
        return data.decode(errors="replace")


USUAL = ["Server: Cloud Hypervisor API", "Connection: keep-alive"]
USUAL_WITH_BODY = [*USUAL, "Content-Type: application/json", "Content-Length: RIGHT"]


def split_answers(data):
    """The HTTP answers in a stream: status and body of each, and all lines of a head that is not as usual."""
    answers = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.decode(errors="replace").split("\r\n")
        length = next((int(h.split(":")[1]) for h in lines if h.startswith("Content-Length:")), 0)
        body, data = data[:length], data[length:]
        lines = ["Content-Length: RIGHT" if body and h == f"Content-Length: {len(body)}" else h for h in lines]
        body = text_or_json(body) if body else None
        if isinstance(body, dict) and "build_version" in body:      # who says it is a matter of one step
            body = "PING"
        status = re.fullmatch(r"HTTP/1\.1 (\d\d\d) ", lines[0])
        is_usual = status and lines[1:] == (USUAL_WITH_BODY if body else USUAL)
        answers.append({**({"status": int(status.group(1))} if is_usual else {"head": lines}),
                        **({} if body is None else {"body": body})})
    return answers


def shape(value):
    """Keys and types alone, for values that the processor or the moment decides."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items()}
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__
    if isinstance(value, list):
        return f"list of {len(value)} numbers" if all(type(v) is int for v in value) else [shape(value[0]), "…"]
    return "number"


def sparse(numbers):
    """The numbers that are not 0, by index."""
    return {f"{i:#x}": f"{n:#x}" for i, n in enumerate(numbers) if n}


def device_state(value):
    """Registers by index; rings are wherever this build of the guest put them."""
    if isinstance(value, dict):
        return {k: sparse(v) if k in ("registers", "writable_bits") else bool(v) if k in ("desc_table", "avail_ring", "used_ring")
                else device_state(v) for k, v in value.items()}
    return [device_state(v) for v in value] if isinstance(value, list) else value


def state_json(text):
    """state.json: values of devices and memory, shapes of vCPUs and clocks."""
    def node(name, value, of_host):
        state = json.loads(value["snapshot_data"]["state"]) if value["snapshot_data"] else None
        of_host |= name in ("", "cpu-manager")
        seen = {"keys": list(value), "state": shape(state) if of_host else device_state(state)}
        if value["snapshots"]:
            seen["snapshots"] = {k: node(k, v, name == "cpu-manager") for k, v in value["snapshots"].items()}
        return seen
    return node("", json.loads(text), False)


def event_list(text):
    """source, event and properties of each event in order."""
    seen, left = [], text.strip()
    while left:
        event, end = json.JSONDecoder().raw_decode(left)
        seen.append([event["source"], event["event"], event["properties"]])
        left = left[end:].strip()
    return seen


def error_chain(stderr):
    """The chain of errors, else the first line that is no log."""
    chain, one = CHAIN.search(stderr), ONE_ERROR.search(stderr)
    if chain:
        return [line.split(": ", 1)[1] for line in chain.group(1).strip().split("\n")]
    if one:
        return [one.group(1)]
    return next((line for line in stderr.split("\n") if line and not LOG_LINE.match(line)), "")


class Proxy:
    """A socket between ch-remote and the API, that notes what goes each way. One connection."""

    def __init__(self, path, target):
        self.sent, self.answer, self.target = b"", b"", target
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        try:
            client, _ = self.listener.accept()
        except OSError:
            return
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self.target)
            back = threading.Thread(target=self._back, args=(server, client), daemon=True)
            back.start()
            while True:
                data, fds, _, _ = socket.recv_fds(client, 65536, 253)
                if not data:
                    break
                self.sent += data
                socket.send_fds(server, [data], fds)
                for fd in fds:
                    os.close(fd)
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join()

    def _back(self, server, client):
        while True:
            data = server.recv(65536)
            if not data:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
                return
            self.answer += data
            client.sendall(data)

    def close(self):
        """ch-remote ended."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()


class Scene:
    """One program, looked at by one scene. Every look has a name, and adds to `seen`."""

    def __init__(self, test, program, ch_remote, recorded):
        self.test, self.program, self.ch_remote, self.recorded = test, program, ch_remote, recorded
        self.seen, self.unseen = {}, set()
        self.is_ours = "forkd" in os.path.basename(program)
        self.kernel = kvmtest.guest("devices")

    def folders(self):
        return [(self.test.dir, "DIR"), (os.path.realpath(kvmtest.GUEST_DIR), "GUESTS"), (kvmtest.GUEST_DIR, "GUESTS")]

    def name(self, step):
        """The name of a step that holds a path."""
        return clean(step, self.folders())

    def see(self, step, value):
        if step in self.seen:
            raise AssertionError(f"two steps are called {step!r}")
        self.seen[step] = clean(json.loads(json.dumps(value)), self.folders())

    # ---- things to look at

    def start(self, *args, **options):
        """A VMM with an API socket."""
        return self.test.start(*args, program=self.program, **options)

    def boot(self, cmdline="rounds=1 end=halt", extra=(), **options):
        """A VMM whose guest has said all that it has to say."""
        vmm = self.test.boot("devices", cmdline, program=self.program, extra=extra, **options)
        if "--serial" not in extra:
            vmm.wait_output(rb"PASS")
        return vmm

    def config(self, **more):
        """A VmConfig that can be booted, and more keys of it."""
        return {"cpus": {"boot_vcpus": 1, "max_vcpus": 1, "max_phys_bits": 40}, "memory": {"size": 64 << 20},
                "payload": {"kernel": kvmtest.guest("devices"), "cmdline": "rounds=1 end=halt"},
                "serial": {"mode": "Tty"}, "console": {"mode": "Off"}, **more}

    @staticmethod
    def state(vmm, part=None):
        """The state that vm.info shows, with a part of the configuration; "nothing" without one."""
        try:
            answer = vmm.call("GET", "vm.info")
        except (ConnectionError, AssertionError):
            return "died"
        if answer.status == 200:
            info = answer.json
            return [info["state"], info["config"].get(part)] if part else info["state"]
        return "died" if "closed channel" in repr(answer) else "nothing" if answer.status == 404 else repr(answer)

    # ---- HTTP

    def http(self, step, vmm, method, name, body=None, fds=(), headers=()):
        """One request; a body that is no bytes is sent as JSON."""
        answer = self.ask(vmm, method, name, body, fds, headers)
        self.see(step, answer)
        return answer

    def ask(self, vmm, method, name, body=None, fds=(), headers=()):
        """The same, only to have the answer."""
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(kvmtest.PATIENCE_S)
                s.connect(vmm.socket)
                data = kvmtest.request_bytes(method, name, body, headers)
                if fds:
                    data = data[socket.send_fds(s, [data], list(fds)):]
                s.sendall(data)
                answer = self._answer(s)
        except ConnectionError:
            answer = DIED
        if "closed channel" in str(answer):             # threads of it ended: some answer, some close the connection
            answer = DIED
        return by_key(answer) if name == "vm.counters" else answer

    def put(self, step, vmm, name, body=None, fds=()):
        return self.http(step, vmm, "PUT", name, body, fds)

    def get(self, step, vmm, name):
        return self.http(step, vmm, "GET", name)

    @staticmethod
    def _answer(s):
        data, end = b"", 0
        while not end or len(data) < end:
            piece = s.recv(65536)
            if not piece:
                return DIED
            data += piece
            if not end and b"\r\n\r\n" in data:
                length = re.search(rb"\r\nContent-Length: (\d+)\r\n", data)
                end = data.index(b"\r\n\r\n") + 4 + (int(length.group(1)) if length else 0)
        return split_answers(data)[0]

    def raw(self, step, vmm, *pieces):
        """Bytes on a connection of their own; each piece has been taken before the next one goes. What is answered to all."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(vmm.socket)
            answer, is_open = b"", True
            for piece in pieces:
                try:
                    s.sendall(piece)
                except OSError:
                    is_open = False
                self.settle(vmm)
                more, is_open = self._what_came(s)
                answer += more
        self.see(step, {"answers": split_answers(answer), "open": is_open})

    @staticmethod
    def settle(vmm):
        """The API does one thing after another: once it answered us, it has done all that was asked before."""
        for _ in range(3):
            vmm.call("GET", "vmm.ping")

    @staticmethod
    def _what_came(s):
        s.setblocking(False)
        data = b""
        try:
            while piece := s.recv(65536):
                data += piece
            return data, False
        except BlockingIOError:
            s.setblocking(True)
            return data, True
        except ConnectionResetError:
            return data, False

    # ---- ch-remote

    def remote(self, step, vmm, *args, fds=()):
        """ch-remote, and what it sends and gets. Without it, what it sent to the real program is sent again."""
        if self.ch_remote:
            self._run_remote(step, vmm, args, fds)
        else:
            self._replay_remote(step, vmm, fds)

    def _run_remote(self, step, vmm, args, fds):
        path = self.test.path(f"{self.test.unique('remote')}.sock")
        proxy = Proxy(path, vmm.socket)
        done = subprocess.run([self.ch_remote, "--api-socket", path, *args], capture_output=True, text=True,
                              timeout=kvmtest.PATIENCE_S, pass_fds=fds, stdin=subprocess.DEVNULL)
        proxy.close()
        stderr = done.stderr[done.stderr.find("Error:"):] if "Error:" in done.stderr else done.stderr
        head, _, body = proxy.sent.decode().partition("\r\n\r\n")
        head = head.replace(f"Content-Length: {len(body)}", "Content-Length: RIGHT")
        self.see(step, {"exit": done.returncode, "stdout": text_or_json(done.stdout.encode()), "stderr": stderr,
                        "sent": {"head": head, "body": body, "fds": len(fds)}, "answer": split_answers(proxy.answer)})

    def _replay_remote(self, step, vmm, fds):
        was = self.recorded[step]
        self.unseen |= {f"{step}: {path}" for path in ("exit", "stdout", "stderr")}
        answer = []
        if was["sent"]["head"]:
            head, body = was["sent"]["head"], was["sent"]["body"]
            for path, name in self.folders():
                head, body = head.replace(name, path), body.replace(name, path)
            data = (head.replace("Content-Length: RIGHT", f"Content-Length: {len(body)}") + "\r\n\r\n" + body).encode()
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(vmm.socket)
                data = data[socket.send_fds(s, [data], list(fds)) if fds else 0:]
                s.sendall(data)
                answer = [self._answer(s)]
        self.see(step, {"answer": answer})
        self.seen[step] = {**was, **self.seen[step]}

    # ---- the command line

    def ends(self, step, *args, api=False, part=None, **options):
        """The program with these arguments: it ends by itself, or boots or restores a machine; then it is ended.

        Of a machine's configuration `part` is looked at."""
        vmm = self.test.start(*args, program=self.program, api=api, **options)
        kvmtest.wait_for("the end or a machine", lambda: vmm.process.poll() is not None or self._has_machine(vmm),
                         context=vmm.context)
        if vmm.process.poll() is None:
            info = vmm.get("vm.info")
            self.see(step, {"runs": info["state"], **({part: info["config"].get(part)} if part else {})})
            vmm.stop()
            return
        vmm.wait_exit()
        self.see(step, {"exit": vmm.process.returncode, "stderr": error_chain(vmm.stderr), "stdout": bool(vmm.output)})
        vmm.release()

    @staticmethod
    def _has_machine(vmm):
        with contextlib.suppress(OSError, AssertionError):
            answer = kvmtest.call(vmm.socket, "GET", "vm.info") if vmm.socket else None
            return answer and answer.status == 200 and answer.json["state"] in ("Running", "Paused")
        return False

    # ---- files

    def files(self, step, directory):
        """Names, modes and sizes."""
        self.see(step, {name: self._file(os.path.join(directory, name)) for name in sorted(os.listdir(directory))})

    @staticmethod
    def _file(path):
        at = os.stat(path)
        return {"mode": f"{at.st_mode:o}", **({"size": at.st_size} if path.endswith("memory-ranges") else {})}

    def snapshot_files(self, step, directory):
        self.files(f"{step}, files", directory)
        with open(os.path.join(directory, "config.json")) as f:
            text = f.read()
        self.see(f"{step}, config.json", {"json": json.loads(text), "one line": "\n" not in text})
        with open(os.path.join(directory, "state.json")) as f:
            self.see(f"{step}, state.json", state_json(f.read()))

    def events(self, vmm, path, deletes=0):
        """The events until now, `deletes` of vm.delete among them. One more shows that all are written: a thread does it."""
        vmm.call("PUT", "vm.create", {"console": {"mode": "Off"}})
        vmm.put("vm.delete")
        return kvmtest.wait_for("the last event", lambda: self._events(path, deletes + 1), context=vmm.context)

    @staticmethod
    def _events(path, deletes):
        try:
            events = event_list(kvmtest.read(path).decode())
        except ValueError:                                                      # half of one
            return None
        at = [i for i, event in enumerate(events) if event[1] == "deleted"]
        return events[:at[deletes - 1]] if len(at) >= deletes else None

    def locked(self, path):
        """Whether another open file description holds a write lock (OFD)."""
        with open(path, "rb") as f:
            lock = fcntl.fcntl(f, 36, b"\1\0\0\0" + bytes(28))                  # F_OFD_GETLK, F_WRLCK -> who
        return lock[:2] != b"\2\0"


def observe(name, test, program, ch_remote=None, recorded=None):
    """Runs a scene in the test's folder, emptied. Returns what was seen, and the places that could not be looked at."""
    shutil.rmtree(test.dir)
    os.mkdir(test.dir)
    test.names.clear()
    look = Scene(test, program, ch_remote, recorded or {})
    SCENES[name](look)
    return look.seen, look.unseen


# ---- comparing

def differences(theirs, ours, path=""):
    """(path, theirs, ours) of every place where two values are not the same; keys of objects have an order."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in {**theirs, **ours}:
            at = f"{path}.{key}" if path else key
            yield from differences(theirs.get(key, ABSENT), ours.get(key, ABSENT), at)
        if [k for k in theirs if k in ours] != [k for k in ours if k in theirs]:
            yield f"{path} order", list(theirs), list(ours)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for i, (a, b) in enumerate(zip(theirs, ours)):
            yield from differences(a, b, f"{path}[{i}]")
    elif theirs != ours or type(theirs) is not type(ours):
        yield path, theirs, ours


def step_differences(theirs, ours):
    """The same over all steps of a scene: {"step: path": (theirs, ours)}."""
    found = {}
    for step in {**theirs, **ours}:
        for path, a, b in differences(theirs.get(step, ABSENT), ours.get(step, ABSENT)):
            found[f"{step}: {path}"] = (a, b)
    return found


def recording():
    """The newest recording, as {scene: {step: what was seen}}, and the version that it is of."""
    paths = sorted(glob.glob(os.path.join(HERE, "recorded-*.json")))
    if len(paths) != 1:
        raise AssertionError(f"one recording is needed in {HERE}, there are {len(paths)}")
    with open(paths[0]) as f:
        data = json.load(f)
    return data["scenes"], data["version"]


def allowed(name):
    """Of one scene: {"step: path": (key of the row, what forkd-vmm shows)}."""
    with open(DIFFERENCES) as f:
        rows = json.load(f)
    return {place.split("/", 1)[1]: (key, value) for key, places in rows.items() for place, value in places.items()
            if place.split("/", 1)[0] == name}


def table_keys():
    """The keys of the rows in docs/differences.md, in order."""
    with open(TABLE) as f:
        return re.findall(r"^\| `([a-z0-9-]+)` \|", f.read(), re.M)


def judge(name, theirs, ours, unseen=()):
    """What is wrong with a scene: differences that no row explains, and explanations that nothing needs any more."""
    found, known, wrong = step_differences(theirs, ours), allowed(name), []
    for place, (a, b) in found.items():
        if place not in known:
            wrong.append(f"\n  {json.dumps(f'{name}/{place}', ensure_ascii=False)}: {json.dumps(b, ensure_ascii=False)}"
                         f"\n    Cloud Hypervisor: {json.dumps(a, ensure_ascii=False)}")
        elif known[place][1] != b:
            wrong.append(f"\n  {name}/{place} ({known[place][0]}): forkd-vmm showed {json.dumps(known[place][1], ensure_ascii=False)}"
                         f", and now {json.dumps(b, ensure_ascii=False)}")
    for place, (key, _) in known.items():
        if place not in found and not any(place.startswith(u) for u in unseen):
            wrong.append(f"\n  {name}/{place} ({key}): is the same as Cloud Hypervisor's now; take it out of differences.json")
    return wrong
