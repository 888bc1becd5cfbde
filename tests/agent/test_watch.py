# SPDX-License-Identifier: Apache-2.0
"""filesystem.Filesystem of the agent's API: the calls that watch directories."""
import os
import re
import shutil

from agenttest import b64, wait_for
from test_files import FilesTest


class WatchTest(FilesTest):
    def watch(self, path=None, headers=None, **message):
        """A WatchDir stream that has started."""
        s = self.stream("filesystem.Filesystem/WatchDir", {"path": path or self.work, **message}, headers)
        self.assertEqual(s.next(), {"start": {}})
        return s

    def next_events(self, s, n):
        return [self.brief(s.next()["filesystem"]) for _ in range(n)]

    def brief(self, event):
        return (event["type"].removeprefix("EVENT_TYPE_"), event["name"])

    def touch(self, name):
        os.mknod(self.at(name))

    def create(self, path=None, **message):
        answer = self.fs("CreateWatcher", path=path or self.work, **message)
        self.assertEqual(list(answer), ["watcherId"])
        return answer["watcherId"]

    def events(self, watcher):
        return [self.brief(e) for e in self.fs("GetWatcherEvents", watcherId=watcher)["events"]]


class Stream(WatchTest):
    def test_events(self):
        s = self.watch()
        self.make("a", "x", 0o600)
        self.assertEqual(self.next_events(s, 3), [("CREATE", "a"), ("WRITE", "a"), ("CHMOD", "a")])
        os.rename(self.at("a"), self.at("b"))
        os.remove(self.at("b"))
        self.assertEqual(self.next_events(s, 3), [("RENAME", "a"), ("CREATE", "b"), ("REMOVE", "b")])
        os.mkdir(self.at("d"))
        self.make("d/unseen")
        self.make("c")
        self.assertEqual(self.next_events(s, 2), [("CREATE", "d"), ("CREATE", "c")])

    def test_uploads(self):
        """A new file is created, owned and written; one that is there is written."""
        s = self.watch()
        self.post(self.at("a"), b"1" * 200_000)
        self.assertEqual(self.next_events(s, 3), [("CREATE", "a"), ("CHMOD", "a"), ("WRITE", "a")])
        self.post(self.at("a"), b"2")
        self.post_parts(None, ("file", self.at("b"), b"3"))
        self.assertEqual(self.next_events(s, 4), [("WRITE", "a"), ("CREATE", "b"), ("CHMOD", "b"), ("WRITE", "b")])

    def test_recursive(self):
        self.make("old/er/x")
        s = self.watch(recursive=True)
        self.make("old/er/y")
        self.make("new/dir/z")
        events = self.next_events(s, 3)
        self.assertIn(("CREATE", "old/er/y"), events)
        while ("CREATE", "new/dir/z") not in events:
            events += self.next_events(s, 1)
        self.assertIn(("CREATE", "new/dir"), events)
        os.rename(self.at("new"), self.at("newer"))
        self.make("newer/dir/last")
        while ("CREATE", "newer/dir/last") not in events:
            events += self.next_events(s, 1)

    def test_entries(self):
        s = self.watch(includeEntry=True)
        path = self.make("a", "123")
        event = s.next()["filesystem"]
        self.assertEqual((event["name"], event["type"], event["entry"]["path"]), ("a", "EVENT_TYPE_CREATE", path))
        os.remove(path)
        self.make("b")
        while (event := s.next()["filesystem"])["name"] != "b":
            if event["type"] == "EVENT_TYPE_REMOVE":
                self.assertNotIn("entry", event)
        self.assertEqual(event["entry"], self.fs("Stat", path=self.at("b"))["entry"])

    def test_the_directory_itself(self):
        os.mkdir(self.at("d"))
        s = self.watch(self.at("d"))
        os.chmod(self.at("d"), 0o700)
        self.assertEqual(self.next_events(s, 1), [("CHMOD", ".")])
        os.rename(self.at("d"), self.at("e"))
        self.touch("e/still")
        self.assertEqual(self.next_events(s, 2), [("RENAME", "."), ("CREATE", "still")])
        shutil.rmtree(self.at("e"))
        self.assertEqual(self.next_events(s, 2), [("REMOVE", "still"), ("REMOVE", ".")])

    def test_keepalive(self):
        s = self.watch(headers={"Keepalive-Ping-Interval": "1"})
        self.assertEqual(s.next(), {"keepalive": {}})
        self.touch("a")
        self.assertEqual(self.next_events(s, 1), [("CREATE", "a")])
        self.assertEqual(s.next(), {"keepalive": {}})

    def test_deadline(self):
        s = self.watch(headers={"Connect-Timeout-Ms": "300"})
        self.assertIsNone(s.next())
        self.assertEqual(s.end["error"]["code"], "deadline_exceeded")

    def test_refused(self):
        self.make("file")
        os.symlink("loop", self.at("loop"))
        for message, code in (({"path": self.at("none")}, "not_found"), ({"path": self.at("file")}, "invalid_argument"),
                              ({"path": self.at("loop")}, "invalid_argument"), ({"path": "~x"}, "invalid_argument"),
                              ({"path": self.work, "recursive": 1}, "invalid_argument"), ({"path": []}, "invalid_argument")):
            with self.subTest(message=message):
                s = self.stream("filesystem.Filesystem/WatchDir", message)
                self.assertIsNone(s.next())
                self.assertEqual(s.end["error"]["code"], code)
                self.refused("CreateWatcher", code, **message)
        s = self.stream("filesystem.Filesystem/WatchDir", {"path": "/"}, {"Authorization": "Basic " + b64("nobody-here:")})
        self.assertIsNone(s.next())
        self.assertEqual(s.end["error"]["code"], "unauthenticated")

    def test_ends_with_its_client(self):
        streams = [self.watch(recursive=True) for _ in range(5)]
        self.assertEqual(self.inotify(), 5)
        for s in streams:
            s.close()
        wait_for("no watch is left", lambda: self.inotify() == 0)

    def inotify(self):
        fds = f"/proc/{self.agent.pid}/fd"
        found = 0
        for fd in os.listdir(fds):
            try:
                found += "inotify" in os.readlink(f"{fds}/{fd}")
            except FileNotFoundError:
                pass
        return found

    def test_client_that_does_not_read(self):
        """The kernel keeps its changes, up to its bound; then the watch ends and says so."""
        with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as f:
            queue = int(f.read())
        if queue > 100_000:
            self.skipTest(f"the kernel keeps {queue} changes")
        s = self.watch()
        a, b = self.make("a" * 200), self.make("b" * 200)
        for _ in range(queue + 10_000):
            os.chmod(a, 0o600)
            os.chmod(b, 0o600)
        self.small(3 << 20)
        n = sum(1 for _ in s)
        self.assertEqual(s.end["error"]["code"], "resource_exhausted")
        self.assertIn("lost", s.end["error"]["message"])
        self.assertGreaterEqual(n, queue)

    def test_10000_directories(self):
        self.work_in_memory()
        for i in range(100):
            for k in range(99):
                os.makedirs(self.at(str(i), str(k)))
        slow = [self.stream("filesystem.Filesystem/WatchDir", {"path": self.work, "recursive": True}) for _ in range(1)]
        s = self.watch(recursive=True)
        self.make("99/98/x")
        self.assertEqual(self.next_events(s, 1), [("CREATE", "99/98/x")])
        self.assertEqual(slow[0].next(), {"start": {}})
        self.small(8 << 20)


