"""The simulator against the recorded deliveries of module 1.0.87: the same cause gives a delivery of the same shape.

The recording has gaps, so it cannot be done again step by step. Each of its deliveries has one cause, which is done at
a desk of its own: event, status and state have to be the same, and of each date whether it is the moment of the cause
or an earlier one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest

from simulator import Desk, ManualClock, Worker
from simulator.jobs import UNDO_SECONDS
from simulator.testing import Recorder
from support.likeness import assert_same_headers, assert_same_shape
from support.recordings import MODULE_87, Recorded

Told = Mapping[str, Any]
"""The body of a recorded delivery."""
Act = Callable[[Desk, int, Told], object]
"""Does to a ticket what the recorder did."""

RECORDED = {delivery.n: delivery for delivery in MODULE_87.deliveries()}
UNDO = timedelta(seconds=UNDO_SECONDS)
WORKER_STOOD_STILL_UNTIL = 52
"""The worker began at the full minute to send what had waited: how late it was says nothing of the event."""


def another(status: str) -> str:
    return "pending" if status != "pending" else "active"


def nothing(_desk: Desk, _told: Told) -> int:
    return 0


def ticket(desk: Desk, told: Told) -> int:
    """A ticket as it was before: with the status that is told of."""
    return desk.customer_writes(mailbox_id=int(told["mailboxId"]), status=told["status"])


def with_another_status(desk: Desk, told: Told) -> int:
    return ticket(desk, {**told, "status": another(told["status"])})


def answered(desk: Desk, told: Told) -> int:
    """A ticket of somebody, whose customer waits for nothing."""
    row = ticket(desk, {**told, "status": "closed"})
    desk.assign(row, 1)
    return row


def deleted(desk: Desk, told: Told) -> int:
    row = ticket(desk, told)
    desk.delete_to_folder(row)
    return row


def as_it_ended(desk: Desk, told: Told) -> int:
    """What was deleted for ever: a ticket, one in the Deleted folder, or a start that was undone."""
    if told["state"] == "draft":
        row = desk.start_in_ui(mailbox_id=told["mailboxId"], status=told["status"])
        desk.undo_start(row)
        return row
    return deleted(desk, told) if told["state"] == "deleted" else ticket(desk, told)


def merge(desk: Desk, row: int, told: Told) -> None:
    desk.merge(ticket(desk, told), row)


@dataclass(frozen=True)
class Cause:
    """What the recorder did, and which deliveries came of it.

    Attributes:
        act: The same at the simulated desk.
        deliveries: Numbers of deliveries, each with the thread that the act left: its date is the moment of the act.
            None where FreeScout no longer shows it; then the moment is ``updatedAt``.
        before: Makes the ticket.
    """

    act: Act
    deliveries: Mapping[int, int | None]
    before: Callable[[Desk, Told], int] = ticket


CAUSES = {
    "a customer writes": Cause(
        lambda desk, _, told: desk.customer_writes(
            mailbox_id=told["mailboxId"], status=told["status"], source=told["source"]["type"]
        ),
        {1: 1, 5: 5, 24: 23, 95: 88, 152: 136, 206: 186, 271: 242, 320: 293},
        nothing,
    ),
    "an agent begins through the API": Cause(
        lambda desk, _, told: desk.agent_posts(mailbox_id=told["mailboxId"], status=told["status"]),
        {148: 131},
        nothing,
    ),
    "an agent begins in the UI": Cause(
        lambda desk, _, told: desk.start_in_ui(mailbox_id=int(told["mailboxId"]), status=told["status"]),
        {85: None, 124: 108, 226: 191, 299: 262},
        nothing,
    ),
    "a status is set": Cause(
        lambda desk, row, told: desk.set_status(row, told["status"]),
        {2: 2, 20: 17, 69: None, 88: 82, 108: 100, 129: 119, 130: 121, 151: 135, 198: 179}
        | {277: 249, 319: 290, 335: 301, 336: 302, 343: 310},
        with_another_status,
    ),
    "an agent replies in the UI": Cause(
        lambda desk, row, told: desk.reply_in_ui(row, status=told["status"]),
        {6: 6, 7: 6, 52: 54, 90: 84, 117: 110, 136: 126, 283: 254}
        | {125: None, 143: 118, 170: 141, 209: 188, 288: 254},
        with_another_status,
    ),
    "an agent replies through the API with a status": Cause(
        lambda desk, row, told: desk.reply_through_api(row, status=told["status"]),
        {210: 192, 227: 192, 290: 260, 298: 260},
        with_another_status,
    ),
    "an agent replies by mail": Cause(
        lambda desk, row, told: desk.reply_by_mail(row, status=told["status"]),
        {13: 11, 29: None, 74: 70, 98: 92},
        with_another_status,
    ),
    "the customer replies": Cause(
        lambda desk, row, _: desk.customer_replies(row),
        {11: 10, 22: None, 94: 87, 106: 98, 131: 122, 150: 134, 252: 227, 327: 300},
        answered,
    ),
    "a note in the UI": Cause(lambda desk, row, _: desk.note_in_ui(row), {102: 96, 273: 245, 292: 261}),
    "a note in the UI with a status": Cause(
        lambda desk, row, told: desk.note_in_ui(row, status=told["status"]),
        {10: 8, 265: 239, 347: 313},
        with_another_status,
    ),
    "a note in the UI with an assignee": Cause(lambda desk, row, _: desk.note_in_ui(row, assign_to=1), {257: 232}),
    "a note through the API with a status": Cause(
        lambda desk, row, told: desk.note_through_api(row, status=told["status"]),
        {159: 144, 204: 184},
        with_another_status,
    ),
    "it is assigned": Cause(lambda desk, row, _: desk.assign(row, 2), {212: 201, 323: 296}),
    "it is moved": Cause(
        lambda desk, row, told: desk.move(row, told["mailboxId"]), {35: 35, 82: 80, 96: 89, 219: 202, 255: 230}
    ),
    "it is put into the Deleted folder": Cause(
        lambda desk, row, _: desk.delete_to_folder(row), {40: 42, 68: 61, 89: 83, 274: 246}
    ),
    "it is merged into another": Cause(merge, {111: 105, 217: 200, 231: 210}),
    "it is restored": Cause(
        lambda desk, row, _: desk.restore(row), {42: 44, 97: 91, 142: 133, 197: 178, 276: 248}, deleted
    ),
    "it is deleted for ever": Cause(
        lambda desk, row, _: desk.delete_forever(row),
        dict.fromkeys((45, 93, 115, 141, 163, 203, 328)),
        as_it_ended,
    ),
}
SEVERAL_IN_ONE_SECOND = {6, 7, 10, 11, 13, 35, 82, 102, 212, 292, 343}
"""Something else happened to the ticket in the second of the cause: a date that is not of the cause may be the same."""


def test_every_recorded_delivery_has_one_cause() -> None:
    assert sorted(n for cause in CAUSES.values() for n in cause.deliveries) == sorted(RECORDED)


@pytest.mark.parametrize(("name", "n"), [(name, n) for name, cause in CAUSES.items() for n in cause.deliveries])
async def test_the_same_cause_gives_a_delivery_of_the_recorded_shape(name: str, n: int) -> None:
    theirs, cause = RECORDED[n], CAUSES[name]
    told = theirs.conversation()
    clock = ManualClock()
    desk = Desk(clock=clock, module="1.0.87", mailboxes=("Support", "Sales", "Billing"))
    row = cause.before(desk, told)
    clock.advance(3600)
    desk.register_webhook("http://receiver.test/")
    worker, done_at = Worker(desk), clock.now()

    cause.act(desk, row, told)
    reports = await worker.run_until_idle(Recorder(), clock)

    (sent,) = (done for done in reports if done.event == theirs.event and done.conversation_id == (row or 1))
    assert sent.delivery is not None
    ours = json.loads(sent.delivery.body)
    assert_same_headers(sent.delivery, theirs)
    assert_same_shape(ours, told, f"delivery {n}")
    for field in ("status", "state", "mailboxId"):
        assert ours[field] == told[field]
    if theirs.event == "convo.deleted_forever":
        assert dated(ours, done_at) == set()  # nor does FreeScout's body tell when
        return
    moment = moment_of(theirs, cause.deliveries[n])
    if n in SEVERAL_IN_ONE_SECOND:
        assert dated(ours, done_at) <= dated(told, moment)
    else:
        assert dated(ours, done_at) == dated(told, moment)
    if n > WORKER_STOOD_STILL_UNTIL:
        assert (sent.at - done_at >= UNDO) == (theirs.received_at - moment >= UNDO)


def moment_of(delivery: Recorded, thread_id: int | None) -> datetime:
    """When the recorder did what caused a delivery."""
    told = delivery.conversation()
    if thread_id is None:
        return datetime.fromisoformat(told["updatedAt"])
    (moment,) = (thread["createdAt"] for thread in told["_embedded"]["threads"] if thread["id"] == thread_id)
    return datetime.fromisoformat(moment)


def dated(told: Told, moment: datetime) -> set[str]:
    """Which dates of a conversation are that moment."""
    dates = {name: told[name] for name in ("updatedAt", "userUpdatedAt", "closedAt")}
    dates["customerWaitingSince"] = told["customerWaitingSince"]["time"]
    return {name for name, date in dates.items() if date is not None and datetime.fromisoformat(date) == moment}
