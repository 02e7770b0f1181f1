"""A made-up desk for readers without a FreeScout: its tickets change, and we tell when the cache knew."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from rich.console import Console

from db.database import Database
from db.reads import read_from
from db.tickets import KnownTicket, read_known
from simulator import Change, Conversation, Desk, HttpTransport, Status, SystemClock, Worker, run_life

DEMO_APP_KEY = "base64:ZnJlZXNjb3V0LWF1ZGl0LXJlaGVhcnNhbC1rZXktMDE="
"""The APP_KEY of the made-up desk. Both of its keys follow from it; it guards nothing."""

FIRST_TICKETS = 20
EVERY = 3.0
"""Mean seconds between two changes."""
LOSE_CHANCE = 0.15
"""The share of changes whose deliveries are lost, to show what becomes of them."""
_LOOK_EVERY = 0.05
_DEADLINE = 2.0


def demo_key() -> str:
    """Return the made-up desk's webhook key."""
    return Desk(clock=SystemClock(), app_key=DEMO_APP_KEY).webhook_key


async def make_desk(database: Database) -> Desk:
    """Return a desk with a few tickets, or with those that the cache remembers from an earlier run."""
    desk = Desk(clock=SystemClock(), seed=time.time_ns(), app_key=DEMO_APP_KEY)
    if remembered := await read_known(database):
        _restore(desk, remembered)
    else:
        desk.populate(FIRST_TICKETS, days=30)
    return desk


def _restore(desk: Desk, remembered: Sequence[KnownTicket]) -> None:
    """Give the desk the tickets it had when it was last seen."""
    rows = {row.ticket_id: row for row in remembered if row.mailbox_id in desk.mailboxes}
    for conversation in [desk.get(ticket_id) for ticket_id in desk.populate(max(rows, default=0))]:
        desk.remove(conversation)
        row = rows.get(conversation.id)
        if row is not None:
            conversation.status_code = Status[row.status.upper()]
            conversation.state = row.state
            conversation.mailbox_id = row.mailbox_id or conversation.mailbox_id
            conversation.created = int(row.created_at.timestamp())
            conversation.updated = int(row.updated_at.timestamp())
            desk.add(conversation)


def at_rest(desk: Desk) -> tuple[int, str]:
    """Return the ticket that has been at rest the longest, and a status that it does not have."""
    published = [row for row in desk.truth() if row.state == "published"]
    ticket = min(published, key=lambda row: (row.updated, row.id))
    return ticket.id, "closed" if ticket.status != "closed" else "active"


@asynccontextmanager
async def live(desk: Desk, story: "Story") -> AsyncIterator[None]:
    """Run the desk: it changes by itself and sends its deliveries."""
    worker = Worker(desk)
    async with HttpTransport() as transport:
        tasks = [
            asyncio.create_task(worker.run_forever(transport)),
            asyncio.create_task(run_life(desk, every=EVERY, lose_chance=LOSE_CHANCE, report=story.changed)),
            asyncio.create_task(story.watch()),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A change that the cache does not show yet."""

    change: Change
    since: float


class Story:
    """Tells what changed at the desk and when the cache knew, a line each."""

    def __init__(self, desk: Desk, database: Database, console: Console) -> None:
        self._desk = desk
        self._database = database
        self._console = console
        self._waiting: dict[int, _Waiting] = {}

    def changed(self, change: Change) -> None:
        """Tell of a change at the desk."""
        ticket = f"ticket {change.conversation_id}"
        if change.before == change.after:
            self._say(f"[dim]{ticket}: {change.operation}, still {change.after}[/dim]")
            return
        before = f"{change.before} → " if change.before else "new, "
        how = ""
        if change.lost:
            how = "  [red]its delivery is lost on purpose: the cache is wrong[/red]"
        elif not change.deliveries:
            how = "  [yellow]FreeScout sends nothing for this: the cache is wrong[/yellow]"
        self._say(f"{ticket}: {before}[bold]{change.after}[/bold]  ({change.operation}){how}")
        before_us = self._waiting.get(change.conversation_id)
        since = time.monotonic() if before_us is None else before_us.since
        self._waiting[change.conversation_id] = _Waiting(change, since)

    async def watch(self) -> None:
        """Look at the cache until it shows what changed, for ever."""
        while True:
            for ticket_id, waiting in list(self._waiting.items()):
                reading = await read_from(self._database, ticket_id, deadline=_DEADLINE)
                if reading.reason != "unavailable" and reading.ticket_state == self._truth(ticket_id):
                    del self._waiting[ticket_id]
                    self._knows(waiting, reading.ticket_state)
            await asyncio.sleep(_LOOK_EVERY)

    def _knows(self, waiting: _Waiting, ticket_state: str) -> None:
        seconds = time.monotonic() - waiting.since
        change = waiting.change
        healed = change.lost or not change.deliveries
        line = f"ticket {change.conversation_id}: the cache says [bold]{ticket_state}[/bold] after {seconds:.1f} s"
        self._say(f"    [cyan]{line}: healed by the poller[/cyan]" if healed else f"    [green]{line}[/green]")

    def _truth(self, ticket_id: int) -> str:
        """Return what the cache should answer for a ticket."""
        conversation: Conversation | None = self._desk.conversations.get(ticket_id)
        return conversation.status if conversation is not None and conversation.state == "published" else "none"

    def _say(self, line: str) -> None:
        self._console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim]  {line}", highlight=False)
