"""Tags, device groups and the search for devices, over REST."""
import concurrent.futures
import itertools
import pathlib

import psycopg2
import pytest

from identity_world import Iam
from rest import unique
from waiting import wait_until

FROM = "from device"


class Plant:
    """A space of its own with two products and devices that differ in everything that can be searched."""

    def __init__(self, platform):
        self.platform, self.api = platform, platform.api
        self.space = self.api.post("/apps", {"app_name": unique("search")})["app_id"]
        self.pump, self.lamp = (self.api.new_product(app_id=self.space)["product_id"] for _ in range(2))
        self.mark = unique("m")

    def device(self, product=None, **more):
        return self.api.post("/devices", {"node_id": unique(self.mark), "product_id": product or self.pump, "app_id": self.space,
                                          **more})["device_id"]

    def tag(self, device, **tags):
        self.api.post("/tags/bind-resource", {"resource_type": "device", "resource_id": device, "tags": [
            {"tag_key": k, **({"tag_value": v} if v else {})} for k, v in tags.items()]}, status=200)

    def untag(self, device, *keys, status=200):
        return self.api.post("/tags/unbind-resource", {"resource_type": "device", "resource_id": device, "tag_keys": list(keys)},
                             status=status)

    def search(self, sql, status=200):
        return self.api.post("/search/query-devices", {"sql": sql}, status=status)

    def ids(self, where, rest=""):
        return [d["device_id"] for d in self.search(f"select * {FROM} where app_id = '{self.space}' and {where} {rest}")["devices"]]

    def group(self, status=201, **more):
        return self.api.post("/device-group", {"name": unique("group"), "app_id": self.space, **more}, status=status)

    def join(self, group, device, action="addDevice", status=200):
        return self.api.post(f"/device-group/{group}/action", status=status, action_id=action, device_id=device)

    def members(self, group):
        return {d["device_id"] for d in self.api.get(f"/device-group/{group}/devices", limit=50)["devices"]}


@pytest.fixture
def plant(platform):
    return Plant(platform)


# ---- tags

def test_tags_are_bound_shown_and_unbound(plant):
    device = plant.device()
    plant.tag(device, street="north", leased=None)
    assert plant.api.device(device)["tags"] == [{"tag_key": "leased"}, {"tag_key": "street", "tag_value": "north"}]
    plant.tag(device, street="south")
    assert {"tag_key": "street", "tag_value": "south"} in plant.api.device(device)["tags"]
    listed = plant.api.get("/devices", app_id=plant.space)["devices"][0]
    assert listed["tags"] == plant.api.device(device)["tags"]
    wrong = plant.untag(device, "street", "colour", status=400)
    assert wrong["error_code"] == "IOTDA.004003" and "colour" in wrong["error_msg"]
    assert len(plant.api.device(device)["tags"]) == 2, "all or none"
    plant.untag(device, "street", "leased")
    assert plant.api.device(device)["tags"] == []


def test_limits_of_tags(plant):
    device = plant.device()
    plant.tag(device, **{f"k{i}": "v" for i in range(10)})
    bind = {"resource_type": "device", "resource_id": device, "tags": [{"tag_key": "more"}]}
    assert plant.api.post("/tags/bind-resource", bind, status=403)["error_code"] == "IOTDA.004900"
    plant.tag(device, k3="another_value")
    bind["tags"] = [{"tag_key": "k1"}, {"tag_key": "k1", "tag_value": "x"}]
    wrong = plant.api.post("/tags/bind-resource", bind, status=400)
    assert wrong["error_code"] == "IOTDA.004004" and "k1" in wrong["error_msg"]
    bind |= {"resource_id": "nobody", "tags": [{"tag_key": "k"}]}
    assert plant.api.post("/tags/bind-resource", bind, status=404)["error_code"] == "IOTDA.014000"


