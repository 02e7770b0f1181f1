"""Infisical's API over HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from freescout_audit.bounded import TooLargeError, read_within
from freescout_audit.connecting import LONGEST_HEADER, SSL_CERT_FILE, why_no_answer
from freescout_audit.invisible import what_does_not_belong
from settings.vault.client import SendRequest
from settings.vault.infisical import Request, VaultError, VaultRefusedError, VaultResponse, VaultUnavailableError

LARGEST = 1 << 20
"""Bytes of an answer at the most, after decompression: a folder of secrets has some thousands."""
_CHUNK = 1 << 14


@asynccontextmanager
async def http_send(url: str, *, patience: float) -> AsyncIterator[SendRequest]:
    """Open connections to the vault at ``url``; ``patience`` seconds for each whole answer."""
    async with aiohttp.ClientSession(
        headers={"Accept": "application/json"},
        timeout=aiohttp.ClientTimeout(total=patience),
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    ) as session:

        async def send(request: Request) -> VaultResponse:
            headers = {"Content-Type": "application/json"} if request.body else {}
            if request.token is not None:
                token = request.token.reveal()
                if strange := what_does_not_belong(token):
                    raise VaultRefusedError(f"there is {strange} in Infisical's access token", "is it Infisical?")
                headers["Authorization"] = f"Bearer {token}"
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
                    return VaultResponse(
                        status=response.status,
                        headers=received,
                        body=body,
                        asked=url + request.path,
                        path=request.path,
                    )
            except TooLargeError as error:
                raise VaultRefusedError(
                    f"what answers at INFISICAL_URL sends an answer {error}",
                    "is it Infisical? let INFISICAL_PATH be a folder of few secrets",
                ) from None
            except (aiohttp.ClientError, OSError) as error:
                raise _no_answer(error, url, patience) from None

        yield send


def _no_answer(error: aiohttp.ClientError | OSError, url: str, patience: float) -> VaultError:
    """Return what it means that no answer came."""
    why = why_no_answer(error, url, name="INFISICAL_URL", patience=patience)
    if why.about == "certificate":
        return VaultRefusedError(why.problem, SSL_CERT_FILE)
    return VaultUnavailableError(why.problem, "is INFISICAL_URL right, and is it up?")
