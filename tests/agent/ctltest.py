# SPDX-License-Identifier: Apache-2.0
"""forkctl before a real agent: the daemon between them is a stand-in, which passes requests on as forkd's routes do and makes clones in name only."""
import base64
import os
import re
import socket
import ssl
import subprocess
import threading

from agenttest import AGENT, PATIENCE_S, AgentTest, wait_for

FORKCTL = os.path.abspath(os.path.join(os.path.dirname(AGENT), "forkctl"))
ID = "c-1"
TOKEN = "secret-of-the-test"


def pump(source, sink):
    """Copies until the source ends, and passes its end on."""
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        if not isinstance(sink, ssl.SSLSocket):     # Python's would end both directions
            sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class StandIn:
    """Takes one request from each connection. self.seen: "METHOD /path" of what is the daemon's own."""

    def __init__(self, test, listener, context=None):
        self.test, self.listener, self.context = test, listener, context
        self.seen, self.live = [], []
        self.instead = None             # what calls of the agent's services are answered with
        self.instead_of_files = None    # what a file begins with, of which no end comes
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                s, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def cut(self):
        """Breaks all connections."""
        with self.lock:
            for s in self.live:
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def serve(self, s):
        try:
            if self.context:
                s = self.context.wrap_socket(s, server_side=True)
            with self.lock:
                self.live.append(s)
            head = b""
            while b"\r\n\r\n" not in head:
                part = s.recv(1)        # not a byte of what comes behind
                if not part:
                    return
                head += part
            self.route(s, head.decode())
        except OSError:
            pass
        finally:
            with self.lock:
                if s in self.live:
                    self.live.remove(s)
            s.close()

    def answer(self, s, status, body=""):
        s.sendall(f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    def route(self, s, head):
        line, *fields = head.rstrip("\r\n").split("\r\n")
        method, target, _ = line.split(" ")
        named = {f.split(": ", 1)[0].lower(): f.split(": ", 1)[1] for f in fields}
        if self.context and named.get("authorization") != f"Bearer {TOKEN}":
            return self.answer(s, 401, '{"code": "unauthorized", "message": "no token", "remedy": ""}')
        if m := re.fullmatch(rf"/v1/clones/{ID}/agent(/.*)", target):
            if self.instead:
                return s.sendall(self.instead)
            return self.relay(s, self.test.path, method, m.group(1), named)
        if m := re.fullmatch(rf"/v1/clones/{ID}(/files\?.*)", target):
            if self.instead_of_files:
                s.sendall(self.instead_of_files)
                return s.recv(1)
            if method == "PUT":
                named["content-type"] = "application/octet-stream"
            return self.relay(s, self.test.path, {"PUT": "POST"}.get(method, method), m.group(1), named)
        if m := re.fullmatch(rf"/v1/clones/{ID}(/tunnel\?port=\d+)", target):
            if (named.get("connection", "").lower(), named.get("upgrade")) != ("upgrade", "tcp"):
                return self.answer(s, 426, '{"code": "upgrade_required", "message": "no upgrade", "remedy": ""}')
            return self.relay(s, self.test.private, method, "/v1" + m.group(1), named)
        self.own(s, method, target)

    def own(self, s, method, target):
        self.seen.append(f"{method} {target}")
        if (method, target) == ("POST", "/v1/templates/t/clones"):
            self.answer(s, 201, f'{{"clones": [{{"id": "{ID}"}}]}}')
        elif (method, target) == ("GET", f"/v1/clones/{ID}"):
            self.answer(s, 200, f'{{"id": "{ID}"}}')
        elif (method, target) == ("DELETE", f"/v1/clones/{ID}"):
            self.answer(s, 204)
        else:
            self.answer(s, 404, '{"code": "clone_not_found", "message": "there is no such clone", "remedy": "List them."}')

    def relay(self, s, path, method, target, named):
        named.pop("authorization", None)
        if user := named.pop("x-forkd-user", None):
            named["authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
        if named.get("connection", "").lower() != "upgrade":
            named["connection"] = "close"
        upstream = socket.socket(socket.AF_UNIX)
        upstream.connect(path)
        with upstream:
            upstream.sendall((f"{method} {target} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in named.items()) + "\r\n").encode())
            up = threading.Thread(target=pump, args=(s, upstream), daemon=True)
            up.start()
            pump(upstream, s)
            if named["connection"].lower() == "upgrade":
                up.join()
                if self.context:
                    s.unwrap()


class CtlTest(AgentTest):
    """self.ctl(): forkctl before self.daemon."""

    def setUp(self):
        super().setUp()
        self.socket = os.path.join(self.dir, "daemon")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.socket)
        listener.listen(64)
        self.addCleanup(listener.close)
        self.daemon = StandIn(self, listener)
        self.reach = ["--socket", self.socket]
        self.env = {**os.environ, "FORKD_TOKEN": ""}

    def over_tls(self):
        """From here on forkctl comes over TLS, with a token."""
        cert, key = self.file("cert"), self.file("key")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert,
                        "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"], check=True, stderr=subprocess.DEVNULL)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.daemon = StandIn(self, listener, context)
        self.reach = ["--url", f"https://localhost:{listener.getsockname()[1]}", "--cacert", cert]
        self.env["FORKD_TOKEN"] = TOKEN

    def file(self, name, data=None):
        path = os.path.join(self.dir, name)
        if data is not None:
            with open(path, "wb") as f:
                f.write(data)
        return path

    def begin(self, verb, *words, **more):
        """forkctl as a process: verb [options] …; `cwd` and the like as for Popen."""
        p = subprocess.Popen([FORKCTL, *self.reach, verb, *words], **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
                                                                      "env": self.env, **more})
        self.addCleanup(self.end, p)
        return p

    @staticmethod
    def end(p):
        if p.poll() is None:
            p.kill()
            p.wait()
        for f in (p.stdin, p.stdout, p.stderr):
            if f:
                f.close()

    def ctl(self, verb, *words, status=0, data=None, **more):
        """(stdout, stderr) of forkctl, which ends with that status."""
        if data is not None:
            more["stdin"] = subprocess.PIPE
        p = self.begin(verb, *words, **more)
        out, err = p.communicate(data, timeout=PATIENCE_S)
        self.assertEqual(p.returncode, status, f"{verb} {words}: {err.decode(errors='replace')[-1000:]}")
        return out, err.decode(errors="replace")

    def exec(self, *words, **more):
        return self.ctl("exec", *words, **more)

    def processes(self):
        return self.call("process.Process/List", {})["processes"]

    def nothing_runs(self):
        wait_for("the commands have ended", lambda: not self.processes())
