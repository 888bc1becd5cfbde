# SPDX-License-Identifier: Apache-2.0
"""Linux guests with forkd-agent, cloned by forkd: no clone draws what another draws, and each has ids, a name and a clock of its own."""
import re
import time

from daemon import Forkd, shell
from lab import INITRD, KERNEL, check, test, wait_for

CLONES = 4
DRAWS = "/run/draws"
LINUX = {"kernel": KERNEL, "initramfs": INITRD, "cmdline": "console=ttyS0 quiet panic=-1 forkd.test=agent"}


def draws(clone):
    """(time of day, monotonic time, bytes) of each draw so far; the newest may be half written."""
    return [(int(a), int(b), c) for a, b, c in re.findall(r"^(\d+) (\d+) ([0-9a-f]{32})$", shell(clone, f"cat {DRAWS}"), re.M)]


def after_the_clone(all_draws):
    """What each clone has drawn since it was cloned: all behind the draws that come from the template. These are found by their
    monotonic time and their bytes both being the same; a clone that draws what its sibling draws does so at another instant."""
    common = 0
    while all(len(d) > common for d in all_draws) and len({(d[common][1], d[common][2]) for d in all_draws}) == 1:
        common += 1
    check(common > 0, "no draw comes from the template")
    return common, [d[common:] for d in all_draws]


@test("identity", "quick", "full")
def identity():
    with Forkd("identity") as d:
        t = d.template("t", LINUX, {"agent": True})
        check(t["agent"]["protocol"] == 1, f"the template has no agent: {t}")
        asked_ns = time.time_ns()
        clones = d.call("POST", "/v1/templates/t/clones", {"count": CLONES})["clones"]
        check([c["identity"] for c in clones] == ["unique"] * CLONES, f"not all are unique: {clones}")
        print(f"  {CLONES} clones are ready after {max(c['phases_us']['ready'] for c in clones) / 1000:.0f} ms: {clones[0]['phases_us']}")
        for c in clones:
            wait_for(f"five draws of {c['id']}", lambda c=c: len(draws(c)) > 5 and draws(c)[-5][0] >= asked_ns,
                     context=lambda c=c: f": {draws(c)[-5:]}, asked for at {asked_ns}")
        common, own = after_the_clone([draws(c) for c in clones])
        values = [value for d_ in own for _, _, value in d_]
        check(len(values) == len(set(values)), "two clones have drawn the same bytes")
        for c, d_ in zip(clones, own):
            check(d_[0][0] >= asked_ns - 200_000_000, f"{c['id']} has drawn {asked_ns - d_[0][0]} ns before it was asked for")
        names = {shell(c, "hostname") for c in clones}
        check(names == {c["id"] for c in clones}, f"hostnames {names}")
        for what in ("cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "cat /proc/sys/kernel/random/uuid"):
            found = {shell(c, what) for c in clones}
            check(len(found) == CLONES, f"{what}: {found}")
        for c in clones:
            off = 0.1 + (c["phases_us"]["identity"] - c["phases_us"]["agent"]) / 2e6
            before = time.time()
            inside = int(shell(c, "date +%s"))      # whole seconds
            check(before - 1 - off <= inside <= time.time() + off, f"{c['id']} has the time {inside}, the host {before}; {off} s are allowed")
        print(f"  {common} draws in the template, then {len(values)} draws, all different")
        # A clone of a clone, and one that was paused
        d.call("PUT", f"/v1/clones/{clones[0]['id']}/pause")
        d.call("POST", f"/v1/clones/{clones[0]['id']}/snapshot", {"name": "u"})
        d.call("PUT", f"/v1/clones/{clones[0]['id']}/resume")
        again = d.call("POST", "/v1/templates/u/clones", {"count": 2, "overrides": {"identity": {"env": {"TOKEN": "s3cret"}, "files": [
            {"path": "/run/secret", "content": "s3cret\n"}]}}})["clones"]
        check(len({shell(c, "cat /etc/machine-id /proc/sys/kernel/random/boot_id") for c in [*again, *clones]}) == CLONES + 2, "ids of clones of a clone")
        for c in again:
            check(shell(c, "echo $TOKEN; cat /run/secret; stat -c %a /run/secret") == "s3cret\ns3cret\n600", "settings of a clone")
