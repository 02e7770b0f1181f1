"""Reads a request body as it comes over the wire: with a limit, with a deadline, signing it on the way."""

import asyncio
from collections.abc import Sequence

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from freescout_audit.errors import FreescoutAuditError
from freescout_audit.signature import Signer


class BodyTooLargeError(FreescoutAuditError):
    """The body is larger than `receiver.max_body`."""


class BodyTooSlowError(FreescoutAuditError):
    """The body was not complete within `receiver.body_timeout`."""


class BodyAbortedError(FreescoutAuditError):
    """The sender went away, or broke the protocol, before the body was complete."""


async def read_body(request: web.Request, *, signers: Sequence[Signer], limit: int, deadline: float) -> bytes:
    """Return the raw body, every chunk of it having been given to each signer.

    Args:
        request: A request whose body nobody has read, on a server that does not decompress.
        signers: One for each accepted key.
        limit: The largest body taken, in bytes.
        deadline: How long it may take to arrive, in seconds.

    Raises:
        BodyTooLargeError: More than ``limit``, announced or sent.
        BodyTooSlowError: Not complete in time.
        BodyAbortedError: Not complete, and never will be.
    """
    if request.content_length is not None and request.content_length > limit:
        raise BodyTooLargeError(f"the body has {request.content_length} bytes, more than receiver.max_body ({limit})")
    body = bytearray()
    try:
        async with asyncio.timeout(deadline):
            await _say_continue(request)
            async for chunk in request.content.iter_any():
                if len(body) + len(chunk) > limit:
                    raise BodyTooLargeError(f"the body has more bytes than receiver.max_body ({limit})")
                body += chunk
                for signer in signers:
                    signer.update(chunk)
    except TimeoutError as error:
        raise BodyTooSlowError(f"{len(body)} bytes came in {deadline:g} s, and then not the rest") from error
    except (OSError, HttpProcessingError, web.RequestPayloadError, web.PayloadAccessError) as error:
        raise BodyAbortedError(f"{len(body)} bytes came, and then the connection ended") from error
    return bytes(body)


async def leave_expectation(_request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` unanswered for now, so that a request can be refused before its body is sent."""


async def _say_continue(request: web.Request) -> None:
    """Ask for the body if the sender waits to be asked, as FreeScout's does over about 1 MB."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # it counts the bytes of the answer
