"""proto/openapi.json as test data: operations, valid bodies, and each way to break one field."""
import copy
import json
import pathlib
import re

DOCUMENT = json.loads((pathlib.Path(__file__).resolve().parents[2] / "proto/openapi.json").read_text())
ERRORS_H = (pathlib.Path(__file__).resolve().parents[2] / "libcommon/error.h").read_text()
STATUS_OF = {"IOTDA." + n: int(s) for n, s in re.findall(r'X\(\w+, "(\d{6})", (\d{3})', ERRORS_H)}
COMMON = DOCUMENT["x-common-errors"]


def resolve(node):
    while "$ref" in node:
        at = DOCUMENT
        for part in node["$ref"][2:].split("/"):
            at = at[part]
        node = at
    return node


class Operation:
    def __init__(self, path, method, spec):
        self.path, self.method, self.spec = path, method.upper(), spec
        self.id = spec["operationId"]
        self.permission, self.space = spec.get("x-permission"), spec.get("x-space")
        self.iam = spec.get("x-errors") == "iam"
        self.params = [resolve(p) for p in spec.get("parameters", [])]
        self.success = next(int(s) for s in spec["responses"] if s != "default")

    def __repr__(self):
        return self.id

    @property
    def path_names(self):
        return re.findall(r"{(\w+)}", self.path)

    @property
    def query(self):
        return [p for p in self.params if p["in"] == "query"]

    @property
    def content(self):
        return self.spec.get("requestBody", {}).get("content", {}).get("application/json")

    @property
    def media(self):
        return next((m for m in self.spec.get("requestBody", {}).get("content", {}) if m != "application/json"), None)

    @property
    def schema(self):
        return resolve(self.content["schema"]) if self.content else None

    @property
    def answer(self):
        content = resolve(self.spec["responses"][str(self.success)]).get("content", {}).get("application/json")
        return content and content["schema"]

    @property
    def changes(self):
        verb = (self.permission or "::query").split(":")[2]
        return self.method != "GET" and not verb.startswith("query")

    def codes(self):
        """All that it may answer."""
        return set(self.spec.get("x-error-codes", [])) | {c for group in COMMON.values() for c in group}


OPERATIONS = [Operation(path, method, spec) for path, item in DOCUMENT["paths"].items() for method, spec in item.items()]


# ---- answers

def check(value, schema, where="answer"):
    """Each member is in the contract and of its type; what is required is there."""
    s = resolve(schema)
    kinds = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)}
    if value is None:
        assert s.get("nullable") or not s.get("type"), f"{where} is null"
        return
    if "anyOf" in s:
        assert any(isinstance(value, kinds[a["type"]]) for a in s["anyOf"]), where
        return
    if "type" not in s:
        return
    assert isinstance(value, kinds[s["type"]]), f"{where}: {value!r} is no {s['type']}"
    assert s["type"] == "boolean" or not isinstance(value, bool), where
    if "enum" in s:
        assert value in s["enum"], f"{where}: {value!r}"
    for name in s.get("required", ()):
        assert name in value, f"{where}.{name} is missing"
    if s["type"] == "object" and "properties" in s:
        for name, member in value.items():
            assert name in s["properties"], f"{where}.{name} is not in the contract"
            check(member, s["properties"][name], f"{where}.{name}")
    for i, item in enumerate(value if s["type"] == "array" else ()):
        check(item, s.get("items", {}), f"{where}[{i}]")


def check_error(op, got):
    """An error has the form and a code of the contract, with the status of the one table."""
    if op.iam and got.body and "error" in got.body:
        error = got.body["error"]
        assert error["code"] == got.status and error["message"] and error["title"], got
        return
    assert got.code in op.codes(), f"{op}: {got} is not among its codes"
    assert STATUS_OF[got.code] == got.status, got
    assert got.message and got.headers.get("X-Request-Id"), got


# ---- bodies: the example, and each field of it broken in turn

def places(schema, value, at=()):
    """(path, schema, required) of each field of a body, as far as a value is there to break it in."""
    s = resolve(schema)
    if s.get("type") == "object" and "properties" in s:
        for name, sub in s["properties"].items():
            yield at + (name,), resolve(sub), name in s.get("required", ())
            if isinstance(value, dict) and name in value:
                yield from places(sub, value[name], at + (name,))
    elif s.get("type") == "array" and isinstance(value, list) and value:
        yield at + (0,), resolve(s["items"]), None
        yield from places(s["items"], value[0], at + (0,))


def put(body, path, value):
    """A copy with one field changed; DROP leaves it out."""
    body = copy.deepcopy(body)
    at = body
    for part in path[:-1]:
        at = at[part]
    if value is DROP:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return body


class DROP:
    pass


def named(path):
    """As a refusal writes the place: shadow[0].desired."""
    return "".join(f"[{p}]" if isinstance(p, int) else ("." if i else "") + p for i, p in enumerate(path))


OTHER_TYPES = {"string": [7, ["x"], {"x": 1}, True], "integer": ["7", 7.5, [7], True], "number": ["7", [7], True],
               "boolean": ["true", 1, [True]], "object": ["x", [1], 7], "array": ["x", {"x": 1}, 7]}


def wrong_values(s):
    """(what, value) that the schema refuses."""
    if "anyOf" in s:
        yield "type", 7
        return
    kind = s.get("type")
    for value in OTHER_TYPES.get(kind, ()):
        yield "type", value
    if kind == "string":
        fill = "a" if s.get("x-class") else "A"
        if "enum" in s:
            yield "enum", "NONE_OF_THEM"
        if "maxLength" in s:
            yield "longer", fill * (s["maxLength"] + 1)
        if s.get("minLength"):
            yield "shorter", fill * (s["minLength"] - 1)
        if "x-class" in s:
            yield "character", fill * max(1, s.get("minLength", 1) - 1) + "\u00e9"
        if "format" in s:
            yield "format", "2026-01-02T03:04:05Z"
    if kind == "integer":
        for bound, step in (("minimum", -1), ("maximum", 1)):
            if bound in s and abs(s[bound]) < 2 ** 53:
                yield bound, s[bound] + step
        if s.get("multipleOf"):
            yield "multiple", s["multipleOf"] + 1
    if kind == "array" and s.get("minItems"):
        yield "fewer", []
    if kind == "object" and "x-max-bytes" in s and not s.get("properties"):
        yield "bytes", {"x": "y" * s["x-max-bytes"]}


def wrong_texts(s):
    """The same for a parameter of the query, where all is text; an empty one counts as absent."""
    for value in {"integer": ["x", "7.5", "1e1", "9" * 30], "boolean": ["yes", "TRUE"]}.get(s["type"], ()):
        yield "type", value
    yield from ((what, value) for what, value in wrong_values(s) if what != "type" and value != "")


def broken_bodies(op, body):
    """(path, what, body) of each body that the contract refuses."""
    for path, s, required in places(op.schema, body):
        if required:
            try:
                yield path, "missing", put(body, path, DROP)
                yield path, "null", put(body, path, None)
            except (KeyError, TypeError):
                pass
        for what, value in wrong_values(s):
            try:
                yield path, what, put(body, path, value)
            except (KeyError, TypeError, IndexError):
                pass
        if s.get("type") == "array" and "maxItems" in s and s["maxItems"] <= 600:
            here = body
            for part in path:
                here = here.get(part) if isinstance(here, dict) else here[part] if part < len(here) else None
                if here is None:
                    break
            if here:
                yield path, "more", put(body, path, [here[0]] * (s["maxItems"] + 1))
