"""The main flow of the public FoundryDB Python client (PyPI foundrydb-sdk), unmodified, against a running Holdfast.

usage: sdk_flow.py sync|async ENGINE VERSION
environment: HOLDFAST_URL, HOLDFAST_PASSWORD, PSQL (a psql program; optional)

Every call is the client's own; the same flow drives its synchronous and its asynchronous half. The client brings no waiter
for services and backups, so the flow polls as its examples do. Ends with "ok MODE"; any surprise ends it with a traceback.
"""

import asyncio
import base64
import hashlib
import importlib.metadata
import inspect
import os
import re
import socket
import ssl
import subprocess
import sys
import time
import uuid
from datetime import datetime, timedelta, timezone

import httpx
from foundrydb import AsyncFoundryDB, FoundryDB
from foundrydb.types import FoundryDBError

VERSION = "0.13.1"
RFC3339_UTC = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
STATUSES = ["pending", "provisioning", "running"]
# What differs from engine to engine: networks that it can enforce, before and after a change, database, method.
PRIVATE = ["127.0.0.0/8", "10.0.0.0/8"]
ENGINES = {
    "postgresql": (PRIVATE, ["127.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8"], "defaultdb", "pgbackrest"),
    "mysql": (PRIVATE, ["127.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8"], "defaultdb", "mysqldump"),
    "mongodb": (["127.0.0.0/8"], [], "defaultdb", "mongodump"),
    "valkey": (["127.0.0.0/8"], [], "0", "rdb"),
    "kafka": (["127.0.0.0/8"], [], "", "kafka_full"),
    "opensearch": (["127.0.0.0/8"], [], "", "snapshot"),
}
# Restored to backups alone.
WITHOUT_INSTANTS = ["kafka", "opensearch"]
ENCRYPTED = ["tls=true", "kafka+ssl://", "https://"]
ENGINE, VERSION_OF_ENGINE = "postgresql", "17"


def check_unmodified():
    """The installed files are those that the wheel brought."""
    package = importlib.metadata.distribution("foundrydb-sdk")
    assert package.version == VERSION, package.version
    checked = 0
    for file in package.files:
        if file.hash is None or file.suffix != ".py":
            continue
        digest = hashlib.new(file.hash.mode, file.locate().read_bytes()).digest()
        assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value, f"{file} was changed"
        checked += 1
    assert checked > 10, f"only {checked} files of the client were found"


async def got(answer):
    """What a call of either half gives."""
    return await answer if inspect.isawaitable(answer) else answer


async def refused(answer_of, status):
    """The call ends in the client's own error with this status and a text."""
    try:
        answer = await got(answer_of())
    except FoundryDBError as error:
        assert error.status_code == status, repr(error)
        assert str(error) and str(error) == error.body["error"] == error.body["message"], error.body
        return error
    raise AssertionError(f"{status} was expected, not {answer!r}")


async def until(what, look, seconds=120):
    deadline = time.monotonic() + seconds
    while True:
        found = await look()
        if found is not None:
            return found
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        await asyncio.sleep(0.2)


async def create(client, name):
    services = client.services
    asked = dict(
        name=name, database_type=ENGINE, version=VERSION_OF_ENGINE, plan_name="tier-1", zone="se-sto1",
        storage_size_gb=50, storage_tier="maxiops", allowed_cidrs=ENGINES[ENGINE][0],
        maintenance_window="sun:03:00-sun:05:00", labels={"made-by": "sdk"},
    )  # fmt: skip
    made = await got(services.create(**asked))
    assert made.status in STATUSES[:2], made
    for field, value in asked.items():
        assert getattr(made, field) == value, (field, made)
    assert RFC3339_UTC.match(made.created_at) and RFC3339_UTC.match(made.updated_at), made
    await refused(lambda: services.create(**asked), 409)

    seen = [made.status]

    async def is_running():
        service = await got(services.get(made.id))
        if service.status != seen[-1]:
            seen.append(service.status)
        return service if service.status == "running" else None

    service = await until("the service runs", is_running)
    assert seen == [status for status in STATUSES if status in seen], seen
    assert service.created_at == made.created_at
    assert service.dns_records and service.dns_records[0].full_domain, service
    assert isinstance(service.dns_records[0].raw["port"], int), service.dns_records
    assert [s.name for s in await got(services.list()) if s.id == made.id] == [name]
    return service


