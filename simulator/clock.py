"""The time a simulation runs on: passed in, never read from the machine by the desk itself."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Whatever tells the time: an aware UTC datetime."""

    def now(self) -> datetime:
        """Return the time as an aware UTC datetime."""
        ...


class SystemClock:
    """The machine's own clock, for live use."""

    def now(self) -> datetime:
        """Return the time as an aware UTC datetime."""
        return datetime.now(UTC)


class ManualClock:
    """A clock that stands still until it is told to move, so that a test owns the time.

    Args:
        start: An aware datetime; the simulation begins there.
    """

    def __init__(self, start: datetime = datetime(2026, 3, 2, 9, 0, 0, tzinfo=UTC)) -> None:
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """Return the time as an aware UTC datetime."""
        return self._now

    def advance(self, seconds: float) -> datetime:
        """Move on by ``seconds`` (never back) and return the new time."""
        if seconds < 0:
            raise ValueError(f"a clock cannot go back by {-seconds} s; set faults.clock_offset for a wrong one")
        self._now += timedelta(seconds=seconds)
        return self._now

    def advance_to(self, when: datetime) -> datetime:
        """Move on to ``when``; stay where we are if that has passed."""
        self._now = max(self._now, when.astimezone(UTC))
        return self._now


def stored_seconds(moment: datetime, zone: tzinfo) -> int:
    """Return the Unix second that FreeScout reports for ``moment`` once its database has stored it.

    The database keeps the wall time of ``APP_TIMEZONE`` without a zone, and PHP 8.2 reads both passes of the hour that
    repeats in autumn as one of them (measured). Where standard time is UTC or ahead of it, that is the second pass: the
    first is reported one hour late, in the future. Elsewhere it is the first: the second is reported one hour early.
    """
    if zone is UTC:
        return int(moment.timestamp())
    second_pass = moment.astimezone(zone).replace(fold=1)
    offset = second_pass.utcoffset()
    ahead = offset is None or offset >= timedelta()
    return int(second_pass.replace(fold=int(ahead)).timestamp())


def iso(seconds: int) -> str:
    """Write a Unix second as FreeScout does: ``2026-03-02T09:00:00Z``."""
    return (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
