"""Asks FreeScout about disputed tickets, one request each, and writes each answer as it comes.

Answers that come while others are written are written together, so that thousands of questions leave the database to
deliveries. The open questions are the disputed rows themselves, so none is lost in a crash.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from db import lease
from db.database import PATIENCE, Database
from db.group import LOCK_PATIENCE, GroupCommit
from db.tickets import open_disputes
from freescout_audit.backoff import backoff
from freescout_audit.errors import DatabaseUnavailableError
from freescout_audit.events import POLLER_FAULT, QUESTION_ANSWERED, QUESTION_FAILED
from freescout_audit.logs import emit, where
from freescout_audit.repeats import Repeats
from freescout_audit.rule import Terms, Truth
from poller.answer import of_now
from poller.freescout import DeskError, DeskRefusedError, DeskUnavailableError, FreeScout
from poller.passes import write_truths
from poller.trouble import Troubles

FIRST_BACKOFF = 2.0
LONGEST_BACKOFF = 120.0
"""Seconds until a question that failed is asked again, at the most; and those that a Retry-After is obeyed for."""
AGAIN = 2
"""How often a question has to fail before readiness tells of it."""
MANY_FAILURES = 8
"""Failures of so many tickets in a row are the desk's, not the questions': then all of them wait."""
LONGEST_PAUSE = 32.0
"""Seconds that all of them wait at the most, when no Retry-After says how long."""


class Questions:
    """Asks what is open, newest first; a question that hangs holds up no other.

    Args:
        desk: The desk's API.
        database: The cache.
        terms: How long answers are vouched for.
        at_once: How many questions may be open here at the most.
        concurrency: How many of them may be under way at the desk; one less than it allows leaves room for a pass.
        clock: Seconds that only go forward, for the pauses between attempts.
        sleep: Waits some seconds; a test passes one that it controls.
        crowded: Called when a walk would be cheaper than the questions.
    """

    def __init__(
        self,
        desk: FreeScout,
        database: Database,
        *,
        terms: Terms,
        at_once: int,
        concurrency: int = 3,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        crowded: Callable[[], None] = lambda: None,
    ) -> None:
        self._desk = desk
        self._database = database
        self._terms = terms
        self._at_once = at_once
        self._turns = asyncio.Semaphore(concurrency)
        self._unclaimed_turns = asyncio.Semaphore(max(1, concurrency - 1))
        self._clock = clock
        self._sleep = sleep
        self._crowded = crowded
        self._repeats = Repeats()
        self.troubles = Troubles(database)
        """What FreeScout answers instead of tickets, again and again."""
        self._answers = GroupCommit(self._write, key=lambda truth: truth.ticket_id)
        self._asking: dict[int, asyncio.Task[bool]] = {}
        self._failures: dict[int, tuple[int, float]] = {}
        """How often a question has failed, and when it may be asked again."""
        self._failed_in_a_row = 0
        self._failing: set[int] = set()
        """The tickets that failed in that row: a few that always fail hold up no other."""
        self._pause_until = 0.0
        self._listing = asyncio.Lock()
        self._listed_from = -1.0
        self._lists = False

    async def ask(self) -> int:
        """Ask what is open and due, wait for the answers, and return how many there were."""
        await self.look()
        asking = list(self._asking.values())
        return sum(await asyncio.gather(*asking))

    async def look(self) -> None:
        """Begin to ask what is open and due, as far as there is room, without waiting for the answers.

        Raises:
            DatabaseUnavailableError: It is not known what is open.
        """
        if self._clock() < self._pause_until:
            return
        limit = self._at_once + len(self._failures) + len(self._asking)
        disputes = await open_disputes(self._database, at_most=limit)
        if sum(dispute.claimed for dispute in disputes) >= self._at_once:
            self._crowded()
        open_now = {dispute.ticket_id for dispute in disputes}
        self._failures = {ticket: failure for ticket, failure in self._failures.items() if ticket in open_now}
        await self.troubles.keep(open_now)
        for dispute in disputes:
            ticket_id = dispute.ticket_id
            due = ticket_id not in self._failures or self._failures[ticket_id][1] <= self._clock()
            room = self._at_once if dispute.claimed else max(1, self._at_once // 2)
            if due and ticket_id not in self._asking and len(self._asking) < room:
                task = asyncio.create_task(self._ask(ticket_id, claimed=dispute.claimed))
                self._asking[ticket_id] = task
                task.add_done_callback(partial(self._asked, ticket_id))

    def _asked(self, ticket_id: int, _task: "asyncio.Task[bool]") -> None:
        self._asking.pop(ticket_id, None)

    async def stop(self) -> None:
        """End every question where it is."""
        asking = list(self._asking.values())
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await self._answers.close()

    async def _ask(self, ticket_id: int, *, claimed: bool) -> bool:
        """Settle one ticket; return whether there was an answer.

        When no delivery asks, but only a list that lacked the ticket, thousands may be asked about in a row: those
        leave one turn to others, and desk and database are given as long to themselves as they were busy with us.
        """
        if claimed:
            return await self._settle(ticket_id)
        async with self._unclaimed_turns:
            began = self._clock()
            settled = await self._settle(ticket_id)
            await self._sleep(self._clock() - began)
        return settled

    async def _settle(self, ticket_id: int) -> bool:
        """Ask about one ticket, write the answer, and return whether there was one."""
        try:
            async with self._turns:
                if self._clock() < self._pause_until:
                    return False
                beginning = await lease.read_beginning(self._database)
                asked_at = beginning.asked_at
                with of_now(asked_at, beginning.ahead):
                    sighting = await self._desk.conversation(ticket_id)
            if sighting is None:
                with of_now(asked_at, beginning.ahead):
                    await self._check_that_404_counts()
            truth = Truth(ticket_id=ticket_id, sighting=sighting, asked_at=asked_at)
            await self._answers.commit(truth, deadline=PATIENCE)
        except DeskError as error:
            if self._failed(ticket_id, error) >= AGAIN:
                await self.troubles.note_ticket(ticket_id, error.problem)
            return False
        except DatabaseUnavailableError as error:
            self._repeats.emit(
                POLLER_FAULT, error.problem, job="questions", reason=error.problem, next_step=error.next_step or None
            )
            self._back_off(ticket_id)
            return False
        except Exception as error:  # noqa: BLE001 - one odd answer must not end the other questions
            said = {"error": type(error).__name__, "where": where(error)}
            self._repeats.emit(POLLER_FAULT, tuple(said.values()), job="questions", **said)
            self._back_off(ticket_id)
            return False
        self._failures.pop(ticket_id, None)
        self._failed_in_a_row = 0
        self._failing.clear()
        await self.troubles.note_ticket(ticket_id, "")
        emit(QUESTION_ANSWERED, ticket_id=ticket_id, answer="gone" if sighting is None else sighting.status)
        return True

    async def _write(self, truths: Sequence[Truth], *, deadline: float, apart: bool) -> Sequence[None]:
        await write_truths(
            self._database,
            truths,
            terms=self._terms,
            durable=False,
            deadline=deadline,
            lock_patience=None if apart else LOCK_PATIENCE,
        )
        return [None] * len(truths)

    async def _check_that_404_counts(self) -> None:
        """Check that the desk's list answers after a 404, and is not empty; waiting questions share the answer.

        Raises:
            DeskUnavailableError: It does not count.
        """
        now = self._clock()
        async with self._listing:
            if self._listed_from < now or not self._lists:
                self._listed_from = self._clock()
                try:
                    self._lists = await self._desk.count(retries=0) > 0
                except DeskError:
                    self._lists = False
            if not self._lists:
                raise DeskUnavailableError(
                    "FreeScout answers 404, but its list does not answer or is empty",
                    "look at the desk's API & Webhooks module, and at what stands before it",
                )

    def _failed(self, ticket_id: int, error: DeskError) -> int:
        """Put a question off, and all of them when many fail; return how often this one has."""
        times = self._back_off(ticket_id)
        emit(
            QUESTION_FAILED,
            ticket_id=ticket_id,
            times=times,
            reason=error.problem,
            next_step=error.next_step or None,
        )
        self._failed_in_a_row += 1
        self._failing.add(ticket_id)
        pause = (error.retry_after if isinstance(error, DeskUnavailableError) else None) or 0.0
        if isinstance(error, DeskRefusedError) or len(self._failing) >= MANY_FAILURES:
            longest = backoff(1 + self._failed_in_a_row // MANY_FAILURES, first=FIRST_BACKOFF, longest=LONGEST_PAUSE)
            pause = max(pause, longest)
        self._pause_until = max(self._pause_until, self._clock() + min(pause, LONGEST_BACKOFF))
        return times

    def _back_off(self, ticket_id: int) -> int:
        """Put a question off, longer each time, and return how often it has failed."""
        times = self._failures.get(ticket_id, (0, 0.0))[0] + 1
        due = self._clock() + backoff(times, first=FIRST_BACKOFF, longest=LONGEST_BACKOFF)
        self._failures[ticket_id] = (times, due)
        return times
