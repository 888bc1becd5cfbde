# SPDX-License-Identifier: Apache-2.0
"""Bad input of every kind ends with one error chain that names what is wrong, and with nothing left behind."""
import copy
import json
import os
import random
import re
import shutil
import socket
import subprocess

from kvmtest import FULL, IS_FORKD, MIB, VMM, KvmTest, Tap, guest, modes, only_forkd, read, strays, wait_for, write

CHAIN = re.compile(r"^Error: forkd-vmm exited with the following chain of errors:\n((?:  \d+: .*\n)+)\Z", re.M)


class CommandLine(KvmTest):
    def ends(self, args, words, status=1, pass_fds=()):
        """The VMM ends at once with this status and a message that holds these words."""
        api = self.path("never.sock")
        before, others = set(os.listdir(self.dir)), strays()
        done = subprocess.run([VMM, *(["--api-socket", api] if status == 1 else []), *args], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=30, pass_fds=pass_fds, cwd=self.dir)
        self.assertEqual(done.returncode, status, f"{args}: {done.stderr}")
        for word in words:
            self.assertIn(word, done.stderr, f"{args}")
        if not IS_FORKD:
            for name in set(os.listdir(self.dir)) - before:
                os.unlink(self.path(name))
            return
        self.assertEqual(done.stdout, "", args)
        if status == 1:
            chain = CHAIN.search(done.stderr)
            self.assertTrue(chain, f"{args}: no error chain: {done.stderr!r}")
            numbers = [int(n) for n in re.findall(r"^  (\d+): ", chain.group(1), re.M)]
            self.assertEqual(numbers, list(range(len(numbers))), done.stderr)
            self.assertEqual(done.stderr.count("Error: forkd-vmm exited"), 1)
        else:
            self.assertTrue(done.stderr.startswith("error: "), f"{args}: {done.stderr!r}")
        self.assertFalse(os.path.exists(api), f"{args}: the API socket is left")
        left = set(os.listdir(self.dir)) - before - {"never.sock.lock"}
        self.assertEqual(left, set(), f"{args}: left behind")
        self.assertEqual(strays(), others, args)

    def test_usage(self):
        kernel = ["--kernel", guest("ticker")]
        for args, words in [
            (["--bogus"], ["--bogus"]),
            ([*kernel, "--cpus", "boot=1", "--cpus", "boot=1"], ["--cpus"]),
            ([*kernel, "surplus"], ["surplus"]),
            (["--kernel"], ["--kernel"]),
            *([(["--cpus", "boot=1"], ["--cpus"])] if IS_FORKD else []),
        ]:
            with self.subTest(args=args):
                self.ends(args, words, 2)
        done = subprocess.run([VMM], capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 2)
        self.assertIn("Usage", done.stderr)

    @only_forkd
    def test_option_strings(self):
        kernel = ["--kernel", guest("ticker"), "--console", "off"]
        for args, words in [
            (["--cpus", "boot=0"], ["boot", "0"]),
            (["--cpus", "boot=x"], ["boot", "x"]),
            (["--cpus", "boot=255"], ["boot", "255"]),
            (["--cpus", "boot=2,max=1"], ["Max CPUs (1)", "boot CPUs (2)"]),
            (["--cpus", "bogus=1"], ["bogus"]),
            (["--memory", "size=0"], ["size"]),
            (["--memory", "size=1Z"], ["1Z"]),
            (["--memory", "size=64M,shared=on"], ["shared"]),
            (["--memory", "size=4097"], ["4097"]),
            (["--memory", "size=8589934592G"], ["size"]),
            (["--serial", "bogus"], ["bogus"]),
            (["--console", "file="], ["console"]),
            (["--disk", "path=/dev/zero,num_queues=0"], ["num_queues"]),
            (["--disk", "path=/dev/zero,queue_size=3"], ["Queue size", "3"]),
            (["--disk", "readonly=on"], ["Path missing"]),
            (["--net", "mac=hello"], ["mac", "hello"]),
            (["--net", "num_queues=1"], ["queues"]),
            (["--net", "fd=[1]"], ["fd"]),
            (["--net", "mtu=100"], ["MTU 100"]),
            (["--net", "ip=1.2.3"], ["ip"]),
        ]:
            with self.subTest(args=args):
                self.ends([*([] if "--console" in args else kernel), *(kernel[:2] if "--console" in args else []), *args], words)

    def test_kernels(self):
        empty, text, folder = self.path("empty"), self.path("text"), self.new_dir("folder")
        write(empty, b"")
        write(text, b"this is no kernel at all\n" * 100)
        half, wild = self.path("half"), self.path("wild")
        elf = read(guest("ticker"))
        write(half, elf[:700])
        table = bytearray(elf)
        offset = int.from_bytes(table[32:40], "little")
        table[offset + 24:offset + 32] = (1 << 60).to_bytes(8, "little")        # p_paddr of the first segment
        write(wild, bytes(table))
        for path, words in [
            (self.path("missing"), [self.path("missing"), "No such file"] if IS_FORKD else []),
            (empty, []), (text, []), (folder, []), ("/bin/true", []), (half, []), (wild, []), ("/dev/null", []),
        ]:
            with self.subTest(kernel=path):
                self.ends(["--kernel", path, "--console", "off"], [*words, *([path] if IS_FORKD else [])])
        if os.getuid() != 0:
            os.chmod(text, 0)
            self.ends(["--kernel", text, "--console", "off"], [text, "Permission denied"])

    @only_forkd
    def test_initramfs_and_cmdline(self):
        base = ["--kernel", guest("ticker"), "--console", "off", "--memory", "size=64M"]
        self.ends([*base, "--initramfs", self.path("missing")], [self.path("missing"), "No such file"])
        self.ends([*base, "--initramfs", self.dir], [self.dir])
        big = self.path("big")
        with open(big, "wb") as f:
            f.truncate(65 * MIB)
        self.ends([*base, "--initramfs", big], ["initramfs"])
        self.ends([*base, "--cmdline", "x" * 70000], ["command line", "70000"])

    def test_memory(self):
        base = ["--kernel", guest("ticker"), "--console", "off"]
        self.ends([*base, "--memory", "size=0"], [])
        self.ends([*base, "--memory", "size=100000000M"], [])                    # 95 TiB: more than 46 bits hold
        if IS_FORKD:
            self.ends([*base, "--memory", "size=100000000M"], ["size"])

    @only_forkd
    def test_disks(self):
        empty = self.path("empty")
        write(empty, b"")
        base = ["--kernel", guest("ticker"), "--console", "off", "--disk"]
        for path, words in [(empty, [empty]), (self.path("missing"), ["No such file"]),
                            (self.dir, [self.dir]), ("/dev/null", ["/dev/null"])]:
            with self.subTest(disk=path):
                self.ends([*base, f"path={path}"], [path, *words])
        good = self.disk()
        self.ends([*base, f"path={good},id=a", f"path={good},id=b"], [good])
        self.ends([*base, f"path={good},id=a", f"path={self.disk()},id=a"], ["Identifier a is not unique"])
        self.ends([*base, f"path={good},id=__x"], ["Identifier __x is not valid"])
        self.ends([*base, f"path={good},serial={'x' * 21}"], ["serial"])

    def test_disk_in_use(self):
        disk = self.disk()
        vmm = self.boot("ticker", "warm=1 tick=2000000", extra=["--disk", f"path={disk},image_type=raw"])
        vmm.wait_bytes(1)
        self.ends(["--kernel", guest("ticker"), "--console", "off", "--disk", f"path={disk},image_type=raw"],
                  ["lock", *([disk] if IS_FORKD else [])])
        vmm.wait_bytes(2)
        vmm.stop()

    @only_forkd
    def test_nets(self):
        tap = Tap(self, echo=False)
        base = ["--kernel", guest("ticker"), "--console", "off", "--net"]
        self.ends([*base, f"tap={tap.name}"], [tap.name, "Device or resource busy"])
        self.ends([*base, "tap=name-that-is-too-long"], ["name-that-is-too-long"])
        null = os.open("/dev/null", os.O_RDWR)
        self.ends([*base, f"fd={null},num_queues=2"], [str(null)], pass_fds=[null])
        os.close(null)
        self.ends([*base, "fd=199,num_queues=2"], ["199"])
        self.ends([*base, "num_queues=4"], ["Queue count (4)"])                            # more pairs than CPUs

    @only_forkd
    def test_outputs(self):
        base = ["--kernel", guest("ticker")]
        missing = self.path("missing/file")
        self.ends([*base, "--console", "off", "--serial", f"file={missing}"], [missing, "No such file"])
        self.ends([*base, "--console", f"file={missing}"], [missing, "No such file"])
        self.ends([*base, "--console", "off", "--log-file", missing], [missing, "No such file"])
        self.ends([*base, "--console", "off", "--event-monitor", f"path={missing}"], [missing, "No such file"])
        self.ends([*base, "--console", "off", "--rng", f"src={missing}"], [missing, "No such file"])


