"""``heal``: asks FreeScout now, and writes what it says, by the rule and the poller's own path."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Annotated

import msgspec
import typer

from ops.drawing import titled
from ops.healing import Finding
from ops.output import AsJson
from ops.repair import code_of, draw_findings, open_healer, read_lists, summary
from ops.result import CommandResult
from ops.runner import run_command
from ops.ticket_ids import parse_ticket_id
from ops.times import Since, SinceOption
from ops.workplace import Workplace


class Healing(msgspec.Struct, frozen=True, kw_only=True):
    """What ``heal --json`` says; ``findings`` are the tickets named on the command line, or what differed."""

    asked: int
    counts: Mapping[str, int]
    findings: Sequence[Finding]


def heal(
    tickets: Annotated[
        list[int] | None, typer.Argument(metavar="ID", parser=parse_ticket_id, help="Tickets, by their ids.")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Read every ticket, and find those that are gone.")] = False,
    since: SinceOption = None,
    as_json: AsJson = False,
) -> None:
    """Ask FreeScout about tickets now, and write what it says into the cache."""
    if (bool(tickets), everything, since is not None).count(True) != 1:
        raise typer.BadParameter("name tickets by their ids, or say --all, or --since TIME; one of them")
    run_command(lambda workplace: mend(workplace, tickets or (), since), as_json=as_json)


async def mend(workplace: Workplace, tickets: Sequence[int], since: Since | None) -> CommandResult:
    """Heal some tickets; without any, what changed since a time, or everything."""
    async with AsyncExitStack() as stack:
        database, healer = await open_healer(workplace, stack)
        if tickets:
            with workplace.progress("asking FreeScout") as tell:
                findings = await healer.ask(tickets, tell)
        else:
            await read_lists(workplace, database, healer, since)
            findings = healer.findings
    document = Healing(asked=healer.rows, counts=healer.counts, findings=findings)
    return CommandResult(document, titled(summary(healer), draw_findings(findings)), code_of(healer))
