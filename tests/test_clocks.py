"""Clocks that were wrong: the desk's, a proxy's `Date`, and above all our own, the database's."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest

from conftest import Log, Receiver
from db import clocks, lease
from db.clocks import clear_stamps_ahead, read_clocks, reset_clock
from db.database import Database
from db.reads import UNAVAILABLE, read_from
from db.standing import read_standing
from db.url import normalise
from freescout_audit.desk_clock import DeskClock
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import Row, Terms
from poller.freescout import DeskUnavailableError
from poller.passes import Passes
from support.databases import Clock
from support.examples import NOON, body, row
from support.world import World, make_world

DAY = 86_400.0
IMPOSSIBLE = "timestamptz '20000-01-01Z'"
"""PostgreSQL has a value for it, and Python has none."""


@pytest.fixture
async def world(database: Database, sql: asyncpg.Connection) -> AsyncIterator[World]:
    async with make_world(database, sql, tickets=12, sockets=False) as world:
        await world.poll()
        await world.advance(10)
        yield world


async def put(sql: asyncpg.Connection, held: Row) -> None:
    fields = msgspec.structs.asdict(held)
    places = ", ".join(f"${number + 1}" for number in range(len(fields)))
    await sql.execute(f"INSERT INTO freescout_ticket ({', '.join(fields)}) VALUES ({places})", *fields.values())


class OurClock:
    """The database's clock, which may be ahead of the world's."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def be_ahead(self, seconds: float) -> None:
        ahead = timedelta(seconds=seconds)
        await self._world.sql.execute("UPDATE test.clock SET at = $1", self._world.clock.now() + ahead)


async def standing(sql: asyncpg.Connection) -> asyncpg.Record:
    return await sql.fetchrow("SELECT * FROM freescout_lease")


class TestADateIsNotBelievedBlindly:
    @pytest.mark.parametrize("date", [datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC) for year in (1970, 2030, 9999)])
    async def test_a_pass_with_a_lying_date_fails_before_anything_is_written(
        self, world: World, date: datetime
    ) -> None:
        before = await standing(world.sql)
        world.desk.faults.drop_chance = 1.0
        world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
        await world.advance(100)
        world.desk.faults.date = date

        with pytest.raises(DeskUnavailableError, match="FreeScout's Date says") as failed:
            await world.passes.run()
        assert failed.value.next_step
        assert await standing(world.sql) == before
        assert 3 in await world.wrong()

        world.desk.faults.date = None
        await world.poll()
        assert await world.wrong() == {}

    @pytest.mark.parametrize("requests", [1, 2])
    async def test_so_does_one_whose_later_answers_lie(self, world: World, requests: int) -> None:
        await world.advance(4000)
        await world.poll()
        before = (await standing(world.sql))["lease_until"]
        await world.advance(100)
        ask = world.freescout._transport  # noqa: SLF001
        left = requests

        async def lie_later(path: str, query: object, /) -> object:
            nonlocal left
            left -= 1
            world.desk.faults.date = datetime(9999, 12, 31, tzinfo=UTC) if left < 0 else None
            return await ask(path, query)  # type: ignore[arg-type]

        world.freescout._transport = lie_later  # type: ignore[assignment] # noqa: SLF001

        with pytest.raises(DeskUnavailableError, match="FreeScout's Date says"):
            await world.passes.run()
        assert (await standing(world.sql))["lease_until"] == before

    async def test_a_desk_whose_clock_is_most_of_a_day_wrong_is_believed(self, world: World) -> None:
        world.desk.faults.clock_offset = 23 * 3600
        await world.advance(100)

        await world.poll()

        assert await world.wrong() == {}

    async def test_deliveries_go_on_meanwhile(self, world: World) -> None:
        world.desk.faults.date = datetime(2030, 1, 1, tzinfo=UTC)
        with pytest.raises(DeskUnavailableError):
            await world.passes.run()
        world.desk.set_status(3, "spam")

        await world.advance(60)

        assert await world.state(3) == "spam"

    @pytest.mark.parametrize("name", ["seen_through", "complete_through", "set_back_at", "heartbeat_at"])
    @pytest.mark.parametrize("date", [IMPOSSIBLE, "'infinity'", "'-infinity'", "'2200-01-02Z'", "'1999-12-31Z'"])
    async def test_the_lease_takes_no_date_that_no_clock_says(
        self, sql: asyncpg.Connection, name: str, date: str
    ) -> None:
        with pytest.raises(asyncpg.CheckViolationError):
            await sql.execute(f"UPDATE freescout_lease SET {name} = {date}")

    async def test_nor_an_offset_that_no_clock_has(self, sql: asyncpg.Connection) -> None:
        for days in (32, -32, 2_900_000):
            with pytest.raises(asyncpg.CheckViolationError):
                await sql.execute("UPDATE freescout_lease SET clock_offset = $1 * interval '1 day'", days)


