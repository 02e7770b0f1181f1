"""What the receiver says of itself, and to whom."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from conftest import ENVIRONMENT, Log, Receive, Receiver
from db.database import Database
from db.revision import NEWEST
from db.url import normalise
from freescout_audit.rule import Terms
from receiver.app import create_app, serve
from receiver.health import Health
from receiver.metrics import Metrics
from settings import Secret, load_settings
from support.examples import body

ROOT = Path(__file__).resolve().parent.parent
GUARDED = replace(ENVIRONMENT, ops_token=Secret("the token"))

SCALE_THE_POLLER = "scale the process poller to 1 to have FreeScout asked as well"


async def get(receiver: Receiver, path: str, **headers: str) -> tuple[int, str]:
    async with receiver.client.get(
        receiver.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()}
    ) as response:
        return response.status, await response.text()


async def components(receiver: Receiver, **headers: str) -> dict[str, Any]:
    async with receiver.client.get(receiver.url + "/readyz", headers=headers) as response:
        details: dict[str, Any] = (await response.json())["components"]
        return {name: (one["state"], one["detail"], one["next_step"]) for name, one in details.items()}


async def test_the_public_gets_a_word(receive: Receive) -> None:
    async with receive(GUARDED) as receiver:
        assert await get(receiver, "/healthz") == (200, "ok\n")
        assert await get(receiver, "/readyz") == (200, "ready\n")
        assert await get(receiver, "/readyz", Authorization="Bearer wrong") == (200, "ready\n")
        assert (await get(receiver, "/metrics"))[0] == 401
        assert (await get(receiver, "/metrics", Authorization="Bearer wrong"))[0] == 401


async def test_who_holds_the_token_gets_the_whole_story(receive: Receive) -> None:
    async with receive(GUARDED) as receiver:
        status, text = await get(receiver, "/metrics", Authorization="Bearer the token")
        assert status == 200
        assert "freescout_audit_database_up 1.0" in text

        assert await components(receiver, Authorization="Bearer the token") == {
            "receive": ("ok", "deliveries are taken, keys accepted: 1", ""),
            "database": ("ok", f"schema {NEWEST}", ""),
            "poller": ("off", "no poller: deliveries alone are believed, for 86400 s each", SCALE_THE_POLLER),
            "desk": ("off", "nobody has asked FreeScout lately", ""),
        }


async def test_without_a_token_only_this_machine_sees_it_and_not_through_a_proxy(receiver: Receiver) -> None:
    assert (await get(receiver, "/metrics"))[0] == 200
    assert (await get(receiver, "/metrics", X_Forwarded_For="203.0.113.7"))[0] == 401
    assert await get(receiver, "/readyz", Forwarded="for=203.0.113.7") == (200, "ready\n")


async def test_a_flag_that_is_off_is_a_state_and_no_failure(receive: Receive) -> None:
    async with receive(replace(ENVIRONMENT, receive=False, webhook_secrets=())) as receiver:
        assert (await get(receiver, "/readyz"))[0] == 200
        assert (await components(receiver))["receive"] == (
            "off",
            "FLAG_FREESCOUT_WEBHOOK_RECEIVE is not 1: deliveries are answered 503",
            "set it to 1 when doctor is green",
        )


async def test_a_missing_key_is_a_failure(receive: Receive, log: Log) -> None:
    async with receive(replace(GUARDED, webhook_secrets=())) as receiver:
        assert await get(receiver, "/readyz") == (503, "not ready\n")
        detail = await components(receiver, Authorization="Bearer the token")

    assert detail["receive"] == (
        "failed",
        "FREESCOUT_AUDIT_WEBHOOK_SECRET is not set: deliveries are answered 503",
        "copy it from FreeScout's Manage » Settings » API & Webhooks",
    )
    told = [tuple(line.get(name) for name in ("state", "detail", "next_step")) for line in log.lines("receiver.state")]
    assert detail["receive"] in told


async def test_a_database_that_is_away_is_a_failure_and_a_delivery_comes_again(unused_tcp_port: int, log: Log) -> None:
    away = Database(normalise(f"postgres://user:hidden@127.0.0.1:{unused_tcp_port}/x"))
    app = create_app(away, ENVIRONMENT, load_settings({}))
    async with serve(app, host="127.0.0.1", port=0) as port, aiohttp.ClientSession() as client:
        receiver = Receiver(port, client, f"http://127.0.0.1:{port}")
        assert (await get(receiver, "/healthz"))[0] == 200
        assert (await get(receiver, "/readyz"))[0] == 503
        assert (await components(receiver))["database"][0] == "failed"
        assert await receiver.deliver(body()) == (503, {"error": "the delivery could not be saved"})
        async with client.post(
            receiver.url + "/api/internal/freescout-webhook/audit", data=body(), headers={}
        ) as response:
            assert response.status == 401

    assert "hidden" not in log.text
    assert len(log.lines("delivery.not_saved")) == 1
    await away.close()


async def test_a_schema_older_than_the_code_is_a_failure(receive: Receive, sql: asyncpg.Connection) -> None:
    await sql.execute("UPDATE freescout_schema SET version_num = '0008'")

    async with receive() as receiver:
        assert (await components(receiver))["database"] == (
            "failed",
            "the schema is older than this code",
            "run python -m db.migrate",
        )


@pytest.mark.parametrize(
    "damage", ["DELETE FROM freescout_lease", "DELETE FROM freescout_schema", "DROP TABLE freescout_gap"]
)
async def test_a_damaged_database_is_a_failure_and_never_a_500(
    receive: Receive, sql: asyncpg.Connection, damage: str
) -> None:
    await sql.execute(damage)

    async with receive() as receiver:
        assert (await get(receiver, "/readyz"))[0] == 503
        assert (await components(receiver))["database"][0] == "failed"
        assert (await get(receiver, "/metrics"))[0] == 200


async def test_what_only_the_database_knows_is_forgotten_when_it_goes(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE freescout_lease SET heartbeat_at = now(), lease_until = now() + interval '1 hour'")
    metrics = Metrics()
    health = Health(database, ENVIRONMENT, terms=Terms(), metrics=metrics)
    await health.check()
    assert health.ready
    assert b"freescout_audit_poller_alive 1.0" in metrics.exposition()

    await sql.execute("ALTER TABLE freescout_lease RENAME TO freescout_lease_away")
    health = Health(database, ENVIRONMENT, terms=Terms(), metrics=metrics)
    await health.check()

    assert not health.ready
    assert set(health.components) == {"receive", "database"}
    assert b"freescout_audit_poller_alive NaN" in metrics.exposition()


async def test_the_watch_survives_what_it_does_not_expect(database: Database, log: Log) -> None:
    health = Health(database, ENVIRONMENT, terms=Terms(), metrics=Metrics())
    looked = asyncio.Event()

    async def check() -> None:
        looked.set()
        raise RuntimeError("customer7@example.org")

    health.check = check  # type: ignore[method-assign]
    watching = asyncio.create_task(health.watch())
    await looked.wait()
    await asyncio.sleep(0)

    assert not watching.done()
    assert [line["error"] for line in log.lines("receiver.fault")] == ["RuntimeError"]
    assert "customer7" not in log.text
    watching.cancel()


@pytest.mark.parametrize(
    ("heartbeat", "lease_until", "component"),
    [
        ("now()", "NULL", ("ok", "alive; the first pass is not complete yet", "")),
        ("now()", "now() + interval '1 minute'", ("ok", "alive; passes are complete", "")),
        (
            "now()",
            "now()",
            (
                "failed",
                "alive, but no pass has been complete for as long as cache.lease",
                "look for pass.failed in the log",
            ),
        ),
        (
            "now()",
            "now() + interval '1 day', renewed_by_pass = now() + interval '1 day'",
            (
                "failed",
                "alive, but the last pass is dated ahead of the database's clock: it vouches for nothing",
                "the next pass puts it right; look at the time server of the database's host",
            ),
        ),
        (
            "now() - interval '1 hour'",
            "now()",
            ("off", "no poller: deliveries alone are believed, for 86400 s each", SCALE_THE_POLLER),
        ),
    ],
)
async def test_the_poller_is_shown_as_the_database_has_it(
    receive: Receive, sql: asyncpg.Connection, heartbeat: str, lease_until: str, component: tuple[str, str, str]
) -> None:
    await sql.execute(f"UPDATE freescout_lease SET heartbeat_at = {heartbeat}, lease_until = {lease_until}")

    async with receive() as receiver:
        assert (await components(receiver))["poller"] == component
        assert (await get(receiver, "/readyz"))[0] == (503 if component[0] == "failed" else 200)


@pytest.mark.parametrize(
    ("desk", "silent", "component"),
    [
        ("ok", "NULL", ("ok", "FreeScout's API answers", "")),
        ("refused", "NULL", ("failed", "the key is not accepted", "")),
        (
            "refused",
            "now()",
            (
                "failed",
                "both paths are silent: the key is not accepted",
                "is the API & Webhooks module active, has APP_KEY changed?",
            ),
        ),
    ],
)
async def test_the_desk_is_shown_as_the_poller_reports_it(
    receive: Receive, sql: asyncpg.Connection, desk: str, silent: str, component: tuple[str, str, str]
) -> None:
    await sql.execute("UPDATE freescout_lease SET heartbeat_at = now()")
    await sql.execute(
        f"UPDATE freescout_poller SET desk_state = '{desk}', desk_since = now() - interval '5 minutes',"
        f" silent_since = {silent}, desk_detail = 'the key is not accepted'"
    )

    async with receive() as receiver:
        assert (await components(receiver))["desk"] == component
        text = (await get(receiver, "/metrics"))[1]

    assert f"freescout_audit_desk_up {1.0 if desk == 'ok' else 0.0}" in text
    assert f"freescout_audit_both_silent {0.0 if silent == 'NULL' else 1.0}" in text


async def test_the_docs_list_every_metric(receiver: Receiver) -> None:
    await receiver.deliver(body())
    _, text = await get(receiver, "/metrics")
    exposed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    documented = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

    assert {line.split("`")[1] for line in documented.splitlines() if line.startswith("| `")} == {
        name for name in exposed if not name.endswith("_created")
    }
