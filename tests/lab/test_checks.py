# SPDX-License-Identifier: Apache-2.0
"""The lab's own checks find what they are made to find: each is given a guest with that fault."""
from lab import Failed, Vm, check, test


def must_fail(what, probe):
    try:
        probe()
    except Failed:
        return
    check(False, f"nobody noticed: {what}")


@test("checks-can-fail", "full")
def checks_can_fail():
    with Vm("checks-can-fail") as vm:
        vm.boot(test="work")
        vm.wait_ready()
        vm.check_work()
        vm.learn_messages()
        vm.check_messages()
        vm.ask("echo '<4>watchdog: this is new' > /dev/kmsg")
        must_fail("a new kernel message", vm.check_messages)
        vm.check_boot_clock()
        vm.ask("date -s @$(($(date +%s) - 10))")
        must_fail("a clock that is 10 s late", vm.check_clock)
        vm.ask("echo broken | dd of=/mnt/files/3 conv=notrunc 2>/dev/null; sync")
        must_fail("a damaged file", lambda: vm.ask("verify"))
        vm.ask("killall guest-work; cp /run/confirmed /tmp/c; grep -v '/files/3$' /tmp/c > /run/confirmed; cp /run/confirmed /tmp/c")
        vm.ask("verify")
        vm.ask("rm /mnt/files/4")
        must_fail("a lost file", lambda: vm.ask("verify"))
        must_fail("too few processors", lambda: vm.check_devices(2))
        vm.power_off()
