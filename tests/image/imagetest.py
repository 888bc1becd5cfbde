# SPDX-License-Identifier: Apache-2.0
"""What the tests of forkd-image share: OCI layouts made by hand, the program as an ordinary user, and what is in an image."""
import contextlib
import ctypes
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("BUILD") or os.path.join(os.path.dirname(os.path.dirname(HERE)), "build")
PROGRAM = os.path.join(os.path.abspath(BUILD), "forkd-image")
NOBODY = 65534
LAYER, MANIFEST, INDEX, CONFIG = (f"application/vnd.oci.image.{kind}" for kind in (
    "layer.v1.tar", "manifest.v1+json", "index.v1+json", "config.v1+json"))
DOCKER_LAYER, DOCKER_MANIFEST, DOCKER_LIST, DOCKER_CONFIG = (f"application/vnd.docker.{kind}" for kind in (
    "image.rootfs.diff.tar.gzip", "distribution.manifest.v2+json", "distribution.manifest.list.v2+json", "container.image.v1+json"))
PATIENCE_S = 300
libc = ctypes.CDLL(None, use_errno=True)


def isolate():
    """Mounts of the tests are in a mount namespace of their own: they end with this process."""
    if libc.unshare(0x00020000) != 0 or libc.mount(None, b"/", None, (1 << 18) | (1 << 14), None) != 0:   # CLONE_NEWNS; MS_PRIVATE|MS_REC
        raise OSError(ctypes.get_errno(), "unshare the mounts")


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


PACKS = {"": bytes, "+gzip": lambda data: gzip.compress(data, mtime=0), "+zstd": zstd}


