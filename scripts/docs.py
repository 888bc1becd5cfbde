#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Names in the documents exist: files, functions, structs, tests, targets of make, and what links point to. Part of scripts/lint.sh.

  scripts/docs.py             checks the documents of the tree that it stands in; names each line with a name that is not there
  scripts/docs.py --planted   plants wrong names, one after the other, and wants each of them found

Looked at is what stands in `backquotes`, outside of indented blocks. NAME in capitals stands for any name. The same goes for the
lists of the fuzzing programs: each function of tests/fuzz/readers.txt is in its file, and each of tests/fuzz/planted applies; and for
the comments of the code: a function() or a file that one names is there.
"""
import glob
import os
import re
import subprocess
import sys

DOCUMENTS = ["README.md", "CONTRIBUTING.md", *sorted(glob.glob("docs/*.md"))]
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
FOREIGN = ("linux/", "x86/hvm/")    # headers of others, in comments
FILE_ENDINGS = ("c", "h", "py", "sh", "md", "yaml", "txt", "mk", "S", "ld")
C_FUNCTION = re.compile(r"^(?:#define )?[A-Za-z][^\n;={}()]*?\b(\w+)\(|^#define (\w+)\(", re.M)


def tree():
    found = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True).stdout
    return [f for f in found.split("\n") if os.path.exists(f)]


class Names:
    def __init__(self):
        self.files = set(tree())
        self.folders = {os.path.dirname(f)[:n] for f in self.files for n in cuts(os.path.dirname(f))}
        self.functions, self.structs, self.text = set(), set(), {}
        for path in self.files:
            if path.endswith((".c", ".h", ".py")):
                with open(path, encoding="utf-8") as f:
                    text = self.text[path] = f.read()
                if path.endswith(".py"):
                    self.functions |= set(re.findall(r"^ *def (\w+)\(", text, re.M))
                else:
                    self.functions |= {a or b for a, b in C_FUNCTION.findall(text)}
                    self.structs |= set(re.findall(r"^\t*struct (\w+)\s*\{", text, re.M))
        with open("Makefile", encoding="utf-8") as f:
            self.targets = set(re.findall(r"^([\w -]+):(?!=)", f.read(), re.M))
        self.targets = {word for line in self.targets for word in line.split()}

    def has_test(self, name):
        """`test_module`, `test_module.case`, `test_module.Class.case`"""
        module, *cases = name.split(".")
        texts = [self.text[f] for f in self.text if re.fullmatch(rf"tests/.*/{module}\.(c|py)", f)]
        return any(all(re.search(rf"\b{case}\b", text) for case in cases) for text in texts)

    def has_path(self, path):
        pattern = re.sub(r"NAME", "*", path).rstrip("/")
        if "*" in pattern:
            return bool(glob.glob(pattern)) or "NAME" in path and os.path.dirname(path) in self.folders
        return pattern in self.files or pattern in self.folders


def cuts(folder):
    return [m.start() for m in re.finditer("/", folder)] + [len(folder)]


def wrong_in_span(span, names, rooms):
    """What a span in backquotes names and is not there."""
    words = span.split()
    for i, word in enumerate(words):
        word = word.strip(",;:")
        function = re.fullmatch(r"(\w+)\(\)", word)
        if function and function.group(1) not in names.functions:
            yield f"no function is called {word}"
        if i > 0 and words[i - 1] == "struct" and re.fullmatch(r"\w+", word) and word not in names.structs:
            yield f"no struct is called {word}"
        if re.fullmatch(r"test_[\w.]+", word) and not word.endswith((".c", ".py")) and not names.has_test(word.rstrip(".")):
            yield f"no test is called {word}"
        if i > 0 and words[0] == "make" and re.fullmatch(r"[a-z-]+", word) and word not in names.targets:
            yield f"make has no target {word}"
        if word.startswith(("/", "build/", "-")) or "=" in word or "…" in word:
            continue
        ending = re.fullmatch(r"[\w./*-]+\.(\w+)", word)
        if ending and ending.group(1) in FILE_ENDINGS and "/" in word and not names.has_path(word):
            yield f"there is no file {word}"
        elif ending and ending.group(1) in FILE_ENDINGS and "/" not in word and not any(os.path.basename(f) == word for f in names.files):
            yield f"no file is called {word}"
        elif re.fullmatch(r"[\w./-]+/", word) and not any(names.has_path(room + word) for room in rooms):
            yield f"there is no folder {word}"


def check_text(path, text, names):
    rooms = [""]
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("    "):
            continue
        lead = re.match(r"- `(\w+/)`:", line)      # "- `vmm/`: `core/` → …": its rooms
        if lead:
            rooms = ["", lead.group(1)]
        elif line and not line.startswith(" "):
            rooms = [""]
        for span in re.findall(r"`([^`]+)`", line):
            for what in wrong_in_span(span, names, rooms):
                yield f"{path}:{number}: {what}"
        for link in re.findall(r"\]\(([^)#]+)\)", line):
            if "://" not in link and not os.path.exists(os.path.join(os.path.dirname(path), link)):
                yield f"{path}:{number}: the link to {link} leads nowhere"


def check_readers(text, names):
    for number, line in enumerate(text.split("\n"), 1):
        path, _, functions = line.partition(":")
        if not functions or line.startswith("#"):
            continue
        where = f"tests/fuzz/readers.txt:{number}"
        if path not in names.text:
            yield f"{where}: there is no file {path}"
            continue
        for function in functions.split():
            if function != "*" and not re.search(rf"^\w.*\b{function.lstrip('!')}\(", names.text[path], re.M):
                yield f"{where}: {path} has no function {function.lstrip('!')}()"


def check_comments(names):
    """A name is there when the code itself has it: ours, or one of a library that is called."""
    texts = {path: text for path, text in names.text.items() if path.endswith((".c", ".h"))}
    words = {word for text in texts.values() for word in re.findall(r"\w+", COMMENT.sub(" ", text))}
    endings = {"/".join(f.split("/")[-n:]) for f in names.files for n in range(1, 6)}
    for path, text in sorted(texts.items()):
        for comment in COMMENT.finditer(text):
            where = f"{path}:{text.count(chr(10), 0, comment.start()) + 1}"
            for function in re.findall(r"\b([a-z]\w+)\(\)", comment.group()):
                if function not in words:
                    yield f"{where}: the comment names {function}(), which is not there"
            for file in re.findall(r"(?<![\w/])((?:\w+/)*\w+\.[ch])\b", comment.group()):
                if file not in endings and not file.startswith(FOREIGN):
                    yield f"{where}: the comment names {file}, which is not there"


def check_patches():
    for patch in sorted(glob.glob("tests/fuzz/planted/*.patch")):
        if subprocess.run(["patch", "--dry-run", "-s", "-f", "-p1", "-i", patch], capture_output=True, check=False).returncode:
            yield f"{patch} does not apply"


def check_all(planted=None):
    names = Names()
    with open("tests/fuzz/readers.txt", encoding="utf-8") as f:
        yield from check_readers(f.read(), names)
    if planted is None:
        yield from check_patches()
        yield from check_comments(names)
    for path in DOCUMENTS:
        with open(path, encoding="utf-8") as f:
            yield from check_text(path, f.read() + (planted or ""), names)


PLANTED = [
    ("see `vmm/core/gone.c`", "there is no file vmm/core/gone.c"),
    ("see `gone.c`", "no file is called gone.c"),
    ("the work of `loop_gone()`", "no function is called loop_gone()"),
    ("as in `struct gone`", "no struct is called gone"),
    ("the rooms of `gone/`", "there is no folder gone/"),
    ("run `make check-gone`", "make has no target check-gone"),
    ("held by `test_gone`", "no test is called test_gone"),
    ("held by `test_loop.gone`", "no test is called test_loop.gone"),
    ("see [there](gone.md)", "the link to gone.md leads nowhere"),
]


def check_planted():
    missed, names = 0, Names()
    for comment in ("/* see loop_gone() */", "/* as in gone.c */"):
        names.text["vmm/core/loop.c"] += comment + "\n"
        if len(list(check_comments(names))) != 1:
            print(f"planted and not found: {comment}")
            missed += 1
        names.text["vmm/core/loop.c"] = names.text["vmm/core/loop.c"][:-len(comment) - 1]
    for line, message in PLANTED:
        found = list(check_all(f"\n{line}\n"))
        if sum(one.endswith(message) for one in found) != len(DOCUMENTS):
            print(f"planted and not found: {line}")
            missed += 1
    print(f"docs: {len(PLANTED) + 2 - missed} of {len(PLANTED) + 2} planted names were found")
    return 1 if missed else 0


def main():
    if sys.argv[1:] == ["--planted"]:
        return check_planted()
    found = list(check_all())
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    sys.exit(main())
