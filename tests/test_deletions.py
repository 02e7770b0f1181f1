"""Deletions leave no trace in lists: how they are found, and what that costs."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from conftest import Log
from db.database import Database
from poller.freescout import DeskUnavailableError, Page
from simulator import ApiFault
from support.world import World, make_world


@pytest.fixture
async def world(database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
    """A desk with 600 tickets in pages of 20, loaded, and no delivery arrives."""
    async with make_world(database, sql, tickets=600, page_size=200, sockets=False) as world:
        await world.poll()
        await world.advance(4000)
        await world.poll()
        world.restart_poller(page_size=20)
        world.desk.faults.drop_chance = 1.0
        yield world


async def requests_of_a_pass(world: World) -> int:
    await world.beat()
    before = world.api.count
    await world.passes.run()
    return world.api.count - before


@pytest.mark.parametrize("ticket_id", [1, 2, 300, 580, 599, 600])
async def test_a_deletion_is_found_wherever_it_is_and_reads_none_at_the_latest_after_the_grace(
    world: World, ticket_id: int, log: Log
) -> None:
    world.desk.delete_forever(ticket_id)

    assert await requests_of_a_pass(world) <= 30
    assert [line["tickets"] for line in log.lines("ticket.missing")] == [[ticket_id]]
    await world.ask()

    assert await world.wrong() == {}
    assert await world.sql.fetchval("SELECT gone FROM freescout_ticket WHERE ticket_id = $1", ticket_id)


async def test_several_deletions_and_creations_that_cancel_in_the_count_are_found(world: World) -> None:
    for ticket_id in (5, 250, 251, 600):
        world.desk.delete_forever(ticket_id)
    for _ in range(4):
        world.desk.customer_writes(mailbox_id=1, customer_id=1)

    await world.poll()

    assert await world.wrong() == {}


async def test_a_deleted_mailbox_does_not_hold_up_the_lease_and_is_not_listed(world: World, log: Log) -> None:
    before = await world.sql.fetchval("SELECT lease_until FROM freescout_lease")
    gone = len(world.desk.delete_mailbox(2))
    assert gone > 200

    assert await requests_of_a_pass(world) <= 12
    assert await world.sql.fetchval("SELECT lease_until FROM freescout_lease") > before
    assert await world.disputes() == gone

    await world.advance(6)
    assert {state for state, _ in (await world.wrong()).values()} <= {"none"}, (
        "they read none while they are asked about"
    )
    await world.ask()
    assert await world.wrong() == {}
    assert await world.disputes() == 0


async def test_what_we_lack_is_added(world: World) -> None:
    await world.sql.execute("DELETE FROM freescout_ticket WHERE ticket_id IN (3, 77, 599)")

    await world.poll()

    assert await world.wrong() == {}


async def test_a_whole_stretch_that_we_lack_is_added(world: World) -> None:
    await world.sql.execute("DELETE FROM freescout_ticket WHERE ticket_id BETWEEN 100 AND 300")

    await world.poll()

    assert await world.wrong() == {}


async def test_a_desk_much_larger_than_what_we_hold_is_added(world: World) -> None:
    await world.sql.execute("DELETE FROM freescout_ticket WHERE ticket_id > 5")

    await world.poll()

    assert await world.wrong() == {}


async def test_tickets_created_in_one_second_are_compared_one_by_one(world: World) -> None:
    made = [world.desk.customer_writes(mailbox_id=1, customer_id=1) for _ in range(120)]
    await world.advance(100)
    await world.poll()
    for _ in range(30):
        world.desk.customer_writes(mailbox_id=1, customer_id=1)
        await world.advance(1)
    await world.poll()
    world.desk.delete_forever(made[60])

    await world.poll()

    assert await world.wrong() == {}


async def test_a_ticket_that_vanishes_while_another_is_looked_for_is_found_by_the_next_pass_at_the_latest(
    world: World,
) -> None:
    world.desk.delete_forever(300)
    whole, vanished = world.freescout.count, iter((400, 20))

    async def count(**query: object) -> int:
        answer = await whole(**query)  # type: ignore[arg-type]
        if (ticket_id := next(vanished, None)) is not None:
            world.desk.delete_forever(ticket_id)
        return answer

    world.freescout.count = count  # type: ignore[method-assign]
    await world.poll()

    assert await world.wrong() == {}


async def test_a_restored_backup_is_found_by_the_nightly_reading(world: World) -> None:
    backup = world.desk.backup()
    for ticket_id in range(1, 50):
        world.desk.set_status(ticket_id, "spam")
    await world.advance(100)
    await world.poll()
    world.desk.restore_backup(backup)
    await world.advance(8000)
    await world.poll()
    assert await world.wrong(), "no date tells of it"
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    assert await world.passes.read_everything(pause=pause) >= 600
    await world.ask()

    assert await world.wrong() == {}
    assert len(paused) >= 31


class TestAnApiThatLies:
    async def test_a_desk_that_lists_nothing_is_not_believed(self, world: World) -> None:
        before = await world.sql.fetchval("SELECT lease_until FROM freescout_lease")
        for ticket_id in list(world.desk.conversations):
            world.desk.delete_forever(ticket_id)

        with pytest.raises(DeskUnavailableError, match="lists no conversation at all"):
            await world.passes.run()

        assert await world.sql.fetchval("SELECT lease_until FROM freescout_lease") == before
        assert await world.disputes() == 0

    @pytest.mark.parametrize("fault", [ApiFault.NOT_FOUND_HTML, ApiFault.NOT_FOUND_JSON])
    async def test_an_api_that_answers_404_to_everything_makes_no_tombstone(
        self, world: World, fault: ApiFault
    ) -> None:
        world.desk.set_status(7, "spam")
        world.desk.delete_forever(8)
        await world.passes.run()
        world.desk.faults.api = fault

        await world.ask()
        assert await world.sql.fetchval("SELECT count(*) FROM freescout_ticket WHERE gone") == 0
        assert await world.disputes() == 1

        world.desk.faults.api = None
        await world.advance(300)
        await world.poll()
        assert await world.wrong() == {}

    async def test_one_stuck_question_stops_neither_the_others_nor_the_lease(self, world: World, log: Log) -> None:
        world.desk.delete_forever(8)
        world.desk.delete_forever(9)
        whole = world.freescout.conversation

        async def conversation(ticket_id: int) -> object:
            if ticket_id == 8:
                raise DeskUnavailableError("FreeScout answers 500", "is the desk up?")
            return await whole(ticket_id)

        world.freescout.conversation = conversation  # type: ignore[method-assign,assignment]
        for _ in range(3):
            before = await world.sql.fetchval("SELECT lease_until FROM freescout_lease")
            await world.advance(120)
            await world.poll()
            assert await world.sql.fetchval("SELECT lease_until FROM freescout_lease") > before

        assert await world.sql.fetchval("SELECT array_agg(ticket_id) FROM freescout_ticket WHERE gone") == [9]
        assert await world.disputes() == 1
        assert await world.state(8) == "none"
        assert {line["ticket_id"] for line in log.lines("question.failed")} == {8}
        assert {(line["reason"], line["next_step"]) for line in log.lines("question.failed")} == {
            ("FreeScout answers 500", "is the desk up?")
        }


async def test_a_deletion_and_a_creation_in_one_crowded_second_are_both_found(world: World) -> None:
    """They cancel in every count; only the ids tell."""
    crowded = int(world.clock.now().timestamp())
    made = [world.desk.customer_writes(created=crowded) for _ in range(90)]
    await world.advance(4000)
    for _ in range(30):
        world.desk.customer_writes()
        await world.advance(1)
    await world.poll()
    assert await world.wrong() == {}
    await world.advance(4000)
    world.desk.delete_forever(made[40])
    twin = world.desk.customer_writes(created=crowded)

    await world.poll()

    assert await world.state(twin) == world.truth(twin)
    assert await world.wrong() == {}


async def test_in_a_crowded_second_numbers_may_be_in_another_order_than_dates(world: World, log: Log) -> None:
    """So a later date among them does not mean that the second is over."""
    crowded = world.desk.get(300).created
    made = [world.desk.customer_writes(created=crowded) for _ in range(90)]
    await world.poll()
    await world.advance(4000)
    await world.poll()
    world.desk.delete_forever(made[70])

    await world.poll()

    assert await world.wrong() == {}
    assert [line["tickets"] for line in log.lines("ticket.missing")] == [[made[70]]]


async def test_a_crowded_second_is_not_read_beyond_its_end(world: World) -> None:
    """Though more of it vanish than its count still said: what comes after it may be the whole desk."""
    crowded = int(world.clock.now().timestamp())
    made = [world.desk.customer_writes(created=crowded) for _ in range(90)]
    for _ in range(400):
        await world.advance(1)
        world.desk.customer_writes()
    await world.advance(4000)
    await world.poll()
    await world.advance(4000)
    await world.poll()
    world.desk.delete_forever(made[40])
    whole = world.freescout.page

    async def page(**query: object) -> Page:
        answer = await whole(**query)  # type: ignore[arg-type]
        if query.get("sort") == "number" and query.get("number") == 2:
            world.freescout.page = whole  # type: ignore[method-assign]
            world.desk.delete_forever(made[80])
        return answer

    world.freescout.page = page  # type: ignore[method-assign]

    assert await requests_of_a_pass(world) < 40
    await world.ask()
    assert await world.wrong() == {}


async def test_a_ticket_that_is_moved_during_the_search_does_not_make_up_for_one_that_is_gone(world: World) -> None:
    """It is missing from the mailbox that it left; if it were suspected, the other one would not be missed."""
    moved = next(row.id for row in world.desk.truth() if row.mailbox_id == 1 and row.id < 300)
    gone = next(row.id for row in world.desk.truth() if row.mailbox_id == 2 and row.id < 300)
    world.desk.delete_forever(gone)
    whole, calls = world.freescout.count, 0

    async def count(**query: object) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            world.desk.move(moved, 2)
        return await whole(**query)  # type: ignore[arg-type]

    world.freescout.count = count  # type: ignore[method-assign]
    await world.poll()

    assert await world.wrong() == {}
    assert await world.sql.fetchval("SELECT gone FROM freescout_ticket WHERE ticket_id = $1", gone)


@pytest.mark.parametrize("others", [0, 30], ids=["quiet", "while more changes than come with the total"])
async def test_a_creation_with_an_early_date_does_not_make_up_for_a_deletion(world: World, others: int) -> None:
    """It came after the walk, and is older than what is compared one by one: no count by creation shows it."""
    gone, *changed = [row.id for row in world.desk.truth() if row.id < 300][: others + 1]
    world.desk.delete_forever(gone)
    whole = world.freescout.page

    async def page(**query: object) -> Page:
        if query.get("order") == "desc":
            world.freescout.page = whole  # type: ignore[method-assign]
            early = world.desk.get(100).created
            world.desk.customer_writes(created=early)
            for ticket_id in changed:
                world.desk.change_subject(ticket_id, "Again")
        return await whole(**query)  # type: ignore[arg-type]

    world.freescout.page = page  # type: ignore[method-assign]
    await world.poll()

    assert await world.state(gone) == "none"
    assert await world.wrong() == {}


async def test_nor_does_one_that_comes_in_the_repeated_hour(database: Database, sql: asyncpg.Connection) -> None:
    """What comes in the second pass of that hour is dated before what had happened in the first."""
    start, zone = datetime(2026, 11, 1, 4, tzinfo=UTC), ZoneInfo("America/New_York")
    async with make_world(database, sql, tickets=100, page_size=20, start=start, timezone=zone, sockets=False) as world:
        await world.poll()
        world.desk.faults.drop_chance = 1.0
        await world.advance(6600)
        world.desk.change_subject(90, "In the first pass of the hour")
        await world.advance(1800)
        await world.poll()
        whole = world.freescout.page

        async def page(**query: object) -> Page:
            if query.get("order") == "desc":
                world.freescout.page = whole  # type: ignore[method-assign]
                world.desk.customer_writes(created=world.desk.get(10).created)
            return await whole(**query)  # type: ignore[arg-type]

        world.desk.delete_forever(5)
        world.freescout.page = page  # type: ignore[method-assign]
        await world.poll()

        assert await world.wrong() == {}


async def test_counts_that_take_long_have_to_show_the_same_twice(world: World) -> None:
    """What comes and goes between two counts could hide what had vanished before."""
    in_one_go = await requests_of_a_pass(world)
    whole = world.freescout.page

    async def page(**query: object) -> Page:
        answer = await whole(**query)  # type: ignore[arg-type]
        await world.advance(3)
        return answer

    world.freescout.page = page  # type: ignore[method-assign]

    assert (in_one_go, await requests_of_a_pass(world)) == (3, 5)


async def test_what_is_found_gone_while_a_count_is_on_its_way_makes_up_for_no_other(world: World) -> None:
    """The desk has counted it, and we learn that it is gone before we count ours."""
    world.desk.delete_forever(5)
    whole = world.freescout.page

    async def page(**query: object) -> Page:
        answer = await whole(**query)  # type: ignore[arg-type]
        if query.get("sort") == "createdAt":
            world.freescout.page = whole  # type: ignore[method-assign]
            world.desk.delete_forever(250)
            await world.advance(30)
            await world.sql.execute("UPDATE freescout_ticket SET gone = true WHERE ticket_id = 250")
        return answer

    world.freescout.page = page  # type: ignore[method-assign]
    await world.poll()

    assert await world.wrong() == {}
