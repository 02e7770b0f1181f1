"""``backfill``: reads everything now, the first time or once more; it goes on where it was interrupted."""

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
import typer

from db import lease
from db.tickets import disputed_ids
from freescout_audit.words import moment, span
from ops.drawing import titled
from ops.healing import Healer
from ops.output import AsJson
from ops.repair import code_of, draw_findings, summary
from ops.result import CommandError, CommandResult
from ops.runner import run_command
from ops.times import Since, parse_since
from ops.workplace import Workplace, standing_of
from poller.passes import Passes


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """What ``backfill --json`` says.

    ``first``: nothing had been read completely before. ``read``: how many tickets were; of a first load that goes on
    where it was broken off, those that were left. ``complete_through``: the desk's clock when the last complete pass
    began. ``counts`` are the outcomes of a reading that was not the first.
    """

    first: bool
    read: int
    seconds: float
    complete_through: datetime | None
    lease_until: datetime | None
    counts: dict[str, int]


def backfill(
    *,
    begin: Annotated[
        Since | None,
        typer.Option(
            "--from",
            parser=parse_since,
            metavar="TIME",
            help="Leave out tickets created before: where an interrupted reading went.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read every ticket now: the first load without a poller, or everything once more. Resumable."""
    run_command(lambda workplace: load(workplace, begin), as_json=as_json)


async def load(workplace: Workplace, begin: Since | None) -> CommandResult:
    """Make the first load's pass; when there was one, read everything once more, and make a pass."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        desk = await stack.enter_async_context(workplace.desk())
        before = await standing_of(database)
        first = before.lease.complete_through is None
        if first and before.poller_is_alive(workplace.terms):
            raise CommandError(
                f"the poller {before.leader} is making the first load already", "watch it with freescout-audit status"
            )
        await lease.claim_desk(database, desk.name)
        healer = Healer(desk.reads, database, terms=workplace.terms, size=workplace.settings.poller.page_size)
        read = 0
        if not first:
            await _read_again(workplace, healer, None if begin is None else begin.at(before.now))
        with workplace.progress("reading every ticket" if first else "making a pass") as tell:

            def progress(done: int, total: int) -> None:
                nonlocal read
                read = done
                tell(done, total)

            passes = Passes(
                desk.reads,
                database,
                terms=workplace.terms,
                overlap=timedelta(seconds=workplace.settings.poller.overlap),
                page_size=workplace.settings.poller.page_size,
                progress=progress,
            )
            await passes.run()
        await healer.ask(await disputed_ids(database))
        after = await standing_of(database)
    document = Backfill(
        first=first,
        read=read if first else healer.rows,
        seconds=round((after.now - before.now).total_seconds(), 1),
        complete_through=after.lease.complete_through,
        lease_until=after.lease.lease_until,
        counts=healer.counts,
    )
    picture = titled(
        f"{document.read:,} tickets read in {span(document.seconds)}",
        f"The lease vouches for everything until {moment(after.lease.lease_until)}; then a poller has to go on.",
        "" if first else summary(healer),
        draw_findings(healer.findings),
    )
    return CommandResult(document, picture, code_of(healer))


async def _read_again(workplace: Workplace, healer: Healer, begin: datetime | None) -> None:
    """Read the list from a date of creation on; an interruption says how to go on."""
    reached = begin

    def note(cursor: datetime) -> None:
        nonlocal reached
        reached = cursor

    try:
        with workplace.progress("reading every ticket") as tell:
            await healer.read(begin, by="createdAt", tell=tell, pause=asyncio.sleep, reached=note)
    except BaseException:
        if reached is not None:
            workplace.remark(f"to go on: freescout-audit backfill --from {reached.strftime('%Y-%m-%dT%H:%M:%SZ')}")
        raise
