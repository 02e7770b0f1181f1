"""Ask through one psycopg connection: make one ``TicketStates(url)`` in a script or worker, then ``at_read(4711)``."""

import logging
from concurrent.futures import ThreadPoolExecutor

import psycopg

logger = logging.getLogger(__name__)
DEADLINE = 0.25
"""Seconds until an answer is taken for none."""


class TicketStates:
    """What the service answers for a ticket; ``none`` whatever goes wrong, and the log says what."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: psycopg.Connection | None = None
        # A blocking call has no deadline of its own, so a thread makes it.
        self._thread = ThreadPoolExecutor(max_workers=1)

    def at_read(self, ticket_id: int) -> str:
        """Return active, pending, closed, spam or none, within the deadline."""
        call = self._thread.submit(self._ask, ticket_id)
        try:
            return call.result(timeout=DEADLINE)
        except TimeoutError:
            call.cancel()  # if it has not begun; else a connection that opens slowly serves the next call
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

    def _query(self, ticket_id: int) -> str:
        query = "SELECT freescout_ticket_state(%s)"
        if self._connection is not None and not self._connection.closed:
            try:
                return str(self._connection.execute(query, (ticket_id,)).fetchall()[0][0])
            except psycopg.OperationalError:
                if not self._connection.closed:
                    raise
                # It broke since the last call, by a restart of PostgreSQL: open another.
        self._connection = psycopg.connect(
            self._url, autocommit=True, connect_timeout=2, tcp_user_timeout=1000, options="-c statement_timeout=200"
        )
        return str(self._connection.execute(query, (ticket_id,)).fetchall()[0][0])

    def close(self) -> None:
        """End the thread and close the connection."""
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()
