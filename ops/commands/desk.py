"""``desk``: the desk that the database belongs to: its address, and what is taken for its clock."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from db import lease
from db.clocks import Clocks, read_clocks, reset_clock
from db.database import Database
from db.tickets import read_holdings, read_sample
from freescout_audit.words import span
from ops.drawing import facts, titled
from ops.output import AsJson, Yes
from ops.result import CommandError, CommandResult, Exit
from ops.runner import run_command
from ops.workplace import Workplace, standing_of
from poller.freescout import FreeScout
from settings.environment import AddressError, read_address

_SAMPLE = 5
"""Tickets by which a desk is recognised."""

app = typer.Typer(no_args_is_help=True)


@app.callback()
def desk() -> None:
    """The desk that the database belongs to."""


class DeskChange(msgspec.Struct, frozen=True, kw_only=True):
    """What ``desk change --json`` says; ``recognised`` of ``compared`` tickets were created when we think they were."""

    before: str | None
    after: str
    forgot: bool
    compared: int
    recognised: int


@app.command()
def change(
    url: Annotated[str, typer.Argument(metavar="URL", help="The desk's address now, without /api.")],
    *,
    forget: Annotated[
        bool, typer.Option("--forget", help="It is another desk: forget every ticket, delivery and gap of the old one.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Tie the database to another FreeScout URL: the same desk that moved, or, with --forget, another desk.

    A database belongs to one desk, and a poller with another FREESCOUT_URL does not start: it would take the tickets
    of one for those of the other.
    """
    try:
        address = read_address("URL", url.strip()) or ""
    except AddressError as error:
        raise typer.BadParameter(str(error)) from None
    run_command(lambda workplace: move(workplace, address, forget=forget, yes=yes), as_json=as_json)


class ClocksRead(msgspec.Struct, frozen=True, kw_only=True):
    """What ``desk clock --json`` says: what is held of clocks now, and whether it was set right."""

    reset: bool
    clocks: Clocks


@app.command()
def clock(
    *,
    reset: Annotated[
        bool,
        typer.Option("--reset", help="Forget what was taken for the desk's clock; the next pass measures it anew."),
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Show what is taken for the desk's clock, and which dates the lease holds; put wrong ones right with --reset.

    A date far ahead, which a proxy or a clock that was wrong has left there, makes every delivery old news until it has
    come.
    """
    run_command(lambda workplace: look_at_the_clock(workplace, reset=reset, yes=yes), as_json=as_json)


async def look_at_the_clock(workplace: Workplace, *, reset: bool, yes: bool) -> CommandResult:
    """Show what is held of clocks, after putting it right if that is meant.

    Raises:
        CommandError: It is not meant.
    """
    async with workplace.database() as database:
        if reset:
            workplace.confirm(
                "What is known of the desk's clock is forgotten, and no date of the lease stays ahead of ours.", yes=yes
            )
            await reset_clock(database)
        clocks = await read_clocks(database)
    rows = [
        (name.replace("_", " "), getattr(clocks, name) or "-") for name in Clocks.__struct_fields__ if name != "now"
    ]
    rows[0] = ("desk's clock", f"{span(clocks.offset_s)} {'behind' if clocks.offset_s < 0 else 'ahead of'} ours")
    title = "The desk's clock is measured anew by the next pass" if reset else "What is held of the desk's clock"
    picture = titled(title, facts(("our clock", clocks.now), *rows))
    return CommandResult(ClocksRead(reset=reset, clocks=clocks), picture, Exit.GOOD)


async def move(workplace: Workplace, url: str, *, forget: bool, yes: bool) -> CommandResult:
    """Tie the database to a desk.

    Raises:
        CommandError: It does not look like the same desk, a poller is alive, or it is not meant.
    """
    async with workplace.database() as database:
        standing = await standing_of(database)
        if forget and standing.poller_is_alive(workplace.terms):
            raise CommandError("a poller is alive and would write the old desk's tickets", "stop it first (poller=0)")
        sample = {} if forget else await read_sample(database, _SAMPLE)
        recognised = 0
        if sample:
            async with workplace.desk(url) as there:
                recognised = await _recognise(there.reads, sample)
            if recognised == 0:
                raise CommandError(
                    f"none of {len(sample)} tickets is at {url} as we know it: it is another desk, and its tickets"
                    " would be mistaken for the old one's",
                    "use another database, or --forget",
                )
        await _confirm(workplace, database, standing.desk_url, url, forget=forget, yes=yes)
        await lease.change_desk(database, url, forget=forget)
    document = DeskChange(
        before=standing.desk_url, after=url, forgot=forget, compared=len(sample), recognised=recognised
    )
    next_step = "backfill, or start the poller: until a pass is complete everything reads none" if forget else "none"
    picture = titled(
        "The database belongs to another address now",
        facts(
            ("before", standing.desk_url or "-"),
            ("now", url),
            ("recognised", f"{recognised} of {len(sample)} tickets" if sample else "-"),
            ("next", f"set FREESCOUT_URL={url} for every process; {next_step}".removesuffix("; none")),
        ),
    )
    return CommandResult(document, picture, Exit.GOOD)


async def _confirm(
    workplace: Workplace, database: Database, before: str | None, url: str, *, forget: bool, yes: bool
) -> None:
    if forget:
        living = (await read_holdings(database)).living
        what = f"All {living:,} tickets of {before} are forgotten, with their deliveries and gaps, for {url}."
    else:
        what = f"The tickets of {before} are from now on those of {url}."
    workplace.confirm(what, yes=yes)


async def _recognise(desk: FreeScout, sample: Mapping[int, datetime]) -> int:
    """Count the tickets that a desk has, created when we think they were."""
    recognised = 0
    for ticket_id, created_at in sample.items():
        sighting = await desk.conversation(ticket_id)
        recognised += sighting is not None and sighting.created_at == created_at
    return recognised
