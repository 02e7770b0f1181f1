"""Connections: where they lead, who gets one next, and what is never handed out."""

import asyncio
import gc
import re
from contextlib import AsyncExitStack

import asyncpg
import pytest

from db.database import Database
from db.url import normalise
from freescout_audit.errors import DatabaseUnavailableError, SettingsError
from ops.workplace import CONNECTIONS, Workplace
from settings import load_environment, load_settings


@pytest.mark.parametrize(
    ("given", "driver", "query"),
    [
        ("postgres://u:p@host:5432/name", "postgresql+asyncpg", {}),
        ("postgresql://u:p@host/name?sslmode=require", "postgresql+asyncpg", {"ssl": "require"}),
        (
            "postgres://u:p@host/name?sslmode=verify-full&channel_binding=require",
            "postgresql+asyncpg",
            {"ssl": "verify-full"},
        ),
        ("postgresql+asyncpg://u:p@host/name", "postgresql+asyncpg", {}),
    ],
)
def test_every_usual_form_of_the_url_leads_to_asyncpg(given: str, driver: str, query: dict[str, str]) -> None:
    url = normalise(given)

    assert (url.drivername, dict(url.query), url.host, url.password) == (driver, query, "host", "p")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "DATABASE_URL is not a URL"),
        ("hidden", "DATABASE_URL is not a URL"),
        ("postgres://u:hidden@host:port/name", "DATABASE_URL is not a URL"),
        ("mysql://u:hidden@host/name", "DATABASE_URL must begin with postgres://, not mysql://"),
        ("postgresql+psycopg://u:hidden@host/name", "DATABASE_URL must begin with postgres://"),
        ("postgres://u:hidden@host/name?sslrootcert=x", "DATABASE_URL has the parameter sslrootcert"),
    ],
)
def test_any_other_url_is_refused_and_never_quoted(given: str, message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)) as refused:
        normalise(given)

    assert "hidden" not in str(refused.value)


async def test_the_parameters_reach_the_server(database: Database) -> None:
    async with database.connection() as connection:
        assert await connection.driver.fetchval("SHOW timezone") == "UTC"
        assert str(await connection.driver.fetchval("SHOW application_name")).startswith("freescout-audit")


async def test_waiters_are_served_in_the_order_they_came(database_url: str) -> None:
    database = Database(normalise(database_url), connections=1)
    served: list[int] = []

    async def use(number: int) -> None:
        async with database.connection() as connection:
            await connection.driver.execute("SELECT")
            served.append(number)

    tasks = []
    for number in range(50):
        tasks.append(asyncio.create_task(use(number)))
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)

    assert served == list(range(50))
    await database.close()


async def test_a_waiter_that_gives_up_leaves_the_queue_in_order(database_url: str) -> None:
    database = Database(normalise(database_url), connections=1)
    async with database.connection():
        with pytest.raises(DatabaseUnavailableError, match="no answer in time"):
            async with database.connection(0.01):
                pytest.fail("there was no connection to lend")

    async with database.connection(5) as connection:
        assert await connection.driver.fetchval("SELECT 1") == 1
    await database.close()


async def test_a_transaction_that_fails_is_rolled_back_and_its_connection_ended(
    database: Database, sql: asyncpg.Connection
) -> None:
    async def fail() -> None:
        async with database.transaction() as connection:
            await connection.driver.execute("UPDATE freescout_lease SET desk_url = 'x'")
            await connection.driver.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fail()

    assert await sql.fetchval("SELECT desk_url FROM freescout_lease") is None
    async with database.transaction() as connection:
        await connection.driver.execute("UPDATE freescout_lease SET desk_url = 'y'")
    assert await sql.fetchval("SELECT desk_url FROM freescout_lease") == "y"


