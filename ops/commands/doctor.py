"""``doctor``: the pre-flight list, each line green or with the next step."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ops.address import Address, parse_address
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
    """What ``doctor --json`` says: every check, and how many have which colour.

    ``stays_yellow`` names the checks that do not turn green by themselves.
    """

    green: int
    yellow: int
    red: int
    stays_yellow: Sequence[str]
    checks: Sequence[Check]


def doctor(
    *,
    url: Annotated[
        Address | None,
        typer.Option(
            parser=parse_address,
            metavar="URL",
            help="The app's public address: send a signed delivery through it, about no ticket.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Look again until nothing is red or will pass.")] = False,
    within: Annotated[float, typer.Option(help="Seconds to wait at the most.", min=1, max=86400)] = 600,
    accept_yellow: Annotated[
        bool, typer.Option("--accept-yellow", help="Do not wait for what is yellow and will pass.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say what is red, in one line, and nothing when nothing is: for cron.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check everything: each line is green, or says what to do next. Ends with 1 when one is red."""

    async def look(workplace: Workplace) -> CommandResult:
        waits_for = _is_red if accept_yellow else _is_red_or_passes
        async with workplace.fresh_secrets():
            if wait:
                checks = await watch(
                    lambda: examine(workplace, url), waits_for=waits_for, within=within, tell=workplace.remark
                )
            else:
                checks = await examine(workplace, url)
        found = diagnose(checks, wrong=waits_for if wait else _is_red)
        return replace(found, picture=in_one_line(found.document)) if quiet else found

    run_command(look, as_json=as_json)


def _is_red(check: Check) -> bool:
    return check.state == "red"


def _is_red_or_passes(check: Check) -> bool:
    return _is_red(check) or check.passes


async def watch(
    look: Callable[[], Awaitable[Sequence[Check]]],
    *,
    waits_for: Callable[[Check], bool],
    within: float,
    tell: Callable[[str], None],
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Sequence[Check]:
    """Look until there is no check to wait for, or the time is over, and return the last look's checks.

    Each check that is waited for is told once, with what it says and what to do about it, and again when its next step
    is another: what it says may hold a time, which differs at each look.
    """
    end = clock() + within
    told: set[tuple[str, str]] = set()
    while True:
        checks = await look()
        missing = [check for check in checks if waits_for(check)]
        if not missing or clock() + LOOK_EVERY > end:
            return checks
        for check in missing:
            if (check.name, check.next_step) not in told:
                tell(f"waiting for {check.name}: {check.detail}" + (f" → {check.next_step}" if check.next_step else ""))
        told = {(check.name, check.next_step) for check in missing}
        await sleep(LOOK_EVERY)


def diagnose(checks: Sequence[Check], *, wrong: Callable[[Check], bool]) -> CommandResult:
    """Count the colours and draw the list."""
    counts = {colour: sum(check.state == colour for check in checks) for colour in _SIGNS}
    stays = [check.name for check in checks if check.state == "yellow" and not check.passes]
    document = Diagnosis(checks=checks, stays_yellow=stays, **counts)
    code = Exit.WRONG if any(wrong(check) for check in checks) else Exit.GOOD
    return CommandResult(document, picture(document), code)


def in_one_line(diagnosis: msgspec.Struct) -> RenderableType:
    """Say what is red; nothing when nothing is."""
    assert isinstance(diagnosis, Diagnosis)  # noqa: S101 - what `diagnose` has made
    red = [f"{each.name}: {each.detail} → {each.what_to_do}" for each in diagnosis.checks if each.state == "red"]
    return Text("; ".join(red), no_wrap=True) if red else ""


def picture(diagnosis: Diagnosis) -> RenderableType:
    """Draw it: a line a check, its next step below."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, min_width=13)
    table.add_column(overflow="fold")
    for check in diagnosis.checks:
        said: RenderableType = Text(check.detail)
        if check.what_to_do:
            said = Group(said, Text(f"→ {check.what_to_do}", "bold"))
        table.add_row(Text(_SIGNS[check.state], check.state), Text(check.name), said)
    counts = ((diagnosis.green, "green"), (diagnosis.yellow, "yellow"), (diagnosis.red, "red"))
    verdict = Text(", ").join(Text(f"{count} {colour}", colour) for count, colour in counts if count)
    if diagnosis.stays_yellow and not diagnosis.red:
        verdict.append(f"; yellow stays until somebody acts, and may be meant so: {', '.join(diagnosis.stays_yellow)}")
    return titled("The pre-flight list", table, "", verdict)
