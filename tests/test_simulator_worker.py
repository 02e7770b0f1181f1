"""The simulated queue worker: order, pace, retries, losses, and the bytes it sends."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freescout_audit.signature import verify_freescout_hmac
from simulator import Attempt, DeliveryError, Desk, Fate, ManualClock, Worker, step
from simulator.testing import Recorder
from simulator.worker import STANDSTILL_SECONDS

START = datetime(2026, 3, 2, 9, 0, 20, tzinfo=UTC)


class Rehearsal:
    def __init__(self, seed: int = 1) -> None:
        self.clock = ManualClock(START)
        self.desk = Desk(clock=self.clock, seed=seed)
        self.desk.register_webhook("http://receiver.test/")
        self.worker = Worker(self.desk)


@pytest.fixture
def at() -> Rehearsal:
    return Rehearsal()


async def test_nothing_is_due_at_a_quiet_desk(at: Rehearsal) -> None:
    assert at.worker.next_due() is None
    assert await at.worker.run_due(Recorder()) == []


async def test_an_idle_worker_looks_every_five_seconds(at: Rehearsal) -> None:
    await at.worker.run_due(Recorder())
    at.clock.advance(7)
    at.desk.customer_writes()

    at_once = await at.worker.run_due(Recorder())
    at.clock.advance(3)
    at_the_next_look = await at.worker.run_due(Recorder())

    assert at_once == []
    assert [report.at for report in at_the_next_look] == [START + timedelta(seconds=10)]


async def test_next_due_is_the_waking_after_the_job_came(at: Rehearsal) -> None:
    await at.worker.run_due(Recorder())
    at.clock.advance(2)
    at.desk.customer_writes()

    assert at.worker.next_due() == START + timedelta(seconds=5)


async def test_deliveries_go_one_after_another_and_mail_first(at: Rehearsal) -> None:
    first = at.desk.customer_writes()
    at.desk.reply_through_api(first)
    at.clock.advance(20)
    at.desk.set_status(first, "closed")

    reports = await at.worker.run_due(Recorder())

    assert [report.event or "mail" for report in reports] == [
        "mail",
        "convo.created",
        "convo.status",
        "convo.agent.reply.created",
    ]


async def test_a_slow_receiver_makes_everything_behind_it_later(at: Rehearsal) -> None:
    at.desk.customer_writes()
    at.desk.customer_writes()

    async def slow(_: Attempt) -> int:
        at.clock.advance(20)
        return 200

    reports = await at.worker.run_due(slow)

    assert [report.at - START for report in reports] == [timedelta(0), timedelta(seconds=20)]


async def test_an_answer_after_thirty_seconds_comes_too_late(at: Rehearsal) -> None:
    at.desk.customer_writes()

    async def too_slow(_: Attempt) -> int:
        at.clock.advance(31)
        return 200

    (report,) = await at.worker.run_due(too_slow)

    assert report.fate is Fate.FAILED
    assert report.answer is None


@pytest.mark.parametrize("answer", [200, 201, 204, 299])
async def test_any_2xx_is_success(at: Rehearsal, answer: int) -> None:
    at.desk.customer_writes()

    (report,) = await at.worker.run_due(Recorder(answer))

    assert report.fate is Fate.SENT
    assert at.worker.next_due() is None


@pytest.mark.parametrize(
    "answer", [302, 400, 401, 503, DeliveryError("refused"), ConnectionResetError(), TimeoutError()]
)
async def test_anything_else_is_tried_again_at_the_next_minute(at: Rehearsal, answer: int | Exception) -> None:
    at.desk.customer_writes()

    (report,) = await at.worker.run_due(Recorder(answer))

    assert report.fate is Fate.FAILED
    assert at.worker.next_due() == datetime(2026, 3, 2, 9, 1, 0, tzinfo=UTC)


async def test_ten_attempts_in_seventy_two_minutes_then_no_more(at: Rehearsal) -> None:
    at.desk.customer_writes()
    never = Recorder(*[500] * 99)

    reports = await at.worker.run_until_idle(never, at.clock, within=100_000)

    minutes = [(report.at - reports[1].at).total_seconds() / 60 for report in reports[1:]]
    assert minutes == [0, 2, 6, 12, 20, 30, 42, 56, 72]
    assert [report.fate for report in reports] == [Fate.FAILED] * 9 + [Fate.GIVEN_UP]
    assert [delivery.attempt for delivery in never.deliveries] == list(range(1, 11))


async def test_a_retry_repeats_the_stored_bytes_however_stale(at: Rehearsal) -> None:
    ticket = at.desk.customer_writes()
    received = Recorder(500)
    await at.worker.run_due(received)
    at.desk.set_status(ticket, "closed")

    await at.worker.run_until_idle(received, at.clock)

    first, change, retry = received.deliveries
    assert (first.event, change.event, retry.event) == ("convo.created", "convo.status", "convo.created")
    assert retry.body == first.body
    assert retry.headers == first.headers


async def test_a_retry_is_signed_anew_with_the_key_of_that_moment(at: Rehearsal) -> None:
    at.desk.customer_writes()
    received, old = Recorder(401), at.desk.webhook_key
    await at.worker.run_due(received)
    at.desk.change_app_key("base64:another")

    await at.worker.run_until_idle(received, at.clock)

    first, retry = received.deliveries
    assert retry.body == first.body
    for delivery, key, other in ((first, old, at.desk.webhook_key), (retry, at.desk.webhook_key, old)):
        signature = dict(delivery.headers)["X-FreeScout-Signature"]
        assert verify_freescout_hmac(delivery.body, signature, secrets=[key])
        assert not verify_freescout_hmac(delivery.body, signature, secrets=[other])


async def test_a_delivery_has_freescouts_headers_and_signature(at: Rehearsal) -> None:
    at.desk.customer_writes(subject="Größe 1/2")
    received = Recorder()

    await at.worker.run_due(received)

    (delivery,) = received.deliveries
    assert [name for name, _ in delivery.headers] == [
        "User-Agent",
        "Content-Type",
        "X-FreeScout-Event",
        "X-FreeScout-Signature",
    ]
    headers = dict(delivery.headers)
    assert headers["User-Agent"] == "GuzzleHttp/8"
    assert headers["X-FreeScout-Event"] == "convo.created"
    signature = headers["X-FreeScout-Signature"]
    assert verify_freescout_hmac(delivery.body, signature, secrets=[at.desk.webhook_key])
    assert rb'"subject":"Gr\u00f6\u00dfe 1\/2"' in delivery.body


async def test_a_body_over_a_megabyte_expects_100_continue(at: Rehearsal) -> None:
    at.desk.customer_writes(text="x" * 1_100_000)
    received = Recorder()

    await at.worker.run_due(received)

    assert received.deliveries[0].headers[-1] == ("Expect", "100-continue")


async def test_a_new_app_key_changes_both_keys(at: Rehearsal) -> None:
    before = at.desk.webhook_key, at.desk.api_key

    at.desk.change_app_key("base64:another")

    assert not {*before} & {at.desk.webhook_key, at.desk.api_key}
    assert all(len(key) == 32 for key in (at.desk.webhook_key, at.desk.api_key))


async def test_a_webhook_registered_while_running_misses_the_delayed_events(at: Rehearsal) -> None:
    ticket = at.desk.customer_writes()
    await at.worker.run_until_idle(Recorder(), at.clock)
    at.desk.register_webhook("http://late.test/")
    received = Recorder()

    at.desk.reply_in_ui(ticket, status="pending")
    await at.worker.run_until_idle(received, at.clock)

    late = [delivery.event for delivery in received.deliveries if delivery.url == "http://late.test/"]
    assert late == ["convo.status", "convo.assigned"]


@pytest.mark.parametrize("hours", [1, 2, 30])
async def test_every_hour_it_stands_still_for_a_minute_and_then_all_comes_in_order(at: Rehearsal, hours: int) -> None:
    at.clock.advance(hours * 3600 - 2)
    received = Recorder()
    before = at.desk.customer_writes()
    again = START + timedelta(seconds=hours * 3600 + STANDSTILL_SECONDS)
    assert at.worker.next_due() == again, "its next look would come too late"
    at.clock.advance(30)
    after = at.desk.customer_writes()

    assert await at.worker.run_due(received) == []
    assert at.worker.next_due() == again
    reports = await at.worker.run_until_idle(received, at.clock)

    assert [(report.conversation_id, report.at) for report in reports] == [(before, again), (after, again)]
    at.desk.customer_writes()
    assert at.worker.next_due() == again + timedelta(seconds=5)


async def test_retries_go_on_while_it_stands_still(at: Rehearsal) -> None:
    at.clock.advance(3590)
    at.desk.customer_writes()
    at.clock.advance(5)
    await at.worker.run_due(Recorder(503))
    retry = at.worker.next_due()
    assert retry is not None
    assert START + timedelta(hours=1) < retry < START + timedelta(hours=1, seconds=STANDSTILL_SECONDS)
    at.clock.advance_to(retry)

    (report,) = await at.worker.run_due(Recorder())

    assert report.fate is Fate.SENT


async def test_after_an_hour_the_worker_restarts_and_knows_it(at: Rehearsal) -> None:
    at.desk.register_webhook("http://late.test/")
    at.clock.advance(3601)
    received = Recorder()

    at.desk.start_in_ui()
    await at.worker.run_until_idle(received, at.clock)

    assert {delivery.url for delivery in received.deliveries} == {"http://receiver.test/", "http://late.test/"}


async def test_a_webhook_for_one_mailbox_never_hears_that_a_conversation_left_it(at: Rehearsal) -> None:
    at.desk.webhooks.clear()
    at.desk.register_webhook("http://receiver.test/", mailboxes=[1])
    received = Recorder()
    ticket = at.desk.customer_writes(mailbox_id=1)

    at.desk.move(ticket, 2)
    at.desk.set_status(ticket, "closed")
    await at.worker.run_until_idle(received, at.clock)

    assert received.events == ["convo.created"]


async def test_a_dropped_delivery_never_comes(at: Rehearsal) -> None:
    at.desk.faults.drop_next = 1
    at.desk.customer_writes()
    at.desk.customer_writes()
    received = Recorder()

    reports = await at.worker.run_until_idle(received, at.clock)

    assert [report.fate for report in reports] == [Fate.LOST, Fate.SENT]
    assert [delivery.conversation_id for delivery in received.deliveries] == [2]


async def test_every_nth_delivery_can_be_dropped(at: Rehearsal) -> None:
    at.desk.faults.drop_every = 3
    for _ in range(9):
        at.desk.customer_writes()

    reports = await at.worker.run_until_idle(Recorder(), at.clock)

    assert [report.conversation_id for report in reports if report.fate is Fate.LOST] == [3, 6, 9]


async def test_a_killed_worker_forgets_what_it_was_sending(at: Rehearsal) -> None:
    at.desk.faults.kill_worker_next = 1
    at.desk.customer_writes()
    received = Recorder(500)

    (report,) = await at.worker.run_until_idle(received, at.clock)

    assert report.fate is Fate.LOST
    assert len(received.deliveries) == 1


async def test_a_huge_body_that_fails_once_is_lost(at: Rehearsal) -> None:
    at.desk.faults.failure_log_limit = 10_000
    at.desk.customer_writes(text="x" * 20_000)
    at.desk.customer_writes()

    reports = await at.worker.run_until_idle(Recorder(500, 500), at.clock)

    assert [(report.conversation_id, report.fate) for report in reports] == [
        (1, Fate.LOST),
        (2, Fate.FAILED),
        (2, Fate.SENT),
    ]


async def test_a_deactivated_module_is_silent_and_loses_what_waits(at: Rehearsal) -> None:
    ticket = at.desk.customer_writes()
    at.desk.faults.module_active = False
    at.desk.set_status(ticket, "closed")
    received = Recorder()

    reports = await at.worker.run_until_idle(received, at.clock)
    at.desk.faults.module_active = True
    at.desk.set_status(ticket, "pending")
    await at.worker.run_until_idle(received, at.clock)

    assert [report.fate for report in reports] == [Fate.LOST]
    assert [claim[:2] for claim in received.claims] == [("convo.status", "pending")]


async def test_retries_wait_for_the_module_to_come_back(at: Rehearsal) -> None:
    at.desk.customer_writes()
    received = Recorder(500)
    await at.worker.run_due(received)
    at.desk.faults.module_active = False
    await at.worker.run_until_idle(received, at.clock, within=300)
    at.desk.faults.module_active = True

    await at.worker.run_until_idle(received, at.clock)

    assert [delivery.attempt for delivery in received.deliveries] == [1, 2]


async def test_deliveries_can_come_twice(at: Rehearsal) -> None:
    at.desk.faults.duplicate_chance = 1.0
    at.desk.customer_writes()
    received = Recorder()

    await at.worker.run_due(received)

    assert received.deliveries[0] == received.deliveries[1]
    assert len(received.deliveries) == 2


async def test_deliveries_can_come_in_any_order(at: Rehearsal) -> None:
    at.desk.faults.reorder_chance = 1.0
    for _ in range(10):
        at.desk.customer_writes()
    received = Recorder()

    await at.worker.run_due(received)

    order = [delivery.conversation_id or 0 for delivery in received.deliveries]
    assert sorted(order) == list(range(1, 11))
    assert order != list(range(1, 11))


async def test_deliveries_can_be_late(at: Rehearsal) -> None:
    at.desk.faults.delay = 600
    at.desk.customer_writes()

    (report,) = await at.worker.run_until_idle(Recorder(), at.clock)

    assert report.at == START + timedelta(seconds=600)


async def test_a_php_without_hash_sends_an_empty_signature(at: Rehearsal) -> None:
    at.desk.faults.unsigned = True
    at.desk.customer_writes()
    received = Recorder()

    await at.worker.run_due(received)

    assert dict(received.deliveries[0].headers)["X-FreeScout-Signature"] == ""


async def test_a_removed_webhook_gets_nothing_more(at: Rehearsal) -> None:
    at.desk.start_in_ui()
    at.desk.customer_writes()
    received = Recorder()

    at.desk.webhooks.clear()
    reports = await at.worker.run_until_idle(received, at.clock)

    assert [report.fate for report in reports] == [Fate.LOST, Fate.MAIL]
    assert received.deliveries == []


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
async def test_the_same_seed_and_the_same_steps_give_the_same_bytes(seed: int) -> None:
    async def rehearse() -> list[bytes]:
        at = Rehearsal(seed)
        at.desk.populate(10)
        at.desk.faults.drop_chance = at.desk.faults.duplicate_chance = at.desk.faults.reorder_chance = 0.2
        received = Recorder(*[200, 500] * 40)
        for _ in range(40):
            step(at.desk, lose_chance=0.1)
            await at.worker.run_until_idle(received, at.clock, within=3)
            at.clock.advance(3)
        await at.worker.run_until_idle(received, at.clock)
        return [delivery.body for delivery in received.deliveries]

    first, second = await rehearse(), await rehearse()

    assert first == second
    assert all(json.loads(body)["id"] for body in first)
