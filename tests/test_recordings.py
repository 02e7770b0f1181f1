"""Deliveries of a real FreeScout, recorded with what it had in its own database afterwards."""

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from conftest import ENVIRONMENT, Receive, Receiver
from freescout_audit import verify_freescout_hmac
from freescout_audit.conversation import Sighting
from freescout_audit.delivery import read_claim
from freescout_audit.rule import Claim, Lease, Row, Terms, Verdict, judge_claim
from settings import Environment, Secret
from support.databases import Clock
from support.recordings import BOTH, MODULE_82, MODULE_87, Recorded, Recording, operations

pytestmark = pytest.mark.usefixtures("no_housekeeping")

each_recording = pytest.mark.parametrize("recording", BOTH, ids=lambda recording: recording.module)

DELIVERIES_CANNOT_TELL = {
    "UI new conversation then UNDO 2 s later": "convo.created shows the moment before the undo, which has no event",
    "UI save_draft (new conversation)": "a draft has no event until it is sent",
    "UI save_draft (new conversation) 2": "a draft has no event until it is sent",
}
"""Operations after which the cache holds another status or state than FreeScout: only a pass can find them."""

NEVER_DELIVERED = 35
"""A ticket the recorder made elsewhere: no delivery is about it."""

DATE_CANNOT_BE_TOLD = {
    "API POST thread note, no status": "the note's delivery carries the updatedAt from before the note",
    "UI send_reply status=active (conv closed) then UNDO 2 s later": "an undo moves updated_at in silence",
}


def knowing(recording: Recording) -> Environment:
    return replace(ENVIRONMENT, webhook_secrets=(Secret(recording.key),))


async def post(receiver: Receiver, delivery: Recorded) -> str:
    status, answer = await receiver.deliver(delivery.raw, headers=delivery.headers)
    assert status == 200, f"delivery {delivery.n}: {answer}"
    outcome: str = answer["outcome"]
    return outcome


async def check(sql: asyncpg.Connection, operation: dict[str, Any]) -> None:
    name, truth = operation["operation"], operation["truth_after"]
    row = await sql.fetchrow("SELECT * FROM freescout_ticket WHERE ticket_id = $1", operation["ticket_id"])
    if operation["gone"]:
        assert row is not None
        assert row["disputed_at"] is not None, f"{name}: only FreeScout can say that it is gone"
    elif name in DELIVERIES_CANNOT_TELL:
        assert row is None or (row["status"], row["state"]) != (truth["status"], truth["state"])
    else:
        assert row is not None, name
        assert (row["status"], row["state"]) == (truth["status"], truth["state"]), name
        assert row["disputed_at"] is None, name
        if operation["deliveries"]:
            assert row["mailbox_id"] == int(truth["mailbox_id"]), name
            updated_at = datetime.fromisoformat(truth["updated_at"] + "Z")
            assert (row["updated_at"] == updated_at) == (name not in DATE_CANNOT_BE_TOLD), name


async def test_posted_in_order_the_cache_follows_freescouts_own_database(
    receive: Receive, sql: asyncpg.Connection, clock: Clock
) -> None:
    after = {max(operation["deliveries"]): operation for operation in operations() if operation["deliveries"]}
    async with receive(knowing(MODULE_82)) as receiver:
        for delivery in MODULE_82.deliveries():
            await clock.set(delivery.received_at)
            outcome = await post(receiver, delivery)

            assert outcome in {"applied", "duplicate", "stale", "disputed", "ignored"}
            if delivery.n in after:
                await check(sql, after[delivery.n])

    last = {operation["ticket_id"]: operation for operation in operations()}
    del last[NEVER_DELIVERED]
    for ticket_id, operation in last.items():
        if ticket_id != 19:  # set active again by hand after the last recorded operation, and closed by delivery 66
            await check(sql, operation)


@pytest.mark.parametrize("seed", range(3))
@each_recording
async def test_posted_again_in_any_order_nothing_moves(
    receive: Receive, sql: asyncpg.Connection, clock: Clock, recording: Recording, seed: int
) -> None:
    query = "SELECT ticket_id, status, state, updated_at, ttl_expires FROM freescout_ticket_cache ORDER BY ticket_id"
    again = recording.deliveries()
    random.Random(seed).shuffle(again)
    async with receive(knowing(recording)) as receiver:
        for delivery in recording.deliveries():
            await clock.set(delivery.received_at)
            await post(receiver, delivery)
        before = await sql.fetch(query)

        await clock.set(max(delivery.received_at for delivery in again) + timedelta(hours=1))
        outcomes = {await post(receiver, delivery) for delivery in again}

    after = await sql.fetch(query)
    assert outcomes <= {"duplicate", "stale", "disputed", "ignored"}
    assert [tuple(row)[:4] for row in after] == [tuple(row)[:4] for row in before]
    assert all(now["ttl_expires"] <= then["ttl_expires"] for now, then in zip(after, before, strict=True))


