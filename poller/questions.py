"""Asks FreeScout about disputed tickets, one request each, and writes its answers.

The open questions are the disputed rows themselves, so none is lost in a crash and none is asked twice at once.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime

from db import lease
from db.database import Database
from freescout_audit.events import QUESTION_ANSWERED, QUESTION_FAILED
from freescout_audit.logs import emit
from freescout_audit.rule import Terms, Truth
from poller.freescout import DeskError, FreeScout
from poller.passes import write_truths

FIRST_BACKOFF = 2.0
LONGEST_BACKOFF = 120.0


class Questions:
    """Asks what is open, newest first.

    Args:
        desk: The desk's API; it bounds how many requests are under way.
        database: The cache.
        terms: How long answers are vouched for.
        at_once: How many questions a round takes at the most.
        clock: Seconds that only go forward, for the pauses between attempts.
        crowded: Called when a walk would be cheaper than the questions.
    """

    def __init__(
        self,
        desk: FreeScout,
        database: Database,
        *,
        terms: Terms,
        at_once: int,
        clock: Callable[[], float],
        crowded: Callable[[], None] = lambda: None,
    ) -> None:
        self._desk = desk
        self._database = database
        self._terms = terms
        self._at_once = at_once
        self._clock = clock
        self._crowded = crowded
        self._failures: dict[int, tuple[int, float]] = {}
        """How often a question has failed, and when it may be asked again."""

    async def ask(self) -> int:
        """Ask one round of what is open and due, write the answers, and return how many there were.

        Raises:
            DatabaseUnavailableError: Some answers may not have been written; they are asked again.
        """
        disputes = await lease.open_disputes(self._database, at_most=self._at_once + len(self._failures))
        if sum(dispute.claimed for dispute in disputes) >= self._at_once:
            self._crowded()
        open_now = {dispute.ticket_id for dispute in disputes}
        self._failures = {ticket: failure for ticket, failure in self._failures.items() if ticket in open_now}
        now = self._clock()
        due = [
            dispute.ticket_id
            for dispute in disputes
            if dispute.ticket_id not in self._failures or self._failures[dispute.ticket_id][1] <= now
        ][: self._at_once]
        if not due:
            return 0
        results = await asyncio.gather(*(self._ask(ticket_id) for ticket_id in due))
        truths = await self._that_count([truth for truth in results if isinstance(truth, Truth)])
        await write_truths(self._database, truths, terms=self._terms)
        answered = {truth.ticket_id for truth in truths}
        failed = [ticket_id for ticket_id in due if ticket_id not in answered]
        for ticket_id in answered:
            self._failures.pop(ticket_id, None)
        for ticket_id in failed:
            self._back_off(ticket_id)
        if answered:
            gone = sum(truth.sighting is None for truth in truths)
            emit(QUESTION_ANSWERED, answered=len(answered), gone=gone or None)
        if failed:
            reasons = sorted({str(error) for error in results if isinstance(error, DeskError)})
            emit(QUESTION_FAILED, failed=len(failed), tickets=failed[:20], reason="; ".join(reasons) or None)
        return len(answered)

    async def _ask(self, ticket_id: int) -> Truth | DeskError:
        asked_at: datetime = await lease.now(self._database)
        try:
            sighting = await self._desk.conversation(ticket_id)
        except DeskError as error:
            return error
        return Truth(ticket_id=ticket_id, sighting=sighting, asked_at=asked_at)

    async def _that_count(self, truths: list[Truth]) -> list[Truth]:
        """Return the truths that may be believed: a 404 only while the list answers, and is not empty."""
        living = [truth for truth in truths if truth.sighting is not None]
        if len(living) == len(truths):
            return truths
        try:
            return truths if await self._desk.count() > 0 else living
        except DeskError:
            return living

    def _back_off(self, ticket_id: int) -> None:
        times = self._failures.get(ticket_id, (0, 0.0))[0] + 1
        wait = min(FIRST_BACKOFF * 2 ** (times - 1), LONGEST_BACKOFF)
        self._failures[ticket_id] = (times, self._clock() + wait)