async def test_what_we_gave_up_on_does_not_stay_behind_in_the_server(
    database: Database, database_url: str, sql: asyncpg.Connection
) -> None:
    holder = await asyncpg.connect(database_url)
    await holder.execute("BEGIN; LOCK TABLE freescout_ticket IN ACCESS EXCLUSIVE MODE")

    async def use() -> None:
        async with database.transaction(0.1) as connection:
            await connection.driver.execute("SELECT FROM freescout_ticket")

    for _ in range(3):
        results = await asyncio.gather(*(use() for _ in range(10)), return_exceptions=True)
        assert {type(result) for result in results} == {DatabaseUnavailableError}

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(5):
        while await sql.fetchval(waiting):
            pass
    await holder.close()


async def test_a_wrong_password_is_said_and_not_shown(database_url: str) -> None:
    url = normalise(database_url).set(username="nobody_of_that_name", password="hidden")

    with pytest.raises(DatabaseUnavailableError, match="does not accept the password") as refused:
        async with Database(url).connection():
            pytest.fail("that role does not exist")

    assert "hidden" not in str(refused.value)


async def test_a_console_command_leaves_connections_to_the_processes(database_url: str) -> None:
    workplace = Workplace(load_environment({"DATABASE_URL": database_url}), load_settings({}))

    async with workplace.database() as database, AsyncExitStack() as stack:
        for _ in range(CONNECTIONS):
            await stack.enter_async_context(database.connection())
        with pytest.raises(DatabaseUnavailableError, match="no answer in time"):
            async with database.connection(0.01):
                pytest.fail("that would be one more than its share")


SESSIONS = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = 'freescout-audit idle' AND datname = current_database()
"""


async def until_sessions(sql: asyncpg.Connection, number: int) -> None:
    async with asyncio.timeout(5):
        while await sql.fetchval(SESSIONS) != number:
            pass


async def borrow(database: Database, number: int) -> None:
    """Have so many connections open at once."""
    async with AsyncExitStack() as stack:
        for _ in range(number):
            await stack.enter_async_context(database.connection())


async def test_connections_that_lie_idle_are_given_back_to_the_server(
    database_url: str, sql: asyncpg.Connection
) -> None:
    database = Database(normalise(database_url), name="idle", idle=0.05)
    async with database.connection() as lent:
        await borrow(database, 4)
        await until_sessions(sql, 1)

        assert await lent.driver.fetchval("SELECT 1") == 1
    await until_sessions(sql, 0)

    async with database.connection() as another:
        assert await another.driver.fetchval("SELECT 1") == 1
    await database.close()


async def test_a_connection_that_is_not_idle_yet_is_kept(database_url: str, sql: asyncpg.Connection) -> None:
    database = Database(normalise(database_url), name="idle", idle=3600)
    await borrow(database, 3)

    async with database.connection() as lent:
        assert await lent.driver.fetchval("SELECT 1") == 1
        assert await sql.fetchval(SESSIONS) == 3
    await database.close()


async def test_a_connection_is_never_closed_under_who_borrows_it(database_url: str) -> None:
    database = Database(normalise(database_url), name="idle", connections=3, idle=0)

    async def use(number: int) -> None:
        for _ in range(50):
            async with database.connection() as connection:
                assert await connection.driver.fetchval("SELECT $1::int", number) == number
            await asyncio.sleep(0)

    await asyncio.gather(*(use(number) for number in range(5)))

    await database.close()


def idle_timers() -> list[asyncio.TimerHandle]:
    return [each for each in gc.get_objects() if isinstance(each, asyncio.TimerHandle) and "Idle" in repr(each)]


async def test_a_database_that_is_closed_leaves_nothing_behind_in_the_loop(
    database_url: str, sql: asyncpg.Connection
) -> None:
    others = idle_timers()
    database = Database(normalise(database_url), name="idle", idle=3600)
    await borrow(database, 3)
    timers = [each for each in idle_timers() if each not in others]

    await database.close()

    assert [timer.cancelled() for timer in timers] == [True]
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await until_sessions(sql, 0)
