"""The examples that follow the feed, run: ten lines each, and the consumer that revokes access."""

import asyncio
import runpy
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from db.database import Database
from db.transitions import number_transitions
from support.world import World, make_world

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
revoke_on_close = runpy.run_path(str(EXAMPLES / "revoke_on_close.py"))["revoke_on_close"]


@pytest.fixture
async def world(database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
    """A desk of six tickets that are active and have been read."""
    async with make_world(database, sql, tickets=6, sockets=False) as world:
        world.desk.faults.drop_chance = 0
        for ticket_id in range(1, 7):
            world.desk.get(ticket_id).state = "published"
            world.desk.set_status(ticket_id, "active")
        await world.poll()
        await world.advance(60)
        await number_transitions(database)
        yield world


async def close(world: World, ticket_id: int, *, lost: bool = False) -> None:
    """Close a ticket; what is lost is found by a pass."""
    await world.advance(5)  # a pass has seen what happened in its own second
    world.desk.faults.drop_chance = int(lost)
    world.desk.set_status(ticket_id, "closed")
    await world.advance(10)
    if lost:
        await world.poll()
    await number_transitions(world.database)


class Revoker:
    """The example as a process of its own, and the tickets that it said it revokes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.revoked: list[str] = []

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "examples/revoke_on_close.py",
            self._url,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
            stdout=asyncio.subprocess.PIPE,
        )

    async def until_it_revokes(self, ticket_id: int) -> None:
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            while f"revoke {ticket_id}" not in self.revoked:
                self.revoked.append((await self._process.stdout.readline()).decode().strip())

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


async def test_access_is_revoked_at_least_once_whenever_the_revoker_dies(world: World, database_url: str) -> None:
    revoker = Revoker(database_url)
    await revoker.start()
    try:
        await close(world, 1)
        await revoker.until_it_revokes(1)
        await revoker.kill()
        await close(world, 2)
        await close(world, 3, lost=True)
        await revoker.start()
        await revoker.until_it_revokes(3)
        await close(world, 4)
        await revoker.until_it_revokes(4)
    finally:
        await revoker.kill()

    assert set(revoker.revoked) == {"revoke 1", "revoke 2", "revoke 3", "revoke 4"}


async def test_without_the_cache_everything_is_revoked_once(
    sql: asyncpg.Connection, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    all_revoked = asyncio.Event()
    times = 0

    async def revoke_all() -> None:
        nonlocal times
        times += 1
        all_revoked.set()

    async def revoke(_ticket_id: int) -> None: ...

    await sql.execute("ALTER FUNCTION freescout_read_cursor(text) RENAME TO away")
    revoking = asyncio.create_task(revoke_on_close(database_url, revoke, revoke_all, stale_after=0.2))
    async with asyncio.timeout(10):
        await all_revoked.wait()
        tried = 0
        while tried < 3:
            tried += capsys.readouterr().err.count("the cache cannot be asked")
            await asyncio.sleep(0.01)
    revoking.cancel()
    await asyncio.gather(revoking, return_exceptions=True)

    assert times == 1


async def test_a_place_that_is_not_kept_revokes_everything_and_begins_again(
    world: World, sql: asyncpg.Connection, database_url: str
) -> None:
    await sql.execute(
        "SELECT freescout_move_cursor('revoke_on_close', 2); UPDATE freescout_feed SET pruned_through = 5"
    )
    await close(world, 1)
    said: list[Any] = []
    done = asyncio.Event()

    async def revoke(ticket_id: int) -> None:
        said.append(ticket_id)
        done.set()

    async def revoke_all() -> None:
        said.append("all")

    revoking = asyncio.create_task(revoke_on_close(database_url, revoke, revoke_all, stale_after=4))
    async with asyncio.timeout(10):
        await done.wait()
    revoking.cancel()
    await asyncio.gather(revoking, return_exceptions=True)

    assert said == ["all", 1]


async def test_the_ten_lines_for_asyncpg(world: World, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    follow = runpy.run_path(str(EXAMPLES / "follow_asyncpg.py"))["follow"]
    following = asyncio.create_task(follow(database_url))
    await close(world, 3)
    said = ""
    async with asyncio.timeout(10):
        while "not open any more: 3" not in (said := said + capsys.readouterr().out):  # noqa: ASYNC110 - it prints
            await asyncio.sleep(0.02)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_the_ten_lines_for_psycopg(world: World, database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    follow = runpy.run_path(str(EXAMPLES / "follow_psycopg.py"))["follow"]
    await close(world, 4)

    last = await asyncio.to_thread(follow, database_url, 0)

    assert last == 7
    assert capsys.readouterr().out == "not open any more: 4\n"
    assert await asyncio.to_thread(follow, database_url, last) == last
