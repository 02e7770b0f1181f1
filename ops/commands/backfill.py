"""``backfill``: reads everything now, the first time or once more; it goes on where it was interrupted."""

import asyncio
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
import typer

from db import console, lease
from db.database import Database
from freescout_audit.errors import DatabaseUnavailableError
from ops.answer import Answer, AsJson, CommandError, Workplace, answer, moment, span, titled
from ops.commands.heal import code_of, draw_findings, summary
from ops.commands.status import is_alive
from ops.mending import Mender
from ops.times import Since, parse_since
from poller.passes import Passes

app = typer.Typer()


class Backfill(msgspec.Struct, frozen=True, kw_only=True):
    """What ``backfill --json`` says; ``first``: nothing had been read completely before. ``complete_through``: the
    desk's clock at which the last complete pass began. ``counts`` are the outcomes of a reading that was not the first.
    """  # noqa: D205 - one sentence a field

    first: bool
    read: int
    seconds: float
    complete_through: datetime | None
    lease_until: datetime | None
    counts: dict[str, int]


@app.command(rich_help_panel="Repair")
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
    answer(lambda workplace: load(workplace, begin), as_json=as_json)


async def load(workplace: Workplace, begin: Since | None) -> Answer:
    """Make the first load's pass; when there was one, read everything once more, and make a pass."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        desk = await stack.enter_async_context(workplace.desk())
        before = await _standing(database)
        first = before.complete_through is None
        if first and is_alive(before, workplace.terms):
            raise CommandError(
                f"the poller {before.leader} is making the first load already: watch it with freescout-audit status"
            )
        await lease.claim_desk(database, desk.url)
        mender = Mender(desk.reads, database, terms=workplace.terms, size=workplace.settings.poller.page_size)
        read = 0
        if not first:
            await _read_again(workplace, mender, None if begin is None else begin.at(before.now))
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
        await mender.ask(await console.disputed_ids(database))
        after = await _standing(database)
    document = Backfill(
        first=first,
        read=read + mender.rows,
        seconds=round((after.now - before.now).total_seconds(), 1),
        complete_through=after.complete_through,
        lease_until=after.lease_until,
        counts=mender.counts,
    )
    picture = titled(
        f"{document.read:,} tickets read in {span(document.seconds)}",
        f"The lease vouches for everything until {moment(after.lease_until)}; then a poller has to go on.",
        "" if first else summary(mender),
        draw_findings(mender.findings),
    )
    return Answer(document, picture, code_of(mender))


async def _read_again(workplace: Workplace, mender: Mender, begin: datetime | None) -> None:
    """Read the list from a date of creation on; whoever interrupts it is told how to go on."""
    reached = begin

    def note(cursor: datetime) -> None:
        nonlocal reached
        reached = cursor

    try:
        with workplace.progress("reading every ticket") as tell:
            await mender.read(begin, by="createdAt", tell=tell, pause=asyncio.sleep, reached=note)
    except BaseException:
        if reached is not None:
            workplace.remark(f"to go on: freescout-audit backfill --from {reached.strftime('%Y-%m-%dT%H:%M:%SZ')}")
        raise


async def _standing(database: Database) -> console.Standing:
    standing = await console.read_standing(database)
    if standing is None:
        raise DatabaseUnavailableError("the schema is incomplete: restore the database, or migrate another")
    return standing
