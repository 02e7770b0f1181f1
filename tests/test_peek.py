"""The peek: what was updated last is known within seconds, and nothing is vouched for."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from http import HTTPStatus
from typing import Any

import asyncpg
import pytest

from conftest import Log
from db import lease
from db.database import Database
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import Terms
from poller.freescout import DeskResponse, FreeScout, Transport
from poller.peek import REST, SIZE, Peeks
from simulator import ApiFault
from support.world import World, make_world, no_sleep, settle_gaps

EVERY = 3.0
VOUCHED = "SELECT * FROM freescout_lease CROSS JOIN freescout_poller"


@pytest.fixture
async def world(database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
    """A desk with forty tickets, a complete pass, and a delivery that has come."""
    async with make_world(database, sql, tickets=40, sockets=False) as world:
        world.desk.set_status(40, "spam" if world.desk.get(40).status != "spam" else "closed")
        await world.advance(30)
        await world.poll()
        await world.advance(30)
        yield world


class Steady:
    """Seconds that pass only while the desk answers."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make_peeks(world: World, *, through: Transport | None = None, clock: Steady | None = None) -> "Watched":
    return Watched(world, through or world.freescout._transport, clock or Steady())  # noqa: SLF001


class Watched(Peeks):
    """Peeks, and how often they called for a pass."""

    def __init__(self, world: World, transport: Transport, clock: Steady) -> None:
        self.crowded = 0
        desk = FreeScout(transport, sleep=no_sleep)
        super().__init__(desk, world.database, terms=Terms(), every=EVERY, clock=clock, crowded=self._count)

    def _count(self) -> None:
        self.crowded += 1


def change(world: World, *ticket_ids: int) -> None:
    for ticket_id in ticket_ids:
        world.desk.set_status(ticket_id, "pending" if world.desk.get(ticket_id).status == "spam" else "spam")


