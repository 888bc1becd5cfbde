#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Records what the real Cloud Hypervisor shows in every scene:  record.py [SCENE...]

FORKD_PEERS names the folder with cloud-hypervisor and ch-remote. Nothing else writes the recording, and no other program
is recorded: both must say by themselves that they are Cloud Hypervisor's, of one version.
"""
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "kvm")]
import kvmtest  # noqa: E402
import differential  # noqa: E402
import scenes  # noqa: E402,F401


def version_of(program):
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    name, version = done.stdout.split("\n")[0].split(" ", 1)
    if name != os.path.basename(program) or name not in ("cloud-hypervisor", "ch-remote"):
        sys.exit(f"record: {program} says that it is {name}: not recorded")
    return version


class Place(kvmtest.KvmTest):
    def runTest(self):
        pass


def check_ping(program):
    """A program that calls itself cloud-hypervisor must be it on its API, too."""
    place = Place()
    place.setUp()
    ping = place.start(program=program).get("vmm.ping")
    place.doCleanups()
    if "forkd" in json.dumps(ping):
        sys.exit(f"record: {program} answers vmm.ping with {ping}: not recorded")
    return ping["build_version"]


def record(name, program, ch_remote):
    place = Place()
    place.setUp()
    seen, _ = differential.observe(name, place, program, ch_remote)
    if not place.doCleanups():
        sys.exit(f"record: {name} left something behind")
    print(f"{name}: {len(seen)} steps", flush=True)
    return seen


def step_text(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 400 else json.dumps(value, ensure_ascii=False, indent=1)


def main():
    program, ch_remote = kvmtest.peer("cloud-hypervisor"), kvmtest.peer("ch-remote")
    version = version_of(program)
    if version_of(ch_remote) != version:
        sys.exit(f"record: {ch_remote} is of another version than {program}")
    kvmtest.isolate()
    if check_ping(program) != version:
        sys.exit(f"record: {program} has two versions")
    path = os.path.join(HERE, f"recorded-{version}.json")
    recorded = {}
    if len(sys.argv) > 1 and os.path.exists(path):
        with open(path) as f:
            recorded = json.load(f)["scenes"]
    try:
        for name in sys.argv[1:] or differential.SCENES:
            recorded[name] = record(name, program, ch_remote)
    finally:
        save(path, version, recorded)


def save(path, version, recorded):
    blocks = []
    for name in (n for n in differential.SCENES if n in recorded):
        steps = ",\n".join(f"{json.dumps(k, ensure_ascii=False)}: {step_text(v)}" for k, v in recorded[name].items())
        blocks.append(f"{json.dumps(name)}: {{\n{steps}\n}}")
    with open(path, "w") as f:
        f.write(f'{{"version": {json.dumps(version)}, "scenes": {{\n' + ",\n".join(blocks) + "\n}}\n")


if __name__ == "__main__":
    main()
