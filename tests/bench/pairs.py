#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two builds against each other:  pairs.py OLD NEW [pairs=20] [argument of bench.py]...

OLD and NEW are build folders. bench.py runs with each in turns, the order changed from pair to pair, both with the guests of NEW. For
every row and figure: the median of the ratios new / old over the pairs, its 95 % interval (order statistics: no assumption about the
distribution), and both p99. A JSON line per figure (stdout), then a table for people (stderr). What the arguments leave out is bench.py's
choice: `pairs.py old/build build restore clones quick` is the usual call.
"""
import json
import math
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def bench(build, guests, arguments):
    """bench.py's rows with that build."""
    env = {**os.environ, "BUILD": build, "FORKD_GUESTS": guests, "FORKD_VMM": os.path.join(build, "forkd-vmm"),
           "FORKD_PEERS": ""}
    done = subprocess.run([os.path.join(HERE, "bench.py"), *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"bench.py with {build}: status {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def figures(rows):
    """{name: (p50, p99)} of what depends on our programs; the floors are left out."""
    found = {}
    for row in rows:
        if row["bench"] == "restore" and row["what"].startswith("forkd-vmm"):
            found[f"restore {row['mib']} MiB, {row['vcpus']} vCPUs: {row['what'][10:]}"] = (row["p50_us"], row["p99_us"])
        if row["bench"] == "clones":
            name = f"clones {row['mib']} MiB, {row['vcpus']} vCPUs, {row['parked']} parked"
            found[f"{name}: fifty at once"] = (row["burst_of_50_us"], row["burst_of_50_us"])
            found.update(times(name, row))
        if row["bench"] == "ready":
            found.update(times(f"ready, wait {row['wait']}, {row['parked']} parked", row))
        if row["bench"] == "exec":
            found.update(times("exec", row))
    return found


def times(name, row):
    return {f"{name}: {key[:-3].replace('_', ' ')}": (value["p50"], value["p99"]) for key, value in row.items()
            if isinstance(value, dict) and "p50" in value}


def interval(values):
    """The 95 % interval of the median: the widest ranks whose tails have less than 2.5 % each."""
    values, n = sorted(values), len(values)
    tail, k = 0.0, 0
    while k < n // 2 and tail + math.comb(n, k) / 2 ** n <= 0.025:
        tail += math.comb(n, k) / 2 ** n
        k += 1
    k = max(k - 1, 0)
    return values[k], values[n - 1 - k]


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    old, new = (os.path.abspath(p) for p in sys.argv[1:3])
    n = int(next((a[6:] for a in sys.argv[3:] if a.startswith("pairs=")), 20))
    arguments = [a for a in sys.argv[3:] if not a.startswith("pairs=")]
    guests = os.path.join(new, "tests", "guests")
    runs = {old: [], new: []}
    for i in range(n):
        for build in (old, new) if i % 2 == 0 else (new, old):
            runs[build].append(figures(bench(build, guests, arguments)))
        print(f"pair {i + 1} of {n}", file=sys.stderr)
    print(f"\n  {'new / old':52} {'median':>7} {'95 % interval':>16} {'p99 old':>9} {'p99 new':>9}", file=sys.stderr)
    for name in runs[new][0]:
        ratios = [b[name][0] / a[name][0] for a, b in zip(runs[old], runs[new])]
        low, high = interval(ratios)
        row = {"what": name, "pairs": n, "median": round(statistics.median(ratios), 3), "interval": [round(low, 3), round(high, 3)],
               "p99_old_us": statistics.median(a[name][1] for a in runs[old]), "p99_new_us": statistics.median(b[name][1] for b in runs[new])}
        print(json.dumps(row), flush=True)
        print(f"  {name:52} {row['median']:7.3f} {row['interval'][0]:8.3f}{row['interval'][1]:8.3f} {row['p99_old_us']:9.0f} "
              f"{row['p99_new_us']:9.0f}", file=sys.stderr)


if __name__ == "__main__":
    main()
