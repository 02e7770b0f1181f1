"""Which poller leads: one at a time, for as long as it renews that, and not one that anybody could stop."""

from datetime import timedelta

import asyncpg
import pytest

from conftest import Log
from db.database import Database
from db.leadership import TERM, Holder, claim, release
from freescout_audit.errors import DatabaseUnavailableError
from poller.leader import Leadership
from support.databases import Clock
from support.examples import NOON


async def test_one_leads_until_its_term_is_over(database: Database, sql: asyncpg.Connection) -> None:
    clock = await Clock.stop(sql, NOON)
    assert await claim(database, session="one", name="poller.1") is None

    other = await claim(database, session="two", name="poller.2")
    assert other is not None
    assert (other.name, other.beats) == ("poller.1", True)

    await clock.set(NOON + TERM)
    assert await claim(database, session="two", name="poller.2") is None
    assert await claim(database, session="one", name="poller.1") is not None


async def test_renewing_prolongs_it_and_leaves_since_when_it_leads(database: Database, sql: asyncpg.Connection) -> None:
    clock = await Clock.stop(sql, NOON)
    await claim(database, session="one", name="poller.1")
    since = await sql.fetchval("SELECT led_since FROM freescout_poller")

    await clock.set(NOON + TERM - timedelta(seconds=1))
    assert await claim(database, session="one", name="poller.1") is None
    await clock.set(NOON + TERM + timedelta(seconds=4))
    assert await claim(database, session="two", name="poller.2") is not None

    assert await sql.fetchval("SELECT led_since FROM freescout_poller") == since


async def test_who_gives_it_up_lets_another_lead_at_once(database: Database, sql: asyncpg.Connection) -> None:
    await claim(database, session="one", name="poller.1")
    await release(database, session="two", stepped_down=True)
    assert await claim(database, session="two", name="poller.2") is not None, "it was not theirs to give up"

    await release(database, session="one", stepped_down=False)
    assert await sql.fetchval("SELECT stepped_down_at FROM freescout_poller") is None
    assert await claim(database, session="two", name="poller.2") is None

    await release(database, session="two", stepped_down=True)
    assert await sql.fetchval("SELECT stepped_down_at FROM freescout_poller") is not None


async def test_a_term_that_was_written_while_our_clock_was_ahead_keeps_nobody_out(
    database: Database, sql: asyncpg.Connection
) -> None:
    await claim(database, session="one", name="poller.1")
    await sql.execute("UPDATE freescout_poller SET leads_until = leads_until + interval '1 day'")

    assert await claim(database, session="two", name="poller.2") is None


async def test_a_leader_without_a_heartbeat_is_known_as_one(database: Database, sql: asyncpg.Connection) -> None:
    clock = await Clock.stop(sql, NOON)
    for seconds in range(0, 35, 5):
        await clock.set(NOON + timedelta(seconds=seconds))
        assert await claim(database, session="one", name="poller.1") is None

    other = await claim(database, session="two", name="poller.2")

    assert other is not None
    assert not other.beats


async def test_a_heartbeat_from_our_future_is_none(database: Database, sql: asyncpg.Connection) -> None:
    clock = await Clock.stop(sql, NOON)
    await claim(database, session="one", name="poller.1")
    await sql.execute("UPDATE freescout_lease SET heartbeat_at = freescout_now() + interval '1 day'")
    await clock.set(NOON + timedelta(seconds=35))
    await sql.execute("UPDATE freescout_poller SET leads_until = freescout_now() + interval '1 s'")

    other = await claim(database, session="two", name="poller.2")

    assert other is not None
    assert not other.beats


async def test_no_transaction_stays_open_for_it(database: Database, sql: asyncpg.Connection) -> None:
    await claim(database, session="one", name="poller.1")

    held = await sql.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL"
        " AND pid <> pg_backend_pid()"
    )
    assert held == 0
    assert await sql.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0


async def test_a_leader_goes_on_renewing_whatever_one_try_meets(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter([asyncpg.LockNotAvailableError("x"), DatabaseUnavailableError("away"), None])

    async def claim_it(*_arguments: object, **_named: object) -> Holder | None:
        if (error := next(tries)) is not None:
            raise error
        return Holder(name="another", beats=True)

    async def no_time(_seconds: float) -> None:
        return

    async with database.session() as connection:
        leading = Leadership(database, connection, "one")
        monkeypatch.setattr("poller.leader.leadership.claim", claim_it)
        await leading.renew(no_time)

    assert leading.lost.is_set()
    assert [line["error"] for line in log.lines("poller.fault")] == ["LockNotAvailableError"]
