"""The gaps: changes that the poller found before any delivery told of them, and what became of those deliveries."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import Subquery, and_, case, delete, exists, func, literal, or_, select, true, tuple_, update

from db import schema
from db.database import Connection, Database
from freescout_audit.rule import Content

GapVerdict = Literal["waiting", "raced", "late", "lost", "never_sent"]
VERDICTS: tuple[GapVerdict, ...] = ("waiting", "raced", "late", "lost", "never_sent")
_PEEKED = "peeked"
"""Not a verdict yet, nor a gap: a peek found the change, and its delivery still has its time."""
_MANY = 20_000
"""Gaps that are counted one by one at the most."""

_delivery, _gap, _lease = schema.delivery.c, schema.gap.c, schema.lease.c


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A change that an API read found before any delivery told of it; None for what does not apply or is not known."""

    ticket_id: int
    cached: Content
    true: Content | None
    """None: it is gone for ever."""
    changed_at: datetime | None
    cached_updated_at: datetime | None
    """The date of what was held before."""


class GapEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A gap as it was written, and what became of its delivery; ``late_by`` in seconds."""

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
    cached_updated_at: datetime | None

    @property
    def gap(self) -> Gap:
        """The gap alone."""
        return Gap(
            ticket_id=self.ticket_id,
            cached=(self.cached_status, self.cached_state),  # type: ignore[arg-type] # the table holds no others
            true=None if self.true_state is None else (self.true_status, self.true_state),  # type: ignore[arg-type] # same
            changed_at=self.changed_at,
            cached_updated_at=self.cached_updated_at,
        )


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The gaps of which something is known now that was not."""

    found: Sequence[GapEntry]
    """A peek found them, and no delivery has come in time."""
    late: Sequence[GapEntry]
    lost: Sequence[GapEntry]
    never_sent: Sequence[GapEntry]


async def count_gaps(database: Database, within: timedelta) -> Mapping[str, int]:
    """Count the gaps of a time by what became of their deliveries."""
    query = (
        select(_gap.verdict, func.count().label("gaps"))
        .where(_gap.healed_at > schema.now - within)
        .group_by(_gap.verdict)
    )
    async with database.connection() as connection:
        counts = {row["verdict"]: row["gaps"] for row in await connection.rows(query)}
    return {verdict: counts.get(verdict, 0) for verdict in VERDICTS}


async def longest_gap(connection: Connection, within: timedelta) -> timedelta:
    """Return the longest time that a change was not known, of the gaps of a time; zero when there were none.

    At least: of several changes only the latest has a date, and what FreeScout deleted has none. Deliveries that were
    late and yet came first are no gaps. FreeScout's dates are taken by the offset of its clock that is measured now.
    """
    unknown_for = _gap.healed_at - (_gap.changed_at - _lease.clock_offset)
    query = (
        select(func.greatest(func.max(unknown_for), literal(timedelta())))
        .join_from(schema.gap, schema.lease, true())
        .where(_gap.healed_at > schema.now - within, _gap.verdict != _PEEKED)
    )
    longest: timedelta = await connection.scalar(query)
    return longest


async def read_gaps(
    database: Database,
    *,
    ticket_id: int | None = None,
    verdicts: Sequence[str] = (),
    since: datetime | None = None,
    until: datetime | None = None,
    at_most: int = 50,
) -> Sequence[GapEntry]:
    """Read the newest gaps that fit, the newest first."""
    query = select(schema.gap).where(_gap.verdict != _PEEKED).order_by(_gap.gap_id.desc()).limit(at_most)
    if ticket_id is not None:
        query = query.where(_gap.ticket_id == ticket_id)
    if verdicts:
        query = query.where(_gap.verdict.in_(verdicts))
    if since is not None:
        query = query.where(_gap.healed_at >= since)
    if until is not None:
        query = query.where(_gap.healed_at <= until)
    async with database.connection() as connection:
        rows = await connection.rows(query)
    return [_gap_entry(row) for row in rows]


async def read_verdicts(database: Database, within: timedelta) -> Sequence[tuple[datetime, str]]:
    """Read when each gap of a time was found, and what became of its delivery, the oldest first."""
    query = (
        select(_gap.healed_at, _gap.verdict)
        .where(_gap.verdict != _PEEKED, _gap.healed_at > schema.now - within)
        .order_by(_gap.healed_at)
        .limit(_MANY)
    )
    async with database.connection() as connection:
        return [(row["healed_at"], row["verdict"]) for row in await connection.rows(query)]


async def write_gaps(connection: Connection, gaps: Sequence[Gap], *, healed_at: datetime, peeked: bool) -> bool:
    """Write gaps, in the transaction that healed them; return whether they were. Those of a peek may be none yet.

    They are not before the first complete pass and the first delivery: until then no delivery could have told.
    """
    could_tell = select(
        _lease.complete_through.is_not(None) & exists().where(_delivery.ticket_id.is_not(None))
    ).scalar_subquery()
    if not gaps or not await connection.scalar(select(could_tell)):
        return False
    rows: list[dict[str, Any]] = [
        {
            "ticket_id": gap.ticket_id,
            "cached_status": gap.cached[0],
            "cached_state": gap.cached[1],
            "true_status": gap.true and gap.true[0],
            "true_state": gap.true and gap.true[1],
            "changed_at": gap.changed_at,
            "cached_updated_at": gap.cached_updated_at,
            "healed_at": healed_at,
            "verdict": _PEEKED if peeked else "waiting",
        }
        for gap in gaps
    ]
    await connection.execute(schema.gap.insert().values(rows))
    return True


