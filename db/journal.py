"""The journal of deliveries: what came, how late, signed by which key."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from sqlalchemy import ColumnElement, delete, exists, func, insert, or_, select, true

from db import schema
from db.database import Database
from freescout_audit.desk_clock import WITHIN_A_SECOND
from freescout_audit.endpoints import AUDIT
from freescout_audit.events import JOURNAL_PRUNED
from freescout_audit.logs import emit

SELF_TEST = "freescout-audit.selftest"
"""The event of a self-test's delivery, before a dot and eight characters of its own. It is about no ticket."""

_delivery, _lease = schema.delivery.c, schema.lease.c
IS_SELF_TEST: ColumnElement[bool] = func.starts_with(_delivery.event, SELF_TEST) & _delivery.ticket_id.is_(None)
"""Whether a journalled delivery is a self-test of ours, which is none of FreeScout's: no query of those counts it.

The name of an event is not signed, so a delivery about a ticket is FreeScout's whatever its name.
"""
PRUNE_EVERY = 3600.0
"""Seconds between two looks for deliveries that the journal need not keep any longer."""
_TWINS = timedelta(seconds=30)
"""Two deliveries that say the same and are no farther apart are twins."""
_LONG_LOOK = 30.0


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the journal, its columns by their names."""

    received_at: datetime
    endpoint: str
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
    key_fingerprint: str | None
    digest: str | None = None
    replays: int = 0
    replayed_at: datetime | None = None
    replayed_request_id: str | None = None


class JournalledDelivery(Entry, frozen=True, kw_only=True):
    """A row of the journal as it was read."""

    delivery_id: int


class LastDelivery(msgspec.Struct, frozen=True, kw_only=True):
    """The last delivery that FreeScout sent."""

    received_at: datetime
    event: str
    ticket_id: int | None
    outcome: str
    signed_with: str


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds from the change at the desk to the first delivery that told of it.

    FreeScout's dates have whole seconds, and the change was made half a second after its date on the average.
    """

    samples: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None


class KeyUse(msgspec.Struct, frozen=True, kw_only=True):
    """What the journal knows of a key; ``fingerprint`` None: rows from before keys had names in it."""

    fingerprint: str | None
    deliveries: int
    first_at: datetime
    last_at: datetime


async def read_last_delivery(database: Database, endpoint: str | None = None) -> LastDelivery | None:
    """Read the last delivery that FreeScout sent, to any endpoint or to one.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated; the same everywhere below.
    """
    columns = (_delivery[name] for name in LastDelivery.__struct_fields__)
    query = select(*columns).where(~IS_SELF_TEST).order_by(_delivery.delivery_id.desc()).limit(1)
    if endpoint is not None:
        query = query.where(_delivery.endpoint == endpoint)
    async with database.connection(None if endpoint is None else _LONG_LOOK) as connection:
        row = await connection.row(query)
    return None if row is None else LastDelivery(**row)


async def count_outcomes(database: Database, within: timedelta) -> Mapping[str, Mapping[str, int]]:
    """Count the deliveries of a time by endpoint and by what became of them."""
    query = (
        select(_delivery.endpoint, _delivery.outcome, func.count().label("deliveries"))
        .where(_delivery.received_at > schema.now - within, ~IS_SELF_TEST)
        .group_by(_delivery.endpoint, _delivery.outcome)
        .order_by(_delivery.endpoint, _delivery.outcome)
    )
    counted: dict[str, dict[str, int]] = {}
    async with database.connection() as connection:
        for row in await connection.rows(query):
            counted.setdefault(row["endpoint"], {})[row["outcome"]] = row["deliveries"]
    return counted


async def read_lag(database: Database, within: timedelta) -> Lag:
    """Read how long deliveries took that were the first to tell of a change, by the desk's clock.

    A peek or a pass may have found the change before, which makes its delivery a duplicate and no less late.
    """
    first = (
        select(func.min(_delivery.received_at).label("received_at"), _delivery.updated_at)
        .where(
            _delivery.received_at > schema.now - within,
            _delivery.outcome.in_(("applied", "duplicate")),
            # What changed before may have been told of before, and a note tells of it again.
            _delivery.updated_at > schema.now - within,
        )
        .group_by(_delivery.ticket_id, _delivery.updated_at, _delivery.status, _delivery.state)
        .subquery()
    )
    changed_at = first.c.updated_at + WITHIN_A_SECOND - _lease.clock_offset
    lag = func.greatest(func.extract("epoch", first.c.received_at - changed_at), 0)
    shares = (0.5, 0.95, 0.99, 1.0)
    query = select(
        func.count().label("samples"),
        *(func.percentile_cont(share).within_group(lag).label(f"p{share * 100:.0f}") for share in shares),
    ).join_from(first, schema.lease, true())
    async with database.connection() as connection:
        (row,) = await connection.rows(query)
    if not row["samples"]:
        return Lag(samples=0)
    p50, p95, p99, slowest = (
        round(float(value), 3) + 0.0 for value in (row["p50"], row["p95"], row["p99"], row["p100"])
    )
    return Lag(samples=row["samples"], p50=p50, p95=p95, p99=p99, max=slowest)


