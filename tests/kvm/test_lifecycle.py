# SPDX-License-Identifier: Apache-2.0
"""Boot, run, pause, end: the machine's life without snapshots."""
import os
import subprocess
import time

from kvmtest import FULL, MIB, KvmTest, Tap, Vmm, call, guest, read, wait_for


class Lifecycle(KvmTest):
    def test_ticker_boots_and_ticks(self):
        vmm = self.boot("ticker", "tick=5000000 warm=4")
        vmm.wait_output(rb"\.{20}")
        self.assertEqual(set(vmm.output), set(b"."))
        vmm.stop()

    def test_boot_without_api(self):
        vmm = self.boot("ticker", "tick=5000000 warm=1", api=False)
        vmm.wait_output(rb"\.{5}")
        vmm.stop()

    def test_boot_over_the_api(self):
        vmm = self.start()
        self.assertEqual(vmm.call("GET", "vm.info").status, 404)
        vmm.put("vm.create", {"cpus": {"boot_vcpus": 2, "max_vcpus": 2}, "memory": {"size": 64 * MIB},
                              "payload": {"kernel": guest("devices"),
                                          "cmdline": "rounds=0 cpus=2 pause=5"},
                              "serial": {"mode": "Tty"}, "console": {"mode": "Off"}})
        self.assertEqual(vmm.state(), "Created")
        vmm.put("vm.boot")
        vmm.wait_rounds(3)
        self.assertEqual(vmm.state(), "Running")
        vmm.put("vm.shutdown")
        self.assertEqual(vmm.state(), "Created")
        seen = len(vmm.output)
        vmm.put("vm.boot")
        vmm.wait_output(rb"round 3 ok", seen)
        vmm.put("vm.delete")
        self.assertEqual(vmm.call("GET", "vm.info").status, 404)
        vmm.put("vm.delete")
        self.assertEqual(vmm.call("PUT", "vmm.shutdown").status, 200)
        self.assertEqual(vmm.wait_exit(), 0)
        self.assertFalse(os.path.exists(vmm.socket))

    def test_ping_and_info(self):
        vmm = self.boot("ticker", "tick=5000000 warm=1", cpus=2, memory="128M", extra=["--disk", self.disk_option()])
        ping = vmm.get("vmm.ping")
        self.assertEqual(ping["pid"], vmm.pid)
        self.assertIn("kvm", ping["features"])
        for key in ("build_version", "version"):
            self.assertIsInstance(ping[key], str)
        info = vmm.get("vm.info")
        self.assertEqual(info["state"], "Running")
        self.assertEqual(info["memory_actual_size"], 128 * MIB)
        self.assertEqual(info["config"]["cpus"]["boot_vcpus"], 2)
        self.assertEqual(info["config"]["memory"]["size"], 128 * MIB)
        self.assertEqual(info["config"]["disks"][0]["id"], "_disk0")
        self.assertIn("_virtio-pci-_disk0", info["device_tree"])
        vmm.stop()

    def test_pause_stops_and_resume_goes_on(self):
        vmm = self.boot("ticker", "tick=2000000 warm=1")
        for _ in range(20):
            vmm.wait_bytes(2)
            vmm.put("vm.pause")
            self.assertEqual(vmm.state(), "Paused")
            seen = len(vmm.all_output())
            time.sleep(0.05)
            self.assertEqual(len(vmm.all_output()), seen, "the guest runs while paused")
            vmm.put("vm.resume")
            self.assertEqual(vmm.state(), "Running")
        vmm.wait_bytes(10)
        vmm.stop()

    def test_wrong_state(self):
        vmm = self.boot("ticker", "tick=5000000 warm=1")
        vmm.wait_bytes(1)
        vmm.put("vm.pause")
        for name in ("vm.pause", "vm.boot"):
            self.assertEqual(vmm.call("PUT", name).status, 500, name)
        vmm.put("vm.resume")
        self.assertEqual(vmm.call("PUT", "vm.resume").status, 500)
        answer = vmm.call("PUT", "vm.create", {"cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 64 * MIB}})
        self.assertEqual((answer.status, answer.json[-1]), (500, "VM is already created"))
        vmm.wait_bytes(2)
        vmm.stop()
        vmm = self.start()
        for name in ("vm.pause", "vm.resume"):
            answer = vmm.call("PUT", name)
            self.assertEqual((answer.status, answer.json[-1]), (500, "VM is not running"), name)
        self.assertEqual(vmm.call("PUT", "vm.boot").status, 404)
        vmm.stop()

    def test_power_off_ends_with_status_0(self):
        for cpus in (1, 2):
            vmm = self.boot("devices", f"rounds=2 cpus={cpus}", cpus=cpus)
            self.assertEqual(vmm.wait_exit(), 0, vmm.context())
            self.assertIn(b"PASS", vmm.output)
            self.assertFalse(os.path.exists(vmm.socket), "the API socket is left")
            vmm.release()

    def test_reset_boots_again(self):
        for way in ("reset", "acpi-reset"):
            vmm = self.boot("devices", f"rounds=1 end={way}")
            wait_for("four boots", lambda: vmm.output.count(b"PASS") >= 4, context=vmm.context)
            self.assertIsNone(vmm.process.poll())
            vmm.stop()

    def test_reboot_by_api(self):
        vmm = self.boot("devices", "rounds=0 pause=5")
        vmm.wait_rounds(3)
        for n in (2, 3):
            vmm.put("vm.reboot")
            wait_for("boot again", lambda: vmm.output.count(b"devices: cpus") == n, context=vmm.context)
            vmm.wait_rounds(3)
        vmm.stop()

    def test_idle_guest_costs_no_cpu(self):
        vmm = self.boot("devices", "rounds=1 end=halt", cpus=2, extra=["--disk", self.disk_option()])
        vmm.wait_output(rb"PASS")
        time.sleep(0.3)
        before = vmm.cpu_ticks()
        time.sleep(2)
        self.assertLessEqual(vmm.cpu_ticks() - before, 4, "ticks of 10 ms in 2 s")
        vmm.put("vm.pause")
        before = vmm.cpu_ticks()
        time.sleep(1)
        self.assertLessEqual(vmm.cpu_ticks() - before, 2, "ticks of 10 ms in 1 s, paused")
        vmm.stop()

    def test_devices_every_way(self):
        for mode in ("poll", "irq"):
            for cpus in (1, 2):
                for split in (("sectors", "odd", "none") if FULL else ("odd",)):
                    tap = Tap(self, queues=cpus)
                    vmm = self.boot("devices", f"mode={mode} cpus={cpus} rounds=3 mem=8 split={split}", cpus=cpus,
                                    memory="128M", pass_fds=tap.fds, extra=[
                                        "--disk", self.disk_option(f"num_queues={cpus}"), self.disk_option(),
                                        "--net", f"fd=[{','.join(map(str, tap.fds))}],num_queues={2 * cpus}",
                                        "--console", f"file={self.path('console')}"])
                    with self.subTest(mode=mode, cpus=cpus, split=split):
                        self.assertEqual(vmm.wait_exit(), 0, vmm.context())
                        self.assertIn(b"PASS", vmm.output)
                        self.assertIn(b"console ready", read(self.path("console")))
                        vmm.release()
                    tap.close()

    def test_serial_file_and_event_monitor(self):
        vmm = Vmm(self, "--kernel", guest("devices"), "--cmdline", "rounds=1", "--memory", "size=64M",
                  "--serial", f"file={self.path('serial')}", "--console", "off",
                  "--event-monitor", f"path={self.path('events')}")
        self.assertEqual(vmm.wait_exit(), 0)
        self.assertIn(b"PASS", read(self.path("serial")))
        events = read(self.path("events")).decode()
        for event in ("starting", "booting", "booted", "shutdown"):
            self.assertIn(f'"event": "{event}"', events)
        self.assertEqual(os.stat(self.path("events")).st_mode & 0o777, 0o600)
        vmm.release()

    def test_two_vmms_on_one_socket(self):
        first = self.start()
        second = subprocess.run([first.program, "--api-socket", first.socket], capture_output=True, text=True, timeout=20)
        self.assertEqual(second.returncode, 1)
        self.assertIn("in use by another running instance", second.stderr)
        self.assertEqual(call(first.socket, "GET", "vmm.ping").status, 200)
        first.kill()                                    # its socket stays; the next one takes it over
        third = subprocess.run(["timeout", "-s", "TERM", "1", first.program, "--api-socket", first.socket], timeout=20)
        self.assertIn(third.returncode, (0, 124))
        self.assertFalse(os.path.exists(first.socket))
