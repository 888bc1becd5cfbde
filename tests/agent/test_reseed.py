# SPDX-License-Identifier: Apache-2.0
"""What helps running programs to notice that their machine was cloned: guest/reseed/.

Twins are made by fork(2), below Python's and OpenSSL's notice: the same memory, the same number of a process. Each experiment is
done twice, without the help, where the twins have to agree, and with it, where they must not.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from agenttest import ROOT, wait_for
from systemtest import SystemTest

RESEED = os.path.join(ROOT, "guest", "reseed")
MODULE = os.path.join(os.environ.get("BUILD") or os.path.join(ROOT, "build"), "forkd-rand.so")
TWINS = 3

SAME_PID = "#include <unistd.h>\npid_t getpid(void) { return 4242; }\n"

# A warm interpreter, its twins, and what each of them draws; with the word "signal" the signal comes first.
WARM = r"""
import ctypes, json, os, random, signal, ssl, sys, tempfile, uuid
libc = ctypes.CDLL(None)
def draw():
    return {"random": random.random(), "tempfile": next(tempfile._get_candidate_names()), "ssl": ssl.RAND_bytes(8).hex(),
            "uuid4": str(uuid.uuid4()), "own": own.random()}
own = random.Random(7)
draw()
for _ in range(int(sys.argv[1])):
    r, w = os.pipe()
    if libc.fork() == 0:
        if "signal" in sys.argv:
            signal.raise_signal(signal.SIGRTMIN + 7)
        os.write(w, json.dumps(draw()).encode())
        libc._exit(0)
    print(os.read(r, 10000).decode())
