"""A release beside whoever is at work: it waits for no lock so long that readers would wait behind it."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from db.migrate import LockedError, migrate
from db.url import normalise

REVERTED = """
ALTER TABLE freescout_lease DROP COLUMN covered_through, DROP COLUMN set_back_through, DROP COLUMN set_back_at;
ALTER TABLE freescout_poller DROP COLUMN full_walk_at;
DROP FUNCTION freescout_lock;
DROP FUNCTION freescout_lock_tickets;
DROP FUNCTION freescout_read_tickets;
DROP FUNCTION freescout_write_tickets;
ALTER TABLE freescout_ticket DROP COLUMN doubted_through, DROP COLUMN truth_until;
ALTER TABLE freescout_delivery DROP COLUMN key_fingerprint;
DROP TABLE freescout_webhook;
UPDATE freescout_schema SET version_num = '0002';
"""
"""Back to where the release before stood."""


@pytest.fixture
async def reader(
    database_url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[asyncpg.Connection]:
    """Somebody who holds a table of the old schema, and leaves a transaction open."""
    monkeypatch.setattr("db.migrate.LOCK_PATIENCE", 0.05)
    await sql.execute(REVERTED)
    reader = await asyncpg.connect(database_url)
    await reader.execute("BEGIN")
    await reader.fetchval("SELECT count(*) FROM freescout_lease")
    yield reader
    await reader.close()


async def test_a_table_in_use_lets_the_migration_wait_outside_and_try_again(
    database_url: str, sql: asyncpg.Connection, reader: asyncpg.Connection
) -> None:
    others: list[object] = []

    async def meanwhile(_seconds: float) -> None:
        others.append(await sql.fetchval("SELECT freescout_ticket_state(7)"))
        if len(others) == 2:
            await reader.execute("ROLLBACK")

    assert await migrate(normalise(database_url), sleep=meanwhile) == "0008"

    assert others == ["none", "none"], "nobody waited behind it"


async def test_a_table_that_stays_in_use_is_said_so_and_nothing_is_changed(
    database_url: str, sql: asyncpg.Connection, reader: asyncpg.Connection
) -> None:

    async def no_time(_seconds: float) -> None:
        return

    with pytest.raises(LockedError, match="stays in use"):
        await migrate(normalise(database_url), tries=2, sleep=no_time)

    assert await sql.fetchval("SELECT version_num FROM freescout_schema") == "0002"
