"""Ask through psycopg's asynchronous pool: one ``TicketStates(url)`` in the process, ``await states.at_read(4711)``."""

import asyncio
import logging

import psycopg
from psycopg_pool import AsyncConnectionPool

logger = logging.getLogger(__name__)
DEADLINE = 0.25
"""Seconds until an answer is taken for none."""


class TicketStates:
    """What the service answers for a ticket; ``none`` whatever goes wrong, and the log says what."""

    def __init__(self, url: str) -> None:
        self._pool = AsyncConnectionPool(
            url,
            min_size=1,
            max_size=5,
            reconnect_timeout=2,  # by default the pool waits up to minutes when PostgreSQL is back
            kwargs={
                "autocommit": True,
                "connect_timeout": 2,
                "tcp_user_timeout": 1000,
                "options": "-c statement_timeout=200",
            },
            open=False,
        )
        self._calls: set[asyncio.Task[str]] = set()

    async def at_read(self, ticket_id: int) -> str:
        """Return active, pending, closed, spam or none, within the deadline."""
        # Left behind at the deadline, not cancelled: psycopg would wait for the server to take the cancellation.
        call = asyncio.create_task(self._ask(ticket_id))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        await asyncio.wait({call}, timeout=DEADLINE)
        if call.done():
            return call.result()
        logger.warning("ticket %s reads none: no answer within %s s", ticket_id, DEADLINE)
        return "none"

    async def _ask(self, ticket_id: int) -> str:
        try:
            await self._pool.open()  # the first time; later it does nothing
            state = await self._query(ticket_id)
        except Exception as error:
            logger.warning("ticket %s reads none: %r", ticket_id, error)
            return "none"
        if state == "none":
            logger.info("ticket %s reads none: the service does not vouch for it", ticket_id)
        return state

    async def _query(self, ticket_id: int, *, again: bool = True) -> str:
        async with self._pool.connection(timeout=2) as connection:
            try:
                cursor = await connection.execute("SELECT freescout_ticket_state(%s)", (ticket_id,))
                return str((await cursor.fetchall())[0][0])
            except psycopg.OperationalError:
                if not (again and connection.closed):
                    raise
        await self._pool.check()  # a restart of PostgreSQL broke the connections: replace all, and ask once more
        return await self._query(ticket_id, again=False)

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.close()
