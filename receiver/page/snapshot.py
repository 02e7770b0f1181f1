"""What the page shows of the service now, read at most once a second, however many look at it."""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import asyncpg
import msgspec

from db.answers import AnswerTally, refusals_of
from db.condition import WRONG, State
from db.counts import Counts
from db.database import Database
from db.gaps import read_verdicts
from db.journal import JournalledDelivery, read_deliveries
from db.minutes import LIGHTS, read_columns, read_counted
from db.refusals import MIGRATE
from db.standing import Standing
from db.verdict import Headline, Light, find_lights, judge_all
from freescout_audit import __version__
from freescout_audit.errors import DatabaseUnavailableError
from receiver.health import Component, Health
from receiver.page.day import DAY, HOUR, STEP, Day, summarise, times_of
from settings.place import Place
from settings.vault.live import LiveSecrets

FRESH = 1.0
"""Seconds that a snapshot is shown for."""
_DAY_FRESH = 30.0
"""The same for the day: each process adds a row a minute."""
_LATEST = 10
_TOLD_BY_THE_LOG = {"lease": "pass.failed", "feed": "'*.fault'"}
"""Parts of which `doctor` can say only that the log says why, and the events that do."""
_COMMANDS = ("freescout-audit ", "heroku ", "python ")


class NextStep(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: in a sentence, as a command, and where the runbook has more."""

    words: str
    command: str
    heading: str
    """The anchor in the runbook."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How the service is; ``day`` None: it could not be read yet; ``latest`` None: nor could the journal."""

    verdict: Headline
    step: NextStep | None
    lights: Mapping[str, Light | None]
    """None: nothing is known of it."""
    day: Day | None
    latest: Sequence[JournalledDelivery] | None
    standing: Standing | None
    refusals: Mapping[str, AnswerTally]
    gaps: Mapping[str, int] | None
    disputes: int | None
    counts: Counts | None
    """How many tickets read what; None: not known now."""
    keys: Mapping[str, Sequence[str]]
    """The fingerprints of the webhook keys that each endpoint accepts that is on, the current one first."""
    version: str = __version__

    @property
    def digest(self) -> str:
        """The same for all that looks the same: of what stands only what the page shows."""
        standing = self.standing and (self.standing.passed_at, self.standing.load_cursor)
        shown = msgspec.json.encode((msgspec.structs.replace(self, standing=None), standing))
        return hashlib.blake2b(shown, digest_size=8).hexdigest()


class Snapshots:
    """Takes snapshots; ``clock`` gives seconds that only go forward."""

    def __init__(
        self,
        database: Database,
        health: Health,
        secrets: LiveSecrets,
        place: Place,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._health = health
        self._secrets = secrets
        self._place = place
        self._clock = clock
        self._taking = asyncio.Lock()
        self._taken: Snapshot | None = None
        self._taken_at = -math.inf
        self._day: Day | None = None
        self._day_at = -math.inf
        self._day_lights: Mapping[str, State] = {}
        """How the lights were when the day was read last: it ends with them."""

    async def current(self) -> Snapshot:
        """Return how the service is; never raises for the database's sake."""
        async with self._taking:
            if self._taken is None or self._clock() - self._taken_at >= FRESH:
                await self._health.check()
                self._taken = await self._take()
                self._taken_at = self._clock()
            return self._taken

    async def _take(self) -> Snapshot:
        health = self._health
        parts, standing = dict(health.components), health.standing
        lights = find_lights(parts)
        latest = None
        if standing is not None:
            with suppress(DatabaseUnavailableError, asyncpg.PostgresError):  # which the verdict says the next time
                latest = await read_deliveries(self._database, at_most=_LATEST)
                await self._read_day(standing.now, lights)
        counts = health.counts
        verdict = judge_all(
            parts, standing, answered=counts.tickets["ok"] if counts is not None and counts.held else None
        )
        return Snapshot(
            verdict=verdict,
            step=self._next_step(parts, verdict),
            lights={name: lights.get(name) for name in LIGHTS},
            day=self._day,
            latest=latest,
            standing=standing,
            refusals=refusals_of(health.answers),
            gaps=None if standing is None else health.gaps,
            disputes=None if standing is None else health.disputes,
            counts=counts,
            keys={endpoint: self._secrets.keys.fingerprints(endpoint) for endpoint in self._health.endpoints},
        )

    async def _read_day(self, now: datetime, lights: Mapping[str, Light]) -> None:
        states = {name: each.state for name, each in lights.items()}
        if states == self._day_lights and self._clock() - self._day_at < _DAY_FRESH:
            return
        times = times_of(now)
        self._day = summarise(
            times,
            await read_columns(self._database, times.columns, STEP),
            await read_counted(self._database, times.hours, HOUR),
            await read_verdicts(self._database, DAY),
            states,
        )
        self._day_at, self._day_lights = self._clock(), states

    def _next_step(self, parts: Mapping[str, Component], verdict: Headline) -> NextStep | None:
        name = verdict.part
        part = None if name is None else parts.get(name)
        if name is None or part is None or not part.next_step:
            return None
        heading = part.runbook.partition("#")[2] if part.state in WRONG else ""
        return NextStep(words=_as_sentence(part.next_step), command=self._command(name, part), heading=heading or name)

    def _command(self, name: str, part: Component) -> str:
        """Return what to type first."""
        place, standing = self._place, self._health.standing
        if name == "poller":
            vanished = standing is not None and standing.poller == "vanished"
            return place.restart_poller if vanished else place.start_poller
        if part.state not in WRONG:
            return f"{place.console} status"
        if part.next_step == MIGRATE:
            return place.migrate
        if name in _TOLD_BY_THE_LOG and place.logs:
            return f"{place.logs} --event {_TOLD_BY_THE_LOG[name]}"
        return f"{place.console} doctor"


def _as_sentence(words: str) -> str:
    """Return a next step, which follows an arrow elsewhere, as a sentence; a command keeps its small letter."""
    begun = words if words.startswith(_COMMANDS) else words[:1].upper() + words[1:]
    return begun if begun.endswith(("?", "!", ".")) else f"{begun}."
