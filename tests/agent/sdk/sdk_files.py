# SPDX-License-Identifier: Apache-2.0
"""Files, directories and watches through the client classes of the package e2b; run by sdk.py."""
import asyncio
import io
import os
import tempfile

from e2b import FileNotFoundException, FilesystemEventType, FileType, InvalidArgumentException, NotFoundException
from e2b.exceptions import AuthenticationException
from sdk_commands import equal, raises, until

WORK = tempfile.mkdtemp(prefix="forkd-sdk.")    # the agent runs on this host
HAS_XATTR = True
try:
    os.setxattr(WORK, "user.probe", b"")
except OSError:
    HAS_XATTR = False


def at(name):
    return f"{WORK}/{name}"


def check_write_and_read(sbx):
    data = os.urandom(300_000)
    for octets, gzip in ((False, False), (True, False), (True, True)):
        path = at(f"w/{octets}{gzip}")
        info = sbx.files.write(path, data, use_octet_stream=octets, gzip=gzip)
        equal((info.name, info.path, info.type), (os.path.basename(path), path, FileType.FILE))
        equal(bytes(sbx.files.read(path, format="bytes")), data)
        equal(bytes(sbx.files.read(path, format="bytes", gzip=True)), data)
        equal(b"".join(sbx.files.read(path, format="stream")), data)
    sbx.files.write(at("text"), "caf\u00e9 \u20ac\n")
    equal(sbx.files.read(at("text")), "caf\u00e9 \u20ac\n")
    sbx.files.write(at("stream"), io.BytesIO(data))
    equal(bytes(sbx.files.read(at("stream"), format="bytes")), data)
    sbx.files.write(at("empty"), "")
    equal(sbx.files.read(at("empty")), "")


def check_names(sbx):
    for name in ("a b", "caf\u00e9", "semi;colon", "a&b=c+d%20", "back\\slash", "~tilde"):
        sbx.files.write(at(name), name)
        equal(sbx.files.read(at(name)), name)
        sbx.files.write(at(name), "again", use_octet_stream=True)
        equal(sbx.files.read(at(name)), "again")


def check_write_files(sbx):
    for octets in (False, True):
        files = [{"path": at(f"many/{octets}/{i}"), "data": str(i)} for i in range(5)]
        infos = sbx.files.write_files(files, use_octet_stream=octets)
        equal([i.path for i in infos], [f["path"] for f in files])
        equal([sbx.files.read(f["path"]) for f in files], ["0", "1", "2", "3", "4"])
    equal(sbx.files.write_files([]), [])


def check_metadata(sbx):
    if not HAS_XATTR:
        return
    info = sbx.files.write(at("meta"), "x", metadata={"author": "me", "k": "v w"})
    equal(info.metadata, {"author": "me", "k": "v w"})
    equal(sbx.files.get_info(at("meta")).metadata, {"author": "me", "k": "v w"})
    sbx.files.write(at("meta"), "x")
    equal(sbx.files.get_info(at("meta")).metadata, None)


def check_absent(sbx):
    raises(FileNotFoundException, lambda: sbx.files.read(at("none")))
    raises(NotFoundException, lambda: sbx.files.get_info(at("none")))
    raises(NotFoundException, lambda: sbx.files.list(at("none")))
    raises(NotFoundException, lambda: sbx.files.rename(at("none"), at("other")))
    raises(InvalidArgumentException, lambda: sbx.files.read(WORK))
    equal(sbx.files.exists(at("none")), False)
    sbx.files.remove(at("none"))


def check_users(sbx):
    raises(AuthenticationException, lambda: sbx.files.read(at("x"), user="nobody-here"))
    raises(AuthenticationException, lambda: sbx.files.list(WORK, user="nobody-here"))
    if os.geteuid() == 0:
        sbx.files.write(at("his"), "x", user="nobody")
        equal(sbx.files.get_info(at("his")).owner, "nobody")


def check_info(sbx):
    sbx.files.write(at("info"), "12345")
    os.symlink("info", at("info-link"))
    info = sbx.files.get_info(at("info"))
    equal((info.name, info.type, info.path, info.size, info.mode, info.permissions), ("info", FileType.FILE, at("info"), 5, 0o644, "-rw-r--r--"))
    equal(round(info.modified_time.timestamp(), 3), round(os.stat(at("info")).st_mtime, 3))
    link = sbx.files.get_info(at("info-link"))
    equal((link.type, link.symlink_target), (FileType.SYMLINK, os.path.realpath(at("info"))))
    equal(sbx.files.get_info(WORK).type, FileType.DIR)


def check_directories(sbx):
    equal(sbx.files.make_dir(at("d/e/f")), True)
    equal(sbx.files.make_dir(at("d/e/f")), False)
    sbx.files.write(at("d/x"), "")
    equal([e.path for e in sbx.files.list(at("d"))], [at("d/e"), at("d/x")])
    equal([(e.path, e.type) for e in sbx.files.list(at("d"), depth=3)],
          [(at("d/e"), FileType.DIR), (at("d/e/f"), FileType.DIR), (at("d/x"), FileType.FILE)])
    equal(sbx.files.rename(at("d/x"), at("d/g/y")).path, at("d/g/y"))
    equal((sbx.files.exists(at("d/x")), sbx.files.exists(at("d/g/y"))), (False, True))
    sbx.files.remove(at("d"))
    equal(sbx.files.exists(at("d")), False)


def check_watch(sbx):
    sbx.files.make_dir(at("watched"))
    handle = sbx.files.watch_dir(at("watched"), recursive=True, include_entry=True)
    sbx.files.write(at("watched/a"), "x")
    events = handle.get_new_events()
    equal([(e.type, e.name) for e in events], [(FilesystemEventType.CREATE, "a"), (FilesystemEventType.CHMOD, "a"), (FilesystemEventType.WRITE, "a")])
    equal(events[2].entry.path, at("watched/a"))
    sbx.files.write(at("watched/a"), "y")
    events = handle.get_new_events()
    equal([(e.type, e.name) for e in events], [(FilesystemEventType.WRITE, "a")])
    sbx.files.write(at("watched/new/b"), "x")
    names = []
    until(lambda: names.extend(e.name for e in handle.get_new_events()) or "new/b" in names)
    sbx.files.remove(at("watched/a"))
    equal([(e.type, e.name, e.entry) for e in handle.get_new_events()], [(FilesystemEventType.REMOVE, "a", None)])
    handle.stop()
    raises(NotFoundException, lambda: sbx.files.watch_dir(at("none")))


async def check_watch_async(sbx):
    await sbx.files.make_dir(at("async"))
    seen, ended = [], []
    done = asyncio.Event()

    def on_event(event):
        seen.append((event.type, event.name))
        if event.type == FilesystemEventType.REMOVE:
            done.set()
    handle = await sbx.files.watch_dir(at("async"), on_event, on_exit=ended.append)
    await sbx.files.write(at("async/a"), "x")
    await sbx.files.remove(at("async/a"))
    await asyncio.wait_for(done.wait(), 60)
    equal([n for _, n in seen], ["a"] * len(seen))
    assert (FilesystemEventType.WRITE, "a") in seen, seen
    await handle.stop()


async def check_files_async(sbx):
    await sbx.files.write(at("async-file"), b"bytes")
    equal(await sbx.files.read(at("async-file")), "bytes")
    equal(await sbx.files.exists(at("async-file")), True)
    equal(b"".join([part async for part in await sbx.files.read(at("async-file"), format="stream")]), b"bytes")


def check_end(sbx):
    """What the checks have made goes away."""
    sbx.files.remove(WORK)
    equal(os.path.exists(WORK), False)
