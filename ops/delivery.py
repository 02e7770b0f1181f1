"""``python -m ops.delivery`` (``make delivery``): a curl command that sends one signed delivery, ready to paste."""

import asyncio
import json
import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated

import typer

from db.database import Database
from db.opening import open_database
from db.tickets import read_quietest
from freescout_audit.errors import FreescoutAuditError, SettingsError
from freescout_audit.signature import sign
from ops.address import PATH
from ops.rehearsal import demo_key
from ops.running import beside, who_is_running
from settings import Environment, Secret, load_environment, load_settings
from settings.vault.live import read_secrets_once

AHEAD = 45.0
"""Seconds that a command is dated ahead, to stay news for as long; up to 60 are believed."""


def curl_command(url: str, key: str, *, ticket_id: int, status: str, at: datetime) -> str:
    """Return a curl command that tells the receiver at ``url`` of a ticket's status, as FreeScout would at ``at``."""
    date = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "id": ticket_id,
        "number": ticket_id,
        "status": status,
        "state": "published",
        "mailboxId": 1,
        "createdAt": date,
        "updatedAt": date,
    }
    body = json.dumps(document, separators=(",", ":"))
    headers = {
        "Content-Type": "application/json",
        "X-FreeScout-Event": "convo.status",
        "X-FreeScout-Signature": sign(body.encode(), key),
    }
    words = ["curl", "-sS", url + PATH]
    for name, value in headers.items():
        words += ["-H", f"{name}: {value}"]
    return shlex.join([*words, "-d", body])


async def pick(database: Database) -> tuple[int, str]:
    """Return the ticket that has been at rest the longest, and a status that it does not have."""
    found = await read_quietest(database)
    if found is None:
        return 4711, "closed"
    ticket_id, status = found
    return ticket_id, "closed" if status != "closed" else "active"


async def _pick_from(database_url: str | None) -> tuple[int, str]:
    async with open_database(database_url, process="delivery", progress=partial(typer.echo, err=True)) as database:
        return await pick(database)


def _keys(environment: Environment) -> Sequence[Secret]:
    """Return the webhook keys of `make run`, which reads a vault only where it has a real desk."""
    if environment.vault is None or environment.freescout_url is None:
        return environment.webhook_secrets
    return asyncio.run(read_secrets_once(environment, load_settings(os.environ).vault)).webhook()


def _receiver() -> tuple[str, Environment]:
    """Return the address of the receiver of `make run`, or of PORT, and the environment it was started with.

    Raises:
        SettingsError: Neither is there: whoever listens on some port is none of ours.
    """
    running = who_is_running()
    if running is not None and (surroundings := beside(running, os.environ)) is not None:
        return running.url, load_environment(surroundings)
    environment = load_environment(os.environ)
    if not os.environ.get("PORT", "").strip():
        raise SettingsError(
            "make run is not running in this checkout", "start it in another terminal, or set PORT to a receiver's"
        )
    return f"http://127.0.0.1:{environment.port}", environment


def main(
    ticket: Annotated[int | None, typer.Option(help="The ticket's id; one of the cache if left out.")] = None,
    status: Annotated[str, typer.Option(help="active, pending, closed or spam.")] = "closed",
) -> None:
    """Print a curl command for the receiver of `make run`, signed with its key and dated now."""
    try:
        receiver, environment = _receiver()
        if ticket is None:
            url = environment.database_url
            ticket, status = asyncio.run(_pick_from(None if url is None else url.reveal()))
        key = next(iter(_keys(environment)), Secret(demo_key())).reveal()
    except FreescoutAuditError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    # A little ahead, so that a pass that begins before it is pasted has not seen further.
    at = datetime.now(UTC) + timedelta(seconds=AHEAD)
    typer.echo(curl_command(receiver, key, ticket_id=ticket, status=status, at=at))


if __name__ == "__main__":
    typer.run(main)
