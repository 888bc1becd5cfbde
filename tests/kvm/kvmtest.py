# SPDX-License-Identifier: Apache-2.0
"""What the tests on the host's /dev/kvm share: a VMM process, its API, guests, disks and taps.

Everything that waits has a deadline, and says what it waited for and what the VMM printed last. Standard library only.
"""
import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import termios
import threading
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("BUILD", "build"))
VMM = os.path.abspath(os.environ.get("FORKD_VMM") or os.path.join(BUILD, "forkd-vmm"))
PEERS = os.environ.get("FORKD_PEERS", "")
FULL = os.environ.get("FORKD_TEST_FULL") == "1"
IS_FORKD = "forkd" in os.path.basename(VMM)     # else Cloud Hypervisor: what only we promise is skipped
PATIENCE_S = float(os.environ.get("FORKD_TEST_PATIENCE", "120"))
SANITIZER = re.compile(r"(?:Address|Leak|Thread|Memory)Sanitizer|runtime error:|Assertion .* failed|\*\*\* .* detected")
GUEST_DIR = os.environ.get("FORKD_GUESTS") or os.path.join(ROOT, "build", "tests", "guests")
MIB = 1 << 20

libc = ctypes.CDLL(None, use_errno=True)


def guest(name):
    return os.path.join(GUEST_DIR, name)


def peer(name):
    """The path of a peer's program; skips the test without it."""
    path = os.path.join(PEERS, name)
    if not PEERS:
        raise unittest.SkipTest(f"FORKD_PEERS is not set: not compared with {name}")
    if not os.access(path, os.X_OK):
        raise unittest.SkipTest(f"{path} is not there")
    return os.path.abspath(path)


def modes():
    """The memory modes of the program under test, as the API spells them."""
    return ["Copy", "OnDemand", "CopyOnWrite"] if IS_FORKD else ["Copy", "OnDemand"]


def only_forkd(function):
    """For what only forkd-vmm promises: wording, strictness."""
    return unittest.skipUnless(IS_FORKD, "a promise of forkd-vmm only")(function)


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body) if self.body else None

    def __repr__(self):
        return f"{self.status} {self.body.decode(errors='replace')}"


