"""Users with rights of their own: groups, policies, access keys, and an Api for each."""
import json

from rest import Api, unique

FULL, READ_ONLY, ADMINISTRATOR = "IoTDA FullAccess", "IoTDA ReadOnlyAccess", "Administrator"


class Iam:
    """The IAM operations, as an administrator."""

    def __init__(self, api):
        self.api = api

    def call(self, method, path, body=None, api=None):
        api = api or self.api
        if not api.token:
            api.login()
        return api.raw(method, path, json.dumps(body) if body is not None else None,
                       {"X-Auth-Token": api.token, "Content-Type": "application/json"})

    def expect(self, status, method, path, body=None, api=None):
        got = self.call(method, path, body, api)
        assert got.status == status, (method, path, got)
        return got.body

    def role(self, name):
        roles = self.expect(200, "GET", "/v3/roles")["roles"]
        return next(r["id"] for r in roles if r["display_name"] == name)

    def policy(self, *statements):
        """Statements: (effect, actions, spaces or None)."""
        document = {"Version": "1.1", "Statement": [
            {"Effect": effect, "Action": actions,
             **({"Resource": [f"iotda:*:*:app:{s}" for s in spaces]} if spaces else {})}
            for effect, actions, spaces in statements]}
        return self.expect(201, "POST", "/v3.0/OS-ROLE/roles",
                           {"role": {"display_name": unique("policy"), "policy": document}})["role"]["id"]

    def group(self, *roles):
        group = self.expect(201, "POST", "/v3/groups", {"group": {"name": unique("group")}})["group"]["id"]
        for role in roles:
            self.expect(204, "PUT", f"/v3/projects/{self.api.project}/groups/{group}/roles/{role}")
        return group

    def user(self, *groups, password="long_enough_1"):
        user = self.expect(201, "POST", "/v3/users",
                           {"user": {"name": unique("user"), "password": password}})["user"]
        for group in groups:
            self.expect(204, "PUT", f"/v3/groups/{group}/users/{user['id']}")
        return user

    def as_user(self, user, auth="token", password="long_enough_1", **more):
        return Api({**self.api.env, "CAUSEWAY_USER": user["name"], "CAUSEWAY_PASSWORD": password, **more}, auth)

    def as_key(self, key, auth="sdk"):
        return Api({**self.api.env, "CAUSEWAY_AK": key["access"], "CAUSEWAY_SK": key["secret"]}, auth)

    def someone(self, *roles):
        """A new user with these policies, logged in by token."""
        return self.as_user(self.user(self.group(*roles)))
