"""Our own host: its wall clock, which somebody may set, and the event loop, which may stand still.

APScheduler's schedule is wall clock: after the clock was set back, nothing would be due until it has come as far again.
So time that only goes forward is held against it. A poller whose host is at fault is no better than none, and another
may have a better one.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec
from apscheduler.triggers.base import BaseTrigger

JUMP = 1.0
"""Seconds by which the wall clock may go otherwise between two looks; who keeps it right adjusts it by less."""
STANDSTILL = 10.0
"""Seconds between two looks, which should be one, from which the loop is taken to have stood still."""


class Every(BaseTrigger):  # type: ignore[misc] # APScheduler has no types
    """Fires every so many seconds. What was missed is one run, and is never counted one by one."""

    __slots__ = ("_interval",)

    def __init__(self, seconds: float) -> None:
        self._interval = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first moment of the schedule that is still ahead."""
        if previous_fire_time is None:
            return now
        missed = max(0, (now - previous_fire_time) // self._interval)
        return previous_fire_time + (missed + 1) * self._interval


class Sight(msgspec.Struct, frozen=True):
    """What a look at the host has found, in seconds; 0 for nothing."""

    jumped: float = 0.0
    """By how much the wall clock was set since the last look, back if negative."""
    stood_still: float = 0.0
    """How long the loop took from one look to the next."""


class Host:
    """Watches this host; ``wall`` and ``steady`` tell seconds, and only the second never jumps."""

    def __init__(self, *, wall: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._at = steady()
        self._ahead = self._read()

    def look(self) -> Sight:
        """Look once; to be called about once a second."""
        before, (least, most), at = self._ahead, self._read(), self._steady()
        took = at - self._at
        jumped = 0.0
        if least > before[1] + JUMP or most < before[0] - JUMP:
            jumped = least - before[0]
        self._ahead, self._at = (least, most), at
        return Sight(jumped=jumped, stood_still=took if took >= STANDSTILL else 0.0)

    def _read(self) -> tuple[float, float]:
        """Return between which bounds the wall clock is ahead of the steady one: we may be held up in between."""
        earlier, wall, later = self._steady(), self._wall(), self._steady()
        return wall - later, wall - earlier
