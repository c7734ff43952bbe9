#!/usr/bin/env python3
"""Turns openapi.json into C tables (proto/route_table.h has their types).

usage: gen_routes.py openapi.json OUTDIR

Writes OUTDIR/routes.h and OUTDIR/routes.c. A contract that contradicts itself, or says something
that the tables cannot check, fails the build with the place named.
"""
import json
import os
import re
import sys

METHODS = ("get", "post", "put", "delete", "patch")
LIMITS = {"path": 4, "query": 16}  # what rest-gateway has room for
SERVICES = ("identity", "registry", "data", "command", "rule")
TYPES = {"string": "CW_T_STRING", "integer": "CW_T_INT", "number": "CW_T_NUMBER",
         "boolean": "CW_T_BOOL", "object": "CW_T_OBJECT", "array": "CW_T_ARRAY"}
SPACES = ("all", "app", "new", "list", "import", "product", "device", "resource", "group", "deleted", "rule", "action",
          "rule_of_action", "ca", "policy", "proxy", "devicecert", "scope", "strategy")  # whose resource space a call is about (libcommon/api_space.h)
SAID_ONLY = {"description", "default", "example"}
KNOWN = {"type", "anyOf", "nullable", "enum", "minimum", "maximum", "multipleOf", "minLength",
         "maxLength", "minItems", "maxItems", "items", "properties", "required", "pattern",
         "format", "x-class", "x-max-bytes"} | SAID_ONLY
INT64 = 2 ** 63 - 1
UINT32 = 2 ** 32 - 1


class Wrong(Exception):
    pass


def need(condition, where, what):
    if not condition:
        raise Wrong(f"{where}: {what}")


def c_string(text):
    if text is None:
        return "NULL"
    out = "".join(ch if 32 <= ord(ch) < 127 and ch not in '"\\?' else
                  "".join(f"\\{b:03o}" for b in ch.encode()) for ch in text)
    return f'"{out}"'