class Layer:
    """A tar archive, entry by entry."""

    def __init__(self):
        self.file = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.file, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name, content=None, kind=tarfile.REGTYPE, mode=0o644, uid=0, gid=0, mtime=1600000000, to="", dev=(0, 0), xattrs=None):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.uid, info.gid, info.mtime, info.linkname = kind, mode, uid, gid, mtime, to
        info.devmajor, info.devminor = dev
        info.pax_headers = {f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape") for key, value in (xattrs or {}).items()}
        data = content.encode() if isinstance(content, str) else content or b""
        info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def dir(self, name, mode=0o755, **more):
        return self.add(name, None, tarfile.DIRTYPE, mode, **more)

    def link(self, name, to, **more):
        return self.add(name, None, tarfile.SYMTYPE, 0o777, to=to, **more)

    def hard(self, name, to):
        return self.add(name, None, tarfile.LNKTYPE, to=to)

    def bytes(self):
        self.tar.close()
        return self.file.getvalue()


class Layout:
    """An OCI layout that is written piece by piece; each piece can be wrong."""

    def __init__(self, path):
        self.path = path
        os.makedirs(os.path.join(path, "blobs", "sha256"))
        self.write("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}))

    def write(self, name, data):
        with open(os.path.join(self.path, name), "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)

    def blob_path(self, name):
        return os.path.join(self.path, "blobs", *name.split(":"))

    def blob(self, data, kind, **more):
        """Writes the blob; its descriptor."""
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        with open(self.blob_path(digest(data)), "wb") as f:
            f.write(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}

    def layer(self, layer, pack="+gzip", kind=None):
        data = layer.bytes() if isinstance(layer, Layer) else layer
        return self.blob(PACKS[pack](data), kind or LAYER + pack)

    def config(self, config=None, platform=("linux", "amd64"), kind=CONFIG):
        return self.blob({"os": platform[0], "architecture": platform[1], "rootfs": {"type": "layers", "diff_ids": []},
                          "config": config or {}}, kind)

    def manifest(self, layers, config=None, kind=MANIFEST, **more):
        return self.blob({"schemaVersion": 2, "mediaType": kind, "config": config or self.config(), "layers": layers}, kind, **more)

    def index(self, manifests):
        self.write("index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}))

    def image(self, *layers, pack="+gzip", config=None):
        """The whole of an ordinary layout."""
        self.index([self.manifest([self.layer(layer, pack) for layer in layers], self.config(config))])
        return self


def named(descriptor, name):
    return {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}


def look(root):
    """{path: (type and mode, owner, time, content or target or device, attributes, names of the same file)} of a mounted tree."""
    found, same = {}, {}
    for folder, dirs, files in os.walk(root):
        for name in [".", *dirs, *files] if folder == root else [*dirs, *files]:
            path = os.path.join(folder, name)
            st = os.lstat(path)
            what = None
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    what = (st.st_size, hashlib.file_digest(f, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(f.read()).hexdigest())
            elif stat.S_ISLNK(st.st_mode):
                what = os.readlink(path)
            elif stat.S_ISBLK(st.st_mode) or stat.S_ISCHR(st.st_mode):
                what = (os.major(st.st_rdev), os.minor(st.st_rdev))
            attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)}
            key = os.path.relpath(path, root)
            found[key] = [oct(st.st_mode), (st.st_uid, st.st_gid), st.st_mtime_ns, what, attributes, None]
            if not stat.S_ISDIR(st.st_mode):
                same.setdefault(st.st_ino, []).append(key)
    for keys in same.values():
        for key in keys:
            found[key][5] = sorted(keys)
    return found


class ImageTest(unittest.TestCase):
    maxDiff = 4000

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="forkd-image.")
        os.chmod(self.dir, 0o755)
        self.work = os.path.join(self.dir, "work")
        os.mkdir(self.work)
        os.chown(self.work, NOBODY, NOBODY)
        self.addCleanup(shutil.rmtree, self.dir)
        self.out = os.path.join(self.work, "disk")
        self.n_layouts = 0

    def layout(self):
        self.n_layouts += 1
        return Layout(os.path.join(self.dir, f"layout{self.n_layouts}"))

    def run_program(self, *words, user=NOBODY, **options):
        """As a user who may do nothing."""
        who = {"user": user, "group": user, "extra_groups": []} if user else {}
        return subprocess.run([PROGRAM, *words], capture_output=True, timeout=PATIENCE_S, cwd=self.work, check=False, **who, **options)

    def make(self, *words, **options):
        """Makes the image; what the program reports."""
        done = self.run_program(*words, "--out", self.out, **options)
        self.assertEqual((done.stderr.decode(), done.returncode), ("", 0))
        self.fsck(self.out)
        lines = done.stdout.decode().splitlines()
        self.assertEqual(len(lines), 1)
        return json.loads(lines[0])

    def refuses(self, *words, message, status=1, **options):
        """The program says what is wrong, and leaves nothing."""
        done = self.run_program(*words, *([] if "--out" in words else ["--out", self.out]), **options)
        text = done.stderr.decode("utf-8", "replace")
        self.assertIn(message, text)
        self.assertEqual((done.returncode, done.stdout, text.count("\n")), (status, b"", 1))
        self.assertEqual(os.listdir(self.work), [])

    def fsck(self, path):
        done = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    @contextlib.contextmanager
    def mounted(self, path=None):
        root = os.path.join(self.dir, "mounted")
        os.makedirs(root, exist_ok=True)
        subprocess.run(["mount", "-o", "loop,ro", path or self.out, root], check=True)
        try:
            yield root
        finally:
            subprocess.run(["umount", root], check=True)

    def contents(self):
        """What is in the image, without lost+found."""
        with self.mounted() as root:
            found = look(root)
        lost = found.pop("lost+found")
        self.assertEqual(lost[:2], ["0o40700", (0, 0)])
        return found

    def assertSame(self, found, expected):
        """Two trees of look(): the entries in which they differ."""
        self.assertEqual({path: found.get(path) for path in {*found, *expected} if found.get(path) != expected.get(path)},
                         {path: expected.get(path) for path in {*found, *expected} if found.get(path) != expected.get(path)})

    def assertFiles(self, expected):
        """{path: text} of all regular files."""
        with self.mounted() as root:
            found = {}
            for folder, _, files in os.walk(root):
                for name in files:
                    path = os.path.join(folder, name)
                    if os.path.isfile(path) and not os.path.islink(path):
                        with open(path, encoding="utf-8") as f:
                            found[os.path.relpath(path, root)] = f.read()
        self.assertEqual(found, expected)
