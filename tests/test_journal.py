"""What the journal says of how late deliveries are."""

from datetime import timedelta

import asyncpg
import pytest

from db.database import Database
from db.journal import read_lag

DAY = timedelta(days=1)


async def test_the_lag_of_a_healthy_desk_is_that_of_its_worker_though_its_dates_have_whole_seconds(
    database: Database, sql: asyncpg.Connection
) -> None:
    """FreeScout's worker looks every 5 s; changes come at any moment, also within a second."""
    await sql.execute("UPDATE freescout_lease SET clock_offset = interval '2 minutes'")
    await sql.execute("""
        INSERT INTO freescout_delivery
            (received_at, endpoint, event, ticket_id, outcome, reason, updated_at, body_bytes, body_ms, signed_with)
        SELECT changed + n * 1.37 % 5 * interval '1 second', 'audit', 'convo.status', n,
               'applied', 'news', date_trunc('second', changed + interval '2 minutes'), 1, 1, 'current'
        FROM generate_series(1, 1000) n
        CROSS JOIN LATERAL (SELECT freescout_now() - interval '2 hours' + n * interval '3.1 s' AS changed) c
    """)

    lag = await read_lag(database, DAY)

    assert lag.samples == 1000
    assert lag.p50 == pytest.approx(2.5, abs=0.2)
    assert lag.p95 == pytest.approx(4.8, abs=0.1)


async def test_no_lag_is_shorter_than_none(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("""
        INSERT INTO freescout_delivery
            (received_at, endpoint, event, ticket_id, outcome, reason, updated_at, body_bytes, body_ms, signed_with)
        VALUES (freescout_now(), 'audit', 'convo.status', 1, 'applied', 'news', freescout_now(), 1, 1, 'current')
    """)

    assert (await read_lag(database, DAY)).max == 0


async def test_a_delivery_that_a_peek_was_ahead_of_is_as_late_as_one_that_was_news(
    database: Database, sql: asyncpg.Connection
) -> None:
    """And whatever tells of the same change again counts for nothing: a note, a replay, the second of a pair."""
    await sql.execute("""
        INSERT INTO freescout_delivery
            (received_at, endpoint, event, ticket_id, status, state, outcome, reason, updated_at, body_bytes, body_ms,
             signed_with)
        SELECT now() - ago, 'audit', 'convo.status', 1, 'closed', 'published', outcome, '',
               now() - dated, 1, 1, 'current'
        FROM (VALUES (interval '56.5 s', 'duplicate', interval '60 s'), (interval '10 s', 'duplicate', interval '60 s'),
                     (interval '5 s', 'stale', interval '50 s'), (interval '4 s', 'duplicate', interval '2 days')
             ) said (ago, outcome, dated)
    """)

    lag = await read_lag(database, DAY)

    assert lag.samples == 1
    assert lag.max == pytest.approx(3.0, abs=0.01)
