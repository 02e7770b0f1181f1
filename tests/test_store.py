"""The one write path, on the real PostgreSQL: batches, locks, and writers who meet."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from db import lease
from db.database import Database
from db.journal import prune_journal
from db.store import Delivery, Recorded, _Batch, record_absences, record_deliveries, record_truths
from db.url import normalise
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.rule import Claim, Terms, Truth
from support.databases import Clock
from support.examples import NOON, at, claim, not_found, sighting, truth

TERMS = Terms()
Overtake = Callable[[Callable[[], Awaitable[object]]], None]


def delivery(said: Claim | None) -> Delivery:
    return Delivery(
        claim=said,
        otherwise="" if said else "ignored",
        endpoint="audit",
        event="convo.status",
        body_bytes=1310,
        body_ms=0.5,
        signed_with="current",
    )


async def record(database: Database, *claims: Claim | None) -> Recorded:
    return await record_deliveries(database, [delivery(said) for said in claims], terms=TERMS)


def outcomes(recorded: Recorded) -> list[str | None]:
    return [None if verdict is None else verdict.outcome for verdict in recorded.verdicts]


@asynccontextmanager
async def waiting_for_a_row(
    database_url: str, sql: asyncpg.Connection, database: Database, said: Claim
) -> AsyncIterator[tuple[asyncpg.Connection, "asyncio.Task[Recorded]"]]:
    """Hold ticket 7, let a claim about it wait, and commit what is done inside."""
    holder = await asyncpg.connect(database_url)
    async with holder.transaction():
        await holder.execute("SELECT FROM freescout_ticket WHERE ticket_id = 7 FOR UPDATE")
        waiting = asyncio.create_task(record(database, said))
        while not await sql.fetchval(WAITS_FOR_A_LOCK_FIRST):
            assert not waiting.done()
        yield holder, waiting
    await holder.close()


WAITS_FOR_A_LOCK_FIRST = """
SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%freescout_lock_tickets%'
"""


@pytest.fixture
def overtake(monkeypatch: pytest.MonkeyPatch) -> Overtake:
    """Let something happen once, right after a batch was read without a lock."""
    read = _Batch.read

    def between(happens: Callable[[], Awaitable[object]]) -> None:
        async def read_and_be_overtaken(*arguments: Any) -> _Batch:
            batch = await read(*arguments)
            monkeypatch.setattr(_Batch, "read", read)
            await happens()
            return batch

        monkeypatch.setattr(_Batch, "read", read_and_be_overtaken)

    return between


async def test_a_batch_is_judged_in_its_order(database: Database, clock: Clock, sql: asyncpg.Connection) -> None:
    recorded = await record(
        database, claim("active", -9), claim("closed", -5), None, claim("active", -9), claim("closed", -5, ticket_id=8)
    )

    assert outcomes(recorded) == ["applied", "applied", None, "stale", "applied"]
    rows = await sql.fetch("SELECT ticket_id, status, updated_at, ttl_expires FROM freescout_ticket_cache ORDER BY 1")
    assert [tuple(row) for row in rows] == [
        (7, "closed", at(-5), NOON + TERMS.ttl),
        (8, "closed", at(-5), NOON + TERMS.ttl),
    ]
    journal = await sql.fetch("SELECT ticket_id, outcome FROM freescout_delivery ORDER BY delivery_id")
    assert [tuple(entry) for entry in journal] == [
        (7, "applied"),
        (7, "applied"),
        (None, "ignored"),
        (7, "stale"),
        (8, "applied"),
    ]


async def test_a_claim_that_writes_nothing_leaves_no_row(
    database: Database, clock: Clock, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE freescout_lease SET complete_through = $1", at(0))

    recorded = await record(database, claim("closed", -5))

    assert outcomes(recorded) == ["stale"]
    assert await sql.fetchval("SELECT count(*) FROM freescout_ticket") == 0
    assert await sql.fetchval("SELECT outcome FROM freescout_delivery") == "stale"


async def test_every_column_survives_the_way_there_and_back(
    database: Database, clock: Clock, sql: asyncpg.Connection
) -> None:
    await record(database, claim("active", -9), claim("closed", -9))
    verdict = (await record_truths(database, [truth("spam", -3, asked=1)], terms=TERMS)).verdicts[0]

    row = dict(await sql.fetchrow("SELECT * FROM freescout_ticket"))

    assert verdict.row is not None
    assert row == {name: getattr(verdict.row, name) for name in verdict.row.__struct_fields__}
    assert row["touched_at"] == NOON
    assert row["truth_at"] == at(1)


async def test_a_dispute_keeps_up_to_which_date_something_was_said_against_the_row(
    database: Database, clock: Clock, sql: asyncpg.Connection
) -> None:
    """A reply by mail, whose deliveries come when the second of the change is over: the second settles the first."""
    await record(database, claim("active", -60))

    await record(database, claim("closed", -60))
    bound = await sql.fetchval("SELECT disputed_through FROM freescout_ticket")
    settled = await record(database, claim("closed", -20))

    assert bound == at(-60)
    assert outcomes(settled) == ["applied"]
    row = await sql.fetchrow("SELECT status, disputed_at, disputed_through FROM freescout_ticket")
    assert tuple(row) == ("closed", None, None)


async def test_a_404_about_nothing_leaves_a_tombstone_that_the_view_does_not_show(
    database: Database, sql: asyncpg.Connection
) -> None:
    await record_truths(database, [not_found(asked=1)], terms=TERMS)

    assert await sql.fetchval("SELECT gone FROM freescout_ticket") is True
    assert await sql.fetchval("SELECT count(*) FROM freescout_ticket_cache") == 0


async def test_a_dispute_is_announced_when_it_is_committed(database: Database, sql: asyncpg.Connection) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    await sql.add_listener("freescout_dispute", lambda *_: heard.put_nowait("dispute"))

    await record(database, claim("active", -9))
    await record(database, claim("closed", -9))

    assert await asyncio.wait_for(heard.get(), 5) == "dispute"
    assert heard.empty()


@pytest.mark.parametrize("seed", range(3))
async def test_writers_who_meet_on_new_and_old_tickets_never_lose_or_deadlock(
    database: Database, sql: asyncpg.Connection, seed: int
) -> None:
    """Batches over the same few tickets, in any order, also while they do not exist yet."""
    chance = random.Random(seed)
    news = [claim("closed", second, ticket_id=ticket) for ticket in range(1, 13) for second in range(-30, 0)]
    chance.shuffle(news)
    batches = [news[start : start + 9] for start in range(0, len(news), 9)]

    await asyncio.gather(*(record(database, *batch) for batch in batches))

    rows = await sql.fetch("SELECT ticket_id, updated_at FROM freescout_ticket ORDER BY 1")
    assert [tuple(row) for row in rows] == [(ticket, at(-1)) for ticket in range(1, 13)]
    assert await sql.fetchval("SELECT count(*) FROM freescout_delivery") == len(news)


async def test_one_of_many_first_sightings_is_applied_and_the_others_know(database: Database) -> None:
    everyone = await asyncio.gather(*(record(database, claim("closed", -5)) for _ in range(10)))

    assert sorted(str(outcomes(recorded)[0]) for recorded in everyone) == ["applied"] + ["duplicate"] * 9


async def test_a_second_writer_sees_what_the_first_wrote_and_a_later_clock(
    database: Database, sql: asyncpg.Connection, database_url: str
) -> None:
    """`touched_at` is taken under the row's lock: who waited for it does not come out earlier."""
    await record(database, claim("active", -9))
    async with waiting_for_a_row(database_url, sql, database, claim("closed", -5)) as (holder, waiting):
        released_at = await holder.fetchval("SELECT clock_timestamp()")

    recorded = await waiting
    assert recorded.now >= released_at
    assert outcomes(recorded) == ["applied"]


