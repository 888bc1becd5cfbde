# SPDX-License-Identifier: Apache-2.0
"""process.Process: every call, event and error of the protocol."""
import hashlib
import json
import os
import pwd
import re
import resource
import signal
import threading
import time

from agenttest import AgentTest, Connection, Stream, b64, frame, unb64, wait_for
from runner import alive, children

SERVICE = "process.Process/"


class ProcessTest(AgentTest):
    def start(self, cmd, args=(), headers=None, **request):
        """Starts a process: (its stream, its pid). What is not of the request itself is of its `process`."""
        process = {k: request.pop(k) for k in ("envs", "cwd") if k in request}
        stream = self.stream(SERVICE + "Start", {"process": {"cmd": cmd, "args": list(args), **process}, **request}, headers)
        first = stream.next()
        self.assertEqual(list(first["event"]), ["start"], first)
        return stream, first["event"]["start"]["pid"]

    def shell(self, script, **request):
        return self.start("/bin/sh", ["-c", script], **request)

    def finish(self, stream):
        """What it wrote, and its end event: {"stdout": …, "stderr": …, "pty": …, "end": …}."""
        got = {"stdout": b"", "stderr": b"", "pty": b""}
        for message in stream:
            (kind, value), = message["event"].items()
            self.assertNotIn("end", got, "an event behind the end event")
            if kind == "data":
                (name, text), = value.items()
                got[name] += unb64(text)
            elif kind == "end":
                got["end"] = value
            else:
                self.assertEqual((kind, value), ("keepalive", {}))
        self.assertEqual(stream.end, {})
        return got

    def run_shell(self, script, **request):
        return self.finish(self.shell(script, **request)[0])

    def refused(self, message, code, text, headers=None, method="Start"):
        """A stream that ends with this error at once."""
        stream = self.stream(SERVICE + method, message, headers)
        self.assertIsNone(stream.next())
        self.assertEqual(stream.end["error"]["code"], code, stream.end)
        self.assertRegex(stream.end["error"]["message"], text)

    def fails(self, method, message, code, status, text="."):
        answer = self.call(SERVICE + method, message, status=status)
        self.assertEqual(answer["code"], code, answer)
        self.assertRegex(answer["message"], text)

    def list(self):
        return self.call(SERVICE + "List", {})["processes"]

    def gone(self, pid):
        return wait_for(f"process {pid} is gone", lambda: not os.path.exists(f"/proc/{pid}"))


