"""Ask through SQLAlchemy: make one ``TicketStates(url)`` in the process, then ``states.at_read(4711)``."""

import logging
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import BigInteger, bindparam, create_engine, func, make_url, select

logger = logging.getLogger(__name__)
DEADLINE = 0.25
"""Seconds until an answer is taken for none."""
QUERY = select(func.freescout_ticket_state(bindparam("ticket_id", type_=BigInteger)))


class TicketStates:
    """What the service answers for a ticket; ``none`` whatever goes wrong, and the log says what."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            isolation_level="AUTOCOMMIT",
            pool_size=5,
            max_overflow=0,
            pool_timeout=2,
            pool_pre_ping=True,  # so a connection that a restart broke is not lent
            connect_args={"connect_timeout": 2, "tcp_user_timeout": 1000, "options": "-c statement_timeout=200"},
        )
        # A blocking call has no deadline of its own, so threads make it.
        self._threads = ThreadPoolExecutor(max_workers=5)

    def at_read(self, ticket_id: int) -> str:
        """Return active, pending, closed, spam or none, within the deadline."""
        call = self._threads.submit(self._ask, ticket_id)
        try:
            return call.result(timeout=DEADLINE)
        except TimeoutError:
            call.cancel()  # if it has not begun; else a connection that opens slowly serves the next call
            logger.warning("ticket %s reads none: no answer within %s s", ticket_id, DEADLINE)
            return "none"

    def _ask(self, ticket_id: int) -> str:
        try:
            with self._engine.connect() as connection:
                state = str(connection.scalar(QUERY, {"ticket_id": ticket_id}))
        except Exception as error:
            logger.warning("ticket %s reads none: %r", ticket_id, error)
            return "none"
        if state == "none":
            logger.info("ticket %s reads none: the service does not vouch for it", ticket_id)
        return state

    def close(self) -> None:
        """End the threads and close all connections."""
        self._threads.shutdown()
        self._engine.dispose()
