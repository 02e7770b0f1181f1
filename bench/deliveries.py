"""Deliveries: ours beside the servers that do less and the one that most teams would write, in alternating rounds."""

import asyncio
import statistics
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import aiohttp
import asyncpg
import msgspec

from bench.load import Result, make, threads
from bench.processes import Server, free_port, limit, load, postgres, receiver, server
from bench.report import Line, Point

MEGABYTE = 1_000_000
_PATH = "/api/internal/freescout-webhook/audit"
_FIRST = datetime(2026, 1, 2, tzinfo=UTC)
_BODIES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 54_000_000)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How long to measure."""

    rounds: int
    seconds: float


class Side(msgspec.Struct, kw_only=True):
    """What one server did, round by round."""

    rates: list[float] = msgspec.field(default_factory=list)
    cpus: list[float] = msgspec.field(default_factory=list)
    p50s: list[float] = msgspec.field(default_factory=list)
    p99s: list[float] = msgspec.field(default_factory=list)
    databases: list[float] = msgspec.field(default_factory=list)
    generators: list[float] = msgspec.field(default_factory=list)
    failures: int = 0

    @property
    def everything(self) -> list[float]:
        """CPU seconds of server, PostgreSQL and load generator together, for each delivery."""
        return [sum(each) for each in zip(self.cpus, self.databases, self.generators, strict=True)]

    def add(self, result: Result, cpu: float, database: float) -> None:
        """Note a round; ``cpu`` and ``database`` in seconds, of the server and of PostgreSQL."""
        answered = sum(result.statuses.values())
        self.rates.append(result.rate)
        self.cpus.append(cpu / answered)
        self.p50s.append(result.latencies["p50"])
        self.p99s.append(result.latencies["p99"])
        self.databases.append(database / answered)
        self.generators.append(result.cpu / answered)
        self.failures += result.failures


def alternate(
    servers: Mapping[str, Server],
    plan: Plan,
    url: str,
    *,
    size: int,
    rate: float | None = None,
    most: int = 15_000,
    after: int = 0,
) -> dict[str, Side]:
    """Load the servers in turn, round after round, each time with news.

    Args:
        servers: Who is loaded, by name.
        plan: How often, and for how long each time.
        url: Their database.
        size: Bytes of a body.
        rate: Deliveries a second; None: as many as are answered.
        most: So many deliveries a second are made.
        after: How many rounds these servers have seen already.
    """
    sides = {name: Side() for name in servers}
    database = postgres(url)
    number = int(plan.seconds * most)
    for turn in range(plan.rounds):
        for name, one in servers.items():
            before = one.cpu(), database.cpu()
            result = load(
                one.port, size=size, seconds=plan.seconds, number=number, first=(after + turn + 1) * number, rate=rate
            )
            sides[name].add(result, one.cpu() - before[0], database.cpu() - before[1])
    return sides


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))


def small(url: str, plan: Plan) -> Iterator[Line]:
    """4 KB deliveries, as many as are answered, and the latencies at half of what the limit takes."""
    with receiver(url) as ours, limit("verify") as verify, limit("bare") as bare:
        both = {"ours": ours, "verify": verify, "bare": bare}
        sides = alternate(both, plan, url, size=4096)
        mine, theirs, least = sides["ours"], sides["verify"], sides["bare"]
        steady = alternate(
            {"ours": ours, "verify": verify}, plan, url, size=4096, rate=statistics.median(theirs.rates) / 2
        )
    yield rates("4 KB deliveries, committed before the answer", mine, theirs, "verified and decoded only", 0.62)
    yield times("… CPU of the receiver per delivery", mine.cpus, theirs.cpus, 1.3, "µs", 1e6)
    yield _everything(mine, theirs)
    yield times("… p99, as many as are answered", mine.p99s, theirs.p99s, 2, "ms", 1e3)
    yield times("… p99, at half the limit's rate (open)", steady["ours"].p99s, steady["verify"].p99s, None, "ms", 1e3)
    yield rates("4 KB deliveries, against a bare aiohttp handler", mine, least, "verified and decoded only", None)
    yield times("… CPU of the receiver per delivery", mine.cpus, least.cpus, None, "µs", 1e6)


def flask(url: str, plan: Plan) -> Iterator[Line]:
    """4 KB deliveries against Flask, gunicorn and psycopg2."""
    from bench.flask_peer import TABLE  # noqa: PLC0415 - what it imports is installed for the bench alone

    async def make_table() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(TABLE + "; TRUNCATE bench_peer")
        await connection.close()

    asyncio.run(make_table())
    port = free_port()
    arguments = ["-m", "gunicorn", "-w", "4", "-k", "gthread", "--threads", "16", "--keep-alive", "60"]
    arguments += ["--log-level", "error", "-b", f"127.0.0.1:{port}", "bench.flask_peer:app"]
    with receiver(url) as ours, server(arguments, port, DATABASE_URL=url) as theirs:
        load(port, seconds=1, number=2000)
        sides = alternate({"ours": ours, "flask": theirs}, plan, url, size=4096)
    yield rates("4 KB deliveries", sides["ours"], sides["flask"], "Flask, gunicorn (4 workers), psycopg2", 3.2)
    yield times("… CPU of the server per delivery", sides["ours"].cpus, sides["flask"].cpus, None, "µs", 1e6)
    yield _databases(sides["ours"], sides["flask"])
    yield _everything(sides["ours"], sides["flask"])


def medium(url: str, plan: Plan) -> Iterator[Line]:
    """200 KB deliveries."""
    with receiver(url) as ours, limit("read") as theirs:
        sides = alternate({"ours": ours, "read": theirs}, plan, url, size=200_000, most=3000)
    yield rates("200 KB deliveries", sides["ours"], sides["read"], "aiohttp: read, HMAC", 0.85)
    yield times("… CPU of the receiver per delivery", sides["ours"].cpus, sides["read"].cpus, None, "µs", 1e6)


def pair(url: str, plan: Plan) -> Iterator[Line]:
    """Two receivers on one database against one, half of the connections each."""
    number = int(plan.seconds * 15_000)
    gains = []
    with receiver(url) as first, receiver(url) as second, ThreadPoolExecutor(2) as senders:
        for turn in range(plan.rounds):
            offset = (turn + 1) * 2 * number
            alone = load(first.port, seconds=plan.seconds, number=number, first=offset)
            half = {"seconds": plan.seconds, "number": number // 2, "connections": 32}
            results = [
                senders.submit(load, first.port, first=offset + number, **half),
                senders.submit(load, second.port, first=offset + number + number // 2, **half),
            ]
            gains.append((sum(result.result().rate for result in results), alone.rate))
    together, one = (statistics.median(each) for each in zip(*gains, strict=True))
    yield Line(
        what="two receivers on one database, 4 KB",
        ours=f"{together:,.0f}/s",
        against=f"one: {one:,.0f}/s",
        ratio=f"{statistics.median(both / alone for both, alone in gains):.2f}",
    )


def large(url: str) -> Iterator[Line]:
    """Eight deliveries of 54 MB at once, and small ones beside them."""
    tail = threads(54 * MEGABYTE) + b"]}}"
    with receiver(url) as ours:
        load(ours.port, seconds=1, number=2000)
        stop = threading.Event()
        results: list[Result] = []

        def beside() -> None:
            while not stop.is_set():
                results.append(load(ours.port, seconds=1, number=200, rate=20, connections=2, first=len(results) * 200))

        sender = threading.Thread(target=beside)
        sender.start()
        began = time.perf_counter()
        codes = asyncio.run(_eight(ours.port, tail))
        took = time.perf_counter() - began
        stop.set()
        sender.join()
        peak = ours.peak()
    slowest = max(result.latencies["p100"] for result in results)
    yield Line(
        what="eight 54 MB deliveries at once",
        ours=f"{codes.count(200)} answered 200, in {took:.1f} s",
        target="all answered",
        met=codes.count(200) == len(codes),
    )
    yield _at_most("… most resident memory of the receiver", peak / MEGABYTE, 200, "MB")
    yield _at_most("… the slowest 4 KB delivery beside them", slowest * 1000, 60, "ms")


async def _eight(port: int, tail: bytes) -> list[int]:
    address = f"http://127.0.0.1:{port}{_PATH}"

    async def send(client: aiohttp.ClientSession, number: int) -> int:
        made = make(number, tail, path=_PATH, tickets=100_000, host="bench", first_at=_FIRST)
        head, _, beginning = made.beginning.partition(b"\r\n\r\n")
        signature = head.partition(b"X-FreeScout-Signature: ")[2].partition(b"\r\n")[0].decode()

        async def pieces() -> AsyncIterator[bytes]:
            yield beginning
            for start in range(0, len(tail), 1 << 20):
                yield tail[start : start + (1 << 20)]

        headers = {
            "X-FreeScout-Event": "convo.status",
            "X-FreeScout-Signature": signature,
            "Content-Length": str(made.body_bytes),
        }
        async with client.post(address, data=pieces(), headers=headers, expect100=True) as response:
            await response.read()
            return response.status

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as client:
        return list(await asyncio.gather(*(send(client, 50_000 + number) for number in range(8))))


def alone(url: str, plan: Plan) -> Iterator[Line]:
    """One delivery at a time, against a bare upsert and an empty request."""
    ours: list[float] = []
    floor: list[float] = []
    with receiver(url) as mine, limit("empty") as empty:
        for turn in range(plan.rounds):
            single = load(mine.port, seconds=plan.seconds / 2, number=5000, connections=1, first=(turn + 1) * 5000)
            nothing = load(empty.port, seconds=plan.seconds / 2, number=8000, connections=1, size=0)
            ours.append(single.latencies["p50"])
            floor.append(nothing.latencies["p50"] + asyncio.run(_bare_upsert(url)))
    yield times("one delivery alone, p50", ours, floor, 3.5, "ms", 1e3, "a bare upsert and an empty request")


async def _bare_upsert(url: str) -> float:
    """Return the median seconds of one upsert into a plain table, committed, on asyncpg alone."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS bench_plain (ticket_id bigint PRIMARY KEY, status text)")
    upsert = await connection.prepare(
        "INSERT INTO bench_plain VALUES ($1, $2) ON CONFLICT (ticket_id) DO UPDATE SET status = excluded.status"
    )
    took = []
    for number in range(400):
        began = time.perf_counter()
        await upsert.fetch(number % 100, "active" if number % 2 else "closed")
        took.append(time.perf_counter() - began)
    await connection.close()
    return statistics.median(took)


