# SPDX-License-Identifier: Apache-2.0
"""api-spec/vmm.yaml says what vmm/api/api.c and vmm/config/config.c do: the same endpoints, fields, required ones and values, both ways."""
import os
import re
import unittest

from kvmtest import ROOT
from test_api_spec import load, source

SPEC = os.path.join(ROOT, "api-spec", "vmm.yaml")
# Structs of the field tables, and their schema: a name, or where an unnamed one stands.
TABLES = {
    "cpus_config": ["CpusConfig"], "topology_config": ["CpusConfig", "topology"], "cpu_affinity": ["CpusConfig", "affinity"],
    "memory_config": ["MemoryConfig"], "payload_config": ["PayloadConfig"], "disk_config": ["DiskConfig"], "net_config": ["NetConfig"],
    "rng_config": ["RngConfig"], "balloon_config": ["BalloonConfig"], "console_config": ["ConsoleConfig"], "vsock_config": ["VsockConfig"],
    "vm_config": ["VmConfig"], "restored_net": ["RestoreConfig", "net_fds"], "restore_config": ["RestoreConfig"],
    "snapshot_request": ["VmSnapshotConfig"], "vm_resize": ["VmResizeData"], "resize_disk_request": ["VmResizeDiskData"],
    "remove_request": ["VmRemoveDeviceData"], "platform_config": ["PlatformConfig"],
}
WITHOUT_SCHEMA = {"debug_console_config"}       # only "Off" can be said in it


def rows(text):
    """(struct, member, flags) of every row of the field tables that a request can have."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    common = ["id", "pci_segment", "pci_device_id"]
    for struct in re.findall(r"\bPCI_FIELDS\(struct (\w+)\)", text):
        yield from ((struct, member, "") for member in common)
    for struct, member, more in re.findall(r"\bF(?:_(?!FD)\w+)?\(struct (\w+),\s*(\w+)((?:[^()]|\([^()]*\))*)\)", text):
        if "F_REFUSE" not in more and "F_RUNTIME" not in more:
            yield struct, member, more


class VmmSpec(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.spec = load(SPEC)
        cls.rows = {}
        for struct, member, flags in rows(source("vmm/config/config.c") + source("vmm/api/api.c")):
            cls.rows.setdefault(struct, {}).setdefault(member, flags)      # a struct with two tables: the union

    def schema(self, path):
        found = self.spec["components"]["schemas"][path[0]]
        for name in path[1:]:
            found = found["properties"][name]
            found = found.get("items", found)
        return found

    def parts(self, schema):
        """A schema and those that it is made of."""
        yield schema
        for part in schema.get("allOf", []):
            yield from self.parts(self.schema([part["$ref"].rsplit("/", 1)[1]]) if "$ref" in part else part)

    def properties(self, path):
        return {k: v for part in self.parts(self.schema(path)) for k, v in part.get("properties", {}).items()}

    def required(self, path):
        return {k for part in self.parts(self.schema(path)) for k in part.get("required", [])}

    def test_endpoints(self):
        text = source("vmm/api/api.c")
        code = {name: ("get" if kind == "GET" else "put", kind == "PUT_JSON", ".run" in row) for kind, name, row in re.findall(
            r'\b(GET|PUT|PUT_JSON)\("(vmm?\.[a-z-]+)"((?:[^()"]|"[^"]*")*)\)', text)}
        code |= {name: ("put", False, True) for name in re.findall(r'\.name = "(vmm?\.[a-z-]+)"', text)}
        self.assertGreater(len(code), 20)
        described = {}
        for path, item in self.spec["paths"].items():
            self.assertEqual(len(item), 1, path)
            method, op = next(iter(item.items()))
            described[path[1:]] = (method, "requestBody" in op, op["summary"] != "Not supported by this program.")
        self.assertEqual(described, code)

    def test_errors(self):
        """A body can be wrong, and whatever is done can fail."""
        for path, item in self.spec["paths"].items():
            op = next(iter(item.values()))
            if "requestBody" in op:
                self.assertIn("400", op["responses"], path)
            if not path.startswith("/vmm."):
                self.assertIn("500", op["responses"], path)

    def test_fields(self):
        self.assertEqual(set(self.rows) - set(TABLES) - WITHOUT_SCHEMA, set(), "tables that this test does not know")
        for struct, path in TABLES.items():
            members = set(self.rows[struct])
            members -= {"features"} if struct == "cpus_config" else set()
            with self.subTest(struct=struct):
                self.assertEqual(set(self.properties(path)), members)
                self.assertEqual(self.required(path), {m for m, flags in self.rows[struct].items() if "F_REQUIRED" in flags})

    def test_defaults(self):
        for struct, path in TABLES.items():
            for member, flags in self.rows[struct].items():
                described = self.properties(path).get(member, {})
                said = re.search(r'\.def(?:_str)? = ("[^"]*"|\w+(?: << \w+)?)', flags)
                if not said or "F_REQUIRED" in flags or "$ref" in described:
                    continue
                value = said.group(1)
                value = value[1:-1] if value[0] == '"' else {"true": True, "false": False}.get(value, value)
                with self.subTest(struct=struct, member=member):
                    self.assertEqual(described.get("default"), int(value) if isinstance(value, str) and value.isdigit() else value)
