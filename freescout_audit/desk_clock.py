"""The desk's clock, as far as its answers tell: how far it is ahead of ours, and whether its dates repeat.

A ``Date`` has whole seconds and an answer takes its time, so each answer tells only two bounds of the offset. All times
are aware UTC; ``now`` and ``asked_at`` are the database's wall clock. Pure.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from freescout_audit.rule import ABSURD, FUTURE_TOLERANCE, Lease, is_ahead

CLOCK_TOLERANCE = timedelta(seconds=5)
"""A desk's clock that was set back by so little makes no walk begin earlier, and no pass fail."""
REPEATED_HOUR = timedelta(hours=1)
"""How late some zones date the first pass of the hour that daylight saving repeats; see `note_rows_ahead`."""
_WHOLE_SECOND = timedelta(seconds=1)
WITHIN_A_SECOND = timedelta(seconds=0.5)
"""How long after its date, which has whole seconds, something happened on the average."""
_DRIFT = timedelta(seconds=0.25)
"""By so much a desk's clock may fall behind ours from one pass to the next, without being set back."""


class DeskClock(msgspec.Struct, frozen=True, kw_only=True):
    """The desk's clock at an answer, and how far it was ahead of ours."""

    at: datetime
    asked_at: datetime
    """Our clock before the request."""
    offset: timedelta
    seen_through: datetime
    """A claim dated no later than this is no news to a pass that begins at this answer."""

    def went_back(self, offset_before: timedelta | None) -> timedelta:
        """Return by how much it was set back since its offset was ``offset_before``; zero if it was not."""
        back = timedelta() if offset_before is None else offset_before - self.offset
        return back if back > CLOCK_TOLERANCE else timedelta()


def is_absurd(date: datetime, now: datetime) -> bool:
    """Tell whether a ``Date`` is so far from our clock that one of the two is no clock at all."""
    return abs(date - now) > ABSURD


def note_desk_clock(
    lease: Lease, date: datetime, *, asked_at: datetime, now: datetime, at_least: timedelta | None = None
) -> Lease:
    """Return the lease after an answer that bears ``date``, to a request sent at ``asked_at`` and read at ``now``.

    ``at_least`` is a lower bound of the offset that another answer has told since.

    The offset stays as large as any pass has shown while the bounds allow. When they do not, the desk's clock was set
    back and dates repeat: a change from before may bear any date up to what the clock would read now. If it was set
    back by more than `CLOCK_TOLERANCE`, the lease keeps that date too. ``seen_through`` never moves back.

    Unless our own clock went back since the desk's was found set back: it was ours that had jumped ahead then, and what
    was taken for dates to come goes.
    """
    least, most = date - now, date + _WHOLE_SECOND - asked_at
    if at_least is not None:
        least = max(least, at_least)
    if is_ahead(lease.set_back_at, now):
        known = max(date, lease.complete_through or date)
        return msgspec.structs.replace(
            lease,
            clock_offset=least,
            seen_through=known,
            covered_through=known if lease.covered_through is None else min(lease.covered_through, known),
            set_back_through=None,
            set_back_at=None,
        )
    set_back = lease.seen_through is not None and lease.clock_offset > most
    if not set_back:
        offset = least if lease.seen_through is None else max(lease.clock_offset, least)
        seen = date if lease.seen_through is None else max(lease.seen_through, date)
        return msgspec.structs.replace(lease, clock_offset=offset, seen_through=seen)
    would_read = now + lease.clock_offset + _WHOLE_SECOND
    noted = msgspec.structs.replace(
        lease, clock_offset=least, seen_through=max(lease.seen_through or date, date, would_read)
    )
    if lease.clock_offset <= least + CLOCK_TOLERANCE:
        return noted
    return _repeating(noted, would_read, asked_at=asked_at)


def note_rows_ahead(lease: Lease, dates: Iterable[datetime], desk_clock: datetime, *, asked_at: datetime) -> Lease:
    """Return the lease after an answer whose rows bear these dates, some of them ahead of the desk's clock.

    A row dated later than all that was seen shows that the desk's dates repeat. If it is ahead by an hour at the most,
    that may be the hour that daylight saving repeats: where standard time is UTC or ahead of it, the first pass bears
    dates an hour late. A row of then, written at *t*, bears *t* + 1 h, and the second pass begins before that. So
    what the first pass writes is dated no later than an hour after any such row. A minute ahead is no sign of that: the
    ``Date`` may be a proxy's.
    """
    seen = lease.seen_through or desk_clock
    ahead = [date for date in dates if seen < date <= desk_clock + ABSURD]
    if not ahead:
        return lease
    noted = msgspec.structs.replace(lease, seen_through=max(ahead))
    latest = desk_clock + REPEATED_HOUR + CLOCK_TOLERANCE
    late = [date for date in ahead if desk_clock + FUTURE_TOLERANCE < date <= latest]
    return _repeating(noted, min(late) + REPEATED_HOUR, asked_at=asked_at) if late else noted


def _repeating(lease: Lease, through: datetime, *, asked_at: datetime) -> Lease:
    """Return the lease when dates repeat up to ``through``, as the answer to a request sent at ``asked_at`` shows."""
    return msgspec.structs.replace(
        lease,
        seen_through=max(lease.seen_through or through, through),
        set_back_through=max(lease.set_back_through or through, through),
        set_back_at=asked_at,
    )


def before_the_question(date: datetime, asked: datetime) -> timedelta:
    """Return by how much an answer that bears ``date`` is older than its question; zero when nothing shows.

    ``asked`` is what the desk's clock read, as far as it was known, when the question was sent.
    """
    return max(asked - date - _WHOLE_SECOND - _DRIFT, timedelta())
