"""What fires at the simulated desk and what stays silent: a test for each row of FreeScout's event matrix."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from simulator import Desk, ManualClock, NotOnDeskError, Worker
from simulator.clock import iso
from simulator.testing import Recorder

START = datetime(2026, 3, 2, 9, 0, 0, tzinfo=UTC)


@dataclass
class Rehearsal:
    clock: ManualClock
    desk: Desk
    worker: Worker
    received: Recorder

    async def settle(self, within: float = 7200) -> list[tuple[str, str, str, str]]:
        """Let everything be sent, and return what arrived since the last time, times as seconds of the minute."""
        self.received.deliveries.clear()
        await self.worker.run_until_idle(self.received, self.clock, within=within)
        return [(event, status, state, updated[11:19]) for event, status, state, updated in self.received.claims]

    def row(self, ticket: int) -> tuple[str, str, str]:
        row = self.desk.get(ticket)
        return row.status, row.state, iso(row.updated)[11:19]


@pytest.fixture
def at() -> Rehearsal:
    clock = ManualClock(START)
    desk = Desk(clock=clock, seed=1)
    desk.register_webhook("http://receiver.test/")
    return Rehearsal(clock, desk, Worker(desk), Recorder())


@pytest.fixture
async def ticket(at: Rehearsal) -> int:
    """An active ticket, created at 09:00:00; it is 09:01:00 now and nothing waits."""
    ticket = at.desk.customer_writes()
    await at.settle()
    at.clock.advance_to(START.replace(minute=1))
    return ticket


async def test_a_status_change_is_delivered_with_its_own_date(at: Rehearsal, ticket: int) -> None:
    at.desk.set_status(ticket, "closed")

    assert await at.settle() == [("convo.status", "closed", "published", "09:01:00")]


async def test_the_same_status_again_is_silent_except_in_bulk(at: Rehearsal, ticket: int) -> None:
    at.desk.set_status(ticket, "active")
    silent = await at.settle()
    at.desk.bulk_set_status([ticket], "active")

    assert silent == []
    assert [claim[:2] for claim in await at.settle()] == [("convo.status", "active")]


async def test_a_bulk_change_is_one_delivery_for_each(at: Rehearsal, ticket: int) -> None:
    other = at.desk.customer_writes()
    await at.settle()

    at.desk.bulk_set_status([ticket, other], "pending")

    assert [claim[:2] for claim in await at.settle()] == [("convo.status", "pending")] * 2


async def test_a_bogus_status_makes_active(at: Rehearsal, ticket: int) -> None:
    at.desk.set_status(ticket, "closed")
    await at.settle()

    at.desk.set_status(ticket, "bogus")

    assert [claim[:2] for claim in await at.settle()] == [("convo.status", "active")]


async def test_an_unknown_number_in_the_database_is_sent_as_active(at: Rehearsal, ticket: int) -> None:
    at.desk.set_status(ticket, "closed")
    await at.settle()

    at.desk.write_status_number(ticket, 9)
    at.desk.assign(ticket, 2)

    assert [claim[:2] for claim in await at.settle()] == [("convo.assigned", "active")]


async def test_a_reply_in_the_ui_ends_with_an_old_snapshot(at: Rehearsal, ticket: int) -> None:
    at.desk.reply_in_ui(ticket, status="pending")
    at.clock.advance(2)
    at.desk.set_status(ticket, "closed")

    assert await at.settle() == [
        ("convo.status", "pending", "published", "09:01:00"),
        ("convo.assigned", "pending", "published", "09:01:00"),
        ("convo.status", "closed", "published", "09:01:02"),
        ("convo.agent.reply.created", "pending", "published", "09:01:00"),
    ]
    assert 15 <= (at.clock.now() - START.replace(minute=1)).total_seconds() < 20
    assert at.row(ticket) == ("closed", "published", "09:01:02")


async def test_a_snapshot_is_old_but_its_threads_are_not(at: Rehearsal, ticket: int) -> None:
    at.desk.reply_in_ui(ticket, status="pending")
    await at.worker.run_until_idle(at.received, at.clock, within=10)
    at.desk.customer_replies(ticket, text="in between")
    await at.settle()

    last = json.loads(next(d.body for d in at.received.deliveries if d.event == "convo.agent.reply.created"))

    assert last["status"] == "pending"
    assert "in between" in json.dumps(last["_embedded"]["threads"])


async def test_a_conversation_started_in_the_ui_is_told_late_and_as_it_was(at: Rehearsal) -> None:
    ticket = at.desk.start_in_ui(status="pending")
    at.clock.advance(2)
    at.desk.set_status(ticket, "closed")

    assert await at.settle() == [
        ("convo.status", "closed", "published", "09:00:02"),
        ("convo.created", "pending", "published", "09:00:00"),
    ]
    status, created = (json.loads(delivery.body) for delivery in at.received.deliveries)
    assert status["mailboxId"] == 1
    assert created["mailboxId"] == "1"
    assert 15 <= (at.clock.now() - START).total_seconds() < 20


async def test_undoing_a_start_leaves_a_draft_that_was_told_as_published(at: Rehearsal) -> None:
    ticket = at.desk.start_in_ui(status="pending")
    at.clock.advance(2)
    at.desk.undo_start(ticket)

    assert [claim[:3] for claim in await at.settle()] == [("convo.created", "pending", "published")]
    assert at.row(ticket) == ("pending", "draft", "09:00:02")


async def test_undoing_a_reply_keeps_the_status_it_set(at: Rehearsal, ticket: int) -> None:
    thread = at.desk.reply_in_ui(ticket, status="pending")
    await at.settle()

    at.desk.undo_reply(ticket, thread)

    assert await at.settle() == []
    assert at.row(ticket)[0] == "pending"


async def test_a_reply_through_the_api_says_the_new_status_with_the_old_date_first(at: Rehearsal, ticket: int) -> None:
    at.desk.reply_through_api(ticket, status="closed")

    at_once = await at.settle(within=5)
    later = await at.settle()

    assert at_once == [("convo.status", "closed", "published", "09:00:00")]
    assert later == [("convo.agent.reply.created", "closed", "published", "09:01:00")]
    assert 15 <= (at.clock.now() - START.replace(minute=1)).total_seconds() < 20


@pytest.mark.parametrize("status", [None, "active"])
async def test_a_reply_through_the_api_that_sets_no_other_status_says_no_convo_status(
    at: Rehearsal, ticket: int, status: str | None
) -> None:
    at.desk.reply_through_api(ticket, status=status)

    assert [claim[0] for claim in await at.settle()] == ["convo.agent.reply.created"]


async def test_with_module_82_a_reply_through_the_api_never_says_convo_status(at: Rehearsal, ticket: int) -> None:
    at.desk.module = "1.0.82"
    at.desk.reply_through_api(ticket, status="closed")

    assert await at.settle() == [("convo.agent.reply.created", "closed", "published", "09:01:00")]
    assert 15 <= (at.clock.now() - START.replace(minute=1)).total_seconds() < 20
    assert at.desk.get(ticket).closed is None


async def test_a_reply_by_mail_says_the_new_status_with_the_old_date_first(at: Rehearsal, ticket: int) -> None:
    at.desk.reply_by_mail(ticket, status="closed")

    assert await at.settle() == [
        ("convo.status", "closed", "published", "09:00:00"),
        ("convo.agent.reply.created", "closed", "published", "09:01:00"),
    ]


@pytest.mark.parametrize("note", ["note_in_ui", "note_through_api"])
async def test_a_note_may_carry_a_date_from_before_it(at: Rehearsal, ticket: int, note: str) -> None:
    getattr(at.desk, note)(ticket)

    assert await at.settle() == [("convo.note.created", "active", "published", "09:00:00")]
    assert at.row(ticket) == ("active", "published", "09:01:00")


async def test_a_note_with_a_status_says_convo_status_only_in_the_ui(at: Rehearsal, ticket: int) -> None:
    at.desk.note_in_ui(ticket, status="closed")
    in_ui = await at.settle()
    at.desk.note_through_api(ticket, status="active")

    assert [claim[:2] for claim in in_ui] == [("convo.status", "closed"), ("convo.note.created", "closed")]
    assert [claim[:2] for claim in await at.settle()] == [("convo.note.created", "active")]


@pytest.mark.parametrize("status", ["closed", "pending", "spam"])
async def test_a_customer_reply_makes_active_without_convo_status(at: Rehearsal, ticket: int, status: str) -> None:
    at.desk.set_status(ticket, status)
    await at.settle()

    at.desk.customer_replies(ticket)

    assert [claim[:3] for claim in await at.settle()] == [("convo.customer.reply.created", "active", "published")]


async def test_a_customer_reply_brings_back_from_the_deleted_folder(at: Rehearsal, ticket: int) -> None:
    at.desk.delete_to_folder(ticket)
    await at.settle()

    at.desk.customer_replies(ticket)

    assert [claim[:3] for claim in await at.settle()] == [("convo.customer.reply.created", "active", "published")]
    assert at.row(ticket)[1] == "published"


async def test_folder_restore_move_and_assign_each_say_so_with_status_and_state(at: Rehearsal, ticket: int) -> None:
    at.desk.delete_to_folder(ticket)
    at.desk.restore(ticket)
    at.desk.move(ticket, 2)
    at.desk.assign(ticket, 2)

    assert [claim[:3] for claim in await at.settle()] == [
        ("convo.deleted", "active", "deleted"),
        ("convo.restored", "active", "published"),
        ("convo.moved", "active", "published"),
        ("convo.assigned", "active", "published"),
    ]


async def test_a_merge_tells_only_of_the_one_merged_away(at: Rehearsal, ticket: int) -> None:
    other = at.desk.customer_writes()
    await at.settle()

    at.desk.merge(ticket, other)

    assert [claim[:3] for claim in await at.settle()] == [("convo.deleted", "active", "deleted")]
    assert at.received.deliveries[0].conversation_id == other
    assert len(at.desk.threads_of(at.desk.get(ticket))) == 3


async def test_deleting_for_ever_shows_the_last_living_state(at: Rehearsal, ticket: int) -> None:
    at.desk.delete_forever(ticket)

    assert await at.settle() == [("convo.deleted_forever", "active", "published", "09:00:00")]
    assert json.loads(at.received.deliveries[0].body)["_embedded"]["threads"] == []
    with pytest.raises(NotOnDeskError):
        at.desk.get(ticket)


async def test_emptying_the_folder_and_discarding_a_draft_delete_for_ever(at: Rehearsal, ticket: int) -> None:
    draft = at.desk.save_draft()
    at.desk.delete_to_folder(ticket)
    await at.settle()

    gone = at.desk.empty_folder(1)
    at.desk.delete_forever(draft)

    assert gone == [ticket]
    assert [claim[:3] for claim in await at.settle()] == [
        ("convo.deleted_forever", "active", "deleted"),
        ("convo.deleted_forever", "active", "draft"),
    ]


async def test_a_deleted_mailbox_takes_its_conversations_without_a_word(at: Rehearsal, ticket: int) -> None:
    elsewhere = at.desk.customer_writes(mailbox_id=2)
    await at.settle()

    gone = at.desk.delete_mailbox(1)

    assert gone == [ticket]
    assert await at.settle() == []
    assert [row.id for row in at.desk.truth()] == [elsewhere]


async def test_a_forward_makes_a_conversation_nobody_hears_of(at: Rehearsal, ticket: int) -> None:
    child = at.desk.forward(ticket, status="closed")

    await at.settle()

    assert [(d.event, d.conversation_id) for d in at.received.deliveries] == [("convo.status", ticket)]
    assert at.row(child)[:2] == ("closed", "published")


async def test_a_draft_is_silent_until_it_is_sent(at: Rehearsal) -> None:
    draft = at.desk.save_draft()
    silent = await at.settle()
    at.desk.send_draft(draft, status="closed")

    assert silent == []
    assert [claim[:2] for claim in await at.settle()] == [
        ("convo.status", "closed"),
        ("convo.assigned", "closed"),
        ("convo.created", "closed"),
    ]


@pytest.mark.parametrize(
    "act",
    [
        lambda desk, ticket: desk.unassign(ticket),
        lambda desk, ticket: desk.change_subject(ticket, "Other"),
        lambda desk, ticket: desk.change_customer(ticket, 2),
        lambda desk, ticket: desk.save_draft_reply(ticket),
        lambda desk, ticket: desk.edit_thread(ticket, 1, "Other"),
        lambda desk, ticket: desk.delete_thread(ticket, 1),
    ],
    ids=["unassign", "subject", "customer", "draft reply", "edit thread", "delete thread"],
)
async def test_silent_changes_move_the_date_and_nothing_else(
    at: Rehearsal, ticket: int, act: Callable[[Desk, int], object]
) -> None:
    act(at.desk, ticket)

    assert await at.settle() == []
    assert at.row(ticket) == ("active", "published", "09:01:00")


async def test_deleting_an_agent_unassigns_silently(at: Rehearsal, ticket: int) -> None:
    at.desk.assign(ticket, 2)
    await at.settle()

    at.desk.delete_agent(2)

    assert await at.settle() == []
    assert at.desk.get(ticket).assignee is None


async def test_several_changes_in_one_second_share_their_date(at: Rehearsal, ticket: int) -> None:
    at.desk.set_status(ticket, "closed")
    at.clock.advance(0.4)
    at.desk.set_status(ticket, "pending")

    assert await at.settle() == [
        ("convo.status", "closed", "published", "09:01:00"),
        ("convo.status", "pending", "published", "09:01:00"),
    ]


async def test_a_workflow_sends_an_event_of_its_own(at: Rehearsal, ticket: int) -> None:
    at.desk.register_webhook("http://receiver.test/", ["escalated"])
    at.worker.restart()

    at.desk.run_workflow(ticket, "escalated")

    assert [claim[:2] for claim in await at.settle()] == [("escalated", "active")]


async def test_customers_have_events_without_a_status(at: Rehearsal) -> None:
    person = at.desk.add_customer("customer99@example.org", "Customer", "99")
    at.desk.rename_customer(person.id, "Customer", "100")

    assert await at.settle() == []
    assert at.received.events == ["customer.created", "customer.updated"]


async def test_an_old_module_knows_fewer_events_and_another_content_type(at: Rehearsal, ticket: int) -> None:
    at.desk.module = "1.0.67"

    at.desk.delete_to_folder(ticket)
    at.desk.restore(ticket)
    at.desk.delete_forever(ticket)

    assert [claim[0] for claim in await at.settle()] == ["convo.deleted"]
    assert dict(at.received.deliveries[0].headers)["Content-Type"] == "application/hal+json"


async def test_a_number_may_come_back_but_an_id_never_does(at: Rehearsal) -> None:
    at.desk.reuse_numbers = True
    first = at.desk.customer_writes()
    at.desk.delete_forever(first)

    second = at.desk.get(at.desk.customer_writes())

    assert (second.id, second.number) == (2, 1)


async def test_a_restored_backup_undoes_without_a_word(at: Rehearsal, ticket: int) -> None:
    backup = at.desk.backup()
    at.desk.set_status(ticket, "closed")
    at.desk.customer_writes()
    await at.settle()

    at.desk.restore_backup(backup)

    assert await at.settle() == []
    assert [(row.id, row.status) for row in at.desk.truth()] == [(ticket, "active")]
