"""Follow the feed through asyncpg. The place in it is kept in the database, by the reader's name."""

import asyncpg

from freescout_audit.asking import transitions


async def follow(url: str) -> None:
    """Print each ticket that is not open any more, for ever."""
    connection = await asyncpg.connect(url, command_timeout=10)
    try:
        async for transition in transitions(connection, "my reader"):
            if transition is not None and transition.after not in {"active", "pending"}:
                print("not open any more:", transition.ticket_id)
    finally:
        await connection.close()
