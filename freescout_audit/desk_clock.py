"""The desk's clock, as far as its answers tell: how far it is ahead of ours, and whether it was set back.

A ``Date`` has whole seconds and an answer takes its time, so each answer tells only two bounds of the offset. All times
are aware UTC; ``now`` and ``asked_at`` are the database's wall clock. Pure.
"""

from datetime import datetime, timedelta

import msgspec

from freescout_audit.rule import Lease

CLOCK_TOLERANCE = timedelta(seconds=5)
"""A desk's clock that was set back by so little makes no walk begin earlier, and no pass fail."""
_WHOLE_SECOND = timedelta(seconds=1)


class DeskClock(msgspec.Struct, frozen=True, kw_only=True):
    """The desk's clock at an answer, and how far it was ahead of ours."""

    at: datetime
    offset: timedelta
    seen_through: datetime
    """A claim dated no later than this is no news to a pass that begins at this answer."""

    def went_back(self, offset_before: timedelta | None) -> timedelta:
        """Return by how much it was set back since its offset was ``offset_before``; zero if it was not."""
        back = timedelta() if offset_before is None else offset_before - self.offset
        return back if back > CLOCK_TOLERANCE else timedelta()


def note_desk_clock(lease: Lease, date: datetime, *, asked_at: datetime, now: datetime) -> Lease:
    """Return the lease after an answer that bears ``date``, to a request sent at ``asked_at`` and read at ``now``.

    The offset stays as large as any pass has shown while the bounds allow. When they do not, the desk's clock was set
    back and dates repeat: a change from before may bear any date up to what the clock would read now. If it was set
    back by more than `CLOCK_TOLERANCE`, the lease keeps that date too. ``seen_through`` never moves back.
    """
    least, most = date - now, date + _WHOLE_SECOND - asked_at
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
    through = would_read if lease.set_back_through is None else max(lease.set_back_through, would_read)
    return msgspec.structs.replace(noted, set_back_through=through, set_back_at=asked_at)
