"""``webhook``: registers the audit URL at the desk, removes it, and measures a delivery from end to end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Annotated

import msgspec
import typer
from rich.console import RenderableType

from db import console, lease
from db.database import Database
from db.reads import read_from
from freescout_audit.conversation import MAX_ID, Sighting, Status
from freescout_audit.delivery import CONVERSATION_EVENTS
from ops.address import parse_address
from ops.answer import Answer, AsJson, CommandError, Desk, Exit, Workplace, Yes, answer, facts, moment, span, titled
from poller.freescout import DeskError, DeskRefusedError

PROMISE = 5.0
"""Seconds within which the cache follows a delivered change."""
NEXT_SECOND = 1.1
"""Seconds before a ticket is put back: two changes of one second bear the same date, and would be disputed."""
_LOOK_EVERY = 0.05
_DEADLINE = 2.0

PAGE = "FreeScout's Manage » API & Webhooks"

app = typer.Typer(no_args_is_help=True)


@app.callback()
def webhook() -> None:
    """Register, remove and test the webhook at the desk."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What ``webhook register --json`` says; ``already``: it was registered before, and nothing was done."""

    webhook_id: int
    url: str
    events: Sequence[str]
    already: bool
    replaced: int | None


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """What ``webhook remove --json`` says; ``existed``: FreeScout had it; None when it was not asked."""

    webhook_id: int | None
    existed: bool | None


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


UrlArgument = Annotated[
    str, typer.Argument(metavar="URL", parser=parse_address, help="The app's public address: https://app.example.org")
]


