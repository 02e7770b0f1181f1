"""What was answered when: the history says of each moment what `freescout_ticket_state` answered then."""

from datetime import datetime, timedelta

import asyncpg
import pytest

from db import lease
from db.clocks import clear_stamps_ahead
from db.database import Database
from db.history import prune_history, read_at
from db.lease import change_desk
from db.store import Delivery, record_absences, record_deliveries, record_truths
from freescout_audit.desk_clock import DeskClock
from freescout_audit.rule import Claim, Terms
from support.databases import Clock
from support.examples import at, claim, not_found, truth

TERMS = Terms()
HOUR = 3600.0
DAY = 24 * HOUR


class Cache:
    """A cache whose clock only the test moves, and whose history begins at noon."""

    def __init__(self, database: Database, sql: asyncpg.Connection, clock: Clock) -> None:
        self.database = database
        self.sql = sql
        self._clock = clock

    async def be_at(self, seconds: float) -> None:
        await self._clock.set(at(seconds))

    async def deliver(self, said: Claim, *, terms: Terms = TERMS) -> None:
        entry = Delivery(
            claim=said, endpoint="audit", event="convo.status", body_bytes=1310, body_ms=0.5, signed_with="current"
        )
        await record_deliveries(self.database, [entry], terms=terms)

    async def make_a_pass(self) -> None:
        """Beat, and renew the lease, as a pass does that finds nothing new."""
        await lease.beat(self.database, TERMS)
        beginning = await lease.read_beginning(self.database)
        now = beginning.asked_at
        clock = DeskClock(at=now, asked_at=now, offset=timedelta(), seen_through=now)
        await lease.renew(
            self.database,
            beginning,
            clock=clock,
            covered_through=beginning.asked_at,
            terms=TERMS,
            rows=0,
            requests=1,
        )

    async def now(self, ticket_id: int = 7) -> str:
        answer: str = await self.sql.fetchval("SELECT freescout_ticket_state($1)", ticket_id)
        assert await self.then(await self.sql.fetchval("SELECT freescout_now()"), ticket_id) == answer
        return answer

    async def then(self, moment: datetime, ticket_id: int = 7) -> str:
        """Return what SQL says of a moment; Python has to agree."""
        said: str = await self.sql.fetchval("SELECT freescout_ticket_state_at($1, $2)", ticket_id, moment)
        assert (await read_at(self.database, ticket_id, moment, deadline=5)).ticket_state == said
        return said

    async def why(self, seconds: float, ticket_id: int = 7) -> str:
        return (await read_at(self.database, ticket_id, at(seconds), deadline=5)).reason

    async def rows(self) -> int:
        rows: int = await self.sql.fetchval("SELECT count(*) FROM freescout_history")
        return rows


@pytest.fixture
async def cache(database: Database, sql: asyncpg.Connection, clock: Clock) -> Cache:
    return Cache(database, sql, clock)


async def test_each_change_is_known_since_when_it_was_written(cache: Cache) -> None:
    await cache.be_at(10)
    await cache.deliver(claim("active", 9))
    await cache.be_at(20)
    await cache.deliver(claim("closed", 19))
    await cache.be_at(30)

    assert [await cache.then(at(seconds)) for seconds in (5, 10, 19.9, 20, 30)] == [
        "none",
        "active",
        "active",
        "closed",
        "closed",
    ]
    assert [await cache.why(seconds) for seconds in (-1, 5, 15, 31)] == ["not_kept", "miss", "ok", "to_come"]
    assert await cache.why(15, ticket_id=8) == "miss"
    assert await cache.why(15, ticket_id=-1) == "miss"


async def test_a_dispute_answers_for_its_grace_and_settles_when_it_did(cache: Cache) -> None:
    await cache.deliver(claim("active", 0))
    await cache.be_at(10)
    await cache.deliver(claim("closed", 0))  # the same second: which came last is not known
    await cache.be_at(60)
    assert await cache.now() == "none"
    await record_truths(cache.database, [truth("closed", 0, asked=59)], terms=TERMS)

    assert [await cache.then(at(seconds)) for seconds in (9, 14.9, 15, 59, 60)] == [
        "active",
        "active",
        "none",
        "none",
        "closed",
    ]
    assert await cache.why(30) == "disputed"


async def test_without_a_poller_an_answer_ends_with_its_time_to_live(cache: Cache) -> None:
    await cache.deliver(claim("active", 0))
    await cache.be_at(30 * HOUR)
    assert await cache.now() == "none"
    await cache.deliver(claim("active", 30 * HOUR))
    await cache.be_at(31 * HOUR)

    assert [await cache.then(at(hours * HOUR)) for hours in (1, 23.9, 24, 29, 30, 31)] == [
        "active",
        "active",
        "none",
        "none",
        "active",
        "active",
    ]
    assert await cache.why(26 * HOUR) == "expired"


