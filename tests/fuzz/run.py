#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzzing programs of build/fuzz (make fuzz).

    run.py fuzz SECONDS     all of them, SECONDS in total, as many at once as there are processors, from tests/fuzz/corpus-*; what they
                            find is kept in build/fuzz
    run.py planted SECONDS  each of tests/fuzz/planted/*.patch must be found within SECONDS, in a copy of the tree
    run.py coverage         how much of the readers the corpora reach (build/fuzz-coverage; tests/fuzz/readers.txt)
    run.py merge            new inputs of build/fuzz that reach something new go into tests/fuzz/corpus-*
"""
import collections
import concurrent.futures
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.join(ROOT, "build", "fuzz")
SHARES = {"state": 2, "config": 1, "forkd": 1, "agent": 1, "agent_files": 1, "qcow2": 1, "oci": 1}
INPUT_MAX_BYTES = 128 << 10
LIMITS = ["-timeout=30", "-rss_limit_mb=4096", f"-max_len={INPUT_MAX_BYTES}", "-len_control=0", "-print_final_stats=1",
          "-mutate_depth=1"]        # one change: the next check is behind those that an input passed


def program(name, build=BUILD):
    return os.path.join(build, "tests", "fuzz", "fuzz_" + name)


def corpus(name, root=ROOT):
    return os.path.join(root, "tests", "fuzz", "corpus-" + name)


def memory():
    """Where the programs' small files cost no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(command, log, limit_s, **options):
    """Exit status; what it prints goes to the file `log`. Its temporary files go away with it."""
    with open(log, "wb") as out, tempfile.TemporaryDirectory(prefix="forkd-fuzz.", dir=memory()) as tmp:
        try:
            return subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=limit_s,
                                  env={**os.environ, "TMPDIR": tmp}, check=False, **options).returncode
        except subprocess.TimeoutExpired:
            return -1


def text_of(log):
    with open(log, errors="replace") as f:
        return f.read()


def report(log, lines=60):
    """The finding in a log."""
    text = text_of(log)
    found = re.search(r"^(==\d+==ERROR|.*runtime error:|finding:|==\d+== ERROR|ALARM)", text, re.M)
    return "\n".join((text[found.start():] if found else text[-4000:]).splitlines()[:lines])


def fuzz_one(name, seconds):
    work, log, found = (os.path.join(BUILD, kind, name) for kind in ("work", "log", "findings"))
    for path in (work, found, os.path.dirname(log)):
        os.makedirs(path, exist_ok=True)
    before = set(os.listdir(found))
    status = run([program(name), f"-max_total_time={seconds}", f"-dict={BUILD}/words.dict", f"-artifact_prefix={found}/", *LIMITS,
                  work, corpus(name)], log, seconds + 300)
    kept = [os.path.join(found, f) for f in sorted(set(os.listdir(found)) - before)]
    stats = dict(re.findall(r"^stat::(\w+): *(\d+)", text_of(log), re.M))
    last = re.findall(r"^#\d+\s.*?cov: (\d+) ft: (\d+)", text_of(log), re.M)
    if status == 0 and not kept:
        print(f"ok fuzz_{name}: {stats.get('number_of_executed_units')} inputs in {seconds} s, {last[-1][0]} edges", flush=True)
        return True
    print(report(log))
    print(f"not ok fuzz_{name}: exit status {status}; its input: {' '.join(kept) or 'none was kept'}; log: {log}", flush=True)
    return False


def fuzz(seconds):
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda name: fuzz_one(name, max(1, seconds * SHARES[name] // sum(SHARES.values()))), SHARES))


# ---- bugs planted on purpose ----

def planted_one(patch, seconds):
    """A patch is called PROGRAM-what.patch; its line `Found-in:` names the function that the report must have."""
    title, name = os.path.basename(patch)[:-6], os.path.basename(patch).split("-")[0]
    where = re.search(r"^Found-in: (\w+)", text_of(patch), re.M).group(1)
    with tempfile.TemporaryDirectory(prefix="forkd-planted.") as tree:
        for part in ("Makefile", "common", "store", "forkd", "vmm", "guest", "forkctl", "tests/guests", "tests/unit", "tests/fuzz", "build/fuzz/obj"):
            os.makedirs(os.path.dirname(os.path.join(tree, part)), exist_ok=True)
            subprocess.run(["cp", "-a", os.path.join(ROOT, part), os.path.join(tree, part)], check=True)
        subprocess.run(["patch", "-s", "-p1", "-i", patch], cwd=tree, check=True)
        subprocess.run(["make", "-s", "fuzz"], cwd=tree, check=True)
        log, begin = os.path.join(tree, "log"), time.monotonic()
        status = run([program(name, os.path.join(tree, "build", "fuzz")), f"-max_total_time={seconds}", f"-dict={BUILD}/words.dict",
                      *LIMITS, os.path.join(tree, "build"), corpus(name, tree)], log, seconds + 300, cwd=tree)
        took = time.monotonic() - begin
        error = re.search(r"(ERROR: \w+Sanitizer: \S+|runtime error: .*|ERROR: libFuzzer: \S+|finding: .*)", text_of(log))
        stack = re.search(rf" in {where}\b", report(log, 40))
        if status != 0 and error and stack:
            print(f"ok planted {title}: {error.group(1)} in {where} after {took:.0f} s", flush=True)
            return True
        print(report(log))
    print(f"not ok planted {title}: " + ("not found" if status == 0 else f"found, but not in {where}") + f" after {took:.0f} s",
          flush=True)
    return False


def planted(seconds):
    results = []
    for patch in sorted(glob.glob(os.path.join(HERE, "planted", "*.patch"))):
        try:
            results.append(planted_one(patch, seconds))
        except subprocess.CalledProcessError as e:
            print(f"not ok planted {os.path.basename(patch)}: {' '.join(e.cmd)} failed", flush=True)
            results.append(False)
    return results


# ---- coverage ----

def readers():
    """{file: set of functions, or None for all but those after '!'}"""
    table = {}
    with open(os.path.join(HERE, "readers.txt")) as f:
        for line in f:
            words = line.split("#")[0].split()
            if words:
                table.setdefault(words[0].rstrip(":"), []).extend(words[1:])
    return table


def is_reader(words, function):
    return function in words or ("*" in words and "!" + function not in words)


def lines_of(lcov):
    """(file, function, line, count) of every line that has code."""
    name, starts, lines = "", [], []
    for line in lcov.splitlines():
        key, _, value = line.partition(":")
        if key == "SF":
            name, starts, lines = os.path.relpath(value, ROOT), [], []
        elif key == "FN":
            number, _, function = value.partition(",")
            starts.append((int(number), function.rsplit(":", 1)[-1]))
        elif key == "DA":
            number, count = value.split(",")[:2]
            lines.append((int(number), int(count)))
        elif line == "end_of_record":
            starts.sort()
            for number, count in lines:
                inside = [function for start, function in starts if start <= number]
                yield name, inside[-1] if inside else "", number, count


def profile(build, table):
    """The coverage of all programs over their corpora and what was found since, as lcov."""
    raw = []
    for name in SHARES:
        raw.append(os.path.join(build, name + ".profraw"))
        dirs = [d for d in (corpus(name), os.path.join(BUILD, "work", name)) if os.path.isdir(d)]
        with tempfile.TemporaryDirectory(prefix="forkd-fuzz.") as tmp:
            subprocess.run([program(name, build), "-runs=0", *LIMITS, *dirs], check=True, stderr=subprocess.DEVNULL,
                           env={**os.environ, "LLVM_PROFILE_FILE": raw[-1], "TMPDIR": tmp})
    merged = os.path.join(build, "merged.profdata")
    subprocess.run(["llvm-profdata", "merge", "-sparse", "-o", merged, *raw], check=True)
    programs = [program(name, build) for name in SHARES]
    objects = [arg for p in programs[1:] for arg in ("-object", p)]
    return subprocess.run(["llvm-cov", "export", "-format=lcov", f"-instr-profile={merged}", programs[0], *objects,
                           *(os.path.join(ROOT, f) for f in table)], check=True, capture_output=True, text=True).stdout


def coverage():
    table, seen, missing = readers(), collections.Counter(), []
    functions = set()
    for name, function, number, count in lines_of(profile(os.path.join(ROOT, "build", "fuzz-coverage"), table)):
        if not is_reader(table.get(name, []), function):
            continue
        functions.add((name, function))
        seen[name, bool(count)] += 1
        if not count:
            missing.append((name, number, function))
    for name, words in table.items():
        for word in words:
            if word != "*" and not word.startswith("!") and (name, word) not in functions:
                raise SystemExit(f"readers.txt: {name} has no function {word}")
    for name, number, function in missing:
        with open(os.path.join(ROOT, name)) as f:
            print(f"missing {name}:{number} {function}: {f.read().splitlines()[number - 1].strip()}")
    total = [0, 0]
    for name in sorted(table):
        reached, all_lines = seen[name, True], seen[name, True] + seen[name, False]
        total = [total[0] + reached, total[1] + all_lines]
        print(f"{name:28} {reached:5} of {all_lines:5} lines {100 * reached / all_lines:6.1f} %")
    print(f"{'all readers':28} {total[0]:5} of {total[1]:5} lines {100 * total[0] / total[1]:6.1f} %")
    return [total[0] >= 0.9 * total[1]]


def merge():
    for name in SHARES:
        work, small = os.path.join(BUILD, "work", name), os.path.join(BUILD, "merged", name)
        shutil.rmtree(small, ignore_errors=True)
        os.makedirs(small)
        subprocess.run([program(name), "-merge=1", *LIMITS, small, corpus(name), work], check=True, stderr=subprocess.DEVNULL)
        print(f"{name}: {len(os.listdir(small))} inputs in {small}")
    return []


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in ("fuzz", "planted", "coverage", "merge"):
        sys.exit(__doc__)
    results = globals()[sys.argv[1]](*map(int, sys.argv[2:]))
    print(f"{results.count(True)} passed, {results.count(False)} failed")
    sys.exit(results.count(False) > 0)


if __name__ == "__main__":
    main()
