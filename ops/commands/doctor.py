"""``doctor``: the pre-flight list, each line green or with the next step."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops.address import parse_address
from ops.check import Check
from ops.drawing import titled
from ops.output import AsJson
from ops.preflight import examine
from ops.result import CommandResult, Exit
from ops.runner import run_command
from ops.workplace import Workplace

LOOK_EVERY = 3.0
"""Seconds between two looks of ``--wait``."""

_SIGNS = {"green": "✓", "yellow": "!", "red": "✗"}


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """What ``doctor --json`` says: every check, and how many have which colour."""

    green: int
    yellow: int
    red: int
    checks: Sequence[Check]


def doctor(
    *,
    url: Annotated[
        str | None,
        typer.Option(
            parser=parse_address,
            metavar="URL",
            help="The app's public address: send a signed delivery through it, about no ticket.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Look again until all is green.")] = False,
    within: Annotated[float, typer.Option(help="Seconds to wait at the most.", min=1, max=86400)] = 600,
    accept_yellow: Annotated[bool, typer.Option("--accept-yellow", help="Wait only until nothing is red.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check everything: each line is green, or says what to do next. Ends with 1 when one is red."""

    async def look(workplace: Workplace) -> CommandResult:
        good = {"green", "yellow"} if accept_yellow else {"green"}
        async with workplace.fresh_secrets():
            if not wait:
                return diagnose(await examine(workplace, url))
            checks = await watch(lambda: examine(workplace, url), good=good, within=within, tell=workplace.remark)
        return diagnose(checks, waited_for=good)

    run_command(look, as_json=as_json)


async def watch(
    look: Callable[[], Awaitable[Sequence[Check]]],
    *,
    good: set[str],
    within: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Sequence[Check]:
    """Look until every check has a good colour, or the time is over, and return the last look's checks."""
    end = clock() + within
    told = ""
    while True:
        checks = await look()
        missing = [check.name for check in checks if check.state not in good]
        if not missing or clock() + LOOK_EVERY > end:
            return checks
        if (waiting_for := ", ".join(missing)) != told:
            told = waiting_for
            tell(f"waiting for: {told}")
        await sleep(LOOK_EVERY)


def diagnose(checks: Sequence[Check], *, waited_for: set[str] | None = None) -> CommandResult:
    """Count the colours and draw the list; what was waited for and did not come is wrong as well."""
    counts = {colour: sum(check.state == colour for check in checks) for colour in _SIGNS}
    document = Diagnosis(checks=checks, **counts)
    good = waited_for or {"green", "yellow"}
    code = Exit.GOOD if all(check.state in good for check in checks) else Exit.WRONG
    return CommandResult(document, picture(document), code)


def picture(diagnosis: Diagnosis) -> RenderableType:
    """Draw it: a line a check, its next step below."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for check in diagnosis.checks:
        said: RenderableType = Text(check.detail)
        if check.next_step:
            said = Group(said, Text(f"→ {check.next_step}", "bold"))
        table.add_row(Text(_SIGNS[check.state], check.state), Text(check.name), said)
    counts = ((diagnosis.green, "green"), (diagnosis.yellow, "yellow"), (diagnosis.red, "red"))
    verdict = Text(", ").join(Text(f"{count} {colour}", colour) for count, colour in counts if count)
    return titled("The pre-flight list", table, "", verdict)
