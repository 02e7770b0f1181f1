"""Revokes access when a ticket stops being open: follows freescout-audit's feed, and fails closed without it.

``python examples/revoke_on_close.py postgresql://…`` says what it would revoke. An application passes functions of its
own to `revoke_on_close`. Revoking has to be harmless when it is done twice: each transition comes at least once.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import asyncpg

from freescout_audit.asking import transitions

OPEN = {"active", "pending"}
STALE_AFTER = 900.0
"""Seconds, ``cache.lease``: after so long without the cache nothing is known to be open."""
TRY_AGAIN = 2.0


async def revoke_on_close(
    url: str,
    revoke: Callable[[int], Awaitable[None]],
    revoke_all: Callable[[], Awaitable[None]],
    *,
    cursor: str = "revoke_on_close",
    stale_after: float = STALE_AFTER,
) -> None:
    """Call ``revoke`` for each ticket that is not open any more, and ``revoke_all`` when that cannot be known."""
    clock = asyncio.get_running_loop().time
    heard, closed = clock(), False
    while True:
        try:
            connection = await asyncpg.connect(url, timeout=5, command_timeout=10)
            try:
                async with aclosing(transitions(connection, cursor)) as feed:
                    async for transition in feed:
                        heard, closed = clock(), False
                        if transition is not None and transition.after not in OPEN:
                            await revoke(transition.ticket_id)
            except asyncpg.InvalidParameterValueError:
                # What came after our place is not kept any more: some of it may have been a ticket that was closed.
                await revoke_all()
                await connection.execute("SELECT freescout_move_cursor($1, 0)", cursor)
            finally:
                await connection.close(timeout=5)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:  # TimeoutError is an OSError
            print(f"the cache cannot be asked: {type(error).__name__}", file=sys.stderr, flush=True)
        if not closed and clock() - heard >= stale_after:
            await revoke_all()
            closed = True
        await asyncio.sleep(min(TRY_AGAIN, stale_after / 4))


async def _say(ticket_id: int) -> None:
    print(f"revoke {ticket_id}", flush=True)


async def _say_all() -> None:
    print("revoke all", flush=True)


if __name__ == "__main__":
    asyncio.run(revoke_on_close(sys.argv[1], _say, _say_all))
