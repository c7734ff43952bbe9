#!/usr/bin/env python3
"""Keeps the one form of openapi.json: what fits a line stands on a line. A script that edits the file writes text_of(document).

    format_openapi.py FILE            writes FILE in that form
    format_openapi.py --check FILE    ends with 1 when FILE is not in that form
"""
import json
import sys

WIDTH = 97


def laid_out(value, indent, before):
    """The text of a value that begins after `before` characters of its line's own."""
    line = json.dumps(value)
    if not isinstance(value, (dict, list)) or not value or indent + before + len(line) <= WIDTH:
        return line
    inner = "\n" + " " * (indent + 2)
    if isinstance(value, list):
        parts = [laid_out(v, indent + 2, 0) for v in value]
    else:
        keys = [json.dumps(k) + ": " for k in value]
        parts = [k + laid_out(v, indent + 2, len(k)) for k, v in zip(keys, value.values())]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    return opening + inner + ("," + inner).join(parts) + "\n" + " " * indent + closing


def text_of(document):
    return laid_out(document, 0, 0) + "\n"


def main(check, path):
    with open(path, encoding="utf-8") as f:
        before = f.read()
    after = text_of(json.loads(before))
    if before == after:
        return 0
    if check:
        print(f"{path} is not in its form: make format", file=sys.stderr)
        return 1
    with open(path, "w", encoding="utf-8") as f:
        f.write(after)
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:], sys.argv[-1]))
