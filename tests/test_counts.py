"""The tickets by what they read: the same as each of them by itself, counted beside all else."""

import asyncio
import math
from collections import Counter
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Log, Receive
from db.counts import REASONS, count
from db.database import Database
from db.reads import read_from
from freescout_audit.rule import Terms
from receiver import counting as module
from receiver.counting import Counting
from receiver.health import Health
from receiver.metrics import Metrics
from settings import load_environment
from support.databases import Clock
from support.examples import at

EVERY_KIND = """
INSERT INTO freescout_ticket (ticket_id, status, state, updated_at, gone, observed_at, expires_at, disputed_at,
                              grace_until)
SELECT row_number() OVER (), status, state, updated_at, gone, freescout_now() + observed, freescout_now() + expires,
       freescout_now() + disputed, freescout_now() + disputed + interval '10 s'
FROM unnest(ARRAY['active', NULL]) status, unnest(ARRAY['published', 'deleted', NULL]) state,
     unnest(ARRAY[timestamptz '2026-01-01', NULL]) updated_at, unnest(ARRAY[true, false]) gone,
     unnest(ARRAY[interval '-1 minute', interval '1 minute']) observed,
     unnest(ARRAY[interval '-1 minute', interval '1 minute', interval '40 days']) expires,
     unnest(ARRAY[interval '-1 minute', interval '-5 s', NULL]) disputed
"""
"""A ticket of each combination of what an answer depends on: 432."""


