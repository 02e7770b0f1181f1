"""What passes cost: a quiet one over a million tickets, one deletion and a deleted mailbox among a hundred thousand.

The desk is simulated in the same process and answers without sockets; PostgreSQL is the embedded one, durable as it
comes. ``python -m bench.passes`` prints the table.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import URL

from db.database import Connection, Database
from db.embedded import EmbeddedPostgres
from db.migrate import migrate
from db.url import normalise
from freescout_audit.logs import set_up_logs
from freescout_audit.rule import Terms
from poller.freescout import DeskResponse, FreeScout
from poller.passes import Passes
from poller.questions import Questions
from simulator import Api, ApiRequest, Desk, ManualClock

PAGE = 200
OVERLAP = timedelta(seconds=3900)
_COLUMNS = (
    "ticket_id",
    "number",
    "mailbox_id",
    "status",
    "state",
    "updated_at",
    "created_at",
    "gone",
    "observed_via",
    "truth_at",
)


class TimedDatabase(Database):
    """Counts the seconds that connections are lent, the wait for the server among them."""

    seconds = 0.0

    @asynccontextmanager
    async def session(self, deadline: float | None = None) -> AsyncIterator[Connection]:
        """Lend a connection, and count."""
        async with super().session(deadline) as connection:
            began = time.perf_counter()
            yield connection
            self.seconds += time.perf_counter() - began


class Bench:
    """A desk, a cache that holds just what the desk has, and a poller between them.

    The desk takes ``pace`` seconds for each row that it shows.
    """

    def __init__(self, desk: Desk, database: TimedDatabase, *, pace: float = 0.0) -> None:
        self.desk = desk
        self._pace = desk.faults.seconds_per_row = pace
        self.database = database
        self.one_row = 0
        self.requests = 0
        self._api = Api(desk)
        freescout = FreeScout(self._transport, concurrency=8)
        terms = Terms()
        self.passes = Passes(freescout, database, terms=terms, overlap=OVERLAP, page_size=PAGE)
        self.questions = Questions(freescout, database, terms=terms, at_once=PAGE, clock=time.monotonic)

    async def _transport(self, path: str, query: Mapping[str, str], /) -> DeskResponse:
        headers = {"X-FreeScout-API-Key": self.desk.api_key, "Accept": "application/json"}
        self.requests += 1
        self.one_row += query.get("pageSize") == "1" or "/" in path
        answer = self._api.answer(ApiRequest("GET", f"/api/{path}", query, headers))
        # A list takes so long for each row, and anything else as long as one row.
        await asyncio.sleep(answer.delay or self._pace)
        return DeskResponse(status=answer.status, headers={n.lower(): v for n, v in answer.headers}, body=answer.body)

    async def fill(self) -> None:
        """Give the cache what a first load would."""
        now = datetime.now(UTC)
        records = (
            (
                row.id,
                row.number,
                row.mailbox_id,
                row.status,
                row.state,
                datetime.fromtimestamp(row.updated, UTC),
                datetime.fromtimestamp(row.created, UTC),
                False,
                "poller",
                now - timedelta(days=1),
            )
            for row in self.desk.truth()
        )
        async with self.database.session() as connection:
            await connection.driver.execute("SET statement_timeout = 0; TRUNCATE freescout_ticket")
            await connection.driver.copy_records_to_table("freescout_ticket", records=records, columns=_COLUMNS)
            await connection.driver.execute("VACUUM ANALYZE freescout_ticket")
            await connection.driver.execute(
                "UPDATE freescout_lease SET complete_through = $1, seen_through = $1, renewed_by_pass = NULL",
                self.desk.now().replace(microsecond=0),
            )

    async def measure(self) -> tuple[int, int, float, float]:
        """Make a pass; return its requests, those for one row, its seconds, and those of the database."""
        self.requests = self.one_row = 0
        self.database.seconds = 0
        began = time.perf_counter()
        await self.passes.run()
        return self.requests, self.one_row, time.perf_counter() - began, self.database.seconds


def make_desk(
    tickets: int, small_mailbox: int = 0, *, behind: timedelta = timedelta(hours=22)
) -> tuple[Desk, ManualClock]:
    """A desk at rest: its last change is longer ago than the overlap. Its clock stands so far behind ours."""
    clock = ManualClock(datetime.now(UTC) - behind - timedelta(hours=2))
    desk = Desk(clock=clock, mailboxes=("Support", "Sales", "Small"))
    desk.populate(tickets - small_mailbox, days=3650, mailbox_ids=(1, 2))
    if small_mailbox:
        desk.populate(small_mailbox, days=3650, mailbox_ids=(3,))
    clock.advance(7200)
    return desk, clock


async def quiet(url: URL, sizes: Sequence[int]) -> AsyncIterator[tuple[int, tuple[int, int, float, float]]]:
    """Measure quiet passes over so many tickets each; yield the one of five with the median of database time."""
    database = TimedDatabase(url, patience=300)
    for tickets in sizes:
        desk, _ = make_desk(tickets)
        bench = Bench(desk, database)
        await bench.fill()
        await bench.measure()  # connections and plans are made once
        costs = [await bench.measure() for _ in range(5)]
        yield tickets, sorted(costs, key=lambda cost: cost[3])[2]
        del desk, bench
    await database.close()


async def main() -> None:
    """Measure one case after the other and print what each took."""
    set_up_logs(process="bench", style="text", level="error")
    table = Table("pass", "requests", "of one row", "seconds", "database ms", "then, asked")
    console = Console()
    with EmbeddedPostgres(database="bench") as server:
        url = normalise(server.url())
        await migrate(url)
        database = TimedDatabase(url, patience=300)

        async for tickets, cost in quiet(url, (1_000, 10_000, 100_000, 1_000_000)):
            _row(table, f"quiet, {tickets:,} tickets", cost)

        desk, clock = make_desk(100_000, small_mailbox=5_000)
        bench = Bench(desk, database)
        await bench.fill()
        await bench.measure()
        for name, ticket_id in (("the oldest", 1), ("one in the middle", 47_000), ("the newest", 95_000)):
            desk.delete_forever(ticket_id)
            clock.advance(60)
            cost = await bench.measure()
            _row(table, f"{name} of 100,000 deleted", cost, await _ask(bench))
        desk.delete_mailbox(3)
        clock.advance(60)
        cost = await bench.measure()
        _row(table, "a mailbox of 5,000 deleted", cost, await _ask(bench))
        await database.close()
    console.print(table)


async def _ask(bench: Bench) -> str:
    began, asked = time.perf_counter(), 0
    while answered := await bench.questions.ask():
        asked += answered
    return f"{asked:,} in {time.perf_counter() - began:.1f} s"


def _row(table: Table, name: str, cost: tuple[int, int, float, float], asked: str = "") -> None:
    requests, one_row, seconds, database = cost
    table.add_row(name, str(requests), str(one_row), f"{seconds:.2f}", f"{database * 1000:.0f}", asked)


if __name__ == "__main__":
    asyncio.run(main())