def test_resources_by_tags_are_paged(plant):
    key, devices = unique("key"), [plant.device() for _ in range(7)]
    for i, device in enumerate(devices):
        plant.tag(device, **{key: "even" if i % 2 == 0 else "odd", f"{key}.b": "x"})

    def page(*tags, **query):
        return plant.api.post("/tags/query-resources", {"resource_type": "device", "tags": list(tags)}, status=200, **query)
    found = page({"tag_key": key, "tag_value": "even"})
    assert [r["resource_id"] for r in found["resources"]] == devices[::-2] and found["page"]["count"] == 4
    both = page({"tag_key": key, "tag_value": "even"}, {"tag_key": key, "tag_value": "odd"}, {"tag_key": f"{key}.b"}, limit=5)
    assert [r["resource_id"] for r in both["resources"]] == devices[:1:-1] and both["page"]["count"] == 7
    rest = page({"tag_key": key}, limit=5, marker=both["page"]["marker"])
    assert [r["resource_id"] for r in rest["resources"]] == devices[1::-1]
    assert page({"tag_key": unique("none")}) == {"resources": [], "page": {"count": 0}}
    plant.api.delete(f"/devices/{devices[0]}")
    assert page({"tag_key": key})["page"]["count"] == 6, "tags go with their device"


# ---- search

def test_each_field_and_operator(plant):
    a = plant.device(device_name="alpha_one")
    b = plant.device(product=plant.lamp, device_name="alphabet")
    gateway = plant.device()
    c = plant.device(gateway_id=gateway)
    plant.tag(a, street="north", floor="1")
    plant.tag(b, street="south", floor="1")
    group = plant.group()["group_id"]
    plant.join(group, a)
    node = plant.api.device(a)["node_id"]
    everything = {a, b, c, gateway}
    table = {
        f"device_id = '{a}'": {a}, f"device_id != '{a}'": everything - {a}, f"device_id in ('{a}', '{c}')": {a, c},
        f"device_id not in ('{a}', '{c}')": {b, gateway}, f"node_id = '{node}'": {a}, f"node_id like '{node}%'": {a},
        f"product_id = '{plant.lamp}'": {b}, f"product_id != '{plant.lamp}'": everything - {b},
        "device_name = 'alpha_one'": {a}, "device_name like 'alpha_%'": {a}, "device_name like 'alph%'": {a, b},
        "device_name != 'alphabet'": everything - {b},
        f"gateway_id = '{gateway}'": {gateway, c}, f"gateway_id not in ('{gateway}')": {a, b},
        "node_type = 'ENDPOINT'": {c}, "node_type = 'GATEWAY'": {a, b, gateway}, "status = 'INACTIVE'": everything,
        "status in ('ONLINE', 'FROZEN')": set(),
        "tag_key = 'street'": {a, b}, "tag_key = 'street' and tag_value = 'north'": {a}, "tag_value = 'south'": {b},
        "tag_key = 'floor' and tag_value = '1' and tag_key = 'street' and tag_value != 'north'": {b},
        "tag_key != 'street'": {c, gateway}, "tag_key = 'street' and tag_value like 'nort%'": {a}, "tag_key like 'stre%'": {a, b},
        f"group_id = '{group}'": {a}, f"group_id != '{group}'": everything - {a},
        "create_time > '20200101T000000Z'": everything, "create_time < '20200101T000000Z'": set(),
        "sw_version = 'v1'": set(), "fw_version != 'v1'": everything, "marker > '00'": everything, "marker < '00'": set(),
    }
    for where, found in table.items():
        assert set(plant.ids(where)) == found, where
    one = plant.search(f"select * {FROM} where device_id = '{a}'")["devices"][0]
    assert one["groups"][0]["group_id"] == group and one["tags"][1] == {"tag_key": "street", "tag_value": "north"}
    assert one["modules"] == [] and len(one["marker"]) == 24 and "auth_info" not in one
    assert plant.search(f"SELECT device_id , status FROM device WHERE device_id='{a}'")["devices"] == [
        {"device_id": a, "status": "INACTIVE"}]


def test_and_binds_tighter_than_or(plant):
    devices = [plant.device(device_name=f"name_{i}") for i in range(4)]
    ids = {d["device_id"] for d in plant.search(
        f"select * {FROM} where device_name = 'name_0' and app_id = '{plant.space}' or device_id = '{devices[2]}'"
        f" and status = 'INACTIVE'")["devices"]}
    assert ids == {devices[0], devices[2]}


