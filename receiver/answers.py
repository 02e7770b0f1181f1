"""Remembers what requests were answered, and writes it down every ten seconds at the most, whatever comes."""

import asyncio
import time
from collections.abc import Callable

from db.answers import DROPPED, VERIFIED, NewAnswers, add_answers
from db.database import Database
from freescout_audit.endpoints import name_at
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import RECEIVER_FAULT
from freescout_audit.logs import dropped_lines
from freescout_audit.repeats import Repeats

WRITE_EVERY = 10.0
_REMEMBERED = 10_000
"""Deliveries that are known to have come before, at the most."""


class Answers:
    """Counts requests by kind until they are written; ``clock`` gives seconds that only go forward."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        self._counted: dict[str, list[float]] = {}
        """How many of each kind, and when the first and the last came."""
        self._fingerprints: dict[str, str] = {}
        """The key that signed last, by kind."""
        self._seen: dict[str, None] = {}
        """Deliveries that have come, the oldest first."""
        self._repeats = Repeats()
        self._dropped = dropped_lines()

    def note(self, kind: str, times: int = 1) -> None:
        """Count requests of one of a fixed set of kinds."""
        now = self._clock()
        seen = self._counted.setdefault(kind, [0, now, now])
        seen[0] += times
        seen[2] = now

    def verified(self, endpoint: str, fingerprint: str, digest: str) -> None:
        """Count a delivery to an endpoint that the key of that name had signed.

        One that has come before is none: whoever has recorded it can send it again, and it proves no key.
        """
        if digest in self._seen:
            return
        if len(self._seen) >= _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[digest] = None
        kind = name_at(endpoint, VERIFIED)
        self._fingerprints[kind] = fingerprint
        self.note(kind)

    async def watch(self) -> None:
        """Write for ever what was counted; what cannot be written waits for the next time."""
        while True:
            await asyncio.sleep(WRITE_EVERY)
            try:
                await self.write()
            except DatabaseUnavailableError:
                pass  # readiness says so
            except Exception as error:  # noqa: BLE001 - the next time comes, whatever this one met
                self._repeats.emit(RECEIVER_FAULT, type(error).__name__, error=type(error).__name__, where="answers")

    async def write(self) -> None:
        """Write what was counted; what an error keeps from being written stays counted.

        Raises:
            DatabaseUnavailableError: PostgreSQL is away.
        """
        dropped = dropped_lines()
        if dropped > self._dropped:
            self.note(DROPPED, dropped - self._dropped)
        self._dropped = dropped
        counted, self._counted = self._counted, {}
        now = self._clock()
        try:
            await add_answers(
                self._database,
                {
                    kind: NewAnswers(
                        answers=int(answers),
                        first_ago=now - first,
                        last_ago=now - last,
                        key_fingerprint=self._fingerprints.get(kind),
                    )
                    for kind, (answers, first, last) in counted.items()
                },
            )
        except Exception:
            for kind, (answers, first, last) in counted.items():
                later = self._counted.get(kind, [0, first, last])
                self._counted[kind] = [answers + later[0], first, max(last, later[2])]
            raise
