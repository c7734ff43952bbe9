"""A contract that contradicts itself does not build, and the place is named."""
import copy
import json
import pathlib
import subprocess
import sys

import contract
import pytest

PROTO = pathlib.Path(__file__).resolve().parents[2] / "proto"
CONTRACT = json.loads((PROTO / "openapi.json").read_text())
DEVICES = ("paths", "/v5/iot/{project_id}/devices")
NODE_ID = ("components", "schemas", "AddDevice", "properties", "node_id")


def generate(tmp_path, doc):
    (tmp_path / "openapi.json").write_text(json.dumps(doc))
    return subprocess.run([sys.executable, PROTO / "gen_routes.py", tmp_path / "openapi.json", tmp_path],
                          text=True, capture_output=True)


def at(doc, path):
    for key in path:
        doc = doc[key]
    return doc


def test_the_contract_itself_builds(tmp_path):
    done = generate(tmp_path, CONTRACT)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "routes.c").read_text().count('"CreateCommand"') == 1


@pytest.mark.parametrize("path, key, value, names", [
    (NODE_ID, "$ref", "#/components/schemas/Nothing", "node_id"),
    (NODE_ID, "pattern", "^[a-z]*$", "node_id"),
    (NODE_ID, "x-class", "unheard", "node_id"),
    (NODE_ID, "minLength", 65, "node_id"),
    (NODE_ID, "minimum", 1, "node_id"),
    (NODE_ID, "exclusiveMinimum", 1, "exclusiveMinimum"),
    (NODE_ID, "type", "text", "node_id"),
    (NODE_ID[:3], "required", ["nobody"], "AddDevice"),
    (("components", "parameters", "limit", "schema"), "default", 99, "limit"),
    (("components", "parameters", "limit"), "x-error", "IOTDA.999999", "limit"),
    (DEVICES + ("get",), "operationId", "AddDevice", "twice"),
    (DEVICES + ("get",), "x-service", "nobody", "ListDevices"),
    (DEVICES + ("get",), "x-permission", None, "ListDevices"),
    (DEVICES + ("get",), "x-deadline-ms", 1, "ListDevices"),
    (DEVICES + ("get",), "requestBody", {"content": {}}, "ListDevices"),
    (DEVICES + ("get",), "parameters", [], "ListDevices"),
    (DEVICES + ("get",), "responses", {"200": {"description": ""}}, "ListDevices"),
])
def test_a_contradiction_fails_the_build(tmp_path, path, key, value, names):
    doc = copy.deepcopy(CONTRACT)
    at(doc, path)[key] = value
    done = generate(tmp_path, doc)
    assert done.returncode != 0 and names in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_two_paths_for_the_same_requests_fail_the_build(tmp_path):
    doc = copy.deepcopy(CONTRACT)
    doc["paths"]["/v5/iot/{project}/devices"] = {}
    done = generate(tmp_path, doc)
    assert done.returncode != 0 and "matches another path" in done.stderr


def test_a_schema_that_contains_itself_fails_the_build(tmp_path):
    doc = copy.deepcopy(CONTRACT)
    doc["components"]["schemas"]["AuthInfo"]["properties"]["more"] = {"$ref": "#/components/schemas/AuthInfo"}
    done = generate(tmp_path, doc)
    assert done.returncode != 0 and "contains itself" in done.stderr


def test_the_page_of_errors_is_that_of_the_table(tmp_path):
    root = PROTO.parent
    subprocess.run([sys.executable, PROTO / "gen_errors.py", root / "libcommon/error.h", PROTO / "openapi.json",
                    tmp_path / "errors.md"], check=True)
    made = (tmp_path / "errors.md").read_text()
    assert made == (root / "docs/errors.md").read_text(), "run `make docs`"
    assert made.count("\n| `IOTDA.") == (root / "libcommon/error.h").read_text().count("    X(")


def test_every_code_of_the_table_is_answered_by_somebody():

    answered = set().union(*(op.codes() for op in contract.OPERATIONS))
    alone = set(contract.STATUS_OF) - answered - {"IOTDA.000900", "IOTDA.000901"}  # of no operation
    assert not alone, alone