def test_order_pages_and_counts(plant):
    devices = [plant.device() for _ in range(12)]
    assert plant.ids("status = 'INACTIVE'", "order by marker limit 50") == devices
    assert plant.ids("status = 'INACTIVE'", "order by marker desc limit 5") == devices[:6:-1]
    assert plant.ids("status = 'INACTIVE'", "order by marker asc limit 3, 4") == devices[3:7]
    assert len(plant.ids("status = 'INACTIVE'")) == 10, "by default"
    marker = plant.search(f"select marker {FROM} where device_id = '{devices[4]}'")["devices"][0]["marker"]
    assert plant.ids(f"marker > '{marker.upper()}'", "order by marker limit 2") == devices[5:7]

    def count(where):
        return plant.search(f"select count(*) {FROM} where app_id = '{plant.space}'{where}")["count"]
    assert count("") == 12 and count(f" and product_id = '{plant.pump}' and status = 'INACTIVE'") == 12
    assert count(f" and status = 'ONLINE' or device_id in ('{devices[0]}', '{devices[1]}')") == 2
    assert plant.search(f"select count(1) {FROM}")["count"] >= 12


WRONG = {
    "": "", "select": "character 7", f"selec * {FROM}": 'character 1 "selec"', "select * from devices": "character 15",
    f"select colour {FROM}": 'character 8 "colour"', f"select * {FROM} where": "a field: app_id",
    f"select * {FROM} where colour = 'x'": 'character 28 "colour"', f"select * {FROM} where status > 'x'": "expected =, !=, in, not in",
    f"select * {FROM} where status = x": "single quotes", f"select * {FROM} where status = 'x": "closing quote",
    f"select * {FROM} where device_name like 'abc%'": "four or more", f"select * {FROM} where device_name like '%abcd%'": "prefix",
    f"select * {FROM} where device_name = ''": "not empty", f"select * {FROM} where create_time > 'now'": "a time such as",
    f"select * {FROM} where marker = 'xyz'": "hexadecimal", f"select * {FROM} where (status = 'x')": "without parentheses",
    f"select * {FROM} limit 51": "50 rows", f"select * {FROM} limit 501, 1": "up to 500", f"select * {FROM} order by status": "marker",
    f"select * {FROM} where status = 'x' union select 1": 'character 41 "union"',
    f"select * {FROM} where " + " and ".join(["status = 'x'"] * 6): "five conditions",
    f"select * {FROM} where status in ('x' 'y')": ", or )",
}


@pytest.mark.parametrize("sql", list(WRONG)[1:])
def test_a_wrong_statement_is_told_where(platform, sql):
    answer = platform.api.post("/search/query-devices", {"sql": sql}, status=400)
    assert answer["error_code"] == "IOTDA.038900" and WRONG[sql] in answer["error_msg"], answer


def test_values_are_never_code(plant):
    device = plant.device(device_name="it's")
    assert plant.ids("device_name = 'it''s'") == [device]
    assert plant.ids("device_name = 'x'' or ''1''=''1'") == []


def database(platform):
    return psycopg2.connect(host="127.0.0.1", port=platform.base + 11, user="postgres", dbname="causeway",
                            password=(pathlib.Path(platform.var) / "secrets/db.postgres").read_text().strip())


def test_a_search_that_takes_too_long_is_ended(plant):
    """Here behind a lock; a count of a million devices would do as well."""
    db = database(plant.platform)
    try:
        db.cursor().execute("LOCK TABLE registry.device_tag")
        refused = plant.search(f"select count(*) {FROM} where tag_value != 'x'", status=403)
        assert refused["error_code"] == "IOTDA.038901" and "product_id" in refused["error_msg"], refused
    finally:
        db.close()
    assert plant.search(f"select count(*) {FROM} where tag_value != 'x'")["count"] >= 0


def test_a_slow_search_holds_up_no_other(own_platform):
    """Three run at once; who finds no room waits no longer than a search may take. A lock makes searches for tags slow."""
    plant = Plant(own_platform(CAUSEWAY_SEARCH_TIMEOUT="2s"))
    device, slow = plant.device(), {"sql": f"select * {FROM} where tag_value != 'x' limit 5"}
    db, pool = database(plant.platform), concurrent.futures.ThreadPoolExecutor(12)

    def ask(times):
        return [pool.submit(plant.api.call, "POST", "/search/query-devices", slow) for _ in range(times)]

    def running():
        cursor = db.cursor()
        cursor.execute("SELECT pg_stat_clear_snapshot(); SELECT pid FROM pg_stat_activity WHERE usename = 'registry'"
                       " AND wait_event_type = 'Lock' AND query LIKE '%registry.device_tag t%'")
        return len(cursor.fetchall())
    try:
        db.cursor().execute("LOCK TABLE registry.device_tag")
        asked = ask(2)
        wait_until(lambda: running() == 2, 2, 0.02, "two are held")
        quick = f"select count(*) {FROM} where product_id = '{plant.pump}' and device_id = '{device}'"  # rows would show tags
        assert plant.search(quick)["count"] == 1
        assert not any(f.done() for f in asked)
        codes = [f.result().body["error_code"] for f in asked + ask(8)]
        assert codes.count("IOTDA.038901") + codes.count("IOTDA.038902") == 10, codes
        assert 3 <= codes.count("IOTDA.038901") <= 6, codes
    finally:
        db.close()
        pool.shutdown()
    assert plant.ids(f"device_id = '{device}'") == [device]


