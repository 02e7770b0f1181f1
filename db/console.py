"""What operators look at and set right by hand: every statement of the console, named and described.

Times are the database's wall clock, as everywhere; intervals that a caller passes are timedeltas.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

import asyncpg
import msgspec

from db.database import Database
from db.reads import Reading, explain
from freescout_audit.conversation import MAX_ID, State, Status

SELF_TEST = "freescout-audit.selftest"
"""The event of a self-test's delivery, before a dot and eight characters of its own. It is about no ticket."""

_STILL_UNDER_WAY = timedelta(minutes=2)
"""How long a webhook that was removed may still deliver: what was under way."""
_LONG = 600.0
"""Seconds that forgetting a million tickets may take."""

GapVerdict = Literal["waiting", "raced", "late", "lost"]

STANDING = """
SELECT freescout_now() AS now, (SELECT version_num FROM freescout_schema) AS revision, pg_backend_pid() AS backend,
       l.seen_through, l.complete_through, l.lease_until, l.clock_offset, l.heartbeat_at, l.desk_url,
       p.leader, p.led_since, p.load_cursor, p.load_began, p.passed_at, p.pass_seconds, p.pass_rows, p.pass_requests,
       p.desk_state, p.desk_detail, p.desk_since, p.silent_since
FROM freescout_lease l CROSS JOIN freescout_poller p
"""
"""Read everything that stands once: the lease and what the poller reports."""

COUNT_TICKETS = """
SELECT count(*) FILTER (WHERE NOT gone) AS living,
       count(*) FILTER (WHERE disputed_at IS NOT NULL) AS disputed, min(disputed_at) AS oldest_dispute
FROM freescout_ticket
"""
"""Count what the cache holds, and what FreeScout has to be asked."""

LAST_DELIVERY = """
SELECT received_at, event, ticket_id, outcome, signed_with FROM freescout_delivery
WHERE NOT starts_with(event, $1) ORDER BY delivery_id DESC LIMIT 1
"""
"""Read the last delivery that FreeScout sent; $1: what a self-test's event begins with."""

COUNT_OUTCOMES = """
SELECT outcome, count(*) AS deliveries FROM freescout_delivery
WHERE received_at > freescout_now() - $1::interval AND NOT starts_with(event, $2)
GROUP BY outcome ORDER BY outcome
"""
"""Count the deliveries of the last $1 by what became of them."""

LAG = """
SELECT count(*) AS samples, percentile_cont(ARRAY[0.5, 0.95, 0.99, 1.0]) WITHIN GROUP (ORDER BY lag) AS lags
FROM (
    SELECT extract(epoch FROM d.received_at + l.clock_offset - d.updated_at)::double precision AS lag
    FROM freescout_delivery d CROSS JOIN freescout_lease l
    WHERE d.received_at > freescout_now() - $1::interval AND d.outcome = 'applied' AND d.updated_at IS NOT NULL
) lags
"""
"""From the change at the desk to the cache, by the desk's clock, for the last $1's deliveries that were news."""

COUNT_GAPS = """
SELECT verdict, count(*) AS gaps FROM freescout_gap
WHERE healed_at > freescout_now() - $1::interval GROUP BY verdict
"""
"""Count the last $1's gaps by what became of their deliveries."""

FIND_TICKETS = "SELECT ticket_id FROM freescout_ticket WHERE number = $1 ORDER BY ticket_id"
"""Find the tickets that bear a number; a number may have been used again after a deletion."""

TICKET = """
SELECT freescout_now() AS now, l.complete_through, c.ttl_expires,
       t.ticket_id, t.number, t.mailbox_id, t.status, t.state, t.updated_at, t.gone, t.observed_at, t.observed_via,
       t.expires_at, t.touched_at, t.truth_at, t.disputed_at, t.grace_until, l.lease_until
FROM freescout_lease l
LEFT JOIN freescout_ticket t ON t.ticket_id = $1
LEFT JOIN freescout_ticket_cache c ON c.ticket_id = t.ticket_id
"""
"""Read one ticket's row whole, and what explains its answer."""

