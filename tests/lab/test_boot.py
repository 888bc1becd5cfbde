# SPDX-License-Identifier: Apache-2.0
"""A guest boots, has all its devices, powers off, resets."""
import os
import re
import socket

from lab import KERNEL, PATIENCE_S, VMLINUX, Skipped, Vm, check, test


def boot(name, cpus, kernel=KERNEL):
    with Vm(name) as vm:
        vm.boot(cpus=cpus, test="work", kernel=kernel)
        vm.wait_ready()
        vm.check_devices(cpus)
        vm.ping()
        vm.check_work()
        vm.check_boot_clock()
        vm.learn_messages()
        info = vm.api("GET", "vm.info")
        check(info["state"] == "Running", f"vm.info says {info['state']}")
        check(info["config"]["cpus"]["boot_vcpus"] == cpus, f"vm.info says {info['config']['cpus']}")
        vm.power_off()


@test("boot-1cpu", "full")       # the quick tier has it as the source of the snapshot, too
def boot_1cpu():
    boot("boot-1cpu", 1)


@test("boot-2cpu", "full")       # the quick tier has it as the source of the snapshot
def boot_2cpu():
    boot("boot-2cpu", 2)


@test("boot-4cpu", "quick", "full")
def boot_4cpu():
    boot("boot-4cpu", 4)


@test("boot-vmlinux", "full")
def boot_vmlinux():
    """The ELF kernel, entered by its PVH note."""
    if not os.path.exists(VMLINUX):
        raise Skipped("no vmlinux: its compressor was missing when the lab was built")
    boot("boot-vmlinux", 1, VMLINUX)


@test("reset", "full")
def reset():
    """A guest's reset starts it again, in the same VMM process, with all devices."""
    with Vm("reset") as vm:
        vm.boot(cpus=1)
        vm.wait_ready()
        vm.ask("echo before > /mnt/mark; sync")
        first = re.search(r"lab-guest: start .*boot=(\S+)", vm.printed()).group(1)
        vm.tell("reboot -f")
        # A VMM may begin the serial line's file anew: look for another boot, not for a second line.
        vm.wait_serial(rf"lab-guest: start .*boot=(?!{first})(?s:.*)lab-guest: ready")
        check(vm.ask("cat /mnt/mark") == "before", "the disk lost what was written before the reset")
        vm.check_devices(1)
        vm.ping()
        vm.power_off()


@test("serial-socket", "full")
def serial_socket():
    """Both directions of the serial line."""
    with Vm("serial-socket") as vm:
        path = os.path.join(vm.dir, "serial-socket")
        vm.boot(serial=f"socket={path}")
        vm.wait("the serial socket", lambda: os.path.exists(path), 60)
        with socket.socket(socket.AF_UNIX) as s, open(vm.serial, "wb", buffering=0) as log:
            s.settimeout(0.2)
            s.connect(path)

            def seen(text):
                try:
                    log.write(s.recv(65536))
                except TimeoutError:
                    pass
                return text in vm.printed()
            vm.wait("the ready line", lambda: seen("lab-guest: ready"), PATIENCE_S)
            s.sendall(b"hello from outside\n")
            vm.wait("the typed line", lambda: seen("lab-guest: typed hello from outside"), PATIENCE_S)
        vm.power_off()
