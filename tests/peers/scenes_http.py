# SPDX-License-Identifier: Apache-2.0
"""Scenes of the connection: requests good and bad, several at once, too many, descriptors, and every endpoint's refusals."""
import contextlib
import os
import socket

from differential import scene
from kvmtest import request_bytes

ENDPOINTS = ["vmm.ping", "vmm.shutdown", "vm.create", "vm.boot", "vm.info", "vm.pause", "vm.resume", "vm.shutdown", "vm.delete",
             "vm.reboot", "vm.snapshot", "vm.restore", "vm.counters", "vm.power-button", "vm.nmi", "vm.resize", "vm.resize-disk",
             "vm.resize-zone", "vm.add-device", "vm.add-disk", "vm.add-fs", "vm.add-generic-vhost-user", "vm.add-net",
             "vm.add-pmem", "vm.add-user-device", "vm.add-vdpa", "vm.add-vsock", "vm.remove-device", "vm.coredump",
             "vm.send-migration", "vm.receive-migration"]
PING = request_bytes("GET", "vmm.ping")


def n_null(vmm):
    """Descriptors of /dev/null in the process."""
    n = 0
    for fd in os.listdir(f"/proc/{vmm.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):            # closed meanwhile
            n += os.readlink(f"/proc/{vmm.pid}/fd/{fd}") == "/dev/null"
    return n


@scene
def answers(look):
    """What one good answer of each kind looks like."""
    vmm = look.start()
    look.see("ping", vmm.get("vmm.ping"))
    look.get("ping, its head", vmm, "vmm.ping")
    look.get("not created", vmm, "vm.info")
    look.put("created", vmm, "vm.create", look.config())
    look.put("deleted", vmm, "vm.delete")
    look.put("no such path", vmm, "vm.nothing")
    look.get("query", vmm, "vmm.ping?x=1")
    look.put("ends", vmm, "vmm.shutdown")
    look.see("exit", vmm.wait_exit())
    look.see("socket left", os.path.exists(vmm.socket))
    look.see("lock left", os.path.exists(vmm.socket + ".lock"))
    vmm.release()


@scene
def methods_and_bodies(look):
    """Each endpoint with each method, with and without a body, that does nothing."""
    vmm = look.start()
    for name in ENDPOINTS:
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            for body in (None, b"{}"):
                if (name, method, body) in (("vm.create", "PUT", b"{}"), ("vm.resize", "PUT", b"{}")) or \
                        (name, method) == ("vmm.shutdown", "PUT"):
                    continue
                look.http(f"{method} {name}{' {}' if body else ''}", vmm, method, name, body)
    vmm.stop()


@scene
def stop_with_a_body(look):
    vmm = look.start()
    look.put("answer", vmm, "vmm.shutdown", b"nonsense")
    look.see("exit", vmm.wait_exit())
    vmm.release()


@scene
def odd_requests(look):
    """Bytes that are a request or nearly one."""
    vmm = look.start()
    path = b"GET /api/v1/vmm.ping"
    for step, *pieces in [
        ("HTTP/1.0", path + b" HTTP/1.0\r\n\r\n"),
        ("no headers", path + b" HTTP/1.1\r\n\r\n"),
        ("absolute URI", b"GET http://localhost/api/v1/vmm.ping HTTP/1.1\r\n\r\n"),
        ("HTTP/2", path + b" HTTP/2.0\r\n\r\n"),
        ("HTTP/0.9", path + b" HTTP/0.9\r\n\r\n"),
        ("no version", path + b"\r\n\r\n"),
        ("lower-case version", path + b" http/1.1\r\n\r\n"),
        ("POST", b"POST /api/v1/vmm.ping HTTP/1.1\r\n\r\n"),
        ("HEAD", b"HEAD /api/v1/vmm.ping HTTP/1.1\r\n\r\n"),
        ("OPTIONS", b"OPTIONS /api/v1/vmm.ping HTTP/1.1\r\n\r\n"),
        ("lower-case method", b"get /api/v1/vmm.ping HTTP/1.1\r\n\r\n"),
        ("no URI", b"GET  HTTP/1.1\r\n\r\n"),
        ("star", b"GET * HTTP/1.1\r\n\r\n"),
        ("root", b"GET / HTTP/1.1\r\n\r\n"),
        ("two slashes", b"GET /api/v1//vmm.ping HTTP/1.1\r\n\r\n"),
        ("slash behind", path + b"/ HTTP/1.1\r\n\r\n"),
        ("percent", b"GET /api/v1/vmm%2eping HTTP/1.1\r\n\r\n"),
        ("other version of the API", b"GET /api/v2/vmm.ping HTTP/1.1\r\n\r\n"),
        ("binary", bytes(range(128, 256)) + b"\r\n\r\n"),
        ("empty line first", b"\r\n" + PING),
        ("bare line feeds", path + b" HTTP/1.1\nHost: x\n\n"),
        ("header without a colon", path + b" HTTP/1.1\r\nHost\r\n\r\n"),
        ("header without a value", path + b" HTTP/1.1\r\nHost:\r\n\r\n"),
        ("header name with a blank", path + b" HTTP/1.1\r\nA b: c\r\n\r\n"),
        ("lower-case header", b"PUT /api/v1/vm.delete HTTP/1.1\r\ncontent-length: 0\r\n\r\n"),
        ("Content-Length no number", path + b" HTTP/1.1\r\nContent-Length: x\r\n\r\n"),
        ("Content-Length below zero", path + b" HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        ("Content-Length too large", b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 4194305\r\n\r\n"),
        ("Content-Length above 32 bits", b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 4294967297\r\n\r\n"),
        ("two Content-Lengths", b"PUT /api/v1/vm.delete HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n"),
        ("chunked", b"PUT /api/v1/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ("identity", path + b" HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n"),
        ("connection close", path + b" HTTP/1.1\r\nConnection: close\r\n\r\n"),
        ("content type", path + b" HTTP/1.1\r\nContent-Type: text/html\r\n\r\n"),
        ("expect", b"PUT /api/v1/vm.resize HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"{}"),
        ("expect, HTTP/1.0", b"PUT /api/v1/vm.resize HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", b"{}"),
        ("expect something else", b"PUT /api/v1/vm.resize HTTP/1.1\r\nExpect: 200-ok\r\nContent-Length: 2\r\n\r\n", b"{}"),
        ("expect without a body", path + b" HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"),
        ("long request line", b"GET /api/v1/" + b"a" * 990 + b" HTTP/1.1\r\n\r\n"),
        ("longer request line", b"GET /api/v1/" + b"a" * 1200 + b" HTTP/1.1\r\n\r\n"),
        ("long header", path + b" HTTP/1.1\r\nX: " + b"a" * 1000 + b"\r\n\r\n"),
        ("longer header", path + b" HTTP/1.1\r\nX: " + b"a" * 1200 + b"\r\n\r\n"),
        ("many headers", path + b" HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(300)) + b"\r\n"),
        ("head in pieces", *(PING[i:i + 7] for i in range(0, len(PING), 7))),
        ("body in pieces", b"PUT /api/v1/vm.resize HTTP/1.1\r\nContent-Length: 2\r\n\r\n", b"{", b"}"),
        ("body short", b"PUT /api/v1/vm.resize HTTP/1.1\r\nContent-Length: 20\r\n\r\n{}"),
        ("head without an end", path + b" HTTP/1.1\r\nHost: x\r\n"),
        ("body of GET", path + b" HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
        ("two in turn", PING, PING),
        ("two at once", PING + PING),
        ("three at once, two halves", (PING * 3)[:100], (PING * 3)[100:]),
        ("good, bad", PING + b"POST / HTTP/1.1\r\n\r\n"),
        ("good, then bad", PING, b"POST / HTTP/1.1\r\n\r\n"),
        ("bad, then good", b"POST / HTTP/1.1\r\n\r\n", PING),
        ("not found, then good", b"GET /x HTTP/1.1\r\n\r\n", PING),
    ]:
        look.raw(step, vmm, *pieces)
    vmm.stop()


@scene
def many_connections(look):
    """Ten at a time, and one more."""
    vmm = look.start()
    held = []
    for _ in range(10):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        s.connect(vmm.socket)
        s.sendall(PING)                         # its answer says that it is taken
        look._answer(s)
        held.append(s)
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(60)
        s.connect(vmm.socket)
        data = b""
        while piece := s.recv(65536):
            data += piece
        look.see("the eleventh", data.decode())
    held[3].sendall(PING)
    look.see("one of the ten", look._answer(held[3]))
    held.pop(3).close()
    again = None
    while again is None:                        # the place is free when the close was seen
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(vmm.socket)
            try:
                s.sendall(PING)
                answer = look._answer(s)
            except OSError:
                continue
            again = answer if answer.get("body") == "PING" else None
    look.see("after one left", again)
    for s in held:
        s.close()
    vmm.stop()


@scene
def descriptors(look):
    """Descriptors that nobody wants are closed; announced ones must come."""
    vmm = look.start()
    fds = [os.open("/dev/null", os.O_RDWR) for _ in range(3)]
    for step, method, name, body in [
        ("with a GET", "GET", "vmm.ping", None),
        ("with an unknown path", "GET", "nothing", None),
        ("with vm.create", "PUT", "vm.create", look.config()),
        ("with vm.delete", "PUT", "vm.delete", None),
    ]:
        before = n_null(vmm)
        look.http(step, vmm, method, name, body, fds)
        look.settle(vmm)
        look.see(f"{step}, still open", n_null(vmm) - before)
    before = n_null(vmm)
    restore = {"source_url": f"file://{look.test.path('nothing')}"}
    look.put("restore, too many", vmm, "vm.restore", restore, fds)
    look.put("restore, too few", vmm, "vm.restore", {**restore, "net_fds": [{"id": "net1", "num_fds": 2}]}, fds[:1])
    look.put("restore, as announced", vmm, "vm.restore", {**restore, "net_fds": [{"id": "net1", "num_fds": 3}]}, fds)
    look.put("restore, none announced by name", vmm, "vm.restore", {**restore, "net_fds": [{"id": "net1"}]})
    look.settle(vmm)
    look.see("restore, still open", n_null(vmm) - before)
    for fd in fds:
        os.close(fd)
    vmm.stop()
