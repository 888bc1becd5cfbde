# SPDX-License-Identifier: Apache-2.0
"""Guests that are hypervisors: a snapshot has what KVM keeps for them, and the guest inside the guest goes on in a clone."""
import json
import os
import shutil

from lab import VMM, Skipped, Vm, check, test
from test_snapshot import Snapshot

GUEST_MODE = 1          # KVM_STATE_NESTED_GUEST_MODE: the vCPU was in the innermost guest
ROUNDS = 200000000      # some tenths of a second in there, between two numbers


def nested_flags(directory):
    """Of vCPU 0; None: it has no nested state."""
    with open(os.path.join(directory, "state.json")) as f:
        vcpu = json.loads(json.load(f)["snapshots"]["cpu-manager"]["snapshots"]["0"]["snapshot_data"]["state"])
    state = vcpu["Kvm"]["nested_state"]
    return state and state[0] + (state[1] << 8)


class Nested(Snapshot):
    def take(self):
        """Snapshots until one caught the guest of the guest at work; that is nearly always the first."""
        with Vm(self.name + "-source") as vm:
            vm.boot(cpus=self.cpus, test="boot", program=self.program, tap_by_name=False)
            vm.wait_ready()
            if vm.ask("modprobe kvm-amd 2>/dev/null || modprobe kvm-intel 2>/dev/null; ls /dev/kvm", may_fail=True) != "/dev/kvm":
                raise Skipped("guests have no /dev/kvm here: the host's KVM does not nest")
            vm.ask(f"guest_nested /run/count {ROUNDS} < /dev/null > /dev/console 2>&1 & until [ -s /run/count ]; do sleep 0.1; done")
            for attempt in range(10):
                directory = os.path.join(self.dir, f"attempt-{attempt}")
                os.mkdir(directory)
                vm.api("PUT", "vm.pause")
                vm.api("PUT", "vm.snapshot", {"destination_url": "file://" + directory})
                shutil.copy(vm.disk, self.disk)
                flags = nested_flags(directory)
                vm.api("PUT", "vm.resume")
                if flags is not None and flags & GUEST_MODE:
                    os.rmdir(os.path.join(self.dir, "snapshot"))
                    os.rename(directory, os.path.join(self.dir, "snapshot"))
                    self.count = count(vm)
                    goes_on(vm, self.count)
                    return
                shutil.rmtree(directory)
            check(False, "no snapshot of ten was taken while the guest of the guest ran")


def count(vm):
    return int(vm.ask("cat /run/count"))


def goes_on(vm, begin):
    vm.wait(f"the innermost guest to count beyond {begin + 3}", lambda: count(vm) > begin + 3)
    check("trouble" not in vm.printed(), f"{vm.name}: the innermost guest lost count{vm.context()}")


@test("nested", "full")
def nested():
    """The innermost guest, too, goes on where it was."""
    with Nested("nested", 1, VMM) as snapshot:
        snapshot.take()
        with Vm("nested-clone") as vm:
            snapshot.restore_by_command_line(vm, "copyonwrite")
            goes_on(vm, count(vm))
            check("lab-guest: start" not in vm.printed(), f"{vm.name}: was booted, not restored{vm.context()}")
            vm.ask("killall guest_nested")
            vm.power_off()