"""


class Twins(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="forkd-reseed.")
        self.addCleanup(shutil.rmtree, self.dir)
        source, self.same_pid = os.path.join(self.dir, "pid.c"), os.path.join(self.dir, "pid.so")
        with open(source, "w", encoding="ascii") as f:
            f.write(SAME_PID)
        subprocess.run(["cc", "-shared", "-fPIC", source, "-o", self.same_pid], check=True)

    def twins(self, *words, **env):
        """How many different values the twins have drawn, for each kind."""
        out = subprocess.run([sys.executable, "-c", WARM, str(TWINS), *words], capture_output=True, text=True, check=True,
                             env={**os.environ, "LD_PRELOAD": self.same_pid, **env}).stdout
        drawn = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(len(drawn), TWINS)
        return {kind: len({d[kind] for d in drawn}) for kind in drawn[0]}

    def test_without_help(self):
        """Only what comes from the kernel each time differs: uuid4()."""
        self.assertEqual(self.twins(), {"random": 1, "tempfile": 1, "ssl": 1, "own": 1, "uuid4": TWINS})

    def test_openssl_provider(self):
        if not os.path.exists(MODULE):
            self.skipTest(f"{MODULE} is not there: it needs OpenSSL's headers")
        conf = os.path.join(self.dir, "openssl.cnf")
        with open(os.path.join(RESEED, "openssl.cnf"), encoding="ascii") as f:
            text = re.sub(r"(?m)^module = .*", f"module = {os.path.abspath(MODULE)}", f.read())
        with open(conf, "w", encoding="ascii") as f:
            f.write(text)
        self.assertEqual(self.twins(OPENSSL_CONF=conf), {"random": 1, "tempfile": 1, "ssl": TWINS, "own": 1, "uuid4": TWINS})


class Guest(SystemTest):
    """With the page and the folder of the agent, and the agent's own signals."""

    def site(self, name="forkd_reseed.pth"):
        """Words that start Python with the hook in a folder of site-packages."""
        self.assertTrue(os.path.exists(os.path.join(RESEED, name)))
        return [sys.executable, "-c", f"import site, sys; site.addsitedir({RESEED!r}); exec(sys.stdin.readline())"]

    def python(self, script, **env):
        p = self.start("x.slice", self.site(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                       env={**os.environ, **env})
        p.stdin.write(f"exec({script!r})\n")
        p.stdin.flush()
        return p

    TICKS = """
import random, sys, time
random.seed(1)
print(random.random(), flush=True)
for line in sys.stdin:
    print(random.random(), flush=True)
"""

    def next_draw(self, p):
        p.stdin.write("x\n")
        p.stdin.flush()
        return float(p.stdout.readline())

    def test_warm_python(self):
        """Before the identity it goes on as it was seeded; from the first draw after the thaw on it does not."""
        import random
        expected = random.Random(1)
        for env, reseeded in (({}, True), ({"FORKD_RESEED": "0"}, False)):
            expected.seed(1)
            p = self.python(self.TICKS, **env)
            self.assertEqual(float(p.stdout.readline()), expected.random())
            self.assertEqual(self.next_draw(p), expected.random())
            self.daemon("POST", "/v1/freeze", {})
            self.identity()
            self.assertEqual(self.next_draw(p) != expected.random(), reseeded)
            self.end(p)

    def test_registers_and_goes(self):
        """One registration for each process, children of fork too; none is left by those that ended in good order."""
        folder = f"/proc/{self.agent.pid}/root/run/forkd/notify.d"
        p = self.python("import os, sys; pid = os.fork(); print(flush=True); sys.stdin.readline(); pid and os.wait()")
        p.stdout.readline()
        p.stdout.readline()
        self.assertEqual(len(os.listdir(folder)), 2)
        p.stdin.write("\n\n")
        p.stdin.close()
        self.assertEqual(p.wait(), 0)
        self.assertEqual(os.listdir(folder), [])

    def test_everything_of_python(self):
        """The hook reaches all that the process as a whole has seeded, and no object of the program's own."""
        with open(os.path.join(self.dir, "pid.c"), "w", encoding="ascii") as f:
            f.write(SAME_PID)
        subprocess.run(["cc", "-shared", "-fPIC", f.name, "-o", f"{self.dir}/pid.so"], check=True)
        env = {**os.environ, "LD_PRELOAD": f"{self.dir}/pid.so"}
        words = [*self.site(), str(TWINS), "signal"]
        p = self.start("x.slice", words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        out, _ = p.communicate(f"exec({WARM!r})\n")
        drawn = [json.loads(line) for line in out.splitlines()]
        self.assertEqual({kind: len({d[kind] for d in drawn}) for kind in drawn[0]},
                         {"random": TWINS, "tempfile": TWINS, "ssl": TWINS, "uuid4": TWINS, "own": 1})

    NODE = r"""
const crypto = require('node:crypto');
const bytes = (n, v) => Buffer.alloc(n, v).toString('hex');
const check = (v) => {
	const a = new Uint16Array(4), b = Buffer.alloc(6);
	crypto.randomFillSync(a, 1, 2);
	crypto.randomFillSync(b, 2);
	return [Math.random(), crypto.randomBytes(4).toString('hex'), [...a], b.toString('hex'), crypto.randomInt(10, 20), crypto.randomInt(5),
		crypto.randomUUID(), [...globalThis.crypto.getRandomValues(new Uint8Array(3))], globalThis.crypto.randomUUID(), [...crypto.getRandomValues(new Uint8Array(2))]];
};
console.log(JSON.stringify(check()));
require('fs').writeFileSync('/run/urandom', Buffer.alloc(1 << 16, 0x55));
console.log(JSON.stringify(check()));
crypto.randomBytes(3, (e, b) => crypto.randomFill(Buffer.alloc(2), (e2, c) => crypto.randomInt(256, (e3, d) => {
	console.log(JSON.stringify([e, b.toString('hex'), c.toString('hex'), d]));
})));
for (const wrong of [() => crypto.randomBytes(-1), () => crypto.randomInt(3, 3), () => crypto.randomFillSync('x'),
	() => globalThis.crypto.getRandomValues(new Float64Array(1))])
	try { wrong(); console.log('taken'); } catch (e) { console.log(e.name); }
"""

    def test_node(self):
        """Each draw asks the kernel, whose answers are a file's here: zeros, then 0x55."""
        if not shutil.which("node"):
            self.skipTest("there is no node")
        script = "head -c 65536 /dev/zero > /run/urandom; mount --bind /run/urandom /dev/urandom; echo; exec sleep 1000"
        p = self.start("x.slice", ["sh", "-c", script], stdout=subprocess.PIPE)
        p.stdout.readline()
        p = self.start("x.slice", ["node", "--require", os.path.join(RESEED, "forkd_reseed.js"), "-e", self.NODE],
                       stdout=subprocess.PIPE, text=True)
        out = p.communicate()[0].splitlines()
        half = (0x55555555 >> 5) * 2**26 + (0x55555555 >> 6)
        self.assertEqual(json.loads(out[0]), [0, "00" * 4, [0, 0, 0, 0], "00" * 6, 10, 0, "00000000-0000-4000-8000-000000000000",
                                              [0, 0, 0], "00000000-0000-4000-8000-000000000000", [0, 0]])
        uuid = "55555555-5555-4555-9555-555555555555"
        self.assertEqual(json.loads(out[1]), [half / 2**53, "55" * 4, [0, 0x5555, 0x5555, 0], "0000" + "55" * 4,
                                              10 + 0x555555555555 % 10, 0x555555555555 % 5, uuid, [0x55] * 3, uuid, [0x55] * 2])
        self.assertEqual(out[2:6], ["RangeError", "RangeError", "TypeError", "TypeMismatchError"])
        self.assertEqual(json.loads(out[6]), [None, "55" * 3, "55" * 2, 0x55])