class TestWhatItFinds:
    async def test_a_change_and_a_new_ticket_are_in_the_cache_before_anything_is_delivered(
        self, world: World, log: Log
    ) -> None:
        change(world, 3)
        new = world.desk.customer_writes()
        assert await world.state(3) != world.truth(3)

        await make_peeks(world).look()

        assert await world.state(3) == world.truth(3)
        assert await world.state(new) == world.truth(new) == "active"
        assert [line["rows"] for line in log.lines("peek.found")] == [2]

    async def test_it_vouches_for_nothing_and_prolongs_nothing(self, world: World) -> None:
        change(world, 3)
        before = await world.sql.fetchrow(VOUCHED)
        others = "SELECT * FROM freescout_ticket WHERE ticket_id <> 3 ORDER BY ticket_id"
        held = await world.sql.fetch(others)

        await make_peeks(world).look()

        assert await world.sql.fetchrow(VOUCHED) == before
        assert await world.sql.fetch(others) == held
        assert await world.state(3) == world.truth(3)

    async def test_a_dispute_about_what_it_lists_is_settled_by_it(self, world: World) -> None:
        world.desk.reply_by_mail(40, status="pending")
        await world.advance(10)
        assert await world.disputes() == 1

        await make_peeks(world).look()

        assert await world.disputes() == 0
        assert await world.state(40) == "pending"

    async def test_an_answer_that_is_written_after_a_pass_has_counted_revives_nobody(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The ticket is deleted for ever after it was listed, and the pass counts without it, and then vouches."""
        new, wire = world.desk.customer_writes(), world.freescout._transport  # noqa: SLF001
        renew, counted, written = lease.renew, asyncio.Event(), asyncio.Event()

        async def wait_and_renew(*arguments: Any, **options: Any) -> float | None:
            counted.set()
            await written.wait()
            return await renew(*arguments, **options)

        async def late(path: str, query: Mapping[str, str], /) -> DeskResponse:
            answer = await wire(path, query)
            world.desk.faults.drop_chance = 1.0
            world.desk.delete_forever(new)
            await world.advance(1)
            passing.append(asyncio.create_task(world.passes.run()))
            await counted.wait()
            return answer

        passing: list[asyncio.Task[None]] = []
        monkeypatch.setattr(lease, "renew", wait_and_renew)
        await make_peeks(world, through=late).look()
        written.set()
        await passing[0]

        assert await world.state(new) == "none"
        await world.ask()
        assert await world.sql.fetchval("SELECT gone FROM freescout_ticket WHERE ticket_id = $1", new)
        assert await world.disputes() == 0

    async def test_a_row_that_makes_every_list_with_it_fail_is_stepped_around(self, world: World) -> None:
        world.desk.faults.drop_chance = 1.0
        for ticket_id in range(1, 15):
            change(world, ticket_id)
            await world.advance(1)
        latest, poison = set(range(3, 15)), 10
        world.desk.faults.unlistable.add(poison)
        before = world.api.count

        peeks = make_peeks(world)
        await peeks.look()

        assert set(await world.wrong()) & latest == {poison}
        assert world.api.count - before < 12, "fewer than one request a row"
        assert peeks.pause == EVERY, "it was no failure"


class TestHowOften:
    async def test_the_pause_is_nine_times_what_the_answer_took(self, world: World) -> None:
        clock, wire, took = Steady(), world.freescout._transport, 0.02  # noqa: SLF001

        async def slow(path: str, query: Mapping[str, str], /) -> DeskResponse:
            clock.now += took
            return await wire(path, query)

        peeks = make_peeks(world, through=slow, clock=clock)
        await peeks.look()
        assert peeks.pause == pytest.approx(EVERY - took)

        took = 2.0
        await peeks.look()
        assert peeks.pause == pytest.approx(REST * took)

    async def test_the_desk_rests_as_long_when_what_was_read_cannot_be_written(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, wire = Steady(), world.freescout._transport  # noqa: SLF001

        async def slow(path: str, query: Mapping[str, str], /) -> DeskResponse:
            clock.now += 5
            return await wire(path, query)

        async def away(*_truths: object, **_more: object) -> None:
            raise DatabaseUnavailableError("PostgreSQL is away")

        monkeypatch.setattr("poller.peek.record_truths", away)
        peeks = make_peeks(world, through=slow, clock=clock)

        with pytest.raises(DatabaseUnavailableError):
            await peeks.look()

        assert peeks.pause == REST * 5

    async def test_after_a_refusal_it_waits_longer_each_time_and_says_so_once(self, world: World, log: Log) -> None:
        world.desk.faults.api = ApiFault.UNAVAILABLE
        peeks, pauses = make_peeks(world), []
        for _ in range(8):
            await peeks.look()
            pauses.append(peeks.pause)

        assert all(longest / 2 <= pause <= longest for longest, pause in zip((3, 6, 12, 24, 48), pauses, strict=False))
        assert all(30 <= pause <= 60 for pause in pauses[5:])
        (line,) = log.lines("peek.failed")
        assert "in front of FreeScout answers 503" in str(line["reason"])
        assert not log.lines("desk.retry")
        assert await world.sql.fetchval("SELECT desk_state FROM freescout_poller") == "unknown"

        world.desk.faults.api = None
        await peeks.look()
        assert peeks.pause == EVERY
        world.desk.faults.api = ApiFault.UNAVAILABLE
        await peeks.look()
        assert peeks.pause <= EVERY, "an answer ends the row of failures"
        assert len(log.lines("peek.failed")) == 2

    async def test_retry_after_is_obeyed(self, world: World) -> None:
        world.desk.faults.api, world.desk.faults.retry_after = ApiFault.TOO_MANY_REQUESTS, 40
        peeks = make_peeks(world)

        await peeks.look()

        assert peeks.pause == 40

    async def test_what_a_web_server_answers_in_the_desks_place_is_left_to_passes(self, world: World) -> None:
        """A peek does not halve its way to the row: PHP may be away as a whole, and each answer slow."""
        world.desk.faults.unlistable, world.desk.faults.unlistable_answer = {40}, HTTPStatus.BAD_GATEWAY
        before = world.api.count

        await make_peeks(world).look()

        assert world.api.count == before + 1

    async def test_a_desk_that_is_broken_as_a_whole_is_not_searched_for_one_row(self, world: World) -> None:
        world.desk.faults.api = ApiFault.SERVER_ERROR
        asked, wire = [], world.freescout._transport  # noqa: SLF001

        async def count(path: str, query: Mapping[str, str], /) -> DeskResponse:
            asked.append(query)
            return await wire(path, query)

        await make_peeks(world, through=count).look()

        assert len(asked) == 2

    @pytest.mark.parametrize(("changed", "crowded"), [(SIZE - 1, 0), (SIZE, 1)])
    async def test_when_all_its_rows_are_news_it_calls_for_a_pass(
        self, world: World, changed: int, crowded: int
    ) -> None:
        await world.advance(3600)
        change(world, *range(1, changed + 1))
        peeks = make_peeks(world)

        await peeks.look()
        await peeks.look()

        assert peeks.crowded == crowded


class TestGaps:
    async def test_what_is_delivered_in_time_is_no_gap(self, world: World, log: Log) -> None:
        world.desk.faults.delay = 190
        change(world, 3)
        await make_peeks(world).look()
        assert await world.sql.fetchval("SELECT verdict FROM freescout_gap") == "peeked"

        await world.advance(205)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        assert await world.sql.fetchval("SELECT count(*) FROM freescout_gap") == 0
        assert not log.lines("gap.found")

    async def test_what_is_not_is_one_after_200_s_and_late_when_it_comes(self, world: World, log: Log) -> None:
        world.desk.faults.delay = 400
        change(world, 3)
        await make_peeks(world).look()
        await world.advance(199)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)
        assert not log.lines("gap.found")

        await world.advance(2)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)
        assert [line["ticket_id"] for line in log.lines("gap.found")] == [3]
        assert await world.sql.fetchval("SELECT verdict FROM freescout_gap") == "waiting"

        await world.advance(210)
        await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)
        assert await world.sql.fetchval("SELECT verdict FROM freescout_gap") == "late"
        assert log.lines("gap.late")[0]["late_by_s"] > 395

    async def test_what_never_comes_is_lost(self, world: World) -> None:
        world.desk.faults.drop_next = 1
        change(world, 3)
        await make_peeks(world).look()

        for seconds in (300, 81 * 60):
            await world.advance(seconds)
            await settle_gaps(world.database, mailboxes=world.freescout.mailboxes)

        gap = await world.sql.fetchrow("SELECT verdict, settled_at - healed_at AS after FROM freescout_gap")
        assert gap["verdict"] == "lost"
        assert gap["after"] > timedelta(minutes=80)
