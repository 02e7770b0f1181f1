"""FreeScout's API over HTTP."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp

from freescout_audit.bounded import TooLargeError, read_within
from freescout_audit.connecting import LONGEST_HEADER, SSL_CERT_FILE, why_no_answer
from freescout_audit.invisible import what_does_not_belong
from poller.answer import DeskError, DeskRefusedError, DeskResponse, DeskUnavailableError
from settings.environment import API_KEY, Secret

LARGEST = 16 << 20
"""Bytes of an answer at the most, after decompression; a row has about a thousand, and a page a thousand rows."""
_CHUNK = 1 << 16


class HttpTransport:
    """Sends requests to a desk: called, it reads (a `Transport`); `send` is for what changes something."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, api_key: Callable[[], Secret | None], *, patience: float
    ) -> None:
        self._session = session
        self._url = url
        self._api_key = api_key
        self._patience = patience

    async def __call__(self, path: str, query: Mapping[str, str], /) -> DeskResponse:
        """Send a GET request.

        Raises:
            DeskError: No answer came, or one that is larger than any that FreeScout gives.
        """
        return await self._request("GET", path, query=query)

    async def send(self, method: str, path: str, body: bytes | None = None, /) -> DeskResponse:
        """Send a request that changes something; ``body`` is JSON."""
        return await self._request(method, path, body=body)

    async def _request(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> DeskResponse:
        headers = {} if body is None else {"Content-Type": "application/json"}
        if (key := self._api_key()) is not None:
            headers["X-FreeScout-API-Key"] = _sendable(key)
        url = f"{self._url}/api/{path}"
        try:
            # A redirect would carry the key to wherever it leads.
            async with self._session.request(
                method, url, params=query, data=body, headers=headers, allow_redirects=False
            ) as response:
                received = {name.lower(): value for name, value in response.headers.items()}
                if "age" in received:  # one of each cache on the way
                    received["age"] = ",".join(response.headers.getall("Age"))
                body = await read_within(LARGEST, response.content.iter_chunked(_CHUNK))
                return DeskResponse(status=response.status, headers=received, body=body, asked=url, path=f"/api/{path}")
        except TooLargeError as error:
            raise DeskUnavailableError(
                f"FreeScout's answer is {error}",
                "set a smaller POLLER_PAGE_SIZE; is it FreeScout that answers at FREESCOUT_URL?",
                again=False,
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._no_answer(error, url) from error

    def _no_answer(self, error: aiohttp.ClientError | OSError, url: str) -> DeskError:
        """Return what it means that no answer came."""
        why = why_no_answer(error, url, name="FREESCOUT_URL", patience=self._patience)
        match why.about:
            case "connection":
                return DeskUnavailableError(why.problem, "is FREESCOUT_URL right, and is the desk up?")
            case "certificate":
                return DeskRefusedError(why.problem, SSL_CERT_FILE)
            case "protocol":
                return DeskUnavailableError(
                    why.problem, "is it FreeScout that answers at FREESCOUT_URL, or a proxy in front?", again=False
                )


def _sendable(key: Secret) -> str:
    """Return the API key's value.

    Raises:
        DeskRefusedError: There is in it what no key has; it is not sent.
    """
    value = key.reveal()
    if strange := what_does_not_belong(value):
        raise DeskRefusedError(
            f"there is {strange} in {API_KEY}",
            "copy it again from Manage » Settings » API & Webhooks, and nothing else",
        )
    return value


@asynccontextmanager
async def http_transport(
    url: str, api_key: Callable[[], Secret | None], *, patience: float
) -> AsyncIterator[HttpTransport]:
    """Open connections to the desk at ``url`` (without ``/api``); ``patience`` seconds for each whole answer.

    ``api_key`` is asked for each request, so that a new key needs no new start.
    """
    async with aiohttp.ClientSession(
        # Errors are HTML unless JSON is asked for.
        # A cache has to ask FreeScout before it answers.
        headers={"Accept": "application/json", "Cache-Control": "no-cache"},
        timeout=aiohttp.ClientTimeout(total=patience),
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
    ) as session:
        yield HttpTransport(session, url, api_key, patience=patience)