def error_names():
    """Code -> enum name, from the one table of errors."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../libcommon/error.h")
    with open(path, encoding="utf-8") as f:
        found = re.findall(r'X\((\w+), "(\d{6})"', f.read())
    return {"IOTDA." + number: "CW_E_" + name for name, number in found}


def parse_class(name, pattern):
    """[A-Za-z_] -> sorted code point ranges."""
    where = f"x-classes.{name}"
    m = re.fullmatch(r"\[(.+)\]", pattern)
    need(m, where, "not one bracket expression")
    points, text, i = [], m.group(1), 0

    def one(i):
        if text[i] != "\\":
            return ord(text[i]), i + 1
        need(text[i + 1] == "u", where, "only \\uXXXX and \\s may be escaped")
        return int(text[i + 2:i + 6], 16), i + 6

    while i < len(text):
        if text.startswith("\\s", i):
            points += [(9, 13), (32, 32), (0x3000, 0x3000)]
            i += 2
            continue
        lo, i = one(i)
        hi = lo
        if i < len(text) - 1 and text[i] == "-":
            hi, i = one(i + 1)
        need(lo <= hi, where, "range runs backwards")
        points.append((lo, hi))
    return sorted(points)


class Tables:
    def __init__(self, doc):
        self.doc, self.out = doc, []
        self.made, self.count = {}, 0
        self.errors = error_names()
        self.classes = {}
        for name, pattern in doc.get("x-classes", {}).items():
            self.classes[name] = pattern
            self.char_class(name, parse_class(name, pattern))

    def resolve(self, node, where):
        seen = []
        while "$ref" in node:
            ref = node["$ref"]
            need(set(node) == {"$ref"}, where, "a $ref stands alone")
            need(ref.startswith("#/") and ref not in seen, where, f"bad $ref {ref}")
            seen.append(ref)
            node = self.doc
            for part in ref[2:].split("/"):
                need(isinstance(node, dict) and part in node, where, f"{ref} leads nowhere")
                node = node[part]
        return node

    def char_class(self, name, ranges):
        words = [0] * 4
        wide = [r for r in ranges if r[1] >= 128]
        for lo, hi in ranges:
            for cp in range(lo, min(hi, 127) + 1):
                words[cp // 32] |= 1 << cp % 32
        if wide:
            rows = ", ".join(f"{{ 0x{lo:x}, 0x{hi:x} }}" for lo, hi in wide)
            self.out.append(f"static const struct cw_char_range ranges_{name}[] = {{ {rows} }};")
        bits = ", ".join(f"0x{w:08x}U" for w in words)
        self.out.append(f"static const struct cw_char_class class_{name} = {{ {c_string(name)}, "
                        f"{{ {bits} }}, {'ranges_' + name if wide else 'NULL'}, {len(wide)} }};")

    def types(self, s, where):
        if not set(s) - SAID_ONLY:
            return {"any"}
        if "anyOf" in s:
            got = set()
            for alternative in s["anyOf"]:
                need(set(alternative) == {"type"}, where, "anyOf takes plain types only")
                got.add(alternative["type"])
        else:
            got = {s.get("type")}
        need(got <= set(TYPES), where, f"unknown type {got}")
        return got

    def check_keywords(self, s, types, where):
        need(set(s) <= KNOWN, where, f"cannot check {sorted(set(s) - KNOWN)}")
        fits = {"minimum": {"integer"}, "maximum": {"integer"}, "multipleOf": {"integer"},
                "minLength": {"string"}, "maxLength": {"string"}, "pattern": {"string"},
                "x-class": {"string"}, "format": {"string"}, "enum": {"string"},
                "minItems": {"array"}, "maxItems": {"array"}, "items": {"array"},
                "properties": {"object"}, "required": {"object"}}
        for word, kinds in fits.items():
            need(word not in s or types == kinds, where, f"{word} does not go with {types}")
        for lo, hi in (("minimum", "maximum"), ("minLength", "maxLength"),
                       ("minItems", "maxItems")):
            need(s.get(lo, 0) <= s.get(hi, INT64), where, f"{lo} is above {hi}")
        need(("pattern" in s) == ("x-class" in s), where, "pattern and x-class go together")
        if "x-class" in s:
            need(s["x-class"] in self.classes, where, f"no class {s['x-class']}")
            need(s["pattern"] == f"^{self.classes[s['x-class']]}*$", where,
                 "pattern is not that of its x-class")
        need(s.get("format", "basic-time") == "basic-time", where, f"format {s.get('format')}")
        need(types != {"array"} or "items" in s, where, "an array without items")
        if "default" in s and types == {"string"}:
            need(s["default"] in s.get("enum", [s["default"]]), where, "default is not allowed")
            need(s.get("minLength", 0) <= len(s["default"]) <= s.get("maxLength", UINT32), where,
                 "default has a wrong length")
        if "default" in s and types == {"integer"}:
            need(s.get("minimum", -INT64) <= s["default"] <= s.get("maximum", INT64), where,
                 "default is out of range")

    def schema(self, node, where, above=()):
        """Emits the node's table and returns its C name; equal nodes share one."""
        s = self.resolve(node, where)
        key = json.dumps(s, sort_keys=True)
        need(key not in above, where, "a schema contains itself")
        if key in self.made:
            return self.made[key]
        types = self.types(s, where)
        self.check_keywords(s, types, where)
        self.count += 1
        name = f"s{self.count}"
        init = ["CW_T_ANY" if types == {"any"} else " | ".join(sorted(TYPES[t] for t in types))]
        if s.get("nullable"):
            init[0] += " | CW_T_NULL"
        lo, hi = s.get("minimum", -INT64), s.get("maximum", INT64)
        init += [f".min = {lo}LL", f".max = {hi}LL", f".multiple = {s.get('multipleOf', 0)}",
                 f".min_len = {s.get('minLength', s.get('minItems', 0))}",
                 f".max_len = {s.get('maxLength', s.get('maxItems', UINT32))}U",
                 f".max_bytes = {s.get('x-max-bytes', 0)}"]
        if "format" in s:
            init.append(".basic_time = true")
        if "x-class" in s:
            init.append(f".chars = &class_{s['x-class']}")
        if "enum" in s:
            need(len(set(s["enum"])) == len(s["enum"]) > 0, where, "enum repeats or is empty")
            rows = ", ".join(c_string(v) for v in s["enum"])
            self.out.append(f"static const char *const {name}_enum[] = {{ {rows}, NULL }};")
            init.append(f".enums = {name}_enum")
        if "items" in s:
            init.append(".items = &" + self.schema(s["items"], where + "[]", above + (key,)))
        if "properties" in s:
            init += self.fields(s, name, where, above + (key,))
        need(set(s.get("required", ())) <= set(s.get("properties", ())), where,
             "requires a field that it does not have")
        self.out.append(f"static const struct cw_schema {name} = {{ {', '.join(init)} }};")
        self.made[key] = name
        return name

    def fields(self, s, name, where, above):
        rows = []
        for field, sub in s["properties"].items():
            sub_name = self.schema(sub, f"{where}.{field}", above)
            required = "true" if field in s.get("required", ()) else "false"
            rows.append(f"    {{ {c_string(field)}, {required}, &{sub_name} }},")
        self.out.append("static const struct cw_field %s_fields[] = {\n%s\n};"
                        % (name, "\n".join(rows)))
        return [f".fields = {name}_fields", f".n_fields = {len(rows)}"]

    def params(self, op, params, kind):
        rows = []
        need(len(params) <= LIMITS[kind], op, f"more than {LIMITS[kind]} {kind} parameters")
        for p in params:
            where = f"{op}.{p['name']}"
            s = self.resolve(p["schema"], where)
            need(s.get("type") in ("string", "integer", "boolean"), where, "not a plain type")
            need(kind == "query" or p.get("required"), where, "a path parameter is required")
            need(not ("default" in s and p.get("required")), where, "required, yet has a default")
            code = p.get("x-error", "IOTDA.000006")
            need(code in self.errors, where, f"no such error {code}")
            default = s.get("default")
            if isinstance(default, bool):
                default = "true" if default else "false"
            rows.append("    { %s, %s, %s, %s, &%s }," % (
                c_string(p["name"]), "true" if p.get("required") else "false", self.errors[code],
                c_string(None if default is None else str(default)), self.schema(s, where)))
        if not rows:
            return "NULL", 0
        name = f"{op}_{kind}"
        self.out.append("static const struct cw_param %s[] = {\n%s\n};" % (name, "\n".join(rows)))
        return name, len(rows)

    def body(self, op, spec, method):
        """Schema, required, media type of a body that is bytes, and its longest."""
        if "requestBody" not in spec:
            return "NULL", "false", None, 0
        need(method in ("post", "put", "patch"), op, f"{method} takes no body")
        node = spec["requestBody"]["content"]
        required = "true" if spec["requestBody"].get("required") else "false"
        need(len(node) == 1, op, "a body has one media type")
        (media, content), = node.items()
        s = self.resolve(content["schema"], op)
        if media != "application/json":
            need(s.get("format") == "binary" and 0 < s.get("x-max-bytes", 0) <= 4 << 20, op,
                 "bytes have x-max-bytes, 4 MiB at most")
            return "NULL", required, media, s["x-max-bytes"]
        need(s.get("type") == "object", op, "a body is an object")
        need("example" in content, op, "a body has an example")
        return "&" + self.schema(content["schema"], op), required, None, 0

    def codes(self, op, spec):
        """What an operation may answer is in the one table of errors."""
        groups = sum(self.doc["x-common-errors"].values(), [])
        need(("x-error-codes" in spec) == (spec.get("x-errors") != "iam"), op,
             "x-error-codes, or errors in the form of IAM")
        for code in groups + spec.get("x-error-codes", []):
            need(code in self.errors, op, f"no such error {code}")

    def operation(self, path, method, spec):
        op = spec.get("operationId", "")
        need(re.fullmatch(r"[A-Z]\w{2,63}", op), f"{method} {path}", "no proper operationId")
        params = [self.resolve(p, op) for p in spec.get("parameters", [])]
        names = [(p["in"], p["name"]) for p in params]
        need(len(set(names)) == len(names), op, "a parameter twice")
        in_path = [p for p in params if p["in"] == "path"]
        need(sorted(p["name"] for p in in_path) == sorted(re.findall(r"{(\w+)}", path)), op,
             "path and path parameters differ")
        need(spec.get("x-service") in SERVICES, op, f"x-service {spec.get('x-service')}")
        permission = spec.get("x-permission")
        need((spec.get("security") == []) == (permission is None), op,
             "either open (security []) or an x-permission")
        need(permission is None or re.fullmatch(r"(iotda|iam):[a-z]+:[a-zA-Z]+", permission), op,
             f"x-permission {permission}")
        space = spec.get("x-space")
        need(space in SPACES + (None,), op, f"x-space {space}")
        need((space is None) == (permission is None or permission.startswith("iam:")), op,
             "x-space goes with a permission of iotda")
        self.codes(op, spec)
        need(1000 <= spec.get("x-deadline-ms", 0) <= 60000, op, "x-deadline-ms 1000 to 60000")
        need("default" in spec["responses"] and len(spec["responses"]) == 2, op,
             "one success and a default")
        for response in spec["responses"].values():
            content = self.resolve(response, op).get("content", {})
            for media in content.values():
                self.walk(media["schema"], op)
        body, required, media, max_bytes = self.body(op, spec, method)
        path_rows = self.params(op, in_path, "path")
        query_rows = self.params(op, [p for p in params if p["in"] == "query"], "query")
        return ("    { %s, %s, %s, %s, %s, %s, %s, %d, %s, %s, %s, %s, %d, %s, %s, %d, %d }," % (
            c_string(method.upper()), c_string(path), c_string(spec["x-service"]), c_string(op),
            c_string(permission), c_string(space), "true" if spec.get("x-self") else "false",
            spec["x-deadline-ms"], "true" if spec.get("x-errors") == "iam" else "false", required,
            body, c_string(media), max_bytes, path_rows[0], query_rows[0], path_rows[1],
            query_rows[1]))

    def walk(self, node, where):
        """Every $ref of an answer leads somewhere."""
        s = self.resolve(node, where)
        for sub in s.get("properties", {}).values():
            self.walk(sub, where)
        if "items" in s:
            self.walk(s["items"], where)


