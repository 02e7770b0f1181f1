"""Deliveries over real HTTP."""

from io import BytesIO
from types import TracebackType
from typing import Self

import aiohttp

from simulator.worker import TIMEOUT_SECONDS, Attempt, DeliveryError

# What aiohttp would add and Guzzle does not send.
_NOT_OURS = ("Accept", "Accept-Encoding")


class HttpTransport:
    """Posts deliveries as FreeScout does: 30 s for everything, redirects not followed.

    Use it as ``async with HttpTransport() as transport: await worker.run_due(transport)``.
    """

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), skip_auto_headers=_NOT_OURS
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def __call__(self, delivery: Attempt, /) -> int:
        """Post one delivery and return the answer's status code.

        Raises:
            DeliveryError: No answer came: refused, broken off, or not within 30 s.
        """
        if self._session is None:
            raise RuntimeError("enter the transport first: async with HttpTransport() as transport")
        try:
            async with self._session.post(
                delivery.url, data=BytesIO(delivery.body), headers=delivery.headers, allow_redirects=False
            ) as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DeliveryError(f"{type(error).__name__}: {error}") from error
