"""``python -m ops.run`` (``make run``): the whole service at once, on one database, until Ctrl-C.

Without ``FREESCOUT_URL`` it makes up a desk, so that a newcomer sees the main job at work.
"""

import asyncio
import errno
import os
import secrets
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

from db import lease
from db.belongings import read_belongings
from db.database import Database
from db.migrate import migrate
from db.opening import open_database
from db.webhook import forget_webhook, save_webhook
from freescout_audit.delivery import CONVERSATION_EVENTS
from freescout_audit.endpoints import AUDIT
from freescout_audit.errors import FreescoutAuditError
from freescout_audit.logs import set_up_logs
from ops.address import PATH
from ops.delivery import AHEAD, curl_command, pick
from ops.rehearsal import Story, at_rest, live, make_desk
from ops.running import MADE_UP, be_the_only_one, tell_the_others
from poller.run import poll
from receiver.app import create_app, serve
from receiver.connections import ListenError
from receiver.page.views import PATH as PAGE
from settings import Environment, Secret, Settings
from settings.environment import API_KEY, FLAGS, OPS_TOKEN, RBAC_SECRET, RBAC_SECRET_PREVIOUS, WEBHOOK_SECRET
from settings.place import where_we_run
from settings.process import run_process
from simulator import serve as serve_desk

REHEARSAL_INTERVAL = 20.0
"""Seconds between two passes over a made-up desk: who watches does not want to wait for two minutes."""
LOG_FILE = Path(__file__).resolve().parent.parent / ".local" / "run.log"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
_IN_THE_DEMO = "docker compose exec demo "
"""How a command is run beside us where `make run` is the demo of compose.yaml."""


class OtherDatabaseError(FreescoutAuditError):
    """The database is somebody else's, and a made-up desk would change it."""


async def main(environment: Environment, settings: Settings, stop: asyncio.Event) -> None:
    """Bring everything up, show it at work, and take it down when told to stop."""
    console = Console(highlight=False)
    host = os.environ.get("RECEIVER_HOST") or "127.0.0.1"
    settings = msgspec.structs.replace(settings, receiver=msgspec.structs.replace(settings.receiver, host=host))
    console.print("[bold]freescout-audit[/bold] knows the status of every ticket, or says none.")
    async with AsyncExitStack() as stack:
        stack.enter_context(be_the_only_one())
        database = await stack.enter_async_context(
            open_database(
                None if environment.database_url is None else environment.database_url.reveal(),
                process="run",
                connections=settings.database.connections,
                connect_timeout=settings.database.connect_timeout,
                progress=lambda line: console.print(f"[dim]{escape(line)}[/dim]"),
            )
        )
        await move_in(database, environment.freescout_url or MADE_UP)
        _log_to_file(stack, settings)
        desk = token = None
        if environment.freescout_url is None:
            desk = await make_desk(database)
            if "POLLER_INTERVAL" not in os.environ:
                poller = msgspec.structs.replace(settings.poller, interval=REHEARSAL_INTERVAL)
                settings = msgspec.structs.replace(settings, poller=poller)
            if environment.ops_token is None and host not in _LOOPBACK:
                # Clients on other machines have to show one; in a container every client is on another.
                token = Secret(secrets.token_urlsafe(12))
            environment = replace(
                environment,
                receive=True,
                webhook_secrets=(Secret(desk.webhook_key), *environment.webhook_secrets),
                freescout_url=await stack.enter_async_context(serve_desk(desk)),
                freescout_api_key=Secret(desk.api_key),
                vault=None,
                ops_token=environment.ops_token or token,
            )
        app = create_app(database, environment, settings)
        try:
            port = await stack.enter_async_context(serve(app, host=host, port=environment.port))
        except ListenError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                raise
            console.print(f"Port {environment.port} is in use. Try: PORT={environment.port + 1} make run")
            sys.exit(1)
        url = f"http://{'127.0.0.1' if host in _EVERYWHERE else host}:{port}"
        surroundings = _surroundings(environment, port, made_up=desk is not None)
        tell_the_others(url, surroundings, made_up=desk is not None, given=os.environ)
        ticket_id, status = await pick(database) if desk is None else at_rest(desk)
        _introduce(console, environment, url, made_up=desk is not None, token=token, ticket_id=ticket_id, status=status)
        if desk is not None:
            webhook = desk.register_webhook(url + PATH)
            await forget_webhook(database, AUDIT)
            await save_webhook(database, AUDIT, webhook.id, webhook.url, CONVERSATION_EVENTS)
            await stack.enter_async_context(live(desk, Story(desk, database, console)))
        polling = None
        if environment.freescout_url is not None and (environment.freescout_api_key or environment.vault) is not None:
            tied_to = MADE_UP if desk is not None else environment.freescout_url
            polling = asyncio.create_task(poll(database, environment, settings, stop, tied_to=tied_to))
            polling.add_done_callback(lambda _: stop.set())
        await stop.wait()
        console.print("\nStopping.")
        if polling is not None:
            await polling


