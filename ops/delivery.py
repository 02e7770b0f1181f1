"""``python -m ops.delivery`` (``make delivery``): a curl command that sends one signed delivery, ready to paste."""

import json
import os
import shlex
from datetime import UTC, datetime
from typing import Annotated

import typer

from freescout_audit.signature import sign
from ops.rehearsal import demo_key
from receiver.audit import ENDPOINT
from receiver.endpoints import PREFIX
from settings import load_environment

PATH = PREFIX + ENDPOINT


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


def main(
    ticket: Annotated[int, typer.Option(help="The ticket's id.")] = 4711,
    status: Annotated[str, typer.Option(help="active, pending, closed or spam.")] = "closed",
) -> None:
    """Print a curl command for the receiver of `make run`, signed with its key and dated now."""
    environment = load_environment(os.environ)
    key = environment.webhook_secrets[0].reveal() if environment.webhook_secrets else demo_key()
    url = f"http://127.0.0.1:{environment.port}"
    typer.echo(curl_command(url, key, ticket_id=ticket, status=status, at=datetime.now(UTC)))


if __name__ == "__main__":
    typer.run(main)
