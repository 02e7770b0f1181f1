"""The receiver's handler and the request that it gets for a delivery; and whether a list is the one asked for."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace

from aiohttp import StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpVersion11, RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from db.database import Database
from db.minutes import MinuteBook
from freescout_audit.endpoints import AUDIT, path_of
from freescout_audit.rule import Terms
from poller.freescout import DeskResponse
from receiver.answers import Answers
from receiver.body import Places
from receiver.endpoints import Endpoint, register
from receiver.handler import DeliveryHandler
from receiver.metrics import Metrics
from receiver.refusals import Refusals
from receiver.writing import Writing
from settings import Secret, load_settings
from simulator import Attempt

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PATH = path_of(AUDIT)
_EVER = 3600.0
"""Seconds that a commit may take: no machine is so busy."""


def make_handler(cache: Database, terms: Terms, keys: Callable[[], Sequence[Secret]]) -> Handler:
    """Return a receiver's handler of the audit endpoint, which accepts these keys."""
    metrics, app = Metrics(), web.Application()
    handler = DeliveryHandler(
        cache,
        terms=terms,
        commit_timeout=_EVER,
        metrics=metrics,
        writing=Writing(cache),
        answers=Answers(cache),
        minutes=MinuteBook(cache, ""),
    )
    endpoint = Endpoint(name=AUDIT, enabled=lambda: True, secrets=keys, handle=handler.handle)
    settings = load_settings({}).receiver
    register(
        app,
        endpoint,
        settings=settings,
        metrics=metrics,
        places=Places(settings.max_in_flight),
        refusals=Refusals(metrics),
    )
    route, _with_a_slash = app.router.routes()
    return route.handler


def request_of(delivery: Attempt, request_id: str) -> web.Request:
    """Return the request that a delivery arrives as; to be used inside an event loop."""
    loop = asyncio.get_running_loop()
    body = StreamReader(BaseProtocol(loop), 2**16, loop=loop)
    body.feed_data(delivery.body)
    body.feed_eof()
    headers = CIMultiDict(delivery.headers)
    headers["X-Request-ID"] = request_id
    headers["Content-Length"] = str(len(delivery.body))
    # The body is there: no sender waits to be asked for it.
    headers.popall("Expect", None)
    message = RawRequestMessage(
        "POST",
        PATH,
        HttpVersion11,
        CIMultiDictProxy(headers),
        raw_headers=(),
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL(PATH),
    )
    return web.Request(message, body, _UNUSED, _UNUSED, _UNUSED, loop)  # type: ignore[arg-type] # they are not looked at


_UNUSED = SimpleNamespace(transport=None, ssl_context=None, peername=None, sockname=None)
"""Stands in for the connection, its writer and its task."""


def dates_of(answer: DeskResponse) -> Sequence[datetime]:
    """Return the dates of the last change that a list bears."""
    rows = json.loads(answer.body)["_embedded"]["conversations"]
    return [datetime.fromisoformat(row["updatedAt"]) for row in rows]


def not_what_was_asked(answer: DeskResponse, query: Mapping[str, str]) -> bool:
    """Tell whether a list plainly is not the one that was asked for: its size, its page, its order."""
    if "number" in query:
        return False  # only its date is looked at
    document = json.loads(answer.body)
    rows = document["_embedded"]["conversations"]
    values = [row[query["sortField"]] for row in rows]
    return (
        len(rows) > int(query["pageSize"])
        or document["page"]["number"] != int(query["page"])
        or values != sorted(values, reverse=query["sortOrder"] == "desc")
    )
