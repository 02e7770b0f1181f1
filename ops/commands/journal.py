"""``deliveries`` and ``gaps``: what came, and what was missed, with filters."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from db.database import Database
from db.gaps import GapEntry, read_gaps
from db.journal import JournalledDelivery, read_deliveries
from ops.drawing import OUTCOME_STYLES, cell, columns, content, span, titled
from ops.output import AsJson
from ops.result import CommandResult
from ops.runner import run_command
from ops.ticket_ids import TicketOption
from ops.times import Since, SinceOption
from ops.workplace import Workplace


class Outcome(StrEnum):
    """What became of a delivery."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    STALE = "stale"
    DISPUTED = "disputed"
    IGNORED = "ignored"
    UNUSABLE = "unusable"


class VerdictChoice(StrEnum):
    """What became of the delivery of a change that the poller found first."""

    WAITING = "waiting"
    RACED = "raced"
    LATE = "late"
    LOST = "lost"
    NEVER_SENT = "never_sent"


class Deliveries(msgspec.Struct, frozen=True, kw_only=True):
    """What ``deliveries --json`` says, the newest first."""

    deliveries: Sequence[JournalledDelivery]


class Gaps(msgspec.Struct, frozen=True, kw_only=True):
    """What ``gaps --json`` says, the newest first."""

    gaps: Sequence[GapEntry]


Entry = TypeVar("Entry")

LimitOption = Annotated[int, typer.Option(help="So many at the most.", min=1, max=10_000)]


def deliveries(
    *,
    ticket: TicketOption = None,
    event: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these events: convo.status, 'convo.*'.")
    ] = None,
    outcome: Annotated[list[Outcome] | None, typer.Option(help="Only those that became this.")] = None,
    since: SinceOption = None,
    limit: LimitOption = 50,
    as_json: AsJson = False,
) -> None:
    """The verified deliveries that came, the newest first, and what became of each."""
    _list(
        "deliveries",
        lambda database, begin: read_deliveries(
            database,
            ticket_id=ticket,
            events=event or (),
            outcomes=[str(each) for each in outcome or ()],
            since=begin,
            at_most=limit,
        ),
        document=lambda found: Deliveries(deliveries=found),
        draw=_draw_journal,
        since=since,
        limit=limit,
        as_json=as_json,
    )


def gaps(
    *,
    ticket: TicketOption = None,
    verdict: Annotated[list[VerdictChoice] | None, typer.Option(help="Only those whose delivery was this.")] = None,
    since: SinceOption = None,
    limit: LimitOption = 50,
    as_json: AsJson = False,
) -> None:
    """The changes that the poller found before any delivery told of them, the newest first."""
    _list(
        "gaps",
        lambda database, begin: read_gaps(
            database,
            ticket_id=ticket,
            verdicts=[str(each) for each in verdict or ()],
            since=begin,
            at_most=limit,
        ),
        document=lambda found: Gaps(gaps=found),
        draw=_draw_gaps,
        since=since,
        limit=limit,
        as_json=as_json,
    )


def _list(
    what: str,
    read: Callable[[Database, datetime | None], Awaitable[Sequence[Entry]]],
    *,
    document: Callable[[Sequence[Entry]], msgspec.Struct],
    draw: Callable[[Sequence[Entry]], Table],
    since: Since | None,
    limit: int,
    as_json: bool,
) -> None:
    """Run the command that lists entries, the newest first; ``read`` is given the time since which they are wanted."""

    async def look(workplace: Workplace) -> CommandResult:
        async with workplace.database() as database:
            found = await read(database, None if since is None else since.at(await database.now()))
        return CommandResult(document(found), titled(_counted(found, limit, what), draw(found) if found else ""))

    run_command(look, as_json=as_json)


def _counted(found: Sequence[object], limit: int, what: str) -> str:
    """Say how many there are, and whether there may be more."""
    if not found:
        return f"no {what}"
    return f"{len(found)} {what}, the newest first" + (", and maybe more: --limit" if len(found) == limit else "")


def _draw_journal(found: Sequence[JournalledDelivery]) -> Table:
    table = columns(
        "received (UTC)", "ticket", "event", "says", "dated (UTC)", "outcome", right={"ticket"}, fold={"outcome"}
    )
    for entry in found:
        table.add_row(
            cell(entry.received_at),
            "" if entry.ticket_id is None else str(entry.ticket_id),
            entry.event.removeprefix("convo."),
            content(entry.status, entry.state) if entry.ticket_id is not None else "",
            cell(entry.updated_at, day=False),
            Text(_outcome(entry), OUTCOME_STYLES.get(entry.outcome, "")),
        )
    return table


def _outcome(entry: JournalledDelivery) -> str:
    """Return an outcome with its reason, where that says more."""
    if entry.reason in {"", "news", "known"}:
        return entry.outcome
    return f"{entry.outcome}: {entry.reason.replace('_', ' ')}"


def _draw_gaps(found: Sequence[GapEntry]) -> Table:
    table = columns(
        "ticket", "cached", "true", "changed (UTC)", "healed (UTC)", "verdict", right={"ticket"}, fold={"verdict"}
    )
    for gap in found:
        late = "" if gap.late_by is None else f" by {span(gap.late_by)}"
        table.add_row(
            str(gap.ticket_id),
            content(gap.cached_status, gap.cached_state),
            content(gap.true_status, gap.true_state or "gone"),
            cell(gap.changed_at),
            cell(gap.healed_at, day=False),
            Text(f"{gap.verdict.replace('_', ' ')}{late}", OUTCOME_STYLES.get(gap.verdict, "")),
        )
    return table