class Events(ProcessTest):
    def test_output_and_exit(self):
        got = self.run_shell("echo out; echo err >&2; exit 3")
        self.assertEqual((got["stdout"], got["stderr"]), (b"out\n", b"err\n"))
        self.assertEqual(got["end"], {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"})

    def test_exit_0_is_no_error(self):
        got = self.run_shell("true")
        self.assertEqual(got["end"], {"exitCode": 0, "exited": True, "status": "exit status 0"})

    def test_signal(self):
        for number, words in ((9, "killed"), (15, "terminated"), (2, "interrupt"), (10, "user defined signal 1"), (40, "signal 40")):
            with self.subTest(number=number):
                got = self.run_shell(f"kill -{number} $$; sleep 60")
                self.assertEqual(got["end"], {"exitCode": -1, "exited": False, "status": f"signal: {words}", "error": f"signal: {words}",
                                              "signal": number})

    def test_order_and_all_bytes(self):
        """Everything that was written before the end comes before the end event, also much of it at once."""
        got = self.run_shell("head -c 3000000 /dev/zero; echo end; echo e >&2")
        self.assertEqual(len(got["stdout"]), 3000004)
        self.assertTrue(got["stdout"].endswith(b"\0end\n"))
        self.assertEqual(got["stderr"], b"e\n")

    def test_bytes_that_are_no_text(self):
        self.assertEqual(self.run_shell(r"printf '\000\377\200x'")["stdout"], b"\0\xff\x80x")

    def test_what_a_descendant_holds_open(self):
        """A command that leaves something running in the background ends when it ends."""
        stream, _ = self.shell("(sleep 1000; echo late) & echo $!")
        got = self.finish(stream)
        os.kill(int(got["stdout"]), signal.SIGKILL)
        self.assertEqual(got["end"]["exitCode"], 0)

    def test_closed_output(self):
        """A process that closes its output goes on."""
        got = self.run_shell("exec >&- 2>&-; sleep 0.05; exit 4")
        self.assertEqual(got["end"]["exitCode"], 4)

    def test_request_in_chunks(self):
        c = self.connect()
        c.request("POST", "/" + SERVICE + "Start", frame({"process": {"cmd": "true"}}),
                  {"Content-Type": "application/connect+json"}, chunked=True)
        stream = Stream(c)
        self.assertIn("start", stream.next()["event"])
        self.assertEqual(self.finish(stream)["end"]["exitCode"], 0)

    def test_kept_connection(self):
        """After a stream the connection serves further calls."""
        c = self.connect()
        for i in range(3):
            c.request("POST", "/" + SERVICE + "Start", frame({"process": {"cmd": "sh", "args": ["-c", f"exit {i}"]}}),
                      {"Content-Type": "application/connect+json"})
            stream = Stream(c)
            stream.next()
            self.assertEqual(self.finish(stream)["end"]["exitCode"], i)

    def test_keepalive(self):
        stream, pid = self.shell("sleep 1000", headers={"Keepalive-Ping-Interval": "1"})
        self.assertEqual(stream.next(), {"event": {"keepalive": {}}})
        self.assertEqual(stream.next(), {"event": {"keepalive": {}}})
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        self.assertEqual(self.finish(stream)["end"]["status"], "signal: killed")

    def test_no_keepalive_while_there_is_output(self):
        got, _ = [], None
        stream, _ = self.shell("for i in 1 2 3 4 5 6; do echo $i; sleep 0.25; done", headers={"Keepalive-Ping-Interval": "1"})
        for message in stream:
            got += list(message["event"])
        self.assertNotIn("keepalive", got)


class Requests(ProcessTest):
    def test_environment(self):
        got = self.run_shell("env", envs={"A": "1", "HOME2": "x=y z", "USER": "mine"}, headers=None)
        env = dict(line.split("=", 1) for line in got["stdout"].decode().splitlines())
        env.pop("PWD", None), env.pop("SHLVL", None), env.pop("_", None)
        self.assertTrue(env.pop("PATH"))
        root = pwd.getpwuid(0)
        self.assertEqual(env, {"HOME": root.pw_dir, "USER": "mine", "LOGNAME": "root", "A": "1", "HOME2": "x=y z"})

    def test_path_of_the_request(self):
        """The command is looked for in the PATH that the process gets."""
        with open(f"{self.dir}/hello", "w", encoding="ascii") as f:
            f.write("#!/bin/sh\necho hello\n")
        os.chmod(f"{self.dir}/hello", 0o755)
        stream, _ = self.start("hello", envs={"PATH": f"{self.dir}:/usr/bin:/bin"})
        self.assertEqual(self.finish(stream)["stdout"], b"hello\n")
        self.refused({"process": {"cmd": "hello"}}, "invalid_argument", "'hello'.*No such file")

    def test_cwd(self):
        home = pwd.getpwuid(0).pw_dir
        os.mkdir(f"{self.dir}/d")
        for cwd, seen in ((None, home), ("/", "/"), (f"{self.dir}/d", f"{self.dir}/d"), (f"{self.dir}/x/../d", f"{self.dir}/d"), ("~", home)):
            with self.subTest(cwd=cwd):
                got = self.run_shell("pwd -P", **({} if cwd is None else {"cwd": cwd}))
                self.assertEqual(got["stdout"].decode().strip(), os.path.realpath(seen))

    def test_bad_cwd(self):
        self.refused({"process": {"cmd": "true", "cwd": "/no/such"}}, "invalid_argument", "cwd '/no/such' does not exist")
        self.refused({"process": {"cmd": "true", "cwd": "/etc/passwd"}}, "invalid_argument", "cwd '/etc/passwd'.*Not a directory")
        self.refused({"process": {"cmd": "true", "cwd": "/" + "a" * 5000}}, "invalid_argument", ".")
        self.refused({"process": {"cmd": "true", "cwd": "a\0b"}}, "invalid_argument", ".")

    def test_bad_command(self):
        self.refused({"process": {"cmd": "/no/such"}}, "invalid_argument", "'/no/such'")
        self.refused({"process": {"cmd": "/etc/passwd"}}, "invalid_argument", "Permission denied")
        self.refused({"process": {"cmd": ""}}, "invalid_argument", "process.cmd")
        self.refused({"process": {}}, "invalid_argument", "process.cmd")
        self.refused({}, "invalid_argument", "process.cmd")
        self.refused({"process": {"cmd": "true", "args": ["x" * 200000]}}, "invalid_argument", "Argument list too long")
        self.assertEqual(self.list(), [])

    def test_bad_messages(self):
        for message in ({"process": 1}, {"process": {"cmd": 1}}, {"process": {"cmd": "true", "args": "x"}},
                        {"process": {"cmd": "true", "args": [1, 2]}}, {"process": {"cmd": "true", "args": ["a", {}]}},
                        {"process": {"cmd": "true", "envs": {"A": 1}}}, {"process": {"cmd": "true", "envs": {"": "x"}}},
                        {"process": {"cmd": "true", "envs": {"A=B": "x"}}}, {"process": {"cmd": "true", "cwd": 5}},
                        {"process": {"cmd": "true"}, "pty": 1}, {"process": {"cmd": "true"}, "pty": {"size": {"cols": 65536}}},
                        {"process": {"cmd": "true"}, "pty": {"size": {"cols": -1}}}, {"process": {"cmd": "true"}, "tag": 1},
                        {"process": {"cmd": "true"}, "stdin": "no"}, [], 5, b"", b"{", b'{"a":1,"a":2}', b"\xff"):
            with self.subTest(message=message):
                self.refused(message, "invalid_argument", ".")

    def test_nulls_and_unknown_members(self):
        stream, _ = self.shell("exit 5", envs=None, cwd=None, pty=None, tag=None, stdin=None, unknown={"a": [1]})
        self.assertEqual(self.finish(stream)["end"]["exitCode"], 5)

    def test_user(self):
        nobody = pwd.getpwnam("nobody")
        header = {"Authorization": f"Basic {b64('nobody:')}"}
        got = self.run_shell("id -u; id -g; id -G; echo $HOME $USER $LOGNAME", headers=header, cwd="/")
        groups = [str(g) for g in os.getgrouplist("nobody", nobody.pw_gid)]
        lines = got["stdout"].decode().splitlines()
        self.assertEqual(lines[:2], [str(nobody.pw_uid), str(nobody.pw_gid)])
        self.assertEqual(sorted(lines[2].split()), sorted(groups))
        self.assertEqual(lines[3], f"{nobody.pw_dir} nobody nobody")

    def test_user_with_groups(self):
        """All supplementary groups of the user, and none of the agent's."""
        name, want = next(((u.pw_name, os.getgrouplist(u.pw_name, u.pw_gid)) for u in pwd.getpwall()
                           if u.pw_uid and len(os.getgrouplist(u.pw_name, u.pw_gid)) > 1), ("nobody", None))
        if not want:
            self.skipTest("no user of this host is in a second group")
        got = self.run_shell("id -G", headers={"Authorization": f"Basic {b64(name + ':')}"}, cwd="/")
        self.assertEqual(sorted(map(int, got["stdout"].split())), sorted(set(want)))

    def test_unknown_user(self):
        message = {"process": {"cmd": "true"}}
        self.refused(message, "unauthenticated", "user 'nosuch' does not exist", {"Authorization": f"Basic {b64('nosuch:')}"})
        for bad in ("Bearer x", "Basic", "Basic !!!", f"Basic {b64('nocolon')}"):
            self.refused(message, "unauthenticated", "Authorization", {"Authorization": bad})

    def test_cwd_with_the_rights_of_the_user(self):
        os.mkdir(f"{self.dir}/private", 0o700)
        self.refused({"process": {"cmd": "true", "cwd": f"{self.dir}/private"}}, "invalid_argument", "Permission denied",
                     {"Authorization": f"Basic {b64('nobody:')}"})

    def test_content_type_and_codings(self):
        for kind, path in (("application/json", "Start"), ("application/connect+json", "List"), ("application/connect+proto", "Start"),
                           ("text/plain", "List")):
            a = self.http("POST", f"/{SERVICE}{path}", b"{}", {"Content-Type": kind})
            self.assertEqual((a.status, a.json()["code"]), (415, 415), (kind, path))
        a = self.http("POST", f"/{SERVICE}List", b"{}", {"Content-Type": "application/json; charset=utf-8"})
        self.assertEqual((a.status, a.json()), (200, {"processes": []}))
        a = self.http("POST", f"/{SERVICE}List", b"{}", {"Content-Type": "application/json", "Content-Encoding": "gzip"})
        self.assertEqual((a.status, a.json()["code"]), (501, "unimplemented"))
        self.assertEqual(self.http("GET", f"/{SERVICE}List").status, 405)

    def test_frames(self):
        for body in (b"", b"\0\0\0", frame({}) + b"x", frame({}, 1), frame({}, 2), frame({}, 8), b"\0\xff\xff\xff\xff{}", frame({}) * 2):
            c = self.connect()
            c.request("POST", f"/{SERVICE}Start", body, {"Content-Type": "application/connect+json"})
            stream = Stream(c)
            self.assertIsNone(stream.next())
            self.assertIn(stream.end["error"]["code"], ("invalid_argument", "resource_exhausted"), body)

    def test_too_large(self):
        c = self.connect()
        c.send(f"POST /{SERVICE}List HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 4194305\r\n\r\n".encode())
        a = c.answer()
        self.assertEqual((a.status, a.json()["code"]), (429, "resource_exhausted"))
        with Connection(self.path) as d:
            d.send(f"POST /{SERVICE}Start HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            try:
                for _ in range(70):
                    d.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            except (BrokenPipeError, ConnectionResetError):
                pass
            stream = Stream(d)
            self.assertIsNone(stream.next())
            self.assertEqual(stream.end["error"]["code"], "resource_exhausted")

    def test_deadline(self):
        """The process and what it has started are killed, and the stream says why it ended."""
        stream, pid = self.shell("sleep 1000 & echo $!; wait", headers={"Connect-Timeout-Ms": "300"})
        inner = int(unb64(stream.next()["event"]["data"]["stdout"]))
        self.assertIsNone(stream.next())
        self.assertEqual(stream.end["error"]["code"], "deadline_exceeded")
        self.gone(pid)
        wait_for("its child is gone", lambda: not alive(inner))

    def test_deadline_without_its_client(self):
        stream, pid = self.shell("sleep 1000", headers={"Connect-Timeout-Ms": "300"})
        stream.close()
        self.gone(pid)

    def test_killed_with_its_client(self):
        """killOnDisconnect: with the client that has started it, the process group goes; another listener may come and go."""
        stream, pid = self.shell("sleep 1000 & echo $!; wait", killOnDisconnect=True)
        inner = int(unb64(stream.next()["event"]["data"]["stdout"]))
        other = self.stream(SERVICE + "Connect", {"process": {"pid": pid}})
        other.next()
        other.close()
        self.assertEqual([p["pid"] for p in self.list()], [pid])
        stream.close()
        self.gone(pid)
        wait_for("its child is gone", lambda: not alive(inner))
        self.refused({"process": {"cmd": "true"}, "killOnDisconnect": 1}, "invalid_argument", "killOnDisconnect")

    def test_killed_with_a_client_that_leaves_at_once(self):
        """Also before the program runs, and before it is the leader of its group."""
        for i in range(200):
            with Connection(self.path) as c:
                message = json.dumps({"process": {"cmd": "sleep", "args": ["1000"]}, "killOnDisconnect": True}).encode()
                c.request("POST", f"/{SERVICE}Start", frame(message), {"Content-Type": "application/connect+json"})
                time.sleep(i * 2e-5)
        wait_for("no process", lambda: self.list() == [] and children(self.agent.pid) == [])

    def test_deadline_that_is_none(self):
        for text in ("x", "", "-1", "1.5", "12345678901"):
            self.refused({"process": {"cmd": "true"}}, "invalid_argument", "Connect-Timeout-Ms", {"Connect-Timeout-Ms": text})
        self.assertEqual(self.run_shell("exit 6", headers={"Connect-Timeout-Ms": "0"})["end"]["exitCode"], 6)

    def test_own_session_and_no_descriptors(self):
        got = self.run_shell("ps -o sid= -p $$; echo $$; ls /proc/self/fd | wc -l")
        sid, pid, fds = (int(x) for x in got["stdout"].split())
        self.assertEqual((sid, fds), (pid, 4))

    def test_limit_of_descriptors_is_the_agents_own(self):
        """The agent takes more for itself, and gives on what it was started with."""
        soft, hard = resource.prlimit(self.agent.pid, resource.RLIMIT_NOFILE)
        self.assertEqual(soft, hard)
        ours = resource.getrlimit(resource.RLIMIT_NOFILE)
        got = self.run_shell("ulimit -Sn; ulimit -Hn")
        self.assertEqual([int(n) for n in got["stdout"].split()], list(ours))

    def test_signals_are_as_a_program_expects(self):
        got = self.run_shell("grep -E 'Sig(Blk|Ign)' /proc/self/status")
        self.assertEqual(re.findall(rb"0{16}", got["stdout"]), [b"0" * 16] * 2, got)


class Live(ProcessTest):
    def test_list(self):
        stream, pid = self.shell("exec sleep 1000", tag='t"1', envs={"A": "\u00e4"}, cwd="/")
        other, other_pid = self.start("sleep", ["1000"])
        by_pid = {p["pid"]: p for p in self.list()}
        self.assertEqual(by_pid, {
            pid: {"pid": pid, "tag": 't"1', "config": {"cmd": "/bin/sh", "args": ["-c", "exec sleep 1000"], "envs": {"A": "\u00e4"}, "cwd": "/"}},
            other_pid: {"pid": other_pid, "config": {"cmd": "sleep", "args": ["1000"], "envs": {}}}})
        for selector in ({"tag": 't"1'}, {"pid": str(other_pid)}):
            self.assertEqual(self.call(SERVICE + "SendSignal", {"process": selector, "signal": "SIGNAL_SIGKILL"}), {})
        self.finish(stream), self.finish(other)
        self.assertEqual(self.list(), [])

    def test_connect_again(self):
        """A client that goes away does not end the process; another one gets its output from now on, and its end."""
        stream, pid = self.shell("read line; echo got $line; exit 7", tag="t")
        stream.close()
        again = self.stream(SERVICE + "Connect", {"process": {"tag": "t"}})
        self.assertEqual(again.next(), {"event": {"start": {"pid": pid}}})
        self.call(SERVICE + "SendInput", {"process": {"pid": pid}, "input": {"stdin": b64("hello\n")}})
        got = self.finish(again)
        self.assertEqual((got["stdout"], got["end"]["exitCode"]), (b"got hello\n", 7))

    def test_goes_on_without_a_listener(self):
        """Output that nobody hears does not hold the process up."""
        stream, pid = self.shell("read x; head -c 5000000 /dev/zero; echo done > " + self.dir + "/done; read x")
        self.call(SERVICE + "SendInput", {"process": {"pid": pid}, "input": {"stdin": b64("\n")}})
        stream.close()
        wait_for("it has written all", lambda: os.path.exists(self.dir + "/done"))
        self.call(SERVICE + "CloseStdin", {"process": {"pid": pid}})
        self.gone(pid)

    def test_several_listeners(self):
        stream, pid = self.shell("read x; head -c 3000000 /dev/zero | tr '\\0' x; exit 1")
        others = [self.stream(SERVICE + "Connect", {"process": {"pid": pid}}) for _ in range(3)]
        for o in others:
            self.assertIn("start", o.next()["event"])
        self.call(SERVICE + "SendInput", {"process": {"pid": pid}, "input": {"stdin": b64("\n")}})
        results = {}
        threads = [threading.Thread(target=lambda i=i, s=s: results.update({i: self.finish(s)})) for i, s in enumerate([stream, *others])]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for i in range(4):
            self.assertEqual((results[i]["stdout"], results[i]["end"]["exitCode"]), (b"x" * 3000000, 1))

    def test_listener_that_does_not_read(self):
        """The process waits for it, nothing is lost, and the agent holds little meanwhile."""
        stream, pid = self.shell("head -c 20000000 /dev/zero; echo over >&2; exec sleep 1000")
        other = self.stream(SERVICE + "Connect", {"process": {"pid": pid}})
        time.sleep(0.2)
        self.small(4 << 20)
        self.assertEqual(self.http("GET", "/health").status, 204)
        other.close()       # now the first one alone is what it waits for
        got, over = 0, False
        while got < 20000000 or not over:       # two pipes: the word may overtake the last bytes
            data = stream.next()["event"]["data"]
            got += len(unb64(data.get("stdout", "")))
            over = over or "stderr" in data
        self.assertEqual(got, 20000000)
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})

    def test_listener_that_goes_while_all_wait_for_it(self):
        stream, pid = self.shell("head -c 20000000 /dev/zero; exit 9")
        other = self.stream(SERVICE + "Connect", {"process": {"pid": pid}})
        other.next()
        done = threading.Timer(0.3, other.close)
        done.start()
        self.assertEqual(self.finish(stream)["end"]["exitCode"], 9)
        done.join()

    def test_deadline_of_a_connect(self):
        stream, pid = self.start("sleep", ["1000"])
        again = self.stream(SERVICE + "Connect", {"process": {"pid": pid}}, {"Connect-Timeout-Ms": "100"})
        again.next()
        self.assertIsNone(again.next())
        self.assertEqual(again.end["error"]["code"], "deadline_exceeded")
        self.assertEqual(len(self.list()), 1)
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGTERM"})
        self.assertEqual(self.finish(stream)["end"]["status"], "signal: terminated")

    def test_signals_go_to_the_group(self):
        stream, pid = self.shell("sleep 1000; true")
        child = wait_for("its child", lambda: children(pid))
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        self.assertEqual(self.finish(stream)["end"]["status"], "signal: killed")
        wait_for("the child is gone", lambda: not alive(child[0]))

    def test_bad_signal(self):
        stream, pid = self.start("sleep", ["1000"])
        for bad in ("SIGNAL_UNSPECIFIED", "SIGKILL", 1, None, "SIGNAL_SIGHUP"):
            self.fails("SendSignal", {"process": {"pid": pid}, "signal": bad}, "invalid_argument", 400, "signal")
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": 9})
        self.finish(stream)

    def test_gone(self):
        stream, pid = self.shell("true", tag="was")
        self.finish(stream)
        for selector, text in (({"pid": pid}, f"process with pid {pid} not found"), ({"tag": "was"}, "process with tag was not found")):
            for method, rest in (("SendSignal", {"signal": "SIGNAL_SIGKILL"}), ("SendInput", {"input": {"stdin": ""}}), ("CloseStdin", {}),
                                 ("Update", {"pty": {"size": {"cols": 1, "rows": 1}}})):
                with self.subTest(method=method):
                    self.fails(method, {"process": selector, **rest}, "not_found", 404, text)
            self.refused({"process": selector}, "not_found", text, method="Connect")

    def test_no_selector(self):
        for message in ({}, {"process": {}}, {"process": {"pid": -1}}, {"process": {"pid": 1 << 32}}, {"process": {"pid": "x"}}, {"process": []}):
            self.fails("CloseStdin", message, "invalid_argument", 400)
            self.refused(message, "invalid_argument", ".", method="Connect")

    def test_reaped(self):
        for _ in range(20):
            self.run_shell("(sleep 0.01 &); true")
        wait_for("no zombie is left", lambda: "Z" not in os.popen(f"ps -o stat= --ppid {self.agent.pid}").read())


class Input(ProcessTest):
    def test_stdin(self):
        stream, pid = self.start("cat")
        for text in ("one\n", "", "two\n"):
            self.assertEqual(self.call(SERVICE + "SendInput", {"process": {"pid": pid}, "input": {"stdin": b64(text)}}), {})
        self.assertEqual(self.call(SERVICE + "CloseStdin", {"process": {"pid": pid}}), {})
        got = self.finish(stream)
        self.assertEqual((got["stdout"], got["end"]["exitCode"]), (b"one\ntwo\n", 0))

    def test_stdin_false_is_nothing_at_all(self):
        got = self.run_shell("readlink /proc/self/fd/0; cat", stdin=False)
        self.assertEqual(got["stdout"], b"/dev/null\n")
        for stdin in (True, None):
            stream, pid = self.shell("readlink /proc/self/fd/0; exec cat", stdin=stdin)
            self.assertIn(b"pipe:", unb64(stream.next()["event"]["data"]["stdout"]))
            self.call(SERVICE + "CloseStdin", {"process": {"pid": pid}})
            self.finish(stream)

    def test_stdin_that_is_not_there(self):
        stream, pid = self.start("sleep", ["1000"], stdin=False)
        sel = {"process": {"pid": pid}}
        self.fails("SendInput", {**sel, "input": {"stdin": b64("x")}}, "failed_precondition", 400, "not enabled, or closed")
        self.fails("SendInput", {**sel, "input": {"pty": b64("x")}}, "failed_precondition", 400, "no terminal")
        self.fails("SendInput", {**sel, "input": {}}, "invalid_argument", 400)
        self.fails("SendInput", sel, "invalid_argument", 400)
        self.fails("SendInput", {**sel, "input": {"stdin": "!"}}, "invalid_argument", 400, "base64")
        self.assertEqual(self.call(SERVICE + "CloseStdin", sel), {})
        self.call(SERVICE + "SendSignal", {**sel, "signal": "SIGNAL_SIGKILL"})
        self.finish(stream)

    def test_stdin_closed_twice(self):
        stream, pid = self.shell("sleep 1000")
        sel = {"process": {"pid": pid}}
        for _ in range(2):
            self.assertEqual(self.call(SERVICE + "CloseStdin", sel), {})
        self.fails("SendInput", {**sel, "input": {"stdin": b64("x")}}, "failed_precondition", 400)
        self.call(SERVICE + "SendSignal", {**sel, "signal": "SIGNAL_SIGKILL"})
        self.finish(stream)

    def test_process_closes_its_stdin(self):
        stream, pid = self.shell("exec <&-; echo closed; exec sleep 1000")
        stream.next()
        sel = {"process": {"pid": pid}}
        self.fails("SendInput", {**sel, "input": {"stdin": b64("x")}}, "failed_precondition", 400, "closed its stdin")
        self.call(SERVICE + "SendSignal", {**sel, "signal": "SIGNAL_SIGKILL"})
        self.finish(stream)

    def send_in_background(self, pid, data, headers=None):
        c = self.connect()
        c.request("POST", f"/{SERVICE}SendInput", json.dumps({"process": {"pid": pid}, "input": {"stdin": b64(data)}}).encode(),
                  {"Content-Type": "application/json", **(headers or {})})
        return c

    def test_more_than_the_pipe_holds(self):
        """The call is answered when the process has taken all; closing waits for that, and calls keep their order."""
        os.mkfifo(self.dir + "/go")
        stream, pid = self.shell("read x < " + self.dir + "/go; exec md5sum")
        parts = [bytes([65 + i]) * 700000 for i in range(3)]
        calls = []
        for part in parts:
            calls.append(self.send_in_background(pid, part))
            self.http("GET", "/health")
            time.sleep(0.02)
        self.assertEqual(self.call(SERVICE + "CloseStdin", {"process": {"pid": pid}}), {})
        calls[0].sock.setblocking(False)
        self.assertRaises(BlockingIOError, calls[0].sock.recv, 1)
        calls[0].sock.settimeout(60)
        with open(self.dir + "/go", "w", encoding="ascii") as f:
            f.write("\n")
        self.assertEqual(self.finish(stream)["stdout"].split()[0].decode(), hashlib.md5(b"".join(parts)).hexdigest())
        for c in calls:
            self.assertEqual(c.answer().status, 200)

    def test_end_while_input_waits(self):
        stream, pid = self.shell("exec sleep 1000")
        c = self.send_in_background(pid, b"x" * 1000000)
        late = self.send_in_background(pid, b"y" * 1000000, {"Connect-Timeout-Ms": "50"})
        a = late.answer()
        self.assertEqual((a.status, a.json()["code"]), (504, "deadline_exceeded"))
        gone = self.send_in_background(pid, b"z" * 1000000)
        gone.close()
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        self.finish(stream)
        a = c.answer()
        self.assertIn((a.status, a.json()["code"]), ((404, "not_found"), (400, "failed_precondition")))

    def test_stream_input(self):
        stream, pid = self.start("cat")
        c = self.connect()
        c.request("POST", f"/{SERVICE}StreamInput", None, {"Content-Type": "application/connect+json", "Transfer-Encoding": "chunked"})

        def chunk(data):
            c.send(b"%x\r\n%s\r\n" % (len(data), data))
        start = frame({"start": {"process": {"pid": pid}}})
        chunk(start[:3])
        chunk(start[3:])
        chunk(frame({"data": {"input": {"stdin": b64("one ")}}}) + frame({"keepalive": {}}) + frame({"data": {"input": {"stdin": b64("two")}}}))
        seen = b""
        while seen != b"one two":
            seen += unb64(stream.next()["event"]["data"]["stdout"])
        c.send(b"0\r\n\r\n")
        answer = Stream(c)
        self.assertEqual(answer.next(), {})
        self.assertIsNone(answer.next())
        self.assertEqual(answer.end, {})
        self.call(SERVICE + "CloseStdin", {"process": {"pid": pid}})
        self.assertEqual(self.finish(stream)["end"]["exitCode"], 0)

    def test_stream_of_much_input(self):
        """Back-pressure: nothing is lost, and the agent holds little."""
        os.mkfifo(self.dir + "/go")
        stream, pid = self.shell("read x < " + self.dir + "/go; exec wc -c")
        piece = frame({"data": {"input": {"stdin": b64(b"x" * 100000)}}})
        body = frame({"start": {"process": {"pid": pid}}}) + piece * 100
        c = self.connect()
        sender = threading.Thread(target=c.request, args=("POST", f"/{SERVICE}StreamInput", body, {"Content-Type": "application/connect+json"}))
        sender.start()
        time.sleep(0.2)
        self.small(6 << 20)
        with open(self.dir + "/go", "w", encoding="ascii") as f:
            f.write("\n")
        sender.join()
        self.assertEqual(Stream(c).next(), {})
        self.call(SERVICE + "CloseStdin", {"process": {"pid": pid}})
        self.assertEqual(self.finish(stream)["stdout"].strip(), b"10000000")

    def test_bad_streams_of_input(self):
        stream, pid = self.start("cat")
        start = frame({"start": {"process": {"pid": pid}}})
        data = frame({"data": {"input": {"stdin": b64("x")}}})
        for body, code in ((frame({"start": {"process": {"pid": 1}}}), "not_found"), (data, "invalid_argument"), (start + start, "invalid_argument"),
                           (start + frame({}), "invalid_argument"), (start + data[:-1], "invalid_argument"), (start + frame(b"x"), "invalid_argument"),
                           (start + frame({"data": {"input": {"pty": b64("x")}}}), "failed_precondition"),
                           (start + frame({"data": {}}), "invalid_argument"), (b"\0\xff\0\0\0", "resource_exhausted"), (frame({}, 1), "invalid_argument")):
            with self.subTest(body=body):
                c = self.connect()
                c.request("POST", f"/{SERVICE}StreamInput", body, {"Content-Type": "application/connect+json"})
                answer = Stream(c)
                self.assertIsNone(answer.next())
                self.assertEqual(answer.end["error"]["code"], code, answer.end)
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        self.finish(stream)

    def test_stream_input_to_a_process_that_ends(self):
        stream, pid = self.start("cat")
        c = self.connect()
        c.request("POST", f"/{SERVICE}StreamInput", None, {"Content-Type": "application/connect+json", "Transfer-Encoding": "chunked"})
        start = frame({"start": {"process": {"pid": pid}}})
        c.send(b"%x\r\n%s\r\n" % (len(start), start))
        self.http("GET", "/health")
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        self.finish(stream)
        answer = Stream(c)
        self.assertIsNone(answer.next())
        self.assertEqual(answer.end["error"]["code"], "not_found")


class Terminal(ProcessTest):
    def until(self, stream, text):
        seen = b""
        while text not in seen:
            seen += unb64(stream.next()["event"]["data"]["pty"])
        return seen

    def test_terminal(self):
        stream, pid = self.shell("stty size; tty; read x; stty size; exit 2", pty={"size": {"cols": 80, "rows": 24}}, envs={"TERM": "xterm"})
        seen = self.until(stream, b"/dev/pts/")
        self.assertIn(b"24 80", seen)
        self.assertEqual(self.call(SERVICE + "Update", {"process": {"pid": pid}, "pty": {"size": {"cols": 132, "rows": 43}}}), {})
        self.call(SERVICE + "SendInput", {"process": {"pid": pid}, "input": {"pty": b64("x\r")}})
        got = self.finish(stream)
        self.assertIn(b"43 132", got["pty"])
        self.assertEqual((got["end"]["exitCode"], got["stdout"], got["stderr"]), (2, b"", b""))

    @staticmethod
    def in_foreground(shell, program):
        """Is a child of the shell with that name in the terminal's foreground group?"""
        for child in children(shell):
            try:
                with open(f"/proc/{child}/stat", encoding="ascii") as f:
                    name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
            except (FileNotFoundError, ProcessLookupError):
                continue
            fields = rest.split()           # state, ppid, pgrp, session, tty, tpgid
            if name == program and fields[2] == fields[5]:
                return True
        return False

    def test_job_control(self):
        """The terminal is the process' controlling one: Ctrl+C reaches what is in the foreground, Ctrl+D is the end."""
        stream, pid = self.start("/bin/bash", ["--norc", "-i"], pty={"size": {"cols": 80, "rows": 24}}, envs={"PS1": "READY> "})
        self.until(stream, b"READY> ")
        self.call(SERVICE + "SendInput", {"process": {"pid": pid}, "input": {"pty": b64("echo $((6*7))a; sleep 1000\r")}})
        self.until(stream, b"\n42a")
        wait_for("sleep is in the foreground", lambda: self.in_foreground(pid, "sleep"))
        self.call(SERVICE + "SendInput", {"process": {"pid": pid}, "input": {"pty": b64("\x03")}})
        self.until(stream, b"READY> ")
        self.call(SERVICE + "SendInput", {"process": {"pid": pid}, "input": {"pty": b64("exit 5\r")}})
        self.assertEqual(self.finish(stream)["end"]["exitCode"], 5)

    def test_wrong_calls(self):
        stream, pid = self.start("cat", pty={"size": {"cols": 80, "rows": 24}})
        sel = {"process": {"pid": pid}}
        self.fails("SendInput", {**sel, "input": {"stdin": b64("x")}}, "failed_precondition", 400, "terminal")
        self.fails("CloseStdin", sel, "failed_precondition", 400, "Ctrl")
        self.fails("Update", {**sel, "pty": {"size": {"cols": 70000}}}, "invalid_argument", 400)
        self.assertEqual(self.call(SERVICE + "Update", sel), {})
        self.call(SERVICE + "SendInput", {**sel, "input": {"pty": b64("\x04")}})
        self.assertEqual(self.finish(stream)["end"]["exitCode"], 0)
        stream, pid = self.start("sleep", ["1000"])
        self.fails("Update", {"process": {"pid": pid}, "pty": {"size": {"cols": 1, "rows": 1}}}, "failed_precondition", 400, "no terminal")
        self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        self.finish(stream)

    def test_all_of_a_terminal(self):
        """What was written right before the end is not lost; Ctrl+C to a shell that is gone is nobody's."""
        for _ in range(20):
            got = self.run_shell("seq 1 500; echo last", pty={"size": {"cols": 80, "rows": 24}})
            self.assertTrue(got["pty"].endswith(b"500\r\nlast\r\n"), got["pty"][-40:])

    def test_terminal_of_a_user(self):
        got = self.run_shell("stat -c %U $(tty)", pty={"size": {"cols": 80, "rows": 24}}, headers={"Authorization": f"Basic {b64('nobody:')}"}, cwd="/")
        self.assertEqual(got["pty"], b"nobody\r\n")


class Many(ProcessTest):
    def test_too_many_processes(self):
        """The 1025th is refused by name, also when 10,000 are asked for; those that run go on."""
        c = self.connect()
        started = []
        for i in range(10000 if os.environ.get("FORKD_TEST_FULL") == "1" else 1100):
            c.request("POST", f"/{SERVICE}Start", frame({"process": {"cmd": "sleep", "args": ["1000"]}, "stdin": False}),
                      {"Content-Type": "application/connect+json"})
            stream = Stream(c)
            first = stream.next()
            if first is None:
                self.assertEqual(stream.end["error"]["code"], "resource_exhausted")
                self.assertEqual(len(started), 1024)
                continue
            started.append(first["event"]["start"]["pid"])
            c.close()
            c = self.connect()
        self.assertEqual(len(started), 1024)
        self.assertEqual(len(self.list()), 1024)
        self.small(8 << 20)
        for pid in started:
            self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        wait_for("all are gone", lambda: self.list() == [])
        self.assertEqual(self.run_shell("exit 8")["end"]["exitCode"], 8)

    def test_configurations_are_bounded(self):
        """List shows what was asked for; all of that together has a bound."""
        big = ["x" * 100000] * 10
        pids = []
        while True:
            stream = self.stream(SERVICE + "Start", {"process": {"cmd": "sleep", "args": ["1000"], "envs": {f"A{i}": v for i, v in enumerate(big)}}})
            first = stream.next()
            if first is None:
                break
            pids.append(first["event"]["start"]["pid"])
            self.assertLess(len(pids), 17)
        self.assertEqual(stream.end["error"]["code"], "resource_exhausted")
        self.assertEqual(len(pids), 16)
        for pid in pids:
            self.call(SERVICE + "SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})

    def test_bodies_are_bounded(self):
        """Calls that never end cannot fill the memory; others are told to come again."""
        slow = [self.connect() for _ in range(12)]
        refused = 0
        for c in slow:
            c.send(f"POST /{SERVICE}List HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n".encode())
            try:
                c.send(b" " * 3900000)
            except (BrokenPipeError, ConnectionResetError):
                refused += 1
        self.http("GET", "/health")
        self.small(64 << 20)
        for c in slow:
            c.sock.setblocking(False)
            try:
                refused += b"429" in c.sock.recv(1000)
            except (BlockingIOError, ConnectionResetError):
                pass
            c.close()
        self.assertGreater(refused, 0)
        self.assertEqual(self.http("GET", "/health").status, 204)
        self.assertEqual(self.list(), [])

    def test_many_at_once(self):
        """Fifty streams at a time, each with its own bytes."""
        streams = [self.shell(f"for i in $(seq 100); do echo {n} $i; done") for n in range(50)]
        for n, (stream, _) in enumerate(streams):
            self.assertEqual(self.finish(stream)["stdout"].decode().splitlines(), [f"{n} {i}" for i in range(1, 101)])


class DefaultUser(ProcessTest):
    options = ["--default-user", "nobody"]

    def test_who_a_request_is_for(self):
        self.assertEqual(self.run_shell("id -un", cwd="/")["stdout"], b"nobody\n")
        self.assertEqual(self.run_shell("id -un", headers={"Authorization": "Basic " + b64("root:")})["stdout"], b"root\n")
