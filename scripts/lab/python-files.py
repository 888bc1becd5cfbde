# SPDX-License-Identifier: Apache-2.0
"""Prints the files of this Python that the tests in the lab need: the interpreter first, then modules, with their compiled form."""
import os
import sys

WANTED = """argparse array atexit collections contextlib ctypes dataclasses encodings.ascii encodings.idna encodings.latin_1
            errno fcntl glob hashlib io itertools json math mmap os pathlib random re select selectors shlex shutil signal socket ssl stat
            string struct subprocess tempfile termios textwrap threading time traceback types unittest uuid""".split()

print(os.path.realpath(sys.executable))
for name in WANTED:
    __import__(name)
for module in list(sys.modules.values()):
    for attribute in ("__file__", "__cached__"):
        path = getattr(module, attribute, None)
        if path and os.path.isabs(path) and os.path.exists(path) and path != os.path.abspath(__file__):
            print(path)
