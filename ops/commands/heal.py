"""``heal``: asks FreeScout now, and writes what it says, by the rule and the poller's own path."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.text import Text

from db import lease
from db.database import Database
from freescout_audit.conversation import MAX_ID
from ops.answer import Answer, AsJson, CommandError, Exit, Workplace, answer, columns, moment, titled
from ops.mending import Finding, Mender
from ops.times import Since, SinceOption

_STYLES = {
    "same": "green",
    "healed": "cyan",
    "added": "cyan",
    "gone": "cyan",
    "contested": "yellow",
    "unanswered": "red",
}
_SHOWN = 50

app = typer.Typer()


class Healing(msgspec.Struct, frozen=True, kw_only=True):
    """What ``heal --json`` says; ``findings`` are the tickets named on the command line, or what differed."""

    asked: int
    counts: Mapping[str, int]
    findings: Sequence[Finding]


@app.command(rich_help_panel="Repair")
def heal(
    tickets: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", help="Tickets, by their ids.", min=1, max=MAX_ID)
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Read every ticket, and find those that are gone.")] = False,
    since: SinceOption = None,
    as_json: AsJson = False,
) -> None:
    """Ask FreeScout about tickets now, and write what it says into the cache."""
    if (bool(tickets), everything, since is not None).count(True) != 1:
        raise typer.BadParameter("name tickets by their ids, or say --all, or --since TIME; one of them")
    answer(lambda workplace: mend(workplace, tickets or (), since), as_json=as_json)


async def mend(workplace: Workplace, tickets: Sequence[int], since: Since | None) -> Answer:
    """Heal some tickets; without any, what changed since a time, or everything."""
    async with AsyncExitStack() as stack:
        database, mender = await open_mender(workplace, stack)
        if tickets:
            with workplace.progress("asking FreeScout") as tell:
                findings = await mender.ask(tickets, tell)
        else:
            await read_lists(workplace, database, mender, since)
            findings = mender.findings
    document = Healing(asked=mender.rows, counts=mender.counts, findings=findings)
    return Answer(document, titled(summary(mender), draw_findings(findings)), code_of(mender))


async def open_mender(workplace: Workplace, stack: AsyncExitStack) -> tuple[Database, Mender]:
    """Open the cache and the desk it belongs to.

    Raises:
        OtherDeskError: It belongs to another.
    """
    database = await stack.enter_async_context(workplace.database())
    desk = await stack.enter_async_context(workplace.desk())
    await lease.claim_desk(database, desk.url)
    size = workplace.settings.poller.page_size
    return database, Mender(desk.reads, database, terms=workplace.terms, size=size)


async def read_lists(workplace: Workplace, database: Database, mender: Mender, since: Since | None) -> None:
    """Read what changed since a time, or everything, and find what is gone."""
    if since is None:
        with workplace.progress("reading every ticket") as tell:
            await mender.read(None, by="createdAt", tell=tell, pause=asyncio.sleep)
    else:
        # The overlap, as in a pass: in the hour that daylight saving repeats, dates go backwards.
        begin = since.at(await lease.now(database)) - timedelta(seconds=workplace.settings.poller.overlap)
        with workplace.progress("reading what changed") as tell:
            await mender.read(begin, by="updatedAt", tell=tell)
    workplace.remark("comparing counts, to find what is gone …")
    await mender.find_deleted()


def code_of(mender: Mender) -> Exit:
    """Say whether all is settled."""
    counts = mender.counts
    if counts.get("unanswered") and mender.rows == 0:
        raise CommandError(f"nothing was healed: {mender.findings[0].detail}", Exit.UNAVAILABLE)
    return Exit.WRONG if counts.get("unanswered") or counts.get("contested") else Exit.GOOD


def summary(mender: Mender) -> str:
    """Say in a line what was found."""
    parts = [f"{count:,} {outcome}" for outcome, count in mender.counts.items()]
    return f"{mender.rows:,} answers of FreeScout: {', '.join(parts) or 'nothing to compare'}"


def draw_findings(findings: Sequence[Finding]) -> RenderableType:
    """Draw what was found, a ticket a line."""
    if not findings:
        return ""
    table = columns(
        "ticket", "cached", "dated", "FreeScout says", "dated", "outcome", right={"ticket"}, fold={"outcome"}
    )
    for finding in findings[:_SHOWN]:
        table.add_row(
            str(finding.ticket_id),
            content(finding.cached_status, finding.cached_state),
            "" if finding.cached_updated_at is None else moment(finding.cached_updated_at, year=False),
            content(finding.true_status, finding.true_state),
            "" if finding.true_updated_at is None else moment(finding.true_updated_at, year=False),
            Text(f"{finding.outcome}{': ' * bool(finding.detail)}{finding.detail}", _STYLES[finding.outcome]),
        )
    if len(findings) <= _SHOWN:
        return table
    return Group(table, f"[dim]… and {len(findings) - _SHOWN:,} more; --json names them[/dim]")


def content(status: str | None, state: str | None) -> str:
    """Return a status as people read it: the state only where it is not the ordinary one."""
    if state == "gone":
        return "gone"
    if status is None and state is None:
        return "-"
    return (status or "?") if state == "published" else f"{status or '?'} ({state or '?'})"
