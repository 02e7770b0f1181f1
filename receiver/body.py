"""Reads a request body as it comes over the wire: with a limit, a pace and a place, signing it on the way."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from freescout_audit.errors import FreescoutAuditError
from freescout_audit.signature import Signer
from settings.table import ReceiverSettings

SMALL = 262_144
"""Bodies of so many bytes never compete with larger ones, and wait for no turn."""
_PATIENCE = 0.5
"""Seconds between two looks, of one that waits, whether those before it stall."""
_GRACE = 1.0
"""Seconds that one has to go on once it has its turn: its sender has to notice first."""
_STALLS = 65_536
"""Bytes a second below which a body that has its turn stalls."""


class BodyTooLargeError(FreescoutAuditError):
    """The body is larger than `receiver.max_body`."""


class BodyTooSlowError(FreescoutAuditError):
    """The body did not begin, go on or end in time."""


class BodyAbortedError(FreescoutAuditError):
    """The sender went away, or broke the protocol, before the body was complete."""


class BodyGaveWayError(FreescoutAuditError):
    """The body was the slowest when another one needed its place."""


class Places:
    """The memory and the number of bodies under way at once. A body holds what has arrived of it, nothing before.

    Large bodies share ``size`` bytes, small ones a quarter of it besides. Once `SMALL` bytes of a large one have
    arrived, it waits for its turn until those before it leave room for all of it, and nothing more of it is read
    meanwhile. Where others wait, one that has its turn and stalls gives way. Where there is no room for the next bytes
    at all, the body of which the least arrived lately does. Where more are under way than ``most`` says, that one does,
    or the oldest of which nothing has arrived if there are not fewer of those. A body that is larger than all of it
    gets all of it, alone.
    """

    def __init__(
        self, size: int, *, most: Callable[[], int] = lambda: 500, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._large = _Lane(size)
        self._small = _Lane(max(size // 4, SMALL))
        self._most = most
        self._clock = clock

    @property
    def held(self) -> int:
        """How many bytes all bodies hold now."""
        return self._large.held + self._small.held

    @contextmanager
    def place(self, announced: int) -> Iterator["BodyPlace"]:
        """Give a place to a body that is under way, for as long as its bytes are held."""
        lane = self._small if announced <= SMALL else self._large
        if len(self._small) + len(self._large) >= self._most():
            fuller = max(self._small, self._large, key=len)
            fuller.last_in_line(self._clock()).give_way("more bodies were under way than receiver.connections allows")
        place = BodyPlace(self, lane, min(announced, lane.size))
        lane.silent[place] = None
        try:
            yield place
        finally:
            lane.remove(place)

    def now(self) -> float:
        """Return the clock's time, in seconds."""
        return self._clock()

    def hasten(self, lane: "_Lane") -> None:
        """Let those that have their turn and stall give way to those that wait for theirs."""
        now = self._clock()
        for place in list(lane.moving):
            if lane.waiting and now - place.turn_at >= _GRACE and place.pace(now) < _STALLS:
                place.give_way("other bodies waited for receiver.max_in_flight, and this one stalled")

    def grow(self, place: "BodyPlace", size: int) -> None:
        """Hold ``size`` more bytes of a body; whichever is slowest gives way if there is no room."""
        if place.lost:
            return
        now, lane = self._clock(), place.lane
        place.moved(size, now)
        lane.held += size
        lane.silent.pop(place, None)
        lane.moving[place] = None
        while lane.held > lane.size and len(lane.moving) > 1:
            lane.slowest(now).give_way("other bodies took all of receiver.max_in_flight")


class BodyPlace:
    """What a body holds."""

    def __init__(self, places: Places, lane: "_Lane", needs: int) -> None:
        self.lane = lane
        self.needs = needs
        """How many bytes it may come to hold."""
        self.has_turn = needs <= SMALL
        self.turn_at = math.inf
        """Since when it has one for which others may have to wait, by the clock."""
        self.arrived = 0
        self.lost = ""
        """Why it has given way, empty while it has not."""
        self._places = places
        self._timeout: asyncio.Timeout | None = None
        self._pace = 0.0
        self._moved_at = 0.0

    def grow(self, size: int) -> None:
        """Hold ``size`` more bytes.

        Raises:
            BodyGaveWayError: This body is the slowest, and there is no room.
        """
        self._places.grow(self, size)
        if self.lost:
            raise BodyGaveWayError(self.lost)

    async def turn(self, size: int) -> None:
        """Wait for its turn if ``size`` more bytes are more than may arrive before it."""
        if self.has_turn or self.arrived + size <= SMALL:
            return
        lane, wake = self.lane, asyncio.get_running_loop().create_future()
        lane.waiting[self] = wake
        lane.admit()
        try:
            while not wake.done():
                await asyncio.wait([wake], timeout=_PATIENCE)
                self._places.hasten(lane)
        except asyncio.CancelledError:
            self.lost = self.lost or "other bodies took all of receiver.max_in_flight for receiver.body_timeout"
            raise
        finally:
            lane.waiting.pop(self, None)
            lane.admit()
        self.turn_at = self._places.now()

    def complete(self) -> None:
        """Hold what has arrived, and never give way again."""
        self.lane.silent.pop(self, None)
        self.lane.moving.pop(self, None)

    def interrupts(self, timeout: asyncio.Timeout) -> None:
        """Let this time-out end as soon as the body has to give way."""
        self._timeout = timeout
        if self.lost:
            timeout.reschedule(0)

    def give_way(self, why: str) -> None:
        """Hold nothing any more, and stop reading."""
        self.lost = why
        self.lane.remove(self)
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(0)

    def moved(self, size: int, now: float) -> None:
        """Note that so many bytes arrived."""
        self.arrived += size
        self._pace = self.pace(now) + size
        self._moved_at = now

    def pace(self, now: float) -> float:
        """Return how many bytes arrived lately: those of a second ago count a third."""
        return self._pace * math.exp(self._moved_at - now)


