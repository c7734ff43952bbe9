/* The operations of users, groups, policies and keys: each is a statement that makes the answer. */
#include "services/identity/iam.h"

#define TIME(c) "to_char(" c " AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
#define LINKS   "json_build_object('self', '', 'next', NULL, 'previous', NULL)"

#define USER_JSON                                                                                  \
    "json_strip_nulls(json_build_object('id', u.user_id, 'name', u.name, 'domain_id',"             \
    " u.domain_id, 'enabled', u.enabled, 'description', coalesce(u.description, ''),"              \
    " 'create_time', " TIME(                                                                       \
        "u.created") ", 'locked_until', CASE WHEN u.locked_until > now()"                          \
                     " THEN " TIME(                                                                \
                         "u.locked_until") " END, 'links', json_build_object('self', '')))"
#define GROUP_JSON                                                                                 \
    "json_build_object('id', g.group_id, 'name', g.name, 'domain_id', g.domain_id, 'description'," \
    " coalesce(g.description, ''), 'create_time', " TIME(                                          \
        "g.created") ", 'links',"                                                                  \
                     " json_build_object('self', ''))"
#define ROLE_JSON                                                                                  \
    "json_strip_nulls(json_build_object('id', r.role_id, 'name', r.role_id, 'display_name',"       \
    " r.display_name, 'type', r.type, 'catalog', CASE WHEN r.domain_id IS NULL THEN 'SYSTEM'"      \
    " ELSE 'CUSTOMED' END, 'domain_id', r.domain_id, 'description', coalesce(r.description, ''),"  \
    " 'policy', r.document, 'links', json_build_object('self', '')))"
#define KEY_JSON                                                                                   \
    "json_strip_nulls(json_build_object('access', k.access, 'user_id', k.user_id, 'status',"       \
    " CASE WHEN k.enabled THEN 'active' ELSE 'inactive' END, 'description',"                       \
    " coalesce(k.description, ''), 'create_time', " TIME("k.created") ", 'last_use_time', " TIME(  \
        "k.last_used") "))"

#define ONE(name, json) "json_build_object('" name "', " json ")::text AS body"
#define ALL(name, json, id)                                                                        \
    "json_build_object('" name "', coalesce(json_agg(" json ") FILTER (WHERE " id " IS NOT NULL)," \
    " '[]'), 'links', " LINKS ")::text AS body"
#define ALL_USERS  ALL("users", USER_JSON, "u.user_id")
#define ALL_GROUPS ALL("groups", GROUP_JSON, "g.group_id")
#define ALL_ROLES  ALL("roles", ROLE_JSON, "r.role_id")
/* The caller's account; he is always $1. */
#define MINE "(SELECT domain_id FROM identity.principal WHERE user_id = $1)"

