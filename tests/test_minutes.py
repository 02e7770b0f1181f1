"""The minutes: what each process counted and found, kept so that the page can draw a day."""

import asyncio
import math
from datetime import timedelta

import asyncpg
import pytest

from conftest import Log
from db.condition import State
from db.database import Database
from db.minutes import LAG_BOUNDS, MinuteBook, added, percentile, read_columns, read_counted
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import RECEIVER_FAULT
from support.databases import Clock
from support.examples import NOON, at


class Steady:
    """A clock that only goes forward, when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def groups(*seconds: float) -> list[int]:
    """Return the groups that a book counts such times in."""
    return list(added([[int(low < each <= up) for low, up in BOUNDS] for each in seconds]))


BOUNDS = tuple(zip((-math.inf, *LAG_BOUNDS), (*LAG_BOUNDS, math.inf), strict=True))


BEGIN = at(-3600)
MINUTE = timedelta(minutes=1)


@pytest.mark.usefixtures("clock")
async def test_a_minute_holds_counts_and_the_worst_that_was_found(database: Database) -> None:
    book = MinuteBook(database, "web.1")
    book.count("applied")
    book.count("applied")
    book.count("refused")
    book.known_after(1.5)
    book.known_after(5000)
    book.note({"push": "ok", "pull": "failed"})
    book.note({"push": "degraded", "pull": "ok"})
    book.note({"push": "ok", "pull": "ok"})
    await book.write()

    (counted,) = await read_counted(database, BEGIN, MINUTE)
    (column,) = await read_columns(database, BEGIN, MINUTE)

    assert {name: count for name, count in counted.counts.items() if count} == {"applied": 2, "refused": 1}
    assert list(counted.lags) == groups(1.5, 5000)
    assert (column.push, column.pull, column.desk, column.database) == ("degraded", "failed", None, None)


async def test_each_minute_begins_anew(database: Database, clock: Clock) -> None:
    steady = Steady()
    book = MinuteBook(database, "web.1", clock=steady)
    book.count("applied")
    book.note({"push": "failed"})
    await book.write()
    steady.now = 60
    await clock.set(at(60))
    await book.write()

    _, second = await read_counted(database, BEGIN, MINUTE)
    _, column = await read_columns(database, BEGIN, MINUTE)

    assert (second.counts["applied"], sum(second.lags), column.push) == (0, 0, None)


async def test_a_stretch_has_what_all_processes_counted_and_the_worst_that_one_found(
    database: Database, clock: Clock
) -> None:
    receiver, poller = MinuteBook(database, "web.1"), MinuteBook(database, "poller.1")
    states: tuple[State, ...] = ("ok", "degraded", "ok")
    for turn, state in enumerate(states):
        await clock.set(at(60 * turn))
        receiver.note({"push": state})
        receiver.count("applied")
        receiver.known_after(1.5)
        await receiver.write()
        poller.count("passes")
        poller.known_after(1.6)
        await poller.write()

    (column,) = await read_columns(database, BEGIN, timedelta(hours=2))
    (counted,) = await read_counted(database, BEGIN, timedelta(hours=2))

    assert (column.at, column.push) == (BEGIN, "degraded")
    assert (counted.counts["applied"], counted.counts["passes"]) == (3, 3)
    assert list(counted.lags) == groups(*[1.5] * 6)


async def test_what_cannot_be_written_waits_and_keeps_its_time(
    database: Database, sql: asyncpg.Connection, clock: Clock
) -> None:
    steady = Steady()
    book = MinuteBook(database, "web.1", clock=steady)
    await sql.execute("ALTER TABLE freescout_minute RENAME TO away")
    for turn in range(1, 4):
        book.count("applied")
        book.note({"database": "failed"})
        with pytest.raises(DatabaseUnavailableError):
            await book.write()
        steady.now = 60 * turn
        await clock.set(at(60 * turn))
    await sql.execute("ALTER TABLE away RENAME TO freescout_minute")
    await book.write()

    columns = await read_columns(database, BEGIN, MINUTE)
    counted = await read_counted(database, BEGIN, MINUTE)

    assert [(column.at, column.database) for column in columns] == [
        (at(0), "failed"),
        (at(60), "failed"),
        (at(120), "failed"),
        (at(180), None),
    ]
    assert [each.counts["applied"] for each in counted] == [1, 1, 1, 0]


async def test_an_error_that_comes_each_minute_is_said_once(
    database: Database, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = 0
    often = asyncio.Event()

    async def fail() -> None:
        nonlocal times
        times += 1
        if times == 5:
            often.set()
        raise ZeroDivisionError

    monkeypatch.setattr("db.minutes.EVERY", 0.0)
    book = MinuteBook(database, "web.1")
    monkeypatch.setattr(book, "write", fail)
    keeping = asyncio.create_task(book.keep(RECEIVER_FAULT))
    async with asyncio.timeout(10):
        await often.wait()
    keeping.cancel()

    (line,) = log.lines("receiver.fault")
    assert (line["error"], line["where"]) == ("ZeroDivisionError", "minutes")


@pytest.mark.usefixtures("clock")
async def test_a_week_is_kept(database: Database, sql: asyncpg.Connection) -> None:
    for days in (8, 6):
        await sql.execute(
            "INSERT INTO freescout_minute (process, ended_at) VALUES ('web.1', $1)", NOON - timedelta(days=days)
        )

    await MinuteBook(database, "web.1").write()

    assert await sql.fetchval("SELECT count(*) FROM freescout_minute") == 2
    assert await sql.fetchval("SELECT min(ended_at) FROM freescout_minute") == at(-6 * 86400)


@pytest.mark.parametrize(
    ("seconds", "share", "expected"),
    [
        ((), 0.5, None),
        ((0.4,), 0.5, 0.25),
        ((1.5, 1.5, 1.5, 1.5), 0.5, 1.5),
        ((1.5, 1.5, 1.5, 250), 0.95, 120 + 180 * 0.8),
        ((1.5, 5000), 0.95, math.inf),
    ],
)
def test_a_percentile_lies_between_the_bounds(seconds: tuple[float, ...], share: float, expected: float | None) -> None:
    found = percentile(groups(*seconds), share)

    assert found == expected if expected is None else found == pytest.approx(expected)
