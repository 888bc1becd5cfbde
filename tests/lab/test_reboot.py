# SPDX-License-Identifier: Apache-2.0
"""Linux that reboots inside a clone: the kernel and the initramfs of the template boot again, on the clone's own disk."""
import os

from daemon import Forkd, shell
from lab import TMP, check, run, test, wait_for
from test_identity import LINUX


def reboot(d, clone, command="reboot -f"):
    """The clone's agent answers again, in another boot: what was in memory is gone."""
    shell(clone, "echo > /run/before")
    try:
        shell(clone, command)       # it does not come back
    except Exception as e:          # pylint: disable=broad-except
        print(f"  as {command} breaks off: {str(e)[:100]}")

    def is_new():
        try:
            return shell(clone, "ls /run/before 2> /dev/null || echo new") == "new"
        except Exception:           # pylint: disable=broad-except
            return False
    wait_for(f"the agent of {clone['id']} in another boot", is_new, context=lambda: f": {d.call('GET', '/v1/clones/' + clone['id'])}")


@test("clone-reboot", "full")
def clone_reboot():
    disk = os.path.join(TMP, "reboot.img")
    run("mke2fs", "-q", "-F", "-t", "ext4", disk, "16M")
    with Forkd("clone-reboot") as d:
        t = d.template("t", LINUX, {"agent": True}, disks=[{"id": "disk0", "path": disk, "image_type": "Raw"}])
        check(t["reboots"], f"the template has not kept its kernel: {t}")
        one, other = d.call("POST", "/v1/templates/t/clones", {"count": 2})["clones"]
        for boot in (1, 2):
            shell(one, f"echo {boot} >> /mnt/boots; sync")
            reboot(d, one)
            check(shell(one, "cat /mnt/boots").split() == [str(n + 1) for n in range(boot)], "the disk lost what was written before the reboot")
            now = d.call("GET", f"/v1/clones/{one['id']}")
            check((now["state"], now["identity"], now["reboots"], now["pid"]) == ("running", "unique", boot, one["pid"]), f"after the reboot: {now}")
        check(shell(other, "ls /mnt").split() == ["lost+found"], "the other clone sees what was written")
        d.call("POST", f"/v1/clones/{one['id']}/snapshot", {"name": "u"})
        child = d.call("POST", "/v1/templates/u/clones", {})["clones"][0]
        check(shell(child, "hostname; cat /mnt/boots").split() == [child["id"], "1", "2"], "a clone of one that has rebooted")
        # A kernel that panics resets the machine, too.
        reboot(d, child, "sync; echo c > /proc/sysrq-trigger")
        print("  two reboots of a clone, and one of its child")
