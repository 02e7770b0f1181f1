"""``deliveries`` and ``gaps``: what came, and what was missed, with filters."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from db.database import Database
from db.gaps import GapEntry, read_gaps
from db.journal import JournalledDelivery, read_deliveries
from freescout_audit.delivery import both_names
from freescout_audit.endpoints import AUDIT
from freescout_audit.words import cell, content, span
from ops.drawing import OUTCOME_STYLES, columns, titled
from ops.output import AsJson, Screen
from ops.result import CommandResult
from ops.runner import run_command, run_until_stopped
from ops.ticket_ids import TicketOption
from ops.times import Since, SinceOption
from ops.workplace import Workplace


class OutcomeWanted(StrEnum):
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


Shown = TypeVar("Shown")
MOST = 10_000
LOOK_EVERY = 1.0
"""Seconds between two looks of ``--follow``."""
OVERLAP = timedelta(seconds=30)
"""How far each look of ``--follow`` goes back: a delivery is committed some seconds after it was received."""

LimitOption = Annotated[int, typer.Option(help="So many at the most.", min=1, max=MOST)]


def deliveries(
    *,
    ticket: TicketOption = None,
    event: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only these events: status, 'convo.*'.")
    ] = None,
    outcome: Annotated[list[OutcomeWanted] | None, typer.Option(help="Only those that became this.")] = None,
    since: SinceOption = None,
    limit: LimitOption = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new ones as they come, until Ctrl-C; with --since those too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The verified deliveries that came, the newest first, and what became of each."""

    def read(
        database: Database, begin: datetime | None, at_most: int = limit
    ) -> Awaitable[Sequence[JournalledDelivery]]:
        return read_deliveries(
            database,
            ticket_id=ticket,
            events=both_names(event or ()),
            outcomes=[str(each) for each in outcome or ()],
            since=begin,
            at_most=at_most,
        )

    if follow:
        run_until_stopped(
            lambda workplace: _follow(workplace, lambda database, begin: read(database, begin, MOST), since),
            as_json=as_json,
        )
        return
    _list(
        "deliveries",
        read,
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
    read: Callable[[Database, datetime | None], Awaitable[Sequence[Shown]]],
    *,
    document: Callable[[Sequence[Shown]], msgspec.Struct],
    draw: Callable[[Sequence[Shown]], Table],
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


async def _follow(
    workplace: Workplace,
    read: Callable[[Database, datetime], Awaitable[Sequence[JournalledDelivery]]],
    since: Since | None,
) -> None:
    screen = Screen(highlight=False, soft_wrap=True)
    async with workplace.database() as database:
        async for entry in new_deliveries(lambda begin: read(database, begin), database.now, since=since):
            if workplace.as_json:
                sys.stdout.write(msgspec.json.encode(entry, enc_hook=str).decode() + "\n")
            else:
                screen.print(_draw_line(entry))
            sys.stdout.flush()


async def new_deliveries(
    read: Callable[[datetime], Awaitable[Sequence[JournalledDelivery]]],
    now: Callable[[], Awaitable[datetime]],
    *,
    since: Since | None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[JournalledDelivery]:
    """Yield deliveries as they come, the oldest first; ``since``: those too that have come since then.

    ``read`` returns those that were received since a time, the newest first, and ``now`` the database's clock.
    """
    looked_at = await now()
    begin = looked_at - OVERLAP if since is None else since.at(looked_at)
    shown = {entry.delivery_id for entry in await read(begin)} if since is None else set()
    while True:
        looked_at = await now()
        found = await read(begin)
        for entry in reversed(found):
            if entry.delivery_id not in shown:
                yield entry
        shown = {entry.delivery_id for entry in found}
        begin = looked_at - OVERLAP
        await sleep(LOOK_EVERY)


def _draw_line(entry: JournalledDelivery) -> Text:
    """Draw a delivery on a line of its own."""
    ticket = "" if entry.ticket_id is None else f"ticket {entry.ticket_id}"
    says = "" if entry.ticket_id is None else content(entry.status, entry.state)
    head = f"{cell(entry.received_at)}Z  {ticket:<14} {entry.event.removeprefix('convo.'):<24} {says:<20} "
    return Text.assemble(head, (_outcome(entry), OUTCOME_STYLES.get(entry.outcome, "")))


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
    """Return an outcome with its reason, where that says more, and the path that it came by, if not the audit's."""
    reason = "" if entry.reason in {"", "news", "known"} else f": {entry.reason.replace('_', ' ')}"
    return entry.outcome + reason + ("" if entry.endpoint == AUDIT else f" at {entry.endpoint}")


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
