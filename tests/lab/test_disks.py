# SPDX-License-Identifier: Apache-2.0
"""Clones of a Linux guest with an ext4 disk: each has its own, and a snapshot of one that writes has what it had synced."""
import hashlib
import os
import re
import subprocess
import threading

from daemon import Forkd, shell
from lab import INITRD, KERNEL, TMP, check, run, test, wait_for

CLONES, MIB_EACH, DISK_GIB = 8, 50, 2
CMDLINE = "console=ttyS0 quiet panic=-1 forkd.test=agent"
FREE_S = 30
# Numbered files, each synced before its number stands in the file "last", which is synced, too.
WRITER = """i=0
while true; do
  i=$((i + 1))
  yes "file $i" | head -c 100000 > /mnt/f$i && sync /mnt/f$i || break
  echo $i > /mnt/last.new && sync /mnt/last.new && mv /mnt/last.new /mnt/last && sync /mnt || break
done"""


def at_once(what, clones):
    """Runs what(clone, n) for all clones at the same time; returns the results in order."""
    results, threads = [None] * len(clones), []

    def one(n):
        try:
            results[n] = what(clones[n], n)
        except BaseException as e:      # noqa: BLE001: told below
            results[n] = e
    for n in range(len(clones)):
        threads.append(threading.Thread(target=one, args=(n,)))
        threads[-1].start()
    for t in threads:
        t.join()
    for r in results:
        if isinstance(r, BaseException):
            raise r
    return results


def text_of(n):
    return f"clone {n} of {CLONES}\n".encode()


def write_own(clone, n):
    """Writes its file, and reads it back from the disk. Returns the digest, and the names on the disk."""
    line = text_of(n).decode().strip()
    return shell(clone, f"yes '{line}' | head -c {MIB_EACH << 20} > /mnt/own && sync && echo 3 > /proc/sys/vm/drop_caches && "
                        "sha256sum < /mnt/own | cut -c1-64 && ls /mnt").split("\n")


def expected_digest(n):
    line = text_of(n)
    return hashlib.sha256((line * ((MIB_EACH << 20) // len(line) + 1))[:MIB_EACH << 20]).hexdigest()


def taken(store):
    """Bytes that the overlays take on the host."""
    folder = os.path.join(store, "overlays")
    return sum(os.stat(os.path.join(folder, name, "data")).st_blocks * 512 for name in os.listdir(folder))


def check_writer(clone):
    """Stops the writer that came with the snapshot. All files up to the last one that was synced are whole."""
    shell(clone, "pkill -f '[/]run/writer'; for n in $(seq 60); do pgrep -f '[/]run/writer' || break; sleep 1; done")
    last = int(shell(clone, "cat /mnt/last"))
    bad = shell(clone, f"for i in $(seq {last}); do yes \"file $i\" | head -c 100000 | cmp -s - /mnt/f$i || echo $i; done")
    check(last > 0 and not bad, f"{clone['id']}: of {last} files these are not whole: {bad}")
    shell(clone, "for n in $(seq 60); do umount /mnt && exit; sleep 1; done; exit 1")     # its last command ends first
    return last


def fsck_of(d, clone, name):
    """What e2fsck says of a clone's disk."""
    d.call("POST", f"/v1/clones/{clone['id']}/snapshot", {"name": name})
    image = d.call("POST", f"/v1/templates/{name}/flatten")["disks"][0]["image"]
    done = subprocess.run(["e2fsck", "-fn", os.path.join(d.dir, "store", "images", image, "data")], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    check(done.returncode == 0, f"e2fsck of {name}: {done.returncode}: {done.stdout}")


@test("disks", "full")
def disks():
    disk = os.path.join(TMP, "disks.img")
    with open(disk, "wb") as f:
        f.truncate(DISK_GIB << 30)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1", disk)
    with Forkd("disks", "--park", "0") as d:
        store = os.path.join(d.dir, "store")
        d.template("t", {"kernel": KERNEL, "initramfs": INITRD, "cmdline": CMDLINE}, {"agent": True}, memory=128 << 20,
                   disks=[{"id": "root", "path": disk, "image_type": "Raw"}])
        os.unlink(disk)
        first = d.call("POST", "/v1/templates/t/clones", {})["clones"][0]
        shell(first, "grep -q ' /mnt ext4 ' /proc/mounts && echo base > /mnt/base && sync")
        mounted = d.call("POST", f"/v1/clones/{first['id']}/snapshot", {"name": "mounted"})["template"]
        d.call("DELETE", f"/v1/clones/{first['id']}")
        # each its own
        clones = d.call("POST", "/v1/templates/mounted/clones", {"count": CLONES})["clones"]
        before = taken(store)
        for n, (digest, *names) in enumerate(at_once(write_own, clones)):
            check(digest == expected_digest(n), f"{clones[n]['id']} has not read what it wrote")
            check(sorted(names) == ["base", "lost+found", "own"], f"{clones[n]['id']} sees {names}")
        used, wrote = taken(store) - before, CLONES * MIB_EACH << 20
        check(wrote <= used <= wrote * 1.1, f"{wrote} bytes were written, {used} are taken")
        d.call("POST", "/v1/templates/mounted/verify")
        check(d.call("GET", "/v1/templates/mounted")["disks"] == mounted["disks"], "the template has another image")
        for c in clones[1:]:
            d.call("DELETE", f"/v1/clones/{c['id']}")
        print(f"  {CLONES} clones wrote {MIB_EACH} MiB each at once; {used / wrote:.3f} x as much is taken")
        # a snapshot of one that writes
        writer = clones[0]
        shell(writer, f"cat > /run/writer << 'END'\n{WRITER}\nEND\nsetsid sh /run/writer > /dev/null 2>&1 < /dev/null & sleep 1")
        wait_for("files", lambda: int(shell(writer, "cat /mnt/last 2>/dev/null || echo 0")) > 5)
        answer = d.call("POST", f"/v1/clones/{writer['id']}/snapshot", {"name": "writing"})
        at_least = int(re.search(r"\d+", shell(writer, "cat /mnt/last")).group())
        children = d.call("POST", "/v1/templates/writing/clones", {"count": 2})["clones"]
        lasts = [check_writer(c) for c in children]
        goes_on = check_writer(writer)
        check(goes_on >= at_least, f"the clone was at {at_least}, and is at {goes_on}")
        for n, c in enumerate((*children, writer)):
            fsck_of(d, c, f"checked{n}")
        print(f"  a snapshot of a writing clone stopped it for {answer['paused_us'] / 1000:.0f} ms; two clones of it went on to files {lasts}; e2fsck is content")
