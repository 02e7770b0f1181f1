"""Closes the connections of a pool that have lain idle for a while, so that a quiet process holds few on the server."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

import asyncpg

IDLE = 60.0
"""Seconds after which an idle connection is closed."""
FAREWELL = 1.0
"""Seconds that the server has to take part in closing a connection."""


@dataclass(slots=True, eq=False)
class Idle:
    """The connections that lie in a pool, and since when.

    The pool keeps what is closed here, and opens another in its place when it is borrowed. A connection that is being
    closed is closed to whoever asks it, from the very step of the loop in which it was found to lie here.

    Args:
        seconds: How long one may lie here.
    """

    seconds: float = IDLE
    _since: dict[asyncpg.Connection, float] = field(default_factory=dict)
    """The loop's time at which each came back, the longest ago first."""
    _timer: asyncio.TimerHandle | None = None
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    def came_back(self, connection: asyncpg.Connection) -> None:
        """Note that a connection lies in the pool from now on."""
        if connection.is_closed():
            return
        loop = asyncio.get_running_loop()
        self._since[connection] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._look)

    def is_borrowed(self, connection: asyncpg.Connection) -> None:
        """Note that a connection does not lie in the pool any more."""
        self._since.pop(connection, None)

    async def end(self) -> None:
        """Close no more, and wait for what is being closed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._since.clear()
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _look(self) -> None:
        """Close what has lain here long enough, and look again when the next one will have."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for connection, since in list(self._since.items()):
            if (left := since + self.seconds - loop.time()) > 0:
                self._timer = loop.call_later(left, self._look)
                break
            task = loop.create_task(self._close(connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, connection: asyncpg.Connection) -> None:
        # It may have been borrowed since the look.
        if self._since.pop(connection, None) is not None:
            with suppress(Exception):  # then it is aborted, which closes it as well
                await connection.close(timeout=FAREWELL)