@app.command()
def register(
    url: UrlArgument,
    *,
    known_id: Annotated[
        int | None,
        typer.Option("--id", help="It is registered already, by hand: only note its id.", min=1, show_default=False),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Remove the one registered with another URL.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Although deliveries come by one that is not noted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register the audit URL for all conversation events, once: a second one would double every delivery."""
    answer(lambda workplace: _register(workplace, url, known_id, replace=replace, force=force), as_json=as_json)


@app.command()
def remove(
    *,
    webhook_id: Annotated[
        int | None, typer.Option("--id", help="Another than the one we know.", min=1, show_default=False)
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Only forget ours; FreeScout is not told.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove the webhook at the desk: no delivery comes any more."""
    answer(lambda workplace: _remove(workplace, webhook_id, forget=forget, yes=yes), as_json=as_json)


@app.command("test")
def measure(
    ticket: Annotated[
        int, typer.Argument(metavar="TICKET", help="The id of a ticket made for tests.", min=1, max=MAX_ID)
    ],
    *,
    status: Annotated[
        str | None, typer.Option(help="What to change it to: pending, unless it is that.", show_default=False)
    ] = None,
    by_user: Annotated[int, typer.Option(help="The id of the agent in whose name it is changed.", min=1)] = 1,
    within: Annotated[float, typer.Option(help="Seconds to wait for the delivery.", min=1, max=600)] = 60,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Change a test ticket's status at the desk, measure until the cache shows it, and put it back."""
    if status not in {None, "active", "pending", "closed", "spam"}:
        raise typer.BadParameter(f"{status!r} is no status: active, pending, closed or spam")
    wanted: Status | None = msgspec.convert(status, Status | None)
    answer(
        lambda workplace: run_test(workplace, ticket, wanted, by_user=by_user, within=within, yes=yes), as_json=as_json
    )


async def _register(workplace: Workplace, url: str, known_id: int | None, *, replace: bool, force: bool) -> Answer:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        known = await console.read_webhook(database)
        if known_id is not None:
            await console.save_webhook(database, known_id, url, CONVERSATION_EVENTS)
            return _registered(known_id, url, already=True)
        desk = await stack.enter_async_context(workplace.desk())
        await lease.claim_desk(database, desk.url)
        # An API that does not answer now must leave nothing in doubt.
        await desk.reads.count(retries=0)
        if known is not None and known.webhook_id is None:
            raise _unfinished(known)
        if known is not None and known.url == url:
            return _registered(known.webhook_id or 0, url, already=True)
        if known is not None and not replace:
            raise CommandError(
                f"webhook {known.webhook_id} is registered for {known.url}: add --replace, and it is removed once the"
                " new one is there"
            )
        stranger = None if known is not None or force else await console.find_stranger(database)
        if stranger is not None:
            raise CommandError(
                f"a delivery came at {moment(stranger)}, so one is registered already: find its id at {PAGE} and note"
                " it with --id ID. A second one would double every delivery; --force if that one is gone"
            )
        if known is None and not await console.begin_webhook(database, url, CONVERSATION_EVENTS):
            raise CommandError("another registration is under way: look again with freescout-audit doctor")
        webhook_id = await _tell_the_desk(database, desk, url, old=None if known is None else known.webhook_id)
        await console.save_webhook(database, webhook_id, url, CONVERSATION_EVENTS)
        replaced = None if known is None else known.webhook_id
        if replaced is not None:
            await _remove_the_old(desk, replaced)
    return _registered(webhook_id, url, already=False, replaced=replaced)


async def _tell_the_desk(database: Database, desk: Desk, url: str, *, old: int | None) -> int:
    """Register the webhook at the desk, and leave a note only where nobody knows whether that went well."""
    try:
        return await desk.changes.register_webhook(url, CONVERSATION_EVENTS)
    except DeskRefusedError:
        if old is None:
            await console.forget_webhook(database)
        raise
    except DeskError as error:
        raise CommandError(
            f"{error}; nobody knows whether it is registered: look at {PAGE}. "
            + (
                "If it is there: webhook register URL --id ID. If not: webhook remove --forget, and register again"
                if old is None
                else f"If it is there: webhook register URL --id ID, then webhook remove --id {old}. If not, nothing"
                f" has changed, webhook {old} is the noted one: try --replace again"
            ),
            Exit.UNAVAILABLE,
        ) from error


async def _remove_the_old(desk: Desk, webhook_id: int) -> None:
    """Remove the webhook that another has replaced; its id is noted nowhere but in the message when that fails."""
    try:
        await desk.changes.remove_webhook(webhook_id)
    except DeskError as error:
        raise CommandError(
            f"the new webhook is registered, but the old one is still there and every delivery comes twice ({error}):"
            f" freescout-audit webhook remove --id {webhook_id}"
        ) from error


def _unfinished(known: console.Webhook) -> CommandError:
    return CommandError(
        f"a registration of {known.url} began at {moment(known.began_at)} and did not end, and FreeScout's API cannot"
        f" list webhooks: look at {PAGE}. If it is there: webhook register URL --id ID. If not: webhook remove"
        " --forget, and register again"
    )


def _registered(webhook_id: int, url: str, *, already: bool, replaced: int | None = None) -> Answer:
    document = Registration(
        webhook_id=webhook_id, url=url, events=CONVERSATION_EVENTS, already=already, replaced=replaced
    )
    remark = (
        "It was noted before; nothing was changed at the desk. FreeScout's API cannot list webhooks: if no delivery"
        f" comes, look at {PAGE}."
        if already
        else "Agents' replies are delivered once FreeScout's worker has restarted, within the hour; all else at once."
    )
    rows = [("id", str(webhook_id)), ("url", url), ("events", f"all {len(CONVERSATION_EVENTS)} of conversations")]
    if replaced is not None:
        rows.append(("replaced", f"webhook {replaced} is removed"))
    return Answer(document, titled("The webhook is registered", facts(*rows), "", remark))


async def _remove(workplace: Workplace, webhook_id: int | None, *, forget: bool, yes: bool) -> Answer:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        known = await console.read_webhook(database)
        ours = None if known is None else known.webhook_id
        if forget:
            if ours is not None:
                workplace.confirm(f"Nobody here will know of webhook {ours}; at the desk nothing changes.", yes=yes)
            await console.forget_webhook(database)
            return Answer(Removal(webhook_id=ours, existed=None), "Forgotten here; FreeScout was not told.")
        removed = webhook_id or ours
        if removed is None:
            raise CommandError(
                f"no webhook is noted here: find its id at {PAGE} and say --id ID"
                if known is None
                else str(_unfinished(known))
            )
        desk = await stack.enter_async_context(workplace.desk())
        await lease.claim_desk(database, desk.url)
        workplace.confirm(
            "No delivery will come any more."
            if removed == ours
            else f"Webhook {removed} is not the one that is noted here"
            + (f", {ours}" if ours is not None else "")
            + "; whoever it delivers to will get nothing any more.",
            yes=yes,
        )
        existed = await desk.changes.remove_webhook(removed)
        if removed == ours:
            await console.note_removal(database)
    said = f"Webhook {removed} is removed." if existed else f"FreeScout had no webhook {removed}."
    return Answer(Removal(webhook_id=removed, existed=existed), said)


async def run_test(
    workplace: Workplace,
    ticket_id: int,
    wanted: Status | None = None,
    *,
    by_user: int = 1,
    within: float = 60,
    yes: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Answer:
    """Change a ticket, watch it arrive for ``within`` seconds, and put it back whatever happens."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        desk = await stack.enter_async_context(workplace.desk())
        await lease.claim_desk(database, desk.url)
        sighting = await desk.reads.conversation(ticket_id)
        if sighting is None or sighting.status is None or sighting.state != "published":
            raise CommandError(f"ticket {ticket_id} is gone, a draft, or deleted: choose a published one, by its id")
        status: Status = wanted or ("pending" if sighting.status != "pending" else "active")
        if status == sighting.status:
            raise CommandError(f"ticket {ticket_id} is {status} already: choose another --status")
        workplace.confirm(
            f"Ticket {ticket_id} becomes {status} for a moment, then {sighting.status} again. Workflows, satisfaction"
            " surveys and whoever follows it may notice: take a ticket made for tests.",
            yes=yes,
        )
        began = await lease.now(database)
        watch = _Watch(database, ticket_id, status, began)
        put_back = False
        try:
            await desk.changes.set_status(ticket_id, status, by_user=by_user)
            await watch.look(within, sleep)
            await sleep(NEXT_SECOND)
        finally:
            # Also after Ctrl-C, and after a change of which nobody knows whether it was made.
            put_back = await _put_back(workplace, desk, sighting, status, by_user)
        back = _Watch(database, ticket_id, sighting.status, await lease.now(database))
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
    return Answer(document, _draw_test(document, within), Exit.GOOD if good else Exit.WRONG)


class _Watch:
    """Watches the cache and the journal for one change, by the database's clock."""

    def __init__(self, database: Database, ticket_id: int, status: Status, began: datetime) -> None:
        self._database = database
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
        now = await lease.now(self._database)
        if self.cached_after is None:
            reading = await read_from(self._database, self._ticket_id, deadline=_DEADLINE)
            if reading.ticket_state == self._status:
                self.cached_after = round((now - self._began).total_seconds(), 3)
        return now - self._began <= timedelta(seconds=within)

    async def _look_at_the_journal(self) -> None:
        for entry in await console.read_deliveries(
            self._database, ticket_id=self._ticket_id, since=self._began, at_most=20
        ):
            if entry.status == self._status:
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
