"""``webhook``: registers an endpoint at the desk, removes it, and measures a delivery from end to end."""

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
from freescout_audit.endpoints import AUDIT, ENDPOINTS
from freescout_audit.words import moment
from ops.address import Address, option_of, parse_address, parse_endpoint
from ops.drawing import facts, titled
from ops.endtoend import PAGE, run_test
from ops.output import AsJson, Yes
from ops.result import CommandError, CommandResult, Exit
from ops.runner import run_command
from ops.ticket_ids import parse_ticket_id
from ops.workplace import Desk, Workplace
from poller.freescout import DeskError, DeskRefusedError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def webhook() -> None:
    """Register, remove and test the webhook at the desk."""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What ``webhook register --json`` says; ``already``: it was registered before, and nothing was done."""

    endpoint: str
    webhook_id: int
    url: str
    events: Sequence[str]
    already: bool
    replaced: int | None


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """What ``webhook remove --json`` says; ``existed``: FreeScout had it; None when it was not asked.

    ``endpoint`` is the one that it was noted for; None: it was not noted.
    """

    endpoint: str | None
    webhook_id: int | None
    existed: bool | None


UrlArgument = Annotated[
    Address,
    typer.Argument(metavar="URL", parser=parse_address, help="The app's public address: https://app.example.org"),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint", parser=parse_endpoint, metavar="NAME", help="audit, or rbac: RV-4's path.", show_default="audit"
    ),
]


@app.command()
def register(
    url: UrlArgument,
    *,
    endpoint: EndpointOption = None,
    known_id: Annotated[
        int | None,
        typer.Option("--id", help="It is registered already, by hand: only note its id.", min=1, show_default=False),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Remove the one registered with another URL.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Although deliveries come by one that is not noted.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register an endpoint for all conversation events, once: a second webhook would double every delivery."""
    run_command(
        lambda workplace: _register(workplace, url, endpoint, known_id, replace=replace, force=force), as_json=as_json
    )


