"""Whether deliveries are saved: the last commit says so, and with nothing to commit a small write of our own."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime

from db.database import Database
from db.journal import try_to_write
from db.refusals import explain
from freescout_audit.errors import DatabaseUnavailableError

TRY_EVERY = 5.0
"""Seconds between two tries after a commit that failed."""
LOOK_EVERY = 30.0
"""Seconds without a commit after which one is tried, so that a database that does not write is known before that."""
_DEADLINE = 4.0


class Writing:
    """Knows whether the last commit succeeded; ``clock`` gives seconds that only go forward."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._tried_at = clock()
        self.failure: DatabaseUnavailableError | None = None
        """Why the last commit failed; None when it did not."""
        self.failed_since: datetime | None = None
        self.saved_at: datetime | None = None
        """When something was committed last."""

    def saved(self) -> None:
        """Note a commit."""
        self._tried_at = self._clock()
        self.failure = self.failed_since = None
        self.saved_at = datetime.now(UTC)

    def failed(self, error: Exception) -> None:
        """Note a commit that failed, whatever it failed of."""
        self._tried_at = self._clock()
        self.failed_since = self.failed_since or datetime.now(UTC)
        if not isinstance(error, DatabaseUnavailableError):
            error = explain(error) or DatabaseUnavailableError(
                f"an unexpected error, {type(error).__name__}", "look for receiver.fault in the log, and report it"
            )
        self.failure = error

    async def watch(self) -> None:
        """Try a write of our own for ever, whenever no delivery has shown for a while whether they are saved."""
        while True:
            await asyncio.sleep(TRY_EVERY)
            if self._clock() - self._tried_at >= (LOOK_EVERY if self.failure is None else TRY_EVERY):
                await self.try_once()

    async def try_once(self) -> None:
        """Write something small and commit it."""
        try:
            await try_to_write(self._database, keep=True, deadline=_DEADLINE)
        except Exception as error:  # noqa: BLE001 - whatever it is, deliveries are not saved, and the next try comes
            self.failed(error)
        else:
            self.saved()
