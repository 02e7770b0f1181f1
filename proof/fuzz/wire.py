"""One raw connection to the receiver: bytes out, answers in. It knows just enough of HTTP to read our own answers."""

import asyncio
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Self, cast

_CONTINUE = 100


@dataclass(frozen=True, slots=True)
class WireAnswer:
    """An answer: its status, its body, whether it says that the connection ends, and when it was complete."""

    status: int
    head: bytes
    body: bytes
    closes: bool
    at: float


class NotAnAnswerError(Exception):
    """The receiver sent bytes that are no HTTP answer."""


class Wire(asyncio.Protocol):
    """A connection; `Wire.open` makes one."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answers: deque[WireAnswer] = deque()
        self._news = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.ended = False

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to the receiver on this machine."""
        _, wire = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def data_received(self, data: bytes) -> None:
        """Take bytes in, and tell who waits of each complete answer."""
        self._received += data
        while (answer := self._next()) is not None:
            if answer.status != _CONTINUE:
                self._answers.append(answer)
        self._news.set()

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell who waits that no more will come."""
        self.ended = True
        if (answer := self._next()) is not None:
            self._answers.append(answer)
        self._news.set()
        self._may_write.set()

    def pause_writing(self) -> None:
        """Wait until the receiver takes what has been written."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Go on writing."""
        self._may_write.set()

    async def send(self, raw: bytes, *, pieces: int = 1, pause: float = 0) -> None:
        """Send the bytes, in so many pieces with a pause after each; an end of the connection is no error."""
        size = max(1, -(-len(raw) // pieces))
        for begin in range(0, len(raw), size):
            if self._transport is None or self.ended:
                return
            self._transport.write(raw[begin : begin + size])
            await self._may_write.wait()
            if pieces > 1:
                await asyncio.sleep(pause)

    async def answer(self, patience: float) -> WireAnswer | None:
        """Return the next answer, None when the connection ended without one.

        Raises:
            TimeoutError: Neither happened.
            NotAnAnswerError: What came is no answer.
        """
        async with asyncio.timeout(patience):
            while not self._answers and not self.ended:
                self._news.clear()
                await self._news.wait()
        if self._answers:
            return self._answers.popleft()
        if self._received:
            raise NotAnAnswerError(bytes(self._received[:200]))
        return None

    def say_no_more(self) -> None:
        """Close our half of the connection."""
        if self._transport is not None and not self.ended:
            with suppress(OSError):
                self._transport.write_eof()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    def drop(self) -> None:
        """End the connection with a reset, as a sender does that crashed."""
        if self._transport is not None and not self.ended:
            with suppress(OSError):
                connection: socket.socket = self._transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def _next(self) -> WireAnswer | None:
        """Take a complete answer off what has been received."""
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self._received[:end])
        # aiohttp answers in the version it was asked in, whatever that was.
        if not head.startswith(b"HTTP/") or not head[9:12].isdigit():
            return None  # `answer` tells of it when the connection ends, or nothing more comes
        lowered = head.lower()
        begins = lowered.find(b"\r\ncontent-length:")
        length = 0
        if begins >= 0:
            length = int(lowered[begins + 17 :].partition(b"\r\n")[0])
        # The answer to HEAD announces a body that never comes; the connection ends after it.
        if len(self._received) < end + 4 + length and not self.ended:
            return None
        body = bytes(self._received[end + 4 : end + 4 + length])
        del self._received[: end + 4 + length]
        return WireAnswer(
            status=int(head[9:12]),
            head=head,
            body=body,
            closes=b"\r\nconnection: close" in lowered or not head.startswith(b"HTTP/1.1"),
            at=time.perf_counter(),
        )
