"""``reconcile``: the gap procedure. What the cache may have missed, what FreeScout says now, and what was healed."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from db.lease import vouch_for_nothing
from db.tickets import count_older
from freescout_audit.words import moment
from ops.drawing import facts, titled
from ops.healing import Finding
from ops.output import AsJson
from ops.repair import code_of, draw_findings, open_healer, read_lists, summary
from ops.result import CommandResult
from ops.runner import run_command
from ops.times import Since, SinceOption
from ops.workplace import Workplace


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """What ``reconcile --json`` says.

    ``since`` is when the gap began, None for everything; ``restored`` tells that every ticket read none at the start;
    ``older`` counts the rows that had not changed since then, so
    that a change may have been missed; ``read`` counts the tickets that FreeScout answered for; ``missed`` are those
    that differed.
    """

    since: datetime | None
    restored: bool
    older: int
    read: int
    counts: Mapping[str, int]
    missed: Sequence[Finding]


def reconcile(
    *,
    since: SinceOption = None,
    full: Annotated[bool, typer.Option("--full", help="Compare every ticket, whatever its date.")] = False,
    restored: Annotated[
        bool,
        typer.Option("--restored", help="With --full: the database is a backup; a ticket reads none until compared."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """After an outage: which tickets may have changed unseen, what FreeScout says of them, what was healed."""
    if full == (since is not None):
        raise typer.BadParameter("say --since TIME (when the gap began), or --full; one of them")
    if restored and not full:
        raise typer.BadParameter("--restored goes with --full: a backup may lack anything")
    run_command(lambda workplace: compare(workplace, since, restored=restored), as_json=as_json)


async def compare(workplace: Workplace, since: Since | None, *, restored: bool = False) -> CommandResult:
    """Compare the cache with the desk, and heal it; one that was ``restored`` vouches for nothing before."""
    async with AsyncExitStack() as stack:
        if restored:
            await vouch_for_nothing(await stack.enter_async_context(workplace.database()))
        database, healer = await open_healer(workplace, stack)
        now = await database.now()
        begin = None if since is None else since.at(now)
        older = await count_older(database, begin or now)
        await read_lists(workplace, database, healer, None if begin is None else Since(str(since), begin))
    document = Reconciliation(
        since=begin, restored=restored, older=older, read=healer.rows, counts=healer.counts, missed=healer.findings
    )
    scope = "every ticket" if begin is None else f"the gap since {moment(begin)}"
    missed = sum(count for outcome, count in healer.counts.items() if outcome != "same")
    picture = titled(
        f"Reconciled {scope}",
        facts(
            ("rows older than that", f"{older:,}: what changed in the gap is among them, or new"),
            ("read", summary(healer)),
            ("missed", f"{missed:,}" if missed else "nothing: the cache was right"),
        ),
        draw_findings(healer.findings),
    )
    return CommandResult(document, picture, code_of(healer))
