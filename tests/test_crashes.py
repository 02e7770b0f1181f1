"""A poller that dies at any step of a pass, and two pollers at once: the cache ends the same."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from db.database import Connection, Database
from db.transitions import number_for_ever
from db.url import normalise
from freescout_audit.rule import Terms
from poller.freescout import DeskResponse, FreeScout
from poller.passes import Passes
from support.world import World, make_world, no_sleep

STRIDE = int(os.environ.get("CRASH_STRIDE", "3"))
"""Each so many-th step is one to die at; with 1 it takes three times as long."""


class CrashError(Exception):
    """The process dies here."""


class CrashingDatabase(Database):
    """Dies in the middle or at the end of one of its uses: what was committed by then stands, nothing else does.

    Before the next one nothing stands that did not at the end of the last.
    """

    steps = -1
    """How many more steps to live; below zero for ever."""

    def step(self) -> None:
        task = asyncio.current_task()
        if task is not None and getattr(task.get_coro(), "__name__", "") == number_for_ever.__name__:
            return  # the receiver's, which shares this database
        self.steps -= 1
        if self.steps == 0:
            raise CrashError

    @asynccontextmanager
    async def session(self, deadline: float | None = None) -> AsyncIterator[Connection]:
        async with super().session(deadline) as connection:
            yield connection
            self.step()  # inside a transaction: before its commit reaches the server
        self.step()


@pytest.fixture
async def world(database_url: str, sql: asyncpg.Connection) -> AsyncIterator[World]:
    database = CrashingDatabase(normalise(database_url))
    async with make_world(database, sql, tickets=24, page_size=16, sockets=False) as world:
        await world.poll()
        await world.advance(100)
        yield world
    await database.close()


def disturb(world: World) -> None:
    """Changes, a creation and deletions that no delivery tells of."""
    world.desk.faults.drop_chance = 1.0
    living = sorted(world.desk.conversations)
    for ticket_id in living[:6]:
        world.desk.set_status(ticket_id, "closed" if world.desk.get(ticket_id).status != "closed" else "active")
    world.desk.forward(living[10], status="spam")
    world.desk.delete_forever(living[12])


async def test_killed_at_every_step_of_a_pass_and_started_again_the_cache_ends_the_same(world: World) -> None:
    database = world.database
    assert isinstance(database, CrashingDatabase)
    wire = world.freescout._transport  # noqa: SLF001

    async def transport(path: str, query: Mapping[str, str], /) -> DeskResponse:
        answer = await wire(path, query)
        database.step()
        return answer

    world.freescout._transport = transport  # noqa: SLF001
    completed, step = False, 0
    while not completed:
        step += STRIDE
        disturb(world)
        before = await world.sql.fetchval("SELECT renewed_by_pass FROM freescout_lease")
        database.steps = step
        try:
            await world.passes.run()
            await world.questions.ask()
            completed = True
        except CrashError:
            pass
        database.steps = -1
        renewed = await world.sql.fetchval("SELECT renewed_by_pass FROM freescout_lease") != before
        if renewed:
            # Whoever is vouched for is right, or disputed and about to read none.
            await world.advance(6)
            assert {state for state, _ in (await world.wrong()).values()} <= {"none"}
        await world.advance(60)

        await world.poll()

        assert await world.wrong() == {}, f"killed at step {step}"
        assert await world.disputes() == 0
        await world.advance(60)

    assert step > 30


async def test_a_slow_poller_beside_a_fast_one_changes_nothing(world: World) -> None:
    """Without the lock: the slow one's old answer arrives after the fast one has written newer ones."""
    held, release = asyncio.Event(), asyncio.Event()
    wire = world.freescout._transport  # noqa: SLF001

    async def slow(path: str, query: Mapping[str, str], /) -> DeskResponse:
        answer = await wire(path, query)
        held.set()
        await release.wait()
        return answer

    slow_passes = Passes(
        FreeScout(slow, sleep=no_sleep),
        world.database,
        terms=Terms(),
        overlap=timedelta(seconds=3900),
        page_size=10,
    )
    disturb(world)
    await world.advance(10)
    await world.beat()
    slow_one = asyncio.create_task(slow_passes.run())
    await held.wait()
    disturb(world)
    await world.advance(10)
    await world.poll()
    assert await world.wrong() == {}
    lease = await world.sql.fetchval("SELECT lease_until FROM freescout_lease")

    release.set()
    await slow_one

    assert await world.sql.fetchval("SELECT lease_until FROM freescout_lease") == lease
    assert await world.wrong() == {}
    await world.poll()
    assert await world.wrong() == {}
    assert await world.disputes() == 0


async def test_open_questions_survive_a_restart(world: World) -> None:
    world.desk.delete_forever(7)
    await world.advance(10)
    assert await world.disputes() == 1

    restarted = type(world.questions)(world.freescout, world.database, terms=Terms(), at_once=10, clock=lambda: 0.0)
    assert await restarted.ask() == 1

    assert await world.disputes() == 0
    assert await world.wrong() == {}
