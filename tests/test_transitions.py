"""The feed: each change of a settled answer once, in an order that no reader misses anything in."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import asyncpg
import pytest

from conftest import Log
from db import statements
from db.database import Database
from db.history import prune_history
from db.lease import change_desk, vouch_for_nothing
from db.standing import read_standing
from db.store import Delivery, record_deliveries, record_truths
from db.transitions import number_for_ever, number_transitions, read_transitions
from db.url import normalise
from freescout_audit.asking import Transition, transitions
from freescout_audit.events import RECEIVER_FAULT
from freescout_audit.rule import Claim, Terms
from support.databases import Clock
from support.examples import at, claim, not_found, truth
from support.grants import MAY_NOT, may_make_roles

TERMS = Terms()


async def deliver(database: Database, *claims: Claim) -> None:
    entries = [
        Delivery(claim=said, endpoint="audit", event="convo.status", body_bytes=9, body_ms=0.5, signed_with="current")
        for said in claims
    ]
    await record_deliveries(database, entries, terms=TERMS)


def steps(found: list[Transition]) -> list[tuple[int, int, str, str]]:
    return [(each.transition_id, each.ticket_id, each.before, each.after) for each in found]


async def feed(database: Database, after: int = 0) -> list[Transition]:
    await number_transitions(database)
    return list(await read_transitions(database, after=after))


@pytest.mark.usefixtures("clock")
async def test_each_change_of_the_settled_answer_is_a_transition(database: Database, clock: Clock) -> None:
    await deliver(database, claim("active", 0))
    await clock.set(at(10))
    await deliver(database, claim("active", 5))  # a note: nothing settled has changed
    await deliver(database, claim("closed", 9))
    await clock.set(at(20))
    await record_truths(database, [truth("closed", 9, asked=20, state="draft")], terms=TERMS)
    await clock.set(at(30))
    await record_truths(database, [not_found(asked=30)], terms=TERMS)  # none before, none after

    found = await feed(database)

    assert steps(found) == [(1, 7, "none", "active"), (2, 7, "active", "closed"), (3, 7, "closed", "none")]
    assert [(each.reason, each.via, each.changed_at, each.known_at) for each in found] == [
        (None, "webhook", at(0), at(0)),
        (None, "webhook", at(9), at(10)),
        ("unpublished", "poller", at(9), at(20)),
    ]


async def test_a_dispute_is_none_and_its_settling_may_be(database: Database, clock: Clock) -> None:
    await deliver(database, claim("active", 0))
    await deliver(database, claim("closed", 0))
    await clock.set(at(60))
    assert steps(await feed(database)) == [(1, 7, "none", "active")]

    await record_truths(database, [truth("closed", 0, asked=60)], terms=TERMS)

    assert steps(await feed(database, after=1)) == [(2, 7, "active", "closed")]


async def test_a_claim_that_a_truth_overrules_makes_two(database: Database, clock: Clock) -> None:
    await record_truths(database, [truth("active", -60, asked=0)], terms=TERMS)
    await clock.set(at(10))
    await deliver(database, claim("closed", 5))
    await clock.set(at(20))
    await record_truths(database, [truth("active", 8, asked=20)], terms=TERMS)

    assert [step[2:] for step in steps(await feed(database))] == [
        ("none", "active"),
        ("active", "closed"),
        ("closed", "active"),
    ]


async def test_what_began_first_and_is_committed_last_comes_last_and_is_missed_by_nobody(
    database_url: str, database: Database, sql: asyncpg.Connection
) -> None:
    slow = await asyncpg.connect(database_url)
    async with slow.transaction():
        await slow.execute(
            "INSERT INTO freescout_ticket (ticket_id, status, state, updated_at, gone)"
            " VALUES (1, 'active', 'published', now(), false)"
        )
        await slow.execute("SELECT freescout_note_history('{1}')")
        await deliver(database, claim("closed", 0, ticket_id=2))
        first = await feed(database)
    await slow.close()

    assert steps(first) == [(1, 2, "none", "closed")]
    assert steps(await feed(database, after=1)) == [(2, 1, "none", "active")]
    began = await sql.fetch("SELECT ticket_id FROM freescout_history ORDER BY entry_id")
    assert [row["ticket_id"] for row in began] == [1, 2]


async def test_a_long_transaction_of_somebody_else_holds_nothing_up(
    database_url: str, database: Database, sql: asyncpg.Connection
) -> None:
    other = await asyncpg.connect(database_url)
    async with other.transaction(isolation="repeatable_read"):
        await other.execute("CREATE TEMPORARY TABLE mine (id int)")
        await other.fetchval("SELECT count(*) FROM freescout_history")
        assert await other.fetchval("SELECT pg_current_xact_id() IS NOT NULL")
        await deliver(database, claim("active", 0))

        assert steps(await feed(database)) == [(1, 7, "none", "active")]
        assert len(await sql.fetch("SELECT * FROM freescout_transitions()")) == 1
    await other.close()


async def test_many_writers_at_once_give_each_reader_each_transition_once_and_in_order(
    database_url: str, database: Database
) -> None:
    writers = [database, *(Database(normalise(database_url), name="another") for _ in range(2))]
    numbering = [asyncio.create_task(number_for_ever(each, RECEIVER_FAULT)) for each in writers]
    turns, tickets = 12, range(1, 7)

    async def write(which: int) -> None:
        for turn in range(turns):
            said = [
                claim("closed" if turn % 2 else "active", 10.0 * turn + which, ticket_id=ticket) for ticket in tickets
            ]
            await deliver(writers[which], *said)

    async def read() -> list[Transition]:
        found: list[Transition] = []
        while not writing.done() or await read_transitions(database, after=found[-1].transition_id if found else 0):
            found += await read_transitions(database, after=found[-1].transition_id if found else 0, at_most=5)
            await asyncio.sleep(0)
        return found

    writing = asyncio.gather(*(write(which) for which in range(3)))
    reading = [asyncio.create_task(read()) for _ in range(2)]
    await writing
    for each in writers:
        await number_transitions(each)
    first, second = [await each for each in reading]
    for task in numbering:
        task.cancel()
    for other in writers[1:]:
        await other.close()

    everything = await read_transitions(database, at_most=1000)
    assert [each.transition_id for each in everything] == list(range(1, len(everything) + 1))
    for ticket in tickets:
        chain = [each for each in everything if each.ticket_id == ticket]
        assert [each.before for each in chain] == ["none", *(each.after for each in chain[:-1])]
    for found in (first, second):
        ids = [each.transition_id for each in found]
        assert ids == list(range(1, len(ids) + 1))
        assert len(ids) >= len(tickets)


async def test_a_delivery_gets_its_place_as_it_is_written(database: Database, sql: asyncpg.Connection) -> None:
    await deliver(database, claim("active", 0, ticket_id=9), claim("active", 0, ticket_id=8))
    await deliver(database, claim("active", 0, ticket_id=9), claim("closed", 9, ticket_id=8))

    found = await sql.fetch("SELECT transition_id, ticket_id, after FROM freescout_transitions()")
    assert [tuple(row) for row in found] == [(1, 8, "active"), (2, 9, "active"), (3, 8, "closed")]
    assert await sql.fetchval("SELECT last_id FROM freescout_feed") == 3


async def test_a_delivery_is_one_statement_to_read_and_one_to_write_its_history_and_place_included(
    database_url: str,
) -> None:
    database = Database(normalise(database_url), connections=1)
    told: list[str] = []
    async with database.connection() as connection:
        connection.driver.add_query_logger(lambda query: told.append(query.query))
    await deliver(database, claim("active", 0))
    await asyncio.sleep(0)  # it is told in a turn of its own
    told.clear()  # asyncpg has asked for the types of its parameters

    await deliver(database, claim("closed", 9))
    await asyncio.sleep(0)

    assert told == [statements.READ_TICKETS, statements.WRITE_TICKETS]
    assert len(await read_transitions(database)) == 2
    await database.close()


async def test_one_that_finds_the_feed_locked_waits_for_nobody_and_gets_its_place_afterwards(
    database: Database, database_url: str
) -> None:
    other = await asyncpg.connect(database_url)
    async with other.transaction():
        await other.execute("SELECT freescout_lock_feed(false)")
        await deliver(database, claim("active", 0))
        assert await read_transitions(database) == []
    await other.close()

    assert steps(await feed(database)) == [(1, 7, "none", "active")]


async def test_one_that_comes_after_what_has_no_place_yet_gets_its_own_after_that(
    database: Database, clock: Clock
) -> None:
    await record_truths(database, [truth("active", -60, asked=0)], terms=TERMS)
    await clock.set(at(10))
    await deliver(database, claim("closed", 9))
    assert await read_transitions(database) == []

    assert steps(await feed(database)) == [(1, 7, "none", "active"), (2, 7, "active", "closed")]


async def test_a_place_in_the_feed_is_no_number_before_it_is_committed(database: Database, database_url: str) -> None:
    """Who reads in between must not be given the later one first."""
    slow = await asyncpg.connect(database_url)
    async with slow.transaction():
        await slow.execute(
            "INSERT INTO freescout_ticket (ticket_id, status, state, updated_at, gone)"
            " VALUES (1, 'active', 'published', now(), false)"
        )
        await slow.execute("SELECT freescout_note_history('{1}', true)")
        await deliver(database, claim("closed", 0, ticket_id=2))
        assert await read_transitions(database) == []
    await slow.close()

    assert steps(await feed(database)) == [(1, 1, "none", "active"), (2, 2, "none", "closed")]


async def test_what_a_process_committed_before_it_died_is_numbered_by_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_truths(database, [truth("active", -60, asked=0)], terms=TERMS)
    database.written.clear()
    monkeypatch.setattr("db.transitions.LOOK_EVERY", 0.01)
    numbering = asyncio.create_task(number_for_ever(database, RECEIVER_FAULT))
    async with asyncio.timeout(10):
        while not await read_transitions(database):  # noqa: ASYNC110 - the database is asked
            await asyncio.sleep(0.01)
    numbering.cancel()


async def test_what_a_writer_has_locked_gets_its_place_afterwards_and_nobody_waits(
    database: Database, sql: asyncpg.Connection
) -> None:
    """Each would wait for the other, if numbering waited for what a writer holds."""
    await record_truths(database, [truth("active", -60, asked=0, ticket_id=each) for each in (1, 2)], terms=TERMS)
    write = "UPDATE freescout_history SET via = via WHERE ticket_id = $1"

    async with asyncio.timeout(20), sql.transaction():
        await sql.execute(write, 2)
        assert await number_transitions(database) == 1
        await sql.execute(write, 1)
        assert await number_transitions(database) == 0
    assert await number_transitions(database) == 1

    assert steps(await feed(database)) == [(1, 1, "none", "active"), (2, 2, "none", "active")]


async def test_what_waits_for_its_place_is_known_and_since_when(database: Database, clock: Clock) -> None:
    await record_truths(database, [truth("active", -60, asked=0)], terms=TERMS)
    await clock.set(at(90))
    await deliver(database, claim("closed", 80))

    waiting = await read_standing(database)
    await number_transitions(database)
    numbered = await read_standing(database)

    assert waiting is not None
    assert numbered is not None
    assert (waiting.unnumbered_since, numbered.unnumbered_since) == (at(0), None)


async def test_numbering_that_fails_says_why_and_is_tried_again(
    database: Database, sql: asyncpg.Connection, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.transitions.LOOK_EVERY", 0.01)
    await record_truths(database, [truth("active", -60, asked=0)], terms=TERMS)
    await sql.execute("ALTER FUNCTION freescout_number_transitions(int) RENAME TO away")
    await sql.execute(
        "CREATE FUNCTION freescout_number_transitions(int) RETURNS bigint LANGUAGE plpgsql"
        " AS $$ BEGIN RAISE EXCEPTION 'customer7@example.org'; END $$"
    )
    numbering = asyncio.create_task(number_for_ever(database, RECEIVER_FAULT))
    async with asyncio.timeout(10):
        while not log.lines("receiver.fault"):  # noqa: ASYNC110 - the log is asked
            await asyncio.sleep(0.01)
        await sql.execute("DROP FUNCTION freescout_number_transitions(int)")
        await sql.execute("ALTER FUNCTION away(int) RENAME TO freescout_number_transitions")
        while not await read_transitions(database):  # noqa: ASYNC110 - the database is asked
            await asyncio.sleep(0.01)
    numbering.cancel()

    assert log.lines("receiver.fault")[0]["where"] == "transitions"
    assert "customer7" not in log.text


Follow = Callable[[], AsyncGenerator[Transition | None]]


@pytest.fixture
async def follow(database_url: str) -> AsyncIterator[Follow]:
    """A reader by the name of revoker, on a connection of its own each time."""
    opened: list[asyncpg.Connection] = []

    async def follow() -> AsyncGenerator[Transition | None]:
        connection = await asyncpg.connect(database_url)
        opened.append(connection)
        async with aclosing(transitions(connection, "revoker", page=2, look_every=0.05)) as reading:
            async for each in reading:
                yield each

    yield follow
    for connection in opened:
        await connection.close()


async def test_a_reader_goes_on_where_it_was_and_has_what_it_died_over_again(
    database: Database, follow: Follow
) -> None:
    await deliver(database, *(claim("active", 0, ticket_id=ticket) for ticket in (1, 2, 3)))
    await number_transitions(database)

    async with aclosing(follow()) as reading:
        first = [await anext(reading), await anext(reading)]
    async with aclosing(follow()) as reading:
        again = [await anext(reading), await anext(reading), await anext(reading)]

    assert [each and each.ticket_id for each in first] == [1, 2]
    assert [each and each.ticket_id for each in again] == [2, 3, None]


async def test_a_reader_is_told_at_once(database: Database, database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    numbering = asyncio.create_task(number_for_ever(database, RECEIVER_FAULT))
    async with aclosing(transitions(connection, "revoker", look_every=60)) as reading, asyncio.timeout(20):
        assert await anext(reading) is None
        waiting = asyncio.ensure_future(_next(reading))
        await deliver(database, claim("active", 0))
        claimed = await waiting
        waiting = asyncio.ensure_future(_next(reading))
        await record_truths(database, [truth("closed", -60, asked=0, ticket_id=8)], terms=TERMS)
        read = await waiting
    numbering.cancel()
    await connection.close()

    assert (claimed.after, read.after) == ("active", "closed")


async def _next(reading: AsyncGenerator[Transition | None]) -> Transition:
    async for each in reading:
        if each is not None:
            return each
    raise AssertionError("the feed has ended")


async def test_a_reader_whose_place_is_not_kept_is_told_where_to_begin(
    database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    for days in range(5):
        await clock.set(at(days * 86400))
        await deliver(database, claim("active" if days % 2 else "closed", days * 86400))
    await number_transitions(database)
    await prune_history(database, keep=1.5 * 86400)

    with pytest.raises(asyncpg.InvalidParameterValueError, match="not kept any more: the first one kept is 4") as told:
        await sql.fetch("SELECT * FROM freescout_transitions(1)")
    assert told.value.hint == "begin again at 0"
    after, read = 0, []
    while rows := await sql.fetch("SELECT * FROM freescout_transitions($1, 1)", after):
        after = rows[0]["transition_id"]
        read.append(after)
    assert read == [4, 5]
    assert [row["transition_id"] for row in await sql.fetch("SELECT * FROM freescout_transitions(4)")] == [5]


async def test_what_is_in_force_and_older_than_is_kept_is_no_transition_and_leads_to_the_next(
    database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    await deliver(database, claim("active", 0, ticket_id=1))
    await deliver(database, claim("active", 0, ticket_id=2))
    await clock.set(at(5 * 86400))
    await deliver(database, claim("closed", 5 * 86400, ticket_id=2))
    await number_transitions(database)
    await prune_history(database, keep=86400)

    assert steps(await feed(database)) == [(3, 2, "active", "closed")]
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await sql.fetch("SELECT * FROM freescout_transitions(1)")
    await deliver(database, claim("closed", 5 * 86400 + 1, ticket_id=1))
    assert steps(await feed(database, after=3)) == [(4, 1, "active", "closed")]


async def test_after_a_restore_every_reader_begins_again(database: Database, sql: asyncpg.Connection) -> None:
    await deliver(database, claim("active", 0))
    await number_transitions(database)
    await vouch_for_nothing(database)

    for place in (1, 2, 500):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await sql.fetch("SELECT * FROM freescout_transitions($1)", place)
    (again,) = await feed(database)
    assert (again.ticket_id, again.after) == (7, "active")
    assert await feed(database, after=again.transition_id) == []


async def test_after_a_restore_no_number_is_given_twice_and_only_who_had_later_ones_begins_again(
    database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    await deliver(database, claim("active", 0))
    await sql.execute("UPDATE freescout_feed SET origin = 'the server of before'")
    await clock.set(at(10))
    await deliver(database, claim("closed", 9))
    await clock.set(at(20))
    await record_truths(database, [truth("spam", 15, asked=20)], terms=TERMS)
    await number_transitions(database)

    (closed, spam) = await sql.fetch("SELECT * FROM freescout_transitions(1)")
    assert (closed["after"], spam["after"]) == ("closed", "spam")
    assert spam["transition_id"] == closed["transition_id"] + 1 > 1_000_000_000
    for lost in (2, 3):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=f"transition {lost} is not known: it was lost"):
            await sql.fetch("SELECT * FROM freescout_transitions($1)", lost)
    assert await sql.fetch("SELECT * FROM freescout_transitions($1)", spam["transition_id"]) == []


async def test_a_host_that_does_not_tell_which_server_it_is_holds_nobody_up(
    database_url: str, sql: asyncpg.Connection
) -> None:
    if not await may_make_roles(sql):
        pytest.skip(MAY_NOT)
    await sql.execute(
        "CREATE ROLE feed_owner; GRANT SELECT, UPDATE ON freescout_feed TO feed_owner;"
        " GRANT EXECUTE ON FUNCTION freescout_lock_feed(boolean) TO feed_owner;"
        " REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
    )
    owner = await asyncpg.connect(database_url)
    try:
        await owner.execute("SET ROLE feed_owner")
        assert await owner.fetchval("SELECT freescout_lock_feed(false)") == 0
        assert await owner.fetchval("SELECT freescout_lock_feed(true)") == 0
    finally:
        await owner.close()
        await sql.execute(
            "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC; DROP OWNED BY feed_owner; DROP ROLE feed_owner"
        )


async def test_a_reader_that_is_ahead_of_a_restored_database_is_told(sql: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="has come to transition 0, and not to 99"):
        await sql.fetch("SELECT * FROM freescout_transitions(99)")


async def test_a_reader_of_a_desk_that_was_forgotten_has_to_begin_again(
    database: Database, sql: asyncpg.Connection
) -> None:
    await deliver(database, claim("active", 0))
    await number_transitions(database)
    await change_desk(database, "https://desk.example.org", forget=True)

    with pytest.raises(asyncpg.InvalidParameterValueError, match="the first one kept is still to come"):
        await sql.fetch("SELECT * FROM freescout_transitions(1)")
    assert await sql.fetch("SELECT * FROM freescout_transitions(0)") == []


async def test_a_role_may_have_the_feed_and_nothing_else(
    database: Database, database_url: str, sql: asyncpg.Connection
) -> None:
    if not await may_make_roles(sql):
        pytest.skip(MAY_NOT)
    await deliver(database, claim("active", 0))
    await number_transitions(database)
    await sql.execute(
        "CREATE ROLE feed_reader; GRANT EXECUTE ON FUNCTION freescout_transitions(bigint, int),"
        " freescout_read_cursor(text), freescout_move_cursor(text, bigint) TO feed_reader"
    )
    reader = await asyncpg.connect(database_url)
    try:
        await reader.execute("SET ROLE feed_reader")
        assert len(await reader.fetch("SELECT * FROM freescout_transitions()")) == 1
        await reader.execute("SELECT freescout_move_cursor('mine', 1)")
        assert await reader.fetchval("SELECT freescout_read_cursor('mine')") == 1
        for forbidden in (
            "SELECT * FROM freescout_history",
            "SELECT * FROM freescout_cursor",
            "SELECT freescout_ticket_state(7)",
            "SELECT freescout_ticket_state_at(7, now())",
            "SELECT freescout_number_transitions(1)",
            "SELECT freescout_note_history('{7}')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.fetch(forbidden)
    finally:
        await reader.close()
        await sql.execute("DROP OWNED BY feed_reader; DROP ROLE feed_reader")
