"""Reads a request body as it comes over the wire: with a limit, a deadline and a place, signing it on the way."""

import asyncio
from collections import deque
from collections.abc import Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from freescout_audit.errors import FreescoutAuditError
from freescout_audit.signature import Signer

SMALL = 262_144
"""Bodies of so many bytes never wait behind large ones."""


class BodyTooLargeError(FreescoutAuditError):
    """The body is larger than `receiver.max_body`."""


class BodyTooSlowError(FreescoutAuditError):
    """The body was not complete within `receiver.body_timeout`."""


class BodyAbortedError(FreescoutAuditError):
    """The sender went away, or broke the protocol, before the body was complete."""


class NoPlaceError(FreescoutAuditError):
    """Bodies that came before took all of `receiver.max_in_flight` for as long as `receiver.body_timeout`."""


class Places:
    """The memory that bodies may take at once: large ones share ``size`` bytes, small ones a quarter of it besides.

    Places are given in the order of asking. A body that is larger than all of it gets all of it, alone.
    """

    def __init__(self, size: int) -> None:
        self._large = _Lane(size)
        self._small = _Lane(max(size // 4, SMALL))

    async def take(self, size: int, deadline: float) -> None:
        """Take a place of ``size`` bytes, to be given back by `leave`.

        Raises:
            NoPlaceError: There was none within ``deadline`` seconds.
        """
        lane = self._lane(size)
        if lane.take(size):
            return
        try:
            async with asyncio.timeout(deadline):
                await lane.wait(size)
        except TimeoutError as error:
            raise NoPlaceError(f"other bodies took all of receiver.max_in_flight for {deadline:g} s") from error

    def leave(self, size: int) -> None:
        """Give a place back."""
        self._lane(size).leave(size)

    def _lane(self, size: int) -> "_Lane":
        return self._small if size <= SMALL else self._large


class _Lane:
    """A first-in-first-out limit in bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def take(self, size: int) -> bool:
        """Take so many bytes at once if they are free and no other body waits."""
        size = min(size, self._size)
        if self._waiting or size > self._free:
            return False
        self._free -= size
        return True

    async def wait(self, size: int) -> None:
        """Take so many bytes when it is our turn."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((min(size, self._size), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()  # the next one in the queue may fit
            else:
                self.leave(size)
            raise

    def leave(self, size: int) -> None:
        """Give so many bytes back."""
        self._free += min(size, self._size)
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.done():
                if size > self._free:
                    return
                self._free -= size
                turn.set_result(None)
            self._waiting.popleft()


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


async def read_body(request: web.Request, *, signers: Sequence[Signer], limit: int, deadline: float) -> bytearray:
    """Return the raw body, every chunk of it having been given to each signer; it is held in memory once.

    Args:
        request: A request whose body has not been read, on a server that does not decompress.
        signers: One for each accepted key.
        limit: The largest body taken, in bytes.
        deadline: How long it may take to arrive, in seconds.

    Raises:
        BodyTooLargeError: More than ``limit`` were sent.
        BodyTooSlowError: Not complete in time.
        BodyAbortedError: Not complete, and never will be.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(deadline):
            await _say_continue(request)
            async for chunk in request.content.iter_any():
                if len(body) + len(chunk) > limit:
                    raise BodyTooLargeError(f"the body has more bytes than receiver.max_body ({limit})")
                for signer in signers:
                    signer.update(chunk)
                body += chunk
    except TimeoutError as error:
        raise BodyTooSlowError(f"{len(body)} bytes came in {deadline:.3g} s, and then not the rest") from error
    except (OSError, HttpProcessingError, web.RequestPayloadError, web.PayloadAccessError) as error:
        raise BodyAbortedError(f"{len(body)} bytes came, and then the connection ended") from error
    return body


async def leave_expectation(_request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` unanswered for now, so that a request can be refused before its body is sent."""


async def _say_continue(request: web.Request) -> None:
    """Ask for the body if the sender waits to be asked, as FreeScout's does over about 1 MB."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