CONTENTS = (
    "SELECT ticket_id, status, state, updated_at, gone FROM freescout_ticket WHERE ticket_id = ANY ($1::bigint[])"
)
"""Read what is held of some tickets, to compare it with what the desk says."""

COUNT_OLDER = "SELECT count(*) FROM freescout_ticket_cache WHERE updated_at < $1"
"""Count the rows that have not changed since a time: those of which a change since then may have been missed."""

DISPUTED_IDS = "SELECT ticket_id FROM freescout_ticket WHERE disputed_at IS NOT NULL ORDER BY ticket_id"
"""List what FreeScout has to be asked."""

SAMPLE = """
SELECT ticket_id, created_at FROM freescout_ticket
WHERE NOT gone AND created_at IS NOT NULL ORDER BY created_at DESC LIMIT $1
"""
"""Pick some tickets by which a desk can be recognised: their dates of creation never change."""

READ_WEBHOOK = """
SELECT webhook_id, url, events, began_at, registered_at FROM freescout_webhook WHERE removed_at IS NULL
"""
"""Read what is registered at the desk."""

BEGIN_WEBHOOK = """
INSERT INTO freescout_webhook (url, events, began_at) VALUES ($1, $2, freescout_now())
ON CONFLICT (only_row) DO UPDATE
SET webhook_id = NULL, url = excluded.url, events = excluded.events, began_at = excluded.began_at,
    registered_at = NULL, removed_at = NULL
WHERE freescout_webhook.removed_at IS NOT NULL
RETURNING true
"""
"""Note that a webhook is about to be registered, before FreeScout is told; nothing comes back when there is one."""

SAVE_WEBHOOK = """
INSERT INTO freescout_webhook (webhook_id, url, events, began_at, registered_at)
VALUES ($1, $2, $3, freescout_now(), freescout_now())
ON CONFLICT (only_row) DO UPDATE
SET webhook_id = excluded.webhook_id, url = excluded.url, events = excluded.events,
    registered_at = excluded.registered_at, removed_at = NULL
"""
"""Note a webhook's id, as FreeScout told it."""

FORGET_WEBHOOK = "DELETE FROM freescout_webhook"
"""Forget the webhook: it was never registered."""

NOTE_REMOVAL = "UPDATE freescout_webhook SET removed_at = freescout_now()"
"""Note that the webhook is removed: what is delivered later comes by another."""

FIND_STRANGERS = """
SELECT received_at FROM freescout_delivery
WHERE NOT starts_with(event, $1)
  AND received_at > coalesce((SELECT removed_at FROM freescout_webhook) + $2::interval, '-infinity')
ORDER BY delivery_id DESC LIMIT 1
"""
"""Find a delivery that came although no webhook is noted; $2 is how long one that was removed may still deliver."""

FIND_SELF_TEST = "SELECT true FROM freescout_delivery WHERE event = $1 AND received_at > freescout_now() - $2::interval"
"""Whether a self-test's delivery has reached this database."""

COUNT_TWINS = """
SELECT count(*) AS deliveries, count(*) FILTER (WHERE received_at - before < interval '30 seconds') AS twins
FROM (
    SELECT received_at, lag(received_at) OVER (PARTITION BY ticket_id, event, status, state, updated_at
                                               ORDER BY delivery_id) AS before
    FROM (SELECT * FROM freescout_delivery WHERE ticket_id IS NOT NULL ORDER BY delivery_id DESC LIMIT $1) newest
) pairs
"""
"""Count among the newest deliveries those that say what one has just said: half of them, when all come twice."""

SET_DESK = "UPDATE freescout_lease SET desk_url = $1"
"""Tie the database to a desk, whatever it was tied to before."""