async def use_database(client, service):
    users = await got(client.users.list(service.id))
    assert [user.username for user in users] == ["app_user", "admin"], users
    assert all(user.roles and RFC3339_UTC.match(user.created_at) for user in users), users
    for user in users:
        secret = await got(client.users.reveal_password(service.id, user.username))
        assert secret.username == user.username and secret.database == ENGINES[ENGINE][2], secret.username
        assert len(secret.password) >= 20 and secret.host == service.dns_records[0].full_domain
        assert secret.port == service.dns_records[0].raw["port"]
        address = f"{secret.host}:{secret.port}" + (f"/{secret.database}" if secret.database else "")
        assert address in secret.connection_string
        with socket.create_connection((secret.host, secret.port), timeout=10) as connection:
            if any(mark in secret.connection_string for mark in ENCRYPTED):
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                context.wrap_socket(connection).close()
        if ENGINE == "postgresql" and (psql := os.environ.get("PSQL")):
            command = [psql, "-XAtc", "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"]
            said = subprocess.run([*command, secret.connection_string], capture_output=True, text=True, check=False)
            assert said.stdout.strip() == f"{user.username}|t", said
    await refused(lambda: client.users.reveal_password(service.id, "nobody"), 404)


async def back_up(client, service):
    backups = client.backups
    # Right after `running`, as clients do: the automated first backup must not refuse it.
    first = await got(backups.trigger(service.id))
    assert first.backup_id.startswith("bkp_") and first.raw["id"] == first.backup_id, first
    error = await refused(lambda: backups.trigger(service.id), 409)
    assert first.backup_id in str(error), error

    async def is_completed():
        listed = await got(backups.list(service.id))
        assert [b.created_at for b in listed] == sorted((b.created_at for b in listed), reverse=True), listed
        backup = next(b for b in listed if b.id == first.backup_id)
        assert backup.status in ("pending", "running", "completed"), backup
        return backup if backup.status == "completed" else None

    backup = await until("the backup is completed", is_completed)
    assert backup.backup_type == "manual" and backup.service_id == service.id, backup
    assert isinstance(backup.size_bytes, int) and backup.size_bytes > 0, backup
    assert RFC3339_UTC.match(backup.completed_at) and backup.error_message is None, backup
    assert backup.raw["backup_method"] == ENGINES[ENGINE][3] and backup.raw["encryption_algorithm"] == "AES-256-GCM"
    kinds = [b.backup_type for b in await got(backups.list(service.id))]
    assert sorted(kinds) == ["automated", "manual"], kinds
    again = await got(backups.trigger(service.id))  # the first has ended: no conflict any more
    assert again.backup_id != first.backup_id


async def change(client, service):
    networks = ENGINES[ENGINE][1]
    changed = await got(client.services.update(service.id, name=f"{service.name}-b", allowed_cidrs=networks))
    assert changed.name == f"{service.name}-b" and changed.allowed_cidrs == networks, changed
    assert (await got(client.services.get(service.id))).allowed_cidrs == networks
    assert (await got(client.services.update(service.id, storage_size_gb=60))).storage_size_gb == 60
    await refused(lambda: client.services.update(service.id, storage_size_gb=50), 400)
    assert (await got(client.services.update(service.id))).storage_size_gb == 60  # an empty change


async def measure(client, service):
    async def known():
        metrics = await got(client.monitoring.get_metrics(service.id))
        return metrics if metrics.connections_max is not None else None

    metrics = await until("metrics are known", known)
    assert isinstance(metrics.connections_max, int) and isinstance(metrics.connections_active, int), metrics
    assert metrics.connections_max >= 100, metrics
    assert isinstance(metrics.disk_usage_percent, float), metrics
    assert {"metrics", "pitr", "storage_used_bytes"} <= metrics.raw.keys(), metrics.raw
    assert metrics.raw["pitr"]["enabled"] is (ENGINE not in WITHOUT_INSTANTS), metrics.raw


async def look_at_organizations(client):
    organizations = await got(client.organizations.list())
    personal = next(o for o in organizations if o.is_personal)
    assert personal.id and personal.slug and personal.name, personal
    assert (await got(client.organizations.get(personal.id))) == personal
    assert (await got(client.organizations.get(str(uuid.uuid4())))) is None
    return personal