def test_a_product_id_of_two_spaces(plant):
    """Spaces may have products of the same id; a search without a space finds the devices of both."""
    other = Plant(plant.platform)
    name = unique("twin")
    made = []
    for p in (plant, other):
        p.api.new_product(app_id=p.space, product_id=name)
        made.append(p.device(product=name))
    found = plant.search(f"select device_id {FROM} where product_id = '{name}'")["devices"]
    assert [d["device_id"] for d in found] == made[::-1]
    assert plant.search(f"select count(*) {FROM} where product_id = '{name}'")["count"] == 2
    assert plant.ids(f"product_id = '{name}'") == made[:1]
    assert plant.ids(f"product_id not in ('{name}', 'nothing')") == []
    assert plant.ids("product_id = 'nothing'") == [] and plant.ids("product_id != 'nothing'") == made[:1]


def test_who_sees_some_spaces_only(plant):
    device, other = plant.device(), Plant(plant.platform)
    theirs = other.device()
    plant.tag(device, mine="1")
    other.tag(theirs, mine="1")
    group = other.group()["group_id"]
    iam = Iam(plant.api)
    user = iam.someone(iam.policy(("Allow", ["iotda:*:*"], [plant.space])))
    sql = f"device_id in ('{device}', '{theirs}')"
    found = user.post("/search/query-devices", {"sql": f"select * {FROM} where {sql}"}, status=200)["devices"]
    assert [d["device_id"] for d in found] == [device]
    assert user.post("/search/query-devices", {"sql": f"select count(*) {FROM} where {sql}"}, status=200)["count"] == 1
    tagged = user.post("/tags/query-resources", {"resource_type": "device", "tags": [{"tag_key": "mine"}]}, status=200, limit=50)
    ids = {r["resource_id"] for r in tagged["resources"]}
    assert device in ids and theirs not in ids
    assert user.expect(403, "GET", f"/device-group/{group}")["error_code"] == "IOTDA.001002"
    user.post("/tags/bind-resource", {"resource_type": "device", "resource_id": theirs, "tags": [{"tag_key": "x"}]}, status=403)


# ---- groups

def test_a_static_group(plant):
    devices = [plant.device() for _ in range(3)]
    top = plant.group(description="of the north")
    assert top["group_type"] == "STATIC" and top["device_count"] == 0
    for device in devices:
        plant.join(top["group_id"], device)
        plant.join(top["group_id"], device)
    assert plant.members(top["group_id"]) == set(devices)
    page = plant.api.get(f"/device-group/{top['group_id']}/devices", limit=2)
    assert page["page"]["count"] == 3 and [d["device_id"] for d in page["devices"]] == devices[:0:-1]
    assert plant.api.get(f"/device-group/{top['group_id']}/devices", marker=page["page"]["marker"])["devices"][0]["device_id"] == devices[0]
    of_device = plant.api.post(f"/devices/{devices[0]}/list-device-group", status=200)["device_groups"]
    assert [g["group_id"] for g in of_device] == [top["group_id"]]
    refused = plant.api.delete(f"/device-group/{top['group_id']}", status=403)
    assert refused["error_code"] == "IOTDA.031905" and f"Devices in it: 3 ({', '.join(devices)})" in refused["error_msg"], refused
    plant.join(top["group_id"], devices[0], "removeDevice")
    assert plant.join(top["group_id"], devices[0], "removeDevice", status=400)["error_code"] == "IOTDA.031908"
    plant.api.delete(f"/devices/{devices[1]}")
    assert plant.members(top["group_id"]) == {devices[2]}, "a device that is deleted leaves its groups"
    assert plant.api.get(f"/device-group/{top['group_id']}")["device_count"] == 1
    plant.join(top["group_id"], devices[2], "removeDevice")
    plant.api.delete(f"/device-group/{top['group_id']}")
    assert plant.api.expect(404, "GET", f"/device-group/{top['group_id']}")["error_code"] == "IOTDA.031900"


