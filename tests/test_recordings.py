"""Deliveries of a real FreeScout, recorded with what it had in its own database afterwards."""

import json
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from conftest import ENVIRONMENT, RECORDINGS, Clock, Receive, Receiver
from freescout_audit import verify_freescout_hmac
from settings import Secret

KEY = "c7668316c98c87f71747d80a9e34c526"

pytestmark = pytest.mark.skipif(
    not (RECORDINGS / "deliveries.jsonl").exists(),
    reason="the recordings of a real FreeScout are not beside this checkout (../shared/captures)",
)

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


@dataclass(frozen=True)
class Recorded:
    n: int
    received_at: datetime
    headers: dict[str, str]
    raw: bytes


def deliveries() -> list[Recorded]:
    lines = (RECORDINGS / "deliveries.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        Recorded(
            n=line["n"],
            received_at=datetime.fromtimestamp(line["received_at"], UTC),
            headers=line["headers"],
            raw=line["body"].encode("ascii"),
        )
        for line in map(json.loads, lines)
    ]


def operations() -> list[dict[str, Any]]:
    lines = (RECORDINGS / "operations.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


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
    async with receive(replace(ENVIRONMENT, webhook_secrets=(Secret(KEY),))) as receiver:
        for delivery in deliveries():
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
async def test_posted_again_in_any_order_nothing_moves(
    receive: Receive, sql: asyncpg.Connection, clock: Clock, seed: int
) -> None:
    query = "SELECT ticket_id, status, state, updated_at, ttl_expires FROM freescout_ticket_cache ORDER BY ticket_id"
    again = deliveries()
    random.Random(seed).shuffle(again)
    async with receive(replace(ENVIRONMENT, webhook_secrets=(Secret(KEY),))) as receiver:
        for delivery in deliveries():
            await clock.set(delivery.received_at)
            await post(receiver, delivery)
        before = await sql.fetch(query)

        await clock.set(datetime.fromtimestamp(1795448500, UTC))
        outcomes = {await post(receiver, delivery) for delivery in again}

    after = await sql.fetch(query)
    assert outcomes <= {"duplicate", "stale", "disputed", "ignored"}
    assert [tuple(row)[:4] for row in after] == [tuple(row)[:4] for row in before]
    assert all(now["ttl_expires"] <= then["ttl_expires"] for now, then in zip(after, before, strict=True))


def test_every_recorded_signature_verifies_and_no_other_key_does() -> None:
    for delivery in deliveries():
        signature = delivery.headers["X-FreeScout-Signature"]
        assert verify_freescout_hmac(delivery.raw, signature, secrets=[KEY])
        assert not verify_freescout_hmac(delivery.raw, signature, secrets=[KEY.upper()])
