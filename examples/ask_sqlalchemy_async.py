"""Ask through SQLAlchemy and asyncpg: one ``TicketStates(url)`` in the process, then ``await states.at_read(4711)``."""

import asyncio
import logging

from sqlalchemy import BigInteger, bindparam, func, make_url, select
from sqlalchemy.ext.asyncio import create_async_engine

logger = logging.getLogger(__name__)
DEADLINE = 0.25
"""Seconds until an answer is taken for none."""
QUERY = select(func.freescout_ticket_state(bindparam("ticket_id", type_=BigInteger)))


class TicketStates:
    """What the service answers for a ticket; ``none`` whatever goes wrong, and the log says what."""

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            isolation_level="AUTOCOMMIT",
            pool_size=5,
            max_overflow=0,
            pool_timeout=2,
            pool_pre_ping=True,  # so a connection that a restart broke is not lent
            connect_args={"timeout": 2, "command_timeout": 1, "server_settings": {"statement_timeout": "200"}},
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
            async with self._engine.connect() as connection:
                try:
                    state = str(await connection.scalar(QUERY, {"ticket_id": ticket_id}))
                except TimeoutError:
                    await connection.invalidate()  # its server does not answer; do not wait for that
                    raise
        except Exception as error:
            logger.warning("ticket %s reads none: %r", ticket_id, error)
            return "none"
        if state == "none":
            logger.info("ticket %s reads none: the service does not vouch for it", ticket_id)
        return state

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()
