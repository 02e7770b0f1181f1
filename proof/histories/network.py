"""What lies between us and the desk: its API, as pollers reach it, and the deliveries that it sends."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

from aiohttp import web

from freescout_audit.rule import FUTURE_TOLERANCE, Terms
from poller.freescout import DeskResponse
from proof.histories.cache import StagedCache
from proof.histories.http import make_handler, request_of
from proof.histories.mix import Mix
from proof.histories.oracle import WrongError
from proof.histories.stage import Process, Stage
from settings import Secret
from simulator import Api, ApiFault, ApiRequest, Attempt, DeliveryError, Desk, ManualClock

LATEST = 90 * 60
"""Seconds that the network may keep a delivery."""
LYING_DATES = tuple(datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC) for year in (1970, 2030, 9999))
PATIENCE = timedelta(seconds=60)
"""How long a poller waits for an answer."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)

Say = Callable[[str], None]


class AskedDesk:
    """The desk's API, slow and failing, behind a proxy that drops parameters, with a ``Date`` that may lie.

    ``key`` is what we ask with, ``faulty`` turns all that on, and ``dropped`` is what the proxy drops of some requests.
    """

    def __init__(self, desk: Desk, *, stage: Stage, rng: random.Random, clock: ManualClock, mix: Mix, say: Say) -> None:
        self.key = desk.api_key
        self.faulty = False
        self.dropped: frozenset[str] = frozenset()
        self._desk = desk
        self._api = Api(desk)
        self._stage = stage
        self._rng = rng
        self._clock = clock
        self._mix = mix
        self._say = say
        self._told: datetime | timedelta = timedelta()
        """What a ``Date`` that lies says, or how far it is from any clock; and until when it does."""
        self._lies_until = _LONG_AGO

    async def ask(self, path: str, query: Mapping[str, str], /) -> DeskResponse:
        """Ask as `poller.freescout.FreeScout` does.

        Raises:
            TimeoutError: No answer came in time.
            ConnectionError: It broke off.
        """
        stage, rng, faults = self._stage, self._rng, self._desk.faults
        sent = self._clock.now()
        await stage.turn(f"asks for {path}")
        if self.faulty and rng.random() < self._mix.api:
            faults.api = rng.choice(list(ApiFault))
        if self._mix.dropped:
            drops = self.faulty and rng.random() < self._mix.dropped
            faults.dropped = self.dropped if drops else frozenset()
        several = path == "conversations" and query["pageSize"] != "1"
        if self._mix.fails and self.faulty and several and rng.random() < self._mix.fails:
            faults.api = ApiFault.SERVER_ERROR
        if self._mix.dates:
            faults.date = self._lie() if self.faulty else None
        headers = {"X-FreeScout-API-Key": self.key, "Accept": "application/json"}
        answer = self._api.answer(ApiRequest("GET", f"/api/{path}", query, headers))
        self._say(f"the desk answers {answer.status} to {path} {dict(query)}")
        faults.api = faults.date = None
        slow = self.faulty and rng.random() < self._mix.slow
        for _ in range(rng.randint(1, 3) if slow else 1):
            await stage.turn(f"waits for {path}")
        if answer.hangs or self._clock.now() - sent > PATIENCE:
            raise TimeoutError("no answer in time")
        if answer.broken_at is not None:
            raise ConnectionError("broken off")
        return DeskResponse(
            status=answer.status, headers={name.lower(): value for name, value in answer.headers}, body=answer.body
        )

    def _lie(self) -> datetime | None:
        """Return what a ``Date`` says that lies, once or for a while; None: it tells the truth."""
        now = self._clock.now()
        if self._lies_until < now:
            if self._rng.random() >= self._mix.dates:
                return None
            lies: Sequence[datetime | timedelta] = (*LYING_DATES, *(timedelta(days=days) for days in (-20, -2, 2, 20)))
            self._told = self._rng.choice(lies)
            self._lies_until = now + timedelta(seconds=self._rng.choice((0, 0, 600)))
        return self._told if isinstance(self._told, datetime) else now + self._told


