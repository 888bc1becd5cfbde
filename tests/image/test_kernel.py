# SPDX-License-Identifier: Apache-2.0
"""forkctl kernel fetch, with an apt of the test's own, so that nothing is downloaded."""
import json
import os
import shutil
import subprocess

from imagetest import BUILD, NOBODY, PATIENCE_S, ImageTest

FORKCTL = os.path.join(os.path.abspath(BUILD), "forkctl")
DEPENDS = {"linux-image-cloud-amd64": "linux-image-cloud-amd64\n  Depends: linux-image-9.9-cloud-amd64\n",
           "linux-image-9.9-cloud-amd64": "linux-image-9.9-cloud-amd64\n  Depends: kmod\n |Depends: initramfs-tools\n"}
APT_CACHE = """#!/bin/sh
cat "$APT/depends/$2" 2>/dev/null
"""
APT_GET = """#!/bin/sh
for package; do :; done
echo "Get:1 $package"
[ -e "$APT/$package.deb" ] || { echo "E: Unable to locate package $package" >&2; exit 100; }
cp "$APT/$package.deb" .
"""


class Fetch(ImageTest):
    def setUp(self):
        super().setUp()
        self.apt, self.to = self.dir + "/apt", self.work + "/kernels"
        self.tools = self.dir + "/bin"
        for folder in (self.apt + "/depends", self.tools):
            os.makedirs(folder)
        for name, text in (("apt-cache", APT_CACHE), ("apt-get", APT_GET)):
            with open(f"{self.tools}/{name}", "w", encoding="ascii") as f:
                f.write(text)
            os.chmod(f"{self.tools}/{name}", 0o755)
        for tool in ("sh", "cat", "cp", "rm", "mkdir", "dpkg-deb", "tar", "depmod"):
            os.symlink(shutil.which(tool, path=os.environ["PATH"] + ":/usr/sbin:/sbin"), f"{self.tools}/{tool}")
        self.knows(DEPENDS)
        self.package("linux-image-9.9-cloud-amd64", "lib/modules/9.9-cloud-amd64/modules.builtin", "boot/vmlinuz-9.9-cloud-amd64")

    def knows(self, depends):
        for name, text in depends.items():
            with open(f"{self.apt}/depends/{name}", "w", encoding="ascii") as f:
                f.write(text)

    def package(self, name, *files):
        root = f"{self.dir}/{name}"
        shutil.rmtree(root, ignore_errors=True)
        for file in ("DEBIAN/control", *files):
            os.makedirs(os.path.dirname(f"{root}/{file}"), exist_ok=True)
            with open(f"{root}/{file}", "w", encoding="ascii") as f:
                f.write(f"Package: {name}\nVersion: 1\nArchitecture: amd64\nMaintainer: x <x@x>\nDescription: x\n" if "control" in file else file)
        subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, f"{self.apt}/{name}.deb"], check=True, capture_output=True)

    def fetch(self, *words, status=0, message="", **env):
        done = subprocess.run([FORKCTL, "kernel", "fetch", *words], capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=self.work,
                              user=NOBODY, group=NOBODY, extra_groups=[], env={"PATH": self.tools, "APT": self.apt, **env})
        self.assertIn(message, done.stderr)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def test_fetched(self):
        """Kernel and modules are there as a whole, with modules.dep; the second time nothing is downloaded; nothing else is left."""
        answer = json.loads(self.fetch("--to", self.to, "--json"))
        where = self.to + "/9.9-cloud-amd64"
        self.assertEqual(answer, {"release": "9.9-cloud-amd64", "kernel": where + "/vmlinuz", "modules": where + "/modules"})
        with open(answer["kernel"], encoding="ascii") as f:
            self.assertEqual(f.read(), "boot/vmlinuz-9.9-cloud-amd64")
        self.assertLessEqual({"modules.dep", "modules.builtin"}, set(os.listdir(answer["modules"])))
        self.assertEqual(os.listdir(self.to), ["9.9-cloud-amd64"])
        os.unlink(self.apt + "/linux-image-9.9-cloud-amd64.deb")
        self.assertEqual(json.loads(self.fetch("--to", self.to, "--json")), answer)
        self.assertEqual(self.fetch("--to", self.to).split(), ["release", answer["release"], "kernel", answer["kernel"], "modules", answer["modules"]])

    def test_where(self):
        """Without --to: the cache directory, that of the user, or a word about it."""
        self.assertIn(self.work + "/c/forkd/kernels/9.9", self.fetch(XDG_CACHE_HOME=self.work + "/c"))
        self.assertIn(self.work + "/.cache/forkd/kernels/9.9", self.fetch(HOME=self.work))
        self.fetch(status=2, message="--to: say where; HOME is not set")

    def test_modules_elsewhere(self):
        """Ubuntu's are a package of their own, and may be below /usr."""
        shutil.rmtree(self.apt + "/depends")
        os.mkdir(self.apt + "/depends")
        self.knows({"linux-image-virtual": "x\n  Depends: linux-image-generic\n", "meta": "  Depends: linux-image-8.8-generic\n",
                    "linux-image-8.8-generic": "  Depends: kmod\n  Depends: linux-modules-8.8-generic\n"})
        self.package("linux-image-8.8-generic", "boot/vmlinuz-8.8-generic")
        self.package("linux-modules-8.8-generic", "usr/lib/modules/8.8-generic/modules.builtin")
        self.fetch("--to", self.to, status=1, message="apt knows no kernel linux-image-cloud-amd64 or linux-image-virtual (apt-get update?)")
        answer = json.loads(self.fetch("--to", self.to, "--package", "meta", "--json"))
        self.assertTrue(os.path.exists(answer["modules"] + "/modules.dep"))

    def test_no_apt(self):
        os.unlink(self.tools + "/apt-get")
        self.fetch("--to", self.to, status=1, message="there is no apt-get here: give forkd a kernel of your own")
        self.assertFalse(os.path.exists(self.to))

    def test_failures(self):
        """What fails on the way is said, and leaves nothing."""
        os.rename(self.apt + "/linux-image-9.9-cloud-amd64.deb", self.apt + "/away")
        self.fetch("--to", self.to, status=1, message="forkctl: apt-get cannot download linux-image-9.9-cloud-amd64")
        with open(self.apt + "/linux-image-9.9-cloud-amd64.deb", "w", encoding="ascii") as f:
            f.write("no package")
        self.fetch("--to", self.to, status=1, message="dpkg-deb")
        self.package("linux-image-9.9-cloud-amd64", "boot/vmlinuz-other")
        self.fetch("--to", self.to, status=1, message="forkctl: cannot move")
        self.assertEqual(os.listdir(self.to), [])
        self.fetch("--to", "/proc/none", status=1, message="mkdir")

    def test_names(self):
        """A name that is no package's is none."""
        self.knows({"linux-image-cloud-amd64": "  Depends: linux-image-9/../../x\n  Depends: linux-image-extra\n  Depends: linux-image-" + "9" * 200 + "\n"})
        self.fetch("--to", self.to, status=1, message="apt knows no kernel")
