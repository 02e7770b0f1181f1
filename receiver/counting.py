"""Counts the tickets by what they read, beside all else: once a minute, and when the lease ends or comes back."""

import asyncio
import time
from contextlib import suppress

from db.counts import Counts, count
from db.database import Database
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import RECEIVER_FAULT
from freescout_audit.repeats import Repeats
from receiver.metrics import Metrics

EVERY = 60.0
"""Seconds from one count to the next."""
REST = 99
"""A pause is at least so many times as long as the count took: it is a hundredth of a connection's time."""
DEADLINE = 60.0
"""Seconds that a count may take: ten million tickets took 19 on a busy machine."""


class Counting:
    """Knows what was counted last; None when that is not known."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self._repeats = Repeats()
        self._vouches: bool | None = None
        """Whether the lease vouched when it was last looked at."""
        self._wanted = asyncio.Event()
        self.counts: Counts | None = None

    def look(self, *, vouches: bool) -> None:
        """Take notice of whether the lease vouches: when that changes, so does what most tickets read.

        What was counted before is then not known to be so any more.
        """
        if vouches != self._vouches:
            self._wanted.set()
            if self._vouches is not None:
                self.counts = None
        self._vouches = vouches

    def forget(self) -> None:
        """Forget what was counted: the database is away."""
        self.counts = self._vouches = None

    async def watch(self) -> None:
        """Count for ever."""
        while True:
            began = time.monotonic()
            await self.count_once()
            await asyncio.sleep(REST * (time.monotonic() - began))
            with suppress(TimeoutError):
                async with asyncio.timeout(began + EVERY - time.monotonic()):
                    await self._wanted.wait()

    async def count_once(self) -> None:
        """Count, and show it; what cannot be counted is not known.

        A count reads every row, which readiness does not: an error of PostgreSQL's may show here alone.
        """
        self._wanted.clear()
        counts = None
        try:
            counts = await count(self._database, deadline=DEADLINE)
        except DatabaseUnavailableError:
            pass  # readiness tells of the database
        except Exception as error:  # noqa: BLE001 - the next count comes, whatever this one met
            self._repeats.emit(RECEIVER_FAULT, type(error).__name__, error=type(error).__name__, where="counting")
        self.counts = counts
        self._metrics.counted(counts)
