# SPDX-License-Identifier: Apache-2.0
"""api-spec/openapi.yaml says what the code does: the same routes, error codes and fields, in both directions.

The code's side is read from its tables: forkd/rest/routes.c, forkd/errors.h, the field tables, and the files that write answers.
"""
import glob
import importlib.util
import json
import os
import re

from kvmtest import ROOT, KvmTest

SPEC = os.path.join(ROOT, "api-spec", "openapi.yaml")
OPENAPI_SCHEMA = "/usr/share/openapi-specification/schemas/v3.0/schema.json"
METHODS = {"get", "put", "post", "delete", "patch", "head", "options"}

# Field tables of forkd/, by file and struct, and the schema that has the same fields.
TABLES = {
    ("clone_request.c", "scalars"): "CloneRequest",
    ("clone_request.c", "net_fds"): "NetFds",
    ("api_clones.c", "patch"): "ClonePatch",
    ("api_clones.c", "snapshot_wanted"): "SnapshotRequest",
    ("identity.c", "wish_text"): "IdentityOverrides",
    ("identity.c", "wished_file"): "IdentityFile",
    ("api_templates.c", "wanted"): "TemplateRequest",
    ("builder.c", "ready"): "Ready",
    ("stats.c", "proc_stats"): "Stats",
    ("exec_wish.c", "exec_body"): "ExecRequest",
    ("wish.c", "net_wish"): "NetworkOverrides",
    ("wish.c", "port"): "NetworkPort",
    ("wish.c", "bandwidth"): "NetworkBandwidth",
}
# Keys that a handler loads beside its table: the list of them, and the table.
BY_HAND = {"clone_request.c": "scalars", "api_clones.c": "patch", "api_templates.c": "wanted", "identity.c": "wish_text",
           "exec_wish.c": "exec_body", "wish.c": "net_wish"}
# Tables of clone.json and of the control protocol.
INTERNAL = {("record.c", "record"), ("record.c", "record_net"), ("record.c", "record_disk"), ("record.c", "record_overlay"), ("record.c", "label"), ("record.c", "sock_file"), ("template_host.c", "forked"), ("identity.c", "agent_hello"),
            ("host.c", "host_state")}
# Files that write answers key by key, the schemas of what they write, and their other keys: members of events.
WRITERS = [
    (["clone_json.c"], ["Clone", "CloneNet", "CloneDisk", "Phases", "Exit"], set()),
    (["template_json.c", "api_templates.c"], ["Template", "TemplateAgent", "TemplateFile", "TemplateDisk", "TemplateList", "Snapshotted", "Verified"], {"error"}),
    (["api_misc.c"], ["Health", "Version"], set()),
    (["api_exec.c"], ["RunResult"], {"path"}),      # path: in a request to the agent
]

