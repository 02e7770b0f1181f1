"""What the receiver says of itself, and to whom."""

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest

from conftest import ENVIRONMENT, Log, Receive, Receiver
from db.counts import REASONS
from db.database import Database
from db.gaps import VERDICTS
from db.leadership import expect, retire
from db.revision import NEWEST
from db.url import normalise
from freescout_audit.rule import Terms
from receiver.app import create_app, serve
from receiver.health import Health
from receiver.metrics import POLLER_STATES, Metrics
from receiver.refusals import KINDS
from settings import Secret, load_settings
from support.examples import body

ROOT = Path(__file__).resolve().parent.parent
GUARDED = replace(ENVIRONMENT, ops_token=Secret("the token"))

NO_POLLER = (
    "off",
    "no poller is running: tickets without a recent delivery read none",
    "start the process poller; if push alone is meant: freescout-audit poller retire",
)


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
            "receive_rbac": (
                "off",
                "FLAG_FREESCOUT_WEBHOOK_RBAC is not 1: RV-4's deliveries are answered 503",
                "set it to 1 if RV-4's webhook is registered",
            ),
            "database": ("ok", f"schema {NEWEST}", ""),
            "poller": NO_POLLER,
            "lease": ("off", "no pass has been complete", ""),
            "desk": ("off", "FreeScout has not been asked lately", ""),
            "feed": ("ok", "what changes gets its place in the feed", ""),
            "deliveries": ("ok", "none is refused that looks like FreeScout's", ""),
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


async def test_what_failed_leads_to_the_runbook(receive: Receive, log: Log) -> None:
    async with receive(replace(GUARDED, webhook_secrets=())) as receiver:
        _, text = await get(receiver, "/readyz", Authorization="Bearer the token")

    links = {name: one["runbook"] for name, one in json.loads(text)["components"].items()}
    assert {name for name, link in links.items() if link} == {"receive"}
    assert links["receive"] == "docs/runbook.md#receive"
    told = {line["component"]: line.get("runbook") for line in log.lines("receiver.state")}
    assert told == {name: link or None for name, link in links.items()}


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
    assert b'freescout_audit_poller_state{state="leads"} 1.0' in metrics.exposition()

    await sql.execute("ALTER TABLE freescout_lease RENAME TO freescout_lease_away")
    health = Health(database, ENVIRONMENT, terms=Terms(), metrics=metrics)
    await health.check()

    assert not health.ready
    assert set(health.components) == {"receive", "receive_rbac", "database"}
    assert b'freescout_audit_poller_state{state="leads"} NaN' in metrics.exposition()


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


async def test_the_poller_and_the_desk_are_shown_as_the_database_has_it(
    receive: Receive, sql: asyncpg.Connection, log: Log
) -> None:
    await sql.execute("UPDATE freescout_lease SET heartbeat_at = now(), lease_until = now() + interval '1 minute'")
    await sql.execute(
        "UPDATE freescout_poller SET desk_state = 'refused', desk_detail = 'it answers 401', leader = 'p.1'"
    )
    async with receive() as receiver:
        status, seen = (await get(receiver, "/readyz"))[0], await components(receiver)
        metrics = (await get(receiver, "/metrics"))[1]

        assert status == 200, "answers are right until the lease ends"
        assert seen["poller"] == ("ok", "p.1 leads", "")
        assert seen["desk"] == ("degraded", "it answers 401", "")
        assert 'freescout_audit_component_up{component="desk"} 0.0' in metrics
        assert 'freescout_audit_component_up{component="poller"} 1.0' in metrics
        assert "freescout_audit_desk_up 0.0" in metrics
        until = await sql.fetchval("SELECT extract(epoch FROM lease_until)::float8 FROM freescout_lease")
        (shown,) = re.findall(r"^freescout_audit_lease_end_timestamp_seconds (\S+)$", metrics, re.MULTILINE)
        assert float(shown) == pytest.approx(until, abs=0.001)
        assert "freescout_audit_pass_timestamp_seconds NaN" in metrics
        told = [line["level"] for line in log.lines("receiver.state") if line["component"] == "desk"]
        assert told == ["error"]


