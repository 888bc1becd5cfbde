# SPDX-License-Identifier: Apache-2.0
"""forkctl exec and run, against a real agent."""
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading

from agenttest import frame, wait_for
from ctltest import ID, CtlTest
from systemtest import SystemTest

BIG = 6 << 20


def read_all(fd):
    out = b""
    while True:
        try:
            data = os.read(fd, 65536)
        except OSError:         # EIO: the other side has closed it
            return out
        if not data:
            return out
        out += data


class Exec(CtlTest):
    def test_output_and_status(self):
        self.assertEqual(self.exec(ID, "sh", "-c", r"printf 'a\0\377b'; exit 7", status=7)[0], b"a\0\xffb")
        self.assertEqual(self.exec(ID, "--", "echo", "-n", "--", "-i")[0], b"-- -i")
        self.assertEqual(self.exec(ID, "echo", "--json", "-t")[0], b"--json -t\n")
        self.assertEqual(self.exec("--cwd", "/usr", "-e", "A=b c", "--env=B=\"", ID, "sh", "-c", 'echo "$PWD $A $B"')[0], b'/usr b c "\n')
        self.assertEqual(self.exec(ID, "cat")[0], b"")          # stdin is /dev/null

    def test_stderr_is_its_own(self):
        p = self.begin("exec", ID, "sh", "-c", r"printf 'out\377'; printf 'err\376' >&2")
        self.assertEqual(p.communicate(timeout=60), (b"out\xff", b"err\xfe"))

    def test_user(self):
        self.assertEqual(self.exec("-u", "nobody", "--cwd", "/", ID, "id", "-un")[0], b"nobody\n")
        self.assertIn("no-such-user", self.exec("-u", "no-such-user", ID, "id", status=125)[1])

    def test_statuses(self):
        self.exec(ID, "sh", "-c", "kill -9 $$", status=128 + 9)
        self.exec(ID, "sh", "-c", "exit 255", status=255)
        self.assertIn("No such file", self.exec(ID, "/nowhere/command", status=127)[1])
        self.assertIn("Permission denied", self.exec(ID, "/etc/passwd", status=126)[1])
        self.assertIn("does not exist", self.exec("--cwd", "/nowhere", ID, "true", status=126)[1])
        self.assertIn("deadline", self.exec("--timeout", "1", ID, "sleep", "100", status=124)[1])
        self.nothing_runs()
        self.assertIn("no such clone", self.exec("c-2", "true", status=125)[1])
        self.exec("--nonsense", ID, "true", status=125)
        self.exec(ID, status=125)
        self.assertIn("KEY=VALUE", self.exec("-e", "A", ID, "true", status=125)[1])
        self.assertIn("not UTF-8", self.exec(ID, "echo", b"\xff", status=125)[1])
        self.stop_agent()
        self.exec(ID, "true", status=125)

    def test_much_output(self):
        """Some MiB on both, byte for byte, although nobody reads for a while."""
        data = self.file("data", os.urandom(1 << 16) * (BIG >> 16))
        p = self.begin("exec", ID, "sh", "-c", f"cat {data} & cat {data} >&2; wait")
        wait_for("the reader's absence is felt", lambda: self.processes())
        got = {}
        threads = [threading.Thread(target=lambda f=f, n=n: got.update({n: f.read()})) for n, f in (("out", p.stdout), ("err", p.stderr))]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        self.assertEqual(p.wait(60), 0)
        with open(data, "rb") as f:
            whole = f.read()
        self.assertEqual((got["out"] == whole, got["err"] == whole), (True, True), {k: len(v) for k, v in got.items()})

    def test_much_input(self):
        data = os.urandom(1 << 16) * (BIG >> 16)
        self.assertTrue(self.exec("-i", ID, "cat", data=data)[0] == data)
        with open(self.file("data", data), "rb") as f:
            self.assertTrue(self.exec("-i", ID, "cat", stdin=f)[0] == data)
        self.assertEqual(self.exec("-i", ID, "cat", data=b"")[0], b"")

    def test_input_is_not_collected(self):
        """A command that does not read holds its source up; forkctl's memory does not grow with what would come."""
        p = self.begin("exec", "-i", ID, "sleep", "1000", stdin=subprocess.PIPE)
        os.set_blocking(p.stdin.fileno(), False)
        stuck = [0]

        def fill():
            try:
                stuck[0] += os.write(p.stdin.fileno(), b"x" * 65536)
            except BlockingIOError:
                return len(self.processes()) == 1 and stuck[0] > 400 << 10
            return False
        wait_for("the pipe is full", fill)
        self.assertLess(stuck[0], 4 << 20)
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(60), 128 + 15)

    def test_command_that_does_not_take_its_input(self):
        self.exec("-i", ID, "true", data=b"x" * (1 << 20))
        self.assertEqual(self.exec("-i", ID, "sh", "-c", "exec <&-; sleep 0.2; echo fine", data=b"x" * (1 << 20))[0], b"fine\n")

    def test_signals(self):
        for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            p = self.begin("exec", ID, "sh", "-c", "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done")
            self.assertEqual(p.stdout.readline(), b"ready\n")
            p.send_signal(signo)
            self.assertEqual((p.stdout.read(), p.wait(60)), (b"got it\n", 9))
        p = self.begin("exec", ID, "sh", "-c", "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done")
        self.assertEqual(p.stdout.readline(), b"ready\n")
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.stdout.readline(), b"no\n")
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(60), 128 + 9)
        self.nothing_runs()

    def test_reader_that_goes_away(self):
        """As in `forkctl exec ID yes | head -1`: the command does not run on."""
        p = self.begin("exec", ID, "yes")
        self.assertEqual(p.stdout.readline(), b"y\n")
        p.stdout.close()
        self.assertEqual(p.wait(60), 128 + 15)
        self.nothing_runs()

    def test_broken_connection(self):
        p = self.begin("exec", ID, "sh", "-c", "echo ready; sleep 1000")
        self.assertEqual(p.stdout.readline(), b"ready\n")
        self.daemon.cut()
        self.assertEqual(p.wait(60), 125)
        self.assertIn(b"may run on", p.stderr.read())
        self.assertEqual(len(self.processes()), 1)

    def test_agent_that_lies(self):
        """Events that are none, or have no end: an error, and no memory for them."""
        big = b"\0\x7f\xff\xff\xff" + b"x" * 1000
        for stream in (big, b"\0\0\0\0\3abc", frame({"event": {"data": {"stdout": "no base64!"}}}), b"\0\0"):
            self.daemon.instead = (b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\nConnection: close\r\n"
                                   b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(stream), stream))
            self.assertIn("may run on", self.exec(ID, "true", status=125)[1])

    def test_over_tls(self):
        self.over_tls()
        data = os.urandom(1 << 20)
        self.assertTrue(self.exec("-i", ID, "cat", data=data)[0] == data)
        self.env["FORKD_TOKEN"] = "wrong"
        self.assertIn("unauthorized", self.exec(ID, "true", status=125)[1])


