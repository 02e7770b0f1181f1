"""The API on a port: a thin aiohttp application around ``Api.answer``."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from simulator.answers import ApiRequest, ApiResponse
from simulator.api import Api
from simulator.clock import iso
from simulator.desk import Desk
from simulator.payload import to_bytes

TRUTH_PATH = "/_simulator/truth"
"""Not FreeScout's: every conversation as it is, for whoever checks a cache against it."""

_ROUNDS_TO_BE_LET_IN = 4
"""Rounds of the loop from a connection in the backlog to one that is served."""
_GOODBYE_SECONDS = 0.2


def application(desk: Desk, api: Api | None = None) -> web.Application:
    """Return the application: everything under ``/api`` is FreeScout's, ``/_simulator/truth`` is ours."""
    app = web.Application(client_max_size=0)
    answers = api or Api(desk)

    async def truth(_: web.Request) -> web.Response:
        rows = {
            str(row.id): {"status": row.status, "state": row.state, "updatedAt": iso(row.updated)}
            for row in desk.truth()
        }
        return web.Response(body=to_bytes(rows), content_type="application/json")

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = ApiRequest(request.method, request.path, dict(request.query.items()), dict(request.headers), body)
        return await _send(request, answers.answer(asked))

    app.router.add_get(TRUTH_PATH, truth)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


@asynccontextmanager
async def serve(desk: Desk, *, host: str = "127.0.0.1", port: int = 0, api: Api | None = None) -> AsyncIterator[str]:
    """Serve a desk's API for as long as the block runs.

    Args:
        desk: The desk.
        host: The address to listen on.
        port: 0 for any free one.
        api: The ``Api`` that answers, for who wants to look at its requests.

    Yields:
        The desk's address, such as ``http://127.0.0.1:8091``; the API is under its ``/api``.
    """
    # A hanging answer must not hold up the end.
    runner = web.AppRunner(application(desk, api), access_log=None, shutdown_timeout=_GOODBYE_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        bound = runner.addresses[0]
        yield f"http://{host}:{bound[1]}"
    finally:
        await end(runner)


async def end(runner: web.AppRunner) -> None:
    """End a server, after it has let in who connected before.

    asyncio leaves a connection open for ever if its server closes between accepting it and serving it.
    """
    for _ in range(_ROUNDS_TO_BE_LET_IN):
        await asyncio.sleep(0)
    await runner.cleanup()


async def _send(request: web.Request, answer: ApiResponse) -> web.StreamResponse:
    if answer.delay:
        await asyncio.sleep(answer.delay)
    if answer.hangs:
        await asyncio.Event().wait()
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    if answer.header("Transfer-Encoding"):
        response.enable_chunked_encoding()
    elif answer.body:
        response.content_length = len(answer.body)
    with suppress(ConnectionResetError):  # who asked has gone
        await response.prepare(request)
        if answer.broken_at is not None:
            await response.write(answer.body[: answer.broken_at])
            if request.transport is not None:
                request.transport.close()
            return response
        if request.method != "HEAD":
            await response.write(answer.body)
        await response.write_eof()
    return response
