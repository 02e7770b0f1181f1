"""Ask through asyncpg: make one ``TicketStates(url)`` in the process, then ``await states.at_read(4711)``."""

import asyncio
import logging

import asyncpg

logger = logging.getLogger(__name__)
DEADLINE = 0.25
"""Seconds until an answer is taken for none."""


class TicketStates:
    """What the service answers for a ticket; ``none`` whatever goes wrong, and the log says what."""

    def __init__(self, url: str) -> None:
        # Nothing is opened yet: the application starts while PostgreSQL is away, too.
        self._pool = asyncpg.create_pool(
            url, min_size=0, max_size=5, timeout=2, command_timeout=1, server_settings={"statement_timeout": "200"}
        )
        self._calls: set[asyncio.Task[str]] = set()

    async def at_read(self, ticket_id: int) -> str:
        """Return active, pending, closed, spam or none, within the deadline."""
        # Left behind at the deadline, not cancelled: a connection that opens slowly serves the next call.
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
            await self._pool  # makes it ready, the first time
            async with self._pool.acquire(timeout=2) as connection:
                try:
                    state: str = await connection.fetchval("SELECT freescout_ticket_state($1)", ticket_id)
                except TimeoutError:
                    connection.terminate()  # its server does not answer; do not wait for that
                    raise
        except Exception as error:
            logger.warning("ticket %s reads none: %r", ticket_id, error)
            return "none"
        if state == "none":
            logger.info("ticket %s reads none: the service does not vouch for it", ticket_id)
        return state

    async def close(self) -> None:
        """Close all connections at once."""
        self._pool.terminate()