async def unchecked(sql: asyncpg.Connection) -> None:
    """Make the lease as it was before it had constraints."""
    for name in ("dates", "clock_offset"):
        await sql.execute(f"ALTER TABLE freescout_lease DROP CONSTRAINT freescout_lease_{name}_check")


@pytest.mark.usefixtures("no_housekeeping")
class TestADateThatCannotBe:
    """In the database, whoever wrote it there."""

    async def test_every_use_says_so_in_one_line(self, database: Database, sql: asyncpg.Connection) -> None:
        await unchecked(sql)
        await sql.execute(f"UPDATE freescout_lease SET seen_through = {IMPOSSIBLE}")
        uses: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: lease.read_beginning(database),
            lambda: read_standing(database),
            lambda: lease.see_through(database, NOON, asked_at=NOON),
        )

        for use in uses:
            with pytest.raises(DatabaseUnavailableError, match="a date that cannot be") as error:
                await use()
            assert error.value.next_step == "freescout-audit desk clock --reset"

    async def test_a_row_with_one_is_unavailable_to_readers_and_to_deliveries(
        self, database: Database, sql: asyncpg.Connection, receiver: Receiver, log: Log
    ) -> None:
        await put(sql, row("closed"))
        await sql.execute(f"UPDATE freescout_ticket SET expires_at = {IMPOSSIBLE}")

        assert await read_from(database, 7, deadline=5) == UNAVAILABLE
        status, _ = await receiver.deliver(body("active", 5))
        assert status == 503
        assert log.lines("delivery.not_saved")
        assert not log.lines("receiver.fault")

    async def test_readiness_is_red_and_does_not_break(self, sql: asyncpg.Connection, receiver: Receiver) -> None:
        await unchecked(sql)
        await sql.execute(f"UPDATE freescout_lease SET complete_through = {IMPOSSIBLE}")

        async with receiver.client.get(receiver.url + "/readyz") as answer:
            said = await answer.json()

        assert answer.status == 503
        assert "desk clock --reset" in said["components"]["database"]["next_step"]

    async def test_a_database_whose_own_clock_is_in_no_century_of_ours_is_unavailable(
        self, database: Database, clock: Clock
    ) -> None:
        await clock.set(datetime(2300, 1, 1, tzinfo=UTC))

        with pytest.raises(DatabaseUnavailableError, match="a date that cannot be"):
            await lease.beat(database, Terms())

    async def test_an_error_of_another_kind_stays_one(self, database: Database) -> None:
        for error in (UnicodeDecodeError("utf-8", b"", 0, 1, "no date"), KeyError("no date")):
            with pytest.raises(type(error)):
                async with database.connection():
                    raise error


class TestReset:
    async def test_it_puts_a_clock_right_that_python_cannot_read(
        self, database: Database, sql: asyncpg.Connection
    ) -> None:
        await unchecked(sql)
        await sql.execute(
            f"UPDATE freescout_lease SET (seen_through, complete_through, covered_through, set_back_through,"
            f" set_back_at, lease_until, renewed_by_pass, heartbeat_at) = ({', '.join([IMPOSSIBLE] * 8)}),"
            " clock_offset = interval '170000000 years'"
        )
        assert (await read_clocks(database)).seen_through == "20000-01-01 00:00:00+00"

        await reset_clock(database)

        held = await standing(sql)
        now = await sql.fetchval("SELECT clock_timestamp()")
        for name in ("seen_through", "covered_through", "lease_until", "renewed_by_pass", "heartbeat_at"):
            assert timedelta() <= now - held[name] < timedelta(minutes=1), name
        assert (held["complete_through"], held["set_back_through"], held["set_back_at"]) == (None, None, None)
        assert held["clock_offset"] == timedelta()

    async def test_what_is_right_stays(self, world: World) -> None:
        before = await standing(world.sql)

        await reset_clock(world.database)

        after = await standing(world.sql)
        for name in ("complete_through", "covered_through", "renewed_by_pass"):
            assert after[name] == before[name], name
        await world.advance(100)
        await world.poll()
        assert await world.wrong() == {}

    async def test_after_a_clock_of_another_year_passes_and_push_go_on(self, world: World) -> None:
        await world.sql.execute(
            "UPDATE freescout_lease SET (seen_through, complete_through, covered_through)"
            " = ('2030-01-01Z', '2030-01-01Z', '2030-01-01Z'), clock_offset = interval '31 days'"
        )

        await reset_clock(world.database)

        await world.advance(100)
        await world.poll()
        await world.advance(5)
        world.desk.set_status(3, "spam")
        await world.advance(30)
        assert await world.state(3) == "spam"
        assert await world.disputes() == 0
        assert await world.wrong() == {}


