"""A release beside the processes at work: it blocks no reader, and knows older, newer and forgotten schemas."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from db import statements
from db.database import OVERTAKEN, Database
from db.leadership import claim
from db.migrate import LockedError, TooOldError, migrate
from db.revision import NEWEST, SCRIPTS, age_of, scripts
from db.store import Delivery, record_deliveries
from db.url import normalise
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import Terms
from support.examples import claim as about
from support.processes import process

FIRST_RELEASE = "0008"
Begins = Callable[[], AbstractAsyncContextManager[None]]


def upgrade(connection: Connection, to: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, to)


async def go_back(url: str, to: str = FIRST_RELEASE) -> None:
    """Make an older schema, in a database that has a newer one: by default that of the first release."""

    def make(connection: Connection) -> None:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
        upgrade(connection, to)

    engine = create_async_engine(normalise(url), poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(make)
    await engine.dispose()


@pytest.fixture
async def holder(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Connection]:
    """A session that holds what the migration has to change, in a transaction that it leaves open."""
    monkeypatch.setattr("db.migrate.LOCK_PATIENCE", 0.05)
    await go_back(database_url)
    holder = await asyncpg.connect(database_url)
    await holder.execute("BEGIN; LOCK TABLE freescout_schema IN SHARE MODE")
    yield holder
    await holder.close()


async def test_what_is_in_use_lets_the_migration_wait_outside_and_try_again(
    database_url: str, sql: asyncpg.Connection, holder: asyncpg.Connection
) -> None:
    others: list[object] = []

    async def meanwhile(_seconds: float) -> None:
        others.append(await sql.fetchval("SELECT freescout_ticket_state(7)"))
        if len(others) == 2:
            await holder.execute("ROLLBACK")

    assert await migrate(normalise(database_url), sleep=meanwhile) == NEWEST

    assert others == ["none", "none"], "readers were not blocked meanwhile"


async def test_what_stays_in_use_is_said_so_and_nothing_is_changed(
    database_url: str, sql: asyncpg.Connection, holder: asyncpg.Connection
) -> None:
    async def no_time(_seconds: float) -> None:
        return

    with pytest.raises(LockedError, match="stays in use") as locked:
        await migrate(normalise(database_url), tries=2, sleep=no_time)

    pid = holder.get_server_pid()
    assert f"by session {pid} (" in locked.value.problem
    assert "in a transaction since " in locked.value.problem
    assert f"pg_terminate_backend({pid})" in locked.value.next_step

    assert await sql.fetchval("SELECT version_num FROM freescout_schema") == FIRST_RELEASE


async def test_a_database_at_the_first_release_is_migrated_as_it_is(database_url: str, sql: asyncpg.Connection) -> None:
    await go_back(database_url)
    await sql.execute("INSERT INTO freescout_ticket (ticket_id) VALUES (7)")

    await migrate(normalise(database_url))

    assert await sql.fetchval("SELECT count(*) FROM freescout_ticket") == 1
    assert await sql.fetchval("SELECT to_regproc('freescout_lock')") is None


async def test_a_schema_from_before_the_first_release_says_what_to_do(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE freescout_schema SET version_num = '0003'")

    async with process("-m", "db.migrate", DATABASE_URL=database_url) as release:
        failed = await release.until("process.failed")
        code = await release.end()

    assert "the schema is at 0003, from before the first release" in str(failed)
    assert "name an empty database" in str(failed)
    assert code == 1
    with pytest.raises(TooOldError):
        await migrate(normalise(database_url))


async def test_a_release_that_meets_a_newer_schema_changes_nothing_and_ends_well(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE freescout_schema SET version_num = '0002_of_next_year'")

    async with process("-m", "db.migrate", DATABASE_URL=database_url) as release:
        said = await release.until("database.newer")
        code = await release.end()

    assert (said["revision"], said["expected"], code) == ("0002_of_next_year", NEWEST, 0)
    assert await sql.fetchval("SELECT version_num FROM freescout_schema") == "0002_of_next_year"


@pytest.mark.parametrize(
    ("revision", "age"),
    [(None, "none"), ("0007", "forgotten"), ("0008", "older"), (NEWEST, "current"), ("0000", "newer")],
)
def test_the_graph_says_which_revision_is_newer_not_the_order_of_texts(revision: str | None, age: str) -> None:
    assert age_of(revision) == age


def test_the_revision_that_the_code_expects_is_the_graph_s_head() -> None:
    assert scripts().get_heads() == [NEWEST]


async def test_dates_that_no_clock_says_are_taken_out_of_the_lease_and_others_stay(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await go_back(database_url)
    await sql.execute(
        "UPDATE freescout_lease SET (seen_through, complete_through, covered_through, heartbeat_at, clock_offset)"
        " = ('20000-01-01Z', 'infinity', '1970-01-01Z', '2026-03-02T09:00Z', interval '8000 years')"
    )
    await sql.execute("UPDATE freescout_poller SET complete_offset = interval '8000 years'")

    await migrate(normalise(database_url))

    held = await sql.fetchrow("SELECT * FROM freescout_lease")
    assert (held["seen_through"], held["complete_through"], held["covered_through"]) == (None, None, None)
    assert held["heartbeat_at"] == datetime(2026, 3, 2, 9, tzinfo=UTC)
    assert held["clock_offset"] == timedelta()
    assert await sql.fetchval("SELECT complete_offset FROM freescout_poller") is None


async def test_a_role_that_may_only_read_answers_holds_up_no_release_and_no_poller(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await go_back(database_url)
    # Every advisory lock there is to take, as anybody who may connect can.
    await sql.execute("SELECT pg_advisory_lock(1179865429), pg_advisory_lock(5067871434254388300)")

    assert await migrate(normalise(database_url), tries=1) == NEWEST
    database = Database(normalise(database_url))
    assert await claim(database, session="one", name="poller.1") is None
    await database.close()


async def test_a_release_that_has_nothing_to_change_waits_for_nobody(
    database_url: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("BEGIN; LOCK TABLE freescout_schema IN SHARE MODE; LOCK TABLE freescout_ticket IN SHARE MODE")

    assert await migrate(normalise(database_url), tries=1) == NEWEST


async def test_a_release_waits_for_nobody_who_has_locked_our_first_table(
    database_url: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.migrate.LOCK_PATIENCE", 0.05)
    await sql.execute("BEGIN; LOCK TABLE freescout_schema IN ACCESS EXCLUSIVE MODE")

    with pytest.raises(LockedError, match=f"by session {sql.get_server_pid()}"):
        await migrate(normalise(database_url), tries=1)


async def test_what_is_written_while_history_begins_is_in_it(database_url: str, sql: asyncpg.Connection) -> None:
    await go_back(database_url, to="0016")
    writer = await asyncpg.connect(database_url)
    await writer.execute(
        "BEGIN; INSERT INTO freescout_ticket (ticket_id, status, state, gone, observed_at, observed_via, expires_at,"
        " touched_at) VALUES (7, 'active', 'published', false, now(), 'webhook', now() + interval '1 hour', now())"
    )

    async def written() -> None:
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'freescout_ticket'::regclass"
        while not await sql.fetchval(waits):
            continue
        await writer.execute("COMMIT")

    async with asyncio.timeout(30):
        await asyncio.gather(migrate(normalise(database_url)), written())
    await writer.close()

    assert await sql.fetchval("SELECT status FROM freescout_history WHERE ticket_id = 7") == "active"


@pytest.fixture
async def begins(database_url: str, sql: asyncpg.Connection) -> AsyncIterator[Begins]:
    """History begins, in a transaction that is not committed before somebody waits for it."""
    await go_back(database_url, to="0016")
    engine = create_async_engine(normalise(database_url), poolclass=NullPool)

    @asynccontextmanager
    async def begins() -> AsyncIterator[None]:
        async with engine.begin() as migration, asyncio.timeout(30):
            await migration.run_sync(upgrade, "0017")
            yield
            waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'freescout_ticket'::regclass"
            while not await sql.fetchval(waits):  # noqa: ASYNC110 - the database is asked
                await asyncio.sleep(0)

    yield begins
    await engine.dispose()


async def test_a_delivery_that_waits_while_history_begins_is_in_it(
    database: Database, sql: asyncpg.Connection, begins: Begins
) -> None:
    delivery = Delivery(
        claim=about("active", 0),
        endpoint="audit",
        event="convo.status",
        body_bytes=9,
        body_ms=0.5,
        signed_with="current",
    )
    async with begins():
        delivering = asyncio.create_task(record_deliveries(database, [delivery], terms=Terms()))
    await delivering

    assert await sql.fetchval("SELECT status FROM freescout_ticket WHERE ticket_id = 7") == "active"
    assert await sql.fetchval("SELECT settled FROM freescout_history WHERE ticket_id = 7") == "active"


async def test_a_write_that_waits_itself_while_history_begins_fails_and_is_tried_again(
    database_url: str, sql: asyncpg.Connection, begins: Begins
) -> None:
    """It has begun with the function of before, which notes no history."""
    await sql.execute(
        "INSERT INTO freescout_ticket (ticket_id, status, state, updated_at, gone)"
        " VALUES (7, 'active', 'published', now(), false)"
    )
    writer = await asyncpg.connect(database_url)
    held = await writer.fetchrow(statements.READ_TICKETS, [7])
    rows = held["rows"].replace('"active"', '"closed"')
    async with begins():
        writing = asyncio.create_task(
            writer.execute(statements.WRITE_TICKETS, rows, held["versions"], held["lease_version"], "[]", None)
        )
    with pytest.raises(OVERTAKEN):
        await writing
    await writer.close()

    assert await sql.fetchval("SELECT status FROM freescout_ticket") == "active"
    assert await sql.fetchval("SELECT settled FROM freescout_history") == "active"


async def test_a_server_that_is_too_old_is_named_and_nothing_is_changed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.migrate.OLDEST", 99)

    with pytest.raises(DatabaseUnavailableError, match=r"^PostgreSQL \d+\.\d+ is older than 14: upgrade it"):
        await migrate(normalise(database_url))
