"""The feed: every change of a ticket's settled answer, numbered in an order that no reader misses anything in.

Of two transitions that are written at once, the one that began first may be committed last, so the order of writing is
none. Who writes deliveries locks the feed, if it is free and everything is numbered, and keeps it locked until the
commit: whatever comes later has a higher number. All others write transitions without a number. Those that are
committed are numbered afterwards, by one process at a time, which locks the feed too. No other session's transaction
holds that up.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from sqlalchemy import func, select

from db import schema
from db.database import Database
from freescout_audit.asking import CHANNEL, Transition
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import LogEvent
from freescout_audit.repeats import Repeats

NUMBERED_AT_ONCE = 1000
"""Transitions that are numbered in one transaction."""
REST = 0.1
"""Seconds between two announcements at the least."""
LOOK_EVERY = 5.0
"""Seconds after which a process looks for what another has committed, and died before it was numbered."""

_history = schema.history.c


async def number_transitions(database: Database, *, announce: bool = False) -> int:
    """Number what is committed, and return how many there were; tell readers if there were some, or to ``announce``.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same below.
    """
    number = select(func.freescout_number_transitions(NUMBERED_AT_ONCE))
    # After the commit: transactions that notify are committed one after the other.
    numbering = number.add_columns(func.pg_notify(CHANNEL, "")) if announce else number
    total = 0
    while True:
        async with database.connection() as connection:
            numbered: int = await connection.scalar(numbering)
        total += numbered
        if numbered < NUMBERED_AT_ONCE:
            return total


async def number_for_ever(database: Database, at_fault: LogEvent) -> None:
    """Number and announce transitions as soon as this process has committed some.

    An unexpected error is logged as ``at_fault``.
    """
    repeats = Repeats()
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_EVERY):
                await database.written.wait()
        has_written = database.written.is_set()
        database.written.clear()
        try:
            if await number_transitions(database, announce=has_written) or has_written:
                await asyncio.sleep(REST)
        except DatabaseUnavailableError:
            await asyncio.sleep(1)  # readiness says so
        except Exception as error:  # noqa: BLE001 - the next time comes, whatever this one met
            repeats.emit(at_fault, type(error).__name__, error=type(error).__name__, where="transitions")
            await asyncio.sleep(1)


async def read_transitions(
    database: Database,
    *,
    after: int = 0,
    ticket_id: int | None = None,
    since: datetime | None = None,
    at_most: int = 100,
    newest: bool = False,
) -> Sequence[Transition]:
    """Read transitions, in the order of the feed; of too many the first ones, or the ``newest``."""
    number = _history.transition_id
    query = (
        select(
            number,
            _history.ticket_id,
            _history.before,
            _history.settled.label("after"),
            _history.reason,
            _history.changed_at,
            _history.known_at,
            _history.via,
        )
        .where(number > after)
        .order_by(number.desc() if newest else number)
        .limit(at_most)
    )
    if ticket_id is not None:
        query = query.where(_history.ticket_id == ticket_id)
    if since is not None:
        query = query.where(_history.known_at >= since)
    async with database.connection() as connection:
        found = [Transition(**row) for row in await connection.rows(query)]
    return found[::-1] if newest else found


async def last_transition_id(database: Database) -> int:
    """Return the number of the last transition; 0 when there was none."""
    async with database.connection() as connection:
        last: int = await connection.scalar(select(schema.feed.c.last_id))
    return last