class Collecting(WatchTest):
    def test_events(self):
        w = self.create()
        self.assertEqual(self.events(w), [])
        for name in ("a", "b"):
            self.make(name, "", 0o600)
        self.assertEqual(self.events(w), [("CREATE", "a"), ("CHMOD", "a"), ("CREATE", "b"), ("CHMOD", "b")])
        self.assertEqual(self.events(w), [])
        self.post(self.at("c"), b"x")
        self.assertEqual(self.events(w), [("CREATE", "c"), ("CHMOD", "c"), ("WRITE", "c")])
        self.post(self.at("c"), b"y")
        self.assertEqual(self.events(w), [("WRITE", "c")])
        self.assertEqual(self.fs("RemoveWatcher", watcherId=w), {})
        self.assertIn(w, self.refused("GetWatcherEvents", "not_found", watcherId=w))
        self.refused("RemoveWatcher", "not_found", watcherId=w)
        for bad in ({}, {"watcherId": ""}, {"watcherId": "x"}):
            self.refused("GetWatcherEvents", "not_found", **bad)
        self.refused("GetWatcherEvents", "invalid_argument", watcherId=5)

    def test_entries_and_recursion(self):
        self.make("d/x")
        w = self.create(recursive=True, includeEntry=True)
        self.touch("d/y")
        os.mkdir(self.at("n"))
        self.touch("n/z")
        events = self.fs("GetWatcherEvents", watcherId=w)["events"]
        self.assertEqual([self.brief(e) for e in events[:3]], [("CREATE", "d/y"), ("CREATE", "n"), ("CREATE", "n/z")])
        self.assertEqual([e["entry"]["path"] for e in events[:3]], [self.at("d/y"), self.at("n"), self.at("n/z")])

    def test_two_do_not_disturb_each_other(self):
        first, second = self.create(), self.create()
        self.make("a", "", 0o644)
        self.assertEqual(self.events(first), self.events(second))
        self.fs("RemoveWatcher", watcherId=first)
        os.remove(self.at("a"))
        self.assertEqual(self.events(second), [("REMOVE", "a")])

    def test_bound_on_events(self):
        """Nobody asks: the agent keeps 256 KiB, the kernel its queue; all of that is told, and then that some were lost."""
        with open("/proc/sys/fs/inotify/max_queued_events", encoding="ascii") as f:
            queue = int(f.read())
        if queue > 100_000:
            self.skipTest(f"the kernel keeps {queue} changes")
        w = self.create()
        a, b = self.make("a" * 200), self.make("b" * 200)
        for _ in range(queue):
            os.chmod(a, 0o600)
            os.chmod(b, 0o600)
        self.small(3 << 20)
        total = 0
        while (answer := self.http("POST", "/filesystem.Filesystem/GetWatcherEvents", b'{"watcherId":"%s"}' % w.encode(),
                                   {"Content-Type": "application/json"})).status == 200:
            total += len(answer.json()["events"])
        self.assertEqual(answer.json()["code"], "resource_exhausted")
        self.assertGreaterEqual(total, queue)
        self.assertEqual(self.fs("RemoveWatcher", watcherId=w), {})

    def test_bound_on_watches(self):
        """256, or as many as the kernel gives one user; each of them is free again after RemoveWatcher."""
        ids = []
        while (a := self.http("POST", "/filesystem.Filesystem/CreateWatcher", b'{"path":"%s"}' % self.work.encode(),
                              {"Content-Type": "application/json"})).status == 200:
            ids.append(a.json()["watcherId"])
        self.assertEqual(a.json()["code"], "resource_exhausted")
        self.assertTrue(len(ids) == 256 or re.search("max_user_instances", a.json()["message"]), a)
        for w in ids:
            self.fs("RemoveWatcher", watcherId=w)
        self.create()