@app.command()
def remove(
    *,
    endpoint: EndpointOption = None,
    webhook_id: Annotated[
        int | None, typer.Option("--id", help="Another than the one we know.", min=1, show_default=False)
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Only forget ours; FreeScout is not told.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove the webhook at the desk: no delivery comes any more."""
    run_command(lambda workplace: _remove(workplace, endpoint, webhook_id, forget=forget, yes=yes), as_json=as_json)


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
    endpoint: EndpointOption = None,
    within: Annotated[float, typer.Option(help="Seconds to wait for the delivery.", min=1, max=600)] = 60,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Change a test ticket's status at the desk, measure until the cache shows it, and put it back."""
    if status not in {None, "active", "pending", "closed", "spam"}:
        raise typer.BadParameter(f"{status!r} is no status: active, pending, closed or spam")
    wanted: Status | None = msgspec.convert(status, Status | None)
    run_command(
        lambda workplace: run_test(
            workplace, ticket, wanted, endpoint=endpoint or AUDIT, by_user=by_user, within=within, yes=yes
        ),
        as_json=as_json,
    )


async def _register(
    workplace: Workplace, address: Address, named: str | None, known_id: int | None, *, replace: bool, force: bool
) -> CommandResult:
    endpoint = address.meant(named)
    url = address.url(endpoint)
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        known = await read_webhook(database, endpoint)
        if known_id is not None:
            await _check_the_id(database, endpoint, known_id)
            await save_webhook(database, endpoint, known_id, url, CONVERSATION_EVENTS)
            return _registered(endpoint, known_id, url, already=True)
        desk = await stack.enter_async_context(workplace.desk())
        await lease.claim_desk(database, desk.name)
        # An API that does not answer now must leave nothing in doubt.
        await desk.reads.count(retries=0)
        if known is not None and known.webhook_id is None:
            raise _unfinished(endpoint, known)
        if known is not None and known.url == url:
            return _registered(endpoint, known.webhook_id or 0, url, already=True)
        if known is not None and not replace:
            raise CommandError(
                f"webhook {known.webhook_id} is registered for {known.url}",
                "add --replace, and it is removed once the new one is there",
            )
        stranger = None if known is not None or force else await find_stranger(database, endpoint)
        if stranger is not None:
            raise CommandError(
                f"a delivery came at {moment(stranger)}, so one is registered already; a second one would double every"
                " delivery",
                f"find its id at {PAGE} and note it with --id ID; --force if that one is gone",
            )
        if known is None and not await begin_webhook(database, endpoint, url, CONVERSATION_EVENTS):
            raise CommandError("another registration is under way", "look again with freescout-audit doctor")
        replaced = None if known is None else known.webhook_id
        webhook_id = await _tell_the_desk(database, desk, endpoint, url, old=replaced)
        await save_webhook(database, endpoint, webhook_id, url, CONVERSATION_EVENTS)
        if replaced is not None:
            await _remove_the_old(desk, replaced)
    return _registered(endpoint, webhook_id, url, already=False, replaced=replaced)


async def _check_the_id(database: Database, endpoint: str, webhook_id: int) -> None:
    """Refuse to note a webhook for one endpoint that is noted for another: each has a webhook of its own."""
    other = await _endpoint_of(database, webhook_id)
    if other not in {None, endpoint}:
        raise CommandError(
            f"webhook {webhook_id} is noted already, as the one of {other}",
            f"find the id of the other at {PAGE}: each endpoint has a webhook of its own",
        )


async def _endpoint_of(database: Database, webhook_id: int) -> str | None:
    """Return the endpoint whose webhook is noted by this id."""
    for endpoint in ENDPOINTS:
        known = await read_webhook(database, endpoint)
        if known is not None and known.webhook_id == webhook_id:
            return endpoint
    return None


async def _tell_the_desk(database: Database, desk: Desk, endpoint: str, url: str, *, old: int | None) -> int:
    """Register the webhook at the desk, and leave a note only where it is not known whether that went well."""
    try:
        return await desk.changes.register_webhook(url, CONVERSATION_EVENTS)
    except DeskRefusedError:
        if old is None:
            await forget_webhook(database, endpoint)
        raise
    except DeskError as error:
        raise CommandError(
            f"{error.problem}; it is not known whether it is registered",
            _look_there(endpoint)
            if old is None
            else f"look at {PAGE}. If it is there: webhook register URL{option_of(endpoint)} --id ID, then"
            f" webhook remove --id {old}. If not, nothing has changed, webhook {old} is the noted one: try --replace"
            " again",
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


def _look_there(endpoint: str) -> str:
    at = option_of(endpoint)
    return (
        f"look at {PAGE}. If it is there: webhook register URL{at} --id ID. If not: webhook remove{at} --forget, and"
        " register again"
    )


def _unfinished(endpoint: str, known: Webhook) -> CommandError:
    return CommandError(
        f"a registration of {known.url} began at {moment(known.began_at)} and did not end, and FreeScout's API cannot"
        " list webhooks",
        _look_there(endpoint),
    )


def _registered(
    endpoint: str, webhook_id: int, url: str, *, already: bool, replaced: int | None = None
) -> CommandResult:
    document = Registration(
        endpoint=endpoint,
        webhook_id=webhook_id,
        url=url,
        events=CONVERSATION_EVENTS,
        already=already,
        replaced=replaced,
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


async def _remove(
    workplace: Workplace, named: str | None, webhook_id: int | None, *, forget: bool, yes: bool
) -> CommandResult:
    endpoint = named or AUDIT
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(workplace.database())
        known = await read_webhook(database, endpoint)
        ours = None if known is None else known.webhook_id
        if forget:
            if ours is not None:
                workplace.confirm(f"This service will forget webhook {ours}; at the desk nothing changes.", yes=yes)
            await forget_webhook(database, endpoint)
            removal = Removal(endpoint=endpoint, webhook_id=ours, existed=None)
            return CommandResult(removal, "Forgotten here; FreeScout was not told.")
        removed = webhook_id or ours
        if removed is None:
            raise (
                CommandError("no webhook is noted here", f"find its id at {PAGE} and say --id ID")
                if known is None
                else _unfinished(endpoint, known)
            )
        desk = await stack.enter_async_context(workplace.desk())
        await lease.claim_desk(database, desk.name)
        noted_at = await _endpoint_of(database, removed)
        workplace.confirm(_what_removing_means(removed, noted_at, ours), yes=yes)
        existed = await desk.changes.remove_webhook(removed)
        if noted_at is not None:
            await note_removal(database, noted_at)
    said = f"Webhook {removed} is removed." if existed else f"FreeScout had no webhook {removed}."
    return CommandResult(Removal(endpoint=noted_at, webhook_id=removed, existed=existed), said)


def _what_removing_means(webhook_id: int, noted_at: str | None, ours: int | None) -> str:
    """Return what an operator is asked; ``ours`` is the webhook that would have been removed without an id."""
    if noted_at == AUDIT:
        return "No delivery will come any more."
    if noted_at is not None:
        return f"No delivery will come to {noted_at} any more."
    and_not = f", {ours}" if ours is not None else ""
    return (
        f"Webhook {webhook_id} is not the one that is noted here{and_not}; whoever it delivers to will get nothing any"
        " more."
    )
