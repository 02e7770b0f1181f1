"""Records what a receiver shows to Prometheus, as far as the alert rules use it, for tests of the rules.

A recording keeps the values in the notation of promtool's tests: ``1x9`` is ten times 1, ``_`` is no answer.
"""

import asyncio
import itertools
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from proof.live import ROOT, cancel

RULES = ROOT / "ops" / "alerts" / "freescout-audit.rules.yml"
RECORDINGS = ROOT / "tests" / "alerts" / "recordings"
UP = "up"
"""Prometheus' own series: whether the target answered."""
_PATIENCE = 10.0
"""Seconds that Prometheus waits for an answer, if it is not told otherwise."""


class Scrapes(msgspec.Struct, kw_only=True):
    """A recording: the values of each series, one a scrape, as promtool writes them."""

    what: str
    every: float
    """Seconds from one scrape to the next, by the clock of what was recorded."""
    count: int = 0
    made_at: int | None = None
    """Before which scrape the failure was made."""
    healed_at: int | None = None
    series: dict[str, str] = {}

    @property
    def path(self) -> Path:
        """Where it is kept."""
        return RECORDINGS / f"{re.sub('[^a-z0-9]+', '_', self.what.lower()).strip('_')}.json"

    def save(self) -> None:
        """Keep it for the tests."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def load(path: Path) -> Scrapes:
    """Return a recording."""
    return msgspec.json.decode(path.read_bytes(), type=Scrapes)


class Recorder:
    """Scrapes one receiver again and again.

    Args:
        url: The receiver's address.
        client: Asks it.
        what: What is recorded.
        every: Seconds from one scrape to the next.
        now: Seconds of the clock that ``sleep`` waits by.
        sleep: Waits.
    """

    def __init__(
        self,
        url: str,
        client: aiohttp.ClientSession,
        *,
        what: str,
        every: float,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.scrapes = Scrapes(what=what, every=every)
        self._url = url
        self._client = client
        self._now, self._sleep = now, sleep
        self._wanted = used_by_the_rules()
        self._values: dict[str, list[str]] = {}

    async def scrape_for_ever(self) -> None:
        """Scrape, each time at its time; what is due while an answer is still to come is no answer."""
        began, scrapes = self._now(), self.scrapes
        while True:
            await self._sleep(max(0.0, began + scrapes.count * scrapes.every - self._now()))
            while (scrapes.count + 1) * scrapes.every <= self._now() - began:
                self._note({})
            await self.scrape()

    async def scrape(self) -> None:
        """Scrape once."""
        self._note(await self._ask())

    def end(self) -> Scrapes:
        """Return the recording."""
        self.scrapes.series = {name: _packed(self._values[name]) for name in sorted(self._values)}
        return self.scrapes

    async def _ask(self) -> Mapping[str, float]:
        try:
            async with asyncio.timeout(_PATIENCE), self._client.get(f"{self._url}/metrics") as answer:
                answer.raise_for_status()
                text = await answer.text()
        except (aiohttp.ClientError, OSError):
            return {UP: 0}
        found = {
            _named(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name in self._wanted
        }
        return {UP: 1, **found}

    def _note(self, found: Mapping[str, float]) -> None:
        for name in found.keys() | self._values.keys():
            before = self._values.setdefault(name, ["_"] * self.scrapes.count)
            before.append(_shown(found[name]) if name in found else "_")
        self.scrapes.count += 1


@asynccontextmanager
async def recording(recorder: Recorder) -> AsyncIterator[Recorder]:
    """Record as long as this lasts."""
    task = asyncio.create_task(recorder.scrape_for_ever())
    try:
        yield recorder
    finally:
        await cancel([task])


def used_by_the_rules() -> set[str]:
    """Return the names of the metrics that the alert rules use."""
    return set(re.findall(r"\bfreescout_audit_\w+", RULES.read_text(encoding="utf-8")))


def _named(name: str, labels: Mapping[str, str]) -> str:
    shown = ", ".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{shown}}}" if shown else name


def _shown(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.1f}".removesuffix(".0")


def _packed(values: list[str]) -> str:
    """Write values that repeat once, with how often they come again."""
    runs = [(value, len(list(run))) for value, run in itertools.groupby(values)]
    return " ".join(_run(value, times) for value, times in runs)


def _run(value: str, times: int) -> str:
    if times == 1:
        return value
    # promtool counts differently: _x3 is three, 1x3 is four; and it repeats no NaN.
    if value == "_":
        return f"_x{times}"
    return " ".join([value] * times) if value == "NaN" else f"{value}x{times - 1}"
