"""The load generator: signed deliveries over keep-alive connections, each answer timed.

Two ways to send. *Closed*: each connection sends its next delivery when the last one is answered; shows how much a
server can take, but a server that stalls also stalls its own load, so the latencies flatter it (coordinated omission).
*Open*: deliveries are due at a fixed rate whatever the server does, and a latency counts from when a delivery was due,
its wait for a free connection included; that is what a sender meets. Throughput is measured closed, latency open.

Everything is made and signed before the clock starts. ``python -m bench.load --help`` for the rest; it prints a line
of JSON.
"""

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, cast

import msgspec
import typer
import uvloop

from freescout_audit.signature import Signer

KEY = "0123456789abcdef0123456789abcdef"
"""The key of every server in these benches."""
_HTML = "<p>Hello, “thank you” for the offer of 4 711 €; see <a href='https://desk.example.org/x'>here</a>.</p>\n"


class SignedPost(msgspec.Struct, frozen=True):
    """A request ready to be sent: its head and the beginning of its body; the rest is the same for all."""

    beginning: bytes
    body_bytes: int


class Result(msgspec.Struct, kw_only=True):
    """What a run measured: latencies in seconds, CPU seconds of the generator itself."""

    seconds: float
    statuses: dict[str, int]
    latencies: dict[str, float]
    cpu: float

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return sum(number for status, number in self.statuses.items() if status.startswith("2")) / self.seconds

    @property
    def failures(self) -> int:
        """Everything but good answers."""
        return sum(number for status, number in self.statuses.items() if not status.startswith("2"))