class Terminal(CtlTest):
    def attach(self, *words, rows=31, cols=97, **more):
        """forkctl exec with a terminal: the process, and the terminal's other side."""
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        self.size(master, rows, cols)
        p = self.begin("exec", *words, start_new_session=True, env={**self.env, "TERM": "xterm-test"},
                       **{"stdin": slave, "stdout": slave, "stderr": slave, **more})
        self.slave = slave
        return p, master

    @staticmethod
    def size(fd, rows, cols):
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def until(self, fd, text, before=b""):
        got = before
        while text not in got:
            got += os.read(fd, 4096)
        return got

    def test_size_keys_and_end(self):
        p, master = self.attach("-it", ID, "sh", "-c", "stty size; echo $TERM; tty; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.05; done")
        got = self.until(master, b"ready\r\n")
        self.assertIn(b"31 97\r\nxterm-test\r\n/dev/pts/", got)
        self.assertFalse(termios.tcgetattr(self.slave)[3] & termios.ECHO)
        self.size(master, 40, 120)
        p.send_signal(signal.SIGWINCH)
        self.assertIn(b"40 120\r\n", self.until(master, b"40 120\r\n"))
        self.assertEqual(p.wait(60), 5)
        self.assertTrue(termios.tcgetattr(self.slave)[3] & termios.ECHO)       # as it was
        os.close(self.slave)

    def test_keys(self):
        p, master = self.attach("-it", ID, "sh", "-c", "stty -echo; echo ready; read line; echo \"got $line\"; exec cat")
        self.until(master, b"ready\r\n")
        os.write(master, b"a line\r")
        self.until(master, b"got a line\r\n")
        os.write(master, b"\x03")       # the guest's terminal makes a signal of it
        self.assertEqual(p.wait(60), 128 + signal.SIGINT)
        os.close(self.slave)

    def test_a_signal_restores_the_terminal(self):
        p, master = self.attach("-it", ID, "sh", "-c", "echo ready; exec sleep 1000")
        self.until(master, b"ready\r\n")
        p.send_signal(signal.SIGTERM)
        self.assertEqual(p.wait(60), 128 + 15)
        self.assertTrue(termios.tcgetattr(self.slave)[3] & termios.ECHO)
        os.close(self.slave)

    def test_hang_up(self):
        """The terminal is gone, and what runs in the guest takes no notice: forkctl ends nevertheless."""
        p, master = self.attach("-it", ID, "sh", "-c", "trap '' TERM HUP; echo ready; while :; do sleep 0.05; done", stderr=subprocess.PIPE)
        self.until(master, b"ready\r\n")
        p.send_signal(signal.SIGHUP)
        self.assertEqual(p.wait(60), 128 + 1)
        self.assertIn(b"may run on", p.stderr.read())
        os.close(self.slave)

    def test_errors_are_for_people(self):
        """They are printed while the terminal is as it was."""
        p, master = self.attach("-it", "c-2", "sh")
        os.close(self.slave)
        shown = read_all(master)
        self.assertEqual(p.wait(60), 125)
        self.assertEqual(shown.count(b"\n"), shown.count(b"\r\n"), shown)
        self.assertIn(b"no such clone", shown)

    def test_input_that_is_no_terminal(self):
        """-t with a pipe: the end of the pipe is Ctrl+D."""
        out, _ = self.exec("-i", "-t", ID, "sh", "-c", "stty -echo; tty >&2; cat", data=b"hello\n")
        self.assertIn(b"/dev/pts/", out)
        self.assertIn(b"hello\r\n", out)
        self.assertEqual(self.exec("-t", ID, "echo", "x")[0], b"x\r\n")