def shape(path):
    return re.sub(r"{\w+}", "{}", path)


def generate(doc):
    tables, routes, seen, shapes = Tables(doc), [], set(), {}
    for path, item in doc["paths"].items():
        need(re.fullmatch(r"(/([A-Za-z0-9._-]+|{\w+}))+", path), path, "not a path")
        need(shapes.setdefault(shape(path), path) == path, path, "matches another path")
        for method, spec in item.items():
            need(method in METHODS, path, f"unknown method {method}")
            need(spec.get("operationId") not in seen, path, "operationId twice")
            seen.add(spec.get("operationId"))
            routes.append(tables.operation(path, method, spec))
    text = json.dumps(doc, ensure_ascii=True, separators=(",", ":"))
    lines = "\n".join("    " + c_string(text[i:i + 80]) for i in range(0, len(text), 80))
    return "\n".join([
        "/* made by proto/gen_routes.py from proto/openapi.json */", '#include "proto/routes.h"',
        "", "#include <string.h>", "", *tables.out, "", "const struct cw_route cw_routes[] = {", *routes, "};",
        f"const size_t cw_n_routes = {len(routes)};", "const char cw_openapi_json[] =",
        lines + ";", "const size_t cw_openapi_json_len = sizeof cw_openapi_json - 1;", "",
        LOOKUP])


HEADER = """/* made by proto/gen_routes.py from proto/openapi.json */
#pragma once

#include "proto/route_table.h"

extern const struct cw_route cw_routes[];
extern const size_t cw_n_routes;
/* NULL: no such operation. */
const struct cw_route *cw_route_of(const char *operation);
extern const char cw_openapi_json[]; /* the contract itself */
extern const size_t cw_openapi_json_len;
"""
LOOKUP = """const struct cw_route *cw_route_of(const char *operation)
{
    for (size_t i = 0; i < cw_n_routes; i++)
        if (strcmp(cw_routes[i].operation, operation) == 0)
            return &cw_routes[i];
    return NULL;
}
"""


def main(argv):
    if len(argv) != 3:
        sys.exit(__doc__)
    try:
        with open(argv[1], encoding="utf-8") as f:
            source = generate(json.load(f))
    except (Wrong, ValueError, KeyError) as e:
        sys.exit(f"{argv[1]}: {e}")
    os.makedirs(argv[2], exist_ok=True)
    for name, text in (("routes.h", HEADER), ("routes.c", source)):
        with open(os.path.join(argv[2], name), "w", encoding="utf-8") as f:
            f.write(text)


if __name__ == "__main__":
    main(sys.argv)
