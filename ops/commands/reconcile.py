"""``reconcile``: the gap procedure. What the cache may have missed, what FreeScout says now, and what was healed."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Annotated

import msgspec
import typer

from db import console, lease
from ops.answer import Answer, AsJson, Workplace, answer, facts, moment, titled
from ops.commands.heal import code_of, draw_findings, open_mender, read_lists, summary
from ops.mending import Finding
from ops.times import Since, SinceOption

app = typer.Typer()


class Reconciliation(msgspec.Struct, frozen=True, kw_only=True):
    """What ``reconcile --json`` says.

    ``since`` is when the gap began, None for everything; ``older`` counts the rows that had not changed since then, so
    that a change may have been missed; ``read`` counts FreeScout's answers; ``missed`` are the tickets that differed.
    """

    since: datetime | None
    older: int
    read: int
    counts: Mapping[str, int]
    missed: Sequence[Finding]


@app.command(rich_help_panel="Repair")
def reconcile(
    *,
    since: SinceOption = None,
    full: Annotated[bool, typer.Option("--full", help="Compare every ticket, whatever its date.")] = False,
    as_json: AsJson = False,
) -> None:
    """After an outage: which tickets may have changed unseen, what FreeScout says of them, what was healed."""
    if full == (since is not None):
        raise typer.BadParameter("say --since TIME (when the gap began), or --full; one of them")
    answer(lambda workplace: compare(workplace, since), as_json=as_json)


async def compare(workplace: Workplace, since: Since | None) -> Answer:
    """Compare the cache with the desk, and heal it."""
    async with AsyncExitStack() as stack:
        database, mender = await open_mender(workplace, stack)
        now = await lease.now(database)
        begin = None if since is None else since.at(now)
        older = await console.count_older(database, begin or now)
        await read_lists(workplace, database, mender, None if begin is None else Since(str(since), begin))
    document = Reconciliation(since=begin, older=older, read=mender.rows, counts=mender.counts, missed=mender.findings)
    scope = "every ticket" if begin is None else f"the gap since {moment(begin)} UTC"
    missed = sum(count for outcome, count in mender.counts.items() if outcome != "same")
    picture = titled(
        f"Reconciled {scope}",
        facts(
            ("rows older than that", f"{older:,}: what changed in the gap is among them, or new"),
            ("read", summary(mender)),
            ("missed", f"{missed:,}" if missed else "nothing: the cache was right"),
        ),
        draw_findings(mender.findings),
    )
    return Answer(document, picture, code_of(mender))
