# SPDX-License-Identifier: Apache-2.0
"""With the real Cloud Hypervisor programs (FORKD_PEERS): ch-remote against our API, snapshots in both directions."""
import json
import subprocess

from kvmtest import VMM, KvmTest, Tap, guest, modes, only_forkd, peer, write


class ChRemote(KvmTest):
    def remote(self, vmm, *args, status=0, pass_fds=()):
        done = subprocess.run([peer("ch-remote"), "--api-socket", vmm.socket, *args], capture_output=True, text=True,
                              timeout=60, pass_fds=pass_fds)
        self.assertEqual(done.returncode, status, f"ch-remote {args}: {done.stderr}")
        return done

    def test_whole_life(self):
        peer("ch-remote")
        vmm = self.boot("devices", "rounds=0 mem=4")
        vmm.wait_rounds(2)
        self.assertEqual(json.loads(self.remote(vmm, "ping").stdout)["pid"], vmm.pid)
        self.assertEqual(json.loads(self.remote(vmm, "info").stdout)["state"], "Running")
        failed = self.remote(vmm, "snapshot", "file://" + self.new_dir("early"), status=1)
        self.assertIn("Server responded with InternalServerError", failed.stderr)
        self.assertTrue(failed.stderr.rstrip().endswith("Trying to snapshot while VM is running"), failed.stderr)
        self.assertEqual(self.remote(vmm, "pause").stdout, "")
        self.assertEqual(json.loads(self.remote(vmm, "info").stdout)["state"], "Paused")
        self.remote(vmm, "pause", status=1)
        directory = self.new_dir("snapshot")
        self.assertEqual(self.remote(vmm, "snapshot", "file://" + directory).stdout, "")
        last = vmm.rounds()[-1]
        self.assertEqual(self.remote(vmm, "resume").stdout, "")
        vmm.wait_rounds(2)
        self.remote(vmm, "shutdown")
        self.assertEqual(json.loads(self.remote(vmm, "info").stdout)["state"], "Created")
        self.remote(vmm, "delete")
        done = self.remote(vmm, "info", status=1)
        self.assertIn("NotFound", done.stderr)
        self.assertEqual(self.remote(vmm, "shutdown-vmm").stdout.strip(), "")
        self.assertEqual(vmm.wait_exit(), 0)
        vmm.release()
        for mode in (m.lower() for m in modes() if m != "CopyOnWrite"):          # this ch-remote knows no more
            clone = self.start(name="clone")
            self.remote(clone, "restore", f"source_url=file://{directory},memory_restore_mode={mode},resume=true")
            self.assertIn(clone.first_round(3), (last + 1, last + 2))
            clone.stop()
        clone = self.start(name="clone")
        self.remote(clone, "restore", f"source_url=file://{directory},prefault=on")
        self.assertEqual(json.loads(self.remote(clone, "info").stdout)["state"], "Paused")
        self.remote(clone, "resume")
        clone.wait_rounds(3)
        self.remote(clone, "reboot")
        clone.wait_output(rb"devices: cpus")
        clone.stop()

    def test_create_and_boot(self):
        peer("ch-remote")
        config = self.path("vm.json")
        write(config, json.dumps({"cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 64 << 20},
                                  "payload": {"kernel": guest("ticker"), "cmdline": "warm=1 tick=2000000"},
                                  "serial": {"mode": "Tty"}, "console": {"mode": "Off"}}))
        vmm = self.start()
        self.remote(vmm, "create", config)
        self.remote(vmm, "boot")
        vmm.wait_bytes(3)
        self.remote(vmm, "create", config, status=1)
        vmm.stop()

    def test_net_fds(self):
        peer("ch-remote")
        taps = [Tap(self, queues=2), Tap(self, queues=2)]
        nets = [f"id=net{n},fd=[{','.join(map(str, tap.fds))}],num_queues=4" for n, tap in enumerate(taps, 1)]
        vmm = self.boot("devices", "rounds=0 cpus=2 dev=net batches=4", cpus=2, extra=["--net", *nets],
                        pass_fds=taps[0].fds + taps[1].fds)
        vmm.wait_rounds(2)
        directory = vmm.snapshot()
        vmm.stop()
        for tap in taps:
            tap.close()
        taps = [Tap(self, queues=2), Tap(self, queues=2)]
        fds = [",".join(map(str, tap.fds)) for tap in taps]
        clone = self.start(name="clone")
        self.remote(clone, "restore", f"source_url=file://{directory},net_fds=[net1@[{fds[0]}]]", status=1,
                    pass_fds=taps[0].fds)
        self.remote(clone, "restore", f"source_url=file://{directory},net_fds=[net2@[{fds[1]}],net1@[{fds[0]}]],resume=true",
                    pass_fds=taps[0].fds + taps[1].fds)
        clone.wait_rounds(4)
        clone.stop()


@only_forkd
class BothWays(KvmTest):
    """A snapshot of one program continues under the other."""

    def across(self, first, second, second_modes, cpus, irq, qcow2=False):
        disk, tap, form = self.disk(), Tap(self, persistent=True), "image_type=raw"
        if qcow2:
            base, disk, form = disk, self.path(self.unique("disk") + ".qcow2"), "image_type=qcow2,backing_files=on"
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, disk], check=True)
        vmm = self.boot("devices", f"rounds=0 cpus={cpus} mem=8 batches=4 mode={'irq' if irq else 'poll'}", cpus=cpus,
                        program=first, extra=["--disk", f"path={disk},{form}", "--net", f"tap={tap.name}",
                                              "--console", "null"])
        vmm.wait_rounds(2)
        directory = vmm.snapshot()
        vmm.stop()
        last = vmm.rounds()[-1]
        for mode in second_modes:
            mine = self.clone_disk(disk)
            copy = self.copy_snapshot(directory, lambda c: c["disks"][0].update(path=mine))
            clone = self.restore(copy, mode, program=second)
            self.assertIn(clone.first_round(5), (last + 1, last + 2))
            again = clone.snapshot_when_filled()
            clone.stop()
            back = self.restore(again, "Copy", program=first)
            back.wait_rounds(3)
            back.stop()
        tap.close()

    def test_ours_there(self):
        for cpus, irq, qcow2 in ((1, False, False), (2, True, False), (1, False, True)):
            self.across(VMM, peer("cloud-hypervisor"), ["Copy", "OnDemand"], cpus, irq, qcow2)

    def test_theirs_here(self):
        for cpus, irq, qcow2 in ((1, False, False), (2, True, False), (1, False, True)):
            self.across(peer("cloud-hypervisor"), VMM, modes(), cpus, irq, qcow2)
