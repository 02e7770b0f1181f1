"""A database that comes back from a backup, made and restored by PostgreSQL's own programs.

The desk has gone on meanwhile: what it delivered after the backup is lost, and is not delivered again.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from db.database import Database
from db.lease import vouch_for_nothing
from db.revision import NEWEST
from db.standing import read_standing
from db.transitions import last_transition_id, number_transitions
from db.url import normalise
from poller.freescout import DeskResponse, FreeScout
from support.backups import Backup, programs_of
from support.console_world import at_the_console
from support.databases import Clock
from support.grants import granting, may_make_roles, parts
from support.world import SETTINGS, World, make_world, no_sleep, without_sockets

LEASE, TTL = SETTINGS.cache.lease, SETTINGS.cache.ttl
CHANGED = 1
"""The ticket that changes after the backup."""
TICKETS = 12
_numbers = count()


class Story:
    """A world with a backup, and what was restored from it."""

    def __init__(self, world: World, backup: Backup, url: str, copy_url: str, stack: AsyncExitStack) -> None:
        self.world = world
        self.backup = backup
        self.copy_url = copy_url
        self._url = url
        self._stack = stack

    async def back_up(self) -> None:
        await self.backup.make(self._url)
        await self.world.advance(30)
        self.change()
        await self.world.advance(30)
        assert await self.world.state(CHANGED) == self.world.truth(CHANGED)

    def change(self, ticket_id: int = CHANGED) -> None:
        before = self.world.desk.get(ticket_id).status
        self.world.desk.set_status(ticket_id, "spam" if before != "spam" else "closed")

    async def restore(self, *options: str, after: float) -> World:
        """Return the world of the copy, so many seconds later; the desk's deliveries go on to the old database."""
        await self.world.advance(after)
        await self.backup.restore(self.copy_url, *options)
        database = Database(normalise(self.copy_url))
        self._stack.push_async_callback(database.close)
        sql = await asyncpg.connect(self.copy_url)
        self._stack.push_async_callback(sql.close)
        clock = Clock(sql)  # stopped in the backup, and as it was then
        await clock.set(self.world.clock.now())
        copy = replace(self.world, database=database, sql=sql, database_clock=clock)
        copy.restart_poller(page_size=50)
        return copy


