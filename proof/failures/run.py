"""Makes one failure after another, and measures what every surface says and after how many seconds."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from proof.failures.injuries import FAILURES, Failure
from proof.failures.stage import SETTINGS, Stage, staged
from proof.failures.surfaces import SURFACES, Seen, Surfaces
from proof.live import cancel, until

PROMISE = 60.0
"""Seconds within which a failure shows; for readiness from the end of the lease, where that is what makes it red."""
HEALING = 120.0
WATCHED = 15.0
"""Seconds after everything has shown for which readiness has to stay green, where it should."""
_BREATH = 0.5


@dataclass(slots=True)
class Result:
    """What became of a failure: for each surface after how many seconds it showed what, and what was promised."""

    failure: Failure
    shown: dict[str, tuple[float, str]] = field(default_factory=dict)
    healed_after: float | None = None
    wrong: list[str] = field(default_factory=list)
    skipped: str = ""


async def play(
    folder: Path,
    *,
    names: Sequence[str] = (),
    settings: Mapping[str, str] = SETTINGS,
    tell: Callable[[str], None] = lambda _line: None,
) -> list[Result]:
    """Make all failures, or those of the names, one after another on one stage."""
    results = []
    async with staged(folder, settings) as stage, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as client:
        surfaces = Surfaces(stage, client)
        await until("the first pass", lambda: stage.poller.has_said("pass.completed"))
        await _until_all_is_well(surfaces)
        for failure in FAILURES:
            if names and failure.name not in names:
                continue
            result = Result(failure, skipped=failure.why_not())
            results.append(result)
            tell(f"{failure.name} …" if not result.skipped else f"{failure.name}: not made here ({result.skipped})")
            if not result.skipped:
                await _one(stage, surfaces, failure, result, lease=float(settings["CACHE_LEASE"]))
    return results


async def _one(stage: Stage, surfaces: Surfaces, failure: Failure, result: Result, *, lease: float) -> None:
    surfaces.begin()
    await failure.make(stage)
    began = time.monotonic()
    expected = {*failure.shows, *(() if failure.readyz == "green" else ("/readyz",))}
    lease_over = lease if failure.readyz == "red when the lease is over" else 0.0

    async def watch(name: str) -> None:
        while name not in result.shown:
            seen = await surfaces.look_at(name)
            if said := _says(name, seen, failure):
                result.shown[name] = (time.monotonic() - began, said)
            await asyncio.sleep(_BREATH)

    saved = await surfaces.saved()
    watching = {name: asyncio.create_task(watch(name)) for name in SURFACES}
    await asyncio.wait([watching[name] for name in expected], timeout=PROMISE + lease_over)
    if failure.readyz == "green":
        await asyncio.wait([watching["/readyz"]], timeout=WATCHED)
    await cancel(watching.values())
    for name in sorted(expected - result.shown.keys()):
        result.wrong.append(f"{name} shows nothing")
    if failure.readyz == "green" and "/readyz" in result.shown:
        result.wrong.append("/readyz is red, and should not be")
    if failure.deliveries_go_on and await surfaces.saved() <= saved:
        result.wrong.append("deliveries do not go on")
    healing = time.monotonic()
    await failure.heal(stage)
    try:
        await _until_all_is_well(surfaces)
        result.healed_after = time.monotonic() - healing
    except TimeoutError:
        result.wrong.append(f"it is not well again {HEALING:g} s after that was put right")


def _says(name: str, seen: Seen, failure: Failure) -> str:
    """Return what a surface says of the failure; empty: nothing yet."""
    if name == "doctor" and failure.check:
        return seen.yellow.get(failure.check, "") or (seen.says if f"{failure.check}: " in seen.says else "")
    return seen.says if seen.wrong else ""


async def _until_all_is_well(surfaces: Surfaces) -> None:
    async with asyncio.timeout(HEALING):
        while True:
            seen = [await surfaces.look_at(name) for name in SURFACES if name != "log"]
            if not any(each.wrong for each in seen) and not seen[0].yellow.keys() & {"poller", "lease"}:
                return
            await asyncio.sleep(_BREATH)


def as_table(results: Sequence[Result]) -> str:
    """Return the results in Markdown."""
    lines = ["| failure | surface | after | says |", "|---|---|--:|---|"]
    for result in results:
        if result.skipped:
            lines.append(f"| {result.failure.name} | | | not made: {result.skipped} |")
            continue
        first = result.failure.name
        for name in SURFACES:
            after, says = result.shown.get(name, (None, "green" if name == "/readyz" else "nothing"))
            shown = "" if after is None else f"{after:.0f} s"
            lines.append(f"| {first} | {name} | {shown} | {_cell(says)} |")
            first = ""
        healed = "" if result.healed_after is None else f"{result.healed_after:.0f} s"
        lines.append(f"| | well again | {healed} | {_cell('; '.join(result.wrong))} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
