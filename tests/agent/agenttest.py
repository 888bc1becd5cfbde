# SPDX-License-Identifier: Apache-2.0
"""What the agent's tests share: an agent of their own on unix sockets, and a client that sees every byte."""
import base64
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
AGENT = os.path.join(os.environ.get("BUILD") or os.path.join(ROOT, "build"), "forkd-agent")
FULL = os.environ.get("FORKD_TEST_FULL") == "1"
SANITIZED = "san" in os.path.basename(os.path.dirname(AGENT))
PATIENCE_S = float(os.environ.get("FORKD_TEST_PATIENCE", "60"))
SANITIZER = re.compile(r"(?:Address|Leak|Thread)Sanitizer|runtime error:|Assertion .* failed|\*\*\* .* detected")


def b64(data):
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def unb64(text):
    return base64.b64decode(text, validate=True)


def wait_for(what, condition, patience_s=PATIENCE_S):
    """The condition's first true value."""
    end = time.monotonic() + patience_s
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"not after {patience_s} s: {what}")
        time.sleep(0.005)
    return value


class Answer:
    """One answer, as it came."""

    def __init__(self, status, headers, body=b""):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.headers} {self.body[:300]!r}"


class Connection:
    """One connection to the agent: strict about HTTP/1.1 framing, so that a byte too many or too few is seen."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.settimeout(PATIENCE_S)
        self.buf = b""

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.sock.sendall(data)

    def request(self, method, path, body=None, headers=None, chunked=False):
        """Sends a request; body None: none. chunked: in two chunks."""
        lines = [f"{method} {path} HTTP/1.1", "Host: agent"]
        lines += [f"{k}: {v}" for k, v in (headers or {}).items()]
        data = b""
        if body is not None and chunked:
            lines.append("Transfer-Encoding: chunked")
            for part in (body[:7], body[7:]):
                data += b"%x\r\n%s\r\n" % (len(part), part) if part else b""
            data += b"0\r\n\r\n"
        elif body is not None:
            lines.append(f"Content-Length: {len(body)}")
            data = body
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    def _more(self):
        data = self.sock.recv(1 << 18)
        if not data:
            raise EOFError(f"the agent closed the connection; read before: {self.buf[-200:]!r}")
        self.buf += data

    def line(self):
        while b"\r\n" not in self.buf:
            self._more()
        line, self.buf = self.buf.split(b"\r\n", 1)
        return line.decode()

    def exactly(self, n):
        while len(self.buf) < n:
            self._more()
        data, self.buf = self.buf[:n], self.buf[n:]
        return data

    def head(self):
        """Status and headers (names in lower case)."""
        while True:
            status = self.line()
            m = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", status)
            if not m:
                raise AssertionError(f"not a status line: {status!r}")
            headers = {}
            while line := self.line():
                name, value = line.split(": ", 1)
                if name.lower() in headers:
                    raise AssertionError(f"header {name} twice")
                headers[name.lower()] = value
            if m.group(1) != "100":
                return Answer(int(m.group(1)), headers)

    def chunk(self):
        """The next chunk of a chunked answer; b'' is the last."""
        data = self.exactly(int(self.line(), 16))
        if self.line() != "":
            raise AssertionError("a chunk is not followed by CR LF")
        return data

    def answer(self):
        a = self.head()
        if a.headers.get("transfer-encoding") == "chunked":
            while part := self.chunk():
                a.body += part
        elif a.status not in (204, 304):
            a.body = self.exactly(int(a.headers["content-length"]))
        return a

    def at_end(self):
        """Has the agent closed the connection, with nothing more to read?"""
        try:
            return not self.buf and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


def frame(message, flags=0):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">BI", flags, len(data)) + data


class Stream:
    """The answer to a Connect call that is answered by a stream: iterate over its messages."""

    def __init__(self, connection):
        self.c, self.buf, self.end = connection, b"", None
        self.answer = connection.head()
        if self.answer.status != 200 or self.answer.headers.get("content-type") != "application/connect+json":
            raise AssertionError(f"not a stream: {self.answer}")

    def _exactly(self, n):
        while len(self.buf) < n:
            part = self.c.chunk()
            if not part:
                raise AssertionError("the stream ended without a frame with flag 2")
            self.buf += part
        data, self.buf = self.buf[:n], self.buf[n:]
        return data

    def next(self):
        """The next message; None: the end, which is in .end then ({} or {"error": …})."""
        flags, size = struct.unpack(">BI", self._exactly(5))
        message = json.loads(self._exactly(size))
        if flags == 2:
            self.end = message
            if self.buf or self.c.chunk() != b"":
                raise AssertionError("bytes behind the frame with flag 2")
            return None
        if flags != 0:
            raise AssertionError(f"flags {flags}")
        return message

    def __iter__(self):
        while (m := self.next()) is not None:
            yield m

    def close(self):
        self.c.close()


class AgentTest(unittest.TestCase):
    """self.dir: a folder of the test's own. self.path: the socket of the agent's API."""
    options = []

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="forkd-agent.")
        self.addCleanup(shutil.rmtree, self.dir, ignore_errors=True)
        os.chmod(self.dir, 0o755)
        self.path = os.path.join(self.dir, "s")
        self.start_agent()

    def start_agent(self):
        self.log = os.path.join(self.dir, "log")
        with open(self.log, "wb") as log:
            self.agent = subprocess.Popen([AGENT, "--listen", f"unix:{self.path}", *self.options], stderr=log, stdin=subprocess.DEVNULL)
        self.addCleanup(self.stop_agent)
        wait_for("the agent listens", lambda: self._listens() or self.agent.poll() is not None)

    def _listens(self):
        try:
            Connection(self.path).close()
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def stop_agent(self):
        """Ends the agent in good order; a sanitizer's finding or a bad exit status fails the test."""
        if not self.agent:
            return
        agent, self.agent = self.agent, None
        if agent.poll() is None:
            agent.send_signal(signal.SIGTERM)
        try:
            status = agent.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
            status = "none: it had to be killed"
        with open(self.log, errors="replace") as f:
            text = f.read()
        if status != 0 or SANITIZER.search(text):
            self.fail(f"the agent ended with status {status}; its log: {text[-3000:]}")

    def connect(self):
        c = Connection(self.path)
        self.addCleanup(c.close)
        return c

    def http(self, method, path, body=None, headers=None, chunked=False):
        """One request on a connection of its own."""
        with Connection(self.path) as c:
            c.request(method, path, body, headers, chunked)
            return c.answer()

    def call(self, method, message, headers=None, status=200):
        """A unary Connect call, "service.Service/Method": its answer's object."""
        a = self.http("POST", "/" + method, json.dumps(message).encode(),
                      {"Content-Type": "application/json", "Connect-Protocol-Version": "1", **(headers or {})})
        self.assertEqual(a.status, status, a)
        self.assertEqual(a.headers.get("content-type"), "application/json", a)
        return a.json()

    def stream(self, method, message, headers=None):
        """A Connect call that is answered by a stream."""
        c = self.connect()
        c.request("POST", "/" + method, frame(message),
                  {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1", **(headers or {})})
        return Stream(c)

    def small(self, most):
        """The agent's own memory has no more bytes than that. A sanitizer's are not counted."""
        with open(f"/proc/{self.agent.pid}/status", encoding="ascii") as f:
            memory = int(re.search(r"RssAnon:\s*(\d+) kB", f.read()).group(1)) << 10
        if not SANITIZED:
            self.assertLess(memory, most)
