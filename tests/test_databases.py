"""The databases that tests are lent: each is like a new one, whatever the test before has done to it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TypeVar

import asyncpg
import pytest

from support.databases import Clock
from support.examples import NOON

Lend = Callable[[], Iterator[str]]
Result = TypeVar("Result")

CONTENT = """
SELECT (SELECT json_agg(t) FROM freescout_lease t)::text, (SELECT json_agg(t) FROM freescout_poller t)::text,
       (SELECT json_agg(t) FROM freescout_schema t)::text, (SELECT count(*) FROM freescout_ticket),
       (SELECT count(*) FROM freescout_webhook), nextval('freescout_delivery_delivery_id_seq')
"""


def use(url: str, work: Callable[[asyncpg.Connection], Awaitable[Result]]) -> Result:
    """Do something in a database, and leave without a farewell."""

    async def connected() -> Result:
        connection = await asyncpg.connect(url)
        try:
            return await work(connection)
        finally:
            connection.terminate()

    return asyncio.run(connected())


async def look(connection: asyncpg.Connection) -> tuple[object, ...]:
    return tuple(await connection.fetchrow(CONTENT))


async def others(connection: asyncpg.Connection) -> set[str]:
    rows = await connection.fetch("SELECT application_name FROM pg_stat_activity WHERE datname = current_database()")
    return {row["application_name"] for row in rows}


def test_what_a_test_has_written_is_gone_and_the_database_the_same(lend: Lend) -> None:
    with contextmanager(lend)() as first:
        new = use(first, look)
        use(
            first,
            lambda sql: sql.execute(
                """
                INSERT INTO freescout_ticket (ticket_id) SELECT generate_series(1, 100);
                UPDATE freescout_lease SET desk_url = 'x'; DELETE FROM freescout_poller;
                UPDATE freescout_schema SET version_num = '0003';
                INSERT INTO freescout_webhook (url, events, began_at) VALUES ('x', '{}', now());
                """
            ),
        )

    with contextmanager(lend)() as second:
        assert use(second, look) == new
        assert second == first


def test_the_clock_goes_again(lend: Lend) -> None:
    async def stop(sql: asyncpg.Connection) -> list[datetime]:
        clock = await Clock.stop(sql, NOON, tick=timedelta(seconds=1))
        first: datetime = await sql.fetchval("SELECT freescout_now()")
        await clock.set(NOON + timedelta(hours=1))
        return [first, await sql.fetchval("SELECT freescout_now()")]

    async def ahead(sql: asyncpg.Connection) -> timedelta:
        lead: timedelta = await sql.fetchval("SELECT freescout_now() - clock_timestamp()")
        return lead

    with contextmanager(lend)() as first:
        assert use(first, stop) == [NOON + timedelta(seconds=1), NOON + timedelta(hours=1, seconds=2)]

    with contextmanager(lend)() as second:
        assert abs(use(second, ahead)) < timedelta(seconds=1)
        assert second == first


def test_a_session_that_stayed_is_ended_with_its_locks(lend: Lend) -> None:
    with asyncio.Runner() as runner:
        with contextmanager(lend)() as first:
            stayed = runner.run(asyncpg.connect(first, server_settings={"application_name": "stayed"}))
            runner.run(stayed.execute("BEGIN; LOCK TABLE freescout_ticket"))

        with contextmanager(lend)() as second:
            assert "stayed" not in use(second, others)
            assert second == first
        stayed.terminate()


@pytest.mark.parametrize(
    "alteration",
    [
        "ALTER TABLE freescout_ticket ADD CHECK (ticket_id <> 7)",
        "ALTER TABLE freescout_ticket ALTER number SET DEFAULT 1",
        "ALTER TABLE freescout_ticket SET (fillfactor = 50)",
        "ALTER TABLE freescout_lease RENAME TO freescout_lease_away; CREATE TABLE freescout_lease ()",
        "DROP INDEX freescout_ticket_mailbox",
        "CREATE TABLE other ()",
        "ALTER FUNCTION freescout_ticket_state(bigint) SET work_mem = 1024",
        "CREATE RULE nothing AS ON INSERT TO freescout_ticket DO INSTEAD NOTHING",
        "DROP FUNCTION freescout_now() CASCADE",
        "REVOKE ALL ON FUNCTION freescout_now() FROM PUBLIC",
        "GRANT SELECT ON freescout_ticket TO PUBLIC",
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 1024', current_database()); END $$",
        "COMMENT ON TABLE freescout_ticket IS 'x'",
        "ANALYZE freescout_lease",
        "DROP SCHEMA public CASCADE",
        "INSERT INTO freescout_ticket (ticket_id) SELECT generate_series(1, 20000)",
    ],
)
def test_a_database_that_was_altered_or_has_grown_is_not_handed_on(lend: Lend, alteration: str) -> None:
    with contextmanager(lend)() as first:
        use(first, lambda sql: sql.execute(alteration))

    with contextmanager(lend)() as second:
        assert second != first
        assert use(second, look)


def test_a_database_whose_sessions_were_all_ended_is_followed_by_another(lend: Lend) -> None:
    with contextmanager(lend)() as first:
        use(
            first,
            lambda sql: sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND datname = current_database()"
            ),
        )

    with contextmanager(lend)() as second:
        assert use(second, look)
