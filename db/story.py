"""How a ticket came to what the cache says of it: why it is answered so, and what happened to it, on one line."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from db.database import Database
from db.gaps import read_gaps
from db.history import read_reads
from db.journal import JournalledDelivery, read_deliveries
from db.reads import Reason
from freescout_audit.endpoints import AUDIT
from freescout_audit.words import content, span

WHY: Mapping[Reason, str] = {
    "ok": "vouched for",
    "miss": "a complete pass has seen no such ticket: is that its id, and not its number?",
    "expired": "nothing has vouched for it lately: is a poller running, do deliveries come?",
    "disputed": "sightings contradict each other, and FreeScout has not been asked yet: heal it, or run a poller",
    "unpublished": "a draft, or in the Deleted folder",
    "gone": "deleted for ever",
    "unknown": "FreeScout gave a status, state or date that we do not know",
    "never_synced": "no pass has been complete yet, and no delivery told of it: activate the poller, or backfill",
    "unavailable": "the database did not answer",
    "not_kept": "the history does not reach that moment, or our clock was wrong then",
    "to_come": "that moment is yet to come",
}
"""What each reason means, and what there is to do."""


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened: a delivery, a read of FreeScout's API that an answer began with, or a gap."""

    at: datetime
    kind: Literal["delivery", "read", "gap"]
    event: str
    content: str
    dated: datetime | None
    outcome: str
    detail: str


async def read_story(
    database: Database, ticket_id: int, at_most: int, *, until: datetime | None = None
) -> Sequence[Moment]:
    """Return a ticket's latest deliveries, reads and gaps, up to a moment if one is given, the oldest first.

    Raises:
        DatabaseUnavailableError: PostgreSQL is away or not migrated.
    """
    if at_most == 0:
        return []
    happened = [
        Moment(
            at=entry.received_at,
            kind="delivery",
            event=entry.event,
            content=content(entry.status, entry.state),
            dated=entry.updated_at,
            outcome=entry.outcome,
            detail=_detail(entry),
        )
        for entry in await read_deliveries(database, ticket_id=ticket_id, until=until, at_most=at_most)
    ]
    happened += [
        Moment(
            at=read.at,
            kind="read",
            event="read from FreeScout",
            content=content(read.status, "gone" if read.gone else read.state),
            dated=read.changed_at,
            outcome="changed" if read.changed else "confirmed",
            detail="",
        )
        for read in await read_reads(database, ticket_id, until=until, at_most=at_most)
    ]
    for gap in await read_gaps(database, ticket_id=ticket_id, until=until, at_most=at_most):
        cached, true = content(gap.cached_status, gap.cached_state), content(gap.true_status, gap.true_state or "gone")
        happened.append(
            Moment(
                at=gap.healed_at,
                kind="gap",
                event="found by a pass",
                content=f"{cached} → {true}",
                dated=gap.changed_at,
                outcome=gap.verdict,
                detail="" if gap.late_by is None else f"by {span(gap.late_by)}",
            )
        )
    return sorted(happened, key=lambda event: event.at)[-at_most:]


def _detail(entry: JournalledDelivery) -> str:
    """Return the rule's case and, unless it is the audit's, the path that a delivery came by."""
    if entry.endpoint == AUDIT:
        return entry.reason.replace("_", " ")
    said = "" if entry.reason in {"news", "known"} else f"{entry.reason.replace('_', ' ')} "
    return f"{said}at {entry.endpoint}"
