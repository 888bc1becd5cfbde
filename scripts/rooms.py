#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The walls of the house: which way includes point, and who may touch the host by name. Part of scripts/lint.sh.

  scripts/rooms.py             checks the tree that it stands in; names each line that breaks a rule
  scripts/rooms.py --planted   plants wrong lines into a copy, one after the other, and wants each of them found
"""
import glob
import os
import re
import shutil
import sys
import tempfile

# A room may include those to its left, itself, and those in its own braces never; common is open to all.
CHAINS = {
    "vmm": "core config {pci console} state virtio machine snapshot api clone",
    "forkd": ". {wire watch} registry access build {front agent net} template clone rest",  # . is the headers beside main.c
}
# What a chain does not say: the folder of an architecture sees these, and nobody sees it but for the types that core/ embeds.
ARCHITECTURES = {"x86": ["vmm/core", "vmm/config", "vmm/pci", "vmm/state", "vmm/machine/machine.h"]}
ARCHITECTURE_TYPES = "arch_types.h"
# Files beside the rooms that put the program together, and the header which only those may include.
TOPS = {"vmm/main.c", "forkd/main.c", "forkd/daemon.c", "forkd/daemon.h"}
OTHERS = {"common": [], "store": [], "forkctl": [], "guest": []}  # these see themselves and common
ALSO = {"forkd": ["store"]}

# ---- the door ----

DOOR = "vmm/core/host_open.c"
BY_NAME = (r"open openat openat2 open_by_handle_at creat fopen freopen opendir scandir nftw connect bind unlink unlinkat rmdir remove "
           r"rename renameat renameat2 mkdir mkdirat mkfifo mkfifoat mknod mknodat link linkat symlink symlinkat chmod fchmodat chown "
           r"lchown fchownat truncate mkstemp mkostemp mkdtemp io_uring_prep_open\w* io_uring_prep_connect "
           r"io_uring_prep_unlink\w* io_uring_prep_rename\w* io_uring_prep_mkdir\w*").split()
FIXED = ["/dev/kvm", "/dev/userfaultfd", "/dev/net/tun", "/proc/self/pagemap"]  # names of the program's own
IN_DIRECTORY = "in a directory that came as a descriptor, under names of the program's own"
EXCEPTIONS = {
    ("vmm/api/api.c", "sock_listen"): "the API socket of the command line",
    ("vmm/api/api.c", "sock_listener_done"): "the same",
    ("vmm/clone/control.c", "sock_connect"): "the daemon's open service, named on the command line",
    ("vmm/state/snapshot_read.c", "openat"): IN_DIRECTORY,
    ("vmm/snapshot/snapshot_write.c", "openat"): IN_DIRECTORY,
    ("vmm/snapshot/snapshot_write.c", "fs_rename_new"): IN_DIRECTORY,
    ("vmm/snapshot/snapshot_write.c", "unlinkat"): IN_DIRECTORY,
}


def sources(*folders):
    return sorted(f for d in folders for e in ("c", "h") for f in glob.glob(f"{d}/**/*.{e}", recursive=True))


def code(path):
    """The text without comments and with empty strings but for paths, line by line as before."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    text = re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: "\n" * m.group().count("\n"), text, flags=re.S)
    return re.sub(r'"((?:[^"\\\n]|\\.)*)"', lambda m: m.group() if m.group(1) in FIXED else '""', text)


# ---- includes ----

def ranks(chain):
    """{room: (its place, the place up to which it sees others)}"""
    found = {}
    for place, part in enumerate(re.findall(r"\{[^}]*\}|\S+", chain)):
        for room in part.strip("{}").split():
            found[room] = place
    return found


def room_of(path):
    """("vmm", "core") of vmm/core/loop.c; ("forkd", ".") of forkd/errors.h; ("store", "") of store/store.h."""
    parts = path.split("/")
    if parts[0] in CHAINS:
        return parts[0], parts[1] if len(parts) > 2 else "."
    return parts[0], ""


def may_include(path, header):
    top, room = room_of(path)
    if path in TOPS or header.startswith("common/"):
        return True
    if header == ARCHITECTURE_TYPES:
        return room == "core" or room in ARCHITECTURES
    their_top, their_room = room_of(header)
    if header in TOPS:
        return False
    if top in OTHERS:
        return their_top == top
    if their_top != top:
        return their_top in ALSO.get(top, [])
    if room in ARCHITECTURES:
        return their_room == room or any(header.startswith(seen) for seen in ARCHITECTURES[room])
    places = ranks(CHAINS[top])
    if room not in places or their_room not in places:
        return False
    return their_room == room or places[their_room] < places[room]


def check_includes():
    for path in sources(*CHAINS, *OTHERS):
        with open(path, encoding="utf-8") as f:
            for number, line in enumerate(f, 1):
                m = re.match(r'#include "([^"]+)"', line)
                local = m and os.path.exists(os.path.join(os.path.dirname(path), m.group(1))) and "/" not in m.group(1)
                if m and not local and not may_include(path, m.group(1)):
                    yield f"{path}:{number}: {'/'.join(room_of(path))} must not include {m.group(1)}"


