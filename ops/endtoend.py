"""``webhook test``: changes a ticket at the desk, measures until the cache shows it, and puts the ticket back."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta

import msgspec
from rich.console import RenderableType

from db import lease
from db.database import Database
from db.journal import read_deliveries
from db.reads import read_from
from freescout_audit.conversation import Sighting, Status
from freescout_audit.endpoints import AUDIT
from freescout_audit.words import span
from ops.drawing import facts, titled
from ops.result import CommandError, CommandResult, Exit
from ops.workplace import Desk, Workplace
from poller.freescout import DeskError

PAGE = "FreeScout's Manage » API & Webhooks"
PROMISE = 5.0
"""Seconds within which the cache follows a delivered change."""
NEXT_SECOND = 1.1
"""Seconds before a ticket is put back: two changes of one second bear the same date, and would be disputed."""
_LOOK_EVERY = 0.05
_DEADLINE = 2.0


class DeliveryTest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``webhook test --json`` says; seconds from the change at the desk, None for what did not happen in time.

    ``cached_after_s``: until the cache showed it; ``delivered_after_s``: until its delivery came; ``put_back``: the
    ticket has its status again; ``back_after_s``: from then until the cache showed that.
    """

    ticket_id: int
    before: str
    changed_to: str
    cached_after_s: float | None
    delivered_after_s: float | None
    event: str | None
    outcome: str | None
    put_back: bool
    back_after_s: float | None


async def run_test(
    workplace: Workplace,
    ticket_id: int,
    wanted: Status | None = None,
    *,
    endpoint: str = AUDIT,
    by_user: int = 1,
    within: float = 60,
    yes: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> CommandResult:
    """Change a ticket, watch it arrive for ``within`` seconds, and put it back whatever happens."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        desk = await stack.enter_async_context(workplace.desk())
        await lease.claim_desk(database, desk.name)
        sighting = await desk.reads.conversation(ticket_id)
        if sighting is None or sighting.status is None or sighting.state != "published":
            raise CommandError(f"ticket {ticket_id} is gone, a draft, or deleted", "choose a published one, by its id")
        status: Status = wanted or ("pending" if sighting.status != "pending" else "active")
        if status == sighting.status:
            raise CommandError(f"ticket {ticket_id} is {status} already", "choose another --status")
        workplace.confirm(
            f"Ticket {ticket_id} becomes {status} for a moment, then {sighting.status} again. Workflows, satisfaction"
            " surveys and whoever follows it may notice: take a ticket made for tests.",
            yes=yes,
        )
        began = await database.now()
        watch = _Watch(database, endpoint, ticket_id, status, began)
        put_back = False
        try:
            await desk.changes.set_status(ticket_id, status, by_user=by_user)
            await watch.look(within, sleep)
            await sleep(NEXT_SECOND)
        finally:
            # Also after Ctrl-C, and after a change that may or may not have been made.
            put_back = await _put_back(workplace, desk, sighting, status, by_user)
        back = _Watch(database, endpoint, ticket_id, sighting.status, await database.now())
        if put_back and watch.delivered_after is not None:
            await back.look_at_the_cache(within, sleep)
    document = DeliveryTest(
        ticket_id=ticket_id,
        before=sighting.status,
        changed_to=status,
        cached_after_s=watch.cached_after,
        delivered_after_s=watch.delivered_after,
        event=watch.event,
        outcome=watch.outcome,
        put_back=put_back,
        back_after_s=back.cached_after,
    )
    good = None not in {watch.delivered_after, watch.cached_after, back.cached_after} and put_back
    return CommandResult(document, _draw_test(document, within), Exit.GOOD if good else Exit.WRONG)


class _Watch:
    """Watches the cache and the journal for one change, by the database's clock."""

    def __init__(self, database: Database, endpoint: str, ticket_id: int, status: Status, began: datetime) -> None:
        self._database = database
        self._endpoint = endpoint
        self._ticket_id = ticket_id
        self._status = status
        self._began = began
        self.cached_after: float | None = None
        self.delivered_after: float | None = None
        self.event: str | None = None
        self.outcome: str | None = None

    async def look(self, within: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Look until both show it, or the time is over."""
        while (self.cached_after is None or self.delivered_after is None) and await self._look_once(within):
            await self._look_at_the_journal()
            await sleep(_LOOK_EVERY)

    async def look_at_the_cache(self, within: float, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Look until the cache shows it, or the time is over."""
        while self.cached_after is None and await self._look_once(within):
            await sleep(_LOOK_EVERY)

    async def _look_once(self, within: float) -> bool:
        """Look at the cache, and return whether there is still time."""
        now = await self._database.now()
        if self.cached_after is None:
            reading = await read_from(self._database, self._ticket_id, deadline=_DEADLINE)
            if reading.ticket_state == self._status:
                self.cached_after = round((now - self._began).total_seconds(), 3)
        return now - self._began <= timedelta(seconds=within)

    async def _look_at_the_journal(self) -> None:
        for entry in await read_deliveries(self._database, ticket_id=self._ticket_id, since=self._began, at_most=20):
            if (entry.endpoint, entry.status) == (self._endpoint, self._status):
                self.delivered_after = round((entry.received_at - self._began).total_seconds(), 3)
                self.event, self.outcome = entry.event, entry.outcome


async def _put_back(workplace: Workplace, desk: Desk, before: Sighting, status: Status, by_user: int) -> bool:
    """Give the ticket its status back, unless somebody else has changed it meanwhile; return whether it has it."""
    assert before.status is not None  # noqa: S101 - it was read before it was changed
    try:
        now = await desk.reads.conversation(before.ticket_id)
        if now is None or now.status == before.status:
            return now is not None
        if now.status != status:
            workplace.warn(f"ticket {before.ticket_id} is {now.status} now: somebody else changed it, it stays so")
            return False
        await desk.changes.set_status(before.ticket_id, before.status, by_user=by_user)
    except DeskError as error:
        workplace.warn(f"ticket {before.ticket_id} may still be {status}: set it to {before.status} by hand ({error})")
        return False
    return True


def _draw_test(test: DeliveryTest, within: float) -> RenderableType:
    def after(seconds: float | None) -> str:
        if seconds is None:
            return f"[red]not within {span(within)}[/red]"
        return (
            f"[green]after {span(seconds)}[/green]" if seconds <= PROMISE else f"[yellow]after {span(seconds)}[/yellow]"
        )

    rows = [
        ("changed", f"{test.before} → {test.changed_to}"),
        ("delivered", after(test.delivered_after_s) + (f": {test.event}, {test.outcome}" if test.event else "")),
        ("in the cache", after(test.cached_after_s)),
        ("put back", f"{test.before} again" if test.put_back else "[red]no: look at the ticket[/red]"),
        ("in the cache", after(test.back_after_s) if test.delivered_after_s is not None else "-"),
    ]
    if test.delivered_after_s is None:
        found = " (a pass found it)" if test.cached_after_s is not None else ""
        look = f"freescout-audit doctor, then the log of {PAGE}, then the key (delivery.unverified in our log)"
        rows.append(("next", f"no delivery came{found}: {look}"))
    return titled(f"Ticket {test.ticket_id}", facts(*rows))
