"""What people may do at a desk, one thing at a time, chosen by a seed."""

import random
from collections.abc import Callable
from typing import Any

from proof.histories.oracle import Oracle
from simulator import Conversation, Desk
from simulator.conversation import Person

FEWEST = 3
"""A desk with fewer tickets gets a new one first."""
STATUSES = ("active", "pending", "closed", "spam")

Act = Callable[[Desk, Conversation, random.Random], object]


def _status(rng: random.Random) -> str:
    return rng.choice(STATUSES)


def _start_and_undo(desk: Desk, row: Conversation, rng: random.Random) -> None:
    started = desk.start_in_ui(mailbox_id=row.mailbox_id, status=_status(rng))
    if rng.random() < 1 / 2:
        desk.undo_start(started)


def _reply_and_change(desk: Desk, row: Conversation, rng: random.Random) -> None:
    desk.reply_in_ui(row.id, status=_status(rng))
    if rng.random() < 1 / 2:
        desk.set_status(row.id, _status(rng))


def _several(desk: Desk, row: Conversation, rng: random.Random) -> None:
    for _ in range(rng.randint(2, 4)):
        desk.set_status(row.id, _status(rng))


def _bulk(desk: Desk, row: Conversation, rng: random.Random) -> None:
    others = [each.id for each in desk.truth() if each.state == "published"]
    desk.bulk_set_status({row.id, *rng.sample(others, min(len(others), 3))}, _status(rng))


def _merge(desk: Desk, row: Conversation, rng: random.Random) -> None:
    others = [each.id for each in desk.truth() if each.state == "published" and each.id != row.id]
    if others:
        desk.merge(rng.choice(others), row.id)


def _delete_twice(desk: Desk, row: Conversation, _rng: random.Random) -> None:
    desk.delete_to_folder(row.id)
    desk.delete_forever(row.id)


def _move(desk: Desk, row: Conversation, rng: random.Random) -> None:
    desk.move(row.id, rng.choice(list(desk.mailboxes)))


def _replace(desk: Desk, row: Conversation, _rng: random.Random) -> None:
    """One deleted, one created: the count stays the same."""
    desk.delete_forever(row.id)
    desk.forward(next(each.id for each in desk.truth()), status="closed")


PUBLISHED: tuple[tuple[float, Act], ...] = (
    (6, lambda desk, row, rng: desk.set_status(row.id, _status(rng))),
    (2, _several),
    (2, _bulk),
    (3, _reply_and_change),
    (2, lambda desk, row, rng: desk.reply_through_api(row.id, status=_status(rng))),
    (2, lambda desk, row, rng: desk.reply_by_mail(row.id, status=_status(rng))),
    (1, lambda desk, row, rng: desk.note_in_ui(row.id, status=rng.choice((None, *STATUSES)))),
    (1, lambda desk, row, rng: desk.note_through_api(row.id, status=rng.choice((None, *STATUSES)))),
    (2, lambda desk, row, _: desk.customer_replies(row.id)),
    (1, lambda desk, row, _: desk.customer_writes(mailbox_id=row.mailbox_id)),
    (1, lambda desk, row, _: desk.customer_writes(mailbox_id=row.mailbox_id, created=row.created)),
    (1, _start_and_undo),
    (2, lambda desk, row, _: desk.delete_to_folder(row.id)),
    (1, _delete_twice),
    (1, lambda desk, row, _: desk.delete_forever(row.id)),
    (1, _replace),
    (1, _merge),
    (1, _move),
    (1, lambda desk, row, rng: desk.assign(row.id, rng.choice(list(desk.agents)))),
    (0.5, lambda desk, row, _: desk.unassign(row.id)),
    (0.5, lambda desk, row, _: desk.change_subject(row.id, "Question, continued")),
    (1, lambda desk, row, rng: desk.forward(row.id, status=_status(rng))),
    (0.5, lambda desk, row, _: desk.save_draft(mailbox_id=row.mailbox_id)),
    (0.5, lambda desk, row, _: desk.run_workflow(row.id, "convo.escalated")),
)
DELETED: tuple[tuple[float, Act], ...] = (
    (3, lambda desk, row, _: desk.restore(row.id)),
    (2, lambda desk, row, _: desk.customer_replies(row.id)),
    (2, lambda desk, row, _: desk.delete_forever(row.id)),
    (1, lambda desk, row, _: desk.empty_folder(row.mailbox_id)),
)
DRAFT: tuple[tuple[float, Act], ...] = (
    (2, lambda desk, row, rng: desk.send_draft(row.id, status=_status(rng))),
    (1, lambda desk, row, _: desk.delete_forever(row.id)),
)
BY_STATE = {"published": PUBLISHED, "deleted": DELETED, "draft": DRAFT}


