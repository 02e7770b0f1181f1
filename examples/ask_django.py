"""Ask from Django, in a request, a command or a worker: ``ticket_state_at_read(4711)``."""

import logging
from concurrent.futures import ThreadPoolExecutor

from django.db import connections

logger = logging.getLogger(__name__)
DEADLINE = 0.25
"""Seconds until an answer is taken for none."""

# A blocking call has no deadline of its own, so threads make it, each on a connection of its own. What Django does at
# the beginning and the end of a request, to connections and transactions, does not reach these: a command or a worker,
# where it does nothing, is as well off.
threads = ThreadPoolExecutor(max_workers=2)


def ticket_state_at_read(ticket_id: int) -> str:
    """Return active, pending, closed, spam or none, within the deadline; the log says why it is none."""
    call = threads.submit(_ask, ticket_id)
    try:
        return call.result(timeout=DEADLINE)
    except TimeoutError:
        call.cancel()  # if it has not begun; else a connection that opens slowly serves the next call
        logger.warning("ticket %s reads none: no answer within %s s", ticket_id, DEADLINE)
        return "none"


def _ask(ticket_id: int) -> str:
    connection = connections["freescout_audit"]
    try:
        connection.close_if_unusable_or_obsolete()  # a restart of PostgreSQL broke it, perhaps
        with connection.cursor() as cursor:
            cursor.execute("SELECT freescout_ticket_state(%s)", [ticket_id])
            state = str(cursor.fetchone()[0])
    except Exception as error:
        connection.close()
        logger.warning("ticket %s reads none: %r", ticket_id, error)
        return "none"
    if state == "none":
        logger.info("ticket %s reads none: the service does not vouch for it", ticket_id)
    return state
