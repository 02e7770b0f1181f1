"""A delivery as the request that the receiver's handler gets, without a socket."""

import asyncio
from functools import cache

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion11, RawRequestMessage
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from receiver.audit import ENDPOINT
from receiver.endpoints import PREFIX
from simulator import Delivery

_PATH = PREFIX + ENDPOINT


def request_of(delivery: Delivery, request_id: str) -> web.Request:
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
    wire = _wire(loop)
    return web.Request(message, body, wire.protocol, wire.writer, wire.task, loop)


@cache
def _wire(loop: asyncio.AbstractEventLoop) -> web.Request:
    """Return a request whose connection is a stand-in; one serves all, since nobody looks at it."""
    return make_mocked_request("POST", _PATH, loop=loop)
