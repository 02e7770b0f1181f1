"""Reading the desk on an operator's word, writing the truth by the poller's own path, and telling what differed."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from db import lease
from db.census import Census
from db.database import Database
from db.store import record_absences, record_truths
from db.tickets import Held, disputed_ids, read_contents
from freescout_audit.rule import Terms, Truth, Verdict
from poller.answer import check_date
from poller.deletions import Deletions
from poller.freescout import DeskError, DeskUnavailableError, FreeScout
from poller.tally import Tally
from poller.unlisted import Unlisted
from poller.walk import By, Read, Reader

MOST_NAMED = 1000
"""Findings that are named at the most; all are counted."""

Outcome = Literal["same", "healed", "added", "gone", "contested", "unanswered"]
_CHANGED = {"healed", "added", "gone"}
Tell = Callable[[int, int], None]
"""Told how many of how many have been read."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache held of a ticket, what FreeScout says, and what became of it.

    ``true_state`` is ``gone`` for a ticket that FreeScout no longer has. ``outcome``: ``same``; ``healed``: the cache
    was wrong; ``added``: it lacked the ticket; ``gone``: it did not know that the ticket is gone; ``contested``: a
    delivery came while we asked, and the ticket is to be asked about again; ``unanswered``: FreeScout did not answer.
    """

    ticket_id: int
    cached_status: str | None
    cached_state: str | None
    cached_updated_at: datetime | None
    true_status: str | None
    true_state: str | None
    true_updated_at: datetime | None
    outcome: Outcome
    detail: str = ""


class Healer:
    """Reads one desk into the cache, and remembers what differed."""

    def __init__(self, desk: FreeScout, database: Database, *, terms: Terms, size: int) -> None:
        self._desk = desk
        self._database = database
        self._terms = terms
        self._ahead: timedelta | None = None
        self._reader = Reader(desk, self._now, size=size, ahead=lambda: self._ahead)
        self._outcomes: dict[int, Outcome] = {}
        self._findings: dict[int, Finding] = {}
        self.failure: DeskError | None = None
        """Why FreeScout did not answer for a ticket, the last time it did not."""

    @property
    def counts(self) -> dict[str, int]:
        """The tickets by outcome, each once."""
        return dict(Counter(self._outcomes.values()))

    @property
    def rows(self) -> int:
        """The tickets that FreeScout answered for, each once."""
        return len(self._outcomes) - self.counts.get("unanswered", 0)

    @property
    def findings(self) -> Sequence[Finding]:
        """What differed, the first `MOST_NAMED` of it."""
        return list(self._findings.values())

    async def ask(self, ticket_ids: Collection[int], tell: Tell = lambda _done, _total: None) -> Sequence[Finding]:
        """Ask about tickets, one request each, write each answer, and return what was found, by id.

        A ticket that FreeScout does not answer for is `unanswered`; the others are asked all the same.
        """
        done = 0

        async def one(ticket_id: int) -> Finding:
            nonlocal done
            finding = await self._ask_one(ticket_id)
            done += 1
            tell(done, len(ticket_ids))
            return finding

        return await asyncio.gather(*(one(ticket_id) for ticket_id in sorted(set(ticket_ids))))

    async def read(
        self,
        since: datetime | None,
        *,
        by: By,
        tell: Tell = lambda _done, _total: None,
        pause: Callable[[float], Awaitable[None]] | None = None,
        reached: Callable[[datetime], None] = lambda _cursor: None,
    ) -> None:
        """Read the desk's list from a date on and write it all.

        ``pause`` is called with the seconds that each answer took, to leave the desk as much time for others;
        ``reached`` is told of each date before which everything has been written.

        Raises:
            DeskError: The list cannot be read on; what was read is written.
        """
        tally = Tally()
        await self._asking()
        async for read in self._reader.walk(since, by=by):
            if read.cursor is not None:
                reached(read.cursor)
            await self._write(read.truths)
            tally.add(read)
            tell(tally.done, tally.total)
            if pause is not None:
                await pause((await self._now() - read.asked_at).total_seconds())

    async def find_deleted(self) -> None:
        """Find what the desk no longer has, by its counts, and ask about everything that is disputed.

        Raises:
            DeskError: The counts cannot be compared.
        """
        census = Census(self._database)
        asked_at = await self._asking()
        begun = await self._desk.clock()
        check_date(begun, asked_at)
        unlisted = Unlisted(self._reader, census, write=self._write, dispute=self._dispute)
        await Deletions(
            self._reader, census, unlisted, since=begun, write=self._write_once_more, dispute=self._dispute
        ).search()
        await self.ask(await disputed_ids(self._database))

    async def _write_once_more(self, read: Read) -> None:
        """Write rows that the comparison has read: of those, only what differs counts."""
        new = read.ticket_ids - self._outcomes.keys()
        await self._write(read.truths)
        for ticket_id in new:
            if self._outcomes.get(ticket_id) == "same":
                del self._outcomes[ticket_id]

    async def _ask_one(self, ticket_id: int) -> Finding:
        asked_at = await self._asking()
        try:
            with self._reader.of_now(asked_at):
                sighting = await self._desk.conversation(ticket_id)
            if sighting is None and await self._desk.count(retries=0) == 0:
                # The same care as the poller's: an API that lists nothing is more likely broken.
                raise DeskUnavailableError(
                    "FreeScout answers 404, but its list is empty", "look at the desk: are its conversations there?"
                )
        except DeskError as error:
            self.failure = error
            held = (await read_contents(self._database, [ticket_id])).get(ticket_id)
            return self._keep(_finding(held, None, ticket_id, "unanswered", str(error)))
        truth = Truth(ticket_id=ticket_id, sighting=sighting, asked_at=asked_at)
        if sighting is None and not await read_contents(self._database, [ticket_id]):
            return self._keep(_finding(None, truth, ticket_id, "same"))  # nothing here, nothing there
        return (await self._write([truth]))[0]

    async def _write(self, truths: Sequence[Truth]) -> Sequence[Finding]:
        ids = [truth.ticket_id for truth in truths]
        before = await read_contents(self._database, ids)
        recorded = await record_truths(self._database, truths, terms=self._terms)
        return [
            self._keep(_judge(before, truth, verdict)) for truth, verdict in zip(truths, recorded.verdicts, strict=True)
        ]

    async def _dispute(self, ticket_ids: Collection[int], asked_at: datetime) -> Collection[int]:
        return await record_absences(self._database, ticket_ids, asked_at=asked_at, terms=self._terms)

    def _keep(self, finding: Finding) -> Finding:
        """Keep what was found of a ticket; of several findings the last, but that it was healed is not forgotten."""
        ticket_id = finding.ticket_id
        if finding.outcome != "same" or self._outcomes.get(ticket_id) not in _CHANGED:
            self._outcomes[ticket_id] = finding.outcome
            self._findings.pop(ticket_id, None)
            if finding.outcome != "same" and len(self._findings) < MOST_NAMED:
                self._findings[ticket_id] = finding
        return finding

    async def _asking(self) -> datetime:
        """Return our clock, and learn how far the desk's is ahead of it, if a pass has read it."""
        beginning = await lease.read_beginning(self._database)
        self._ahead = beginning.ahead
        return beginning.asked_at

    async def _now(self) -> datetime:
        return await self._database.now()


