"""``webhook``: registers the audit URL at the desk, removes it, and measures a delivery from end to end."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Annotated

import msgspec
import typer

from db import lease
from db.database import Database
from db.webhook import Webhook, begin_webhook, find_stranger, forget_webhook, note_removal, read_webhook, save_webhook
from freescout_audit.conversation import Status
from freescout_audit.delivery import CONVERSATION_EVENTS
from freescout_audit.words import moment
from ops.address import parse_address
from ops.drawing import facts, titled
from ops.endtoend import PAGE, run_test
from ops.output import AsJson, Yes
from ops.result import CommandError, CommandResult, Exit
from ops.runner import run_command
from ops.ticket_ids import parse_ticket_id
from ops.workplace import Desk, Workplace
from poller.freescout import DeskError, DeskRefusedError

_LOOK_THERE = (
    f"look at {PAGE}. If it is there: webhook register URL --id ID. If not: webhook remove --forget, and register again"
)

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
    run_command(lambda workplace: _register(workplace, url, known_id, replace=replace, force=force), as_json=as_json)


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
    run_command(lambda workplace: _remove(workplace, webhook_id, forget=forget, yes=yes), as_json=as_json)


@app.command("test")
def measure(
    ticket: Annotated[
        int, typer.Argument(metavar="TICKET", parser=parse_ticket_id, help="The id of a ticket made for tests.")
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
    run_command(
        lambda workplace: run_test(workplace, ticket, wanted, by_user=by_user, within=within, yes=yes), as_json=as_json
    )


async def _register(
    workplace: Workplace, url: str, known_id: int | None, *, replace: bool, force: bool
) -> CommandResult:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        known = await read_webhook(database)
        if known_id is not None:
            await save_webhook(database, known_id, url, CONVERSATION_EVENTS)
            return _registered(known_id, url, already=True)
        desk = await stack.enter_async_context(workplace.desk())
        await lease.claim_desk(database, desk.name)
        # An API that does not answer now must leave nothing in doubt.
        await desk.reads.count(retries=0)
        if known is not None and known.webhook_id is None:
            raise _unfinished(known)
        if known is not None and known.url == url:
            return _registered(known.webhook_id or 0, url, already=True)
        if known is not None and not replace:
            raise CommandError(
                f"webhook {known.webhook_id} is registered for {known.url}",
                "add --replace, and it is removed once the new one is there",
            )
        stranger = None if known is not None or force else await find_stranger(database)
        if stranger is not None:
            raise CommandError(
                f"a delivery came at {moment(stranger)}, so one is registered already; a second one would double every"
                " delivery",
                f"find its id at {PAGE} and note it with --id ID; --force if that one is gone",
            )
        if known is None and not await begin_webhook(database, url, CONVERSATION_EVENTS):
            raise CommandError("another registration is under way", "look again with freescout-audit doctor")
        webhook_id = await _tell_the_desk(database, desk, url, old=None if known is None else known.webhook_id)
        await save_webhook(database, webhook_id, url, CONVERSATION_EVENTS)
        replaced = None if known is None else known.webhook_id
        if replaced is not None:
            await _remove_the_old(desk, replaced)
    return _registered(webhook_id, url, already=False, replaced=replaced)


async def _tell_the_desk(database: Database, desk: Desk, url: str, *, old: int | None) -> int:
    """Register the webhook at the desk, and leave a note only where it is not known whether that went well."""
    try:
        return await desk.changes.register_webhook(url, CONVERSATION_EVENTS)
    except DeskRefusedError:
        if old is None:
            await forget_webhook(database)
        raise
    except DeskError as error:
        raise CommandError(
            f"{error.problem}; nobody knows whether it is registered",
            _LOOK_THERE
            if old is None
            else f"look at {PAGE}. If it is there: webhook register URL --id ID, then webhook remove --id {old}. If"
            f" not, nothing has changed, webhook {old} is the noted one: try --replace again",
            Exit.UNAVAILABLE,
        ) from error


async def _remove_the_old(desk: Desk, webhook_id: int) -> None:
    """Remove the webhook that another has replaced; its id is noted nowhere but in the message when that fails."""
    try:
        await desk.changes.remove_webhook(webhook_id)
    except DeskError as error:
        raise CommandError(
            "the new webhook is registered, but the old one is still there and every delivery comes twice"
            f" ({error.problem})",
            f"freescout-audit webhook remove --id {webhook_id}",
        ) from error


def _unfinished(known: Webhook) -> CommandError:
    return CommandError(
        f"a registration of {known.url} began at {moment(known.began_at)} and did not end, and FreeScout's API cannot"
        " list webhooks",
        _LOOK_THERE,
    )


def _registered(webhook_id: int, url: str, *, already: bool, replaced: int | None = None) -> CommandResult:
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
    return CommandResult(document, titled("The webhook is registered", facts(*rows), "", remark))


async def _remove(workplace: Workplace, webhook_id: int | None, *, forget: bool, yes: bool) -> CommandResult:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        known = await read_webhook(database)
        ours = None if known is None else known.webhook_id
        if forget:
            if ours is not None:
                workplace.confirm(f"Nobody here will know of webhook {ours}; at the desk nothing changes.", yes=yes)
            await forget_webhook(database)
            return CommandResult(Removal(webhook_id=ours, existed=None), "Forgotten here; FreeScout was not told.")
        removed = webhook_id or ours
        if removed is None:
            raise (
                CommandError("no webhook is noted here", f"find its id at {PAGE} and say --id ID")
                if known is None
                else _unfinished(known)
            )
        desk = await stack.enter_async_context(workplace.desk())
        await lease.claim_desk(database, desk.name)
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
            await note_removal(database)
    said = f"Webhook {removed} is removed." if existed else f"FreeScout had no webhook {removed}."
    return CommandResult(Removal(webhook_id=removed, existed=existed), said)
