# SPDX-License-Identifier: Apache-2.0
"""What the tests in the lab share: a guest of the VMM under test, its network, its API, and the list of tests.

Everything that waits has a deadline, and says what it waited for and the last lines that the guest and the VMM printed.
Nothing here asserts how long something takes.
"""
import array
import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import traceback

TMP = os.environ["LAB_TMP"]
KEEP = os.environ["LAB_KEEP"]
KERNEL = os.environ["LAB_KERNEL"]
VMLINUX = os.environ["LAB_VMLINUX"]
INITRD = os.environ["LAB_INITRD"]
FULL_KERNEL = os.environ["LAB_FULL_KERNEL"]
FULL_INITRD = os.environ["LAB_FULL_INITRD"]
VMM = os.environ["LAB_VMM"]
RESTORE_VMM = os.environ["LAB_RESTORE_VMM"]
BUSYBOX = os.environ["LAB_BUSYBOX"]
DIR = os.environ["LAB_DIR"]

GATEWAY, GUEST = "192.168.77.1", "192.168.77.2"
PORT = 7                        # where guests answer, over TCP and vsock
MAC = "52:54:00:77:00:02"
DRIVERS = {"virtio_net", "virtio_blk", "virtio_console", "virtio_rng", "virtio_balloon", "vmw_vsock_virtio_transport"}
PATIENCE_S = 150                # for whatever takes seconds when nothing else runs
# Says that the processor is slow or was busy elsewhere, never that the guest was harmed.
with open("/proc/cpuinfo") as cpuinfo:
    EMULATED = "QEMU TCG" in cpuinfo.read()
SLOW = re.compile(r"hrtimer: interrupt took|clocksource: Long readout interval") if EMULATED else re.compile("(?!)")
FATAL = re.compile(r"Kernel panic|Oops:|BUG: unable|general protection fault|lab-guest: trouble")

libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A test's verdict: its text is the reason."""


class Skipped(Exception):
    """The program under test cannot do this at all, and says so."""


def check(condition, reason):
    if not condition:
        raise Failed(reason)


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S, **options)
    check(done.returncode == 0, f"{' '.join(command)}: status {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def wait_for(what, probe, timeout_s=PATIENCE_S, context=lambda: ""):
    """Returns the first true answer of probe()."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failed(f"waited {timeout_s} s for {what}{context()}")
        time.sleep(0.1)


def quartiles(values):
    values = sorted(values)
    return [values[len(values) * i // 4] for i in (1, 2, 3)]


class Net:
    """A network namespace with one tap: the guest's gateway lives in it. So any number of guests have the same address at once."""

    def __init__(self, name):
        self.name = name
        self.tap_fd = -1
        self.holder = subprocess.Popen([BUSYBOX, "unshare", "-n", BUSYBOX, "sleep", "100000"])
        try:
            path = f"/proc/{self.holder.pid}/ns/net"
            ours = os.stat("/proc/self/ns/net").st_ino
            wait_for(f"network namespace of {name}", lambda: os.stat(path).st_ino != ours)
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            self.holder.kill()
            self.holder.wait()
            raise

    @contextlib.contextmanager
    def inside(self):
        """This thread, and the processes and sockets that it makes, are in the namespace."""
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        check(libc.setns(self.fd, 0x40000000) == 0, f"setns {self.name}: {os.strerror(ctypes.get_errno())}")
        try:
            yield
        finally:
            if libc.setns(back, 0x40000000) != 0:
                os._exit(99)        # in the wrong namespace no later test means anything
            os.close(back)

    def make_tap(self, name, address, n_queues):
        """Returns the descriptors, one for each queue."""
        fds = []
        flags = 0x0002 | 0x1000 | 0x4000 | (0x0100 if n_queues > 1 else 0)  # IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE
        with self.inside():
            for _ in range(n_queues):
                fds.append(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC))
                fcntl.ioctl(fds[-1], 0x400454ca, struct.pack("16sH22x", name.encode(), flags))      # TUNSETIFF
            run(BUSYBOX, "ip", "link", "set", "lo", "up")
            run(BUSYBOX, "ip", "addr", "add", address + "/24", "dev", name)
            run(BUSYBOX, "ip", "link", "set", name, "up")
        return fds

    def tap(self, persistent=False):
        """Makes tap0 with the gateway's address. Returns its descriptor, or -1 for one that a program is to open by name."""
        fd, = self.make_tap("tap0", GATEWAY, 1)
        if persistent:
            fcntl.ioctl(fd, 0x400454cb, 1)              # TUNSETPERSIST
            os.close(fd)
        else:
            self.tap_fd = fd
        return self.tap_fd

    def close_tap(self):
        if self.tap_fd >= 0:
            os.close(self.tap_fd)
            self.tap_fd = -1

    def close(self):
        self.close_tap()
        os.close(self.fd)
        self.holder.kill()
        self.holder.wait()