async def test_news_that_agrees_in_time_prolongs_the_row_and_adds_none(cache: Cache) -> None:
    for hours in range(0, 100, 10):
        await cache.be_at(hours * HOUR)
        await cache.deliver(claim("active", hours * HOUR))
    await cache.be_at(200 * HOUR)

    assert await cache.rows() == 1
    assert [await cache.then(at(hours * HOUR)) for hours in (1, 50, 113.9, 114)] == [
        "active",
        "active",
        "active",
        "none",
    ]


async def test_the_lease_vouches_as_long_as_it_was_renewed_in_time(cache: Cache) -> None:
    await record_truths(cache.database, [truth("active", -DAY, asked=0)], terms=TERMS)
    for seconds in (0, 600, 1200, 6000, 6600):
        await cache.be_at(seconds)
        await cache.make_a_pass()
    await cache.be_at(9000)

    stretches = await cache.sql.fetch("SELECT began_at, until_at FROM freescout_lease_history ORDER BY 1 OFFSET 1")
    assert [tuple(row) for row in stretches] == [(at(6000), at(7500))]
    assert [await cache.then(at(seconds)) for seconds in (1, 2099, 2100, 5999, 6000, 7499, 7500)] == [
        "active",
        "active",
        "none",
        "none",
        "active",
        "active",
        "none",
    ]


async def test_what_each_pass_confirms_adds_no_row_while_the_lease_vouches(cache: Cache) -> None:
    await cache.make_a_pass()
    for seconds in range(600, 7200, 600):
        await cache.be_at(seconds)
        await record_truths(cache.database, [truth("active", -60, asked=seconds)], terms=TERMS)
        await cache.make_a_pass()

    assert await cache.rows() == 1
    assert [await cache.then(at(seconds)) for seconds in (601, 3000, 6600)] == ["active"] * 3


async def test_an_unbroken_lease_is_a_row_an_hour(cache: Cache) -> None:
    for turn in range(4 * 30 + 1):
        await cache.be_at(120 * turn)
        await cache.make_a_pass()

    rows = await cache.sql.fetch("SELECT unbroken_since FROM freescout_lease_history WHERE until_at IS NOT NULL")
    assert 4 <= len(rows) <= 5
    assert {row["unbroken_since"] for row in rows} == {at(0)}


async def test_a_shorter_time_to_live_ends_answers_from_then_on(cache: Cache) -> None:
    shorter = Terms(lease=timedelta(seconds=60), ttl=timedelta(hours=1))
    await cache.deliver(claim("active", 0))
    await cache.be_at(600)
    await lease.note_terms(cache.database, shorter)
    await cache.be_at(700)
    assert await cache.now() == "none"
    await cache.deliver(claim("active", 700), terms=shorter)
    await cache.be_at(900)

    assert [await cache.then(at(seconds)) for seconds in (1, 599, 601, 699, 700, 900)] == [
        "active",
        "active",
        "none",
        "none",
        "active",
        "active",
    ]


async def test_what_is_gone_unpublished_or_unknown_read_none_and_why(cache: Cache) -> None:
    await record_truths(cache.database, [truth("active", -60, asked=0)], terms=TERMS)
    for seconds, said in (
        (10, truth("active", -50, asked=10, state="draft")),
        (20, truth(None, -40, asked=20)),
        (30, not_found(asked=30)),
    ):
        await cache.be_at(seconds)
        await record_truths(cache.database, [said], terms=TERMS)
    await cache.be_at(40)

    assert [await cache.why(seconds) for seconds in (5, 15, 25, 35)] == ["ok", "unpublished", "unknown", "gone"]


async def test_a_ticket_that_a_list_lacked_read_as_disputed(cache: Cache) -> None:
    await record_truths(cache.database, [truth("active", -60, asked=0)], terms=TERMS)
    await cache.be_at(10)
    await record_absences(cache.database, [7], asked_at=at(10), terms=TERMS)
    await cache.be_at(30)

    assert [await cache.then(at(seconds)) for seconds in (9, 14, 16)] == ["active", "active", "none"]


async def test_of_the_time_in_which_our_clock_was_ahead_nothing_is_claimed(cache: Cache) -> None:
    await cache.make_a_pass()
    await record_truths(cache.database, [truth("active", -60, asked=0)], terms=TERMS)
    await cache.be_at(100)
    await cache.make_a_pass()
    await cache.be_at(DAY)
    await cache.deliver(claim("closed", DAY))
    await cache.make_a_pass()
    await cache.be_at(130)
    assert await cache.now() == "none"
    assert await cache.why(120) == "not_kept"
    await clear_stamps_ahead(cache.database, look_closely=True)
    await cache.be_at(140)
    await record_truths(cache.database, [truth("closed", 110, asked=140)], terms=TERMS)
    await cache.make_a_pass()
    await cache.be_at(DAY + 10)

    assert [await cache.then(at(seconds)) for seconds in (120, 131, 139)] == ["none"] * 3
    assert await cache.then(at(140)) == "closed"