class NoTerminals(CtlTest, SystemTest):
    """A guest without devpts."""
    command = ("sh", "-c", 'mount -t tmpfs tmpfs /dev/pts && exec "$@"', "sh")

    def test_says_so(self):
        self.assertIn("open a terminal for 'sh'", self.exec("-t", ID, "sh", status=126)[1])
        self.assertEqual(self.exec(ID, "echo", "x")[0], b"x\n")


class Run(CtlTest):
    MADE, GONE = "POST /v1/templates/t/clones", f"DELETE /v1/clones/{ID}"

    def test_runs_and_deletes(self):
        self.assertEqual(self.ctl("run", "t", "sh", "-c", "echo out; exit 3", status=3)[0], b"out\n")
        self.assertEqual(self.daemon.seen, [self.MADE, self.GONE])
        self.assertEqual(self.ctl("run", "-i", "--label", "a=b", "t", "--", "cat", data=b"in")[0], b"in")
        self.ctl("run", "t", "/nowhere", status=127)
        self.assertEqual(self.daemon.seen, [self.MADE, self.GONE] * 3)

    def test_no_clone(self):
        self.assertIn("clone_not_found", self.ctl("run", "other", "true", status=125)[1])
        self.assertEqual(self.daemon.seen, ["POST /v1/templates/other/clones"])
        self.ctl("run", "--mode", "nonsense", "t", "true", status=125)

    def test_signal(self):
        for signo in (signal.SIGTERM, signal.SIGINT):
            p = self.begin("run", "t", "sh", "-c", "echo ready; exec sleep 1000")
            self.assertEqual(p.stdout.readline(), b"ready\n")
            p.send_signal(signo)
            self.assertEqual(p.wait(60), 128 + 15)
        self.assertEqual(self.daemon.seen, [self.MADE, self.GONE] * 2)

    def test_broken_connection(self):
        p = self.begin("run", "t", "sh", "-c", "echo ready; exec sleep 1000")
        self.assertEqual(p.stdout.readline(), b"ready\n")
        self.daemon.cut()
        self.assertEqual(p.wait(60), 125)
        self.assertEqual(self.daemon.seen, [self.MADE, self.GONE])
