"""A delivery as the request that the receiver's handler gets, without a socket."""

import asyncio
from types import SimpleNamespace

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from receiver.audit import ENDPOINT
from receiver.endpoints import PREFIX
from simulator import Attempt

_PATH = PREFIX + ENDPOINT


def request_of(delivery: Attempt, request_id: str) -> web.Request:
    """Return the request that a delivery arrives as; to be used inside an event loop."""
    loop = asyncio.get_running_loop()
    body = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    body.feed_data(delivery.body)
    body.feed_eof()
    headers = CIMultiDict(delivery.headers)
    headers["X-Request-ID"] = request_id
    headers["Content-Length"] = str(len(delivery.body))
    # Nobody waits to be asked for a body that is there.
    headers.popall("Expect", None)
    message = RawRequestMessage(
        "POST",
        _PATH,
        HttpVersion11,
        CIMultiDictProxy(headers),
        raw_headers=(),
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL(_PATH),
    )
    return web.Request(message, body, _NOBODY, _NOBODY, _NOBODY, loop)  # type: ignore[arg-type] # nobody looks at them


_NOBODY = SimpleNamespace(transport=None, ssl_context=None, peername=None, sockname=None)
"""Stands in for the connection, its writer and its task."""
