"""Watches what no request asks about: gaps that settle, a lease that ends, two paths that fall silent."""

from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from datetime import datetime, timedelta

from db import gaps, journal
from db.database import Database
from db.lease import DeskState
from db.standing import StandingWatch, note_silence, read_standing
from freescout_audit.events import (
    DESK_HEARD,
    DESK_SILENT,
    GAP_FOUND,
    GAP_LATE,
    GAP_LOST,
    GAP_NEVER_SENT,
)
from freescout_audit.logs import emit
from poller.freescout import DeskError

RACE = timedelta(seconds=60)
"""A delivery that comes no later than this after a pass has found its change lost a race, and nothing else."""
IN_TIME = timedelta(seconds=200)
"""A peek is ahead of most deliveries. FreeScout's worker stands still for three minutes at the most."""
RETRIES_OVER = timedelta(minutes=80)
"""FreeScout gives a delivery up after 10 attempts, about 72 minutes."""
KEEP_GAPS = timedelta(days=90)


async def settle_gaps(database: Database, *, mailboxes: Callable[[], Awaitable[Collection[int]]]) -> None:
    """Say of each waiting gap what it was, once that is known: a race, a late delivery, a lost one, or none at all.

    ``mailboxes`` asks the desk for its mailboxes, where it matters whether one was deleted.
    """
    of_the_desk: Collection[int] | None = None
    if await gaps.deletions_are_due(database, RETRIES_OVER):
        # Without an answer they wait; the passes tell of a desk that does not answer.
        with suppress(DeskError):
            of_the_desk = await mailboxes()
    settled = await gaps.settle_gaps(
        database, race=RACE, in_time=IN_TIME, retries_over=RETRIES_OVER, keep=KEEP_GAPS, mailboxes=of_the_desk
    )
    for gap in settled.found:
        tell_of_gap(gap.gap)
    for gap in settled.late:
        emit(GAP_LATE, ticket_id=gap.ticket_id, late_by_s=None if gap.late_by is None else round(gap.late_by, 1))
    for event, entries in ((GAP_LOST, settled.lost), (GAP_NEVER_SENT, settled.never_sent)):
        for gap in entries:
            emit(event, ticket_id=gap.ticket_id, true_status=gap.true_status, changed_at=gap.changed_at)


def tell_of_gap(gap: gaps.Gap) -> None:
    """Tell of a change that no delivery had told of."""
    emit(
        GAP_FOUND,
        ticket_id=gap.ticket_id,
        cached_status=gap.cached[0],
        cached_state=gap.cached[1],
        true_status=None if gap.true is None else gap.true[0],
        true_state="gone" if gap.true is None else gap.true[1],
        changed_at=gap.changed_at,
    )


class Watch:
    """Tells when the lease ends and when both paths fall silent, once each time.

    ``patience``: how long the API must have been silent before it counts; a moment's trouble is none.
    """

    def __init__(self, database: Database, *, patience: timedelta) -> None:
        self._database = database
        self._patience = patience
        self._standing = StandingWatch()

    async def look(self) -> None:
        """Look once."""
        standing = await read_standing(self._database)
        if standing is None:
            return  # readiness and doctor say that the schema is incomplete
        self._standing.look(standing)
        last = await journal.read_last_delivery(self._database)
        silent_since = _silent_since(
            desk_state=standing.desk_state,
            desk_since=standing.desk_since,
            delivered_at=None if last is None else last.received_at,
            now=standing.now,
            patience=self._patience,
        )
        if silent_since != standing.silent_since:
            await note_silence(self._database, silent_since)
        if silent_since is not None and standing.silent_since is None:
            emit(
                DESK_SILENT,
                since=silent_since,
                desk_state=standing.desk_state,
                detail=standing.desk_detail,
                next_step=standing.desk_next_step or None,
            )
        if silent_since is None and standing.silent_since is not None:
            emit(DESK_HEARD, silent_since=standing.silent_since)


def _silent_since(
    *,
    desk_state: DeskState,
    desk_since: datetime | None,
    delivered_at: datetime | None,
    now: datetime,
    patience: timedelta,
) -> datetime | None:
    """Return since when both paths have been silent: the API fails, and no delivery has come since it does.

    A desk on which nothing happens sends no deliveries either, but its API answers.
    """
    if desk_state not in {"refused", "unavailable"} or desk_since is None or now - desk_since < patience:
        return None
    return None if delivered_at is not None and delivered_at >= desk_since else desk_since