async def test_a_lease_that_ends_is_said_by_a_receiver_too_and_readiness_is_red(
    database: Database, sql: asyncpg.Connection, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.health._FRESH", 0.0)
    health = Health(database, ENVIRONMENT, terms=Terms(), metrics=Metrics())
    await sql.execute(
        "UPDATE freescout_lease SET heartbeat_at = now() - interval '31 s', lease_until = now() + interval '1 minute'"
    )
    await sql.execute("UPDATE freescout_poller SET leader = 'p.1'")
    await health.check()
    assert is_ready(health) is False
    assert "vanished" in health.components["poller"].detail

    await retire(database)
    await health.check()
    assert is_ready(health)
    assert [line["level"] for line in log.lines("poller.retired")] == ["warning"]

    await expect(database)
    await sql.execute("UPDATE freescout_lease SET lease_until = now()")
    await sql.execute("UPDATE freescout_poller SET stepped_down_at = now()")
    await health.check()
    assert is_ready(health) is False
    assert "its lease is over" in health.components["poller"].detail
    assert len(log.lines("lease.expired")) == 1
    assert len(log.lines("poller.expected")) == 1
    told = [
        (line.get("before"), line["state"]) for line in log.lines("receiver.state") if line["component"] == "poller"
    ]
    assert told == [(None, "failed"), ("failed", "off"), ("off", "failed")]


def is_ready(health: Health) -> bool:
    return health.ready


async def test_moments_are_shown_by_the_databases_clock_and_forgotten_with_it(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.health._FRESH", 0.0)
    await sql.execute(
        "UPDATE freescout_poller SET peeked_at = to_timestamp(101), desk_answered_at = to_timestamp(102),"
        " retired_at = to_timestamp(1)"
    )
    await sql.execute(
        "INSERT INTO freescout_answer (kind, answers, first_at, last_at) VALUES"
        " ('verified', 1, to_timestamp(1), to_timestamp(103)), ('empty', 1, to_timestamp(1), to_timestamp(104)),"
        " ('log_line_dropped', 1, to_timestamp(1), to_timestamp(105)),"
        " ('verified_rbac', 1, to_timestamp(1), to_timestamp(106))"
    )
    metrics = Metrics()
    health = Health(database, ENVIRONMENT, terms=Terms(), metrics=metrics)

    await health.check()

    shown = metrics.exposition().decode()
    for name, value in (
        ("peek_timestamp_seconds", "101.0"),
        ("desk_answer_timestamp_seconds", "102.0"),
        ('verified_timestamp_seconds{endpoint="audit"}', "103.0"),
        ('verified_timestamp_seconds{endpoint="rbac"}', "106.0"),
        ('refusal_timestamp_seconds{kind="empty"}', "104.0"),
        ('poller_state{state="retired"}', "1.0"),
        ('poller_state{state="never"}', "0.0"),
        ("cache_lease_seconds", "86400.0"),
        ("lease_seconds", "NaN"),
    ):
        assert f"freescout_audit_{name} {value}\n" in shown
    assert 'refusal_timestamp_seconds{kind="log_line_dropped"}' not in shown
    assert 'refusal_timestamp_seconds{kind="verified_rbac"}' not in shown

    await sql.execute("ALTER TABLE freescout_lease RENAME TO freescout_lease_away")
    await health.check()

    shown = metrics.exposition().decode()
    assert "freescout_audit_peek_timestamp_seconds NaN" in shown
    assert 'freescout_audit_verified_timestamp_seconds{endpoint="audit"} NaN' in shown
    assert 'freescout_audit_refusal_timestamp_seconds{kind="empty"}' not in shown


async def test_the_docs_list_every_metric(receiver: Receiver) -> None:
    await receiver.deliver(body())
    _, text = await get(receiver, "/metrics")
    exposed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    documented = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

    rows = {line.split("`")[1]: line for line in documented.splitlines() if line.startswith("| `")}
    assert rows.keys() == {name for name in exposed if not name.endswith("_created")}
    named = {
        "freescout_audit_refusals_total": KINDS,
        "freescout_audit_gaps": VERDICTS,
        "freescout_audit_tickets": REASONS,
        "freescout_audit_poller_state": POLLER_STATES,
    }
    for name, values in named.items():
        assert all(f"`{value}`" in rows[name] for value in values), name
