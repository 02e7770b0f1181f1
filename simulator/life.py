"""A small desk that lives by itself: agents and customers change things, seeded, and now and then a delivery is lost.

``step`` does one thing; ``run_life`` does one after another in real time and says what changed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from simulator.conversation import Conversation
from simulator.desk import Desk
from simulator.index import id_of
from simulator.jobs import Mail

_STATUSES = ("active", "pending", "closed")
_FEWEST = 8
_LATELY = 30


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened at the desk.

    Attributes:
        at: When, by the true clock.
        operation: What was done, in words.
        conversation_id: The ticket.
        before: Its status before, or its state where that is not ``published``; empty for a new one.
        after: The same afterwards; ``gone`` after a deletion for ever.
        deliveries: How many deliveries it causes, delayed ones included.
        lost: Whether they are lost on the way, on purpose.
    """

    at: datetime
    operation: str
    conversation_id: int
    before: str
    after: str
    deliveries: int
    lost: bool


@dataclass(frozen=True, slots=True)
class _Operation:
    name: str
    weight: float
    act: Callable[[Desk, Conversation, str], object]
    fits: Callable[[Conversation], bool] = lambda row: row.state == "published"


def _settled(row: Conversation) -> bool:
    return row.state == "published" and row.status in ("closed", "pending")


_OPERATIONS = (
    _Operation("status set", 5, lambda desk, row, status: desk.set_status(row.id, status, by=_agent(desk))),
    _Operation(
        "reply in the UI", 4, lambda desk, row, status: desk.reply_in_ui(row.id, status=status, by=_agent(desk))
    ),
    _Operation("customer replies", 4, lambda desk, row, _: desk.customer_replies(row.id), _settled),
    _Operation("reply through the API", 1, lambda desk, row, status: desk.reply_through_api(row.id, status=status)),
    _Operation("reply by mail", 1, lambda desk, row, status: desk.reply_by_mail(row.id, status=status)),
    _Operation("note", 1, lambda desk, row, _: desk.note_in_ui(row.id, by=_agent(desk))),
    _Operation("assigned", 1, lambda desk, row, _: desk.assign(row.id, _agent(desk))),
    _Operation("subject changed", 0.5, lambda desk, row, _: desk.change_subject(row.id, "Question, continued")),
    _Operation("moved", 0.5, lambda desk, row, _: desk.move(row.id, _other_mailbox(desk, row))),
    _Operation("forwarded", 0.5, lambda desk, row, status: desk.forward(row.id, status=status)),
    _Operation("deleted", 0.7, lambda desk, row, _: desk.delete_to_folder(row.id)),
    _Operation("restored", 2, lambda desk, row, _: desk.restore(row.id), lambda row: row.state == "deleted"),
    _Operation(
        "deleted for ever", 1, lambda desk, row, _: desk.delete_forever(row.id), lambda row: row.state == "deleted"
    ),
)


def step(desk: Desk, *, lose_chance: float = 0.0, lately: int = _LATELY) -> Change:
    """Let one thing happen and say what.

    Args:
        desk: The desk; chance comes from its seed.
        lose_chance: The probability that the deliveries of this step are lost for ever.
        lately: It happens to one of so many tickets that were created last, or to a new one.
    """
    rng, last_seq = desk.rng, desk.queue.last_seq
    fits = [(row, operation) for row in _recent(desk, lately) for operation in _OPERATIONS if operation.fits(row)]
    if len(desk.conversations) < _FEWEST or not fits or rng.random() < 1 / 8:
        return _begin(desk, lose_chance, last_seq)
    row, operation = rng.choices(fits, [operation.weight for _, operation in fits])[0]
    before = _words(row)
    status = rng.choice([status for status in _STATUSES if status != row.status])
    operation.act(desk, row, status)
    after = _words(row) if row.id in desk.conversations else "gone"
    return _change(desk, operation.name, row.id, before, after, lose_chance=lose_chance, last_seq=last_seq)


async def run_life(
    desk: Desk,
    *,
    every: float = 3.0,
    lose_chance: float = 0.05,
    steps: int | None = None,
    report: Callable[[Change], None] = lambda _: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Let things happen, each about ``every`` seconds, until cancelled or after ``steps``.

    Args:
        desk: The desk. A ``Worker`` beside it sends what this causes.
        every: Mean seconds between two things; they come at random.
        lose_chance: The probability that a change's deliveries are lost on purpose.
        steps: How many things; None for no end.
        report: Told of each change as soon as it happened.
        sleep: Waits; a test passes one that moves its clock.
    """
    done = 0
    while steps is None or done < steps:
        await sleep(desk.rng.expovariate(1 / every))
        report(step(desk, lose_chance=lose_chance))
        done += 1


def _begin(desk: Desk, lose_chance: float, last_seq: int) -> Change:
    rng = desk.rng
    mailbox_id, customer_id = rng.choice(list(desk.mailboxes)), rng.choice(list(desk.customers))
    if rng.random() < 1 / 4:
        name = "started in the UI"
        row_id = desk.start_in_ui(mailbox_id=mailbox_id, customer_id=customer_id, status="pending", by=_agent(desk))
    else:
        name = "customer writes"
        row_id = desk.customer_writes(mailbox_id=mailbox_id, customer_id=customer_id)
    after = _words(desk.get(row_id))
    return _change(desk, name, row_id, "", after, lose_chance=lose_chance, last_seq=last_seq)


def _change(
    desk: Desk, name: str, row_id: int, before: str, after: str, *, lose_chance: float, last_seq: int
) -> Change:
    caused = [job for job in desk.queue if job.seq > last_seq and not isinstance(job.work, Mail)]
    # Losing what nobody would have heard of is no loss, and a lost delivery must have something to tell.
    lost = bool(caused) and before != after and desk.rng.random() < lose_chance
    for job in caused:
        job.doomed = lost
    return Change(desk.clock.now(), name, row_id, before, after, len(caused), lost)


def _recent(desk: Desk, lately: int) -> list[Conversation]:
    size = len(desk.by_created)
    keys = desk.by_created.slice(max(0, size - lately), size)
    return [desk.conversations[id_of(key)] for key in keys]


def _words(row: Conversation) -> str:
    return row.status if row.state == "published" else row.state


def _agent(desk: Desk) -> int:
    return desk.rng.choice(list(desk.agents))


def _other_mailbox(desk: Desk, row: Conversation) -> int:
    return desk.rng.choice([mailbox for mailbox in desk.mailboxes if mailbox != row.mailbox_id] or [row.mailbox_id])