class Requests(KvmTest):
    def test_create(self):
        vmm = self.start()
        good = {"cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 64 * MIB},
                "payload": {"kernel": guest("ticker")}, "serial": {"mode": "Tty"}, "console": {"mode": "Off"}}
        text = json.dumps(good)
        bad = [text[:n].encode() for n in range(1, len(text), 7)]
        bad += [b"null", b"[]", b"7", b'"x"', b"{}}", b"\x00", b"\xff\xfe{}", text.encode() + b"x", b"[" * 100000, b"{" * 5000]
        for key, value in [("cpus", None), ("cpus", []), ("cpus", {"boot_vcpus": "1", "max_vcpus": 1}),
                           ("cpus", {"boot_vcpus": -1, "max_vcpus": 1}), ("cpus", {"max_vcpus": 1}),
                           ("cpus", {"boot_vcpus": 1.5, "max_vcpus": 1}), ("cpus", {"boot_vcpus": 1 << 40, "max_vcpus": 1}),
                           ("memory", 5), ("memory", {"size": "64M"}), ("memory", {"size": 1 << 64}), ("payload", "kernel"),
                           ("payload", {"kernel": 5}), ("serial", {"mode": "Wrong"}), ("serial", {"mode": "tty"}),
                           ("disks", {}), ("disks", [5]), ("disks", [{"path": 5}]), ("net", [{"num_queues": "2"}]),
                           ("console", {"mode": 3}), ("pvpanic", "yes")]:
            bad.append(json.dumps(dict(good, **{key: value})).encode())
        for body in bad:
            answer = vmm.call("PUT", "vm.create", body)
            self.assertEqual((answer.status, answer.json[0]), (400, "Failed to deserialize JSON"), f"{body[:200]}: {answer}")
            self.assertGreaterEqual(len(answer.json), 2)
        self.assertEqual(vmm.call("GET", "vm.info").status, 404)
        vmm.put("vm.create", good)
        vmm.put("vm.boot")
        vmm.wait_bytes(1)
        vmm.stop()

    @only_forkd
    def test_boot_fails_and_can_be_tried_again(self):
        vmm = self.start()
        good = {"cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 64 * MIB},
                "payload": {"kernel": guest("ticker"), "cmdline": "warm=1 tick=2000000"}, "serial": {"mode": "Tty"},
                "console": {"mode": "Off"}}
        before = None
        for change, status, words in [
            ({"payload": {"kernel": self.path("missing")}}, 500, self.path("missing")),
            ({"payload": None}, 400, "ayload"),
            ({"disks": [{"path": self.path("missing")}]}, 500, "No such file"),
            ({"disks": [{"id": "a", "path": self.disk()}, {"id": "a", "path": self.disk()}]}, 409, "Identifier a is not unique"),
            ({"net": [{"num_queues": 1}]}, 400, "queues"),
            ({"memory": {"size": 0}}, 400, "size"),
        ]:
            config = dict(good, **change)
            created = vmm.call("PUT", "vm.create", {k: v for k, v in config.items() if v is not None})
            answer = vmm.call("PUT", "vm.boot") if created.status == 204 else created
            self.assertEqual(answer.status, status, f"{change}: {answer}")
            self.assertIn(words, " ".join(answer.json), change)
            vmm.put("vm.delete")
            before = before or vmm.n_fds()
            wait_for(f"descriptors to be closed after {change}", lambda: vmm.n_fds() <= before, 5,
                     lambda: f": {before} before, {vmm.n_fds()} now")
        vmm.put("vm.create", good)
        vmm.put("vm.boot")
        vmm.wait_bytes(3)
        vmm.stop()

    def test_http(self):
        vmm = self.start()
        for data, status in [(b"GET /api/v1/vmm.ping HTTP/1.1\r\n\r\n", b"200 "),
                             (b"GET /api/v1/vmm.ping?x HTTP/1.1\r\n\r\n", b"404 "),
                             (b"GET /nothing HTTP/1.1\r\n\r\n", b"404 "),
                             (b"POST /api/v1/vmm.ping HTTP/1.1\r\n\r\n", b"400 "),
                             (b"GET /" + b"x" * 2000 + b" HTTP/1.1\r\n\r\n", b"400 "),
                             (b"rubbish\r\n\r\n", b"400 "),
                             (b"PUT /api/v1/vm.pause HTTP/1.1\r\n\r\n", b"500 "),
                             (b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", b"400 ")]:
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(20)
                s.connect(vmm.socket)
                s.sendall(data)
                answer = s.recv(4096)
                self.assertTrue(answer.startswith(b"HTTP/1.1 " + status), f"{data[:60]}: {answer}")
        # split at every byte
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(vmm.socket)
            for byte in b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: x\r\n\r\n":
                s.sendall(bytes([byte]))
            self.assertTrue(s.recv(4096).startswith(b"HTTP/1.1 200 \r\n"))
        # connections that say nothing cost nothing
        idle = [socket.socket(socket.AF_UNIX) for _ in range(5)]
        for s in idle:
            s.connect(vmm.socket)
        self.assertEqual(vmm.call("GET", "vmm.ping").status, 200)
        for s in idle:
            s.close()
        random.seed(1)
        for _ in range(300 if FULL else 60):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(vmm.socket)
                try:
                    s.sendall(bytes(random.choices(b"GETPUT /api/v1.\r\n: Content-Length5{}\"", k=random.randrange(1, 400))))
                except OSError:
                    pass
        self.assertEqual(vmm.call("GET", "vmm.ping").status, 200)
        vmm.stop()


def leaves(value, path=()):
    """Paths of all scalars; of lists of scalars only the first and the last; an empty list or object counts as one."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        chosen = {0, len(value) - 1} if len(value) > 2 else range(len(value))
        for n in sorted(chosen):
            yield from leaves(value[n], (*path, n))
    else:
        yield path


def parent_of(root, path):
    for key in path[:-1]:
        root = root[key]
    return root


def other_type(value):
    if isinstance(value, bool):
        return 3
    if isinstance(value, (int, float)):
        return "text"
    if isinstance(value, str):
        return 12345
    return 77 if value != 77 else "text"


class StateJson:
    """state.json with its JSON texts inside JSON strings opened up."""

    def __init__(self, text):
        self.tree = self.unpack(json.loads(text))

    def unpack(self, node):
        data = node["snapshot_data"]
        return {"snapshots": {k: self.unpack(v) for k, v in node["snapshots"].items()},
                "snapshot_data": data and {"state": json.loads(data["state"])}}

    def pack(self, node):
        if not isinstance(node, dict):
            return node
        packed = dict(node)
        children = node.get("snapshots")
        if isinstance(children, dict):
            packed["snapshots"] = {k: self.pack(v) for k, v in children.items()}
        data = node.get("snapshot_data")
        if isinstance(data, dict) and "state" in data:
            packed["snapshot_data"] = dict(data, state=json.dumps(data["state"], separators=(",", ":")))
        return packed

    def text(self, tree=None):
        return json.dumps(self.pack(tree or self.tree), separators=(",", ":"))


# In state.json, for other programs to read: each follows from config.json or from the devices' own states.
UNREAD = {"device_tree", "arch_mem_regions", "boot_ram", "current_ram", "hotplug_slots", "next_hotplug_slot", "next_memory_slot",
          "selected_slot", "start_of_device_area", "guest_ram_mappings", "disk_path"}


@only_forkd
class Snapshots(KvmTest):
    """A snapshot directory with one thing wrong."""

    def setUp(self):
        super().setUp()
        disk, self.tap = self.disk(), Tap(self, persistent=True)
        vmm = self.boot("devices", "rounds=0 batches=2 pause=1 mem=1", cpus=2, memory="32M",
                        extra=["--disk", f"path={disk},image_type=raw", "--net", f"tap={self.tap.name}", "--console", "null"])
        vmm.wait_rounds(2)
        self.good = vmm.snapshot()
        vmm.stop()
        self.files = {name: read(os.path.join(self.good, name)) for name in ("config.json", "state.json")}
        self.clone = self.start(name="clone")
        self.refused(dict(self.files, **{"config.json": b"{}"}), [])
        self.fds = self.clone.n_fds()

    def directory(self, files):
        path = self.path("mutant")
        shutil.rmtree(path, ignore_errors=True)
        os.mkdir(path)
        for name, data in files.items():
            if data is not None:
                write(os.path.join(path, name), data)
        if "memory-ranges" not in files:
            os.link(os.path.join(self.good, "memory-ranges"), os.path.join(path, "memory-ranges"))
        return path

    def restore_files(self, files, **more):
        return self.clone.call("PUT", "vm.restore", {"source_url": "file://" + self.directory(files), **more})

    def refused(self, files, words, what="", statuses=(400, 500), **more):
        answer = self.restore_files(files, **more)
        if answer.status == 204:
            self.clone.put("vm.delete")
        self.assertIn(answer.status, statuses, f"{what}: {answer}")
        self.assertEqual(answer.json[:2], ["Error from API", "The VM could not be restored"], what)
        self.assertGreaterEqual(len(answer.json), 3, what)
        for word in words:
            self.assertIn(word, " / ".join(answer.json), what)

    def is_as_before(self, what):
        self.assertEqual(self.clone.call("GET", "vm.info").status, 404, what)
        wait_for("descriptors to be closed", lambda: self.clone.n_fds() <= self.fds, 5,
                 lambda: f" after {what}: {self.clone.n_fds()}, before {self.fds}")

    def still_restores(self):
        self.is_as_before("the failures")
        self.clone.put("vm.restore", {"source_url": "file://" + self.good, "resume": True})
        self.clone.wait_rounds(2)
        self.clone.stop()

    def must_or_may(self, files, words, must, what):
        """must: refused with these words. Otherwise it may also be accepted; never anything else."""
        if must:
            self.refused(files, words, what)
        else:
            answer = self.restore_files(files)
            self.assertIn(answer.status, (204, 400, 409, 500), f"{what}: {answer}")
            if answer.status == 204:
                self.clone.put("vm.delete")
            else:
                self.assertEqual(answer.json[1], "The VM could not be restored", what)
        self.is_as_before(what)

    def test_missing_files(self):
        for name in ("config.json", "state.json", "memory-ranges"):
            with self.subTest(missing=name):
                self.refused(dict(self.files, **{name: None}), [name, "No such file or directory"])
        answer = self.clone.call("PUT", "vm.restore", {"source_url": "file://" + self.path("nowhere")})
        self.assertEqual(answer.status, 500)
        self.assertIn("nowhere", " ".join(answer.json))
        answer = self.clone.call("PUT", "vm.restore", {"source_url": self.good})
        self.assertIn("Could not extract path from URL", " ".join(answer.json))
        self.still_restores()

    def test_files_that_are_none(self):
        for name in ("config.json", "state.json", "memory-ranges"):
            path = self.directory({n: d for n, d in self.files.items() if n != name} |
                                  ({} if name != "memory-ranges" else {name: None}))
            os.mkdir(os.path.join(path, name))
            answer = self.clone.call("PUT", "vm.restore", {"source_url": "file://" + path})
            self.assertIn(answer.status, (400, 500), name)
            self.assertIn(name, " ".join(answer.json))
        self.still_restores()

    def test_truncated(self):
        for name, text in self.files.items():
            step = max(1, len(text) // (400 if FULL else 25))
            for n in range(0, len(text), step):
                with self.subTest(file=name, bytes=n):
                    self.refused(dict(self.files, **{name: text[:n]}), [name])
        for junk in (b"null", b"[]", b"{}", b"\xff" * 100, b"{" * 100000, b'{"snapshots":{}}'):
            for name in self.files:
                with self.subTest(file=name, junk=junk[:20]):
                    self.refused(dict(self.files, **{name: junk}), [name.split(".")[0]])
        self.still_restores()

    def test_memory_of_another_size(self):
        size = os.stat(os.path.join(self.good, "memory-ranges")).st_size
        for n in (0, 1, 4096, size - 4096, size - 1, size + 1, size + 4096, 2 * size):
            for mode in modes():
                with self.subTest(bytes=n, mode=mode):
                    path = self.directory(dict(self.files, **{"memory-ranges": b""}))
                    os.truncate(os.path.join(path, "memory-ranges"), n)
                    answer = self.clone.call("PUT", "vm.restore", {"source_url": "file://" + path, "memory_restore_mode": mode})
                    self.assertIn(answer.status, (400, 500), answer)
                    text = " ".join(answer.json)
                    self.assertIn("memory-ranges", text)
                    self.assertIn(str(n), text)
                    self.is_as_before(f"{n} bytes")
        self.still_restores()

    def test_config_mutated(self):
        config = json.loads(self.files["config.json"])
        optional = {"tap", "serial", "image_type"}
        for path in leaves(config):
            name = next(k for k in reversed(path) if isinstance(k, str))
            was = parent_of(config, path)[path[-1]]
            with self.subTest(path=path):
                for value in (other_type(was), {"x": 1}, [[]]):
                    mutant = copy.deepcopy(config)
                    parent_of(mutant, path)[path[-1]] = value
                    self.must_or_may(dict(self.files, **{"config.json": json.dumps(mutant).encode()}), [name, "config.json"], True,
                                     f"{path} = {value!r}")
                if isinstance(was, int) and not isinstance(was, bool):
                    for value in (-1, 1 << 64, 1 << 70, 1.5):
                        mutant = copy.deepcopy(config)
                        parent_of(mutant, path)[path[-1]] = value
                        words = ["config.json"] + ([name] if value < 1 << 64 else ["line"])
                        self.must_or_may(dict(self.files, **{"config.json": json.dumps(mutant).encode()}), words, True,
                                         f"{path} = {value!r}")
                mutant = copy.deepcopy(config)
                del parent_of(mutant, path)[path[-1]]
                self.must_or_may(dict(self.files, **{"config.json": json.dumps(mutant).encode()}), [name],
                                 path[-1] in ("boot_vcpus", "size") and name not in optional, f"{path} missing")
        text = self.files["config.json"].decode()
        for doubled in ('"cpus":{', '"boot_vcpus":', '"size":', '"memory":{'):
            with self.subTest(twice=doubled):
                mutant = text.replace(doubled, f'"{doubled.split(chr(34))[1]}":1,{doubled}', 1)
                self.refused(dict(self.files, **{"config.json": mutant.encode()}), ["config.json", "duplicate key", "line 1 column"])
        self.still_restores()

    def test_config_that_does_not_fit_the_state(self):
        for change, words in [
            (lambda c: c["memory"].update(size=64 * MIB), ["memory"]),
            (lambda c: c["memory"].update(size=16 * MIB), ["memory"]),
            (lambda c: c["cpus"].update(boot_vcpus=1, max_vcpus=1), []),
            (lambda c: c["cpus"].update(boot_vcpus=3, max_vcpus=3), []),
            (lambda c: c["disks"].clear(), []),
            (lambda c: c.pop("net"), []),
            (lambda c: c["disks"].append({"id": "more", "path": self.disk()}), []),
            (lambda c: c["disks"][0].update(id="other"), []),
            (lambda c: c["disks"][0].update(path=self.path("missing")), [self.path("missing"), "No such file"]),
            (lambda c: c["disks"][0].update(path=self.dir), [self.dir]),
            (lambda c: c["disks"][0].update(path=self.disk(1)), []),             # smaller than the guest believes
            (lambda c: c["net"][0].update(tap="name-that-is-too-long"), ["name-that-is-too-long"]),
            (lambda c: c.pop("payload"), ["ayload"]),
        ]:
            config = json.loads(self.files["config.json"])
            change(config)
            with self.subTest(words=words, line=change.__code__.co_firstlineno):
                self.refused(dict(self.files, **{"config.json": json.dumps(config).encode()}), words)
                self.is_as_before("a config that does not fit")
        self.still_restores()

    def test_state_mutated(self):
        state = StateJson(self.files["state.json"])
        self.assertEqual(json.loads(state.text()), json.loads(self.files["state.json"]))
        paths = list(leaves(state.tree))
        random.seed(int(os.environ.get("FORKD_TEST_SEED", "1")))
        if not FULL:
            paths = random.sample(paths, min(len(paths), 50))
        for path in paths:
            name = next(k for k in reversed(path) if isinstance(k, str))
            was = parent_of(state.tree, path)[path[-1]]
            # nobody reads what only repeats other values; an absent value has no type
            known = "state" in path and was is not None and not UNREAD & set(path)
            with self.subTest(path=path):
                values = [other_type(was)]
                if isinstance(was, int) and not isinstance(was, bool):
                    values += [-(1 << 40), 1 << 64, 1.5]
                for value in values:
                    mutant = copy.deepcopy(state.tree)
                    parent_of(mutant, path)[path[-1]] = value
                    words = ["state.json"] + ([name] if value != 1 << 64 else ["line"])
                    self.must_or_may(dict(self.files, **{"state.json": state.text(mutant).encode()}), words, known,
                                     f"{path} = {value!r}")
                mutant = copy.deepcopy(state.tree)
                del parent_of(mutant, path)[path[-1]]
                self.must_or_may(dict(self.files, **{"state.json": state.text(mutant).encode()}), ["state.json"], False,
                                 f"{path} missing")
                if isinstance(was, int) and not isinstance(was, bool):          # any legal number: refused or harmless
                    for value in (0, 1, 255, 65535, 0xffffffff, (1 << 64) - 1):
                        mutant = copy.deepcopy(state.tree)
                        parent_of(mutant, path)[path[-1]] = value
                        self.must_or_may(dict(self.files, **{"state.json": state.text(mutant).encode()}), [], False,
                                         f"{path} = {value}")
        self.still_restores()

    def test_state_nodes_missing(self):
        state = StateJson(self.files["state.json"])

        def nodes(node, path=()):
            for key, child in node["snapshots"].items():
                yield (*path, "snapshots", key)
                yield from nodes(child, (*path, "snapshots", key))
        for path in nodes(state.tree):
            with self.subTest(path=path):
                mutant = copy.deepcopy(state.tree)
                del parent_of(mutant, path)[path[-1]]
                self.refused(dict(self.files, **{"state.json": state.text(mutant).encode()}), ["state.json", path[-3] if path[-1].isdigit() else path[-1]], f"{path} missing")
                mutant = copy.deepcopy(state.tree)
                parent_of(mutant, path)[path[-1]] = {"snapshots": {}, "snapshot_data": {"state": {}}}
                self.must_or_may(dict(self.files, **{"state.json": state.text(mutant).encode()}), [], False, f"{path} empty")
        self.still_restores()

    def test_state_wild(self):
        """Running what was restored from wild numbers breaks at most the guest."""
        state = StateJson(self.files["state.json"])
        paths = [p for p in leaves(state.tree) if isinstance(parent_of(state.tree, p)[p[-1]], int)
                 and not isinstance(parent_of(state.tree, p)[p[-1]], bool)]
        random.seed(int(os.environ.get("FORKD_TEST_SEED", "7")))
        for n in range(600 if FULL else 60):
            mutant, what = copy.deepcopy(state.tree), []
            for path in random.sample(paths, random.randrange(1, 4)):
                was = parent_of(mutant, path)[path[-1]]
                value = random.choice([0, 1, was ^ 1 << random.randrange(0, max(1, was.bit_length())), was + 1, 255, 4096, 65535])
                parent_of(mutant, path)[path[-1]] = value
                what.append((path, value))
            answer = self.restore_files(dict(self.files, **{"state.json": state.text(mutant).encode()}), resume=True)
            self.assertIn(answer.status, (204, 400, 500), f"{what}: {answer}")
            if answer.status == 204:
                self.assertIn(self.clone.call("GET", "vm.info").status, (200, 404), what)
                if self.clone.process.poll() is None:
                    self.clone.call("PUT", "vm.delete")
            if self.clone.process.poll() is not None:                           # the guest powered off
                self.assertEqual(self.clone.process.returncode, 0, f"{what}{self.clone.context()}")
                self.clone.release()
                self.clone = self.start(name="clone")

    def test_foreign_cpu(self):
        state = json.loads(self.files["state.json"])
        root = json.loads(state["snapshot_data"]["state"])
        tried = 0
        for leaf, index, register, name in [(1, 0, "ecx", "cid"), (1, 0, "edx", "ia64"), (7, 0, "ebx", "pcommit"),
                                            (7, 0, "ecx", "cpuid_7_0_ecx_bit_15"), (7, 0, "edx", "cpuid_7_0_edx_bit_0"),
                                            (0x80000001, 0, "ecx", "skinit"), (0x80000001, 0, "edx", "mp")]:
            mutant = copy.deepcopy(root)
            for entry in mutant["common_cpuid"]:
                if entry["function"] == leaf and entry["index"] == index:
                    if entry[register] == 0xffffffff:
                        continue
                    entry[register] = 0xffffffff
                    tried += 1
            if mutant == root:
                continue
            state["snapshot_data"]["state"] = json.dumps(mutant)
            with self.subTest(leaf=hex(leaf), register=register):
                self.refused(dict(self.files, **{"state.json": json.dumps(state).encode()}), ["this host lacks", f" {name}"])
        self.assertGreater(tried, 3)
        self.still_restores()

    def test_restore_requests(self):
        url = "file://" + self.good
        for body in [{}, {"source_url": 5}, {"source_url": url, "memory_restore_mode": "Bogus"},
                     {"source_url": url, "memory_restore_mode": "copyonwrite"}, {"source_url": url, "resume": "yes"},
                     {"source_url": url, "net_fds": {}}, {"source_url": url, "net_fds": [{"num_fds": 1}]},
                     {"source_url": url, "net_fds": [{"id": "x", "num_fds": -1}]}]:
            answer = self.clone.call("PUT", "vm.restore", body)
            self.assertEqual((answer.status, answer.json[0]), (400, "Failed to deserialize JSON"), body)
        self.still_restores()

    def test_command_line(self):
        def run(keys):
            return subprocess.run([VMM, "--restore", keys], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
        broken = self.directory(dict(self.files, **{"state.json": b"{}"}))
        for keys, words in [(f"source_url=file://{broken}", ["state.json"]),
                            (f"source_url=file://{self.path('nowhere')}", ["nowhere"]),
                            (f"source_url={self.good}", ["URL"]),
                            (f"source_url=file://{self.good},memory_restore_mode=bogus", ["bogus"]),
                            (f"source_url=file://{self.good},bogus=1", ["bogus"]),
                            ("resume=on", ["source_url"])]:
            done = run(keys)
            self.assertEqual(done.returncode, 1, f"{keys}: {done.stderr}")
            self.assertTrue(CHAIN.search(done.stderr), done.stderr)
            for word in words:
                self.assertIn(word, done.stderr, keys)
        self.still_restores()
