"""What was answered at a moment: each ticket's row, and the lease, as they stood then."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Delete, delete, func, or_, select, true, tuple_, update

from db import schema, statements
from db.database import Connection, Database
from db.reads import UNAVAILABLE, Reading, Reason
from freescout_audit.conversation import MAX_ID
from freescout_audit.trust import AHEAD

_history, _lease, _feed = schema.history.c, schema.lease_history.c, schema.feed.c
AT_ONCE = 5000
"""Rows that are deleted in one statement."""
_SOMETIME = datetime(1970, 1, 1, tzinfo=UTC)
"""What was written while our clock was ahead has this for its dates."""
_BEYOND = 1_000_000_000
"""More transitions than there have been since any backup."""


async def read_at(database: Database, ticket_id: int, at: datetime, *, deadline: float = 0.25) -> Reading:
    """Answer what a ticket read at a moment, as ``freescout_ticket_state_at`` does, and why.

    The reason is ``not_kept`` for moments that the history does not reach, or that our clock was wrong in, and
    ``to_come`` for those of the future. ``expires_at`` is None. Never raises, as `db.reads.read_from`.
    """
    if not 0 < ticket_id <= MAX_ID:
        return Reading(ticket_state="none", reason="miss")
    try:
        async with database.connection(deadline) as connection:
            record = await connection.driver.fetchrow(statements.READ_TICKET_AT, ticket_id, at)
        return UNAVAILABLE if record is None else explain_at(record, at)
    except Exception:  # noqa: BLE001 - whoever asks gets none, whatever went wrong
        return UNAVAILABLE


class PastRead(msgspec.Struct, frozen=True, kw_only=True):
    """A read of FreeScout's API that a ticket's answer began with."""

    at: datetime
    status: str | None
    state: str | None
    gone: bool
    changed: bool
    """Whether another answer was settled before."""
    changed_at: datetime | None
    """FreeScout's date of a change."""


async def read_reads(
    database: Database, ticket_id: int, *, at_most: int, until: datetime | None = None
) -> Sequence[PastRead]:
    """Return the latest reads that a ticket's answer began with, up to a moment if one is given, the newest first.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated.
    """
    query = (
        select(
            _history.known_at.label("at"),
            _history.status,
            _history.state,
            _history.gone,
            _history.before.is_not(None).label("changed"),
            _history.changed_at,
        )
        .where(
            _history.ticket_id == ticket_id,
            _history.via == "poller",
            true() if until is None else _history.known_at <= until,
        )
        .order_by(_history.known_at.desc(), _history.entry_id.desc())
        .limit(at_most)
    )
    async with database.connection() as connection:
        return [PastRead(**row) for row in await connection.rows(query)]


def explain_at(record: Mapping[str, Any], at: datetime) -> Reading:
    """Turn a row with the columns of `statements.READ_TICKET_AT` into the answer and its reason."""
    reason = _beyond(record, at) or _unanswerable(record, at) or ("ok" if _was_vouched_for(record, at) else "expired")
    return Reading(ticket_state=record["status"] if reason == "ok" else "none", reason=reason)


def _beyond(record: Mapping[str, Any], at: datetime) -> Reason | None:
    """Return why nothing is known of a moment; None when something is."""
    now: datetime = record["now"]
    latest = [record[name] for name in ("latest_known_at", "latest_renewed_at") if record[name] is not None]
    if at > now:
        return "to_come"
    if at < record["kept_since"] or any(stamp > now + AHEAD for stamp in latest):
        return "not_kept"
    if record["entry_id"] is None:
        return "miss"
    return "not_kept" if record["grace_until"] == _SOMETIME else None


def _unanswerable(record: Mapping[str, Any], at: datetime) -> Reason | None:
    """Return why a row answered nothing, whoever vouched for it; None when it could."""
    grace: datetime | None = record["grace_until"]
    if record["gone"]:
        return "gone" if grace is None else "disputed"
    if record["status"] is None or record["state"] is None or not record["is_dated"]:
        return "unknown"
    if record["state"] != "published":
        return "unpublished"
    return "disputed" if grace is not None and grace <= at else None


