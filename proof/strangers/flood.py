"""The floods, as a process of their own: ``python -m proof.strangers.flood PORT`` sends until stdin ends.

Whatever the receiver closes is opened again, as fast as its share of ``reconnects`` a second allows.
"""

import argparse
import asyncio
import resource
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, fields

import msgspec
import uvloop

from proof.fuzz.http import request, signature

_TICK = 0.02


@dataclass(frozen=True, slots=True)
class Flood:
    """How much of each is sent."""

    bodies: int = 1000
    """Connections that announce a body of 64 MB and never send it."""
    heads: int = 1500
    """Connections that send half a head."""
    unsigned: int = 2000
    """Requests a second with a wrong signature, each on a connection of its own unless it is left open."""
    reconnects: int = 500
    """Connections a second that each of the first two opens at the most, again and again."""
    seconds: float = 20.0


class _Sender(asyncio.Protocol):
    """Sends its bytes, and tells when the connection has ended."""

    def __init__(self, flood: "_Senders", raw: bytes) -> None:
        self._flood = flood
        self._raw = raw
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send, and wait."""
        self._flood.opened += 1
        transport.write(self._raw)  # type: ignore[attr-defined] # uvloop's derives from no class of asyncio

    def data_received(self, data: bytes) -> None:
        """Note the status."""
        if not self._answered:
            self._answered = True
            self._flood.statuses[data[9:12].decode("ascii", "replace")] += 1

    def connection_lost(self, _error: Exception | None) -> None:
        """Make room for another one."""
        self._flood.open -= 1
        if not self._answered:
            self._flood.statuses["closed"] += 1


class _Senders:
    """Keeps so many connections of a kind open, or opens so many a second."""

    def __init__(self, port: int, raw: bytes, *, at_once: int, rate: float) -> None:
        self._port = port
        self._raw = raw
        self._at_once = at_once
        self._rate = rate
        self._tasks: set[asyncio.Task[None]] = set()
        self.open = 0
        self.opened = 0
        self.statuses: Counter[str] = Counter()

    async def run(self, seconds: float) -> None:
        """Send for so long."""
        began, due = time.monotonic(), 0.0
        while (passed := time.monotonic() - began) < seconds:
            due = min(due, passed * self._rate)
            due = max(due, passed * self._rate - self._rate / 4)  # what was missed for long stays missed
            while due < passed * self._rate and self.open < self._at_once:
                due += 1
                self.open += 1
                task = asyncio.create_task(self._send())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(_TICK)

    async def _send(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(
                lambda: _Sender(self, self._raw), "127.0.0.1", self._port
            )
        except OSError as error:
            self.open -= 1
            self.statuses[type(error).__name__] += 1


async def send(port: int, flood: Flood) -> dict[str, dict[str, int]]:
    """Send all three at once; return for each what became of its connections."""
    body = b'{"id": 1, "status": "closed"}'
    wrong = request([(b"X-FreeScout-Event", b"convo.status"), signature(body, "another key")], body)
    announced = request([signature(body)], None, length=64_000_000)
    half = request([(b"X-Half", b"a" * 40)], None)[:-20]
    senders = {
        "bodies": _Senders(port, announced, at_once=flood.bodies, rate=flood.reconnects),
        "heads": _Senders(port, half, at_once=flood.heads, rate=flood.reconnects),
        "unsigned": _Senders(port, wrong, at_once=1000, rate=flood.unsigned),
    }
    await asyncio.gather(*(each.run(flood.seconds) for each in senders.values()))
    return {name: {"opened": each.opened, "open": each.open, **each.statuses} for name, each in senders.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m proof.strangers.flood")
    parser.add_argument("port", type=int)
    for field in fields(Flood):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    given = vars(parser.parse_args())
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        told = runner.run(send(given.pop("port"), Flood(**given)))
    sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