# ---- names of the host ----

def wrappers():
    """Public functions of common/ that reach the host by a name that is not the program's own, directly or through one another."""
    bodies, public = {}, set()
    fixed = re.compile(r'\bopen\("(?:' + "|".join(FIXED) + r')"')
    for path in sources("common"):
        if path.endswith(".c"):
            for m in re.finditer(r"^(\w[^\n;{}]*?)\b(\w+)\([^;{}]*\)\n\{\n(.*?)^\}", code(path), re.S | re.M):
                bodies[m.group(2)] = fixed.sub("", m.group(3))
                if "static" not in m.group(1):
                    public.add(m.group(2))
    known = set(BY_NAME)
    while True:
        calls = re.compile(r"\b(?:" + "|".join(known) + r")\s*\(")
        new = {name for name, body in bodies.items() if name not in known and calls.search(body)}
        if not new:
            return sorted(public & known)
        known |= new


def check_door():
    calls = re.compile(r"\b(" + "|".join(BY_NAME + wrappers()) + r")\s*\(|\bSYS_(" + "|".join(BY_NAME) + r")\b")
    used = set()
    for path in sources("vmm"):
        if path == DOOR:
            continue
        for number, line in enumerate(code(path).split("\n"), 1):
            for m in calls.finditer(line):
                call = m.group(1) or m.group(2)
                fixed = re.match(r'"([^"]*)"', line[m.end():])
                if call == "open" and fixed and fixed.group(1) in FIXED:
                    continue
                used.add((path, call))
                if (path, call) not in EXCEPTIONS:
                    yield f"{path}:{number}: {call}() by name: only {DOOR} does that"
    for path, call in sorted(set(EXCEPTIONS) - used):
        yield f"scripts/rooms.py: {path} has no {call}() any more: take it out of EXCEPTIONS"


def check():
    found = list(check_includes()) + list(check_door())
    for line in found:
        print(line)
    return 1 if found else 0


# ---- does it notice? ----

PLANTED = [
    ("vmm/virtio/rng.c", '#include "vmm/machine/machine.h"', "vmm/virtio must not include vmm/machine/machine.h"),
    ("vmm/core/loop.c", '#include "vmm/config/config.h"', "vmm/core must not include vmm/config/config.h"),
    ("vmm/pci/msix.c", '#include "vmm/console/serial.h"', "vmm/pci must not include vmm/console/serial.h"),
    ("vmm/x86/acpi.c", '#include "vmm/api/api.h"', "vmm/x86 must not include vmm/api/api.h"),
    ("forkd/access/policy.c", '#include "forkd/rest/server.h"', "forkd/access must not include forkd/rest/server.h"),
    ("forkd/watch/watch.c", '#include "forkd/registry/registry.h"', "forkd/watch must not include forkd/registry/registry.h"),
    ("forkd/rest/url.c", '#include "forkd/daemon.h"', "forkd/rest must not include forkd/daemon.h"),
    ("forkctl/main.c", '#include "forkd/errors.h"', "forkctl/ must not include forkd/errors.h"),
    ("common/io.c", '#include "store/store.h"', "common/ must not include store/store.h"),
    ("vmm/virtio/rng.c", 'int planted(const char *p) { return open(p, 0); }', "open() by name"),
    ("vmm/virtio/tap.c", 'int planted(const char *p) { return open(p, 0); }', "open() by name"),
    ("vmm/virtio/rng.c", 'long planted(const char *p) { return syscall(SYS_openat, -100, p, 0); }', "openat() by name"),
    ("vmm/console/serial.c", 'void planted(int fd, const char *p) { sock_connect(fd, p, NULL); }', "sock_connect() by name"),
    ("vmm/machine/life.c", 'void planted(const char *p) { unlink(p); }', "unlink() by name"),
    ("vmm/virtio/blk.c", 'void planted(void *s) { io_uring_prep_openat(s, -100, "/", 0, 0); }', "io_uring_prep_openat() by name"),
]


def check_planted():
    home, missed = os.getcwd(), 0
    with tempfile.TemporaryDirectory() as tree:
        for folder in [*CHAINS, *OTHERS]:
            if os.path.isdir(folder):
                shutil.copytree(folder, f"{tree}/{folder}")
        os.chdir(tree)
        for path, line, message in PLANTED:
            with open(path, encoding="utf-8") as f:
                whole = f.read()
            with open(path, "a", encoding="utf-8") as f:
                f.write(line + "\n")
            found = [*check_includes(), *check_door()]
            if not any(path in one and message in one for one in found):
                print(f"planted into {path}, not found: {line}")
                missed += 1
            with open(path, "w", encoding="utf-8") as f:
                f.write(whole)
        os.chdir(home)
    print(f"rooms: {len(PLANTED) - missed} of {len(PLANTED)} planted lines were found")
    return 1 if missed else 0


if __name__ == "__main__":
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    sys.exit(check_planted() if sys.argv[1:] == ["--planted"] else check())
