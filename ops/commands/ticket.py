"""``ticket``: what the cache answers for one ticket and why, what FreeScout says, and how it came to that."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from db.database import Database
from db.history import read_at
from db.reads import Reason
from db.story import WHY, Moment, read_story
from db.tickets import TicketRow, find_tickets, read_row
from freescout_audit.words import ago, cell, content, moment
from ops.drawing import OUTCOME_STYLES, columns, facts, titled
from ops.output import AsJson
from ops.result import CommandError, CommandResult, Exit
from ops.runner import run_command
from ops.ticket_ids import parse_ticket_id
from ops.times import SINCE_HELP, Since, parse_since
from ops.workplace import Workplace

_LOOK_BACK = 10.0


class DeskSays(msgspec.Struct, frozen=True, kw_only=True):
    """FreeScout's answer now; ``state`` is ``gone`` when it has no such ticket. ``agrees``: the cache answers so."""

    status: str | None
    state: str | None
    updated_at: datetime | None
    agrees: bool


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """What ``ticket --json`` says; ``desk`` only with ``--ask``."""

    ticket_id: int
    now: datetime
    at: datetime | None
    """The moment that was asked about; None: now."""
    answer: str
    reason: Reason
    expires_at: datetime | None
    row: TicketRow | None
    desk: DeskSays | None
    history: Sequence[Moment]


