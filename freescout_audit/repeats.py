"""Says once what repeats: the first time at once, and then one line in a while, with how often and since when."""

import time
from collections.abc import Callable, Hashable
from contextlib import suppress

import msgspec

from freescout_audit.events import LogEvent
from freescout_audit.logs import emit

EVERY = 60.0
"""Seconds from one line to the next about the same."""
_REMEMBERED = 10_000
"""Things that are remembered at the most; the one that was said first is forgotten first."""


class _Said(msgspec.Struct):
    began_at: float
    said_at: float
    untold: int = 0


class Repeats:
    """Lets lines through that say something new; ``every`` is in seconds, of ``clock``, which only goes forward."""

    def __init__(self, every: float = EVERY, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._said: dict[Hashable, _Said] = {}

    def emit(self, event: LogEvent, about: Hashable, **fields: object) -> None:
        """Write a line if none was written ``about`` the same lately.

        It tells how many there were since the last line (``repeated``), and how long that has been so (``for_s``).
        """
        now = self._clock()
        said = self._said.get(about)
        if said is not None and now - said.said_at < self._every:
            said.untold += 1
            return
        if said is None:
            self._remember(about, now)
            emit(event, **fields)
            return
        repeated, said.untold, said.said_at = said.untold + 1, 0, now
        emit(event, **fields, repeated=repeated, for_s=round(now - said.began_at))

    def over(self, about: Hashable) -> None:
        """Forget it: when it comes again, that is new."""
        if self._said:
            self._said.pop(about, None)

    def _remember(self, about: Hashable, now: float) -> None:
        if len(self._said) >= _REMEMBERED:
            with suppress(StopIteration):
                del self._said[next(iter(self._said))]
        self._said[about] = _Said(began_at=now, said_at=now)
