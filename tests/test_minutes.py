"""The minutes: what each process counted and found, kept so that the page can draw a day."""

import math
from datetime import timedelta

import asyncpg
import pytest

from db.database import Database
from db.minutes import LAG_BOUNDS, MinuteBook, added, percentile, read_minutes
from freescout_audit.errors import DatabaseUnavailableError
from support.databases import Clock
from support.examples import NOON, at


class Steady:
    """A clock that only goes forward, when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def counted(*seconds: float) -> list[int]:
    """Return the groups that a book counts such times in."""
    return list(added([[int(low < each <= up) for low, up in BOUNDS] for each in seconds]))


BOUNDS = tuple(zip((-math.inf, *LAG_BOUNDS), (*LAG_BOUNDS, math.inf), strict=True))


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

    (minute,) = await read_minutes(database, timedelta(hours=1))

    assert (minute.process, minute.applied, minute.refused, minute.stale) == ("web.1", 2, 1, 0)
    assert (minute.push, minute.pull, minute.desk, minute.database) == ("degraded", "failed", None, None)
    assert list(minute.lags) == counted(1.5, 5000)
    assert minute.ended_at == pytest.approx(NOON, abs=timedelta(seconds=1))


async def test_each_minute_begins_anew(database: Database, clock: Clock) -> None:
    steady = Steady()
    book = MinuteBook(database, "web.1", clock=steady)
    book.count("applied")
    book.note({"push": "failed"})
    await book.write()
    steady.now = 60
    await clock.set(at(60))
    await book.write()

    _, second = await read_minutes(database, timedelta(hours=1))

    assert (second.applied, second.push, list(second.lags)) == (0, None, [])


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

    minutes = await read_minutes(database, timedelta(hours=1))

    assert [(minute.database, minute.applied) for minute in minutes] == [("failed", 1)] * 3 + [(None, 0)]
    assert [round((minutes[-1].ended_at - minute.ended_at).total_seconds()) for minute in minutes] == [180, 120, 60, 0]


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
    found = percentile(counted(*seconds), share)

    assert found == expected if expected is None else found == pytest.approx(expected)