async def test_what_is_stamped_ahead_and_entered_once_our_clock_is_right_again_is_claimed_for_no_moment(
    cache: Cache,
) -> None:
    """PostgreSQL's clock may be set right between the rule's look at it and the entry."""
    await cache.be_at(1)
    await record_truths(cache.database, [truth("active", -60, asked=1)], terms=TERMS)
    await cache.be_at(100)
    ahead = at(100 + 22 * HOUR)
    await cache.sql.execute(
        "UPDATE freescout_ticket SET truth_at = $1, observed_at = $1, expires_at = $2", ahead, ahead + TERMS.lease
    )
    await cache.sql.execute("SELECT freescout_note_history('{7}')")
    assert await cache.now() == "none"
    await cache.be_at(110)
    await clear_stamps_ahead(cache.database, look_closely=True)
    await cache.be_at(120)
    await record_truths(cache.database, [truth("active", -60, asked=120)], terms=TERMS)
    await cache.be_at(130)

    assert [await cache.then(at(seconds)) for seconds in (99, 105, 115, 121)] == ["active", "none", "none", "active"]


async def test_a_clock_that_was_ahead_takes_no_answer_from_the_time_before(cache: Cache) -> None:
    known = [truth("active", -60, asked=0, ticket_id=ticket) for ticket in (7, 8)]
    await record_truths(cache.database, known, terms=TERMS)
    for seconds in (0, 600, 1200, 1800):
        await cache.be_at(seconds)
        await cache.make_a_pass()
    await cache.be_at(DAY)
    await cache.deliver(claim("closed", DAY, ticket_id=8))
    await cache.make_a_pass()
    await cache.be_at(1830)
    await clear_stamps_ahead(cache.database, look_closely=True)
    await cache.be_at(1840)
    await record_truths(cache.database, [truth("closed", 1810, asked=1840, ticket_id=8)], terms=TERMS)
    await cache.make_a_pass()
    await cache.be_at(DAY + 10)

    assert [await cache.then(at(seconds)) for seconds in (1, 1000, 1799)] == ["active"] * 3
    assert [await cache.then(at(seconds)) for seconds in (1801, 1839)] == ["none"] * 2
    assert await cache.then(at(1850)) == "active"
    assert [await cache.why(seconds, ticket_id=8) for seconds in (50, 1831, 1850)] == ["not_kept", "disputed", "ok"]


async def test_of_a_lease_that_was_renewed_while_our_clock_was_a_little_ahead_an_hour_is_lost(cache: Cache) -> None:
    await record_truths(cache.database, [truth("active", -60, asked=0)], terms=TERMS)
    for turn in range(60):
        await cache.be_at(120 * turn)
        await cache.make_a_pass()
    await cache.be_at(120 * 60 + 300)
    await cache.make_a_pass()
    await cache.be_at(120 * 60)
    await clear_stamps_ahead(cache.database, look_closely=True)
    await cache.make_a_pass()
    await cache.be_at(120 * 60 + 600)

    assert [await cache.then(at(seconds)) for seconds in (60, HOUR)] == ["active"] * 2
    assert [await cache.then(at(120 * 60 - seconds)) for seconds in (1, 60)] == ["none"] * 2


async def test_what_is_older_than_is_kept_goes_and_what_was_in_force_stays(cache: Cache) -> None:
    for days in range(10):
        await cache.be_at(days * DAY)
        await cache.deliver(claim("active" if days % 2 else "closed", days * DAY))
    await cache.deliver(claim("spam", 0, ticket_id=8))
    await cache.be_at(10 * DAY)
    await cache.sql.execute("SELECT freescout_number_transitions(100)")

    assert await prune_history(cache.database, keep=4.5 * DAY) == 5

    assert await cache.rows() == 6
    assert await cache.then(at(5 * DAY)) == "none"
    assert await cache.why(5 * DAY) == "not_kept"
    assert [await cache.then(at(days * DAY)) for days in (5.6, 6.1)] == ["active", "closed"]
    assert await prune_history(cache.database, keep=4.5 * DAY) == 0


async def test_a_ticket_of_a_desk_that_is_forgotten_has_no_history(cache: Cache) -> None:
    await cache.deliver(claim("active", 0))
    await cache.be_at(10)
    await change_desk(cache.database, "https://desk.example.org", forget=True)

    assert (await cache.rows(), await cache.then(at(5))) == (0, "none")
    assert await cache.why(5) == "not_kept"