class ApiError(Failed):
    pass


def api(path, method, name, body=None, fds=(), timeout_s=PATIENCE_S):
    """One request of the per-VM API. Returns the decoded answer, or None."""
    return request(path, method, "/api/v1/" + name, body, fds, timeout_s)


def request(path, method, name, body=None, fds=(), timeout_s=PATIENCE_S):
    """HTTP over the unix socket `path`, ours alone; descriptors go with its first byte. Returns the decoded answer, or None."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(timeout_s)
        try:
            s.connect(path)
            data = b"" if body is None else json.dumps(body).encode()
            head = f"{method} {name} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
            if data:
                head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            request = head.encode() + b"\r\n" + data
            sent = s.sendmsg([request], rights)
            if sent < len(request):         # sending nothing fails when the other side has answered and gone
                s.sendall(request[sent:])
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += receive(s, name)
            head, _, rest = answer.partition(b"\r\n\r\n")
            length = re.search(rb"(?im)^content-length: *(\d+)", head)
            while length and len(rest) < int(length.group(1)):
                rest += receive(s, name)
        except OSError as e:
            raise ApiError(f"{method} {name}: {e}") from None
    status = int(head.split()[1])
    check_api(status, name, rest)
    return json.loads(rest) if rest else None


def receive(s, name):
    piece = s.recv(65536)
    if not piece:
        raise ApiError(f"{name}: connection closed before the answer was complete")
    return piece


def check_api(status, name, text):
    if status not in (200, 201, 204):
        raise ApiError(f"{name}: status {status}: {text.decode(errors='replace')}")


def vsock_connect(path, port, timeout_s):
    """A stream to the guest's port, through the host's end of its vsock device."""
    s = socket.socket(socket.AF_UNIX)
    try:
        s.settimeout(timeout_s)
        s.connect(path)
        s.sendall(f"CONNECT {port}\n".encode())
        line = b""
        while not line.endswith(b"\n"):
            piece = s.recv(1)           # what follows the line is the guest's
            if not piece:
                raise OSError(f"{path}: no answer to CONNECT {port}")
            line += piece
        if not line.startswith(b"OK "):
            raise OSError(f"{path}: answer {line!r} to CONNECT {port}")
        return s
    except BaseException:
        s.close()
        raise


def ask_stream(s, question):
    """One question to guest-ask, and all that it says."""
    with s:
        s.sendall(question.encode() + b"\n")
        answer = b""
        while True:
            piece = s.recv(65536)
            if not piece:
                return answer.decode(errors="replace")
            answer += piece


def tail(path, lines=12):
    try:
        with open(path, errors="replace") as f:
            return "".join("\n    | " + line.rstrip() for line in f.read().splitlines()[-lines:])
    except FileNotFoundError:
        return "\n    | (no file)"


def plain(message):
    """A kernel message without time, level and numbers, so that two runs can be compared."""
    message = re.sub(r"^<\d+>\[ *[\d.]+\] *", "", message)
    return re.sub(r"\b(0x)?[0-9a-f]*\d[0-9a-f]*\b", "N", message)


class Vm:
    """One VMM process and its guest. Files are in a folder of its own: serial, hvc0, out (what the VMM prints), api, vsock,
    disk, kernel-log (as it was last checked). A failed test leaves the readable ones in LAB_KEEP."""

    mount = "/mnt"              # where the guest has the disk
    e2fsck_suffix = ""
    always_vsock = False        # questions go over vsock: the guest has no network
    clock_ahead = 0, 0          # clock_error() before a snapshot: see check_boot_clock()
    seen = set()                # every kernel message, made plain, of guests that were never snapshotted

    def __init__(self, name, net=None):
        self.name = name
        self.net = net or Net(name)
        self.dir = os.path.join(TMP, name)
        os.mkdir(self.dir)
        self.process = None
        self.serial, self.hvc0, self.out, self.api_path, self.vsock, self.disk, self.kernel_log = (
            os.path.join(self.dir, f) for f in ("serial", "hvc0", "out", "api", "vsock", "disk", "kernel-log"))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if exception[0] is not None and exception[0] is not Skipped:
            keep = os.path.join(KEEP, self.name)
            os.makedirs(keep, exist_ok=True)
            for f in (self.serial, self.hvc0, self.out, self.kernel_log):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copy(f, keep)
        self.kill()
        self.net.close()
        shutil.rmtree(self.dir)

    # ---- start and end

    def make_disk(self):
        run("mke2fs", "-q", "-F", "-t", "ext4", "-N", "8192", self.disk, "80M")

    def start(self, program, *arguments, fds=(), inside=False):
        with open(self.out, "ab") as out, (self.net.inside() if inside else contextlib.nullcontext()):
            self.process = subprocess.Popen([program, "-v", "--api-socket", self.api_path, *arguments], stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=out, pass_fds=fds)
        self.wait("the API socket", lambda: os.path.exists(self.api_path), 30)

    def boot(self, cpus=1, test="boot", kernel=KERNEL, program=VMM, serial=None, tap_by_name=True, memory="256M",
             initrd=INITRD, more=()):
        self.make_disk()
        tap_fd = self.net.tap(persistent=tap_by_name)
        tap = "tap=tap0" if tap_by_name else f"fd=[{tap_fd}]"
        self.start(program, "--cpus", f"boot={cpus}", "--memory", f"size={memory}", "--kernel", kernel, "--initramfs", initrd,
                   "--cmdline", f"console=ttyS0 quiet panic=-1 forkd.test={test} forkd.ip={GUEST}/24 forkd.gw={GATEWAY}",
                   "--disk", f"id=disk0,path={self.disk},image_type=raw", "--net", f"id=net1,{tap},mac={MAC}",
                   "--console", f"file={self.hvc0}", "--serial", serial or f"file={self.serial}",
                   "--vsock", f"cid=3,socket={self.vsock}", "--balloon", "size=0", *more,
                   fds=() if tap_by_name else (tap_fd,), inside=tap_by_name)
        self.net.close_tap()

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()

    def wait_exit(self):
        """Exit status of the VMM, which ends by itself."""
        self.wait("the end of the VMM", lambda: self.process.poll() is not None, alive=False)
        return self.process.returncode

    # ---- waiting

    def context(self):
        return (f"\n  {self.name}: last lines of the serial line:{tail(self.serial)}"
                f"\n  {self.name}: last lines of the VMM:{tail(self.out)}")

    def wait(self, what, probe, timeout_s=PATIENCE_S, alive=True):
        def watched():
            answer = probe()
            if not answer and alive and self.process.poll() is not None:
                raise Failed(f"{self.name}: the VMM ended with status {self.process.returncode}, awaiting {what}{self.context()}")
            return answer
        return wait_for(f"{what} of {self.name}", watched, timeout_s, self.context)

    def printed(self):
        try:
            with open(self.serial, errors="replace") as f:
                return f.read()
        except FileNotFoundError:
            return ""

    def wait_serial(self, pattern, count=1, timeout_s=PATIENCE_S):
        """The count-th match of pattern on the serial line."""
        def probe():
            text = self.printed()
            fatal = FATAL.search(text)
            check(not fatal, f"{self.name}: '{fatal and fatal.group()}' on the serial line{self.context() if fatal else ''}")
            found = list(re.finditer(pattern, text))
            return found[count - 1] if len(found) >= count else None
        return self.wait(f"'{pattern}' (number {count}) on the serial line", probe, timeout_s)

    # ---- talking

    def api(self, method, name, body=None, fds=()):
        try:
            return api(self.api_path, method, name, body, fds)
        except ApiError as e:
            raise ApiError(f"{self.name}: {e}{self.context()}") from None

    def ask_once(self, question, timeout_s, vsock=False):
        if vsock or self.always_vsock:
            return ask_stream(vsock_connect(self.vsock, PORT, timeout_s), question)
        with self.net.inside():
            s = socket.socket(socket.AF_INET)
        with s:
            s.settimeout(timeout_s)
            s.connect((GUEST, PORT))
            return ask_stream(s, question)

    def ask(self, question, timeout_s=PATIENCE_S, may_fail=False, vsock=False):
        """What the guest's shell prints. A broken connection is a failure: it is never asked twice."""
        try:
            answer = self.ask_once(question, timeout_s, vsock)
        except OSError as e:
            raise Failed(f"{self.name}: question '{question}': {e}{self.context()}") from None
        text, _, status = answer.rstrip("\n").rpartition("rc=")
        check(status.isdigit(), f"{self.name}: question '{question}': answer without an end: {answer!r}{self.context()}")
        check(may_fail or status == "0", f"{self.name}: question '{question}': status {status}: {text.strip()}")
        return text.strip()

    def tell(self, order):
        """An order after which the guest does not answer any more."""
        with contextlib.suppress(OSError):
            self.ask_once(order, 20)

    # ---- what the tests look at

    def wait_ready(self, count=1):
        self.wait_serial(r"lab-guest: ready", count)

    def ping(self):
        with self.net.inside():
            run(BUSYBOX, "ping", "-A", "-c", "3", "-W", "20", GUEST)
        self.ask(f"ping -A -c 3 -W 20 {GATEWAY}")

    def pings(self):
        answered, lost = self.ask("pings").split()
        return int(answered), int(lost)

    def check_devices(self, cpus):
        found = set(re.findall(r"lab-guest: device \S+ (\S+)", self.printed()))
        check(DRIVERS <= found, f"{self.name}: no driver bound: {', '.join(sorted(DRIVERS - found))}{self.context()}")
        check(self.ask("nproc") == str(cpus), f"{self.name}: {self.ask('nproc')} processors, not {cpus}")
        check(f" {self.mount} ext4 rw" in self.ask("cat /proc/mounts"), f"{self.name}: disk is not mounted")
        self.ask("echo through hvc0 > /dev/hvc0")
        self.wait("a line through hvc0", lambda: "through hvc0" in open(self.hvc0, errors="replace").read(), 60)
        noise = [self.ask("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | md5sum") for _ in range(2)]
        check(noise[0] != noise[1], f"{self.name}: /dev/hwrng brought the same bytes twice")

    def check_vsock(self):
        """Several streams, one of them long: the answer is the guest's."""
        check(self.ask("ls /bin/guest_vsock", may_fail=True) == "/bin/guest_vsock", "guests have no guest_vsock: run `make helpers` first")
        boot = self.ask("cat /proc/sys/kernel/random/boot_id")
        for _ in range(3):
            check(self.ask("cat /proc/sys/kernel/random/boot_id", vsock=True) == boot, f"{self.name}: another guest answers over vsock")
        check(self.ask("head -c 300000 /dev/zero | tr '\\0' x", vsock=True) == "x" * 300000, f"{self.name}: vsock lost data")

    def ram_kib(self):
        return int(self.ask("awk '/^MemTotal/ { print $2 }' /proc/meminfo"))

    def check_balloon(self):
        """The guest gives up 32 MiB, and gets them back."""
        ram, size = self.ram_kib(), self.api("GET", "vm.info")["memory_actual_size"]
        for target, least, most in ((32 << 20, ram - 32768 - 512, ram - 32768 + 512), (0, ram, ram)):
            self.api("PUT", "vm.resize", {"desired_balloon": target})
            self.wait(f"a balloon of {target} bytes", lambda least=least, most=most: least <= self.ram_kib() <= most)
            self.wait(f"vm.info to tell of {target} bytes",
                      lambda target=target: self.api("GET", "vm.info")["memory_actual_size"] == size - target)

    def check_files(self):
        """Files go on, and every confirmed one is on the disk."""
        files = int(self.ask("files"))
        self.wait(f"files beyond {files + 5}", lambda: int(self.ask("files")) > files + 5)
        self.ask("verify")

    def check_work(self):
        """Files and pings go on, and every confirmed file is on the disk."""
        answered, lost = self.pings()
        self.check_files()
        self.wait(f"answered pings beyond {answered + 5}", lambda: self.pings()[0] > answered + 5)
        check(self.pings()[1] <= lost + 1, f"{self.name}: pings are lost: {lost} at first, then {self.pings()[1]}")

    def clock_error(self):
        """Seconds by which the guest's clock is ahead: the least and the most. Its answer has whole seconds."""
        before = time.time()
        now = int(self.ask("date +%s"))
        return now - time.time(), now + 1 - before

    def check_clock(self):
        least, most = self.clock_error()
        low, high = self.clock_ahead
        check(least <= high + 2 and most >= low - 2,
              f"{self.name}: the clock is ahead by {least:.1f} to {most:.1f} s, not by {low:.1f} to {high:.1f}")

    def check_boot_clock(self):
        """Until Linux switches to kvm-clock it counts timer ticks, and on an emulated processor some seconds' worth are lost: set right."""
        least, most = self.clock_error()
        check(most > (-30 if EMULATED else -3) and least < 2, f"{self.name}: the boot clock is ahead by {least:.1f} to {most:.1f} s")
        self.ask(f"date -s @{time.time():.0f}")
        self.check_clock()

    def messages(self):
        return self.ask("dmesg -r").splitlines()

    def learn_messages(self):
        """This guest was never snapshotted: what its kernel prints is normal here."""
        Vm.seen.update(map(plain, self.messages()))

    def check_messages(self):
        messages = self.messages()
        with open(self.kernel_log, "w") as f:
            f.write("\n".join(messages))
        new = [m for m in messages if plain(m) not in Vm.seen and not SLOW.search(m)]
        check(not new, f"{self.name}: the kernel prints what it does not print without a snapshot:" + "".join("\n    | " + m for m in new[:20]))

    def power_off(self):
        """Ends the guest in an orderly way; the VMM's status must be 0, and the file system clean."""
        self.ask("killall guest-work; sync")
        if self.mount == "/":
            self.ask("for n in $(seq 60); do mount -o remount,ro / 2>/dev/null && break; sleep 1; done; grep ' / ext4 ro' /proc/mounts")
        else:
            self.ask(f"umount {self.mount} 2>/dev/null || mount -o remount,ro {self.mount}", may_fail=True)
        self.tell("poweroff -f")
        status = self.wait_exit()
        check(status == 0, f"{self.name}: the VMM ended with status {status} after the guest's power-off{self.context()}")
        # An unmounted disk has nothing to repair: any status but 0 is damage.
        done = subprocess.run(["e2fsck", "-fy", self.disk + self.e2fsck_suffix], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=PATIENCE_S)
        check(done.returncode == 0, f"{self.name}: e2fsck has to repair the disk (status {done.returncode}): {done.stdout.strip()}")


