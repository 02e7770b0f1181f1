"""FreeScout's API over HTTP."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp

from poller.freescout import Answer, Transport
from settings.environment import Secret


@asynccontextmanager
async def http_transport(
    url: str, api_key: Callable[[], Secret | None], *, patience: float
) -> AsyncIterator[Transport]:
    """Open connections to the desk at ``url`` (without ``/api``); ``patience`` seconds for each whole answer.

    ``api_key`` is asked for each request, so that a new key needs no new start.
    """
    async with aiohttp.ClientSession(
        # Errors are HTML unless JSON is asked for.
        headers={"Accept": "application/json"},
        timeout=aiohttp.ClientTimeout(total=patience),
    ) as session:

        async def get(path: str, query: Mapping[str, str]) -> Answer:
            key = api_key()
            headers = {} if key is None else {"X-FreeScout-API-Key": key.reveal()}
            try:
                # A redirect would carry the key to wherever it leads.
                async with session.get(
                    f"{url}/api/{path}", params=query, headers=headers, allow_redirects=False
                ) as response:
                    received = {name.lower(): value for name, value in response.headers.items()}
                    return Answer(status=response.status, headers=received, body=await response.read())
            except aiohttp.ClientError as error:
                raise ConnectionError(type(error).__name__) from error

        yield get
