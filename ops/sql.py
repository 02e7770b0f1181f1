"""``python -m ops.sql`` (``make sql``): shows the answer to a query, without a psql anywhere."""

import asyncio
import os
import sys
from functools import partial
from typing import Annotated

import asyncpg
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from db.opening import open_database
from freescout_audit.errors import FreescoutAuditError
from ops.running import beside, who_is_running
from settings import load_environment

CACHE = (
    "SELECT ticket_id, status, updated_at, ttl_expires FROM freescout_ticket_cache ORDER BY updated_at DESC LIMIT 10;"
)
"""What the runbook has operators look at."""


def main(
    query: Annotated[str, typer.Argument(help="A query; the runbook's look at the cache if left out.")] = CACHE,
) -> None:
    """Run a query on the database of `make run`, of DATABASE_URL, or on the embedded one, and show its rows."""
    try:
        asyncio.run(_show(query))
    except (FreescoutAuditError, asyncpg.PostgresError) as error:
        Console(stderr=True).print(f"[red]{escape(str(error))}[/red]")
        sys.exit(1)


async def _show(query: str) -> None:
    url = load_environment(beside(who_is_running(), os.environ) or os.environ).database_url
    async with (
        open_database(
            None if url is None else url.reveal(), process="sql", progress=partial(typer.echo, err=True)
        ) as database,
        database.connection() as connection,
    ):
        rows = await connection.driver.fetch(query)  # what an operator types is text
    table = Table(*(rows[0].keys() if rows else ("no rows",)))
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
