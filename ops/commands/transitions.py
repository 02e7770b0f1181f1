"""``transitions``: the feed of what has changed, as its readers get it."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from db.transitions import last_transition_id, read_transitions
from freescout_audit.asking import Transition
from freescout_audit.words import cell
from ops.drawing import columns, titled
from ops.output import AsJson, Screen
from ops.result import CommandResult
from ops.runner import run_command, run_until_stopped
from ops.ticket_ids import TicketOption
from ops.times import Since, SinceOption
from ops.workplace import Workplace

LOOK_EVERY = 1.0
"""Seconds between two looks of ``--follow``."""
_PAGE = 1000


class Transitions(msgspec.Struct, frozen=True, kw_only=True):
    """What ``transitions --json`` says, in the order of the feed; with ``--follow`` each is a line of its own."""

    transitions: Sequence[Transition]


def transitions(
    *,
    ticket: TicketOption = None,
    since: SinceOption = None,
    limit: Annotated[int, typer.Option(help="The newest, so many at the most.", min=1, max=10_000)] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Show new ones as they come, until Ctrl-C; with --since those too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """The changes of the settled answers, in the order in which the feed gives them out."""
    if follow:
        run_until_stopped(lambda workplace: _follow(workplace, ticket, since), as_json=as_json)
        return

    async def look(workplace: Workplace) -> CommandResult:
        async with workplace.database() as database:
            begin = None if since is None else since.at(await database.now())
            found = await read_transitions(database, ticket_id=ticket, since=begin, at_most=limit, newest=True)
        counted = f"{len(found):,} transitions" + (f", the newest {limit}" if len(found) == limit else "")
        return CommandResult(Transitions(transitions=found), titled(counted, _draw(found) if found else ""))

    run_command(look, as_json=as_json)


async def _follow(workplace: Workplace, ticket_id: int | None, since: Since | None) -> None:
    screen = Screen(highlight=False, soft_wrap=True)
    async with workplace.database() as database:
        after = 0 if since is not None else await last_transition_id(database)
        begin: datetime | None = None if since is None else since.at(await database.now())
        while True:
            found = await read_transitions(database, after=after, ticket_id=ticket_id, since=begin, at_most=_PAGE)
            for each in found:
                if workplace.as_json:
                    sys.stdout.write(msgspec.json.encode(asdict(each), enc_hook=str).decode() + "\n")
                else:
                    screen.print(_draw_line(each))
                after = each.transition_id
            sys.stdout.flush()
            if len(found) < _PAGE:
                await asyncio.sleep(LOOK_EVERY)


def _draw_line(each: Transition) -> Text:
    said = f"{cell(each.known_at)}Z  {each.transition_id:>8}  ticket {each.ticket_id:<10} {each.before} → "
    return Text.assemble(said, _after(each))


def _draw(found: Sequence[Transition]) -> Table:
    table = columns("id", "known (UTC)", "ticket", "before", "after", "changed (UTC)", "by", right={"id"})
    for each in found:
        table.add_row(
            str(each.transition_id),
            cell(each.known_at),
            str(each.ticket_id),
            each.before,
            _after(each),
            cell(each.changed_at, day=False),
            "a delivery" if each.via == "webhook" else "an API read",
        )
    return table


def _after(each: Transition) -> Text:
    because = "" if each.reason is None else f" ({each.reason})"
    return Text(f"{each.after}{because}", "yellow" if each.after == "none" else "")