class _Lane:
    """A share of the memory, and the bodies under way in it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.held = 0
        self.silent: dict[BodyPlace, None] = {}
        """Bodies of which nothing has arrived, the oldest first."""
        self.moving: dict[BodyPlace, None] = {}
        self.waiting: dict[BodyPlace, asyncio.Future[None]] = {}
        """Bodies that wait for their turn, and what wakes them, the first first."""
        self.promised = 0
        """Bytes for which those that have their turn need room."""

    def admit(self) -> None:
        """Give their turn to as many of those that wait as there is room for, one at the least."""
        for place, wake in list(self.waiting.items()):
            if self.promised and self.promised + place.needs > self.size:
                return
            self.promised += place.needs
            place.has_turn = True
            del self.waiting[place]
            wake.set_result(None)

    def __len__(self) -> int:
        return len(self.silent) + len(self.moving)

    def slowest(self, now: float) -> BodyPlace:
        return min(self.moving, key=lambda place: place.pace(now))

    def last_in_line(self, now: float) -> BodyPlace:
        # So neither silent senders nor slow ones can crowd out a body that is on its way.
        return next(iter(self.silent)) if len(self.silent) >= len(self.moving) else self.slowest(now)

    def remove(self, place: BodyPlace) -> None:
        """Free what it holds, once."""
        self.silent.pop(place, None)
        self.moving.pop(place, None)
        self.held -= place.arrived
        place.arrived = 0
        if place.has_turn and place.needs > SMALL:
            self.promised -= place.needs
            place.needs = 0
            self.admit()


def announced(request: web.Request, *, limit: int) -> int:
    """Return how many bytes the body has, as far as anybody knows before it is read: ``limit`` when it does not say.

    Raises:
        BodyTooLargeError: It announces more than ``limit``.
    """
    length = request.content_length
    if length is None:
        return limit if request.can_read_body else 0
    if length > limit:
        raise BodyTooLargeError(f"the body has {length} bytes, more than receiver.max_body ({limit})")
    return length


def here(request: web.Request, *, limit: int) -> bytes | None:
    """Return the body if all of it has arrived with the head, as small ones do: it needs no place.

    Raises:
        BodyTooLargeError: It has more than ``limit`` bytes, which it did not announce.
    """
    content = request.content
    if not content.is_eof() or content.exception() is not None:
        return None
    body = content.read_nowait()
    if len(body) > limit:
        raise BodyTooLargeError(f"the body has more bytes than receiver.max_body ({limit})")
    return body


async def read_body(
    request: web.Request, *, signers: Sequence[Signer], settings: ReceiverSettings, place: BodyPlace
) -> bytearray:
    """Return the raw body, every chunk of it having been given to each signer; it is held in memory once.

    Args:
        request: A request whose body has not been read, on a server that does not decompress.
        signers: One for each accepted key.
        settings: The largest body taken; how long it may take to begin, for so many bytes, and at the most.
        place: What it holds; the caller gives it back.

    Raises:
        BodyTooLargeError: More than `receiver.max_body` were sent.
        BodyTooSlowError: It did not begin in time, fell below the minimum rate, or was not complete in time.
        BodyGaveWayError: It was the slowest when another one needed its place.
        BodyAbortedError: Not complete, and never will be.
    """
    body, limit = bytearray(), settings.max_body
    began = asyncio.get_running_loop().time()
    ends = began + settings.body_timeout
    try:
        async with asyncio.timeout_at(began + _allowance(0, settings)) as timeout:
            place.interrupts(timeout)
            await _say_continue(request)
            async for chunk in request.content.iter_any():
                if len(body) + len(chunk) > limit:
                    raise BodyTooLargeError(f"the body has more bytes than receiver.max_body ({limit})")
                if not place.has_turn:
                    timeout.reschedule(ends)
                    waits = asyncio.get_running_loop().time()
                    await place.turn(len(chunk))
                    began += asyncio.get_running_loop().time() - waits
                place.grow(len(chunk))
                timeout.reschedule(min(began + _allowance(place.arrived, settings), ends))
                for signer in signers:
                    signer.update(chunk)
                body += chunk
    except TimeoutError as error:
        if place.lost:
            raise BodyGaveWayError(place.lost) from error
        allowed = _allowance(len(body), settings)
        raise BodyTooSlowError(f"{len(body)} bytes came in {allowed:.3g} s, and then not the rest") from error
    except RuntimeError as error:  # what aiohttp raises when the connection had ended before we began to read
        if request.transport is not None and not request.transport.is_closing():
            raise
        raise BodyAbortedError("the connection had ended before its body was read") from error
    except (OSError, HttpProcessingError, web.RequestPayloadError, web.PayloadAccessError) as error:
        raise BodyAbortedError(f"{len(body)} bytes came, and then the connection ended") from error
    place.complete()
    return body


async def leave_expectation(_request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` unanswered for now, so that a request can be refused before its body is sent."""


async def _say_continue(request: web.Request) -> None:
    """Ask for the body if the sender waits to be asked, as FreeScout's does over about 1 MB."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _allowance(arrived: int, settings: ReceiverSettings) -> float:
    """Return how long a body of which so much has arrived may take until its next byte, in seconds since its head.

    As mod_reqtimeout of Apache counts: a time to begin, and a second more for so many bytes.
    """
    return min(settings.first_byte_timeout + arrived / settings.min_rate, settings.body_timeout)
