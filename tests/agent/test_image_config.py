# SPDX-License-Identifier: Apache-2.0
"""--image-config: what an image says about processes is what they have, unless a request says otherwise."""
import json
import os
import pwd
import subprocess

from agenttest import AGENT, AgentTest
from test_process import ProcessTest

NOBODY = pwd.getpwnam("nobody")


class ImageConfig(ProcessTest):
    config = {"User": f"nobody:{NOBODY.pw_gid}", "Env": ["PATH=/bin:/usr/bin", "A=image", "B=a=b", "EMPTY="], "Cmd": ["ignored"]}

    def start_agent(self):
        self.config["WorkingDir"] = os.path.join(self.dir, "made", "there")
        self.file = os.path.join(self.dir, "image.json")
        with open(self.file, "w", encoding="utf-8") as f:
            json.dump(self.config, f)
        self.options = ["--image-config", self.file]
        super().start_agent()

    def lines(self, script, **request):
        got = self.run_shell(script, **request)
        self.assertEqual(got["end"]["exitCode"], 0, got)
        return got["stdout"].decode().splitlines()

    def test_all(self):
        """User, group, variables, directory, which is made."""
        self.assertEqual(self.lines('id -u; id -G; pwd; echo "$PATH $A $B [$EMPTY] $USER"'),
                         [str(NOBODY.pw_uid), str(NOBODY.pw_gid), self.config["WorkingDir"], "/bin:/usr/bin image a=b [] nobody"])

    def test_request_goes_before(self):
        self.assertEqual(self.lines('id -u; pwd; echo "$A $B"', envs={"A": "own"}, cwd="/tmp",
                                    headers={"Authorization": "Basic cm9vdDo="}), ["0", "/tmp", "own a=b"])


class Numbers(ImageConfig):
    """A user that the image has no line for."""
    config = {"User": "12345:54321", "Env": []}

    def test_all(self):
        self.assertEqual(self.lines('id -u; id -G; echo "$HOME"; pwd'), ["12345", "54321", "/", self.config["WorkingDir"]])

    def test_request_goes_before(self):
        self.assertEqual(self.lines("id -u", headers={"Authorization": "Basic cm9vdDo="}), ["0"])


class Bad(AgentTest):
    def test_refused(self):
        """An agent whose file is wrong says so, and does not start."""
        path = os.path.join(self.dir, "image.json")
        for text, message in (("{", "line 1"), ('{"Env": ["x"]}', "Env: 'x' is not NAME=value"), ('{"Env": "A=b"}', "image.Env: "),
                              ('{"User": 5}', "image.User: "), ('{"Env": ["=x"]}', "Env: '=x' is not NAME=value")):
            with open(path, "w", encoding="utf-8") as f:
                f.write(text)
            done = subprocess.run([AGENT, "--listen", f"unix:{self.dir}/other", "--image-config", path], capture_output=True, text=True,
                                  timeout=60, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(message, done.stderr)