const struct iam_row iam_rows[] = {
    /* ---- users */
    { .operation = "KeystoneListUsers",
      .stmt = { "iam_list_users", "SELECT " ALL_USERS " FROM (SELECT * FROM"
                                  " identity.principal u WHERE u.domain_id = " MINE
                                  " AND ($2::text IS NULL OR u.name = $2) ORDER BY u.name) u" },
      .params = { "query:name" },
      .status = 200 },
    { .operation = "KeystoneCreateUser",
      .stmt = { "iam_create_user",
                "INSERT INTO identity.principal AS u (user_id, domain_id, name, password_hash, "
                "role,"
                " enabled, description) SELECT $2, m.d, $3, $4, 'reader', coalesce($5::boolean,"
                " true), $6 FROM (SELECT " MINE " AS d) m WHERE coalesce($7, m.d) = m.d"
                " AND (SELECT count(*) FROM identity.principal x WHERE x.domain_id = m.d)"
                " < $8::bigint RETURNING " ONE("user", USER_JSON) },
      .params = { "id", "body:user.name", "hash", "body:user.enabled", "body:user.description",
                  "body:user.domain_id", "max:users" },
      .status = 201,
      .quota = "users, or the domain_id is another account's",
      .before = iam_hash_password,
      .changes = true },
    { .operation = "KeystoneShowUser",
      .stmt = { "iam_show_user",
                "SELECT " ONE("user", USER_JSON) " FROM identity.principal u"
                                                 " WHERE u.domain_id = " MINE " AND u.user_id = $2"
                                                 " AND ($3::text IS NULL OR u.user_id = $3)" },
      .params = { "path:user_id", "own" },
      .status = 200,
      .missing = "user" },
    { .operation = "KeystoneUpdateUserByAdmin",
      .stmt = { "iam_update_user",
                "UPDATE identity.principal u SET name = coalesce($3, name), password_hash ="
                " coalesce($4, password_hash), enabled = coalesce($5::boolean, enabled),"
                " description = coalesce($6, description), generation = generation +"
                " ($4::text IS NOT NULL OR $5::boolean IS FALSE)::int, locked_until = CASE WHEN"
                " $4::text IS NULL AND $5::boolean IS NOT TRUE THEN locked_until END, failures ="
                " CASE WHEN $4::text IS NULL AND $5::boolean IS NOT TRUE THEN failures ELSE 0 END"
                " WHERE u.domain_id = " MINE
                " AND u.user_id = $2 RETURNING " ONE("user", USER_JSON) },
      .params = { "path:user_id", "body:user.name", "hash", "body:user.enabled",
                  "body:user.description" },
      .status = 200,
      .missing = "user",
      .before = iam_hash_password,
      .changes = true },
    { .operation = "KeystoneDeleteUser",
      .stmt = { "iam_delete_user", "DELETE FROM identity.principal u WHERE u.domain_id = " MINE
                                   " AND u.user_id = $2 AND u.user_id <> $1 RETURNING '' AS body" },
      .params = { "path:user_id" },
      .status = 204,
      .missing = "user (and nobody deletes himself)",
      .changes = true },
    { .operation = "KeystoneUpdateUserPassword",
      .stmt = { "iam_own_password",
                "UPDATE identity.principal u SET password_hash = $3, generation = generation + 1"
                " WHERE u.user_id = $2 AND u.user_id = $1 RETURNING '' AS body" },
      .params = { "path:user_id", "hash" },
      .status = 204,
      .missing = "user",
      .before = iam_check_password,
      .changes = true },
    { .operation = "KeystoneListGroupsForUser",
      .stmt = { "iam_groups_of_user",
                "SELECT " ALL_GROUPS
                " FROM identity.principal u LEFT JOIN (identity.membership m JOIN"
                " identity.user_group g USING (group_id)) ON m.user_id = u.user_id "
                "WHERE"
                " u.domain_id = " MINE " AND u.user_id = $2 AND ($3::text IS NULL OR"
                " u.user_id = $3) GROUP BY u.user_id" },
      .params = { "path:user_id", "own" },
      .status = 200,
      .missing = "user" },
    /* ---- groups */
    { .operation = "KeystoneListGroups",
      .stmt = { "iam_list_groups", "SELECT " ALL_GROUPS " FROM (SELECT * FROM"
                                   " identity.user_group g WHERE g.domain_id = " MINE
                                   " AND ($2::text IS NULL OR g.name = $2) ORDER BY g.name) g" },
      .params = { "query:name" },
      .status = 200 },
    { .operation = "KeystoneCreateGroup",
      .stmt = { "iam_create_group",
                "INSERT INTO identity.user_group AS g (group_id, domain_id, name, description)"
                " SELECT $2, m.d, $3, $4 FROM (SELECT " MINE " AS d) m WHERE coalesce($5, m.d) ="
                " m.d AND (SELECT count(*) FROM identity.user_group x WHERE x.domain_id = m.d)"
                " < $6::bigint RETURNING " ONE("group", GROUP_JSON) },
      .params = { "id", "body:group.name", "body:group.description", "body:group.domain_id",
                  "max:groups" },
      .status = 201,
      .quota = "groups, or the domain_id is another account's" },
    { .operation = "KeystoneShowGroup",
      .stmt = { "iam_show_group", "SELECT " ONE("group", GROUP_JSON) " FROM identity.user_group g"
                                                                     " WHERE g.domain_id = " MINE
                                                                     " AND g.group_id = $2" },
      .params = { "path:group_id" },
      .status = 200,
      .missing = "group" },
    { .operation = "KeystoneUpdateGroup",
      .stmt = { "iam_update_group",
                "UPDATE identity.user_group g SET name = coalesce($3, name), description ="
                " coalesce($4, description) WHERE g.domain_id = " MINE
                " AND g.group_id = $2 RETURNING " ONE("group", GROUP_JSON) },
      .params = { "path:group_id", "body:group.name", "body:group.description" },
      .status = 200,
      .missing = "group" },
    { .operation = "KeystoneDeleteGroup",
      .stmt = { "iam_delete_group", "DELETE FROM identity.user_group g WHERE g.domain_id = " MINE
                                    " AND g.group_id = $2 RETURNING '' AS body" },
      .params = { "path:group_id" },
      .status = 204,
      .missing = "group",
      .changes = true },
    { .operation = "KeystoneListUsersForGroupByAdmin",
      .stmt = { "iam_users_of_group",
                "SELECT json_build_object('users', coalesce(json_agg(" USER_JSON
                " ORDER BY u.name) FILTER (WHERE u.user_id IS NOT NULL), '[]'), 'links',"
                " " LINKS ")::text AS body FROM identity.user_group g LEFT JOIN"
                " (identity.membership m JOIN identity.principal u USING (user_id)) USING "
                "(group_id)"
                " WHERE g.domain_id = " MINE " AND g.group_id = $2 GROUP BY g.group_id" },
      .params = { "path:group_id" },
      .status = 200,
      .missing = "group" },
    { .operation = "KeystoneAddUserToGroup",
      .stmt = { "iam_join",
                "WITH w AS (SELECT g.group_id, u.user_id FROM identity.user_group g"
                " JOIN identity.principal u USING (domain_id) WHERE g.domain_id = " MINE
                " AND g.group_id = $2 AND u.user_id = $3), i AS (INSERT INTO identity.membership"
                " (group_id, user_id) SELECT group_id, user_id FROM w ON CONFLICT DO NOTHING)"
                " SELECT '' AS body FROM w" },
      .params = { "path:group_id", "path:user_id" },
      .status = 204,
      .missing = "group or user",
      .changes = true },
    { .operation = "KeystoneRemoveUserFromGroup",
      .stmt = { "iam_leave", "DELETE FROM identity.membership m USING identity.user_group g WHERE"
                             " g.group_id = m.group_id AND g.domain_id = " MINE
                             " AND m.group_id = $2 AND m.user_id = $3 RETURNING '' AS body" },
      .params = { "path:group_id", "path:user_id" },
      .status = 204,
      .missing = "such member of the group",
      .changes = true },
    /* ---- policies */
    { .operation = "KeystoneListPermissions",
      .stmt = { "iam_list_roles",
                "SELECT " ALL_ROLES " FROM (SELECT * FROM"
                " identity.policy r WHERE (r.domain_id IS NULL "
                "OR r.domain_id = " MINE ") AND ($2::text IS NULL OR r.display_name = $2) "
                "ORDER BY r.domain_id NULLS FIRST,"
                " r.display_name) r" },
      .params = { "query:display_name" },
      .status = 200 },
    { .operation = "ListCustomPolicies",
      .stmt = { "iam_list_custom",
                "SELECT " ALL_ROLES " FROM (SELECT * FROM"
                " identity.policy r WHERE r.domain_id = " MINE " ORDER BY r.display_name) r" },
      .status = 200 },
    { .operation = "CreateCloudServiceCustomPolicy",
      .stmt = { "iam_create_role",
                "INSERT INTO identity.policy AS r (role_id, domain_id, display_name, type,"
                " description, document) SELECT $2, m.d, $3, coalesce($4, 'XA'), $5, $6::jsonb FROM"
                " (SELECT " MINE " AS d) m WHERE (SELECT count(*) FROM identity.policy x WHERE"
                " x.domain_id = m.d) < $7::bigint RETURNING " ONE("role", ROLE_JSON) },
      .params = { "id", "body:role.display_name", "body:role.type", "body:role.description",
                  "body:role.policy", "max:policies" },
      .status = 201,
      .quota = "policies",
      .before = iam_check_policy },
    { .operation = "ShowCustomPolicy",
      .stmt = { "iam_show_role",
                "SELECT " ONE("role", ROLE_JSON) " FROM identity.policy r WHERE"
                                                 " (r.domain_id IS NULL OR r.domain_id = " MINE
                                                 ") AND r.role_id = $2" },
      .params = { "path:role_id" },
      .status = 200,
      .missing = "policy" },
    { .operation = "UpdateCloudServiceCustomPolicy",
      .stmt = { "iam_update_role",
                "UPDATE identity.policy r SET display_name = coalesce($3, display_name), type ="
                " coalesce($4, type), description = coalesce($5, description), document ="
                " coalesce($6::jsonb, document) WHERE r.domain_id = " MINE
                " AND r.role_id = $2 RETURNING " ONE("role", ROLE_JSON) },
      .params = { "path:role_id", "body:role.display_name", "body:role.type",
                  "body:role.description", "body:role.policy" },
      .status = 200,
      .missing = "policy of the account",
      .before = iam_check_policy,
      .changes = true },
    { .operation = "DeleteCustomPolicy",
      .stmt = { "iam_delete_role", "DELETE FROM identity.policy r WHERE r.domain_id = " MINE
                                   " AND r.role_id = $2 RETURNING '' AS body" },
      .params = { "path:role_id" },
      .status = 204,
      .missing = "policy of the account" },
    { .operation = "KeystoneListProjectPermissionsForGroup",
      .stmt = { "iam_roles_of_group",
                "SELECT json_build_object('roles', coalesce(json_agg(" ROLE_JSON
                " ORDER BY r.display_name) FILTER (WHERE r.role_id IS NOT NULL), '[]'),"
                " 'links', " LINKS ")::text AS body FROM identity.user_group g LEFT JOIN"
                " (identity.group_policy p JOIN identity.policy r USING (role_id)) ON p.group_id ="
                " g.group_id AND p.project_id = $3 WHERE g.domain_id = " MINE
                " AND g.group_id = $2 GROUP BY g.group_id" },
      .params = { "path:group_id", "path:project_id" },
      .status = 200,
      .missing = "group" },
    { .operation = "KeystoneAssociateGroupWithProjectPermission",
      .stmt = { "iam_give",
                "WITH w AS (SELECT g.group_id, p.project_id, r.role_id FROM"
                " identity.user_group g JOIN identity.project p USING (domain_id) JOIN"
                " identity.policy r ON r.domain_id IS NULL OR r.domain_id = g.domain_id WHERE"
                " g.domain_id = " MINE " AND g.group_id = $2 AND p.project_id = $3 AND r.role_id ="
                " $4), i AS (INSERT INTO identity.group_policy (group_id, project_id, role_id)"
                " SELECT group_id, project_id, role_id FROM w ON CONFLICT DO NOTHING)"
                " SELECT '' AS body FROM w" },
      .params = { "path:group_id", "path:project_id", "path:role_id" },
      .status = 204,
      .missing = "group or policy",
      .changes = true },
    { .operation = "KeystoneRemoveProjectPermissionFromGroup",
      .stmt = { "iam_take",
                "DELETE FROM identity.group_policy p USING identity.user_group g WHERE"
                " g.group_id = p.group_id AND g.domain_id = " MINE " AND p.group_id = $2 AND"
                " p.project_id = $3 AND p.role_id = $4 RETURNING '' AS body" },
      .params = { "path:group_id", "path:project_id", "path:role_id" },
      .status = 204,
      .missing = "such policy of the group",
      .changes = true },
    /* ---- access keys */
    { .operation = "ListPermanentAccessKeys",
      .stmt = { "iam_list_keys",
                "SELECT json_build_object('credentials', coalesce(json_agg(" KEY_JSON
                " ORDER BY k.created) FILTER (WHERE k.access IS NOT NULL), '[]'))::text AS body "
                "FROM"
                " identity.principal u LEFT JOIN identity.access_key k ON k.user_id = u.user_id AND"
                " k.expires IS NULL WHERE u.domain_id = " MINE " AND u.user_id = coalesce($2, $1)"
                " AND ($3::text IS NULL OR u.user_id = $3) GROUP BY u.user_id" },
      .params = { "query:user_id", "own" },
      .status = 200,
      .missing = "user" },
    { .operation = "CreatePermanentAccessKey",
      .stmt = { "iam_create_key",
                "INSERT INTO identity.access_key AS k (access, user_id, sealed, description)"
                " SELECT $4, u.user_id, $5, $6 FROM identity.principal u WHERE u.domain_id = " MINE
                " AND u.user_id = $2 AND ($3::text IS NULL OR u.user_id = $3) AND (SELECT count(*)"
                " FROM identity.access_key x WHERE x.user_id = u.user_id AND x.expires IS NULL)"
                " < $7::bigint RETURNING " ONE("credential", KEY_JSON) },
      .params = { "body:credential.user_id", "own", "access", "sealed",
                  "body:credential.description", "max:keys" },
      .status = 201,
      .quota = "access keys, or there is no such user",
      .before = iam_make_key,
      .after = iam_show_secret },
    { .operation = "ShowPermanentAccessKey",
      .stmt = { "iam_show_key",
                "SELECT " ONE(
                    "credential",
                    KEY_JSON) " FROM identity.access_key k"
                              " JOIN identity.principal u USING (user_id) WHERE u.domain_id = " MINE
                              " AND k.access = $2 AND k.expires IS NULL AND ($3::text IS NULL OR "
                              "k.user_id = $3)" },
      .params = { "path:access_key", "own" },
      .status = 200,
      .missing = "access key" },
    { .operation = "UpdatePermanentAccessKey",
      .stmt = { "iam_update_key",
                "UPDATE identity.access_key k SET enabled = coalesce($4 = 'active', k.enabled),"
                " description = coalesce($5, k.description) FROM identity.principal u WHERE"
                " u.user_id = k.user_id AND u.domain_id = " MINE " AND k.access = $2 AND"
                " k.expires IS NULL AND ($3::text IS NULL OR k.user_id = $3) RETURNING " ONE(
                    "credential", KEY_JSON) },
      .params = { "path:access_key", "own", "body:credential.status",
                  "body:credential.description" },
      .status = 200,
      .missing = "access key",
      .changes = true },
    { .operation = "DeletePermanentAccessKey",
      .stmt = { "iam_delete_key",
                "DELETE FROM identity.access_key k USING identity.principal u"
                " WHERE u.user_id = k.user_id AND u.domain_id = " MINE " AND k.access = $2 AND"
                " k.expires IS NULL AND ($3::text IS NULL OR k.user_id = $3) RETURNING '' AS "
                "body" },
      .params = { "path:access_key", "own" },
      .status = 204,
      .missing = "access key",
      .changes = true },
    { .operation = "CreateTemporaryAccessKeyByToken",
      .stmt = { "iam_create_temporary",
                "INSERT INTO identity.access_key AS k (access, user_id, sealed, expires, "
                "token_hash,"
                " policy) SELECT $2, $1, $3, now() + make_interval(secs => coalesce($4::int, 900)),"
                " $5, $6::jsonb WHERE (SELECT count(*) FROM identity.access_key x WHERE x.user_id ="
                " $1 AND x.expires > now()) < $7::bigint RETURNING json_build_object('credential',"
                " json_build_object('access', k.access, 'expires_at', " TIME(
                    "k.expires") "))::text AS body" },
      .params = { "access", "sealed", "body:auth.identity.token.duration_seconds", "token",
                  "body:auth.identity.policy", "max:temporary" },
      .status = 201,
      .quota = "temporary access keys",
      .before = iam_make_temporary,
      .after = iam_show_secret },
    { .operation = NULL },
};