FORGET_DESK = """
WITH tickets AS (DELETE FROM freescout_ticket), webhook AS (DELETE FROM freescout_webhook),
     gaps AS (DELETE FROM freescout_gap), deliveries AS (DELETE FROM freescout_delivery),
     lease AS (UPDATE freescout_lease SET seen_through = NULL, complete_through = NULL, covered_through = NULL,
                      set_back_through = NULL, set_back_at = NULL, lease_until = NULL,
                      renewed_by_pass = freescout_now(), clock_offset = interval '0', heartbeat_at = NULL,
                      desk_url = $1)
UPDATE freescout_poller SET load_cursor = NULL, load_began = NULL, passed_at = NULL, complete_offset = NULL,
       full_walk_at = NULL, desk_state = 'unknown', desk_detail = '', desk_since = NULL, silent_since = NULL
"""
"""Forget every ticket, delivery and gap of a desk, and begin with another; a pass under way renews no lease."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that stands once; None for what has not happened."""

    now: datetime
    revision: str | None
    backend: int
    behind_pooler: bool
    seen_through: datetime | None
    complete_through: datetime | None
    lease_until: datetime | None
    clock_offset: timedelta
    heartbeat_at: datetime | None
    desk_url: str | None
    leader: str | None
    led_since: datetime | None
    load_cursor: datetime | None
    load_began: datetime | None
    passed_at: datetime | None
    pass_seconds: float | None
    pass_rows: int | None
    pass_requests: int | None
    desk_state: str
    desk_detail: str
    desk_since: datetime | None
    silent_since: datetime | None


class LastDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """The last delivery that FreeScout sent."""

    received_at: datetime
    event: str
    ticket_id: int | None
    outcome: str
    signed_with: str


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from a change at the desk to the cache; None without samples."""

    samples: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class Holdings(msgspec.Struct, frozen=True, kw_only=True):
    """How many tickets are living, how many FreeScout has to be asked about, and since when the first."""

    living: int
    disputed: int
    oldest_dispute: datetime | None


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery of the journal."""

    delivery_id: int
    received_at: datetime
    event: str
    ticket_id: int | None
    outcome: str
    reason: str
    status: str | None
    state: str | None
    updated_at: datetime | None
    body_bytes: int
    body_ms: float
    signed_with: str
    request_id: str | None


class GapEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A change that an API read found first, and what became of its delivery; ``late_by`` in seconds."""

    gap_id: int
    ticket_id: int
    cached_status: str | None
    cached_state: str | None
    true_status: str | None
    true_state: str | None
    changed_at: datetime | None
    healed_at: datetime
    verdict: GapVerdict
    settled_at: datetime | None
    late_by: float | None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One ticket's row, and until when its value is vouched for."""

    number: int | None
    mailbox_id: int | None
    status: Status | None
    state: State | None
    updated_at: datetime | None
    gone: bool
    observed_at: datetime
    observed_via: str
    expires_at: datetime
    lease_until: datetime | None
    ttl_expires: datetime | None
    touched_at: datetime | None
    truth_at: datetime | None
    disputed_at: datetime | None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache holds of a ticket, to be compared."""

    ticket_id: int
    status: Status | None
    state: State | None
    updated_at: datetime | None
    gone: bool


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """What is registered at the desk; without an id a registration began whose end nobody knows."""

    webhook_id: int | None
    url: str
    events: list[str]
    began_at: datetime
    registered_at: datetime | None


async def read_standing(database: Database) -> Standing | None:
    """Read everything that stands once; None when a row of it is missing.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same everywhere below.
    """
    async with database.connection() as connection:
        record = await connection.fetchrow(STANDING)
        behind_pooler = record is not None and connection.get_server_pid() != record["backend"]
    return None if record is None else Standing(behind_pooler=behind_pooler, **record)


async def read_holdings(database: Database) -> Holdings:
    """Count what the cache holds."""
    async with database.connection() as connection:
        return Holdings(**await connection.fetchrow(COUNT_TICKETS))


async def read_last_delivery(database: Database) -> LastDelivery | None:
    """Read the last delivery that FreeScout sent."""
    async with database.connection() as connection:
        record = await connection.fetchrow(LAST_DELIVERY, SELF_TEST)
    return None if record is None else LastDelivery(**record)


async def count_outcomes(database: Database, within: timedelta) -> Mapping[str, int]:
    """Count the deliveries of a time by what became of them."""
    async with database.connection() as connection:
        records = await connection.fetch(COUNT_OUTCOMES, within, SELF_TEST)
    return {record["outcome"]: record["deliveries"] for record in records}


async def read_lag(database: Database, within: timedelta) -> Lag:
    """Read how long news of a time took."""
    async with database.connection() as connection:
        record = await connection.fetchrow(LAG, within)
    if not record["samples"]:
        return Lag(samples=0)
    p50, p95, p99, slowest = (round(lag, 3) + 0.0 for lag in record["lags"])
    return Lag(samples=record["samples"], p50=p50, p95=p95, p99=p99, max=slowest)


async def count_gaps(database: Database, within: timedelta) -> Mapping[str, int]:
    """Count the gaps of a time by what became of their deliveries."""
    async with database.connection() as connection:
        records = await connection.fetch(COUNT_GAPS, within)
    return dict.fromkeys(("waiting", "raced", "late", "lost"), 0) | {
        record["verdict"]: record["gaps"] for record in records
    }


async def find_tickets(database: Database, number: int) -> Sequence[int]:
    """Find the tickets that bear a number."""
    async with database.connection() as connection:
        return [record["ticket_id"] for record in await connection.fetch(FIND_TICKETS, number)]


async def read_row(database: Database, ticket_id: int) -> tuple[Reading, Row | None, datetime]:
    """Read what the cache answers for a ticket and why, its row, and the time of the answer."""
    async with database.connection() as connection:
        record = await connection.fetchrow(TICKET, ticket_id if 0 < ticket_id <= MAX_ID else 0)
    row = None
    if record["ticket_id"] is not None:
        row = Row(**{name: record[name] for name in Row.__struct_fields__})
    return explain(record), row, record["now"]


async def read_contents(database: Database, ticket_ids: Sequence[int]) -> Mapping[int, Held]:
    """Read what is held of some tickets."""
    async with database.connection() as connection:
        return {record["ticket_id"]: Held(**record) for record in await connection.fetch(CONTENTS, list(ticket_ids))}


async def count_older(database: Database, than: datetime) -> int:
    """Count the rows that have not changed since a time."""
    async with database.connection() as connection:
        count: int = await connection.fetchval(COUNT_OLDER, than)
    return count


async def disputed_ids(database: Database) -> Sequence[int]:
    """List what FreeScout has to be asked."""
    async with database.connection() as connection:
        return [record["ticket_id"] for record in await connection.fetch(DISPUTED_IDS)]


async def read_sample(database: Database, at_most: int) -> Mapping[int, datetime]:
    """Pick some tickets and their dates of creation."""
    async with database.connection() as connection:
        return {record["ticket_id"]: record["created_at"] for record in await connection.fetch(SAMPLE, at_most)}


async def read_deliveries(
    database: Database,
    *,
    ticket_id: int | None = None,
    events: Sequence[str] = (),
    outcomes: Sequence[str] = (),
    since: datetime | None = None,
    at_most: int = 50,
) -> Sequence[JournalEntry]:
    """Read the newest deliveries that fit, the newest first; ``events`` are patterns with ``*`` and ``?``."""
    columns = ", ".join(JournalEntry.__struct_fields__)
    where, arguments = _conditions(
        ("ticket_id = ${0}", ticket_id),
        ("event LIKE ANY (${0}::text[])", [_pattern(event) for event in events] or None),
        ("outcome = ANY (${0}::text[])", list(outcomes) or None),
        ("received_at >= ${0}", since),
    )
    query = f"SELECT {columns} FROM freescout_delivery {where} ORDER BY delivery_id DESC LIMIT {at_most:d}"  # noqa: S608 - of literals above
    async with database.connection() as connection:
        return [JournalEntry(**record) for record in await connection.fetch(query, *arguments)]


async def read_gaps(
    database: Database,
    *,
    ticket_id: int | None = None,
    verdicts: Sequence[str] = (),
    since: datetime | None = None,
    at_most: int = 50,
) -> Sequence[GapEntry]:
    """Read the newest gaps that fit, the newest first."""
    columns = ", ".join(GapEntry.__struct_fields__)
    where, arguments = _conditions(
        ("ticket_id = ${0}", ticket_id),
        ("verdict = ANY (${0}::text[])", list(verdicts) or None),
        ("healed_at >= ${0}", since),
    )
    query = f"SELECT {columns} FROM freescout_gap {where} ORDER BY gap_id DESC LIMIT {at_most:d}"  # noqa: S608 - of literals above
    async with database.connection() as connection:
        records: Sequence[asyncpg.Record] = await connection.fetch(query, *arguments)
    return [
        GapEntry(**{**record, "late_by": None if record["late_by"] is None else record["late_by"].total_seconds()})
        for record in records
    ]


async def read_webhook(database: Database) -> Webhook | None:
    """Read what is registered at the desk, as far as we know."""
    async with database.connection() as connection:
        record = await connection.fetchrow(READ_WEBHOOK)
    return None if record is None else Webhook(**record)


async def begin_webhook(database: Database, url: str, events: Sequence[str]) -> bool:
    """Note that a webhook is about to be registered; False when there is one, or a registration without an end."""
    async with database.connection() as connection:
        return bool(await connection.fetchval(BEGIN_WEBHOOK, url, list(events)))


async def save_webhook(database: Database, webhook_id: int, url: str, events: Sequence[str]) -> None:
    """Note a webhook's id."""
    async with database.connection() as connection:
        await connection.execute(SAVE_WEBHOOK, webhook_id, url, list(events))