async def deletions_are_due(database: Database, retries_over: timedelta) -> bool:
    """Tell whether `settle_gaps` has to know the desk's mailboxes: with one of them its tickets vanish unsaid."""
    due = exists().where(
        _gap.verdict == "waiting", _gap.healed_at < schema.now - retries_over, _gap.true_state.is_(None)
    )
    async with database.connection() as connection:
        return bool(await connection.scalar(select(due)))


async def settle_gaps(
    database: Database,
    *,
    race: timedelta,
    in_time: timedelta,
    retries_over: timedelta,
    keep: timedelta,
    mailboxes: Collection[int] | None,
) -> Settled:
    """Say what each waiting gap was, once that is known.

    Args:
        database: The cache.
        race: A delivery no later than this after the gap was found lost a race, and nothing else.
        in_time: What a peek found is no gap if its delivery comes no later than this after it.
        retries_over: After this, FreeScout sends it no more.
        keep: How long a settled gap is kept.
        mailboxes: The mailboxes of the desk; None if they are not known: then no deletion is settled for good.
    """
    waiting, due = _gap.verdict == "waiting", _gap.healed_at < schema.now - retries_over
    heard = _heard_of()
    after = heard.c.received_at - _gap.healed_at
    told_in_time = delete(schema.gap).where(_gap.gap_id == heard.c.gap_id, _gap.verdict == _PEEKED, after <= in_time)
    find = (
        update(schema.gap)
        .where(_gap.verdict == _PEEKED, _gap.healed_at < schema.now - in_time)
        .values(verdict="waiting")
        .returning(schema.gap)
    )
    settle_heard = (
        update(schema.gap)
        .where(_gap.gap_id == heard.c.gap_id, waiting)
        .values(
            verdict=case((after <= race, "raced"), else_="late"),
            settled_at=heard.c.received_at,
            late_by=func.greatest(after, literal(timedelta())),
        )
        .returning(schema.gap)
    )
    # FreeScout sends no delivery when what was sent becomes a draft again ("Undo"), nor when a mailbox is deleted.
    undone, deleted = _gap.true_state == "draft", _gap.true_state.is_(None)
    mailbox = select(schema.ticket.c.mailbox_id).where(schema.ticket.c.ticket_id == _gap.ticket_id).scalar_subquery()
    vanished = and_(due, deleted, mailbox.not_in(mailboxes or ()), literal(mailboxes is not None))
    settle_never_sent, settle_lost = (
        update(schema.gap).where(waiting, which).values(verdict=verdict, settled_at=schema.now).returning(schema.gap)
        for verdict, which in (
            ("never_sent", or_(undone, vanished)),
            ("lost", and_(due, or_(~deleted, literal(mailboxes is not None)))),
        )
    )
    async with database.transaction() as connection:
        await connection.execute(told_in_time)
        found, heard_of, never_sent, lost = [
            [_gap_entry(row) for row in await connection.rows(statement)]
            for statement in (find, settle_heard, settle_never_sent, settle_lost)
        ]
        await connection.execute(delete(schema.gap).where(_gap.settled_at < schema.now - keep))
    late = [gap for gap in heard_of if gap.verdict == "late"]
    return Settled(found=found, late=late, lost=lost, never_sent=never_sent)


def _heard_of() -> Subquery:
    """Return the gaps whose delivery has come, and when it came first.

    It says what was found, and bears its date, or an earlier one but for what was held: what FreeScout changes without
    telling (a subject, a draft reply) moves the date on. A deletion's own event shows the last living state.
    """
    heard_of = schema.delivery.alias()
    told = heard_of.c
    deletion = told.event == "convo.deleted_forever"
    began = func.least(func.coalesce(_gap.cached_updated_at, _gap.changed_at), _gap.changed_at)
    tells = or_(
        and_(deletion, _gap.true_state.is_(None)),
        and_(
            ~deletion,
            tuple_(told.status, told.state) == tuple_(_gap.true_status, _gap.true_state),
            told.updated_at.between(began, _gap.changed_at),
        ),
    )
    # In the hour that daylight saving repeats, the date of a change may lie an hour ahead.
    since = func.least(_gap.changed_at - _lease.clock_offset, _gap.healed_at)
    return (
        select(_gap.gap_id, func.min(told.received_at).label("received_at"))
        .join_from(schema.gap, schema.lease, true())
        .join(heard_of, and_(told.ticket_id == _gap.ticket_id, told.received_at >= since))
        .where(_gap.verdict.in_((_PEEKED, "waiting")), tells)
        .group_by(_gap.gap_id)
        .subquery()
    )


def _gap_entry(row: Mapping[str, Any]) -> GapEntry:
    late_by: timedelta | None = row["late_by"]
    return GapEntry(**{**row, "late_by": None if late_by is None else late_by.total_seconds()})
