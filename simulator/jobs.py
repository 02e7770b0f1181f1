"""What waits in FreeScout's queue for its one worker."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import Literal

from simulator.conversation import Conversation, Person

UNDO_SECONDS = 15
"""An agent may undo a reply for so long; what follows from it waits (measured: 15 s)."""

Module = Literal["1.0.67", "1.0.82", "1.0.87"]
"""A version of the API & Webhooks module. The last two were measured.

1.0.67 knows no ``convo.deleted_forever`` and no ``convo.restored``, and sends bodies as ``application/hal+json``.
1.0.87 announces a new status of an agent's reply through the API at once.
"""

EVENTS = (
    "convo.assigned",
    "convo.created",
    "convo.deleted",
    "convo.deleted_forever",
    "convo.restored",
    "convo.moved",
    "convo.status",
    "convo.customer.reply.created",
    "convo.agent.reply.created",
    "convo.note.created",
    "customer.created",
    "customer.updated",
)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A registered webhook; ``mailboxes`` empty means all of them."""

    id: int
    url: str
    events: tuple[str, ...]
    mailboxes: frozenset[int] = frozenset()

    def wants(self, event: str, mailbox_id: int | None) -> bool:
        """Tell whether an event of a conversation in this mailbox (None: a customer's event) is sent here."""
        in_scope = not self.mailboxes or mailbox_id is None or mailbox_id in self.mailboxes
        return event in self.events and in_scope


@dataclass(frozen=True, slots=True)
class Mail:
    """An email to a customer: it keeps the worker busy, nothing else."""

    conversation_id: int


@dataclass(frozen=True, slots=True)
class DelayedEvent:
    """An event that fires inside the worker, later, with the snapshot of now.

    The worker offers it to the webhooks it knew when it started: a webhook registered since misses it.
    """

    event: str
    snapshot: Conversation


@dataclass(slots=True)
class WebhookCall:
    """A delivery to one webhook. The body is written at the first attempt and kept for the retries."""

    webhook: Webhook
    event: str
    subject: Conversation | Person
    body: bytes | None = None
    attempts: int = 0


Work = Mail | DelayedEvent | WebhookCall


@dataclass(slots=True)
class Job:
    """A line of the queue.

    Attributes:
        seq: Its place; among those that are due, mail goes first, then the smallest ``seq``.
        due: It is not touched before.
        doomed: It will be lost on the way, for ever.
    """

    seq: int
    due: datetime
    work: Work
    doomed: bool = False

    @property
    def conversation_id(self) -> int | None:
        """The conversation it is about; None for a customer's event."""
        if isinstance(self.work, Mail):
            return self.work.conversation_id
        subject = self.work.snapshot if isinstance(self.work, DelayedEvent) else self.work.subject
        return subject.id if isinstance(subject, Conversation) else None


class JobQueue:
    """Jobs in the order in which they are taken: those that are due, mail first, then as they were queued.

    Attributes:
        last_seq: The ``seq`` of the job that was queued last.
    """

    def __init__(self) -> None:
        self.last_seq = 0
        self._waiting: list[tuple[datetime, int, Job]] = []
        self._ready: list[tuple[bool, int, Job]] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready)

    def __iter__(self) -> Iterator[Job]:
        yield from sorted((entry[-1] for entry in (*self._waiting, *self._ready)), key=lambda job: (job.due, job.seq))

    def put(self, work: Work, due: datetime) -> Job:
        """Add work that is not touched before ``due``."""
        self.last_seq += 1
        job = Job(self.last_seq, due, work)
        heappush(self._waiting, (due, job.seq, job))
        return job

    def take(self, now: datetime, *, any_of: random.Random | None = None) -> Job | None:
        """Take the first job that is due, or any one of those; None when none is due."""
        while self._waiting and self._waiting[0][0] <= now:
            _, seq, job = heappop(self._waiting)
            heappush(self._ready, (not isinstance(job.work, Mail), seq, job))
        if not self._ready:
            return None
        if any_of is None:
            return heappop(self._ready)[-1]
        job = self._ready.pop(any_of.randrange(len(self._ready)))[-1]
        heapify(self._ready)
        return job

    def next_due(self) -> datetime | None:
        """Return when the first job is, or was, due."""
        dues = [entry[-1].due for entry in self._ready]
        if self._waiting:
            dues.append(self._waiting[0][0])
        return min(dues, default=None)