@pytest.mark.parametrize(
    ("recording", "other", "count"), [(MODULE_82, MODULE_87, 66), (MODULE_87, MODULE_82, 90)], ids=["1.0.82", "1.0.87"]
)
def test_every_recorded_signature_verifies_and_no_other_key_does(
    recording: Recording, other: Recording, count: int
) -> None:
    recorded = recording.deliveries()

    assert len(recorded) == count
    for delivery in recorded:
        signature = delivery.headers["X-FreeScout-Signature"]
        assert verify_freescout_hmac(delivery.raw, signature, secrets=[recording.key])
        assert not verify_freescout_hmac(delivery.raw, signature, secrets=[other.key, recording.key.upper()])


@each_recording
def test_every_recorded_delivery_is_read_as_json_reads_it(recording: Recording) -> None:
    for delivery in recording.deliveries():
        claim, told = read_claim(delivery.event, delivery.raw), delivery.conversation()
        if delivery.event.startswith("customer."):
            assert claim is None
            continue
        assert claim is not None
        assert claim.says_gone == (delivery.event == "convo.deleted_forever")
        assert claim.sighting == Sighting(
            ticket_id=told["id"],
            status=told["status"],
            state=told["state"],
            updated_at=datetime.fromisoformat(told["updatedAt"]),
            number=told["number"],
            mailbox_id=int(told["mailboxId"]),
            created_at=datetime.fromisoformat(told["createdAt"]),
        )


DOUBTED = {
    "1.0.82": {
        33: "said_to_be_gone",
        54: "older",  # the late snapshot of a reply, after the ticket was closed
        60: "older",  # the late snapshot of a start, after the ticket was closed
        64: "said_to_be_gone",
    },
    "1.0.87": {
        6: "same_second",  # created, answered, noted and answered again within one second
        7: "same_second",
        13: "same_second",
        42: "same_second",  # deleted and restored
        45: "said_to_be_gone",
        93: "said_to_be_gone",
        102: "same_second",  # a reply by mail, three statuses and a note
        115: "said_to_be_gone",
        141: "said_to_be_gone",
        143: "older",  # the late snapshot of a reply, after the ticket was closed
        163: "said_to_be_gone",
        203: "said_to_be_gone",
        209: "same_second",  # restored and answered
        290: "same_second",  # a reply through the API: the new status with the date of the restoring before
        328: "said_to_be_gone",
    },
}
"""What only FreeScout can settle while a poller lives, and why: the traps that the recordings hold."""


@each_recording
def test_the_rule_doubts_the_traps_and_nothing_else(recording: Recording) -> None:
    verdicts = {n: verdict for n, _, verdict in judged(recording, alive=True)}

    doubted = {n: verdict.reason for n, verdict in verdicts.items() if verdict.outcome == "disputed"}
    assert doubted == DOUBTED[recording.module]
    assert {verdict.outcome for verdict in verdicts.values()} == {"applied", "duplicate", "disputed"}


@pytest.mark.parametrize("alive", [True, False], ids=["while the poller lives", "without a poller"])
@each_recording
def test_what_is_believed_without_doubt_is_the_latest_that_was_told(recording: Recording, *, alive: bool) -> None:
    latest: dict[int, datetime] = {}
    for _, claim, verdict in judged(recording, alive=alive):
        told, row = claim.sighting, verdict.row
        assert told.updated_at is not None
        assert row is not None
        latest[told.ticket_id] = max(told.updated_at, latest.get(told.ticket_id, told.updated_at))
        if row.disputed_at is None:
            assert row.updated_at == latest[told.ticket_id]
            if told.updated_at == row.updated_at:
                assert row.content == (told.status, told.state)


def judged(recording: Recording, *, alive: bool) -> list[tuple[int, Claim, Verdict]]:
    """What the rule makes of each delivery about a conversation: its number, the claim, the verdict; in their order."""
    rows: dict[int, Row | None] = {}
    verdicts = []
    for delivery in recording.deliveries():
        claim, now = read_claim(delivery.event, delivery.raw), delivery.received_at
        if claim is not None:
            ticket_id, lease = claim.sighting.ticket_id, Lease(heartbeat_at=now if alive else None)
            verdict = judge_claim(rows.get(ticket_id), claim, lease=lease, terms=Terms(), now=now)
            rows[ticket_id] = verdict.row
            verdicts.append((delivery.n, claim, verdict))
    return verdicts