async def restore(client, service):
    """What no client can do yet, by plain HTTP as the page "Backups & Restore" says it."""
    path = f"/managed-services/{service.id}"
    auth = ("admin", os.environ["HOLDFAST_PASSWORD"])
    with httpx.Client(base_url=os.environ["HOLDFAST_URL"], auth=auth, timeout=30, trust_env=False) as http:

        async def copy_runs(started):
            assert started.status_code == 202, started.text
            new = started.json()["restored_service_id"]

            async def has_arrived():
                seen = await got(client.services.get(new))
                assert seen.status in STATUSES, seen.raw
                return seen if seen.status == "running" else None

            restored = await until("the copy runs", has_arrived, 240)
            assert restored.raw["restored_from"]["service_id"] == service.id, restored.raw
            assert [u.username for u in await got(client.users.list(new))] == ["app_user", "admin"]
            ours, theirs = [await got(client.users.reveal_password(one, "app_user")) for one in (service.id, new)]
            assert ours.password != theirs.password and ours.port != theirs.port
            return restored

        if ENGINE in WITHOUT_INSTANTS:
            body = {"restore_point": datetime.now(timezone.utc).isoformat(), "target_service_name": f"{service.name}-then"}
            refused_by = http.post(f"{path}/backups/restore", json=body)
            assert refused_by.status_code == 400 and "backup" in refused_by.json()["error"], refused_by.text
            backup = next(b for b in await got(client.backups.list(service.id)) if b.status == "completed")
            del body["restore_point"]
            await remove(client, await copy_runs(http.post(f"{path}/backups/{backup.id}/restore", json=body)))
            return

        async def has_window():
            pitr = http.get(f"{path}/pitr").raise_for_status().json()
            assert pitr["enabled"] is True, pitr
            return pitr["earliest_restore_point"]

        earliest = datetime.fromisoformat((await until("there is a window", has_window)).replace("Z", "+00:00"))
        # No engine's unit of time is coarser than a second.
        point = max(earliest + timedelta(seconds=1), datetime.now(timezone.utc))
        while datetime.now(timezone.utc) <= point:
            await asyncio.sleep(0.1)
        body = {"restore_point": point.isoformat(), "target_service_name": f"{service.name}-then"}
        outside = {**body, "restore_point": "2001-01-01T00:00:00Z"}
        refused_by = http.post(f"{path}/backups/restore", json=outside)
        assert refused_by.status_code == 400 and "window" in refused_by.json()["error"], refused_by.text
        restored = await copy_runs(http.post(f"{path}/backups/restore", json=body))
        lineage = restored.raw["restored_from"]
        reached = datetime.fromisoformat(lineage["restore_point"].replace("Z", "+00:00"))
        assert timedelta() <= point - reached < timedelta(seconds=1), lineage
        await remove(client, restored)


async def remove(client, service):
    assert (await got(client.services.delete(service.id))) is None
    await refused(lambda: client.services.get(service.id), 404)
    await refused(lambda: client.services.delete(service.id), 404)
    assert all(s.id != service.id for s in await got(client.services.list()))


async def flow(client, scoped, stranger, name, restores):
    await refused(lambda: stranger.services.list(), 401)
    personal = await look_at_organizations(client)
    service = await create(scoped(personal.id), name)
    assert service.raw["organization_id"] == personal.id
    assert isinstance(await got(client.services.list_presets()), list)
    await back_up(client, service)
    await use_database(client, service)
    await change(client, service)
    await measure(client, service)
    if restores:
        await restore(client, service)
    await remove(client, service)


def main(mode, engine, version):
    global ENGINE, VERSION_OF_ENGINE
    ENGINE, VERSION_OF_ENGINE = engine, version
    check_unmodified()
    kind = {"sync": FoundryDB, "async": AsyncFoundryDB}[mode]
    access = dict(api_url=os.environ["HOLDFAST_URL"], username="admin")
    password = os.environ["HOLDFAST_PASSWORD"]

    def scoped(organization):
        return kind(**access, password=password, organization_id=organization)

    stranger, restores = kind(**access, password="wrong"), mode == "sync"
    asyncio.run(flow(kind(**access, password=password), scoped, stranger, f"sdk-{engine}-{mode}", restores))
    print(f"ok {mode}")


if __name__ == "__main__":
    main(*sys.argv[1:])
