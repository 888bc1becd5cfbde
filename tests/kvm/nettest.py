# SPDX-License-Identifier: Apache-2.0
"""What the tests of clones' networks share: an internet in a namespace of its own, and a Linux stack that plays a guest.

                eth0 (tapguest)  fkguest  fkhost   fn…      up0            inet0, lo
    guest 172.16.0.2 ---------- slot's namespace ---- host 198.51.100.1 ---- 198.51.100.2, PUBLIC, …
"""
import contextlib
import ctypes
import os
import socket
import struct
import subprocess
import threading

from forkdtest import Daemon, ForkdTest
from kvmtest import ROOT, libc, read, tmpfs, wait_for
from runner import children

HOST, HOST6 = "198.51.100.1", "2001:db8:1::1"
# Addresses for documentation are private to dnsmasq; of these nothing leaves this machine.
PUBLIC, OTHER, PRIVATE, METADATA = "20.20.20.7", "20.20.20.8", "10.9.9.9", "169.254.169.254"
PUBLIC6, PRIVATE6 = "2a00:2::7", "fd00:9::9"
RESOLVER, RESOLVER6 = "172.16.0.1", "fd00:666b::1"
TIMEOUT_S = 10      # of what must come
SILENCE_S = 0.4     # of what must not: a packet on this machine takes some microseconds
NEWNET = 0x40000000


def sh(command, **more):
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)
    if done.returncode:
        raise AssertionError(f"{command}: status {done.returncode}: {done.stdout}")
    return done.stdout


class Namespace:
    """A network namespace; call(f) runs f in it, in a thread that ends. Sockets that f makes stay there."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def call(self, function, *args):
        out = []

        def run():
            try:
                if libc.setns(self.fd, NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
                out.append((function(*args), None))
            except Exception as e:      # pylint: disable=broad-except
                out.append((None, e))
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        value, error = out[0]
        if error:
            raise error
        return value

    def sh(self, command):
        return self.call(sh, command)

    def close(self):
        os.close(self.fd)


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Server(threading.Thread):
    """Answers every TCP connection with "hello PEER\\n" and then with what comes, and every UDP packet with itself."""

    def __init__(self, namespace, address, port, kind=socket.SOCK_STREAM, answer=None):
        super().__init__(daemon=True)
        self.kind, self.answer, self.peers = kind, answer or (lambda data: data), []

        def listen():
            s = socket.socket(family(address), kind)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if s.family == socket.AF_INET6:
                s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            s.bind((address, port))
            if kind == socket.SOCK_STREAM:
                s.listen(64)
            return s
        self.socket = namespace.call(listen) if namespace else listen()
        self.port = self.socket.getsockname()[1]
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                if self.kind == socket.SOCK_DGRAM:
                    data, peer = self.socket.recvfrom(65536)
                    if not peer:            # shut down
                        return
                    self.peers.append(peer[0])
                    if (answer := self.answer(data)) is not None:
                        self.socket.sendto(answer, peer)
                else:
                    connection, peer = self.socket.accept()
                    self.peers.append(peer[0])
                    threading.Thread(target=self.serve, args=(connection, peer), daemon=True).start()

    def serve(self, connection, peer):
        with connection, contextlib.suppress(OSError):
            connection.sendall(f"hello {peer[0]}\n".encode())
            while data := connection.recv(65536):
                connection.sendall(data)

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class DnsServer(Server):
    """Over TCP; over UDP a Server with an answer is enough."""

    def __init__(self, namespace, address, domains):
        self.domains = domains
        super().__init__(namespace, address, 53)

    def serve(self, connection, peer):
        with connection, contextlib.suppress(OSError):
            query = connection.recv(65536)[2:]
            answer = dns_answer(query, self.domains)
            connection.sendall(struct.pack(">H", len(answer)) + answer)


# ---- a client, in whatever namespace its thread is

def tcp(address, port, timeout_s=TIMEOUT_S):
    """The server's first line, or None: nothing came back."""
    with socket.socket(family(address), socket.SOCK_STREAM) as s:
        s.settimeout(timeout_s)
        try:
            s.connect((address, port))
            return s.makefile().readline().strip()
        except OSError:
            return None


def udp(address, port, data=b"x", timeout_s=TIMEOUT_S, source=None):
    with socket.socket(family(address), socket.SOCK_DGRAM) as s:
        s.settimeout(timeout_s)
        try:
            if source:
                s.setsockopt(socket.SOL_IP, 15, 1)     # IP_FREEBIND
                s.bind((source, 0))
            s.sendto(data, (address, port))
            return s.recv(65536)
        except OSError:
            return None


# ---- DNS, as much of it as is needed

