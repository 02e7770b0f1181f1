"""Ask through psycopg's pool: make one ``TicketStates(url)`` in the process, then ``states.at_read(4711)``."""

import logging
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg_pool import ConnectionPool

logger = logging.getLogger(__name__)
DEADLINE = 0.25
"""Seconds until an answer is taken for none."""


class TicketStates:
    """What the service answers for a ticket; ``none`` whatever goes wrong, and the log says what."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool(
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
            open=True,
        )
        # A blocking call has no deadline of its own, so threads make it.
        self._threads = ThreadPoolExecutor(max_workers=5)

    def at_read(self, ticket_id: int) -> str:
        """Return active, pending, closed, spam or none, within the deadline."""
        call = self._threads.submit(self._ask, ticket_id)
        try:
            return call.result(timeout=DEADLINE)
        except TimeoutError:
            call.cancel()  # if it has not begun
            logger.warning("ticket %s reads none: no answer within %s s", ticket_id, DEADLINE)
            return "none"

    def _ask(self, ticket_id: int) -> str:
        try:
            state = self._query(ticket_id)
        except Exception as error:
            logger.warning("ticket %s reads none: %r", ticket_id, error)
            return "none"
        if state == "none":
            logger.info("ticket %s reads none: the service does not vouch for it", ticket_id)
        return state

    def _query(self, ticket_id: int, *, again: bool = True) -> str:
        with self._pool.connection(timeout=2) as connection:
            try:
                return str(connection.execute("SELECT freescout_ticket_state(%s)", (ticket_id,)).fetchall()[0][0])
            except psycopg.OperationalError:
                if not (again and connection.closed):
                    raise
        self._pool.check()  # a restart of PostgreSQL broke the connections: replace all, and ask once more
        return self._query(ticket_id, again=False)

    def close(self) -> None:
        """Close all connections and end the threads."""
        self._pool.close()
        self._threads.shutdown()