def test_the_tree_of_groups(plant):
    level = [plant.group()["group_id"]]
    for _ in range(4):
        level.append(plant.group(super_group_id=level[-1])["group_id"])
    refused = plant.group(super_group_id=level[-1], status=400)
    assert refused["error_code"] == "IOTDA.031903" and "level 5" in refused["error_msg"]
    below = plant.api.get(f"/device-group/{level[1]}")["name"]
    assert f"Groups below it: 1 ({below})" in plant.api.delete(f"/device-group/{level[0]}", status=403)["error_msg"]
    other = Plant(plant.platform).group()["group_id"]
    assert plant.group(super_group_id=other, status=400)["error_code"] == "IOTDA.031903", "another space"
    name = plant.api.get(f"/device-group/{level[0]}")["name"]
    assert plant.group(name=name, status=400)["error_code"] == "IOTDA.031901"
    changed = plant.api.put(f"/device-group/{level[1]}", {"description": "changed"})
    assert changed["description"] == "changed" and changed["super_group_id"] == level[0]
    assert plant.api.put(f"/device-group/{level[1]}", {"name": name}, status=400)["error_code"] == "IOTDA.031901"
    listed = plant.api.get("/device-group", app_id=plant.space, limit=50)
    assert [g["group_id"] for g in listed["device_groups"]] == level[::-1] and listed["page"]["count"] == 5
    assert plant.api.get("/device-group", app_id=plant.space, name=name)["page"]["count"] == 1
    assert plant.api.get("/device-group", app_id=plant.space, group_type="DYNAMIC")["page"]["count"] == 0
    assert plant.api.get("/device-group", app_id=plant.space, last_modified_time="20990101T000000Z")["page"]["count"] == 0


def test_a_device_is_in_ten_static_groups(plant):
    device, groups = plant.device(), [plant.group()["group_id"] for _ in range(11)]
    for group in groups[:10]:
        plant.join(group, device)
    assert plant.join(groups[10], device, status=403)["error_code"] == "IOTDA.031907"
    assert plant.join(groups[10], "nobody", status=404)["error_code"] == "IOTDA.014000"


def test_a_rule_that_cannot_be(plant):
    for rule, told in {"status = ": "character", "group_id = 'x'": "cannot depend on groups", "status = 'x' limit 5": "limit"}.items():
        refused = plant.group(group_type="DYNAMIC", dynamic_group_rule=rule, status=400)
        assert refused["error_code"] == "IOTDA.031904" and told in refused["error_msg"], refused
    assert "needs one" in plant.group(group_type="DYNAMIC", status=400)["error_msg"]
    assert "static" in plant.group(dynamic_group_rule="status = 'x'", status=400)["error_msg"]


def dynamic(plant, rule):
    made = plant.group(group_type="DYNAMIC", dynamic_group_rule=rule)
    assert made["group_type"] == "DYNAMIC" and made["dynamic_group_rule"] == rule
    return made["group_id"]


def becomes(plant, group, devices):
    wait_until(lambda: plant.members(group) == set(devices), 15, 0.05, "the members follow")


def test_a_dynamic_group_follows_what_devices_are(plant):
    a, b = plant.device(device_name="lamp_a"), plant.device(product=plant.lamp)
    plant.tag(a, street="north")
    named = dynamic(plant, "device_name like 'lamp_%'")
    lamps = dynamic(plant, f"product_id = '{plant.lamp}'")
    north = dynamic(plant, "tag_key = 'street' and tag_value = 'north'")
    online = dynamic(plant, f"status = 'ONLINE' and app_id = '{plant.space}'")
    for group, who in ((named, [a]), (lamps, [b]), (north, [a]), (online, [])):
        becomes(plant, group, who)
    plant.tag(b, street="north")
    becomes(plant, north, [a, b])
    plant.untag(a, "street")
    becomes(plant, north, [b])
    plant.api.put(f"/devices/{a}", {"device_name": "pump_a"})
    becomes(plant, named, [])
    c = plant.device(product=plant.lamp, device_name="lamp_c")
    becomes(plant, lamps, [b, c])
    becomes(plant, named, [c])
    device = plant.api.device(c)
    with plant.platform.connect(device):
        becomes(plant, online, [c])
    becomes(plant, online, [])
    plant.api.delete(f"/devices/{c}")
    becomes(plant, lamps, [b])
    assert plant.join(lamps, a, status=403)["error_code"] == "IOTDA.031906"
    assert not plant.api.get(f"/device-group/{lamps}")["filling"]
    plant.api.delete(f"/device-group/{lamps}")
    assert lamps not in [g["group_id"] for g in plant.api.post(f"/devices/{b}/list-device-group", status=200)["device_groups"]]