class Courier:
    """Carries deliveries to the receiver through a bad network, and holds the receiver's answers against its promises.

    ``faulty`` makes the network bad; ``received`` and ``promised`` are the deliveries and request ids answered 200;
    ``ahead`` is how far the desk's clock was ahead of ours, as measured, at each look.
    """

    def __init__(
        self,
        cache: StagedCache,
        *,
        terms: Terms,
        stage: Stage,
        rng: random.Random,
        clock: ManualClock,
        mix: Mix,
        say: Say,
        keys: Callable[[], Sequence[Secret]],
    ) -> None:
        self.faulty = False
        self.received: list[Attempt] = []
        self.promised: set[str] = set()
        self.ahead = [timedelta()]
        self._cache = cache
        self._terms = terms
        self._stage = stage
        self._rng = rng
        self._clock = clock
        self._mix = mix
        self._say = say
        self._keys = keys
        self._in_the_air: list[tuple[datetime, Attempt]] = []
        self._not_believed: set[bytes] = set()
        """Bodies of deliveries that were answered 200, and not believed."""
        self._request_ids = count(1)
        self.start_receiver()

    def start_receiver(self) -> None:
        """Start a receiver, in the place of a dead one."""
        self.receiver = Process("receiver")
        self._gate = make_handler(self._cache, self._terms, self._keys)

    def arrivals(self, until: datetime | None = None) -> Iterator[Attempt]:
        """Take out of the air what arrives until a moment, or all of it: each has to be received."""
        for arrival in [entry for entry in self._in_the_air if until is None or entry[0] <= until]:
            self._in_the_air.remove(arrival)
            yield arrival[1]

    async def carry(self, delivery: Attempt, /) -> int:
        """Carry a delivery as FreeScout's worker has it carried; return the answer's status.

        Raises:
            DeliveryError: No answer came.
        """
        rng, mix = self._rng, self._mix
        await self._stage.turn(f"sends {delivery.event} of {delivery.conversation_id}")
        fate = rng.random() if self.faulty else 1.0
        if (fate := fate - mix.late) < 0:
            self._float(delivery)
            raise DeliveryError("30 s passed")
        if (fate := fate - mix.twice) < 0:
            self._float(delivery)
        status = await self.receive(delivery)
        if status is None or (self.faulty and rng.random() < mix.unanswered):
            raise DeliveryError("no answer")
        return status

    def _float(self, delivery: Attempt) -> None:
        overdue = self._rng.random() < self._mix.overdue
        seconds = (
            self._rng.uniform(3600, LATEST) if overdue else self._rng.uniform(0, self._rng.choice((5, 120, LATEST)))
        )
        self._in_the_air.append((self._clock.now() + timedelta(seconds=seconds), delivery))

    async def receive(self, delivery: Attempt) -> int | None:
        """Give a delivery to the receiver; None when it died over it.

        Raises:
            WrongError: What it answered breaks a promise.
        """
        request_id = f"delivery-{next(self._request_ids)}"
        before = len(self.ahead) - 1
        handling = self._stage.start(self.receiver, self._handle(delivery, request_id))
        try:
            await asyncio.wait((handling,))
        except asyncio.CancelledError:
            return None
        if handling.cancelled():
            return None
        status, outcome = handling.result()
        self._say(f"{delivery.event} of {delivery.conversation_id} is answered {status} {outcome}")
        if status == 200:
            self.promised.add(request_id)
            self.received.append(delivery)
        if "applied" in outcome:
            self._is_not_from_the_future(delivery, max(self.ahead[before:]))
        return status

    async def replay(self, delivery: Attempt) -> tuple[int, str]:
        """Have the receiver take a delivery while nobody else has a turn; return its answer."""
        handled = self._handle(delivery, f"replay-{next(self._request_ids)}")
        return await self._stage.alone(self.receiver, handled)

    async def _handle(self, delivery: Attempt, request_id: str) -> tuple[int, str]:
        await self._stage.turn(f"takes {delivery.event} of {delivery.conversation_id}")
        told_before = delivery.body in self._not_believed
        response = await self._gate(request_of(delivery, request_id))
        outcome = (response.text if isinstance(response, web.Response) else None) or ""
        if told_before and "applied" in outcome:
            raise WrongError(
                f"{delivery.event} of {delivery.conversation_id} is believed, and was not when it came before"
            )
        if "disputed" in outcome or "stale" in outcome:
            self._not_believed.add(delivery.body)
        return response.status, outcome

    def _is_not_from_the_future(self, delivery: Attempt, ahead: timedelta) -> None:
        """What is dated later than the desk's clock can be is not believed."""
        dated = datetime.fromisoformat(json.loads(delivery.body)["updatedAt"])
        latest = self._clock.now() + self._cache.most_ahead + ahead + FUTURE_TOLERANCE
        if dated > latest:
            raise WrongError(f"{delivery.event} of {delivery.conversation_id} is believed, and dated {dated:%H:%M:%S}")