class TestOurOwnClock:
    """The database's clock is ahead for a while: what it stamps vouches for nothing once it is right again."""

    async def test_what_a_pass_stamped_ahead_vouches_for_nothing_until_the_next_one(
        self, world: World, log: Log
    ) -> None:
        ours = OurClock(world)
        await ours.be_ahead(23 * 3600)
        await world.poll()
        assert await world.wrong() == {}
        await ours.be_ahead(0)
        assert {answer for answer, _ in (await world.wrong()).values()} == {"none"}
        world.desk.faults.drop_chance = 1.0
        world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
        await world.advance(100)

        await world.poll()

        assert await world.wrong() == {}
        assert await world.disputes() == 0
        (line,) = log.lines("database.clock_went_back")
        assert (line["level"], line["everything"]) == ("error", False)
        assert 22 * 3600 < line["seconds"] < 23 * 3600

    async def test_afterwards_the_push_path_is_as_fast_as_ever(self, world: World) -> None:
        ours = OurClock(world)
        await ours.be_ahead(23 * 3600)
        await world.poll()
        await ours.be_ahead(0)
        await world.advance(100)
        await world.poll()
        await world.advance(5)

        world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
        await world.advance(30)

        assert await world.disputes() == 0
        assert await world.wrong() == {}
        assert (await standing(world.sql))["set_back_at"] is None

    async def test_what_only_deliveries_stamped_ahead_is_asked_for(self, world: World) -> None:
        ours = OurClock(world)
        world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
        await ours.be_ahead(2 * DAY)
        world.reports += await world.worker.run_due(world.transport)
        while (due := world.worker.next_due()) is not None:
            world.clock.advance_to(due)
            await ours.be_ahead(2 * DAY)
            await world.worker.run_due(world.transport)
        await ours.be_ahead(0)
        assert await world.state(3) == "none"

        await world.poll()

        assert await world.wrong() == {}

    async def test_above_a_thousand_everything_is_read_anew(
        self, world: World, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(clocks, "MANY", 5)
        ours = OurClock(world)
        world.desk.delete_forever(2)
        await ours.be_ahead(DAY - 600)
        await world.poll()
        await ours.be_ahead(0)
        world.desk.faults.drop_chance = 1.0
        world.desk.set_status(3, "spam" if world.desk.get(3).status != "spam" else "closed")
        await world.advance(100)

        before = world.api.count
        await world.beat()
        await world.passes.run()

        assert await world.wrong() == {}
        assert world.api.count - before < 12
        assert log.lines("database.clock_went_back")[0]["everything"]
        assert await world.sql.fetchval("SELECT count(*) FROM freescout_ticket WHERE truth_at > freescout_now()") == 0

    async def test_what_another_process_stamped_ahead_is_found_by_the_first_pass_of_the_next_poller(
        self, world: World
    ) -> None:
        await world.sql.execute(
            "UPDATE freescout_ticket SET truth_at = truth_at + interval '1 day' WHERE ticket_id = 3"
        )
        restarted = Passes(
            world.freescout, world.database, terms=Terms(), overlap=timedelta(seconds=3900), page_size=50
        )

        await restarted.run()
        await world.ask()

        assert await world.wrong() == {}

    async def test_a_question_asked_ahead_is_found(self, world: World) -> None:
        await world.sql.execute(
            "UPDATE freescout_ticket SET (disputed_at, grace_until) = (freescout_now(), freescout_now())"
            " WHERE ticket_id = 3"
        )
        await OurClock(world).be_ahead(DAY)
        await world.ask()
        await OurClock(world).be_ahead(0)
        assert await world.state(3) == "none"

        await world.poll()

        assert await world.wrong() == {}

    async def test_the_journal_has_no_delivery_of_tomorrow(self, world: World) -> None:
        world.desk.set_status(3, "spam")
        await OurClock(world).be_ahead(DAY)
        while (due := world.worker.next_due()) is not None:
            world.clock.advance_to(due)
            await OurClock(world).be_ahead(DAY)
            await world.worker.run_due(world.transport)
        await OurClock(world).be_ahead(0)

        await world.poll()

        assert await world.sql.fetchval("SELECT max(received_at) <= freescout_now() FROM freescout_delivery")

    async def test_a_clock_that_is_right_clears_nothing(self, world: World) -> None:
        assert await clear_stamps_ahead(world.database, look_closely=True) is None

    async def test_a_failover_to_a_host_some_seconds_behind_costs_those_seconds(self, world: World) -> None:
        await world.poll()
        await OurClock(world).be_ahead(-3)
        assert await world.wrong() != {}

        await OurClock(world).be_ahead(0)

        assert await world.wrong() == {}

    async def test_a_pass_that_our_clock_went_back_in_does_not_vouch(self, world: World) -> None:
        before = (await standing(world.sql))["lease_until"]
        await world.advance(100)
        ask = world.freescout._transport  # noqa: SLF001

        async def go_back(path: str, query: object, /) -> object:
            await OurClock(world).be_ahead(-30)
            return await ask(path, query)  # type: ignore[arg-type]

        world.freescout._transport = go_back  # type: ignore[assignment] # noqa: SLF001

        with pytest.raises(DatabaseUnavailableError, match="clock was set back"):
            await world.passes.run()
        assert (await standing(world.sql))["lease_until"] == before

    async def test_a_lease_renewed_ahead_blocks_no_later_pass(self, world: World) -> None:
        beginning = await lease.read_beginning(world.database)
        await world.sql.execute("UPDATE freescout_lease SET renewed_by_pass = freescout_now() + interval '1 day'")

        await lease.renew(
            world.database,
            beginning,
            clock=DeskClock(
                at=world.clock.now(),
                asked_at=beginning.asked_at,
                offset=timedelta(),
                seen_through=world.clock.now(),
            ),
            covered_through=world.clock.now(),
            terms=Terms(),
            rows=0,
            requests=0,
        )

        assert (await standing(world.sql))["renewed_by_pass"] == beginning.asked_at

    async def test_the_alarms_stamps_are_cleared_too(self, world: World) -> None:
        await world.sql.execute(
            "UPDATE freescout_poller SET (full_walk_at, desk_since)"
            " = (freescout_now() + interval '1 day', freescout_now() + interval '1 day')"
        )

        assert await clear_stamps_ahead(world.database, look_closely=True) is not None

        assert await world.sql.fetchval(
            "SELECT greatest(full_walk_at, desk_since) <= freescout_now() FROM freescout_poller"
        )


async def test_the_look_at_every_stamp_may_take_longer_than_another_statement(
    database_url: str, sql: asyncpg.Connection
) -> None:
    database = Database(normalise(database_url), patience=0.1)

    async with asyncio.TaskGroup() as tasks, sql.transaction():
        await sql.execute("LOCK TABLE freescout_ticket IN ACCESS EXCLUSIVE MODE")
        look = tasks.create_task(clear_stamps_ahead(database, look_closely=True))
        await asyncio.sleep(0.4)

    assert look.result() is None
    await database.close()


async def test_the_terms_in_force_stand_in_the_lease(database: Database, sql: asyncpg.Connection) -> None:
    assert (await standing(sql))["cache_ttl"] == 30 * DAY

    await lease.beat(database, Terms(lease=timedelta(seconds=600), ttl=timedelta(seconds=7200)))

    held = await standing(sql)
    assert (held["cache_lease"], held["cache_ttl"]) == (600.0, 7200.0)


async def test_without_a_poller_the_receiver_says_which_terms_are_in_force(
    sql: asyncpg.Connection, receiver: Receiver
) -> None:
    async with receiver.client.get(receiver.url + "/readyz"):
        held = await standing(sql)

    assert (held["cache_lease"], held["cache_ttl"]) == (900.0, DAY)
