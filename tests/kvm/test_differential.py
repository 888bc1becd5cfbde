# SPDX-License-Identifier: Apache-2.0
"""forkd-vmm shows in every scene of tests/peers what Cloud Hypervisor showed, except for what docs/differences.md says.

With FORKD_PEERS the real programs are looked at again first: the recording must still be what they show.
"""
import os
import sys
import unittest

import kvmtest
from kvmtest import IS_FORKD, PEERS, ROOT, KvmTest, peer

sys.path.insert(0, os.path.join(ROOT, "tests", "peers"))
import differential     # noqa: E402
import scenes           # noqa: E402,F401


@unittest.skipUnless(IS_FORKD, "it compares forkd-vmm with Cloud Hypervisor")
class Differential(KvmTest):
    def compare(self, name):
        recorded = differential.recording()[0]
        self.assertIn(name, recorded, "not recorded: tests/peers/record.py")
        theirs = recorded[name]
        if PEERS:
            again, _ = differential.observe(name, self, peer("cloud-hypervisor"), peer("ch-remote"))
            changed = differential.step_differences(theirs, again)
            self.assertEqual(changed, {}, "Cloud Hypervisor itself is not as it was recorded")
        ours, unseen = differential.observe(name, self, kvmtest.VMM, peer("ch-remote") if PEERS else None, theirs)
        wrong = differential.judge(name, theirs, ours, unseen)
        self.assertFalse(wrong, "".join(wrong))


for scene in differential.SCENES:
    setattr(Differential, f"test_{scene}", lambda self, name=scene: self.compare(name))


class Explanations(KvmTest):
    """docs/differences.md, differences.json and the recording belong together."""

    def test_rows(self):
        keys = differential.table_keys()
        self.assertEqual(len(keys), len(set(keys)), "a key of docs/differences.md is there twice")
        with open(differential.DIFFERENCES) as f:
            named = differential.json.load(f)
        self.assertEqual(sorted(set(named) - set(keys)), [], "no such row in docs/differences.md")
        self.assertEqual([k for k, places in named.items() if not places], [], "rows without a step")

    def test_places(self):
        recorded = differential.recording()[0]
        self.assertEqual(sorted(recorded), sorted(differential.SCENES), "scenes and recording")
        with open(differential.DIFFERENCES) as f:
            named = differential.json.load(f)
        places = [place for of_row in named.values() for place in of_row]
        self.assertEqual(len(places), len(set(places)), "a difference has two explanations")
        for place in places:
            scene_name, _, step = place.partition("/")
            steps = recorded.get(scene_name, {})
            self.assertTrue(any(step.startswith(f"{s}: ") for s in steps), f"{place}: no such step")
