"""Tells open pages that something has changed, by server-sent events: a bounded number of streams, one look for all."""

import asyncio
import math
import time
from collections.abc import Callable

from aiohttp import web

from freescout_audit.events import RECEIVER_FAULT
from freescout_audit.repeats import Repeats
from receiver.page.snapshot import Snapshots

MOST = 20
"""Streams at the most; a page without one says that it is not live."""
LOOK_EVERY = 1.0
COMMENT_EVERY = 20.0
"""Seconds after which a comment is sent: routers cut what is silent for 55."""
_PATIENCE = 10.0
"""Seconds that a reader may leave its buffer full."""
_COME_BACK = 3000
"""Milliseconds after which a browser comes back."""


class Streams:
    """The streams that are open; ``wall`` gives seconds since 1970, by which sessions end."""

    def __init__(self, snapshots: Snapshots, *, wall: Callable[[], float] = time.time) -> None:
        self._snapshots = snapshots
        self._wall = wall
        self._open = 0
        self._closing = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._digest = ""

    async def serve(self, request: web.Request, *, until: float | None) -> web.StreamResponse:
        """Answer with a stream that ends with the session, at ``until`` (None: it does not), or with the process."""
        if self._open >= MOST or self._closing.is_set():
            return web.Response(status=503, headers={"Retry-After": "60"}, text="too many pages are live already\n")
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        self._open += 1
        try:
            self._digest = self._digest or (await self._snapshots.current()).digest
            if self._looking is None:
                self._looking = asyncio.create_task(self._look_for_ever())
            await response.prepare(request)
            await self._tell(response, until)
        except (ConnectionError, TimeoutError):
            pass  # it went away, or does not read
        finally:
            self._open -= 1
            if not self._open and self._looking is not None:
                self._looking.cancel()
                self._looking, self._digest = None, ""
        return response

    async def close(self, _app: web.Application) -> None:
        """End every stream: the process stops."""
        self._closing.set()
        async with self._changed:
            self._changed.notify_all()

    async def _tell(self, response: web.StreamResponse, until: float | None) -> None:
        told = ""
        await _write(response, f"retry: {_COME_BACK}\n\n")
        while not self._closing.is_set():
            left = math.inf if until is None else until - self._wall()
            if left <= 0:
                return
            if told != self._digest:
                told = self._digest
                await _write(response, f"event: changed\ndata: {told}\n\n")
            elif not await self._has_changed(told, within=min(COMMENT_EVERY, left)):
                await _write(response, ": still here\n\n")

    async def _has_changed(self, told: str, *, within: float) -> bool:
        """Wait until something has changed or the process stops, and tell whether that was so in time."""
        try:
            async with asyncio.timeout(within), self._changed:
                return await self._changed.wait_for(lambda: told != self._digest or self._closing.is_set())
        except TimeoutError:
            return False

    async def _look_for_ever(self) -> None:
        repeats = Repeats()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            try:
                digest = (await self._snapshots.current()).digest
            except Exception as error:  # noqa: BLE001 - the next look comes, whatever this one met
                repeats.emit(RECEIVER_FAULT, type(error).__name__, error=type(error).__name__, where="page")
                continue
            if digest != self._digest:
                async with self._changed:
                    self._digest = digest
                    self._changed.notify_all()


async def _write(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(_PATIENCE):
        await response.write(text.encode())
