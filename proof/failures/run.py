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
from proof.scrapes import Recorder, recording

PROMISE = 60.0
"""Seconds within which a failure shows; for readiness from the end of the lease, where that is what makes it red."""
HEALING = 120.0
WATCHED = 15.0
"""Seconds after everything has shown for which readiness has to stay green, where it should."""
_BREATH = 0.5
_SCRAPED_EVERY = 1.0
_SCRAPED_BEFORE, _SCRAPED_DURING, _SCRAPED_AFTER = 5.0, 50.0, 12.0
"""Seconds that metrics are recorded before a failure, of it after all has shown, and when it is well again.

The lease of 40 s ends meanwhile, so what a failure brings about is recorded too.
"""


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
    record: bool = False,
) -> list[Result]:
    """Make all failures, or those of the names, one after another on one stage.

    ``record``: keep what the receiver shows to Prometheus meanwhile, for the tests of the alert rules.
    """
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
                one = _One(
                    stage=stage,
                    surfaces=surfaces,
                    failure=failure,
                    result=result,
                    lease=float(settings["CACHE_LEASE"]),
                )
                if record:
                    await _record(one, Recorder(stage.url, client, what=failure.name, every=_SCRAPED_EVERY))
                else:
                    await one.make()
                    await one.heal()
    return results


async def _record(one: "_One", recorder: Recorder) -> None:
    """Make a failure and heal it, and keep the metrics of it unless something was wrong."""
    scrapes = recorder.scrapes
    async with recording(recorder):
        await asyncio.sleep(_SCRAPED_BEFORE)
        scrapes.made_at = scrapes.count
        await one.make()
        await asyncio.sleep(_SCRAPED_DURING)
        scrapes.healed_at = scrapes.count
        await one.heal()
        await asyncio.sleep(_SCRAPED_AFTER)
    if not one.result.wrong:
        recorder.end().save()


@dataclass(frozen=True, slots=True, kw_only=True)
class _One:
    """One failure on its stage."""

    stage: Stage
    surfaces: Surfaces
    failure: Failure
    result: Result
    lease: float

    async def make(self) -> None:
        """Make it, and see what says so."""
        failure, result, surfaces = self.failure, self.result, self.surfaces
        surfaces.begin()
        await failure.make(self.stage)
        began = time.monotonic()
        expected = {*failure.shows, *(() if failure.readyz == "green" else ("/readyz",))}
        lease_over = self.lease if failure.readyz == "red when the lease is over" else 0.0

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

    async def heal(self) -> None:
        """Put it right, and wait until all is well again."""
        healing = time.monotonic()
        await self.failure.heal(self.stage)
        try:
            await _until_all_is_well(self.surfaces)
            self.result.healed_after = time.monotonic() - healing
        except TimeoutError:
            self.result.wrong.append(f"it is not well again {HEALING:g} s after that was put right")


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
