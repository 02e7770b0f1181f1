"""Builders for tests: each gives an ordinary value, and takes what the test is about."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from freescout_audit.conversation import Sighting, State, Status
from freescout_audit.rule import Claim, Lease, Row, Truth
from freescout_audit.signature import sign

KEY = "0123456789abcdef0123456789abcdef"
NOON = datetime(2024, 11, 23, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """The time so many seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def sighting(
    status: Status | None = "active",
    updated: float | None = 0,
    *,
    ticket_id: int = 7,
    state: State | None = "published",
) -> Sighting:
    return Sighting(
        ticket_id=ticket_id,
        status=status,
        state=state,
        updated_at=None if updated is None else at(updated),
        number=ticket_id,
        mailbox_id=1,
        created_at=at(-3600),
    )


def claim(
    status: Status | None = "active",
    updated: float | None = 0,
    *,
    ticket_id: int = 7,
    state: State | None = "published",
    says_gone: bool = False,
) -> Claim:
    return Claim(sighting=sighting(status, updated, ticket_id=ticket_id, state=state), says_gone=says_gone)


def truth(
    status: Status | None = "active",
    updated: float | None = 0,
    *,
    asked: float,
    ticket_id: int = 7,
    state: State | None = "published",
) -> Truth:
    return Truth(
        ticket_id=ticket_id,
        sighting=sighting(status, updated, ticket_id=ticket_id, state=state),
        asked_at=at(asked),
    )


def not_found(*, asked: float, ticket_id: int = 7) -> Truth:
    return Truth(ticket_id=ticket_id, sighting=None, asked_at=at(asked))


def row(
    status: Status | None = "active",
    updated: float | None = 0,
    *,
    ticket_id: int = 7,
    state: State | None = "published",
    gone: bool = False,
    touched: float | None = 0,
    truth_at: float | None = None,
    disputed: float | None = None,
    expires: float = 900,
) -> Row:
    return Row(
        ticket_id=ticket_id,
        status=status,
        state=state,
        updated_at=None if updated is None else at(updated),
        number=ticket_id,
        mailbox_id=1,
        created_at=at(-3600),
        gone=gone,
        observed_at=at(0),
        observed_via="webhook",
        expires_at=at(expires),
        touched_at=None if touched is None else at(touched),
        truth_at=None if truth_at is None else at(truth_at),
        disputed_at=None if disputed is None else at(disputed),
        grace_until=None if disputed is None else at(disputed + 5),
    )


def lease(
    *,
    alive_at: float | None = None,
    seen: float | None = None,
    complete: float | None = None,
    until: float | None = None,
) -> Lease:
    """A lease row; ``alive_at`` is the poller's last heartbeat."""
    return Lease(
        seen_through=None if seen is None else at(seen),
        complete_through=None if complete is None else at(complete),
        lease_until=None if until is None else at(until),
        heartbeat_at=None if alive_at is None else at(alive_at),
    )


def freescout_date(moment: datetime) -> str:
    """A date as FreeScout writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def body(status: str = "active", updated: float = 0, *, ticket_id: Any = 7, **fields: Any) -> bytes:
    """A delivery's body as FreeScout sends it, threads last; ``fields`` replace or add."""
    document = {
        "id": ticket_id,
        "number": ticket_id,
        "status": status,
        "state": "published",
        "subject": "Subject that is never stored",
        "mailboxId": 1,
        "createdAt": freescout_date(at(-3600)),
        "updatedAt": freescout_date(at(updated)),
        "customer": {"id": 1, "firstName": "Customer", "lastName": "7", "email": "customer7@example.org"},
        "_embedded": {"threads": [{"id": 1, "body": "<p>Body that is never stored</p>"}]},
    } | fields
    return json.dumps(document).encode()


def large_body(*, damage: bytes = b"") -> bytes:
    """A conversation of 440 kB as FreeScout writes it, without spaces; ``damage`` takes the place of its middle."""
    threads = [{"id": number, "body": "x" * 22_000, "_embedded": {"attachments": []}} for number in range(20)]
    document = json.loads(body("closed", _embedded={"threads": threads}))
    raw = json.dumps(document, separators=(",", ":")).encode()
    middle = len(raw) // 2
    return raw[:middle] + damage + raw[middle + len(damage) :]


def signed(raw_body: bytes, *, event: str = "convo.status", key: str = KEY) -> dict[str, str]:
    """The headers FreeScout sends with a body."""
    return {
        "Content-Type": "application/json",
        "X-FreeScout-Event": event,
        "X-FreeScout-Signature": sign(raw_body, key),
    }
