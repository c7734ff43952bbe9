#!/usr/bin/env python3
"""Writes docs/errors.md from the table of libcommon/error.h and the codes of openapi.json.

usage: gen_errors.py error.h openapi.json errors.md
"""
import json
import re
import sys

HEAD = """# Error codes

Made by `make docs` from `libcommon/error.h` and `proto/openapi.json`; a test holds it against them.

A refused call is answered with `{"error_code": "IOTDA.0xxxxx", "error_msg": "..."}`: what it means, which field or stage is concerned, what to
do. `X-Request-Id` names the call in every log. IAM paths (`/v3…`) answer in the form of IAM instead: `{"error": {"code": <status>, "message":
"...", "title": "..."}}`. Codes from 900 on within a family are ours; the others are IoTDA's.

| code | status | means | caused by | what to do | answered by |
| --- | --- | --- | --- | --- | --- |
"""


def rows(text):
    """(code, status, what, cause, todo) of each X(...) row; neighbouring strings are one."""
    table = text[text.index("#define CW_ERRORS(X)"):text.index("#define CW_ERROR_ENUM")].replace("\\\n", "\n")
    for row in re.split(r"^\s*X\(", table, flags=re.M)[1:]:
        head, status, rest = re.fullmatch(r'(\w+, "\d{6}"), (\d{3}),(.*)\)\s*', row, re.S).groups()
        texts = ["".join(re.findall(r'"([^"]*)"', part)) for part in re.findall(r'(?:"[^"]*"\s*)+', rest)]
        yield "IOTDA." + head[-7:-1], status, *texts


def operations(doc):
    """Code -> operations that answer it; those that nearly all answer are told as such."""
    found = {}
    for name, codes in doc["x-common-errors"].items():
        for code in codes:
            found.setdefault(code, []).append({"always": "all", "input": "all with input", "body": "all with a body",
                                               "authenticated": "all with credentials", "project": "all of a project",
                                               "space": "all of a space"}[name])
    for item in doc["paths"].values():
        for spec in item.values():
            for code in spec.get("x-error-codes", ()):
                found.setdefault(code, []).append(spec["operationId"])
    return found


def main(argv):
    with open(argv[1], encoding="utf-8") as f:
        table = list(rows(f.read()))
    with open(argv[2], encoding="utf-8") as f:
        by = operations(json.load(f))
    lines = [f"| `{code}` | {status} | {what} | {cause} | {todo} | {', '.join(by.get(code, ['rest-gateway']))} |"
             for code, status, what, cause, todo in table]
    with open(argv[3], "w", encoding="utf-8") as f:
        f.write(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv)