def growth(url: str) -> list[Point]:
    """How one delivery alone grows with its body, p50."""
    points = []
    with receiver(url) as ours:
        for index, size in enumerate(_BODIES):
            number = max(6, min(400, 20_000_000 // size))
            result = load(ours.port, size=size, seconds=60, number=number, connections=1, first=index * 10_000)
            points.append(Point(size, result.latencies["p50"] * 1000))
    return points


def rates(what: str, mine: Side, theirs: Side, name: str, target: float | None) -> Line:
    """Return a line of deliveries a second; ``target`` is the lowest ratio."""
    value = ratio(mine.rates, theirs.rates)
    failed = f", {mine.failures} failed" if mine.failures else ""
    return Line(
        what=what,
        ours=f"{statistics.median(mine.rates):,.0f}/s{failed}",
        against=f"{name}: {statistics.median(theirs.rates):,.0f}/s",
        ratio=f"{value:.2f}",
        target="" if target is None else f"≥ {target:g} x",
        met=None if target is None else value >= target and not mine.failures,
    )


def _databases(mine: Side, theirs: Side) -> Line:
    return times("… CPU of PostgreSQL per delivery", mine.databases, theirs.databases, None, "µs", 1e6)


def _everything(mine: Side, theirs: Side) -> Line:
    """What bounds the ratio where all of them share the cores."""
    what = "… CPU per delivery, PostgreSQL and load generator included"
    return times(what, mine.everything, theirs.everything, None, "µs", 1e6)


def times(
    what: str,
    mine: Sequence[float],
    theirs: Sequence[float],
    target: float | None,
    unit: str,
    factor: float,
    name: str = "",
) -> Line:
    """Return a line of seconds, CPU or latency, times ``factor``; ``target`` is the highest ratio."""
    value = ratio(mine, theirs)
    return Line(
        what=what,
        ours=f"{_figure(statistics.median(mine) * factor)} {unit}",
        against=f"{name}: {_figure(statistics.median(theirs) * factor)} {unit}".removeprefix(": "),
        ratio=f"{value:.2f}",
        target="" if target is None else f"≤ {target:g} x",
        met=None if target is None else value <= target,
    )


def _figure(value: float) -> str:
    """Return three figures of a number, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three figures


def _at_most(what: str, value: float, target: float, unit: str) -> Line:
    return Line(what=what, ours=f"{value:,.0f} {unit}", target=f"≤ {target:g} {unit}", met=value <= target)
