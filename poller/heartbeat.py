"""A dead man's switch: each pass is told to a URL that somebody else watches, who calls when it falls silent.

The URL is a secret. healthchecks.io and those that do as it does take ``/start`` and ``/fail`` behind it. Others know
the bare URL alone, so what those two are answered does not matter.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from freescout_audit.events import HEARTBEAT_FAILED
from freescout_audit.repeats import Repeats
from settings.environment import Secret

PATIENCE = 10.0
"""Seconds that an answer may take."""
_MOST = 10
"""Pings under way; while as many hang, nothing more is told."""

Send = Callable[[str], Awaitable[int]]
"""Sends a GET request to a URL and returns the status; raises what aiohttp raises."""


class Heartbeat:
    """Tells passes to the URL, if there is one, beside the pass: nothing of it delays or fails one.

    ``url`` is asked each time, so that a new one needs no new start.
    """

    def __init__(self, url: Callable[[], Secret | None], send: Send) -> None:
        self._url = url
        self._send = send
        self._repeats = Repeats()
        self._last: asyncio.Task[None] | None = None
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        """How many pings have not come to their end."""
        return len(self._under_way)

    def began(self) -> None:
        """Tell that a pass begins."""
        self._tell("start")

    def completed(self) -> None:
        """Tell that a pass is complete."""
        self._tell("")

    def failed(self) -> None:
        """Tell that a pass has failed."""
        self._tell("fail")

    async def close(self) -> None:
        """End what is under way."""
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)

    def _tell(self, what: str) -> None:
        secret = self._url()
        if secret is not None and len(self._under_way) < _MOST:
            self._last = asyncio.create_task(self._ping(secret.reveal(), what, after=self._last))
            self._under_way.add(self._last)
            self._last.add_done_callback(self._under_way.discard)

    async def _ping(self, url: str, what: str, *, after: asyncio.Task[None] | None) -> None:
        """Ping once the one before has ended: who watches has to see them in their order."""
        if after is not None and not after.done():
            await asyncio.wait([after])
        try:
            status = await self._send(_of(url, what))
        except TimeoutError:
            reason = f"it does not answer within {PATIENCE:g} s"
        except (aiohttp.ClientError, OSError, ValueError):  # whose messages hold the URL
            reason = "it cannot be reached"
        else:
            if what or status < 400:  # noqa: PLR2004 - HTTP's own number
                return
            reason = f"it answers {status}"
        self._repeats.emit(HEARTBEAT_FAILED, reason, reason=reason, next_step="is OPS_HEARTBEAT_URL right?")


@asynccontextmanager
async def heartbeat(url: Callable[[], Secret | None]) -> AsyncIterator[Heartbeat]:
    """Open what sends heartbeats to a URL."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:

        async def send(address: str) -> int:
            async with session.get(address) as response:
                return response.status

        beating = Heartbeat(url, send)
        try:
            yield beating
        finally:
            await beating.close()


def _of(url: str, what: str) -> str:
    address = URL(url)
    if not what:
        return str(address)
    return str(address.with_path(f"{address.path.rstrip('/')}/{what}").with_query(address.query))