async def test_a_second_writer_judges_by_the_lease_as_it_is_when_the_locks_are_held(
    database: Database, sql: asyncpg.Connection, database_url: str
) -> None:
    """What a pass has seen through while we waited makes a claim old news."""
    await record(database, claim("active", -9))
    async with waiting_for_a_row(database_url, sql, database, claim("closed", -5)) as (holder, waiting):
        await holder.execute("UPDATE freescout_lease SET seen_through = $1, heartbeat_at = freescout_now()", at(0))

    assert outcomes(await waiting) == ["disputed"]


class TestOvertaken:
    """Somebody writes between our read and our write: nothing is judged by what was, and nothing is written twice."""

    @pytest.mark.parametrize("held", [True, False], ids=["a row that both know", "a ticket that is new to both"])
    async def test_what_was_written_meanwhile_is_judged_again(
        self, database: Database, sql: asyncpg.Connection, overtake: Overtake, *, held: bool
    ) -> None:
        if held:
            await record(database, claim("active", -9))
        overtake(lambda: record(database, claim("closed", -3)))

        recorded = await record(database, claim("spam", -5), claim("active", -9, ticket_id=8))

        assert outcomes(recorded) == ["stale", "applied"]
        rows = await sql.fetch("SELECT ticket_id, status FROM freescout_ticket ORDER BY 1")
        assert [tuple(row) for row in rows] == [(7, "closed"), (8, "active")]
        assert await sql.fetchval("SELECT count(*) FROM freescout_delivery") == 3 + held

    async def test_what_stays_without_a_row_leaves_none_either(
        self, database: Database, sql: asyncpg.Connection, overtake: Overtake
    ) -> None:
        await sql.execute("UPDATE freescout_lease SET complete_through = $1", at(-4))
        overtake(lambda: record(database, claim("closed", -3)))

        assert outcomes(await record(database, claim("active", -2), claim("spam", -5, ticket_id=8))) == [
            "applied",
            "stale",
        ]
        assert await sql.fetchval("SELECT array_agg(ticket_id) FROM freescout_ticket") == [7]

    async def test_what_a_pass_has_seen_through_meanwhile_counts(
        self, database: Database, sql: asyncpg.Connection, overtake: Overtake
    ) -> None:
        await record(database, claim("active", -9))
        overtake(
            lambda: sql.execute("UPDATE freescout_lease SET seen_through = $1, heartbeat_at = freescout_now()", at(0))
        )

        assert outcomes(await record(database, claim("closed", -5))) == ["disputed"]

    async def test_a_truth_meets_a_claim_that_comes_while_it_is_written(
        self, database: Database, clock: Clock, sql: asyncpg.Connection, overtake: Overtake
    ) -> None:
        await record(database, claim("active", -9))
        await clock.set(at(2))
        overtake(lambda: record(database, claim("closed", 1)))

        recorded = await record_truths(database, [truth("active", -9, asked=1)], terms=TERMS)

        assert [verdict.outcome for verdict in recorded.verdicts] == ["contested"]
        assert await sql.fetchval("SELECT status FROM freescout_ticket WHERE disputed_at = $1", at(2)) == "closed"

    async def test_a_list_that_lacks_a_ticket_meets_a_claim(
        self, database: Database, clock: Clock, sql: asyncpg.Connection, overtake: Overtake
    ) -> None:
        await record(database, claim("active", -9))
        await clock.set(at(2))
        overtake(lambda: record(database, claim("closed", 1)))

        await record_absences(database, [7], asked_at=at(1), terms=TERMS)

        row = await sql.fetchrow("SELECT status, touched_at, disputed_at FROM freescout_ticket")
        assert row is not None
        assert (row["status"], row["touched_at"]) == ("closed", at(2)), "what was written meanwhile stands"

    async def test_under_locks_nobody_is_overtaken_again(
        self, database: Database, sql: asyncpg.Connection, overtake: Overtake, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A heartbeat or a pass writes the lease at any moment, and nobody can lock it."""
        lock = _Batch.lock

        async def lock_and_beat(*arguments: Any) -> _Batch:
            batch = await lock(*arguments)
            await lease.beat(database, TERMS)
            return batch

        monkeypatch.setattr(_Batch, "lock", lock_and_beat)
        await record(database, claim("active", -9))
        overtake(lambda: sql.execute("UPDATE freescout_ticket SET touched_at = touched_at"))
        assert outcomes(await record(database, claim("closed", -6))) == ["applied"]

        overtake(lambda: sql.execute("UPDATE freescout_ticket SET touched_at = touched_at"))
        recorded = await record_truths(database, [truth("spam", -6, asked=99)], terms=TERMS)
        assert len(recorded.verdicts) == 1

    async def test_it_costs_no_connection(
        self, database: Database, sql: asyncpg.Connection, overtake: Overtake
    ) -> None:
        await record(database, claim("active", -9))
        backends = "SELECT array_agg(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> $1"
        before = await sql.fetchval(backends, sql.get_server_pid())
        for overtaken in (
            lambda: record(database, claim("closed", -6)),
            lambda: record_truths(database, [truth("spam", -6, asked=-6)], terms=TERMS),
        ):
            overtake(lambda: sql.execute("UPDATE freescout_ticket SET touched_at = touched_at"))
            await overtaken()

        assert await sql.fetchval(backends, sql.get_server_pid()) == before


async def test_only_an_answer_whose_question_stays_open_without_it_does_not_wait_for_the_disk(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery is answered once it is kept, and a pass vouches for what it has read."""
    read, waits = _Batch.read, []

    async def look(*arguments: Any) -> _Batch:
        batch = await read(*arguments)
        waits.append(await batch.connection.driver.fetchval("SHOW synchronous_commit"))
        return batch

    monkeypatch.setattr(_Batch, "read", look)
    await record(database, claim("active", -9))
    await record_truths(database, [truth("active", -9, asked=1)], terms=TERMS)
    await record_absences(database, [7], asked_at=at(2), terms=TERMS)
    await record_truths(database, [truth("active", -9, asked=3)], terms=TERMS, durable=False)

    assert waits == ["on", "on", "on", "off"]


async def test_a_lock_is_waited_for_as_long_as_we_are_told(database: Database, sql: asyncpg.Connection) -> None:
    await record(database, claim("active", -9))
    async with sql.transaction():
        await sql.execute("SELECT FROM freescout_ticket FOR UPDATE")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await record_deliveries(
                database, [delivery(claim("closed", -5))], terms=TERMS, deadline=20, lock_patience=0.01
            )


async def test_a_batch_that_cannot_be_committed_leaves_nothing(database: Database, sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER TABLE freescout_delivery ADD CHECK (body_bytes <> 1310)")

    with pytest.raises(asyncpg.CheckViolationError):
        await record(database, claim("closed", -5))

    assert await sql.fetchval("SELECT count(*) FROM freescout_ticket") == 0


async def test_a_writer_that_waits_too_long_gives_up_and_lets_go(database: Database, sql: asyncpg.Connection) -> None:
    await record(database, claim("active", -9))
    async with sql.transaction():
        await sql.execute("SELECT FROM freescout_ticket FOR UPDATE")
        with pytest.raises(DatabaseUnavailableError, match="no answer in time"):
            await record_deliveries(database, [delivery(claim("closed", -5))], terms=TERMS, deadline=0.2)

    assert outcomes(await record(database, claim("closed", -5))) == ["applied"]


async def test_deliveries_are_saved_whatever_a_role_does_by_default(database_url: str, sql: asyncpg.Connection) -> None:
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    await sql.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    database = Database(normalise(database_url))

    assert outcomes(await record(database, claim("closed", -5))) == ["applied"]
    async with database.connection() as connection:
        assert await connection.driver.fetchval("SHOW transaction_isolation") == "read committed"
    await database.close()


async def test_a_full_queue_of_announcements_takes_back_no_commit(
    database: Database, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.store.DISPUTED", "a channel's name that is longer than PostgreSQL takes" + 64 * "x")
    await record(database, claim("active", -9))

    assert outcomes(await record(database, claim("closed", -9))) == ["disputed"]
    assert await sql.fetchval("SELECT count(*) FROM freescout_delivery") == 2


async def test_a_database_without_our_schema_says_what_to_do(database_url: str) -> None:
    bare = Database(normalise(database_url.rpartition("/")[0] + "/postgres"))

    with pytest.raises(DatabaseUnavailableError, match=r"run python -m db\.migrate"):
        await record(bare, claim())

    await bare.close()


async def test_a_truth_meets_a_claim_that_came_while_it_was_asked(
    database: Database, clock: Clock, sql: asyncpg.Connection
) -> None:
    await record(database, claim("active", -9))
    asked = Truth(ticket_id=7, sighting=claim("active", -9).sighting, asked_at=NOON + timedelta(seconds=1))
    await clock.set(at(2))
    await record(database, claim("closed", 1))

    (verdict,) = (await record_truths(database, [asked], terms=TERMS)).verdicts

    assert verdict.outcome == "contested"
    assert await sql.fetchval("SELECT status FROM freescout_ticket WHERE disputed_at = $1", at(2)) == "closed"


async def test_the_journal_keeps_what_is_young(database: Database, clock: Clock, sql: asyncpg.Connection) -> None:
    for second in (0, 10, 20):
        await clock.set(at(second))
        await record(database, claim("closed", -5))
    await clock.set(at(3610))

    assert await prune_journal(database, keep=3600, at_most=1) == 1
    assert await prune_journal(database, keep=3600) == 0
    assert await sql.fetchval("SELECT min(received_at) FROM freescout_delivery") == at(10)


async def test_a_migration_that_changes_what_a_statement_returns_is_noticed_and_no_failure(
    database: Database, clock: Clock, sql: asyncpg.Connection
) -> None:
    """A release migrates under processes that have prepared the statement."""
    await clock.set(at(1))
    await record_truths(database, [truth("active", -9, asked=1)], terms=TERMS)
    made: str = await sql.fetchval("SELECT pg_get_functiondef('freescout_read_tickets'::regproc)")
    await sql.execute("DROP FUNCTION freescout_read_tickets")
    await sql.execute(
        made.replace("OUT versions json", "OUT versions json, OUT more text").replace(
            "CREATE OR REPLACE FUNCTION", "CREATE FUNCTION"
        )
    )
    await clock.set(at(2))

    (verdict,) = (await record_truths(database, [truth("spam", -3, asked=2)], terms=TERMS)).verdicts

    assert verdict.outcome == "written"


async def test_a_truth_with_the_last_date_there_is_is_written_whatever_the_desks_clock(
    database: Database, sql: asyncpg.Connection
) -> None:
    await sql.execute("UPDATE freescout_lease SET clock_offset = '-1 day'")

    last = msgspec.structs.replace(sighting("active", 0), updated_at=datetime.max.replace(tzinfo=UTC))

    await record_truths(database, [Truth(ticket_id=7, sighting=last, asked_at=datetime.now(UTC))], terms=TERMS)

    assert await sql.fetchval("SELECT count(*) FROM freescout_ticket") == 1