async def move_in(database: Database, desk: str) -> None:
    """Take a database for a desk, before anything is written that could be taken for another's.

    An empty one is migrated.

    Raises:
        OtherDatabaseError: It is not empty, nor this desk's; only a made-up desk minds what is not tied to any.
        OtherDeskError: It holds the tickets of another desk.
        DatabaseUnavailableError: It is away, or not migrated and not empty either.
    """
    found = await read_belongings(database)
    if desk == MADE_UP and found.desk_url != MADE_UP and (found.used or found.foreign or found.desk_url is not None):
        holds = "deliveries of a desk" if found.used else "what is not ours"
        raise OtherDatabaseError(
            f"the database is not empty, and holds {found.desk_url or holds}: a made-up desk is not let into it",
            "set FREESCOUT_URL to the desk it belongs to, or DATABASE_URL to an empty database",
        )
    if desk == MADE_UP or not (found.migrated or found.foreign):
        await migrate(database.url)
    await lease.claim_desk(database, desk)


def _surroundings(environment: Environment, port: int, *, made_up: bool) -> dict[str, str]:
    """Return the environment that the other commands need; what is secret only where the desk is made up."""
    flags = {flag: str(int(endpoint in environment.endpoints)) for endpoint, flag in FLAGS.items()}
    variables = {"PORT": str(port), **flags}
    if environment.freescout_url is not None:
        variables["FREESCOUT_URL"] = environment.freescout_url
    if not made_up:
        return variables
    secrets = {
        "DATABASE_URL": environment.database_url,
        WEBHOOK_SECRET: next(iter(environment.webhook_secrets), None),
        RBAC_SECRET: environment.rbac_secret,
        RBAC_SECRET_PREVIOUS: environment.rbac_secret_previous,
        API_KEY: environment.freescout_api_key,
        OPS_TOKEN: environment.ops_token,
    }
    return variables | {name: value.reveal() for name, value in secrets.items() if value is not None}


def _log_to_file(stack: AsyncExitStack, settings: Settings) -> None:
    """Keep the terminal for people: the log goes where an operator would look for it."""
    LOG_FILE.parent.mkdir(exist_ok=True)
    stream = stack.enter_context(LOG_FILE.open("a", encoding="utf-8", buffering=1))
    stack.callback(set_up_logs, process="run", style=settings.log.format, level=settings.log.level)
    set_up_logs(process="run", style="json", level=settings.log.level, stream=stream)


def _introduce(
    console: Console,
    environment: Environment,
    url: str,
    *,
    made_up: bool,
    token: Secret | None,
    ticket_id: int,
    status: str,
) -> None:
    in_container = where_we_run(os.environ).kind == "container"
    beside = _IN_THE_DEMO if in_container else ""
    console.print(f"\n  deliveries   POST {url}{PATH}" + ("" if environment.receive else "  [yellow](off)[/yellow]"))
    console.print(f"  how it is    {url}{PAGE}")
    if token is not None:
        console.print(f"               with the token {token.reveal()}", markup=False)
    console.print(f"               {url}/readyz  {url}/metrics")
    console.print(f"  its log      {beside}tail -f {os.path.relpath(LOG_FILE)}")
    console.print(f"  the cache    {beside + 'python -m ops.sql' if in_container else 'make sql'}")
    if made_up:
        console.print(f"  the desk     {environment.freescout_url}/api (made up: FREESCOUT_URL is not set)")
    if environment.webhook_secrets and environment.vault is None:
        key = environment.webhook_secrets[0].reveal()
        at = datetime.now(UTC) + timedelta(seconds=AHEAD)
        command = curl_command(url, key, ticket_id=ticket_id, status=status, at=at)
        ask = beside + "python -m ops.sql " if in_container else "make sql QUERY="
        again = beside + "python -m ops.delivery" if in_container else "make -s delivery"
        console.print(
            f"\nA signed delivery that says ticket {ticket_id} is {status}, and how to see that it is believed:\n"
        )
        console.print(f"  {command}", soft_wrap=True, markup=False)
        console.print(f"""  {ask}"SELECT freescout_ticket_state({ticket_id})"\n""")
        console.print(f"It is news for {AHEAD:.0f} s; {again} | sh sends a fresh one.")
        console.print("The desk says otherwise, so the next pass puts it right.\n")


if __name__ == "__main__":
    run_process("run", main)