async def forget_webhook(database: Database) -> None:
    """Forget the webhook."""
    async with database.connection() as connection:
        await connection.execute(FORGET_WEBHOOK)


async def note_removal(database: Database) -> None:
    """Note that the webhook is removed."""
    async with database.connection() as connection:
        await connection.execute(NOTE_REMOVAL)


async def find_stranger(database: Database) -> datetime | None:
    """Return when the last delivery came that no webhook we knew of has sent; None when none has."""
    async with database.connection() as connection:
        received_at: datetime | None = await connection.fetchval(FIND_STRANGERS, SELF_TEST, _STILL_UNDER_WAY)
    return received_at


async def has_arrived(database: Database, event: str, *, within: timedelta = timedelta(hours=1)) -> bool:
    """Tell whether a self-test's delivery has reached this database."""
    async with database.connection() as connection:
        return bool(await connection.fetchval(FIND_SELF_TEST, event, within))


async def count_twins(database: Database, among: int) -> tuple[int, int]:
    """Return how many of the newest deliveries there are, and how many of them repeat one that has just come."""
    async with database.connection() as connection:
        record = await connection.fetchrow(COUNT_TWINS, among)
    return record["deliveries"], record["twins"]


async def set_desk(database: Database, url: str, *, forget: bool) -> None:
    """Tie the database to a desk; ``forget`` what is known of the one before."""
    async with database.transaction(_LONG) as connection:
        await connection.execute(FORGET_DESK if forget else SET_DESK, url)


def _conditions(*wanted: tuple[str, object]) -> tuple[str, list[object]]:
    """Return a WHERE of those conditions that have an argument, so that each combination has a plan of its own."""
    conditions, arguments = [], []
    for condition, argument in wanted:
        if argument is not None:
            arguments.append(argument)
            conditions.append(condition.format(len(arguments)))
    return ("WHERE " + " AND ".join(conditions) if conditions else ""), arguments


def _pattern(glob: str) -> str:
    r"""Return LIKE's form of a pattern with ``*`` and ``?``."""
    escaped = glob.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    return escaped.replace("*", "%").replace("?", "_")
