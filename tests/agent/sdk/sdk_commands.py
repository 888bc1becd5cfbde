# SPDX-License-Identifier: Apache-2.0
"""Commands and terminals through the client classes of the package e2b; run by sdk.py."""
import asyncio
import time

from e2b import CommandExitException, InvalidArgumentException, NotFoundException, PtySize, TimeoutException
from e2b.exceptions import AuthenticationException


HOME = {"HOME": "/var/empty"}      # the commands come from a login shell: not with what a developer's profile does


def run(sbx, cmd, envs=None, **rest):
    return sbx.commands.run(cmd, envs={**HOME, **(envs or {})}, **rest)


def equal(got, want):
    assert got == want, f"{got!r} is not {want!r}"


def raises(kind, call, text=""):
    try:
        call()
    except kind as e:
        assert text in str(e), f"{e} lacks {text!r}"
        return e
    raise AssertionError(f"no {kind.__name__}")


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "not within a minute"
        time.sleep(0.01)


def check_is_running(sbx):
    equal(sbx.is_running(), True)


def check_run(sbx):
    result = run(sbx, "echo out; echo err >&2")
    equal((result.stdout, result.stderr, result.exit_code, result.error), ("out\n", "err\n", 0, None))


def check_exit_code(sbx):
    e = raises(CommandExitException, lambda: run(sbx, "echo x; exit 3"))
    equal((e.exit_code, e.stdout, e.error), (3, "x\n", "exit status 3"))


def check_callbacks(sbx):
    seen = []
    run(sbx, "echo a; echo b >&2", on_stdout=lambda s: seen.append(("out", s)), on_stderr=lambda s: seen.append(("err", s)))
    equal(sorted(seen), [("err", "b\n"), ("out", "a\n")])


def check_envs_and_cwd(sbx):
    equal(run(sbx, "echo $A; pwd", envs={"A": "1 2"}, cwd="/tmp").stdout, "1 2\n/tmp\n")
    raises(InvalidArgumentException, lambda: run(sbx, "true", cwd="/no/such"), "cwd '/no/such' does not exist")


def check_user(sbx):
    equal(run(sbx, "id -un", user="nobody", cwd="/").stdout, "nobody\n")
    equal(run(sbx, "id -un").stdout, "root\n")
    raises(AuthenticationException, lambda: run(sbx, "true", user="nosuch"), "nosuch")


def check_much_output(sbx):
    result = run(sbx, "seq 1 200000")
    equal(result.stdout, "".join(f"{i}\n" for i in range(1, 200001)))


def check_unicode(sbx):
    equal(run(sbx, "printf 'äöü€😀%.0s' $(seq 20000)").stdout, "äöü€😀" * 20000)


def check_background_and_stdin(sbx):
    handle = run(sbx, "cat; echo over", background=True, stdin=True)
    handle.send_stdin("one\n")
    sbx.commands.send_stdin(handle.pid, "two\n")
    handle.close_stdin()
    equal(handle.wait().stdout, "one\ntwo\nover\n")
    raises(NotFoundException, lambda: sbx.commands.send_stdin(handle.pid, "x"))


def check_stdin_is_off(sbx):
    equal(run(sbx, "cat; readlink /proc/self/fd/0").stdout, "/dev/null\n")


def check_stream_input(sbx):
    handle = run(sbx, "cat", background=True, stdin=True)
    sbx.commands.stream_input(handle.pid, (f"{i}\n" for i in range(1000)))
    sbx.commands.close_stdin(handle.pid)
    equal(handle.wait().stdout, "".join(f"{i}\n" for i in range(1000)))
    raises(NotFoundException, lambda: sbx.commands.stream_input(handle.pid, ["x"]))


def check_list_and_kill(sbx):
    handle = run(sbx, "sleep 1000", background=True, envs={"A": "b"}, cwd="/")
    (info,) = [p for p in sbx.commands.list() if p.pid == handle.pid]
    equal((info.cmd, info.args, info.envs["A"], info.cwd, info.tag), ("/bin/bash", ["-l", "-c", "sleep 1000"], "b", "/", None))
    equal(sbx.commands.kill(handle.pid), True)
    e = raises(CommandExitException, handle.wait)
    equal((e.exit_code, e.error), (-1, "signal: killed"))
    equal((sbx.commands.kill(handle.pid), handle.kill()), (False, False))


def check_connect(sbx):
    handle = run(sbx, "read x; echo got $x", background=True, stdin=True)
    handle.disconnect()
    again = sbx.commands.connect(handle.pid)
    equal(again.pid, handle.pid)
    sbx.commands.send_stdin(handle.pid, "hello\n")
    equal(again.wait().stdout, "got hello\n")
    raises(NotFoundException, lambda: sbx.commands.connect(handle.pid))


def check_timeout(sbx):
    raises(TimeoutException, lambda: run(sbx, "sleep 1000 # timeout", timeout=0.5))
    until(lambda: not [p for p in sbx.commands.list() if "timeout" in p.args[-1]])


def check_pty(sbx):
    handle = sbx.pty.create(PtySize(rows=24, cols=80), cwd="/", envs=HOME)
    sbx.pty.resize(handle.pid, PtySize(rows=43, cols=132))
    sbx.pty.send_stdin(handle.pid, b"stty size; echo $TERM; exit 4\n")
    seen = []
    e = raises(CommandExitException, lambda: handle.wait(on_pty=seen.append))
    equal(e.exit_code, 4)
    text = b"".join(seen)
    assert b"43 132" in text and b"xterm" in text, text


def check_pty_kill(sbx):
    handle = sbx.pty.create(PtySize(rows=24, cols=80), envs=HOME)
    equal(sbx.pty.kill(handle.pid), True)
    raises(CommandExitException, handle.wait)
    equal(sbx.pty.kill(handle.pid), False)


async def check_async_run(sbx):
    results = await asyncio.gather(*(run(sbx, f"echo {i}") for i in range(20)))
    equal([r.stdout for r in results], [f"{i}\n" for i in range(20)])


async def check_async_background(sbx):
    handle = await run(sbx, "cat", background=True, stdin=True)
    await sbx.commands.send_stdin(handle.pid, "x\n")
    await sbx.commands.close_stdin(handle.pid)
    equal((await handle.wait()).stdout, "x\n")


async def check_async_pty(sbx):
    seen = []

    async def on_data(data):
        seen.append(data)
    handle = await sbx.pty.create(PtySize(rows=24, cols=80), on_data=on_data, envs=HOME)
    await sbx.pty.send_stdin(handle.pid, b"echo $((6*7)); exit\n")
    equal((await handle.wait()).exit_code, 0)
    assert b"42" in b"".join(seen), seen