def _judge(before: Mapping[int, Held], truth: Truth, verdict: Verdict) -> Finding:
    """Say what a truth changed."""
    held = before.get(truth.ticket_id)
    outcome: Outcome = "same"
    said = truth.sighting
    if verdict.outcome == "contested":
        outcome = "contested"
    elif verdict.outcome == "dropped":
        pass
    elif said is None:
        outcome = "same" if held is None or held.gone else "gone"
    elif held is None or held.gone:
        outcome = "added"
    elif (held.status, held.state) != (said.status, said.state):
        outcome = "healed"
    return _finding(held, truth, truth.ticket_id, outcome)


def _finding(held: Held | None, truth: Truth | None, ticket_id: int, outcome: Outcome, why: str = "") -> Finding:
    said = None if truth is None else truth.sighting
    gone = held is not None and held.gone
    living = None if gone else held
    state = None if truth is None else "gone" if said is None else said.state
    return Finding(
        ticket_id=ticket_id,
        cached_status=None if living is None else living.status,
        cached_state="gone" if gone else None if living is None else living.state,
        cached_updated_at=None if living is None else living.updated_at,
        true_status=None if said is None else said.status,
        true_state=state,
        true_updated_at=None if said is None else said.updated_at,
        outcome=outcome,
        detail=why,
    )
