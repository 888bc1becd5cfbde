# SPDX-License-Identifier: Apache-2.0
"""The unmodified client classes of the package e2b (PyPI), which speak the agent's protocol, against the agent."""
import fcntl
import os
import socket
import subprocess
import sys
import threading

from agenttest import ROOT, AgentTest

PACKAGE = "e2b==2.63.0"
VENV = os.environ.get("FORKD_VENV_E2B") or os.path.join(ROOT, "build", "venv-e2b")
SDK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sdk", "sdk.py")


def venv_python():
    """The interpreter that has the package; None: it cannot be installed."""
    python, mark = os.path.join(VENV, "bin", "python"), os.path.join(VENV, PACKAGE)
    os.makedirs(VENV, exist_ok=True)
    with open(VENV + ".lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(mark):
            subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=False, capture_output=True)
            if subprocess.run([python, "-m", "pip", "install", "-q", PACKAGE], check=False, capture_output=True).returncode:
                return None
            with open(mark, "w", encoding="ascii"):
                pass
    return python


class Relay:
    """TCP on the loopback, in front of a unix socket: the client knows no other."""

    def __init__(self, path):
        self.path = path
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            agent = socket.socket(socket.AF_UNIX)
            agent.connect(self.path)
            for a, b in ((client, agent), (agent, client)):
                threading.Thread(target=self.copy, args=(a, b), daemon=True).start()

    @staticmethod
    def copy(a, b):
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            for s in (a, b):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class Sdk(AgentTest):
    def check(self, module):
        python = venv_python()
        if not python:
            self.skipTest(f"pip cannot install {PACKAGE}: the agent was not compared with the clients that speak its protocol")
        relay = Relay(self.path)
        self.addCleanup(relay.close)
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        done = subprocess.run([python, SDK, relay.url, module], capture_output=True, text=True, timeout=600, check=False, env=env)
        lines = [line for line in done.stdout.splitlines() if line.startswith(("ok ", "not ok ", "end"))]
        self.assertTrue(len(lines) > 1 and lines.pop() == "end", f"status {done.returncode}: {done.stdout}{done.stderr}")
        self.assertEqual([line for line in lines if not line.startswith("ok ")], [], done.stdout[-3000:])

    def test_commands(self):
        self.check("sdk_commands")

    def test_files(self):
        self.check("sdk_files")