class WitnessedDesk(Desk):
    """A desk whose every event is witnessed: what it tells of was true then, for a moment at least."""

    def __init__(self, oracle: Oracle, **options: Any) -> None:
        self._oracle = oracle
        super().__init__(**options)

    def fire(self, event: str, subject: Conversation | Person, *rest: Any, **options: Any) -> None:
        """Fire an event; a delayed one tells of the past."""
        self._witness(subject)
        super().fire(event, subject, *rest, **options)

    def fire_later(self, event: str, row: Conversation) -> None:
        """Fire an event that will be delayed."""
        self._witness(row)
        super().fire_later(event, row)

    def _witness(self, subject: Conversation | Person) -> None:
        if isinstance(subject, Conversation) and self.conversations.get(subject.id) is subject:
            self._oracle.note_one(subject, self.clock.now())


def happen(desk: Desk, rng: random.Random, *, again: float) -> str:
    """Let one thing happen to some conversation, and say to which; the desk never loses its last ones.

    ``again`` is how often it happens to the one with the latest date.
    """
    rows = list(desk.truth())
    if len(rows) < FEWEST:
        return f"ticket {desk.customer_writes(mailbox_id=rng.choice(list(desk.mailboxes)))} is written"
    row = max(rows, key=lambda row: row.updated) if rng.random() < again else rng.choice(rows)
    before = f"ticket {row.id}, {row.status} {row.state}"
    acts = BY_STATE[row.state]
    act = rng.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
    act(desk, row, rng)
    if not desk.conversations:
        desk.customer_writes(mailbox_id=row.mailbox_id)
    after = f"{row.status} {row.state}" if row.id in desk.conversations else "gone"
    return f"{before} → {after}"


def come_and_go(desk: Desk, rng: random.Random) -> str:
    """Let somebody write, and be deleted for ever."""
    ticket_id = desk.customer_writes(mailbox_id=rng.choice(list(desk.mailboxes)))
    desk.delete_forever(ticket_id)
    return f"ticket {ticket_id} comes and goes"


def turn_over(desk: Desk, rng: random.Random) -> str:
    """Let somebody be deleted for ever, or a mail come in that is as old as the oldest ticket."""
    rows = list(desk.truth())
    if len(rows) > FEWEST and rng.random() < 1 / 2:
        row = rng.choice(rows)
        desk.delete_forever(row.id)
        return f"ticket {row.id} is deleted for ever"
    row = min(rows, key=lambda row: row.created)
    return f"ticket {desk.customer_writes(mailbox_id=row.mailbox_id, created=row.created)} is written"


def change_all(desk: Desk, rng: random.Random) -> str:
    """Let an agent give all tickets one status at once, as the UI allows: they bear one date."""
    status = rng.choice(STATUSES)
    desk.bulk_set_status([row.id for row in desk.truth() if row.state == "published"], status)
    return f"all tickets are {status}"


def note_at_rest(desk: Desk) -> str:
    """Let an agent note something on the ticket that has been at rest the longest: what tells of it bears its date."""
    row = min(desk.truth(), key=lambda row: row.updated)
    desk.note_through_api(row.id)
    return f"ticket {row.id} has a note"


def replace_one(desk: Desk, rng: random.Random) -> str:
    """Delete a ticket for ever, if enough are left, and take in a mail that is as old as the oldest ticket."""
    rows = list(desk.truth())
    oldest = min(rows, key=lambda row: row.created)
    gone = rng.choice(rows)
    if len(rows) > FEWEST:
        desk.delete_forever(gone.id)
    ticket_id = desk.customer_writes(mailbox_id=oldest.mailbox_id, created=oldest.created)
    return f"ticket {gone.id} is deleted for ever, and {ticket_id} is written"


def change_and_go(desk: Desk, rng: random.Random, *, time_passes: Callable[[], None]) -> str:
    """Let a ticket change twice in one second, once more later, and be deleted for ever."""
    rows = [row for row in desk.truth() if row.state == "published"]
    if len(rows) <= FEWEST:
        return f"ticket {desk.customer_writes(mailbox_id=rng.choice(list(desk.mailboxes)))} is written"
    row = rng.choice(rows)
    for status in rng.sample(STATUSES, 2):
        desk.set_status(row.id, status)
    time_passes()
    desk.set_status(row.id, rng.choice([status for status in STATUSES if status != row.status]))
    time_passes()
    desk.delete_forever(row.id)
    return f"ticket {row.id} changes three times and is deleted for ever"


def lose_a_mailbox(desk: Desk, rng: random.Random) -> str:
    """Delete a mailbox with all that is in it, if enough is left."""
    in_it = {box: sum(row.mailbox_id == box for row in desk.truth()) for box in desk.mailboxes}
    box = rng.choice(list(desk.mailboxes))
    if len(desk.mailboxes) == 1 or len(desk.conversations) - in_it[box] < FEWEST:
        return "nothing"
    return f"mailbox {box} is deleted, and tickets {desk.delete_mailbox(box)} with it"
