"""``poller``: says whether a poller is expected, or push alone is meant."""

from datetime import datetime

import msgspec
import typer

from db import leadership
from freescout_audit.words import moment
from ops.output import AsJson
from ops.result import CommandResult
from ops.runner import run_command
from ops.workplace import Workplace

app = typer.Typer(no_args_is_help=True)


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What ``poller --json`` says; ``retired_at`` is since when push alone is meant."""

    expected: bool
    retired_at: datetime | None


@app.callback()
def poller() -> None:
    """Say whether a poller is expected, or push alone is meant."""


@app.command()
def retire(*, as_json: AsJson = False) -> None:
    """Push alone is meant: that no poller runs is no failure from now on."""
    run_command(_retire, as_json=as_json)


@app.command()
def expect(*, as_json: AsJson = False) -> None:
    """A poller is expected again: that none runs is a failure, once one has led."""
    run_command(_expect, as_json=as_json)


async def _retire(workplace: Workplace) -> CommandResult:
    async with workplace.database() as database:
        since = await leadership.retire(database)
    said = f"push alone is meant since {moment(since)} UTC: a delivery is believed for cache.ttl, and a lost one is"
    return CommandResult(Expected(expected=False, retired_at=since), f"{said} never noticed")


async def _expect(workplace: Workplace) -> CommandResult:
    async with workplace.database() as database:
        await leadership.expect(database)
    return CommandResult(Expected(expected=True, retired_at=None), "a poller is expected")