def _was_vouched_for(record: Mapping[str, Any], at: datetime) -> bool:
    until: datetime | None = record["until_at"]
    own: datetime = record["expires_at"]
    # What was prolonged later was vouched for all the while.
    counts = record["seen_at"] > at or own <= at + AHEAD + (record["longest"] or timedelta())
    return (until is not None and until > at) or (own > at and counts)


async def prune_history(database: Database, *, keep: float) -> int:
    """Delete what is older than ``keep`` seconds, a little at a time, and return how many rows.

    For each ticket the row in force at that time stays, but is no transition any more: the feed begins with the first
    one that was known since then.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated.
    """
    horizon = schema.now - timedelta(seconds=keep)
    kept = select(func.min(_history.transition_id)).where(_history.known_at >= horizon)
    async with database.connection() as connection:
        await connection.execute(update(schema.feed).values(kept_since=func.greatest(_feed.kept_since, horizon)))
        await connection.execute(_over(horizon))
        unnumbered = await connection.scalar(select(_feed.last_id)) + 1
        first: int = await connection.scalar(kept) or unnumbered
        await connection.execute(
            update(schema.feed).values(pruned_through=func.greatest(_feed.pruned_through, first - 1))
        )
    # Readers at an older place get an error from now on.
    pruned = await _delete(database, horizon, first)
    await _end_transitions(database, first)
    return pruned


def _over(horizon: ColumnElement[datetime]) -> Delete:
    """Return what deletes the stretches of the lease before the one in force."""
    newer = schema.lease_history.alias()
    follows = select(1).where(newer.c.began_at > _lease.began_at, newer.c.began_at <= horizon).exists()
    return delete(schema.lease_history).where(follows)


async def _delete(database: Database, horizon: ColumnElement[datetime], first: int) -> int:
    """Delete the rows that another has followed by then; those of transitions that are kept stay."""
    later = schema.history.alias()
    key = (_history.ticket_id, _history.known_at, _history.entry_id)
    follows = (
        select(1)
        .where(
            later.c.ticket_id == _history.ticket_id,
            tuple_(later.c.known_at, later.c.entry_id) > tuple_(_history.known_at, _history.entry_id),
            later.c.known_at <= horizon,
        )
        .exists()
    )
    is_over = or_(_history.before.is_(None), _history.transition_id < first)
    old = select(*key).where(_history.known_at < horizon, is_over, follows).limit(AT_ONCE)
    return await database.in_batches(delete(schema.history).where(tuple_(*key).in_(old)), AT_ONCE)


async def _end_transitions(database: Database, first: int) -> None:
    """End the transitions that are older than the feed; the rows in force stay."""
    old = select(_history.transition_id).where(_history.transition_id < first).limit(AT_ONCE)
    nothing = dict.fromkeys(("before", "reason", "changed_at", "transition_id"))
    await database.in_batches(update(schema.history).where(_history.transition_id.in_(old)).values(nothing), AT_ONCE)


async def begin_the_feed_again(connection: Connection) -> None:
    """Number all transitions anew, beyond any number that a reader may have: after a restore it may have later ones."""
    await _lock_the_feed(connection)
    await connection.execute(update(schema.history).values(transition_id=_history.transition_id + _BEYOND))
    await connection.execute(
        update(schema.feed).values(last_id=_feed.last_id + _BEYOND, pruned_through=_feed.pruned_through + _BEYOND)
    )


async def forget_history(connection: Connection) -> None:
    """Forget all of it, in the transaction that forgets the tickets: readers of the feed have to begin again."""
    await _lock_the_feed(connection)
    await connection.execute(delete(schema.history))
    await connection.execute(delete(schema.lease_history))
    ended = _feed.last_id + 1
    await connection.execute(update(schema.feed).values(pruned_through=ended, last_id=ended, kept_since=schema.now))


async def _lock_the_feed(connection: Connection) -> None:
    """Lock the feed before the history's rows, in the order of whatever numbers them."""
    await connection.execute(select(func.freescout_lock_feed(False)))  # noqa: FBT003 - SQL's argument