# ---- the list of tests

TESTS = []      # (name, tiers, function)


def test(name, *tiers):
    """Decorator: the function is a test of these tiers ("quick", "full", "bench", "peers")."""
    def add(function):
        TESTS.append((name, tiers, function))
        return function
    return add


@contextlib.contextmanager
def time_limit(limit_s):
    """Whatever is inside ends after limit_s with Failed, which says where it was."""
    def end(_, frame):
        raise Failed(f"not finished after {limit_s} s, at:\n{''.join(traceback.format_stack(frame)[-6:])}")
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_tests(wanted):
    """wanted: a tier, or names of tests. Prints a line for each, and the sum. Returns the exit status."""
    names = {name for name, _, _ in TESTS}
    unknown = [w for w in wanted if w not in names | {"quick", "full", "bench", "peers"}]
    if unknown:
        print(f"no test is called {', '.join(unknown)}; there are: {', '.join(sorted(names))}")
        return 2
    passed, failed, skipped = 0, 0, 0
    for name, tiers, function in TESTS:
        if name not in wanted and not set(tiers) & set(wanted):
            continue
        start = time.monotonic()
        try:
            with time_limit(600 if "quick" in tiers else 1500):
                function()
        except Skipped as e:
            skipped += 1
            print(f"SKIPPED {name}: {e}", flush=True)
            continue
        except Failed as e:
            failed += 1
            print(f"not ok {name}: {e}", flush=True)
        except Exception:
            failed += 1
            print(f"not ok {name}: the test itself broke:\n{traceback.format_exc()}", flush=True)
        else:
            passed += 1
            print(f"ok {name}", flush=True)
        print(f"  # {name} took {time.monotonic() - start:.0f} s", flush=True)
    if skipped:
        print(f"{skipped} SKIPPED")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0
