"""What PostgreSQL does for us when a client of ours has gone: it keeps no lock, and no session that waits for one."""

import asyncio

import asyncpg
import pytest

from db.database import Database
from freescout_audit.errors import DatabaseUnavailableError

SOON = 5.0
"""Seconds that the slowest machine may take for what takes one."""


@pytest.fixture(autouse=True)
async def row(sql: asyncpg.Connection) -> None:
    """A row to lock."""
    await sql.execute("CREATE TABLE place (taken int); INSERT INTO place VALUES (0)")


async def sessions(sql: asyncpg.Connection) -> int:
    """How many sessions `Database` has at the server."""
    count: int = await sql.fetchval(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name LIKE 'freescout-audit%'"
    )
    return count


async def test_a_client_that_falls_silent_in_the_middle_of_a_transaction_keeps_no_row_locked(
    database: Database, sql: asyncpg.Connection
) -> None:
    silence = "idle_in_transaction_session_timeout"

    async def write_and_say_no_more(connection: asyncpg.Connection) -> None:
        milliseconds = await connection.fetchval("SELECT setting::int FROM pg_settings WHERE name = $1", silence)
        assert milliseconds <= 10_000
        await connection.execute(f"SET {silence} = {milliseconds // 40}")  # the test has no ten seconds
        await connection.execute("UPDATE place SET taken = 1")
        waiting = asyncio.create_task(sql.execute("UPDATE place SET taken = 2"))
        await asyncio.wait([waiting], timeout=SOON)
        assert waiting.done(), "the row is still locked"

    with pytest.raises(DatabaseUnavailableError):
        async with database.transaction() as connection:
            await write_and_say_no_more(connection.driver)

    assert await sql.fetchval("SELECT taken FROM place") == 2


async def test_the_server_notices_within_a_second_that_a_client_which_waits_for_a_lock_has_gone(
    database: Database, database_url: str, sql: asyncpg.Connection
) -> None:
    holder = await asyncpg.connect(database_url)
    async with holder.transaction():
        await holder.execute("UPDATE place SET taken = 2")
        with pytest.raises(DatabaseUnavailableError):
            async with database.connection(0.1) as connection:
                await connection.driver.execute("UPDATE place SET taken = 1")
        assert await sessions(sql) == 1, "it has not noticed yet"

        async with asyncio.timeout(SOON):
            while await sessions(sql):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.02)
    await holder.close()