def source(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def load(path):
    import yaml         # Debian: python3-yaml
    with open(path, encoding="utf-8") as f:
        return yaml.safe_load(f)


def daemon_sources():
    found = glob.glob(os.path.join(ROOT, "forkd", "**", "*.c"), recursive=True)
    return sorted(p for p in found if os.path.basename(os.path.dirname(p)) != "build")      # forkd-image's


class ApiSpec(KvmTest):
    @classmethod
    def setUpClass(cls):
        cls.spec = load(SPEC)

    def schema(self, name):
        return self.spec["components"]["schemas"][name]

    def properties(self, name):
        """The names of a schema's properties, with those of what it is made of."""
        return self._properties(self.schema(name))

    def _properties(self, schema):
        if "$ref" in schema:
            return self.properties(schema["$ref"].rsplit("/", 1)[1])
        found = set(schema.get("properties", {}))
        for part in schema.get("allOf", []):
            found |= self._properties(part)
        return found

    def operations(self):
        for path, item in self.spec["paths"].items():
            for method in METHODS & set(item):
                yield method.upper(), path, item, item[method]

    def same(self, spec, code, what):
        self.assertEqual(sorted(set(spec) - set(code)), [], f"{what}: in the description, not in the code")
        self.assertEqual(sorted(set(code) - set(spec)), [], f"{what}: in the code, not in the description")

    def test_is_valid(self):
        """By an off-the-shelf validator: openapi-spec-validator (PyPI), else OpenAPI's own JSON schema."""
        if importlib.util.find_spec("openapi_spec_validator"):
            from openapi_spec_validator import validate
            validate(self.spec, base_uri="file://" + SPEC)
            return
        if not importlib.util.find_spec("jsonschema") or not os.path.exists(OPENAPI_SCHEMA):
            self.skipTest("neither openapi-spec-validator nor python3-jsonschema with openapi-specification is installed")
        import jsonschema
        with open(OPENAPI_SCHEMA, encoding="utf-8") as f:
            checker = jsonschema.Draft4Validator(json.load(f))
        errors = [f"{'/'.join(map(str, e.path))}: {e.message[:200]}" for e in checker.iter_errors(self.spec)]
        self.assertEqual(errors, [])

    def test_references(self):
        """Each leads somewhere, and every component is used."""
        used = set()

        def walk(node):
            if isinstance(node, dict):
                for key, value in node.items():
                    if key == "$ref":
                        used.add(value)
                    walk(value)
            elif isinstance(node, list):
                for value in node:
                    walk(value)

        walk(self.spec)
        for ref in used:
            path, _, pointer = ref.partition("#")
            found = load(os.path.join(os.path.dirname(SPEC), path)) if path else self.spec
            for part in pointer.strip("/").split("/"):
                self.assertIn(part, found, ref)
                found = found[part]
        unused = {f"#/components/{kind}/{name}" for kind, all_of in self.spec["components"].items() if kind != "securitySchemes"
                  for name in all_of} - used
        # The data of events, and errors of paths and methods that no operation has.
        self.assertEqual(unused, {"#/components/schemas/Event", "#/components/responses/Error405"})

    def test_routes(self):
        rows = re.findall(r'\bR\("([A-Z]+)",\s*"(/[^"]*)"', source("forkd/rest/routes.c"))
        self.assertGreater(len(rows), 10)
        self.assertEqual(len(rows), len(set(rows)))
        self.same({(method, path) for method, path, _, _ in self.operations()}, rows, "routes")

    def test_path_parameters(self):
        for method, path, item, op in self.operations():
            names = set()
            for p in item.get("parameters", []) + op.get("parameters", []):
                if "$ref" in p:
                    p = self.spec["components"]["parameters"][p["$ref"].rsplit("/", 1)[1]]
                if p["in"] == "path":
                    names.add(p["name"])
            self.same(names, re.findall(r"\{(\w+)\}", path), f"{method} {path}")

    def test_query_parameters(self):
        """What the handlers ask for."""
        asked = set()
        for path in daemon_sources():
            asked |= set(re.findall(r'request_query\(\w+, "([^"]+)"', source(path)))
        described = {p["name"] for _, _, _, op in self.operations() for p in op.get("parameters", [])
                     if p.get("in") == "query"}
        self.same(described, asked, "query parameters")

    def test_errors(self):
        """Codes, and for each the status and the remedy."""
        text = re.sub(r"\s*\\\n\s*", " ", source("forkd/errors.h"))     # lines that go on
        rows = re.findall(r'X\(\w+,\s*"(\w+)",\s*(\d+),\s*"((?:[^"\\]|\\.)*)"\)', text)
        self.assertGreater(len(rows), 20)
        code = {name: (int(status), remedy.replace('\\"', '"')) for name, status, remedy in rows}
        self.same(self.schema("Error")["properties"]["code"]["enum"], code, "error codes")
        described = {}
        for name, response in self.spec["components"]["responses"].items():
            status = int(re.fullmatch(r"Error(\d+)", name).group(1))
            for key, example in response["content"]["application/json"]["examples"].items():
                value = example["value"]
                self.assertEqual(value["code"], key)
                self.assertNotIn(key, described)
                described[key] = (status, value["remedy"])
        self.assertEqual(described, code)

    def test_error_statuses(self):
        """Under each status stands the response of that status."""
        for method, path, _, op in self.operations():
            for status, response in op["responses"].items():
                ref = response.get("$ref", "#/components/responses/Error" + status)
                self.assertEqual(ref, "#/components/responses/Error" + status, f"{method} {path}")
            self.assertIn("500", op["responses"], f"{method} {path}")

    def test_request_and_answer_tables(self):
        """The field tables of forkd/, and the lists of keys that are loaded beside them."""
        rows = {}
        for path in daemon_sources():
            name, text = os.path.basename(path), source(path)
            for struct, member in re.findall(r"\bF(?:_\w+)?\(struct (\w+),\s*(\w+)", text):
                rows.setdefault((name, struct), set()).add(member)
            for keys in re.findall(r"by_hand\[\] = \{([^}]*)\}", text):
                rows.setdefault((name, BY_HAND[name]), set()).update(re.findall(r'"(\w+)"', keys))
        self.assertEqual(set(rows) - set(TABLES) - INTERNAL, set(), "tables that this test does not know")
        rows["clone_request.c", "scalars"].add("clones")        # stands alone
        rows["stats.c", "proc_stats"] |= set(re.findall(r"F\(struct ctl_stats,\s*(\w+)", source("common/ctl.c"))) - {"state"}
        for table, schema in TABLES.items():
            with self.subTest(table=table):
                self.same(self.properties(schema), rows.get(table, ()), f"{schema} and {table}")

    def test_written_keys(self):
        for files, schemas, others in WRITERS:
            text = "".join(source(f) for f in daemon_sources() if os.path.basename(f) in files)
            keys = set(re.findall(r'\\"(\w+)\\":', text)) | set(re.findall(r'\b(?:add(?:_\w+)?|json_member)\(out, "(\w+)"', text))
            with self.subTest(files=files):
                described = set().union(*(self.properties(s) for s in schemas))
                self.same(described, keys - others, ", ".join(files))

    def test_events(self):
        emitted = set()
        for path in daemon_sources():
            emitted |= set(re.findall(r'"((?:template|clone|host|daemon)\.[a-z_]+)"', source(path))) - {"clone.json"}
        self.same(self.schema("Event")["properties"]["type"]["enum"], emitted, "events")
