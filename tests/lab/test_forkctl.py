# SPDX-License-Identifier: Apache-2.0
"""forkctl's commands for a guest, with a Linux guest and all that is between: daemon, VM process, vsock, agent."""
import os
import signal
import socket
import subprocess

from daemon import Forkd
from lab import DIR, PATIENCE_S, check, test
from test_identity import LINUX

BIG = 2 << 20


class Ctl:
    def __init__(self, d):
        self.words = [os.path.join(DIR, "bin/forkctl"), "--socket", d.socket]

    def start(self, *words, **more):
        return subprocess.Popen([*self.words, *words], **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more})

    def __call__(self, *words, data=None, status=0):
        p = self.start(*words, stdin=subprocess.DEVNULL if data is None else subprocess.PIPE)
        out, err = p.communicate(data, timeout=PATIENCE_S)
        check(p.returncode == status, f"forkctl {words}: status {p.returncode}: {err.decode()}")
        return out


def commands(ctl, c):
    check(ctl("exec", c, "sh", "-c", "hostname; exit 7", status=7) == f"{c}\n".encode(), "hostname by exec")
    data = os.urandom(1 << 16) * (BIG >> 16)
    check(ctl("exec", "-i", c, "cat", data=data) == data, "not what was sent through cat")
    ctl("exec", c, "sh", "-c", "mkdir -p /dev/pts && mount -t devpts devpts /dev/pts")
    check(b"\r\n" in ctl("exec", "-t", c, "sh", "-c", "echo terminal"), "exec -t")
    p = ctl.start("exec", c, "sh", "-c", "echo ready; exec sleep 1000")
    check(p.stdout.readline() == b"ready\n", "no command that waits")
    p.send_signal(signal.SIGINT)
    check(p.wait(PATIENCE_S) == 128 + 15, f"status {p.returncode} after SIGINT")


def files(ctl, c):
    data = os.urandom(1 << 16) * (BIG >> 16)
    ctl("cp", "-", f"{c}:/run/big", data=data)
    check(ctl("cp", f"{c}:/run/big", "-") == data, "not the file that was sent")
    ctl("exec", c, "sh", "-c", "mkdir -p /run/one/a /run/two; echo abc > /run/one/a/b; chmod 700 /run/one/a; ln -s a /run/one/l")
    archive = ctl("cp", f"{c}:/run/one", "-")
    ctl("cp", "-", f"{c}:/run/two", data=archive)
    found = ctl("exec", c, "sh", "-c", "cd /run/two; cat l/b; stat -c %a a").decode()
    check(found == "abc\n700\n", f"after two archives: {found}")


def ports(ctl, c):
    """The end of one direction is passed on, through all of them."""
    server = ctl.start("exec", c, "nc", "-ll", "-p", "7000", "-e", "sh", "-c", "cat; echo end")
    p = ctl.start("forward", c, "0:7000", "0:7001")
    port, closed = (int(p.stdout.readline().split(b" ")[0].rsplit(b":")[-1]) for _ in range(2))
    data = os.urandom(1 << 16)
    for _ in range(100):
        try:
            with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as s:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                got = s.makefile("rb").read()
            break
        except ConnectionResetError:        # nc does not listen yet
            check(server.poll() is None, f"nc in the guest has ended: {server.stderr}")
            p.stderr.readline()
    check(got == data + b"end\n", f"{len(got)} bytes came back, of {len(data)}: {got[-20:]}")
    try:
        with socket.create_connection(("127.0.0.1", closed), PATIENCE_S) as s:
            check(s.recv(1) == b"never", "bytes of a port where nobody listens")
    except ConnectionResetError:
        pass
    check(b"refused" in p.stderr.readline(), "no word about the port where nobody listens")
    for process in (p, server):
        process.terminate()
        process.wait(PATIENCE_S)


@test("forkctl", "full")
def forkctl():
    with Forkd("forkctl") as d:
        d.template("t", LINUX, {"agent": True})
        ctl, c = Ctl(d), d.call("POST", "/v1/templates/t/clones", {})["clones"][0]["id"]
        commands(ctl, c)
        files(ctl, c)
        ports(ctl, c)
        check(ctl("run", "t", "hostname").decode().startswith("c-"), "run")
        check([x["id"] for x in d.call("GET", "/v1/clones")["clones"]] == [c], "the clone of run is still there")
