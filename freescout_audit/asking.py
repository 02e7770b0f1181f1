"""What another application asks over asyncpg: a ticket's status, at a read or at a moment, and the feed.

It needs a connection of asyncpg's and nothing else of this project.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

STATUSES = ("active", "pending", "closed", "spam")
NONE = "none"
CHANNEL = "freescout_transition"
"""The channel that says that there is something new."""
LOOK_EVERY = 15.0
"""Seconds after which a reader looks, whether it was told of something new or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """A change of a ticket's settled answer.

    ``before`` and ``after`` are ``active``, ``pending``, ``closed``, ``spam`` or ``none``; ``reason`` says why
    ``none``: ``gone``, ``unpublished`` or ``unknown``. ``changed_at`` is FreeScout's date of it, ``known_at`` when the
    cache knew it; ``via`` is what told of it, ``webhook`` or ``poller``.
    """

    transition_id: int
    ticket_id: int
    before: str
    after: str
    reason: str | None
    changed_at: datetime | None
    known_at: datetime
    via: str


async def read_ticket(connection: Any, ticket_id: int, *, at: datetime | None = None, deadline: float = 0.25) -> str:
    """Return a ticket's status for an audit record: ``active``, ``pending``, ``closed``, ``spam`` or ``none``.

    ``none`` whenever the cache cannot vouch, and whatever goes wrong: a server that is away or slow, no rights. With
    ``at`` it is what was answered then. After a failure the connection may be broken: take another from the pool.

    Args:
        connection: An asyncpg connection or pool; its role may call ``freescout_ticket_state`` (for ``at``:
            ``freescout_ticket_state_at``).
        ticket_id: FreeScout's conversation id, not the number that agents see.
        at: A moment with its zone.
        deadline: Seconds after which the answer is ``none``.
    """
    query: str = "SELECT freescout_ticket_state($1)"
    arguments: list[Any] = [ticket_id]
    if at is not None:
        query, arguments = "SELECT freescout_ticket_state_at($1, $2)", [ticket_id, at]
    # The call is left behind, not cancelled: cancelling it waits for a server that may never answer.
    call = asyncio.ensure_future(connection.fetchval(query, *arguments, timeout=20 * deadline))
    call.add_done_callback(lambda done: done.cancelled() or done.exception())
    done, _ = await asyncio.wait({call}, timeout=deadline)
    answer = call.result() if done and not call.cancelled() and call.exception() is None else NONE
    return answer if answer in STATUSES else NONE


async def transitions(
    connection: Any, cursor: str, *, page: int = 100, look_every: float = LOOK_EVERY
) -> AsyncGenerator[Transition | None]:
    """Yield each transition that the reader of this name has not had, and those to come, for ever.

    None comes whenever there is nothing new, at least every ``look_every`` seconds: the cache was asked just now. The
    cursor is kept in the database, and moves on when the next one is asked for. So each transition comes at least
    once: the one that was under way when the reader died comes again.

    Args:
        connection: An asyncpg connection, for this alone; its role may call ``freescout_transitions``,
            ``freescout_read_cursor`` and ``freescout_move_cursor``.
        cursor: The reader's name; another one begins at the beginning.
        page: Transitions that are read at once.
        look_every: Seconds that a reader waits for something new at the most.

    Raises:
        asyncpg.PostgresError, asyncpg.InterfaceError, OSError: The database is away; call this again with a new
            connection. ``InvalidParameterValueError`` says that the cursor's place is not kept any more.
    """
    news = asyncio.Event()

    def hear(*_notification: object) -> None:
        news.set()

    await connection.add_listener(CHANNEL, hear)
    try:
        after: int = await connection.fetchval("SELECT freescout_read_cursor($1)", cursor)
        while True:
            news.clear()
            rows = await connection.fetch("SELECT * FROM freescout_transitions($1, $2)", after, page)
            for row in rows:
                yield Transition(**row)
                after = row["transition_id"]
                await connection.execute("SELECT freescout_move_cursor($1, $2)", cursor, after)
            if not rows:
                yield None
                with suppress(TimeoutError):
                    async with asyncio.timeout(look_every):
                        await news.wait()
    finally:
        if not connection.is_closed():
            await connection.remove_listener(CHANNEL, hear)
