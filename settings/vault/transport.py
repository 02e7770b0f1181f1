"""Infisical's API over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from freescout_audit.bounded import TooLargeError, read_within
from settings.vault.client import Send
from settings.vault.infisical import Request, VaultRefusedError, VaultResponse

LARGEST = 1 << 20
"""Bytes of an answer at the most, after decompression: a folder of secrets has some thousands."""
_CHUNK = 1 << 14


@asynccontextmanager
async def http_send(url: str, *, patience: float) -> AsyncIterator[Send]:
    """Open connections to the vault at ``url``; ``patience`` seconds for each whole answer."""
    async with aiohttp.ClientSession(
        headers={"Accept": "application/json"}, timeout=aiohttp.ClientTimeout(total=patience)
    ) as session:

        async def send(request: Request) -> VaultResponse:
            headers = {"Content-Type": "application/json"} if request.body else {}
            if request.token is not None:
                headers["Authorization"] = f"Bearer {request.token.reveal()}"
            try:
                async with session.request(
                    request.method,
                    url + request.path,
                    params=request.query,
                    data=request.body or None,
                    headers=headers,
                    # A redirect would carry the credentials to wherever it leads.
                    allow_redirects=False,
                ) as response:
                    received = {name.lower(): value for name, value in response.headers.items()}
                    body = await read_within(LARGEST, response.content.iter_chunked(_CHUNK))
                    return VaultResponse(status=response.status, headers=received, body=body)
            except TooLargeError as error:
                raise VaultRefusedError(
                    f"what answers at INFISICAL_URL sends an answer {error}",
                    "is it Infisical? let INFISICAL_PATH be a folder of few secrets",
                ) from None
            except aiohttp.ClientError as error:
                raise ConnectionError(type(error).__name__) from None

        yield send