def request_bytes(method, name, body=None, headers=()):
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} /api/v1/{name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
    if data:
        head += f"Content-Length: {len(data)}\r\n"
    return head.encode() + b"".join(h.encode() + b"\r\n" for h in headers) + b"\r\n" + data


def read_answer(sock, left=b""):
    """One HTTP answer, and what came behind it."""
    while b"\r\n\r\n" not in left:
        piece = sock.recv(65536)
        if not piece:
            raise AssertionError(f"the API closed the connection after {left!r}")
        left += piece
    head, _, left = left.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    length = int(headers.get("Content-Length", 0))
    while len(left) < length:
        piece = sock.recv(65536)
        if not piece:
            raise AssertionError(f"the API closed the connection inside a body: {left!r}")
        left += piece
    return Answer(int(lines[0].split(" ")[1]), headers, left[:length]), left[length:]


def call(path, method, name, body=None, fds=(), timeout_s=None):
    """One request on a connection of its own; descriptors go with its first byte."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout_s or PATIENCE_S)
        s.connect(path)
        data = request_bytes(method, name, body)
        if fds:
            sent = socket.send_fds(s, [data], list(fds))
            data = data[sent:]
        s.sendall(data)
        return read_answer(s)[0]


def wait_for(what, probe, timeout_s=None, context=lambda: "", step_s=0.005):
    """The first true answer of probe()."""
    deadline = time.monotonic() + (timeout_s or PATIENCE_S)
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s or PATIENCE_S} s for {what}{context()}")
        time.sleep(step_s)


def open_files(pid):
    """What the descriptors of a process lead to, by number. One that is closed meanwhile is left out."""
    found = {}
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


class Vmm:
    """One VMM process. Its stdout is the guest's serial port (`--serial tty`), its stderr a file."""

    def __init__(self, test, *args, program=None, name="vmm", api=True, pass_fds=(), terminal=False):
        self.test, self.args = test, [str(a) for a in args]
        self.program = program or VMM
        self.name = test.unique(name)
        self.socket = os.path.join(test.dir, self.name + ".sock") if api else None
        self.stderr_path = os.path.join(test.dir, self.name + ".stderr")
        self.output = b""
        self.changed = threading.Condition()
        argv = [self.program] + (["--api-socket", self.socket] if api else []) + self.args
        self.keyboard, stdin = os.openpty() if terminal else os.pipe()[::-1]
        with open(self.stderr_path, "wb") as stderr:
            self.process = subprocess.Popen(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, pass_fds=pass_fds,
                                            cwd=test.dir)
        os.close(stdin)
        self.pid = self.process.pid
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        test.vmms.append(self)
        if api:
            wait_for("the API socket", self._listens, context=self.context)

    def _read(self):
        fd = self.process.stdout.fileno()
        while True:
            select.select([fd], [], [])
            with self.changed:                                              # in the pipe or in output, see all_output()
                piece = os.read(fd, 65536)
                self.output += piece
                self.changed.notify_all()
            if not piece:
                return

    def _listens(self):
        if self.process.poll() is not None:
            return True
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(self.socket)
            except OSError:
                return False
        return True

    @property
    def stderr(self):
        with open(self.stderr_path, errors="replace") as f:
            return f.read()

    def context(self):
        state = self.process.poll()
        return (f"; {os.path.basename(self.program)} {'runs' if state is None else f'ended with {state}'}"
                f"; serial ends {self.output[-300:]!r}; stderr ends {self.stderr[-1500:]!r}")

    # ---- the guest's output

    def wait_output(self, what, after=0, timeout_s=None):
        """Waits for a regular expression (bytes) behind byte `after`. Returns the match."""
        deadline = time.monotonic() + (timeout_s or PATIENCE_S)
        pattern = re.compile(what)
        with self.changed:
            while True:
                self.check_guest()
                found = pattern.search(self.output, after)
                if found:
                    return found
                ended = self.process.poll() is not None and not self.reader.is_alive()
                if ended or time.monotonic() > deadline:
                    why = "the VMM ended" if ended else f"nothing after {timeout_s or PATIENCE_S} s"
                    raise AssertionError(f"waited for {what!r}: {why}{self.context()}")
                self.changed.wait(0.05)

    def all_output(self):
        """What a paused guest has written: nothing of it is still in the pipe."""
        def in_pipe():
            with self.changed:
                return struct.unpack("i", fcntl.ioctl(self.process.stdout, termios.FIONREAD, bytes(4)))[0]
        wait_for("the pipe to be empty", lambda: in_pipe() == 0, context=self.context)
        return self.output

    def check_guest(self):
        bad = re.search(rb"FAIL[^\n]*\n", self.output)
        if bad:
            raise AssertionError(f"the guest found: {bad.group().decode(errors='replace').strip()}")

    def wait_bytes(self, n, timeout_s=None):
        """At least n more bytes of output."""
        start = len(self.output)
        wait_for(f"{n} more bytes of output", lambda: len(self.output) >= start + n, timeout_s, self.context)

    def rounds(self):
        """Numbers of the rounds that the guest "devices" finished."""
        return [int(n) for n in re.findall(rb"round (\d+) ok", self.output)]

    def wait_rounds(self, n, timeout_s=None):
        """n more rounds of the guest "devices"; returns the number of the first."""
        after = len(self.output)
        first = None
        for _ in range(n):
            found = self.wait_output(rb"round (\d+) ok[^\n]*\n", after, timeout_s)
            first = first if first is not None else int(found.group(1))
            after = found.end()
        return first

    def first_round(self, n):
        """Waits until there are n rounds since the process started; the number of the first tells where the guest went on."""
        wait_for(f"{n} rounds", lambda: self.check_guest() or len(self.rounds()) >= n, context=self.context)
        return self.rounds()[0]

    def type(self, data):
        os.write(self.keyboard, data)

    # ---- the API

    def call(self, method, name, body=None, fds=(), timeout_s=None):
        return call(self.socket, method, name, body, fds, timeout_s)

    def put(self, name, body=None, fds=(), status=204):
        answer = self.call("PUT", name, body, fds)
        if answer.status != status:
            raise AssertionError(f"PUT {name}: expected {status}, got {answer}{self.context()}")
        return answer.json

    def get(self, name, status=200):
        answer = self.call("GET", name)
        if answer.status != status:
            raise AssertionError(f"GET {name}: expected {status}, got {answer}")
        return answer.json

    def state(self):
        return self.get("vm.info")["state"]

    def snapshot(self, directory=None, resume=False):
        """Pauses and takes a snapshot; returns its directory."""
        directory = directory or self.test.new_dir("snapshot")
        self.put("vm.pause")
        self.put("vm.snapshot", {"destination_url": "file://" + directory})
        if resume:
            self.put("vm.resume")
        return directory

    def snapshot_when_filled(self):
        """The same of a restored VM: while memory is still brought in on demand, a snapshot is refused."""
        directory = self.test.new_dir("snapshot")
        self.put("vm.pause")
        wait_for("a snapshot", lambda: self.call("PUT", "vm.snapshot", {"destination_url": "file://" + directory}).status == 204,
                 context=self.context)
        return directory

    # ---- the process

    def fds(self):
        """What its descriptors are, but for the one ring that a thread keeps (common/uring.c)."""
        names = list(open_files(self.pid).values())
        if "anon_inode:[io_uring]" in names:
            names.remove("anon_inode:[io_uring]")
        return names

    def n_fds(self):
        return len(self.fds())

    def cpu_ticks(self):
        with open(f"/proc/{self.pid}/stat") as f:
            fields = f.read().rsplit(") ", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def wait_exit(self, timeout_s=None):
        """The exit status."""
        def ended():
            self.check_guest()
            return self.process.poll() is not None
        wait_for("the VMM to end", ended, timeout_s, self.context)
        self.reader.join(5)
        return self.process.returncode

    def stop(self):
        """SIGTERM: a clean end, exit status 0, no socket left."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.wait_exit()
        if status != 0:
            raise AssertionError(f"ended by SIGTERM, expected exit status 0, got {status}{self.context()}")
        if self.socket and os.path.exists(self.socket):
            raise AssertionError("the API socket is still there after a clean end")
        self.release()

    def kill(self):
        """No questions asked; for speed, when how it ends is not the point."""
        self.process.kill()
        self.process.wait()
        self.reader.join(5)
        self.release()

    def release(self):
        self.process.stdout.close()
        if self.keyboard >= 0:
            os.close(self.keyboard)
            self.keyboard = -1
        if self in self.test.vmms:
            self.test.vmms.remove(self)
        self.test.check_stderr(self)


class Tap:
    """A tap in this process's own network namespace, `queues` descriptors of it, and the echo program on it."""
    count = 0

    def __init__(self, test, queues=1, persistent=False, echo=True):
        Tap.count += 1
        self.name, self.fds, self.echo = f"t{Tap.count}", [], None
        flags = 0x0002 | 0x1000 | 0x4000 | (0x0100 if queues > 1 else 0)    # TAP, NO_PI, VNET_HDR, MULTI_QUEUE
        for _ in range(queues):
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", self.name.encode(), flags))      # TUNSETIFF
            self.fds.append(fd)
        if persistent:
            fcntl.ioctl(self.fds[0], 0x400454cb, 1)                         # TUNSETPERSIST
        test.addCleanup(self.close)
        self.up()
        if persistent:
            self.close_fds()
        if echo:
            self.start_echo()

    def start_echo(self):
        self.echo = subprocess.Popen([os.path.join(ROOT, "build", "tests", "kvm", "netecho"), self.name],
                                     stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self.echo.stdout.readline() != b"ready\n":
            raise AssertionError(f"netecho does not start on {self.name}")

    def up(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, 0x8914, struct.pack("16sH22x", self.name.encode(), 1))               # SIOCSIFFLAGS, IFF_UP

    def mac(self):
        return mac_of(self.name)

    def set_mac(self, mac):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            fcntl.ioctl(s, 0x8924, struct.pack("16sH6s16x", self.name.encode(), 1, bytes.fromhex(mac.replace(":", ""))))   # SIOCSIFHWADDR

    def set_ip(self, ip):
        set_ip(self.name, ip)

    def delete(self):
        """The interface goes, whoever has it open: `ip link delete`."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
            s.send(struct.pack("=IHHII4xi8x", 32, 17, 5, 0, 0, socket.if_nametoindex(self.name)))   # RTM_DELLINK, with an answer
            error = struct.unpack_from("=i", s.recv(4096), 16)[0]
        if error:
            raise OSError(-error, f"delete {self.name}")

    def close_fds(self):
        while self.fds:
            os.close(self.fds.pop())

    def close(self):
        self.close_fds()
        if self.echo:
            self.echo.kill()
            self.echo.wait()
            self.echo.stdout.close()
            self.echo = None
        with contextlib.suppress(OSError):          # gone with its last descriptor, when nobody else has it
            self.delete()


def mac_of(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return fcntl.ioctl(s, 0x8927, struct.pack("16s24x", name.encode()))[18:24].hex(":")     # SIOCGIFHWADDR


def mtu_of(name):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return struct.unpack_from("i", fcntl.ioctl(s, 0x8921, struct.pack("16s24x", name.encode())), 16)[0]     # SIOCGIFMTU


def set_ip(name, ip):
    """An IPv4 address, its network of 24 bits."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        for request, address in ((0x8916, ip), (0x891c, "255.255.255.0")):              # SIOCSIFADDR, SIOCSIFNETMASK
            fcntl.ioctl(s, request, struct.pack("16sHH4s16x", name.encode(), socket.AF_INET, 0, socket.inet_aton(address)))


class KvmTest(unittest.TestCase):
    """Each test has a folder of its own; what it leaves behind (processes, sockets, partial files) fails it."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="forkd-kvm.")
        self.vmms, self.names = [], {}
        self.addCleanup(self._leave)

    def unique(self, name):
        self.names[name] = self.names.get(name, 0) + 1
        return f"{name}{self.names[name]}"

    def check_stderr(self, vmm):
        found = SANITIZER.search(vmm.stderr)
        if found:
            raise AssertionError(f"the VMM reports: {vmm.stderr[found.start():found.start() + 3000]}")

    def _leave(self):
        errors = []
        for vmm in list(self.vmms):
            if vmm.process.poll() is None:
                vmm.process.kill()
            vmm.process.wait()
            vmm.reader.join(5)
            try:
                vmm.release()
            except AssertionError as e:
                errors.append(str(e))
        left = strays()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        shutil.rmtree(self.dir, ignore_errors=True)
        if left:
            errors.append(f"processes were left behind: {left}")
        if errors:
            raise AssertionError("; ".join(errors))

    # ---- things to give to a VMM

    def path(self, name):
        return os.path.join(self.dir, name)

    def new_dir(self, name):
        path = self.path(self.unique(name))
        os.mkdir(path)
        return path

    def disk(self, mib=8, name="disk"):
        path = self.path(self.unique(name) + ".img")
        with open(path, "wb") as f:
            f.truncate(mib * MIB)
        return path

    def start(self, *args, **options):
        return Vmm(self, *args, **options)

    def boot(self, kernel, cmdline="", cpus=1, memory="64M", extra=(), **options):
        return Vmm(self, "--kernel", guest(kernel), "--cmdline", cmdline, "--cpus", f"boot={cpus}", "--memory",
                   f"size={memory}", *([] if "--serial" in extra else ["--serial", "tty"]),
                   *([] if "--console" in extra else ["--console", "off"]), *extra, **options)

    def restore(self, directory, mode=None, resume=True, by="api", prefault=False, name="clone", net_fds=None, fds=(),
                clock=None, **options):
        """A VMM that restored `directory`, by its command line or by its API."""
        if by == "cmdline":
            keys = f"source_url=file://{directory},resume={'on' if resume else 'off'}"
            keys += f",memory_restore_mode={mode.lower()}" if mode else ""
            keys += ",prefault=on" if prefault else ""
            keys += f",clock={clock.lower()}" if clock else ""
            return Vmm(self, "--restore", keys, name=name, **options)
        vmm = Vmm(self, name=name, **options)
        body = {"source_url": "file://" + directory, "resume": resume, "prefault": prefault}
        if mode:
            body["memory_restore_mode"] = mode
        if net_fds is not None:
            body["net_fds"] = net_fds
        if clock:
            body["clock"] = clock
        vmm.put("vm.restore", body, fds)
        return vmm

    def copy_snapshot(self, directory, edit=None, memory=True):
        """A snapshot directory with the same memory (hard link) and an edited config."""
        copy = self.new_dir("copy")
        with open(os.path.join(directory, "config.json")) as f:
            config = json.load(f)
        if edit:
            edit(config)
        write(os.path.join(copy, "config.json"), json.dumps(config, separators=(",", ":")))
        os.link(os.path.join(directory, "state.json"), os.path.join(copy, "state.json"))
        if memory:
            os.link(os.path.join(directory, "memory-ranges"), os.path.join(copy, "memory-ranges"))
        return copy

    def disk_option(self, *more, mib=8):
        return ",".join([f"path={self.disk(mib)}", "image_type=raw", *more])

    def clone_disk(self, source):
        copy = self.path(self.unique("disk") + ".img")
        subprocess.run(["cp", "--sparse=always", source, copy], check=True)
        return copy


def give_to(uid, directory):
    """It, and the files in it."""
    for path in (directory, *(os.path.join(directory, name) for name in os.listdir(directory))):
        os.chown(path, uid, uid)


def strays():
    """Our children that still run, reparented ones too (we are their subreaper). Ended ones are only reaped: a template host that
    ends leaves those to its parent."""
    left = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{entry}/stat") as f:
                fields = f.read().rsplit(") ", 1)[1].split()
            if int(fields[1]) == os.getpid() and os.waitpid(int(entry), os.WNOHANG)[0] == 0:
                left.append(int(entry))
    return left


def write(path, data):
    with open(path, "wb" if isinstance(data, bytes) else "w") as f:
        f.write(data)


def read(path):
    with open(path, "rb") as f:
        return f.read()


def edit_state(directory, change):
    """change(root, vcpus) gets the states of the machine and of the vCPUs of a snapshot as objects. The file may be a link: it is replaced."""
    path = os.path.join(directory, "state.json")
    tree = json.loads(read(path))
    vcpus = tree["snapshots"]["cpu-manager"]["snapshots"]
    root = json.loads(tree["snapshot_data"]["state"])
    states = {k: json.loads(v["snapshot_data"]["state"]) for k, v in vcpus.items()}
    change(root, {int(k): v["Kvm"] for k, v in states.items()})
    tree["snapshot_data"]["state"] = json.dumps(root)
    for k, v in vcpus.items():
        v["snapshot_data"]["state"] = json.dumps(states[k])
    os.unlink(path)
    write(path, json.dumps(tree).encode())


def isolate():
    """Own network and mount namespaces for this process and all it starts; the host's are never touched."""
    newns, newuser, newnet = 0x00020000, 0x10000000, 0x40000000
    uid, gid = os.getuid(), os.getgid()
    if uid != 0:
        check_libc(libc.unshare(newuser | newns | newnet), "unshare user, mount and network namespaces")
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"0 {uid} 1")
        write("/proc/self/gid_map", f"0 {gid} 1")
    else:
        check_libc(libc.unshare(newns | newnet), "unshare mount and network namespaces")
    check_libc(libc.mount(None, b"/", None, 0x4000 | 0x40000, None), "make mounts private")     # MS_REC | MS_PRIVATE
    check_libc(libc.prctl(36, 1, 0, 0, 0), "become a subreaper")                                # PR_SET_CHILD_SUBREAPER


def check_libc(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


@contextlib.contextmanager
def tmpfs(path, size):
    check_libc(libc.mount(b"tmpfs", path.encode(), b"tmpfs", 0, f"size={size}".encode()), f"mount a tmpfs on {path}")
    try:
        yield path
    finally:
        check_libc(libc.umount2(path.encode(), 2), f"unmount {path}")