def dns_query(name, kind):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def dns_answer(query, names):
    """What a server says that knows `names`: {name: [addresses]}."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    kind, = struct.unpack(">H", query[at + 1:at + 3])
    known = names.get(".".join(labels))
    records = [a for a in known or [] if (family(a) == socket.AF_INET6) == (kind == 28)]
    out = query[:2] + struct.pack(">HHHHH", 0x8180 if known is not None else 0x8183, 1, len(records), 0, 0) + query[12:at + 5]
    for a in records:
        data = socket.inet_pton(family(a), a)
        out += b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
    return out


def resolve(name, server=RESOLVER, kind=1, timeout_s=TIMEOUT_S, over_tcp=False):
    """The addresses; "nxdomain" or another code that is not 0; None: no answer."""
    query = dns_query(name, kind)
    if over_tcp:
        with socket.socket(family(server), socket.SOCK_STREAM) as s:
            s.settimeout(timeout_s)
            try:
                s.connect((server, 53))
                s.sendall(struct.pack(">H", len(query)) + query)
                answer = s.recv(65536)[2:] or None
            except OSError:
                answer = None
    else:
        answer = udp(server, 53, query, timeout_s)
    if answer is None:
        return None
    code = answer[3] & 15
    if code:
        return "nxdomain" if code == 3 else f"code {code}"
    found, at = [], len(query)
    for _ in range(struct.unpack(">H", answer[6:8])[0]):
        record, _, _, size = struct.unpack(">HHIH", answer[at + 2:at + 12])
        if record == kind:
            found.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, answer[at + 12:at + 12 + size]))
        at += 12 + size
    return found


class Guest:
    """A Linux stack with the tap of a clone; `addresses` False: it asks for them itself."""

    def __init__(self, test, clone, addresses=True):
        self.process = subprocess.Popen([os.path.join(ROOT, "build", "tests", "kvm", "tapguest"), str(clone["pid"])],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            raise AssertionError(f"tapguest: {self.process.stderr.read().decode()}")
        self.ns = Namespace(f"/proc/{self.process.pid}/ns/net")
        test.addCleanup(self.close)
        if addresses:
            self.sh("ip addr add 172.16.0.2/30 dev eth0; ip route add default via 172.16.0.1;"
                    "sysctl -qw net.ipv6.conf.eth0.accept_ra=0; ip -6 route flush default;"
                    "ip addr add fd00:666b::2/64 dev eth0 nodad; ip route add default via fd00:666b::1")

    def sh(self, command):
        return self.ns.sh(command)

    def tcp(self, address, port=80, **more):
        return self.ns.call(lambda: tcp(address, port, **more))

    def udp(self, address, port, data=b"x", **more):
        return self.ns.call(lambda: udp(address, port, data, **more))

    def resolve(self, name, server=RESOLVER, kind=1, **more):
        return self.ns.call(lambda: resolve(name, server, kind, **more))

    def reaches(self, address, port=80):
        return self.tcp(address, port, timeout_s=TIMEOUT_S) is not None

    def is_kept_from(self, address, port=80):
        return self.tcp(address, port, timeout_s=SILENCE_S) is None

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process.stderr.close()
            self.ns.close()


class NetworkTest(ForkdTest):
    domains = {}    # what the internet's DNS server knows

    def setUp(self):
        super().setUp()
        made = not os.path.isdir("/run/netns")
        os.makedirs("/run/netns", exist_ok=True)
        if made:
            self.addCleanup(os.rmdir, "/run/netns")
        self.enterContext(tmpfs("/run/netns", "1m"))        # names of other runs of these tests are not in it
        self.before = self.host_state()
        sh("ip link set lo up; ip netns add internet; ip link add up0 type veth peer name inet0 netns internet;"
           f"ip addr add {HOST}/24 dev up0; ip addr add {HOST6}/64 dev up0 nodad; ip link set up0 up")
        self.addCleanup(sh, "ip netns del internet; ip link del up0 2>/dev/null; true")
        self.internet = Namespace("/run/netns/internet")
        self.addCleanup(self.internet.close)
        self.internet.sh("ip link set lo up; ip addr add 198.51.100.2/24 dev inet0; ip addr add 2001:db8:1::2/64 dev inet0 nodad;"
                         f"ip link set inet0 up; for a in {PUBLIC} {OTHER} {PRIVATE} {METADATA}; do ip addr add $a/32 dev lo; done;"
                         f"for a in {PUBLIC6} {PRIVATE6}; do ip addr add $a/128 dev lo nodad; done")
        sh("ip route add default via 198.51.100.2; ip route add default via 2001:db8:1::2")

    def serve(self, address, port=80, kind=socket.SOCK_STREAM, answer=None, here=False):
        server = Server(None if here else self.internet, address, port, kind, answer)
        self.addCleanup(server.close)
        return server

    def serve_dns(self, address="198.51.100.2"):
        self.addCleanup(DnsServer(self.internet, address, self.domains).close)
        self.serve(address, 53, socket.SOCK_DGRAM, lambda query: dns_answer(query, self.domains))

    def host_state(self):
        """All that networks could leave behind."""
        switches = [read(f"/proc/sys/net/{name}").decode().strip()
                    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/accept_ra")]
        links = sorted(name for _, name in socket.if_nameindex() if name.startswith("fn"))
        spaces = sorted(n for n in os.listdir("/run/netns") if n.startswith("forkd")) if os.path.isdir("/run/netns") else []
        return {"rules": sh("nft list ruleset"), "links": links, "namespaces": spaces, "switches": switches,
                "resolvers": sorted(self.resolvers())}

    @staticmethod
    def resolvers():
        """Processes of dnsmasq that run, of this run of the tests: they are in the background, so they are its children."""
        found = []
        for pid in children(os.getpid()):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as f:
                if f.read() == b"dnsmasq\0--conf-file=-\0":
                    found.append(pid)
        return found

    def daemon(self, *args):
        d = Daemon(self, "--network", "on", *args)
        d.template("t", self.with_net())
        return d

    def with_net(self, net="id=net,mac=02:00:00:00:00:02", cpus=1):
        """A snapshot of a guest that leaves its net alone."""
        vmm = self.boot("resumed", cpus=cpus, extra=["--net", net])
        vmm.wait_bytes(1)
        directory = vmm.snapshot()
        vmm.stop()
        return directory

    @staticmethod
    def clone(d, network=None, count=1, **more):
        overrides = {"overrides": {"network": network}} if network is not None else {}
        clones = d.clone("t", count, **overrides, **more)
        return clones if count > 1 else clones[0]

    def ready(self, d, n):
        """Waits until so many slots are ready."""
        def count():
            metrics = d.call("GET", "/metrics").body.decode()
            return f'forkd_networks{{state="ready"}} {n}\n' in metrics
        wait_for(f"{n} ready networks", count, context=d.context)
