"""FreeScout's worker stands still, as it does every hour for a minute: how long is the cache wrong then?

Nothing is delivered. The poller is a real process with its own settings, at the machine's speed; only its peeks can
tell of what changes.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from db.database import Database
from db.reads import read_from
from db.url import normalise
from proof.live import name_processes, until
from simulator import Desk, SystemClock, serve

TICKETS = 200
SECONDS = 60.0
EVERY = 1.0
"""Mean seconds between two changes."""
LONGEST = 5.0
"""Seconds within which a change has to be in the cache."""
_LOOK_EVERY = 0.02
_DEADLINE = 2.0


class Standstill:
    """A desk that sends no deliveries, and how long each of its changes was unknown.

    Args:
        database_url: A migrated database of its own.
        folder: Where the poller's output goes.
        seed: Decides what changes, and when.
        seconds: For how long.
        every: Mean seconds between two changes.
        settings: Environment variables of the poller.
    """

    def __init__(
        self,
        database_url: str,
        *,
        folder: Path,
        seed: int,
        seconds: float = SECONDS,
        every: float = EVERY,
        settings: dict[str, str] | None = None,
    ) -> None:
        self._url = database_url
        self._folder = folder
        self._seconds = seconds
        self._every = every
        self._settings = settings or {}
        self._chance = random.Random(seed)
        self._desk = Desk(clock=SystemClock(), seed=seed)
        self._desk.populate(TICKETS, days=30)
        self._wrong_since: dict[int, float] = {}
        self.unknown_for: list[float] = []
        """Seconds from each change until the cache answered as it is, in order of length."""

    async def run(self) -> Sequence[float]:
        """Let it stand still, and return how long each change was unknown.

        Raises:
            NothingHappenedError: The poller did not begin, or a change was never known.
        """
        async with AsyncExitStack() as stack:
            desk_url = await stack.enter_async_context(serve(self._desk))
            database = Database(normalise(self._url), connections=2, name="standstill")
            stack.push_async_callback(database.close)
            _, poller = name_processes(
                self._folder, database_url=self._url, desk=self._desk, desk_url=desk_url, settings=self._settings
            )
            stack.push_async_callback(poller.kill)
            await poller.start()
            await until("the first pass", lambda: poller.has_said("pass.completed"))
            looking = asyncio.create_task(self._look(database))
            stack.callback(looking.cancel)
            end = time.monotonic() + self._seconds
            while time.monotonic() < end:
                await asyncio.sleep(min(self._chance.expovariate(1 / self._every), self._seconds / 2))
                self._change()
            await until("the last change", lambda: not self._wrong_since or looking.done())
        return sorted(self.unknown_for)

    def _change(self) -> None:
        """Change one ticket, or take in a new one; not one whose last change is not known yet."""
        if self._chance.random() < 1 / 4:
            ticket_id = self._desk.customer_writes()
        else:
            ticket_id = self._chance.choice([row.id for row in self._desk.truth() if row.id not in self._wrong_since])
            others = {"active", "pending", "closed"} - {self._desk.get(ticket_id).status}
            self._desk.set_status(ticket_id, self._chance.choice(sorted(others)))
        self._wrong_since[ticket_id] = time.monotonic()

    async def _look(self, database: Database) -> None:
        while True:
            for ticket_id, since in list(self._wrong_since.items()):
                reading = await read_from(database, ticket_id, deadline=_DEADLINE)
                if reading.ticket_state == self._desk.get(ticket_id).status:
                    self.unknown_for.append(time.monotonic() - since)
                    del self._wrong_since[ticket_id]
            await asyncio.sleep(_LOOK_EVERY)


def share(values: Sequence[float], part: float) -> float:
    """Return the value that so large a part of sorted ones do not exceed; 0 of none."""
    return values[min(len(values) - 1, int(part * len(values)))] if values else 0.0
