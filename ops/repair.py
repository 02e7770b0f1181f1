"""What the commands that repair have in common: a healer for the desk of this database, and how its findings look."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

from rich.console import Group, RenderableType
from rich.text import Text

from db import lease
from db.database import Database
from freescout_audit.words import cell, content
from ops.drawing import columns
from ops.healing import Finding, Healer
from ops.result import CommandError, Exit
from ops.times import Since
from ops.workplace import Workplace

_STYLES = {
    "same": "green",
    "healed": "cyan",
    "added": "cyan",
    "gone": "cyan",
    "contested": "yellow",
    "unanswered": "red",
}
_SHOWN = 50


async def open_healer(workplace: Workplace, stack: AsyncExitStack) -> tuple[Database, Healer]:
    """Open the cache and the desk it belongs to.

    Raises:
        OtherDeskError: It belongs to another.
    """
    database = await stack.enter_async_context(workplace.database())
    desk = await stack.enter_async_context(workplace.desk())
    await lease.claim_desk(database, desk.name)
    size = workplace.settings.poller.page_size
    return database, Healer(desk.reads, database, terms=workplace.terms, size=size)


async def read_lists(workplace: Workplace, database: Database, healer: Healer, since: Since | None) -> None:
    """Read what changed since a time, or everything, and find what is gone."""
    if since is None:
        with workplace.progress("reading every ticket") as tell:
            await healer.read(None, by="createdAt", tell=tell, pause=asyncio.sleep)
    else:
        # The overlap, as in a pass: in the hour that daylight saving repeats, dates go backwards.
        begin = since.at(await database.now()) - timedelta(seconds=workplace.settings.poller.overlap)
        with workplace.progress("reading what changed") as tell:
            await healer.read(begin, by="updatedAt", tell=tell)
    workplace.remark("comparing counts, to find what is gone …")
    await healer.find_deleted()


def code_of(healer: Healer) -> Exit:
    """Say whether all is settled."""
    counts = healer.counts
    if healer.failure is not None and healer.rows == 0:
        failure = healer.failure
        raise CommandError(f"nothing was healed: {failure.problem}", failure.next_step, Exit.UNAVAILABLE)
    return Exit.WRONG if counts.get("unanswered") or counts.get("contested") else Exit.GOOD


def summary(healer: Healer) -> str:
    """Say in a line what was found."""
    parts = [f"{count:,} {outcome}" for outcome, count in healer.counts.items()]
    return f"{healer.rows:,} tickets read: {', '.join(parts) or 'nothing to compare'}"


def draw_findings(findings: Sequence[Finding]) -> RenderableType:
    """Draw what was found, a ticket a line."""
    if not findings:
        return ""
    table = columns(
        "ticket",
        "cached",
        "dated (UTC)",
        "FreeScout says",
        "dated (UTC)",
        "outcome",
        right={"ticket"},
        fold={"outcome"},
    )
    for finding in findings[:_SHOWN]:
        table.add_row(
            str(finding.ticket_id),
            content(finding.cached_status, finding.cached_state),
            cell(finding.cached_updated_at),
            content(finding.true_status, finding.true_state),
            cell(finding.true_updated_at),
            Text(f"{finding.outcome}{': ' * bool(finding.detail)}{finding.detail}", _STYLES[finding.outcome]),
        )
    if len(findings) <= _SHOWN:
        return table
    return Group(table, f"[dim]… and {len(findings) - _SHOWN:,} more; --json names them[/dim]")