def ticket(
    which: Annotated[str, typer.Argument(metavar="ID|#NUMBER", help="Its id, or its number: 4711 or '#4711'.")],
    *,
    ask: Annotated[bool, typer.Option("--ask", help="Ask FreeScout as well, and compare; nothing is written.")] = False,
    at: Annotated[
        Since | None,
        typer.Option(
            "--at", parser=parse_since, metavar="TIME", help=f"What it answered then. {SINCE_HELP}", show_default=False
        ),
    ] = None,
    limit: Annotated[int, typer.Option(help="So many deliveries and gaps at the most.", min=0, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """What the cache answers for a ticket, why, and what happened to it. Ends with 1 when that is none, or wrong."""
    if ask and at is not None:
        raise typer.BadParameter("FreeScout can only be asked about now: leave out --ask or --at")
    numbered = which.startswith("#")
    named = parse_ticket_id(which.removeprefix("#"))

    async def look(workplace: Workplace) -> CommandResult:
        async with workplace.database() as database:
            ticket_id = await _with_number(database, named) if numbered else named
            if at is not None:
                return await explain_then(database, ticket_id, at.at(await database.now()), limit=limit)
            return await explain(workplace, database, ticket_id, ask=ask, limit=limit)

    run_command(look, as_json=as_json)


async def explain(workplace: Workplace, database: Database, ticket_id: int, *, ask: bool, limit: int) -> CommandResult:
    """Read everything about a ticket."""
    said = None
    if ask:
        async with workplace.desk() as desk:
            said = await desk.reads.conversation(ticket_id)
    reading, row, now = await read_row(database, ticket_id)
    desk_says = None
    if ask:
        true = "none" if said is None or said.state != "published" else said.status or "none"
        desk_says = DeskSays(
            status=None if said is None else said.status,
            state="gone" if said is None else said.state,
            updated_at=None if said is None else said.updated_at,
            agrees=reading.ticket_state == true,
        )
    document = Ticket(
        ticket_id=ticket_id,
        now=now,
        at=None,
        answer=reading.ticket_state,
        reason=reading.reason,
        expires_at=reading.expires_at,
        row=row,
        desk=desk_says,
        history=await read_story(database, ticket_id, limit),
    )
    good = reading.reason == "ok" if desk_says is None else desk_says.agrees
    return CommandResult(document, picture(document), Exit.GOOD if good else Exit.WRONG)


async def explain_then(database: Database, ticket_id: int, at: datetime, *, limit: int) -> CommandResult:
    """Read what was answered for a ticket at a moment, and what had happened to it until then."""
    reading = await read_at(database, ticket_id, at, deadline=_LOOK_BACK)
    document = Ticket(
        ticket_id=ticket_id,
        now=await database.now(),
        at=at,
        answer=reading.ticket_state,
        reason=reading.reason,
        expires_at=None,
        row=None,
        desk=None,
        history=await read_story(database, ticket_id, limit, until=at),
    )
    return CommandResult(document, picture(document), Exit.GOOD if reading.reason == "ok" else Exit.WRONG)


async def _with_number(database: Database, number: int) -> int:
    """Return the one ticket that bears a number.

    Raises:
        CommandError: There is none, or there are several.
    """
    found = await find_tickets(database, number)
    if not found:
        raise CommandError(
            f"the cache knows no ticket #{number}", "name it by its id, which FreeScout's address bar shows"
        )
    if len(found) > 1:
        raise CommandError(
            f"#{number} was given to several tickets", f"name one by its id, {', '.join(map(str, found))}"
        )
    return found[0]


def picture(ticket: Ticket) -> RenderableType:
    """Draw it."""
    row = ticket.row
    number = "" if row is None or row.number is None or row.number == ticket.ticket_id else f" (#{row.number})"
    answers = "the cache answers" if ticket.at is None else f"at {moment(ticket.at)}"
    rows: list[tuple[str, RenderableType]] = [(answers, _draw_answer(ticket))]
    if ticket.desk is not None:
        rows.append(("FreeScout says", _draw_desk(ticket.desk)))
    if row is not None:
        rows += [
            ("held", f"{content(row.status, 'gone' if row.gone else row.state)}, changed {moment(row.updated_at)}"),
            ("seen", f"{moment(row.observed_at)} by {_PATHS[row.observed_via]} ({ago(row.observed_at, ticket.now)})"),
            ("vouched until", _draw_expiry(ticket, row)),
        ]
        if row.disputed_at is not None:
            rows.append(("disputed since", Text(moment(row.disputed_at), "yellow")))
    return titled(f"Ticket {ticket.ticket_id}{number}", facts(*rows), "", _draw_history(ticket.history))


_PATHS = {"webhook": "a delivery", "poller": "an API read"}


def _draw_answer(ticket: Ticket) -> Text:
    style = "bold green" if ticket.reason == "ok" else "bold yellow"
    return Text.assemble((ticket.answer, style), f": {WHY[ticket.reason]}")


def _draw_desk(says: DeskSays) -> Text:
    dated = "" if says.updated_at is None else f", changed {moment(says.updated_at)}"
    agrees = (" - the cache agrees", "green") if says.agrees else (" - the cache does not say so: heal it", "red")
    return Text.assemble(f"{content(says.status, says.state)}{dated}", agrees)


def _draw_expiry(ticket: Ticket, row: TicketRow) -> str:
    if ticket.expires_at is not None:
        by_lease = row.lease_until is not None and row.lease_until >= row.expires_at
        by = "the lease" if by_lease else "its own time to live"
        return f"{moment(ticket.expires_at)} by {by} ({ago(ticket.expires_at, ticket.now)})"
    return "not at all" if row.ttl_expires is None or row.ttl_expires.year < 2000 else ago(row.ttl_expires, ticket.now)  # noqa: PLR2004 - the view's epoch


def _draw_history(history: Sequence[Moment]) -> RenderableType:
    if not history:
        return "[dim]no delivery, no read and no gap is kept[/dim]"
    table = columns("when (UTC)", "what", "says", "dated (UTC)", "outcome", fold={"outcome"})
    for event in history:
        detail = "" if event.detail in {"", "news", "known"} else f" {event.detail}"
        table.add_row(
            cell(event.at),
            Text(event.event.removeprefix("convo."), "magenta" if event.kind == "gap" else ""),
            event.content,
            cell(event.dated, day=False),
            Text(f"{event.outcome}{detail}", OUTCOME_STYLES.get(event.outcome, "")),
        )
    return table
