"""``deliveries`` and ``gaps``: what came, and what was missed, with filters."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from db import console, lease
from freescout_audit.conversation import MAX_ID
from ops.answer import Answer, AsJson, Workplace, answer, columns, moment, span, titled
from ops.commands.heal import content
from ops.times import SinceOption

LOOK_CLOSER = "Find out what happened"
STYLES = {
    "applied": "green",
    "duplicate": "dim",
    "stale": "dim",
    "ignored": "dim",
    "disputed": "yellow",
    "unusable": "red",
    "raced": "dim",
    "waiting": "yellow",
    "late": "yellow",
    "lost": "red",
}
"""How an outcome or a verdict is drawn."""

app = typer.Typer()


class Outcome(StrEnum):
    """What became of a delivery."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    STALE = "stale"
    DISPUTED = "disputed"
    IGNORED = "ignored"
    UNUSABLE = "unusable"


class Verdict(StrEnum):
    """What became of the delivery of a change that a pass found first."""

    WAITING = "waiting"
    RACED = "raced"
    LATE = "late"
    LOST = "lost"


class Deliveries(msgspec.Struct, frozen=True, kw_only=True):
    """What ``deliveries --json`` says, the newest first."""

    deliveries: Sequence[console.JournalEntry]


class Gaps(msgspec.Struct, frozen=True, kw_only=True):
    """What ``gaps --json`` says, the newest first."""

    gaps: Sequence[console.GapEntry]


TicketOption = Annotated[
    int | None, typer.Option(metavar="ID", help="Only about this ticket.", min=1, max=MAX_ID, show_default=False)
]
LimitOption = Annotated[int, typer.Option(help="So many at the most.", min=1, max=10_000)]


@app.command(rich_help_panel=LOOK_CLOSER)
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

    async def look(workplace: Workplace) -> Answer:
        async with workplace.database() as database:
            found = await console.read_deliveries(
                database,
                ticket_id=ticket,
                events=event or (),
                outcomes=[str(each) for each in outcome or ()],
                since=None if since is None else since.at(await lease.now(database)),
                at_most=limit,
            )
        return Answer(Deliveries(deliveries=found), titled(counted(found, limit, "deliveries"), _draw_journal(found)))

    answer(look, as_json=as_json)


@app.command(rich_help_panel=LOOK_CLOSER)
def gaps(
    *,
    ticket: TicketOption = None,
    verdict: Annotated[list[Verdict] | None, typer.Option(help="Only those whose delivery was this.")] = None,
    since: SinceOption = None,
    limit: LimitOption = 50,
    as_json: AsJson = False,
) -> None:
    """The changes that a pass found before any delivery told of them, the newest first."""

    async def look(workplace: Workplace) -> Answer:
        async with workplace.database() as database:
            found = await console.read_gaps(
                database,
                ticket_id=ticket,
                verdicts=[str(each) for each in verdict or ()],
                since=None if since is None else since.at(await lease.now(database)),
                at_most=limit,
            )
        return Answer(Gaps(gaps=found), titled(counted(found, limit, "gaps"), _draw_gaps(found)))

    answer(look, as_json=as_json)


def counted(found: Sequence[object], limit: int, what: str) -> str:
    """Say how many there are, and whether there may be more."""
    if not found:
        return f"no {what}"
    return f"{len(found)} {what}, the newest first" + (", and maybe more: --limit" if len(found) == limit else "")


def _draw_journal(found: Sequence[console.JournalEntry]) -> Table | str:
    if not found:
        return ""
    table = columns("received", "ticket", "event", "says", "dated", "outcome", right={"ticket"}, fold={"outcome"})
    for entry in found:
        table.add_row(
            moment(entry.received_at, year=False),
            "" if entry.ticket_id is None else str(entry.ticket_id),
            entry.event.removeprefix("convo.") if entry.event.startswith("convo.") else entry.event,
            content(entry.status, entry.state) if entry.ticket_id is not None else "",
            "" if entry.updated_at is None else moment(entry.updated_at, day=False),
            Text(_outcome(entry), STYLES.get(entry.outcome, "")),
        )
    return table


def _outcome(entry: console.JournalEntry) -> str:
    """Return an outcome with its reason, where that says more."""
    if entry.reason in {"", "news", "known"}:
        return entry.outcome
    return f"{entry.outcome}: {entry.reason.replace('_', ' ')}"


def _draw_gaps(found: Sequence[console.GapEntry]) -> Table | str:
    if not found:
        return ""
    table = columns("ticket", "cached", "true", "changed", "healed", "verdict", right={"ticket"}, fold={"verdict"})
    for gap in found:
        late = "" if gap.late_by is None else f" by {span(gap.late_by)}"
        table.add_row(
            str(gap.ticket_id),
            content(gap.cached_status, gap.cached_state),
            content(gap.true_status, gap.true_state or "gone"),
            "" if gap.changed_at is None else moment(gap.changed_at, year=False),
            moment(gap.healed_at, day=False),
            Text(f"{gap.verdict}{late}", STYLES.get(gap.verdict, "")),
        )
    return table