def threads(size: int) -> bytes:
    """Return the threads of a conversation, as FreeScout writes them, about ``size`` bytes."""
    whole, number = [], 0
    while size > 0:
        text = _HTML * max(1, min(size, 20_000) // 130)
        said = {"id": number, "type": "customer", "status": "active", "body": text}
        thread = json.dumps(said | {"openedAt": None, "_embedded": {"attachments": []}}, separators=(",", ":"))
        whole.append(thread.replace("/", "\\/"))
        size -= len(whole[-1])
        number += 1
    return ",".join(whole).encode()


def make(number: int, tail: bytes, *, path: str, tickets: int, host: str, first_at: datetime) -> SignedPost:
    """Return the ``number``-th delivery: news about one of so many tickets, signed."""
    at = (first_at + timedelta(seconds=number // tickets)).strftime("%Y-%m-%dT%H:%M:%SZ")
    ticket = number % tickets + 1
    status = ("active", "pending", "closed")[number % 3]
    head = (
        f'{{"id":{ticket},"number":{ticket},"threadsCount":2,"type":"email","folderId":3,"status":"{status}",'
        f'"state":"published","subject":"SignedPost {number}","preview":"Hello","mailboxId":1,'
        f'"createdAt":"2026-01-01T00:00:00Z","updatedAt":"{at}","_embedded":{{"threads":['
    ).encode()
    signer = Signer(KEY)
    signer.update(head)
    signer.update(tail)
    size = len(head) + len(tail)
    request = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: bench\r\nContent-Type: application/json\r\n"
        f"X-FreeScout-Event: convo.status\r\nX-FreeScout-Signature: {signer.signature()}\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode()
    return SignedPost(request + head, size)


class Connection(asyncio.Protocol):
    """One keep-alive connection: a delivery at a time, opened again when the server closes it."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self.due = 0.0
        self.busy = False

    async def open(self) -> None:
        """Connect."""
        host, port = self._load.address
        await asyncio.get_running_loop().create_connection(lambda: self, host, port)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's derives from no class of asyncio
        self._received = b""

    def send(self, delivery: SignedPost, due: float) -> None:
        """Send a delivery that was due then, on the loop's clock."""
        self.busy, self.due = True, due
        if self._transport is not None:
            self._transport.writelines([delivery.beginning, self._load.tail])

    def data_received(self, data: bytes) -> None:
        """Take an answer, perhaps in pieces."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r")[0] or 0)
        if len(body) < length:
            return
        status, self._received, self.busy = head[9:12].decode(), b"", False
        closes = b"connection: close" in lower
        if closes and self._transport is not None:
            self._transport.close()
            self._transport = None
        self._load.answered(self, status, reopen=closes)

    def connection_lost(self, _error: Exception | None) -> None:
        """Count what was not answered, and connect again."""
        self._transport = None
        if self.busy:
            self.busy = False
            self._load.answered(self, "lost", reopen=True)


class Load:
    """Sends deliveries until they, or the seconds, are used up."""

    def __init__(self, address: tuple[str, int], deliveries: Iterator[SignedPost], tail: bytes) -> None:
        self.address = address
        self.tail = tail
        self._deliveries = deliveries
        self._latencies: list[float] = []
        self._statuses: Counter[str] = Counter()
        self._idle: list[Connection] = []
        self._due: list[float] = []
        self._until = 0.0
        self._open_loop = False
        self._over: asyncio.Future[None]
        self._flying = 0
        self._clock = time.perf_counter
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, connections: int, seconds: float, rate: float | None) -> Result:
        """Run over so many connections; ``rate`` deliveries a second make it open, None closed."""
        self._over = asyncio.get_running_loop().create_future()
        self._open_loop = rate is not None
        everyone = [Connection(self) for _ in range(connections)]
        for connection in everyone:
            await connection.open()
        before, began = resource.getrusage(resource.RUSAGE_SELF), self._clock()
        self._until = began + seconds
        if rate is None:
            for connection in everyone:
                self._next(connection, began)
            await asyncio.wait_for(self._over, seconds + 30)
        else:
            self._idle = everyone
            await self._by_the_clock(began, rate)
        took = self._clock() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
        self._latencies.sort()
        return Result(
            seconds=took,
            statuses=dict(self._statuses),
            latencies={
                f"p{share:g}": self._latencies[min(int(len(self._latencies) * share / 100), len(self._latencies) - 1)]
                for share in (50, 90, 99, 99.9, 100)
            },
            cpu=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        )

    async def _by_the_clock(self, began: float, rate: float) -> None:
        """Send what is due, late if no connection is free: a latency counts from when it was due."""
        number = 0
        while (now := self._clock()) < self._until:
            while began + number / rate <= now:
                self._due.append(began + number / rate)
                number += 1
            self._send_due()
            # uvloop's timers have milliseconds: to ask for less is to ask again and again, on somebody else's core.
            await asyncio.sleep(max(began + number / rate - now, 0.001))
        while (self._due or self._flying) and self._clock() < self._until + 5:
            self._send_due()
            await asyncio.sleep(0.001)

    def _send_due(self) -> None:
        while self._due and self._idle:
            self._next(self._idle.pop(), self._due.pop(0))

    def _next(self, connection: Connection, due: float) -> None:
        delivery = next(self._deliveries, None)
        if delivery is None:
            self._until = 0.0
            self._end_if_quiet()
            return
        self._flying += 1
        connection.send(delivery, due)

    def answered(self, connection: Connection, status: str, *, reopen: bool) -> None:
        """Note an answer, and go on."""
        now = self._clock()
        self._flying -= 1
        self._latencies.append(now - connection.due)
        self._statuses[status] += 1
        if reopen:
            task = asyncio.ensure_future(self._reopen(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._go_on(connection)

    async def _reopen(self, connection: Connection) -> None:
        try:
            await connection.open()
        except OSError:
            await asyncio.sleep(0.05)
        self._go_on(connection)

    def _go_on(self, connection: Connection) -> None:
        if self._open_loop:
            self._idle.append(connection)
            self._send_due()
        elif self._clock() < self._until:
            self._next(connection, self._clock())
        else:
            self._end_if_quiet()

    def _end_if_quiet(self) -> None:
        if not self._flying and not self._over.done():
            self._over.set_result(None)


def main(
    port: int,
    path: Annotated[str, typer.Option()] = "/api/internal/freescout-webhook/audit",
    size: Annotated[int, typer.Option(help="Bytes of a body, about.")] = 4096,
    connections: Annotated[int, typer.Option()] = 64,
    seconds: Annotated[float, typer.Option()] = 3.0,
    rate: Annotated[float | None, typer.Option(help="Deliveries a second; left out: as many as are answered.")] = None,
    number: Annotated[int, typer.Option(help="Deliveries made at the most.")] = 60_000,
    tickets: Annotated[int, typer.Option(help="Tickets they are about, in turn.")] = 10_000,
    first: Annotated[int, typer.Option(help="The first delivery's number; go on where the last run ended.")] = 0,
    since: Annotated[datetime, typer.Option(help="When the first news happened, in UTC.")] = datetime(2026, 1, 2),  # noqa: DTZ001 - Typer's dates have no zone
) -> None:
    """Send deliveries to 127.0.0.1, and print what that measured as JSON."""
    tail = threads(max(size - 420, 0)) + b"]}}"
    first_at = since.replace(tzinfo=UTC)
    made = [
        make(each, tail, path=path, tickets=tickets, host=f"127.0.0.1:{port}", first_at=first_at)
        for each in range(first, first + number)
    ]
    load = Load(("127.0.0.1", port), iter(made), tail)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(load.run(connections, seconds, rate))
    sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")


if __name__ == "__main__":
    typer.run(main)
