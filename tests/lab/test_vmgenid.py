# SPDX-License-Identifier: Apache-2.0
"""Linux takes the generation id for what it is: each clone reseeds its random numbers at once, and a paused guest does not."""
import os

from lab import FULL_INITRD, FULL_KERNEL, VMM, Vm, check, test
from test_snapshot import Snapshot, copy_sparse

RESEEDED = "crng reseeded due to virtual machine fork"


class OfFullKernel(Snapshot):
    """Of the distribution's full kernel, whose VMGenID driver is built in. A kernel for virtual machines may lack it."""

    def take(self):
        with Vm(self.name + "-source") as vm:
            vm.boot(cpus=self.cpus, test="work", kernel=FULL_KERNEL, initrd=FULL_INITRD, program=self.program, tap_by_name=False,
                    more=("--platform", "vmgenid=on"))
            vm.wait_ready()
            vm.ask("ls -d /sys/bus/acpi/devices/FRKD0001:00")
            vm.api("PUT", "vm.pause")
            vm.api("PUT", "vm.resume")
            check(reseeds(vm) == 0, f"{vm.name}: it was paused, not copied, and reseeds{vm.context()}")
            vm.api("PUT", "vm.pause")
            vm.api("PUT", "vm.snapshot", {"destination_url": "file://" + os.path.join(self.dir, "snapshot")})
            copy_sparse(vm.disk, self.disk)
            vm.api("PUT", "vm.resume")
            check(reseeds(vm) == 0, f"{vm.name}: a snapshot was taken of it, and it reseeds{vm.context()}")


def reseeds(vm):
    return vm.ask("dmesg").count(RESEEDED)


@test("vmgenid", "full")
def vmgenid():
    with OfFullKernel("vmgenid", 2, VMM) as snapshot:
        snapshot.take()
        drawn = []
        for n in range(2):
            with Vm(f"vmgenid-clone{n}") as vm:
                snapshot.restore_by_command_line(vm, "copyonwrite")
                vm.wait_serial("lab-guest: beat")
                vm.wait(f"'{RESEEDED}'", lambda vm=vm: reseeds(vm) > 0)
                drawn.append(vm.ask("head -c 16 /dev/urandom | md5sum"))
                vm.api("PUT", "vm.pause")
                vm.api("PUT", "vm.resume")
                check(reseeds(vm) == 1, f"{vm.name}: reseeded {reseeds(vm)} times, not once{vm.context()}")
                check("lab-guest: start" not in vm.printed(), f"{vm.name}: was booted, not restored{vm.context()}")
        check(drawn[0] != drawn[1], f"two clones drew the same random numbers: {drawn[0]}")
