# SPDX-License-Identifier: Apache-2.0
"""The agent as the first process of a system: in a PID namespace of its own, whose end is the power-off."""
import os
import signal
import subprocess

from agenttest import wait_for
from runner import children
from systemtest import SystemTest

POWERED_OFF = -signal.SIGINT     # as reboot(2) says of a PID namespace


class Init(SystemTest):
    """self.agent is unshare(1), which waits for the namespace's first process."""
    options = ["--init", "--", "sleep", "1000"]
    command = ["unshare", "-p", "-f", "--kill-child", "--mount-proc", "--"]

    def stop_agent(self):
        """Powers off, and wants to see that."""
        agent, self.agent = self.agent, None
        if agent:
            if agent.poll() is None:
                os.kill(self.pid(agent), signal.SIGPWR)
            self.assertEqual(agent.wait(60), POWERED_OFF)

    def pid(self, agent=None):
        """The agent's number in this host."""
        pid, = children((agent or self.agent).pid)
        return pid

    def log_text(self):
        with open(self.log, encoding="utf-8") as f:
            return f.read()

    def test_system(self):
        """What a system needs is mounted, once; the command is in the group of started processes; the agent is in its own."""
        self.assertEqual(self.daemon("GET", "/v1/hello")["boot"], "init")
        with open(f"/proc/{self.pid()}/mountinfo", encoding="ascii") as f:
            mounts = [line.split()[4] for line in f]
        for path in ("/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/run", "/sys/fs/cgroup"):
            self.assertIn(path, mounts)
        command = children(self.pid())[0]
        self.assertEqual(self.group_of(command), "forkd/user")
        self.assertEqual(self.group_of(self.pid()), "forkd/agent")
        self.assertEqual(os.getsid(command), command)

    def test_reaps_orphans(self):
        self.agent_runs("sh -c '(sleep 0.01; exit 3) & exit 0'")
        wait_for("nothing but the command is there", lambda: len(self.processes()) == 2)

    def agent_runs(self, words):
        subprocess.run(["nsenter", "-t", str(self.pid()), "-p", "-m", "sh", "-c", words], check=True)

    def processes(self):
        out = subprocess.run(["nsenter", "-t", str(self.pid()), "-p", "-m", "sh", "-c", "echo /proc/[0-9]*"], capture_output=True, text=True,
                             check=True).stdout.split()
        return [p for p in out if p != f"/proc/{os.getpid()}"][:-1]     # the last one is the shell that looks

    def test_signals_go_to_the_command(self):
        os.kill(self.pid(), signal.SIGTERM)
        self.assertEqual(self.agent.wait(60), POWERED_OFF)
        self.assertIn("the command was ended by signal 15", self.log_text())


class CommandEnds(Init):
    options = ["--init", "--", "sh", "-c", "trap 'exit 5' HUP; echo > /run/ready; sleep 1000 & wait"]

    def test_system(self):
        wait_for("the command waits for the signal", lambda: os.path.exists(f"/proc/{self.pid()}/root/run/ready"))
        os.kill(self.pid(), signal.SIGHUP)
        self.assertEqual(self.agent.wait(60), POWERED_OFF)
        self.assertIn("the command has ended with status 5", self.log_text())

    test_signals_go_to_the_command = test_reaps_orphans = None


class Stays(Init):
    options = ["--init", "--stay", "--", "true"]

    def test_system(self):
        wait_for("the command has ended", lambda: "the command has ended with status 0" in self.log_text())
        self.assertEqual(self.http("GET", "/health").status, 204)
        os.kill(self.pid(), signal.SIGHUP)
        self.assertEqual(self.http("GET", "/health").status, 204)
        os.kill(self.pid(), signal.SIGTERM)
        self.assertEqual(self.agent.wait(60), POWERED_OFF)

    test_signals_go_to_the_command = test_reaps_orphans = None


class Stubborn(Init):
    options = ["--init", "--", "sh", "-c", "trap '' TERM; echo > /run/ready; while :; do sleep 1000; done"]

    def test_system(self):
        """Who does not end by SIGTERM is killed."""
        wait_for("the command ignores the signal", lambda: os.path.exists(f"/proc/{self.pid()}/root/run/ready"))
        os.kill(self.pid(), signal.SIGPWR)
        self.assertEqual(self.agent.wait(60), POWERED_OFF)

    test_signals_go_to_the_command = test_reaps_orphans = None
