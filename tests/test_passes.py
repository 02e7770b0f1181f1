"""The pass, against the simulated desk: what was missed is right again, and only a complete pass vouches."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import asyncpg
import pytest

from conftest import Log
from db import lease
from db.database import Database
from poller.freescout import DeskError, DeskResponse, DeskUnavailableError
from simulator import ApiFault, Desk
from support.world import START, World, make_world


@pytest.fixture
async def world(database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
    """A desk with twelve tickets, all of them in the cache, a poller that is alive, and some time passed since."""
    async with make_world(database, sql, tickets=12, sockets=False) as world:
        await world.poll()
        await world.advance(10)
        yield world


Operation = Callable[[Desk], object]


def in_turn(*operations: Operation) -> Operation:
    def operate(desk: Desk) -> None:
        for operation in operations:
            operation(desk)

    return operate


MATRIX: dict[str, Operation] = {
    "status set": lambda desk: desk.set_status(1, "spam"),
    "bulk status": lambda desk: desk.bulk_set_status([1, 2, 3], "pending"),
    "bulk to the same": in_turn(
        lambda desk: desk.bulk_set_status([1], "closed"), lambda desk: desk.bulk_set_status([1], "closed")
    ),
    "reply in the UI": lambda desk: desk.reply_in_ui(1, status="pending"),
    "started in the UI": lambda desk: desk.start_in_ui(mailbox_id=1, customer_id=1, status="pending"),
    "reply through the API": lambda desk: desk.reply_through_api(1, status="spam"),
    "reply by mail": lambda desk: desk.reply_by_mail(1, status="spam"),
    "note": lambda desk: desk.note_in_ui(1, status="spam"),
    "customer writes": lambda desk: desk.customer_writes(mailbox_id=1, customer_id=1),
    "customer replies": in_turn(lambda desk: desk.set_status(1, "closed"), lambda desk: desk.customer_replies(1)),
    "customer replies to a deleted one": in_turn(
        lambda desk: desk.delete_to_folder(1), lambda desk: desk.customer_replies(1)
    ),
    "deleted to folder": lambda desk: desk.delete_to_folder(1),
    "restored": in_turn(lambda desk: desk.delete_to_folder(1), lambda desk: desk.restore(1)),
    "moved": lambda desk: desk.move(1, 2 if desk.get(1).mailbox_id == 1 else 1),
    "assigned": lambda desk: desk.assign(1, 2),
    "merged": lambda desk: desk.merge(1, 2),
    "deleted for ever": lambda desk: desk.delete_forever(1),
    "folder emptied": in_turn(
        lambda desk: desk.delete_to_folder(1), lambda desk: desk.empty_folder(desk.get(1).mailbox_id)
    ),
    "mailbox deleted": lambda desk: desk.delete_mailbox(2),
    "forwarded": lambda desk: desk.forward(1, status="closed"),
    "subject changed": lambda desk: desk.change_subject(1, "Another question"),
    "draft saved": lambda desk: desk.save_draft(),
    "several within a second": lambda desk: [desk.set_status(1, status) for status in ("closed", "active", "spam")],
}


@pytest.mark.parametrize("operation", MATRIX.values(), ids=MATRIX)
@pytest.mark.parametrize("lost", [0.0, 1.0], ids=["delivered", "lost"])
async def test_after_the_next_pass_the_cache_is_right(world: World, operation: Operation, lost: float) -> None:
    world.desk.faults.drop_chance = lost
    operation(world.desk)
    await world.advance(110)

    await world.poll()

    assert await world.wrong() == {}
    assert await world.disputes() == 0


SILENT = {"mailbox deleted", "forwarded", "draft saved"}
"""What no delivery tells of (or, for a forward, not of the new conversation)."""


@pytest.mark.parametrize("name", [name for name in MATRIX if name not in SILENT])
async def test_where_a_delivery_can_tell_the_cache_is_right_before_the_pass(world: World, name: str) -> None:
    MATRIX[name](world.desk)
    await world.advance(60)
    await world.beat()

    await world.ask()

    assert await world.wrong() == {}


async def test_a_desk_of_many_pages_is_loaded_and_the_lease_renewed(
    database: Database, sql: asyncpg.Connection, log: Log
) -> None:
    async with make_world(database, sql, tickets=500, sockets=False) as world:
        await world.poll()

        assert await world.wrong() == {}
        lease = await sql.fetchrow("SELECT * FROM freescout_lease")
        assert lease["complete_through"] == START
        assert timedelta() <= lease["lease_until"] - START - timedelta(seconds=900) < timedelta(seconds=1)
        assert log.lines("pass.completed")[-1]["rows"] >= 500


async def test_a_quiet_pass_makes_three_requests(world: World) -> None:
    await world.advance(4000)
    await world.poll()
    before = world.api.count

    await world.passes.run()

    assert world.api.count - before == 3


async def test_a_quiet_pass_adds_no_row_to_any_table_and_prolongs_the_leases_stretch(
    database: Database, sql: asyncpg.Connection
) -> None:
    async with make_world(database, sql, tickets=500, sockets=False) as world:
        await world.poll()
        await world.advance(120)
        before = await _numbers_of_rows(sql)
        until = await sql.fetchval("SELECT max(until_at) FROM freescout_lease_history")

        await world.passes.run()

        assert await _numbers_of_rows(sql) == before
        assert await sql.fetchval("SELECT max(until_at) FROM freescout_lease_history") > until


async def _numbers_of_rows(sql: asyncpg.Connection) -> dict[str, int]:
    tables = await sql.fetch("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'")
    return {table: await sql.fetchval(f"SELECT count(*) FROM {table}") for (table,) in tables}


@pytest.mark.parametrize("fault", [ApiFault.SERVER_ERROR, ApiFault.NOT_FOUND_HTML, ApiFault.MAINTENANCE])
async def test_a_pass_that_ends_early_renews_nothing(world: World, fault: ApiFault) -> None:
    before = await world.sql.fetchrow("SELECT lease_until, complete_through FROM freescout_lease")
    await world.advance(110)
    world.desk.faults.api = fault

    with pytest.raises(DeskError):
        await world.passes.run()

    assert await world.sql.fetchrow("SELECT lease_until, complete_through FROM freescout_lease") == before


async def test_what_a_broken_pass_has_read_counts_and_the_next_one_reads_the_rest(
    database: Database, sql: asyncpg.Connection
) -> None:
    async with make_world(database, sql, tickets=500, page_size=50, sockets=False) as world:
        await world.poll()
        await world.advance(100)
        for ticket_id in range(1, 301):
            world.desk.faults.drop_chance = 1.0
            world.desk.set_status(ticket_id, "spam" if world.desk.get(ticket_id).status == "closed" else "closed")
        cut = world.freescout._transport = Cut(world, answers=3)  # noqa: SLF001

        with pytest.raises(DeskUnavailableError):
            await world.passes.run()
        half = len(await world.wrong())
        assert 0 < half < 300

        world.freescout._transport = cut.whole  # noqa: SLF001
        await world.poll()
        assert await world.wrong() == {}


class Cut:
    """A wire that is cut after so many answers."""

    def __init__(self, world: World, answers: int) -> None:
        self.whole = world.freescout._transport  # noqa: SLF001
        self._left = answers

    async def __call__(self, path: str, query: Mapping[str, str], /) -> DeskResponse:
        if self._left == 0:
            raise ConnectionError("cut")
        self._left -= 1
        return await self.whole(path, query)


async def test_a_first_load_goes_on_where_it_was_broken_off(database: Database, sql: asyncpg.Connection) -> None:
    async with make_world(database, sql, tickets=500, page_size=50, sockets=False) as world:
        cut = world.freescout._transport = Cut(world, answers=6)  # noqa: SLF001
        with pytest.raises(DeskUnavailableError):
            await world.passes.run()
        world.freescout._transport = cut.whole  # noqa: SLF001
        assert await sql.fetchval("SELECT load_cursor IS NOT NULL FROM freescout_poller")
        world.desk.faults.drop_chance = 1.0
        world.desk.set_status(3, "spam")  # on a page that has been read
        world.desk.delete_forever(4)
        before = len(world.api.requests)

        await world.poll()

        assert await world.wrong() == {}
        asked = [request.query for request in list(world.api.requests)[before:]]
        assert len([query for query in asked if "createdSince" in query and query["pageSize"] == "50"]) < 12
        assert await sql.fetchval("SELECT load_cursor FROM freescout_poller") is None


@pytest.mark.parametrize(("crowd", "page_size"), [(2000, 200), (1000, 50)])
async def test_a_crowd_in_one_second_is_listed_completely(
    database: Database, sql: asyncpg.Connection, crowd: int, page_size: int
) -> None:
    """In pages by number, ten of the largest size there is, and twenty."""
    async with make_world(database, sql, tickets=crowd + 100, page_size=page_size, sockets=False) as world:
        await world.poll()
        await world.advance(60)
        world.desk.faults.drop_chance = 1.0
        for ticket_id in range(1, crowd + 1):
            world.desk.set_status(ticket_id, "spam")
        await world.advance(60)

        await world.poll()

        assert await world.wrong() == {}


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("Europe/Berlin", datetime(2026, 10, 24, 23, 50, tzinfo=UTC)),
        ("America/New_York", datetime(2026, 11, 1, 5, 50, tzinfo=UTC)),
    ],
)
async def test_a_change_in_the_repeated_hour_is_found(
    database: Database, sql: asyncpg.Connection, zone: str, start: datetime
) -> None:
    """In Berlin the first pass of the hour bears dates of the future, in New York the second those of the past."""
    async with make_world(database, sql, tickets=12, start=start, timezone=ZoneInfo(zone), sockets=False) as world:
        await world.poll()
        world.desk.faults.drop_chance = 1.0
        for number in range(35):
            world.desk.set_status(2 * number % 12 + 1, "closed" if number % 2 else "active")
            await world.advance(240)
            await world.poll()
            assert await world.wrong() == {}


@pytest.mark.parametrize("alive", [True, False], ids=["while the poller lives", "when it is gone"])
async def test_a_delivery_that_is_dated_an_hour_late_and_comes_as_late_is_no_news(
    database: Database, sql: asyncpg.Connection, *, alive: bool
) -> None:
    """In Berlin a change at 00:55 bears 01:55; a row that is dated ahead tells so before such a delivery comes."""
    start = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    async with make_world(
        database, sql, tickets=4, start=start, timezone=ZoneInfo("Europe/Berlin"), sockets=False
    ) as world:
        await world.poll()
        world.desk.change_subject(2, "Dated ahead")
        await world.advance(60)
        await world.poll()
        await world.advance(1440)
        world.desk.faults.delay = 3700
        world.desk.set_status(1, "pending")
        world.desk.set_status(1, "spam")
        await world.advance(600)
        world.desk.faults.delay, world.desk.faults.drop_chance = 0, 1.0
        world.desk.change_subject(1, "Again")
        world.desk.set_status(1, "closed")
        await world.advance(30)
        world.desk.faults.drop_chance = 0.0
        await world.poll()
        assert await world.state(1) == "closed"

        await world.advance(2970)
        if alive:
            await world.beat()
        await world.advance(200)

        assert world.reports[-1].answer == 200
        assert await world.state(1) in {"closed", "none"}
        await world.poll()
        assert await world.wrong() == {}


async def test_without_a_poller_what_is_dated_an_hour_late_reads_none_until_the_hour_is_over(
    database: Database, sql: asyncpg.Connection
) -> None:
    start = datetime(2026, 10, 24, 23, 50, tzinfo=UTC)
    async with make_world(
        database, sql, tickets=1, start=start, timezone=ZoneInfo("Europe/Berlin"), sockets=False
    ) as world:
        answers = []
        for status in ("spam", "closed", "pending", "closed"):
            world.desk.set_status(1, status)
            await world.advance(2700)
            answers.append(await world.state(1))

        assert [report.answer for report in world.reports if report.event == "convo.status"] == [200] * 4
        assert answers == ["spam", "none", "none", "closed"]


async def test_when_the_desks_clock_goes_back_what_changed_since_is_found(world: World, log: Log) -> None:
    await world.advance(7200)
    await world.poll()
    world.desk.faults.clock_offset = -7000
    world.desk.faults.drop_chance = 1.0
    await world.advance(60)
    world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")

    await world.poll()

    assert await world.wrong() == {}
    assert log.lines("desk.clock_went_back")
    seen, complete = await world.sql.fetchrow("SELECT seen_through, complete_through FROM freescout_lease")
    assert complete < seen


async def test_the_desks_clock_is_known_better_than_its_whole_seconds_tell(world: World) -> None:
    """Where in a second an answer comes tells how far its fraction was cut off; no such cut is a clock set back."""
    for fraction in (0.1, 0.8, 0.3, 0.0, 0.6):
        await world.advance(120 - world.clock.now().timestamp() % 1 + fraction)
        await world.poll()
        seen, offset, set_back = await world.sql.fetchrow(
            "SELECT seen_through, clock_offset, set_back_at FROM freescout_lease"
        )
        assert seen <= world.clock.now()
        assert set_back is None
    assert abs(offset.total_seconds()) < 0.01


async def test_a_slow_desk_was_not_set_back_when_it_is_first_read(database: Database, sql: asyncpg.Connection) -> None:
    async with make_world(database, sql, sockets=False) as world:
        world.desk.faults.clock_offset = -600
        await world.poll()

        seen, set_back = await sql.fetchrow("SELECT seen_through, set_back_at FROM freescout_lease")
        assert seen < world.clock.now() - timedelta(seconds=599)
        assert set_back is None


async def test_a_clock_that_was_set_back_once_is_not_found_so_again(world: World) -> None:
    """Where in its second an answer comes makes it look up to a second earlier or later."""
    await world.poll()
    world.desk.faults.clock_offset = -600
    await world.advance(120.1)
    await world.poll()
    first = await world.sql.fetchval("SELECT set_back_at FROM freescout_lease")
    assert first is not None

    for fraction in (0.9, 0.2, 0.5, 0.0):
        await world.advance(120 - world.clock.now().timestamp() % 1 + fraction)
        await world.poll()
        seen, at = await world.sql.fetchrow("SELECT seen_through, set_back_at FROM freescout_lease")
        assert at == first
    assert seen < world.clock.now() - timedelta(seconds=60)


async def test_a_clock_that_was_set_back_is_known_to_the_second_although_the_first_answer_was_slow(
    world: World,
) -> None:
    """What a cache has kept meanwhile would pass for an answer of now."""
    await world.poll()
    world.desk.faults.clock_offset = -600

    async def dawdle() -> None:
        await world.advance(240)

    interrupt(world, dawdle)
    await world.passes.run()

    offset: timedelta = await world.sql.fetchval("SELECT clock_offset FROM freescout_lease")
    assert abs(offset.total_seconds() + 600) <= 1


async def test_a_clock_that_is_set_back_during_a_pass_lets_it_not_vouch(world: World) -> None:
    """What is created after that is dated so early that it makes up, in the count, for what was deleted before."""
    await world.advance(4000)
    await world.poll()
    await world.advance(100)
    before = await world.sql.fetchval("SELECT lease_until FROM freescout_lease")

    async def set_back() -> None:
        world.desk.faults.clock_offset = -600

    interrupt(world, set_back)
    with pytest.raises(DeskUnavailableError, match="set back while it was read"):
        await world.passes.run()
    assert await world.sql.fetchval("SELECT lease_until FROM freescout_lease") == before

    await world.poll()
    assert await world.sql.fetchval("SELECT lease_until FROM freescout_lease") > before


async def test_a_pass_that_a_later_one_has_overtaken_vouches_for_nothing(
    database: Database, sql: asyncpg.Connection, log: Log
) -> None:
    """The later one may lack what is new, so it is not written; not held, it makes up for what was deleted."""
    async with make_world(database, sql, tickets=12, page_size=4, overlap=0, sockets=False) as world:
        await world.poll()
        await world.advance(10)
        await world.poll()
        world.desk.faults.drop_chance = 1.0
        world.desk.delete_forever(3)
        new = world.desk.customer_writes(created=world.desk.get(1).created)
        await world.advance(1)
        world.desk.set_status(5, "spam")
        await world.advance(850)

        async def another_begins() -> None:
            await world.advance(1)
            read = await lease.read_beginning(world.database)
            await lease.see_through(world.database, world.clock.now(), asked_at=read.asked_at)

        interrupt(world, another_begins)
        await world.passes.run()

        assert log.lines()[-1]["event"] == "pass.overtaken"
        await world.advance(60)
        await world.beat()
        assert await world.state(3) == "none"

        await world.poll()
        await world.advance(6)
        assert await world.wrong() == {}
        assert await world.state(new) == world.truth(new)


async def test_a_ticket_whose_date_goes_back_past_the_cursor_is_found_by_the_same_pass(
    database: Database, sql: asyncpg.Connection
) -> None:
    """As any change does in the hour that daylight saving repeats."""
    async with make_world(database, sql, tickets=40, page_size=10, sockets=False) as world:
        await world.poll()
        world.desk.faults.drop_chance = 1.0
        for ticket_id in range(1, 31):
            world.desk.set_status(ticket_id, "spam" if world.desk.get(ticket_id).status != "spam" else "closed")
            await world.advance(2)
        moved = world.desk.get(30)
        status = moved.status

        async def go_back() -> None:
            world.desk.touch(moved, at=world.desk.get(1).updated - 3000)

        interrupt(world, go_back)
        await world.poll()

        assert await world.state(30) == status
        assert await world.wrong() == {}


@pytest.mark.parametrize("seconds", [900, 3])
@pytest.mark.parametrize("alive", [True, False], ids=["while the poller lives", "when it is gone"])
async def test_a_delivery_from_before_the_clock_was_set_back_is_no_news(
    world: World, *, alive: bool, seconds: float
) -> None:
    """By its date it is newer than anything since, and no longer from the future when it comes."""
    world.desk.faults.delay = 2000
    world.desk.set_status(3, "pending")
    world.desk.set_status(3, "spam")
    world.desk.faults.delay, world.desk.faults.drop_chance = 0, 0.0
    await world.advance(1)
    world.desk.faults.clock_offset = -seconds
    world.desk.change_subject(3, "Again")
    await world.advance(1)
    await world.poll()
    assert await world.wrong() == {}

    await world.advance(1990)
    if alive:
        await world.beat()
    await world.advance(20)

    assert await world.state(3) in {"spam", "none"}
    assert await world.disputes() == alive
    await world.poll()
    assert await world.wrong() == {}


async def test_a_clock_that_went_back_by_less_than_the_time_since_is_noticed(world: World, log: Log) -> None:
    await world.advance(7200)
    await world.poll()
    world.desk.faults.clock_offset = -7000
    world.desk.faults.drop_chance = 1.0
    await world.advance(60)
    world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
    await world.advance(8000)

    await world.poll()

    assert await world.wrong() == {}
    assert log.lines("desk.clock_went_back")


async def test_deletions_during_the_first_load_hide_nobody(database: Database, sql: asyncpg.Connection) -> None:
    async with make_world(database, sql, tickets=400, page_size=50, sockets=False) as world:
        wire, answers = world.freescout._transport, 0  # noqa: SLF001
        world.desk.faults.drop_chance = 1.0

        async def transport(path: str, query: Mapping[str, str], /) -> DeskResponse:
            nonlocal answers
            answer = await wire(path, query)
            answers += 1
            if answers == 4:
                for ticket_id in range(1, 120, 3):
                    world.desk.delete_forever(ticket_id)
            return answer

        world.freescout._transport = transport  # noqa: SLF001
        await world.poll()

        assert await world.wrong() == {}


async def test_a_desk_whose_clock_is_wrong_is_believed_by_its_own_clock(world: World) -> None:
    world.desk.faults.clock_offset = 900
    await world.advance(60)
    await world.poll()
    await world.advance(60)
    world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
    await world.advance(10)

    assert await world.wrong() == {}
    assert await world.disputes() == 0


async def test_a_strange_row_reads_none_and_spoils_nothing(world: World, log: Log) -> None:
    world.desk.faults.strange_statuses = {3: "resolved"}
    world.desk.faults.drop_chance = 1.0
    world.desk.change_subject(3, "Again")
    world.desk.set_status(4, "spam")
    await world.advance(60)

    await world.poll()

    assert await world.state(3) == "none"
    assert set(await world.wrong()) == {3}
    assert await world.disputes() == 0
    assert {line["ticket_id"] for line in log.lines("desk.strange_row")} == {3}


class TestTruthsAgainstClaims:
    """A claim that lands while a list is being read."""

    @pytest.mark.parametrize("when", ["before", "inside", "after"])
    async def test_nothing_newer_is_lost(self, world: World, when: str) -> None:
        async def change() -> None:
            world.desk.set_status(5, "spam" if world.desk.get(5).status != "spam" else "closed")
            await world.advance(6)

        if when == "before":
            await change()
        if when == "inside":
            interrupt(world, change)
        await world.beat()
        await world.passes.run()
        if when == "after":
            await change()

        await world.ask()

        assert await world.wrong() == {}
        assert await world.disputes() == 0


def interrupt(world: World, action: Callable[[], Awaitable[None]]) -> None:
    """Let something happen after the desk has answered the next list, before the poller writes it."""
    whole = world.freescout._transport  # noqa: SLF001

    async def transport(path: str, query: Mapping[str, str], /) -> DeskResponse:
        answer = await whole(path, query)
        world.freescout._transport = whole  # noqa: SLF001
        await action()
        return answer

    world.freescout._transport = transport  # noqa: SLF001


async def test_when_the_poller_stops_everything_runs_out_and_one_pass_restores_it(world: World) -> None:
    assert await world.wrong() == {}
    await world.advance(901)
    assert {state for state, _ in (await world.wrong()).values()} == {"none"}

    world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
    await world.advance(10)
    assert await world.state(3) == world.truth(3), "deliveries are believed on their own again"

    await world.poll()
    assert await world.wrong() == {}