async def read_deliveries(
    database: Database,
    *,
    ticket_id: int | None = None,
    events: Sequence[str] = (),
    outcomes: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    at_most: int = 50,
) -> Sequence[JournalledDelivery]:
    """Read the newest deliveries that fit, the newest first; ``events`` are patterns with ``*`` and ``?``."""
    query = select(schema.delivery).order_by(_delivery.delivery_id.desc()).limit(at_most)
    if ticket_id is not None:
        query = query.where(_delivery.ticket_id == ticket_id)
    if events:
        query = query.where(or_(*(_delivery.event.like(_pattern(glob), escape="\\") for glob in events)))
    if outcomes:
        query = query.where(_delivery.outcome.in_(outcomes))
    if since is not None:
        query = query.where(_delivery.received_at >= since)
    if until is not None:
        query = query.where(_delivery.received_at <= until)
    async with database.connection() as connection:
        return [JournalledDelivery(**row) for row in await connection.rows(query)]


async def has_arrived(database: Database, event: str, *, within: timedelta = timedelta(hours=1)) -> bool:
    """Tell whether a self-test's delivery has reached this database."""
    arrived = exists().where(_delivery.event == event, _delivery.received_at > schema.now - within)
    async with database.connection() as connection:
        return bool(await connection.scalar(select(arrived)))


async def count_twins(database: Database, among: int, endpoint: str = AUDIT) -> tuple[int, int]:
    """Return how many of an endpoint's newest deliveries there are, and how many repeat one that has just come.

    All were sent again within seconds when all come twice, or half of them repeat another.
    """
    newest = (
        select(schema.delivery)
        .where(_delivery.ticket_id.is_not(None), _delivery.endpoint == endpoint)
        .order_by(_delivery.delivery_id.desc())
        .limit(among)
        .subquery()
    )
    said = (newest.c.ticket_id, newest.c.event, newest.c.status, newest.c.state, newest.c.updated_at)
    before = func.lag(newest.c.received_at).over(partition_by=said, order_by=newest.c.delivery_id)
    pairs = select(newest.c.received_at, newest.c.replayed_at, before.label("before")).subquery()
    repeats = or_(pairs.c.received_at - pairs.c.before < _TWINS, pairs.c.replayed_at - pairs.c.received_at < _TWINS)
    twins = func.count().filter(repeats)
    async with database.connection(_LONG_LOOK) as connection:
        query = select(func.count().label("deliveries"), twins.label("twins")).select_from(pairs)
        (row,) = await connection.rows(query)
    return row["deliveries"], row["twins"]


async def read_key_uses(database: Database, endpoints: Sequence[str]) -> tuple[datetime, Sequence[KeyUse]]:
    """Return our clock, and the keys that signed FreeScout's deliveries to some endpoints, the one used last first."""
    last_at = func.max(_delivery.received_at).label("last_at")
    query = (
        select(
            _delivery.key_fingerprint.label("fingerprint"),
            func.count().label("deliveries"),
            func.min(_delivery.received_at).label("first_at"),
            last_at,
        )
        .where(_delivery.endpoint.in_(endpoints), ~IS_SELF_TEST)
        .group_by(_delivery.key_fingerprint)
        .order_by(last_at.desc())
    )
    async with database.connection(_LONG_LOOK) as connection:
        uses = [KeyUse(**row) for row in await connection.rows(query)]
        now: datetime = await connection.scalar(select(schema.now))
    return now, uses


async def prune_journal(database: Database, *, keep: float, at_most: int = 5000) -> int:
    """Delete deliveries older than ``keep`` seconds, ``at_most`` at a time so that others go on; return how many."""
    old = (
        select(_delivery.delivery_id)
        .where(_delivery.received_at < schema.now - timedelta(seconds=keep))
        .order_by(_delivery.received_at)
        .limit(at_most)
    )
    pruned = await database.in_batches(delete(schema.delivery).where(_delivery.delivery_id.in_(old)), at_most)
    if pruned:
        emit(JOURNAL_PRUNED, deliveries=pruned)
    return pruned


def _pattern(glob: str) -> str:
    r"""Return LIKE's form of a pattern with ``*`` and ``?``."""
    escaped = glob.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
    return escaped.replace("*", "%").replace("?", "_")


async def try_to_write(database: Database, *, keep: bool, deadline: float | None = None) -> None:
    """Write what a delivery would, and take it away again: in a commit (``keep``), or by a rollback.

    Raises:
        DatabaseUnavailableError: Deliveries cannot be saved, and why.
    """
    entry = dict.fromkeys(("body_bytes", "body_ms"), 0) | dict.fromkeys(("outcome", "reason", "signed_with"), "")
    writing = insert(schema.delivery).values(received_at=schema.now, endpoint="", event=f"{SELF_TEST}.write", **entry)
    async with database.transaction(deadline) as connection:
        written = await connection.scalar(writing.returning(_delivery.delivery_id))
        await connection.execute(delete(schema.delivery).where(_delivery.delivery_id == written))
        if not keep:
            await connection.driver.execute("ROLLBACK; BEGIN")