@pytest.fixture
async def story(
    database: Database, sql: asyncpg.Connection, database_url: str, postgres: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[Story]:
    """A healthy desk of twelve published tickets, and an empty database to restore to."""
    programs = await programs_of(sql)
    name = f"restored_{os.getpid()}_{next(_numbers)}"
    admin = await asyncpg.connect(postgres("postgres"))
    await admin.execute(f"CREATE DATABASE {name}")
    try:
        async with AsyncExitStack() as stack:
            world = await stack.enter_async_context(make_world(database, sql, tickets=TICKETS, sockets=False))
            for row in world.desk.conversations.values():
                row.state = "published"
            yield Story(world, Backup(programs, tmp_path / "backup"), database_url, postgres(name), stack)
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def answers(world: World) -> set[str]:
    return {await world.state(ticket_id) for ticket_id in world.desk.conversations}


async def test_a_backup_older_than_the_lease_reads_none_until_a_pass(story: Story) -> None:
    await story.world.poll()
    await story.back_up()

    copy = await story.restore(after=LEASE)

    assert await answers(copy) == {"none"}
    await copy.poll()
    assert await copy.wrong() == {}


async def test_a_younger_backup_says_what_was_right_when_it_was_made_and_no_longer_than_its_lease(story: Story) -> None:
    await story.world.poll()
    made_when = await story.world.state(CHANGED)
    await story.back_up()

    copy = await story.restore(after=240)

    assert await copy.state(CHANGED) == made_when != copy.truth(CHANGED)
    await copy.advance(LEASE - 300)
    assert await answers(copy) == {"none"}


async def test_one_made_without_a_poller_says_what_was_delivered_for_the_time_to_live(story: Story) -> None:
    story.change()
    await story.world.advance(10)
    delivered = await story.world.state(CHANGED)
    await story.back_up()

    copy = await story.restore(after=7200)

    assert await copy.state(CHANGED) == delivered != copy.truth(CHANGED)
    await copy.advance(TTL)
    assert await answers(copy) == {"none"}


async def test_after_it_vouches_for_nothing_everything_reads_none_until_a_pass(story: Story) -> None:
    await story.world.poll()
    await story.world.advance(30)
    story.change(CHANGED + 1)
    await story.world.advance(10)
    await story.back_up()
    copy = await story.restore(after=240)

    await vouch_for_nothing(copy.database)

    assert await answers(copy) == {"none"}
    said_of_now = await copy.sql.fetch(
        "SELECT freescout_ticket_state_at(ticket_id, freescout_now()) AS state FROM freescout_ticket"
    )
    assert {said["state"] for said in said_of_now} == {"none"}
    await copy.poll()
    assert await copy.wrong() == {}
    assert await copy.state(CHANGED) == copy.truth(CHANGED)


async def test_a_pass_that_began_before_the_restore_was_told_of_vouches_for_nothing(story: Story) -> None:
    await story.world.poll()
    await story.back_up()
    copy = await story.restore(after=240)
    ask = without_sockets(copy.api, copy.desk.api_key)

    async def told_meanwhile(path: str, query: Mapping[str, str], /) -> DeskResponse:
        await vouch_for_nothing(copy.database)
        return await ask(path, query)

    copy.freescout = FreeScout(told_meanwhile, sleep=no_sleep)
    copy.restart_poller(page_size=50)
    await copy.passes.run()

    lease_until, now = await copy.sql.fetchrow("SELECT lease_until, freescout_now() FROM freescout_lease")
    assert lease_until <= now


async def test_a_reader_of_the_feed_that_had_more_than_the_backup_is_told_without_a_command(story: Story) -> None:
    await story.world.poll()
    await number_transitions(story.world.database)
    kept = await last_transition_id(story.world.database)
    await story.back_up()
    await number_transitions(story.world.database)
    had = await last_transition_id(story.world.database)
    copy = await story.restore(after=240)
    for ticket_id in range(2, 9):
        story.change(ticket_id)
    await copy.poll()
    await number_transitions(copy.database)

    new = await copy.sql.fetch("SELECT ticket_id FROM freescout_transitions($1)", kept)
    assert kept < had
    assert {row["ticket_id"] for row in new} == set(range(1, 9))
    with pytest.raises(asyncpg.InvalidParameterValueError, match=f"transition {had} is not known"):
        await copy.sql.fetch("SELECT * FROM freescout_transitions($1)", had)


async def test_the_runbooks_command_leaves_a_right_cache(story: Story) -> None:
    await story.world.poll()
    await story.back_up()
    copy = await story.restore(after=240)

    async with at_the_console(copy, story.copy_url) as operator:
        said = await operator.types("reconcile", "--full", "--restored", "--json")
        refused = await operator.types("reconcile", "--since", "1h", "--restored")

    assert said.code == 0
    assert said.json["restored"] is True
    assert [finding["ticket_id"] for finding in said.json["missed"]] == [CHANGED]
    assert await copy.wrong() == {}
    assert refused.code == 2


async def test_what_is_restored_is_complete(story: Story) -> None:
    await story.world.poll()
    await story.back_up()
    copy = await story.restore(after=LEASE)

    standing = await read_standing(copy.database)

    assert standing is not None
    assert standing.revision == NEWEST


async def test_after_a_restore_without_privileges_the_grants_file_puts_them_right(story: Story) -> None:
    if not await may_make_roles(story.world.sql):
        pytest.skip("the role of DATABASE_URL may not make roles")
    await story.world.poll()
    await story.back_up()
    copy = await story.restore("--no-acl", after=240)
    role = f"restored_reader_{os.getpid()}"
    allowed = (
        "SELECT array_agg(proname::text ORDER BY proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " AND has_function_privilege($1, oid, 'EXECUTE')"
    )
    await copy.sql.execute(granting(role=role, password="x")["role"])
    try:
        everything = await copy.sql.fetchval(allowed, role)
        await copy.sql.execute(parts()["everybody"] + granting(role=role)["answer"])

        assert "freescout_write_tickets" in everything
        assert await copy.sql.fetchval(allowed, role) == ["freescout_now", "freescout_ticket_state"]
    finally:
        await copy.sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
