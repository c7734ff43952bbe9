"""The deployment on a PostgreSQL that is there already: another name, port and database, TLS that is checked, and no superuser."""
import os

import pytest

from deployment import Deployment, engine
from rawmqtt import Refused
from waiting import wait_until

SUPER, BOSS = "of the server's own user", "of who may make roles and databases"


def certificate(deployment, folder):
    """A CA and the server's certificate, both in the folder."""
    def openssl(*words):
        deployment.run("openssl", *words)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=CA of elsewhere", "-days", "2", "-keyout", folder / "ca.key",
            "-out", folder / "ca.crt")
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=pg.example", "-keyout", folder / "server.key", "-out",
            folder / "server.csr")
    (folder / "names").write_text("subjectAltName=DNS:pg.example\n")
    openssl("x509", "-req", "-in", folder / "server.csr", "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial",
            "-days", "2", "-extfile", folder / "names", "-out", folder / "server.crt")


@pytest.fixture
def deployment(request, tmp_path):
    own, boss = tmp_path / "own", tmp_path / "boss"
    own.mkdir()
    (own / "password").write_text(SUPER)
    boss.write_text(BOSS)
    made = Deployment(tmp_path, project="causeway-own", files=("deploy/own-postgresql.yml", "tests/compose/elsewhere.yml"),
                      ELSEWHERE=str(own), CAUSEWAY_PG_HOST="pg.example", CAUSEWAY_PG_PORT="6000", CAUSEWAY_PG_DATABASE="plant",
                      CAUSEWAY_PG_USER="boss", CAUSEWAY_PG_PASSWORD_FILE=str(boss), CAUSEWAY_PG_SSLMODE="verify-full",
                      CAUSEWAY_PG_CA=str(own / "ca.crt"))
    try:
        made.down()
        made.build()
        certificate(made, own)
        user = made.run("docker", "run", "--rm", "--network", "none", "--entrypoint", "id", "postgres:16", "-u", "postgres")
        os.chown(own / "server.key", int(user), 0)
        os.chmod(own / "server.key", 0o400)
        for folder in (tmp_path, own):
            folder.chmod(0o755)
        yield made
    finally:
        if request.session.testsfailed:
            print(made.logs())
        made.down()
        engine("stop")


def logs_in(deployment, device):
    try:
        deployment.connect(device).disconnect()
        return True
    except (OSError, Refused):
        return False


def test_a_postgresql_that_is_there_already(deployment):
    def sql(text, database="plant"):
        return deployment.compose("exec", "-T", "-e", f"PGPASSWORD={SUPER}", "elsewhere", "psql", "-XqtA", "-h", "127.0.0.1", "-p", "6000",
                                  "-U", "postgres", "-d", database, "-c", text).strip()
    deployment.compose("up", "-d", "--no-build", "--wait", "elsewhere")
    sql(f"CREATE ROLE boss LOGIN CREATEDB CREATEROLE PASSWORD '{BOSS}'", "postgres")
    deployment.up()
    assert deployment.compose("ps", "-q", "-a", "postgresql", check=False) == "", "ours is not there"
    api = deployment.api
    device = api.new_device(api.new_product()["product_id"])
    with deployment.connect(device) as peer:
        peer.report("Pump", {"flow": 7})
        wait_until(lambda: len(api.history(peer.id)) == 1, 20, 0.1, "stored")
    assert sql("SELECT DISTINCT usename FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) WHERE NOT ssl AND usename IS NOT NULL"
               " AND usename <> 'postgres'") == "", "all speak TLS"
    assert sql("SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_roles WHERE rolcanlogin") == \
        "boss command data identity postgres push registry rule"
    assert sql("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'registry'") == "boss"
    deployment.compose("restart", "elsewhere")
    wait_until(lambda: deployment.healthy() and logs_in(deployment, device), 90, 0.5, "all have found it again")
    with deployment.connect(device) as peer:
        peer.report("Pump", {"flow": 8})
        wait_until(lambda: len(api.history(peer.id)) == 2, 20, 0.1, "stored")