def test_groups_follow_through_kills(own_platform):
    """Two instances, one of them killed again and again: each change is found in the end."""
    platform = own_platform(instances="device-registry=2")
    plant = Plant(platform)
    devices = [plant.device() for _ in range(20)]
    group = dynamic(plant, "tag_key = 'in'")
    which = itertools.cycle((0, 1))
    for i, device in enumerate(devices):
        plant.tag(device, **{"in": None})
        if i % 5 == 4:
            platform.kill("device-registry", next(which))
            wait_until(lambda: platform.api.call("GET", "/apps").status == 200, 20, 0.1, "it answers")
    wait_until(lambda: plant.members(group) == set(devices), 20, 0.1, "all are in")
    for device in devices[::2]:
        plant.untag(device, "in")
    wait_until(lambda: plant.members(group) == set(devices[1::2]), 20, 0.1, "half of them have left")


def test_a_change_that_is_open_while_the_first_dynamic_group_is_made(own_platform):
    """It began when there was no such group, so that nobody noted it, and ends later."""
    plant = Plant(own_platform())
    device, other = plant.device(device_name="pump_a"), plant.device(device_name="lamp_b")
    db = database(plant.platform)
    try:
        db.cursor().execute("UPDATE registry.device SET device_name = 'lamp_a' WHERE device_id = %s", (device,))
        group = dynamic(plant, "device_name like 'lamp_%'")
        third = plant.device(device_name="lamp_c")
        becomes(plant, group, [third])
        assert plant.api.get(f"/device-group/{group}")["filling"]
        db.commit()
    finally:
        db.close()
    becomes(plant, group, [device, other, third])


def test_a_full_dynamic_group(own_platform):
    plant = Plant(own_platform(CAUSEWAY_GROUP_DEVICES_MAX="2"))
    devices = [plant.device(device_name=f"lamp_{i}") for i in range(4)]
    group = dynamic(plant, "device_name like 'lamp_%'")
    becomes(plant, group, devices[2:])
    plant.api.delete(f"/devices/{devices[3]}")
    becomes(plant, group, devices[1:3])
    plant.api.put(f"/devices/{devices[1]}", {"device_name": "pump_1"})
    becomes(plant, group, [devices[0], devices[2]])
    fifth = plant.device(device_name="lamp_5")
    assert plant.api.get(f"/device-group/{group}")["device_count"] == 2
    plant.api.delete(f"/devices/{devices[0]}")
    becomes(plant, group, [devices[2], fifth])


def test_members_that_change_take_no_room(own_platform):
    plant = Plant(own_platform(CAUSEWAY_GROUP_DEVICES_MAX="2"))
    new, member = plant.device(device_name="pump_a"), plant.device(device_name="lamp_b")
    group = dynamic(plant, "device_name like 'lamp_%'")
    becomes(plant, group, [member])
    with database(plant.platform) as db:  # both are looked at together, the member first
        db.cursor().execute("UPDATE registry.device SET device_name = 'lamp_' || right(device_name, 1) || 'x'"
                            " WHERE device_id IN (%s, %s)", (new, member))
    db.close()
    becomes(plant, group, [new, member])


def test_a_dynamic_group_is_deleted_while_devices_join_it(plant):
    """As the keeper does, in a transaction that ends while the deletion waits for it."""
    device, group = plant.device(), dynamic(plant, "device_name = 'nobody'")
    db = database(plant.platform)
    try:
        cursor = db.cursor()
        cursor.execute("INSERT INTO registry.group_member SELECT %s, device_key, record_id FROM registry.device WHERE device_id = %s",
                       (group, device))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            deletion = pool.submit(plant.api.delete, f"/device-group/{group}")
            waiting = ("SELECT pg_stat_clear_snapshot(); SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                       " AND query LIKE '%DELETE FROM registry.device_group%'")
            wait_until(lambda: cursor.execute(waiting) or cursor.fetchall(), 10, 0.01, "the deletion waits")
            db.commit()
            deletion.result()
    finally:
        db.close()
    assert plant.api.expect(404, "GET", f"/device-group/{group}")["error_code"] == "IOTDA.031900"
