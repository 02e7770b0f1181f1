"""Bounds the open connections, and gives heads and idle ones a deadline, so that none starves.

aiohttp speaks HTTP; this only decides when a connection has to go.
"""

import asyncio
import errno
import math
import os
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from freescout_audit.endpoints import AUDIT, PREFIX, RBAC, path_of
from freescout_audit.errors import FreescoutAuditError
from receiver import refusals as why
from receiver.doorman import Doorman
from receiver.refusals import Refusal, Refusals
from settings.table import ReceiverSettings

LARGEST_HEAD = 65_536
"""Bytes of a request's head that are taken; aiohttp bounds each line and their number."""
FILES_KEPT = 192
"""Descriptors kept for the rest: PostgreSQL, the log, and what is accepted while others are being closed."""
_BACKLOG = 4096
"""Connections that wait to be accepted; one that finds no room tries again after a second, then three."""
SWEEP_EVERY = 1.0
"""Seconds between two looks for connections whose time is up, at the most."""


class ListenError(FreescoutAuditError):
    """The address or the port cannot be listened on."""


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Connections:
    """Every open connection, and which of them wait for a request."""

    def __init__(self, settings: ReceiverSettings, refusals: Refusals, doorman: Doorman | None = None) -> None:
        self._settings = settings
        self._refusals = refusals
        self._doorman = doorman
        self._open: set[_Connection | _Arrival] = set()
        self._waiting: dict[_Connection | _Arrival, None] = {}
        """Those without a request, the one that has waited longest first."""
        self._look_at_the_limit()

    def bodies(self) -> int:
        """Return how many of them may have a body under way."""
        return max(1, self._limit // 2)

    @asynccontextmanager
    async def serve(self, app: web.Application, *, host: str, port: int, shutdown_timeout: float) -> AsyncIterator[int]:
        """Serve the application and yield the port; at the end, let what is in flight finish.

        Raises:
            ListenError: The address or the port cannot be listened on.
        """
        runner = web.AppRunner(app, shutdown_timeout=shutdown_timeout)
        await runner.setup()
        sweeping = asyncio.create_task(self._sweep_for_ever())
        try:
            try:
                await _Site(runner, host, port, self._arrival).start()
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise ListenError(f"port {port} is in use", f"set PORT to another, such as {port + 1}") from error
                raise ListenError(
                    f"cannot listen on {host}:{port} ({error.strerror})", "set PORT to a free port"
                ) from error
            listening: int = runner.addresses[0][1]
            yield listening
        finally:
            sweeping.cancel()
            await runner.cleanup()
            for connection in list(self._open):
                connection.force_close()
            with suppress(asyncio.CancelledError):
                await sweeping

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Keep count of a request while it is answered, refuse what has no path, and close after 401 and 404."""
        connection = request.protocol
        if not isinstance(connection, _Connection):
            return await self._answer(request, handler)
        self._waiting.pop(connection, None)
        try:
            if connection.has_had_its_turn:
                # Whoever sent many requests at once waits after each for all the others.
                await asyncio.sleep(0)
            response = await self._answer(request, handler)
        finally:
            connection.wait()
            if connection in self._open:
                self._waiting[connection] = None
        if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND}:
            response.force_close()
        return response

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPNotFound as error:
            nearly = _nearly_ours(request.path)
            if nearly:
                self._refusals.note(why.MISDIRECTED, reason=nearly)
            else:
                self._refusals.note(why.NO_SUCH_PATH, reason="there is nothing at this path")
            return web.Response(status=404, text=error.text)
        except web.HTTPMethodNotAllowed:
            self._refusals.note(why.WRONG_METHOD, reason="this page is not answered by that method")
            raise
        if response.status == HTTPStatus.UNAUTHORIZED and not request.path.startswith(PREFIX):
            self._refusals.note(why.NO_TOKEN, reason="the page needs the bearer token OPS_TOKEN")
        return response

    def entered(self, connection: "_Connection | _Arrival") -> None:
        """Take a connection in; if there are too many, the one that has waited longest for a request goes."""
        self._open.add(connection)
        self._waiting[connection] = None
        if len(self._open) > self._limit:
            self._close(next(iter(self._waiting)), why.TOO_MANY, self._too_many)

    def left(self, connection: "_Connection | _Arrival") -> None:
        """Forget a connection that has ended."""
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def head_too_large(self, connection: "_Connection") -> None:
        """Close a connection because of its head."""
        self._close(connection, why.HEAD_TOO_LARGE, f"a request's head was longer than {LARGEST_HEAD} bytes")

    def broken(self, error: HttpProcessingError) -> None:
        """Note a request that is no HTTP."""
        self._refusals.note(why.NOT_HTTP, reason=f"what came is no HTTP: {type(error).__name__}")

    def sweep(self) -> None:
        """Close what has waited too long, and make room where there are no descriptors left."""
        self._look_at_the_limit()
        now = asyncio.get_running_loop().time()
        for connection in list(self._waiting):
            if connection.head_due <= now:
                reason = f"a request's head was not complete in {self._settings.head_timeout:g} s"
                self._close(connection, why.HEAD_TOO_SLOW, reason)
        excess = len(self._open) - self._limit
        if excess <= 0 and _no_files_left():
            excess = max(1, len(self._waiting) // 2)
            reason = f"no descriptor is left (ulimit -n is {_files()}); connections that waited longest were closed"
            self._refusals.note(why.NO_FILES, reason=reason, open=len(self._open), closed=excess)
        for connection in list(self._waiting)[: max(excess, 0)]:
            self._close(connection, why.TOO_MANY, self._too_many)
        self._refusals.tell()

    async def _sweep_for_ever(self) -> None:
        every = min(SWEEP_EVERY, self._settings.head_timeout / 2)
        while True:
            await asyncio.sleep(every)
            self.sweep()

    def _look_at_the_limit(self) -> None:
        files = _files()
        self._limit = self._settings.connections
        bound = "receiver.connections"
        if files - FILES_KEPT < self._limit:
            self._limit = max(files - FILES_KEPT, 1)
            bound = f"what `ulimit -n`, {files}, leaves: raise it"
        self._too_many = f"more than {self._limit} connections, {bound}; those that waited longest were closed"

    def _close(self, connection: "_Connection | _Arrival", refusal: Refusal, reason: str) -> None:
        self.left(connection)
        self._refusals.note(refusal, reason=reason)
        connection.force_close()

    def _arrival(self, server: web.Server) -> "_Arrival":
        return _Arrival(self, self._doorman, lambda: _Connection(self, server, self._settings), self._settings)


class _Arrival(asyncio.Protocol):
    """A connection before its first bytes: they are answered at the door, or handed on to aiohttp's connection."""

    __slots__ = ("_connections", "_doorman", "_take_in", "_transport", "head_due")

    def __init__(
        self,
        connections: Connections,
        doorman: Doorman | None,
        take_in: "Callable[[], _Connection]",
        settings: ReceiverSettings,
    ) -> None:
        self._connections = connections
        self._doorman = doorman
        self._take_in = take_in
        self._transport: asyncio.Transport | None = None
        self.head_due = asyncio.get_running_loop().time() + settings.head_timeout

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's classes
        self._connections.entered(self)

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - asyncio's call
        self._connections.left(self)

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        assert transport is not None  # noqa: S101 - it was made
        answer = None if self._doorman is None else self._doorman.answer(data)
        if answer is not None:
            transport.write(answer)
            transport.close()
            return
        self._connections.left(self)
        connection = self._take_in()
        transport.set_protocol(connection)
        connection.connection_made(transport)
        connection.data_received(data)

    def force_close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.abort()


class _Connection(web.RequestHandler):
    """aiohttp's connection, which also tells when it waits for a request and since when."""

    __slots__ = ("_connections", "_counts", "_head", "_head_timeout", "has_had_its_turn", "head_due")

    def __init__(self, connections: Connections, server: web.Server, settings: ReceiverSettings) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=settings.idle_timeout,
            tcp_keepalive=False,  # idle ones are closed before
            access_log=None,  # type: ignore[arg-type] # documented so
            # Bodies are verified byte for byte as they were sent, so nothing may decompress them on the way.
            auto_decompress=False,
            # What a refused sender still sends is read this long, so that it gets to see the answer.
            lingering_time=2.0,
        )
        self._connections = connections
        self._head_timeout = settings.head_timeout
        self.has_had_its_turn = False
        """Whether a request has been answered since something came."""
        self._counts = True
        """Whether it waits for a head, and what comes is of one."""
        self._head = 0
        """Bytes of it that came."""
        self.head_due = self._loop.time() + self._head_timeout
        """When it has to be complete, by the loop's clock; infinite while nothing of it came after another request."""

    def wait(self) -> None:
        """Begin to wait for another request: as long as nothing comes, that is aiohttp's own time-out."""
        # A request that came with the last one has had its head read: what comes now is its body.
        self._counts, self._head, self.head_due, self.has_had_its_turn = not self._messages, 0, math.inf, True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connections.entered(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._connections.left(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        complete = self._request_count
        self.has_had_its_turn = False
        super().data_received(data)
        if self._request_count != complete:
            self._counts, self.head_due = False, math.inf
        elif self._counts and data:
            if self.head_due == math.inf:
                self.head_due = self._loop.time() + self._head_timeout
            self._head += len(data)
            if self._head > LARGEST_HEAD:
                self._connections.head_too_large(self)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if isinstance(exc, HttpProcessingError):
            self._connections.broken(exc)
        return super().handle_error(request, status, exc, message)

    def log_exception(self, *args: object, **kw: object) -> None:
        if not isinstance(kw.get("exc_info"), HttpProcessingError):  # those are refusals, noted above
            super().log_exception(*args, **kw)


class _Site(web.BaseSite):
    """aiohttp's TCPSite, with connections of our own."""

    __slots__ = ("_host", "_make", "_port")

    def __init__(
        self, runner: web.AppRunner, host: str, port: int, make: Callable[[web.Server], asyncio.Protocol]
    ) -> None:
        super().__init__(runner, backlog=_BACKLOG)
        self._host = host
        self._port = port
        self._make = make

    @property
    def name(self) -> str:
        return f"http://{self._host}:{self._port}"

    async def start(self) -> None:
        await super().start()
        server = self._runner.server
        assert server is not None  # noqa: S101 - the runner is set up
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: self._make(server), self._host, self._port, backlog=self._backlog, reuse_address=True
        )


def _nearly_ours(path: str) -> str:
    """Return in which way a path nearly leads to an endpoint, without quoting it; empty when it does not."""
    where_to = f"deliveries go to {path_of(AUDIT)}, RV-4's to {path_of(RBAC)}"
    plain = "/" + "/".join(part for part in path.lower().split("/") if part)
    if plain == PREFIX.rstrip("/"):
        return f"the last part is missing: {where_to}"
    if not plain.startswith(PREFIX):
        return ""
    if "//" in path:
        return f"a slash is doubled: {where_to}"
    return f"no endpoint has this name: {where_to}"


def _files() -> int:
    """Return how many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else soft


def _no_files_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in {errno.EMFILE, errno.ENFILE}
    return False
