"""How many living tickets we hold, and which: what is compared with the desk's own counts to find deletions."""

from collections.abc import Collection, Sequence
from datetime import datetime

import msgspec

from db.database import Database


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """Tickets by mailbox and creation: ``since`` <= created < ``until``, by the desk's clock; None leaves it open.

    A ticket whose creation we do not know is older than any date, as a count from a date on does not have it.
    """

    mailboxes: tuple[int, ...] | None = None
    since: datetime | None = None
    until: datetime | None = None

    def holds(self, created_at: datetime | None) -> bool:
        """Whether the cell's dates hold a ticket created then."""
        if created_at is None:
            return self.since is None
        return (self.since is None or created_at >= self.since) and (self.until is None or created_at < self.until)


class Census:
    """Counts and lists living tickets; those that are suspected to be gone, and asked about, are left out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.suspects: set[int] = set()

    async def count(self, cell: Cell) -> int:
        """Count the living tickets of a cell."""
        rows = await self._select("count(*) AS answer", cell)
        return int(str(rows[0]))

    async def ids(self, cell: Cell) -> set[int]:
        """Return the living tickets of a cell."""
        return {int(str(row)) for row in await self._select("ticket_id AS answer", cell)}

    async def lacks(self, ticket_ids: Collection[int]) -> set[int]:
        """Return those of the tickets that we do not hold as living."""
        query = "SELECT ticket_id FROM freescout_ticket WHERE NOT gone AND ticket_id = ANY ($1::bigint[])"
        async with self._database.connection() as connection:
            held = {record["ticket_id"] for record in await connection.fetch(query, sorted(ticket_ids))}
        return set(ticket_ids) - (held - self.suspects)

    async def middle(self, cell: Cell) -> datetime | None:
        """Return the date of creation that halves a cell; None when it does not split it."""
        order = "ORDER BY created_at OFFSET (SELECT greatest(count(*) / 2, 0) FROM {table} WHERE {where}) LIMIT 1"
        rows = await self._select("created_at AS answer", cell, order, known=True)
        middle = rows[0] if rows else None
        return middle if isinstance(middle, datetime) and (cell.since is None or middle > cell.since) else None

    async def newest(self, number: int) -> datetime | None:
        """Return when the ``number``-th newest ticket was created; None when there are not so many."""
        order = f"ORDER BY created_at DESC OFFSET {number - 1:d} LIMIT 1"
        rows = await self._select("created_at AS answer", Cell(), order, known=True)
        newest = rows[0] if rows else None
        return newest if isinstance(newest, datetime) else None

    async def mailboxes(self) -> set[int]:
        """Return the mailboxes of our living tickets."""
        rows = await self._select("DISTINCT mailbox_id AS answer", Cell())
        return {row for row in rows if isinstance(row, int)}

    async def _select(self, what: str, cell: Cell, rest: str = "", *, known: bool = False) -> Sequence[object]:
        """Run a query over a cell and return its one column.

        Only the conditions that are needed get into the text, so that each combination has a plan of its own.
        """
        conditions, arguments = ["NOT gone"], []
        for condition, argument in (
            ("mailbox_id = ANY (${0}::bigint[])", None if cell.mailboxes is None else list(cell.mailboxes)),
            ("created_at >= ${0}", cell.since),
            ("created_at < ${0}" if cell.since is not None or known else "created_at < ${0} IS NOT FALSE", cell.until),
            ("NOT ticket_id = ANY (${0}::bigint[])", sorted(self.suspects) or None),
        ):
            if argument is not None:
                arguments.append(argument)
                conditions.append(condition.format(len(arguments)))
        if known:
            conditions.append("created_at IS NOT NULL")
        where, table = " AND ".join(conditions), "freescout_ticket"
        query = f"SELECT {what} FROM {table} WHERE {where} {rest.format(table=table, where=where)}"  # noqa: S608 - of literals above
        async with self._database.connection() as connection:
            return [record["answer"] for record in await connection.fetch(query, *arguments)]