@pytest.mark.parametrize("lease", ["NULL", "freescout_now() + interval '1 minute'", "freescout_now() - interval '1 s'"])
@pytest.mark.parametrize("renewed", ["NULL", "freescout_now() - interval '1 s'", "freescout_now() + interval '1 hour'"])
async def test_each_ticket_counts_as_what_it_reads(
    lease: str, renewed: str, database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    await sql.execute(EVERY_KIND)
    await sql.execute(
        "UPDATE freescout_lease SET complete_through = freescout_now(),"
        f" lease_until = {lease}, renewed_by_pass = {renewed}"
    )
    ids = [row["ticket_id"] for row in await sql.fetch("SELECT ticket_id FROM freescout_ticket")]
    read = Counter([(await read_from(database, ticket_id, deadline=5)).reason for ticket_id in ids])

    counts = await count(database, deadline=5)

    assert counts.tickets == {reason: read[reason] for reason in REASONS}
    assert counts.held == len(ids) == 432
    assert counts.at == await sql.fetchval("SELECT freescout_now()")


async def test_an_empty_cache_holds_none_of_any_kind(database: Database, clock: Clock) -> None:
    counts = await count(database, deadline=5)

    assert counts.tickets == dict.fromkeys(REASONS, 0)
    assert counts.longest_gap == timedelta()


async def test_counting_asks_for_no_right_to_write_which_a_standby_refuses(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    execute = asyncpg.Connection.execute

    async def listen(self: asyncpg.Connection, query: str, *arguments: object, **named: Any) -> str:
        said.append(query)
        answer: str = await execute(self, query, *arguments, **named)
        return answer

    monkeypatch.setattr(asyncpg.Connection, "execute", listen)

    await count(database, deadline=5)

    (begin,) = (query for query in said if query.startswith("BEGIN"))
    assert "READ WRITE" not in begin


async def test_the_longest_gap_is_by_our_clock_and_of_the_last_day(
    database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    await sql.execute("UPDATE freescout_lease SET clock_offset = interval '1 hour'")
    for ago, unknown_for, verdict in (
        (hour := 3600, 90, "lost"),
        (hour, 60, "raced"),
        (hour, -5, "late"),  # a date that lies ahead
        (hour, 500, "peeked"),  # no gap yet
        (25 * hour, 1000, "lost"),
    ):
        healed = at(-ago)
        await sql.execute(
            "INSERT INTO freescout_gap (ticket_id, changed_at, healed_at, verdict) VALUES (1, $1, $2, $3)",
            healed - timedelta(seconds=unknown_for) + timedelta(hours=1),
            healed,
            verdict,
        )
    await sql.execute("INSERT INTO freescout_gap (ticket_id, healed_at) VALUES (1, $1)", at(-60))

    assert (await count(database, deadline=5)).longest_gap == timedelta(seconds=90)


async def test_the_receiver_shows_what_was_counted_and_when(receive: Receive, sql: asyncpg.Connection) -> None:
    await sql.execute("INSERT INTO freescout_ticket (ticket_id) VALUES (7)")

    async with receive() as receiver, asyncio.timeout(10):
        while True:
            async with receiver.client.get(receiver.url + "/metrics") as response:
                shown = await response.text()
            if 'freescout_audit_tickets{reason="gone"} 1.0' in shown:
                break

    assert 'freescout_audit_tickets{reason="ok"} 0.0' in shown
    assert "freescout_audit_tickets_counted_timestamp_seconds NaN" not in shown
    assert "freescout_audit_pool_connections_max 5.0" in shown


async def test_what_cannot_be_counted_in_time_is_not_known(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = Metrics()
    counting = Counting(database, metrics)
    assert math.isnan(value(metrics, "freescout_audit_tickets", reason="ok"))
    await counting.count_once()
    assert counting.counts is not None
    assert value(metrics, "freescout_audit_tickets", reason="ok") == 0

    monkeypatch.setattr(module, "DEADLINE", 0.2)
    async with sql.transaction():
        await sql.execute("LOCK TABLE freescout_ticket IN ACCESS EXCLUSIVE MODE")
        await counting.count_once()

    assert value(metrics, "freescout_audit_longest_gap_seconds") != 0
    assert math.isnan(value(metrics, "freescout_audit_tickets", reason="ok"))


async def test_what_was_counted_before_the_lease_ended_or_came_back_is_not_shown(database: Database) -> None:
    counting = Counting(database, Metrics())
    await counting.count_once()
    counting.look(vouches=False)
    before = counting.counts

    counting.look(vouches=True)

    assert (before is not None, counting.counts) == (True, None)
    await counting.count_once()
    counting.look(vouches=True)
    assert counting.counts is not None


async def test_an_error_that_counting_alone_meets_is_said_and_said_once(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def meet_a_damaged_row(*_arguments: object, **_named: object) -> None:
        raise asyncpg.DataCorruptedError("x")

    monkeypatch.setattr(module, "count", meet_a_damaged_row)
    counting = Counting(database, Metrics())

    for _ in range(3):
        await counting.count_once()

    (line,) = log.lines("receiver.fault")
    assert (line["error"], line["where"]) == ("DataCorruptedError", "counting")
    assert counting.counts is None


async def test_it_counts_again_at_once_when_the_lease_ends_and_not_before_a_minute_else(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.health._FRESH", 0.0)
    monkeypatch.setattr(module, "REST", 0)
    counted = asyncio.Semaphore(0)
    health = Health(database, load_environment({}), terms=Terms(), metrics=Metrics())
    once = health.counting.count_once

    async def count_once() -> None:
        await once()
        counted.release()

    monkeypatch.setattr(health.counting, "count_once", count_once)
    await sql.execute(
        "INSERT INTO freescout_ticket (ticket_id, status, state, updated_at, gone)"
        " VALUES (7, 'active', 'published', now(), false)"
    )
    await sql.execute("UPDATE freescout_lease SET lease_until = now() + interval '1 hour'")
    await health.check()
    watching = asyncio.create_task(health.counting.watch())
    async with asyncio.timeout(10):
        await counted.acquire()
        assert health.counts is not None
        assert health.counts.tickets["ok"] == 1

        await health.check()
        await asyncio.sleep(0.05)
        assert counted.locked(), "nothing has changed"

        await sql.execute("UPDATE freescout_lease SET lease_until = now()")
        await health.check()
        await counted.acquire()

    assert health.counts.tickets["expired"] == 1
    watching.cancel()


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """Return what a metric shows."""
    (sample,) = (
        sample
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
        if (sample.name, sample.labels) == (name, labels)
    )
    return sample.value
